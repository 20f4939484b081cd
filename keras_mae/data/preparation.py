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
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_mae import _checks, _files, _optional
from keras_mae.data import images as image_files
from keras_mae.data.array_images import image_bytes
from keras_mae.data.examination import Examination, examine
from keras_mae.data.folders import FolderContents, look_into
from keras_mae.data.levels import EIGHT_BITS, Levels
from keras_mae.data.manifests import FORMATS, MANIFEST, PLAN, part_folder, read_manifest, read_own
from keras_mae.data.parts import Part, checked_part, digest_of, part_of
from keras_mae.data.records import serialize
from keras_mae.data.sources import FolderSource
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["check_directory", "find_damaged", "prepare"]

Progress = Callable[[int, int], None]
"""Called with the number of images or files done, and their total."""


class _Files(FolderSource):
    """The files of a folder, or of a part of it, which are written with as many bands as each has."""

    _any_bands = True

    def __init__(self, directory: Path, part: Part, **options: Any):
        self._part = part
        super().__init__(directory, **options)

    def _look(self) -> FolderContents:
        contents = look_into(self.directory)
        self.total = len(contents.paths)
        self.whole = digest_of(path.relative_to(self.directory) for path in contents.paths)
        contents.paths = [contents.paths[index] for index in part_of(self.total, self._part)]
        return contents


