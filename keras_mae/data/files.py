"""Images to ask a model about: files that are named one by one, folders, and parts of either, with their names."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_mae import _checks
from keras_mae.data import open_directory
from keras_mae.data.array_files import is_array_name
from keras_mae.data.array_images import npy_header
from keras_mae.data.folders import FolderContents, look_into
from keras_mae.data.listed import ListedSource
from keras_mae.data.manifests import read_manifest
from keras_mae.data.parts import Part, digest_of, part_of
from keras_mae.data.sources import Source, known_of
from keras_mae.data.streams import Stream
from keras_mae.data.subsets import Subset

__all__ = ["NamedImages", "open_files", "open_folder"]

ALL: Part = (1, 1)


@dataclass(frozen=True)
class NamedImages:
    """Images by index, each with a name.

    Attributes:
        source: Source of the images.
        total: Number of images of all parts.
        whole: Digest of the names of the images of all parts: parts that have it in common belong together.
        class_names: Names of the folder's class folders, if all of its images lie in some.
        skipped: Damaged files that were left out, and what is wrong with each.
    """

    source: Any
    total: int
    whole: str
    skipped: tuple[tuple[Path, str], ...] = ()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of the labels, or `None`."""
        return self.source.class_names if self.source.labeled else None

    def names(self, indices: Iterable[int]) -> list[str]:
        """Return the names of the images at `indices`."""
        named, places = self.source, [int(index) for index in indices]
        if isinstance(named, Subset):
            named, places = named.inner(places)
        return list(named.names(places))


def open_files(
    files: str | Path | Sequence[str | Path],
    image_shape: tuple[int, int, int],
    *,
    part: Part = ALL,
    **options: Any,
) -> NamedImages:
    """Open image files, and those of folders, in the order in which they are given; they have no labels.

    Args:
        files: Path of an image file or a folder of images, or several; or one folder from `keras-mae prepare`, or one
            array in a file, by its name ("cells.h5::images"). A .npy file is one image, or, with four dimensions,
            an array of them.
        image_shape: (height, width, channels) of the images to make.
        part: Part of the files to open.
        options: `allow_damaged`, `pixel_range`, `white_level` and `max_pixels` of `FolderSource`.

    Returns:
        The images; their names are the paths as they were given, those in folders with the folder before them.

    Raises:
        ValueError: If there are none, or one cannot be read.
    """
    rule = "the path of an image file or a folder of images, or several"
    several = [files] if isinstance(files, str | os.PathLike) else files
    if not isinstance(several, Sequence) or not several:
        raise _checks.argument_error("files", rule, files)
    paths = [_checks.path("files", file, rule) for file in several]
    if len(paths) == 1 and _is_indexed(paths[0]):
        return _of_indexed(paths[0], image_shape, part, options)
    found: list[Path] = []
    for path in paths:
        if _is_indexed(path):
            what = "An array of images" if is_array_name(path) else "A prepared folder"
            raise ValueError(f"{what} is asked about by itself. Received: {str(path)!r} and others")
        if not path.is_dir():
            found.append(path)
            continue
        contents = look_into(path)
        if passed_over := contents.passed_over():
            warnings.warn(f"{passed_over} (in {str(path)!r})", stacklevel=3)
        found += contents.paths
    found = list(dict.fromkeys(found))  # a file that was named beside its folder counts once
    contents = FolderContents(paths=[found[index] for index in part_of(len(found), part)])
    source = ListedSource(contents, Path(), image_shape[:2], image_shape[2], **options)
    return NamedImages(source, len(found), digest_of(found), tuple(source.skipped))


def open_folder(
    directory: str | Path, image_shape: tuple[int, int, int], *, part: Part = ALL, **options: Any
) -> NamedImages:
    """Open the images of a folder; where all of them lie in folders of their own, those are their classes.

    Args:
        directory: Folder of images, flat or nested, or one from `keras-mae prepare`; or an array in a file, by its
            name.
        image_shape: (height, width, channels) of the images to make.
        part: Part of the folder's images to open.
        options: `allow_damaged`, `pixel_range`, `white_level` and `max_pixels` of `FolderSource`.

    Returns:
        The images; their names are their paths in the folder.

    Raises:
        ValueError: If there is no such folder, no image in it, or one that cannot be read.
    """
    directory = _checks.path("directory", directory)
    if is_array_name(directory) or not directory.is_dir() or read_manifest(directory) is not None:
        return _of_indexed(directory, image_shape, part, options)
    contents = look_into(directory)
    names = [path.relative_to(directory) for path in contents.paths]
    twice = {link.name for link in contents.repeated if link.parent == directory}  # classes that another one holds
    labeled = all(len(name.parts) > 1 for name in names) and twice.isdisjoint(contents.classes)
    contents.paths = [contents.paths[index] for index in part_of(len(names), part)]
    source = ListedSource(contents, directory, image_shape[:2], image_shape[2], labeled=labeled, **options)
    return NamedImages(source, len(names), digest_of(names), tuple(source.skipped))


def _is_indexed(path: Path) -> bool:
    """Return whether a path names many images that are no files of their own."""
    if path.suffix.lower() == ".npy" and path.is_file():
        with (
            path.open("rb") as opened,
            contextlib.suppress(ValueError, EOFError),
        ):  # of a damaged one, its reader tells
            return len(npy_header(opened)[0]) > 3
    return is_array_name(path) or (path.is_dir() and read_manifest(path) is not None)


def _of_indexed(
    directory: Path, image_shape: tuple[int, int, int], part: Part, options: dict[str, Any]
) -> NamedImages:
    """Open images that are no files of their own, or raise what `open_directory` raises."""
    source: Source | Stream = open_directory(directory, image_shape[:2], image_shape[2], **options)
    if isinstance(source, Stream):
        raise ValueError(
            f"This takes images by index. Received: {str(directory)!r}, prepared as TFRecord: prepare it as "
            "ArrayRecord (--format array_record)"
        )
    known = known_of(source)  # of it, what copies have in common, too
    whole = digest_of(str(known.get(name)) for name in ("array", "files", "paths", "sizes", "contents"))
    total = len(source)
    own = source if part[1] == 1 else Subset(source, list(part_of(total, part)))
    return NamedImages(own, total, whole)
