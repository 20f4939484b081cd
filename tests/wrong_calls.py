"""Wrong calls in Python, one group for each function; see `wrong_arguments.py`. The tables are in `wrong/`."""

from __future__ import annotations

from pathlib import Path

from wrong.anomalies import of_anomalies
from wrong.files import of_files
from wrong.images import of_arrays, of_datasets, of_folders
from wrong.inputs import BATCH, encoder
from wrong.models import of_layers, of_maskings_and_targets, of_models
from wrong.pairs import of_pairs
from wrong.pictures import of_pictures
from wrong.protocols import of_training, of_transfer
from wrong.segmenting import of_segmentation
from wrong.settings import of_optimizers, of_recipes
from wrong_arguments import Group


def groups(folder: Path) -> list[Group]:
    """Return all groups; `folder` is empty, and the files that calls need are made in it."""
    make_files(folder)
    return [group for section in SECTIONS.values() for group in section(folder)]


def make_files(folder: Path) -> None:
    from PIL import Image

    for number, image in enumerate(BATCH):
        place = folder / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    encoder().save(folder / "encoder.keras")


SECTIONS = {
    "models": of_models,
    "layers": of_layers,
    "maskings and targets": of_maskings_and_targets,
    "optimizers": of_optimizers,
    "recipes": of_recipes,
    "arrays": of_arrays,
    "folders": of_folders,
    "datasets": of_datasets,
    "pairs": of_pairs,
    "segmentation": of_segmentation,
    "training": of_training,
    "transfer": of_transfer,
    "anomalies": of_anomalies,
    "pictures": of_pictures,
    "files": of_files,
}
