"""What the commands print: names from files are shown, and never obeyed by a terminal or taken for rich's markup."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from keras_mae import _terminal

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["add_row", "echo", "table"]


def echo(text: Any) -> None:
    """Print a text."""
    typer.echo(_terminal.lines(text))


def table(title: Any, **options: Any) -> Table:
    """Return an empty table; the options are those of rich's."""
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(_terminal.printable(title)), **options)


def add_row(table: Table, *cells: Any) -> None:
    """Add a row to a table."""
    from rich.text import Text

    table.add_row(*(Text(_terminal.printable(cell)) for cell in cells))
