"""A source of image files that somebody else has found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_mae.data.folders import FolderContents
from keras_mae.data.sources import FolderSource

__all__ = ["ListedSource"]


class ListedSource(FolderSource):
    """Images in files that somebody else has found; the other arguments are those of `FolderSource`.

    Args:
        contents: Files, and what is passed over.
        directory: Folder that names count from.
    """

    def __init__(self, contents: FolderContents, directory: Path, *args: Any, **options: Any):
        self._found = contents
        super().__init__(directory, *args, **options)

    def _look(self) -> FolderContents:
        return self._found

    def names(self, indices: Any) -> list[str]:
        """Return the paths of the images at `indices`, in the folder if they lie there."""
        paths = (self.paths[index] for index in indices)
        inside = self.directory
        return [(path.relative_to(inside) if path.is_relative_to(inside) else path).as_posix() for path in paths]
