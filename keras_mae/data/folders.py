"""What is in a folder of images: its image files, its classes, and what is passed over."""

from __future__ import annotations

import os
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from keras_mae._terminal import printable
from keras_mae.data.array_images import ARRAY_ENDINGS, kind_of
from keras_mae.data.images import extensions
from keras_mae.data.plug_ins import how_to_read, unread

__all__ = ["FolderContents", "look_into"]

# What operating systems, synchronization and tools leave in folders, in lower case; hidden names aside.
_SYSTEM = {
    "$recycle.bin", "@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "__pycache__", "desktop.ini",
    "ehthumbs.db", "icon\r", "lost+found", "picasa.ini", "recycler", "system volume information", "thumbs.db",
}  # fmt: skip


@dataclass
class FolderContents:
    """What a folder of images holds; `look_into` finds it.

    Attributes:
        paths: Paths of all image files below the folder, in order.
        classes: Names of the folders in it, in order, those without images too: training and test folders then number
            their classes alike.
        other: Numbers of files that are no images, by their endings. Files of arrays are images only in a folder
            that holds no others.
        broken: Number of links that lead nowhere.
        repeated: Links to folders that are read already, or that hold this one.
    """

    paths: list[Path] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    repeated: list[Path] = field(default_factory=list)

    def passed_over(self, stacks: int = 0) -> str:
        """Return one line on what is not read, files by their kinds; "" if there is nothing to say.

        Args:
            stacks: Number of files of several pages, of which the first is read.
        """
        parts = []
        images = Counter({ending: number for ending, number in self.other.items() if unread(ending)})
        if count := images.total():
            ways = ", ".join(dict.fromkeys(how_to_read(unread(ending)) for ending, _ in images.most_common()))
            parts.append(f"{_counted(count, 'image')} that Pillow does not read: {_kinds(images)} ({ways})")
        if count := (others := self.other - images).total():
            parts.append(
                f"{_counted(count, 'file')} that {'is no image' if count == 1 else 'are no images'}: {_kinds(others)}"
            )
        if self.broken:
            parts.append(f"{_counted(self.broken, 'link')} that {'leads' if self.broken == 1 else 'lead'} nowhere")
        if self.repeated:
            parts.append(f"{_counted(len(self.repeated), 'link')} to folders that are read already")
        if stacks:
            tiff = any(path.suffix.lower() in (".tif", ".tiff") for path in self.paths)
            parts.append(f"all pages but the first of {_counted(stacks, 'TIFF file' if tiff else 'DICOM file')}")
        return "Passed over " + "; ".join(parts) if parts else ""


def look_into(directory: Path) -> FolderContents:
    """Find the images below a folder, also behind links.

    Hidden and system folders and files are no data: they count as neither classes nor files. Each folder is read
    once, by a path without links if there is one, so that circles of links end.

    Raises:
        ValueError: If there is no such folder, or no image in it.
        OSError: If a folder may not be read.
    """
    if not directory.is_dir():
        raise ValueError(f"`directory` must be an existing folder. Received: directory={str(directory)!r}")
    found, endings = FolderContents(), extensions() - {*ARRAY_ENDINGS}
    arrays, unnamed = list[Path](), list[Path]()
    root = os.path.realpath(directory)
    above = {root, *map(str, Path(root).parents)}
    seen, links = set[str](), deque[Path]()

    def walk(start: Path) -> None:
        """Read a folder and those in it; links to folders wait."""
        waiting = deque([start])
        while waiting:
            folder = waiting.popleft()
            real = os.path.realpath(folder)
            if real in seen or (real in above and seen):
                found.repeated.append(folder)
                continue
            seen.add(real)
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                if is_system(entry.name):
                    continue
                path, kind = folder / entry.name, _kind(entry)
                if kind == "folder":
                    (links if entry.is_symlink() else waiting).append(path)
                elif kind == "broken":
                    found.broken += 1
                elif path.suffix.lower() in endings:
                    found.paths.append(path)
                else:
                    found.other[_ending(path)] += 1
                    if path.suffix.lower() in ARRAY_ENDINGS:
                        arrays.append(path)
                    elif path.suffix == "" or path.suffix[1:].isdigit():
                        unnamed.append(path)

    walk(directory)
    found.classes = sorted(
        entry.name
        for entry in os.scandir(directory)
        if not is_system(entry.name) and _kind(entry) == "folder" and os.path.realpath(entry) not in above
    )
    while links:
        walk(links.popleft())
    if not found.paths:  # beside pictures they are something else: features, masks
        found.paths = arrays + [path for path in unnamed if _is_slice(path)]
        found.other -= Counter(map(_ending, found.paths))
    found.paths.sort()
    if not found.paths:
        raise ValueError(
            "`directory` must hold images, in it or in folders below: .jpg, .png, .tif or what else Pillow opens, "
            ".npy or DICOM. "
            f"Received: none in {str(directory)!r}. {found.passed_over()}".removesuffix(". ")
        )
    return found


def is_system(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or an operating system's."""
    return name.startswith(".") or name.lower() in _SYSTEM


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "folder", "file" (a pipe or a device, too) or "broken", for a link that leads nowhere."""
    try:
        if entry.is_dir():
            return "folder"
        entry.stat()
    except OSError:  # also of a link to itself
        return "broken"
    return "file"


def _is_slice(path: Path) -> bool:
    """Return whether a file is a DICOM image by its first bytes; a DICOMDIR is a list of them."""
    try:
        return path.is_file() and path.name.upper() != "DICOMDIR" and kind_of(path) == "dicom"
    except OSError:
        return False


def _ending(path: Path) -> str:
    return path.suffix.lower() or "without an ending"


def _kinds(endings: Counter[str]) -> str:
    return ", ".join(f"{number:,} {printable(ending)}" for ending, number in endings.most_common())


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
