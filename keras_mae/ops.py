"""The few operations for which no single form is good on every backend.

Everything else in the package is plain `keras.ops`. Backends are imported inside the functions, so that
importing keras_mae imports none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae._types import Tensor
from keras_mae.distribution import batch_parts

__all__ = [
    "BatchNormalization",
    "Convolution",
    "Linear",
    "add_shared",
    "concrete",
    "constant",
    "gather_tokens",
    "gelu",
    "gradient",
    "linear",
    "log_softmax",
    "parted",
    "recomputing",
    "require",
]


def add_shared(x: Tensor, shared: Tensor) -> Tensor:
    """Return `x + shared` in the dtype of `x`, where many rows of `x` share one weight.

    The gradient of `shared` is a sum over those rows, and is added up in float32 on every backend. In bfloat16 a
    sum of ones ends at 256, in float16 at 2,048.

    Args:
        x: (batch, ..., dim).
        shared: Tensor of any float dtype that broadcasts against `x`.

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    dtype, backend = keras.backend.standardize_dtype(x.dtype), keras.backend.backend()
    if dtype not in ("bfloat16", "float16"):
        return ops.add(x, shared)
    # By themselves PyTorch adds up in float32, and TensorFlow what is bfloat16, but not the `bias_add` in `ops.add`.
    # JAX adds up in the dtype of the addition; XLA fuses the casts.
    if backend == "torch" or (backend == "tensorflow" and dtype == "bfloat16"):
        return x + ops.cast(shared, dtype)
    return ops.cast(ops.cast(x, "float32") + ops.cast(shared, "float32"), dtype)


def linear(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Return `x @ kernel + bias` over the last axis; the gradient of `bias` is added up in float32.

    PyTorch adds the bias inside the product; an addition of its own was 9 % of a training step. XLA fuses the two.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        rows = torch.addmm(ops.convert_to_tensor(bias), x.reshape(-1, x.shape[-1]), ops.convert_to_tensor(kernel))
        return rows.view(*x.shape[:-1], rows.shape[-1])
    if backend == "jax":
        from keras_mae import jax_cpu

        kernel = ops.convert_to_tensor(kernel)
        if jax_cpu.computes(x, kernel):
            return add_shared(jax_cpu.matmul(x, kernel), bias)
    return add_shared(ops.matmul(x, kernel), bias)


def constant(values: Any, like: Tensor) -> Tensor:
    """Return numbers of the host as a tensor where another one lies.

    PyTorch would wait until a GPU has done all that was asked of it before, and has taken the numbers.

    Args:
        values: A number, which gets the dtype of `like`, or an array, which keeps its own.
        like: Any tensor, or array.
    """
    if keras.backend.backend() != "torch":
        return ops.convert_to_tensor(values, None if isinstance(values, np.ndarray) else like.dtype)
    import torch

    like = ops.convert_to_tensor(like)
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values).to(like.device, non_blocking=True)
    return torch.full((), values, dtype=like.dtype, device=like.device)


