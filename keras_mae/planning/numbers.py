"""The numbers of a planned run, each with the reason for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from keras_mae import distribution
from keras_mae.planning.candidates import SMALL
from keras_mae.planning.measuring import Measured
from keras_mae.recipes import PretrainRecipe
from keras_mae.recipes.base import changed, warmup_share
from keras_mae.training.busy import is_accelerated
from keras_mae.training.durations import duration

__all__ = [
    "ASKED",
    "Batch",
    "chosen_batch",
    "chosen_epochs",
    "few_updates",
    "fits",
    "least_epochs",
    "planned",
    "rate_reason",
    "recipe_of",
]

ASKED = "as asked for"
_LEAST_EPOCHS, _LEAST_UPDATES, _MOST_EPOCHS = 40, 5000, 800
"""Fewest epochs and fewest updates of a run on photos that is worth beginning, and most epochs: the paper's."""
_FEW_UPDATES = 1000
"""Updates below which there is a warning: the shortest tuned run, that on the digits, has 1,760."""
_SHARE = 0.95
"""Share of the available time that a plan uses."""
_LEFT_OUT = 0.1
"""Batches are made smaller if more than this share of the images would fill none."""
_USUAL_BATCH, _LARGEST_BATCH = 32, 256
_UPDATES = 10
"""Fewest updates of an epoch when batches are made larger for an accelerator."""


@dataclass(frozen=True)
class Batch:
    """The images behind an update, and why so many."""

    size: int
    reason: str

    @property
    def halved(self) -> Batch | None:
        """Half the batch, for a model that does not fit into memory; `None` if it was asked for or is small."""
        replicas = distribution.current().replicas
        size = self.size // 2 // replicas * replicas
        if self.reason == ASKED or self.size < _USUAL_BATCH or not size:
            return None
        return replace(self, size=size, reason="as many as fit into memory")


def chosen_batch(images: int, size: str, asked: int | None) -> Batch:
    """Return the batch for a number of images.

    Args:
        images: Number of images.
        size: Size of the recipe, "small_images" or "photos".
        asked: Images behind each update, if they were asked for.
    """
    if asked is not None:
        return Batch(asked, ASKED)
    if size == "small_images":
        return Batch(recipe_of(size, images).batch_size, f"of the recipe for {images:,} small images")
    batch, reason = _USUAL_BATCH, "of the recipe for photos: small batches make many updates"
    if is_accelerated():
        while 2 * batch <= min(_LARGEST_BATCH, images // _UPDATES):
            batch, reason = 2 * batch, f"large, for an accelerator, with {_UPDATES} updates or more an epoch"
    replicas = distribution.current().replicas
    if batch > images:
        batch, reason = images, "all images there are"
    elif images % batch > _LEFT_OUT * images:
        batch, reason = images // math.ceil(images / batch), "fewer images fill no batch than with more"
    return Batch(max(batch // replicas * replicas, replicas), reason)


def recipe_of(size: str, images: int) -> PretrainRecipe:
    """Return the recipe of this size that `keras-mae pretrain` uses for this number of images."""
    return PretrainRecipe.for_size(size, images=images if size == "small_images" else None)


def least_epochs(recipe: PretrainRecipe, size: str, steps: int) -> int:
    """Return the fewest epochs, of `steps` batches each, that make a run worth beginning."""
    if size == "small_images":
        return recipe.epochs
    return min(max(_LEAST_EPOCHS, math.ceil(_LEAST_UPDATES / steps)), _MOST_EPOCHS)


def fits(measured: Measured, epochs: int, seconds: float) -> bool:
    """Return whether a run of this many epochs fits into the time."""
    return measured.seconds(epochs) <= _SHARE * seconds


def chosen_epochs(measured: Measured, least: int, size: str, seconds: float) -> tuple[int, str]:
    """Return the number of epochs for a time, and the reason for it.

    Args:
        measured: What the model took.
        least: Fewest epochs that are worth beginning.
        size: Size of the recipe, "small_images" or "photos".
        seconds: Seconds that the run may take.
    """
    affordable = int((_SHARE * seconds - measured.seconds(0)) / measured.epoch_seconds)
    time = duration(seconds)
    if affordable < least:
        needed = f"{least} are advised, which take {duration(measured.seconds(least))}"
        return max(
            affordable, 1
        ), f"{'as many as fit' if affordable else 'even one does not fit'} into {time}; {needed}"
    if size == "small_images":
        return least, f"of the recipe for images of up to {SMALL} pixels"
    if affordable >= _MOST_EPOCHS:
        return _MOST_EPOCHS, "the paper's, for which there is time"
    digits = max(10 ** (len(str(affordable)) - 2), 1)
    return max(affordable // digits * digits, least), f"as many as fit into {time}; {least} would do"


def planned(recipe: PretrainRecipe, batch: int, epochs: int) -> PretrainRecipe:
    """Return a recipe with another batch and length, as `keras-mae pretrain` makes it from a file that holds both."""
    values = {"batch_size": batch, "epochs": epochs, "warmup_epochs": warmup_share(recipe, epochs)}
    return changed(recipe, values)


def few_updates(recipe: PretrainRecipe, steps: int) -> str:
    """Return a warning about a run that updates the weights only a few times, "" for any other.

    Args:
        recipe: Recipe of the run.
        steps: Batches in an epoch.
    """
    updates = steps * recipe.epochs // recipe.gradient_accumulation_steps
    if updates >= _FEW_UPDATES:
        return ""
    return (
        f"the run updates the weights only {updates:,} times, in which a model learns little: more epochs (--hours, "
        "or --epochs), or more images, make more"
    )


def rate_reason(recipe: PretrainRecipe, size: str) -> str:
    """Return why a recipe has its learning rate."""
    if size == "small_images":
        return f"{recipe.learning_rate:.3g} at this batch; of the recipe for so many small images"
    return f"{recipe.learning_rate:.3g} at this batch; the default for folders, not tuned"
