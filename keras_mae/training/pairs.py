"""Images with segmentation masks to train a segmenter on, and others to score it on.

`keras-mae segment encoder.keras rooms/` in Python:

    rooms = training.open_pairs("rooms/", (512, 512, 3))
    training.run_segmentation(encoder, **rooms.feed(recipe), run_directory="runs/segment-rooms-1")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from keras_mae import _checks, _class_names, distribution
from keras_mae.data import FolderPairs, Subset
from keras_mae.data.array_files import data_name
from keras_mae.data.masks import IGNORED
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.recipes import SegmentationRecipe, check_recipe
from keras_mae.segmenter import ViTSegmenter
from keras_mae.training.batches import evaluation_batches, fit_recipe, training_batches, validation_batches
from keras_mae.training.parts import held_out
from keras_mae.transfer.best_epoch import checked_choice

__all__ = ["PairedImages", "SegmentationFeed", "open_pairs", "open_test_pairs"]


class SegmentationFeed(TypedDict):
    """What `run_segmentation` is told of its data, by the names of its arguments."""

    dataset: Any
    test: Any
    recipe: SegmentationRecipe
    image_shape: tuple[int, int, int]
    num_classes: int
    validation_data: Any
    metadata: dict[str, Any]


@dataclass(frozen=True)
class PairedImages:
    """Images with masks to train a segmenter on, and others to score it on; `open_pairs` opens them.

    Attributes:
        train: Source of the images and masks to train on.
        test: Source of the images and masks to score on.
        total: Number of images in the folder, or its part, that `train` was chosen from.
        held_out: Number of these held out as `test` because nothing else is named for it; 0 if something is.
        metadata: JSON values that identify the data.
        validation: Source of the images and masks to validate on after every epoch, if any are held out of `train`.
    """

    train: Any
    test: Any
    total: int
    held_out: int
    metadata: dict[str, Any]
    validation: Any = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of their labels, or `None`."""
        return _class_names.named(self.train)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.train.masks.num_classes)

    def feed(
        self,
        recipe: SegmentationRecipe,
        *,
        loader: str | None = None,
        workers: int | None = None,
        **changes: Any,
    ) -> SegmentationFeed:
        """Return the arguments of `run_segmentation` that say what it trains on.

        After every epoch images are evaluated in one piece, as large as fits into a crop: those that are held out, or
        else those of `test`. The scores at the end are of images in the sizes that `run_segmentation_scores` says.

        Args:
            recipe: Recipe for segmentation; the one returned is fitted to the data: see `fit_recipe`.
            loader: "tf.data" or "grain", as for `data.make_dataset`, which says what is the default.
            workers: Parallel calls or processes that load, as there.
            changes: Fields of the recipe with values of their own; `None` stands for the recipe's.

        Raises:
            ValueError: If the recipe is for something else, does not fit the data or the devices, or chooses an epoch
                and no images are held out for that.
        """
        check_recipe(recipe, SegmentationRecipe)
        recipe = fit_recipe(recipe, len(self.train), **changes)
        loading: dict[str, Any] = {"loader": loader, "workers": workers}
        checked_choice(recipe, self.validation)
        alone = distribution.current().replicas == 1
        batches = evaluation_batches if alone else validation_batches
        return {
            "dataset": training_batches(self.train, recipe, **loading),
            "test": self.test,
            "recipe": recipe,
            "image_shape": self.train.image_shape,
            "num_classes": self.num_classes,
            "validation_data": batches(self.validation or self.test, recipe, **loading),
            "metadata": dict(self.metadata),
        }


