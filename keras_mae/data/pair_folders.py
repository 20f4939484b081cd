"""Folders of images and of their segmentation masks: side by side, or laid out as ADE20K and Pascal VOC are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.data import fingerprints, listings
from keras_mae.data.array_images import ArrayImage
from keras_mae.data.examination import check_damage, examine
from keras_mae.data.folders import FolderContents, is_system, look_into
from keras_mae.data.levels import Levels
from keras_mae.data.listed import ListedSource
from keras_mae.data.masks import IGNORED, MaskLabels, mask_size, read_mask
from keras_mae.data.opening import named_errors, open_image
from keras_mae.data.pairs import PairSource
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["CLASSES_FILE", "FolderPairs"]

CLASSES_FILE = "classes.txt"
"""Name of the file, in the folder, that holds the names of the classes: one a line, in the order of the labels."""

_ADE20K_CLASSES, _ADE20K_NAMES = 150, "objectInfo150.txt"
_ADE20K_SPLITS = {"train": "training", "val": "validation"}
_VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_VOC_LISTS = Path("ImageSets", "Segmentation")


@dataclass(frozen=True)
class _Found:
    """Images and masks that belong together, and what their layout says of the masks.

    Attributes:
        images: Paths of the images, in order, and what is passed over beside them.
        image_root: Folder that names of images count from.
        masks: Path of each image's mask.
        mask_root: Folder that names of masks count from.
        says: Arguments of `MaskLabels` that the layout knows.
    """

    images: FolderContents
    image_root: Path
    masks: list[Path]
    mask_root: Path
    says: Mapping[str, Any]


class FolderPairs(PairSource):
    """All images below a folder with their masks, in the order of their paths.

    The layout is told by what is in the folder:

    - `images/` and `masks/`: a mask has the name of its image, with an ending of its own, in folders of the same
      names. `split="train"` means `images/train/` and `masks/train/`.
    - ADE20K's own: `images/training/` and `annotations/training/`, or `validation`. 150 classes; 0 stands for none.
    - Pascal VOC's own: `JPEGImages/`, `SegmentationClass/`, and `ImageSets/Segmentation/train.txt`, or another list.
      21 classes; 255 is the border between objects.

    Masks are files without loss: PNG, TIFF, GIF or BMP of palette indices or grays, of 1 to 16 bits, or .npy. Those
    drawn in colors take `colors`. Names of classes, one a line in the order of the labels, may lie in `classes.txt`
    in the folder; those of ADE20K do in its `objectInfo150.txt`.

    Every file's header is read at once, so that a missing partner, a mask of another size, and files that cannot be
    read as such are found before training starts. Unknown labels are found then, too, if all masks have to be read
    to count the classes: where nothing says how many there are. Else they are named when a mask is read.

    Args:
        directory: Folder as above; with `masks`, that of the images.
        image_size: Side in pixels of the images to make, or (height, width); `None` leaves images their own sizes,
            for `WholeImage` in batches of one.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA) for pictures; for files of arrays their bands.
        masks: Folder of the masks, if it is not in `directory`.
        split: Part to read: of ADE20K and Pascal VOC "train", which is the default, "val" or what else is there.
        num_classes: Number of classes; by default that of the names, of the layout, or the largest label and one.
        class_names: Names of the classes, in the order of the labels.
        ignore_label: Label of the pixels that belong to no class. Above 255, for as many classes, masks are uint16.
        reduce_zero_label: Whether 0 stands for no class, and 1 for the first one; by default as the layout has it.
        colors: Label of each (red, green, blue), for masks that are drawn in colors; `ignore_label` is one, too.
        allow_damaged: Largest share, in [0, 1], of images that may be damaged, or have a damaged mask: they are left
            out with it and listed in `skipped`; more is an error. Above 0 every file is decoded once, here. With 0
            the first damaged file is an error that names it.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image or mask to read, as for `read_image`.

    Raises:
        ValueError: If there is no such folder or split, an image has no mask or a mask no image, or one of them
            cannot be read.
    """

    def __init__(
        self,
        directory: str | Path,
        image_size: int | tuple[int, int] | None = 512,
        channels: int = 3,
        *,
        masks: str | Path | None = None,
        split: str | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        ignore_label: int = IGNORED,
        reduce_zero_label: bool | None = None,
        colors: Mapping[tuple[int, int, int], int] | None = None,
        allow_damaged: float = 0.0,
        pixel_range: PixelRange = BYTES,
        white_level: int | None = None,
        max_pixels: int | None = None,
    ):
        directory = _folder("directory", directory)
        beside = None if masks is None else _folder("masks", masks)
        found = _found(directory, beside, _checks.optional(_checks.text, "split", split))
        says = dict(found.says)
        if colors is not None:
            says.pop("reduce_zero_label", None)
        if class_names is not None:
            says |= {"class_names": class_names, "num_classes": None}
        if num_classes is not None:
            says["num_classes"] = num_classes
        if reduce_zero_label is not None:
            says["reduce_zero_label"] = reduce_zero_label
        labels = MaskLabels(**says, ignore_label=ignore_label, colors=colors)
        self.mask_paths, self._mask_root, self._colored = found.masks, found.mask_root, colors is not None
        self.skipped: list[tuple[Path, str]] = []
        if _checks.within("allow_damaged", allow_damaged, 1):
            levels = Levels(pixel_range, white_level, max_pixels)
            self._leave_out(
                found.images, levels, _checks.positive_int("channels", channels), allow_damaged, directory
            )
        source = ListedSource(
            found.images,
            found.image_root,
            1 if image_size is None else image_size,
            channels,
            pixel_range=pixel_range,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        self._check_sizes(source)
        super().__init__(source, labels, image_size is None)

    def _leave_out(
        self, images: FolderContents, levels: Levels, channels: int, allow_damaged: float, directory: Path
    ) -> None:
        """Leave out images that are damaged, or whose masks are, unless they are too many: all files are decoded."""

        def damage_of(mask: Path) -> str:
            try:
                read_mask(mask, str(mask), self._colored, levels.max_pixels)
            except ValueError as error:
                return str(error)
            return ""

        pairs = list(zip(images.paths, self.mask_paths, strict=True))
        damaged = dict(examine(images.paths, levels, channels=channels).damaged)
        with ThreadPoolExecutor() as pool:
            for (image, _), damage in zip(pairs, pool.map(damage_of, self.mask_paths), strict=True):
                if damage:
                    damaged.setdefault(image, damage)
        self.skipped = sorted(damaged.items())
        check_damage(self.skipped, len(pairs), allow_damaged, directory)
        if len(damaged) == len(pairs):
            raise ValueError(
                f"An image and its mask must be readable. Received: all {len(pairs)} pairs in {str(directory)!r} are "
                "damaged"
            )
        images.paths = [image for image, _ in pairs if image not in damaged]
        self.mask_paths = [mask for image, mask in pairs if image not in damaged]

    def _check_sizes(self, source: ListedSource) -> None:
        """Raise a `ValueError` if a mask has another size than its image, by their headers."""

        def sizes(index: int) -> tuple[tuple[int, int], tuple[int, int]]:
            path, most = source.paths[index], source.levels.max_pixels
            with named_errors(path, str(path)), open_image(path, None, Levels(max_pixels=most), False) as file:
                image = file.shape[:2] if isinstance(file, ArrayImage) else file.size[::-1]
            mask = self.mask_paths[index]
            return image, mask_size(mask, str(mask), self._colored, most)

        self.images = source
        with ThreadPoolExecutor() as pool:
            for index, (image, mask) in enumerate(pool.map(sizes, range(len(source)))):
                if sorted(image) != sorted(mask):
                    raise ValueError(self._sizes_differ(index, image, mask))

    def mask(self, index: int) -> tuple[np.ndarray, str]:
        path = self.mask_paths[index]
        return read_mask(path, str(path), self._colored, self.images.levels.max_pixels), str(path)

    def name(self, index: int) -> str:
        return str(self.images.paths[index])

    def names(self, indices: Any) -> list[str]:
        """Return the paths of the images at `indices`, in the folder that holds images alone."""
        return list(self.images.names(indices))

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images and masks from others."""
        return {**super().fingerprint(), "masks": fingerprints.of_files(self.mask_paths, self._mask_root)}

    def listing(self) -> dict[str, list[int]] | None:
        """Return size and time of each image and mask by its path in the folder; `None` of very many files."""
        images, masks = self.images.listing(), listings.of_paths(self.mask_paths, self._mask_root)
        if images is None or masks is None:
            return None
        sides = (("images", images), ("masks", masks))
        return {f"{side}/{name}": known for side, listed in sides for name, known in listed.items()}


