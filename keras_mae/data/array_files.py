"""Arrays of many images in files larger than memory: HDF5, Zarr and .npy, named as `FILE::IMAGES` or with `::LABELS`.

What a file may make the reader do is limited: nothing is unpickled, no other file is opened that it links to, and no
piece is decoded that would take more memory than the largest image may.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _optional, _terminal
from keras_mae.data.array_images import npy_header
from keras_mae.data.sizes import check_numbers

__all__ = ["ArrayName", "data_name", "files_of", "is_array_name", "open_array", "parsed_name"]

_HDF5, _ZARR = (".h5", ".hdf5", ".hdf"), (".zarr",)
_BETWEEN = "::"
_RULE = "FILE::IMAGES or FILE::IMAGES::LABELS, where FILE ends with .h5, .hdf5, .zarr or, without the rest, .npy"
_SHOWN = 8
# Names of the codecs that are read, without "numcodecs." before them. Not `pickle`, which runs what a file says.
_CODECS = {
    "adler32", "astype", "bitround", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "endian", "fletcher32",
    "fixedscaleoffset", "gzip", "jenkins_lookup3", "lz4", "lzma", "packbits", "quantize", "scale_offset", "shuffle",
    "sharding_indexed", "transpose", "zlib", "zstd",
}  # fmt: skip


@dataclass(frozen=True)
class ArrayName:
    """The name of an array of images in a file, and perhaps of one of their labels.

    Attributes:
        file: Path of the file, or of the folder that a Zarr store is.
        images: Name of the array of images in it; "" in a file that holds nothing else.
        labels: Name of the array of labels in it; "" if there is none.
    """

    file: Path
    images: str = ""
    labels: str = ""

    @property
    def kind(self) -> str:
        """Format of the file: "hdf5", "zarr" or "npy"."""
        ending = self.file.suffix.lower()
        return "hdf5" if ending in _HDF5 else "zarr" if ending in _ZARR else "npy"


def is_array_name(data: Any) -> bool:
    """Return whether data are named as an array in a file is, and not as a folder of images."""
    if not isinstance(data, str | Path):
        return False
    text = str(data)
    return _BETWEEN in text or Path(text).suffix.lower() in (*_HDF5, *_ZARR, ".npy")


def data_name(data: str | Path) -> str:
    """Return data's name without the folders that lead to them: "photos", or "cells.h5::images"."""
    file, *inside = str(data).split(_BETWEEN)
    return _BETWEEN.join([Path(file).name, *inside])


def parsed_name(data: str | Path) -> ArrayName:
    """Return the parts of a name such as `cells.h5::images::labels`.

    Raises:
        ValueError: If it is no such name, there is no such file, or a part would lead out of it.
    """
    file, *inside = str(data).split(_BETWEEN)
    name = ArrayName(Path(file), *inside[:2])
    known = Path(file).suffix.lower() in (*_HDF5, *_ZARR, ".npy")
    if not known or len(inside) > 2 or (name.kind == "npy" and inside):
        raise ValueError(f"An array in a file is named {_RULE}. Received: {str(data)!r}")
    if not name.file.exists():
        raise ValueError(f"There is no file {file!r}. Received: {str(data)!r}")
    for part in inside:
        steps = part.strip("/").split("/")
        if ".." in steps or "." in steps or "\\" in part or (not part and len(inside) > 1):
            raise ValueError(f"The name of an array leads to it from the top of its file. Received: {str(data)!r}")
    return name


def open_array(name: ArrayName, part: str, max_pixels: int | None = None) -> Any:
    """Open an array in a file: anything with `shape`, `dtype` and `[index]`, of which nothing is read yet.

    Args:
        name: Name of the file.
        part: Name of the array in it.
        max_pixels: Pixels of the largest piece to read, as for `read_image`.

    Raises:
        ValueError: If there is no such array, the file is damaged, or it would have to be trusted.
        ImportError: If the library that reads it is missing.
    """
    where = f"{str(name.file)!r}" + (f", {part!r}" if part else "")
    try:
        if name.kind == "hdf5":
            return _open_hdf5(name.file, part, max_pixels)
        if name.kind == "zarr":
            return _open_zarr(name.file, part, max_pixels)
        return _open_npy(name.file)
    except ImportError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, _Refused | ValueError) else f"{type(error).__name__}: {error}"
        reason = _terminal.printable(" ".join(reason.split()))
        raise ValueError(f"Cannot read the array in {where}: {reason}") from error


class _Refused(ValueError):
    """A file that asks for what is not done for it."""


# === Formats ===
def _open_npy(file: Path) -> np.ndarray:
    with open(file, "rb") as opened:
        npy_header(opened)  # which refuses what would have to be unpickled
    array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    return array


