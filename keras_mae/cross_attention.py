"""The decoder whose mask tokens read the encoder, and not one another."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.compiled_blocks import as_one_program
from keras_mae.decoder import Decoder, MAEDecoder
from keras_mae.fused_attention import attention
from keras_mae.ops import Linear
from keras_mae.transformer import MLP, check_heads

__all__ = ["DECODERS", "CrossAttention", "CrossAttentionBlock", "CrossAttentionDecoder"]


@keras.saving.register_keras_serializable(package="keras_mae")
class CrossAttention(keras.layers.Layer):
    """Multi-head attention of tokens to other tokens, which may have another width.

    Args:
        num_heads: Number of heads; divides the width of the tokens that ask.

    Call arguments:
        x: (batch, tokens, dim), the tokens that ask.
        context: (batch, context tokens, context dim), those that are asked.

    Returns:
        (batch, tokens, dim).

    Raises:
        ValueError: If the heads do not divide the width.

    Reference: "Attention Is All You Need", section 3.2.3, encoder-decoder attention.
    """

    def __init__(self, num_heads: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = _checks.positive_int("num_heads", num_heads)

    def build(self, x_shape: Any, context_shape: Any) -> None:
        dim = x_shape[-1]
        check_heads(dim, self.num_heads)
        self.query = Linear(dim, name="query", dtype=self.dtype_policy)
        self.key_value = Linear(2 * dim, name="key_value", dtype=self.dtype_policy)
        self.projection = Linear(dim, name="projection", dtype=self.dtype_policy)
        self.query.build(x_shape)
        self.key_value.build(context_shape)
        self.projection.build(x_shape)

    def call(self, x: Tensor, context: Tensor) -> Tensor:
        tokens, dim = x.shape[1:]
        width = dim // self.num_heads
        query = ops.reshape(self.query.call(x), (-1, tokens, self.num_heads, width))
        both = ops.reshape(self.key_value.call(context), (-1, context.shape[1], 2, self.num_heads, width))
        mixed = attention(query, *ops.unstack(both, 2, axis=2))
        return self.projection.call(ops.reshape(mixed, (-1, tokens, dim)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads}


@keras.saving.register_keras_serializable(package="keras_mae")
class CrossAttentionBlock(keras.layers.Layer):
    """x + attention(norm1(x), context_norm(context)), then x + mlp(norm2(x)).

    Args:
        num_heads: Number of heads; divides the width of the tokens.
        mlp_ratio: Width of the MLP's hidden layer over the width of the tokens.
        layer_norm_eps: Constant added to the variance in every norm.

    Call arguments:
        x: (batch, tokens, dim).
        context: (batch, context tokens, context dim).

    Returns:
        (batch, tokens, dim). No token reads another one of `x`.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(self, num_heads: int, mlp_ratio: float = 4.0, *, layer_norm_eps: float = 1e-6, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.layer_norm_eps = _checks.positive("layer_norm_eps", layer_norm_eps)
        policy = self.dtype_policy
        self.context_norm = keras.layers.LayerNormalization(epsilon=layer_norm_eps, name="context_norm", dtype=policy)
        self.norm1 = keras.layers.LayerNormalization(epsilon=layer_norm_eps, name="norm1", dtype=policy)
        self.attention = CrossAttention(num_heads, name="attention", dtype=policy)
        self.norm2 = keras.layers.LayerNormalization(epsilon=layer_norm_eps, name="norm2", dtype=policy)
        self.mlp = MLP(mlp_ratio, name="mlp", dtype=policy)

    def build(self, x_shape: Any, context_shape: Any) -> None:
        self.context_norm.build(context_shape)
        self.attention.build(x_shape, context_shape)
        for layer in (self.norm1, self.norm2, self.mlp):
            layer.build(x_shape)

    def call(self, x: Tensor, context: Tensor) -> Tensor:
        return as_one_program(self, CrossAttentionBlock._output, x, context)

    def _output(self, x: Tensor, context: Tensor) -> Tensor:
        # `call`, not `__call__`: see `TransformerBlock`.
        x = x + self.attention.call(self.norm1.call(x), self.context_norm.call(context))
        return x + self.mlp.call(self.norm2.call(x))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "layer_norm_eps": self.layer_norm_eps,
        }


