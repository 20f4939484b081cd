"""DICOM files: one slice, in the unit that its rescaling says, such as Hounsfield's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _optional
from keras_mae.data.array_images import ArrayImage
from keras_mae.data.levels import Levels, Numbers, UnclearNumbers, WrongBands
from keras_mae.data.sizes import check_numbers

__all__ = ["open_dicom"]

_DEFLATED = "1.2.840.10008.1.2.1.99"


def open_dicom(image: str | Path | bytes, levels: Levels) -> ArrayImage:
    """Open the first frame of a DICOM file.

    Its numbers are those after the modality's rescaling (slope and intercept, or a table).

    Raises:
        ValueError: If the file is damaged, or holds no image.
        ImportError: If pydicom is missing.

    Reference: DICOM PS3.3, sections C.7.6.3 (image pixel), C.11.1 (modality LUT).
    """
    pydicom = _optional.require("pydicom", "Reading DICOM files")
    stored = len(image) if isinstance(image, bytes) else Path(image).stat().st_size
    # Of a deflated file all would be inflated at once, to whatever size: look before.
    with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file:
        pydicom.filereader.read_preamble(file, False)
        syntax = pydicom.filereader._read_file_meta_info(file).get("TransferSyntaxUID")
    if syntax == _DEFLATED:
        raise UnclearNumbers("it is deflated as a whole, which is not read: write it in another transfer syntax")
    header = pydicom.dcmread(_source(image), stop_before_pixels=True)
    if "Rows" not in header or "Columns" not in header:
        raise WrongBands("it holds no image")
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise UnclearNumbers("it holds numbers of colors in a palette, which are not read")
    shape = tuple(int(header.get(name) or 1) for name in ("Rows", "Columns", "SamplesPerPixel"))
    bits = int(header.get("BitsAllocated") or 8)
    check_numbers(shape, max(bits // 8, 1), stored, levels.max_pixels)
    numbers = _numbers(header, bits)
    frames = int(header.get("NumberOfFrames") or 1)

    def read() -> np.ndarray:
        values = pydicom.pixels.pixel_array(_source(image), index=0)
        if _rescaled(header):
            values = pydicom.pixels.apply_modality_lut(values, header)
        return np.asarray(values).reshape(shape)

    return ArrayImage((shape[0], shape[1], shape[2]), numbers, read, frames)


def _source(image: str | Path | bytes) -> Any:
    return io.BytesIO(image) if isinstance(image, bytes) else str(image)


def _rescaled(header: Any) -> bool:
    """Return whether the numbers are in a unit, and not as the detector gave them."""
    slope, intercept = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
    return "ModalityLUTSequence" in header or (slope, intercept) != (1, 0)


def _numbers(header: Any, bits: int) -> Numbers:
    signed = int(header.get("PixelRepresentation") or 0) == 1
    used = int(header.get("BitsStored") or bits)
    if _rescaled(header) or "FloatPixelData" in header:
        return Numbers(f"{used}-bit integers in a unit of their own", "float32", None)
    inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
    dtype = f"{'int' if signed else 'uint'}{8 if bits <= 8 else 16 if bits <= 16 else 32}"
    known = 0 < used <= 16 and not signed
    kind = "signed integers" if signed else "integers"
    return Numbers(f"{used}-bit {kind}", dtype, 2**used - 1 if known else None, inverted=inverted)
