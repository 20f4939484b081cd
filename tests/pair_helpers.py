"""Images whose pixels say which label their mask has, in every layout of folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COUNT, CLASSES = 5, ("floor", "wall", "door")
COLORS = np.array([(10, 20, 30), (100, 200, 50), (240, 60, 160)], "uint8")
"""Color of each label."""


def labels_of(number: int) -> np.ndarray:
    """Rectangles of the three labels, in a size of the image's own."""
    labels = np.zeros((19 + number, 31 - 2 * number), "uint8")
    labels[:, 13 - number :] = 1
    labels[7 + number :, 5:17] = 2
    return labels


def write_image(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(COLORS[labels]).save(path)


def write_mask(path: Path, mask: np.ndarray, palette: bool = False, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, "uint8").tobytes())
    image.save(path, **options)


def write_pairs(folder: Path, count: int = COUNT, first: int = 0, palette: bool = True) -> Path:
    """`images/` and `masks/`, every second of them in a folder below; label 0 is number `first` in the masks."""
    for number in range(count):
        name = f"below/{number}" if number % 2 else str(number)
        write_image(folder / "images" / f"{name}.png", labels_of(number))
        write_mask(folder / "masks" / f"{name}.png", labels_of(number) + np.uint8(first), palette)
    return folder


def write_ade20k(folder: Path, named: bool = True) -> Path:
    """Training and validation, with a row of pixels of no class (0)."""
    for split, count in (("training", 3), ("validation", 2)):
        for number in range(count):
            labels = labels_of(number)
            mask = labels + np.uint8(1)
            mask[0] = 0
            write_image(folder / "images" / split / f"ADE_{number}.png", labels)
            write_mask(folder / "annotations" / split / f"ADE_{number}.png", mask)
    if named:
        rows = [f"{number + 1}\t0.1\t10\t5\tthing {number}, object" for number in range(150)]
        (folder / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n")
    return folder


def write_voc(folder: Path) -> Path:
    """Four images, of which three are listed, with a border of 255."""
    for number in range(4):
        mask = labels_of(number)
        mask[:, -1] = 255
        (folder / "JPEGImages").mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLORS[labels_of(number)]).save(folder / "JPEGImages" / f"2007_{number}.jpg", quality=100)
        write_mask(folder / "SegmentationClass" / f"2007_{number}.png", mask, palette=True)
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_2\n2007_0\n")
    (lists / "val.txt").write_text("2007_3\n")
    return folder


def agrees(image: np.ndarray, labels: np.ndarray, ignored: int = 255) -> bool:
    """Whether the image's colors, which may be blurred at edges, say the labels: at four fifths of the pixels."""
    distances = np.abs(image[:, :, None].astype(int) - COLORS.astype(int)).sum(axis=-1)
    known = labels != ignored
    return bool((distances.argmin(axis=-1) == labels)[known].mean() > 0.8)
