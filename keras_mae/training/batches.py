"""A recipe fitted to the data, and the batches it trains and evaluates on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from keras_mae import _checks, distribution
from keras_mae.data import (
    Augmentation,
    CenterCrop,
    RandomCrop,
    RandomResizedCrop,
    SegmentationCrop,
    Stream,
    WholeImage,
    make_dataset,
)
from keras_mae.data.levels import EIGHT_BITS
from keras_mae.data.sources import Source, check_source
from keras_mae.recipes import (
    FineTuneRecipe,
    LinearProbeRecipe,
    PretrainRecipe,
    Recipe,
    SegmentationRecipe,
    check_recipe,
)
from keras_mae.recipes.base import ImageRecipe, changed
from keras_mae.recipes.sources import DATA

__all__ = ["evaluation_batches", "fit_recipe", "training_batches", "validation_batches", "without_crops"]

EVALUATION_BATCH = 256

_Recipe = TypeVar("_Recipe", bound=Recipe)


def fit_recipe(recipe: _Recipe, images: int, **changes: Any) -> _Recipe:
    """Return a recipe for training on labels, its batch no larger than the data and its warm-up within its epochs.

    Args:
        recipe: Recipe for fine-tuning, a linear probe or segmentation.
        images: Number of images to train on.
        changes: Fields with values of their own; `None` stands for the recipe's. A warm-up that is not among them
            keeps its share of the run where it would take more than half of other epochs.

    Raises:
        ValueError: If there is no such field, or a value is out of range.

    Example:
        >>> recipe = keras_mae.recipes.FineTuneRecipe.for_size("base", batch_size=1024)
        >>> fitted = keras_mae.training.fit_recipe(recipe, 300, epochs=5)
        >>> fitted.batch_size, fitted.epochs, fitted.warmup_epochs
        (300, 5, 0)
    """
    check_recipe(recipe, Recipe)
    _checks.positive_int("images", images)
    changes = {name: value for name, value in changes.items() if value is not None}
    batch_size = _checks.positive_int("batch_size", changes.get("batch_size", recipe.batch_size))
    origins = {name: text for name, text in recipe.origins.items() if name == "batch_size" and name not in changes}
    if batch_size > images:
        origins["batch_size"] = DATA
    return changed(recipe, {**changes, "batch_size": min(batch_size, images)}, origins)


def without_crops(recipe: PretrainRecipe) -> PretrainRecipe:
    """Return a recipe for pre-training with the crops, and their flips, that images of one size leave of it."""
    values: dict[str, Any] = {"crop_area": None, "flip": recipe.flip and recipe.shift > 0}
    taken = {name: DATA for name, value in values.items() if getattr(recipe, name) != value}
    return replace(recipe, **values, origins={**recipe.origins, **taken})


def training_batches(
    source: Source | Stream,
    recipe: Recipe,
    num_classes: int | None = None,
    *,
    crops_per_image: int = 1,
    loader: str | None = None,
    workers: int | None = None,
) -> Any:
    """Return batches to train on: shuffled, cropped and augmented as the recipe says, and all of one size.

    Args:
        source: Images, with labels to train a classifier, or with masks to train a segmenter.
        recipe: Recipe of the run. A batch holds its `step_batch_size` images, or all there are if those are fewer.
        num_classes: Number of classes; for fine-tuning and linear probes, whose augmentation needs it.
        crops_per_image: Crops of each image once it is decoded, where images come in sizes of their own.
        loader: "tf.data" or "grain", as for `data.make_dataset`, which says what is the default.
        workers: Parallel calls or processes that load, as there.

    Returns:
        A dataset for `fit`, with a length.

    Raises:
        ValueError: If `num_classes` is missing or goes with a recipe for pre-training, or the batches cannot be made.
    """
    check_recipe(recipe, Recipe)
    check_source(source)
    _checks.positive_int("crops_per_image", crops_per_image)
    classifies = isinstance(recipe, FineTuneRecipe | LinearProbeRecipe)
    if classifies != (num_classes is not None):
        rule = "given for" if classifies else "left out for"
        raise _checks.argument_error("num_classes", f"{rule} a {type(recipe).__name__}", num_classes)
    _check_masks(source, recipe)
    augmentation = dict(recipe.augmentation) if isinstance(recipe, FineTuneRecipe | LinearProbeRecipe) else {}
    augmentation["pixel_range"] = getattr(source, "levels", EIGHT_BITS).pixel_range
    crop: Any = None
    if isinstance(recipe, PretrainRecipe) and recipe.shift:
        crop = RandomCrop(recipe.shift, recipe.flip)
    elif isinstance(recipe, SegmentationRecipe):
        crop = SegmentationCrop(**recipe.crop)
    elif isinstance(recipe, ImageRecipe) and not source.sized:
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
        loader=loader,
        workers=workers,
    )


def evaluation_batches(
    source: Source, recipe: Recipe | None = None, *, loader: str | None = None, workers: int | None = None
) -> Any:
    """Return batches of all images in their order, as they are, for scores or features.

    Inside a `keras_mae.distribution.scope` every process gets all of them. Images with masks are whole: as large as
    fits into the size of the source's images, and filled up, in batches of the recipe's size.

    Args:
        source: Images and labels.
        recipe: Recipe that says how much of an image in a size of its own to look at; by default all of its short
            side.
        loader: As for `training_batches`.
        workers: As for `training_batches`.

    Returns:
        A dataset with a length.
    """
    check_source(source)
    size = min(_most_at_once(recipe), len(source))
    how: dict[str, Any] = {"crop": _evaluation_crop(source, recipe), "loader": loader, "workers": workers}
    return make_dataset(source, size, shuffle=False, shard=(0, 1), **how)


def validation_batches(
    source: Source, recipe: Recipe | None = None, *, loader: str | None = None, workers: int | None = None
) -> Any:
    """Return batches to evaluate on after every epoch, which the devices of the enclosing scope share.

    All batches hold the same number of images, a multiple of the number of devices, so that some images may be left
    out: of the sizes up to 256 that leave out the fewest, the largest is taken.

    Args:
        source: Images and labels.
        recipe: As for `evaluation_batches`.
        loader: As for `training_batches`.
        workers: As for `training_batches`.

    Returns:
        A dataset for `fit`'s `validation_data`, with a length.

    Raises:
        ValueError: If there are fewer images than devices.
    """
    check_source(source)
    size = distribution.current().whole_batch_size(len(source), _most_at_once(recipe))
    how: dict[str, Any] = {"crop": _evaluation_crop(source, recipe), "loader": loader, "workers": workers}
    return make_dataset(source, size, shuffle=False, drop_remainder=True, **how)


def _evaluation_crop(source: Source, recipe: Recipe | None) -> CenterCrop | WholeImage | None:
    if recipe is not None:
        check_recipe(recipe, Recipe)
        _check_masks(source, recipe)
    if source.sized:
        return None
    if getattr(source, "masks", None) is not None:
        return WholeImage()
    if not isinstance(recipe, ImageRecipe):
        return None
    return CenterCrop(**recipe.evaluation_crop(min(source.image_shape[:2])))


def _most_at_once(recipe: Recipe | None) -> int:
    """Return how many images are evaluated at once: of segmentation there are logits for each pixel of each."""
    return recipe.step_batch_size if isinstance(recipe, SegmentationRecipe) else EVALUATION_BATCH


def _check_masks(source: Source | Stream, recipe: Recipe) -> None:
    """Raise ValueError if the images have masks and the recipe is none for them, or the other way round."""
    has_masks = getattr(source, "masks", None) is not None
    if isinstance(recipe, SegmentationRecipe) and not has_masks:
        raise ValueError("A SegmentationRecipe takes images with masks. Received: a source without")
    if has_masks and not isinstance(recipe, SegmentationRecipe):
        raise ValueError(
            f"Images with masks take a SegmentationRecipe. Received: a {type(recipe).__name__} for such images"
        )
