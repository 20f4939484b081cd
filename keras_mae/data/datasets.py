"""Batches for `fit` from the sources that people have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mae.data.array_source import ArrayFileSource
from keras_mae.data.directories import open_directory
from keras_mae.data.huggingface import HuggingFaceSource
from keras_mae.data.levels import Levels
from keras_mae.data.loading import make_dataset
from keras_mae.data.sources import ArraySource
from keras_mae.data.streams import dataset_stream
from keras_mae.data.tfds import tfds_source
from keras_mae.data.tfrecords import tfrecord_stream
from keras_mae.pixels import BYTES, PixelRange

__all__ = [
    "from_array_file",
    "from_arrays",
    "from_dataset",
    "from_directory",
    "from_huggingface",
    "from_tfds",
    "from_tfrecords",
    "make_dataset",
    "open_directory",
]


def from_arrays(
    images: Any,
    labels: Any = None,
    batch_size: int = 256,
    *,
    image_size: int | tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    pixel_range: PixelRange = BYTES,
    **options: Any,
) -> Any:
    """Load batches from an array of images, which may be a memory-mapped .npy larger than memory.

    Args:
        images: (images, height, width, channels) or (images, height, width), integers or floats in `pixel_range`.
        labels: Integers from 0 (images,); not needed for pre-training.
        batch_size: Images in a batch.
        image_size: Side in pixels of the images to make, or (height, width); by default the images' own, uncut
            unless `crop` is given.
        class_names: Names of the classes, in the order of the labels.
        pixel_range: (low, high), the smallest and the largest value that a pixel may have; as the encoder's.
        options: Other arguments of `make_dataset`.

    Returns:
        A dataset for `fit`, with a length.

    Raises:
        ValueError: If these are not images, or an option is out of range.

    Example:
        >>> images, _ = keras_mae.data.digits()
        >>> len(keras_mae.data.from_arrays(images, batch_size=128))
        12
    """
    source = ArraySource(images, labels, image_size, class_names=class_names, pixel_range=pixel_range)
    return make_dataset(source, batch_size, **options)


def from_array_file(
    file: str | Path,
    batch_size: int = 256,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    class_names: Sequence[str] | None = None,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Any:
    """Load batches from an array of images in an HDF5, Zarr or .npy file, of which only these are read.

    Args:
        file: Name of the array, such as "cells.h5::images", or "cells.zarr::images::labels" with labels from a second
            one; or a .npy file.
        batch_size: Images in a batch.
        image_size: Side in pixels of the images that crops are resized to, or (height, width); by default the images'
            own, without crops.
        channels: Channels that the array must have, or 3 for one of gray images; by default its own.
        class_names: Names of the classes, in the order of the labels; by default the labels as texts.
        pixel_range: (low, high), the smallest and the largest pixel; with another than (0, 255) images are float32 in
            the array's own numbers.
        white_level: Number that becomes 255 in unsigned integers of 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image, or chunk, to read, as for `read_image`.
        options: Other arguments of `make_dataset`.

    Returns:
        A dataset for `fit`, with a length.

    Raises:
        ValueError: If there is no such array, or it is not one of images in the range.
        ImportError: If the library that reads the file is missing.
    """
    source = ArrayFileSource(
        file,
        image_size,
        channels,
        class_names=class_names,
        pixel_range=pixel_range,
        white_level=white_level,
        max_pixels=max_pixels,
    )
    return make_dataset(source, batch_size, **options)


def from_directory(
    directory: str | Path,
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 256,
    *,
    channels: int = 3,
    labeled: bool = False,
    class_names: Sequence[str] | None = None,
    allow_damaged: float = 0.0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Any:
    """Load batches of all images below a folder, flat or nested, or of a folder that `keras-mae prepare` wrote.

    Args:
        directory: Folder of images.
        image_size: Side in pixels of the images to make, or (height, width).
        batch_size: Images in a batch.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        labeled: Whether the folders in `directory` are classes, numbered from 0 in the order of their names.
            Prepared folders know it.
        class_names: Names of the classes in the order of their labels, such as `classifier.class_names`, instead of
            that order. The folder may lack some of them, and hold no others.
        allow_damaged: Largest share of damaged files, in [0, 1], to leave out and list in a warning; more is an
            error. Above 0 every file is decoded once beforehand; with 0 the first damaged file raises an error that
            names it. Not for folders prepared as ArrayRecord.
        pixel_range: (low, high), the smallest and the largest pixel: (0, 255) for uint8, any other for float32 in the
            files' own numbers; see `read_image`. Prepared folders hold 0–255.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`. Prepared folders know it.
        max_pixels: Pixels of the largest image to read, as for `read_image`.
        options: Other arguments of `make_dataset`, `crop` among them.

    Returns:
        A dataset for `fit`, with a length: (batch, height, width, channels), uint8 or float32, and labels if there
        are any. Its `class_names` say what they mean.

    Raises:
        ValueError: If there is no such folder, no image in it, or a file that cannot be read as one.
    """
    source = open_directory(
        directory,
        image_size,
        channels,
        labeled=labeled,
        class_names=class_names,
        allow_damaged=allow_damaged,
        pixel_range=pixel_range,
        white_level=white_level,
        max_pixels=max_pixels,
    )
    return make_dataset(source, batch_size, **options)


def from_tfds(
    name: str,
    split: str = "train",
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 256,
    *,
    channels: int = 3,
    data_dir: str | Path | None = None,
    download: bool = False,
    allow_damaged: float = 0.0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Any:
    """Load batches of a TensorFlow Datasets split.

    Data sets stored as ArrayRecord are read by index, by both loaders and without TensorFlow; all others are streams.

    Args:
        name: Name of the data set, as in `tfds.load`.
        split: Name of a split, or a part of one: "train" or "train[:10%]".
        image_size: Side in pixels of the images to make, or (height, width).
        batch_size: Images in a batch.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        data_dir: Folder in which TFDS keeps its data sets; its own default if `None`.
        download: Whether to download and prepare what is not there.
        allow_damaged: As for `Stream`; 0 for data sets stored as ArrayRecord.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image to read, as for `read_image`.
        options: Other arguments of `make_dataset`.

    Returns:
        A dataset for `fit`, with labels where the data set has one class label.

    Raises:
        ValueError: If there is no such data set or split, it is not prepared, or it holds no images.
        ImportError: If tensorflow-datasets is missing.
    """
    source = tfds_source(
        name,
        split,
        image_size,
        channels=channels,
        data_dir=data_dir,
        download=download,
        allow_damaged=allow_damaged,
        levels=Levels(pixel_range, white_level, max_pixels),
    )
    return make_dataset(source, batch_size, **options)


def from_tfrecords(
    files: Any,
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 256,
    *,
    channels: int = 3,
    image_key: str = "image/encoded",
    label_key: str | None = None,
    count: int | None = None,
    allow_damaged: float = 0.0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Any:
    """Load batches from TFRecord files of `tf.train.Example`s, several files read side by side. tf.data only.

    Args:
        files: Paths, or one path or pattern such as "train-*.tfrecord".
        image_size: Side in pixels of the images to make, or (height, width).
        batch_size: Images in a batch.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        image_key: Name of the feature that holds an image file's bytes.
        label_key: Name of the feature that holds the label, an integer; by default there are no labels.
        count: Images in all files; by default counted from the files' headers, if they are local.
        allow_damaged: As for `Stream`.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image to read, as for `read_image`.
        options: Other arguments of `make_dataset`.

    Returns:
        A dataset for `fit`.

    Raises:
        ValueError: If there is no such file, or one ends within a record.
    """
    stream = tfrecord_stream(
        files,
        image_size,
        channels,
        image_key=image_key,
        label_key=label_key,
        count=count,
        allow_damaged=allow_damaged,
        levels=Levels(pixel_range, white_level, max_pixels),
    )
    return make_dataset(stream, batch_size, **options)


def from_dataset(
    dataset: Any,
    batch_size: int = 256,
    image_size: int | tuple[int, int] | None = None,
    *,
    channels: int = 3,
    allow_damaged: float = 0.0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Any:
    """Load batches from any `tf.data.Dataset` of images, cut to one size.

    Args:
        dataset: Dataset of images, (images, labels) or dicts with "image" and "label"; one by one or in batches;
            arrays (height, width, channels) in `pixel_range`, or the bytes of image files.
        batch_size: Images in a batch.
        image_size: Side in pixels of the images to make, or (height, width); 224 by default, or the images' own
            where all have the same.
        channels: 1, 3 or 4, for encoded images. Arrays keep theirs.
        allow_damaged: As for `Stream`.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image to read, as for `read_image`.
        options: Other arguments of `make_dataset`.

    Returns:
        A dataset for `fit`.

    Raises:
        ValueError: If the elements hold no images.
    """
    levels = Levels(pixel_range, white_level, max_pixels)
    return make_dataset(dataset_stream(dataset, image_size, channels, allow_damaged, levels), batch_size, **options)


def from_huggingface(
    dataset: Any,
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 256,
    *,
    channels: int = 3,
    image_key: str | None = None,
    label_key: str | None = None,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Any:
    """Load batches of a split of a Hugging Face data set (`datasets.load_dataset(..., split="train")`), by index.

    Args:
        dataset: A `datasets.Dataset` with a column of images.
        image_size: Side in pixels of the images to make, or (height, width).
        batch_size: Images in a batch.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA) for pictures; for files of arrays their bands.
        image_key: Name of the column of images; by default the one there is.
        label_key: Name of the column of labels; by default the one that is a `ClassLabel`, if there is one.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image to read, as for `read_image`.
        options: Other arguments of `make_dataset`.

    Returns:
        A dataset for `fit`, with a length, and with labels where the data set has them.

    Raises:
        ValueError: If it is no such data set, or has no column of images.
        ImportError: If the `datasets` library is missing.
    """
    source = HuggingFaceSource(
        dataset,
        image_size,
        channels,
        image_key=image_key,
        label_key=label_key,
        levels=Levels(pixel_range, white_level, max_pixels),
    )
    return make_dataset(source, batch_size, **options)
