"""AdamW as masked autoencoders are pre-trained and fine-tuned with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae.optimizers.schedules import pretraining_rate
from keras_mae.optimizers.updates import CountsUpdates

__all__ = ["AdamW", "pretraining_adamw"]


@keras.saving.register_keras_serializable(package="keras_mae")
class AdamW(CountsUpdates, keras.optimizers.AdamW):
    """AdamW that never decays biases and norms.

        m = beta_1 * m + (1 - beta_1) * gradient            m_hat = m / (1 - beta_1^t)
        v = beta_2 * v + (1 - beta_2) * gradient^2          v_hat = v / (1 - beta_2^t)
        w -= learning_rate * (m_hat / (sqrt(v_hat) + epsilon) + weight_decay * w)

    t counts updates from 1. This is Adam's algorithm 1 and `torch.optim.AdamW`, on every backend. Keras' own adds
    `epsilon` before v is corrected: with beta_2 = 0.999 its first steps are then much shorter for weights whose
    gradient is small.

    By default only variables of two and more dimensions are decayed, which leaves out biases and LayerNorm and
    keeps the class and mask tokens in. Keras' `exclude_from_weight_decay` does the same until the model is saved:
    the exclusions are not part of the saved optimizer, and training that goes on after `load_model` decays
    everything. Here they are in the configuration, as are the layers' learning rates.

    Under gradient accumulation the learning rate, t and averaged weights go by updates, not by batches. On PyTorch
    decay and update are one fused pass over memory, and on TensorFlow on a CPU one program of XLA's.

    Args:
        learning_rate: A number, or a schedule of updates.
        weight_decay: Decoupled weight decay, multiplied by the learning rate.
        beta_1: Decay of the mean of the gradients.
        beta_2: Decay of the mean of their squares; 0.95 for pre-training.
        epsilon: Number added to the root of the corrected mean square.
        learning_rate_scales: Factors of the learning rate, minimum and decay included, one for each of the
            trainable variables in the model's order; see `layer_decay_scales`. `None` is 1 for all.
        decayed: Whether each of them is decayed, in the same order.
        kwargs: `keras.optimizers.AdamW`'s other arguments (clipping, EMA, gradient accumulation, ...).

    Raises:
        ValueError: If a number is out of range, or the optimizer is built for another number of variables than it has
            scales for.

    Reference: "Adam: A Method for Stochastic Optimization", algorithm 1; "Decoupled Weight Decay Regularization",
    algorithm 2; "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, tables 8 and 9.
    """

    scaled_layers: tuple[int, ...] | None = None
    """The layers that `learning_rate_scales` are of, where `fine_tuning_adamw` has chosen them; not saved."""

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.05,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        learning_rate_scales: Sequence[float] | None = None,
        decayed: Sequence[bool] | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=_checks.non_negative("weight_decay", weight_decay),
            beta_1=_checks.fraction("beta_1", beta_1),
            beta_2=_checks.fraction("beta_2", beta_2),
            epsilon=_checks.non_negative("epsilon", epsilon),
            **kwargs,
        )
        self.learning_rate_scales = _each("learning_rate_scales", learning_rate_scales, _checks.non_negative)
        self.decayed = _each("decayed", decayed, _checks.boolean)
        self._fused, self._taken = keras.backend.backend() == "torch", None

    def build(self, variables: Any) -> None:
        for name in ("learning_rate_scales", "decayed"):
            given = getattr(self, name)
            if given is not None and len(given) != len(variables):
                raise ValueError(
                    f"`{name}` must have one entry for each trainable variable of the model: make the optimizer for "
                    f"this model. Received: {len(given)} for {len(variables)} variables"
                )
        super().build(variables)

    def _use_weight_decay(self, variable: Any) -> bool:
        if self.decayed is not None:
            return bool(self.decayed[self._get_variable_index(variable)])
        return len(variable.shape) > 1 and bool(super()._use_weight_decay(variable))

    def _scale(self, variable: Any) -> float:
        if self.learning_rate_scales is None:
            return 1.0
        return float(self.learning_rate_scales[self._get_variable_index(variable)])

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing: `update_step` decays, where the variable's own learning rate is known."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: AdamRates) -> None:
        place = self._get_variable_index(variable)
        adamw_update(
            self,
            gradient,
            variable,
            self._momentums[place],
            self._velocities[place],
            self._velocity_hats[place] if self.amsgrad else None,
            rates=learning_rate.scaled(self._scale(variable)),
            weight_decay=self.weight_decay if self._use_weight_decay(variable) else 0.0,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
        )

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        if not self._fused:
            rates = AdamRates.of(self, learning_rate, self.beta_1, self.beta_2)
            super()._backend_update_step(grads, trainable_variables, rates)
            return

        def kind(pair: tuple[Any, Any]) -> tuple[float, bool]:
            return self._scale(pair[1]), bool(self.weight_decay) and self._use_weight_decay(pair[1])

        # All variables of one rate and one decay are one call of the kernel.
        pairs = sorted(zip(grads, trainable_variables, strict=True), key=kind)
        for (scale, decays), chosen in groupby(pairs, key=kind):
            gradients, variables = zip(*chosen, strict=True)
            places = [self._get_variable_index(variable) for variable in variables]
            fused_adamw(
                gradients,
                variables,
                [self._momentums[place] for place in places],
                [self._velocities[place] for place in places],
                [self._velocity_hats[place] for place in places] if self.amsgrad else [],
                iterations=self.iterations,
                learning_rate=learning_rate if scale == 1 else learning_rate * scale,
                weight_decay=self.weight_decay if decays else 0.0,
                beta_1=self.beta_1,
                beta_2=self.beta_2,
                epsilon=self.epsilon,
                taken=self._taken,
            )

    @property
    def applies_if(self) -> bool:
        """Whether `apply_if` is there for this optimizer, as it is set."""
        plain = all(variable.constraint is None for variable in self._trainable_variables)
        return self._fused and plain and not (self.use_ema or self.gradient_accumulation_steps)

    def apply_if(self, taken: Any, gradients: Any, variables: Any) -> None:
        """Update as `apply` does if `taken`, a boolean scalar of the device, is true; nobody waits. PyTorch only."""
        if not self.built:
            with keras.name_scope(self.name, caller=self):
                self.build(variables)
        self._taken = taken
        try:  # not `apply`, which counts by a number of the host's: for that a GPU would be waited for
            self._backend_apply_gradients(list(gradients), list(variables))
        finally:
            self._taken = None
        self._iterations.assign(self._iterations.value + taken)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "learning_rate_scales": self.learning_rate_scales,
            "decayed": self.decayed,
        }


def _each(argument: str, values: Any, check: Callable[[str, Any], Any]) -> list[Any] | None:
    """Return a value for each variable, checked, or `None` for the same for all."""
    if values is None:
        return None
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str):
        raise _checks.argument_error(argument, "one value for each trainable variable, or None", values)
    return [check(argument, value) for value in values]


def pretraining_adamw(
    base_learning_rate: float = 1.5e-4,
    batch_size: int = 4096,
    *,
    total_steps: int | None = None,
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    weight_decay: float = 0.05,
    **kwargs: Any,
) -> AdamW:
    """Return the pre-training optimizer: AdamW, betas (0.9, 0.95), warm-up and cosine, lr scaled by the batch.

    Args:
        base_learning_rate: Learning rate for a batch of 256 images; the run's is base * batch_size / 256.
        batch_size: Number of images behind one update: batch × accumulation steps × replicas.
        total_steps: Number of updates of the whole run. `None` keeps the learning rate constant.
        warmup_steps: Number of updates of the warm-up from 0.
        decay_steps: Number of updates of a decay at the end, up to which the learning rate holds, as in
            `warmup_stable_decay`; by default it falls along half a cosine.
        weight_decay: Decoupled weight decay, not applied to biases and norms.
        kwargs: `AdamW`'s other arguments.

    Returns:
        An `AdamW`.

    Raises:
        ValueError: If a number is out of range or the warm-up is not shorter than the run.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 8.
    """
    rate = pretraining_rate(base_learning_rate, batch_size, total_steps, warmup_steps, decay_steps)
    return AdamW(rate, weight_decay, **kwargs)


class AdamRates(NamedTuple):
    """What all variables share in one step of Adam, float32 scalars: computed once, it is not traced for each.

    Attributes:
        learning_rate: Learning rate of the step.
        mean_correction: What the mean of the gradients is divided by.
        square_correction: What the mean of their squares is multiplied by.
    """

    learning_rate: Any
    mean_correction: Any
    square_correction: Any

    @classmethod
    def of(cls, optimizer: Any, learning_rate: Any, beta_1: float, beta_2: float) -> AdamRates:
        """Return those of an optimizer's next step."""
        step = ops.cast(optimizer.iterations + 1, "float32")
        # In float32 whatever the weights are: in bfloat16 0.999 is 1.
        rate = ops.cast(learning_rate, "float32")
        return cls(rate, 1 - ops.power(beta_1, step), 1 / (1 - ops.power(beta_2, step)))

    def scaled(self, factor: float) -> AdamRates:
        """Return them with another learning rate."""
        return self if factor == 1 else self._replace(learning_rate=self.learning_rate * factor)


