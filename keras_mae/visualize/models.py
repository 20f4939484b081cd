"""Which part of a model a picture is of, and running it on images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_mae import _checks
from keras_mae.classifier import ViTClassifier
from keras_mae.encoder import ViTEncoder
from keras_mae.pixels import check_images

__all__ = ["classifier_of", "encoder_of", "run"]


def encoder_of(model: Any) -> ViTEncoder:
    """Return the encoder of any of our models.

    Raises:
        ValueError: If it has none.
    """
    encoder = getattr(model, "encoder", model)
    if not isinstance(encoder, ViTEncoder):
        raise _checks.argument_error("model", "a ViTEncoder, a ViTClassifier or a MaskedAutoencoder", model)
    return encoder


def classifier_of(model: Any) -> ViTClassifier:
    """Return `model` if it is a classifier.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(model, ViTClassifier):
        raise _checks.argument_error("classifier", "a keras_mae.ViTClassifier", model)
    return model


class _Function(keras.Model):
    """A function of an encoder and images, for Keras to compile and to run without gradients."""

    def __init__(self, encoder: ViTEncoder, function: Callable[[ViTEncoder, Any], Any]):
        super().__init__(name="picture", autocast=False)
        self.encoder, self.function = encoder, function
        self.built = True

    def call(self, images: Any) -> Any:
        return keras.ops.cast(self.function(self.encoder, images), "float32")


def run(model: Any, function: Callable[[ViTEncoder, Any], Any], images: Any, batch_size: int) -> np.ndarray:
    """Run `function(encoder, images)` on images of the encoder's shape, and return its values as float32.

    Raises:
        ValueError: If the images do not fit.
    """
    encoder = encoder_of(model)
    images = check_images(images, encoder.image_shape, encoder.pixel_range)
    _checks.positive_int("batch_size", batch_size)
    return np.asarray(_Function(encoder, function).predict(images, batch_size=batch_size, verbose=0))
