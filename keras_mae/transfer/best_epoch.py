"""Which epoch of a training is its best, and when to stop waiting for a better one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_mae.optimizers import averaged_weights
from keras_mae.recipes import Recipe

__all__ = ["EpochChoice", "KeepBest", "checked_choice"]


@dataclass(frozen=True)
class EpochChoice:
    """How a recipe chooses among epochs: by the history alone, so that a run that is resumed chooses the same.

    Attributes:
        monitor: Name of the metric: the larger the better, or a loss.
        patience: Number of epochs without a new best one after which it is over; `None` for all epochs.
        best_epoch: Whether the training ends with the best epoch's weights.
    """

    monitor: str
    patience: int | None
    best_epoch: bool

    @classmethod
    def of(cls, recipe: Recipe) -> EpochChoice | None:
        """Return the choice that a recipe makes, `None` if it trains all epochs and keeps the last."""
        best, patience = getattr(recipe, "best_epoch", False), getattr(recipe, "patience", None)
        return cls(recipe.monitor, patience, best) if best or patience is not None else None  # type: ignore[attr-defined]

    def best(self, history: Mapping[str, Any]) -> int | None:
        """Return the best epoch, counted from 0: the first of equals, NaN being worse than any number.

        Args:
            history: Values of each metric by name, one for every epoch.

        Returns:
            Index of the epoch, or `None` where there are none yet.
        """
        values = np.asarray(history.get(self.monitor, ()), "float64")
        if not len(values):
            return None
        return int(np.argmax(np.nan_to_num(-values if self.monitor.endswith("loss") else values, nan=-np.inf)))

    def is_over(self, history: Mapping[str, Any]) -> bool:
        """Return whether the last `patience` epochs have brought no new best one."""
        best = self.best(history)
        if best is None or self.patience is None:
            return False
        return len(history[self.monitor]) - 1 - best >= self.patience


def checked_choice(recipe: Recipe, validation_data: Any, test: Any = None) -> EpochChoice | None:
    """Return the choice of epochs that a recipe makes, if there are images to make it by.

    Args:
        recipe: Recipe of the training.
        validation_data: What is evaluated after every epoch.
        test: What the training is scored on, if it is.

    Raises:
        ValueError: If nothing is evaluated, or what is scored on.
    """
    choice = EpochChoice.of(recipe)
    if choice is not None and (validation_data is None or validation_data is test):
        raise ValueError(
            "`best_epoch` and `patience` look at `validation_data`, images that are neither trained nor scored on: "
            "training.open_labeled(..., validation=0.1) holds some out. Received: "
            + ("none" if validation_data is None else "the test images")
        )
    return choice


class KeepBest(keras.callbacks.Callback):
    """Ends `fit` by a choice of epochs, with the best one's weights or, where averages are kept, its averages.

    They are kept in memory; a run that leaves a directory has them in its checkpoints.

    Args:
        choice: How epochs are chosen.
    """

    def __init__(self, choice: EpochChoice):
        super().__init__()
        self.choice = choice
        self._history: dict[str, list[float]] = {}
        self._weights: list[np.ndarray] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._history, self._weights = {self.choice.monitor: []}, None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        values = self._history[self.choice.monitor]
        values.append(float((logs or {}).get(self.choice.monitor, np.nan)))
        if self.choice.best_epoch and self.choice.best(self._history) == len(values) - 1:
            with averaged_weights(self.model):
                self._weights = self.model.get_weights()
        if self.choice.is_over(self._history):
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        if self._weights is not None:  # after `fit` has put averages in the weights' place
            self.model.set_weights(self._weights)
