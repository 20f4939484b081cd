"""Wrong calls of segmentation: runs, masks of files, and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from wrong_arguments import (
    COUNT,
    NAMES,
    NAN,
    OPTIONAL_COUNT,
    PATH,
    PIXEL_RANGE,
    SEED,
    SHAPE,
    UP_TO_ONE,
    Group,
    sweep,
)

import keras_mae
from keras_mae import data, recipes, training, transfer, visualize
from wrong.inputs import BATCH, MODELS, RNG, classifier, encoder, recipe


def make_rooms(folder: Path) -> Path:
    """Write four images and their masks."""
    rooms = folder / "segmented"
    for number, image in enumerate(BATCH):
        for side, array in (("images", image), ("masks", image[..., 0] % 3)):
            (rooms / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(rooms / side / f"{number}.png")
    return rooms


def of_segmentation(folder: Path) -> list[Group]:
    rooms = make_rooms(folder)
    segmenter = keras_mae.ViTSegmenter(encoder(), 3)
    segmenter.compile("sgd")
    small = recipes.SegmentationRecipe(epochs=2, warmup_epochs=0, batch_size=2, head="linear")
    images = training.open_pairs(rooms, (8, 8, 3))
    batches = data.pairs_from_directory(rooms, 8, 2, loader="grain")
    unnamed: Any = (None, 3, "x", BATCH)
    common: dict[str, Any] = {
        "encoder": (*MODELS, classifier()),
        "dataset": (*unnamed, (BATCH, BATCH[..., 0])),
        "recipe": (None, 3, "x", {}, recipe("fine_tune")),
        "num_classes": OPTIONAL_COUNT,
        "image_shape": (8, (8, 8), "abc"),
        "class_names": ("ab", 3, [1, 2], ["a"], ["a", "a"]),
    }
    reading: dict[str, Any] = {"white_level": OPTIONAL_COUNT, "max_pixels": OPTIONAL_COUNT}
    label = RNG.integers(0, 2, (1, 4, 6))
    labels: Any = (None, "x", 3, [], label[0], label + 0.5, label + 9, label[:, :3])
    return [
        sweep(
            "open_pairs",
            training.open_pairs,
            {"data": rooms, "image_shape": (8, 8, 3)},
            {
                "data": (*PATH, "nowhere"),
                "image_shape": SHAPE,
                "masks": (3, "", "nowhere"),
                "split": (3, "", "nowhere"),
                "test": (3, "", "nowhere"),
                "test_split": (3, "", "nowhere"),
                "validation": (0, 1, -0.1, "x", NAN, True),
                "allow_damaged": UP_TO_ONE,
                "num_labels": (0, -1, 2.5, "x", 99, True),
                "num_classes": OPTIONAL_COUNT,
                "class_names": ("ab", 3, [1, 2], ["a", "a"]),
                "seed": SEED,
                "pixel_range": PIXEL_RANGE,
                **reading,
            },
            data=("data", "directory"),
            test=("test", "directory"),
            test_split=("test_split", "split"),
        ),
        sweep(
            "open_test_pairs",
            training.open_test_pairs,
            {"data": rooms, "segmenter": segmenter},
            {"data": (*PATH, "nowhere"), "segmenter": (*MODELS, encoder()), "split": (3, "", "nowhere"), **reading},
            data=("data", "directory"),
        ),
        sweep(
            "PairedImages.feed",
            images.feed,
            {"recipe": small},
            {"recipe": (None, 3, "x", {}, recipe()), "epochs": OPTIONAL_COUNT, "nothing": (3,)},
        ),
        sweep(
            "segment",
            transfer.segment,
            {"encoder": encoder(), "dataset": batches, "num_classes": 3, "recipe": small, "verbose": 0},
            {**common, "num_classes": COUNT, "jit_compile": ("x", 3, 1.5), "nothing": (3,)},
        ),
        sweep(
            "run_segmentation",
            training.run_segmentation,
            {
                "encoder": encoder(),
                "dataset": batches,
                "test": images.test,
                "recipe": small,
                "run_directory": folder / "run",
            },
            {
                **common,
                "test": (None, 3, "x"),
                "run_directory": PATH,
                "metadata": (3, "x", {"x": object()}),
                "callbacks": (3, [3]),
                "saving": (3, "x", True),
            },
            check_right=False,
            callbacks="callback",
        ),
        sweep(
            "run_segmentation_scores",
            training.run_segmentation_scores,
            {"segmenter": segmenter, "test": images.test, "run_directory": folder / "run"},
            {
                "segmenter": (*MODELS, encoder()),
                "test": (None, 3, "x"),
                "run_directory": PATH,
                "class_names": [one for one in NAMES if one is not None],
            },
            check_right=False,
        ),
        sweep(
            "ViTSegmenter.predict_files",
            segmenter.predict_files,
            {"files": rooms / "images", "out": folder / "new_masks"},
            {
                "files": (None, 3, "", [], [3], "nowhere", ["nowhere"]),
                "out": (*PATH, rooms / "images"),
                "part": (0, "x", (0, 2), (3, 2), (1, 2, 3), (1.5, 2), (1, 99), ("1", "2")),
                "batch_size": OPTIONAL_COUNT,
                "allow_damaged": UP_TO_ONE,
                "progress": ("no", 1, None),
                **reading,
            },
            files=("files", "file"),
            check_right=False,
        ),
        sweep(
            "segmentations",
            visualize.segmentations,
            {
                "images": [np.zeros((4, 6, 3), "uint8")],
                "masks": label,
                "predictions": label,
                "class_names": ["a", "b"],
            },
            {
                "images": (None, "x", 3, [], np.zeros((4, 6, 3), "uint8"), [["x"]]),
                "masks": labels,
                "predictions": labels,
                "class_names": (None, "ab", [1, 2], ["a", "a"], ["a"]),
                "names": (3, "x", [3], ["a", "b"]),
                "ignore_label": (-1, 1.5, "x", None),
                "bands": (9, -1, "x", (0, 1), (0.5,), ()),
                "pixel_range": PIXEL_RANGE,
            },
            masks=("masks", "mask"),
            predictions=("predictions", "prediction"),
        ),
        sweep(
            "pixel_confusion",
            visualize.pixel_confusion,
            {"counts": np.eye(2, dtype=int), "class_names": ["a", "b"]},
            {
                "counts": (None, "x", 3, np.eye(3, dtype=int), np.eye(2), -np.eye(2, dtype=int)),
                "class_names": (None, "ab", [1, 2], ["a", "a"], ["a"]),
            },
        ),
    ]
