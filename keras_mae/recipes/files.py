"""Recipes as TOML files: everything that a run was told, with where each value comes from."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keras_mae import _checks
from keras_mae._terminal import printable
from keras_mae.recipes.sources import table

__all__ = ["NONE", "TRAINING", "Settings", "as_text", "parsed", "read", "says_the_same", "training_table"]

Settings = Mapping[str, Mapping[str, tuple[Any, str]]]
"""(value, where it comes from) by name, by table; the table "" is above the others."""

TRAINING = "training"
"""Name of the table that holds the fields of the recipe."""
NONE = "none"
"""What stands for `None`, which TOML lacks."""


def read(path: str | Path) -> dict[str, Any]:
    """Return the content of a recipe file, `None` for "none" and tuples for lists.

    Args:
        path: Path of the file.

    Raises:
        ValueError: If there is no such file, or it is not TOML.
    """
    path = _checks.path("path", path)
    if not path.is_file():
        raise ValueError(f"There is no recipe file {str(path)!r}")
    try:
        content: dict[str, Any] = _plain(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:  # also bytes that are not UTF-8
        raise ValueError(f"The recipe file {str(path)!r} is not TOML: {error}") from error
    return content


def says_the_same(path: Path, text: str) -> bool:
    """Return whether a recipe file has the values of another one, whatever their comments."""
    try:
        return bool(read(path) == _plain(tomllib.loads(text)))
    except ValueError:
        return False


def parsed(text: str) -> Any:
    """Return the value that a text is in TOML, or else the text itself, as a shell's user types it.

    Example:
        >>> [parsed(text) for text in ("3", "1e-3", "[0.2, 1]", "none", "adamw")]
        [3, 0.001, (0.2, 1), None, 'adamw']
    """
    try:
        values = tomllib.loads(f"value = {text}")
    except ValueError:
        values = {"value": text}
    return _plain(values["value"] if values.keys() == {"value"} else text)


def training_table(recipe: Any) -> dict[str, tuple[Any, str]]:
    """Return the fields of a recipe and where their values come from, by name."""
    values = recipe.to_dict()
    return {name: (values[name], note) for name, _, note in table(recipe)}


def as_text(header: Iterable[str], settings: Settings) -> str:
    """Return a recipe file.

    Args:
        header: Lines to begin with, as comments.
        settings: Values, and what to say beside each. One that TOML cannot hold, such as a name in other bytes than
            UTF-8, becomes a comment.
    """
    lines = [f"# {printable(line)}".rstrip() for line in header]
    for name, values in settings.items():
        rows = {key: (_value(value), note) for key, (value, note) in values.items()}
        width = max((len(f"{key} = {text}") for key, (text, _) in rows.items() if text), default=0)
        lines += ["", f"[{name}]"] if name else [""]
        for key, (text, note) in rows.items():
            said = f"# {printable(note)}".rstrip("# ")
            if text is None:
                lines.append(f"# {key} = {printable(values[key][0])}  (which TOML cannot hold)")
            else:
                lines.append(f"{f'{key} = {text}':{min(width, 60)}}  {said}".rstrip())
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """Return a value of TOML with `None` for "none" and tuples for lists."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return tuple(_plain(inner) for inner in value)
    return None if value == NONE else value


def _value(value: Any) -> str | None:
    """Return a value as TOML writes it, or `None` if it cannot."""
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value) if not isinstance(value, float) or math.isfinite(value) else f"{value}"
    if isinstance(value, list | tuple):
        inner = [_value(one) for one in value]
        return None if None in inner else f"[{', '.join(map(str, inner))}]"
    return _text(str(value))  # paths among them


def _text(text: str) -> str | None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return None
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    shown = (f"\\u{ord(one):04X}" if ord(one) < 32 or ord(one) == 127 else one for one in escaped)
    return f'"{"".join(shown)}"'
