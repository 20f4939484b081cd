"""Necks: from the maps of a plain vision transformer, all of one scale, to pyramids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.dense.layers import TransposedConvolution, batch_norm
from keras_mae.dense.maps import TakesMaps, halved, widths
from keras_mae.ops import Convolution, gelu

__all__ = ["MultiLevelNeck", "SimplePyramid"]

SCALES: tuple[float, ...] = (4, 2, 1, 0.5)
"""The sizes of a simple pyramid's levels, over that of the map it is made of."""


@keras.saving.register_keras_serializable(package="keras_mae")
class MultiLevelNeck(TakesMaps):
    """A pyramid of four levels, each of another block: the neck of the published segmentation recipe.

    The first map gets 4 times its rows and columns (transposed convolution of 2 x 2, BatchNorm, GELU, transposed
    convolution), the second 2 times (transposed convolution), the third stays, and the fourth is halved by a
    max-pooling of 2 x 2, which leaves out an odd last row or column. With patches of 16 pixels the strides are 4, 8,
    16 and 32.

    Call arguments:
        maps: Four maps (batch, rows, columns, dim), in a list or as `ViTEncoder.features` returns them, from the
            earliest block to the latest. The recipe takes blocks 3, 5, 7 and 11 of ViT-B, and 7, 11, 15 and 23 of
            ViT-L, without the final norm.
        training: Whether BatchNorm's statistics are the batch's.

    Returns:
        A list of four maps, of 4, 2, 1 and 1/2 times the rows and columns, each as wide as it came.

    Raises:
        ValueError: If there are not four maps, or the last one is too small to be halved.

    Example:
        >>> encoder = keras_mae.ViTEncoder((64, 64, 3), patch_size=16, embed_dim=32, depth=4, num_heads=2)
        >>> maps = encoder.features(np.zeros((2, 64, 96, 3), "uint8"), blocks=(0, 1, 2, 3))
        >>> [tuple(level.shape) for level in keras_mae.dense.MultiLevelNeck()(maps)]
        [(2, 16, 24, 32), (2, 8, 12, 32), (2, 4, 6, 32), (2, 2, 3, 32)]

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.4, and its configuration in
    mmsegmentation, where this is `Feature2Pyramid`; the `MultiLevelNeck` there is another one.
    """

    number = 4

    def check_sizes(self, shapes: list[tuple[Any, ...]]) -> None:
        halved(shapes[3])

    def build(self, input_shape: Any) -> None:
        first, second, *_ = widths(input_shape)
        policy = self.dtype_policy
        self.up_2 = TransposedConvolution(first, name="up_2", dtype=policy)
        self.norm = batch_norm("norm", policy)
        self.up_4 = TransposedConvolution(first, name="up_4", dtype=policy)
        self.up = TransposedConvolution(second, name="up", dtype=policy)
        for layer in (self.up_2, self.norm, self.up_4):
            layer.build((None, None, None, first))
        self.up.build((None, None, None, second))

    def call(self, maps: list[Tensor], training: bool | None = None) -> list[Tensor]:
        first, second, third, fourth = maps
        quadrupled = self.up_4(gelu(self.norm(self.up_2(first), training=training)))
        return [quadrupled, self.up(second), third, _max_pool(fourth)]


