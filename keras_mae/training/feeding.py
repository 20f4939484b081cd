"""From the name of a data set, or a folder, and a recipe to the batches of a run.

Each command of `keras-mae` that trains is two lines in Python. `keras-mae pretrain photos/`:

    photos = training.open_unlabeled("photos/", image_shape=(224, 224, 3))
    training.run_pretraining(mae, **photos.feed(recipe), run_directory="runs/photos-1")

`keras-mae finetune encoder.keras photos/`, and `probe` with another recipe and `run_linear_probe`:

    photos = training.open_labeled("photos/", encoder.image_shape)
    training.run_fine_tuning(encoder, **photos.feed(recipe), run_directory="runs/finetune-photos-1")

The commands call `keras.utils.set_random_seed` before that, so that new weights are those of the seed, too.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from keras_mae import _checks, _class_names, distribution
from keras_mae.data import (
    BUILTIN,
    CLASS_NAMES,
    ArraySource,
    Stream,
    Subset,
    load_builtin,
    open_directory,
)
from keras_mae.data.array_files import data_name, is_array_name
from keras_mae.data.drawing import balanced_draw, labels_of
from keras_mae.data.levels import Levels
from keras_mae.data.sources import Source
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, check_recipe
from keras_mae.training.batches import evaluation_batches, fit_recipe, training_batches, validation_batches
from keras_mae.training.examples import EXAMPLES, spread

__all__ = [
    "ClassifierFeed",
    "LabeledImages",
    "PretrainingFeed",
    "UnlabeledImages",
    "open_labeled",
    "open_test",
    "open_unlabeled",
]

_SPLITS = {"dev", "eval", "test", "testing", "train", "training", "val", "valid", "validation"}


class PretrainingFeed(TypedDict):
    """What `run_pretraining` is told of its data, by the names of its arguments."""

    dataset: Any
    recipe: PretrainRecipe
    examples: np.ndarray
    example_names: tuple[str, ...]
    metadata: dict[str, Any]


class ClassifierFeed(TypedDict):
    """What `run_fine_tuning` and `run_linear_probe` are told of their data, by the names of their arguments."""

    dataset: Any
    test: Any
    recipe: Any
    validation_data: Any
    metadata: dict[str, Any]


# === Data sets by name or folder ===
@dataclass(frozen=True)
class UnlabeledImages:
    """Images to pre-train on; `open_unlabeled` opens them.

    Attributes:
        train: Source of the images to train on.
        examples: Images (n, height, width, channels) to draw reconstructions of.
        metadata: JSON values that identify the data.
        example_names: Names of the examples.
    """

    train: Source | Stream
    examples: np.ndarray
    metadata: dict[str, Any]
    example_names: tuple[str, ...] = ()

    def feed(self, recipe: PretrainRecipe, *, crops_per_image: int = 1) -> PretrainingFeed:
        """Return the arguments of `run_pretraining` that say what it trains on.

        Args:
            recipe: Recipe for pre-training. If all images already have one size, the one returned has crops turned
                off, and flips too unless it has a `shift`. The model's masking and target may come from either.
            crops_per_image: Crops of each image once it is decoded.

        Raises:
            ValueError: If the recipe is for something else, or does not fit the data.
        """
        check_recipe(recipe, PretrainRecipe)
        if self.train.sized:
            recipe = replace(recipe, crop_area=None, flip=recipe.flip and recipe.shift > 0)
        dataset = training_batches(self.train, recipe, crops_per_image=crops_per_image)
        return {
            "dataset": dataset,
            "recipe": recipe,
            "examples": self.examples,
            "example_names": self.example_names,
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True)
class LabeledImages:
    """Images to train a classifier on, and others to evaluate it on; `open_labeled` opens them.

    Attributes:
        train: Source of the images and labels to train on.
        test: Source of the images and labels to evaluate on; its labels mean the same classes.
        total: Number of images in the data set or folder that `train` was chosen from.
        held_out: Number of these held out as `test` because there is no test set; 0 if there is one.
        metadata: JSON values that identify the data.
    """

    train: Source
    test: Source
    total: int
    held_out: int
    metadata: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self.train.class_names or ()

    def feed(self, recipe: FineTuneRecipe | LinearProbeRecipe, **changes: Any) -> ClassifierFeed:
        """Return the arguments of `run_fine_tuning` or `run_linear_probe` that say what it trains on.

        Args:
            recipe: Recipe for fine-tuning or for a linear probe; the one returned is fitted to the data: see
                `fit_recipe`.
            changes: Fields of the recipe with values of their own; `None` stands for the recipe's.

        Raises:
            ValueError: If the recipe is for something else, or does not fit the data or the devices.
        """
        if not isinstance(recipe, FineTuneRecipe | LinearProbeRecipe):
            raise _checks.argument_error("recipe", "a FineTuneRecipe or a LinearProbeRecipe", recipe)
        recipe = fit_recipe(recipe, len(self.train), **changes)
        test, alone = evaluation_batches(self.test, recipe), distribution.current().replicas == 1
        return {
            "dataset": training_batches(self.train, recipe, len(self.class_names)),
            "test": test,
            "recipe": recipe,
            "validation_data": test if alone else validation_batches(self.test, recipe),
            "metadata": dict(self.metadata),
        }


def open_unlabeled(
    data: str | Path,
    image_shape: tuple[int, int, int],
    *,
    allow_damaged: float = 0.0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> UnlabeledImages:
    """Open images to pre-train on.

    Args:
        data: "digits", "fashion_mnist", a folder, of images, flat or nested, or from `keras-mae prepare`; or an array
            in a file, such as "cells.h5::images".
        image_shape: (height, width, channels) of the images to make of a folder's. The built-in ones keep theirs,
            which `images.train.image_shape` says.
        allow_damaged: Largest share of damaged images that is left out without an error.
        pixel_range: (low, high), the smallest and the largest pixel of a folder's images, as for `read_image`: the
            `pixel_range` of the encoder that gets them.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image of a folder to read, as for `read_image`.

    Returns:
        The images, and a few to draw reconstructions of: test images of a built-in data set; of a folder, images
        spread over it, which are trained on like the others.

    Raises:
        ValueError: If there is no such data set or folder, or it holds no images.
    """
    data, image_shape = _named_or_path(data), _checks.image_shape(image_shape)
    _checks.within("allow_damaged", allow_damaged, 1)
    train: Source | Stream
    levels = _checked_levels(data, pixel_range, white_level, max_pixels)
    if data in BUILTIN:
        train = ArraySource(load_builtin(str(data), "train")[0])
        examples = load_builtin(str(data), "test")[0][:EXAMPLES]
        names = tuple(f"test image {number}" for number in range(1, EXAMPLES + 1))
    elif is_array_name(data) or Path(data).is_dir():
        train = open_directory(
            data,
            image_shape[:2],
            image_shape[2],
            allow_damaged=allow_damaged,
            pixel_range=pixel_range,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        if isinstance(train, Stream) and train.count is None:  # the schedule needs to know how many images there are
            raise ValueError(
                "Files that are read from front to back have no length while damaged images may be left out: for "
                f"{str(data)!r}, prepared as TFRecord, `allow_damaged` must be 0. Received: "
                f"allow_damaged={allow_damaged}"
            )
        examples, names = spread(train)
    else:
        known = ", ".join(BUILTIN)
        known += ", an existing folder of images, or an array in a file, such as cells.h5::images"
        raise ValueError(f"`data` must be {known}. Received: data={str(data)!r}")
    metadata = {"data": data_name(data), "images": len(train), **levels.metadata}
    return UnlabeledImages(train, examples, metadata, names)


def open_labeled(
    data: str | Path,
    image_shape: tuple[int, int, int],
    *,
    test: str | Path | None = None,
    num_labels: int | None = None,
    balanced: bool = False,
    seed: int = 0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> LabeledImages:
    """Open labeled images to train a classifier on, and others to evaluate it on.

    Args:
        data: "digits", "fashion_mnist", a folder that holds a folder of images for each class, or was prepared from
            one, or an array in a file and its labels, such as "cells.h5::images::labels".
        image_shape: (height, width, channels) that the model takes: a folder's images are brought to it.
        test: Folder of the images to evaluate on. Its classes go by their names: it may lack some. Without it a tenth
            of the folder, at least one image, is held out for that. The built-in data sets have a test set of their
            own.
        num_labels: Number of labeled images to train on; all by default.
        balanced: Whether `num_labels` are as many of each class, or as nearly as there are images of them, as
            `keras-mae --num-labels` takes them; by default they are drawn from all images alike.
        seed: Seed for which images are held out and which are trained on.
        pixel_range: (low, high), the smallest and the largest pixel of a folder's images, as for `read_image`: the
            `pixel_range` of the encoder that gets them.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image of a folder to read, as for `read_image`.

    Raises:
        ValueError: If there is no such data set or folder, its images cannot be brought to `image_shape`, `test`
            holds a class that `data` does not, or `num_labels` is out of range.
    """
    generator = np.random.default_rng(_checks.seed_int("seed", seed))
    data, test = _named_or_path(data), _checks.optional(_checks.path, "test", test)
    _checks.boolean("balanced", balanced)
    levels = _checked_levels(data, pixel_range, white_level, max_pixels)
    train = _source(data, "train", image_shape, levels)
    _warn_of_classes(train, data)
    total, held_out = len(train), 0
    evaluated: Source
    if data in BUILTIN:
        if test is not None:
            raise ValueError(f"{data} has a test set of its own. Received: test={str(test)!r}")
        evaluated = _source(data, "test", image_shape, levels)
    elif test is not None:
        evaluated = _source(test, "test", image_shape, levels, train.class_names)
    else:
        order, held_out = generator.permutation(total), max(total // 10, 1)
        if held_out == total:
            raise ValueError(f"{str(data)!r} must hold two images or more: one is held out. Received: {total}")
        train, evaluated = Subset(train, order[held_out:]), Subset(train, order[:held_out])
    if num_labels is not None:
        whole = isinstance(num_labels, int | np.integer) and not isinstance(num_labels, bool)
        if not whole or not 0 < num_labels <= len(train):
            rule = f"an integer in [1, {len(train)}], the images there are"
            raise _checks.argument_error("num_labels", rule, num_labels)
        train = Subset(train, _drawn(train, int(num_labels), balanced, generator))
    metadata = {
        "data": data_name(data),
        "test": None if test is None else data_name(test),
        "num_labels": num_labels,
        "images": len(train),
        **({"balanced": True} if balanced and num_labels is not None else {}),
        **levels.metadata,
    }
    return LabeledImages(train, evaluated, total, held_out, metadata)


def _drawn(source: Source, count: int, balanced: bool, generator: np.random.Generator) -> np.ndarray:
    """Return the indices of so many images."""
    labels = labels_of(source) if balanced else None
    return generator.permutation(len(source))[:count] if labels is None else balanced_draw(labels, count, generator)


def open_test(
    data: str | Path,
    image_shape: tuple[int, int, int],
    *,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> Source:
    """Open labeled images to score a classifier on.

    Args:
        data: "digits" or "fashion_mnist", of which these are the test images, or other data as for `open_labeled`.
        image_shape: (height, width, channels) that the model takes.
        pixel_range: (low, high), the smallest and the largest pixel of a folder's images, as for `read_image`: the
            `pixel_range` of the encoder that gets them.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image of a folder to read, as for `read_image`.

    Returns:
        The source, for `evaluation_batches`; its `class_names` say what the labels mean.

    Raises:
        ValueError: If there is no such data set or folder, or its images cannot be brought to `image_shape`.
    """
    data = _named_or_path(data)
    return _source(data, "test", image_shape, _checked_levels(data, pixel_range, white_level, max_pixels))


def _named_or_path(data: Any) -> str | Path:
    """Return the name of a built-in data set, or a path."""
    rule = f"{', '.join(BUILTIN)} or an existing folder of images"
    path = _checks.path("data", data, rule)
    return str(data) if str(data) in BUILTIN and isinstance(data, str) else path


def _checked_levels(
    data: str | Path, pixel_range: PixelRange, white_level: int | None, max_pixels: int | None
) -> Levels:
    """Return the levels of a folder's images; built-in ones have levels of their own."""
    levels = Levels(pixel_range, white_level, max_pixels)
    if data in BUILTIN and levels != Levels(max_pixels=max_pixels):
        raise ValueError(
            f"{data} has images of 0-255. Received: pixel_range={levels.pixel_range}, white_level={white_level}"
        )
    return levels


