"""From the name of a data set, or a folder, and a recipe to the batches of a run.

Each command of `keras-mae` that trains is two lines in Python. `keras-mae pretrain photos/`:

    photos = training.open_unlabeled("photos/", image_shape=(224, 224, 3))
    training.run_pretraining(mae, **photos.feed(recipe), run_directory="runs/photos-1")

`keras-mae finetune encoder.keras photos/`, and `probe` with another recipe and `run_linear_probe`:

    photos = training.open_labeled("photos/", encoder.image_shape)
    training.run_fine_tuning(encoder, **photos.feed(recipe), run_directory="runs/finetune-photos-1")
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from keras_mae import _checks, distribution
from keras_mae.data import (
    BUILTIN,
    CLASS_NAMES,
    ArraySource,
    Augmentation,
    CenterCrop,
    RandomResizedCrop,
    Stream,
    Subset,
    load_builtin,
    make_dataset,
    open_directory,
)
from keras_mae.data.sources import Source
from keras_mae.recipes import (
    AnyRecipe,
    FineTuneRecipe,
    LinearProbeRecipe,
    PretrainRecipe,
    Recipe,
    changed,
    check_recipe,
)

__all__ = [
    "ClassifierFeed",
    "LabeledImages",
    "PretrainingFeed",
    "UnlabeledImages",
    "evaluation_batches",
    "fit_recipe",
    "open_labeled",
    "open_test",
    "open_unlabeled",
    "training_batches",
    "validation_batches",
]

EXAMPLES = 8
"""Images whose reconstructions a run of pre-training draws."""

EVALUATION_BATCH = 256


class PretrainingFeed(TypedDict):
    """What `run_pretraining` is told of its data, by the names of its arguments."""

    dataset: Any
    recipe: PretrainRecipe
    examples: np.ndarray
    metadata: dict[str, Any]


class ClassifierFeed(TypedDict):
    """What `run_fine_tuning` and `run_linear_probe` are told of their data, by the names of their arguments."""

    dataset: Any
    test: Any
    classes: tuple[str, ...]
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
    """

    train: Source | Stream
    examples: np.ndarray
    metadata: dict[str, Any]

    def feed(self, recipe: PretrainRecipe, *, crops_per_image: int = 1) -> PretrainingFeed:
        """Return the arguments of `run_pretraining` that say what it trains on.

        Args:
            recipe: Recipe for pre-training. The one returned says that images which all come in one size are taken
                whole, neither cropped nor mirrored; make the model's masking and target by either.
            crops_per_image: Crops of each image once it is decoded.

        Raises:
            ValueError: If the recipe is for something else, or does not fit the data.
        """
        check_recipe(recipe, PretrainRecipe)
        if self.train.sized:
            recipe = replace(recipe, crop_area=None, flip=False)
        dataset = training_batches(self.train, recipe, crops_per_image=crops_per_image)
        return {"dataset": dataset, "recipe": recipe, "examples": self.examples, "metadata": dict(self.metadata)}


@dataclass(frozen=True)
class LabeledImages:
    """Images to train a classifier on, and others to evaluate it on; `open_labeled` opens them.

    Attributes:
        train: Source of the images and labels to train on.
        test: Source of the images and labels to evaluate on.
        classes: Names of the classes, in the order of their labels.
        total: Number of images in the data set or folder that `train` was chosen from.
        held_out: Number of these that are `test`, for want of a test set; 0 if there is one.
        metadata: JSON values that identify the data.
    """

    train: Source
    test: Source
    classes: tuple[str, ...]
    total: int
    held_out: int
    metadata: dict[str, Any]

    def feed(self, recipe: FineTuneRecipe | LinearProbeRecipe, **changes: Any) -> ClassifierFeed:
        """Return the arguments of `run_fine_tuning` or `run_linear_probe` that say what it trains on.

        Args:
            recipe: Recipe for fine-tuning or for a linear probe; the one returned is fitted to the data: see
                `fit_recipe`.
            changes: Fields of the recipe with values of their own; `None` stands for the recipe's.

        Raises:
            ValueError: If the recipe is for something else, or does not fit the data or the devices.
        """
        recipe = fit_recipe(recipe, len(self.train), **changes)
        test = evaluation_batches(self.test, recipe)
        return {
            "dataset": training_batches(self.train, recipe, len(self.classes)),
            "test": test,
            "classes": self.classes,
            "recipe": recipe,
            "validation_data": test
            if distribution.current().replicas == 1
            else validation_batches(self.test, recipe),
            "metadata": dict(self.metadata),
        }