class Linear(keras.layers.Dense):
    """`keras.layers.Dense` with the bias added inside the matrix product where a backend can.

    Without activation; Xavier-uniform kernel and zero bias, as the method initializes every projection.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return linear(inputs, self.kernel, self.bias)


@keras.saving.register_keras_serializable(package="keras_mae")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the statistics of the whole batch in training, however it is split.

    TensorFlow's replicas and PyTorch's processes add theirs up, and gradients pass through the sum; JAX has one
    batch. Its weights, and their names in files, are those of Keras' own layer.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, synchronized=keras.backend.backend() == "tensorflow", **kwargs)

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        fused = keras.backend.backend() == "torch" and batch_parts() == 1
        if not (fused and training and self.trainable) or mask is not None or getattr(self, "renorm", False):
            return super().call(inputs, training=training, mask=mask)
        import torch

        # One kernel takes a sixth of the time of Keras' operations on a large map, and needs no copy in float32.
        scale, offset = (None if weight is None else weight.value for weight in (self.gamma, self.beta))
        channels_second = (inputs if inputs.is_floating_point() else inputs.float()).movedim(self.axis, 1)
        outputs, mean, inverse = torch.native_batch_norm(
            channels_second, scale, offset, None, None, True, 0.0, self.epsilon
        )
        variance = (inverse**-2 - self.epsilon).clamp(min=0)
        for moving, current in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving.value * self.momentum + current * (1 - self.momentum))
        return ops.cast(outputs.movedim(1, self.axis), self.compute_dtype)

    def _moments(self, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        alone = batch_parts() == 1
        if keras.backend.backend() != "torch" or (alone and mask is not None):
            moments: tuple[Tensor, Tensor] = super()._moments(inputs, mask)
            return moments
        if alone:
            import torch

            # Keras subtracts two squares here: of equal numbers above 10 that may leave less than minus epsilon.
            variance, mean = torch.var_mean(inputs, self._reduction_axes, correction=0)
            return mean, variance
        if mask is not None:
            raise ValueError("In several PyTorch processes a BatchNorm takes no mask. Received: a mask")
        axes = self._reduction_axes
        count = inputs.numel() // inputs.shape[self.axis]
        add, shape = _sum_of_processes(), [1] * inputs.ndim
        shape[self.axis] = -1
        *sums, number = add(ops.concatenate([ops.sum(inputs, axes), inputs.new_full((1,), count)]), count).split(
            [inputs.shape[self.axis], 1]
        )
        mean = sums[0] / number
        # Of what is left of the mean, in a second sum: the difference of two large ones would be rounding.
        deviations = ops.sum(ops.square(inputs - ops.reshape(mean, shape)), axes)
        return mean, add(deviations, count) / number

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        del config["synchronized"]  # it goes by where the model is
        return config


class Convolution(keras.layers.Conv2D):
    """A convolution of 1 x 1 or 3 x 3 without a bias that leaves a map's size, its channels last.

    Args:
        width: Number of channels that it returns.
        kernel_size: Side of the kernel, an odd number; there are zeros around the map.
    """

    def __init__(self, width: int, kernel_size: int, **kwargs: Any):
        super().__init__(width, kernel_size, padding="same", use_bias=False, data_format="channels_last", **kwargs)

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        if keras.backend.backend() != "torch":
            return super().convolution_op(inputs, kernel)
        import torch

        # Keras copies maps to another layout and back, and their gradients: a quarter of a step of UPerNet.
        x, kernel = inputs.permute(0, 3, 1, 2), ops.convert_to_tensor(kernel).permute(3, 2, 0, 1)
        return torch.nn.functional.conv2d(x, kernel, padding="same").permute(0, 2, 3, 1)


@lru_cache(maxsize=1)
def _sum_of_processes() -> Callable[[Any, int], Any]:
    """Return the sum over PyTorch's processes, a function of a tensor and of this process's share of the batch.

    The step weights each process's loss by its share. The gradient that one process's loss sends to another's part of
    the sum has to be weighted so too.
    """
    import torch

    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, value: Any, share: int) -> Any:
            context.share = share
            total = value.clone()
            torch.distributed.all_reduce(total)
            return total

        @staticmethod
        def backward(context: Any, gradient: Any) -> Any:
            total = gradient * context.share
            torch.distributed.all_reduce(total)
            return total / context.share, None

    summed: Callable[[Any, int], Any] = Sum.apply
    return summed


def gelu(x: Tensor) -> Tensor:
    """Return the exact (erf) GELU.

    On TensorFlow Keras' own is written with `erfc`, which ONNX does not have: an exported model would not load.
    """
    if keras.backend.backend() == "tensorflow":
        from keras_mae import tensorflow_cpu

        if tensorflow_cpu.is_used():
            return tensorflow_cpu.gelu(x)
        return 0.5 * x * (1.0 + ops.erf(x * 0.7071067811865476))
    return ops.gelu(x, approximate=False)


def log_softmax(logits: Tensor) -> Tensor:
    """Return the logarithms of the probabilities that logits (..., classes) stand for.

    On a CPU PyTorch goes through a last axis of fewer than 16 numbers one by one, which takes three times as long.
    """
    if keras.backend.backend() != "torch" or logits.shape[-1] >= 16:
        return ops.log_softmax(logits, axis=-1)
    return ops.log_softmax(logits.movedim(-1, 0).contiguous(), axis=0).movedim(0, -1)


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick `ids` along the token axis.

    Args:
        tokens: (batch, tokens, dim).
        ids: int32 (batch, picked).

    Returns:
        (batch, picked, dim).
    """
    if keras.backend.backend() == "jax":
        # A row gather on (batch * tokens, dim) would make XLA all-gather the batch under data parallelism.
        return ops.take_along_axis(tokens, ops.expand_dims(ids, -1), axis=1)
    # TensorFlow's and PyTorch's take_along_axis gather scalar by scalar: 3 to 6 times slower than rows.
    batch, (count, dim) = ops.shape(tokens)[0], tokens.shape[1:]
    rows = ops.cast(ids, "int32") + ops.expand_dims(ops.arange(batch, dtype="int32") * count, 1)
    picked = ops.take(ops.reshape(tokens, (-1, dim)), ops.reshape(rows, (-1,)), axis=0)
    return ops.reshape(picked, (batch, -1 if ids.shape[1] is None else ids.shape[1], dim))


