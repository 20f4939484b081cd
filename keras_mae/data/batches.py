"""Which images make which batch: a pure function of (seed, epoch, number of the batch), whoever loads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_mae import _checks, distribution
from keras_mae.data import fingerprints
from keras_mae.data.augment import Augmentation
from keras_mae.data.crops import CenterCrop, Crop, RandomCrop
from keras_mae.data.levels import EIGHT_BITS
from keras_mae.data.masks import MaskLabels
from keras_mae.data.pair_crops import WholeImage, check_pairs
from keras_mae.data.sources import Generators, Source, known_of
from keras_mae.data.streams import Stream

__all__ = ["Batches", "Plan", "check_options", "checked_shard"]


@dataclass(frozen=True)
class Plan:
    """How a source becomes batches: the checked arguments of `make_dataset`."""

    batch_size: int
    shuffle: bool
    seed: int
    drop_remainder: bool
    augment: Augmentation | None
    crop: Crop | None
    crops_per_image: int
    shard: tuple[int, int]
    workers: int | None

    @property
    def own_size(self) -> int:
        """Size of this worker's part of a batch."""
        return self.batch_size // self.shard[1]

    @property
    def own_images(self) -> int:
        """Number of images behind the crops of this worker's part of a batch."""
        return self.own_size // self.crops_per_image

    @property
    def static_size(self) -> int | None:
        """Size that every batch has, or `None` if the last one may be smaller."""
        return self.own_size if self.drop_remainder else None

    def length(self, images: int) -> int:
        """Return the number of batches, of an epoch of so many images, in which this worker has a part."""
        whole, rest = divmod(images, self.own_images * self.shard[1])
        return whole + (not self.drop_remainder and rest > self.shard[0] * self.own_images)

    def is_own(self, place: Any) -> Any:
        """Return whether the image at `place` in the epoch's order is this worker's.

        The workers' parts of a batch follow one another.
        """
        return place % (self.own_images * self.shard[1]) // self.own_images == self.shard[0]

    def draw(self, number: Any) -> Any:
        """Return the number by which batch `number` is mixed, which is distinct for each worker."""
        return number * self.shard[1] + self.shard[0]

    def places(self, indices: Any, epoch: int) -> np.ndarray:
        """Return (epoch, index, crop) of each crop of the images at `indices`, by which it is augmented."""
        each, crops = np.repeat(indices, self.crops_per_image), np.arange(self.crops_per_image)
        return np.stack(np.broadcast_arrays(epoch, each, np.tile(crops, len(indices))), axis=-1).astype("int64")

    @property
    def augmented(self) -> bool:
        """Whether an image may look otherwise in every epoch; of crops that are not ours it is not known."""
        augment = self.augment
        cuts_anew = self.crop is not None and not isinstance(self.crop, CenterCrop | WholeImage)
        return cuts_anew or (augment is not None and getattr(augment, "changes_images", True))

    def generators(self, epoch: int) -> Generators:
        """Return the function from an image's index to the generators that draw its crops in an epoch."""

        def of_image(index: int) -> Sequence[np.random.Generator]:
            return [np.random.default_rng((self.seed, epoch, index, crop)) for crop in range(self.crops_per_image)]

        return of_image

    def fingerprint(self, source: Source | Stream) -> dict[str, Any]:
        """Return JSON values that tell the batches of a source from others, whoever loads them, in how many parts."""
        augment, levels = self.augment, getattr(source, "levels", EIGHT_BITS)
        return {
            "data": known_of(source),
            "batches": {
                "batch_size": self.batch_size,
                "shuffle": self.shuffle,
                "seed": self.seed,
                "drop_remainder": self.drop_remainder,
                "image_shape": list(source.image_shape),
                "pixel_range": list(levels.pixel_range),
                "white_level": levels.white_level,
                "crop": fingerprints.of_crop(self.crop),
                "crops_per_image": self.crops_per_image,
                "augment": None if augment is None else getattr(augment, "settings", type(augment).__name__),
            },
        }

    def check(self, source: Source | Stream) -> None:
        """Raise a `ValueError` unless the source can be loaded as planned and gives at least one batch."""
        if self.crop is None and self.crops_per_image > 1:
            raise ValueError(
                f"`crops_per_image` takes a `crop`. Received: crops_per_image={self.crops_per_image}, crop=None"
            )
        rule = "a keras_mae.data.Augmentation, or None"
        if self.augment is not None:
            _checks.has("augment", self.augment, ("num_classes", "__call__"), rule)
        if self.crop is not None:
            _checks.function("crop", self.crop, "a crop, such as keras_mae.data.CenterCrop(), or None")
        check_pairs(source, self.crop, self.augment, self.own_images)
        if isinstance(self.crop, RandomCrop):
            self.crop.check_size(source.image_shape[:2])
        if self.augment is not None and not source.labeled:
            raise ValueError("`augment` takes a source with labels. Received: one without")
        if source.labels is not None:
            self.check_labels(source.labels)
        has_length = not isinstance(source, Stream) or source.count is not None
        if has_length and self.length(len(source)) == 0:
            raise ValueError(
                "`batch_size` must not exceed the number of images when the last batch is dropped. "
                f"Received: batch_size={self.batch_size} for {len(source)} images"
                + (f" in {self.shard[1]} shards" if self.shard[1] > 1 else "")
            )

    def check_labels(self, labels: np.ndarray) -> None:
        """Raise a `ValueError` unless all labels are classes of the augmentation."""
        classes = None if self.augment is None else self.augment.num_classes
        if classes is not None and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"`labels` must be in [0, {classes}), the classes of `augment`. "
                f"Received: labels from {labels.min()} to {labels.max()}"
            )


