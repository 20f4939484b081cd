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
    """How a recipe chooses among epochs: by the history alone, so that a resumed run makes the same choice.

    Attributes:
        monitor: Name of the metric: the larger the better, unless it ends in "loss".
        patience: Number of epochs in a row without a new best one after which training stops; `None` for all epochs.
        best_epoch: Whether the training ends with the best epoch's weights.
        ties: Name of the loss that decides between equally good epochs; `None` for the first of them.
    """

    monitor: str
    patience: int | None
    best_epoch: bool
    ties: str | None = "val_loss"

    @classmethod
    def of(cls, recipe: Recipe) -> EpochChoice | None:
        """Return the choice that a recipe makes, or `None` if it trains all epochs and keeps the last."""
        best, patience = getattr(recipe, "best_epoch", False), getattr(recipe, "patience", None)
        return cls(recipe.monitor, patience, best) if best or patience is not None else None  # type: ignore[attr-defined]

    def best(self, history: Mapping[str, Any]) -> int | None:
        """Return the best epoch, counted from 0; NaN is worse than any number.

        Among epochs that are equal by the monitor it is the one with the lowest loss, if the history has that loss,
        and among these the first: on few images only few accuracies are possible, and a loss still tells them apart.

        Args:
            history: Values of each metric by name, one for every epoch.

        Returns:
            Index of the epoch, or `None` if there are none yet.
        """
        values = _larger_is_better(self.monitor, history)
        if not len(values):
            return None
        equals = np.flatnonzero(values == values.max())
        losses = _larger_is_better(self.ties or "", history)
        if len(losses) == len(values):
            equals = equals[losses[equals] == losses[equals].max()]
        return int(equals[0])

    def is_over(self, history: Mapping[str, Any]) -> bool:
        """Return whether the last `patience` epochs have brought no new best one."""
        best = self.best(history)
        if best is None or self.patience is None:
            return False
        return len(history[self.monitor]) - 1 - best >= self.patience


def _larger_is_better(name: str, history: Mapping[str, Any]) -> np.ndarray:
    """Return the values of a metric, with the sign changed for a loss; empty if there is no such metric."""
    values = np.asarray(history.get(name, ()), "float64")
    return np.asarray(np.nan_to_num(-values if name.endswith("loss") else values, nan=-np.inf))


def checked_choice(recipe: Recipe, validation_data: Any, test: Any = None) -> EpochChoice | None:
    """Return the choice of epochs that a recipe makes, if there are images to make it by.

    Args:
        recipe: Recipe of the training.
        validation_data: What is evaluated after every epoch.
        test: What the training is scored on, if anything.

    Returns:
        The choice, or `None` if the recipe trains all epochs and keeps the last.

    Raises:
        ValueError: If there is a choice to make, and `validation_data` is `None`, or the same as `test`.
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
    """Ends `fit` by a choice of epochs, with the best epoch's weights or, where averages are kept, its averages.

    These weights are kept in memory; a run that leaves a directory has them in its checkpoints instead.

    Args:
        choice: How epochs are chosen.
    """

    def __init__(self, choice: EpochChoice):
        super().__init__()
        self.choice = choice
        self._history: dict[str, list[float]] = {}
        self._weights: list[np.ndarray] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        names = {self.choice.monitor, self.choice.ties or self.choice.monitor}
        self._history, self._weights = {name: [] for name in names}, None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for name, values in self._history.items():
            values.append(float((logs or {}).get(name, np.nan)))
        done = len(self._history[self.choice.monitor])
        if self.choice.best_epoch and self.choice.best(self._history) == done - 1:
            with averaged_weights(self.model):
                self._weights = self.model.get_weights()
        if self.choice.is_over(self._history):
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        if self._weights is not None:  # after `fit` has put averages in place of the weights
            self.model.set_weights(self._weights)
