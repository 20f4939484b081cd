"""How badly a masked autoencoder fills in each part of an image."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.anomaly.resampling import blur, resampled
from keras_mae.dense.resizing import linear_weights
from keras_mae.masked_autoencoder import MaskedAutoencoder

__all__ = ["ReconstructionErrors"]

_SMOOTHING = 0.125  # of a patch's side: scratches are thin


class ReconstructionErrors:
    """Maps of the root mean squared error over several masks, for each pixel over the masks that hide it.

    The error is that of normalized pixels, as the encoder sees them; a normalized target is turned back into pixels
    with the visible patches' statistics. Its square is smoothed by a Gaussian whose standard deviation is an eighth
    of a patch. For a target that is not made of pixels it is the error of each patch's vector, interpolated.

    Args:
        mae: Model that fills in.
        masks: Masks, Boolean (masks, patches), true = removed; each patch is removed by equally many of them.
    """

    def __init__(self, mae: MaskedAutoencoder, masks: np.ndarray):
        self.encoder, self.masks = mae.encoder, masks
        # One for each number of visible patches, or TensorFlow would trace again with the number unknown.
        self._errors = {kept: _Errors(mae) for kept in set((~masks).sum(axis=1).tolist())}

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the maps, float32 (batch, height, width), of images that were checked before."""
        total: Any = 0
        for mask in self.masks:
            visible, removed = (np.flatnonzero(side).astype("int32") for side in (~mask, mask))
            ids = {
                "ids_keep": np.tile(visible, (len(images), 1)),
                "ids_removed": np.tile(removed, (len(images), 1)),
            }
            errors = np.asarray(self._errors[len(visible)].predict_on_batch({"images": images, **ids}))
            whole = np.zeros((len(images), len(mask), errors.shape[2]), "float32")
            whole[:, removed] = errors
            total = total + whole
        return self._as_maps(total / self.masks[:, 0].sum())

    def _as_maps(self, squared: np.ndarray) -> np.ndarray:
        """Return maps of pixels of the errors (batch, patches, pixels of a patch), or (batch, patches, 1)."""
        (rows, columns), (height, width) = self.encoder.grid, self.encoder.patch_size
        if squared.shape[2] != height * width:
            matrices = linear_weights(rows, rows * height), linear_weights(columns, columns * width)
            return _roots(resampled(squared.reshape(-1, rows, columns), *matrices))
        pixels = squared.reshape(-1, rows, columns, height, width).transpose(0, 1, 3, 2, 4)
        pixels = pixels.reshape(-1, rows * height, columns * width)
        matrices = blur(rows * height, _SMOOTHING * height), blur(columns * width, _SMOOTHING * width)
        return _roots(resampled(pixels, *matrices))


def _roots(squared: np.ndarray) -> np.ndarray:
    roots: np.ndarray = np.sqrt(squared)
    return roots


class _Errors(keras.Model):
    """Squared errors of the removed patches, for Keras to compile: (batch, removed, pixels of a patch or 1)."""

    def __init__(self, mae: MaskedAutoencoder):
        super().__init__(name="errors", autocast=False)
        self.mae = mae
        self.built = True

    def call(self, inputs: Any) -> Any:
        outputs = self.mae.outputs_for_loss(inputs, training=False)
        prediction = outputs["removed_prediction"]
        if "removed_target" in outputs:
            error = ops.square(prediction - ops.cast(outputs["removed_target"], "float32"))
            return ops.mean(error, axis=-1, keepdims=True)
        if "guessed_mean" in outputs:
            prediction = prediction * outputs["guessed_std"] + outputs["guessed_mean"]
        error = ops.square(prediction - outputs["removed_pixels"])
        channels = self.mae.encoder.image_shape[2]
        by_pixel = ops.reshape(error, (-1, error.shape[1], error.shape[2] // channels, channels))
        return ops.mean(by_pixel, axis=-1)
