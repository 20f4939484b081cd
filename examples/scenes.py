"""Compose labeled scenes: cut-outs and clothes on photographs, with exact masks.

    sudo apt-get install tuxpaint-stamps-default mate-backgrounds lomiri-wallpapers-16.04 dataset-fashion-mnist
    python examples/scenes.py --out scenes --sheet scenes.png

Everything comes from these packages of Debian, and nothing of it is part of this repository. Scenes are made when
they are asked for, and are a pure function of (seed, part, index): `Scenes("train").scene(17)` is the same scene on
every run. Two to five objects of ten classes lie over one another and over a photograph, which is class 0:
turned, mirrored, partly outside, in other light, and at sizes that do not depend on their class. Five classes are
cut-outs, 29 to 109 of each in the training part, and five are clothes, of which there are thousands. Their alpha
channel says which pixels they cover: those that are neither clearly inside nor clearly outside are 255 in the mask.
`Scenes("train").objects(17)` has the boxes of what can be seen of each object, for detectors.

Cut-outs, photographs and clothes of the test part are in no scene of the training part, and cut-outs of like names
(`gnu-baby`, `gnu-stand`) are in one part. Photographs that show something of a class are left out.

`scenes/images/train`, `scenes/masks/train`, and the same of `test`, are what `keras_mae.data.pairs_from_directory`
reads, with `split="train"`; `scenes/classes.txt` names the classes.
"""

from __future__ import annotations

import argparse
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw

import keras_mae
from keras_mae.data.builtin import DEBIAN_FASHION_MNIST

PACKAGES = "tuxpaint-stamps-default mate-backgrounds lomiri-wallpapers-16.04 dataset-fashion-mnist"
PLACES = {"stamps": Path("/usr/share/tuxpaint/stamps"), "backgrounds": Path("/usr/share/backgrounds")}
PLACES |= {"clothes": DEBIAN_FASHION_MNIST}
FOLDERS = {  # of the cut-outs of each class
    "animal": tuple(
        f"animals/{kind}"
        for kind in ("amphibians", "birds", "fish", "insects", "lizards", "mammals", "marsupials", "shellfish")
    ),
    "plant": ("food", "plants"),
    "vehicle": ("vehicles", "military/vehicles"),
    "building": ("town/cartoon", "town/houses", "town/monuments"),
    "thing": ("hobbies", "household", "medical", "sports", "town/flags", "town/roadsigns"),
}
CLOTHES = {"top": (0, 2, 4, 6), "trousers": (1,), "dress": (3,), "shoe": (5, 7, 9), "bag": (8,)}  # Fashion-MNIST's
NAMES, IGNORED = ("background", *FOLDERS, *CLOTHES), 255
PHOTOGRAPHS = {
    "train": (
        "Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "Picture_1A_by_freespace", "Wine_by_Jakkub_Mede",
        "greentock_by_Peter_Nerlich", "picosdeeuropa_by_Aitzol_Berasategi", "sunset_by_Aitzol_Berasategi",
        "mate/nature/Aqua", "mate/nature/Blinds", "mate/nature/Dune", "mate/nature/GreenMeadow", "mate/nature/Storm",
    ),
    "test": (
        "aitzgorri_by_Aitzol_Berasategi", "analogpattern_by_Peter_Nerlich", "life_by_Aitzol_Berasategi",
        "mate/nature/RainDrops", "mate/nature/Wood",
    ),
}  # fmt: skip
PARTS = tuple(PHOTOGRAPHS)
OBJECTS = 2, 5
SIDES = 0.25, 0.6  # square root of an object's area, over the side of the scene
LARGEST, HIDDEN = 128, 0.6  # pixels of a cut-out in memory; share of an object that a later one may hide


