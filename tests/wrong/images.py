"""Wrong calls of what reads images: arrays, folders and datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from wrong_arguments import (
    BOOLEAN,
    CHOICE,
    COUNT,
    FRACTION,
    INF,
    NAMES,
    NAN,
    NOT_NEGATIVE,
    OPTIONAL_COUNT,
    PAIR,
    PATH,
    PIXEL_RANGE,
    SEED,
    SHARE,
    UP_TO_ONE,
    Group,
    sweep,
)

from keras_mae import data
from wrong.inputs import (
    ANY_LABELS,
    ARRAYS,
    BATCH,
    IMAGES,
    LABELS,
    encoder,
)

CALLABLE = (3, "x")


# === Data ===
def of_arrays(folder: Path) -> list[Group]:
    images = [one for one in IMAGES if not (isinstance(one, np.ndarray) and one.shape == (4, 8, 8))]
    images = [one for one in images if not (isinstance(one, np.ndarray) and one.shape[-1:] == (2,))]
    big = np.zeros((2, 3, 16, 16), "uint8")
    making: dict[str, Any] = {
        "batch_size": (*COUNT[:-1], [1]),
        "shuffle": BOOLEAN,
        "seed": SEED,
        "drop_remainder": BOOLEAN,
        "loader": CHOICE,
        "augment": ("x", 3, data.Augmentation, lambda images: images),
        "crop": ("x", 3, data.RandomResizedCrop),
        "crops_per_image": (*COUNT, 3),
        "shard": ("x", 3, (0,), (2, 2), (-1, 2), (0.0, 1)),
        "workers": OPTIONAL_COUNT,
    }
    right = {"images": BATCH, "labels": LABELS, "batch_size": 2, "loader": "grain"}
    of_array: dict[str, Any] = {
        "images": [*images, big],
        "labels": ANY_LABELS,
        "image_size": [one for one in PAIR if one is not None],
        "class_names": (*NAMES, ["a", "b"]),
        "pixel_range": PIXEL_RANGE,
    }
    source = data.ArraySource(BATCH, LABELS)
    augment: dict[str, Any] = {
        "num_classes": COUNT,
        "flip": BOOLEAN,
        "shift": FRACTION,
        "rand_augment": (-1, 11, "x", NAN, None),
        "random_erasing": UP_TO_ONE,
        "mixup": NOT_NEGATIVE,
        "cutmix": UP_TO_ONE,
        "switch_probability": UP_TO_ONE,
        "label_smoothing": FRACTION,
        "seed": SEED,
        "pixel_range": PIXEL_RANGE,
    }
    ends = (3, "x", (0, 1), (0.5, 0.2), None, (NAN, 1), ("a", "b"), (True, True))
    return [
        sweep("from_arrays", data.from_arrays, right, {**of_array, **making}, labels="abels"),
        sweep("ArraySource", data.ArraySource, {"images": BATCH, "labels": LABELS}, of_array, labels="abels"),
        sweep(
            "make_dataset",
            data.make_dataset,
            {"source": source, "batch_size": 2, "loader": "grain"},
            {"source": (None, BATCH, "digits", [BATCH], data.ArraySource, encoder())},
        ),
        sweep(
            "Subset",
            data.Subset,
            {"source": source, "indices": [0, 1]},
            {
                "source": (None, BATCH, "digits", data.ArraySource),
                "indices": (None, "x", 99, [99], [-5], [0.5], [[0, 1]], [], ["a"], [True, False]),
            },
        ),
        sweep("Augmentation", data.Augmentation, {"num_classes": 3}, augment),
        sweep(
            "RandomResizedCrop",
            data.RandomResizedCrop,
            {},
            {
                "area": (*ends, (0.5, 2)),
                "aspect_ratio": (*ends[:-1], (INF, INF)),
                "flip": BOOLEAN,
                "clamp": BOOLEAN,
                "fast": BOOLEAN,
            },
            aspect_ratio=("aspect_ratio",),
        ),
        sweep("RandomCrop", data.RandomCrop, {}, {"shift": (-0.1, 0.3, "x", NAN, None), "flip": BOOLEAN}),
        sweep("CenterCrop", data.CenterCrop, {}, {"fraction": SHARE}),
        sweep(
            "pixel_statistics",
            data.pixel_statistics,
            {"source": BATCH},
            {"source": (*ARRAYS, BATCH[:0]), "channels": (0, -1, "x", 1.5), "own_units": BOOLEAN},
            source=("source", "images", "directory"),
        ),
        sweep("digits", data.digits, {}, {"split": (*CHOICE, None)}),
        sweep(
            "load_builtin", data.load_builtin, {"name": "digits"}, {"name": (*CHOICE, None), "split": (*CHOICE, None)}
        ),
        sweep(
            "fashion_mnist",
            data.fashion_mnist,
            {},
            {"split": (*CHOICE, None), "directory": (3, "nowhere", "", ["x"])},
            check_right=False,
            directory=("directory", "nowhere"),
        ),
        sweep(
            "read_idx", data.read_idx, {}, {"path": (*PATH, "nowhere")}, check_right=False, path=("path", "nowhere")
        ),
    ]


def of_folders(folder: Path) -> list[Group]:
    place = {"directory": (*PATH, "nowhere", "encoder.keras")}
    levels: dict[str, Any] = {"pixel_range": PIXEL_RANGE, "white_level": OPTIONAL_COUNT, "max_pixels": OPTIONAL_COUNT}
    opening: dict[str, Any] = {
        **place,
        "image_size": PAIR,
        "channels": (0, 2, "x", None, 1.5, True),
        "labeled": ("a", 1, None, []),
        "allow_damaged": UP_TO_ONE,
        **levels,
    }
    right = {"directory": folder / "photos", "image_size": 8}
    preparing: dict[str, Any] = {
        **place,
        "out": (*PATH, folder / "photos", folder / "photos" / "x", folder / "encoder.keras"),
        "short_side": COUNT,
        "format": (*CHOICE, None),
        "images_per_shard": COUNT,
        "quality": (0, 101, "x", 1.5, None, True),
        "labeled": BOOLEAN,
        "allow_damaged": UP_TO_ONE,
        **levels,
        "part": (0, "x", (0, 2), (3, 2), (1, 2, 3), (1.5, 2), (1, 99), ("1", "2")),
        "progress": CALLABLE,
    }
    image = folder / "photos" / "a" / "0.png"
    np.save(folder / "images.npy", BATCH)
    of_files: dict[str, Any] = {
        "file": (*PATH, "nowhere.h5", "nowhere.npy", folder / "photos", folder / "images.npy::x", "x::y"),
        "image_size": [one for one in PAIR if one is not None],
        "channels": (0, -1, "x", 1.5, 2),
        **levels,
    }
    return [
        sweep("FolderSource", data.FolderSource, right, opening),
        sweep("open_directory", data.open_directory, right, {**opening, "class_names": NAMES}),
        sweep(
            "from_directory",
            data.from_directory,
            {**right, "batch_size": 2, "loader": "grain"},
            {**place, "labeled": opening["labeled"], "nothing": (3,), "batch_size": COUNT},
        ),
        sweep(
            "RecordSource",
            data.RecordSource,
            {"files": ["x"]},
            {
                "files": (None, 3, "x", [], [3], ["nowhere"]),
                "image_size": PAIR,
                "channels": (0, -2, "x", None),
                **levels,
            },
            check_right=False,
            files=("files", "nowhere"),
        ),
        sweep(
            "survey",
            data.survey,
            {"data": folder / "photos"},
            {
                "data": (*PATH, "nowhere", "encoder.keras"),
                "channels": (0, -1, "x", 1.5, True),
                "allow_damaged": UP_TO_ONE,
                "pixel_range": [one for one in PIXEL_RANGE if one is not None],
                "white_level": OPTIONAL_COUNT,
                "max_pixels": OPTIONAL_COUNT,
                "progress": (3, "x"),
            },
            data=("data", "directory"),
        ),
        sweep(
            "check_directory",
            data.check_directory,
            {"directory": folder / "photos"},
            {**place, **levels, "progress": CALLABLE},
        ),
        sweep("find_damaged", data.find_damaged, {"directory": folder / "photos"}, place),
        sweep(
            "data.prepare",
            data.prepare,
            {"directory": folder / "photos", "out": folder / "shards"},
            preparing,
            check_right=False,
        ),
        sweep(
            "merge_prepared",
            data.merge_prepared,
            {"directory": folder / "shards"},
            {"directory": (*place["directory"], folder / "photos")},
            check_right=False,
        ),
        sweep(
            "read_image",
            data.read_image,
            {"file": image, "image_shape": (8, 8, 3)},
            {
                "file": (None, 0, 3, "", "nowhere", ["x"], b"", folder),
                "image_shape": (8, (8, 8), (8, 8, 0), (8, 8, 2), "abc", None),
                "crop": ("x", 3, data.CenterCrop),
                **levels,
            },
            file=("file", "nowhere"),
            image_shape=("image_shape", "channels"),
        ),
        sweep("ArrayFileSource", data.ArrayFileSource, {"file": folder / "images.npy"}, of_files),
        sweep(
            "from_array_file",
            data.from_array_file,
            {"file": folder / "images.npy", "batch_size": 2, "loader": "grain"},
            {"file": of_files["file"], "batch_size": COUNT},
        ),
        sweep(
            "from_huggingface",
            data.from_huggingface,
            {"dataset": None},
            {"dataset": (None, 3, "x", BATCH)},
            check_right=False,
            dataset=("dataset", "datasets"),
        ),
    ]


def of_datasets(folder: Path) -> list[Group]:
    found = []
    try:
        import tensorflow as tf
    except ImportError:
        pass
    else:
        small = tf.data.Dataset.from_tensor_slices((BATCH, LABELS))
        found.append(
            sweep(
                "from_dataset",
                data.from_dataset,
                {"dataset": small, "batch_size": 2},
                {
                    "dataset": (None, 3, "x", BATCH, small.batch(2).batch(2), tf.data.Dataset.range(3)),
                    "batch_size": COUNT,
                    "image_size": [one for one in PAIR if one is not None],
                    "allow_damaged": UP_TO_ONE,
                    "pixel_range": PIXEL_RANGE,
                    "white_level": OPTIONAL_COUNT,
                    "max_pixels": OPTIONAL_COUNT,
                    "shuffle": BOOLEAN,
                },
                dataset=("dataset", "mages", "abels"),
            )
        )
    records: dict[str, Any] = {
        "files": (None, 3, [], [3], "", "nowhere", {}),
        "image_size": PAIR,
        "channels": (0, -2, "x"),
        "image_key": (None, 3, ""),
        "label_key": (3, ""),
        "count": OPTIONAL_COUNT,
    }
    stream: dict[str, Any] = {
        "name": (None, 3),
        "items": (None, "x", 3),
        "image_size": PAIR,
        "channels": (*COUNT,),
        "labeled": BOOLEAN,
        "count": (-1, 1.5, "x"),
        "allow_damaged": UP_TO_ONE,
        "class_names": [one for one in NAMES if one != ["a"]],
        "dtype": (*CHOICE, None),
        "sized": BOOLEAN,
        "shuffle_buffer": COUNT,
        "unpack": (3, "x", dict),
    }
    right = {"name": "x", "items": lambda shuffle, seed: None, "image_size": 8, "channels": 3, "labeled": False}
    return [
        *found,
        sweep(
            "from_tfrecords",
            data.from_tfrecords,
            {"files": "x"},
            records,
            check_right=False,
            files=("files", "nowhere", "TensorFlow"),
        ),
        sweep("Stream", data.Stream, right, stream),
        sweep(
            "from_tfds",
            data.from_tfds,
            {"name": "x"},
            {"name": (None, 3, ""), "split": (None, 3), "data_dir": (3, ["x"]), "download": BOOLEAN},
            check_right=False,
        ),
    ]
