"""A folder of images, a prepared one, or an array in a file, as a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_mae import _checks
from keras_mae.data.array_files import is_array_name
from keras_mae.data.array_source import ArrayFileSource
from keras_mae.data.levels import Levels
from keras_mae.data.manifests import check_levels, read_manifest
from keras_mae.data.records import IMAGE, LABEL, RecordSource
from keras_mae.data.relabeling import relabeled
from keras_mae.data.sources import FolderSource, Source
from keras_mae.data.streams import Stream
from keras_mae.data.tfrecords import tfrecord_stream
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["open_directory"]


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
    """Open the source behind `from_directory`, which has the same arguments; or an array in a file, by its name."""
    _checks.within("allow_damaged", allow_damaged, 1)
    _checks.boolean("labeled", labeled)
    if is_array_name(directory):
        if allow_damaged:
            raise _checks.argument_error("allow_damaged", f"0 for {str(directory)!r}, an array", allow_damaged)
        return _open_array_file(
            directory,
            image_size,
            channels,
            labeled=labeled,
            class_names=class_names,
            pixel_range=pixel_range,
            white_level=white_level,
            max_pixels=max_pixels,
        )
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
        records = RecordSource(
            files,
            image_size,
            channels,
            class_names=names,
            pixel_range=pixel_range,
            max_pixels=max_pixels,
            root=directory,
        )
        return relabeled(records, class_names)
    stream = tfrecord_stream(
        files,
        image_size,
        channels,
        image_key=IMAGE,
        label_key=LABEL if manifest.get("classes") else None,
        count=manifest["images"],
        counts=[shard["images"] for shard in manifest["shards"]],
        root=Path(directory),
        allow_damaged=allow_damaged,
        levels=Levels(pixel_range, max_pixels=max_pixels),
        class_names=manifest.get("classes") or None,
    )
    return relabeled(stream, class_names)


def _open_array_file(
    file: str | Path,
    image_size: int | tuple[int, int],
    channels: int,
    *,
    labeled: bool,
    class_names: Sequence[str] | None,
    **levels: Any,
) -> Source | Stream:
    """Open an array in a file as a folder is opened: its labels have the names of a classifier's."""
    source = ArrayFileSource(file, image_size, channels, **levels)
    if labeled and not source.labeled:
        raise ValueError(
            "Labels are a second array in the file, named FILE::IMAGES::LABELS. "
            f"Received: {str(file)!r}, which names none"
        )
    return relabeled(source, class_names) if labeled else source
