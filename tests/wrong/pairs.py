"""Wrong calls of what reads images with segmentation masks, and cuts both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wrong_arguments import (
    BOOLEAN,
    COUNT,
    INF,
    NAMES,
    NAN,
    OPTIONAL_BOOLEAN,
    OPTIONAL_COUNT,
    PAIR,
    PATH,
    PIXEL_RANGE,
    SHARE,
    UP_TO_ONE,
    Group,
    sweep,
)

from keras_mae import data
from wrong.inputs import ARRAYS, BATCH

MASKS = BATCH[..., 0] % 3
SIZES = tuple(one for one in PAIR if one is not None)
FACTORS = (3, "x", (0, 1), (0.5, 0.2), None, (NAN, 1), ("a", "b"), (True, True))


def of_pairs(folder: Path) -> list[Group]:
    from PIL import Image

    for side, arrays in (("images", BATCH), ("masks", MASKS)):
        (folder / "pairs" / side).mkdir(parents=True, exist_ok=True)
        for number, array in enumerate(arrays):
            Image.fromarray(array).save(folder / "pairs" / side / f"{number}.png")
    labels: dict[str, Any] = {
        "num_classes": (*OPTIONAL_COUNT, 2, 300),
        "class_names": (*NAMES, ["a", "b"]),
        "ignore_label": (-1, 1.5, "x", None, 70000, True),
    }
    of_files: dict[str, Any] = {
        "image_size": SIZES,
        "channels": (0, 2, "x", None, 1.5, True),
        "colors": ("x", 3, [], {}, {(1, 2): 3}, {(1, 2, 3): "a"}, {"abc": 1}),
        "pixel_range": PIXEL_RANGE,
        "white_level": OPTIONAL_COUNT,
        "max_pixels": OPTIONAL_COUNT,
    }
    of_folder: dict[str, Any] = {
        "directory": (*PATH, "nowhere", "encoder.keras", folder / "photos"),
        "masks": (*(one for one in PATH if one is not None), "nowhere", folder / "photos"),
        "split": (3, "", "nowhere"),
        "reduce_zero_label": OPTIONAL_BOOLEAN,
        "allow_damaged": UP_TO_ONE,
        **of_files,
        # Too few classes for what the masks hold are told when one is read.
        "num_classes": (*OPTIONAL_COUNT, 300),
        "class_names": [one for one in NAMES if one != ["a"]],
        "ignore_label": labels["ignore_label"],
    }
    of_array: dict[str, Any] = {
        "images": (*ARRAYS, BATCH[:2], BATCH[:, 1:], BATCH / 255),
        "masks": (*ARRAYS, MASKS[:2], MASKS + 0.5, BATCH, -1 - MASKS.astype(int)),
        "image_size": SIZES,
        "reduce_zero_label": BOOLEAN,
        "pixel_range": PIXEL_RANGE,
        **labels,
    }
    right = {"directory": folder / "pairs", "image_size": 8}
    arrays = {"images": BATCH, "masks": MASKS}
    batches = {"batch_size": COUNT, "crop": ("x", 3, data.SegmentationCrop, data.WholeImage(short_side=4))}
    batches["augment"] = (data.Augmentation(3),)
    seen = {"masks": ("masks", "mask"), "directory": ("directory", "nowhere", "mask", "images")}
    told: dict[str, Any] = {
        "num_classes": ("num_classes", "labels", "classes"),
        "class_names": ("class_names", "labels"),
    }
    paddings = ("x", NAN, [], (NAN, 1), INF, [[1]])
    return [
        sweep("FolderPairs", data.FolderPairs, right, of_folder, num_classes=told["num_classes"], **seen),
        sweep(
            "pairs_from_directory",
            data.pairs_from_directory,
            {**right, "batch_size": 2, "loader": "grain"},
            {**batches, "directory": of_folder["directory"], "allow_damaged": UP_TO_ONE, "nothing": (3,)},
            crop=("crop", "short_side"),
            **{name: words for name, words in seen.items() if name == "directory"},
        ),
        sweep(
            "ArrayPairs",
            data.ArrayPairs,
            arrays,
            of_array,
            images=("images", "masks"),
            masks=("masks", "mask"),
            **told,
        ),
        sweep(
            "pairs_from_arrays",
            data.pairs_from_arrays,
            {**arrays, "batch_size": 2, "loader": "grain"},
            batches,
            crop=("crop", "short_side"),
        ),
        sweep(
            "pairs_from_huggingface",
            data.pairs_from_huggingface,
            {"dataset": None},
            {
                "dataset": (None, 3, "x", BATCH),
                "num_classes": labels["num_classes"][:3],
                "colors": of_files["colors"],
            },
            check_right=False,
            dataset=("dataset", "datasets"),
        ),
        sweep(
            "SegmentationCrop",
            data.SegmentationCrop,
            {},
            {
                "scale": FACTORS,
                "base_size": (*SIZES, (9, 8)),
                "max_class_share": SHARE,
                "flip": BOOLEAN,
                "distortion": (3, "x", data.PhotometricDistortion),
                "padding": paddings,
            },
        ),
        sweep(
            "WholeImage", data.WholeImage, {}, {"short_side": OPTIONAL_COUNT, "multiple": PAIR, "padding": paddings}
        ),
        sweep(
            "PhotometricDistortion",
            data.PhotometricDistortion,
            {},
            {
                "brightness": UP_TO_ONE,
                "contrast": FACTORS,
                "saturation": FACTORS,
                "hue": (*UP_TO_ONE, 0.6),
                "probability": UP_TO_ONE,
            },
        ),
    ]
