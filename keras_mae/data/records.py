"""Images in record files: TFRecord to be read from front to back, ArrayRecord by index.

A record is a `tf.train.Example` with the features `image/encoded` (the file's bytes), `image/filename` and, where
there are labels, `image/class/label`. Reading ArrayRecord needs no TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _class_names, _optional
from keras_mae.data import fingerprints, listings
from keras_mae.data.crops import Crop
from keras_mae.data.images import MODES
from keras_mae.data.levels import Levels, checked_levels
from keras_mae.data.sources import Generators, cut
from keras_mae.data.streams import Stream
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["IMAGE", "LABEL", "NAME", "RecordSource", "count_tfrecords", "features", "serialize", "tfrecord_stream"]

_AT_A_TIME = 256  # records read at once
IMAGE, LABEL, NAME = "image/encoded", "image/class/label", "image/filename"


class RecordSource:
    """Images in ArrayRecord files, by index, with their labels if they have any.

    Args:
        files: Paths of the files, in order.
        image_size: Side in pixels of the images to make, or (height, width).
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        class_names: Names of the classes, in the order of the labels.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image to read, as for `read_image`.

    Raises:
        ValueError: If there is no file, one is damaged, or a record is not one that `prepare` writes.
    """

    sized = False
    labels: np.ndarray | None = None

    def __init__(
        self,
        files: Sequence[str | Path],
        image_size: int | tuple[int, int] = 224,
        channels: int = 3,
        *,
        class_names: Sequence[str] | None = None,
        pixel_range: PixelRange = BYTES,
        white_level: int | None = None,
        max_pixels: int | None = None,
    ):
        grain_sources = _optional.require("grain.sources", "Reading ArrayRecord")
        rule = "a list of paths of ArrayRecord files"
        if isinstance(files, str) or not isinstance(files, Iterable):
            raise _checks.argument_error("files", rule, files)
        files = [_checks.path("files", file, rule) for file in files]
        if not files:
            raise ValueError("`files` must name at least one ArrayRecord file. Received: none")
        self.image_shape = (*_checks.pair("image_size", image_size), _checks.one_of("channels", channels, MODES))
        self._set_levels(checked_levels(pixel_range, white_level, channels, max_pixels))
        self._files, self.class_names = [str(file) for file in files], _class_names.checked(class_names)
        with self._clear_errors():
            self._records = grain_sources.ArrayRecordDataSource(self._files)
            first = self._records[0] if len(self._records) else None
        self.labeled = first is not None and LABEL in features(first)

    def _set_levels(self, levels: Levels) -> None:
        self.levels, self.dtype = levels, levels.dtype

    def __len__(self) -> int:
        return len(self._records)

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images from others."""
        return {"kind": "ArrayRecord", **fingerprints.of_files(self._files, Path(self._files[0]).parent)}

    def listing(self) -> dict[str, list[int]] | None:
        """Return size and time of each ArrayRecord file by its name."""
        return listings.of_paths(self._files, os.path.commonpath([os.path.dirname(file) for file in self._files]))

    def batch(
        self, indices: Any, crop: Crop | None = None, generators: Generators | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        pairs = self._read([int(index) for index in indices])
        labels = self._labels([label for _, label in pairs]) if self.labeled else None
        images = (image for image, _ in pairs)
        return cut(images, indices, self.image_shape, crop, generators, self.levels), labels

    def read_labels(self) -> np.ndarray:
        """Return the labels of all images, for which all records are read."""
        parts = (range(start, min(start + _AT_A_TIME, len(self))) for start in range(0, len(self), _AT_A_TIME))
        return self._labels([label for part in parts for _, label in self._read(list(part))])

    def _labels(self, labels: list[int | None]) -> np.ndarray:
        classes = len(self.class_names or ())
        if wrong := [label for label in labels if label is None or label < 0 or (classes and label >= classes)]:
            rule = f"in [0, {classes})" if classes else "from 0"
            raise ValueError(f"Labels of records in {self._files[0]!r} must be {rule}. Received: {wrong[0]}")
        return np.array(labels, "int64")

    def names(self, indices: Any) -> list[str]:
        """Return the names that the images at `indices` had in the folder they were prepared from."""
        with self._clear_errors():
            records = self._records.__getitems__([int(index) for index in indices])
        return [os.fsdecode(features(record).get(NAME, b"")) for record in records]

    def _read(self, indices: list[int]) -> list[tuple[bytes, int | None]]:
        with self._clear_errors():
            records = self._records.__getitems__(indices)
        return [(example[IMAGE], example.get(LABEL)) for example in map(features, records)]

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Name the file in ArrayRecord's errors, which name none and, for a file cut off, say nothing."""
        try:
            yield
        except RuntimeError as error:
            raise ValueError(
                f"One of {len(self._files)} ArrayRecord files, of which {self._files[0]!r} is the first, is damaged; "
                f"for a prepared folder `keras_mae.data.find_damaged` says which. {error}"
            ) from error


_FILES = "paths of TFRecord files, or one path or pattern"


def tfrecord_stream(
    files: Any,
    image_size: int | tuple[int, int],
    channels: int,
    *,
    image_key: str,
    label_key: str | None,
    count: int | None,
    allow_damaged: float,
    levels: Levels,
    class_names: Sequence[str] | None = None,
) -> Stream:
    """Return a stream over TFRecord files, several of them read side by side; see `from_tfrecords`."""
    several = [files] if isinstance(files, str | Path) else files
    files = [_checks.path("files", file, _FILES) for file in _checks.instance("files", several, Iterable, _FILES)]
    if not files:
        raise ValueError("`files` must name TFRecord files. Received: none")
    _checks.pair("image_size", image_size)
    _checks.one_of("channels", channels, MODES)
    _checks.text("image_key", image_key, "the name of a feature")
    if label_key is not None:
        _checks.text("label_key", label_key, "the name of a feature, or None")
    _checks.optional(_checks.positive_int, "count", count)
    tf = _optional.require("tensorflow", "Reading TFRecord files")
    names = [name for file in files for name in sorted(tf.io.gfile.glob(str(file)))]
    if not names:
        raise ValueError(f"`files` must name TFRecord files. Received: files={[str(file) for file in files]}")
    if count is None and not any("://" in name for name in names):
        count = count_tfrecords(names)
    return Stream(
        f"the {len(names)} TFRecord files from {names[0]!r} on",
        _items(names, image_key, label_key),
        image_size=image_size,
        channels=_checks.one_of("channels", channels, MODES),
        labeled=label_key is not None,
        count=count,
        allow_damaged=allow_damaged,
        class_names=class_names,
        pixel_range=levels.pixel_range,
        white_level=levels.white_level,
        max_pixels=levels.max_pixels,
        fingerprint=lambda: {"kind": "TFRecord", **fingerprints.of_files(names, Path(names[0]).parent)},
    )


def _items(files: Sequence[str], image_key: str, label_key: str | None) -> Callable[[bool, int], Any]:
    import tensorflow as tf

    spec = {image_key: tf.io.FixedLenFeature((), tf.string)}
    if label_key is not None:
        spec[label_key] = tf.io.FixedLenFeature((), tf.int64)

    def parse(record: Any) -> Any:
        example = tf.io.parse_single_example(record, spec)
        return example[image_key], tf.zeros((), tf.int64) if label_key is None else example[label_key]

    def items(shuffle: bool, seed: int) -> Any:
        # Not tf.data's own shuffling: that depends on TensorFlow's global seed, and workers must agree.
        epochs = itertools.count()

        def order() -> np.ndarray:
            generator = np.random.default_rng((seed, next(epochs)))
            return np.array(files, object)[generator.permutation(len(files)) if shuffle else slice(None)]

        def in_order(_: Any) -> Any:
            return tf.data.Dataset.from_tensor_slices(
                tf.ensure_shape(tf.numpy_function(order, [], tf.string), (None,))
            )

        names = tf.data.Dataset.from_tensors(0).flat_map(in_order)
        records = names.interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(16, len(files)),
            num_parallel_calls=min(_optional.cores(), len(files)),
            deterministic=True,
        )
        return records.map(parse)

    return items


