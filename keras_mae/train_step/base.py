"""The typed interface of the training step: what a model brings to it, and what is the same on every backend."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.trainers.compile_utils import CompileMetrics  # has no public name

from keras_mae._types import Tensor
from keras_mae.distribution import batch_parts
from keras_mae.first_batch import ChecksImages, images_of
from keras_mae.fit_arguments import EVALUATE, FIT, check_compiling, check_data, check_fitting
from keras_mae.ops import concrete, constant
from keras_mae.random import StepCounter
from keras_mae.train_step.trained import TrainedWeights, batch_norms, set_trained_parts, trained_parts

__all__ = ["BaseTrainStep", "Directed", "poisoned"]


class BaseTrainStep(ChecksImages, keras.Model):
    """A model that is trained by the package's own step; `keras_mae.train_step.TrainStep` adds the backend's.

    A subclass makes and builds all its parts in its constructor, and defines `call`. That is enough for a model of
    (images, labels) that is compiled with a loss. A model that computes something else overrides the hooks, which a
    step calls in this order: `check_batch`, `outputs_for_loss`, `compute_loss`, `update_metrics`. The images of the
    first batch of every call are checked against what the attribute `encoder`, a `ViTEncoder`, takes.

    A step whose loss or gradients are not finite changes no weight, no state of the optimizer and no
    `moving_statistics`. It is counted in the metric `skipped_steps` and in no other; where no step was taken at all,
    the others are NaN.

    What is trained is settled by `compile`, as in Keras. Where it has changed since, training raises.
    """

    _trained: TrainedWeights
    optimizer: Any

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.skipped_tracker = keras.metrics.Sum(name="skipped_steps")
        self._directed = Directed(down=[self.skipped_tracker])

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

    def compiled_loss(self, y: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        """Return the loss that the model is compiled with, a scalar as from `compute_loss`, without what layers add.

        Args:
            y: Labels.
            y_pred: What the loss is to be computed from.
            sample_weight: (batch,), or `None`.
        """
        return self._compile_loss(y, y_pred, sample_weight)

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
        self._add_to_means(ops.shape(keras.tree.flatten(outputs)[0])[0], finite, (self._loss_tracker, loss))
        logs = self._compiled_metrics(data, outputs, finite)
        if finite is None:
            logs.pop(self.skipped_tracker.name, None)
        return logs

    @property
    def moving_statistics(self) -> Sequence[Any]:
        """Variables that a forward pass in training moves, and a skipped step puts back: every BatchNorm's."""
        return [statistic for layer in batch_norms(self) for statistic in (layer.moving_mean, layer.moving_variance)]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        own = self._directed.together
        return [own if metric is self.skipped_tracker else metric for metric in super().metrics]

    # === What a model gets ===
    def _add_to_means(self, rows: Any, finite: Tensor | None, *means: tuple[keras.metrics.Mean, Tensor]) -> None:
        """Add a batch of `rows` samples to running means or, if it was skipped, to the count of skipped steps."""
        total = self.skipped_tracker.total.value
        counted = constant(rows, total) if isinstance(rows, int) else ops.cast(rows, "float32")
        if finite is not None:
            taken = ops.cast(finite, "float32")
            # All parts of a batch skip together, and what they count is added up.
            self.skipped_tracker.update_state((1.0 - taken) / batch_parts())
            counted = counted * taken
        for mean, value in means:
            # NaN stays NaN, even with a weight of 0.
            mean.update_state(
                value if finite is None else ops.where(finite, value, constant(0.0, value)), sample_weight=counted
            )

    def _compiled_metrics(self, data: tuple[Any, Any, Any], outputs: Any, finite: Tensor | None) -> dict[str, Any]:
        """Add a batch to the metrics the model is compiled with, unless it was skipped, and return the logs."""
        x, y, sample_weight = data
        metrics = self._compile_metrics
        if metrics is not None and not metrics.built:  # a skipped batch would not build them
            metrics.build(y, outputs)
        on_device = keras.backend.backend() == "torch"  # which would have to be waited for
        taken = True if finite is None else None if on_device else concrete(finite)
        if taken is not None:
            return dict(self.compute_metrics(x, y, outputs, sample_weight) if taken else self.get_metrics_result())
        # Neither compiled code nor the host can leave them out: what they were is put back. Weights of 0 would keep a
        # NaN.
        before = [ops.copy(variable.value) for variable in self.metrics_variables]
        logs = self.compute_metrics(x, y, outputs, sample_weight)
        for variable, value in zip(self.metrics_variables, before, strict=True):
            variable.assign(ops.where(finite, variable.value, value))
        return {**logs, **self.get_metrics_result()}

    def get_metrics_result(self) -> dict[str, Any]:
        """Return each metric's value: NaN, and not what it starts from, where every batch was skipped."""
        results: dict[str, Any] = super().get_metrics_result()
        skipped, counted = self.skipped_tracker.total.value, self._loss_tracker.count.value
        none_counted = (skipped > 0) & (counted == 0)
        missing = ops.where(none_counted, *(constant(number, counted) for number in (float("nan"), 0.0)))
        # A metric of the user's may give whole numbers, or several values in a dict. A sum is its variable itself,
        # which PyTorch sets back in place before an epoch's logs are read, if there is validation.
        return {
            name: ops.copy(value)
            if name == self.skipped_tracker.name
            else keras.tree.map_structure(lambda each: ops.add(each, missing), value)
            for name, value in results.items()
        }

    def compile(self, *args: Any, **kwargs: Any) -> None:
        check_compiling(kwargs)
        super().compile(*args, **kwargs)
        if self.optimizer is not None:
            if kwargs.get("auto_scale_loss", True) and not self._scales_loss and self._trains_in_float16:
                # Keras looks at the model's own policy only, and not at that of an encoder it was given.
                self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer, name="loss_scale_optimizer")
            self._share_out_weights()
            self._trained = TrainedWeights(self)
            optimizer: Any = getattr(self.optimizer, "inner_optimizer", self.optimizer)
            _check_schedule(optimizer)
            for layer in self._flatten_layers():
                if isinstance(counter := getattr(layer, "step", None), StepCounter):
                    counter.steps_per_update = optimizer.gradient_accumulation_steps or 1

    def _share_out_weights(self) -> None:
        """Share weights out among processes, before the optimizer makes its slots; by default nothing."""

    def make_train_function(self, force: bool = False) -> None:
        """Make it as Keras does, if the model still trains what it was compiled to train."""
        if self.optimizer is None:
            raise ValueError("Training takes an optimizer: give `compile` one. Received: optimizer=None")
        self._trained.check(self)
        super().make_train_function(force)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does; arrays to validate on are looked at before it starts, and not after.

        Raises:
            ValueError: If an argument is not what it must be.
        """
        check_fitting(FIT, args, kwargs)
        check_data(x, y, kwargs.get("sample_weight"))
        self.look_at_bytes(x)
        held_out = kwargs.get("validation_data")
        held_out = tuple(held_out) if isinstance(held_out, list) else held_out
        held_out = held_out if isinstance(held_out, tuple) else (held_out,)
        if held_out[0] is not None:
            check_data(*held_out[:3])
        images = images_of(held_out)
        if isinstance(images, np.ndarray):
            self.look((images[:32],), together=False)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as `keras.Model.evaluate` does."""
        if not kwargs.get("_use_cached_eval_dataset"):  # Keras' own call, from `fit`
            check_fitting(EVALUATE, args, kwargs)
            check_data(x, y, kwargs.get("sample_weight"))
            self.look_at_bytes(x)
        return super().evaluate(x, y, *args, **kwargs)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Return what `compile_from_config` takes: Keras' own, and what is trained; `None` if it is not compiled."""
        config: dict[str, Any] | None = super().get_compile_config()
        return config and {**config, "trained": trained_parts(self)}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was, with the same parts trained and `jit_compile="auto"`.

        Keras saves what "auto" came to where the model was saved, which another backend may not be able to do.
        """
        config = dict(config)
        if trained := config.pop("trained", None):  # older files do not say
            set_trained_parts(self, trained)
        self.compile(**keras.saving.deserialize_keras_object(_portable(config)) | {"jit_compile": "auto"})

    @property
    def _trains_in_float16(self) -> bool:
        """Whether gradients pass through float16, in which small ones become 0 unless the loss is scaled."""
        layers = (layer for layer in self._flatten_layers() if layer is not self)
        return any(layer.compute_dtype == "float16" and layer.trainable_weights for layer in layers)

    @property
    def _scales_loss(self) -> bool:
        """Whether the optimizer scales the loss, and then skips steps that overflow itself."""
        return isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)


class Directed:
    """Metrics of a model's own in the form in which Keras' callbacks know which way each is better.

    `EarlyStopping` and its like look at what `compile` was given, and at no other metric. This object holds one
    metric of Keras' that looks as if it had been given them; being none itself, it is not saved with the model.

    Args:
        up: Metrics that are better the larger they are.
        down: Metrics that are better the smaller they are.
    """

    def __init__(self, up: Sequence[keras.metrics.Metric] = (), down: Sequence[keras.metrics.Metric] = ()):
        for metrics, direction in ((up, "up"), (down, "down")):
            for metric in metrics:
                metric._direction = direction
        self.together = CompileMetrics([*up, *down], None)
        self.together.build(keras.KerasTensor((None, 1)), keras.KerasTensor((None, 1)))


def _check_schedule(optimizer: Any) -> None:
    """Warn of an optimizer of Keras' whose schedule goes by batches while its weights go by updates."""
    steps = optimizer.gradient_accumulation_steps
    scheduled = isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule)
    name = "_get_current_learning_rate"  # our own optimizers override it
    by_batches = getattr(type(optimizer), name) is getattr(keras.optimizers.Optimizer, name)
    if steps and steps > 1 and scheduled and by_batches:
        warnings.warn(
            f"Under gradient accumulation Keras reads schedules at every batch: this one is over after 1/{steps} of "
            "its updates. keras_mae.optimizers.AdamW and LARS read them at every update. Received: optimizer="
            f"{type(optimizer).__name__} with gradient_accumulation_steps={steps}",
            stacklevel=3,
        )


def poisoned(gradients: Sequence[Tensor], finite: Tensor) -> list[Tensor]:
    """Return `gradients`, the first of them NaN unless `finite`: what a `LossScaleOptimizer` must be given.

    It skips the step itself, and must see the overflow to lower its scale. It looks at the gradients alone: an
    infinite loss, whose gradients may be finite, is passed on to it as NaN.

    Args:
        gradients: Gradients of the global batch.
        finite: Whether the global batch's loss and gradients are all finite, a boolean scalar.
    """
    first, *others = gradients
    return [ops.where(finite, first, constant(float("nan"), first)), *others]


def _portable(config: Any) -> Any:
    """Return a serialized value with Keras' optimizers under names that every backend knows.

    On PyTorch Keras writes the names of modules that only its PyTorch backend can import.
    """
    if isinstance(config, list | tuple):
        return type(config)(map(_portable, config))
    if not isinstance(config, dict):
        return config
    made = {name: _portable(value) for name, value in config.items()}
    if str(made.get("module")).startswith("keras.src.backend.torch.optimizers."):
        made["module"] = "keras.optimizers"
    return made
