"""What TensorFlow computes between products on a CPU, compiled by XLA, and attention with a gradient of its own.

TensorFlow multiplies matrices faster than XLA does on a CPU, in bfloat16 several times; but of all else it makes one
pass over memory for each operation. So XLA compiles that alone, in training steps that are not compiled as a whole.
Imported inside functions, and by TensorFlow's training step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

from keras_mae._types import Tensor

__all__ = ["as_one_kernel", "attention", "gelu", "is_used", "used"]

_used: ContextVar[bool] = ContextVar("used", default=False)


@contextmanager
def used(wanted: bool) -> Iterator[None]:
    """Let a model that is called here compute with the functions of this module, if they are wanted."""
    token = _used.set(wanted)
    try:
        yield
    finally:
        _used.reset(token)


def is_used() -> bool:
    """Whether the functions of this module are to be taken; exported models are made of TensorFlow's operations."""
    return _used.get()


def as_one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that XLA compiles, inside a graph or outside of one; it has no gradient."""
    compiled: Callable[..., Any] = tf.function(function, jit_compile=True, autograph=False)
    return compiled


def _with_gradient(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """Return a function of the first result of this one; the second is the first one's gradient."""
    made: Callable[..., Tensor] = tf.custom_gradient(function)
    return made


# === GELU ===
@as_one_kernel
def _gelu(x: Tensor) -> Tensor:
    wide = _wide(x)
    return tf.cast(wide * _gaussian_share(wide), x.dtype)


@as_one_kernel
def _gelu_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    wide = _wide(x)
    slope = _gaussian_share(wide) + wide * tf.exp(-0.5 * tf.square(wide)) / math.sqrt(2 * math.pi)
    return tf.cast(_wide(gradient) * slope, x.dtype)


def _wide(x: Tensor) -> Tensor:
    """Return half precision as float32, and what is wider as it is."""
    return tf.cast(x, "float32") if x.dtype.size < 4 else x


def _gaussian_share(x: Tensor) -> Tensor:
    """Return the share of a normal distribution that is below `x`."""
    return 0.5 * (1 + tf.math.erf(x * math.sqrt(0.5)))


@_with_gradient
def gelu(x: Tensor) -> Any:
    """Return the exact (erf) GELU, computed in float32 at least."""
    return _gelu(x), lambda gradient: _gelu_gradient(gradient, x)


# === Attention ===
@_with_gradient
def attention(query: Tensor, key: Tensor, value: Tensor) -> Any:
    """Return scaled dot-product attention, everything as in `keras_mae.fused_attention.attention`."""
    scale = query.shape[-1] ** -0.5
    query, key, value = _swapped(query * tf.cast(scale, query.dtype)), _swapped(key), _swapped(value)
    weights = _softmax(tf.matmul(query, key, transpose_b=True))
    mixed = tf.matmul(weights, value)

    def backward(gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradient = _swapped(gradient)
        # What softmax's gradient subtracts, a sum over all tokens attended to, is this sum over the width of a head.
        shared = tf.reduce_sum(_wide(gradient) * _wide(mixed), -1, keepdims=True)
        logits = weights * (tf.matmul(gradient, value, transpose_b=True) - tf.cast(shared, weights.dtype))
        of_query = tf.matmul(logits, key) * tf.cast(scale, logits.dtype)
        of_key = tf.matmul(logits, query, transpose_a=True)
        of_value = tf.matmul(weights, gradient, transpose_a=True)
        return _swapped(of_query), _swapped(of_key), _swapped(of_value)

    return _swapped(mixed), backward


def _softmax(logits: Tensor) -> Tensor:
    """Return the softmax in the dtype of `logits`, added up in float32 at least: half precision may end early."""
    return tf.cast(tf.nn.softmax(_wide(logits)), logits.dtype)


def _swapped(x: Tensor) -> Tensor:
    """Swap the axes of tokens and heads."""
    return tf.transpose(x, (0, 2, 1, 3))
