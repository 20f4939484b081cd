"""Opening image files: which library reads one, how large it is, and what is wrong with it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_mae import _terminal
from keras_mae._optional import require
from keras_mae.data import dicom, plug_ins, tiff
from keras_mae.data.array_images import ARRAY_ENDINGS, kind_of, open_npy
from keras_mae.data.levels import Levels, UnclearNumbers, WrongBands, numbers_of
from keras_mae.data.sizes import TooLarge, allowed, check_pixels, webp_size

__all__ = ["MODES", "extensions", "named_errors", "open_file", "open_image", "pillow"]

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's modes for the channels that it makes."""
# What Pillow opens and is not read: documents and drawings, films, formats that it only recognizes, and FITS, of
# which it does not read scale and zero, so that its numbers are not the file's.
_NOT_READ = ("BUFR", "EPS", "FITS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF")


def extensions() -> frozenset[str]:
    """Return the endings of the files that are read, in lower case: those of every format that Pillow opens."""
    plug_ins.register(pillow())
    known = pillow().registered_extensions()
    formats = pillow().OPEN.keys() - set(_NOT_READ)
    read = frozenset(ending.lower() for ending, form in known.items() if form in formats or form == "MPO")
    return read | {*ARRAY_ENDINGS}


def open_file(image: str | Path | bytes, max_pixels: int | None = None) -> Any:
    """Open an image: its header is read, and its pixels are not yet decoded; refuse one that is too large."""
    plug_ins.register(pillow())  # with all of its own formats
    formats = [name for name in pillow().ID if name not in _NOT_READ]
    most = allowed(pillow(), max_pixels)
    with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as opened:
        stored = opened.seek(0, 2)
        opened.seek(0)
        at_once = webp_size(opened.read(30))
    sparse = max_pixels is not None
    if at_once is not None:
        check_pixels(at_once, stored, most, sparse)
    file = pillow().open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=formats)
    try:
        check_pixels(file.size, stored, most, sparse)
    except TooLarge:
        file.close()
        raise
    return file


def open_image(image: str | Path | bytes, channels: int | None, levels: Levels, check: bool = True) -> Any:
    """Open an image of any kind that is read: as Pillow's, or as an `ArrayImage` where Pillow does not read it whole.

    Args:
        image: Path of the file, or its bytes.
        channels: Channels to make of it; `None` for its own.
        levels: What becomes of its numbers.
        check: Whether to refuse what cannot be read with these channels in these levels.
    """
    kind, array = kind_of(image), None
    own_four = channels == 4 and levels.own_units
    if kind == "npy":
        array = open_npy(image, levels)
    elif kind == "dicom":
        array = dicom.open_dicom(image, levels)
    elif kind == "tiff" and (own_four or channels not in (None, *MODES)):
        array = tiff.open_tiff(image, channels, levels)
    else:
        try:
            file = open_file(image, levels.max_pixels)
        except pillow().UnidentifiedImageError:
            if kind != "tiff":
                raise
            array = tiff.open_tiff(image, channels, levels)
        else:
            if kind == "tiff" and tiff.is_for_tifffile(file, channels, levels, numbers_of(file).reduced):
                file.close()
                array = tiff.open_tiff(image, channels, levels)
    if array is None:
        if check and (own_four or channels not in (None, *MODES)):
            file.close()
            what = "whose fourth channel is opacity, which has no unit: 1 or 3" if own_four else "of which 1, 3 or 4"
            raise WrongBands(f"it is a picture, {what} channels are made, and {channels} are to be")
        return file
    try:
        if check:
            array.check(channels, levels)
    except BaseException:
        array.close()
        raise
    return array


@contextlib.contextmanager
def named_errors(image: str | Path | bytes, name: str) -> Iterator[None]:
    """Raise whatever a file makes Pillow raise as one `ValueError` that names the file."""
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError as error:
        raise ValueError(f"There is no image file {name!r}") from error
    except Exception as error:
        raise _unreadable(image, name, error) from error


def _unreadable(image: str | Path | bytes, name: str, error: Exception) -> ValueError:
    """Return the error to raise for an image that cannot be read."""
    try:
        empty = len(image) == 0 if isinstance(image, bytes) else Path(image).stat().st_size == 0
    except OSError:
        empty = False
    reason = (
        str(error)
        if isinstance(error, UnclearNumbers | TooLarge | WrongBands)
        else f"{type(error).__name__}: {error}"
    )
    if type(error).__name__ == "UnidentifiedImageError":
        reason = plug_ins.reason(pillow(), image) or reason
    what = "it is empty" if empty else reason
    return ValueError(f"Cannot read the image file {name!r}: {_terminal.printable(' '.join(what.split()))}")


def pillow() -> Any:
    """Return Pillow's Image module."""
    return require("PIL.Image", "Reading image files")
