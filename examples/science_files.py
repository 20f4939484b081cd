"""Files of the sciences to time the reading of, for `benchmark_input.py --kind`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["KINDS", "make_numbers"]

# Kind of files -> (shape, dtype and range of the numbers, ending).
KINDS: dict[str, tuple[tuple[int, int, int], str, tuple[float, float], str]] = {
    "gray16": ((256, 256, 1), "uint16", (0, 4095), "tif"),
    "floats": ((256, 256, 1), "float32", (0, 1), "tif"),
    "bands": ((120, 120, 13), "uint16", (0, 10000), "tif"),
    "bands-deflated": ((120, 120, 13), "uint16", (0, 10000), "tif"),
    "bands-npy": ((120, 120, 13), "uint16", (0, 10000), "npy"),
    "slices": ((512, 512, 1), "int16", (-1024, 3071), "dcm"),
    "bands-hdf5": ((120, 120, 13), "uint16", (0, 10000), "h5"),
    "bands-zarr": ((120, 120, 13), "uint16", (0, 10000), "zarr"),
}


def make_numbers(kind: str, folder: Path, count: int) -> None:
    """`count` files, or one array, of a kind: noise that is smooth enough to be compressed a little."""
    shape, dtype, (low, high), ending = KINDS[kind]
    done = folder / ".made"  # hidden, so that nobody takes it for an image
    if done.exists() and int(done.read_text()) == count:
        return
    folder.mkdir(parents=True, exist_ok=True)

    def image(number: int) -> np.ndarray:
        generator = np.random.default_rng(number)
        coarse = generator.uniform(low, high, (shape[0] // 8, shape[1] // 8, shape[2]))
        fine = coarse.repeat(8, 0).repeat(8, 1) * generator.uniform(0.95, 1, shape)
        return fine.clip(low, high).astype(dtype)

    if ending == "h5":
        import h5py

        with h5py.File(folder / "images.h5", "w") as file:
            array = file.create_dataset("images", (count, *shape), dtype, chunks=(1, *shape), compression="gzip")
            for number in range(count):
                array[number] = image(number)
    elif ending == "zarr":
        import zarr

        group = zarr.open_group(folder / "images.zarr", mode="w")
        array = group.create_array("images", shape=(count, *shape), chunks=(1, *shape), dtype=dtype)
        for number in range(count):
            array[number] = image(number)
    else:
        for number in range(count):
            write_numbers(folder / f"{number:05d}.{ending}", image(number), deflated=kind == "bands-deflated")
    done.write_text(str(count))


def write_numbers(path: Path, image: np.ndarray, deflated: bool) -> None:
    """Write one image as a .npy, TIFF or DICOM file."""
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".tif":
        import tifffile

        compression = "zlib" if deflated else None
        planes = "contig" if image.shape[-1] > 1 else None  # which has a meaning for several bands only
        tifffile.imwrite(path, image, photometric="minisblack", planarconfig=planes, compression=compression)
    else:
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid()
        scan = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        scan.SOPClassUID, scan.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        scan.Rows, scan.Columns, scan.SamplesPerPixel = *image.shape[:2], 1
        scan.PhotometricInterpretation, scan.PixelRepresentation = "MONOCHROME2", 1
        scan.BitsAllocated, scan.BitsStored, scan.HighBit = 16, 16, 15
        scan.PixelData = image.tobytes()
        scan.save_as(path, enforce_file_format=True)
