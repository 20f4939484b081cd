"""Which images make which batch: a pure function of (seed, epoch, number of the batch), whoever loads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.data.augment import Augmentation
from keras_mae.data.crops import Crop
from keras_mae.data.sources import Source


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
        """This worker's part of a batch."""
        return self.batch_size // self.shard[1]

    @property
    def own_images(self) -> int:
        """Images behind the crops of this worker's part of a batch."""
        return self.own_size // self.crops_per_image

    @property
    def static_size(self) -> int | None:
        """The size of every batch, if it is one."""
        return self.own_size if self.drop_remainder else None

    def length(self, images: int) -> int:
        """Batches in an epoch of which this worker has a part, of a source of so many images."""
        whole, rest = divmod(images, self.own_images * self.shard[1])
        return whole + (not self.drop_remainder and rest > self.shard[0] * self.own_images)

    def is_own(self, place: Any) -> Any:
        """Whether the image at a place of the epoch's order is in this worker's part of its batch: parts lie one
        behind the other."""
        return place % (self.own_images * self.shard[1]) // self.own_images == self.shard[0]

    def draw(self, number: Any) -> Any:
        """What the augmentation's draws go by, of a batch by its number: each worker's part draws its own."""
        return number * self.shard[1] + self.shard[0]

    def generators(self, index: int, epoch: int) -> Sequence[np.random.Generator]:
        """What draws the crops of an image in an epoch."""
        return [np.random.default_rng((self.seed, epoch, index, crop)) for crop in range(self.crops_per_image)]

    def check_labels(self, labels: np.ndarray) -> None:
        """Raise a `ValueError` if labels are no class of the augmentation."""
        classes = None if self.augment is None else self.augment.num_classes
        if classes is not None and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"`labels` must be in [0, {classes}), the classes of `augment`. "
                f"Received: labels from {labels.min()} to {labels.max()}"
            )


class Batches:
    """The batches of a source by their number, counted on from epoch to epoch."""

    def __init__(self, source: Source, plan: Plan):
        self.source, self.plan = source, plan
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, "int64"))

    def __len__(self) -> int:
        return self.plan.length(len(self.source))

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        epoch, place = divmod(number, len(self))
        start = place * self.plan.own_images
        return self.load(self.order(epoch)[start : start + self.plan.own_images], epoch)

    def check_place(self, epoch: Any, batch: Any) -> None:
        """Raise a `ValueError` if there is no such batch of such an epoch."""
        _checks.indices("epoch", epoch, 0, 2**31, "an integer of at least 0")
        _checks.indices("batch", batch, 0, len(self), f"an integer in [0, {len(self)})")

    def order(self, epoch: int) -> np.ndarray:
        """The indices of this worker's images in an epoch."""
        known = self._order  # threads may replace it meanwhile
        if known[0] != epoch:
            indices = np.arange(len(self.source))
            if self.plan.shuffle:
                np.random.default_rng((self.plan.seed, epoch)).shuffle(indices)
            if self.plan.drop_remainder:  # of which this worker's part may be whole
                indices = indices[: self.plan.own_images * self.plan.shard[1] * len(self)]
            known = self._order = epoch, indices[self.plan.is_own(np.arange(len(indices)))]
        return known[1]

    def load(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The images at `indices` as they are seen in an epoch, and their labels."""
        plan = self.plan
        if plan.crop is None:
            images, labels = self.source.batch(indices)
        else:
            images, labels = self.source.batch(indices, plan.crop, lambda index: plan.generators(index, epoch))
        if labels is None:
            return images, None
        plan.check_labels(labels)
        return images, np.repeat(labels, plan.crops_per_image)
