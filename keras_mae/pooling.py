"""Pooling: what makes one feature vector of an image's tokens."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor

__all__ = [
    "POOLINGS",
    "AttentivePooling",
    "check_pooling",
    "fitting_queries",
    "patch_tokens",
    "pool",
    "pool_tokens",
    "pooled_width",
]

POOLINGS = ("mean", "token", "attentive", "flatten")
"""What a classifier takes; all but "attentive" can be had of an encoder alone."""


@keras.saving.register_keras_serializable(package="keras_mae")
class AttentivePooling(keras.layers.Layer):
    """Pools patch tokens by the attention of learned queries, each of which makes one chunk of the feature vector.

    Of M queries, query j attends to the patches by softmax(q_j · x_i / sqrt(dim)) over the patches i; there is no
    key projection. The values W x, without a bias, are cut into M chunks of dim / M. Chunk j is the mean of the
    values' chunk j, weighted by query j's attention, and the chunks are put one after the other.

    Query j needs chunk j of the values only, so its weighted mean is taken of the tokens, and projected
    afterwards: the same numbers at a small part of the cost.

    Args:
        num_queries: Number of learned queries; divides the width of the tokens.

    Call arguments:
        patches: (batch, patches, dim), patch tokens after the encoder's final norm, without class tokens.

    Returns:
        (batch, dim).

    Raises:
        ValueError: If the queries do not divide the width.

    Example:
        >>> keras_mae.AttentivePooling()(np.zeros((2, 49, 128), "float32")).shape
        (2, 128)

    Reference: "Attention, Please! Revisiting Attentive Probing for Masked Image Modeling" (arXiv 2506.10178),
    "efficient probing"; 32 queries, which start normal with a standard deviation of 0.02.
    """

    def __init__(self, num_queries: int = 32, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_queries = _checks.positive_int("num_queries", num_queries)

    def build(self, input_shape: Any) -> None:
        dim = input_shape[-1]
        if dim % self.num_queries:
            raise ValueError(
                f"`num_queries` must divide the width of the tokens, {dim}, as {fitting_queries(dim)} does. "
                f"Received: num_queries={self.num_queries}"
            )
        self.queries = self.add_weight(
            name="queries",
            shape=(self.num_queries, dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.kernel = self.add_weight(name="kernel", shape=(dim, dim), initializer="glorot_uniform")

    def call(self, patches: Tensor) -> Tensor:
        dim = patches.shape[-1]
        attention = ops.cast(self.probabilities(patches), patches.dtype)
        pooled = ops.matmul(attention, patches)
        chunks = ops.reshape(self.kernel, (dim, self.num_queries, dim // self.num_queries))
        return ops.reshape(ops.einsum("bqd,dqc->bqc", pooled, chunks), (-1, dim))

    def probabilities(self, patches: Tensor) -> Tensor:
        """Return how much of each patch every query takes, float32 (batch, queries, patches); rows sum to 1.

        Args:
            patches: As in a call.
        """
        # The queries on the right: their gradient is then one product, added up in float32 also in bfloat16.
        scores = ops.swapaxes(ops.matmul(patches, ops.transpose(self.queries)), 1, 2)
        return ops.softmax(ops.cast(scores, "float32") / math.sqrt(patches.shape[-1]), axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_queries": self.num_queries}


def fitting_queries(embed_dim: int) -> int:
    """Return the number of queries for tokens of this width: 32, or the largest number below that divides it."""
    return next(number for number in range(32, 0, -1) if embed_dim % number == 0)


def patch_tokens(encoder: Any, tokens: Tensor) -> Tensor:
    """Return the patch tokens after the encoder's final norm, if it has one, (batch, patches, embed_dim).

    Args:
        encoder: A `ViTEncoder`.
        tokens: (batch, tokens, embed_dim), what its last block returned.
    """
    patches = tokens[:, encoder.class_tokens :]
    return patches if encoder.norm is None else encoder.norm(patches)


def pool(encoder: Any, images: Tensor, pooling: str, training: bool | None = False) -> Tensor:
    """Return one feature vector an image.

    Args:
        encoder: A `ViTEncoder`.
        images: (batch, height, width, channels) in the encoder's `pixel_range`.
        pooling: "mean", the mean of the patch tokens, without the class tokens and without the encoder's
            final norm; "token", the class token after the final norm, or the mean of several; or "flatten", all patch
            tokens after the final norm, one after the other.
        training: Whether drop path acts.

    Returns:
        (batch, embed_dim); (batch, patches * embed_dim) for "flatten".
    """
    return pool_tokens(encoder, encoder.encode(images, training=training), pooling)


def pool_tokens(encoder: Any, tokens: Tensor, pooling: str) -> Tensor:
    """Return `pool`, from what the encoder's last block returned."""
    count = encoder.class_tokens
    if pooling == "mean":
        return ops.mean(tokens[:, count:], axis=1)
    if pooling == "flatten":
        return ops.reshape(patch_tokens(encoder, tokens), (-1, pooled_width(encoder, pooling)))
    tokens = tokens if encoder.norm is None else encoder.norm(tokens)
    return tokens[:, 0] if count == 1 else ops.mean(tokens[:, :count], axis=1)


def check_pooling(encoder: Any, pooling: str) -> str:
    """Return `pooling` if an encoder has the tokens for it.

    Raises:
        ValueError: If there is no such pooling, or the encoder has no class token to take.
    """
    _checks.one_of("pooling", pooling, POOLINGS)
    if pooling == "token" and not encoder.class_tokens:
        raise ValueError(
            '`pooling="token"` takes an encoder with class tokens; without them use pooling="mean". '
            "Received: class_tokens=0"
        )
    return pooling


def pooled_width(encoder: Any, pooling: str) -> int:
    """Return the length of one image's feature vector."""
    return int(encoder.embed_dim * (encoder.num_patches if pooling == "flatten" else 1))
