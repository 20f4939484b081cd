"""Images for `fit`, from the sources people have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_mae import _checks
from keras_mae.data.augment import Augmentation
from keras_mae.data.builtin import BUILTIN, CLASS_NAMES, digits, fashion_mnist, load_builtin, read_idx
from keras_mae.data.crops import Box, CenterCrop, RandomResizedCrop
from keras_mae.data.datasets import make_dataset
from keras_mae.data.images import read_image
from keras_mae.data.preparation import find_damaged, prepare, read_manifest
from keras_mae.data.records import IMAGE, LABEL, RecordSource, tfrecord_stream
from keras_mae.data.sources import ArraySource, FolderSource, Subset
from keras_mae.data.streams import Stream, dataset_stream

__all__ = [
    "BUILTIN",
    "CLASS_NAMES",
    "ArraySource",
    "Augmentation",
    "Box",
    "CenterCrop",
    "FolderSource",
    "RandomResizedCrop",
    "RecordSource",
    "Stream",
    "Subset",
    "digits",
    "fashion_mnist",
    "find_damaged",
    "from_arrays",
    "from_dataset",
    "from_directory",
    "from_tfds",
    "from_tfrecords",
    "load_builtin",
    "make_dataset",
    "open_directory",
    "prepare",
    "read_idx",
    "read_image",
]


def from_arrays(
    images: Any,
    labels: Any = None,
    batch_size: int = 256,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> Any:
    """Batches of images in an array, also a memory-mapped .npy larger than memory.

    Args:
        images: (images, height, width, channels) or (images, height, width), integers or floats in 0–255.
        labels: Integers from 0 (images,); not needed for pre-training.
        batch_size: Images in a batch.
        image_size: Side in pixels of the images to make, or (height, width); by default the images' own, uncut
            unless `crop` is given.
        options: The other arguments of `make_dataset`.

    Returns:
        A dataset for `fit`, with a length.

    Raises:
        ValueError: If these are not images, or an option is out of range.

    Example:
        >>> images, _ = keras_mae.data.digits()
        >>> len(keras_mae.data.from_arrays(images, batch_size=128))
        12
    """
    return make_dataset(ArraySource(images, labels, image_size), batch_size, **options)


def from_directory(
    directory: str | Path,
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 256,
    channels: int = 3,
    labelled: bool = False,
    on_error: str = "raise",
    allowed: float = 0.01,
    **options: Any,
) -> Any:
    """Batches of all images below a folder, flat or nested, or of a folder that `keras-mae prepare` wrote.

    Args:
        directory: The folder.
        image_size: Side in pixels of the images to make, or (height, width).
        batch_size: Images in a batch.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        labelled: Whether the folders in `directory` are classes, numbered from 0 in the order of their names.
            Prepared folders know it.
        on_error: What to do about damaged files: "raise", naming one, or "skip": decode every file once beforehand,
            leave out what cannot be, and list it in a warning.
        allowed: With "skip", the share of damaged files above which there is an error all the same.
        options: The other arguments of `make_dataset`, `crop` among them.

    Returns:
        A dataset for `fit`, with a length: uint8 (batch, height, width, channels), with labels if there are any.

    Raises:
        ValueError: If there is no such folder, no image in it, or a file that cannot be read as one.
    """
    source = open_directory(directory, image_size, channels, labelled, on_error, allowed)
    return make_dataset(source, batch_size, **options)


def open_directory(
    directory: str | Path,
    image_size: int | tuple[int, int] = 224,
    channels: int = 3,
    labelled: bool = False,
    on_error: str = "raise",
    allowed: float = 0.01,
) -> Any:
    """The source behind `from_directory`, which has the same arguments."""
    _checks.one_of("on_error", on_error, ("raise", "skip"))
    manifest = read_manifest(directory) if Path(directory).is_dir() else None
    if manifest is None:
        return FolderSource(directory, image_size, channels, labelled, on_error, allowed)
    if labelled and not manifest["classes"]:
        raise ValueError(f"{str(directory)!r} was prepared without labels: prepare it again with --labelled")
    files = [Path(directory) / shard["file"] for shard in manifest["shards"]]
    if manifest["format"] == "array_record":
        return RecordSource(files, image_size, channels, manifest["classes"])
    label_key = LABEL if manifest["classes"] else None
    return tfrecord_stream(
        files, image_size, channels, IMAGE, label_key, manifest["images"], on_error, allowed, manifest["classes"]
    )


def from_tfds(
    name: str,
    split: str = "train",
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 256,
    channels: int = 3,
    data_dir: str | Path | None = None,
    download: bool = False,
    on_error: str = "raise",
    allowed: float = 0.01,
    **options: Any,
) -> Any:
    """Batches of a TensorFlow Datasets split.

    Sets stored as ArrayRecord are read by index, by both loaders and without TensorFlow; all others are streams.

    Args:
        name: As in `tfds.load`.
        split: Such as "train" or "train[:10%]".
        image_size: Side in pixels of the images to make, or (height, width).
        batch_size: Images in a batch.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        data_dir: Where TFDS keeps its data sets; its own default if `None`.
        download: Whether to download and prepare what is not there.
        on_error: For streams, as for `Stream`.
        allowed: As for `Stream`.
        options: The other arguments of `make_dataset`.

    Returns:
        A dataset for `fit`: with labels where the set has one class label.

    Raises:
        ValueError: If there is no such data set or split, it is not prepared, or it holds no images.
        ImportError: If tensorflow-datasets is missing.
    """
    from keras_mae.data import tfds

    source = tfds.source(name, split, image_size, channels, data_dir, download, on_error, allowed)
    return make_dataset(source, batch_size, **options)


def from_tfrecords(
    files: Any,
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 256,
    channels: int = 3,
    image_key: str = "image/encoded",
    label_key: str | None = None,
    count: int | None = None,
    on_error: str = "raise",
    allowed: float = 0.01,
    **options: Any,
) -> Any:
    """Batches of TFRecord files of `tf.train.Example`s, several files read side by side. tf.data only.

    Args:
        files: Paths, or one path or pattern such as "train-*.tfrecord".
        image_size: Side in pixels of the images to make, or (height, width).
        batch_size: Images in a batch.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        image_key: The feature that holds an image file's bytes.
        label_key: The feature that holds the label, an integer; by default there are no labels.
        count: Images in all files; by default counted from the files' headers, if they are local.
        on_error: As for `Stream`.
        allowed: As for `Stream`.
        options: The other arguments of `make_dataset`.

    Returns:
        A dataset for `fit`.

    Raises:
        ValueError: If there is no such file, or one ends within a record.
    """
    files = [files] if isinstance(files, str | Path) else list(files)
    stream = tfrecord_stream(files, image_size, channels, image_key, label_key, count, on_error, allowed)
    return make_dataset(stream, batch_size, **options)


def from_dataset(
    dataset: Any,
    batch_size: int = 256,
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    on_error: str = "raise",
    allowed: float = 0.01,
    **options: Any,
) -> Any:
    """Batches of any `tf.data.Dataset` of images, cut to one size.

    Args:
        dataset: Of images, (images, labels) or dicts with "image" and "label"; one by one or in batches; arrays
            (height, width, channels) in 0–255, or the bytes of image files.
        batch_size: Images in a batch.
        image_size: Side in pixels of the images to make, or (height, width); 224 by default, or the images' own
            where all have the same.
        channels: Of encoded images: 1, 3 or 4. Arrays keep theirs.
        on_error: As for `Stream`.
        allowed: As for `Stream`.
        options: The other arguments of `make_dataset`.

    Returns:
        A dataset for `fit`.

    Raises:
        ValueError: If the elements hold no images.
    """
    return make_dataset(dataset_stream(dataset, image_size, channels, on_error, allowed), batch_size, **options)
