"""Augmentation for classification: what a fine-tuning recipe does to a batch of images and labels."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import keras
import numpy as np

from keras_mae import _checks
from keras_mae.pixels import BYTES, PixelRange, checked_range

__all__ = ["Augmentation"]


class _Draws(keras.random.SeedGenerator):
    """Seeds for Keras' layers, a pure function of (seed, number of the batch).

    Keras' own are counted on from batch to batch, so that they depend on which of several parallel calls comes first,
    and a run resumed in the middle of an epoch would draw what its beginning drew.
    """

    def __init__(self, seed: int):
        super().__init__(seed)
        self._seed, self._number, self._drawn = seed, None, 0

    def begin(self, number: Any) -> None:
        """Draw for batch `number`, an integer, or a tensor inside tf.data, until the next call."""
        self._number, self._drawn = number, 0

    def next(self, ordered: bool = True) -> Any:
        self._drawn += 1
        if isinstance(self._number, int):
            words = np.random.SeedSequence((self._seed, self._number, self._drawn)).generate_state(2)
            return keras.ops.convert_to_tensor(words >> 2, dtype=self.state.dtype)  # PyTorch's generator adds the two
        import tensorflow as tf

        return tf.random.experimental.stateless_fold_in(tf.constant([self._seed, self._drawn], "int64"), self._number)

    def uniform(self) -> Any:
        """Draw a number in [0, 1), a tensor if the batch's number is one."""
        if isinstance(self._number, int):
            self._drawn += 1
            return np.random.default_rng((self._seed, self._number, self._drawn)).random()
        import tensorflow as tf

        return tf.random.stateless_uniform((), self.next())


