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

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from keras_mae import _checks, distribution
from keras_mae.data import (
    BUILTIN,
    ArraySource,
    Stream,
    Subset,
    load_builtin,
    open_directory,
)
from keras_mae.data.array_files import data_name, is_array_name
from keras_mae.data.drawing import balanced_draw, labels_of
from keras_mae.data.sources import Source
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, Recipe, check_recipe
from keras_mae.training.batches import (
    evaluation_batches,
    fit_recipe,
    training_batches,
    validation_batches,
    without_crops,
)
from keras_mae.training.examples import EXAMPLES, spread
from keras_mae.training.opening import checked_levels, labeled_source, named_or_path
from keras_mae.training.parts import held_out, warn_of_classes
from keras_mae.transfer.best_epoch import checked_choice

__all__ = [
    "ClassifierFeed",
    "LabeledImages",
    "PretrainingFeed",
    "UnlabeledImages",
    "open_labeled",
    "open_test",
    "open_unlabeled",
]

_FEWEST_VALIDATED = 1000
"""Test images to validate on after every epoch, at least, where none are held out for it."""


class PretrainingFeed(TypedDict):
    """What `run_pretraining` is told of its data, by the names of its arguments."""

    dataset: Any
    recipe: PretrainRecipe
    examples: np.ndarray
    example_names: tuple[str, ...]
    metadata: dict[str, Any]
    validation_data: NotRequired[Any]


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
        validation: Source of the images that are held out to validate on, if any are.
    """

    train: Source | Stream
    examples: np.ndarray
    metadata: dict[str, Any]
    example_names: tuple[str, ...] = ()
    validation: Source | None = None

    def feed(
        self,
        recipe: PretrainRecipe,
        *,
        crops_per_image: int = 1,
        loader: str | None = None,
        workers: int | None = None,
    ) -> PretrainingFeed:
        """Return the arguments of `run_pretraining` that say what it trains on.

        Args:
            recipe: Recipe for pre-training. If all images already have one size, the one returned has crops turned
                off, and flips too unless it has a `shift`. The model's masking and target may come from either.
            crops_per_image: Crops of each image once it is decoded.
            loader: "tf.data" or "grain", as for `data.make_dataset`, which says what is the default.
            workers: Parallel calls or processes that load, as there.

        Raises:
            ValueError: If the recipe is for something else, or does not fit the data.
        """
        check_recipe(recipe, PretrainRecipe)
        if self.train.sized:
            recipe = without_crops(recipe)
        loading: dict[str, Any] = {"loader": loader, "workers": workers}
        dataset = training_batches(self.train, recipe, crops_per_image=crops_per_image, **loading)
        feed: PretrainingFeed = {
            "dataset": dataset,
            "recipe": recipe,
            "examples": self.examples,
            "example_names": self.example_names,
            "metadata": dict(self.metadata),
        }
        if self.validation is not None:
            feed["validation_data"] = _validation(self.validation, recipe, **loading)
        return feed


@dataclass(frozen=True)
class LabeledImages:
    """Images to train a classifier on, and others to evaluate it on; `open_labeled` opens them.

    Attributes:
        train: Source of the images and labels to train on.
        test: Source of the images and labels to evaluate on; its labels mean the same classes.
        total: Number of images in the data set or folder that `train` was chosen from.
        held_out: Number of these held out as `test` because there is no test set; 0 if there is one.
        metadata: JSON values that identify the data.
        validation: Source of the images and labels to validate on after every epoch, if any are held out of `train`.
    """

    train: Source
    test: Source
    total: int
    held_out: int
    metadata: dict[str, Any]
    validation: Source | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self.train.class_names or ()

    def feed(
        self,
        recipe: FineTuneRecipe | LinearProbeRecipe,
        *,
        loader: str | None = None,
        workers: int | None = None,
        **changes: Any,
    ) -> ClassifierFeed:
        """Return the arguments of `run_fine_tuning` or `run_linear_probe` that say what it trains on.

        Args:
            recipe: Recipe for fine-tuning or for a linear probe; the one returned is fitted to the data: see
                `fit_recipe`.
            loader: "tf.data" or "grain", as for `data.make_dataset`, which says what is the default.
            workers: Parallel calls or processes that load, as there.
            changes: Fields of the recipe with values of their own; `None` stands for the recipe's.

        Without `validation`, the validation data are of `test`: as many images, evenly spread, as are trained on, but
        at least 1,000, so that few labels are not trained on for minutes and evaluated for hours.

        Raises:
            ValueError: If the recipe is for something else, does not fit the data or the devices, or chooses an epoch
                and no images are held out for that.
        """
        if not isinstance(recipe, FineTuneRecipe | LinearProbeRecipe):
            raise _checks.argument_error("recipe", "a FineTuneRecipe or a LinearProbeRecipe", recipe)
        recipe = fit_recipe(recipe, len(self.train), **changes)
        loading: dict[str, Any] = {"loader": loader, "workers": workers}
        test = evaluation_batches(self.test, recipe, **loading)
        held_out: Any = test
        some = self.validation or _some_of(self.test, max(len(self.train), _FEWEST_VALIDATED))
        if some is not self.test or distribution.current().replicas > 1:
            held_out = _validation(some, recipe, **loading)
        checked_choice(recipe, None if self.validation is None else held_out, test)
        return {
            "dataset": training_batches(self.train, recipe, len(self.class_names), **loading),
            "test": test,
            "recipe": recipe,
            "validation_data": held_out,
            "metadata": dict(self.metadata),
        }


def _some_of(source: Source, count: int) -> Source:
    """Return so many of a source's images, evenly spread, or all if there are no more."""
    if len(source) <= count:
        return source
    return Subset(source, np.linspace(0, len(source) - 1, count).round().astype(int))


