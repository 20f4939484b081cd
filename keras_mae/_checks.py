"""Argument errors in one wording: the argument, the rule, and what came."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any


def argument_error(argument: str, rule: str, value: Any) -> ValueError:
    """Return the error to raise when `argument` breaks `rule`."""
    received = f"{argument}={value!r}"
    if len(received) > 300 and hasattr(value, "shape"):  # nobody reads a page of pixels
        received = f"{argument}.shape={tuple(value.shape)}"
    return ValueError(f"`{argument}` must be {rule}. Received: {received}")


def positive_int(argument: str, value: Any) -> int:
    """Return `value` as an `int` of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise argument_error(argument, "a positive integer", value)
    return int(value)


def int_within(argument: str, value: Any, low: int, high: int) -> int:
    """Return `value` as an `int` in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= int(value) <= high:
        raise argument_error(argument, f"an integer in [{low}, {high}]", value)
    return int(value)


def seed_int(argument: str, value: Any) -> int:
    """Return `value` as a seed: an `int` in [0, 2**31)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 0 <= int(value) < 2**31:
        raise argument_error(argument, "an integer in [0, 2**31)", value)
    return int(value)


def number(argument: str, value: Any, low: float, high: float, rule: str) -> float:
    """Return `value` as a `float` in [low, high); `rule` says so in words."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= float(value) < high:
        raise argument_error(argument, rule, value)
    return float(value)


def boolean(argument: str, value: Any) -> bool:
    """Return `value` if it is `True` or `False`: any text would count as true."""
    if not isinstance(value, bool):
        raise argument_error(argument, "True or False", value)
    return value


def fraction(argument: str, value: Any) -> float:
    """Return `value` as a `float` in [0, 1)."""
    return number(argument, value, 0.0, 1.0, "in [0, 1)")


def within(argument: str, value: Any, high: float, rule: str | None = None) -> float:
    """Return `value` as a `float` in [0, high]; `rule` says so in words."""
    if value == high and not isinstance(value, bool):
        return float(high)
    return number(argument, value, 0.0, high, rule or f"in [0, {high}]")


def share(argument: str, value: Any) -> float:
    """Return `value` as a `float` in (0, 1]."""
    if value == 0:
        raise argument_error(argument, "in (0, 1]", value)
    return within(argument, value, 1, "in (0, 1]")


def non_negative(argument: str, value: Any) -> float:
    """Return `value` as a finite `float` of at least 0."""
    return number(argument, value, 0.0, float("inf"), "a finite number of at least 0")


def positive(argument: str, value: Any) -> float:
    """Return `value` as a finite `float` above 0."""
    if value == 0:
        raise argument_error(argument, "a finite number above 0", value)
    return number(argument, value, 0.0, float("inf"), "a finite number above 0")


def pair(argument: str, value: Any) -> tuple[int, int]:
    """Return `value`, an integer or two, as (height, width)."""
    if isinstance(value, numbers.Integral):
        value = (value, value)
    if not isinstance(value, Sequence) or len(value) != 2:
        raise argument_error(argument, "a positive integer or (height, width)", value)
    return positive_int(argument, value[0]), positive_int(argument, value[1])


def indices(argument: str, value: Any, low: int, high: int, rule: str) -> list[int]:
    """Return `value`, an integer or several, each in [low, high), as a list; `rule` says so in words."""
    several = [value] if isinstance(value, numbers.Integral) else list(value) if isinstance(value, Iterable) else []
    if not several or not all(isinstance(one, numbers.Integral) and low <= int(one) < high for one in several):
        raise argument_error(argument, rule, value)
    return [int(one) for one in several]


def image_shape(value: Any) -> tuple[int, int, int]:
    """Return `value` as (height, width, channels)."""
    if not isinstance(value, Sequence) or len(value) != 3:
        raise argument_error("image_shape", "(height, width, channels)", value)
    height, width, channels = (positive_int("image_shape", size) for size in value)
    return height, width, channels


def grid(shape: tuple[int, int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches; refuses a patch that does not divide the image."""
    if shape[0] % patch[0] or shape[1] % patch[1]:
        raise ValueError(
            "`patch_size` must divide the image's height and width. "
            f"Received: patch_size={patch}, image_shape={shape}"
        )
    return shape[0] // patch[0], shape[1] // patch[1]


def one_of(argument: str, value: Any, allowed: Iterable[Any]) -> Any:
    """Return `value` if it is among `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise argument_error(argument, "one of " + ", ".join(repr(item) for item in allowed), value)
    return value