class Augmentation:
    """Moves, distorts, erases and mixes a batch of images, and its labels along with them.

    It is made of Keras' preprocessing layers, which run inside tf.data on every backend and, without TensorFlow, on
    the backend itself. They differ from the published recipe (timm's transforms) in this:

    - RandAugment is KerasCV's where that is installed (`pip install "keras-mae[keras-cv]"`) and tf.data feeds the
      images: each image draws its own operations, and the magnitude varies by the recipe's 0.5. Otherwise it is
      Keras' own, which draws once a batch, does not vary the magnitude, and takes ten times as long. Neither has
      exactly the recipe's operations.
    - Random erasing fills the box with normal noise clipped to the range, half of it black, and not with noise
      around the data's mean.
    - MixUp and CutMix draw their weights for each image, not once a batch.

    Crops belong to the source: this comes after it.

    Args:
        num_classes: Number of classes.
        flip: Whether to mirror half of the images.
        shift: Largest shift either way, as a fraction of height and width; the border is repeated into the gap.
        rand_augment: Magnitude of RandAugment's two operations, in [0, 10]; 0 is none. For RGB images.
        random_erasing: Probability of erasing a box.
        mixup: Alpha of MixUp's beta distribution; 0 is none.
        cutmix: Alpha of CutMix's beta distribution, at most 1; 0 is none.
        switch_probability: Probability of CutMix where both are on: every batch has one of the two
            (`mixup_switch_prob` in timm).
        label_smoothing: Probability that is spread over all classes.
        seed: Seed for all draws, which are a pure function of it and of the batch's number, except KerasCV's.
        pixel_range: (low, high), the smallest and the largest value that a pixel may have. RandAugment and random
            erasing work on 0–255: images of another range are stretched to it for them, and back.

    Call arguments:
        images: (batch, height, width, channels) in `pixel_range`.
        labels: Integers (batch,).
        number: Number of the batch; the same number draws the same. Datasets of `keras_mae.data` count it through all
            epochs; by default calls are counted, inside tf.data in no fixed order.

    Returns:
        Images, float32 in `pixel_range`, and labels: probabilities, float32 (batch, num_classes), if anything mixes
        or smooths them, else unchanged. NumPy arrays for NumPy arrays.

    Raises:
        ValueError: If an argument is out of range, or RandAugment gets images that are not RGB.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 9.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        flip: bool = False,
        shift: float = 0.0,
        rand_augment: float = 0.0,
        random_erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        switch_probability: float = 0.5,
        label_smoothing: float = 0.0,
        seed: int = 0,
        pixel_range: PixelRange = BYTES,
    ):
        self.pixel_range = checked_range(pixel_range)
        self.num_classes = _checks.positive_int("num_classes", num_classes)
        self.label_smoothing = _checks.fraction("label_smoothing", label_smoothing)
        self.switch_probability = _checks.within("switch_probability", switch_probability, 1)
        self.magnitude = _checks.within("rand_augment", rand_augment, 10)
        self.seed = _checks.seed_int("seed", seed)
        erasing = _checks.within("random_erasing", random_erasing, 1)
        _checks.fraction("shift", shift)
        _checks.boolean("flip", flip)
        _checks.non_negative("mixup", mixup)
        _checks.within("cutmix", cutmix, 1)
        self.settings = {
            "num_classes": self.num_classes,
            "flip": bool(flip),
            "shift": shift,
            "rand_augment": float(rand_augment),
            "random_erasing": float(random_erasing),
            "mixup": float(mixup),
            "cutmix": float(cutmix),
            "switch_probability": float(switch_probability),
            "label_smoothing": float(label_smoothing),
            "seed": self.seed,
            "pixel_range": list(self.pixel_range),
        }
        layers = keras.layers
        self._draws, self._calls = _Draws(seed), itertools.count()

        def drawing(layer: Any) -> Any:
            layer._get_seed_generator = lambda backend=None: self._draws
            return layer

        options: dict[str, Any] = {"seed": seed, "dtype": "float32"}  # whatever the model's policy: 200.3 is 200.3
        self._moving: list[Any] = []
        if flip:
            self._moving.append(drawing(layers.RandomFlip("horizontal", **options)))
        if shift:
            self._moving.append(drawing(layers.RandomTranslation(shift, shift, fill_mode="nearest", **options)))
        self._rand_augment: Any = None
        if self.magnitude:
            own = layers.RandAugment((0, 255), num_ops=2, factor=self.magnitude / 10, **options)
            self._rand_augment = drawing(own)
        self._keras_cv: Any = None
        self._has_keras_cv = importlib.util.find_spec("keras_cv") is not None  # asked here: a graph cannot trace it
        # (p, p) and (alpha, alpha): given one number, Keras draws from 0 up to it for every image or batch.
        self._erasing = drawing(layers.RandomErasing((erasing,) * 2, (0.02, 1 / 3), **options)) if erasing else None
        self._mixup = drawing(layers.MixUp(mixup, **options)) if mixup else None
        self._cutmix = drawing(layers.CutMix((cutmix,) * 2, **options)) if cutmix else None

    @property
    def changes_images(self) -> bool:
        """Whether images, or labels, may come out otherwise than they went in."""
        unchanging = ("num_classes", "switch_probability", "seed", "pixel_range")
        return any(value for name, value in self.settings.items() if name not in unchanging)

    def __call__(self, images: Any, labels: Any, number: Any = None) -> Any:
        in_tf_data = not isinstance(images, np.ndarray)
        self._draws.begin(self._numbered(number, in_tf_data))
        for layer in self._moving:
            images = layer(images, training=True)
        stretched = self.pixel_range != BYTES and (self.magnitude or self._erasing is not None)
        if stretched:
            images = _stretch(images, self.pixel_range, BYTES, in_tf_data)
        if self.magnitude:
            if images.shape[-1] != 3:
                raise ValueError(f"RandAugment takes RGB images. Received: images.shape={tuple(images.shape)}")
            images = self._rand_augmented(images, in_tf_data)
        if self._erasing is not None:
            images = self._erasing(images, training=True)
        if stretched:
            images = _stretch(images, BYTES, self.pixel_range, in_tf_data)
        if self._mixup or self._cutmix or self.label_smoothing:
            labels = self._probabilities(labels, in_tf_data)
        if self._mixup or self._cutmix:
            images, labels = self._mix(images, labels, in_tf_data)
        if in_tf_data:
            import tensorflow as tf

            return tf.cast(images, "float32"), labels
        images, labels = (keras.ops.convert_to_numpy(value) for value in (images, labels))
        return images.astype("float32", copy=False), labels

    def _numbered(self, number: Any, in_tf_data: bool) -> Any:
        if not in_tf_data:
            return next(self._calls) if number is None else int(number)
        import tensorflow as tf

        if number is None:
            number = tf.random.uniform((), maxval=2**62, dtype="int64", seed=self.seed)
        return tf.cast(number, "int64")

    def _rand_augmented(self, images: Any, in_tf_data: bool) -> Any:
        if not (in_tf_data and self._has_keras_cv):
            return self._rand_augment(images, training=True)
        if self._keras_cv is None:
            import keras_cv

            options = {"magnitude": self.magnitude / 10, "magnitude_stddev": 0.05, "seed": self.seed}
            self._keras_cv = keras_cv.layers.RandAugment((0, 255), augmentations_per_image=2, **options)
        return self._keras_cv(images, training=True)

    def _probabilities(self, labels: Any, in_tf_data: bool) -> Any:
        if in_tf_data:
            import tensorflow as tf

            hot = tf.one_hot(labels, self.num_classes)
        else:
            hot = np.eye(self.num_classes, dtype="float32")[labels]
        return hot * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes

    def _mix(self, images: Any, labels: Any, in_tf_data: bool) -> tuple[Any, Any]:
        def by(layer: Any) -> tuple[Any, Any]:
            mixed = layer({"images": images, "labels": labels}, training=True)
            return mixed["images"], mixed["labels"]

        if self._mixup is None or self._cutmix is None:
            return by(self._mixup or self._cutmix)
        if in_tf_data:
            import tensorflow as tf

            mixed: tuple[Any, Any] = tf.cond(
                self._draws.uniform() < self.switch_probability,
                lambda: by(self._cutmix),
                lambda: by(self._mixup),
            )
            return mixed
        return by(self._cutmix if self._draws.uniform() < self.switch_probability else self._mixup)


def _stretch(images: Any, old: PixelRange, new: PixelRange, in_tf_data: bool) -> Any:
    """Return images of one range in another, as floats."""
    if in_tf_data:  # whose arithmetic does not mix integers with floats
        import tensorflow as tf

        images = tf.cast(images, "float32")
    return (images - old[0]) * ((new[1] - new[0]) / (old[1] - old[0])) + new[0]