def prepare(
    directory: str | Path,
    out: str | Path,
    *,
    short_side: int = 256,
    format: str = "array_record",
    images_per_shard: int = 1024,
    quality: int = 95,
    labeled: bool = False,
    allow_damaged: float = 0.0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
    part: Part | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a folder's images as shards, and a manifest of their counts and checksums.

    Larger images are resized bicubically until their short side is `short_side`, and written as JPEG; smaller ones
    keep their bytes if they are JPEG or PNG, unless they are grays that the white level is for. Images in units of
    their own, and those of files of arrays, are written as arrays, without loss: integers as such (rounded where
    they are resized), floats as float32. A second call with the same arguments continues where the first stopped.

    Args:
        directory: Folder of images.
        out: Folder to write; it may hold what an earlier call with the same arguments left.
        short_side: Length of the short side in pixels.
        format: "array_record" (read by index, with and without TensorFlow) or "tfrecord" (read from front to back;
            writing requires TensorFlow).
        images_per_shard: Images in a file.
        quality: JPEG quality, 1–100.
        labeled: Whether the folders in `directory` are classes.
        allow_damaged: Largest share of damaged files, in [0, 1], that is left out and listed in the manifest; more is
            an error. With 0 the first damaged file is an error that names it.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`; the manifest keeps it.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image to read, as for `read_image`.
        part: (I, N) for the I-th of N parts of the folder's images, counted from 1, which gets a folder of its own in
            `out`; `merge_prepared` joins them. `allow_damaged` is then a share of the part.
        progress: Function that is called with the number of images done and their total.

    Returns:
        The manifest, of the part if there is one.

    Raises:
        ValueError: If an argument is out of range, an image is damaged, or `out` holds something else or is another
            process's at the moment.
    """
    _checks.positive_int("short_side", short_side)
    _checks.positive_int("images_per_shard", images_per_shard)
    _checks.one_of("format", format, FORMATS)
    if format == "tfrecord":
        _optional.require("tensorflow", "Writing TFRecord files")
    _checks.int_within("quality", quality, 1, 100)
    _check_progress(progress)
    directory, out = _checks.path("directory", directory), _checks.path("out", out)
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(directory)):
        raise ValueError(
            "`out` must lie outside of `directory`, whose images would be its own shards the next time. "
            f"Received: out={str(out)!r}, directory={str(directory)!r}"
        )
    chosen = checked_part(part)
    source = _Files(
        directory,
        chosen,
        labeled=labeled,
        allow_damaged=allow_damaged,
        pixel_range=pixel_range,
        white_level=white_level,
        max_pixels=max_pixels,
    )
    plan = {
        "format": format,
        "short_side": short_side,
        "images_per_shard": images_per_shard,
        "quality": quality,
        "pixel_range": list(source.levels.pixel_range) if source.levels.own_units else None,
        "white_level": white_level,
        "images": len(source),
        "classes": list(source.class_names or ()),
        "skipped": [str(path.relative_to(source.directory)) for path, _ in source.skipped],
        "source": _fingerprint(source),
    }
    if not len(source):
        raise ValueError(f"`directory` must hold images that can be read. Received: none in {str(directory)!r}")
    if part is not None:
        _check_free_for_parts(out)
        plan |= {"part": list(chosen), "total": source.total, "names": source.whole}
        out = part_folder(out, chosen)
    if out.exists() and not out.is_dir():
        raise _not_free(out)
    out.mkdir(parents=True, exist_ok=True)
    with _files.locked(out):
        known = _claim(out, plan)
        manifest = plan | {"shards": _write_shards(source, out, plan, known, progress)}
        _write_json(out / MANIFEST, manifest)
        (out / PLAN).unlink()
    return manifest


def find_damaged(
    directory: str | Path,
    progress: Progress | None = None,
    *,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> list[tuple[Path, str]]:
    """Find the images of a folder that cannot be read, or the shards that are not what the manifest says.

    Returns:
        The damaged files, and what is wrong with each.

    The arguments, and what is raised, are those of `check_directory`.
    """
    return check_directory(
        directory, progress, pixel_range=pixel_range, white_level=white_level, max_pixels=max_pixels
    ).damaged


def check_directory(
    directory: str | Path,
    progress: Progress | None = None,
    *,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> Examination:
    """Report on a folder of images: which are damaged or nearly black, and what is passed over.

    Args:
        directory: Folder of images, or one that `prepare` wrote, whose shards are compared with its manifest.
        progress: Function that is called with the number of files done and their total.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image to read, as for `read_image`.

    Returns:
        An `Examination`.

    Raises:
        ValueError: If there is no such folder, or nothing in it.
    """
    directory, levels = _checks.path("directory", directory), Levels(pixel_range, white_level, max_pixels)
    _check_progress(progress)
    manifest = read_manifest(directory) if directory.is_dir() else None
    contents = None if manifest else look_into(directory)
    shards = {directory / shard["file"]: shard["sha256"] for shard in manifest["shards"]} if manifest else {}
    paths = list(shards) if contents is None else contents.paths
    count = itertools.count(1)

    def done() -> None:
        if progress is not None:
            progress(next(count), len(paths))

    if contents is not None:
        found = examine(paths, levels, done)
        found.passed_over = contents.passed_over(len(found.stacks))
        return found
    wrong = []
    for path, checksum in shards.items():
        if _files.sha256(path) != checksum:
            wrong.append((path, f"{str(path)!r} does not have the manifest's checksum"))
        done()
    return Examination(damaged=wrong)


def _check_progress(progress: Any) -> None:
    if progress is not None:
        _checks.function("progress", progress, "a function of (done, total), or None")


def _claim(out: Path, plan: dict[str, Any]) -> dict[str, str]:
    """Take the folder for this plan, and return the checksums of shards known so far.

    Raises:
        ValueError: If the folder holds files of another plan, or of other programs.
    """
    manifest = read_own(out / MANIFEST) or {}
    known = {shard["file"]: shard["sha256"] for shard in manifest.pop("shards", ())}
    if before := read_own(out / PLAN) or manifest:
        before = {"pixel_range": None, "white_level": None, **before}  # which earlier versions did not have
        if before != plan:
            differ = sorted(name for name in {**before, **plan} if before.get(name) != plan.get(name))
            raise ValueError(
                f"`out` must be empty or hold what the same call left. Received: out={str(out)!r}, written with "
                f"another {', '.join(differ)}"
            )
    elif not all(map(_is_unfinished_plan, out.iterdir())):
        raise _not_free(out)
    _files.remove_unfinished(out)
    _write_json(out / PLAN, plan)
    return known


def _check_free_for_parts(out: Path) -> None:
    """Raise ValueError if a folder for parts is none, or was prepared in one piece."""
    joined = read_own(out / PLAN) or read_own(out / MANIFEST) or {"parts": 0}
    if (out.exists() and not out.is_dir()) or "parts" not in joined:
        raise _not_free(out)


def _not_free(out: Path) -> ValueError:
    return ValueError(f"`out` must not exist, be empty, or hold what the same call left. Received: out={str(out)!r}")


def _fingerprint(source: FolderSource) -> str:
    """Return what changes if a file was added, removed or changed, so that a resumed run uses the same images."""
    hashed = hashlib.sha256()
    for path in source.paths:
        status = path.stat()
        hashed.update(os.fsencode(path.relative_to(source.directory)))  # names may be other bytes than UTF-8
        hashed.update(f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return hashed.hexdigest()


def _records(
    source: FolderSource,
    indices: range,
    short_side: int,
    quality: int,
    progress: Progress | None,
) -> Generator[bytes]:
    """Yield the records of some images, in order, made by as many threads as there are cores."""

    def record(index: int) -> bytes:
        path = source.paths[index]
        label = None if source.labels is None else int(source.labels[index])
        smaller = _smaller(path, short_side, quality, source.levels)
        return serialize(smaller, path.relative_to(source.directory).as_posix(), label)

    pool = ThreadPoolExecutor()
    try:
        for index, written in zip(indices, pool.map(record, indices), strict=True):
            yield written
            if progress is not None:
                progress(index + 1, len(source))
    finally:
        pool.shutdown(cancel_futures=True)


def _smaller(path: Path, short_side: int, quality: int, levels: Levels = EIGHT_BITS) -> bytes:
    """Return the image's own bytes, or those of a JPEG or an array whose short side is `short_side`."""
    array = image_files.as_array(path, levels)
    if array is not None:
        scale = short_side / min(array.shape[:2])
        if scale < 1:
            height, width = (max(short_side, round(side * scale)) for side in array.shape[:2])
            array = image_files.resized(array, (height, width), levels.pixel_range)
        return image_bytes(array)
    with image_files.decoded(path, short_side, levels.white_level, levels.max_pixels) as image:
        scale = short_side / min(image.size)
        is_final = levels.white_level is None or not image_files.is_deep(path, levels.max_pixels)
        if scale >= 1 and is_final and path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            return path.read_bytes()
        if scale < 1:
            size = tuple(max(short_side, round(side * scale)) for side in image.size)
            image = image.resize(size, image_files.pillow().Resampling.BICUBIC, reducing_gap=3.0)
        written = io.BytesIO()
        image.save(written, "JPEG", quality=quality)
        return written.getvalue()


def _write_shards(
    source: FolderSource, out: Path, plan: dict[str, Any], known: dict[str, str], progress: Progress | None
) -> list[dict[str, Any]]:
    """Write the shards that are missing or damaged, and return the manifest's entries of all."""
    shards: list[dict[str, Any]] = []
    size = plan["images_per_shard"]
    count = math.ceil(len(source) / size)
    for number in range(count):
        indices = range(number * size, min((number + 1) * size, len(source)))
        path = out / f"{number:05d}-of-{count:05d}.{plan['format']}"
        checksum = _files.sha256(path) if path.exists() else None
        if checksum is None or checksum != known.get(path.name, checksum):  # or it was damaged since
            with (
                contextlib.closing(
                    _records(source, indices, plan["short_side"], plan["quality"], progress)
                ) as records,
                _files.whole(path) as unfinished,
            ):
                _write_records(unfinished, records, plan["format"])
            checksum = _files.sha256(path)
        shards.append({"file": path.name, "images": len(indices), "sha256": checksum})
        if progress is not None:
            progress(indices.stop, len(source))
    return shards


def _write_records(path: Path, records: Iterable[bytes], format: str) -> None:
    if format == "tfrecord":
        import tensorflow as tf

        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
        return
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    try:
        for record in records:
            writer.write(record)
    finally:
        writer.close()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _files.whole(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")


def _is_unfinished_plan(path: Path) -> bool:
    """Return whether this is all that a run left which was killed while it claimed the folder."""
    if path.is_dir() and path.name.startswith(_files.UNFINISHED):
        return all(file.name == PLAN for file in path.iterdir())
    return path.name == f"{_files.UNFINISHED}{PLAN}"