def _open_hdf5(file: Path, part: str, max_pixels: int | None) -> Any:
    h5py = _optional.require("h5py", "Reading HDF5 files")
    opened = h5py.File(file, "r", locking="best-effort")  # as on disks in a network that have no locks
    try:
        place: Any = opened
        for step in filter(None, part.split("/")):
            if not isinstance(place, h5py.Group) or (link := place.get(step, getlink=True)) is None:
                raise _Refused(f"it holds no array {part!r}{_listed(_hdf5_arrays(h5py, opened))}")
            if isinstance(link, h5py.ExternalLink):
                raise _Refused(f"{part!r} is a link to another file, {link.filename!r}, which is not followed")
            if isinstance(link, h5py.SoftLink):
                raise _Refused(f"{part!r} is a link, to {link.path!r}: name the array itself")
            place = place[step]
        if not isinstance(place, h5py.Dataset):
            raise _Refused("name an array in it" + _listed(_hdf5_arrays(h5py, opened)))
        if place.external or place.is_virtual:
            raise _Refused(f"{part!r} holds parts of other files, which are not opened")
        _check_piece(place.chunks, place.dtype, file.stat().st_size, max_pixels)
    except BaseException:
        opened.close()
        raise
    return place


def _hdf5_arrays(h5py: Any, opened: Any) -> list[str]:
    """Return the names of the arrays in a file; `visititems` follows no links."""
    found = list[str]()

    def note(name: str, item: Any) -> bool | None:
        if isinstance(item, h5py.Dataset):
            found.append(f"{name} {item.shape}")
        return True if len(found) > _SHOWN else None

    opened.visititems(note)
    return found


def _open_zarr(file: Path, part: str, max_pixels: int | None) -> Any:
    zarr = _optional.require("zarr", "Reading Zarr stores")
    if not file.is_dir():
        raise _Refused("a Zarr store is a folder, and this is none")
    root, inside = os.path.realpath(file), os.path.realpath(file / part.strip("/"))
    if os.path.commonpath([inside, root]) != root:
        raise _Refused(f"{part!r} leads out of the store")
    store = zarr.storage.LocalStore(file, read_only=True)
    try:
        array = zarr.open(store, path=part.strip("/"), mode="r")
    except FileNotFoundError as error:  # of which some say so in other words
        raise _Refused(f"it holds no array {part!r}{_listed(_zarr_arrays(zarr, store))}") from error
    if not isinstance(array, zarr.Array):
        raise _Refused("name an array in it" + _listed(_zarr_arrays(zarr, store)))
    if unknown := sorted(set(_codecs(array.metadata.to_dict())) - _CODECS):
        raise _Refused(f"it is encoded by {', '.join(unknown)}, which is not read")
    files = list(files_of(Path(inside)))
    if links := [path for path in files if path.is_symlink()]:
        raise _Refused(f"{os.path.relpath(links[0], inside)!r} in it is a link, which may lead out of the store")
    _check_piece(array.shards or array.chunks, array.dtype, 2**62 if files else 0, max_pixels)
    return array


def _codecs(metadata: Any) -> list[str]:
    """Return the names of all codecs in an array's metadata, those inside of shards, too."""
    found = list[str]()
    waiting = [metadata.get(key) for key in ("codecs", "compressor", "filters", "compressors")]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list | tuple):
            waiting += item
        elif isinstance(item, dict):
            found.append(str(item.get("name", item.get("id"))).removeprefix("numcodecs."))
            configuration = item.get("configuration") or {}
            waiting += [configuration.get(key) for key in ("codecs", "index_codecs")]
        elif item is not None:
            known = getattr(item, "codec_id", None) or getattr(item, "codec_name", None) or type(item).__name__
            found.append(str(known).removeprefix("numcodecs."))
    return found


def _zarr_arrays(zarr: Any, store: Any) -> list[str]:
    try:
        group = zarr.open_group(store, mode="r")
        return [f"{name} {array.shape}" for name, array in itertools.islice(group.arrays(), _SHOWN + 1)]
    except Exception:  # it only lists what there is, beside an error that is raised anyway
        return []


def _listed(names: list[str]) -> str:
    """Return a list of what there is, as the end of a sentence."""
    more = ", ..." if len(names) > _SHOWN else ""
    return f"; it holds {', '.join(names[:_SHOWN])}{more}" if names else ""


def _check_piece(chunks: tuple[int, ...] | None, dtype: np.dtype, stored: int, max_pixels: int | None) -> None:
    """Raise an error for an array of which a piece, that is decoded at once, would take too much memory."""
    if chunks:
        pieces = (int(np.prod(chunks[:-1], dtype=object)), 1, chunks[-1])
        check_numbers(pieces, dtype.itemsize, stored, max_pixels, "one of its chunks has")


def files_of(path: Path) -> Iterator[Path]:
    """Yield the path of a file, or those of all files, and of links to folders, in a folder, in order."""
    if path.is_file():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        yield from (Path(folder) / name for name in sorted(names + links))
