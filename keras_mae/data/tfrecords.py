"""TFRecord files: read from front to back by TensorFlow, once their headers are known to be right.

TensorFlow believes the length that a header says: of 2**60 bytes it crashes. And its errors name neither the file nor
the record, so that lengths are looked at beforehand here, and records that it cannot read are counted out afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _optional
from keras_mae.data import fingerprints
from keras_mae.data.levels import Levels
from keras_mae.data.records import parsed
from keras_mae.data.streams import Stream

__all__ = ["count_tfrecords", "first_images", "masked_crc32c", "tfrecord_stream"]

_FILES = "paths of TFRecord files, or one path or pattern"
_HEADER, _AROUND = struct.Struct("<QI"), 16  # length and its checksum; these and the data's checksum


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
    counts: Sequence[int] | None = None,
    root: Path | None = None,
) -> Stream:
    """Return a stream over TFRecord files, several of them read side by side; see `from_tfrecords`.

    Args:
        counts: Numbers of records that the files must have, by a manifest.
        root: Folder that names of files count from in fingerprints; that of the first file by default.
    """
    several = [files] if isinstance(files, str | Path) else files
    files = [_checks.path("files", file, _FILES) for file in _checks.instance("files", several, Iterable, _FILES)]
    if not files:
        raise ValueError("`files` must name TFRecord files. Received: none")
    _checks.pair("image_size", image_size)
    _checks.positive_int("channels", channels)
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
        _items(names, None if counts is None else dict(zip(names, counts, strict=True))),
        image_size=image_size,
        channels=_checks.positive_int("channels", channels),
        labeled=label_key is not None,
        count=count,
        allow_damaged=allow_damaged,
        class_names=class_names,
        pixel_range=levels.pixel_range,
        white_level=levels.white_level,
        max_pixels=levels.max_pixels,
        fingerprint=lambda: {"kind": "TFRecord", **fingerprints.of_files(names, root or Path(names[0]).parent)},
        unpack=_unpacking(image_key, label_key),
    )


def _unpacking(image_key: str, label_key: str | None) -> Callable[..., tuple[bytes, int, str]]:
    """Return the function that makes image, label and name of an element of `_items`."""

    first_damaged = functools.cache(_first_damaged)

    def unpack(record: bytes, file: bytes, number: int, readable: bool) -> tuple[bytes, int, str]:
        path = file.decode(errors="surrogateescape")
        name = f"record {number} of {path!r}"
        if not readable:
            first = first_damaged(path)
            raise ValueError(f"Cannot read {name}: " + ("it" if first == number else f"record {first}") + _CHANGED)
        values = parsed(record, name, image_key, label_key)
        return values[image_key], 0 if label_key is None else values[label_key], name

    return unpack


_CHANGED = " does not have the checksum that it was written with"


def _first_damaged(file: str) -> int:
    """Return the number of the first record that TensorFlow cannot read."""
    import tensorflow as tf

    number = 0
    with contextlib.suppress(tf.errors.OpError):
        for _ in tf.data.TFRecordDataset(file):
            number += 1
    return number


def _items(files: Sequence[str], expected: dict[str, int] | None) -> Callable[[bool, int], Any]:
    """Return the function of (shuffle, seed) that makes a dataset of (record, file, number in it, is it readable)."""
    import tensorflow as tf

    counted: dict[str, int] = {}

    def count(file: bytes) -> np.int64:
        name = file.decode(errors="surrogateescape")
        if name not in counted:
            counted[name] = count_tfrecords([name])
            if expected is not None and counted[name] != expected[name]:
                raise ValueError(
                    f"The TFRecord file {name!r} holds {counted[name]:,} records, and its manifest says "
                    f"{expected[name]:,}"
                )
        return np.int64(counted[name])

    def records_of(file: Any) -> Any:
        number = tf.ensure_shape(tf.numpy_function(count, [file], tf.int64), ())
        with tf.control_dependencies([number]):  # not opened before its headers are known to be right
            file = tf.identity(file)
        # After a record that it cannot read TensorFlow leaves the file.
        found = tf.data.TFRecordDataset(file).ignore_errors(log_warning=False).map(lambda record: (record, True))
        lost = tf.data.Dataset.from_tensors((tf.constant(b""), tf.constant(False))).repeat()
        numbered = found.concatenate(lost).take(number).enumerate()
        return numbered.map(lambda place, element: (element[0], file, place, element[1]))

    def records_elsewhere(file: Any) -> Any:
        """Return the same where a look at every header would be a request."""
        numbered = tf.data.TFRecordDataset(file).enumerate()
        return numbered.map(lambda place, record: (record, file, place, True))

    local = not any("://" in file for file in files)

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
        return names.interleave(
            records_of if local else records_elsewhere,
            cycle_length=min(16, len(files)),
            num_parallel_calls=min(_optional.cores(), len(files)),
            deterministic=True,
        )

    return items


def first_images(files: Sequence[str | Path], most: int, image_key: str) -> list[bytes]:
    """Return the bytes of the first images in TFRecord files, up to so many.

    Raises:
        ValueError: If a file's lengths are wrong, or a record is damaged or holds no image.
    """
    tf = _optional.require("tensorflow", "Reading TFRecord files")
    images: list[bytes] = []
    for file in files:
        count_tfrecords([str(file)])
        try:
            for record in tf.data.TFRecordDataset(str(file)).take(most - len(images)).as_numpy_iterator():
                name = f"record {len(images)} from {str(file)!r} on"
                images.append(parsed(record, name, image_key, None)[image_key])
        except tf.errors.OpError as error:
            raise ValueError(f"Cannot read a record of {str(file)!r}: it{_CHANGED}") from error
        if len(images) == most:
            break
    return images


def count_tfrecords(files: Sequence[str]) -> int:
    """Count the records in TFRecord files by their headers.

    Raises:
        ValueError: If a file ends within a record, a length has a wrong checksum, or a file cannot be opened.
    """
    count = 0
    for file in files:
        try:
            with open(file, "rb") as opened:
                count += _count(opened, f"The TFRecord file {str(file)!r}")
        except OSError as error:
            raise ValueError(f"Cannot read the TFRecord file {str(file)!r}: {error.strerror}") from error
    return count


def _count(opened: Any, name: str) -> int:
    size, position, count = opened.seek(0, 2), 0, 0
    while position < size:
        opened.seek(position)
        header = opened.read(_HEADER.size)
        if position == 0 and header[:2] == b"\x1f\x8b":
            raise ValueError(f"{name} is compressed, which is not read: decompress it first")
        length, checksum = _HEADER.unpack(header) if len(header) == _HEADER.size else (0, 0)
        if len(header) == _HEADER.size and checksum != masked_crc32c(header[:8]):
            what = "is damaged" if count else "is none, or is damaged"
            raise ValueError(
                f"{name} {what}: the length of record {count}, at byte {position:,}, has a wrong checksum"
            )
        if len(header) < _HEADER.size or position + _AROUND + length > size:
            raise ValueError(
                f"{name} ends within a record: number {count} begins at byte {position:,} of {size:,}"
                + (f", and is said to have {length:,}" if length else "")
            )
        position += _AROUND + length
        count += 1
    return count


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """Return the checksum that TFRecord files have of a few bytes: CRC-32C, rotated, plus a constant.

    Reference: RFC 3720, appendix B.4; TensorFlow's "TFRecord and tf.train.Example", "TFRecords format details".
    """
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