def open_unlabeled(
    data: str | Path, image_shape: tuple[int, int, int], *, allow_damaged: float = 0.0
) -> UnlabeledImages:
    """Open images to pre-train on.

    Args:
        data: "digits", "fashion_mnist", or a folder: of images, flat or nested, or from `keras-mae prepare`.
        image_shape: (height, width, channels) of the images to make of a folder's. The built-in ones keep theirs,
            which `images.train.image_shape` says.
        allow_damaged: Largest share of damaged images that is left out without an error.

    Returns:
        The images, and a few to draw reconstructions of: test images of a built-in data set, and the first that a
        folder holds.

    Raises:
        ValueError: If there is no such data set or folder, or it holds no images.
    """
    train: Source | Stream
    if data in BUILTIN:
        train = ArraySource(load_builtin(str(data), "train")[0])
        examples = load_builtin(str(data), "test")[0][:EXAMPLES]
    elif Path(data).is_dir():
        train = open_directory(data, image_shape[:2], image_shape[2], allow_damaged=allow_damaged)
        first: Any = next(iter(make_dataset(train, EXAMPLES, shuffle=False, shard=(0, 1))))
        examples = np.asarray(first[0] if isinstance(first, tuple) else first)
    else:
        known = ", ".join(BUILTIN)
        raise ValueError(f"`data` must be {known} or an existing folder of images. Received: data={str(data)!r}")
    return UnlabeledImages(train, examples, {"data": Path(data).name, "images": len(train)})


