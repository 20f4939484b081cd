"""Weights of which each of several PyTorch processes holds a part: they are whole only while they are used.

A weight is put together where an operation reads it, and freed after it; the backward pass puts it together again,
and adds its gradient up into parts. Optimizers change the parts as they are. Vectors, such as biases and norms, would
cost a message each and save nothing: they are whole in every process.

All processes run one program, so that they read the same weights in the same order: no message says which one it is.

Reference: "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (arXiv 1910.02054), section 5.3.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import keras
import torch
from torch import distributed
from torch.multiprocessing.reductions import StorageWeakRef

from keras_mae._types import Tensor
from keras_mae.distribution import batch_parts, current

__all__ = [
    "ShardedVariable",
    "as_parts",
    "check",
    "is_active",
    "norms",
    "read_by_main",
    "reading_again",
    "share_out",
    "weighting",
]

_now: Any = SimpleNamespace(as_parts=False, announced=False, share=None, whole=None)
"""How weights are read at present; whether the others have to be told which; this process's share of the batch whose
gradients are computed; and, in a step's forward pass, the weights that were put together, by their storage."""

_shared_out: MutableMapping[int, ShardedVariable] = WeakValueDictionary()
"""What is shared out, by numbers that are the same in all processes."""
_numbers = itertools.count()

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_END = -1

# Renamed by PyTorch 2.13, which warns of the former names.
_gather: Any = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
_scatter_sums: Any = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor


def is_active() -> bool:
    """Return whether the enclosing scope shares out the weights of what is compiled in it."""
    return current().engine == "torch_fsdp" and batch_parts() > 1


def check(model: Any) -> None:
    """Raise ValueError unless the weights of a compiled model can be shared out, and its optimizer's slots."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    elementwise = isinstance(optimizer, keras.optimizers.Adam | keras.optimizers.SGD)
    if not elementwise:
        raise ValueError(
            "'torch_fsdp' takes optimizers that change each number by itself, AdamW, Adam and SGD: the others need "
            f"whole weights. Take 'torch_ddp' for it. Received: {type(optimizer).__name__}"
        )
    ours = hasattr(optimizer, "ema_warmup")
    if (optimizer.clipnorm or optimizer.global_clipnorm) and not ours:
        raise ValueError(
            "Under 'torch_fsdp' Keras' own optimizers would clip by the norms of parts: take "
            f"keras_mae.optimizers.AdamW. Received: {type(optimizer).__name__} with clipnorm={optimizer.clipnorm}, "
            f"global_clipnorm={optimizer.global_clipnorm}"
        )
    if model.jit_compile:
        raise ValueError(
            "Under 'torch_fsdp' weights are put together between operations, which cannot be compiled: "
            "jit_compile=False. Received: jit_compile=True"
        )
    constrained = [weight.path for weight in model.weights if weight.constraint is not None]
    if constrained:
        raise ValueError(
            f"Under 'torch_fsdp' a constraint would see a part of its weight. Received: one of {constrained[0]!r}"
        )


def share_out(variable: Any) -> None:
    """Leave this process its part of a weight or of an optimizer's slot, as it is in the first process.

    Floats with at least two axes are shared out; other variables, and those that are, stay as they are. All processes
    must call this.
    """
    value = variable._value
    if isinstance(variable, ShardedVariable) or not value.is_floating_point():
        return
    if sum(side > 1 for side in variable.shape) < 2:
        return
    distributed.broadcast(value.data, 0)
    # A new parameter: autograd may remember the shape of the one it was.
    variable._value = torch.nn.Parameter(_own(value.data).clone(), requires_grad=value.requires_grad)
    value.data = value.data.new_empty(0)  # layers have lists of parameters, too
    variable.__class__ = ShardedVariable
    variable.number = next(_numbers)
    _shared_out[variable.number] = variable


class ShardedVariable(keras.Variable):
    """A Keras variable that holds this process's part of its numbers, in a row, filled up with zeros.

    Its shape is that of the whole, and so is what is read of it and assigned to it, but for `as_parts`. All processes
    must read it together.

    Attributes:
        is_shared_out: True.
        number: What it is called between processes.
    """

    is_shared_out = True
    number: int

    @property
    def value(self) -> Tensor:
        with torch.no_grad():  # the gradient's dtype is not that of a cast
            found = super().value
        if found.ndim > 1:  # in a scope of Keras': what stands for the whole there
            return found
        return self._value if _now.as_parts else _Whole.apply(self._value, self, found.dtype)

    def assign(self, value: Any) -> Tensor:
        if not _now.as_parts:
            return super().assign(value)
        value = self._convert_to_tensor(value, dtype=self._dtype)
        with torch.no_grad():  # Keras resets slots by zeros of the whole shape
            self._value.copy_(value if value.shape == self._value.shape else _own(value))
        return value

    def _direct_assign(self, value: Any) -> None:
        with torch.no_grad():
            self._value.copy_(_own(value))

    def whole(self, dtype: torch.dtype) -> Tensor:
        """Return all of it in a dtype, in which it is sent, too."""
        if not distributed.is_initialized():
            raise ValueError(
                "A weight that is shared out can be read within its scope, by all processes together: save the model "
                f"there, and load the file. Received: {self.path!r}, after the scope of 'torch_fsdp' has ended"
            )
        if _now.announced:
            _told([self.number, _DTYPES.index(dtype)])
        part = self._value.detach().to(dtype)
        numbers = part.new_empty(part.numel() * distributed.get_world_size())
        _gather(numbers, part)
        if _now.whole is not None:
            storage = numbers.untyped_storage()
            _now.whole[storage._cdata] = _Known(StorageWeakRef(storage), self, dtype)
        return numbers[: math.prod(self.shape)].view(self.shape)


class _Whole(torch.autograd.Function):
    """All of a weight from its parts, whose gradient is the parts' of that of the whole batch."""

    @staticmethod
    def forward(context: Any, part: Tensor, variable: ShardedVariable, dtype: torch.dtype) -> Tensor:
        context.variable = variable
        return variable.whole(dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Any, ...]:
        variable = context.variable
        if _now.share is None:
            raise ValueError(
                "Weights that are shared out have gradients in a training step only, where it is known how many "
                f"samples each process has. Received: a backward pass of another program's to {variable.path!r}"
            )
        numbers = _padded(gradient.to(torch.float32) * _now.share)
        part = numbers.new_empty(variable._value.shape)
        _scatter_sums(part, numbers)
        return part.to(variable._value.dtype), None, None


