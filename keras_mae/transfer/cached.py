"""Features of a frozen encoder, computed once and trained on in every epoch, in the order of the images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import distribution
from keras_mae._class_names import check_places, named
from keras_mae.classifier import ViTClassifier
from keras_mae.data.batches import Batches
from keras_mae.data.loading import make_dataset
from keras_mae.frozen_features import FEATURES
from keras_mae.labels import check_labels
from keras_mae.pooling import pooled_width
from keras_mae.transfer.features import extract_features

__all__ = ["has_room", "on_features", "why_not_cached"]

_AT_A_TIME = 256
_SHARE = 0.5  # of the memory that is free


class _CachedFeatures:
    """A source of one image's features each, by index, and of its label.

    Args:
        features: float32 (images, width).
        labels: Integers (images,).
        class_names: Names of the classes, or `None`.
    """

    labeled, sized = True, True

    def __init__(self, features: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str] | None):
        self.features = features
        self.labels: np.ndarray | None = labels
        self.class_names = None if class_names is None else tuple(class_names)
        self.image_shape: Any = features.shape[1:]
        self.dtype = features.dtype

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, indices: Any, crop: Any = None, generators: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the features and labels at `indices`; nothing is cut of them."""
        return self.features[indices], None if self.labels is None else self.labels[indices]


class _AsFeatures:
    """What stands in the place of an augmentation: it says that these are features."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    def __call__(self, features: Any, labels: Any, number: Any = None, places: Any = None) -> Any:
        return {FEATURES: features}, labels


# === Whether to ===
def why_not_cached(dataset: Any) -> str:
    """Return why features of a dataset's images cannot stand for them in every epoch; "" if they can."""
    batches = getattr(dataset, "batches", None)
    if not isinstance(batches, Batches):
        return "the dataset is none of keras_mae.data's that are read by index, and may show other images every epoch"
    if batches.plan.augmented or batches.plan.crops_per_image > 1:
        return (
            "the dataset augments its images or cuts them at random: a recipe of flip=False "
            "and crop_area=None does not"
        )
    if distribution.current().replicas > 1:
        return "several devices share the batches"
    return ""


def has_room(probe: ViTClassifier, dataset: Any) -> bool:
    """Return whether the features fit into half of the free memory, as far as that is known; if not, warn."""
    images = len(dataset.batches.source)
    free, needed = free_memory(), 4 * images * pooled_width(probe.encoder, probe.frozen_pooling)
    if free is None or needed <= _SHARE * free:
        return True
    warnings.warn(
        f"The features of {images:,} images take {needed / 1e9:,.2g} GB, and {free / 1e9:,.2g} GB "
        "of memory are free: they are computed anew in every epoch",
        stacklevel=3,
    )
    return False


def free_memory() -> int | None:
    """Return the bytes of memory that are free, or `None` where the system does not say."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        found += [1024 * int(words[1]) for words in lines if words and words[0] == "MemAvailable:"]
    elif "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        found.append(int(text))
    return min(found, default=None)


# === Features ===
def on_features(probe: ViTClassifier, dataset: Any, validation_data: Any = None, *, progress: bool = True) -> Any:
    """Return a dataset of the features of `dataset`'s images, and the validation data as features, for `probe.fit`.

    The batches hold the same images in the same order as those of `dataset`, epoch by epoch.

    Args:
        probe: Classifier with a frozen encoder.
        dataset: Dataset of `keras_mae.data` that is read by index.
        validation_data: Batches, or arrays, of (images, labels); or `None`.
        progress: Whether to show progress bars.
    """
    batches: Batches = dataset.batches
    source, plan = batches.source, batches.plan
    as_features: Any = _AsFeatures(probe.num_classes)
    size = min(_AT_A_TIME, len(source))
    in_order = make_dataset(source, size, shuffle=False, crop=plan.crop, shard=(0, 1), workers=plan.workers)
    features = _features_of(probe, in_order, progress)
    train = make_dataset(
        features,
        plan.batch_size,
        shuffle=plan.shuffle,
        seed=plan.seed,
        drop_remainder=plan.drop_remainder,
        augment=as_features,
    )
    if validation_data is None:
        return train, None
    held_out = _features_of(probe, validation_data, progress)
    if held_out.labels is not None and held_out.labels.ndim > 1:  # probabilities
        return train, ({FEATURES: held_out.features}, held_out.labels)
    size = min(_AT_A_TIME, len(held_out))
    return train, make_dataset(held_out, size, shuffle=False, augment=as_features)


def _features_of(probe: ViTClassifier, data: Any, progress: bool) -> _CachedFeatures:
    check_places(data, probe.class_names)
    features, labels = extract_features(probe.encoder, data, pooling=probe.frozen_pooling, progress=progress)
    if labels is None:
        raise ValueError("A classifier is trained on (images, labels). Received: no labels")
    check_labels(labels, probe.num_classes)
    return _CachedFeatures(features, labels if labels.ndim > 1 else labels.astype("int64"), named(data))
