"""Making a finished run longer: with schedule "wsd" runs of all lengths are the same up to their decay."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_mae import _files, distribution
from keras_mae.recipes import PretrainRecipe, Recipe
from keras_mae.training.checkpoints import Checkpoints
from keras_mae.training.directory import RunDirectory, RunFile
from keras_mae.training.metadata import DESPITE, MAY_CHANGE, RECIPE, check_same_run, differing, json_values
from keras_mae.training.stored import STATE, checksummed, name_of, whole_state

__all__ = ["KeepBeforeDecay", "extend"]

_LENGTH = ("epochs", "decay_epochs")
"""Fields of a recipe in which a longer run differs."""


class KeepBeforeDecay(keras.callbacks.Callback):
    """Keeps a checkpoint of where the decay of schedule "wsd" begins, beside the others; see `extend`.

    Args:
        checkpoints: The run's `Checkpoints`, before this one in the list of callbacks.
        directory: Directory of the run.
        recipe: Recipe of the run.
    """

    def __init__(self, checkpoints: Checkpoints, directory: RunDirectory, recipe: Recipe):
        super().__init__()
        self.checkpoints, self.directory = checkpoints, directory
        self.epoch: int | None = None
        if isinstance(recipe, PretrainRecipe) and recipe.schedule == "wsd":
            self.epoch = recipe.stable_epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Not at the end of the epoch before: that is over if a run is resumed from there.
        if epoch != self.epoch or self.checkpoints.position.batch or not epoch:
            return
        path = self.checkpoints.save()
        if distribution.current().is_main:
            _replace(self.directory.file(RunFile.BEFORE_DECAY), path)


def extend(directory: RunDirectory, metadata: Mapping[str, Any], *, allow_changed: bool = False) -> None:
    """Let a finished run of schedule "wsd" go on to more epochs, if that is what differs in its metadata.

    Its checkpoint from where the decay began becomes that of the longer run, as which it is then resumed: up to there
    the two are the same. The results of the shorter run stay until those of the longer one replace them.

    Args:
        directory: Directory of the run.
        metadata: JSON values that identify the longer run.
        allow_changed: Whether its data may have changed since; see `Saving`.

    Raises:
        ValueError: If the longer run's decay would begin before the shorter one's did, or its data have changed.
    """
    kept = directory.file(RunFile.BEFORE_DECAY)
    if not kept.is_dir() or directory.has_checkpoints or RunFile.RUN not in directory.files:
        return
    stored, wanted = directory.metadata, json_values(metadata)
    begun, longer = directory.recipe, Recipe.from_dict(wanted[RECIPE])
    if not isinstance(begun, PretrainRecipe) or not isinstance(longer, PretrainRecipe):
        return
    length = {name: value for name, value in begun.to_dict().items() if name in _LENGTH}
    as_long = {**wanted, RECIPE: {**longer.to_dict(), **length}}
    changed = dict(differing(as_long, stored))
    if not changed.keys() <= set(MAY_CHANGE):
        return  # another run, which is said elsewhere
    if (begun.epochs, begun.stable_epochs) == (longer.epochs, longer.stable_epochs):
        return
    if longer.epochs <= begun.epochs or longer.stable_epochs < begun.stable_epochs:
        raise ValueError(
            f"A run can be made longer from where its decay began: that in {str(directory.path)!r} has "
            f"{begun.epochs} epochs and a decay after {begun.stable_epochs}. "
            f"Received: epochs={longer.epochs}, with a decay after {longer.stable_epochs}"
        )
    check_same_run(directory.path, as_long, stored, allow_changed=allow_changed)
    try:
        step = whole_state(kept)["position"]["step"]
    except (OSError, ValueError) as error:
        raise ValueError(f"The run cannot be made longer: {str(kept)!r} is not whole: {error}") from error
    # With what it was given until then: where it is resumed from here, that is compared again, and recorded.
    given = {name: stored[name] for name in (*changed, DESPITE) if name in stored}
    _replace(directory.file(RunFile.CHECKPOINTS) / name_of(step), kept, metadata={**wanted, **given})


def _replace(path: Path, checkpoint: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Copy a checkpoint to another place, with other metadata if there are any."""
    shutil.rmtree(path, ignore_errors=True)
    with _files.whole(path) as unfinished:
        shutil.copytree(checkpoint, unfinished)
        if metadata is not None:
            state = {**_files.read_json(unfinished / STATE), "metadata": dict(metadata)}
            (unfinished / STATE).write_text(checksummed(state))
