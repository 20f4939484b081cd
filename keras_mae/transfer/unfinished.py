"""Embeddings on their way: pieces that are on the disk, from which an interrupted call goes on."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _files
from keras_mae.transfer.embedding_files import read_npz

__all__ = ["Pieces", "collected", "discard"]

_PLAN = "plan.json"
_IMAGES = 1024  # in a piece: what a kill can cost


class Pieces:
    """Pieces of embeddings, each a file, in the order of the images.

    Args:
        folder: Folder that holds them.
        count: Number of pieces.
    """

    def __init__(self, folder: Path, count: int):
        self.paths = [folder / f"{number:08d}.npz" for number in range(count)]

    @property
    def done(self) -> int:
        """How many pieces are there, from the first on without a gap."""
        return next((index for index, path in enumerate(self.paths) if not path.is_file()), len(self.paths))

    def features(self) -> Iterator[np.ndarray]:
        """Yield the features of each piece."""
        for path in self.paths:
            yield read_npz(path)["features"]

    def files(self) -> np.ndarray:
        """Return the names of all images."""
        return np.concatenate([read_npz(path)["files"] for path in self.paths])

    def labels(self) -> np.ndarray | None:
        """Return the labels of all images, if they have any."""
        parts = [labels for path in self.paths if (labels := read_npz(path).get("labels")) is not None]
        return np.concatenate(parts) if parts else None


@contextlib.contextmanager
def collected(
    out: Path,
    plan: dict[str, Any],
    images: int,
    batch_size: int,
    compute: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray | None]]],
    names: Callable[[range], list[str]],
) -> Iterator[Pieces]:
    """Compute the pieces of embeddings that are missing, yield all, and remove them when the block ends.

    They lie in the folder OUT.begun. An error, or a kill at any moment, leaves those that are whole.

    Args:
        out: File that the pieces are for.
        plan: JSON values that say what is computed.
        images: Number of images.
        batch_size: Images in a batch.
        compute: Function that returns features and labels in batches, from the image of an index on.
        names: Function that returns the names of images.

    Yields:
        All pieces.

    Raises:
        ValueError: If the folder holds what another call began, another process is at work there, or features are not
            finite.
    """
    folder = _folder_of(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is where unfinished embeddings lie, and a file: rename it")
    folder.mkdir(parents=True, exist_ok=True)
    with _files.locked(folder):
        _claim(folder, plan)
        size = batch_size * max(_IMAGES // batch_size, 1)  # the batches of a call that goes on are those of one
        pieces = Pieces(folder, -(-images // size))
        if (done := pieces.done) < len(pieces.paths):
            _compute_rest(pieces, done, size, compute(done * size), names)
        yield pieces
        shutil.rmtree(folder)


def discard(out: Path, plan: dict[str, Any]) -> None:
    """Remove the pieces of a file that is whole."""
    file = _folder_of(out) / _PLAN
    if file.is_file() and _files.read_json(file) == plan:
        shutil.rmtree(file.parent)


def _folder_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.begun")


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Take a folder for a plan."""
    file = folder / _PLAN
    before = _files.read_json(file) if file.is_file() else None
    if before is None and any(not path.name.startswith(_files.UNFINISHED) for path in folder.iterdir()):
        raise ValueError(f"{str(folder)!r} is where unfinished embeddings lie, and holds something else")
    if before is not None and before != plan:
        differ = sorted(name for name in {**before, **plan} if before.get(name) != plan.get(name))
        raise ValueError(
            f"{str(folder)!r} holds embeddings that were begun with another {', '.join(differ)}: repeat that call, "
            "or remove the folder"
        )
    _files.remove_unfinished(folder)
    with _files.whole(file) as unfinished:
        unfinished.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")


def _compute_rest(
    pieces: Pieces,
    done: int,
    size: int,
    batches: Iterator[tuple[np.ndarray, np.ndarray | None]],
    names: Callable[[range], list[str]],
) -> None:
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []

    def leave() -> None:
        nonlocal done
        begin, rows = done * size, np.concatenate(features)
        files = np.array(names(range(begin, begin + len(rows))))
        if not np.isfinite(rows).all():
            name = files[np.flatnonzero(~np.isfinite(rows).all(axis=1))[0]]
            raise ValueError(f"The model's features must be finite. Received: NaN or infinite ones of {name!r}")
        arrays: dict[str, Any] = {"features": rows, "files": files}
        arrays |= {"labels": np.concatenate(labels)} if labels else {}
        with _files.whole(pieces.paths[done]) as unfinished:
            np.savez(unfinished, **arrays)
        features.clear()
        labels.clear()
        done += 1

    for part, part_labels in batches:
        features.append(part)
        if part_labels is not None:
            labels.append(np.asarray(part_labels, "int64"))
        if sum(map(len, features)) == size:
            leave()
    if features:
        leave()