# === Layouts ===
def _folder(argument: str, value: Any) -> Path:
    path = _checks.path(argument, value)
    if not path.is_dir():
        raise ValueError(f"`{argument}` must be an existing folder. Received: {argument}={str(path)!r}")
    return path


def _found(directory: Path, masks: Path | None, split: str | None) -> _Found:
    """Return what belongs together in a folder, by its layout.

    Raises:
        ValueError: If it has none that is known, or no such split.
    """
    if masks is not None:
        return _side_by_side(*_parts((directory, masks), split), {})
    if (directory / "JPEGImages").is_dir() and (directory / "SegmentationClass").is_dir():
        return _of_voc(directory, split or "train")
    if (directory / "images").is_dir() and (directory / "masks").is_dir():
        sides = directory / "images", directory / "masks"
        return _side_by_side(*_parts(sides, split), _names_in(directory))
    if (directory / "images").is_dir() and (directory / "annotations").is_dir():
        return _of_ade20k(directory, split or "train")
    inside = ", ".join(_folders_in(directory)) or "none"
    raise ValueError(
        "`directory` must hold the folders images and masks, or be laid out as ADE20K (images, annotations) or "
        "Pascal VOC (JPEGImages, SegmentationClass); masks elsewhere are named by `masks`. "
        f"Received: directory={str(directory)!r} with the folders {inside}"
    )