def _validation(source: Source, recipe: Recipe, **loading: Any) -> Any:
    """Return batches of held-out images, of all of them where one device evaluates."""
    alone = distribution.current().replicas == 1
    return (evaluation_batches if alone else validation_batches)(source, recipe, **loading)


def open_unlabeled(
    data: str | Path,
    image_shape: tuple[int, int, int],
    *,
    validation: float | None = None,
    seed: int = 0,
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
        validation: Share of the images to hold out and to validate on after every epoch; none by default.
        seed: Seed for which.
        allow_damaged: Largest share of damaged images that is left out without an error.
        pixel_range: (low, high), the smallest and the largest pixel of a folder's images, as for `read_image`: the
            `pixel_range` of the encoder that gets them.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image of a folder to read, as for `read_image`.

    Returns:
        The images, and a few to draw reconstructions of: test images of a built-in data set; of a folder, images
        spread over it, which are trained on like the others.

    Raises:
        ValueError: If there is no such data set or folder, or it holds no images, or none could be held out.
    """
    data, image_shape = named_or_path(data), _checks.image_shape(image_shape)
    _checks.within("allow_damaged", allow_damaged, 1)
    train: Source | Stream
    levels = checked_levels(data, pixel_range, white_level, max_pixels)
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
    others: Source | None = None
    if validation is not None:
        train, others = held_out(train, validation, seed)
    metadata = {"data": data_name(data), "images": len(train), **levels.metadata}
    if validation is not None:
        metadata["validation"] = validation
    return UnlabeledImages(train, examples, metadata, names, others)


def open_labeled(
    data: str | Path,
    image_shape: tuple[int, int, int],
    *,
    test: str | Path | None = None,
    validation: float | None = None,
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
        validation: Share of the labeled images to train on that is held out, to validate on after every epoch; none
            by default, where images of `test` are what is validated on.
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
    data, test = named_or_path(data), _checks.optional(_checks.path, "test", test)
    _checks.boolean("balanced", balanced)
    levels = checked_levels(data, pixel_range, white_level, max_pixels)
    train = labeled_source(data, "train", image_shape, levels)
    warn_of_classes(train, data)
    total, tested = len(train), 0
    evaluated: Source
    if data in BUILTIN:
        if test is not None:
            raise ValueError(f"{data} has a test set of its own. Received: test={str(test)!r}")
        evaluated = labeled_source(data, "test", image_shape, levels)
    elif test is not None:
        evaluated = labeled_source(test, "test", image_shape, levels, train.class_names)
    else:
        order, tested = generator.permutation(total), max(total // 10, 1)
        if tested == total:
            raise ValueError(f"{str(data)!r} must hold two images or more: one is held out. Received: {total}")
        train, evaluated = Subset(train, order[tested:]), Subset(train, order[:tested])
    if num_labels is not None:
        whole = isinstance(num_labels, int | np.integer) and not isinstance(num_labels, bool)
        if not whole or not 0 < num_labels <= len(train):
            rule = f"an integer in [1, {len(train)}], the images there are"
            raise _checks.argument_error("num_labels", rule, num_labels)
        train = Subset(train, _drawn(train, int(num_labels), balanced, generator))
    others: Source | None = None
    if validation is not None:
        train, others = held_out(train, validation, seed)
    metadata = {
        "data": data_name(data),
        "test": None if test is None else data_name(test),
        "num_labels": num_labels,
        "images": len(train),
        **({"balanced": True} if balanced and num_labels is not None else {}),
        **({} if validation is None else {"validation": validation}),
        **levels.metadata,
    }
    return LabeledImages(train, evaluated, total, tested, metadata, others)


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
    data = named_or_path(data)
    return labeled_source(data, "test", image_shape, checked_levels(data, pixel_range, white_level, max_pixels))
