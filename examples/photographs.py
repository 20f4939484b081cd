"""Make folders of photographs to try every command on, from those that scikit-image and scikit-learn bring along.

    python examples/photographs.py photos

In `photos/train` and `photos/test` is a folder for each of ten photographs, with crops of it of 96 to 160 pixels a
side, as JPEG, PNG, WebP, BMP and TIFF: 120 of its left part to train on, and 30 of its right part. `photos/brick`
holds 120 crops of a brick wall, and `photos/suspects` 40 of another part of it, half of them ("defect") with a
scratch, a blob or a missing part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anomaly_study
import numpy as np

PHOTOGRAPHS = ("astronaut", "cat", "coffee", "hubble_deep_field", "immunohistochemistry", "motorcycle", "retina")
PHOTOGRAPHS += ("rocket", "china.jpg", "flower.jpg")
ENDINGS = (".jpg", ".png", ".webp", ".bmp", ".tif")
SMALLEST, LARGEST = 96, 160  # pixels a side
LEFT = 0.7  # of the columns: what is to train on


def photograph(name: str) -> np.ndarray:
    """Return a photograph, uint8 (height, width, 3), scaled so that a crop shows more than a texture."""
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_image

    if name.endswith(".jpg"):
        image = load_sample_image(name)
    else:
        image = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    picture = Image.fromarray(image[..., :3])
    scale = 2 * LARGEST / min(picture.size)
    return np.asarray(picture.resize([round(scale * side) for side in picture.size], Image.Resampling.LANCZOS))


def save_crops(image: np.ndarray, count: int, folder: Path, generator: np.random.Generator) -> None:
    """Write crops of random sizes from random places, each in the next format."""
    from PIL import Image

    folder.mkdir(parents=True)
    for index in range(count):
        height, width = generator.integers(SMALLEST, min(LARGEST, *image.shape[:2]) + 1, 2)
        row = generator.integers(0, image.shape[0] - height + 1)
        column = generator.integers(0, image.shape[1] - width + 1)
        crop = Image.fromarray(image[row : row + height, column : column + width])
        crop.save(folder / f"{index:03}{ENDINGS[index % len(ENDINGS)]}")


def save_walls(directory: Path, generator: np.random.Generator) -> None:
    """Write crops of a brick wall, and some with defects."""
    from PIL import Image

    known, unknown = anomaly_study.parts("brick")
    faults, kinds = anomaly_study.crops(unknown, 20, generator), anomaly_study.KINDS
    faults = [anomaly_study.with_defect(fault, kinds[i % len(kinds)], generator)[0] for i, fault in enumerate(faults)]
    folders = {
        "brick": anomaly_study.crops(known, 120, generator),
        "suspects/good": anomaly_study.crops(unknown, 20, generator),
        "suspects/defect": faults,
    }
    for name, images in folders.items():
        (directory / name).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(image[..., 0]).save(directory / name / f"{index:03}.png")


def main() -> None:
    """Make the folders."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", type=Path, help="a directory that is not there yet")
    directory = parser.parse_args().directory
    if directory.exists():
        parser.error(f"{directory} is there already")
    generator = np.random.default_rng(0)
    for name in PHOTOGRAPHS:
        image, label = photograph(name), name.removesuffix(".jpg")
        edge = round(LEFT * image.shape[1])
        save_crops(image[:, :edge], 120, directory / "train" / label, generator)
        save_crops(image[:, edge:], 30, directory / "test" / label, generator)
    save_walls(directory, generator)


if __name__ == "__main__":
    main()
