"""What the calls get that is right, and wrong values of more than one argument."""

from __future__ import annotations

from functools import cache
from typing import Any

import keras
import numpy as np
from wrong_arguments import (
    NAN,
)

import keras_mae
from keras_mae import recipes

ENCODER = {"image_shape": (8, 8, 3), "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 1}
RNG = np.random.default_rng(0)
BATCH = RNG.integers(0, 256, (4, 8, 8, 3), "uint8")
LABELS = np.array([0, 1, 2, 1])
STRINGS = np.full((2, 8, 8, 3), "a")
OBJECTS = np.array([BATCH[0], None], dtype=object)
IMAGES = (
    None,
    "x",
    3,
    [],
    STRINGS,
    OBJECTS,
    BATCH * 1j,
    BATCH[..., 0],
    BATCH[..., :2],
    BATCH[:0],
    -BATCH.astype("float32"),
    BATCH / 255,
    BATCH % 2,
    BATCH * np.float32(NAN),
    BATCH.astype("datetime64[s]"),
)
ARRAYS = (None, "x", 3, [], STRINGS, OBJECTS, BATCH * 1j)
ANY_LABELS = ("x", 3, LABELS[:2], LABELS + 0.5, -LABELS, np.array(list("abca")), np.stack([LABELS] * 2), [None] * 4)
MODELS = (None, "x", 3, keras_mae.ViTEncoder, keras.layers.Dense(2))


@cache
def encoder() -> Any:
    return keras_mae.ViTEncoder(**ENCODER)


@cache
def mae() -> Any:
    return keras_mae.MaskedAutoencoder(encoder(), keras_mae.MAEDecoder(8, 1, 2))


@cache
def classifier() -> Any:
    model = keras_mae.ViTClassifier(encoder(), 3)
    model.compile()
    return model


@cache
def trained() -> Any:
    model = keras_mae.MaskedAutoencoder(keras_mae.ViTEncoder(**ENCODER), keras_mae.MAEDecoder(8, 1, 2))
    model.compile()
    return model


def recipe(kind: str = "pretrain", **changes: Any) -> Any:
    small: dict[str, Any] = {"epochs": 2, "warmup_epochs": 0, "batch_size": 2, "crop_area": None}
    kinds: dict[str, Any] = {
        "pretrain": recipes.PretrainRecipe,
        "fine_tune": recipes.FineTuneRecipe,
        "linear_probe": recipes.LinearProbeRecipe,
    }
    return kinds[kind](**{**small, **changes})
