"""What the decoder reads of the encoder: its output, or several blocks fused into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.decoder import Decoder
from keras_mae.encoder import ViTEncoder
from keras_mae.ops import Linear

__all__ = ["BlockFusion", "copy_weights", "encoded", "fused_blocks", "fusion_of"]


@keras.saving.register_keras_serializable(package="keras_mae")
class BlockFusion(keras.layers.Layer):
    """Fuses the outputs of several encoder blocks into the input of the decoder.

        sum over k of softmax(mix)[k] * P_k(h_k)

    h_k is the output of a block, and P_k a linear layer, but for the last block: its output goes in as it is. The
    weights `mix` start equal. The decoder then gets details from low blocks, and the last one need not carry them.
    The layer belongs to the `MaskedAutoencoder` and is dropped with its decoder.

    Args:
        num_blocks: Number of blocks to fuse, 2 or more.

    Call arguments:
        outputs: Outputs of the blocks, a list of (batch, tokens, dim), that of the last block last.

    Returns:
        (batch, tokens, dim).

    Raises:
        ValueError: If there is nothing to fuse.

    Reference: "Improving Pixel-based MIM by Reducing Wasted Modeling Capability" (MFF, arXiv 2308.00261), section 3.
    """

    def __init__(self, num_blocks: int, **kwargs: Any):
        kwargs.setdefault("name", "fusion")
        super().__init__(**kwargs)
        self.num_blocks = _checks.positive_int("num_blocks", num_blocks)
        if num_blocks == 1:
            raise _checks.argument_error("num_blocks", "2 or more", num_blocks)

    def build(self, input_shape: Any) -> None:
        shape = input_shape[-1] if isinstance(input_shape[-1], tuple | list) else input_shape  # of one, or of a list
        self.projections = [
            Linear(shape[-1], name=f"projection_{index}", dtype=self.dtype_policy)
            for index in range(self.num_blocks - 1)
        ]
        for projection in self.projections:
            projection.build(shape)
        self.mix = self.add_weight(name="mix", shape=(self.num_blocks,), initializer="zeros", autocast=False)

    def call(self, outputs: list[Tensor]) -> Tensor:
        shares = ops.unstack(ops.softmax(ops.convert_to_tensor(self.mix)), self.num_blocks)
        projected = [projection.call(one) for projection, one in zip(self.projections, outputs, strict=False)]
        # In float32, or the gradient of a share would be added up over the whole batch in bfloat16.
        terms = [
            ops.cast(one, "float32") * share for one, share in zip([*projected, outputs[-1]], shares, strict=True)
        ]
        return ops.cast(sum(terms[1:], terms[0]), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_blocks": self.num_blocks}


def fused_blocks(fuse_blocks: Any, depth: int) -> tuple[int, ...]:
    """Return which blocks of an encoder are fused, in rising order.

    Args:
        fuse_blocks: Their indices; negative ones count from the end.
        depth: Number of the encoder's blocks.

    Raises:
        ValueError: If they are not two or more different blocks, the last one among them: what is above the last
            one would not be trained.
    """
    rule = f"two or more different blocks of the encoder's {depth}, the last one ({depth - 1} or -1) among them"
    found = _checks.indices("fuse_blocks", fuse_blocks, -depth, depth, rule)
    places = sorted({index % depth for index in found})
    if len(places) != len(found) or len(places) < 2 or places[-1] != depth - 1:
        raise _checks.argument_error("fuse_blocks", rule, fuse_blocks)
    return tuple(places)


def fusion_of(num_blocks: int, encoder: ViTEncoder, decoder: Decoder) -> BlockFusion | None:
    """Return the layer that fuses so many blocks of an encoder; `None` for no blocks.

    Raises:
        ValueError: If the decoder reads all blocks itself.
    """
    if not num_blocks:
        return None
    if decoder.reads_blocks:
        raise ValueError(
            f"`fuse_blocks` is for an MAEDecoder: a {type(decoder).__name__} mixes all blocks itself. "
            f"Received: {num_blocks} blocks to fuse"
        )
    fusion = BlockFusion(num_blocks, dtype=encoder.dtype_policy)
    fusion.build((None, None, encoder.embed_dim))
    return fusion


def copy_weights(source: BlockFusion | None, target: BlockFusion | None) -> None:
    """Give one layer the weights of another, if there are any."""
    if source is not None and target is not None:
        target.set_weights(source.get_weights())


def encoded(
    encoder: ViTEncoder,
    decoder: Decoder,
    images: Tensor,
    ids_keep: Tensor,
    training: bool | None,
    fusion: BlockFusion | None = None,
    blocks: Sequence[int] = (),
) -> Tensor:
    """Return what a decoder reads: the encoder's output, that of several blocks fused, or those of all blocks.

    Args:
        encoder: The encoder.
        decoder: The decoder.
        images: (batch, height, width, channels).
        ids_keep: int32 (k * batch, kept), the patches to encode.
        training: Whether this is a training step.
        fusion: What fuses the blocks; `None` for the encoder's output alone.
        blocks: Indices of the blocks to fuse, rising.
    """
    if decoder.reads_blocks:
        *outputs, last = encoder.encode(images, ids_keep, training, blocks=range(encoder.depth))
        return ops.stack([*outputs, last if encoder.norm is None else encoder.norm(last)])
    if fusion is None:
        return encoder(images, ids_keep=ids_keep, training=training)
    tokens = fusion(encoder.encode(images, ids_keep, training, blocks=blocks))
    return tokens if encoder.norm is None else encoder.norm(tokens)
