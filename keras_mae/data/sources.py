"""Where images come from, by index: arrays and folders of files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_mae import _checks, _class_names, pixels
from keras_mae.data import fingerprints, listings
from keras_mae.data import images as image_files
from keras_mae.data.crops import CenterCrop, Crop, RandomCrop, moved
from keras_mae.data.examination import check_damage, examine, grays_in_the_dark
from keras_mae.data.folders import FolderContents, look_into
from keras_mae.data.levels import EIGHT_BITS, Levels
from keras_mae.pixels import BYTES, PixelRange

__all__ = [
    "ArraySource",
    "FolderSource",
    "Generators",
    "Source",
    "check_source",
    "checked_labels",
    "cut",
    "known_of",
    "still",
]

Generators = Callable[[int], Sequence[np.random.Generator]]
"""A function from an image's index to the generators that draw its crops: one for each crop."""


class Source(Protocol):
    """Anything with a length that gives batches by index.

    `labels` holds one integer from 0 for each image; it is `None` where there are none, and where they are read with
    the images (`labeled` is true then). Of a source with an attribute `masks` they are segmentation masks, one for
    each crop (batch, height, width): see `pairs.PairSource`. `class_names` holds the names of the classes in the
    order of the labels, or is `None` where they have none.
    """

    image_shape: tuple[int, int, int]
    dtype: np.dtype
    labels: np.ndarray | None
    labeled: bool
    class_names: tuple[str, ...] | None
    sized: bool
    """Whether all images have the shape `image_shape`, so that none needs a crop."""

    def __len__(self) -> int: ...

    def batch(
        self, indices: Any, crop: Crop | None = None, generators: Generators | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the images at `indices`, (batch, height, width, channels), and their labels.

        With `generators`, `crop` is drawn with each of them, and an image's crops follow one another.
        """
        ...


def check_source(source: Any) -> None:
    """Raise ValueError unless `source` is one of images, by index or from front to back."""
    rule = "a source of images, such as keras_mae.data.ArraySource(images)"
    _checks.has("source", source, ("image_shape", "labeled", "sized", "__len__"), rule)


def still(index: int) -> Sequence[np.random.Generator]:
    """Return the generators for one crop of each image, always the same."""
    return [np.random.default_rng(index)]


def known_of(source: Any) -> dict[str, Any]:
    """Return the fingerprint of a source, or of one of somebody else's that has none, its kind."""
    found = getattr(source, "fingerprint", None)
    return dict(found()) if callable(found) else {"kind": type(source).__name__}


class ArraySource:
    """Images in an array, also a memory-mapped one.

    Args:
        images: (images, height, width, channels) or (images, height, width), for gray; integers or floats in
            `pixel_range`.
        labels: Integers from 0 (images,), or `None`.
        image_size: Side in pixels of the images that crops of these are resized to, or (height, width); by default
            the images' own.
        class_names: Names of the classes, in the order of the labels.
        pixel_range: (low, high), the smallest and the largest value that a pixel may have; as the encoder's.

    Raises:
        ValueError: If shape, dtype or range are not those of images and labels.
    """

    def __init__(
        self,
        images: Any,
        labels: Any = None,
        image_size: int | tuple[int, int] | None = None,
        *,
        class_names: Sequence[str] | None = None,
        pixel_range: PixelRange = BYTES,
    ):
        rule = "an array of numbers (images, height, width, channels)"
        images = images if isinstance(images, np.ndarray) else _checks.array("images", images, rule)
        images = images[..., None] if images.ndim == 3 else images
        if images.ndim != 4 or not images.size:
            raise ValueError(
                "`images` must have shape (images, height, width, channels) and not be empty. "
                f"Received: images.shape={images.shape}"
            )
        self.levels, dtype = Levels(pixels.checked_range(pixel_range)), pixels.dtype_name(images)
        pixels.check_channels_last(images.shape)
        pixels.check_dtype(dtype, self.levels.pixel_range)
        if not pixels.needs_no_look(dtype, self.levels.pixel_range):
            self._check_values(images)
        elif images[:1].max() <= 1 and not any(part.max() > 1 for part in _parts(images)):
            pixels.check_bytes(images, self.levels.pixel_range)
        self.images, self.dtype = images, images.dtype
        size = images.shape[1:3] if image_size is None else _checks.pair("image_size", image_size)
        self.image_shape: tuple[int, int, int] = (*size, images.shape[3])
        self.sized = self.image_shape == images.shape[1:]
        self.labels = None if labels is None else checked_labels(labels, len(images))
        self.labeled = labels is not None
        self.class_names = _class_names.checked(class_names)
        if self.class_names is not None and (self.labels is None or self.labels.max() >= len(self.class_names)):
            raise ValueError(
                f"`class_names` must be one for each label. Received: {len(self.class_names)} names, "
                + ("no labels" if self.labels is None else f"labels up to {self.labels.max()}")
            )

    def _check_values(self, images: np.ndarray) -> None:
        ends = []
        for number, part in enumerate(_parts(images)):
            start = number * _PART
            ends.append((part.min(), part.max()))
            if not np.isfinite(ends[-1]).all():
                bad = start + np.flatnonzero(~np.isfinite(part).all(axis=(1, 2, 3)))[0]
                raise ValueError(f"`images` must be finite. Received: NaN or infinite pixels in image {bad}")
        low, high = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
        pixels.check_extremes(low, high, pixels.dtype_name(images), self.levels.pixel_range)

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images from others."""
        return {"kind": "array", **fingerprints.of_array(self.images), **fingerprints.of_labels(self.labels)}

    def batch(
        self, indices: Any, crop: Crop | None = None, generators: Generators | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        labels = None if self.labels is None else self.labels[indices]
        if self.sized and crop is None:
            return self.images[indices], labels
        if self.sized and isinstance(crop, RandomCrop):  # a hundred times faster than one by one through Pillow
            return self._moved(indices, crop, generators or still), labels
        return cut(self.stored(indices), indices, self.image_shape, crop, generators, self.levels), labels

    def stored(self, indices: Any) -> Iterator[np.ndarray]:
        """Yield the images at `indices` as they are stored, one by one."""
        return (self.images[index] for index in indices)

    def _moved(self, indices: Any, crop: RandomCrop, generators: Generators) -> np.ndarray:
        height, width, _ = self.image_shape
        drawn = [(index, generator) for index in indices for generator in generators(int(index))]
        boxes = [crop(width, height, (height, width), generator) for _, generator in drawn]
        return moved(self.images, [index for index, _ in drawn], boxes)


class FolderSource:
    """All images below a folder, flat or nested, in the order of their paths; labels are not needed.

    They are the files in formats that Pillow opens, TIFF files of many bands, and, in a folder that holds nothing
    else, DICOM files and .npy files of one image each; also behind links. Hidden and system folders and files are no
    data (`.ipynb_checkpoints`, `__MACOSX`, `Thumbs.db`). A warning says in one line what else is passed over: how
    many files of which kinds.

    Each is turned upright as its EXIF data say, converted to the wanted number of channels, cut and resized
    bicubically with antialiasing (see `read_image`).

    Every file's header is read at once, so that empty files, files that are no images and absurdly large ones are
    found before training starts; a file damaged further in is named when it is decoded. If a few deep grays that are
    looked at are all nearly black, a warning asks for their white level.

    Args:
        directory: Folder of images.
        image_size: Side in pixels of the images to make, or (height, width).
        channels: 1 (gray), 3 (RGB) or 4 (RGBA) for pictures; for files of arrays their bands.
        labeled: Whether the folders in `directory` are classes, numbered from 0 in the order of their names
            (`class_names`).
        allow_damaged: Largest share of damaged files, in [0, 1], that is left out and listed in `skipped`; more is an
            error. Above 0 every file is decoded once, here. With 0 the first damaged file is an error that names it.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`: (0, 255) for uint8, any
            other for float32 in the files' own numbers.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image to read, as for `read_image`.

    Raises:
        ValueError: If the folder does not exist or holds no image, files cannot be read as one, a labeled image lies
            in no class, or two classes are one folder.
    """

    sized = False
    _any_bands = False  # whether each file may have bands of its own, which `batch` does not take

    def __init__(
        self,
        directory: str | Path,
        image_size: int | tuple[int, int] = 224,
        channels: int = 3,
        *,
        labeled: bool = False,
        allow_damaged: float = 0.0,
        pixel_range: PixelRange = BYTES,
        white_level: int | None = None,
        max_pixels: int | None = None,
    ):
        self.directory = _checks.path("directory", directory)
        _checks.boolean("labeled", labeled)
        height, width = _checks.pair("image_size", image_size)
        self.image_shape = (height, width, _checks.positive_int("channels", channels))
        wanted = None if self._any_bands else channels
        _checks.within("allow_damaged", allow_damaged, 1)
        self.levels = Levels(pixel_range, white_level, max_pixels)
        self.dtype = self.levels.dtype
        contents = self._look()
        self.paths, self.labeled = contents.paths, labeled
        self.class_names = tuple(contents.classes) if labeled else None
        for link in contents.repeated:
            if link.parent == self.directory and link.name in (self.class_names or ()):
                raise ValueError(
                    f"Each class must be a folder of its own. Received: {link.name!r} in {str(self.directory)!r}, a "
                    "link to a folder that another class has"
                )
        self.skipped: list[tuple[Path, str]] = []
        if allow_damaged > 0:
            examined = examine(self.paths, self.levels, channels=wanted)
            self._leave_out(examined.damaged, allow_damaged)
            stacks = len(examined.stacks)
        else:
            with ThreadPoolExecutor() as pool:
                pages = pool.map(lambda path: image_files.check_header(path, self.levels, wanted), self.paths)
                stacks = sum(count > 1 for count in pages)
        if passed_over := contents.passed_over(stacks):
            warnings.warn(f"{passed_over} (in {str(self.directory)!r})", stacklevel=2)
        if darkness := grays_in_the_dark(self.paths, self.levels):
            warnings.warn(f"{darkness}. keras-mae prepare --check lists all such files", stacklevel=2)
        self.labels = self._labels() if labeled else None

    def _look(self) -> FolderContents:
        return look_into(self.directory)

    def names(self, indices: Any) -> list[str]:
        """Return the paths, in the folder, of the images at `indices`."""
        return [self.paths[index].relative_to(self.directory).as_posix() for index in indices]

    def _labels(self) -> np.ndarray:
        names = [path.relative_to(self.directory).parts for path in self.paths]
        if loose := [parts[0] for parts in names if len(parts) == 1]:
            raise ValueError(
                "Labeled images lie in a folder for each class. "
                f"Received: {loose[0]!r} and {len(loose) - 1} more in {str(self.directory)!r} itself"
            )
        numbers = {name: number for number, name in enumerate(self.class_names or ())}
        return np.asarray([numbers[parts[0]] for parts in names], "int64")

    def _leave_out(self, bad: list[tuple[Path, str]], allow_damaged: float) -> None:
        check_damage(bad, len(self.paths), allow_damaged, self.directory)
        gone = {path for path, _ in bad}
        self.skipped, self.paths = bad, [path for path in self.paths if path not in gone]

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images from others."""
        known = fingerprints.of_files(self.paths, self.directory)
        return {"kind": "folder", **known, **fingerprints.of_labels(self.labels)}

    def listing(self) -> dict[str, list[int]] | None:
        """Return size and time of each file by its path in the folder; `None` of very many files."""
        return listings.of_paths(self.paths, self.directory)

    def batch(
        self, indices: Any, crop: Crop | None = None, generators: Generators | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        return cut(self.stored(indices), indices, self.image_shape, crop, generators, self.levels), (
            None if self.labels is None else self.labels[indices]
        )

    def stored(self, indices: Any) -> Iterator[Path]:
        """Yield the paths of the images at `indices`."""
        return (self.paths[index] for index in indices)


def cut(
    images: Any,
    indices: Any,
    image_shape: tuple[int, int, int],
    crop: Crop | None,
    generators: Generators | None,
    levels: Levels = EIGHT_BITS,
) -> np.ndarray:
    """Cut images, which are paths, bytes or arrays, and return all crops in one array."""
    crop, generators = crop or CenterCrop(), generators or still
    views: list[np.ndarray] = []
    for index, image in zip(indices, images, strict=True):
        name = str(image) if isinstance(image, str | Path) else f"number {index}"
        views += image_files.views(image, name, image_shape, crop, generators(int(index)), levels)
    return np.stack(views)


_PART = 1024


def _parts(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield images in parts: the array may be larger than memory."""
    for start in range(0, len(images), _PART):
        yield images[start : start + _PART]


def checked_labels(labels: Any, images: int) -> np.ndarray:
    """Return labels as int64 (images,), which may come as a column."""
    checked = _checks.array("labels", labels, f"integers from 0, one for each of the {images} images")
    checked = checked[:, 0] if checked.ndim == 2 and checked.shape[1] == 1 else checked
    if checked.shape != (images,) or checked.dtype.kind not in "ui" or checked.min() < 0:
        raise ValueError(
            f"`labels` must be integers from 0, one for each of the {images} images. "
            f"Received: labels.shape={checked.shape}, labels.dtype={checked.dtype}"
            + (f", of which the smallest is {checked.min()}" if checked.size and checked.dtype.kind in "ui" else "")
        )
    return checked.astype("int64")