def open_labeled(
    data: str | Path,
    image_shape: tuple[int, int, int],
    *,
    test: str | Path | None = None,
    num_labels: int | None = None,
    seed: int = 0,
) -> LabeledImages:
    """Open labeled images to train a classifier on, and others to evaluate it on.

    Args:
        data: "digits", "fashion_mnist", or a folder that holds a folder of images for each class, or was prepared
            from one.
        image_shape: (height, width, channels) that the model takes: a folder's images are brought to it.
        test: Folder of the images to evaluate on. Without it a tenth of the folder, at least one image, is held out
            for that. The built-in data sets have a test set of their own.
        num_labels: Number of labeled images to train on; all by default.
        seed: Seed for which images are held out and which are trained on.

    Raises:
        ValueError: If there is no such data set or folder, its images cannot be brought to `image_shape`, the two
            folders hold different classes, or `num_labels` is out of range.
    """
    generator = np.random.default_rng(_checks.seed_int("seed", seed))
    train, classes = _source(data, "train", image_shape)
    total, held_out = len(train), 0
    evaluated: Source
    if data in BUILTIN:
        if test is not None:
            raise ValueError(f"{data} has a test set of its own. Received: test={str(test)!r}")
        evaluated, _ = _source(data, "test", image_shape)
    elif test is not None:
        evaluated, others = _source(test, "test", image_shape)
        if others != classes:
            raise ValueError(
                f"`data` and `test` must hold the same classes. Received: {list(classes)} and {list(others)}"
            )
    else:
        order, held_out = generator.permutation(total), max(total // 10, 1)
        train, evaluated = Subset(train, order[held_out:]), Subset(train, order[:held_out])
    if num_labels is not None:
        if not 0 < num_labels <= len(train):
            raise ValueError(
                f"`num_labels` must be in [1, {len(train)}], the images there are. Received: num_labels={num_labels}"
            )
        train = Subset(train, generator.permutation(len(train))[:num_labels])
    metadata = {
        "data": Path(data).name,
        "test": None if test is None else Path(test).name,
        "num_labels": num_labels,
        "images": len(train),
    }
    return LabeledImages(train, evaluated, classes, total, held_out, metadata)


def open_test(data: str | Path, image_shape: tuple[int, int, int]) -> tuple[Source, tuple[str, ...]]:
    """Open labeled images to score a classifier on.

    Args:
        data: "digits" or "fashion_mnist", of which these are the test images, or a folder as for `open_labeled`.
        image_shape: (height, width, channels) that the model takes.

    Returns:
        The source, for `evaluation_batches`, and the names of the classes.

    Raises:
        ValueError: If there is no such data set or folder, or its images cannot be brought to `image_shape`.
    """
    return _source(data, "test", image_shape)


def _source(
    data: str | Path, split: str, image_shape: tuple[int, int, int]
) -> tuple[ArraySource | Source, tuple[str, ...]]:
    """Return labeled images by index, and the names of their classes; only built-in data sets have a split."""
    if data in BUILTIN:
        source = ArraySource(*load_builtin(str(data), split))
        if source.image_shape != tuple(image_shape):
            raise ValueError(f"{data} has images of {source.image_shape}. Received: a model for {image_shape}")
        return source, tuple(CLASS_NAMES[str(data)])
    folder = open_directory(data, image_shape[:2], image_shape[2], labelled=True)
    if isinstance(folder, Stream):
        raise ValueError(
            f"This takes images by index. Received: {str(data)!r}, prepared as TFRecord: prepare it as ArrayRecord "
            "(--format array_record)"
        )
    return folder, tuple(folder.classes)


# === Recipes ===
def fit_recipe(recipe: AnyRecipe, images: int, **changes: Any) -> AnyRecipe:
    """Return a recipe for a classifier with its batch no larger than the data and its warm-up within its epochs.

    Args:
        recipe: Recipe for fine-tuning or for a linear probe.
        images: Number of images to train on.
        changes: Fields with values of their own; `None` stands for the recipe's. A warm-up that is not among them is
            shortened to a tenth of the epochs where it would not end before them.

    Raises:
        ValueError: If there is no such field, or a value is out of range.

    Example:
        >>> recipe = keras_mae.recipes.FineTuneRecipe.for_size("base", batch_size=1024)
        >>> fitted = keras_mae.training.fit_recipe(recipe, 300, epochs=5)
        >>> fitted.batch_size, fitted.epochs, fitted.warmup_epochs
        (300, 5, 0)
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    batch_size = _checks.positive_int("batch_size", changes.get("batch_size", recipe.batch_size))
    epochs = _checks.positive_int("epochs", changes.get("epochs", recipe.epochs))
    changes["batch_size"] = min(batch_size, images)
    if recipe.warmup_epochs >= epochs:
        changes.setdefault("warmup_epochs", epochs // 10)
    return changed(recipe, changes)


# === Batches ===
def training_batches(
    source: Source | Stream, recipe: Recipe, num_classes: int | None = None, *, crops_per_image: int = 1
) -> Any:
    """Return batches to train on: shuffled, cropped and augmented as the recipe says, and all of one size.

    Args:
        source: Images, with labels to train a classifier.
        recipe: Recipe of the run. A batch holds its `step_batch_size` images, or all there are if those are fewer.
        num_classes: Number of classes; for fine-tuning and linear probes, whose augmentation needs it.
        crops_per_image: Crops of each image once it is decoded, where images come in sizes of their own.

    Returns:
        A dataset for `fit`, with a length.

    Raises:
        ValueError: If `num_classes` is missing or goes with a recipe for pre-training, or the batches cannot be made.
    """
    classifies = isinstance(recipe, FineTuneRecipe | LinearProbeRecipe)
    if classifies != (num_classes is not None):
        rule = "given for" if classifies else "left out for"
        raise _checks.argument_error("num_classes", f"{rule} a {type(recipe).__name__}", num_classes)
    augmentation = dict(recipe.augmentation) if isinstance(recipe, FineTuneRecipe | LinearProbeRecipe) else {}
    crop: Any = None
    if not source.sized:
        crop = CenterCrop() if recipe.crop is None else RandomResizedCrop(**recipe.crop)
        if classifies and recipe.crop is not None:  # mirrored by the crop: ten times faster than afterwards
            crop = replace(crop, flip=augmentation.pop("flip"))
    return make_dataset(
        source,
        min(recipe.step_batch_size, len(source) * crops_per_image),
        seed=recipe.seed,
        drop_remainder=True,
        crop=crop,
        augment=None if num_classes is None else Augmentation(num_classes, **augmentation),
        crops_per_image=crops_per_image,
    )


def evaluation_batches(source: Source, recipe: Recipe | None = None) -> Any:
    """Return batches of all images in their order, as they are, for scores or features.

    Inside a `keras_mae.distribution.scope` every process gets all of them.

    Args:
        source: Images and labels.
        recipe: Recipe that says how much of an image in a size of its own to look at; by default all of its short
            side.

    Returns:
        A dataset with a length.
    """
    size = min(EVALUATION_BATCH, len(source))
    return make_dataset(source, size, shuffle=False, crop=_evaluation_crop(source, recipe), shard=(0, 1))


def validation_batches(source: Source, recipe: Recipe | None = None) -> Any:
    """Return batches to evaluate on after every epoch, which the devices of the enclosing scope share.

    All batches hold the same number of images, a multiple of the number of devices, so that some images may be left
    out: of the sizes up to 256 that leave out the fewest, the largest is taken.

    Args:
        source: Images and labels.
        recipe: As for `evaluation_batches`.

    Returns:
        A dataset for `fit`'s `validation_data`, with a length.

    Raises:
        ValueError: If there are fewer images than devices.
    """
    replicas = distribution.current().replicas
    sizes = range(replicas, max(EVALUATION_BATCH, replicas) + 1, replicas)
    size = max(sizes, key=lambda size: (len(source) // size * size, size))
    if size > len(source):
        raise ValueError(f"{replicas} devices take as many images to evaluate on. Received: {len(source)}")
    return make_dataset(source, size, shuffle=False, drop_remainder=True, crop=_evaluation_crop(source, recipe))


def _evaluation_crop(source: Source, recipe: Recipe | None) -> CenterCrop | None:
    if source.sized or recipe is None:
        return None
    return CenterCrop(**recipe.evaluation_crop(min(source.image_shape[:2])))
