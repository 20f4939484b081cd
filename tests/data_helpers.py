"""Images that hold their own number, in every kind of source."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_mae import data
from keras_mae.data import records

COUNT, CLASSES = 23, ("ant", "cat", "owl")
WITH_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
needs_tensorflow = pytest.mark.needs_tensorflow
LOADERS = ["grain", pytest.param("tf.data", marks=needs_tensorflow)]


def numbered(number: int) -> np.ndarray:
    """A grey image, in a size of its own, that holds ten times its number."""
    return np.full((17 + number % 5, 29 - number % 3, 3), 10 * number, "uint8")


def write_folder(directory: Path, count: int = COUNT) -> Path:
    """Class folders of PNG files; image i is of class i % 3."""
    for number in range(count):
        folder = directory / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbered(number)).save(folder / f"{number:02d}.png")
    return directory


def write_tfds(directory: Path, name: str = "numbered", count: int = COUNT) -> Path:
    """A TFDS data set of ArrayRecord files, written without TensorFlow."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = directory / name / "1.0.0"
    folder.mkdir(parents=True)
    writer = ArrayRecordWriter(str(folder / f"{name}-train.array_record-00000-of-00001"), "group_size:1")
    size = 0
    for number in range(count):
        example = records._example_class()()
        example.features.feature["image"].bytes_list.value.append(png(numbered(number)))
        example.features.feature["label"].int64_list.value.append(number % 3)
        written = example.SerializeToString()
        writer.write(written)
        size += len(written)
    writer.close()
    features = "tensorflow_datasets.core.features"
    image = {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8", "encodingFormat": "png"}
    dictionary = {
        "image": {"pythonClassName": f"{features}.image_feature.Image", "image": image},
        "label": {
            "pythonClassName": f"{features}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(len(CLASSES))},
        },
    }
    write_json(
        folder / "features.json",
        {
            "pythonClassName": f"{features}.features_dict.FeaturesDict",
            "featuresDict": {"features": dictionary},
        },
    )
    (folder / "label.labels.txt").write_text("\n".join(CLASSES) + "\n")
    split = {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": "train",
        "numBytes": str(size),
        "shardLengths": [str(count)],
    }
    write_json(
        folder / "dataset_info.json",
        {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": [split]},
    )
    return directory


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def png(pixels: np.ndarray) -> bytes:
    import io

    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def epoch(dataset: Any) -> list[Any]:
    """The batches of an epoch, each NumPy arrays: images, or (images, labels)."""
    if isinstance(dataset, keras.utils.PyDataset):
        dataset.on_epoch_begin()
        batches = [dataset[index] for index in range(len(dataset))]
        dataset.on_epoch_end()
        return batches
    return [
        tuple(np.asarray(part) for part in batch) if isinstance(batch, tuple) else np.asarray(batch)
        for batch in dataset
    ]


def numbers(dataset: Any) -> list[int]:
    """The numbers of the images of an epoch, in order; an image's label must be its own."""
    found: list[int] = []
    for images, labels in epoch(dataset):
        seen = np.rint(images[:, 3, 3, 0] / 10).astype(int)
        np.testing.assert_array_equal(labels, seen % 3)
        found += seen.tolist()
    return found


def make(kind: str, directory: Path, **options: Any) -> Any:
    """Labelled images of 8 × 8 from a source of this kind."""
    options = {"batch_size": 4, "image_size": 8, **options}
    batch_size, image_size = options.pop("batch_size"), options.pop("image_size")
    if kind == "arrays":
        images = np.stack([np.full((12, 14, 3), 10 * number, "uint8") for number in range(COUNT)])
        return data.from_arrays(images, np.arange(COUNT) % 3, batch_size, image_size=image_size, **options)
    if kind == "folder":
        return data.from_directory(write_once(directory), image_size, batch_size, labeled=True, **options)
    if kind in ("array_record", "tfrecord"):
        out = directory / kind
        if not out.exists():
            data.prepare(write_once(directory), out, format=kind, images_per_shard=7, labeled=True)
        return data.from_directory(out, image_size, batch_size, labeled=True, **options)
    if kind == "tfds":
        if not (directory / "tfds").exists():
            write_tfds(directory / "tfds")
        return data.from_tfds("numbered", "train", image_size, batch_size, data_dir=directory / "tfds", **options)
    import tensorflow as tf

    images = [numbered(number) for number in range(COUNT)]
    made = tf.data.Dataset.from_generator(
        lambda: iter(zip(images, np.arange(COUNT) % 3, strict=True)),
        output_signature=(tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.int64)),
    ).apply(tf.data.experimental.assert_cardinality(COUNT))
    return data.from_dataset(made, batch_size, image_size, **options)


def write_once(directory: Path) -> Path:
    folder = directory / "folder"
    return folder if folder.exists() else write_folder(folder)


INDEXED = ["arrays", "folder", "array_record", "tfds"]
STREAMED = [pytest.param(kind, marks=needs_tensorflow) for kind in ("tfrecord", "dataset")]


def prepare(folder: Any, out: Any, **options: Any) -> Any:
    """Shards of five images each, 16 pixels high or wide, with labels, unless asked otherwise."""
    return data.prepare(folder, out, **{"images_per_shard": 5, "short_side": 16, "labeled": True, **options})


def contents(directory: Any) -> dict[str, bytes]:
    """Every file's name and bytes."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
