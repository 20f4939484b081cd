"""The command line: arguments -> recipe -> one library call."""

from __future__ import annotations

import os
import re
import sys

import typer

from keras_mae.cli import converting, preparing, pretraining, saved, transfer
from keras_mae.cli.app import app

__all__ = ["app", "converting", "main", "preparing", "pretraining", "saved", "transfer"]


def main() -> None:
    """Run the command; a mistake of the user's is one line and status 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command = typer.main.get_command(app)
    try:
        status = command(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, ImportError, OSError, FloatingPointError) as error:
        _fail(str(error), 2)
    except Exception as error:
        # tf.data puts what our loading raises in the middle of an error of its own.
        loading = re.search(r"^(?:ValueError|OSError): (.+)", str(error), re.MULTILINE)
        if loading and type(error).__module__.startswith("tensorflow."):
            _fail(loading[1], 2)
        if not hasattr(error, "format_message"):  # click's errors have it, whichever click typer brings
            raise
        _fail(error.format_message() or "a command is missing; see keras-mae --help", 2)
    sys.exit(status or 0)


def _fail(message: str, status: int) -> None:
    print(f"Error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
