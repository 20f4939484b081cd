"""The layers that necks and heads are made of."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.ops import BatchNormalization, Convolution, add_shared
from keras_mae.random import to_uniform

__all__ = ["ChannelDropout", "ConvolutionNorm", "TransposedConvolution", "batch_norm"]


def batch_norm(name: str, policy: Any) -> BatchNormalization:
    """Return a BatchNorm with PyTorch's numbers."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=name, dtype=policy)


@keras.saving.register_keras_serializable(package="keras_mae")
class TransposedConvolution(keras.layers.Layer):
    """A transposed convolution of 2 x 2 with stride 2, which doubles the rows and columns of a map.

    Its products do not overlap, so that it is one matrix product, whose results are put side by side: the numbers of
    Keras' `Conv2DTranspose`, as fast on CPUs, and many times faster with JAX. The gradient of the bias is added up in
    float32 in every precision.

    Args:
        width: Number of channels that it returns.

    Call arguments:
        x: (batch, rows, columns, dim).

    Returns:
        (batch, 2 * rows, 2 * columns, width).

    The kernel is (dim, 4 * width), in the order (row, column, channel). PyTorch's (dim, width, 2, 2) becomes that by
    `kernel.transpose(0, 2, 3, 1).reshape(dim, -1)`.
    """

    def __init__(self, width: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.width = _checks.positive_int("width", width)

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(
            name="kernel", shape=(input_shape[-1], 4 * self.width), initializer="glorot_uniform"
        )
        self.bias = self.add_weight(name="bias", shape=(self.width,), initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[1:3]
        x = ops.reshape(ops.matmul(x, self.kernel), (-1, rows, columns, 2, 2, self.width))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 2 * rows, 2 * columns, self.width))
        return add_shared(x, self.bias)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(package="keras_mae")
class ConvolutionNorm(keras.layers.Layer):
    """A convolution without a bias, BatchNorm and ReLU.

    Args:
        width: Number of channels that it returns.
        kernel_size: Side of the kernel: 1, or 3 with zeros around the map.

    Call arguments:
        x: (batch, rows, columns, dim).
        training: Whether the statistics are the batch's.

    Returns:
        (batch, rows, columns, width).
    """

    def __init__(self, width: int, kernel_size: int = 3, **kwargs: Any):
        super().__init__(**kwargs)
        self.width = _checks.positive_int("width", width)
        self.kernel_size = _checks.one_of("kernel_size", kernel_size, (1, 3))

    def build(self, input_shape: Any) -> None:
        policy = self.dtype_policy
        self.convolution = Convolution(self.width, self.kernel_size, name="convolution", dtype=policy)
        self.norm = batch_norm("norm", policy)
        self.convolution.build(input_shape)
        self.norm.build((*input_shape[:-1], self.width))

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        return ops.relu(self.norm(self.convolution(x), training=training))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "kernel_size": self.kernel_size}


@keras.saving.register_keras_serializable(package="keras_mae")
class ChannelDropout(keras.layers.Layer):
    """Drops whole channels of a sample's map while training.

    Args:
        rate: Probability of dropping a channel.

    Call arguments:
        x: (batch, rows, columns, dim).
        noise: int32 (batch, dim), the draws, see `keras_mae.random.hash_noise`; `None` for those of Keras' own
            generator, which depend on the backend and start anew when a run is resumed.
        training: Whether it acts.

    Returns:
        `x` with channels zeroed and the others divided by 1 - `rate`.

    Reference: "Efficient Object Localization Using Convolutional Networks", section 3.2.
    """

    def __init__(self, rate: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = _checks.fraction("rate", rate)
        self.own = keras.layers.SpatialDropout2D(
            rate, data_format="channels_last", name="own", dtype=self.dtype_policy
        )
        self.built = self.own.built = True  # no weights; see `DropPath`

    def call(self, x: Tensor, noise: Tensor | None = None, training: bool | None = None) -> Tensor:
        if noise is None:
            return self.own(x, training=training)
        if not training:
            return x
        keep = ops.cast(to_uniform(noise) >= self.rate, x.dtype) / (1 - self.rate)
        return x * ops.reshape(keep, (-1, 1, 1, x.shape[-1]))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}
