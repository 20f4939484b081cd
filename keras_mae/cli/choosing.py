"""Which recipe a command trains by: the one that fits the data, with what the command line changes."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from keras_mae.recipes import Recipe

__all__ = [
    "changed_recipe",
    "check_crops",
    "chosen_recipe",
    "default_for",
    "default_size",
    "fitted_recipe",
    "resumed_recipe",
    "sized_recipe",
    "untuned_recipe",
]

SMALL_IMAGES = "small_images"
MOST_IN_FOLDERS = 6_000
"""Number of images that fine-tuning on a larger folder chooses batch and length for: 20 epochs in batches of 64."""
_Kind = TypeVar("_Kind", bound="Recipe")


def default_size(data: str, otherwise: str) -> str:
    """Return the recipe that fits the data: "small_images" for the built-in sets, and `otherwise` for a folder."""
    from keras_mae.data import BUILTIN

    return SMALL_IMAGES if data in BUILTIN else otherwise


def sized_recipe(kind: type[_Kind], size: str, images: int | None, **options: Any) -> _Kind:
    """Return the recipe of a size: those of our own go by how many images there are, if that is given.

    Args:
        kind: Kind of recipe.
        size: Size of the ViT, or what else its `for_size` knows.
        images: Number of images to train on.
        options: Other arguments of `for_size`.
    """
    from keras_mae.recipes.base import changed
    from keras_mae.recipes.sources import DATA, PUBLISHED

    make: Any = kind
    recipe: _Kind = make.for_size(size, images=images if size == SMALL_IMAGES else None, **options)
    if recipe.source in PUBLISHED or images is None or images >= recipe.batch_size:
        return recipe
    # Its learning rate goes with the batches that there will be.
    return changed(recipe, {"batch_size": images}, {"batch_size": DATA})


def fitted_recipe(recipe: _Kind, data: str, **values: Any) -> _Kind:
    """Return the recipe with other values for these data, which do not count as changed."""
    kind = default_for(data)
    return replace(recipe, **values, origins={**recipe.origins, **dict.fromkeys(values, kind)})


def untuned_recipe(recipe: _Kind, data: str) -> _Kind:
    """Return the recipe as what it is for these data: for folders, whose images may be anything, it was not tuned.

    Nor is its rate for fine-tuning lower there for few images, as it is for those that it was tuned on.
    """
    from keras_mae.data import BUILTIN
    from keras_mae.recipes.own import untuned_base_rate
    from keras_mae.recipes.sources import OWN, UNTUNED

    if data in BUILTIN or recipe.source != OWN:
        return recipe
    rate = untuned_base_rate(recipe.kind, recipe.batch_size) if recipe.kind == "fine_tune" else None
    return replace(recipe, source=UNTUNED, base_learning_rate=rate or recipe.base_learning_rate)


def default_for(data: str) -> str:
    """Return the origin of a value that goes by the data: "default for digits", "default for folders"."""
    from keras_mae.data import BUILTIN

    return f"default for {data if data in BUILTIN else 'folders'}"


def changed_recipe(recipe: _Kind, given: dict[str, Any], filed: dict[str, Any] | None = None) -> _Kind:
    """Return the recipe with the options that were given; those not given are `None`.

    A warm-up that was not given keeps its share of the epochs.

    Args:
        recipe: Recipe to change.
        given: Options of the command line.
        filed: Fields of the recipe that a file says, and the command line does not.
    """
    from keras_mae import _checks
    from keras_mae.recipes.base import changed, warmup_share
    from keras_mae.recipes.sources import COMMAND_LINE, FOLLOWS, RECIPE_FILE

    given, filed = _said(given), filed or {}
    values = {**filed, **given}
    origins = dict.fromkeys(given, COMMAND_LINE) | {
        name: RECIPE_FILE for name in filed.keys() - given.keys() if getattr(recipe, name, None) != filed[name]
    }
    if "epochs" in values and "warmup_epochs" not in values:
        epochs = _checks.positive_int("epochs", values["epochs"])
        values["warmup_epochs"] = warmup_share(recipe, epochs)
        origins["warmup_epochs"] = f"follows {FOLLOWS['warmup_epochs'][0]}"
    return changed(recipe, values, origins)


def chosen_recipe(
    recipe: _Kind, begun: Recipe | None, given: dict[str, Any], size: str | None, filed: dict[str, Any] | None = None
) -> _Kind:
    """Return the recipe of a run: that which fits the data, with what a file changes, and then the command line.

    Args:
        recipe: Recipe that fits the data.
        begun: Recipe by which the run began, if it is resumed.
        given: Options of the command line; those not given are `None`.
        size: Option that chose the recipe, if it was given.
        filed: Fields of the recipe that a file says.
    """
    by_file = changed_recipe(recipe, {}, filed)
    fresh = changed_recipe(by_file, given)
    # What an option changes beside its own field, such as the warm-up, the file does not say any more.
    filed = {name: value for name, value in (filed or {}).items() if getattr(fresh, name) == getattr(by_file, name)}
    resumed = resumed_recipe(recipe, begun, {**filed, **_said(given)}, size)
    return fresh if resumed is recipe else changed_recipe(resumed, given, filed)


def _said(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    # A field of the crops is there only if an option says it: to take none is a choice.
    return {name: _plain(value) for name, value in given.items() if value is not None or name == "crop_area"}


def _plain(value: Any) -> Any:
    """Return a choice by its name, and everything else as it is."""
    return value.value if isinstance(value, Enum) else value


def resumed_recipe(recipe: _Kind, begun: Recipe | None, given: dict[str, Any], size: str | None) -> _Kind:
    """Return the recipe that options change: of a run that is resumed, the one by which it began.

    Recipes of our own may have had other numbers then; the published ones have not. Options that were given then and
    are not given now have the recipe's values again, so that a forgotten one is seen to make another run.

    Args:
        recipe: Recipe that fits the data.
        begun: Recipe by which the run began, if it did.
        given: Options that are given now; the others are `None`.
        size: Option that chose the recipe, if it was given.
    """
    from keras_mae.recipes.sources import PUBLISHED

    if begun is None or type(begun) is not type(recipe):
        return recipe
    # `pretrain` had no sizes at first, and named the repository whatever the numbers.
    before_sizes = size is None and begun.kind == "pretrain"
    if recipe.source in PUBLISHED or (begun.source in PUBLISHED and not before_sizes):
        return recipe
    now = {name for name, value in given.items() if value is not None or name == "crop_area"}
    if "epochs" in now:
        now.add("warmup_epochs")
    forgotten = {name: getattr(recipe, name) for name in begun.changed if name not in now}
    return replace(
        begun, **forgotten, changed=tuple(name for name in begun.changed if name in now | {*recipe.changed})
    )


def check_crops(crop_area: float | None, sized: bool) -> None:
    """Raise ValueError if --crop-area asks for crops of images that all have one size, and are taken whole."""
    if sized and crop_area not in (None, 1):
        raise ValueError(
            "`crop_area` cuts crops out of images in sizes of their own, and these all have one: --shift moves them. "
            f"Received: --crop-area {crop_area}"
        )
