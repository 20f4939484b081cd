"""The types that the package gives names to."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Tensor"]

Tensor: TypeAlias = Any
"""A tensor of the backend, a NumPy array or a `keras.KerasTensor`: what `keras.ops` takes and returns.

Keras 3.15 has no type for it. Shapes and dtypes stand in the docstrings.
"""