class _Known(NamedTuple):
    """A weight that was put together in a forward pass; the reference keeps its storage's address from others."""

    storage: StorageWeakRef
    variable: ShardedVariable
    dtype: torch.dtype


class _Again(NamedTuple):
    """What the backward pass needs of a weight: it is put together again."""

    variable: ShardedVariable
    dtype: torch.dtype
    size: Any
    stride: Any
    offset: Any


def _padded(whole: Tensor) -> Tensor:
    """Return a tensor's numbers in a row, filled up with zeros so that all processes get as many."""
    numbers = whole.reshape(-1)
    return torch.nn.functional.pad(numbers, (0, -numbers.numel() % distributed.get_world_size()))


def _own(whole: Tensor) -> Tensor:
    return _padded(whole).chunk(distributed.get_world_size())[distributed.get_rank()]


# === Reading by one process ===
@contextlib.contextmanager
def read_by_main() -> Iterator[bool]:
    """Let the main process alone read weights within the block; the others give it their parts at the block's end.

    All processes must enter it. An error in the main process ends it in the others, too.

    Returns:
        A context manager of whether this is the main process.
    """
    if not current().is_main:
        yield False
        while (message := _told([_END, 0]))[0] != _END:
            _shared_out[message[0]].whole(_DTYPES[message[1]])
        return
    _now.announced = True
    try:
        yield True
    finally:
        _now.announced = False
        _told([_END, 0])


def _told(message: list[int]) -> list[int]:
    """Return the first process's message."""
    sent = torch.tensor(message, device="cuda" if torch.cuda.is_available() else "cpu")
    distributed.broadcast(sent, 0)
    return list(map(int, sent.tolist()))


# === Within a step ===
@contextlib.contextmanager
def as_parts() -> Iterator[None]:
    """Let weights and slots be read and assigned as this process's parts within the block."""
    before, _now.as_parts = _now.as_parts, True
    try:
        yield
    finally:
        _now.as_parts = before


@contextlib.contextmanager
def reading_again() -> Iterator[None]:
    """Keep no whole weight for the backward pass of what is computed within the block: it reads them again."""

    _now.whole = {}

    def kept(tensor: Tensor) -> Any:
        known = _now.whole.get(tensor.untyped_storage()._cdata)
        if known is None:
            return tensor
        return _Again(known.variable, known.dtype, tensor.size(), tensor.stride(), tensor.storage_offset())

    def needed(found: Any) -> Tensor:
        if not isinstance(found, _Again):
            return found
        return found.variable.whole(found.dtype).as_strided(found.size, found.stride, found.offset)

    try:
        with torch.autograd.graph.saved_tensors_hooks(kept, needed):
            yield
    finally:
        _now.whole = None


@contextlib.contextmanager
def weighting(loss: Tensor, rows: int) -> Iterator[None]:
    """Take the backward pass of the block for that of a loss of `rows` samples, this process's part of the batch."""
    everyone = torch.full((), float(rows), device=loss.device)
    distributed.all_reduce(everyone)
    _now.share = rows / everyone
    try:
        yield
    finally:
        _now.share = None


def norms(gradients: Sequence[Tensor], variables: Sequence[Any]) -> Tensor:
    """Return the Euclidean norm of each variable's whole gradient, (variables,), of this process's parts of them."""
    found = [norm.float() for norm in torch._foreach_norm(list(gradients))]
    parts = [place for place, variable in enumerate(variables) if isinstance(variable, ShardedVariable)]
    if parts:
        squares = torch.stack([found[place] for place in parts]).square()
        distributed.all_reduce(squares)
        for place, norm in zip(parts, squares.sqrt(), strict=True):
            found[place] = norm
    return torch.stack(found)
