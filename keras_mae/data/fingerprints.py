"""Fingerprints: what tells the data of a run from other data, at the cost of a look at each file's entry."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["differences", "of_array", "of_crop", "of_files", "of_integers", "of_labels", "plain", "were_copied"]

_LOOKED_AT = 256  # files whose contents are read
_READ = 2**17  # bytes at either end of these
_WHOLE = 2**30  # bytes of a memory-mapped array that are read; of a larger one, images spread over it
_PIECE = 2**24  # bytes hashed at a time
_FILES = 1000  # files asked for at a time

_WORDS = {
    "paths": "other names of files",
    "sizes": "other sizes of files",
    "contents": "other contents",
    "times": "files that were written to since",
    "labels": "other labels",
    "indices": "another choice of images",
    "values": "other values",
}
"""What the digests in a fingerprint are of."""
_CHAIN = ("files", "paths", "sizes", "contents", "times")
"""Of these, the first that differs says why those after it do."""


# === Fingerprints ===
def of_files(paths: Sequence[str | Path], root: str | Path) -> dict[str, Any]:
    """Return what tells files from others: their number, and digests of paths, sizes, times, and some contents.

    No more is read than both ends of 256 files, spread over all of them: whether files with other times hold the
    same, as copies do, takes a look inside. Of files behind addresses ("gs://...") nothing but the names is known.

    Args:
        paths: Paths of the files, in order.
        root: Folder that the paths count from.
    """
    root = str(root)
    names = {"files": len(paths), "paths": _digest(_relative(path, root) for path in paths)}
    if any("://" in str(path) for path in paths):
        return names
    chosen = sorted({index * len(paths) // _LOOKED_AT for index in range(_LOOKED_AT)})
    with ThreadPoolExecutor() as pool:  # a disk in the network takes its time for each file
        parts = [paths[start : start + _FILES] for start in range(0, len(paths), _FILES)]
        entries = [entry for part in pool.map(_entries, parts) for entry in part]
        ends = list(pool.map(_ends, [paths[index] for index in chosen]))
    times = [f"{time}\n".encode() for _, time in entries]
    return {
        **names,
        "sizes": _digest(f"{size}\n".encode() for size, _ in entries),
        "contents": _digest(ends),
        "times": _digest(times),
        "sample_times": _digest(times[index] for index in chosen),
    }


def of_array(images: np.ndarray) -> dict[str, Any]:
    """Return what tells an array from others: shape, dtype, and a digest of its contents.

    Of a memory-mapped array of more than a gigabyte, images spread over it are read, a gigabyte of them.
    """
    step = -(-images.nbytes // _WHOLE) if isinstance(images, np.memmap) else 1
    looked_at = images[::step]
    rows = max(1, _PIECE * len(images) // max(images.nbytes, 1))
    order = images.dtype.newbyteorder("<")

    def piece(start: int) -> bytes:
        values = np.ascontiguousarray(looked_at[start : start + rows], order)
        return hashlib.sha256(values.tobytes()).digest()

    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        contents = _digest(pool.map(piece, range(0, len(looked_at), rows)))
    return {"shape": list(images.shape), "dtype": images.dtype.name, "contents": contents}


def of_labels(labels: np.ndarray | None) -> dict[str, Any]:
    """Return a digest of integers by name, nothing if there are none."""
    return {} if labels is None else {"labels": of_integers(labels)}


def of_integers(values: np.ndarray) -> str:
    """Return a digest of integers."""
    return _digest([np.ascontiguousarray(values, "<i8").tobytes()])


def of_crop(crop: Callable[..., Any] | None) -> dict[str, Any] | None:
    """Return what tells a crop from others: its settings, or, of any other function, what it does to one image."""
    if crop is None:
        return None
    if dataclasses.is_dataclass(crop) and not isinstance(crop, type):
        return {"name": type(crop).__name__, **plain(vars(crop))}
    box = crop(640, 480, (32, 24), np.random.default_rng(0))
    name = getattr(crop, "__qualname__", type(crop).__name__)
    return {"name": name, "box": [f"{float(part):.6g}" for part in box[:5]], "fast": box.fast}


def plain(settings: Any) -> Any:
    """Return settings as JSON values; what is none is described."""
    return json.loads(json.dumps(settings, default=_described), parse_constant=str)


def _described(value: Any) -> str:
    return value.__qualname__ if inspect.isfunction(value) else repr(value)  # whose address is another every time


def _entries(paths: Sequence[str | Path]) -> list[tuple[int, int]]:
    """Return size and time of modification of each file."""
    found = map(os.stat, paths)
    return [(status.st_size, status.st_mtime_ns) for status in found]


def _ends(path: str | Path) -> bytes:
    """Return a digest of a file's beginning and end."""
    with open(path, "rb") as file:
        hashed = hashlib.sha256(file.read(_READ))
        begun, size = file.tell(), file.seek(0, os.SEEK_END)
        file.seek(max(size - _READ, begun))
        hashed.update(file.read())
    return hashed.digest()


def _relative(path: str | Path, root: str) -> bytes:
    """Return a path as it is below `root`, the same on all systems."""
    # Names may be other bytes than UTF-8. And `Path.relative_to` takes seconds for a million.
    return os.fsencode(str(path).removeprefix(root).replace(os.sep, "/").lstrip("/")) + b"\0"


def _digest(parts: Iterable[bytes]) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()[:16]


# === Comparing ===
def differences(now: Any, then: Any, name: str) -> Iterator[str]:
    """Yield what is different between two fingerprints, in words.

    What an earlier version did not record is passed over, and so are the times of files that were copied: all that
    was looked into is as it was, and their times are others. If some files have other times, and those looked into
    have not, some were written to.

    Args:
        now: Fingerprint, or a part of one.
        then: The one to compare with.
        name: Name of the part.
    """
    if not isinstance(now, dict) or not isinstance(then, dict):
        if now != then:
            yield f"{name}={now} and not {then}"
        return
    explained = False
    for part in [part for part in now if part in then and now[part] != then[part] and part != "sample_times"]:
        if part in _CHAIN:
            copied = part == "times" and now.get("sample_times") != then.get("sample_times")
            if explained or copied:
                continue
            explained = True
        if part in _WORDS:
            yield f"{name}: {_WORDS[part]}"
        else:
            yield from differences(now[part], then[part], f"{name}.{part}")


def were_copied(now: Any, then: Any) -> bool:
    """Return whether files are those of an earlier fingerprint but for their times, and are taken to be copies."""
    if not isinstance(now, dict) or not isinstance(then, dict):
        return False
    return now.get("times") != then.get("times") and not any(differences(now, then, ""))
