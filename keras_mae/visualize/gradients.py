"""Which pixels a classifier's answer depends on, by the backend's own gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae.ops import gradient
from keras_mae.pixels import check_images
from keras_mae.visualize.models import classifier_of

__all__ = ["saliency", "smooth_grad"]


def saliency(classifier: Any, images: Any, classes: Any = None, *, batch_size: int = 32) -> np.ndarray:
    """Compute how much a class's logit changes with each pixel: the largest absolute gradient of its channels.

    Args:
        classifier: A `ViTClassifier`.
        images: Images (batch, height, width, channels) in the encoder's `pixel_range`.
        classes: The class to explain: an integer, or integers (batch,). The predicted one by default.
        batch_size: Images at a time.

    Returns:
        float32 (batch, height, width), in logits per gray level.

    Raises:
        ValueError: If this is no classifier, or images or classes do not fit it.

    Reference: "Deep Inside Convolutional Networks", section 3.
    """
    return smooth_grad(classifier, images, classes, samples=1, noise=0.0, batch_size=batch_size)


def smooth_grad(
    classifier: Any,
    images: Any,
    classes: Any = None,
    *,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
    batch_size: int = 32,
) -> np.ndarray:
    """Compute `saliency` of the mean gradient over noisy copies, which varies less from pixel to pixel.

    Args:
        classifier: A `ViTClassifier`.
        images: Images (batch, height, width, channels) in the encoder's `pixel_range`.
        classes: The class to explain: an integer, or integers (batch,). That predicted without noise by default.
        samples: Number of noisy copies of each image.
        noise: Standard deviation of the noise, over each image's own range of pixels.
        seed: Seed for the noise, which is the same on every backend.
        batch_size: Images at a time.

    Returns:
        float32 (batch, height, width), in logits per gray level.

    Raises:
        ValueError: If this is no classifier, or an argument does not fit it.

    Reference: "SmoothGrad: removing noise by adding noise", section 2.
    """
    classifier_of(classifier)
    images = check_images(images, classifier.encoder.image_shape, classifier.encoder.pixel_range)
    for argument, value in {"samples": samples, "batch_size": batch_size}.items():
        _checks.positive_int(argument, value)
    _checks.non_negative("noise", noise)
    generator = np.random.default_rng(_checks.seed_int("seed", seed))
    chosen = np.eye(classifier.num_classes, dtype="float32")[_classes(classifier, images, classes, batch_size)]

    def logit(images: Any, chosen: Any) -> Any:
        return ops.sum(ops.multiply(classifier(images, training=False), chosen))

    slope = gradient(logit, classifier.variables)
    maps = []
    for start in range(0, len(images), batch_size):
        batch, one_hot = images[start : start + batch_size].astype("float32"), chosen[start : start + batch_size]
        spread = noise * (batch.max(axis=(1, 2, 3), keepdims=True) - batch.min(axis=(1, 2, 3), keepdims=True))
        total = np.zeros_like(batch)
        for _ in range(samples):
            noisy = batch + spread * generator.standard_normal(batch.shape, "float32")
            total += ops.convert_to_numpy(slope(noisy, one_hot))
        maps.append(np.abs(total / samples).max(axis=-1))
    return np.concatenate(maps)


def _classes(classifier: Any, images: np.ndarray, classes: Any, batch_size: int) -> np.ndarray:
    """Return the class to explain, an integer for each image."""
    if classes is None:
        return np.asarray(classifier.predict(images, batch_size=batch_size, verbose=0).argmax(axis=-1))
    given = np.asarray(classes)
    if (
        given.dtype.kind not in "iu"
        or given.shape not in ((), (len(images),))
        or not ((given >= 0) & (given < classifier.num_classes)).all()
    ):
        raise _checks.argument_error(
            "classes",
            f"an integer in [0, {classifier.num_classes}), or one for each of {len(images)} images",
            classes,
        )
    return np.broadcast_to(given, len(images))
