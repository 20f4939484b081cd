"""What recipes' fields for options mean, and which of them may go together."""

from __future__ import annotations

import warnings
from typing import Any

from keras_mae import _checks
from keras_mae.masking.names import check_name
from keras_mae.recipes import own
from keras_mae.recipes.sources import UNTUNED

__all__ = [
    "ADDED_TO_FINE_TUNING",
    "ADDED_TO_PRETRAINING",
    "MONITORS",
    "averaging",
    "check_decay",
    "check_masks_and_shift",
    "check_target_and_norm",
    "decay_schedule",
    "implied",
    "settled_choice",
    "settled_groups",
    "settled_norm",
    "settled_weights",
    "without_contradiction",
]

_TARGETS = ("pixels", "normalized", "low_pass", "hog", "teacher", "custom")

ADDED_TO_PRETRAINING: dict[str, Any] = {
    "fast_crops": False,
    "predict_ratio": 1.0,
    "masking": "random",
    "mask_cell": 1,
    "decoder": "self_attention",
    "fuse_blocks": None,
    "shift": 0.0,
    "target": None,
    "band_groups": None,
    "optimizer_name": "adamw",
    "ema_momentum": None,
    "schedule": "cosine",
    "decay_epochs": None,
}
"""Fields that files of earlier versions lack, and the values by which those versions pre-trained."""

ADDED_TO_FINE_TUNING: dict[str, Any] = {
    "fast_crops": False,
    "pooling": "mean",
    "ema_momentum": None,
    "class_weights": None,
    "best_epoch": False,
    "patience": None,
    "monitor": "val_accuracy",
}
"""The same for fine-tuning."""

MONITORS = ("val_accuracy", "val_loss")
"""Metrics that say which epoch is the best."""


def check_masks_and_shift(recipe: Any) -> None:
    """Raise ValueError unless there are a recipe's masking and its gentle crops."""
    check_name(recipe.masking, recipe.mask_cell)
    if _checks.within("shift", recipe.shift, 0.25) and recipe.crop_area is not None:
        raise ValueError(
            "`shift` is a crop of its own: it takes crop_area=None. "
            f"Received: shift={recipe.shift}, crop_area={recipe.crop_area}"
        )


def check_target_and_norm(target: str | None, norm_pix_loss: bool | None) -> None:
    """Raise ValueError if a target and whether patches are standardized were both asked for, and contradict.

    Args:
        target: Name of the target that was asked for; `None` if none was.
        norm_pix_loss: Whether patches were asked to be standardized; `None` if nobody said.
    """
    if target in (None, "low_pass") or norm_pix_loss is None or norm_pix_loss == (target == "normalized"):
        return
    raise ValueError(
        f"`norm_pix_loss` is what the target says, {target == 'normalized'}: leave it out, or give None. "
        f"Received: norm_pix_loss={norm_pix_loss}, target={target!r}"
    )


def settled_norm(target: Any, norm_pix_loss: Any) -> bool:
    """Return whether a recipe's patches are standardized.

    Args:
        target: Name of the recipe's target, or `None`.
        norm_pix_loss: What was asked for; `None` if nobody said.

    Raises:
        ValueError: If an argument is none of these, or the two contradict each other.
    """
    _checks.one_of("target", target, (None, *_TARGETS))
    norm: bool | None = _checks.optional(_checks.boolean, "norm_pix_loss", norm_pix_loss)
    check_target_and_norm(target, norm)
    return target == "normalized" if norm is None and target not in (None, "low_pass") else norm is None or norm


def settled_groups(band_groups: Any, norm_pix_loss: bool) -> tuple[tuple[int, ...], ...] | None:
    """Return a recipe's groups of bands, as tuples.

    Raises:
        ValueError: If they are none, or patches are not standardized.
    """
    groups: tuple[tuple[int, ...], ...] | None = _checks.optional(_checks.band_groups, "band_groups", band_groups)
    if groups is not None and not norm_pix_loss:
        raise ValueError(
            '`band_groups` are normalized each by itself, which takes the target "normalized". '
            f"Received: band_groups={groups}, norm_pix_loss=False"
        )
    return groups


