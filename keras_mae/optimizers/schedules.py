"""Learning-rate schedules, read at every update of the weights."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae.ops import constant

__all__ = [
    "WarmupPolynomial",
    "WarmupStableDecay",
    "warmup_cosine",
    "warmup_polynomial",
    "warmup_stable_decay",
]


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
    _check_run(peak, total_steps, warmup_steps, minimum)
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(peak, total_steps, alpha=minimum / peak)
    return WarmupCosine(
        0.0, total_steps - warmup_steps, alpha=minimum / peak, warmup_target=peak, warmup_steps=warmup_steps
    )


@keras.saving.register_keras_serializable(package="keras_mae")
class WarmupCosine(keras.optimizers.schedules.CosineDecay):
    """What `warmup_cosine` returns: Keras' schedule, which chooses its course on the host, chosen on the device."""

    def __call__(self, step: Any) -> Any:
        step = _at_most(ops.cast(step, "float32"), self.decay_steps + self.warmup_steps)
        gone = (step - self.warmup_steps) / self.decay_steps
        falling = (1 - self.alpha) * (0.5 * (1.0 + ops.cos(math.pi * gone))) + self.alpha
        return self.warmup_target * ops.where(step < self.warmup_steps, step / self.warmup_steps, falling)


@keras.saving.register_keras_serializable(package="keras_mae")
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):
    """What `warmup_stable_decay` returns; its arguments are those of that function."""

    def __init__(self, peak: float, total_steps: int, warmup_steps: int, decay_steps: int, *, minimum: float = 0.0):
        super().__init__()
        _check_run(peak, total_steps, warmup_steps, minimum)
        if _checks.positive_int("decay_steps", decay_steps) > total_steps - warmup_steps:
            raise ValueError(
                "`warmup_steps` and `decay_steps` must fit into `total_steps`. Received: "
                f"warmup_steps={warmup_steps}, decay_steps={decay_steps}, total_steps={total_steps}"
            )
        self.peak, self.minimum = float(peak), float(minimum)
        self.total_steps, self.warmup_steps, self.decay_steps = total_steps, warmup_steps, decay_steps

    def __call__(self, step: Any) -> Any:
        # Differences of whole numbers first: far into a run float32 cannot tell neighboring steps apart.
        step = _at_most(ops.cast(step, "int32"), self.total_steps)
        rising = ops.cast(step, "float32") / max(self.warmup_steps, 1)
        left = ops.cast(self.total_steps - step, "float32") / self.decay_steps
        gone = 1.0 - _at_most(left, 1.0)
        rate = self.peak + (self.minimum - self.peak) * ops.sqrt(gone)
        return ops.where(step < self.warmup_steps, self.peak * rising, rate)

    def get_config(self) -> dict[str, Any]:
        names = ("peak", "total_steps", "warmup_steps", "decay_steps", "minimum")
        return {name: getattr(self, name) for name in names}


def warmup_stable_decay(
    peak: float, total_steps: int, warmup_steps: int, decay_steps: int, *, minimum: float = 0.0
) -> WarmupStableDecay:
    """Return a linear warm-up from 0 to `peak`, which then holds until a short decay to `minimum` at the end.

    Up to the decay the schedule does not depend on the length of the run: a run can be made longer from there. The
    decay is minimum + (peak - minimum) * (1 - sqrt(s)), s from 0 to 1, which was found to be the best form.

    Args:
        peak: The highest learning rate.
        total_steps: Number of updates of the whole run, warm-up and decay included.
        warmup_steps: Number of updates of the warm-up.
        decay_steps: Number of updates of the decay; a tenth to a fifth of the run is usual.
        minimum: The learning rate at the end.

    Returns:
        A Keras schedule.

    Raises:
        ValueError: If warm-up and decay do not fit into the run, or the minimum is above the peak.

    Reference: "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies" (arXiv
    2404.06395), section 4, where the schedule is from; "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations" (arXiv 2405.18392), section 3, where the forms of the decay are compared.
    """
    return WarmupStableDecay(peak, total_steps, warmup_steps, decay_steps, minimum=minimum)


