"""Text from files as a terminal may show it: a name can hold what a terminal would obey."""

from __future__ import annotations

import unicodedata
from typing import Any

__all__ = ["disarm", "lines", "printable"]

# Marks that let a line read in another order than it has.
_DIRECTIONS = {"\u061c", "\u200e", "\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
_NOT_SHOWN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, bytes that are no UTF-8, line and paragraph separators


def printable(text: Any) -> str:
    r"""Return a name or a message in one line, with what a terminal would obey or cannot show as Python writes it.

    Letters of all scripts, accents and emoji stay as they are.

    Args:
        text: Text, or anything whose `str` is shown.

    Example:
        >>> printable("blocks.0\x1b[2J")
        'blocks.0\\x1b[2J'
    """
    shown = f"{text}"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(map(_shown, shown))


def lines(text: Any) -> str:
    """Return a text of several lines with each made `printable`."""
    return "\n".join(map(printable, str(text).split("\n")))


def disarm(error: BaseException) -> None:
    """Make what an error says, and those behind it say, `printable`: Python prints tracebacks as they are."""
    while error is not None:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (lines(error.args[0]),)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _shown(character: str) -> str:
    if character in _DIRECTIONS or unicodedata.category(character) in _NOT_SHOWN:
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # the byte itself, in a name that is not UTF-8
            code -= 0xDC00
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    return character
