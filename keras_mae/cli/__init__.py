"""The command line: arguments -> recipe -> one library call."""

from __future__ import annotations

import os
import re
import shlex
import sys
import warnings

import typer

from keras_mae import _interrupt, _terminal
from keras_mae.cli import (
    anomalies,
    asking,
    converting,
    embedding,
    planning,
    preparing,
    pretraining,
    saved,
    scoring,
    segmenting,
    transfer,
)
from keras_mae.cli.output import complain

__all__ = ["app", "main"]

app = typer.Typer(
    help="Masked autoencoders in Keras: pre-train on images, look at what a model has learned, and classify and "
    "segment with it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    planning.plan,
    pretraining.pretrain,
    transfer.finetune,
    transfer.probe,
    segmenting.segment,
    scoring.knn,
    scoring.evaluate,
    asking.predict,
    embedding.embed,
    asking.similar,
    embedding.join,
    anomalies.anomaly,
    saved.reconstruct,
    saved.info,
    preparing.prepare,
    converting.convert,
    converting.export,
):
    app.command()(command)
app.command("map")(asking.draw_map)


def main() -> None:
    """Run the command that was typed; a mistake of the user is answered with one line and status 2."""
    _interrupt.answer_late()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {_terminal.lines(message)}\n"  # no line of our code
    if "" in sys.argv or any(re.fullmatch("--[a-z-]+=", word) for word in sys.argv):
        # `pathlib` would take it for the current folder.
        _fail(f"An argument is empty, as a variable of the shell without a value is. Received: {_typed()}", 2)
    try:
        status = typer.main.get_command(app)(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, ImportError, OSError, FloatingPointError) as error:
        _fail(f"{error}{_way_around(str(error))}", 2)
    except Exception as error:
        # tf.data puts what our loading raises in the middle of an error of its own.
        loading = re.search(r"^(?:ValueError|OSError): (.+)", str(error), re.MULTILINE)
        if loading and type(error).__module__.startswith("tensorflow."):
            _fail(f"{loading[1]}{_way_around(loading[1])}", 2)
        if not hasattr(error, "format_message"):  # click's errors have it, whichever click typer brings
            raise
        _fail(error.format_message() or "a command is missing; see keras-mae --help", 2)
    sys.exit(status or 0)


_OF_FOLDERS = ("finetune", "probe", "knn", "evaluate", "anomaly")
"""Commands that read folders, and have no option to leave out damaged images."""


def _way_around(message: str) -> str:
    """Return what else to say of an image that is damaged: how to leave it out, "" if that is not what is wrong."""
    if not re.search(r"Cannot read the image file '.*': (it is empty|[\w.]*[Ee]rror: )", message, re.DOTALL):
        return ""
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    command = typer.main.get_command(app).commands.get(name)  # type: ignore[attr-defined]
    if command and any(parameter.name == "allow_damaged" for parameter in command.params):
        return ". --allow-damaged 0.01 leaves out up to 1% of the images, and lists them"
    if name in _OF_FOLDERS:
        return ". keras-mae prepare FOLDER --check lists all that are damaged"
    return ""


def _typed() -> str:
    """Return the command as it was typed."""
    return " ".join(["keras-mae", *map(shlex.quote, sys.argv[1:])])


def _fail(message: str, status: int) -> None:
    complain(message)
    sys.exit(status)
