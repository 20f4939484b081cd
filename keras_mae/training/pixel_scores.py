"""Scores of a segmenter: image by image, each at the size of its own mask, as the published ones are counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_mae import dense, visualize
from keras_mae.data import WholeImage
from keras_mae.data.file_names import names_of
from keras_mae.data.reading import check_batches, numpy_batches
from keras_mae.dense.classes import classes_at
from keras_mae.segmenter import ViTSegmenter
from keras_mae.training.directory import RunDirectory, RunFile
from keras_mae.training.pictures import draw

__all__ = ["Segmented", "check_scored", "leave_pixel_scores", "named_classes", "segmented"]

_EXAMPLES = 6
"""Images that are drawn with their segmentations."""


@dataclass
class Segmented:
    """What a segmenter makes of images.

    Attributes:
        counts: Numbers of pixels, int64 (classes, classes): rows are labels, columns predictions.
        images: Number of images.
        ignore_label: Label of the pixels that belong to no class.
        examples: Some of them: (name, image, labels, predicted classes).
    """

    counts: np.ndarray
    images: int = 0
    ignore_label: int = 255
    examples: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)


def check_scored(test: Any, num_classes: int) -> None:
    """Raise ValueError unless a segmenter of so many classes can be scored on these images."""
    if not _is_source(test):
        check_batches("test", test)
    count = getattr(_masks_of(test), "num_classes", None)
    if isinstance(count, int) and count > num_classes:
        raise ValueError(
            f"`test` must have no more classes than the segmenter, {num_classes}. Received: {count} classes"
        )


def segmented(segmenter: ViTSegmenter, test: Any) -> Segmented:
    """Segment test images, one after the other, and count.

    Images of a source are resized to a short side of the crop's, over which windows of the crop's size slide, and
    their logits are resized to the mask's own size. Those in batches are taken as they are.

    Args:
        segmenter: Trained `ViTSegmenter`.
        test: Source of images with masks, or batches of (images, masks).
    """
    count = segmenter.num_classes
    ignored = getattr(_masks_of(test), "ignore_label", None)
    ignored = segmenter.ignore_label if ignored is None else int(ignored)
    found = Segmented(np.zeros((count, count), "int64"), ignore_label=ignored)
    total = len(test) if _is_source(test) else _EXAMPLES
    drawn = {*np.unique(np.linspace(0, total - 1, _EXAMPLES).round().astype("int64")).tolist()}
    for number, (image, labels) in enumerate(_images_of(test, min(segmenter.encoder.image_shape[:2]))):
        predicted = classes_at(segmenter.predict([image], pad=True)[0], labels.shape)
        found.counts += dense.confusion(labels, predicted, count, ignored)
        found.images += 1
        if number in drawn:
            found.examples.append((_name(test, number), image, labels, predicted))
    return found


def _is_source(test: Any) -> bool:
    return hasattr(test, "labels_of")


def _masks_of(test: Any) -> Any:
    """Return what says how many classes there are, and which label is ignored: of a source, or of a dataset."""
    return getattr(test, "masks", test)


def _images_of(test: Any, short_side: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images (height, width, channels) and labels (height, width), which may be of other sizes."""
    if _is_source(test):
        own = test.in_own_sizes()
        for index in range(len(own)):
            images, _ = own.batch(np.array([index]), WholeImage(short_side=short_side))
            yield images[0], own.labels_of(index)
        return
    for images, masks in numpy_batches(test):
        if masks is None:
            raise ValueError("A segmenter is scored on (images, masks). Received: no masks")
        yield from zip(images, masks, strict=True)


def _name(test: Any, index: int) -> str:
    named = getattr(test, "image_names", None)
    names = names_of(test, np.array([index])) if _is_source(test) else named() if callable(named) else None
    if names is None:
        return f"image {index + 1}"
    return names[0] if _is_source(test) else names[index]


def named_classes(class_names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """Return the names of classes, their numbers where they have none."""
    return tuple(map(str, range(count))) if class_names is None else tuple(class_names)


def leave_pixel_scores(
    directory: RunDirectory, found: Segmented, segmenter: ViTSegmenter, class_names: Sequence[str], **settings: Any
) -> None:
    """Write the scores, a confusion matrix of the classes that there are pixels of or that are predicted, and some
    segmentations.

    Args:
        directory: Directory of the run.
        found: What the segmenter makes of the test images.
        segmenter: The segmenter.
        class_names: Names of all classes.
        settings: Further values to write with the scores.
    """
    directory.write_json(RunFile.METRICS, {**scores(found, class_names), **settings})
    shown = np.flatnonzero(found.counts.sum(axis=0) + found.counts.sum(axis=1))
    names = [class_names[index] for index in shown.tolist()]
    if len(shown):
        counts = found.counts[np.ix_(shown, shown)]
        draw(directory, RunFile.CONFUSION, lambda: visualize.pixel_confusion(counts, names))
    draw(directory, RunFile.SEGMENTATIONS, lambda: _pictures(found, segmenter, class_names))


def _pictures(found: Segmented, segmenter: ViTSegmenter, class_names: Sequence[str]) -> Any:
    names, images, masks, predicted = zip(*found.examples, strict=True)
    return visualize.segmentations(
        images,
        masks,
        predicted,
        class_names,
        names=names,
        ignore_label=found.ignore_label,
        pixel_range=segmenter.encoder.pixel_range,
    )


def scores(found: Segmented, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the scores as JSON values; those of a class without pixels, and means of nothing, are `None`."""
    all_scores = dense.scores_of(found.counts)
    means = {name: _known(all_scores[name]) for name in ("mean_iou", "pixel_accuracy", "class_accuracy")}
    by_class = {
        f"{name}_by_class": dict(zip(class_names, map(_known, all_scores[name].tolist()), strict=True))
        for name in ("iou", "accuracy")
    }
    return {**means, "images": found.images, **by_class, "confusion": found.counts.tolist()}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
