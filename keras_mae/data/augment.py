"""Augmentation for classification: what a fine-tuning recipe does to a batch of images and labels."""

from __future__ import annotations

import importlib.util
from typing import Any

import keras
import numpy as np

from keras_mae import _checks


class Augmentation:
    """Moves, distorts, erases and mixes a batch of images, and its labels along with them.

    Made of Keras' preprocessing layers, which run inside tf.data on every backend and, without TensorFlow, on the
    backend itself. What they do differently from the published recipe (timm's transforms):

    - RandAugment is KerasCV's where that is installed (`pip install "keras-mae[keras-cv]"`) and tf.data feeds the
      images: an image draws its own operations, and the magnitude varies by the recipe's 0.5. Otherwise it is
      Keras' own, which draws once a batch, does not vary the magnitude, and takes ten times as long. Neither has
      just the recipe's operations.
    - Random erasing fills the box with normal noise cut off at 0 and 255, half of it black, and not with noise around
      the data's mean.
    - MixUp and CutMix draw their weights for each image, not once a batch.

    Crops belong to the source: this comes after it.

    Args:
        num_classes: Classes.
        flip: Whether to mirror half of the images.
        shift: Fraction of height and width by which to move images, up to this much either way; the border is
            repeated into the gap.
        rand_augment: Magnitude of RandAugment's two operations, in [0, 10]; 0 is none. For RGB images.
        random_erasing: Probability of erasing a box.
        mixup: alpha of MixUp's beta distribution; 0 is none.
        cutmix: alpha of CutMix's, at most 1; 0 is none.
        switch_probability: Of CutMix where both are on: every batch has one of the two.
        label_smoothing: Probability shared out among all classes.
        seed: Of all draws. Without TensorFlow they repeat; tf.data's parallel calls take them in any order.

    Call arguments:
        images: (batch, height, width, channels), 0–255.
        labels: Integers (batch,).

    Returns:
        Images, float32 in 0–255, and labels: probabilities, float32 (batch, num_classes), if anything mixes or
        smooths them, and as they came if not. NumPy arrays for NumPy arrays.

    Raises:
        ValueError: If an argument is out of range, or RandAugment is to work on images that are not RGB.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 9.
    """

    def __init__(
        self,
        num_classes: int,
        flip: bool = False,
        shift: float = 0.0,
        rand_augment: float = 0.0,
        random_erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        switch_probability: float = 0.5,
        label_smoothing: float = 0.0,
        seed: int = 0,
    ):
        self.num_classes = _checks.positive_int("num_classes", num_classes)
        self.label_smoothing = _checks.fraction("label_smoothing", label_smoothing)
        self.switch_probability = _within("switch_probability", switch_probability, 1)
        self.magnitude = _within("rand_augment", rand_augment, 10)
        self.seed = _checks.seed_int("seed", seed)
        shift = _checks.fraction("shift", shift)
        erasing = _within("random_erasing", random_erasing, 1)
        layers = keras.layers
        options: dict[str, Any] = {"seed": seed, "dtype": "float32"}  # whatever the model's policy: 200.3 is 200.3
        self._moving: list[Any] = []
        if flip:
            self._moving.append(layers.RandomFlip("horizontal", **options))
        if shift:
            self._moving.append(layers.RandomTranslation(shift, shift, fill_mode="nearest", **options))
        self._rand_augment: Any = None
        self._has_keras_cv = importlib.util.find_spec("keras_cv") is not None  # asked here: a graph cannot trace it
        # (p, p) and (alpha, alpha): given one number, Keras draws from 0 up to it for every image or batch.
        self._erasing = layers.RandomErasing((erasing,) * 2, (0.02, 1 / 3), **options) if erasing else None
        self._mixup = layers.MixUp(_checks.non_negative("mixup", mixup), **options) if mixup else None
        self._cutmix = layers.CutMix((_within("cutmix", cutmix, 1),) * 2, **options) if cutmix else None
        self._generator = np.random.default_rng(seed)

    def __call__(self, images: Any, labels: Any) -> Any:
        in_tf_data = not isinstance(images, np.ndarray)
        if self.magnitude and images.shape[-1] != 3:
            raise ValueError(f"RandAugment takes RGB images. Received: images.shape={tuple(images.shape)}")
        for layer in self._moving:
            images = layer(images, training=True)
        if self.magnitude:
            if self._rand_augment is None:
                self._rand_augment = _rand_augment(self.magnitude, self.seed, in_tf_data and self._has_keras_cv)
            images = self._rand_augment(images, training=True)
        if self._erasing is not None:
            images = self._erasing(images, training=True)
        if self._mixup or self._cutmix or self.label_smoothing:
            labels = self._probabilities(labels, in_tf_data)
        if self._mixup or self._cutmix:
            images, labels = self._mix(images, labels, in_tf_data)
        if in_tf_data:
            import tensorflow as tf

            return tf.cast(images, "float32"), labels
        images, labels = (keras.ops.convert_to_numpy(value) for value in (images, labels))
        return images.astype("float32", copy=False), labels

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

            return tf.cond(
                tf.random.uniform((), seed=self.seed) < self.switch_probability,
                lambda: by(self._cutmix),
                lambda: by(self._mixup),
            )
        return by(self._cutmix if self._generator.random() < self.switch_probability else self._mixup)


def _within(argument: str, value: Any, high: float) -> float:
    """`value` as a `float` in [0, high]."""
    return (
        high
        if value == high and not isinstance(value, bool)
        else _checks.number(argument, value, 0, high, f"in [0, {high}]")
    )


def _rand_augment(magnitude: float, seed: int, keras_cv_takes_it: bool) -> Any:
    if keras_cv_takes_it:
        import keras_cv

        return keras_cv.layers.RandAugment(
            (0, 255), augmentations_per_image=2, magnitude=magnitude / 10, magnitude_stddev=0.05, seed=seed
        )
    return keras.layers.RandAugment((0, 255), num_ops=2, factor=magnitude / 10, seed=seed, dtype="float32")
