"""Learning-rate schedules, read at every update of the weights."""

from __future__ import annotations

import keras

from keras_mae import _checks

__all__ = ["warmup_cosine"]


def warmup_cosine(
    peak: float, total_steps: int, warmup_steps: int = 0, *, minimum: float = 0.0
) -> keras.optimizers.schedules.CosineDecay:
    """Return a linear warm-up from 0 to `peak`, then half a cosine down to `minimum`.

    Args:
        peak: The highest learning rate.
        total_steps: Number of updates of the whole run, warm-up included.
        warmup_steps: Number of updates of the warm-up.
        minimum: The learning rate at the end.

    Returns:
        A Keras schedule.

    Raises:
        ValueError: If the warm-up is not shorter than the run, or the minimum above the peak.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, tables 8 to 10.
    """
    _checks.positive("peak", peak)
    _checks.positive_int("total_steps", total_steps)
    if warmup_steps < 0 or warmup_steps >= total_steps:
        raise ValueError(
            "`warmup_steps` must be at least 0 and less than `total_steps`. "
            f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}"
        )
    if _checks.non_negative("minimum", minimum) > peak:
        raise ValueError(f"`minimum` must not exceed `peak`. Received: minimum={minimum}, peak={peak}")
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(peak, total_steps, alpha=minimum / peak)
    return keras.optimizers.schedules.CosineDecay(
        0.0, total_steps - warmup_steps, alpha=minimum / peak, warmup_target=peak, warmup_steps=warmup_steps
    )
