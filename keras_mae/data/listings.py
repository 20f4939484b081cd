"""Which files a folder of images held, so that it can be said which of them are others now."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_mae import _files

__all__ = ["LISTING", "changed_files", "of_dataset", "of_paths", "read", "write"]

LISTING = "data_files.json.gz"
"""Name of the file, beside the checkpoints, that holds a listing."""
_MOST = 200_000  # files: a list of more takes megabytes and seconds
_SHOWN = 3

Listing = Mapping[str, Sequence[int]]


def of_paths(paths: Sequence[str | Path], root: str | Path) -> dict[str, list[int]] | None:
    """Return size and time of modification of each file by its path below `root`; `None` of very many files."""
    if len(paths) > _MOST or any("://" in str(path) for path in paths):
        return None
    found = ((Path(path).relative_to(root).as_posix(), os.stat(path)) for path in paths)
    return {name: [status.st_size, status.st_mtime_ns] for name, status in found}


def of_dataset(dataset: Any) -> dict[str, list[int]] | None:
    """Return the listing of the source that a dataset of ours reads by index, or `None` if it has none."""
    made = getattr(getattr(getattr(dataset, "batches", None), "source", None), "listing", None)
    return made() if callable(made) else None


def write(path: Path, listing: Listing) -> None:
    """Write a listing to a file that appears when it is whole."""
    with _files.whole(path) as unfinished:
        unfinished.write_bytes(gzip.compress(json.dumps(listing).encode(), mtime=0))


def read(path: Path) -> dict[str, list[int]] | None:
    """Return the listing in a file, or `None` if it is missing or damaged: it explains, and nothing depends on it."""
    try:
        found = json.loads(gzip.decompress(path.read_bytes()))
        return {str(name): [int(number) for number in known] for name, known in found.items()}
    except (OSError, EOFError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def changed_files(now: Listing, then: Listing) -> list[str]:
    """Return in words how many files were moved, changed, removed and added, and the first of each.

    A file that is gone and one of the same size and time that is new are one that was moved, unless there are several
    such. Other times alone are no change if all have other ones: then they are copies.
    """
    gone, new = [name for name in then if name not in now], [name for name in now if name not in then]
    by_look: dict[tuple[int, ...], list[str]] = {}
    for name in gone:
        by_look.setdefault(tuple(then[name]), []).append(name)
    moved = {}
    for name in new:
        if len(former := by_look.get(tuple(now[name]), [])) == 1:
            moved[name] = former.pop()
    both = [name for name in now if name in then]
    times = [name for name in both if list(now[name]) != list(then[name])]
    sizes = [name for name in both if now[name][0] != then[name][0]]
    left = set(moved.values())
    kinds = {
        "moved": [f"{former!r} to {name!r}" for name, former in moved.items()],
        "changed": [repr(name) for name in (sizes if len(times) == len(both) else times)],
        "missing": [repr(name) for name in gone if name not in left],
        "new": [repr(name) for name in new if name not in moved],
    }
    return [
        f"{len(names):,} {'file' if len(names) == 1 else 'files'} {kind} ({_first(names)})"
        for kind, names in kinds.items()
        if names
    ]


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
