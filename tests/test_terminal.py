"""What a terminal would obey is shown and not sent to it."""

import pytest

from keras_mae import _terminal, cli
from keras_mae.cli import output

pytestmark = pytest.mark.backends("torch")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("blocks.0\x1b[2J", "blocks.0\\x1b[2J"),
        ("a\rb\nc\x07\x9b", "a\\x0db\\x0ac\\x07\\x9b"),
        ("cat\u202egpj", "cat\\u202egpj"),
        ("\udcff.png", "\\xff.png"),
        ("Schäfchen 羊 👨‍👩‍👧 می‌خواهم", "Schäfchen 羊 👨‍👩‍👧 می‌خواهم"),
        (7, "7"),
    ],
)
def test_names_are_shown_in_one_line(name, shown):
    assert _terminal.printable(name) == shown


def test_a_text_keeps_its_lines():
    assert _terminal.lines("a\x1b\nb\x00") == "a\\x1b\nb\\x00"


def test_an_error_and_what_is_behind_it_are_disarmed():
    error = ValueError("outer\x1b")
    error.__cause__ = KeyError("inner\x1b")
    _terminal.disarm(error)
    assert str(error) == "outer\\x1b"
    assert error.__cause__.args == ("inner\\x1b",)


def test_a_table_takes_nothing_for_markup(capsys):
    from rich.console import Console

    shown = output.table("[red]title[/x]", show_header=False)
    output.add_row(shown, "[bold]name[/]\x1b[2J", "[/]")
    Console(width=60).print(shown)
    output.echo("a[b]\x1b")
    printed = capsys.readouterr().out
    assert "[red]title[/x]" in printed
    assert "[bold]name[/]\\x1b[2J" in printed
    assert "a[b]\\x1b" in printed
    assert "\x1b" not in printed


def test_the_command_line_shows_what_an_error_holds_in_one_line(capsys):
    with pytest.raises(SystemExit):
        cli._fail("no file\n'a\x1b[2J\u202e'", 2)
    assert capsys.readouterr().err == "Error: no file 'a\\x1b[2J\\u202e'\n"
