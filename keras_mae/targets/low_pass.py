"""Pixels without their high frequencies."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.encoder import ViTEncoder
from keras_mae.patches import patchify
from keras_mae.targets.base import Pixels
from keras_mae.targets.matrices import both_sides, fourier_waves

__all__ = ["LowPass"]

CUTOFF = 40 / 224
"""PixMIM's cut-off, 40 cycles an image of 224 px, in cycles a pixel."""


@keras.saving.register_keras_serializable(package="keras_mae")
class LowPass(Pixels):
    """The pixels of the image without its high frequencies, which are mostly texture and noise.

    An ideal low-pass filter: of the image's discrete Fourier transform, each channel for itself, the frequencies in a
    circle are kept. It is applied as products with fixed real matrices, so that backends agree to rounding and any
    compiler takes it.

    Args:
        cutoff: Highest frequency to keep, in cycles a pixel; 0.5 is the highest in a row of pixels, and 0.71 keeps
            all. The published value by default: 40 cycles over the 224 pixels of an image.

    Raises:
        ValueError: If `cutoff` is not a finite number above 0.

    Example:
        >>> mae = keras_mae.MaskedAutoencoder(encoder, decoder, target=keras_mae.targets.LowPass(0.25))

    Reference: "PixMIM: Rethinking Pixel Reconstruction in Masked Image Modeling", arXiv 2303.02416.
    """

    kind = "low_pass"
    description = "pixels without high frequencies"

    def __init__(self, cutoff: float = CUTOFF):
        self.cutoff = _checks.positive("cutoff", cutoff)

    def vectors(self, images: Tensor, encoder: ViTEncoder) -> Tensor:
        rows, columns, kept = _low_pass_matrices(encoder.image_shape[:2], self.cutoff)
        mean, std = (
            ops.convert_to_tensor(np.asarray(values, "float32")) for values in (encoder.pixel_mean, encoder.pixel_std)
        )
        x = ops.transpose((ops.cast(images, "float32") - mean) / std, (0, 3, 1, 2))
        spectrum = both_sides(x, rows, columns) * ops.convert_to_tensor(kept)
        filtered = both_sides(spectrum, rows.T, columns.T)
        return patchify(ops.transpose(filtered, (0, 2, 3, 1)), encoder.patch_size)

    def get_config(self) -> dict[str, Any]:
        return {"cutoff": self.cutoff}


@lru_cache(maxsize=8)
def _low_pass_matrices(size: tuple[int, int], cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return bases of the low frequencies along rows and columns, and which pairs of theirs are in the circle.

    Cosine and sine waves make an orthonormal basis of real images. A pair of them is four plane waves of one
    distance from frequency 0, so that the circle keeps or drops the four together, as in the complex transform.

    Returns:
        float32 (m, height), (n, width) and (m, n), the last one 0 or 1.
    """
    (rows, vertical), (columns, horizontal) = (fourier_waves(side, cutoff) for side in size)
    distance = vertical[:, None] ** 2 + horizontal[None] ** 2
    return rows, columns, (distance <= cutoff**2 * (1 + 1e-9)).astype("float32")
