"""A folder of images as shards of records at a chosen size, so that training reads few large files and decodes less.

The shards are a pure function of the folder and the arguments: what a stopped run left complete is kept, and nothing
ever looks complete that is not, for a shard gets its name when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_mae import _checks
from keras_mae.data import images as image_files
from keras_mae.data.records import serialized
from keras_mae.data.sources import FolderSource, damaged, image_paths
from keras_mae.data.streams import tensorflow

MANIFEST = "manifest.json"
FORMATS = ("array_record", "tfrecord")


def prepare(
    directory: str | Path,
    out: str | Path,
    short_side: int = 256,
    format: str = "array_record",
    images_per_shard: int = 1024,
    quality: int = 95,
    labelled: bool = False,
    on_error: str = "raise",
    allowed: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a folder's images as shards, and a manifest of their counts and checksums.

    Larger images are resized bicubically until their short side is `short_side`, and written as JPEG; smaller ones
    keep their bytes if they are JPEG or PNG. A second call with the same arguments goes on where the first stopped.

    Args:
        directory: Folder of images.
        out: Folder to write; it may hold what an earlier call with the same arguments left.
        short_side: In pixels.
        format: "array_record" (read by index, with and without TensorFlow) or "tfrecord" (read from front to back;
            writing takes TensorFlow).
        images_per_shard: Images in a file.
        quality: Of JPEG, 1–100.
        labelled: Whether the folders in `directory` are classes.
        on_error: "raise", or "skip": damaged files are left out and listed in the manifest.
        allowed: With "skip", the share of damaged files above which there is an error all the same.
        progress: Called with the number of images done and their total.

    Returns:
        The manifest.

    Raises:
        ValueError: If an argument is out of range, an image is damaged, or `out` holds something else.
    """
    _checks.positive_int("short_side", short_side)
    _checks.positive_int("images_per_shard", images_per_shard)
    _checks.one_of("format", format, FORMATS)
    if format == "tfrecord":
        tensorflow("Writing TFRecord files")
    if type(quality) is not int or not 1 <= quality <= 100:
        raise _checks.argument_error("quality", "an integer in [1, 100]", quality)
    source = FolderSource(directory, labelled=labelled, on_error=on_error, allowed=allowed)
    out = Path(out)
    plan = {
        "format": format,
        "short_side": short_side,
        "images_per_shard": images_per_shard,
        "quality": quality,
        "images": len(source),
        "classes": source.classes,
        "skipped": [str(path.relative_to(source.directory)) for path, _ in source.skipped],
        "source": _fingerprint(source),
    }
    known = _claim(out, plan)
    shards: list[dict[str, Any]] = []
    count = math.ceil(len(source) / images_per_shard)
    for number in range(count):
        indices = range(number * images_per_shard, min((number + 1) * images_per_shard, len(source)))
        path = out / f"{number:05d}-of-{count:05d}.{format}"
        checksum = _checksum(path) if path.exists() else None
        if checksum is None or checksum != known.get(path.name, checksum):  # or it was damaged since
            with contextlib.closing(_records(source, indices, short_side, quality, progress)) as records:
                _write_shard(path, records, format)
            checksum = _checksum(path)
        shards.append({"file": path.name, "images": len(indices), "sha256": checksum})
        if progress is not None:
            progress(indices.stop, len(source))
    manifest = plan | {"shards": shards}
    _write_json(out / MANIFEST, manifest)
    (out / _PLAN).unlink()
    return manifest


def read_manifest(directory: str | Path) -> dict[str, Any] | None:
    """The manifest of a folder that `prepare` wrote, or `None` for any other.

    Raises:
        ValueError: If `prepare` did not finish, or a shard is missing.
    """
    directory = Path(directory)
    if (directory / _PLAN).exists():
        raise ValueError(f"{str(directory)!r} is not complete: call `keras-mae prepare` again, it goes on")
    manifest = _own(directory / MANIFEST)
    if manifest is None:
        return None
    if missing := [shard["file"] for shard in manifest["shards"] if not (directory / shard["file"]).is_file()]:
        raise ValueError(f"{str(directory)!r} lacks {len(missing)} of its shards. Missing: {', '.join(missing[:5])}")
    return manifest


