"""TensorFlow Datasets: ArrayRecord sets by index, without TensorFlow; all others as streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_mae import _checks, _class_names, _optional
from keras_mae.data.levels import EIGHT_BITS, Levels
from keras_mae.data.records import RecordSource
from keras_mae.data.streams import Stream

__all__ = ["TFDSSource", "indexed_split", "tfds_source"]

Keys = tuple[str, str | None, tuple[str, ...] | None]
"""Names of a data set's image and label features, and of its classes."""


class TFDSSource(RecordSource):
    """A TFDS split of ArrayRecord files, by index.

    Args:
        builder: Builder of a prepared data set.
        split: Name of a split, or a part of one: "train" or "train[:10%]".
        image_size: Side in pixels of the images to make, or (height, width).
        channels: 1, 3 or 4.
        levels: What becomes of the files' numbers.
        keys: Names of the image and label features, and of the classes; by default what the data set says.
    """

    names: Any = None  # its records have none

    def __init__(
        self,
        builder: Any,
        split: str,
        image_size: int | tuple[int, int],
        channels: int,
        levels: Levels,
        keys: Keys | None = None,
    ):
        import tensorflow_datasets as tfds

        self._image, self._label, self.class_names = keys or _keys(builder.info)
        self.image_shape = (*_checks.pair("image_size", image_size), _checks.positive_int("channels", channels))
        self._set_levels(levels)
        self.labeled = self._label is not None
        pictures = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
        self._records = builder.as_data_source(split, decoders=dict.fromkeys(pictures, tfds.decode.SkipDecoding()))
        self._known = _known(builder, split)

    def fingerprint(self) -> dict[str, Any]:
        return self._known

    def _read(self, indices: list[int]) -> list[tuple[bytes, int | None]]:
        examples = self._records.__getitems__(indices)
        return [(example[self._image], example[self._label] if self._label else None) for example in examples]


def tfds_source(
    name: str,
    split: str,
    image_size: int | tuple[int, int],
    *,
    channels: int,
    data_dir: str | Path | None,
    download: bool,
    allow_damaged: float,
    levels: Levels = EIGHT_BITS,
) -> TFDSSource | Stream:
    """Open a split of a TFDS data set: by index where its files allow that, else as a stream.

    Raises:
        ValueError: If there is no such data set or split, it is not prepared, or it holds no images.
    """
    builder, count = _opened(name, split, data_dir, download)
    image, label, class_names = _keys(builder.info)
    if _is_indexed(builder):
        if allow_damaged:
            raise ValueError(
                f"ArrayRecord data sets are read by index: `allow_damaged` must be 0. Received: {allow_damaged!r}"
            )
        return TFDSSource(builder, split, image_size, channels, levels)
    return Stream(
        f"{name} ({split})",
        _items(builder, split, image, label),
        image_size=image_size,
        channels=_checks.positive_int("channels", channels),
        labeled=label is not None,
        count=count,
        allow_damaged=allow_damaged,
        class_names=class_names,
        pixel_range=levels.pixel_range,
        white_level=levels.white_level,
        max_pixels=levels.max_pixels,
        fingerprint=lambda: _known(builder, split),
    )


def indexed_split(name: str, split: str, *, data_dir: str | Path | None, download: bool) -> Any:
    """Return the builder of a TFDS data set that has such a split, and whose files are read by index.

    Raises:
        ValueError: If there is no such data set or split, it is not prepared, or is stored otherwise.
    """
    builder, _ = _opened(name, split, data_dir, download, "array_record")
    if not _is_indexed(builder):
        raise ValueError(
            f"Images with masks are read by index: the data set {name!r} must be stored as ArrayRecord (`tfds build "
            f"{name} --file_format=array_record`). Received: {builder.info.file_format} in {builder.data_path}"
        )
    return builder


def _opened(
    name: str, split: str, data_dir: str | Path | None, download: bool, file_format: str | None = None
) -> tuple[Any, int]:
    """Return the builder of a data set that has such a split, and the number of examples in it."""
    _checks.text("name", name, "the name of a data set")
    _checks.instance("split", split, str, 'the name of a split, such as "train"')
    _checks.optional(_checks.path, "data_dir", data_dir)
    _checks.boolean("download", download)
    builder = _prepared(name, data_dir, download, file_format)
    if not builder.info.splits:
        raise ValueError(f"The data set {name!r} has no splits")
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must be one of {', '.join(builder.info.splits)}, or a part of one such as "
            f"'{next(iter(builder.info.splits))}[:10%]'. Received: split={split!r}"
        ) from error
    if count < 1:
        raise ValueError(f"`split` must hold images. Received: split={split!r}, which holds none")
    return builder, int(count)


def _is_indexed(builder: Any) -> bool:
    return getattr(builder.info.file_format, "value", None) == "array_record"


def _known(builder: Any, split: str) -> dict[str, Any]:
    """Return what tells a split from others: TFDS gives data that change another version."""
    return {"kind": "TFDS", "name": builder.info.full_name, "split": split}


def _prepared(name: str, data_dir: str | Path | None, download: bool, file_format: str | None = None) -> Any:
    """Return the builder of a data set that is prepared, which it downloads if asked to, to files of this format."""
    _optional.require("importlib_resources", "tensorflow-datasets")  # which does not say so itself
    tfds = _optional.require("tensorflow_datasets", "Reading TFDS")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, AssertionError) as error:  # no such name; no such version
        raise ValueError(f"There is no data set {name!r} in TFDS or in data_dir={str(data_dir)!r}") from error
    if download:
        if file_format and not Path(builder.data_path).is_dir():
            builder = tfds.builder(name, data_dir=data_dir, file_format=file_format)
        builder.download_and_prepare()
    elif not Path(builder.data_path).is_dir():
        raise ValueError(
            f"The data set {name!r} is not prepared in {builder.data_path}: pass download=True, or prepare it with "
            f"`tfds build {name}`"
        )
    return builder


def _keys(info: Any) -> Keys:
    """Return the names of a data set's image and label features, and of its classes.

    Raises:
        ValueError: If it has no image, or several and does not say which is the input.
    """
    import tensorflow_datasets as tfds

    images = [name for name, feature in info.features.items() if isinstance(feature, tfds.features.Image)]
    supervised = info.supervised_keys or (None, None)
    image = supervised[0] if supervised[0] in images else None
    if image is None:
        if len(images) != 1:
            raise ValueError(f"{info.name} must have one image for each example. Received: the images {images}")
        image = images[0]
    labels = [name for name, feature in info.features.items() if isinstance(feature, tfds.features.ClassLabel)]
    label = supervised[1] if supervised[1] in labels else labels[0] if len(labels) == 1 else None
    return image, label, _class_names.usable(info.features[label].names) if label else None


def _items(builder: Any, split: str, image: str, label: str | None) -> Callable[[bool, int], Any]:
    import tensorflow_datasets as tfds

    tf = _optional.require("tensorflow", "Reading a TFDS data set that is not ArrayRecord")

    def pair(example: Any) -> Any:
        return example[image], tf.zeros((), tf.int64) if label is None else tf.cast(example[label], tf.int64)

    def items(shuffle: bool, seed: int) -> Any:
        read = tfds.ReadConfig(interleave_cycle_length=16, try_autocache=False)
        examples = builder.as_dataset(
            split=split,
            shuffle_files=False,  # TFDS shuffled them when it wrote them; workers must agree on the order
            decoders={image: tfds.decode.SkipDecoding()},
            read_config=read,
        )
        return examples.map(pair)

    return items
