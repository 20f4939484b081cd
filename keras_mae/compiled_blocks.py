"""What `jit_compile=True` means on PyTorch: a transformer block with full attention becomes one compiled program.

Keras hands the whole training step to `torch.compile`, which breaks it into dozens of graphs. A block is large enough
for the compiler to fuse what lies between its products of matrices, and small enough to have no break.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import count
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import keras

from keras_mae._types import Tensor

__all__ = ["BlockPrograms", "as_one_program"]

_numbers = count()
_programs: ContextVar[BlockPrograms | None] = ContextVar("programs", default=None)


class BlockPrograms:
    """The compiled programs of a model's blocks, one for each kind of block.

    Args:
        wanted: Whether blocks are to be compiled at all.
    """

    def __init__(self, wanted: bool):
        self._wanted = wanted
        self._by_kind: dict[Any, Callable[..., Tensor]] = {}
        self._kinds: WeakKeyDictionary[keras.layers.Layer, Any] = WeakKeyDictionary()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let blocks that are called here be compiled, if they are to be."""
        token = _programs.set(self if self._wanted else None)
        try:
            yield
        finally:
            _programs.reset(token)

    def run(self, block: keras.layers.Layer, method: Callable[..., Tensor], *tensors: Any, **options: Any) -> Tensor:
        """Return `method(block, *tensors, **options)` by the program of this kind of block and call."""
        import torch

        if block not in self._kinds:
            unlike = ("name", "drop_path_rate")
            config = {name: value for name, value in block.get_config().items() if name not in unlike}
            shapes = tuple(variable.shape for variable in block.variables)
            self._kinds[block] = type(block), repr(config), shapes
        kind = self._kinds[block], repr(options), torch.is_grad_enabled()
        if kind not in self._by_kind:
            self._by_kind[kind] = _compile(block, method)
        return self._by_kind[kind]([variable.value for variable in block.variables], *tensors, **options)


def as_one_program(block: keras.layers.Layer, method: Callable[..., Tensor], *tensors: Any, **options: Any) -> Tensor:
    """Return `method(block, *tensors, **options)`, by a compiled program inside `BlockPrograms.used`.

    Args:
        block: Layer that is built.
        method: Function of its class that computes its output, and does nothing else.
        tensors: Tensors, or `None`.
        options: What is a part of the program.
    """
    programs = _programs.get()
    if programs is None:
        return method(block, *tensors, **options)
    return programs.run(block, method, *tensors, **options)


def _compile(block: keras.layers.Layer, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a method as a compiled function of (values of a block's variables, *tensors, **options)."""
    import torch

    _settle_device()
    variables = list(block.variables)

    def run(values: list[Any], *tensors: Any, **options: Any) -> Tensor:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return method(block, *tensors, **options)

    # By the code and its name PyTorch knows what it compiled: under one, blocks of two widths would be one program
    # for any width, and eight programs all that it makes.
    name = f"block_{next(_numbers)}"
    own = FunctionType(run.__code__.replace(co_name=name), run.__globals__, name, None, run.__closure__)
    compiled: Callable[..., Tensor] = torch.compile(own, fullgraph=True)
    return compiled


@cache
def _settle_device() -> None:
    """Let Keras' device be a constant of a program: asked for in between, it would break the graph."""
    import torch
    from keras.src.backend.torch import core  # has no public name

    torch.compiler.assume_constant_result(core.get_device)