@keras.saving.register_keras_serializable(package="keras_mae")
class CrossAttentionDecoder(Decoder):
    """A decoder whose tokens, a mask token and a position each, attend to the encoder's tokens only.

    They do not see one another, so a prediction does not depend on which others are asked for: with `predict_ratio`
    a share costs a share, and nothing else changes. Each block reads a mix of its own of all the encoder's blocks,
    with learned weights and a LayerNorm; the last block's output goes in after the encoder's final norm, so that this
    one is trained too. Keys and values are projected from the encoder's width.

    Args:
        embed_dim: Width of the tokens, a multiple of 4 and of `num_heads`.
        depth: Number of blocks; the paper has 12.
        num_heads: Attention heads.
        kwargs: `mlp_ratio`, `layer_norm_eps`, `remat`, and what `MaskedAutoencoder` fills in, as of `MAEDecoder`.

    Call arguments:
        tokens: (encoder blocks, batch, class tokens + kept, encoder width), the outputs of all the encoder's blocks.
        ids_keep: int32 (batch, kept), the visible patches.
        ids_removed: int32 (batch, removed), the patches to predict.
        removed_only: Whether to predict the removed patches only.
        training: Whether this is a training step, which `remat` is for.

    Returns:
        Predicted pixels, in the order [visible, removed]: (batch, kept + removed, pixels), or
        (batch, removed, pixels). Visible patches are predicted as if they were not seen at their own place.

    Raises:
        ValueError: If the arguments do not fit one another.

    Example:
        >>> encoder = keras_mae.ViTEncoder((32, 32, 3), patch_size=4, embed_dim=64, depth=2, num_heads=4)
        >>> decoder = keras_mae.CrossAttentionDecoder(32, depth=1, num_heads=4)
        >>> mae = keras_mae.MaskedAutoencoder(encoder, decoder, predict_ratio=1 / 3)

    Reference: "Rethinking Patch Dependence for Masked Autoencoders" (CrossMAE, arXiv 2401.14391), section 3.
    """

    kind = "cross_attention"
    reads_blocks = True
    _follows = "`depth` and `embed_dim`"

    def __init__(self, embed_dim: int = 512, depth: int = 12, num_heads: int = 16, **kwargs: Any):
        super().__init__(embed_dim, depth, num_heads, **kwargs)

    def make_layers(self) -> None:
        policy, eps = self.dtype_policy, self.layer_norm_eps
        self.blocks = [
            CrossAttentionBlock(
                self.num_heads, self.mlp_ratio, layer_norm_eps=eps, name=f"block_{index}", dtype=policy
            )
            for index in range(self.depth)
        ]

    def input_shape_of(self, width: int, depth: int) -> tuple[Any, ...]:
        return depth, None, None, width

    def build_blocks(self, tokens: tuple[Any, ...], input_shape: tuple[Any, ...]) -> None:
        sources = input_shape[0]
        # A vector for each block, not one matrix: no optimizer decays it or takes it for a projection.
        self.mixes = [
            self.add_weight(
                name=f"mix_{index}",
                shape=(sources,),
                initializer=keras.initializers.RandomNormal(stddev=sources**-0.5),
                autocast=False,
            )
            for index in range(self.depth)
        ]
        for block in self.blocks:
            block.build(tokens, input_shape[1:])

    def call(
        self,
        tokens: Tensor,
        ids_keep: Tensor,
        ids_removed: Tensor,
        removed_only: bool = False,
        training: bool | None = None,
    ) -> Tensor:
        ids = ids_removed if removed_only else ops.concatenate([ids_keep, ids_removed], axis=1)
        positions = ops.convert_to_tensor(self.position_embedding)
        x = ops.cast(self.mask_token + ops.take(positions[1:], ids, axis=0), self.compute_dtype)
        mixes = ops.stack([mix.value for mix in self.mixes])
        # All at once: one pass over the encoder's tokens, and one over their gradients.
        contexts = ops.einsum("dn,nbtw->dbtw", ops.cast(mixes, self.compute_dtype), tokens)
        for block, context in zip(self.running(training), ops.unstack(contexts, self.depth, axis=0), strict=True):
            x = block(x, context)
        return self.prediction(self.norm(x))


DECODERS: dict[str, type[Decoder]] = {kind.kind: kind for kind in (MAEDecoder, CrossAttentionDecoder)}
"""The decoders by the names that recipes and the command line have for them."""