def open_pairs(
    data: str | Path,
    image_shape: tuple[int, int, int],
    *,
    masks: str | Path | None = None,
    split: str | None = None,
    test: str | Path | None = None,
    test_split: str | None = None,
    validation: float | None = None,
    num_labels: int | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    ignore_label: int = IGNORED,
    reduce_zero_label: bool | None = None,
    colors: Mapping[tuple[int, int, int], int] | None = None,
    allow_damaged: float = 0.0,
    seed: int = 0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> PairedImages:
    """Open images with segmentation masks to train on, and others to score on.

    Args:
        data: Folder of images and masks, as for `data.FolderPairs`.
        image_shape: (height, width, channels) of the crops to train on.
        masks: Folder of the masks, if it is not in `data`.
        split: Part of `data` to train on, as for `FolderPairs`: "train" of ADE20K and Pascal VOC by default.
        test: Folder of images and masks to score on, with the same classes. Without it, and without `test_split`, a
            tenth of the images, at least one, is held out for that.
        test_split: Part of `test`, or of `data`, to score on, such as "val".
        validation: Share of the images to train on to hold out, to validate on after every epoch; none by default.
        num_labels: Number of images to train on; all by default. By the same seed a larger number holds the smaller.
        num_classes: Number of classes, as for `FolderPairs`.
        class_names: Names of the classes, in the order of the labels, as for `FolderPairs`.
        ignore_label: Label of the pixels that belong to no class.
        reduce_zero_label: Whether 0 stands for no class, as for `FolderPairs`.
        colors: Label of each (red, green, blue), for masks that are drawn in colors.
        allow_damaged: Largest share of pairs with a damaged file that is left out without an error, as for
            `FolderPairs`.
        seed: Seed for which images are held out and which are trained on.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`: the encoder's.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image or mask to read, as for `read_image`.

    Raises:
        ValueError: If there is no such folder or part, an image has no mask, the classes of `test` are others, or
            `num_labels` is out of range.
    """
    generator = np.random.default_rng(_checks.seed_int("seed", seed))
    height, width, channels = _checks.image_shape(image_shape)
    data, test = _checks.path("data", data), _checks.optional(_checks.path, "test", test)
    options: dict[str, Any] = {
        "class_names": class_names,
        "ignore_label": ignore_label,
        "reduce_zero_label": reduce_zero_label,
        "colors": colors,
        "allow_damaged": allow_damaged,
        "pixel_range": pixel_range,
        "white_level": white_level,
        "max_pixels": max_pixels,
    }

    def opened(folder: Path, count: int | None, **part: Any) -> FolderPairs:
        return FolderPairs(folder, (height, width), channels, num_classes=count, **part, **options)

    train: Any = opened(data, num_classes, masks=masks, split=split)
    total, tested = len(train), 0
    evaluated: Any
    if test is not None or test_split is not None:
        beside = {"masks": masks} if test is None else {}
        evaluated = opened(Path(test or data), train.num_classes, split=test_split, **beside)
        _class_names.check_places(evaluated, train.class_names)
    else:
        order, tested = generator.permutation(total), max(total // 10, 1)
        if tested == total:
            raise ValueError(f"{str(data)!r} must hold two images or more: one is held out. Received: {total}")
        train, evaluated = Subset(train, np.sort(order[tested:])), Subset(train, np.sort(order[:tested]))
    if num_labels is not None:
        _checks.int_within("num_labels", num_labels, 1, len(train))
        train = Subset(train, np.sort(generator.permutation(len(train))[:num_labels]))
    others = None
    if validation is not None:
        train, others = held_out(train, validation, seed)
    metadata = {
        "data": data_name(data),
        "test": None if test is None else data_name(test),
        "split": split,
        "test_split": test_split,
        "num_labels": num_labels,
        "images": len(train),
        **({} if validation is None else {"validation": validation}),
        **({} if white_level is None else {"white_level": white_level}),
    }
    return PairedImages(train, evaluated, total, tested, metadata, others)


def open_test_pairs(
    data: str | Path,
    segmenter: ViTSegmenter,
    *,
    masks: str | Path | None = None,
    split: str | None = None,
    reduce_zero_label: bool | None = None,
    colors: Mapping[tuple[int, int, int], int] | None = None,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> FolderPairs:
    """Open images with segmentation masks to score a segmenter on.

    Args:
        data: Folder of images and masks, as for `data.FolderPairs`.
        segmenter: Segmenter to score: it says how many classes there are, which label is ignored, what pixels are.
        masks: Folder of the masks, if it is not in `data`.
        split: Part of `data`, as for `FolderPairs`: "train" of ADE20K and Pascal VOC by default.
        reduce_zero_label: Whether 0 stands for no class, as for `FolderPairs`; by default as the layout has it, and
            else as in the masks that the segmenter was trained on.
        colors: Label of each (red, green, blue), for masks that are drawn in colors.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image or mask to read, as for `read_image`.

    Returns:
        The source, for `run_segmentation_scores`.

    Raises:
        ValueError: If there is no such folder or part, or its classes are not the segmenter's.
    """
    _checks.instance("segmenter", segmenter, ViTSegmenter, "a keras_mae.ViTSegmenter")
    if reduce_zero_label is None and colors is None:
        reduce_zero_label = segmenter.reduce_zero_label or None
    source = FolderPairs(
        _checks.path("data", data),
        None,
        segmenter.encoder.image_shape[2],
        masks=masks,
        split=split,
        num_classes=segmenter.num_classes,
        ignore_label=segmenter.ignore_label,
        reduce_zero_label=reduce_zero_label,
        colors=colors,
        pixel_range=segmenter.encoder.pixel_range,
        white_level=white_level,
        max_pixels=max_pixels,
    )
    _class_names.check_places(source, segmenter.class_names)
    return source
