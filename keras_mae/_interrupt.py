"""Ctrl-C while a command imports Keras and its backend, seconds before the command itself can answer."""

import os
import signal
import sys
import threading
from pathlib import PurePath
from types import FrameType

__all__ = ["answer_early", "answer_late"]


def answer_early() -> None:
    """Let Ctrl-C end a `keras-mae` command with one line and status 130, until `answer_late` is called.

    In any other process nothing changes, nor where somebody has seen to Ctrl-C already.
    """
    typed = PurePath(sys.argv[0]).stem if sys.argv else ""
    is_command = typed == "keras-mae" or (typed == "-m" and "keras_mae.cli" in sys.orig_argv)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if is_command and in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def answer_late() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(number: int, frame: FrameType | None) -> None:
    print("keras-mae: stopped before it began", file=sys.stderr, flush=True)
    os._exit(128 + number)  # an exception might get lost in somebody's import
