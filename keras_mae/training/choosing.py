"""A run that ends with its best epoch, or stops where no better one is to be expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras

from keras_mae import distribution
from keras_mae.training.checkpoints import Checkpoints
from keras_mae.training.directory import RunDirectory
from keras_mae.training.metadata import TIES
from keras_mae.transfer.best_epoch import EpochChoice

__all__ = ["ChooseEpoch", "as_begun", "chosen_epoch"]


class ChooseEpoch(keras.callbacks.Callback):
    """Saves a run at the end of every epoch that is the best so far, and stops it where its choice says so.

    Args:
        choice: How epochs are chosen.
        checkpoints: The run's `Checkpoints`, before this one in the list of callbacks.
    """

    def __init__(self, choice: EpochChoice, checkpoints: Checkpoints):
        super().__init__()
        self._choice, self.checkpoints = choice, checkpoints
        checkpoints.metadata[TIES] = choice.ties
        if choice.best_epoch:
            checkpoints.best = lambda history: self.choice.best(history)

    @property
    def choice(self) -> EpochChoice:
        """How epochs are chosen: as the run began, which an earlier version may have done."""
        return as_begun(self._choice, self.checkpoints.metadata)

    @property
    def is_over(self) -> bool:
        """Whether the run is over, however many epochs are left."""
        return self.choice.is_over(self.checkpoints.position.history)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        position = self.checkpoints.position
        improved = self.choice.best_epoch and self.choice.best(position.history) == position.epoch - 1
        # One process decides for all: their metrics may differ in the last bit.
        improved, over = (bool(distribution.gather(one)[0]) for one in (improved, self.is_over))
        if improved:
            self.checkpoints.save()
        if over:
            self.model.stop_training = True

    def said(self, best: int) -> str:
        """Return the line that says which epoch the run ends with."""
        history, choice = self.checkpoints.position.history, self.choice
        values = history[choice.monitor]
        said = f"the best of {len(values)} epochs is {best + 1}: {choice.monitor} {values[best]:.4g}"
        if choice.ties in history and values.count(values[best]) > 1:
            said += f", as others have, and the lowest {choice.ties} of these, {history[choice.ties][best]:.4g}"
        return said


def as_begun(choice: EpochChoice, metadata: Mapping[str, Any]) -> EpochChoice:
    """Return a choice as it is made in a run with these metadata."""
    return replace(choice, ties=metadata.get(TIES))


def chosen_epoch(choice: EpochChoice | None, directory: RunDirectory) -> dict[str, int]:
    """Return the epoch whose weights a run ends with, counted from 1, by its name in the scores; nothing if it is the
    last."""
    if choice is None or not choice.best_epoch:
        return {}
    return {"epoch": (as_begun(choice, directory.metadata).best(directory.history) or 0) + 1}