def _parts(sides: tuple[Path, Path], split: str | None) -> tuple[Path, Path]:
    """Return the folders of a split's images and masks."""
    if split is None:
        return sides
    parts = sides[0] / split, sides[1] / split
    if missing := [path for path in parts if not path.is_dir()]:
        raise _no_split(split, missing[0], _folders_in(sides[0]))
    return parts


def _side_by_side(images: Path, masks: Path, says: Mapping[str, Any]) -> _Found:
    """Return the images in one folder and the masks of the same names in another."""
    found, beside = look_into(images), look_into(masks)
    if passed_over := beside.passed_over():
        warnings.warn(f"{passed_over} (in {str(masks)!r})", stacklevel=4)
    of_images, of_masks = _by_name(found.paths, images), _by_name(beside.paths, masks)
    without = [path for name, path in of_images.items() if name not in of_masks]
    left_over = [path for name, path in of_masks.items() if name not in of_images]
    for alone, kind, other, folder in ((without, "image", "mask", masks), (left_over, "mask", "image", images)):
        if alone:
            raise ValueError(
                f"Each {kind} must have its {other}, a file of the same name but for the ending. Received: "
                f"{str(alone[0])!r}{f' and {len(alone) - 1:,} more' if len(alone) > 1 else ''} with none in "
                f"{str(folder)!r}"
            )
    return _Found(found, images, [of_masks[name] for name in of_images], masks, says)


def _by_name(paths: Sequence[Path], root: Path) -> dict[str, Path]:
    """Return files by their paths in a folder without endings, in order.

    Raises:
        ValueError: If two have the same.
    """
    named: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in named:
            raise ValueError(
                "Images and masks are matched by their names without endings, which must differ. Received: "
                f"{str(named[name])!r} and {str(path)!r}"
            )
        named[name] = path
    return named


def _of_ade20k(directory: Path, split: str) -> _Found:
    sides = directory / "images", directory / "annotations"
    says: dict[str, Any] = {"num_classes": _ADE20K_CLASSES, "reduce_zero_label": True}
    listed = directory / _ADE20K_NAMES
    if listed.is_file():  # a table whose last column is the name
        lines = _text_in(listed).splitlines()[1:]
        says["class_names"] = [line.split("\t")[-1].strip() for line in lines if line.strip()]
    return _side_by_side(*_parts(sides, _ADE20K_SPLITS.get(split, split)), says)


def _of_voc(directory: Path, split: str) -> _Found:
    lists = directory / _VOC_LISTS
    listed = lists / f"{split}.txt"
    if not listed.is_file():
        raise _no_split(split, listed, [path.stem for path in lists.glob("*.txt")])
    names = _text_in(listed).split()
    sides = directory / "JPEGImages", directory / "SegmentationClass"
    images, masks = (
        [side / f"{name}{ending}" for name in names] for side, ending in zip(sides, (".jpg", ".png"), strict=True)
    )
    if missing := [path for path in [*images, *masks] if not path.is_file()]:
        raise ValueError(
            f"{str(listed)!r} must name images that have masks. Received: {str(missing[0])!r}"
            f"{f' and {len(missing) - 1:,} more' if len(missing) > 1 else ''}, not there"
        )
    if not names:
        raise ValueError(f"{str(listed)!r} must name at least one image. Received: none")
    return _Found(FolderContents(paths=images), sides[0], masks, sides[1], {"class_names": _VOC_NAMES})


def _no_split(split: str, missing: Path, there: Sequence[str]) -> ValueError:
    known = ", ".join(sorted(there)) or "none"
    return ValueError(f"`split` must be one that is there: {known}. Received: split={split!r}; no {str(missing)!r}")


def _folders_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir() if entry.is_dir() and not is_system(entry.name))


def _text_in(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(file)!r} must be text in UTF-8. Received: {error}") from error


def _names_in(directory: Path) -> dict[str, Any]:
    """Return what `classes.txt` says of a folder, if it is there."""
    file = directory / CLASSES_FILE
    if not file.is_file():
        return {}
    names = [line.strip() for line in _text_in(file).rstrip().splitlines()]
    if not names or not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"{str(file)!r} must hold different names, one a line. Received: {len(names)} lines, "
            f"{len({*filter(None, names)})} different names"
        )
    return {"class_names": names}
