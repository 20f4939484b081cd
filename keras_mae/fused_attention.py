"""Attention by each backend's fused kernels, which keep no matrix of weights in memory; XLA on a CPU has none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
from keras import ops

from keras_mae._types import Tensor

__all__ = ["as_on_a_gpu", "attention"]

_as_on_a_gpu = False


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let PyTorch compute attention on a CPU as it does on a GPU: to count what that takes."""
    global _as_on_a_gpu
    _as_on_a_gpu = True
    try:
        yield
    finally:
        _as_on_a_gpu = False


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return scaled dot-product attention, as `keras.ops.dot_product_attention` does.

    In training on a CPU, PyTorch computes bfloat16 and float16 in float32: its fused backward pass takes up to ten
    times as long in them, longest with the few tokens that pre-training encodes.

    Args:
        query: (batch, tokens, heads, dim).
        key, value: (batch, context tokens, heads, dim).
        mask: Bool, broadcasts to (batch, heads, tokens, context tokens): what may be attended to. All, by default.

    Returns:
        (batch, tokens, heads, dim), in the dtype of `query`.

    Reference: "Attention Is All You Need", section 3.2.1.
    """
    parts = [query, key, value]
    backend = keras.backend.backend()
    if backend != "torch":
        if mask is not None:
            return ops.dot_product_attention(*parts, mask=mask)
        return _of_jax(*parts) if backend == "jax" else _of_tensorflow(*parts)
    dtype = query.dtype
    on_cpu = query.device.type == "cpu" and not _as_on_a_gpu
    if dtype.itemsize == 2 and on_cpu and any(part.requires_grad for part in parts):
        parts = [part.float() for part in parts]
    if mask is not None:
        return ops.dot_product_attention(*parts, mask=mask).to(dtype)
    # Keras copies query, key and value to where they lie in a row, which no kernel asks for.
    import torch

    mixed = torch.nn.functional.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
    return mixed.transpose(1, 2).to(dtype)


def _of_jax(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    from keras_mae import jax_cpu

    if jax_cpu.computes(query, key, value):
        return jax_cpu.attention(query, key, value)
    attend = _by_cudnn if _lacks_a_token_for_cudnn(query, key) else ops.dot_product_attention
    return attend(query, key, value)


def _of_tensorflow(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    from keras_mae import tensorflow_cpu

    attend = tensorflow_cpu.attention if tensorflow_cpu.is_used() else ops.dot_product_attention
    return attend(query, key, value)


def _lacks_a_token_for_cudnn(query: Tensor, key: Tensor) -> bool:
    """Whether JAX would not train by cuDNN's fused attention only because a number of tokens is odd."""
    if not (query.shape[1] % 2 or key.shape[1] % 2):
        return False
    import jax
    from keras.src.backend.jax.nn import _can_use_flash_attention  # has no public name

    return jax.default_backend() == "gpu" and bool(_can_use_flash_attention(query, key, key, None))


def _by_cudnn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention by cuDNN's kernel, which trains with even numbers of tokens only: one more is masked out."""
    import jax
    import jax.numpy as jnp

    lengths = [jnp.full(query.shape[:1], part.shape[1], "int32") for part in (query, key)]
    even = [jnp.pad(part, ((0, 0), (0, part.shape[1] % 2), (0, 0), (0, 0))) for part in (query, key, value)]
    mixed = jax.nn.dot_product_attention(
        *even, query_seq_lengths=lengths[0], key_value_seq_lengths=lengths[1], implementation="cudnn"
    )
    return mixed[:, : query.shape[1]]
