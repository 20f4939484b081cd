"""Augmentation for classification: what a fine-tuning recipe does to a batch of images and labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.data import mixing, rand_augment
from keras_mae.data.opening import pillow
from keras_mae.pixels import BYTES, PixelRange, checked_range, default_statistics, rescaled

__all__ = ["Augmentation"]

_OF_IMAGE, _OF_BATCH = 1, 2  # the last word of a seed: draws of an image, draws of a batch


class Augmentation:
    """Moves, distorts, erases and mixes a batch of images, and its labels along with them.

    The order is: mirroring, shift, RandAugment, random erasing, and MixUp or CutMix. It is NumPy and Pillow on the
    processor, whatever the backend, with the operations, probabilities and ranges of the published recipe (timm's
    `rand-m9-mstd0.5-inc1`, random erasing of mode "pixel" and MixUp of mode "batch", as far as they can be set here):

    - RandAugment draws two of fifteen operations for each image, applies each half of the time, and varies the
      magnitude by a deviation of 0.5.
    - Random erasing fills a box of 2 to 33 % of the area with normal noise, around the mean that the encoder
      subtracts by default and with its deviation. Unlike there, the noise is cut off at the ends of the pixel range.
    - MixUp and CutMix mix a batch with itself in reverse order, by one weight for all of it.

    What happens to an image before it is mixed is a pure function of the seed, the epoch, the image and the number of
    its crop, in whatever batch it is and whoever loads it; how a batch is mixed, of the seed and the number of the
    batch. Crops belong to the source: this comes after them.

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
        seed: Seed for all draws.
        pixel_range: (low, high), the smallest and the largest value that a pixel may have. RandAugment works on 256
            levels: images that it changes are rounded to that many if they are not uint8.

    Call arguments:
        images: (batch, height, width, channels) in `pixel_range`; an array, or a tensor inside tf.data.
        labels: Integers (batch,).
        number: Number of the batch; by default calls are counted, inside tf.data in no fixed order. Datasets of
            `keras_mae.data` count it through all epochs.
        places: Integers (batch, 3) that tell each image from all others: the epoch, its index in the source and the
            number of its crop. By default the number of the batch, the place in it, and 0.

    Returns:
        Images, float32 in `pixel_range`, and labels: probabilities, float32 (batch, num_classes), if anything mixes
        or smooths them, else unchanged. NumPy arrays for NumPy arrays.

    Raises:
        ValueError: If an argument is out of range, labels are none of the classes, or RandAugment gets images that
            are not RGB.
        ImportError: If Pillow, which RandAugment takes, is missing.

    Example:
        >>> augment = keras_mae.data.Augmentation(10, flip=True, mixup=0.8)
        >>> images, labels = augment(np.zeros((4, 32, 32, 3), "uint8"), np.arange(4))
        >>> images.shape, labels.shape
        ((4, 32, 32, 3), (4, 10))

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 9; "RandAugment" (arXiv
    1909.13719), "Random Erasing Data Augmentation" (1708.04896), "mixup" (1710.09412), "CutMix" (1905.04899).
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
        self.num_classes = _checks.positive_int("num_classes", num_classes)
        self.flip = _checks.boolean("flip", flip)
        self.shift = _checks.fraction("shift", shift)
        self.magnitude = _checks.within("rand_augment", rand_augment, 10)
        self.random_erasing = _checks.within("random_erasing", random_erasing, 1)
        self.mixup = _checks.non_negative("mixup", mixup)
        self.cutmix = _checks.within("cutmix", cutmix, 1)
        self.switch_probability = _checks.within("switch_probability", switch_probability, 1)
        self.label_smoothing = _checks.fraction("label_smoothing", label_smoothing)
        self.seed = _checks.seed_int("seed", seed)
        self.pixel_range = checked_range(pixel_range)
        if self.magnitude:
            pillow()  # an error here, and not in a loader's thread
        self._calls = 0

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments as JSON values, by which a run tells its augmentation from others."""
        return {
            "num_classes": self.num_classes,
            "flip": self.flip,
            "shift": self.shift,
            "rand_augment": self.magnitude,
            "random_erasing": self.random_erasing,
            "mixup": self.mixup,
            "cutmix": self.cutmix,
            "switch_probability": self.switch_probability,
            "label_smoothing": self.label_smoothing,
            "seed": self.seed,
            "pixel_range": list(self.pixel_range),
        }

    @property
    def changes_images(self) -> bool:
        """Whether images, or labels, may come out otherwise than they went in."""
        return self._changes_each or self._changes_labels

    @property
    def _changes_each(self) -> bool:
        return bool(self.flip or self.shift or self.magnitude or self.random_erasing)

    @property
    def _changes_labels(self) -> bool:
        return bool(self.mixup or self.cutmix or self.label_smoothing)

    def __call__(self, images: Any, labels: Any, number: Any = None, places: Any = None) -> Any:
        if self.magnitude and images.shape[-1] != 3:
            raise ValueError(f"RandAugment takes RGB images. Received: images.shape={tuple(images.shape)}")
        if isinstance(images, np.ndarray):
            return self._augmented(images, labels, number, places)
        return self._in_tf_data(images, labels, number, places)

    def _in_tf_data(self, images: Any, labels: Any, number: Any, places: Any) -> Any:
        import tensorflow as tf

        def call(images: np.ndarray, labels: np.ndarray, number: np.ndarray, places: np.ndarray) -> Any:
            known = None if number < 0 else int(number)
            return self._augmented(images, labels, known, places if len(places) else None)

        given = [-1 if number is None else number, tf.zeros((0, 3), "int64") if places is None else places]
        given = [tf.cast(values, "int64") for values in given]
        dtypes = [tf.float32, tf.float32 if self._changes_labels else labels.dtype]
        augmented, ours = tf.numpy_function(call, [images, labels, *given], dtypes, stateful=number is None)
        width = (self.num_classes,) if self._changes_labels else ()
        return tf.ensure_shape(augmented, images.shape), tf.ensure_shape(ours, (images.shape[0], *width))

    def _augmented(self, images: np.ndarray, labels: np.ndarray, number: Any = None, places: Any = None) -> Any:
        if number is None:
            number, self._calls = self._calls, self._calls + 1
        number = _checks.count("number", number)
        if places is None:
            places = np.stack(np.broadcast_arrays(number, np.arange(len(images)), 0), axis=-1)
        places = _checked_places(places, len(images))
        augmented = np.empty(images.shape, "float32") if self._changes_each else images.astype("float32")
        if self._changes_each:
            for pixels, into, place in zip(images, augmented, places.tolist(), strict=True):
                self._change(pixels, into, np.random.default_rng((self.seed, *place, _OF_IMAGE)))
        if self._changes_labels:
            generator = np.random.default_rng((self.seed, number, 0, 0, _OF_BATCH))
            labels = self._mix(augmented, self._probabilities(labels), generator)
        return augmented, labels

    # === One image ===
    def _change(self, pixels: np.ndarray, into: np.ndarray, generator: np.random.Generator) -> None:
        """Write an image, changed by all but mixing, into another array."""
        if self.flip and generator.random() < 0.5:
            pixels = pixels[:, ::-1]
        if self.shift:
            for axis in range(2):
                pixels = _moved(pixels, generator.uniform(-self.shift, self.shift), axis)
        if self.magnitude and (operations := rand_augment.drawn(self.magnitude, generator)):
            pixels = self._from_bytes(rand_augment.applied(self._to_bytes(pixels), operations))
        into[...] = pixels
        if generator.random() < self.random_erasing:
            statistics = rescaled(*default_statistics(into.shape[-1]), BYTES, self.pixel_range)
            mixing.erase(into, *statistics, self.pixel_range, generator)

    def _to_bytes(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.dtype == np.uint8 and self.pixel_range == BYTES:
            return pixels
        low, high = self.pixel_range
        return ((pixels.astype("float32") - low) * (255 / (high - low))).round().clip(0, 255).astype("uint8")

    def _from_bytes(self, pixels: np.ndarray) -> np.ndarray:
        if self.pixel_range == BYTES:
            return pixels
        low, high = self.pixel_range
        return pixels.astype("float32") * ((high - low) / 255) + low

    # === A batch ===
    def _probabilities(self, labels: np.ndarray) -> np.ndarray:
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f"`labels` must be in [0, {self.num_classes}), the classes of the augmentation. "
                f"Received: labels from {labels.min()} to {labels.max()}"
            )
        known = np.full((len(labels), self.num_classes), self.label_smoothing / self.num_classes, "float32")
        known[np.arange(len(labels)), labels] += np.float32(1 - self.label_smoothing)
        return known

    def _mix(self, images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Mix images in place, and return the labels mixed along with them."""
        cut = generator.random() < self.switch_probability if self.mixup else True
        if self.cutmix and cut:
            weight = mixing.cut_mix(images, self.cutmix, generator)
        elif self.mixup:
            weight = mixing.mix_up(images, self.mixup, generator)
        else:
            return labels
        return labels * np.float32(weight) + labels[::-1] * np.float32(1 - weight)


def _checked_places(places: Any, images: int) -> np.ndarray:
    known: np.ndarray = np.asarray(places)
    if known.shape != (images, 3) or known.dtype.kind not in "ui" or (known.size and known.min() < 0):
        raise ValueError(
            "`places` must be integers of at least 0, an epoch, an index and a crop for each image: "
            f"({images}, 3). Received: {known.dtype} {known.shape}"
        )
    return known


def _moved(pixels: np.ndarray, share: float, axis: int) -> np.ndarray:
    """Return an image moved along an axis by a share of its size, with its border repeated, as float32."""
    size = pixels.shape[axis]
    places = (np.arange(size) - share * size).clip(0, size - 1)
    first = places.astype("int64")
    weight = (places - first).astype("float32")[:, None]
    weight = weight[:, None] if axis == 0 else weight
    here = pixels.take(first, axis).astype("float32")
    moved: np.ndarray = here + weight * (pixels.take(np.minimum(first + 1, size - 1), axis) - here)
    return moved