def concrete(tensor: Tensor) -> Any:
    """Return `tensor` as a NumPy array, or `None` inside a compiled or symbolic call, where it has no value yet.

    For a batch on several hosts this is the part on this host.
    """
    backend = keras.backend.backend()
    if isinstance(tensor, keras.KerasTensor):
        return None
    if backend == "tensorflow":
        import tensorflow as tf

        if not tf.executing_eagerly():
            return None
    elif backend == "jax":
        import jax

        if isinstance(tensor, jax.core.Tracer):
            return None
        if isinstance(tensor, jax.Array) and not tensor.is_fully_addressable:
            return np.concatenate([np.asarray(shard.data) for shard in tensor.addressable_shards])
    elif getattr(tensor, "is_meta", False) or hasattr(tensor, "fake_mode"):
        return None
    return ops.convert_to_numpy(tensor)


def require(condition: Tensor, message: str, *values: Tensor) -> None:
    """Raise an error that says `message` unless `condition`, a boolean scalar, holds.

    Eager code raises `ValueError` at once. Inside a compiled function the error comes from the running step,
    with the same message: TensorFlow's `InvalidArgumentError` or JAX's runtime error. TensorFlow drops the
    check where it compiles with XLA, which its training step therefore refuses.

    Args:
        condition: What must hold.
        message: What the error says, with `{}` for each of the values, or `{:.4g}`.
        values: Scalars that are known only when the condition is.
    """

    def check(condition: Any, *values: Any) -> None:
        if not condition:
            raise ValueError(message.format(*(np.asarray(value).tolist() for value in values)))

    known = concrete(condition)
    if known is not None:
        check(known, *map(concrete, values))
    elif keras.backend.backend() == "tensorflow" and not isinstance(condition, keras.KerasTensor):
        import tensorflow as tf

        def short(value: Any) -> Any:
            """Return a value with four digits: 0.3 in float32 would be printed as 0.299999982."""
            return tf.round(tf.cast(value, "float64") * 1e4) / 1e4 if value.dtype.is_floating else value

        between = message.replace("{:.4g}", "{}").split("{}")
        parts = [part for pair in zip(between, map(short, values), strict=False) for part in pair]
        tf.debugging.Assert(condition, [*parts, between[-1]])
    elif keras.backend.backend() == "jax" and not isinstance(condition, keras.KerasTensor):
        import jax

        jax.debug.callback(check, condition, *values)


def parted(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the first `size` entries of the last axis, and the others.

    Two slices would each cost a gradient of the whole; and for PyTorch, Keras makes a tensor of the size and reads it
    back, for which a GPU is waited for.
    """
    if keras.backend.backend() == "torch":
        first, others = ops.convert_to_tensor(x).split([size, x.shape[-1] - size], dim=-1)
    else:
        first, others = ops.split(ops.convert_to_tensor(x), [size], axis=-1)
    return first, others


def recomputing(layer: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a layer that keeps only what it is given for the backward pass, which then computes the rest again.

    Args:
        layer: Layer that draws nothing at random and changes no state. Tensors to differentiate by are positional
            arguments, or its weights; what the others hold stays in memory.

    Returns:
        A function of the layer's arguments with the same results and the same gradients, bit for bit but under XLA,
        which makes other kernels of another program, so that sums may round otherwise.
    """
    # PyTorch would keep the states of generators, too, which nothing here draws from.
    settings = {"preserve_rng_state": False} if keras.backend.backend() == "torch" else {}

    def call(*tensors: Tensor, **options: Any) -> Tensor:
        return keras.remat(lambda *given: layer(*given, **options))(*tensors, **settings)

    return call


def gradient(function: Callable[..., Any], variables: Sequence[Any] = ()) -> Callable[..., Any]:
    """Return the derivative of a function with respect to its first argument, by the backend's autodiff.

    Args:
        function: Function of (x, *others) that returns a scalar.
        variables: Keras variables that it reads. JAX compiles the derivative, and takes what is not named here for
            constants of the program.

    Returns:
        (x, *others) -> a tensor of the shape of `x`, which is a float tensor or array.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def with_values(x: Any, values: Any, *others: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function(x, *others)

        compiled = jax.jit(jax.grad(with_values))
        return lambda x, *others: compiled(x, [variable.value for variable in variables], *others)

    def with_tape(x: Any, *others: Any) -> Any:
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = function(x, *others)
        return tape.gradient(value, x)

    def with_graph(x: Any, *others: Any) -> Any:
        import torch

        x = ops.convert_to_tensor(x).detach().clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(function(x, *others), x)[0]

    return with_tape if backend == "tensorflow" else with_graph