def check_options(
    batch_size: Any, shuffle: Any, seed: Any, drop_remainder: Any, crops_per_image: Any, workers: Any
) -> None:
    """Raise a `ValueError` unless these arguments of `make_dataset` are what they must be."""
    _checks.positive_int("batch_size", batch_size)
    _checks.boolean("shuffle", shuffle)
    _checks.seed_int("seed", seed)
    _checks.boolean("drop_remainder", drop_remainder)
    _checks.positive_int("crops_per_image", crops_per_image)
    _checks.optional(_checks.positive_int, "workers", workers)
    if batch_size % crops_per_image:
        raise ValueError(
            "`crops_per_image` must divide `batch_size`. "
            f"Received: crops_per_image={crops_per_image}, batch_size={batch_size}"
        )


def checked_shard(shard: Any, batch_size: int, crops_per_image: int, drop_remainder: bool) -> tuple[int, int]:
    """Return the (index, count) of this worker, by default from the enclosing distribution.

    Raises:
        ValueError: If it is no such pair, or a batch cannot be divided among the workers.
    """
    devices = distribution.current()
    if shard is None:
        shard = devices.shard
        if shard[1] > 1 and not drop_remainder:
            raise ValueError(
                "In several processes every batch must be whole: drop_remainder=True. "
                f"Received: drop_remainder=False in {devices.processes} processes"
            )
        if batch_size % (devices.replicas * crops_per_image):
            raise ValueError(
                "`batch_size` must be a multiple of replicas × crops_per_image. Received: "
                f"batch_size={batch_size}, {devices.replicas} replicas, crops_per_image={crops_per_image}"
            )
    is_pair = isinstance(shard, tuple | list) and len(shard) == 2 and all(type(part) is int for part in shard)
    if not is_pair or not 0 <= shard[0] < shard[1]:
        raise _checks.argument_error("shard", "(index of this worker from 0, number of workers)", shard)
    if batch_size % (shard[1] * crops_per_image):
        raise ValueError(
            "`batch_size` must be a multiple of workers × crops_per_image. Received: "
            f"batch_size={batch_size}, {shard[1]} workers, crops_per_image={crops_per_image}"
        )
    return shard[0], shard[1]


class Batches:
    """Batches of a source by their number, which goes on from epoch to epoch.

    Args:
        source: Images by index.
        plan: The checked arguments of `make_dataset`.
    """

    def __init__(self, source: Source, plan: Plan):
        self.source, self.plan = source, plan
        self._masks: MaskLabels | None = getattr(source, "masks", None)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, "int64"))

    def __len__(self) -> int:
        return self.plan.length(len(self.source))

    def __getitem__(self, number: int) -> tuple[Any, np.ndarray | None]:
        epoch, place = divmod(number, len(self))
        plan, start = self.plan, place * self.plan.own_images
        indices = self.order(epoch)[start : start + plan.own_images]
        images, labels = self.load(indices, epoch)
        if plan.augment is None:
            return images, labels
        augmented: tuple[Any, Any] = plan.augment(images, labels, plan.draw(number), plan.places(indices, epoch))
        return augmented

    @property
    def label_dtype(self) -> np.dtype:
        """dtype of the labels: int64, or the masks' own."""
        return np.dtype("int64") if self._masks is None else self._masks.dtype

    @property
    def label_shape(self) -> tuple[int | None, ...]:
        """Shape of an image's label: (), or the (height, width) of its mask."""
        return () if self._masks is None else self.source.image_shape[:2]

    @property
    def num_images(self) -> int:
        """Number of images in the source, each crop counted."""
        return len(self.source) * self.plan.crops_per_image

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these batches from others."""
        return self.plan.fingerprint(self.source)

    def check_place(self, epoch: Any, batch: Any) -> None:
        """Raise a `ValueError` unless there is such a batch of such an epoch."""
        _checks.indices("epoch", epoch, 0, 2**31, "an integer of at least 0")
        _checks.indices("batch", batch, 0, len(self), f"an integer in [0, {len(self)})")

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices of this worker's images in an epoch, in order."""
        known = self._order  # threads may replace it meanwhile
        if known[0] != epoch:
            indices = np.arange(len(self.source))
            if self.plan.shuffle:
                np.random.default_rng((self.plan.seed, epoch)).shuffle(indices)
            if self.plan.drop_remainder:  # this worker's part of the batch that is dropped may be full
                indices = indices[: self.plan.own_images * self.plan.shard[1] * len(self)]
            known = self._order = epoch, indices[self.plan.is_own(np.arange(len(indices)))]
        return known[1]

    def load(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Load the images at `indices` as they are cut in an epoch, not augmented, and their labels."""
        plan = self.plan
        images, labels = self.source.batch(indices, plan.crop, plan.generators(epoch))
        if labels is None or self._masks is not None:
            return images, labels
        plan.check_labels(labels)
        return images, np.repeat(labels, plan.crops_per_image)
