"""Images for `fit`, from the sources people have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_mae.data.augment import Augmentation
from keras_mae.data.builtin import CLASSES, NAMES, digits, fashion_mnist, load, read_idx
from keras_mae.data.loaders import make_dataset
from keras_mae.data.sources import ArraySource, FolderSource, Subset, read_image

__all__ = [
    "CLASSES",
    "NAMES",
    "ArraySource",
    "Augmentation",
    "FolderSource",
    "Subset",
    "digits",
    "fashion_mnist",
    "from_arrays",
    "from_directory",
    "load",
    "make_dataset",
    "read_idx",
    "read_image",
]


def from_arrays(images: Any, labels: Any = None, batch_size: int = 256, **options: Any) -> Any:
    """Batches of images in an array, also a memory-mapped .npy larger than memory.

    Args:
        images: (images, height, width, channels) or (images, height, width), integers or floats in 0–255.
        labels: Integers from 0 (images,); not needed for pre-training.
        batch_size: Images in a batch.
        options: `shuffle`, `seed`, `drop_remainder`, `loader` and `augment` of `make_dataset`.

    Returns:
        A dataset for `fit`, with a length.

    Raises:
        ValueError: If these are not images, or an option is out of range.

    Example:
        >>> images, _ = keras_mae.data.digits()
        >>> len(keras_mae.data.from_arrays(images, batch_size=128))
        12
    """
    return make_dataset(ArraySource(images, labels), batch_size, **options)


def from_directory(
    directory: str | Path,
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 256,
    channels: int = 3,
    labelled: bool = False,
    **options: Any,
) -> Any:
    """Batches of all images below a folder, flat or nested; labels are not needed.

    Args:
        directory: The folder.
        image_size: Side in pixels of the images to make, or (height, width).
        batch_size: Images in a batch.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        labelled: Whether the folders in `directory` are classes, numbered from 0 in the order of their names.
        options: `shuffle`, `seed`, `drop_remainder`, `loader` and `augment` of `make_dataset`.

    Returns:
        A dataset for `fit`, with a length: uint8 (batch, height, width, channels), with labels if there are any.

    Raises:
        ValueError: If there is no such folder, no image in it, or a file that cannot be read as one.
    """
    return make_dataset(FolderSource(directory, image_size, channels, labelled), batch_size, **options)
