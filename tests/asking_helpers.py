"""Folders of small photographs and models of their size, for what is asked of trained models."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from conftest import randomize_weights
from PIL import Image

import keras_mae

SIZES = {"cats": 7, "dogs": 6}


@functools.cache
def encoder() -> Any:
    """An encoder of images of 8 x 6 pixels, which nobody may change."""
    return randomize_weights(keras_mae.ViTEncoder((8, 6, 3), 2, embed_dim=12, depth=2, num_heads=3, mlp_ratio=1))


@functools.cache
def classifier(pooling: str = "mean") -> Any:
    return randomize_weights(
        keras_mae.ViTClassifier(encoder(), 3, pooling=pooling, class_names=("cats", "dogs", "owls"))
    )


def write_photos(folder: Path) -> list[str]:
    """Write photographs of various sizes in class folders; return their names in order."""
    generator = np.random.default_rng(0)
    for name, count in SIZES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (9 + number, 15 - number, 3), "uint8")
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return [f"{name}/{number}.png" for name, count in SIZES.items() for number in range(count)]


def read(folder: Path, names: list[str]) -> np.ndarray:
    """The images as a model of these sizes is to see them."""
    return np.stack([keras_mae.data.read_image(folder / name, (8, 6, 3)) for name in names])


def asking(keras_mae_command):
    """The command, which must go well, and as `refused` the command as it is."""

    def run(*arguments):
        status, out, err = keras_mae_command(*arguments)
        assert (status, err) == (0, "")
        return out

    run.refused = keras_mae_command
    return run
