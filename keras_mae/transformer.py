"""The transformer block of encoder and decoder: pre-norm, fused qkv, exact GELU, drop path."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.compiled_blocks import as_one_program
from keras_mae.fused_attention import attention
from keras_mae.ops import Linear, gelu, linear, parted
from keras_mae.random import to_uniform

__all__ = ["MLP", "Attention", "DropPath", "TransformerBlock"]


@keras.saving.register_keras_serializable(package="keras_mae")
class Attention(keras.layers.Layer):
    """Multi-head self-attention with one projection for query, key and value.

    The projection is a single (dim, 3 * dim) matrix, so its Xavier limit is sqrt(6 / (4 * dim)); three
    separate matrices would start larger.

    Args:
        num_heads: Number of heads; divides the width of the tokens.

    Call arguments:
        x: (batch, tokens, dim).
        windows: `window_attention.Windows`, in whose order the tokens come, or any object with its `attention`. By
            default every token attends to all.
        wanted: Tokens that ask, a slice of them; all tokens are asked. Not with `windows`.

    Returns:
        (batch, tokens, dim), of the wanted ones only.

    Raises:
        ValueError: If the heads do not divide the width.

    Reference: "An Image is Worth 16x16 Words", section 3.1.
    """

    def __init__(self, num_heads: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = _checks.positive_int("num_heads", num_heads)

    def build(self, input_shape: Any) -> None:
        dim = input_shape[-1]
        check_heads(dim, self.num_heads)
        self.qkv = Linear(3 * dim, name="qkv", dtype=self.dtype_policy)
        self.projection = Linear(dim, name="projection", dtype=self.dtype_policy)
        self.qkv.build(input_shape)
        self.projection.build(input_shape)

    def _by_head(self, qkv: Tensor) -> list[Tensor]:
        """Return query, key and value, each (batch, tokens, heads, dim / heads), of a projection of all three."""
        tokens, width = qkv.shape[1], qkv.shape[2] // (3 * self.num_heads)
        # Three slices would cost three gradients.
        return list(ops.unstack(ops.reshape(qkv, (-1, tokens, 3, self.num_heads, width)), 3, axis=2))

    def _of_wanted(self, x: Tensor, wanted: slice) -> list[Tensor]:
        """Return what `_by_head` does of a projection, with the query of the wanted tokens only."""
        asking, dim = x[:, wanted], x.shape[-1]
        (kernel, kernels), (bias, biases) = parted(self.qkv.kernel, dim), parted(self.qkv.bias, dim)
        width = dim // self.num_heads
        query = ops.reshape(linear(asking, kernel, bias), (-1, asking.shape[1], self.num_heads, width))
        both = ops.reshape(linear(x, kernels, biases), (-1, x.shape[1], 2, self.num_heads, width))
        return [query, *ops.unstack(both, 2, axis=2)]

    def call(self, x: Tensor, windows: Any = None, wanted: slice | None = None) -> Tensor:
        attend = attention if windows is None else windows.attention
        parts = self._by_head(self.qkv.call(x)) if wanted is None else self._of_wanted(x, wanted)
        return self.projection.call(ops.reshape(attend(*parts), (-1, parts[0].shape[1], x.shape[-1])))

    def probabilities(self, x: Tensor, allowed: Any = None) -> Tensor:
        """Return how much of each token every token takes, float32 (batch, heads, tokens, tokens); rows sum to 1.

        For pictures: `call` leaves it to the backend's fused attention, which never holds this matrix.

        Args:
            x: (batch, tokens, dim), in reading order.
            allowed: Which tokens each token attends to, bool (tokens, tokens); all by default.
        """
        query, key, _ = (ops.cast(part, "float32") for part in self._by_head(self.qkv(x)))
        logits = ops.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
        if allowed is not None:
            logits = ops.where(ops.convert_to_tensor(allowed), logits, -1e9)
        return ops.softmax(logits, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads}


@keras.saving.register_keras_serializable(package="keras_mae")
class MLP(keras.layers.Layer):
    """Two projections with the exact (erf) GELU between them.

    Args:
        mlp_ratio: Width of the hidden layer over the width of the tokens.

    Call arguments:
        x: (batch, tokens, dim).

    Returns:
        (batch, tokens, dim).

    Reference: "An Image is Worth 16x16 Words", section 3.1.
    """

    def __init__(self, mlp_ratio: float = 4.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.mlp_ratio = _checks.positive("mlp_ratio", mlp_ratio)

    def build(self, input_shape: Any) -> None:
        dim = input_shape[-1]
        hidden = _checks.positive_int("embed_dim * mlp_ratio", round(dim * self.mlp_ratio))
        self.fc1 = Linear(hidden, name="fc1", dtype=self.dtype_policy)
        self.fc2 = Linear(dim, name="fc2", dtype=self.dtype_policy)
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], hidden))

    def call(self, x: Tensor) -> Tensor:
        return self.fc2.call(gelu(self.fc1.call(x)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mlp_ratio": self.mlp_ratio}


@keras.saving.register_keras_serializable(package="keras_mae")
class DropPath(keras.layers.Layer):
    """Drops a residual branch for whole samples while training (stochastic depth).

    The draw comes from outside, so that it follows (seed, step, sample) like the masks, and so that a
    recomputed forward pass drops the same samples.

    Args:
        drop_path_rate: Probability of dropping a sample's branch.

    Call arguments:
        x: (batch, ...), the branch.
        noise: int32 (batch,), see `keras_mae.random.hash_noise`.

    Returns:
        `x` with whole samples zeroed and the others divided by 1 - `drop_path_rate`.

    Reference: "Deep Networks with Stochastic Depth", section 3.
    """

    def __init__(self, drop_path_rate: float, **kwargs: Any):
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.drop_path_rate = _checks.fraction("drop_path_rate", drop_path_rate)
        self.built = True  # no weights; a layer that is not built makes Keras trace the model at every `fit`

    def call(self, x: Tensor, noise: Tensor) -> Tensor:
        return x * ops.reshape(self.factors(noise, x.dtype), (-1,) + (1,) * (len(x.shape) - 1))

    def factors(self, noise: Tensor, dtype: Any) -> Tensor:
        """Return what `call` multiplies each sample by, in the shape of `noise`."""
        return ops.cast(to_uniform(noise) >= self.drop_path_rate, dtype) / (1 - self.drop_path_rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "drop_path_rate": self.drop_path_rate}


@keras.saving.register_keras_serializable(package="keras_mae")
class TransformerBlock(keras.layers.Layer):
    """A pre-norm transformer block: x + attention(norm1(x)), then x + mlp(norm2(x)).

    Args:
        num_heads: Number of heads; divides the width of the tokens.
        mlp_ratio: Width of the MLP's hidden layer over the width of the tokens.
        drop_path_rate: Probability of dropping each of the two branches for a sample while training.
        layer_norm_eps: Added to the variance in both norms.

    Call arguments:
        x: (batch, tokens, dim).
        drop_path_noise: int32 (batch, 2), the draws for the two branches. No branch is dropped without it.
        windows: Windows in which tokens attend, as for `Attention`.
        wanted: Tokens whose output is wanted, a slice of them; all by default. The others are only attended to.

    Returns:
        (batch, tokens, dim), of the wanted ones only.

    Raises:
        ValueError: If the heads do not divide the width.

    Reference: "An Image is Worth 16x16 Words", section 3.1.
    """

    def __init__(
        self,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        drop_path_rate: float = 0.0,
        layer_norm_eps: float = 1e-6,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        # === Config ===
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.drop_path_rate = drop_path_rate
        self.layer_norm_eps = _checks.positive("layer_norm_eps", layer_norm_eps)

        # === Layers ===
        policy = self.dtype_policy
        self.norm1 = keras.layers.LayerNormalization(epsilon=layer_norm_eps, name="norm1", dtype=policy)
        self.attention = Attention(num_heads, name="attention", dtype=policy)
        self.norm2 = keras.layers.LayerNormalization(epsilon=layer_norm_eps, name="norm2", dtype=policy)
        self.mlp = MLP(mlp_ratio, name="mlp", dtype=policy)
        self.drop_path = DropPath(drop_path_rate, name="drop_path", dtype=policy)

    def build(self, input_shape: Any) -> None:
        for layer in (self.norm1, self.attention, self.norm2, self.mlp):
            layer.build(input_shape)

    def call(
        self, x: Tensor, drop_path_noise: Tensor | None = None, windows: Any = None, wanted: slice | None = None
    ) -> Tensor:
        kept = None if drop_path_noise is None else self.drop_path.factors(drop_path_noise, x.dtype)
        if windows is not None:  # they make masks on the host, in the middle of what would be one program
            return self._output(x, kept, windows, wanted)
        return as_one_program(self, TransformerBlock._output, x, kept, windows=None, wanted=wanted)

    def _output(self, x: Tensor, kept: Tensor | None, windows: Any, wanted: slice | None) -> Tensor:
        """Return the block's output; `kept` (batch, 2) multiplies the two branches of each sample."""

        def residual(branch: Tensor, which: int) -> Tensor:
            return branch if kept is None else branch * kept[:, which, None, None]

        # `call`, not `__call__`: each costs eager PyTorch 0.1 ms of bookkeeping, which the block did already.
        attended = self.attention.call(self.norm1.call(x), windows, wanted)
        x = (x if wanted is None else x[:, wanted]) + residual(attended, 0)
        return x + residual(self.mlp.call(self.norm2.call(x)), 1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "drop_path_rate": self.drop_path_rate,
            "layer_norm_eps": self.layer_norm_eps,
        }


def check_heads(embed_dim: int, num_heads: int) -> None:
    """Raise ValueError unless the heads divide the width."""
    if _checks.positive_int("embed_dim", embed_dim) % _checks.positive_int("num_heads", num_heads):
        raise ValueError(
            f"`num_heads` must divide `embed_dim`. Received: num_heads={num_heads}, embed_dim={embed_dim}"
        )
