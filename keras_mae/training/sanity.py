"""What is suspicious of a run: said once, with what to change, and kept in its `run.json`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_mae import distribution
from keras_mae.recipes import Recipe

__all__ = ["RisingLoss", "doubts", "rising", "say"]

_FEW_UPDATES = 200
_LEFT_OUT = 0.1  # of an epoch's images
_RISEN = 1.1  # times the lowest loss
_RISING_EPOCHS = 5


def doubts(recipe: Recipe, steps: int, dataset: Any) -> list[str]:
    """Return what is suspicious of a run before it begins, each with what to change.

    Args:
        recipe: Recipe of the run.
        steps: Batches in an epoch.
        dataset: Dataset of the run. Those of `keras_mae.data` say how many images they hold, and how many of them a
            batch has.
    """
    found = []
    accumulated = recipe.gradient_accumulation_steps
    updates = steps * recipe.epochs // accumulated
    if updates < _FEW_UPDATES:
        times = "once" if updates == 1 else f"{updates} times"
        found.append(
            f"The run updates the weights only {times}, in which a model learns little: more epochs "
            f"(--epochs), or smaller batches (--batch-size), make more. Received: epochs={recipe.epochs}, "
            f"batch_size={recipe.batch_size}"
        )
    if 2 * recipe.warmup_epochs > recipe.epochs:
        found.append(
            f"The learning rate rises during {recipe.warmup_epochs} of the {recipe.epochs} epochs, and falls in what "
            f"is left: fewer warmup_epochs, such as {recipe.epochs // 10}, or more epochs, are usual"
        )
    batch, images = getattr(dataset, "batch_size", None), getattr(dataset, "num_images", None)
    if not isinstance(batch, int):
        return found
    if batch < recipe.step_batch_size:
        found.append(
            f"Batches hold {batch:,} images, and not the recipe's {recipe.step_batch_size:,}, for which the learning "
            f"rate, {recipe.learning_rate:.3g}, is meant: batch_size={batch * accumulated} (--batch-size "
            f"{batch * accumulated}) scales it to them"
        )
    if isinstance(images, int) and (left_out := images - steps * batch) > _LEFT_OUT * images:
        fitting = _fitting(images, batch)
        found.append(
            f"Each epoch leaves out {left_out:,} of {images:,} images, which fill no whole batch of {batch:,}: "
            f"batch_size={fitting * accumulated} (--batch-size {fitting * accumulated}) leaves out "
            f"{images % fitting or 'none'}"
        )
    return found


def _fitting(images: int, batch: int) -> int:
    """Return the size of a batch of which one more than now make an epoch, for the devices to share."""
    replicas = distribution.current().replicas
    size = images // (images // batch + 1)
    return max(size // replicas * replicas, replicas)


def say(text: str) -> None:
    """Warn of what is suspicious, once for all processes."""
    if distribution.current().is_main:
        warnings.warn(text, stacklevel=2)


class RisingLoss(keras.callbacks.Callback):
    """Warns once of a loss that has risen for long: the learning rate is then likely too high.

    Args:
        history: Losses of the epochs before, by the name "loss"; those of this run are added by others.
        warned: Function that is called with the warning.
    """

    def __init__(self, history: dict[str, list[float]], warned: Callable[[str], None]):
        super().__init__()
        self.losses, self.warned = list(history.get("loss", [])), warned
        self._said = bool(rising(self.losses))  # before the run was resumed

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.losses.append(float((logs or {}).get("loss", np.nan)))
        if not self._said and (text := rising(self.losses)):
            self._said = True
            say(text)
            self.warned(text)


def rising(losses: list[float]) -> str:
    """Return what is suspicious of the losses of a run's epochs, "" if nothing is."""
    finite = np.nan_to_num(np.asarray(losses), nan=np.inf)
    lowest = int(np.argmin(finite)) if len(losses) else 0
    recent = finite[lowest + 1 :]
    if len(recent) < _RISING_EPOCHS or not np.isfinite(finite[lowest]):
        return ""
    least = _RISEN * finite[lowest] if finite[lowest] > 0 else finite[lowest]
    if recent[-_RISING_EPOCHS:].min() <= least:
        return ""
    return (
        f"The loss has risen: it was {finite[lowest]:.4g} after epoch {lowest + 1}, and has been above for "
        f"{len(recent)} epochs, {finite[-1]:.4g} now. A lower base_learning_rate (--base-learning-rate), or a longer "
        "warm-up, helps where it is too high"
    )
