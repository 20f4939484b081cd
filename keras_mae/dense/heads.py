"""Heads: from maps to the logits of every place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.dense.layers import ChannelDropout, ConvolutionNorm, batch_norm
from keras_mae.dense.maps import TakesMaps, widths
from keras_mae.dense.resizing import pooled, resized
from keras_mae.ops import Linear

__all__ = ["FCNHead", "LinearHead", "UPerHead"]


class _Head(TakesMaps):
    """What all heads end with: dropout of channels, and a linear layer for every place.

    Logits are in the compute dtype. `dropout_noise`, int32 (batch, channels), are the draws for the dropout; without
    it they are Keras' own.
    """

    def __init__(self, num_classes: int, dropout_rate: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_classes = _checks.positive_int("num_classes", num_classes)
        self.dropout_rate = _checks.fraction("dropout_rate", dropout_rate)
        self.dropout = ChannelDropout(dropout_rate, name="dropout", dtype=self.dtype_policy)

    def build_logits(self, width: int) -> None:
        """Make the last layer, for maps of this width."""
        self.logits = Linear(
            self.num_classes,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="logits",
            dtype=self.dtype_policy,
        )
        self.logits.build((None, None, None, width))

    @property
    def channels(self) -> int:
        """The number of channels that dropout drops from, once the head is built: the width of `dropout_noise`."""
        return int(self.logits.kernel.shape[0])

    def logits_of(self, x: Tensor, dropout_noise: Tensor | None, training: bool | None) -> Tensor:
        """Return the logits of the head's last map."""
        return self.logits(self.dropout(x, noise=dropout_noise, training=training))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes, "dropout_rate": self.dropout_rate}


@keras.saving.register_keras_serializable(package="keras_mae")
class LinearHead(_Head):
    """A linear layer for every place, behind a BatchNorm: what frozen features are worth.

    Args:
        num_classes: Number of classes.
        dropout_rate: Probability of dropping a channel of an image while training.

    Call arguments:
        maps: Maps (batch, rows, columns, dim) of one block or of several, whose channels are put side by side, as
            `ViTEncoder.features` returns them or in a list. All have the size of the first one.
        training: Whether BatchNorm's statistics are the batch's, and channels are dropped.
        dropout_noise: int32 (batch, sum of the dims), the draws for the dropout; Keras' own by default.

    Returns:
        Logits (batch, rows, columns, num_classes).

    Raises:
        ValueError: If the maps differ in size.

    Example:
        >>> head = keras_mae.dense.LinearHead(21)
        >>> head([np.zeros((2, 14, 14, 32), "float32"), np.zeros((2, 14, 14, 32), "float32")]).shape
        (2, 14, 14, 21)

    Reference: "DINOv2: Learning Robust Visual Features without Supervision", section 7.4. The weights start normal
    with a standard deviation of 0.01.
    """

    def __init__(self, num_classes: int, dropout_rate: float = 0.1, **kwargs: Any):
        super().__init__(num_classes, dropout_rate, **kwargs)

    def check_sizes(self, shapes: list[tuple[Any, ...]]) -> None:
        if len({shape[1:3] for shape in shapes}) > 1:
            raise ValueError(f"`maps` must have the same rows and columns. Received: maps of shape {shapes}")

    def build(self, input_shape: Any) -> None:
        width = sum(widths(input_shape))
        self.norm = batch_norm("norm", self.dtype_policy)
        self.norm.build((None, None, None, width))
        self.build_logits(width)

    def call(self, maps: list[Tensor], training: bool | None = None, dropout_noise: Tensor | None = None) -> Tensor:
        x = ops.concatenate(maps, axis=-1) if len(maps) > 1 else maps[0]
        return self.logits_of(self.norm(x, training=training), dropout_noise, training)


