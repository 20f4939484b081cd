"""Segment the scenes of scenes.py without a neural network: the bars that a model has to pass.

    python examples/scenes_baselines.py

Each pixel gets the most frequent class; or the class that a random forest sees in its color; or in the colors, edges
and textures around it, at scales from 1 to 16 pixels (scikit-image's multiscale basic features). The forests learn
from random pixels of the training part, as they are, or weighted such that all classes count alike. mIoU is the mean
over all classes of intersection over union, counted over the whole test part without ignored pixels.

Measured with the defaults (500 scenes of 96 x 96 pixels to train on, 100 to test, seed 0), in %:

                                            mIoU   pixel accuracy   class accuracy
    most frequent class                      5.6             61.5              9.1
    forest on colors                         9.6             60.4             13.6
    forest on colors, weighted               6.2             16.4             16.3
    forest on colors and textures            8.7             62.8             12.3
    forest on colors and textures, weighted 10.8             38.5             20.3
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scenes


def confusion(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return how many pixels of each class (row) were taken for which (column); ignored ones do not count."""
    known, count = truth != scenes.IGNORED, len(scenes.NAMES)
    pairs = truth[known].astype(int) * count + predicted[known]
    return np.bincount(pairs, minlength=count**2).reshape(count, count)


def scores(table: np.ndarray) -> dict[str, float]:
    """Return mIoU, pixel and mean class accuracy of a confusion table; classes that are nowhere do not count."""
    right, truth, said = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    there = truth + said > 0
    return {
        "mIoU": float((right[there] / (truth + said - right)[there]).mean()),
        "pixel accuracy": float(right.sum() / truth.sum()),
        "class accuracy": float((right[truth > 0] / truth[truth > 0]).mean()),
    }


def colors(image: np.ndarray) -> np.ndarray:
    """Return the color of each pixel, float32 (height, width, 3)."""
    return image.astype("float32")


def textures(image: np.ndarray) -> np.ndarray:
    """Return colors, edges and textures around each pixel, float32 (height, width, 60)."""
    from skimage.feature import multiscale_basic_features

    return multiscale_basic_features(image, sigma_min=1, sigma_max=16, channel_axis=-1)


def per_pixel(features: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Return the features of an image, float32 (pixels, features)."""
    return features(image).reshape(image.shape[0] * image.shape[1], -1).astype("float32")


def main() -> None:
    """Fit, score, and leave the scores as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scenes", type=int, default=500, help="training scenes")
    parser.add_argument("--pixels", type=int, default=100, help="training pixels of each")
    parser.add_argument("--tests", type=int, default=100, help="test scenes")
    parser.add_argument("--trees", type=int, default=50, help="trees of each forest")
    parser.add_argument("--out", type=Path, default=Path("runs/scenes_baselines.json"))
    options, parts = scenes.parts_of(parser)
    from sklearn.ensemble import RandomForestClassifier

    images, masks = parts["train"].arrays(options.scenes)
    tests, truths = parts["test"].arrays(options.tests)
    most = np.bincount(masks[masks != scenes.IGNORED]).argmax()
    table = {"most frequent class": scores(confusion(truths, np.full_like(truths, most)))}
    rng = np.random.default_rng(options.seed)
    drawn = [rng.choice(np.flatnonzero(mask != scenes.IGNORED), options.pixels) for mask in masks]
    labels = np.concatenate([mask.ravel()[some] for mask, some in zip(masks, drawn, strict=True)])
    for name, features in (("colors", colors), ("colors and textures", textures)):
        known = np.concatenate([per_pixel(features, image)[some] for image, some in zip(images, drawn, strict=True)])
        asked = np.concatenate([per_pixel(features, image) for image in tests])
        for weights, end in ((None, ""), ("balanced", ", weighted")):
            forest = RandomForestClassifier(
                options.trees, min_samples_leaf=4, class_weight=weights, random_state=options.seed
            )
            said = forest.fit(known, labels).predict(asked)
            table[f"forest on {name}{end}"] = scores(confusion(truths.ravel(), said))
    for name, row in table.items():
        print(f"{name:40}" + "   ".join(f"{score} {100 * value:5.1f} %" for score, value in row.items()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
