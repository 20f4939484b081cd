"""The `--help` of every `keras-mae` command as Markdown, asked of the command line itself."""

from __future__ import annotations

import typer
from typer.testing import CliRunner

import keras_mae.cli


def as_markdown() -> str:
    """Return a heading and the help text for each command."""
    names = typer.main.get_command(keras_mae.cli.app).commands
    return "\n".join(f"### keras-mae {name}\n\n```text\n{_help(name)}\n```\n" for name in names)


def _help(name: str) -> str:
    done = CliRunner(env={"COLUMNS": "100"}).invoke(keras_mae.cli.app, [name, "--help"], prog_name="keras-mae")
    if done.exit_code:
        raise RuntimeError(f"keras-mae {name} --help fails: {done.output}")
    return "\n".join(line.rstrip() for line in done.output.strip().splitlines())
