"""Muon: hidden matrices are moved by orthogonal steps, everything else by AdamW."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae.optimizers.adamw import AdamRates, adamw_update, fused_adamw
from keras_mae.optimizers.schedules import pretraining_rate
from keras_mae.optimizers.updates import CountsUpdates

__all__ = ["Muon", "pretraining_muon"]

FIRST_AND_LAST = ("(^|/)patch_embedding/", "(^|/)prediction/", "(^|/)head/")
FUSED = {"qkv": 3, "key_value": 2}


@keras.saving.register_keras_serializable(package="keras_mae")
class Muon(CountsUpdates, keras.optimizers.Muon):
    """Keras' Muon with fused projections taken apart, and AdamW as masked autoencoders are trained with it.

    A hidden matrix W, (inputs, outputs), is moved by

        M  = momentum * M + gradient
        G  = gradient + momentum * M                          (nesterov)
        O  = U V^T of G's singular value decomposition        (nearly: `ns_steps` Newton-Schulz iterations)
        W -= learning_rate * (rms_rate * sqrt(max(inputs, outputs)) * O + weight_decay * W)

    All singular values of O are about 1, so that no direction dominates. The factor of O gives its entries a root
    mean square of `rms_rate`, which is that of AdamW's steps: Muon takes AdamW's learning rate and weight decay.

    A projection that computes query, key and value at once is three matrices side by side, of which each is
    orthogonalized on its own: together, the largest would shrink the others.

    Hidden matrices are the 2-D weights named `kernel` whose path does not match `exclude_layers`. Everything else is
    moved by `keras_mae.optimizers.AdamW`'s rule, with `adam_lr_ratio` times the learning rate: biases, norms, class
    and mask tokens, positions, learned queries, and the first and the last matrix, which do not map features to
    features: the patch embedding, and the decoder's prediction or the classifier's head.

    As in our `AdamW`, variables of one dimension are not decayed, and under gradient accumulation the learning rate
    and averaged weights go by updates, not by batches. On PyTorch matrices of one shape are orthogonalized together.

    Args:
        learning_rate: A number, or a schedule of updates.
        weight_decay: Decoupled weight decay, multiplied by the learning rate.
        momentum: Factor of the momentum of hidden matrices.
        adam_beta_1: AdamW's decay of the mean of the gradients.
        adam_beta_2: AdamW's decay of the mean of their squares.
        epsilon: Number added by AdamW to the root of the corrected mean square.
        adam_lr_ratio: AdamW's learning rate over `learning_rate`.
        rms_rate: Root mean square of a hidden matrix' step over the learning rate. `None` leaves out the factor of O.
        ns_steps: Number of Newton-Schulz iterations.
        exclude_layers: Regular expressions; a matrix whose path one of them matches is AdamW's.
        fused: Number of matrices side by side in a fused projection, by the name of its layer.
        kwargs: `keras.optimizers.Muon`'s other arguments (`nesterov`, clipping, EMA, gradient accumulation, ...).

    Raises:
        ValueError: If a number is out of range, or a fused projection cannot be divided as `fused` says.

    Example:
        >>> mae.compile(keras_mae.optimizers.Muon(1e-3, weight_decay=0.05))

    Reference: "Muon: An optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon), also
    on which matrices are AdamW's and on splitting query, key and value; "Muon is Scalable for LLM Training"
    (arXiv 2502.16982), section 2.2, on weight decay and `rms_rate`.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.05,
        *,
        momentum: float = 0.95,
        adam_beta_1: float = 0.9,
        adam_beta_2: float = 0.95,
        epsilon: float = 1e-8,
        adam_lr_ratio: float = 1.0,
        rms_rate: float | None = 0.2,
        ns_steps: int = 5,
        exclude_layers: Sequence[str] = FIRST_AND_LAST,
        fused: Mapping[str, int] | None = None,
        **kwargs: Any,
    ):
        if "adam_weight_decay" in kwargs:
            raise ValueError(
                "`weight_decay` is that of all variables. Received: adam_weight_decay="
                f"{kwargs['adam_weight_decay']}, weight_decay={weight_decay}"
            )
        if "nesterov" in kwargs:
            _checks.boolean("nesterov", kwargs["nesterov"])
        # Keras' own rule would take the decoder's first projection, which is a hidden matrix, for an embedding.
        kwargs.setdefault("exclude_embeddings", False)
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=_checks.non_negative("weight_decay", weight_decay),
            momentum=_checks.fraction("momentum", momentum),
            adam_beta_1=_checks.fraction("adam_beta_1", adam_beta_1),
            adam_beta_2=_checks.fraction("adam_beta_2", adam_beta_2),
            epsilon=_checks.non_negative("epsilon", epsilon),
            adam_lr_ratio=_checks.non_negative("adam_lr_ratio", adam_lr_ratio),
            rms_rate=None if rms_rate is None else _checks.positive("rms_rate", rms_rate),
            ns_steps=_checks.positive_int("ns_steps", ns_steps),
            exclude_layers=_patterns(exclude_layers),
            **kwargs,
        )
        fused = _checks.instance("fused", FUSED if fused is None else fused, Mapping, "numbers by names of layers")
        self.fused = {
            _checks.text("fused", name, "numbers by names of layers"): _checks.positive_int("fused", parts)
            for name, parts in fused.items()
        }
        self._together = keras.backend.backend() == "torch"

    def _should_use_adamw(self, variable: Any) -> bool:
        return variable.name != "kernel" or bool(super()._should_use_adamw(variable))

    def build(self, variables: Any) -> None:
        super().build(variables)
        # Now: in `update_step` TensorFlow has variables without a path.
        self._parts = [self._parts_of(variable) for variable in variables]

    def _parts_of(self, variable: Any) -> int:
        """Return how many matrices side by side a variable is: 0 where it is AdamW's."""
        if self._should_use_adamw(variable):
            return 0
        parts = self.fused.get(variable.path.split("/")[-2] if "/" in variable.path else "", 1)
        if variable.shape[-1] % parts:
            raise ValueError(
                f"`fused` must divide a projection into equal parts. Received: fused={self.fused}, and "
                f"{variable.path} of shape {tuple(variable.shape)}"
            )
        return parts

    def _use_weight_decay(self, variable: Any) -> bool:
        return len(variable.shape) > 1 and bool(super()._use_weight_decay(variable))

    def _decay(self, variable: Any) -> float:
        return float(self.weight_decay) if self._use_weight_decay(variable) else 0.0

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing: `update_step` decays, where the variable's own learning rate is known."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: AdamRates) -> None:
        place = self._get_variable_index(variable)
        if not self._parts[place]:
            adamw_update(
                self,
                gradient,
                variable,
                self.momentums[place],
                self.adam_velocities[place],
                None,
                rates=learning_rate.scaled(self.adam_lr_ratio),
                weight_decay=self._decay(variable),
                beta_1=self.adam_beta_1,
                beta_2=self.adam_beta_2,
                epsilon=self.epsilon,
            )
            return
        stacked, back = _lying(self._direction(gradient, variable), self._parts[place])
        self._move(
            variable, back(self.zeropower_via_newtonschulz5(stacked, self.ns_steps)), learning_rate.learning_rate
        )

    def _direction(self, gradient: Any, variable: Any) -> Any:
        """Add a gradient to the momentum, and return what is to be orthogonalized, float32."""
        momentum = self.momentums[self._get_variable_index(variable)]
        gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)  # on TensorFlow it may be sparse
        self.assign(momentum, gradient + momentum * self.momentum)
        direction = gradient + momentum * self.momentum if self.nesterov else momentum
        return ops.cast(direction, "float32")

    def _move(self, variable: Any, orthogonal: Any, rate: Any) -> None:
        """Move a hidden matrix by its orthogonalized direction, and decay it."""
        parts = self._parts[self._get_variable_index(variable)]
        largest = max(variable.shape[0], variable.shape[1] // parts)
        change = orthogonal * (rate if self.rms_rate is None else rate * (self.rms_rate * math.sqrt(largest)))
        if decay := self._decay(variable):
            change = change + ops.cast(variable, "float32") * (decay * rate)
        self.assign_sub(variable, ops.cast(change, variable.dtype))

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        if not self._together:
            rates = AdamRates.of(self, learning_rate, self.adam_beta_1, self.adam_beta_2)
            super()._backend_update_step(grads, trainable_variables, rates)
            return
        pairs = list(zip(grads, trainable_variables, strict=True))
        hidden = [pair for pair in pairs if self._parts[self._get_variable_index(pair[1])]]
        others = [pair for pair in pairs if not self._parts[self._get_variable_index(pair[1])]]
        for decays in (True, False):
            chosen = [(gradient, v) for gradient, v in others if bool(self._decay(v)) is decays]
            places = [self._get_variable_index(variable) for _, variable in chosen]
            if chosen:
                fused_adamw(
                    [gradient for gradient, _ in chosen],
                    [variable for _, variable in chosen],
                    [self.momentums[place] for place in places],
                    [self.adam_velocities[place] for place in places],
                    [],
                    iterations=self.iterations,
                    learning_rate=learning_rate * self.adam_lr_ratio,
                    weight_decay=self.weight_decay if decays else 0.0,
                    beta_1=self.adam_beta_1,
                    beta_2=self.adam_beta_2,
                    epsilon=self.epsilon,
                )
        self._move_together(hidden, learning_rate)

    def _move_together(self, pairs: Any, learning_rate: Any) -> None:
        """Move hidden matrices as `update_step` does, those of one shape at once. PyTorch only."""
        groups: dict[Any, list[Any]] = {}
        for gradient, variable in pairs:
            parts = self._parts[self._get_variable_index(variable)]
            stacked, back = _lying(self._direction(gradient, variable), parts)
            groups.setdefault(tuple(stacked.shape[1:]), []).append((stacked, back, variable))
        for members in groups.values():
            orthogonal = self._fused_newton_schulz(ops.concatenate([stacked for stacked, _, _ in members]))
            sizes = [stacked.shape[0] for stacked, _, _ in members]
            for (_, back, variable), part in zip(members, orthogonal.split(sizes), strict=True):
                self._move(variable, back(part), learning_rate)

    def _fused_newton_schulz(self, x: Any) -> Any:
        """Return what Keras' `zeropower_via_newtonschulz5` does, sums inside of the products; PyTorch only."""
        import torch

        x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
        for _ in range(self.ns_steps):
            squares = torch.bmm(x, x.mT)
            factor = torch.baddbmm(squares, squares, squares, beta=self.muon_b, alpha=self.muon_c)
            x = torch.baddbmm(x, factor, x, beta=self.muon_a)
        return x

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "fused": dict(self.fused)}
        config.pop("adam_weight_decay")
        return config


