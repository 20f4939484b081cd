"""Metadata: the JSON values, a recipe among them, that identify a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from keras_mae import _checks
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, Recipe
from keras_mae.recipes.base import completed

__all__ = ["RECIPE", "check_same_run", "from_flat", "json_values", "merged"]

RECIPE = "recipe"
"""Name under which the metadata of a run hold its recipe, as `Recipe.to_dict` returns it."""

_RECORDED_LATER = ("class_names", "recipe_size")
"""Names of values that runs did not record at first: a run without one is taken to have had the same."""


def json_values(metadata: Any) -> dict[str, Any]:
    """Return `metadata` as a JSON file gives them back: tuples become lists.

    Raises:
        ValueError: If they are not JSON values by name.
    """
    if not isinstance(metadata, Mapping) or not all(isinstance(name, str) for name in metadata):
        raise _checks.argument_error("metadata", "JSON values by name", metadata)
    return {name: _json_value(f"metadata[{name!r}]", value) for name, value in metadata.items()}


def _json_value(argument: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        raise _checks.argument_error(argument, "a JSON value", value) from None


def merged(own: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a protocol knows of its run together with what its caller adds.

    Raises:
        ValueError: If the caller's metadata are not JSON values by name, or repeat a name of the protocol's own.
    """
    added = json_values({} if metadata is None else metadata)
    if repeated := sorted(own.keys() & added.keys()):
        raise ValueError(
            f"`metadata` must not repeat what the run records itself: {', '.join(own)}. "
            f"Received: {', '.join(repeated)}"
        )
    return json_values(own) | added


def check_same_run(directory: Path, metadata: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise ValueError if one of `metadata` differs from what was `stored` with the run in `directory`."""
    if differences := ", ".join(_differences(metadata, stored)):
        raise ValueError(f"The run in {str(directory)!r} is another one. Received: {differences}")


def _differences(metadata: Mapping[str, Any], stored: Mapping[str, Any]) -> Iterator[str]:
    for name, value in metadata.items():
        if name in _RECORDED_LATER and name not in stored:
            continue
        other = stored.get(name)
        if name == RECIPE and isinstance(value, dict) and isinstance(other, dict):
            # Where the numbers come from is no number: the same ones are the same run.
            numbers = {field: number for field, number in value.items() if field not in ("source", "changed")}
            yield from _differences(numbers, completed(other))
        elif value != other:
            yield f"{name}={value} and not {other}"


# === Runs from before run.json ===
_RENAMED = {"accumulation_steps": "gradient_accumulation_steps", "blocks": "trainable_blocks", "labels": "num_labels"}
_PROTOCOLS: dict[Any, type[Recipe]] = {"fine-tuning": FineTuneRecipe, "linear probe": LinearProbeRecipe}


def from_flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return in today's form the metadata of a run from before `run.json`.

    Such a run kept the fields of its recipe beside the other values, some by names that have changed since.

    Args:
        facts: Content of `recipe.json`, or `facts` in a checkpoint's state.
    """
    # Under the old names, too: a caller may have chosen one, and gives it again.
    values = {**facts, **{new: facts[old] for old, new in _RENAMED.items() if old in facts}}
    kind = _PROTOCOLS.get(values.get("protocol"), PretrainRecipe)
    recipe = {field.name: values.pop(field.name) for field in fields(kind) if field.name in values}
    return {RECIPE: {"kind": kind.kind, **recipe}, **values} if recipe else values