def _warn_of_classes(train: Source, data: str | Path) -> None:
    """Warn of folders that are hardly meant as classes: parts of a data set, and those without images."""
    names = train.class_names or ()
    if names and {name.lower() for name in names} <= _SPLITS:
        warnings.warn(
            f"The classes are {_class_names.listed(names)}, which look like parts of a data set: classes are the "
            f"folders in {str(data)!r}. To train on one part and evaluate on another, give its folder, and the other "
            "as `test` (--test)",
            stacklevel=3,
        )
    if train.labels is None or not names:
        return
    images = np.bincount(train.labels, minlength=len(names))
    if empty := [name for name, count in zip(names, images, strict=True) if not count]:
        warnings.warn(
            f"{len(empty)} of the {len(names)} classes have no images in {str(data)!r}: {_class_names.listed(empty)}",
            stacklevel=3,
        )


def _source(
    data: str | Path,
    split: str,
    image_shape: tuple[int, int, int],
    levels: Levels,
    class_names: tuple[str, ...] | None = None,
) -> Source:
    """Return labeled images by index; only built-in data sets have a split, and only folders other class names."""
    image_shape = _checks.image_shape(image_shape)
    if data in BUILTIN:
        source = ArraySource(*load_builtin(str(data), split), class_names=CLASS_NAMES[str(data)])
        if source.image_shape != tuple(image_shape):
            raise ValueError(f"{data} has images of {source.image_shape}. Received: a model for {image_shape}")
        return source
    folder = open_directory(
        data,
        image_shape[:2],
        image_shape[2],
        labeled=True,
        class_names=class_names,
        pixel_range=levels.pixel_range,
        white_level=levels.white_level,
        max_pixels=levels.max_pixels,
    )
    if isinstance(folder, Stream):
        raise ValueError(
            f"This takes images by index. Received: {str(data)!r}, prepared as TFRecord: prepare it as ArrayRecord "
            "(--format array_record)"
        )
    return folder
