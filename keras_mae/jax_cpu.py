"""Products of JAX whose gradients XLA computes on a CPU without copies. Imported inside functions only.

JAX writes the gradient of a matrix as the transpose of a product. XLA then takes the transpose into a factor, and
writes a copy of that: a fifth of a training step. Here each gradient is the product that it is. Functions with a
gradient of their own have no derivatives in forward mode (`jax.jvp`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import keras
from jax import lax
from jax import numpy as jnp

__all__ = ["attention", "computes", "matmul"]


def computes(*tensors: Any) -> bool:
    """Whether these are for the functions of this module: others' code, and half precision's, was not looked at."""
    if any(isinstance(tensor, keras.KerasTensor) or tensor.dtype != "float32" for tensor in tensors):
        return False
    return bool(jax.default_backend() == "cpu")


def matmul(x: Any, kernel: Any) -> Any:
    """Return `x @ kernel`, of (..., dim) and (dim, width)."""
    return _matmul(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def attention(query: Any, key: Any, value: Any) -> Any:
    """Return scaled dot-product attention, everything as in `keras_mae.fused_attention.attention`."""
    return _attention(query, key, value)


def _product(left: Any, right: Any, over: tuple[int, int], each: Sequence[int] = ()) -> Any:
    """Sum over one axis of each factor, for each index of the axes that both have."""
    return lax.dot_general(left, right, (((over[0],), (over[1],)), (each, each)))


# === Of rows and a matrix ===
def _matmul_forward(rows: Any, kernel: Any) -> tuple[Any, Any]:
    return _product(rows, kernel, (1, 0)), (rows, kernel)


def _matmul_backward(kept: Any, gradient: Any) -> tuple[Any, Any]:
    rows, kernel = kept
    return _product(gradient, kernel, (1, 1)), _product(rows, gradient, (0, 0))


_matmul: Any = jax.custom_vjp(lambda rows, kernel: _matmul_forward(rows, kernel)[0])
_matmul.defvjp(_matmul_forward, _matmul_backward)


# === Of attention ===
_HEADS = (0, 1)
"""The axes of (batch, heads, tokens, dim) that are computed one by one."""


def _attention_forward(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    query, key, value = (_swapped(part) for part in (query * query.shape[-1] ** -0.5, key, value))
    logits = _product(query, key, (3, 3), _HEADS)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    weights = weights * (1 / weights.sum(-1, keepdims=True))
    mixed = _product(weights, value, (3, 2), _HEADS)
    return _swapped(mixed), (query, key, value, weights, mixed)


def _attention_backward(kept: Any, gradient: Any) -> tuple[Any, Any, Any]:
    query, key, value, weights, mixed = kept
    gradient = _swapped(gradient)
    # What softmax's gradient subtracts, a sum over all tokens attended to, is this sum over the width of a head.
    shared = (gradient * mixed).sum(-1, keepdims=True)
    logits = weights * (_product(gradient, value, (3, 3), _HEADS) - shared)
    of_query = _product(logits, key, (3, 2), _HEADS) * query.shape[-1] ** -0.5
    of_key, of_value = _product(logits, query, (2, 2), _HEADS), _product(weights, gradient, (2, 2), _HEADS)
    return _swapped(of_query), _swapped(of_key), _swapped(of_value)


def _swapped(x: Any) -> Any:
    """Swap the axes of tokens and heads."""
    return jnp.swapaxes(x, 1, 2)


_attention: Any = jax.custom_vjp(lambda query, key, value: _attention_forward(query, key, value)[0])
_attention.defvjp(_attention_forward, _attention_backward)
