"""Packages that not every installation has: imported on first use, or an error names the extra that brings them."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

_DISTRIBUTIONS = {  # module -> (what people call it, the extra that installs it)
    "PIL": ("Pillow", "data"),
    "cykooz_resizer": ("cykooz-resizer", "fast"),
    "datasets": ("datasets", "huggingface"),
    "grain": ("Grain", "data"),
    "h5py": ("h5py", "hdf5"),
    "huggingface_hub": ("huggingface_hub", "convert"),
    "imagecodecs": ("imagecodecs", "tiff"),
    "importlib_resources": ("importlib_resources", "tfds"),
    "keras_hub": ("KerasHub", "keras-hub"),
    "matplotlib": ("matplotlib", "viz"),
    "pydicom": ("pydicom", "dicom"),
    "pyarrow": ("pyarrow", "parquet"),
    "safetensors": ("safetensors", "convert"),
    "simplejpeg": ("simplejpeg", "fast"),
    "sklearn": ("scikit-learn", "data"),
    "tensorflow": ("TensorFlow", "tensorflow"),
    "tensorflow_datasets": ("tensorflow-datasets", "tfds"),
    "tifffile": ("tifffile", "tiff"),
    "torch": ("PyTorch", "torch"),
    "umap": ("umap-learn", "umap"),
    "zarr": ("Zarr", "zarr"),
}


def require(module: str, purpose: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: Full name of the module, such as "sklearn.neighbors".
        purpose: What needs it, as the subject of a sentence: "Reading image files".

    Returns:
        The module.

    Raises:
        ImportError: If the package is missing; the message names the extra that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package, extra = _DISTRIBUTIONS[module.partition(".")[0]]
        raise ImportError(f'{purpose} requires {package}: pip install "keras-mae[{extra}]"') from error


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
