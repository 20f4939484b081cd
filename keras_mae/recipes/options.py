"""What recipes' fields for averaged weights and for schedules with a decay mean to an optimizer."""

from __future__ import annotations

from typing import Any

from keras_mae import _checks

__all__ = ["averaging", "check_decay", "decay_schedule"]


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
