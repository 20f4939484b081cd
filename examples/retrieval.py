"""Measure how often the images nearest to a picture show the same thing, on Fashion-MNIST.

    KERAS_BACKEND=torch python examples/retrieval.py runs/fashion_mnist/model.keras

Precision at 5: of each test image's five nearest training images, the share that are of its class, as the mean over
all 10,000 test images. The nearest are those that `keras-mae similar` finds: by cosine, after the mean of the
training images' features was subtracted. It is measured for two poolings of the last block, also without that, and
for the patches' mean of each block, beside the pixels themselves and chance. The times are that of embedding all
60,000 training images and that of comparing the test images with them: every image is compared, none is estimated.

Without a model, the small one is pre-trained first, for --epochs, on the training images. Which block is best is seen
on the test images here: the table describes, and chooses nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_mae
from keras_mae import transfer

PRESET, NEIGHBORS = "mae_vit_micro_patch4_28", 5


def pretrained(options: argparse.Namespace) -> Any:
    """Return the model in the file that was given, or one that is pre-trained here."""
    if options.model is not None:
        return keras_mae.convert.load_model(options.model)
    images = keras_mae.data.fashion_mnist("train", options.data)[0][: options.images]
    recipe = keras_mae.recipes.PretrainRecipe.for_size("small_images", images=len(images), epochs=options.epochs)
    keras.utils.set_random_seed(recipe.seed)
    mae = keras_mae.MaskedAutoencoder.from_preset(PRESET, **recipe.model_arguments)
    dataset = keras_mae.training.training_batches(keras_mae.data.ArraySource(images), recipe)
    keras_mae.training.run_pretraining(mae, dataset, recipe, options.out / "pretrained", examples=images[:8])
    print(f"pre-trained on {len(images):,} images, {recipe.epochs} epochs")
    return mae


def compare(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, wanted: np.ndarray, center: bool = True
) -> dict[str, float]:
    """Return the precision at 5, the mean cosine of the fifth image, and the seconds that the comparison took."""
    began = time.perf_counter()
    parts = [
        transfer.nearest(train, test[start : start + 500], NEIGHBORS, center=center)
        for start in range(0, len(test), 500)
    ]
    seconds = time.perf_counter() - began
    indices, cosines = (np.concatenate(part) for part in zip(*parts, strict=True))
    right = labels[indices] == wanted[:, None]
    return {"precision": right.mean(), "cosine": cosines[:, -1].mean(), "comparison seconds": seconds}


def show(name: str, row: dict[str, float]) -> None:
    """Print a row of the table."""
    places = {"precision": "14.4f", "cosine": "12.4f", "embedding seconds": "12.1f", "comparison seconds": "13.1f"}
    cells = [f"{row[key]:{form}}" if key in row else " " * int(form[:2]) for key, form in places.items()]
    print(f"{name:36}   {'   '.join(cells)}".rstrip(), flush=True)


def main() -> None:
    """Measure, and leave the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, nargs="?", help="saved model for 28 x 28 gray images")
    parser.add_argument("--epochs", type=int, default=50, help="of pre-training, without a model")
    parser.add_argument("--images", type=int, default=60_000, help="training images; fewer for a quick look")
    parser.add_argument("--queries", type=int, default=10_000, help="test images; fewer for a quick look")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=Path("runs/retrieval"))
    options = parser.parse_args()

    train, labels = (part[: options.images] for part in keras_mae.data.fashion_mnist("train", options.data))
    test, wanted = (part[: options.queries] for part in keras_mae.data.fashion_mnist("test", options.data))
    options.out.mkdir(parents=True, exist_ok=True)
    model = pretrained(options)
    encoder = getattr(model, "encoder", model)
    ways: dict[str, dict[str, Any]] = {f"{name} of the last block": {"pooling": name} for name in ("token", "mean")}
    ways |= {f"mean of block {block}": {"pooling": "mean", "block": block} for block in range(encoder.depth - 1)}
    print(f"{keras.backend.backend()}, {encoder.count_params():,} parameters of the encoder, {platform.processor()}")
    print(f"{len(train):,} images, {len(test):,} queries")
    print(f"{'':36}   precision at {NEIGHBORS}     {NEIGHBORS}th cosine   embedding, s   comparison, s", flush=True)
    table: dict[str, dict[str, float]] = {}

    def add(name: str, row: dict[str, float]) -> None:
        table[name] = {key: float(value) for key, value in row.items()}
        show(name, table[name])

    # Once, so that compiling and the first touch of memory are in no time below.
    transfer.extract_features(encoder, train[:256], progress=False)
    for name, how in ways.items():
        began = time.perf_counter()
        features = transfer.extract_features(encoder, train, progress=False, **how).features
        embedding = time.perf_counter() - began
        queries = transfer.extract_features(encoder, test, progress=False, **how).features
        add(name, {**compare(features, labels, queries, wanted), "embedding seconds": embedding})
        if "block" not in how:
            add(f"{name}, not centered", compare(features, labels, queries, wanted, center=False))
    flat = [images.reshape(len(images), -1).astype("float32") for images in (train, test)]
    add("pixels", compare(flat[0], labels, flat[1], wanted))
    shares = np.bincount(labels, minlength=10) / len(labels)
    add("chance", {"precision": shares[wanted].mean()})
    (options.out / "retrieval.json").write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
