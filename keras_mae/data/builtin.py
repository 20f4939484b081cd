"""Real images that need no network, or little of it: digits and Fashion-MNIST."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import keras
import numpy as np

from keras_mae import _checks, _optional

__all__ = ["BUILTIN", "CLASS_NAMES", "digits", "fashion_mnist", "load_builtin", "read_idx"]

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder of the files of Debian's package dataset-fashion-mnist."""

BUILTIN = ("digits", "fashion_mnist")
"""Names of the built-in data sets."""

CLASS_NAMES = {
    "digits": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
}
"""Names of their classes, in the order of the labels."""


def load_builtin(name: str, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Load one of the built-in data sets by name: see `digits` and `fashion_mnist`."""
    _checks.one_of("name", name, BUILTIN)
    return digits(split) if name == "digits" else fashion_mnist(split)


def digits(split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Load scikit-learn's 1,797 real handwritten digits: the default that needs no network.

    Args:
        split: "train", the first 1,437, or "test", the last 360. Different people wrote the two.

    Returns:
        Images, uint8 (images, 8, 8, 1), their 17 gray levels stretched to 0–255, and labels, int64 (images,).

    Raises:
        ImportError: If scikit-learn is missing.
    """
    _checks.one_of("split", split, ("train", "test"))
    bunch = _optional.require("sklearn.datasets", "Loading the digits").load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype("uint8")[..., None]
    part = slice(None, 1437) if split == "train" else slice(1437, None)
    return images[part], bunch.target[part].astype("int64")


def fashion_mnist(split: str = "train", directory: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Load Fashion-MNIST: 60,000 and 10,000 gray photographs of clothes in ten classes.

    It is read from IDX files where there are some (Debian: `apt install dataset-fashion-mnist`), downloaded by Keras
    otherwise.

    Args:
        split: "train" or "test".
        directory: Folder of the four IDX files, gzipped or not. By default Debian's, if it exists.

    Returns:
        Images, uint8 (images, 28, 28, 1), and labels, int64 (images,).

    Raises:
        ValueError: If a file is missing, damaged or not what its name says.
        OSError: If it cannot be downloaded.
    """
    _checks.one_of("split", split, ("train", "test"))
    if directory is None and DEBIAN_FASHION_MNIST.is_dir():
        directory = DEBIAN_FASHION_MNIST
    if directory is None:
        try:
            images, labels = keras.datasets.fashion_mnist.load_data()[split == "test"]
        except Exception as error:  # Keras raises no narrower one where the network is at fault
            raise OSError(
                "Fashion-MNIST could not be downloaded; where its four IDX files are, `directory` reads them "
                f"(Debian: apt install dataset-fashion-mnist): {error}"
            ) from error
    else:
        prefix = "train" if split == "train" else "t10k"
        folder = _checks.path("directory", directory)
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"Fashion-MNIST needs images (n, rows, columns) and labels (n,). "
            f"Received: {images.shape} and {labels.shape} from {directory}"
        )
    return images[..., None], labels.astype("int64")


def read_idx(path: str | Path) -> np.ndarray:
    """Read the array of bytes in an IDX file; `path` may also lack the ending .gz of a gzipped file.

    Raises:
        ValueError: If there is no such file, or it is damaged.
    """
    path = _checks.path("path", path)
    file = next((file for file in (path, path.with_name(path.name + ".gz")) if file.is_file()), None)
    if file is None:
        raise ValueError(f"There is no IDX file {path} or {path.name}.gz")
    content = file.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise ValueError(f"{file} is a damaged gzip file: {error}") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{file} is not an IDX file of bytes")
    header = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4"))
    if len(shape) != content[3] or len(content) != header + math.prod(shape):
        raise ValueError(f"{file} is damaged: its header promises {shape} bytes, {len(content) - header} follow")
    return np.frombuffer(content, "uint8", offset=header).reshape(shape)