def adamw_update(
    optimizer: Any,
    gradient: Any,
    variable: Any,
    mean: Any,
    square: Any,
    largest: Any,
    *,
    rates: AdamRates,
    weight_decay: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> None:
    """Update one variable, and its moments, by one step of AdamW.

    `largest` is AMSGrad's largest second moment so far, or `None`.
    """
    dtype = variable.dtype
    gradient = ops.cast(ops.convert_to_tensor(gradient), dtype)  # on TensorFlow it may be sparse
    length = ops.cast(rates.learning_rate / rates.mean_correction, dtype)
    correction = ops.cast(rates.square_correction, dtype)
    optimizer.assign_add(mean, (gradient - mean) * (1 - beta_1))
    optimizer.assign_add(square, (ops.square(gradient) - square) * (1 - beta_2))
    if largest is not None:
        optimizer.assign(largest, ops.maximum(largest, square))
        square = largest
    # With the correction moved over to a varying `epsilon`, XLA's code is a third slower on a CPU.
    change = mean * length / (ops.sqrt(square * correction) + epsilon)
    if weight_decay:
        change = change + variable * ops.cast(weight_decay * rates.learning_rate, dtype)
    optimizer.assign_sub(variable, change)


def fused_adamw(
    gradients: Any,
    variables: Any,
    momentums: Any,
    velocities: Any,
    largest: Any,
    *,
    iterations: Any,
    learning_rate: Any,
    weight_decay: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    taken: Any = None,
) -> None:
    """Update Keras variables by one step of AdamW in place, in one pass over memory. PyTorch only.

    `largest` are AMSGrad's largest second moments so far; without any it is plain AdamW. Where `taken`, a boolean
    scalar, is false, nothing changes. It, the number of updates so far and the learning rate stay on the device.
    """
    import torch

    values = [variable.value for variable in variables]
    steps = ops.cast(ops.convert_to_tensor(iterations) + 1, "float32")
    torch.compiler.disable(torch._fused_adamw_)(  # torch.compile fails on it
        values,
        list(gradients),
        [momentum.value for momentum in momentums],
        [velocity.value for velocity in velocities],
        [velocity.value for velocity in largest],
        [steps] * len(values),
        lr=ops.convert_to_tensor(learning_rate, "float32"),
        beta1=beta_1,
        beta2=beta_2,
        weight_decay=weight_decay,
        eps=epsilon,
        amsgrad=bool(largest),
        maximize=False,
        found_inf=None if taken is None else ops.cast(ops.logical_not(taken), "float32"),
    )
