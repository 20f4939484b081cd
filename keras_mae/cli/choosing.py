"""Which recipe a command trains by: the one that fits the data, with what the command line changes."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from keras_mae.recipes import Recipe

__all__ = ["changed_recipe", "default_size", "resumed_recipe", "sized_recipe"]

SMALL_IMAGES = "small_images"
_Kind = TypeVar("_Kind", bound="Recipe")


def default_size(data: str, otherwise: str) -> str:
    """Return the recipe that fits the data: "small_images" for the built-in sets, and `otherwise` for a folder."""
    from keras_mae.data import BUILTIN

    return SMALL_IMAGES if data in BUILTIN else otherwise


def sized_recipe(kind: type[_Kind], size: str, images: int | None) -> _Kind:
    """Return the recipe of a size: those of our own go by how many images there are, if that is given."""
    from keras_mae.recipes.base import changed
    from keras_mae.recipes.sources import PUBLISHED

    make: Any = kind
    recipe: _Kind = make.for_size(size, images=images if size == SMALL_IMAGES else None)
    if recipe.source in PUBLISHED or images is None or images >= recipe.batch_size:
        return recipe
    return changed(recipe, {"batch_size": images})  # its learning rate goes with the batches that there will be


def changed_recipe(recipe: _Kind, given: dict[str, Any]) -> _Kind:
    """Return the recipe with the options that were given; those not given are `None`.

    A warm-up that was not given keeps its share of the epochs.
    """
    from keras_mae import _checks
    from keras_mae.recipes.base import changed, warmup_share

    # A field of the crops is there only if an option says it: to take none is a choice.
    given = {name: _plain(value) for name, value in given.items() if value is not None or name == "crop_area"}
    if "epochs" in given:
        epochs = _checks.positive_int("epochs", given["epochs"])
        given.setdefault("warmup_epochs", warmup_share(recipe, epochs))
    return changed(recipe, given)


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
