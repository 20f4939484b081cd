"""The training step on PyTorch, in several processes too."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import torch
from torch import distributed

from keras_mae import sharding
from keras_mae._types import Tensor
from keras_mae.compiled_blocks import BlockPrograms
from keras_mae.distribution import batch_parts
from keras_mae.first_batch import ListStep, looking, rows_of
from keras_mae.ops import BatchNormalization, concrete
from keras_mae.sharding import ShardedVariable, as_parts
from keras_mae.train_step.base import BaseTrainStep, poisoned
from keras_mae.train_step.reduction import Reduction
from keras_mae.train_step.trained import batch_norms
from keras_mae.train_step.uploading import Uploaded

__all__ = ["TrainStep"]


class TrainStep(BaseTrainStep):
    """`train_step` and `test_step` with autograd, and what several processes need around them."""

    _reduction: Reduction | None = None
    _sharded = False
    _block_programs = BlockPrograms(False)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        super().compile(*args, **kwargs)
        self._block_programs = BlockPrograms(bool(self.jit_compile))

    def _should_torch_compile(self) -> bool:
        return False  # Keras would break the step into dozens of graphs: blocks are compiled instead

    def train_step(self, data: Any) -> dict[str, Any]:
        with self._block_programs.used():
            return self._train(data)

    def _train(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self.check_batch(data))
        weights = self.trainable_weights
        with as_parts():
            values = [weight.value for weight in weights]
        on_cpu = self._device.type == "cpu"
        if not on_cpu:  # the gradients of the step before would take up memory beside what this one keeps
            self.zero_grad()
        statistics = [statistic.value.clone() for statistic in self.moving_statistics]
        with sharding.reading_again() if self._sharded else contextlib.nullcontext():
            outputs = self.outputs_for_loss(x, training=True)
            loss = self.compute_loss(x, y, outputs, sample_weight, training=True)
        if on_cpu:  # freed before, they would go back to the system, and new pages cost 6 % of a step of ViT-B
            self.zero_grad()
        rows = len(rows_of(x))
        if self._reduction is not None:
            self._reduction.begin(rows)
        with sharding.weighting(loss, rows) if self._sharded else contextlib.nullcontext():
            self.optimizer.scale_loss(loss).backward()
        # A weight without a part in the loss has no gradient, which is zero on JAX.
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in values]
        with torch.no_grad():
            # Of the global batch first: what is clipped, and whether it is finite, must not differ between processes.
            global_loss = loss.detach()
            if self._reduction is not None:
                places = [place for place, weight in enumerate(weights) if not isinstance(weight, ShardedVariable)]
                global_loss = self._reduction.end(global_loss, [gradients[place] for place in places])
            finite = torch.isfinite(self._norm(gradients, weights)) & torch.isfinite(global_loss)
            with as_parts():
                self._apply(finite, gradients, weights)
            for statistic, before in zip(self.moving_statistics, statistics, strict=True):
                statistic.assign(torch.where(finite, statistic.value, before))
            return self._logs((x, y, sample_weight), outputs, loss, finite)

    def _norm(self, gradients: Sequence[Tensor], weights: Sequence[Any]) -> Tensor:
        """Return the norm of all gradients, in one pass; one that overflows where they do not is no step to take."""
        if self._sharded:
            return torch.linalg.vector_norm(sharding.norms(gradients, weights))
        return torch.nn.utils.get_total_norm(gradients)

    def _apply(self, finite: Tensor, gradients: Sequence[Tensor], weights: Sequence[Any]) -> None:
        """Take the step if it is finite."""
        if self._scales_loss:
            self.optimizer.apply(poisoned(gradients, finite), weights)
        elif getattr(self.optimizer, "applies_if", False):  # the device goes on without us
            self.optimizer.apply_if(finite, gradients, weights)
        elif concrete(finite) in (None, True):  # tensors without values count what a step takes that is taken
            self.optimizer.apply(gradients, weights)

    def test_step(self, data: Any) -> dict[str, Any]:
        with torch.no_grad(), self._block_programs.used():
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self.check_batch(data))
            outputs = self.outputs_for_loss(x, training=False)
            loss = self.compute_loss(x, y, outputs, sample_weight, training=False)
            return self._logs((x, y, sample_weight), outputs, loss)

    def predict_step(self, data: Any) -> Any:
        with self._block_programs.used():
            return super().predict_step(data)

    def _logs(self, data: Any, outputs: Any, loss: Any, finite: Any = None) -> dict[str, Any]:
        """Return the logs of all processes' batches so far."""
        if batch_parts() == 1:
            return self.update_metrics(data, outputs, loss, finite)
        values = [variable.value for variable in self.metrics_variables]
        before = torch.cat([value.flatten() for value in values])
        logs = self.update_metrics(data, outputs, loss, finite)
        values = [variable.value for variable in self.metrics_variables]
        added = torch.cat([value.flatten() for value in values]) - before
        distributed.all_reduce(added)
        for value, total in zip(values, (before + added).split([value.numel() for value in values]), strict=True):
            value.copy_(total.view_as(value))
        results = self.get_metrics_result()
        return {name: results[name] for name in logs}

    train_function: Any
    test_function: Any

    def make_test_function(self, force: bool = False) -> None:
        super().make_test_function(force)
        self.test_function = looking(ListStep, self, self.test_function, together=True)

    # === Several processes ===
    def make_train_function(self, force: bool = False) -> None:
        super().make_train_function(force)
        self.train_function = looking(
            ListStep, self, self.train_function, together=True, before=self._trained.check_switches
        )
        if self._reduction is not None:
            self._reduction.close()
            self._reduction = None
        if batch_parts() == 1:
            return
        if apart := [layer.path for layer in batch_norms(self) if not isinstance(layer, BatchNormalization)]:
            raise ValueError(
                "In several PyTorch processes the statistics of Keras' own BatchNormalization are those of a part of "
                f"the batch: take keras_mae.ops.BatchNormalization. Received: {apart[0]!r}"
            )
        self._share_out_weights()
        for variable in _whole([*self.variables, *self.optimizer.variables]):  # as they are in the first process
            distributed.broadcast(variable.value.data, 0)
        self._reduction = Reduction([weight.value for weight in _whole(self.trainable_weights)])

    def _share_out_weights(self) -> None:
        if not sharding.is_active():
            return
        sharding.check(self)
        for variable in (*self.weights, *self.optimizer.variables):
            sharding.share_out(variable)
        for layer in self._flatten_layers():
            with as_parts():
                layer._track_variables()
        self._sharded = True

    def _track_variables(self) -> None:
        with as_parts():  # in PyTorch's own list of parameters
            super()._track_variables()

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        if batch_parts() > 1 and isinstance(x, np.ndarray | torch.Tensor):
            raise ValueError(
                "Every process would train on all of an array: give `fit` its part of each batch, such as "
                "keras_mae.data.from_arrays(images, batch_size=...). "
                f"Received: {type(x).__name__} in {batch_parts()} processes"
            )
        return super().fit(Uploaded.to(self._device, x), *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        return super().evaluate(Uploaded.to(self._device, x), *args, **kwargs)

    @property
    def _device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.skipped_tracker.total.value.device
        return device


def _whole(variables: Sequence[Any]) -> list[Any]:
    """Return those of which every process holds all."""
    return [variable for variable in variables if not isinstance(variable, ShardedVariable)]
