"""The small encoder that the transfer tests classify with, and labeled images for it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from conftest import randomize_weights

import keras_mae

BACKEND = keras.backend.backend()
# 2 x 3 patches, 5 images in a batch, 11 classes, 12 wide: no two sizes are equal.
IMAGE_SHAPE, GRID, BATCH, CLASSES, WIDTH = (8, 12, 1), (2, 3), 5, 11, 12

IMAGES = np.random.default_rng(3).integers(0, 256, (4 * BATCH, *IMAGE_SHAPE), "uint8")
LABELS = np.random.default_rng(4).integers(0, CLASSES, 4 * BATCH)


def make_encoder(depth: int = 2, image_shape: tuple[int, int, int] = IMAGE_SHAPE, **changes: Any) -> Any:
    """Every call gives the same weights, random everywhere."""
    encoder = keras_mae.ViTEncoder(image_shape, 4, WIDTH, depth, num_heads=3, mlp_ratio=2, **changes)
    return randomize_weights(encoder, seed=6)


def make_classifier(encoder: Any = None, cls: Any = keras_mae.ViTClassifier, **changes: Any) -> Any:
    """Every call gives the same weights. The head's are large: with 2e-5 the encoder would hardly learn."""
    encoder = make_encoder() if encoder is None else encoder
    return randomise_head(cls(encoder, CLASSES, **changes))


def randomise_head(classifier: Any) -> Any:
    generator = np.random.default_rng(8)
    pooling = [layer for layer in (classifier.pool_norm, classifier.attentive_pooling) if layer is not None]
    for weight in [*(weight for layer in pooling for weight in layer.weights), *classifier.head.weights]:
        value = generator.standard_normal(tuple(weight.shape))
        weight.assign(np.abs(value) + 0.5 if weight.path.endswith("variance") else value)
    return classifier


def compiled(classifier: Any, optimizer: Any = None, **changes: Any) -> Any:
    """As is quickest here: jitted on JAX and eager elsewhere."""
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9) if optimizer is None else optimizer
    classifier.compile(optimizer, **{"run_eagerly": BACKEND != "jax", **changes})
    return classifier


def fit(classifier: Any, *arrays: Any, steps: int = 1, **kwargs: Any) -> dict[str, list[float]]:
    """One epoch of `steps` steps in the data's own order; the logs."""
    x, y = arrays or (IMAGES[: steps * BATCH], LABELS[: steps * BATCH])
    return classifier.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, **kwargs).history


def to_numpy(x: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(x)


def values(variables: Any) -> list[np.ndarray]:
    """Copies, in order."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assert_same(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """The same bits in each; NaN is never the same."""
    assert len(got) == len(expected)
    assert [i for i, pair in enumerate(zip(got, expected, strict=True)) if not np.array_equal(*pair)] == []


def largest(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest difference of any value; NaN if there is one anywhere."""
    return float(np.max([np.max(np.abs(a - b)) for a, b in zip(one, other, strict=True)]))
