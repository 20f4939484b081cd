"""Drawing a run's pictures: one that fails is no reason to lose the run."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keras_mae import distribution
from keras_mae.training.directory import RunDirectory, RunFile

__all__ = ["draw", "drawing"]


def draw(directory: RunDirectory, name: RunFile, figure: Callable[[], Any], *, missing_only: bool = False) -> None:
    """Draw a picture of a run in the main process, and warn where that fails.

    Args:
        directory: Directory of the run.
        name: Name of the picture.
        figure: Function that returns the matplotlib `Figure`.
        missing_only: Whether to leave a picture that is there as it is.
    """
    if not distribution.current().is_main or (missing_only and directory.file(name).exists()):
        return
    with drawing(directory.file(name)):
        directory.write(name, lambda path: figure().savefig(path))


@contextlib.contextmanager
def drawing(path: Path) -> Iterator[None]:
    """Turn errors of the block, which draws the picture `path`, into a warning."""
    try:
        yield
    except Exception as error:  # of whatever library is involved
        warnings.warn(f"{path} could not be drawn: {type(error).__name__}: {error}", stacklevel=4)
