"""Files of the sciences, written small: each as (content of a file, the array that is in it)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

RANGES = {"uint16": (0, 10000), "float32": (-1.0, 1.0), "float64": (-1.0, 1.0), "int16": (-1024, 3071)}


def array_of(dtype: str, bands: int, number: int = 0, size: tuple[int, int] = (11, 13)) -> np.ndarray:
    """Numbers from all of the dtype's range here, others for every number."""
    low, high = RANGES[dtype]
    generator = np.random.default_rng((number, bands))
    return generator.uniform(low, high, (*size, bands)).astype(dtype)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(array: np.ndarray, **options: Any) -> bytes:
    import tifffile

    file = io.BytesIO()
    options = {"photometric": "minisblack", "planarconfig": "contig", **options}
    if array.ndim == 2:
        del options["planarconfig"]
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def dicom(array: np.ndarray, *, slope: float = 1, intercept: float = 0, bits: int = 12, **values: Any) -> bytes:
    """A slice of 16-bit integers that mean slope · number + intercept."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["keras_mae"])
    slice_ = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    slice_.SOPClassUID, slice_.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    slice_.Rows, slice_.Columns = array.shape[-2:]
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, bits, bits - 1
    slice_.PixelRepresentation = int(array.dtype.kind == "i")
    if (slope, intercept) != (1, 0):
        slice_.RescaleSlope, slice_.RescaleIntercept = slope, intercept
    slice_.PixelData = array.tobytes()
    for name, value in values.items():
        setattr(slice_, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, slice_, enforce_file_format=True)
    return file.getvalue()


def write_hdf5(path: Path, **arrays: np.ndarray) -> str:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            chunks = (1, *array.shape[1:]) if array.ndim > 1 else None
            file.create_dataset(name, data=array, chunks=chunks, compression="gzip" if chunks else None)
    return str(path)


def write_zarr(path: Path, version: int = 3, **arrays: np.ndarray) -> str:
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=version)
    for name, array in arrays.items():
        chunks = (1, *array.shape[1:]) if array.ndim > 1 else array.shape
        group.create_array(name, shape=array.shape, chunks=chunks, dtype=array.dtype)[...] = array
    return str(path)


def in_npy(array):
    return npy(array)


def in_planes(array):
    return tiff(np.moveaxis(array, -1, 0), planarconfig="separate")


def in_imagej(array):
    return tiff(np.moveaxis(array, -1, 0), imagej=True, metadata={"axes": "CYX"}, planarconfig=None)


def in_ome(array):
    return tiff(np.moveaxis(array, -1, 0), ome=True, metadata={"axes": "CYX"}, planarconfig=None)


def deflated(array):
    return tiff(array, compression="zlib")


WRITERS = {"npy": in_npy, "tiff": tiff, "planes": in_planes, "deflated": deflated, "imagej": in_imagej, "ome": in_ome}
