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
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

UNFINISHED = ".writing-"
"""What the name of everything unfinished begins with; the process that writes it follows."""

DAMAGED_HEADER = (ValueError, EOFError, tokenize.TokenError, SyntaxError)
"""What NumPy raises for the header of a .npy file that is damaged."""
DAMAGED_NPZ = (*DAMAGED_HEADER, zipfile.BadZipFile, zlib.error, KeyError, RuntimeError, MemoryError, OverflowError)
"""What NumPy and `zipfile` raise for an .npz file that is damaged or something else."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system answers that does not have what it is asked for; folders in a network, buckets, and the like."""
_MOST_JSON = 2**28  # bytes; a manifest of a million skipped files has fewer


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a path to write a file or a folder to, and move it to `path` when the block ends without an error.

    Under its own name the file or folder is never half written: it is on the disk before it is moved there, and
    an error, or a kill at any moment, leaves `path` as it was. A link stays one: what it leads to is written. What a
    killed process left is removed by the next one that writes to the same folder.

    Args:
        path: The file, which is replaced if it exists, or the folder, which must not exist or be empty. Missing
            parent folders are made.

    Yields:
        A path that does not exist yet, with the name of `path`: libraries choose a format by its ending.

    Raises:
        OSError: If it cannot be written; it names `path`. Whatever else the block raises is left as it is, unless
            the disk turns out to be full.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    target = Path(os.path.realpath(path)) if path.is_symlink() else path  # what a link leads to, and not the link
    folder = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent)
        folder = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{os.getpid()}@{platform.node()}-", dir=target.parent))
        unfinished = folder / path.name
        yield unfinished
        for file in [unfinished, *unfinished.rglob("*")] if unfinished.is_dir() else [unfinished]:
            flush(file)
        _move(unfinished, target)
        flush(target.parent)
    except Exception as error:
        if (named := _by_its_own_name(error, path, folder)) is error:
            raise
        raise named from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _move(unfinished: Path, target: Path) -> None:
    """Rename a file or folder over what is there; say so if that is what a file system cannot do."""
    try:
        os.replace(unfinished, target)
    except OSError as error:
        if error.errno in (*_CANNOT, errno.EEXIST, errno.EXDEV) and not target.is_dir():
            kind = "a folder" if unfinished.is_dir() else "a file over another"
            reason = f"{os.strerror(error.errno or 0)}: this file system cannot rename {kind}, as is done here"
            raise OSError(error.errno, reason, str(unfinished)) from error
        raise


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes out of a directory. The system releases the lock when a process is killed.

    A file system without locks is a warning.

    Raises:
        ValueError: If another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken_away = not directory.exists() or not os.path.samestat(os.fstat(descriptor), directory.stat())
        except BlockingIOError:
            taken_away = True
        except OSError as error:
            if error.errno not in (*_CANNOT, errno.ENOLCK):
                raise
            warnings.warn(
                f"The file system of {str(directory)!r} has no locks: see that no other process works there",
                stacklevel=4,
            )
            taken_away = False
        if taken_away:  # or removed, by the process that had it, since it was opened here
            raise ValueError(f"Another process is at work in {str(directory)!r}")
        yield
    finally:
        os.close(descriptor)


def _by_its_own_name(error: Exception, path: Path, folder: Path | None) -> Exception:
    """Return the error to raise for one that came up while `path` was written in `folder`.

    Nobody knows the folder's name, so none is told; and what libraries raise in their own words where a disk is full
    or a file must not grow is an `OSError`.
    """
    if isinstance(error, OSError) and error.errno is not None:
        ours = error.errno in _FULL if error.filename is None else UNFINISHED in str(error.filename)
        return OSError(error.errno, error.strerror, str(path)) if ours else error
    number = 0 if folder is None else _no_room(folder)
    return OSError(number, os.strerror(number), str(path)) if number else error


def _no_room(folder: Path) -> int:
    """Return the number of the error that a folder's disk, or the limit of this process, has for more; 0 for none."""
    try:
        with (folder / "room").open("wb", buffering=0) as file:
            if file.write(bytes(2**16)) < 2**16:
                return errno.ENOSPC
        import resource
    except ImportError:  # Windows
        return 0
    except OSError as error:
        return error.errno or 0
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    sizes = (file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return errno.EFBIG if most != resource.RLIM_INFINITY and max(sizes, default=0) >= most else 0


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
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows opens no folders
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if is_folder:  # as some file systems do not, either
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (*_CANNOT, errno.EBADF):  # some file systems have nothing to wait for
            raise
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ValueError: If it is damaged, too large, or holds something else; the message names the file.
        OSError: If it cannot be read.
    """
    if (size := path.stat().st_size) > _MOST_JSON:
        raise ValueError(f"{str(path)!r} has {size:,} bytes, and a JSON file of {_MOST_JSON:,} is read")
    return parsed_json(path.read_bytes(), str(path))


def parsed_json(content: bytes, name: str) -> dict[str, Any]:
    """Return the object that a JSON text holds, an error as of `read_json`."""
    try:
        parsed = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # a ValueError: no JSON, no UTF-8, or an integer too long
        raise ValueError(f"{name!r} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{name!r} must hold a JSON object. Received: {type(parsed).__name__}")
    return parsed


def inside(folder: Path, name: Any, said_by: str) -> Path:
    """Return the path of a file in a folder or below, whose name another file says.

    Args:
        folder: The folder.
        name: Name or relative path.
        said_by: The file that says it, for the error.

    Raises:
        ValueError: If it leads out of the folder, on this system or another, or is no name.
    """
    parts = PureWindowsPath(name).parts if isinstance(name, str) else ()  # which also knows the other systems' paths
    leads_out = ".." in parts or PureWindowsPath(*parts).root or PureWindowsPath(*parts).drive
    if not parts or leads_out or "\0" in name:
        raise ValueError(f"{said_by!r} must name files in its own folder. Received: {name!r}")
    return folder / str(name)


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
