"""The training step on TensorFlow, under a distribution strategy too."""

from __future__ import annotations

import contextlib
import itertools
import re
from functools import cache
from typing import Any

import keras
import tensorflow as tf

from keras_mae import pixels, tensorflow_cpu
from keras_mae._types import Tensor
from keras_mae.distribution import batch_parts, several_workers, sums
from keras_mae.first_batch import Step, images_of, rows_of
from keras_mae.train_step.base import BaseTrainStep, poisoned

__all__ = ["TrainStep"]


class TrainStep(BaseTrainStep):
    """`train_step` and `test_step` with a tape, and what `tf.distribute` needs around them."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = self._unpack(data)
        weights = self.trainable_weights
        statistics = [tf.identity(statistic.value) for statistic in self.moving_statistics]
        with tensorflow_cpu.used(self._compiles_parts), tf.GradientTape() as tape:
            # By itself the tape overlooks what was frozen when it was made, as positions are.
            tape.watch([weight.value for weight in weights])
            outputs = self.outputs_for_loss(x, training=True)
            loss = self.compute_loss(x, y, outputs, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        # A weight without a part in the loss has no gradient, which is zero on JAX.
        gradients = [
            tf.zeros_like(weight.value) if gradient is None else gradient
            for weight, gradient in zip(weights, tape.gradient(scaled_loss, weights), strict=True)
        ]
        # Of the global batch first: what is clipped and whether it is finite must not differ between replicas.
        global_loss, *gradients = _global_means([loss, *gradients], _rows(x))
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in (global_loss, *gradients)])
        if self._scales_loss:
            self.optimizer.apply_gradients(zip(poisoned(gradients, finite), weights, strict=True))
        else:
            self._apply_if(finite, gradients)
        for statistic, before in zip(self.moving_statistics, statistics, strict=True):
            statistic.assign(tf.where(finite, statistic.value, before))
        return self._logs((x, y, sample_weight), outputs, loss, finite)

    def test_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = self._unpack(data)
        outputs = self.outputs_for_loss(x, training=False)
        loss = self.compute_loss(x, y, outputs, sample_weight, training=False)
        return self._logs((x, y, sample_weight), outputs, loss)

    def predict_step(self, data: Any) -> Any:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        self._unpack((x,))  # labels, if there are any, are nobody's
        return super().predict_step(data)

    def _unpack(self, data: Any) -> tuple[Any, Any, Any]:
        """Return images or dict, labels and sample weights of a batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self.check_batch(data))
        if self.jit_compile and isinstance(x, dict) and x.get("mask") is not None:
            raise ValueError(
                "TensorFlow drops the check of a given `mask` where it compiles with XLA. Use jit_compile=False, or "
                "give `ids_keep` and `ids_removed`. Received: a `mask` with jit_compile=True"
            )
        return x, y, sample_weight

    @property
    def _compiles_parts(self) -> bool:
        """Whether XLA compiles parts of the step: by default, on a CPU, where it does not compile all of it."""
        as_a_whole = self.jit_compile or self.run_eagerly or self._distribute_strategy is not None
        return self._asked_to_compile in ("auto", None) and not as_a_whole and _only_cpus()

    def _apply_if(self, finite: Tensor, gradients: list[Tensor]) -> None:
        """Update the weights if `finite`, a boolean scalar that is the same on every replica."""

        def apply(gradients: list[Any]) -> None:
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))

        if self._compiles_parts and _is_for_xla(self.optimizer, self.trainable_weights):
            apply = tensorflow_cpu.as_one_kernel(apply)
        if not _merges():
            tf.cond(finite, lambda: apply(gradients), lambda: None)
            return

        # Under these strategies an update leaves the replicas' own code, which it cannot do from within a `cond`:
        # the `cond` has to be outside of it.
        def together(strategy: Any, finite: Any, gradients: list[Any]) -> None:
            def on_each() -> None:
                strategy.extended.call_for_each_replica(apply, args=(gradients,))

            tf.cond(strategy.experimental_local_results(finite)[0], on_each, lambda: None)

        tf.distribute.get_replica_context().merge_call(together, args=(finite, gradients))

    def _logs(self, data: Any, outputs: Any, loss: Any, finite: Any = None) -> dict[str, Any]:
        """Return the logs of all replicas' batches so far."""
        logs = self.update_metrics(data, outputs, loss, finite)
        if batch_parts() == 1:
            return logs
        totals = sums([variable.value for variable in self.metrics_variables])
        with keras.StatelessScope(list(zip(self.metrics_variables, totals, strict=True))):
            results = self.get_metrics_result()
        # Keras reduces several workers' logs along an axis, which they must then have.
        return {name: tf.reshape(results[name], (1,)) if several_workers() else results[name] for name in logs}

    # === The look at the first batch ===
    train_function: Any
    test_function: Any
    _asked_to_compile: Any = "auto"
    _making: _GraphStep | None = None

    def make_train_function(self, force: bool = False) -> None:
        super().make_train_function(force)
        self.train_function.pending, self.train_function.before = True, self._trained.check_switches

    def make_test_function(self, force: bool = False) -> None:
        super().make_test_function(force)
        self.test_function.pending = True

    def _make_function(self, step_function: Any) -> Any:
        made = self._making = _GraphStep(self, None)
        made.function = super()._make_function(step_function)
        self._making = None
        return made

    def _autoconvert_optionals(self, step_function: Any) -> Any:
        # Keras passes through what this returns a batch that is out of its iterator and not yet in XLA.
        step, look = super()._autoconvert_optionals(step_function), self._making
        if look is None:  # `predict` gets its batches from outside
            return step

        def looked_at(data: Any) -> Any:
            if self.jit_compile:  # XLA drops what the step itself checks
                self.check_batch(data)
            with look.context(data):
                return step(data)

        return looked_at

    # === What Keras 3.15 does not do under a strategy ===
    def compile(self, *args: Any, **kwargs: Any) -> None:
        self._asked_to_compile = kwargs.get("jit_compile", "auto")
        super().compile(*args, **kwargs)
        if self._distribute_strategy is None or self.optimizer is None:
            return
        optimizer: Any = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if optimizer.gradient_accumulation_steps:
            raise ValueError(
                "Keras cannot accumulate gradients under tf.distribute: take more replicas, or JAX or PyTorch. "
                f"Received: gradient_accumulation_steps={optimizer.gradient_accumulation_steps}"
            )
        several = self._distribute_strategy.num_replicas_in_sync > 1
        if several and (self.steps_per_execution > 1 or self.jit_compile):
            raise ValueError(
                "With several replicas tf.distribute takes neither steps_per_execution nor jit_compile=True. "
                f"Received: steps_per_execution={self.steps_per_execution}, jit_compile={self.jit_compile}"
            )
        optimizer._all_reduce_sum_gradients = lambda pairs: pairs  # the step has done it

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras' own takes a batch and reduces it over the replicas, which only some batches can be.
        metrics = self._compile_metrics
        if self._distribute_strategy is None or not (metrics is None or metrics.built):
            super()._maybe_symbolic_build(iterator, data_batch)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Return Keras' own loss as a mean: Keras divides it by the replicas, so that their sum would be one."""
        return super().compute_loss(x, y, y_pred, sample_weight, training) * batch_parts()

    def compiled_loss(self, y: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        """Return the compiled loss as a mean, as `compute_loss` does."""
        return super().compiled_loss(y, y_pred, sample_weight) * batch_parts()

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        if "validation_data" in kwargs:
            kwargs["validation_data"] = _per_replica(kwargs["validation_data"])
        return super().fit(_per_replica(x), *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        return super().evaluate(_per_replica(x), *args, **kwargs)


class _GraphStep(Step):
    """A step that takes batches out of an iterator in a graph, which has to look at the first one itself.

    What TensorFlow checks in a graph it drops where it compiles with XLA: this is outside of that.
    """

    _FOUND = "keras_mae found {} pixels from {} to {} here"

    def __init__(self, model: Any, function: Any):
        super().__init__(model, function, together=True)
        with tf.init_scope(), tf.device("CPU"):  # where `tf.cond` reads it
            self.armed = tf.Variable(True, trainable=False, name="first_batch")

    def __call__(self, iterator: Any) -> Any:
        self.before()
        if self.pending:
            self.armed.assign(True)
            iterator = self._with_bytes_looked_at(iterator)
        try:
            outputs = self.function(iterator)
        except tf.errors.InvalidArgumentError as error:
            found = re.search(self._FOUND.format(*3 * ["([^ ]+)"]), str(error))
            if found:
                dtype, low, high = found.groups()
                pixels.check_extremes(float(low), float(high), dtype, self.model.encoder.pixel_range)
            raise
        if self.pending:
            self.armed.assign(False)
            self.pending = False
        return outputs

    def _with_bytes_looked_at(self, iterator: Any) -> Any:
        """Return an iterator over the batches of this call, after a look at the first if it is bytes.

        A graph does not look at bytes: it would cost every step something, for what is seldom wrong.
        """
        if not isinstance(iterator, tf.data.Iterator):  # under a strategy
            return iterator
        images = images_of(iterator.element_spec)
        if not isinstance(images, tf.TensorSpec) or images.dtype != tf.uint8:
            return iterator
        taken = list(itertools.islice(iterator, self.model.steps_per_execution))
        if taken:
            self.model.look(taken[0], together=True)
        return iter(tf.data.Dataset.from_generator(lambda: iter(taken), output_signature=iterator.element_spec))

    def context(self, data: Any) -> Any:
        """Look at a batch, and return the context of what is to come after."""
        if tf.executing_eagerly():
            self.look(data)
            return contextlib.nullcontext()
        self.model.look(data, together=True)  # at shape and type, as there are no values yet
        images = images_of(data)
        pixel_range = getattr(getattr(self.model, "encoder", None), "pixel_range", None)
        if images is None or pixel_range is None:
            return contextlib.nullcontext()
        strategy = self.model.distribute_strategy
        dtype = pixels.dtype_name(strategy.experimental_local_results(images)[0])
        if pixels.needs_no_look(dtype, pixel_range):
            return contextlib.nullcontext()

        def look() -> Tensor:
            extremes = strategy.run(_extremes, args=(images,))
            low, high = tf.unstack(strategy.experimental_local_results(extremes)[0])
            message = tf.strings.format(self._FOUND.replace("{}", dtype, 1), (low, high))
            tf.debugging.Assert(pixels.fits(low, high, pixel_range), [message])
            return tf.constant(True)

        return tf.control_dependencies([tf.cond(self.armed, look, lambda: tf.constant(True))])


def _extremes(images: Tensor) -> Tensor:
    """Return the smallest and the largest finite value of all replicas' parts, float32 (2,)."""
    values = tf.cast(images, "float32")
    finite = tf.math.is_finite(values)
    low, high = (tf.where(finite, values, limit) for limit in (float("inf"), float("-inf")))
    ends = tf.stack([tf.reduce_min(low), tf.reduce_max(high)])
    if batch_parts() == 1:
        return ends
    context = tf.distribute.get_replica_context()
    own = tf.range(context.num_replicas_in_sync) == tf.cast(context.replica_id_in_sync_group, "int32")
    by_replica = sums([tf.where(own[:, None], ends, 0.0)])[0]  # there is no other reduction everywhere
    return tf.stack([tf.reduce_min(by_replica[:, 0]), tf.reduce_max(by_replica[:, 1])])


def _is_for_xla(optimizer: Any, variables: list[Any]) -> bool:
    """Whether XLA compiles an optimizer's update, and makes it faster: AdamW's, without any code of the user's."""
    constraints = [variable.constraint for variable in variables if variable.constraint is not None]
    parts = (optimizer, optimizer._learning_rate, *constraints)
    known = all(type(part).__module__.partition(".")[0] in ("keras", "keras_mae") for part in parts)
    return known and isinstance(optimizer, keras.optimizers.AdamW)


@cache
def _only_cpus() -> bool:
    """Whether TensorFlow sees no other device."""
    return all(device.device_type == "CPU" for device in tf.config.list_physical_devices())


def _rows(x: Any) -> Tensor:
    """Return the number of samples in this replica's part of a batch."""
    return tf.shape(rows_of(x))[0]


def _global_means(means: list[Tensor], rows: Tensor) -> list[Tensor]:
    """Average each replica's mean over the global batch, weighted by its `rows` samples (possibly none)."""
    if batch_parts() == 1:
        return means
    own = [tf.where(rows > 0, mean * tf.cast(rows, mean.dtype), 0) for mean in means]
    rows, *totals = sums([tf.cast(rows, "float32"), *own])
    return [total / tf.cast(rows, total.dtype) for total in totals]


def _merges() -> bool:
    """Return whether an update leaves the replicas' own code."""
    strategy = tf.distribute.get_strategy()
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    return bool(tf.distribute.has_strategy() and strategy.extended._use_merge_call() and not on_tpu)


def _per_replica(dataset: Any) -> Any:
    """Share out batches of `keras_mae.data`, which are this process's part already, among its replicas.

    TensorFlow would share them out between workers again, and takes the batches' size from the wrong place where
    several crops are made of an image.
    """
    size = getattr(dataset, "static_size", None)
    if size is None or not tf.distribute.has_strategy():
        return dataset
    strategy = tf.distribute.get_strategy()

    def of_host(context: Any) -> Any:
        hosts = 1 if several_workers() else context.num_input_pipelines
        replicas = context.num_replicas_in_sync // context.num_input_pipelines
        part = dataset.rebatch(size // hosts).shard(hosts, context.input_pipeline_id % hosts)
        return part.rebatch(size // hosts // replicas, drop_remainder=True)

    shared = strategy.distribute_datasets_from_function(of_host)
    shared._cardinality = len(dataset)  # TensorFlow would count the replicas' parts, and Keras take them for steps
    return shared
