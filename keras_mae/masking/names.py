"""Maskings by name: what recipes, the command line and files call them."""

from typing import Any

from keras_mae import _checks
from keras_mae.masking.base import Masking
from keras_mae.masking.layers import BlockMasking, GridMasking, RandomMasking
from keras_mae.masking.noise import COLORS, NoiseMasking

__all__ = ["NAMES", "arguments_of", "check_name", "describe", "make"]

_KINDS: dict[str, type[Masking]] = {"random": RandomMasking, "block": BlockMasking, "grid": GridMasking}
NAMES = (*_KINDS, *COLORS)
"""The names: "random", "block", "grid" and, for filtered noise, "green", "red", "blue" and "purple"."""


def make(name: str = "random", mask_ratio: float = 0.75, cell: int = 1) -> Masking:
    """Return the masking of this name.

    Args:
        name: "random", "block", "grid", or the color of a `NoiseMasking`: "green", "red", "blue" or "purple".
        mask_ratio: Fraction of the patches to remove.
        cell: Number of patches along each side of a cell, for "random".

    Raises:
        ValueError: If there is no such masking, it takes no cells, or an argument is out of range.

    Example:
        >>> masking = keras_mae.masking.make("random", 0.75, cell=2)
    """
    check_name(name, cell)
    if name == "random":
        return RandomMasking(mask_ratio, cell)
    return NoiseMasking(mask_ratio, name) if name in COLORS else _KINDS[name](mask_ratio)


def check_name(name: Any, cell: Any) -> None:
    """Raise ValueError unless there is a masking of this name, with cells of this size."""
    _checks.one_of("masking", name, NAMES)
    if _checks.positive_int("mask_cell", cell) > 1 and name != "random":
        raise ValueError(f"Cells are for random masking. Received: mask_cell={cell}, masking={name!r}")


def arguments_of(masking: Masking) -> dict[str, Any] | None:
    """Return the arguments by which `make` makes this masking, or `None` for one of a class of its own."""
    ratio = {"mask_ratio": masking.mask_ratio}
    if type(masking) is RandomMasking:
        return {"name": "random", **ratio, "cell": masking.cell}
    if type(masking) is NoiseMasking:
        return {"name": masking.color, **ratio}
    return next(({"name": name, **ratio} for name, kind in _KINDS.items() if type(masking) is kind), None)


def describe(masking: Masking) -> str:
    """Return the class of a masking and how it differs from others of its class, apart from the ratio."""
    name = type(masking).__name__
    if isinstance(masking, NoiseMasking):
        return f"{name}, {masking.color}"
    cell = masking.cell if isinstance(masking, RandomMasking) else 1
    return f"{name}, cells of {cell} x {cell}" if cell > 1 else name
