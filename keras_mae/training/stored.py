"""The checkpoints in a folder: which of its entries they are, in what order, and which are whole.

Only steps say which is the newest: clocks are set back, and copies get new times. What else lies there, links and
files and folders of other names, is somebody's own: it is not read, not followed and not removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_mae import _files
from keras_mae.training.metadata import from_flat

__all__ = ["METRICS", "STATE", "WEIGHTS", "checkpoints_in", "checksummed", "free", "name_of", "prune", "whole_state"]

STATE, WEIGHTS, METRICS = "state.json", "model.weights.h5", "metrics.npz"
_OF_A_STEP = re.compile(r"step-(\d{9,})")


def name_of(step: int) -> str:
    """Return the name of the folder that holds the checkpoint of a step."""
    return f"step-{step:09d}"


def checkpoints_in(directory: Path) -> dict[int, Path]:
    """Return the folders of checkpoints in `directory` by their steps, the first one first."""
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = {}
    for entry in entries:
        named = _OF_A_STEP.fullmatch(entry.name)
        if named and entry.name == name_of(int(named[1])) and entry.is_dir(follow_symlinks=False):
            found[int(named[1])] = directory / entry.name
    return dict(sorted(found.items()))


def free(path: Path) -> None:
    """Let a new checkpoint be written to `path`: rename what has its name and is none, such as a link."""
    if not path.is_symlink() and (path.is_dir() or not path.exists()):
        return
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.{number}.found")):
        number += 1
    os.rename(path, aside)
    warnings.warn(f"{str(path)!r} was no checkpoint of this run, and is {aside.name!r} now", stacklevel=2)


def prune(directory: Path, step: int, keep: int, needed: Callable[[int], int | None] = lambda step: None) -> None:
    """Remove all checkpoints up to a step but the newest `keep`; one that cannot be removed is a warning.

    Those of later steps are damaged ones that were skipped: they must not count, or the new ones would be removed.

    Args:
        directory: Folder of the checkpoints.
        step: Step of the newest one.
        keep: Number of checkpoints to keep.
        needed: Function that returns, for the step of a checkpoint that is kept, that of another one which it takes
            to go on from there.
    """
    found = {other: path for other, path in checkpoints_in(directory).items() if other <= step}
    as_well = {needed(other) for other in list(found)[-keep:]}
    for path in [path for other, path in list(found.items())[:-keep] if other not in as_well]:
        try:
            shutil.rmtree(path)
        except OSError as error:
            warnings.warn(f"The old checkpoint {str(path)!r} cannot be removed: {error.strerror}", stacklevel=2)


def whole_state(path: Path) -> dict[str, Any]:
    """Return the state of a checkpoint.

    Raises:
        OSError: If a file is missing.
        ValueError: If a file is damaged, or the state is of something else.
    """
    state = _files.read_json(path / STATE)
    try:
        intact = state.pop("checksum", None) == _checksum(state)
        digests = state["sha256"].items()
        if "facts" in state:  # from before run.json
            state["metadata"] = from_flat(state.pop("facts"))
        position = state["position"]
        intact = intact and isinstance(state["metadata"], dict) and {"step"} <= position.keys() <= _POSITION
    except (AttributeError, KeyError, TypeError, RecursionError):  # other kinds of values, or nested without end
        intact = False
    if not intact:
        raise ValueError(f"{STATE} is damaged")
    named = _OF_A_STEP.fullmatch(path.name)
    if named and int(named[1]) != position["step"]:
        raise ValueError(f"it is that of step {position['step']}, by another name")
    for name, digest in digests:
        if _files.sha256(path / name) != digest:
            raise ValueError(f"{name} is damaged")
    return state


_POSITION = {"epoch", "batch", "step", "history"}
"""What a `Position` has."""


def checksummed(state: dict[str, Any]) -> str:
    """Return the text of a checkpoint's state, with its checksum, a former one replaced."""
    state = {name: value for name, value in state.items() if name != "checksum"}
    return json.dumps({**state, "checksum": _checksum(state)}) + "\n"


def _checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
