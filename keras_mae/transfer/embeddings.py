"""Embeddings: the features of a folder's images, with their names, and with what is needed to embed another image."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _class_names, _files
from keras_mae.classifier import ViTClassifier
from keras_mae.data import make_dataset
from keras_mae.data.array_files import is_array_name
from keras_mae.data.crops import CenterCrop
from keras_mae.data.files import open_files, open_folder
from keras_mae.data.images import read_image
from keras_mae.data.manifests import read_manifest
from keras_mae.data.parts import checked_part
from keras_mae.data.subsets import Subset
from keras_mae.encoder import ViTEncoder
from keras_mae.transfer.embedding_files import read_npz
from keras_mae.transfer.features import feature_batches

__all__ = ["Embeddings", "asked_part", "encoder_of", "in_order", "read_embeddings"]

_READ_AHEAD = 64  # images


def _numbers(count: int, *kinds: type) -> Callable[[Any], bool]:
    """Return a function that says whether a value is a list of so many numbers."""
    return lambda value: isinstance(value, list) and len(value) == count and all(type(one) in kinds for one in value)


_ABOUT: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: isinstance(value, dict) and all(isinstance(one, str | None) for one in value.values()),
    "folder": lambda value: isinstance(value, str | None),
    "image_shape": _numbers(3, int),
    "pixel_range": _numbers(2, int, float),
    "part": _numbers(2, int),
}
"""What the entries of `about` must be that anything is read by."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Features of images, with their names; `embed` makes them, and `read_embeddings` reads them from a file.

    Attributes:
        features: Features, float32 (images, width), memory-mapped if they are in an .npz that is not compressed.
        files: Names of the images, relative to their folder, strings (images,).
        labels: Labels, integers (images,), or `None` if the images have no classes.
        class_names: Names of the classes, in the order of the labels, or `None`.
        about: How the features were made, JSON values by name: `model` (its `path` and `sha256`), `folder`,
            `pooling`, `block`, `image_shape`, `pixel_range` and more. Empty for a file of another program.

    Example:
        >>> embeddings = keras_mae.transfer.read_embeddings("photos.npz")
        >>> embeddings.files[0], embeddings.features[0].shape
        ('cats/0.jpg', (384,))
    """

    features: np.ndarray
    files: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def classes(self) -> list[str] | None:
        """Name of the class of each image, or `None` without labels."""
        if self.labels is None:
            return None
        names = self.class_names
        return [str(label) if names is None else names[label] for label in self.labels]

    def find(self, query: str | Path) -> int | None:
        """Return the index of an image, or `None` if it is not among these.

        Args:
            query: Path of an image file, or a name as in `files`. If the file exists, its path counts.

        Raises:
            ValueError: If `query` is not a path.
        """
        path = _checks.path("query", query, "the path of an image file, or a name in `files`")
        name = Path(query).as_posix()
        if path.exists():
            folder = self.about.get("folder")
            pairs = [] if folder is None else [(os.path.abspath(path), folder)]
            pairs += [] if folder is None else [(os.path.realpath(path), os.path.realpath(folder))]
            inside = [
                Path(file).relative_to(base).as_posix() for file, base in pairs if Path(file).is_relative_to(base)
            ]
        else:
            inside = [name]
        for candidate in inside:
            if len(found := np.flatnonzero(self.files == candidate)):
                return int(found[0])
        return None

    # === The model and the images that they are of ===
    @property
    def _reading(self) -> dict[str, Any]:
        """The arguments with which the images were read."""
        known = self.about
        if "image_shape" not in known:
            raise ValueError("These embeddings do not remember how their images were read: give vectors, not images")
        return {
            "image_shape": tuple(known["image_shape"]),
            "pixel_range": tuple(known["pixel_range"]),
            "white_level": known["white_level"],
            "max_pixels": known["max_pixels"],
        }

    def model_file(self, path: str | Path | None = None) -> Path:
        """Return the path of the model that made the features.

        Args:
            path: Path of its file now; by default the one that is remembered.

        Raises:
            ValueError: If the file is missing or has another checksum, or none is remembered.
        """
        known = self.about.get("model") or {}
        if "sha256" not in known:
            raise ValueError("These embeddings do not remember the file of their model: give vectors, not images")
        where = Path(known["path"]) if path is None else _checks.path("model", path)
        if not where.exists():
            raise ValueError(
                f"`model` must be the file that made the embeddings. Received: {str(where)!r}, not there"
            )
        if (found := _files.sha256(where)) != known["sha256"]:
            raise ValueError(
                f"`model` must be the file that made the embeddings, unchanged. Received: {str(where)!r} with "
                f"checksum {found[:16]}, not {known['sha256'][:16]}: embed the folder again"
            )
        return where

    def embed(self, model: Any, files: Sequence[str | Path]) -> np.ndarray:
        """Return the features of other images, read and computed as these were, float32 (images, width).

        Args:
            model: The model that made these, as loaded from `model_file()`, which checks that it is the same.
            files: Paths of image files.

        Raises:
            ValueError: If the model takes images of another shape or gives features of another width, a file cannot
                be read, or how these were read is not known.

        Example:
            >>> model = keras_mae.convert.load_model(embeddings.model_file())
            >>> embeddings.embed(model, ["new.jpg"])
        """
        reading = self._reading
        looking = asked_part(model, self.about["pooling"], self.about["block"])
        if tuple(encoder_of(looking).image_shape) != reading["image_shape"]:
            rule = f"the one that made the embeddings, which takes images of {reading['image_shape']}"
            raise _checks.argument_error("model", rule, model)
        images = open_files(list(files), **reading)
        order = {name: index for index, name in enumerate(images.names(range(len(images.source))))}
        dataset = in_order(images.source, min(len(images.source), 256))
        batches = feature_batches(
            looking, dataset, pooling=self.about["pooling"], block=self.about["block"], progress=False
        )
        found = np.concatenate([part for part, _ in batches])
        if found.shape[1] != self.features.shape[1]:
            raise _checks.argument_error("model", f"one with features {self.features.shape[1]} wide", model)
        return found[[order[Path(file).as_posix()] for file in files]]  # a file that is named twice is read once

    def read_image(self, file: str | Path) -> np.ndarray:
        """Return another image, (height, width, channels), read as these were.

        Args:
            file: Path of an image file.

        Raises:
            ValueError: If the file cannot be read, or how these were read is not known.
        """
        return read_image(file, **self._reading)

    def read_images(self, indices: Iterable[int]) -> Iterator[np.ndarray | None]:
        """Yield images as the model saw them, (height, width, channels) each; they are read as they are asked for.

        Args:
            indices: Indices of the images.

        Yields:
            The image, or `None` if it is no longer where it was.

        Raises:
            ValueError: If a folder of image files is remembered, and how they were read is not.
        """
        folder = Path(self.about.get("folder") or "")
        indexed = is_array_name(folder) or not folder.is_dir() or read_manifest(folder) is not None
        if not self.about.get("folder") or indexed:
            yield from self._indexed_images(folder, indices)
            return
        reading = self._reading

        def read(index: int) -> np.ndarray | None:
            name = Path(str(self.files[index]))
            if name.is_absolute() or ".." in name.parts:  # a file from a stranger must not lead elsewhere
                return None
            try:
                return read_image(folder / name, **reading)
            except ValueError:
                return None

        waiting = iter(indices)
        with ThreadPoolExecutor() as pool:
            while some := list(itertools.islice(waiting, _READ_AHEAD)):
                yield from pool.map(read, some)

    def _indexed_images(self, folder: Path, indices: Iterable[int]) -> Iterator[np.ndarray | None]:
        """Yield images that are not files of their own."""
        source = None
        with contextlib.suppress(ValueError, KeyError):  # the images are gone, or were never known
            source = open_folder(folder, part=checked_part(tuple(self.about["part"])), **self._reading).source
        there = source is not None and len(source) == len(self)
        for index in indices:
            yield source.batch(np.array([index]), CenterCrop())[0][0] if source is not None and there else None


def read_embeddings(file: str | Path) -> Embeddings:
    """Return what is in an .npz file of embeddings; its features are memory-mapped.

    Args:
        file: Path of an .npz that `embed` wrote, or of any that holds the arrays `features` (images, width) and
            `files`, the images' names.

    Raises:
        ValueError: If there is no such file, or it is something else or damaged.
        OSError: If it cannot be read.

    Example:
        >>> keras_mae.transfer.read_embeddings("photos.npz").features.shape
        (1250, 384)
    """
    path = _checks.path("file", file, "the path of an .npz file of embeddings")
    if path.suffix != ".npz" or path.is_dir():
        raise _checks.argument_error(
            "file", "an .npz file of embeddings; other formats are for other programs", str(path)
        )
    if not path.exists():
        raise ValueError(f"There is no file of embeddings {str(path)!r}")
    arrays = read_npz(path)
    features, files, labels = (arrays.get(name) for name in ("features", "files", "labels"))
    names = arrays.get("class_names")
    class_names = None if names is None else _class_names.usable(names.tolist())
    about = arrays.get("about", np.array("{}"))
    if features is None or files is None or about.shape or not _fit(features, files, labels, class_names):
        found = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
        raise ValueError(
            f"{str(path)!r} must hold features (images, width) and files, and labels if there are any. "
            f"Received: {found}"
        )
    known = _files.parsed_json(str(about).encode(), str(path))
    if wrong := [name for name, is_right in _ABOUT.items() if name in known and not is_right(known[name])]:
        raise ValueError(f"{str(path)!r} is damaged, or was written by hand: {wrong[0]} is {known[wrong[0]]!r}")
    return Embeddings(features, files, labels, class_names, known)


def _fit(
    features: np.ndarray, files: np.ndarray, labels: np.ndarray | None, class_names: tuple[str, ...] | None
) -> bool:
    """Return whether arrays are embeddings that belong together."""
    if features.ndim != 2 or features.dtype.kind != "f" or not features.size:
        return False
    if files.dtype.kind != "U" or files.shape != features.shape[:1]:
        return False
    if labels is None:
        return True
    known = labels.dtype.kind in "iu" and labels.shape == files.shape and bool(labels.min() >= 0)
    return known and (class_names is None or int(labels.max()) < len(class_names))


def asked_part(model: Any, pooling: str | None, block: int | None) -> Any:
    """Return the part of a model that computes these features: a classifier for its own, or else an encoder."""
    if isinstance(model, ViTClassifier) and block is None and pooling in (None, model.pooling):
        return model
    return model if isinstance(model, ViTEncoder) else getattr(model, "encoder", model)


def encoder_of(model: Any) -> Any:
    """Return the encoder of what `asked_part` returned; raise a `ValueError` if that is not one of our models."""
    if not isinstance(model, ViTEncoder | ViTClassifier):
        rule = "a ViTEncoder, a MaskedAutoencoder or a ViTClassifier"
        raise _checks.argument_error("model", rule, model)
    return model if isinstance(model, ViTEncoder) else model.encoder


def in_order(source: Any, size: int, begin: int = 0) -> Any:
    """Return batches of a source's images, from index `begin` on, as evaluation sees them."""
    rest = Subset(source, np.arange(begin, len(source))) if begin else source
    return make_dataset(rest, min(size, len(rest)), shuffle=False, crop=CenterCrop(), shard=(0, 1))