def count_tfrecords(files: Sequence[str]) -> int:
    """Count the records in TFRecord files by their headers.

    Raises:
        ValueError: If a file ends within a record.
    """
    count = 0
    for file in files:
        with open(file, "rb") as opened:
            size, position = opened.seek(0, 2), 0
            while position < size:
                opened.seek(position)
                header = opened.read(8)
                position += 16 + int.from_bytes(header, "little")  # length and its checksum, data and its checksum
                if position > size or len(header) < 8:
                    raise ValueError(f"The TFRecord file {str(file)!r} ends within a record")
                count += 1
    return count


def serialize(image: bytes, name: str, label: int | None) -> bytes:
    """Return the record of an image."""
    example = _example_class()()
    feature = example.features.feature
    feature[IMAGE].bytes_list.value.append(image)
    feature[NAME].bytes_list.value.append(os.fsencode(name))
    if label is not None:
        feature[LABEL].int64_list.value.append(label)
    record: bytes = example.SerializeToString(deterministic=True)
    return record


def features(record: bytes) -> dict[str, Any]:
    """Return what is in a record, by the names of the features.

    Raises:
        ValueError: If it is not a `tf.train.Example` with an image.
    """
    try:
        feature = _example_class().FromString(record).features.feature
    except Exception as error:
        raise ValueError(f"A record is not a tf.train.Example: {error}") from error
    if IMAGE not in feature or len(feature[IMAGE].bytes_list.value) != 1:
        raise ValueError(f"A record must have the feature {IMAGE!r}. Received: {sorted(feature)}")
    values: dict[str, Any] = {IMAGE: feature[IMAGE].bytes_list.value[0]}
    if LABEL in feature:
        if len(feature[LABEL].int64_list.value) != 1:
            raise ValueError(f"A record must have one {LABEL!r}. Received: {len(feature[LABEL].int64_list.value)}")
        values[LABEL] = feature[LABEL].int64_list.value[0]
    if NAME in feature:
        values[NAME] = feature[NAME].bytes_list.value[0]
    return values


