"""What is known of a run that is to be resumed, before it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_mae.training.checkpoints import Checkpoints
from keras_mae.training.directory import RunDirectory, RunFile

__all__ = ["begun_metadata"]


def begun_metadata(directory: str | Path) -> dict[str, Any] | None:
    """Return the metadata of the run in a directory, those of its newest checkpoint if it has any.

    Args:
        directory: Directory of the run.

    Returns:
        JSON values by name, or `None` if no run has begun there.

    Raises:
        ValueError: If there are checkpoints and none of them is whole.
    """
    run = RunDirectory(directory)
    newest = Checkpoints(run.file(RunFile.CHECKPOINTS), 1).newest()
    if newest is not None:
        return dict(newest[1]["metadata"])
    return run.metadata if RunFile.RUN in run.files else None
