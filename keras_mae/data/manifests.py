"""What `prepare` says of a folder in a file of its own, and whether that file still says it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from keras_mae import _class_names, _files
from keras_mae.data.levels import Levels
from keras_mae.data.parts import Part, checked_part
from keras_mae.pixels import BYTES, checked_range

__all__ = [
    "FORMATS",
    "MANIFEST",
    "PLAN",
    "check_levels",
    "part_folder",
    "parts_in",
    "read_manifest",
    "read_own",
]

MANIFEST = "manifest.json"
PLAN = ".unfinished.json"
"""The arguments of a run that has not ended."""
FORMATS = ("array_record", "tfrecord")
_SHARD = re.compile(rf"\d+-of-\d+\.({'|'.join(FORMATS)})")
_PART = re.compile(r"part-\d+-of-\d+")


def read_manifest(directory: str | Path) -> dict[str, Any] | None:
    """Return the manifest of a folder that `prepare` wrote, or `None` for any other.

    Raises:
        ValueError: If `prepare` did not finish, a shard is missing, the manifest is damaged or was changed, or there
            are parts that are not joined yet.
    """
    directory = Path(directory)
    if (directory / PLAN).exists():
        raise ValueError(f"{str(directory)!r} is not complete: call `keras-mae prepare` again, and it continues")
    manifest = read_own(directory / MANIFEST)
    if manifest is None:
        if parts_in(directory):
            raise ValueError(
                f"{str(directory)!r} was prepared in parts, which are not joined yet: when all are complete, call "
                "`keras-mae prepare FOLDER --merge`"
            )
        return None
    if missing := [shard["file"] for shard in manifest["shards"] if not (directory / shard["file"]).is_file()]:
        raise ValueError(f"{str(directory)!r} lacks {len(missing)} of its shards. Missing: {', '.join(missing[:5])}")
    return manifest


def part_folder(directory: Path, part: Part) -> Path:
    """Return the folder of a part, `part-03-of-16` in `directory`."""
    number, parts = part
    return directory / f"part-{number:0{len(str(parts))}d}-of-{parts}"


def parts_in(directory: Path) -> list[Path]:
    """Return the folders of parts, begun or complete, that `prepare` wrote in a directory, in the order of names."""
    named = [path for path in directory.glob("part-*-of-*") if _PART.fullmatch(path.name)]
    return sorted(path for path in named if any(read_own(path / name) is not None for name in (PLAN, MANIFEST)))


def read_own(path: Path) -> dict[str, Any] | None:
    """Return what `prepare` wrote into this file, or `None` if there is no such file, or it is another program's.

    Raises:
        ValueError: If it is `prepare`'s, and damaged or changed.
    """
    try:
        content = _files.read_json(path)
    except OSError:
        return None
    except ValueError as error:
        if any(_SHARD.fullmatch(beside.name) or _PART.fullmatch(beside.name) for beside in path.parent.iterdir()):
            raise _damaged(path, str(error)) from error
        return None
    if not content.keys() >= {"format", "source"} | ({"shards"} if path.name == MANIFEST else set()):
        return None
    if wrong := _wrong_values(content):
        raise _damaged(path, f"{wrong} is not what `prepare` writes")
    if path.name == MANIFEST:
        _check_shards(path, content)
    return content


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{str(path)!r} is damaged, or was changed: {what}. Prepare the images again")


def _wrong_values(content: dict[str, Any]) -> str:
    """Return what in a plan or a manifest is not of its kind, "" if nothing is."""
    classes, skipped, white = content.get("classes", []), content.get("skipped", []), content.get("white_level")
    right = {
        "format": content["format"] in FORMATS,
        "images": _is_count(content.get("images")),
        "classes": isinstance(classes, list) and (not classes or _class_names.usable(classes) is not None),
        "skipped": isinstance(skipped, list) and all(isinstance(name, str) for name in skipped),
        "white_level": white is None or _is_count(white),
        "pixel_range": content.get("pixel_range") is None or _is_range(content["pixel_range"]),
        "part": content.get("part") is None or _is_part(content["part"]),
    }
    return next((repr(name) for name, fine in right.items() if not fine), "")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_part(value: Any) -> bool:
    try:
        return isinstance(value, list) and len(checked_part(value)) == 2
    except ValueError:
        return False


def _is_range(value: Any) -> bool:
    try:
        return isinstance(value, list) and len(checked_range(value)) == 2
    except ValueError:
        return False


def _check_shards(path: Path, manifest: dict[str, Any]) -> None:
    shards, names = manifest["shards"], list[Any]()
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        raise _damaged(path, "'shards' is not what `prepare` writes")
    for shard in shards:
        names.append(shard.get("file"))
        _files.inside(path.parent, shard.get("file"), str(path))
        if not _is_count(shard.get("images")) or not re.fullmatch("[0-9a-f]{64}", str(shard.get("sha256"))):
            raise _damaged(path, f"a shard has no number of images or no checksum: {shard.get('file')!r}")
    if len(set(names)) < len(names) or sum(shard["images"] for shard in shards) != manifest["images"]:
        raise _damaged(path, f"its {len(shards)} shards do not hold its {manifest['images']:,} images, each once")


def check_levels(directory: str | Path, manifest: dict[str, Any], levels: Levels) -> None:
    """Raise a `ValueError` if a prepared folder's images would have to be read in other levels than they have."""
    known = tuple(manifest.get("pixel_range") or BYTES)
    if levels.pixel_range != known:
        raise ValueError(
            f"{str(directory)!r} was prepared with pixel_range=({known[0]:.10g}, {known[1]:.10g}), which must be the "
            f"encoder's, too: prepare it again. Received: pixel_range={levels.pixel_range}"
        )
    white, given = manifest.get("white_level"), levels.white_level
    if given not in (None, white):
        rule = f"{str(directory)!r} was prepared with white_level={white}: prepare it again."
        raise ValueError(f"{rule} Received: white_level={given}")