@functools.cache
def _example_class() -> Any:
    """Return `tf.train.Example` without TensorFlow: the public message, described here in a pool of its own."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, str | None], repeated: bool = False, inside: Any = None) -> Any:
        """Describe a message of fields (name, type, name of the type), numbered from 1."""
        made = (file.message_type if inside is None else inside.nested_type).add(name=name)
        for number, (title, kind, type_name) in enumerate(fields, 1):
            made.field.add(
                name=title,
                number=number,
                type=kind,
                type_name=type_name and f".tensorflow.{type_name}",
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )
        return made

    message("BytesList", ("value", field.TYPE_BYTES, None), repeated=True)
    message("FloatList", ("value", field.TYPE_FLOAT, None), repeated=True)
    message("Int64List", ("value", field.TYPE_INT64, None), repeated=True)
    feature = message(
        "Feature",
        ("bytes_list", field.TYPE_MESSAGE, "BytesList"),
        ("float_list", field.TYPE_MESSAGE, "FloatList"),
        ("int64_list", field.TYPE_MESSAGE, "Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for part in feature.field:
        part.oneof_index = 0
    entries = message("Features", ("feature", field.TYPE_MESSAGE, "Features.FeatureEntry"), repeated=True)
    entry = message(
        "FeatureEntry", ("key", field.TYPE_STRING, None), ("value", field.TYPE_MESSAGE, "Feature"), inside=entries
    )
    entry.options.map_entry = True
    message("Example", ("features", field.TYPE_MESSAGE, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
