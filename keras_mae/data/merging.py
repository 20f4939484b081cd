"""Parts of a folder that were prepared side by side, as one prepared folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_mae import _checks, _files
from keras_mae.data.manifests import MANIFEST, PLAN, parts_in, read_manifest, read_own
from keras_mae.data.parts import Part, check_all_parts, checked_part, part_name

__all__ = ["merge_prepared"]

_OF_A_PART = ("part", "images", "skipped", "source", "shards")
"""Entries of a manifest that concern its part alone."""


def merge_prepared(directory: str | Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Check all parts that `prepare` wrote into a folder, and make them one prepared folder.

    A manifest that joins theirs is written; no shard is moved. The images are in the same order as without parts. A
    second call checks everything again, and writes the same file.

    Args:
        directory: Folder that holds one folder for each part.
        progress: Function called with (shards checked, their total).

    Returns:
        The manifest.

    Raises:
        ValueError: If a part is missing or not complete (the message says which), was prepared with other arguments
            than the others or from a folder with other files, or a shard is missing or damaged. Nothing is written
            then.
        OSError: If the manifest cannot be written.

    Example:
        >>> for number in (1, 2, 3):
        ...     keras_mae.data.prepare("photos/", "shards/", part=(number, 3))
        >>> keras_mae.data.merge_prepared("shards/")["parts"]
        3
    """
    directory = _checks.path("directory", directory)
    if progress is not None:
        _checks.function("progress", progress, "a function of (done, total), or None")
    before = None
    if directory.is_dir():
        before = read_own(directory / PLAN) or read_own(directory / MANIFEST)
    found = parts_in(directory) if directory.is_dir() else []
    if not found or (before is not None and "parts" not in before):
        rule = "a folder that holds the parts of one, from `prepare` with `part` (--part)"
        raise _checks.argument_error("directory", rule, str(directory))
    with _files.locked(directory):
        manifests = _complete(found)
        _check_alike(manifests)
        _check_shards(manifests, progress)
        parts = list(manifests.values())
        merged = {name: value for name, value in parts[0].items() if name not in _OF_A_PART} | {
            "images": sum(part["images"] for part in parts),
            "skipped": [name for part in parts for name in part.get("skipped", ())],
            "source": hashlib.sha256("".join(str(part["source"]) for part in parts).encode()).hexdigest(),
            "parts": len(parts),
            "shards": [
                shard | {"file": f"{folder.name}/{shard['file']}"}
                for folder, part in manifests.items()
                for shard in part["shards"]
            ],
        }
        with _files.whole(directory / MANIFEST) as unfinished:
            unfinished.write_text(json.dumps(merged, indent=2) + "\n")
    return merged


def _complete(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Return the manifests of all parts in order; raise a `ValueError` that names the missing and incomplete ones."""
    done: dict[Path, dict[str, Any]] = {}
    begun: list[Part] = []
    for folder in folders:
        if plan := read_own(folder / PLAN):
            begun.append(_part_of(plan, folder))
        elif manifest := read_manifest(folder):
            done[folder] = manifest
    unfinished = f"{', '.join(map(part_name, begun))} not complete: the same call goes on with each"
    try:
        check_all_parts([*begun, *(_part_of(manifest, folder) for folder, manifest in done.items())])
    except ValueError as error:
        raise ValueError(f"{error}; {unfinished}" if begun else str(error)) from None
    if begun:
        raise ValueError(f"Parts to join must be complete. Received: {unfinished}")
    return dict(sorted(done.items(), key=lambda pair: pair[1]["part"]))


def _part_of(content: dict[str, Any], folder: Path) -> Part:
    if content.get("part") is None:
        raise ValueError(f"{str(folder)!r} was prepared as a whole folder, and is not a part of one")
    return checked_part(content["part"])


def _check_alike(manifests: dict[Path, dict[str, Any]]) -> None:
    first = next(iter(manifests.values()))
    for folder, manifest in manifests.items():
        names = [name for name in {**first, **manifest} if name not in _OF_A_PART]
        if differ := [name for name in names if first.get(name) != manifest.get(name)]:
            raise ValueError(f"Parts to join must be made alike. {str(folder)!r} has another {', '.join(differ)}")


def _check_shards(manifests: dict[Path, dict[str, Any]], progress: Callable[[int, int], None] | None) -> None:
    """Raise a `ValueError` that names the shards whose checksums are not those of the manifests."""
    shards = [(folder / shard["file"], shard["sha256"]) for folder, of in manifests.items() for shard in of["shards"]]
    damaged = []
    with ThreadPoolExecutor() as pool:
        checksums = pool.map(_files.sha256, [path for path, _ in shards])
        for number, ((path, expected), checksum) in enumerate(zip(shards, checksums, strict=True), 1):
            if checksum != expected:
                damaged.append(f"{path.parent.name}/{path.name}")
            if progress is not None:
                progress(number, len(shards))
    if damaged:
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        raise ValueError(
            "Shards must have the checksums of their manifests: prepare these parts again, which makes them good. "
            f"Received: {', '.join(damaged[:5])}{more}"
        )