@keras.saving.register_keras_serializable(package="keras_mae")
class SimplePyramid(TakesMaps):
    """A pyramid for detectors, from the last map of a plain vision transformer alone.

    Up to four branches make it 4 times (transposed convolution of 2 x 2 to dim / 2, LayerNorm, GELU, transposed
    convolution to dim / 4), 2 times (transposed convolution to dim / 2), 1 time and half as large (max-pooling of 2 x
    2, which leaves out an odd last row or column). On each come a convolution of 1 x 1 and one of 3 x 3, both without
    a bias and with a LayerNorm over the channels.

    Args:
        width: Number of channels of every level.
        p6: Whether one more level takes every second row and column of the last. Detectors that make their own
            coarse levels, such as KerasHub's RetinaNet, do without.
        scales: The levels' sizes, over the map's, from fine to coarse: some of 4, 2, 1 and 0.5. The finest one costs
            16 times as much as the map's own, which a detector that does not use it saves.

    Call arguments:
        maps: One map (batch, rows, columns, dim), its dim a multiple of 4, by itself or as `ViTEncoder.features`
            returns it.

    Returns:
        A list of maps, one for each of `scales` and P6, from fine to coarse. With patches of 16 pixels the strides of
        all five are 4, 8, 16, 32 and 64: the levels P2 to P6.

    Raises:
        ValueError: If there is more than one map, or it is too small to be halved.

    Example:
        >>> encoder = keras_mae.ViTEncoder((64, 64, 3), patch_size=16, embed_dim=32, depth=2, num_heads=2)
        >>> levels = keras_mae.dense.SimplePyramid(24)(encoder.features(np.zeros((2, 64, 96, 3), "uint8"), norm=True))
        >>> {f"P{2 + i}": tuple(level.shape) for i, level in enumerate(levels)}
        {'P2': (2, 16, 24, 24), 'P3': (2, 8, 12, 24), 'P4': (2, 4, 6, 24), 'P5': (2, 2, 3, 24), 'P6': (2, 1, 2, 24)}

    Reference: "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet), arXiv 2203.16527,
    section 3 and appendix A.2.
    """

    number = 1

    def __init__(self, width: int = 256, *, p6: bool = True, scales: Sequence[float] = SCALES, **kwargs: Any):
        super().__init__(**kwargs)
        self.width = _checks.positive_int("width", width)
        self.p6 = _checks.boolean("p6", p6)
        known = tuple(scales) if isinstance(scales, Sequence) else ()
        if not known or known != tuple(scale for scale in SCALES if scale in known):
            raise _checks.argument_error("scales", "some of (4, 2, 1, 0.5), in this order", scales)
        self.scales = known

    def check_sizes(self, shapes: list[tuple[Any, ...]]) -> None:
        if 0.5 in self.scales:
            halved(shapes[0])
        if shapes[0][-1] % 4:
            raise ValueError(f"`maps` must have a dim that is a multiple of 4. Received: a map of shape {shapes[0]}")

    def build(self, input_shape: Any) -> None:
        (dim,) = widths(input_shape)
        policy = self.dtype_policy
        if 4 in self.scales:
            self.up_2 = TransposedConvolution(dim // 2, name="up_2", dtype=policy)
            self.norm = self._layer_norm("norm")
            self.up_4 = TransposedConvolution(dim // 4, name="up_4", dtype=policy)
            for layer, width in ((self.up_2, dim), (self.norm, dim // 2), (self.up_4, dim // 2)):
                layer.build((None, None, None, width))
        if 2 in self.scales:
            self.up = TransposedConvolution(dim // 2, name="up", dtype=policy)
            self.up.build((None, None, None, dim))
        self.levels = []
        for level, scale in enumerate(SCALES):
            if scale not in self.scales:
                continue
            width = {4.0: dim // 4, 2.0: dim // 2}.get(scale, dim)
            layers = [
                Convolution(self.width, 1, name=f"level_{level}_narrow", dtype=policy),
                self._layer_norm(f"level_{level}_norm_1"),
                Convolution(self.width, 3, name=f"level_{level}_smooth", dtype=policy),
                self._layer_norm(f"level_{level}_norm_2"),
            ]
            for layer, dims in zip(layers, (width, *(self.width,) * 3), strict=True):
                layer.build((None, None, None, dims))
            self.levels.append(layers)

    def _layer_norm(self, name: str) -> keras.layers.LayerNormalization:
        return keras.layers.LayerNormalization(epsilon=1e-6, name=name, dtype=self.dtype_policy)

    def call(self, maps: list[Tensor]) -> list[Tensor]:
        (x,) = maps
        levels = []
        for scale, layers in zip(self.scales, self.levels, strict=True):
            level = self._scaled(x, scale)
            for layer in layers:
                level = layer(level)
            levels.append(level)
        return [*levels, levels[-1][:, ::2, ::2]] if self.p6 else levels

    def _scaled(self, x: Tensor, scale: float) -> Tensor:
        """Return the map at one of `scales`, before its convolutions."""
        if scale == 4:
            return self.up_4(gelu(self.norm(self.up_2(x))))
        if scale == 2:
            return self.up(x)
        return x if scale == 1 else _max_pool(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "p6": self.p6, "scales": self.scales}


def _max_pool(x: Tensor) -> Tensor:
    return ops.max_pool(x, 2, strides=2, padding="valid", data_format="channels_last")
