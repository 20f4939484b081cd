"""What the commands print: names from files are shown, and never obeyed by a terminal or taken for rich's markup."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from keras_mae import _terminal

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["add_row", "complain", "echo", "existing", "table"]


def echo(text: Any) -> None:
    """Print a text."""
    typer.echo(_terminal.lines(text))


def complain(message: str) -> None:
    """Print one line on stderr that says what is wrong."""
    print(f"Error: {_terminal.printable(' '.join(message.split()))}", file=sys.stderr)


def existing(files: Iterable[Path]) -> list[Path]:
    """Return the files and folders that exist, after a line on stderr for each that does not; all, if none does.

    So the others are answered, as `ls` and `grep` do it, and the command ends with status 1. If none exists, its
    library call raises what there is to say.
    """
    from keras_mae.data.array_files import is_array_name

    given = list(files)
    exists = [is_array_name(file) or file.exists() for file in given]
    if not any(exists):
        return given
    for file, is_there in zip(given, exists, strict=True):
        if not is_there:
            complain(f"There is no image file {str(file)!r}")
    return list(itertools.compress(given, exists))


def table(title: Any, **options: Any) -> Table:
    """Return an empty table; the options are those of rich's."""
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(_terminal.printable(title)), **options)


def add_row(table: Table, *cells: Any) -> None:
    """Add a row to a table."""
    from rich.text import Text

    table.add_row(*(Text(_terminal.printable(cell)) for cell in cells))