class Scenes:
    """Scenes of one part, "train" or "test". A `FileNotFoundError` says how to install a package that is missing."""

    def __init__(self, part: str = "train", size: int = 96, seed: int = 0, **places: Path):
        stamps, backgrounds, clothes = (places.get(name, place) for name, place in PLACES.items())
        self.size, self.seed, self._part = size, seed, PARTS.index(part)
        self._photographs = [backgrounds / f"{name}.jpg" for name in PHOTOGRAPHS[part]]
        self._stamps = [stamps_of(stamps, folders, part) for folders in FOLDERS.values()]
        missing = [str(path) for path in (stamps, *self._photographs, clothes) if not path.exists()]
        if not all(self._stamps):
            missing.append(f"cut-out of each class in {stamps}")
        if missing:
            raise FileNotFoundError(f"There is no {missing[0]}. On Debian and Ubuntu: apt-get install {PACKAGES}")
        items, kinds = keras_mae.data.fashion_mnist(part, clothes)
        self._clothes = [items[np.isin(kinds, chosen), :, :, 0] for chosen in CLOTHES.values()]

    def scene(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image `index`, uint8 (size, size, 3), and its mask, uint8 (size, size): labels or 255."""
        return self._composed(index)[:2]

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image `index` and what can be seen of its objects, from the lowest to the highest.

        Returns:
            The image; boxes, float32 (objects, 4): left, top, right and bottom edge in pixels, around the pixels of
            which an object covers more than half; and the objects' labels, int32 (objects,).
        """
        image, _, owners, labels = self._composed(index)
        seen = [number for number in range(1, len(labels) + 1) if (owners == number).any()]
        boxes = np.array([box_of(owners == number) for number in seen], "float32").reshape(-1, 4)
        return image, boxes, np.array([labels[number - 1] for number in seen], "int32")

    def _composed(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
        """Return an image, its mask, whose object is seen at each pixel, from 1, or 0, and the objects' labels."""
        rng = np.random.default_rng((self.seed, self._part, index))
        image, labels = self._background(rng), []
        mask, owners = np.zeros(image.shape[:2], "uint8"), np.zeros(image.shape[:2], int)
        for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
            label = int(rng.integers(1, len(NAMES)))
            cut_out = turned(self._cut_out(label, rng), self.size, rng)
            for here, inside in room_for(cut_out, owners, rng):
                labels.append(label)
                pixels, alpha = cut_out[inside][..., :3], cut_out[inside][..., 3]
                image[here] += alpha[..., None] * (pixels - image[here])
                mask[here] = np.where(alpha >= 2 / 3, label, np.where(alpha > 1 / 3, IGNORED, mask[here]))
                owners[here] = np.where(alpha > 0.5, len(labels), owners[here])
        noisy = image + rng.normal(0, rng.uniform(0, 4), image.shape)
        return np.clip(np.rint(noisy), 0, 255).astype("uint8"), mask, owners, labels

    def arrays(self, count: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return `count` images, uint8 (count, size, size, 3), and masks, uint8 (count, size, size)."""
        images, masks = zip(*(self.scene(index) for index in range(first, first + count)), strict=True)
        return np.stack(images), np.stack(masks)

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        picture = photograph(self._photographs[rng.integers(len(self._photographs))])
        side = round(min(picture.size) * rng.uniform(0.3, 1.0))
        left, top = (int(rng.integers(0, whole - side + 1)) for whole in picture.size)
        crop = picture.resize((self.size,) * 2, Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        return relit(np.asarray(crop, "float32")[:, :: rng.choice((-1, 1))], rng)

    def _cut_out(self, label: int, rng: np.random.Generator) -> Image.Image:
        if label > len(FOLDERS):
            items = self._clothes[label - 1 - len(FOLDERS)]
            return dyed(items[rng.integers(len(items))], rng)
        paths = self._stamps[label - 1]
        return stamp(paths[rng.integers(len(paths))])


# === What there is ===
def stamps_of(directory: Path, folders: tuple[str, ...], part: str) -> list[Path]:
    """Return the cut-outs of a class in a part: every fourth word that their names begin with is in the test part."""
    paths = [path for folder in folders for path in sorted((directory / folder).rglob("*.png"))]
    words = {path: re.split(r"[^a-z]", path.stem.lower())[0] for path in paths if not path.stem.endswith("_mirror")}
    known = sorted(set(words.values()))
    return [path for path, word in words.items() if (known.index(word) % 4 == 3) == (part == "test")]


@cache
def photograph(path: Path) -> Image.Image:
    """Return a photograph with a short side of 400 pixels, of which most crops need no more."""
    picture = Image.open(path)
    picture.draft("RGB", tuple(400 * side // min(picture.size) for side in picture.size))
    scale = 400 / min(picture.size)
    return picture.convert("RGB").resize([round(scale * side) for side in picture.size], Image.Resampling.BICUBIC)


@cache
def stamp(path: Path) -> Image.Image:
    """Return a cut-out without its empty margin."""
    picture = Image.open(path).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda alpha: 255 * (alpha > 80)).getbbox())
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return picture


# === How it is varied ===
def dyed(item: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Return a gray item of clothing, uint8 (28, 28) on black, as a cut-out in a color."""
    inside = Image.fromarray(np.pad(255 * (item > 20).astype("uint8"), 1)).copy()
    ImageDraw.floodfill(inside, (0, 0), 100)  # what is black and enclosed belongs to the item
    layers = np.where(np.asarray(inside) == 100, 0, 255).astype("uint8"), np.pad(item, 1)
    larger = [Image.fromarray(layer).resize((120, 120), Image.Resampling.BICUBIC) for layer in layers]
    alpha, shade = (np.asarray(layer, "float32") for layer in larger)
    dye = rng.uniform(40, 255, 3)
    alpha = np.clip(3 * (alpha - 128) + 128, 0, 255)
    picture = Image.fromarray(np.dstack([dye * (0.3 + 0.7 * shade[..., None] / 255), alpha]).astype("uint8"))
    return picture.crop(picture.getchannel("A").getbbox())


def turned(picture: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a cut-out turned, scaled and in other light: float32 (height, width, 4), its alpha from 0 to 1."""
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    side = size * math.exp(rng.uniform(*map(math.log, SIDES)))
    area = np.asarray(picture.getchannel("A"), "float32").sum() / 255
    scale = min(side / math.sqrt(area), 0.9 * size / max(picture.size))
    picture = picture.resize([max(1, round(scale * length)) for length in picture.size], Image.Resampling.BICUBIC)
    pixels = np.asarray(picture, "float32")
    return np.dstack([relit(pixels[..., :3], rng), pixels[..., 3] / 255])


def relit(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return pixels, float32 (height, width, 3), in brighter or darker, colder or warmer light, and paler."""
    gray = pixels.mean(axis=-1, keepdims=True)
    pale = gray + rng.uniform(0.4, 1.0) * (pixels - gray)
    return np.clip(pale * rng.uniform(0.7, 1.2) * rng.uniform(0.85, 1.15, 3), 0, 255).astype("float32")


def room_for(cut_out: np.ndarray, owners: np.ndarray, rng: np.random.Generator) -> list[Any]:
    """Return a place in a scene where a cut-out leaves enough of all others, and what of it is inside; or nothing."""
    size, number = len(owners), owners.max() + 1
    before = np.bincount(owners.ravel(), minlength=number)[1:]
    for _ in range(8):
        spans = [(round(rng.uniform(0.08, 0.92) * size - side / 2), side) for side in cut_out.shape[:2]]
        here = tuple(slice(max(start, 0), min(start + side, size)) for start, side in spans)
        inside = tuple(slice(max(-start, 0), min(size - start, side)) for start, side in spans)
        covered = np.bincount(owners[here][cut_out[inside][..., 3] > 0.5], minlength=number)[1:]
        if (covered <= HIDDEN * before).all():
            return [(here, inside)]
    return []


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom edge, in pixels, of what is true in a mask, bool (height, width)."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# === Files ===
def as_picture(mask: np.ndarray) -> Image.Image:
    """Return a mask as a picture whose palette's indices are the labels: black is background, white is ignored."""
    shades = [f"hsl({360 * i // len(NAMES)}, 90%, {40 + 25 * (i % 2)}%)" for i in range(1, len(NAMES))]
    colors = [(0, 0, 0), *map(ImageColor.getrgb, shades), *[(255, 255, 255)] * (256 - len(NAMES))]
    picture = Image.fromarray(mask)
    picture.putpalette([part for color in colors for part in color])
    return picture


def sheet(scenes: Scenes, rows: int = 6, columns: int = 5) -> Image.Image:
    """Return the first scenes beside their masks, as one picture."""
    pairs = [scenes.scene(index) for index in range(rows * columns)]
    cells = [np.hstack([image, np.asarray(as_picture(mask).convert("RGB"))]) for image, mask in pairs]
    return Image.fromarray(np.vstack([np.hstack(cells[row::rows]) for row in range(rows)]))


def parts_of(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[str, Scenes]]:
    """Return the options of a script that makes scenes, and the scenes of each part; a missing package ends it."""
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    for name, place in PLACES.items():
        parser.add_argument(f"--{name}", type=Path, default=place, help=f"folder of the {name}")
    options = parser.parse_args()
    own = {name: getattr(options, name) for name in ("size", "seed", *PLACES)}
    try:
        return options, {part: Scenes(part, **own) for part in PARTS}
    except FileNotFoundError as error:
        parser.error(str(error))


def main() -> None:
    """Make the scenes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that is not there yet")
    parser.add_argument("--count", type=int, default=2000, help="scenes to train on; a quarter as many to test")
    parser.add_argument("--sheet", type=Path, help="picture of the first training scenes and masks")
    options, parts = parts_of(parser)
    if options.out.exists():
        parser.error(f"{options.out} is there already")
    for part, count in (("train", options.count), ("test", max(1, options.count // 4))):
        images, masks = (options.out / side / part for side in ("images", "masks"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for index in range(count):
            image, mask = parts[part].scene(index)
            Image.fromarray(image).save(images / f"{index:05}.png")
            as_picture(mask).save(masks / f"{index:05}.png")
    (options.out / "classes.txt").write_text("\n".join(NAMES) + "\n")
    if options.sheet:
        sheet(parts["train"]).save(options.sheet)


if __name__ == "__main__":
    main()
