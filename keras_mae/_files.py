"""Files and folders that appear whole or not at all, their checksums, and room on the disk for them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNFINISHED = ".writing-"
"""What the name of everything unfinished begins with; the process that writes it follows."""


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a path to write a file or a folder to, and move it to `path` when the block ends without an error.

    Under its own name the file or folder is never half written: it is on the disk before it is moved there, and
    an error, or a kill at any moment, leaves `path` as it was. What a killed process left is removed by the next one
    that writes to the same folder.

    Args:
        path: The file, which is replaced if it exists, or the folder, which must not exist or be empty. Missing
            parent folders are made.

    Yields:
        A path that does not exist yet, with the name of `path`: libraries choose a format by its ending.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{os.getpid()}@{platform.node()}-", dir=path.parent))
    unfinished = folder / path.name
    try:
        yield unfinished
        for file in [unfinished, *unfinished.rglob("*")] if unfinished.is_dir() else [unfinished]:
            flush(file)
        try:
            os.replace(unfinished, path)
        except OSError as error:  # by its own name, not by one that nobody knows
            raise OSError(error.errno, error.strerror, str(path)) from error
        flush(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(directory: Path) -> None:
    """Remove what processes of this machine that are gone were writing in `directory`."""
    for path in directory.glob(f"{UNFINISHED}*"):
        writer = re.fullmatch(rf"{re.escape(UNFINISHED)}(\d+)@(.*)-[^-]*", path.name)
        if writer and writer[2] == platform.node() and not _is_running(int(writer[1])):
            shutil.rmtree(path, ignore_errors=True)


def remove_unfinished(directory: Path) -> None:
    """Remove everything unfinished in `directory`, whose only writer is this process."""
    for path in directory.glob(f"{UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk and not in a buffer."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have nothing to wait for
            raise
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: If it is damaged, or holds something else; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # a ValueError: no JSON, no UTF-8, or an integer too long
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object. Received: {type(content).__name__}")
    return content


def sha256(path: Path) -> str:
    """Return the SHA-256 checksum, in hexadecimal digits, of a file, or of a folder's files one after the other."""
    digest = hashlib.sha256()
    for file in sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]:
        with file.open("rb") as opened:
            while piece := opened.read(2**20):
                digest.update(piece)
    return digest.hexdigest()


def check_room(directory: Path, size: int) -> None:
    """Raise an `OSError` unless `size` bytes fit on the disk that holds `directory`."""
    free = shutil.disk_usage(directory).free
    if size > free:
        raise OSError(
            errno.ENOSPC, f"{size / 1e6:.1f} MB do not fit on the disk, which has {free / 1e6:.1f}", str(directory)
        )


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
