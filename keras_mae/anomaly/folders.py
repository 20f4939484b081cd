"""Images to score: which of them are known to be normal, and where their defects are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae._class_names import listed
from keras_mae._optional import cores
from keras_mae.data import ArrayFileSource, read_image
from keras_mae.data.files import open_folder
from keras_mae.data.folders import look_into
from keras_mae.data.images import upright_size
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["ScoredImages", "open_scored"]

_NORMAL = ("good", "normal", "ok")
_LOST = 0.02  # share of an image that is cut off above which there is a warning
_LOOKED_AT = 64  # images whose sizes are looked at if they are not files of their own


@dataclass(frozen=True)
class ScoredImages:
    """Images to score, by index, with what is known of them; `open_scored` makes one of a folder.

    Attributes:
        source: Source of the images.
        names: Paths of the files relative to their folder, which a prepared folder remembers; for an array
            "images[12]".
        anomalous: Whether each image is anomalous, Boolean (images,); `None` if that is not known.
        masks: Path of the mask of each image's defects, `None` for an image without; `None` if there are no masks.
        reason: Why it is known what is anomalous, or why it is not, in one line.
    """

    source: Any
    names: tuple[str, ...]
    anomalous: np.ndarray | None
    masks: tuple[Path | None, ...] | None
    reason: str

    def __len__(self) -> int:
        return len(self.names)

    def images(self, indices: Any) -> np.ndarray:
        """Return the images at `indices`, (images, height, width, channels)."""
        found: np.ndarray = self.source.batch(indices)[0]
        return found

    def defects(self, indices: Iterable[int]) -> np.ndarray:
        """Return where the defects of the images at `indices` are, Boolean (images, height, width).

        A mask is cut and resized like its image. A pixel is a defect from half of the mask's largest value upwards.
        """
        shape = (*self.source.image_shape[:2], 1)
        found = []
        for index in indices:
            path = None if self.masks is None else self.masks[index]
            values = np.zeros(shape, "uint8") if path is None else read_image(path, shape)
            found.append((values[..., 0] > 0) & (2 * values[..., 0].astype(int) >= int(values.max())))
        return np.stack(found)


def open_scored(
    directory: str | Path,
    image_shape: tuple[int, int, int],
    *,
    normal_class: str | None = None,
    masks: str | Path | None = None,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> ScoredImages:
    """Open a folder of images to score, a prepared one, or an array in a file.

    The images may lie in class folders, or have labels. The normal class is `normal_class`, or else the only one that
    is called "good" (as in MVTec AD), "normal" or "ok"; all other classes are anomalous. Without classes, or without
    a normal one, only masks tell which images are anomalous.

    Args:
        directory: Folder of images, or one from `keras-mae prepare` (ArrayRecord), whose images keep the names that
            they had; or an array in a file, by its name ("cells.h5::images::labels").
        image_shape: (height, width, channels) that the model takes; images are brought to it.
        normal_class: Name of the folder of the normal images, or their label in an array ("0").
        masks: Folder of masks, for images that are files of their own: pictures of the images' sizes that are 0 where
            there is no defect. The mask of crack/000.png is crack/000_mask.png, as in MVTec AD, or crack/000.png,
            with any ending. Images of the normal class need none; if no normal class is known, images without a mask,
            or with an empty one, are normal.
        pixel_range: (low, high), the smallest and the largest pixel: the encoder's `pixel_range`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `data.read_image`.
        max_pixels: Pixels of the largest image to read, as for `data.read_image`.

    Returns:
        `ScoredImages`.

    Raises:
        ValueError: If there is no such folder or class, the folder was prepared as TFRecord, an anomalous image has
            no mask, or a mask has another size than its image.

    Example:
        >>> images = keras_mae.anomaly.open_scored("screws/test", (224, 224, 3), masks="screws/ground_truth")
        >>> images.anomalous.sum(), images.reason
    """
    image_shape = _checks.image_shape(image_shape)
    levels: dict[str, Any] = {"pixel_range": pixel_range, "white_level": white_level, "max_pixels": max_pixels}
    _checks.optional(_checks.text, "normal_class", normal_class)
    opened_images = open_folder(directory, image_shape, **levels)
    source = opened_images.source
    names = tuple(opened_images.names(range(len(source))))
    anomalous, reason = _known_anomalous(_classes_of(source, names), normal_class)
    paths = getattr(source, "paths", None)
    if masks is not None and paths is None:
        raise ValueError(
            "`masks` are compared with images that are files of their own: score the folder that these were prepared "
            f"from, or leave masks out. Received: masks={str(masks)!r} for {str(directory)!r}"
        )
    _warn_of_cuts(source, paths, max_pixels)
    if masks is None:
        return ScoredImages(source, names, anomalous, None, reason)
    folder = _checks.path("masks", masks)
    found = _masks_of(names, folder, anomalous)
    for name, path, mask in zip(names, paths or (), found, strict=True):
        if mask is not None and upright_size(mask) != (size := upright_size(path, max_pixels)):
            raise ValueError(
                f"`masks` must be pictures of the images' sizes. Received: {str(mask)!r} of "
                f"{upright_size(mask)} for {name!r} of {size}"
            )
    opened = ScoredImages(source, names, anomalous, found, reason)
    marked = np.array([bool(opened.defects([index]).any()) for index in range(len(opened))])
    if anomalous is None:
        reason = f"{marked.sum()} of {len(marked)} images are anomalous: those with a mask that is not empty"
        return ScoredImages(source, names, marked, found, reason)
    if (other := np.flatnonzero(marked != anomalous)).size:
        first = names[other[0]]
        what = "an empty mask" if anomalous[other[0]] else "a mask with defects, though its class is normal"
        warnings.warn(
            f"{other.size} of {len(names)} images and their masks contradict one another, such as {first!r}, which "
            f"has {what}",
            stacklevel=2,
        )
    return opened


def _classes_of(source: Any, names: tuple[str, ...]) -> list[str | None]:
    """Return the name of the class of each image, `None` for one that has none."""
    if not isinstance(source, ArrayFileSource):
        return [name.partition("/")[0] if "/" in name else None for name in names]
    known = source.class_names or ()
    return [None] * len(names) if source.labels is None else [known[label] for label in source.labels]


def _known_anomalous(own: list[str | None], normal_class: str | None) -> tuple[np.ndarray | None, str]:
    """Return which images are anomalous by their classes, or `None`, and why that is known or not."""
    classes = sorted({one for one in own if one is not None})
    loose = own.count(None)
    if normal_class is not None:
        if normal_class not in classes or loose:
            found = f"{loose} images that have no class" if loose else listed(classes)
            rule = "the name of a class, a folder of images or a label, and all images must have one"
            raise _checks.argument_error("normal_class", f"{rule}, which are: {found}", normal_class)
        chosen = [normal_class]
    else:
        chosen = [one for one in classes if one.lower() in _NORMAL]
    if loose or len(chosen) != 1:
        says = (
            "that takes a folder for each class, or labels"
            if loose or not classes
            else "say which class is (normal_class)"
        )
        return None, f"Which images are normal is not known: {says}"
    anomalous = np.array([one != chosen[0] for one in own])
    return anomalous, f"{anomalous.sum()} of {len(own)} images are anomalous: those not in {chosen[0]!r}"


def _masks_of(names: tuple[str, ...], folder: Path, anomalous: np.ndarray | None) -> tuple[Path | None, ...]:
    """Return the path of each image's mask, `None` for an image that has none and needs none."""
    if not folder.is_dir():
        raise _checks.argument_error("masks", "an existing folder of pictures", str(folder))
    by_name: dict[str, Path] = {}
    for path in look_into(folder).paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in by_name:
            raise ValueError(
                f"`masks` must hold at most one mask for each image. Received: {by_name[name]} and {path}"
            )
        by_name[name] = path
    found: list[Path | None] = []
    for index, name in enumerate(names):
        stem = Path(name).with_suffix("").as_posix()
        mask = by_name.pop(stem, None) or by_name.pop(f"{stem}_mask", None)
        if mask is None and anomalous is not None and anomalous[index]:
            raise ValueError(
                f"`masks` must hold a mask for each anomalous image. Received: none for {name!r}, such as "
                f"{stem}_mask.png, in {str(folder)!r}"
            )
        found.append(mask)
    if by_name:
        first = next(iter(by_name.values()))
        warnings.warn(f"{len(by_name)} masks belong to no image, such as {str(first)!r}", stacklevel=3)
    if not any(found):
        raise ValueError(f"`masks` must hold masks of the images. Received: no such mask in {str(folder)!r}")
    return tuple(found)


def _warn_of_cuts(source: Any, paths: list[Path] | None, max_pixels: int | None) -> None:
    """Warn about images that do not have the model's proportions: what is cut off is not looked at."""
    wanted = source.image_shape[0] / source.image_shape[1]
    if paths is None:  # their sizes are in the records: a look at a few will do
        sizes = source.sizes(np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).round().astype("int64")))
    else:
        with ThreadPoolExecutor(cores()) as pool:
            sizes = list(pool.map(lambda path: upright_size(path, max_pixels), paths))
    kept = [min(height / width / wanted, wanted * width / height) for height, width in sizes]
    if cut := sum(1 - share > _LOST for share in kept):
        looked_at = "" if len(kept) == len(source) else " looked at"
        warnings.warn(
            f"{cut} of {len(kept)} images{looked_at} are cut to the model's shape, up to {1 - min(kept):.0%} of one: "
            "defects there are not seen",
            stacklevel=3,
        )
