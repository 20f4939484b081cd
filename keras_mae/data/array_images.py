"""Files that hold one image as an array of numbers, which Pillow does not read: .npy, DICOM, TIFF of many bands."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from keras_mae import _files
from keras_mae.data.levels import Levels, Numbers, UnclearNumbers, WrongBands, check_range, described
from keras_mae.data.sizes import check_numbers, in_pixels

__all__ = ["ARRAY_ENDINGS", "ArrayImage", "checked_shape", "image_bytes", "kind_of", "npy_header", "numbers_like"]
__all__ += ["open_npy", "pixels_of"]

ARRAY_ENDINGS = (".npy", ".dcm", ".dicom")
"""Endings of files that are images only in a folder that holds no others: .npy files are many things."""
_HEAD = 132  # bytes that tell every kind
_NPY, _DICOM = b"\x93NUMPY", b"DICM"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF's


@dataclass(frozen=True)
class ArrayImage:
    """An opened file whose image is an array: its header is read, and its numbers are not.

    Attributes:
        shape: (height, width, bands) of the image, upright.
        numbers: What the file says of its numbers.
        read: Function that returns them, an array of `shape`.
        pages: Number of images in the file, of which this is the first.
        close: Function that closes the file.
    """

    shape: tuple[int, int, int]
    numbers: Numbers
    read: Callable[[], np.ndarray]
    pages: int = 1
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> ArrayImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of an image of Pillow's that takes as much memory, for `sizes.room`."""
        itemsize = np.dtype(self.numbers.dtype).itemsize
        return self.shape[1], in_pixels(self.shape, itemsize) // self.shape[1]

    def check(self, channels: int | None, levels: Levels) -> None:
        """Raise an error if the image cannot be read with so many channels in these levels.

        Args:
            channels: Channels to make of the bands; `None` for the image's own.
            levels: What becomes of the numbers.

        Raises:
            WrongBands: If it has others.
            UnclearNumbers: If nothing says what is black and what is white.
        """
        bands = self.shape[2]
        if channels not in (None, bands) and not (channels == 3 and bands == 1):
            raise WrongBands(
                f"it has {bands} band{'s' * (bands > 1)}, and images of {channels} "
                f"channel{'s' * (channels != 1)} are to be made"
            )
        if not levels.own_units and self.numbers.white is None:
            raise UnclearNumbers(
                f"it holds {described(self.numbers, self.read())}, and nothing says which of them is black and "
                "which white: pass pixel_range=(low, high), one range for all files, as the encoder's (keras-mae "
                "pretrain --pixel-range LOW HIGH)"
            )


def kind_of(image: str | Path | bytes) -> str:
    """Return the kind of file by its first bytes: "npy", "dicom", "tiff", or "" for all that only Pillow reads."""
    if isinstance(image, bytes):
        head = image[:_HEAD]
    else:
        with open(image, "rb") as opened:
            head = opened.read(_HEAD)
    if head.startswith(_NPY):
        return "npy"
    if head[128:] == _DICOM or (not isinstance(image, bytes) and Path(image).suffix.lower() in ARRAY_ENDINGS[1:]):
        return "dicom"
    if not isinstance(image, bytes) and Path(image).suffix.lower() == ".npy":
        return "npy"
    return "tiff" if head[:4] in _TIFF else ""


def numbers_like(dtype: np.dtype) -> Numbers:
    """Return what is known of numbers by their type alone: unsigned ones of 8 and 16 bits have a white level.

    Raises:
        UnclearNumbers: If they are no real numbers.
    """
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise UnclearNumbers(f"it holds {dtype.name}, and images are of integers or floats of up to 64 bits")
    kind = {"u": "integers", "i": "signed integers", "f": "floats"}[dtype.kind]
    white = 2 ** (8 * dtype.itemsize) - 1 if dtype.kind == "u" and dtype.itemsize <= 2 else None
    return Numbers(f"{8 * dtype.itemsize}-bit {kind}", dtype.newbyteorder("=").name, white)


def checked_shape(shape: tuple[int, ...], name: str = "it") -> tuple[int, int, int]:
    """Return the shape of one image as (height, width, bands).

    Raises:
        WrongBands: If it is not (height, width) or (height, width, bands), or looks like bands first.
    """
    if len(shape) not in (2, 3) or not all(shape):
        raise WrongBands(f"{name} has the shape {shape}, and an image is (height, width) or (height, width, bands)")
    height, width, bands = (*shape, 1) if len(shape) == 2 else shape
    if height <= 16 and 4 * height < min(width, bands) and bands > 16:
        raise WrongBands(
            f"{name} has the shape {shape}, which looks like bands first, and an image is (height, width, bands): "
            "np.moveaxis(image, 0, -1) makes it so"
        )
    return height, width, bands


def open_npy(image: str | Path | bytes, levels: Levels) -> ArrayImage:
    """Open the array in a .npy file, or in its bytes: it is mapped into memory, and never unpickled.

    Raises:
        ValueError: If the file is damaged, or its array is no image.
    """
    with contextlib.closing(_opened(image)) as file:
        stored = file.seek(0, io.SEEK_END)
        file.seek(0)
        shape, fortran, dtype = npy_header(file)
        place = file.tell()
    numbers = numbers_like(dtype)
    whole = checked_shape(shape)
    check_numbers(whole, dtype.itemsize, stored, levels.max_pixels)
    count = int(np.prod(shape, dtype=object))
    if place + count * dtype.itemsize > stored:
        raise ValueError(f"it is cut off: its header promises {shape} {dtype.name}, and {stored:,} bytes are there")

    def read() -> np.ndarray:
        if isinstance(image, bytes):
            flat: np.ndarray = np.frombuffer(image, dtype, count, place)
        else:
            flat = np.memmap(image, dtype, "r", place, (count,))
        array = flat.reshape(shape, order="F" if fortran else "C")
        return array.reshape(whole)

    return ArrayImage(whole, numbers, read)


def _opened(image: str | Path | bytes) -> Any:
    return io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb")


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and dtype by the header of a .npy file, which is left where its numbers begin.

    Raises:
        ValueError: If it is damaged, or holds anything but plain numbers.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise UnclearNumbers(f"it is a .npy file of version {version[0]}.{version[1]}, which holds no plain numbers")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = header(file)
    except _files.DAMAGED_HEADER as error:
        raise ValueError(f"its header is damaged: {error}") from error
    if dtype.hasobject:
        raise UnclearNumbers("it holds objects, which would have to be unpickled, and may run anything then")
    if any(side < 0 for side in shape):
        raise WrongBands(f"it has the shape {shape}")
    return shape, fortran, dtype


def pixels_of(values: np.ndarray, numbers: Numbers, levels: Levels) -> np.ndarray:
    """Return an image's own numbers as pixels: uint8 in 0–255, or float32 in a range of its own.

    Raises:
        UnclearNumbers: If one lies beyond the range.
    """
    if levels.own_units:
        check_range(values, numbers, levels.pixel_range)
        return values.astype("float32")
    if numbers.dtype == "uint8":
        return 255 - values if numbers.inverted else np.ascontiguousarray(values)
    white = numbers.white if levels.white_level is None else levels.white_level
    pixels: np.ndarray = (values.astype("float32") / np.float32(int(white or 1) / 255)).round().clip(0, 255)
    pixels = pixels.astype("uint8")
    return 255 - pixels if numbers.inverted else pixels


def image_bytes(pixels: np.ndarray) -> bytes:
    """Return the content of a .npy file that holds these pixels."""
    written = io.BytesIO()
    np.save(written, np.ascontiguousarray(pixels), allow_pickle=False)
    return written.getvalue()
