"""A source as batches for `fit`: through tf.data, or through Grain without TensorFlow."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from keras_mae import _checks, _class_names
from keras_mae.data import tf_data
from keras_mae.data.augment import Augmentation
from keras_mae.data.batches import Batches, Plan, check_options, checked_shard
from keras_mae.data.crops import CenterCrop, Crop, RandomResizedCrop
from keras_mae.data.file_names import names_of
from keras_mae.data.grain_data import GrainDataset
from keras_mae.data.levels import Levels, checked_levels
from keras_mae.data.manifests import check_levels, read_manifest
from keras_mae.data.records import IMAGE, LABEL, RecordSource
from keras_mae.data.relabeling import relabeled
from keras_mae.data.sources import ArraySource, FolderSource, Source, check_source
from keras_mae.data.streams import Stream, dataset_stream
from keras_mae.data.tfds import tfds_source
from keras_mae.data.tfrecords import tfrecord_stream
from keras_mae.pixels import BYTES, PixelRange

__all__ = [
    "from_arrays",
    "from_dataset",
    "from_directory",
    "from_tfds",
    "from_tfrecords",
    "make_dataset",
    "open_directory",
]

_LOADERS = ("tf.data", "grain")


def make_dataset(
    source: Source | Stream,
    batch_size: int,
    *,
    shuffle: bool = True,
    seed: int = 0,
    drop_remainder: bool = False,
    loader: str | None = None,
    augment: Augmentation | None = None,
    crop: Crop | None = None,
    crops_per_image: int = 1,
    shard: tuple[int, int] | None = None,
    workers: int | None = None,
) -> Any:
    """Load a source in batches, in parallel with training and in a different order every epoch.

    Args:
        source: An `ArraySource`, `FolderSource`, `RecordSource`, `Subset`, or, for tf.data, a `Stream`.
        batch_size: Images in a batch of all workers together, each crop counted.
        shuffle: Whether to shuffle: a source over its whole length, a `Stream` within its buffer.
        seed: Seed for order and crops; the same seed reproduces both.
        drop_remainder: Whether to leave out the last batch of an epoch if it is not full. Every batch then has
            the same shape, and XLA compiles once.
        loader: "tf.data", or "grain" (no TensorFlow needed). By default tf.data where TensorFlow is installed.
        augment: Augmentation of every batch of images and labels.
        crop: `RandomResizedCrop`, `CenterCrop`, or a function like them. For images of various sizes the default is
            `RandomResizedCrop()` with `shuffle`, which is for training, and `CenterCrop()` without.
        crops_per_image: Crops to take of each image once it is decoded, next to one another in the batch (repeated
            sampling); an epoch has as many times more batches. Useful where decoding limits training.
        shard: (index, count) of this worker, which gets its part of every batch. By default what the enclosing
            `keras_mae.distribution.scope` says, and outside of one all of every batch.
        workers: Parallel calls that load (tf.data; one a core by default), or processes (grain; by default none:
            threads of this process).

    Returns:
        A dataset for `fit`: images, or (images, labels) where the source has labels. It has a length unless it is a
        `Stream` whose number of images is unknown. Its `class_names` are the source's: a tuple, or `None`. Without
        `shuffle`, `image_names()` are the names of the images' files in their order, `None` for those without.

    Raises:
        ValueError: If an argument is out of range, or no batch would be left.
    """
    check_source(source)
    check_options(batch_size, shuffle, seed, drop_remainder, crops_per_image, workers)
    shard = checked_shard(shard, batch_size, crops_per_image, drop_remainder)
    if crop is None and not source.sized:
        crop = RandomResizedCrop() if shuffle else CenterCrop()
    plan = Plan(batch_size, shuffle, seed, drop_remainder, augment, crop, crops_per_image, shard, workers)
    plan.check(source)
    dataset = _loaded(source, plan, loader)
    dataset.class_names = _class_names.named(source)
    dataset.image_names = None if shuffle else partial(names_of, source)
    return dataset


def _loaded(source: Source | Stream, plan: Plan, loader: str | None) -> Any:
    if isinstance(source, Stream):
        _check_stream_loader(source, loader)
        return tf_data.stream_dataset(source, plan)
    if loader is None:
        loader = "tf.data" if importlib.util.find_spec("tensorflow") else "grain"
    grain = _checks.one_of("loader", loader, _LOADERS) == "grain"
    batches = Batches(source, plan)
    return GrainDataset(batches) if grain else tf_data.dataset(batches)


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


def open_directory(
    directory: str | Path,
    image_size: int | tuple[int, int] = 224,
    channels: int = 3,
    *,
    labeled: bool = False,
    class_names: Sequence[str] | None = None,
    allow_damaged: float = 0.0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> Source | Stream:
    """Open the source behind `from_directory`, which has the same arguments."""
    _checks.within("allow_damaged", allow_damaged, 1)
    _checks.boolean("labeled", labeled)
    manifest = read_manifest(directory) if _checks.path("directory", directory).is_dir() else None
    if manifest is None:
        folder = FolderSource(
            directory,
            image_size,
            channels,
            labeled=labeled,
            allow_damaged=allow_damaged,
            pixel_range=pixel_range,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        return relabeled(folder, class_names)
    check_levels(directory, manifest, Levels(pixel_range, white_level))
    if labeled and not manifest.get("classes"):
        raise ValueError(f"{str(directory)!r} was prepared without labels: prepare it again with --labeled")
    files = [Path(directory) / shard["file"] for shard in manifest["shards"]]
    if manifest["format"] == "array_record":
        if allow_damaged:
            rule = f"0 for {str(directory)!r}, prepared as ArrayRecord"
            raise _checks.argument_error("allow_damaged", rule, allow_damaged)
        names = manifest.get("classes") or None
        records = RecordSource(files, image_size, channels, class_names=names, max_pixels=max_pixels)
        return relabeled(records, class_names)
    stream = tfrecord_stream(
        files,
        image_size,
        channels,
        image_key=IMAGE,
        label_key=LABEL if manifest.get("classes") else None,
        count=manifest["images"],
        counts=[shard["images"] for shard in manifest["shards"]],
        allow_damaged=allow_damaged,
        levels=Levels(max_pixels=max_pixels),
        class_names=manifest.get("classes") or None,
    )
    return relabeled(stream, class_names)


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
        levels=checked_levels(pixel_range, white_level, channels, max_pixels),
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
        levels=checked_levels(pixel_range, white_level, channels, max_pixels),
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


def _check_stream_loader(stream: Stream, loader: str | None) -> None:
    if _checks.one_of("loader", loader or "tf.data", _LOADERS) == "grain":
        raise ValueError(
            f"Grain reads by index, and {stream.name} can only be read from front to back: use "
            "loader='tf.data', or have `keras-mae prepare` write it as ArrayRecord"
        )