def _patterns(exclude_layers: Any) -> list[str]:
    """Return regular expressions as a list, or raise ValueError."""
    rule = "a list of regular expressions"
    if not isinstance(exclude_layers, Sequence) or isinstance(exclude_layers, str):
        raise _checks.argument_error("exclude_layers", rule, exclude_layers)
    for pattern in exclude_layers:
        try:
            re.compile(_checks.text("exclude_layers", pattern, rule))
        except re.error as error:
            raise ValueError(f"`exclude_layers` must be {rule}. Received: {pattern!r} ({error})") from error
    return list(exclude_layers)


def _lying(matrix: Any, parts: int) -> tuple[Any, Any]:
    """Return the `parts` of a matrix, none of which is taller than wide, and the function that puts them back.

    Args:
        matrix: (inputs, parts * outputs).
        parts: Number of matrices side by side.

    Returns:
        (parts, inputs, outputs) or, if they are taller than wide, (parts, outputs, inputs); and a function that makes
        (inputs, parts * outputs) of such a tensor.
    """
    inputs, outputs = matrix.shape[0], matrix.shape[1] // parts
    axes, order = (inputs, parts, outputs), (1, 2, 0) if inputs > outputs else (1, 0, 2)
    home = (2, 0, 1) if inputs > outputs else (1, 0, 2)

    def back(stacked: Any) -> Any:
        return ops.reshape(ops.transpose(stacked, home), (inputs, parts * outputs))

    return ops.transpose(ops.reshape(matrix, axes), order), back


def pretraining_muon(
    base_learning_rate: float = 1.5e-4,
    batch_size: int = 4096,
    *,
    total_steps: int | None = None,
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    weight_decay: float = 0.05,
    **kwargs: Any,
) -> Muon:
    """Return a pre-training optimizer: Muon, warm-up and cosine, lr scaled by the batch, as `pretraining_adamw`.

    Args:
        base_learning_rate: Learning rate for a batch of 256 images; the run's is base * batch_size / 256.
        batch_size: Number of images behind one update: batch × accumulation steps × replicas.
        total_steps: Number of updates of the whole run. `None` keeps the learning rate constant.
        warmup_steps: Number of updates of the warm-up from 0.
        decay_steps: Number of updates of a decay at the end, up to which the learning rate holds, as in
            `warmup_stable_decay`; by default it falls along half a cosine.
        weight_decay: Decoupled weight decay, not applied to biases and norms.
        kwargs: `Muon`'s other arguments.

    Returns:
        A `Muon`.

    Raises:
        ValueError: If a number is out of range or the warm-up is not shorter than the run.
    """
    rate = pretraining_rate(base_learning_rate, batch_size, total_steps, warmup_steps, decay_steps)
    return Muon(rate, weight_decay, **kwargs)
