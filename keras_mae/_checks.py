"""Argument errors in one wording: the argument, the rule, and what came."""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def argument_error(argument: str, rule: str, value: Any) -> ValueError:
    """Return the error to raise when `argument` breaks `rule`."""
    received = " ".join(f"{argument}={value!r}".split())
    if len(received) > 300:  # nobody reads a page of pixels
        has_shape = hasattr(value, "shape") and not isinstance(value, type)
        received = f"{argument}.shape={tuple(value.shape)}" if has_shape else f"{received[:300]}..."
    return ValueError(f"`{argument}` must be {rule}. Received: {received}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message that names the one of `known` that may have been meant, "" if none."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f". Did you mean {found[0]}?" if found else ""


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


def count(argument: str, value: Any) -> int:
    """Return `value` as an `int` of at least 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise argument_error(argument, "an integer of at least 0", value)
    return int(value)


def number(argument: str, value: Any, low: float, high: float, rule: str) -> float:
    """Return `value` as a `float` in [low, high); `rule` says so in words."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= float(value) < high:
        raise argument_error(argument, rule, value)
    return float(value)


def boolean(argument: str, value: Any) -> bool:
    """Return `value` if it is `True` or `False`: any text would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise argument_error(argument, "True or False", value)
    return bool(value)


def optional(check: Callable[[str, Any], Any], argument: str, value: Any) -> Any:
    """Return `None` as it is, and what `check` makes of any other value."""
    return None if value is None else check(argument, value)


def fraction(argument: str, value: Any) -> float:
    """Return `value` as a `float` in [0, 1)."""
    return number(argument, value, 0.0, 1.0, "in [0, 1)")


def within(argument: str, value: Any, high: float, rule: str | None = None) -> float:
    """Return `value` as a `float` in [0, high]; `rule` says so in words."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and value == high:
        return float(high)
    return number(argument, value, 0.0, high, rule or f"in [0, {high}]")


def share(argument: str, value: Any) -> float:
    """Return `value` as a `float` in (0, 1]."""
    if not isinstance(value, numbers.Real) or value == 0:
        raise argument_error(argument, "in (0, 1]", value)
    return within(argument, value, 1, "in (0, 1]")


def non_negative(argument: str, value: Any) -> float:
    """Return `value` as a finite `float` of at least 0."""
    return number(argument, value, 0.0, float("inf"), "a finite number of at least 0")


def positive(argument: str, value: Any) -> float:
    """Return `value` as a finite `float` above 0."""
    if not isinstance(value, numbers.Real) or value == 0:
        raise argument_error(argument, "a finite number above 0", value)
    return number(argument, value, 0.0, float("inf"), "a finite number above 0")


def rising(argument: str, value: Any, high: float = math.inf) -> tuple[float, float]:
    """Return `value`, two numbers above 0 and up to `high` that do not fall, as floats."""
    ends = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    known = all(isinstance(end, numbers.Real) and not isinstance(end, bool) and math.isfinite(end) for end in ends)
    if len(ends) != 2 or not known or not 0 < ends[0] <= ends[1] <= high:
        limit = "" if high == math.inf else f" and up to {high:g}"
        raise argument_error(argument, f"two rising numbers above 0{limit}", value)
    return float(ends[0]), float(ends[1])


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
    whole = all(isinstance(one, numbers.Integral) and not isinstance(one, bool) for one in several)
    if not several or not whole or not all(low <= int(one) < high for one in several):
        raise argument_error(argument, rule, value)
    return [int(one) for one in several]


def band_groups(argument: str, value: Any, channels: int | None = None) -> tuple[tuple[int, ...], ...]:
    """Return `value` as groups of channels that hold each of them once, those of `channels` if they are known."""
    rule = "groups of channels that hold each of them once, such as ((0, 1, 2), (3,))"
    several = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    if not several or any(isinstance(group, numbers.Integral) for group in value):
        raise argument_error(argument, rule, value)
    try:
        groups = tuple(tuple(indices(argument, group, 0, 2**31, rule)) for group in value)
    except ValueError:
        raise argument_error(argument, rule, value) from None
    held = sorted(channel for group in groups for channel in group)
    if channels is not None and held != list(range(channels)):
        raise argument_error(argument, f"{rule}: the images have {channels}", value)
    if held != list(range(len(held))):
        raise argument_error(argument, rule, value)
    return groups


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
    known = not isinstance(value, np.ndarray) and value in allowed  # an array has no one answer
    if not known or (isinstance(value, bool) and not any(item is value for item in allowed)):  # True is 1 to Python
        raise argument_error(argument, "one of " + ", ".join(repr(item) for item in allowed), value)
    return value


# === Objects ===
def instance(argument: str, value: Any, kind: Any, rule: str | None = None) -> Any:
    """Return `value` if it is a `kind`, a class or several; `rule` says so, "a keras_mae.KIND" by default."""
    if not isinstance(value, kind):
        raise argument_error(argument, rule or f"a keras_mae.{kind.__name__}", value)
    return value


def function(argument: str, value: Any, rule: str) -> Any:
    """Return `value` if it is a function, or an object that is called like one; `rule` says which."""
    if not callable(value) or isinstance(value, type):
        raise argument_error(argument, rule, value)
    return value


def text(argument: str, value: Any, rule: str = "a text that is not empty") -> str:
    """Return `value` if it is a text with something in it; `rule` says what it is."""
    if not isinstance(value, str) or not value:
        raise argument_error(argument, rule, value)
    return value


def path(argument: str, value: Any, rule: str = "a path") -> Path:
    """Return `value` as a path. An empty text is none, though `pathlib` takes it for the current folder."""
    if not isinstance(value, str | os.PathLike) or value == "" or isinstance(os.fspath(value), bytes):
        raise argument_error(argument, rule, value)
    return Path(value)


def has(argument: str, value: Any, attributes: Iterable[str], rule: str) -> Any:
    """Return `value` if it is an object, and no class, with these attributes: ours, or one that does as ours."""
    if isinstance(value, type) or not all(hasattr(value, name) for name in attributes):
        raise argument_error(argument, rule, value)
    return value


def options(value: Any, allowed: Mapping[str, Callable[[str, Any], Any]]) -> None:
    """Check those of the arguments `value`, by name, that `allowed` knows."""
    for name, check in allowed.items():
        if name in value:
            check(name, value[name])


# === Arrays ===
def array(argument: str, value: Any, rule: str) -> np.ndarray:
    """Return `value` as an array of numbers that is not empty; `rule` says which."""
    try:
        known: np.ndarray = np.asarray(value)
    except (TypeError, ValueError):  # rows of unequal length
        raise argument_error(argument, rule, type(value).__name__) from None
    if known.dtype.kind not in "biuf" and str(known.dtype) != "bfloat16":
        received = f"{argument}.dtype={known.dtype}" if known.dtype != object else f"a {type(value).__name__}"
        raise ValueError(f"`{argument}` must be {rule}. Received: {received}")
    if not known.size:
        raise ValueError(f"`{argument}` must be {rule}. Received: {argument}.shape={known.shape}")
    return known


def finite_numbers(argument: str, value: Any, rule: str) -> tuple[float, ...]:
    """Return `value`, a number or several in a row, as floats, all of them finite; `rule` says which."""
    known = array(argument, value, rule)
    if known.ndim > 1 or known.dtype.kind == "b" or not np.isfinite(known).all():
        raise argument_error(argument, rule, value)
    return tuple(np.ravel(known).astype(float).tolist())
