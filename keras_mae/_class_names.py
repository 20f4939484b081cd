"""Names of classes: what a label means, wherever it comes from."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae._terminal import printable

__all__ = ["by_place", "check_places", "checked", "given_or_named", "listed", "named", "places", "usable"]

MOST_LISTED = 20


def checked(class_names: Any, count: int | None = None, argument: str = "class_names") -> tuple[str, ...] | None:
    """Return the names of classes, in the order of their labels; `None` stays `None`.

    Args:
        class_names: Names to check.
        count: Number of classes there are, if known.
        argument: Name of the argument in errors.

    Raises:
        ValueError: If they are not so many different non-empty strings.
    """
    if class_names is None:
        return None
    several = isinstance(class_names, Sequence | np.ndarray) and not isinstance(class_names, str | bytes)
    names = tuple(class_names) if several else ()
    texts = {name for name in names if isinstance(name, str) and name}
    if not names or len(texts) != len(names) or count not in (None, len(names)):
        number = "" if count is None else f"{count} "
        raise _checks.argument_error(argument, f"{number}different non-empty names, one for each class", class_names)
    return tuple(map(str, names))


def usable(class_names: Any, count: int | None = None) -> tuple[str, ...] | None:
    """Return the names that other software gives classes, or `None` unless they tell all classes apart."""
    try:
        return checked(class_names, count)
    except ValueError:
        return None


def named(data: Any) -> tuple[str, ...] | None:
    """Return the class names of a dataset or a source, as Keras' and our own have them, or `None`."""
    return usable(getattr(data, "class_names", None))


def given_or_named(class_names: Sequence[str] | None, data: Any) -> Sequence[str] | None:
    """Return the class names given, or else those of a dataset, if it has any."""
    return named(data) if class_names is None else class_names


def listed(class_names: Sequence[str]) -> str:
    """Return names in one line, the first ones if there are many."""
    rest = len(class_names) - MOST_LISTED
    return ", ".join(map(printable, class_names[:MOST_LISTED])) + (f" and {rest} more" if rest > 0 else "")


def places(class_names: Sequence[str], among: Sequence[str]) -> np.ndarray:
    """Return the place of each class's name among others, integers (classes,); the labels there are `places[labels]`.

    Raises:
        ValueError: If one is not among them; the message lists both.
    """
    numbers = {_same(name): number for number, name in enumerate(among)}
    if unknown := [name for name in class_names if _same(name) not in numbers]:
        raise ValueError(
            f"Classes must be among those known: {listed(among)}. Received: {listed(class_names)}, of which "
            f"unknown: {listed(unknown)}"
        )
    return np.array([numbers[_same(name)] for name in class_names], "int64")


def _same(name: str) -> str:
    """Return what equal names have in common: an accent may be a character of its own, as in macOS' file names."""
    return unicodedata.normalize("NFC", name)


def check_places(data: Any, own: Sequence[str] | None) -> None:
    """Raise a `ValueError` if a dataset's labels mean other classes than a classifier's own; names may be unknown."""
    names = named(data)
    if names is not None and own is not None and [*map(_same, names)] != [*map(_same, own[: len(names)])]:
        raise ValueError(
            "The dataset's labels mean other classes: its class names must be the classifier's, in their order, as "
            "from_directory(..., class_names=classifier.class_names) makes them. "
            f"Received: {listed(names)}; the classifier's are {listed(own)}"
        )


def by_place(class_names: Sequence[str], num_classes: int) -> str:
    """Return the notice that a classifier without names takes named classes by their place.

    Raises:
        ValueError: If there are not as many names as classes.
    """
    if len(class_names) != num_classes:
        raise ValueError(
            f"A classifier without class names takes labels by their place, and has {num_classes} classes. "
            f"Received: {len(class_names)} classes: {listed(class_names)}"
        )
    return (
        f"The classifier has no class names: its classes 0 to {num_classes - 1} are taken to be "
        f"{listed(class_names)}, in this order"
    )
