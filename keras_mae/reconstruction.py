"""Pictures of what a masked autoencoder sees and predicts: arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from keras import ops

from keras_mae.encoder import ViTEncoder
from keras_mae.loss import Groups, patch_statistics, per_pixel, visible_statistics
from keras_mae.patches import patchify, unpatchify
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["Reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    """What a masked autoencoder made of images; all arrays in the images' own shape, range and dtype.

    Attributes:
        original: (batch, height, width, channels), the images.
        masked: The same with the removed patches at the encoder's mean pixel.
        predicted: The decoder's prediction of every patch. For raw pixels the loss never asked for the
            visible ones, so those are poor; that is the method, not an error.
        pasted: The prediction with the visible patches pasted in.
        mask: float32 (batch, patches), 1 = removed.
        statistics: In words, where the brightness and contrast of removed patches come from, which a model with a
            normalized target does not predict; "" for a model that predicts pixels.
        pixel_range: (low, high), the encoder's, which pictures show from black to white.
        grid: Rows and columns of patches; `None` if they are not known.
    """

    original: np.ndarray
    masked: np.ndarray
    predicted: np.ndarray
    pasted: np.ndarray
    mask: np.ndarray
    statistics: str
    pixel_range: PixelRange = BYTES
    grid: tuple[int, int] | None = None


def to_pictures(
    images: np.ndarray, prediction: np.ndarray, mask: np.ndarray, *, statistics: str, encoder: ViTEncoder
) -> Reconstruction:
    """Assemble a `Reconstruction` from the prediction of every patch, in normalized pixels."""
    repeats = prediction.shape[2] // len(encoder.pixel_mean)
    mean, std = (np.tile(np.asarray(value, "float32"), repeats) for value in (encoder.pixel_mean, encoder.pixel_std))
    patches = ops.convert_to_numpy(patchify(images, encoder.patch_size)).astype("float32")
    removed = mask[..., None]

    def picture(patches: np.ndarray) -> np.ndarray:
        whole: np.ndarray = ops.convert_to_numpy(unpatchify(patches, encoder.patch_size, encoder.image_shape))
        if images.dtype.kind != "f":  # floats may show how far a prediction is off
            whole = np.clip(np.rint(whole), np.ceil(encoder.pixel_range[0]), np.floor(encoder.pixel_range[1]))
        return np.asarray(whole, images.dtype)

    predicted = prediction * std + mean
    return Reconstruction(
        original=images,
        masked=picture(patches * (1 - removed) + mean * removed),
        predicted=picture(predicted),
        pasted=picture(patches * (1 - removed) + predicted * removed),
        mask=mask,
        statistics=statistics,
        pixel_range=encoder.pixel_range,
        grid=encoder.grid,
    )


def undo_normalization(
    prediction: np.ndarray,
    images: np.ndarray,
    pixels: np.ndarray,
    *,
    ids_keep: np.ndarray,
    ids_removed: np.ndarray,
    statistics: str,
    encoder: ViTEncoder,
    groups: Groups = None,
) -> tuple[np.ndarray, str]:
    """Return predictions of normalized patches as pixels, and where the statistics for it came from.

    Args:
        prediction: float32 (batch, patches, pixels).
        images: (batch, height, width, channels).
        pixels: float32 (batch, patches, pixels), what is predicted before it is normalized: those of the images, or
            of the images without their high frequencies.
        ids_keep: int32 (batch, kept).
        ids_removed: int32 (batch, removed).
        statistics: "visible" or "true".
        encoder: The model's encoder.
        groups: Groups of channels that are normalized each by itself.
    """
    mean, std = (np.array(ops.convert_to_numpy(value)) for value in patch_statistics(pixels, groups))
    source = "their brightness and contrast taken from the original"
    if statistics == "visible":
        visible = encoder.patch_embedding.pixels(images, ids_keep)
        guess = visible_statistics(visible, ids_keep, ids_removed, encoder.grid, groups)
        for own, guessed in zip((mean, std), guess, strict=True):
            np.put_along_axis(own, ids_removed[..., None], ops.convert_to_numpy(guessed), axis=1)
        source = "their brightness and contrast guessed from visible patches"
    mean, std = (np.asarray(ops.convert_to_numpy(per_pixel(own, groups, pixels.shape[-1]))) for own in (mean, std))
    return prediction * std + mean, source
