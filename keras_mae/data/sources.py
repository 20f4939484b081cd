"""Where images come from, by index: arrays, and folders of files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_mae import _checks

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Source(Protocol):
    """Anything with a length that gives batches by index."""

    image_shape: tuple[int, int, int]
    dtype: np.dtype
    labels: np.ndarray | None

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, (batch, height, width, channels)."""
        ...


class ArraySource:
    """Images in an array, also a memory-mapped one.

    Args:
        images: (images, height, width, channels) or, grey, (images, height, width); integers or floats in 0–255.
        labels: Integers from 0 (images,), or `None`.

    Raises:
        ValueError: If shape, dtype or range are not those of images and labels.
    """

    def __init__(self, images: Any, labels: Any = None):
        images = images if isinstance(images, np.ndarray) else np.asarray(images)
        images = images[..., None] if images.ndim == 3 else images
        if images.ndim != 4 or not images.size:
            raise ValueError(
                "`images` must have shape (images, height, width, channels) and not be empty. "
                f"Received: images.shape={images.shape}"
            )
        if images.dtype.kind not in "uif":
            raise ValueError(f"`images` must be integers or floats in 0-255. Received: images.dtype={images.dtype}")
        if images.dtype != np.uint8:
            self._check_range(images)
        self.images, self.image_shape, self.dtype = images, tuple(images.shape[1:]), images.dtype
        self.labels = None if labels is None else _labels(labels, len(images))

    @staticmethod
    def _check_range(images: np.ndarray) -> None:
        for start in range(0, len(images), 1024):  # in parts: the array may be larger than memory
            part = images[start : start + 1024]
            if not np.isfinite(part).all():
                bad = start + np.flatnonzero(~np.isfinite(part).all(axis=(1, 2, 3)))[0]
                raise ValueError(f"`images` must be finite. Received: NaN or infinite pixels in image {bad}")
            if part.min() < 0 or part.max() > 255:
                raise ValueError(
                    "`images` must be in 0-255 (the encoder normalises them itself). "
                    f"Received: values from {part.min():.4g} to {part.max():.4g}"
                )
        if images.dtype.kind == "f" and 0 < images.max() <= 1:
            raise ValueError(
                "`images` must be in 0-255 (the encoder normalises them itself): multiply by 255. "
                f"Received: values from {images.min():.4g} to {images.max():.4g}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]


class Subset:
    """Some images of another source.

    Args:
        source: Where they come from.
        indices: Which, integers (images,).
    """

    def __init__(self, source: Source, indices: Any):
        self._source, self._indices = source, np.asarray(indices)
        self.image_shape, self.dtype = source.image_shape, source.dtype
        self.labels = None if source.labels is None else source.labels[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices: Any) -> np.ndarray:
        return self._source.batch(self._indices[indices])


def _labels(labels: Any, images: int) -> np.ndarray:
    labels = np.asarray(labels)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (images,) or labels.dtype.kind not in "ui" or labels.min() < 0:
        raise ValueError(
            f"`labels` must be integers from 0, one for each of the {images} images. "
            f"Received: labels.shape={labels.shape}, labels.dtype={labels.dtype}"
            + (f", the least {labels.min()}" if labels.size and labels.dtype.kind in "ui" else "")
        )
    return labels.astype("int64")


class FolderSource:
    """All images below a folder, flat or nested, in the order of their paths; labels are not needed.

    Each is turned upright as its EXIF data say, brought to the wanted number of channels, resized bicubically
    with antialiasing until it just covers the wanted size, and cut from its centre.

    Every file's header is read at once, so that empty files and files that are no images are found before
    training starts; a file damaged further in is named when it is decoded.

    Args:
        directory: The folder.
        image_size: Side in pixels of the images to make, or (height, width).
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        labelled: Whether the folders in `directory` are classes, numbered from 0 in the order of their names
            (`classes`).

    Raises:
        ValueError: If the folder does not exist or holds no image, a file cannot be read as one, or a labelled
            image lies in no class.
    """

    dtype = np.dtype("uint8")

    def __init__(
        self, directory: str | Path, image_size: int | tuple[int, int], channels: int = 3, labelled: bool = False
    ):
        self.directory = Path(directory)
        height, width = _checks.pair("image_size", image_size)
        self.image_shape = (height, width, _checks.one_of("channels", channels, _MODES))
        if not self.directory.is_dir():
            raise ValueError(f"`directory` must be an existing folder. Received: directory={str(directory)!r}")
        self.paths = sorted(
            path for path in self.directory.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file()
        )
        if not self.paths:
            raise ValueError(
                f"`directory` must hold images ({', '.join(EXTENSIONS)}), in it or in folders below. "
                f"Received: none in {str(directory)!r}"
            )
        with ThreadPoolExecutor() as pool:
            list(pool.map(_check_header, self.paths))
        self.labels = None
        self.classes: list[str] = []
        if labelled:
            names = [path.relative_to(self.directory).parts for path in self.paths]
            if loose := [parts[0] for parts in names if len(parts) == 1]:
                raise ValueError(
                    "Labelled images lie in a folder for each class. "
                    f"Received: {loose[0]!r} and {len(loose) - 1} more in {str(directory)!r} itself"
                )
            # Also those without images: training and test folders then number their classes alike.
            self.classes = sorted(path.name for path in self.directory.iterdir() if path.is_dir())
            self.labels = np.asarray([self.classes.index(parts[0]) for parts in names], "int64")

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.stack([read_image(self.paths[index], self.image_shape) for index in indices])


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('Reading image files takes Pillow: pip install "keras-mae[data]"') from error
    return Image, ImageOps


def _check_header(path: Path) -> None:
    image_module, _ = _pillow()
    try:
        with image_module.open(path) as image:
            image.size  # noqa: B018  (reading it is the check)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    what = "it is empty" if path.stat().st_size == 0 else f"{type(error).__name__}: {error}"
    return ValueError(f"Cannot read the image file {str(path)!r}: {what}")


def read_image(path: str | Path, image_shape: tuple[int, int, int]) -> np.ndarray:
    """One image file as uint8 of `image_shape`: upright, resized to cover it, cut from the centre.

    Raises:
        ValueError: If the file cannot be decoded; the message names it.
    """
    image_module, operations = _pillow()
    path = Path(path)
    height, width, channels = image_shape
    try:
        with image_module.open(path) as file:
            # JPEG can be decoded at half, a quarter or an eighth of its size: several times faster.
            file.draft(_MODES[channels], (max(width, height),) * 2)  # square: EXIF may still turn it
            image = operations.exif_transpose(file)
            if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255
                image = image_module.fromarray((np.asarray(image, "float32") / 257).astype("uint8"))
            image = image.convert(_MODES[channels])
            image = operations.fit(image, (width, height), method=image_module.Resampling.BICUBIC)
            return np.asarray(image, "uint8").reshape(image_shape)
    except FileNotFoundError as error:
        raise ValueError(f"There is no image file {str(path)!r}") from error
    except Exception as error:
        raise _unreadable(path, error) from error
