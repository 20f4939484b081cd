"""The typed interface of the training step: what a model brings to it, and what is the same on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mae._types import Tensor
from keras_mae.distribution import batch_parts
from keras_mae.first_batch import ChecksImages
from keras_mae.random import StepCounter

__all__ = ["BaseTrainStep", "poisoned"]


class BaseTrainStep(ChecksImages, keras.Model):
    """A model that is trained by the package's own step; `keras_mae.train_step.TrainStep` adds the backend's.

    A subclass makes and builds all its parts in its constructor, and defines `call`. That is enough for a model of
    (images, labels) that is compiled with a loss. A model that computes something else overrides the hooks, which a
    step calls in this order: `check_batch`, `outputs_for_loss`, `compute_loss`, `update_metrics`. The images of the
    first batch of every call are checked against what the attribute `encoder`, a `ViTEncoder`, takes.

    A step whose loss or gradients are not finite changes no weight, no state of the optimizer and no
    `moving_statistics`, and is counted in the metric `skipped_steps`.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.skipped_tracker = keras.metrics.Sum(name="skipped_steps")

    def build(self, input_shape: Any = None) -> None:
        self.built = True  # as all parts are since the constructor

    # === What a model may bring ===
    def check_batch(self, data: Any) -> Any:
        """Return `data` as it came, or raise where the model cannot use it.

        It runs before the step, on JAX outside of the compiled code.

        Args:
            data: Batch as the dataset gave it: images, (images, labels) or (images, labels, sample weights).

        Raises:
            ValueError: If the model cannot use it.
        """
        return data

    def outputs_for_loss(self, x: Any, training: bool) -> Any:
        """Return what the loss and the metrics are computed from.

        Args:
            x: Images or dict, as given to `fit`.
            training: Whether this is a training step.

        Returns:
            A tensor, or a structure of tensors whose first axis is the batch.
        """
        return self(x, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Return the mean loss of this part of the batch, a scalar; by default Keras' own.

        Args:
            x: Images or dict, as given to `fit`.
            y: Labels, or `None`.
            y_pred: What `outputs_for_loss` returned.
            sample_weight: (batch,), or `None`.
            training: Whether this is a training step.
        """
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def update_metrics(
        self, data: tuple[Any, Any, Any], outputs: Any, loss: Tensor, finite: Tensor | None = None
    ) -> dict[str, Any]:
        """Add one batch to the metrics, and return the logs; by default those the model is compiled with.

        Args:
            data: Images or dict, labels and sample weights.
            outputs: What `outputs_for_loss` returned.
            loss: What `compute_loss` returned.
            finite: Whether the training step was taken, a boolean scalar; `None` in evaluation.

        Returns:
            Metric values by name, with `skipped_steps` in training only.
        """
        x, y, sample_weight = data
        self._add_to_means(ops.shape(keras.tree.flatten(outputs)[0])[0], finite, (self._loss_tracker, loss))
        logs: dict[str, Any] = self.compute_metrics(x, y, outputs, sample_weight)
        if finite is None:
            logs.pop(self.skipped_tracker.name, None)
        return logs

    @property
    def moving_statistics(self) -> Sequence[Any]:
        """Variables that a forward pass in training moves, and a skipped step puts back: every BatchNorm's."""
        return [
            statistic
            for layer in self._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
            for statistic in (layer.moving_mean, layer.moving_variance)
        ]

    # === What a model gets ===
    def _add_to_means(self, rows: Any, finite: Tensor | None, *means: tuple[keras.metrics.Mean, Tensor]) -> None:
        """Add a batch of `rows` samples to running means or, if it was skipped, to the count of skipped steps."""
        counted = ops.cast(rows, "float32")
        if finite is not None:
            taken = ops.cast(finite, "float32")
            # All parts of a batch skip together, and what they count is added up.
            self.skipped_tracker.update_state((1.0 - taken) / batch_parts())
            counted = counted * taken
        for mean, value in means:
            # NaN stays NaN, even with a weight of 0.
            mean.update_state(value if finite is None else ops.where(finite, value, 0.0), sample_weight=counted)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        super().compile(*args, **kwargs)
        if self.optimizer is not None:
            # Now, and not in the first step: saved state then finds its place whenever it is loaded, and
            # TensorFlow need not create variables in a function that may be traced again.
            self.optimizer.build(self.trainable_variables)
            optimizer: Any = getattr(self.optimizer, "inner_optimizer", self.optimizer)
            for layer in self._flatten_layers():
                if isinstance(counter := getattr(layer, "step", None), StepCounter):
                    counter.steps_per_update = optimizer.gradient_accumulation_steps or 1

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was, with `jit_compile="auto"`.

        Keras saves what "auto" came to where the model was saved, which another backend may not be able to do.
        """
        self.compile(**keras.saving.deserialize_keras_object(config) | {"jit_compile": "auto"})

    @property
    def _scales_loss(self) -> bool:
        """Whether the optimizer scales the loss, and then skips steps that overflow itself."""
        return isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)


def poisoned(gradients: Sequence[Tensor | None], finite: Tensor) -> list[Tensor | None]:
    """Return `gradients`, the first of them NaN unless `finite`: what a `LossScaleOptimizer` must be given.

    It skips the step itself, and must see the overflow to lower its scale. It looks at the gradients alone: an
    infinite loss, whose gradients may be finite, is passed on to it as NaN.

    Args:
        gradients: Gradients of the global batch, `None` for weights without one.
        finite: Whether the global batch's loss and gradients are all finite, a boolean scalar.
    """
    given = list(gradients)
    first = next(index for index, gradient in enumerate(given) if gradient is not None)
    given[first] = ops.where(finite, given[first], float("nan"))
    return given
