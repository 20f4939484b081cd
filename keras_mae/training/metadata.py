"""Metadata: the JSON values, a recipe among them, that identify a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import keras

from keras_mae import _checks, _class_names
from keras_mae.data.fingerprints import differences, were_copied
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, Recipe
from keras_mae.recipes.base import completed

__all__ = [
    "DESPITE",
    "FINGERPRINT",
    "MAY_CHANGE",
    "NOTES",
    "RECIPE",
    "TIES",
    "WARNINGS",
    "check_same_run",
    "differing",
    "from_flat",
    "json_values",
    "merged",
    "of_training",
]

RECIPE = "recipe"
"""Name under which the metadata of a run hold its recipe, as `Recipe.to_dict` returns it."""

FINGERPRINT = "fingerprint"
"""Name under which they hold what tells its data and model from others; see `keras_mae.training.fingerprints`."""
DESPITE = "resumed_despite"
"""Name under which they hold the differences in spite of which the run was resumed."""
WARNINGS = "warnings"
"""Name under which they hold what was suspicious of the run."""
TIES = "equal_epochs_by"
"""Name under which they hold the loss by which one of equally good epochs is the best; none in earlier runs."""
NOTES = (DESPITE, TIES, WARNINGS)
"""Names of what is recorded of a run and does not tell it from others."""

_RECORDED_LATER = ("cache_features", "class_names", "recipe_size", FINGERPRINT)
"""Names of values that runs did not record at first: a run without one is taken to have had the same."""
MAY_CHANGE = (FINGERPRINT, "data", "test", "images", "num_labels", "balanced", "model", "teacher", "teacher_weights")
"""Names of values with others of which a run may go on if it is asked to: what it is given, not how it trains."""


def of_training(model: Any, recipe: Recipe, steps: int) -> dict[str, Any]:
    """Return the metadata that every training has, of a model and its recipe."""
    return {
        "recipe": recipe.to_dict(),
        "learning_rate": recipe.learning_rate,
        "step_batch_size": recipe.step_batch_size,
        "steps_per_epoch": steps,
        "image_shape": model.encoder.image_shape,
        "patch_size": model.encoder.patch_size,
        "dtype": model.encoder.dtype_policy.name,
        "backend": keras.backend.backend(),
        "parameters": model.count_params(),
    }


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


def check_same_run(
    directory: Path,
    metadata: Mapping[str, Any],
    stored: Mapping[str, Any],
    *,
    allow_changed: bool = False,
    changed_files: Callable[[], list[str]] = list,
) -> list[str]:
    """Check that metadata are those that were stored with a run.

    Args:
        directory: Directory of the run.
        metadata: Metadata to compare.
        stored: Those of the run.
        allow_changed: Whether what the run is given, its data for example, may be something else.
        changed_files: Function that returns in words which files of the data are others.

    Returns:
        The differences that are allowed, in words.

    Raises:
        ValueError: If one of `metadata` differs, and is not allowed to.
    """
    found = dict(differing(metadata, stored))
    _warn_of_copies(metadata, stored)
    last = {name: found[name] for name in sorted(found, key=lambda name: name == FINGERPRINT)}
    words = [text for texts in last.values() for text in texts]
    if any(text.startswith(("data: ", "data.")) for text in words):
        words += changed_files()
    may_change = all(name in MAY_CHANGE for name in found)
    if not found or (allow_changed and may_change):
        return words
    way_on = (
        ". To go on with what there is now, allow it: --resume --allow-changed, or "
        "Saving(resume=True, allow_changed=True)"
    )
    raise ValueError(
        f"The run in {str(directory)!r} is another one. Received: {', '.join(words)}{way_on * may_change}"
    )


def _warn_of_copies(metadata: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Say that data with other times are taken to be copies: nothing but those that were looked into is known."""
    now, then = (dict(one.get(FINGERPRINT) or {}) for one in (metadata, stored))
    for part in ("data", "test"):
        if were_copied(now.get(part), then.get(part)):
            warnings.warn(
                f"The files of the run's {part} have other times than when it began, and what was looked into is the "
                "same: they are taken to be copies",
                stacklevel=3,
            )


def differing(metadata: Mapping[str, Any], stored: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of metadata that differ from those of a run, and in what they do, in words."""
    for name, value in metadata.items():
        if (name in _RECORDED_LATER and name not in stored) or name in NOTES:
            continue
        other = stored.get(name)
        if name == RECIPE and isinstance(value, dict) and isinstance(other, dict):
            # Where the numbers come from is no number: the same ones are the same run.
            # And earlier recipes had no name for the masking, whose class is recorded beside them.
            passed_over = {"source", "changed", "origins"} | ({"masking"} - other.keys())
            numbers = {field: number for field, number in value.items() if field not in passed_over}
            words = [text for _, texts in differing(numbers, completed(other)) for text in texts]
        elif name == "class_names" and isinstance(value, list) and isinstance(other, list) and value != other:
            words = [_differing_classes(value, other)]
        elif name == FINGERPRINT and isinstance(value, dict) and isinstance(other, dict):
            words = [text for part in value if part in other for text in differences(value[part], other[part], part)]
        else:
            words = [f"{name}={value} and not {other}"] if value != other else []
        if words:
            yield name, words


def _differing_classes(names: list[str], others: list[str]) -> str:
    """Return in words how the classes of the data differ from those of a run."""
    parts = {
        "new": [name for name in names if name not in others],
        "missing": [name for name in others if name not in names],
    }
    said = "; ".join(f"{kind}: {_class_names.listed(found)}" for kind, found in parts.items() if found)
    return f"other classes ({said or 'the same in another order'})"


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
    kind = _PROTOCOLS.get(str(values.get("protocol")), PretrainRecipe)
    # Fields that recipes have had since then are names that callers may have given to values of their own.
    names = [field.name for field in fields(kind) if field.name not in {**Recipe._added, **kind._added}]
    recipe = {name: values.pop(name) for name in names if name in values}
    return {**values, RECIPE: {"kind": kind.kind, **recipe}} if recipe else values
