"""Measure how often the images nearest to a picture show the same thing, on Fashion-MNIST.

    KERAS_BACKEND=torch python examples/retrieval.py runs/fashion_mnist/model.keras

Precision at 5: of each test image's five nearest training images by cosine, the share that are of its class, as the
mean over all 10,000 test images. It is measured for two poolings of the last block, and for the patches' mean of each
block, beside the pixels themselves and chance. The times are that of embedding all 60,000 training images and that of
comparing the test images with them: every image is compared, none is estimated.

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


def precision(train: np.ndarray, labels: np.ndarray, test: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Return the precision at 5, and the seconds that the comparison took."""
    began = time.perf_counter()
    indices = np.concatenate(
        [transfer.nearest(train, test[start : start + 500], NEIGHBORS)[0] for start in range(0, len(test), 500)]
    )
    seconds = time.perf_counter() - began
    return float((labels[indices] == wanted[:, None]).mean()), seconds


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
    ways: list[tuple[str, dict[str, Any]]] = [
        (f"{name} of the last block", {"pooling": name}) for name in ("token", "mean")
    ]
    ways += [(f"mean of block {block}", {"pooling": "mean", "block": block}) for block in range(encoder.depth - 1)]
    # Once, so that compiling and the first touch of memory are in no time below.
    transfer.extract_features(encoder, train[:256], progress=False)
    table: dict[str, dict[str, float]] = {}
    for name, how in ways:
        began = time.perf_counter()
        features = transfer.extract_features(encoder, train, progress=False, **how).features
        embedding = time.perf_counter() - began
        queries = transfer.extract_features(encoder, test, progress=False, **how).features
        score, seconds = precision(features, labels, queries, wanted)
        table[name] = {"precision": score, "embedding seconds": embedding, "comparison seconds": seconds}
    flat = [images.reshape(len(images), -1).astype("float32") for images in (train, test)]
    score, seconds = precision(flat[0], labels, flat[1], wanted)
    table["pixels"] = {"precision": score, "comparison seconds": seconds}
    shares = np.bincount(labels, minlength=10) / len(labels)
    table["chance"] = {"precision": float(shares[wanted].mean())}

    print(
        f"\n{keras.backend.backend()}, {encoder.count_params():,} parameters of the encoder, {platform.processor()}"
    )
    print(f"{len(train):,} images, {len(test):,} queries   precision at {NEIGHBORS}   embedding, s   comparison, s")
    for name, row in table.items():
        cells = [f"{row[key]:.1f}" if key in row else "" for key in ("embedding seconds", "comparison seconds")]
        print(f"{name:32}   {row['precision']:14.4f}   {cells[0]:>12}   {cells[1]:>13}")
    (options.out / "retrieval.json").write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