@keras.saving.register_keras_serializable(package="keras_mae")
class FCNHead(_Head):
    """A convolution of 3 x 3 with BatchNorm and ReLU, and a linear layer for every place: the auxiliary head.

    Args:
        num_classes: Number of classes.
        width: Number of channels of the convolution.
        dropout_rate: Probability of dropping a channel of an image while training.

    Call arguments:
        maps: One map (batch, rows, columns, dim): in the published recipe the third of the neck's.
        training: Whether BatchNorm's statistics are the batch's, and channels are dropped.
        dropout_noise: int32 (batch, width), the draws for the dropout; Keras' own by default.

    Returns:
        Logits (batch, rows, columns, num_classes).

    Reference: "Fully Convolutional Networks for Semantic Segmentation"; 256 channels and a weight of 0.4 in the loss
    are the numbers of the recipe for masked autoencoders. The last weights start normal with a standard deviation of
    0.01.
    """

    number = 1

    def __init__(self, num_classes: int, width: int = 256, dropout_rate: float = 0.1, **kwargs: Any):
        super().__init__(num_classes, dropout_rate, **kwargs)
        self.width = _checks.positive_int("width", width)

    def build(self, input_shape: Any) -> None:
        (dim,) = widths(input_shape)
        self.convolution = ConvolutionNorm(self.width, name="convolution", dtype=self.dtype_policy)
        self.convolution.build((None, None, None, dim))
        self.build_logits(self.width)

    def call(self, maps: list[Tensor], training: bool | None = None, dropout_noise: Tensor | None = None) -> Tensor:
        return self.logits_of(self.convolution(maps[0], training=training), dropout_noise, training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(package="keras_mae")
class UPerHead(_Head):
    """The head of UPerNet: pyramid pooling of the coarsest map, a path from coarse to fine, and all levels fused.

    Every convolution has no bias, and a BatchNorm and ReLU behind it. The coarsest map is averaged in 1, 4, 9 and 36
    bins, which a convolution of 1 x 1 each and a resize bring back to its size; beside the map itself they go through
    one of 3 x 3. The other maps go through one of 1 x 1, get what is coarser than they are added, and go through one
    of 3 x 3. All are resized to the finest map's size, put side by side, and fused by one of 3 x 3. Every resize is
    bilinear, without aligned corners.

    Args:
        num_classes: Number of classes.
        width: Number of channels of every convolution; by default that of the finest map.
        pool_scales: How many bins each side is averaged in.
        dropout_rate: Probability of dropping a channel of an image while training.

    Call arguments:
        maps: Maps (batch, rows, columns, dim) from fine to coarse, such as the levels of `MultiLevelNeck`.
        training: Whether BatchNorm's statistics are the batch's, and channels are dropped.
        dropout_noise: int32 (batch, width), the draws for the dropout; Keras' own by default.

    Returns:
        Logits (batch, rows, columns, num_classes) of the size of the finest map.

    Example:
        >>> levels = [np.zeros((2, side, side, 32), "float32") for side in (16, 8, 4, 2)]
        >>> keras_mae.dense.UPerHead(21)(levels).shape
        (2, 16, 16, 21)

    Reference: "Unified Perceptual Parsing for Scene Understanding", section 3.1; the recipe for masked autoencoders
    takes the encoder's width, 768 for ViT-B and 1024 for ViT-L. The last weights start normal with a standard
    deviation of 0.01.
    """

    def __init__(
        self,
        num_classes: int,
        width: int | None = None,
        *,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout_rate: float = 0.1,
        **kwargs: Any,
    ):
        super().__init__(num_classes, dropout_rate, **kwargs)
        self.width = _checks.optional(_checks.positive_int, "width", width)
        self.pool_scales = _checks.indices("pool_scales", pool_scales, 1, 2**15, "one positive integer or more")

    def build(self, input_shape: Any) -> None:
        dims = widths(input_shape)
        width = self.width or dims[0]

        def convolution(name: str, dim: int, side: int) -> ConvolutionNorm:
            layer = ConvolutionNorm(width, side, name=name, dtype=self.dtype_policy)
            layer.build((None, None, None, dim))
            return layer

        self.pools = [convolution(f"pool_{scale}", dims[-1], 1) for scale in self.pool_scales]
        self.bottleneck = convolution("bottleneck", dims[-1] + len(self.pools) * width, 3)
        self.laterals = [convolution(f"lateral_{level}", dim, 1) for level, dim in enumerate(dims[:-1])]
        self.smooths = [convolution(f"smooth_{level}", width, 3) for level in range(len(dims) - 1)]
        self.fuse = convolution("fuse", len(dims) * width, 3)
        self.build_logits(width)

    def call(self, maps: list[Tensor], training: bool | None = None, dropout_noise: Tensor | None = None) -> Tensor:
        *finer, coarsest = maps
        sizes = [tuple(one.shape[1:3]) for one in maps]
        bins = [
            resized(pool(pooled(coarsest, scale), training=training), sizes[-1])
            for scale, pool in zip(self.pool_scales, self.pools, strict=True)
        ]
        levels = [lateral(one, training=training) for lateral, one in zip(self.laterals, finer, strict=True)]
        levels.append(self.bottleneck(ops.concatenate([coarsest, *bins], axis=-1), training=training))
        for level in range(len(finer) - 1, -1, -1):
            levels[level] = levels[level] + resized(levels[level + 1], sizes[level])
        smoothed = [smooth(one, training=training) for smooth, one in zip(self.smooths, levels[:-1], strict=True)]
        beside = [resized(one, sizes[0]) for one in (*smoothed, levels[-1])]
        x = self.fuse(ops.concatenate(beside, axis=-1), training=training)
        return self.logits_of(x, dropout_noise, training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "pool_scales": self.pool_scales}
