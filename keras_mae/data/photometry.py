"""Photometric distortion: other light and other colors, and every pixel stays where it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_mae import _checks
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["PhotometricDistortion"]


@dataclass(frozen=True)
class PhotometricDistortion:
    """Brightness, contrast, saturation and hue, each changed with a probability of its own: the published recipe's.

    Contrast comes before saturation and hue, or after them, half of the time each. What goes beyond the range is cut
    off after each change. Saturation and hue are of images of three channels, as those of the hexagonal cone (HSV);
    of others, brightness and contrast change alike in all channels.

    Args:
        brightness: Largest number to add or subtract, as a fraction of the range: 32 of 255.
        contrast: Smallest and largest factor of pixels, counted from the bottom of the range.
        saturation: Smallest and largest factor of saturation; (1, 1) leaves it.
        hue: Largest turn of the hue, as a fraction of the circle, at most 0.5: 18 of OpenCV's 180.
        probability: Probability of each of the four.

    Call arguments:
        pixels: (height, width, channels) in `pixel_range`.
        generator: Generator that is drawn from.
        pixel_range: (low, high), the smallest and the largest pixel.

    Returns:
        The pixels, in their dtype.

    Raises:
        ValueError: If an argument is out of range.

    Reference: "SSD: Single Shot MultiBox Detector" (arXiv 1512.02325), section 2.2, with the numbers of
    mmsegmentation's PhotoMetricDistortion.
    """

    brightness: float = 32 / 255
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18 / 180
    probability: float = 0.5

    def __post_init__(self) -> None:
        _checks.within("brightness", self.brightness, 1)
        _checks.rising("contrast", self.contrast)
        _checks.rising("saturation", self.saturation)
        _checks.within("hue", self.hue, 0.5)
        _checks.within("probability", self.probability, 1)

    def __call__(
        self, pixels: np.ndarray, generator: np.random.Generator, pixel_range: PixelRange = BYTES
    ) -> np.ndarray:
        # As many draws whatever is done, so that one change does not move the others.
        brighter, contrasted, saturated, turned = generator.random(4) < self.probability
        contrast_last = bool(generator.random() < 0.5)
        added = generator.uniform(-self.brightness, self.brightness)
        contrast, saturation = generator.uniform(*self.contrast), generator.uniform(*self.saturation)
        hue = generator.uniform(-self.hue, self.hue)
        colored = pixels.shape[-1] == 3 and (saturated or turned)
        if not (brighter or contrasted or colored):
            return pixels
        low, high = pixel_range
        values = (pixels.astype("float32") - np.float32(low)) * np.float32(1 / (high - low))
        if brighter:
            values = (values + np.float32(added)).clip(0, 1)
        if contrasted and not contrast_last:
            values = (values * np.float32(contrast)).clip(0, 1)
        if colored:
            values = _recolored(values, saturation if saturated else 1.0, hue if turned else 0.0)
        if contrasted and contrast_last:
            values = (values * np.float32(contrast)).clip(0, 1)
        values = values * np.float32(high - low) + np.float32(low)
        return (values if pixels.dtype.kind == "f" else values.round()).clip(low, high).astype(pixels.dtype)


def _recolored(values: np.ndarray, saturation: float, turn: float) -> np.ndarray:
    """Return RGB in [0, 1] with the saturation times a factor and the hue turned by a part of the circle.

    A channel of a color is its largest one less so much of the chroma as the hue's distance from the channel's own
    says; a factor of the saturation is one of the chroma, which is at most the largest channel.
    """
    red, green, blue = (np.ascontiguousarray(values[..., channel]) for channel in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    divisor = np.where(chroma > 0, chroma, np.float32(1))
    hue = np.where(
        high == red,
        (green - blue) / divisor,
        np.where(high == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )  # in sixths of the circle, from -1 to 5
    chroma = np.minimum(chroma * np.float32(saturation), high)
    turned = hue + np.float32(6 * turn)
    channels = []
    for place in (5, 3, 1):
        distance = turned + np.float32(place)
        distance -= 6 * np.floor(distance * np.float32(1 / 6))  # np.mod takes several times as long
        channels.append(high - chroma * np.minimum(distance, 4 - distance).clip(0, 1))
    return np.stack(channels, axis=-1)
