"""Files of embeddings: .npz, of which the features can be memory-mapped, and .parquet and .csv for other programs."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from keras_mae import _checks, _files, _optional
from keras_mae._terminal import printable
from keras_mae.data.array_images import npy_header

__all__ = ["ENDINGS", "check_names", "checked_out", "read_npz", "write"]

ENDINGS = (".npz", ".parquet", ".csv")
_ALIGNED = 64  # bytes, as the numbers in an .npy file are
_EXTRA = 0xFFFF  # kind of a zip entry's extra field that means nothing: it is padding


def checked_out(out: Any) -> Path:
    """Return the path of a file of embeddings to write.

    Raises:
        ValueError: If its ending is not that of a format that can be written.
        ImportError: If the format's package is missing.
    """
    rule = f"a file whose name ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
    path = _checks.path("out", out, rule)
    if path.suffix not in ENDINGS:
        raise _checks.argument_error("out", rule, str(path))
    if path.suffix == ".parquet":
        _optional.require("pyarrow.parquet", "Writing Parquet")
    return path


def check_names(out: Path, names: Iterable[str]) -> None:
    """Raise a `ValueError` if a file of this format cannot hold the names."""
    wrong = [name for name in names if _not_utf8(name)] if out.suffix == ".parquet" else []
    if wrong:
        raise ValueError(
            f"Parquet holds names in UTF-8 only; .npz and .csv hold any. Received: {len(wrong)} other names, such as "
            f"{printable(wrong[0])}"
        )


def write(
    out: Path,
    parts: Iterable[np.ndarray],
    shape: tuple[int, int],
    files: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str] | None,
    settings: dict[str, Any],
) -> None:
    """Write embeddings to a file, which appears when it is whole.

    Args:
        out: Path that `checked_out` returned.
        parts: Features, in pieces of float32 (rows, width); read once.
        shape: (images, width) of all features.
        files: Names of the images, strings (images,).
        labels: Labels, integers (images,), or `None`.
        class_names: Names of the classes, in the order of the labels, or `None`.
        settings: JSON values that say how the features were made, by name; a .csv has no place for them.
    """
    check_names(out, files)
    with _files.whole(out) as unfinished:
        if out.suffix == ".npz":
            named = None if class_names is None else np.array(class_names)
            others = {"files": files, "labels": labels, "class_names": named, "about": np.array(json.dumps(settings))}
            _write_npz(unfinished, parts, shape, {name: one for name, one in others.items() if one is not None})
            return
        classes = None if labels is None else [str(label) for label in labels]
        if labels is not None and class_names is not None:
            classes = [class_names[label] for label in labels]
        if out.suffix == ".csv":
            _write_csv(unfinished, parts, shape[1], files, classes)
        else:
            _write_parquet(unfinished, parts, shape[1], files, classes, settings)


# === .npz ===
def _write_npz(
    path: Path, parts: Iterable[np.ndarray], shape: tuple[int, int], others: dict[str, np.ndarray]
) -> None:
    """Write arrays as `np.savez` does: not compressed, so that the features, the first, can be memory-mapped."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        entry = zipfile.ZipInfo("features.npy")  # with the time 1980, so that equal features make equal files
        # The entry's own header has 30 bytes, its name, and 20 more because the size is not known before.
        room = -(30 + len(entry.filename) + 20 + 4) % _ALIGNED
        entry.extra = _EXTRA.to_bytes(2, "little") + room.to_bytes(2, "little") + bytes(room)
        with archive.open(entry, "w", force_zip64=True) as stream:
            npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for part in parts:
                stream.write(np.ascontiguousarray(part, "<f4").tobytes())
        for name, array in others.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                npy.write_array(stream, array, allow_pickle=False)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name; `features` is memory-mapped unless it is compressed.

    Raises:
        ValueError: If the file is something else, or damaged; the message names it.
        OSError: If it cannot be opened.
    """
    with path.open("rb") as opened:
        try:
            return _arrays(path, opened)
        except (OSError, *_files.DAMAGED_NPZ) as error:  # an OSError where it would be read before its beginning
            raise ValueError(f"{str(path)!r} is not a whole .npz file of embeddings: {error}") from error


def _arrays(path: Path, opened: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(opened) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        arrays = {name: _read_entry(archive, entry) for name, entry in entries.items() if name != "features"}
        if "features" in entries:
            entry = entries["features"]
            stored = entry.compress_type == zipfile.ZIP_STORED
            arrays["features"] = _mapped(path, opened, entry) if stored else _read_entry(archive, entry)
        return arrays


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream:
        array: np.ndarray = npy.read_array(stream, allow_pickle=False)
    return array


def _mapped(path: Path, opened: BinaryIO, entry: zipfile.ZipInfo) -> np.ndarray:
    """Return the array of an entry that is not compressed, memory-mapped."""
    opened.seek(entry.header_offset)
    header = opened.read(30)
    begin = (
        entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    )
    opened.seek(begin)
    shape, fortran_order, dtype = npy_header(opened)
    offset = opened.tell()
    if offset - begin + dtype.itemsize * int(np.prod(shape, dtype=object)) != entry.file_size:
        raise ValueError("it does not hold as many features as it says")
    if not all(shape):  # an empty array cannot be mapped
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran_order else "C")


# === Other programs' ===
def _write_csv(
    path: Path, parts: Iterable[np.ndarray], width: int, files: np.ndarray, classes: list[str] | None
) -> None:
    """Write a header, and a line for each image: file, label if there are any, and features to the last bit."""
    rows = (row for part in parts for row in part)
    # Names may hold bytes that are not UTF-8, which are written as they are.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream)
        label = [] if classes is None else ["label"]
        writer.writerow(["file", *label, *(f"feature_{index}" for index in range(width))])
        for index, row in enumerate(rows):
            own = [] if classes is None else [classes[index]]
            writer.writerow([files[index], *own, *(f"{number:.9g}" for number in row)])


def _write_parquet(
    path: Path,
    parts: Iterable[np.ndarray],
    width: int,
    files: np.ndarray,
    classes: list[str] | None,
    settings: dict[str, Any],
) -> None:
    """Write the columns file, label if there are any, and features, lists of one length."""
    arrow, parquet = (_optional.require(name, "Writing Parquet") for name in ("pyarrow", "pyarrow.parquet"))
    of_images = arrow.list_(arrow.float32(), width)
    columns = {
        "file": arrow.string(),
        **({} if classes is None else {"label": arrow.string()}),
        "features": of_images,
    }
    schema = arrow.schema(list(columns.items()), metadata={"keras_mae": json.dumps(settings)})
    begin = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            end = begin + len(part)
            numbers = arrow.array(np.ascontiguousarray(part, "float32").reshape(-1))
            texts = [files[begin:end].tolist(), *([] if classes is None else [classes[begin:end]])]
            own = [arrow.array(text, arrow.string()) for text in texts]
            own.append(arrow.FixedSizeListArray.from_arrays(numbers, type=of_images))
            writer.write_table(arrow.table(own, schema=schema))
            begin = end


def _not_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False
