"""Images in record files: what a record is, and files that are read by index, ArrayRecord.

A record is a `tf.train.Example` with the features `image/encoded` (the file's bytes), `image/filename` and, where
there are labels, `image/class/label`. Reading ArrayRecord needs no TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _class_names, _optional
from keras_mae.data import fingerprints, listings
from keras_mae.data.crops import Crop
from keras_mae.data.images import upright_size
from keras_mae.data.levels import Levels
from keras_mae.data.sources import Generators, cut
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["IMAGE", "LABEL", "NAME", "RecordSource", "features", "parsed", "serialize"]

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
        root: Folder that names of files count from in fingerprints; that of the first file by default.

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
        root: str | Path | None = None,
    ):
        _optional.require("grain.sources", "Reading ArrayRecord")
        rule = "a list of paths of ArrayRecord files"
        if isinstance(files, str) or not isinstance(files, Iterable):
            raise _checks.argument_error("files", rule, files)
        files = [_checks.path("files", file, rule) for file in files]
        if not files:
            raise ValueError("`files` must name at least one ArrayRecord file. Received: none")
        self.image_shape = (*_checks.pair("image_size", image_size), _checks.positive_int("channels", channels))
        self._set_levels(Levels(pixel_range, white_level, max_pixels))
        self._files, self.class_names = [str(file) for file in files], _class_names.checked(class_names)
        self._root = Path(self._files[0]).parent if root is None else _checks.path("root", root)
        with self._clear_errors([0]):
            self._records = _open_records(self._files)
            first = self._records[0] if len(self._records) else None
        self.labeled = first is not None and LABEL in self._features(first, 0)

    def _set_levels(self, levels: Levels) -> None:
        self.levels, self.dtype = levels, levels.dtype

    def __len__(self) -> int:
        return len(self._records)

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images from others."""
        return {"kind": "ArrayRecord", **fingerprints.of_files(self._files, self._root)}

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
        indices = [int(index) for index in indices]
        with self._clear_errors(indices):
            records = self._records.__getitems__(indices)
        return [os.fsdecode(features(record).get(NAME, b"")) for record in records]

    def sizes(self, indices: Any) -> list[tuple[int, int]]:
        """Return (height, width) of the images at `indices`, as they were stored."""
        return [upright_size(image, self.levels.max_pixels) for image, _ in self._read([*map(int, indices)])]

    def encoded(self, indices: Any) -> list[bytes]:
        """Return the bytes of the images at `indices`, not yet decoded."""
        return [image for image, _ in self._read([int(index) for index in indices])]

    def _read(self, indices: list[int]) -> list[tuple[bytes, int | None]]:
        with self._clear_errors(indices):
            records = self._records.__getitems__(indices)
        examples = map(self._features, records, indices)
        return [(example[IMAGE], example.get(LABEL)) for example in examples]

    def _features(self, record: bytes, index: int) -> dict[str, Any]:
        try:
            return features(record)
        except ValueError:
            return features(record, self._place(index))  # which takes a look into every file

    def _place(self, index: int) -> str:
        """Return which record of which file an index is."""
        for file in self._files:
            records = len(_open_records([file]))
            if index < records:
                return f"record {index} of {file!r}"
            index -= records
        return f"record {index} beyond {self._files[-1]!r}"

    def _damaged(self, indices: list[int]) -> str:
        """Return which file, and which of the records at `indices`, cannot be read."""
        for file in self._files:
            place = f"The ArrayRecord file {file!r} is damaged"
            try:
                records = _open_records([file])
                for index in indices:
                    if 0 <= index < len(records):
                        place = f"The ArrayRecord file {file!r} is damaged: record {index} cannot be read"
                        records.__getitems__([index])
            except RuntimeError:
                return place
            indices = [index - len(records) for index in indices]
        return f"One of {len(self._files)} ArrayRecord files, of which {self._files[0]!r} is the first, is damaged"

    @contextlib.contextmanager
    def _clear_errors(self, indices: list[int]) -> Iterator[None]:
        """Name file and record in ArrayRecord's errors, which name none and, for a file cut off, say nothing."""
        try:
            yield
        except RuntimeError as error:
            raise ValueError(
                f"{self._damaged(indices)}; of a prepared folder `keras-mae prepare --check` lists all that are. "
                f"{' '.join(str(error).split())}"
            ) from error


def _open_records(files: list[str]) -> Any:
    return _optional.require("grain.sources", "Reading ArrayRecord").ArrayRecordDataSource(files)


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


def features(record: bytes, name: str = "a record") -> dict[str, Any]:
    """Return what is in a record that `serialize` wrote, by the names of the features.

    Raises:
        ValueError: If it is not a `tf.train.Example` with an image; the message says `name`.
    """
    feature = _features(record, name)
    values = parsed(record, name, IMAGE, LABEL if LABEL in feature else None)
    if NAME in feature:
        values[NAME] = feature[NAME].bytes_list.value[0]
    return values


def parsed(record: bytes, name: str, image_key: str, label_key: str | None) -> dict[str, Any]:
    """Return the image, and the label if there is a key for it, of a record.

    Raises:
        ValueError: If it is not a `tf.train.Example` with one of each; the message says `name`.
    """
    feature = _features(record, name)
    image: Any = feature[image_key].bytes_list.value if image_key in feature else ()
    if len(image) != 1:
        raise ValueError(_lacks(name, image_key, len(image), feature))
    values: dict[str, Any] = {image_key: image[0]}
    if label_key is not None:
        labels: Any = feature[label_key].int64_list.value if label_key in feature else ()
        if len(labels) != 1:
            raise ValueError(_lacks(name, label_key, len(labels), feature))
        values[label_key] = labels[0]
    return values


def _lacks(name: str, key: str, count: int, feature: Any) -> str:
    received = f"{count}" if key in feature else f"the features {sorted(feature)}"
    return f"{name[0].upper()}{name[1:]} must have the feature {key!r} with one value. Received: {received}"


def _features(record: bytes, name: str) -> Any:
    try:
        return _example_class().FromString(record).features.feature
    except Exception as error:
        raise ValueError(f"{name[0].upper()}{name[1:]} is not a tf.train.Example: {error}") from error


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