def without_contradiction(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe's fields, as a file has them, with what the target says of `norm_pix_loss`.

    A warning says if the file said otherwise: an earlier version trained by the target all the same.
    """
    try:
        check_target_and_norm(values.get("target"), values.get("norm_pix_loss"))
    except ValueError as error:
        warnings.warn(
            f"The recipe of an earlier version contradicts itself, and its target counts. {error}", stacklevel=4
        )
        return {**values, "norm_pix_loss": None}
    return values


def implied(recipe: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Return changes of a recipe with those that they imply.

    A target says whether patches are standardized, groups of bands that they are, and a patience that the best epoch
    is wanted. And the rate of a recipe for folders, unless it was chosen, goes by the batch: see
    `own.untuned_base_rate`.
    """
    added: dict[str, Any] = {} if changes.get("target") in (None, "low_pass") else {"norm_pix_loss": None}
    if changes.get("band_groups") is not None and changes.get("target") is None and recipe.target is None:
        added["norm_pix_loss"] = True
    if "patience" in changes and recipe.best_epoch == (recipe.patience is not None):
        added["best_epoch"] = None
    size, rate = changes.get("batch_size", recipe.batch_size), "base_learning_rate"
    follows = recipe.origins.get(rate, "follows").startswith("follows") and rate not in {*changes, *recipe.changed}
    if recipe.source == UNTUNED and size != recipe.batch_size and follows:
        added[rate] = own.untuned_base_rate(recipe.kind, _checks.positive_int("batch_size", size))
    return {**added, **changes}


def settled_choice(recipe: Any, monitors: tuple[str, ...]) -> bool:
    """Return whether a recipe ends with its best epoch; raise ValueError unless it can choose one.

    Args:
        recipe: Recipe with `best_epoch`, which is `None` where a `patience` decides, `patience` and `monitor`.
        monitors: Metrics that it may go by.
    """
    _checks.optional(_checks.positive_int, "patience", recipe.patience)
    _checks.one_of("monitor", recipe.monitor, monitors)
    best = recipe.patience is not None if recipe.best_epoch is None else recipe.best_epoch
    return _checks.boolean("best_epoch", best)


def settled_weights(class_weights: Any) -> str | None:
    """Return "balanced", or `None`, which "none" stands for, where files and commands have no other word."""
    weights = _checks.one_of("class_weights", class_weights, (None, "none", "balanced"))
    return None if weights in (None, "none") else str(weights)


def averaging(ema_momentum: float | None) -> dict[str, Any]:
    """Return the arguments of an optimizer that averages the weights with this momentum, none if it is `None`.

    Raises:
        ValueError: If the momentum is out of range.
    """
    if ema_momentum is None:
        return {}
    momentum = _checks.fraction("ema_momentum", ema_momentum)
    return {"use_ema": True, "ema_momentum": momentum, "ema_warmup": True}


def check_decay(recipe: Any) -> None:
    """Raise ValueError unless a recipe's schedule is known, and its decay fits into the epochs."""
    _checks.one_of("schedule", recipe.schedule, ("cosine", "wsd"))
    if recipe.schedule == "cosine":
        if recipe.decay_epochs is not None:
            raise _checks.argument_error("decay_epochs", 'None, unless schedule="wsd"', recipe.decay_epochs)
        return
    if recipe.decay_epochs is not None:
        _checks.positive_int("decay_epochs", recipe.decay_epochs)
    if recipe.stable_epochs < recipe.warmup_epochs:
        raise ValueError(
            "`warmup_epochs` and `decay_epochs` must fit into `epochs`. Received: "
            f"warmup_epochs={recipe.warmup_epochs}, decay_epochs={recipe.epochs - recipe.stable_epochs}, "
            f"epochs={recipe.epochs}"
        )


def decay_schedule(recipe: Any, steps_per_epoch: int, total_steps: int) -> dict[str, int]:
    """Return the updates of warm-up and decay of schedule "wsd".

    Counted in whole updates from the beginning of the run: a longer run has the same ones, up to the decay.
    """
    accumulated = recipe.gradient_accumulation_steps
    stable = steps_per_epoch * recipe.stable_epochs // accumulated
    warmup = steps_per_epoch * recipe.warmup_epochs // accumulated
    return {"warmup_steps": warmup, "decay_steps": max(1, total_steps - stable)}