@keras.saving.register_keras_serializable(package="keras_mae")
class WarmupPolynomial(keras.optimizers.schedules.LearningRateSchedule):
    """What `warmup_polynomial` returns; its arguments are those of that function."""

    def __init__(
        self, peak: float, total_steps: int, warmup_steps: int = 0, *, power: float = 1.0, minimum: float = 0.0
    ):
        super().__init__()
        _check_run(peak, total_steps, warmup_steps, minimum)
        self.peak, self.minimum, self.power = float(peak), float(minimum), _checks.positive("power", power)
        self.total_steps, self.warmup_steps = total_steps, warmup_steps

    def __call__(self, step: Any) -> Any:
        # Differences of whole numbers first: far into a run float32 cannot tell neighboring steps apart.
        step = _at_most(ops.cast(step, "int32"), self.total_steps)
        rising = ops.cast(step, "float32") / max(self.warmup_steps, 1)
        left = ops.cast(self.total_steps - step, "float32") / (self.total_steps - self.warmup_steps)
        rate = self.minimum + (self.peak - self.minimum) * _at_most(left, 1.0) ** self.power
        return ops.where(step < self.warmup_steps, self.peak * rising, rate)

    def get_config(self) -> dict[str, Any]:
        names = ("peak", "total_steps", "warmup_steps", "power", "minimum")
        return {name: getattr(self, name) for name in names}


def warmup_polynomial(
    peak: float, total_steps: int, warmup_steps: int = 0, *, power: float = 1.0, minimum: float = 0.0
) -> WarmupPolynomial:
    """Return a linear warm-up from 0 to `peak`, then a polynomial decay to `minimum`: the schedule of segmentation.

    With s from 0 at the peak to 1 at the end, the decay is minimum + (peak - minimum) * (1 - s) ** power. The
    published warm-up begins at a millionth of the peak and not at 0.

    Args:
        peak: The highest learning rate.
        total_steps: Number of updates of the whole run, warm-up included.
        warmup_steps: Number of updates of the warm-up.
        power: Exponent of the decay: 1 is a straight line.
        minimum: The learning rate at the end.

    Returns:
        A Keras schedule.

    Raises:
        ValueError: If the warm-up is not shorter than the run, the power not positive, or the minimum above the peak.

    Reference: mmsegmentation's configuration for MAE (LinearLR, then PolyLR); "ParseNet: Looking Wider to See Better"
    (arXiv 1506.04579), section 4, where the decay is from.
    """
    return WarmupPolynomial(peak, total_steps, warmup_steps, power=power, minimum=minimum)


def pretraining_rate(
    base_learning_rate: float, batch_size: int, total_steps: int | None, warmup_steps: int, decay_steps: int | None
) -> Any:
    """Return the learning rate of a pre-training run, a number or a schedule; see `pretraining_adamw`."""
    _checks.positive("base_learning_rate", base_learning_rate)
    peak = base_learning_rate * _checks.positive_int("batch_size", batch_size) / 256
    if total_steps is None:
        return peak
    if decay_steps is None:
        return warmup_cosine(peak, total_steps, warmup_steps)
    return warmup_stable_decay(peak, total_steps, warmup_steps, decay_steps)


def _at_most(x: Any, limit: float) -> Any:
    return ops.minimum(x, constant(limit, x))


def _check_run(peak: float, total_steps: int, warmup_steps: int, minimum: float) -> None:
    """Raise ValueError unless the numbers make a schedule."""
    _checks.positive("peak", peak)
    _checks.positive_int("total_steps", total_steps)
    if _checks.count("warmup_steps", warmup_steps) >= total_steps:
        raise ValueError(
            "`warmup_steps` must be at least 0 and less than `total_steps`. "
            f"Received: warmup_steps={warmup_steps}, total_steps={total_steps}"
        )
    if _checks.non_negative("minimum", minimum) > peak:
        raise ValueError(f"`minimum` must not exceed `peak`. Received: minimum={minimum}, peak={peak}")