def find_damaged(directory: str | Path, progress: Callable[[int, int], None] | None = None) -> list[tuple[Path, str]]:
    """What is wrong with a folder: images that cannot be decoded, or shards that are not what the manifest says.

    Args:
        directory: Folder of images, or one that `prepare` wrote.
        progress: Called with the number of files done and their total.

    Returns:
        The files, and what is wrong with each.

    Raises:
        ValueError: If there is no such folder, or nothing in it.
    """
    directory = Path(directory)
    manifest = read_manifest(directory) if directory.is_dir() else None
    shards = {directory / shard["file"]: shard["sha256"] for shard in manifest["shards"]} if manifest else {}
    paths = list(shards) or image_paths(directory)
    count = itertools.count(1)

    def done() -> None:
        if progress is not None:
            progress(next(count), len(paths))

    if not shards:
        return damaged(paths, done)
    wrong = []
    for path, checksum in shards.items():
        if _checksum(path) != checksum:
            wrong.append((path, f"{str(path)!r} does not have the manifest's checksum"))
        done()
    return wrong


_PLAN = ".unfinished.json"


def _own(path: Path) -> dict[str, Any] | None:
    """What `prepare` wrote into this file, or `None` if there is no such file, or it is another program's."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    keys = {"format", "source"} | ({"shards"} if path.name == MANIFEST else set())
    return content if isinstance(content, dict) and content.keys() >= keys else None


def _claim(out: Path, plan: dict[str, Any]) -> dict[str, str]:
    """Take the folder for this plan, or raise if it holds another's files; the checksums of shards known so far."""
    manifest = _own(out / MANIFEST) or {}
    known = {shard["file"]: shard["sha256"] for shard in manifest.pop("shards", ())}
    if before := _own(out / _PLAN) or manifest:
        if before != plan:
            differ = sorted(name for name in plan if before.get(name) != plan[name])
            raise ValueError(
                f"`out` must be empty or hold what the same call left. Received: out={str(out)!r}, written with "
                f"another {', '.join(differ)}"
            )
    elif out.exists() and (not out.is_dir() or any(path.name != f".writing-{_PLAN}" for path in out.iterdir())):
        raise ValueError(
            f"`out` must not exist, be empty, or hold what the same call left. Received: out={str(out)!r}"
        )
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(".writing-*"):
        left.unlink()
    _write_json(out / _PLAN, plan)
    return known


def _fingerprint(source: FolderSource) -> str:
    """Changes if a file was added, taken away or changed, so that a run that goes on goes on with the same images."""
    hashed = hashlib.sha256()
    for path in source.paths:
        facts = path.stat()
        hashed.update(os.fsencode(path.relative_to(source.directory)))  # names may be other bytes than UTF-8
        hashed.update(f"\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return hashed.hexdigest()


def _records(
    source: FolderSource,
    indices: range,
    short_side: int,
    quality: int,
    progress: Callable[[int, int], None] | None,
) -> Generator[bytes]:
    """The records of some images, in order, made by as many threads as there are cores."""

    def record(index: int) -> bytes:
        path = source.paths[index]
        label = None if source.labels is None else int(source.labels[index])
        return serialized(_smaller(path, short_side, quality), path.relative_to(source.directory).as_posix(), label)

    pool = ThreadPoolExecutor()
    try:
        for index, made in zip(indices, pool.map(record, indices), strict=True):
            yield made
            if progress is not None:
                progress(index + 1, len(source))
    finally:
        pool.shutdown(cancel_futures=True)


def _smaller(path: Path, short_side: int, quality: int) -> bytes:
    """The image's own bytes, or those of a JPEG whose short side is `short_side`."""
    with image_files.decoded(path, short_side) as image:
        scale = short_side / min(image.size)
        if scale >= 1 and path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            return path.read_bytes()
        if scale < 1:
            size = tuple(max(short_side, round(side * scale)) for side in image.size)
            image = image.resize(size, image_files.pillow().Resampling.BICUBIC, reducing_gap=3.0)
        written = io.BytesIO()
        image.save(written, "JPEG", quality=quality)
        return written.getvalue()


def _write_shard(path: Path, records: Any, format: str) -> None:
    unfinished = path.with_name(f".writing-{path.name}")
    try:
        if format == "tfrecord":
            import tensorflow as tf

            with tf.io.TFRecordWriter(str(unfinished)) as writer:
                for record in records:
                    writer.write(record)
        else:
            from array_record.python.array_record_module import ArrayRecordWriter

            writer = ArrayRecordWriter(str(unfinished), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    unfinished = path.with_name(f".writing-{path.name}")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, path)
