"""What the numbers in an image file mean: how deep they are, which of them is white, or which unit they are in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.pixels import BYTES, PixelRange, checked_range

__all__ = [
    "EIGHT_BITS",
    "Levels",
    "Numbers",
    "UnclearNumbers",
    "WrongBands",
    "check_range",
    "described",
    "numbers_of",
    "refuse",
]

# Tags of TIFF files.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_SIGNED = 2


class UnclearNumbers(ValueError):
    """A file whose numbers nobody said how to read."""


class WrongBands(ValueError):
    """A file whose image has another number of bands than there are channels to make, or no bands at all."""


@dataclass(frozen=True)
class Levels:
    """How the numbers in image files become pixels.

    Args:
        pixel_range: (low, high), the smallest and the largest pixel. (0, 255) stands for 8 bits: deeper grays are
            brought to them. Any other range is that of the files' own numbers, which are then read as float32.
        white_level: Number that is white in grays of 9 to 16 bits; by default the largest that has so many bits.
        max_pixels: Pixels of the largest image to read; by default as many as Pillow reads.

    Raises:
        ValueError: If an argument is out of range, or a white level comes with a range that needs none.
    """

    pixel_range: PixelRange = BYTES
    white_level: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixel_range", checked_range(self.pixel_range))
        if self.max_pixels is not None:
            _checks.positive_int("max_pixels", self.max_pixels)
        if self.white_level is None:
            return
        _checks.positive_int("white_level", self.white_level)
        if self.own_units:
            raise ValueError(
                "`white_level` says which gray becomes 255, so `pixel_range` must be (0, 255). "
                f"Received: white_level={self.white_level}, pixel_range={self.pixel_range}"
            )

    @property
    def eight_bits(self) -> bool:
        """Whether nothing is said of deeper numbers."""
        return not self.own_units and self.white_level is None

    @property
    def own_units(self) -> bool:
        """Whether files are read in their own numbers."""
        return self.pixel_range != BYTES

    @property
    def dtype(self) -> np.dtype:
        """dtype of the pixels that files are read as."""
        return np.dtype("float32" if self.own_units else "uint8")

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON values that identify data read so."""
        return {"pixel_range": list(self.pixel_range) if self.own_units else None, "white_level": self.white_level}


EIGHT_BITS = Levels()


@dataclass(frozen=True)
class Numbers:
    """What an opened file says of its numbers; ask before they are decoded.

    Attributes:
        name: Their type in words.
        dtype: dtype that holds what the file holds.
        white: Largest number, which is white unless somebody says otherwise; `None` where nothing is.
        inverted: Whether 0 is white.
        stretched: Whether Pillow brings numbers up to `white` to 16 bits.
        reduced: Whether Pillow reads only the upper 8 of 16 bits of colors, or stretches numbers irreversibly.
    """

    name: str = "8-bit integers"
    dtype: str = "uint8"
    white: int | None = 255
    inverted: bool = False
    stretched: bool = False
    reduced: bool = False

    @property
    def deep(self) -> bool:
        """Whether they are grays that Pillow does not have in 8 bits."""
        return self.dtype != "uint8"

    def of(self, image: Any) -> np.ndarray:
        """Return a decoded gray image's own numbers, (height, width)."""
        array = np.asarray(image)
        if self.dtype in ("int8", "uint32"):  # Pillow has neither
            return np.ascontiguousarray(array).view(self.dtype)
        if self.stretched:
            return (array * (int(self.white or 1) / 65535)).round().astype("int32")
        return array

    def in_bytes(self, image: Any, white_level: int | None) -> np.ndarray:
        """Return a decoded deep gray image as uint8 (height, width).

        Raises:
            UnclearNumbers: If nothing says what is white.
        """
        refuse(image, self, Levels(white_level=white_level))
        white = self.white if white_level is None else white_level
        values = self.of(image).astype("float32") / np.float32(int(white or 1) / 255)
        pixels: np.ndarray = values.round().clip(0, 255).astype("uint8")
        return 255 - pixels if self.inverted else pixels


def refuse(image: Any, numbers: Numbers, levels: Levels) -> None:
    """Raise an `UnclearNumbers` if an image, decoded or yet to be, cannot be read in these levels.

    Raises:
        UnclearNumbers: If it is signed, has 32 bits or floats and `levels` are 8 bits, or Pillow does not give the
            numbers that the levels are about.
    """
    if numbers.reduced and (levels.own_units or levels.white_level is not None):
        raise UnclearNumbers(
            f"it holds {numbers.name}, of which Pillow gives 8 or others; only grays are read in more than 8 bits: "
            "leave `pixel_range` and `white_level` out, or write it in another form"
        )
    if numbers.white is None and not levels.own_units:
        raise UnclearNumbers(
            f"it holds {described(numbers, numbers.of(image))}, and nothing says which of them is black and which "
            "white: pass pixel_range=(low, high), one range for all files, as the encoder's (keras-mae pretrain "
            "--pixel-range LOW HIGH)"
        )


def check_range(values: np.ndarray, numbers: Numbers, pixel_range: tuple[float, float]) -> None:
    """Raise an `UnclearNumbers` unless all values lie in the range; NaN does not."""
    if not (pixel_range[0] <= values.min() and values.max() <= pixel_range[1]):
        raise UnclearNumbers(
            f"it holds {described(numbers, values)}, and pixel_range=({pixel_range[0]:.10g}, {pixel_range[1]:.10g}) "
            "must hold them all"
        )


def described(numbers: Numbers, values: np.ndarray) -> str:
    """Return numbers in words, with the smallest and the largest of them."""
    return f"{numbers.name} from {values.min():.6g} to {values.max():.6g}"


# === What files say ===
def numbers_of(file: Any) -> Numbers:
    """Return what an opened Pillow image, not yet decoded, says of its numbers."""
    if file.format == "TIFF":
        return _of_tiff(file)
    arguments = file.tile[0][3] if file.tile else ""
    if file.mode == "F":
        return Numbers("32-bit floats", "float32", None)
    if file.format == "PPM":
        raw = not isinstance(arguments, tuple) or file.tile[0][0] == "raw"  # then 255, or 65535 for grays
        largest = (65535 if file.mode == "I" else 255) if raw else int(arguments[1])
        if file.mode == "I":
            return Numbers(f"{largest.bit_length()}-bit integers", "uint16", largest, stretched=largest < 65535)
        return Numbers("colors of 16 bits", reduced=True) if file.mode == "RGB" and largest > 255 else Numbers()
    if file.format == "JPEG2000":
        return _of_jpeg2000(file)
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PNG"):  # Pillow's older name
        return Numbers("16-bit integers", "uint16", 65535)
    if file.mode == "I":
        return Numbers("32-bit signed integers", "int32", None)
    raw = arguments if isinstance(arguments, str) else ""
    return Numbers("colors of 16 bits", reduced=True) if ";16" in raw else Numbers()


def _of_tiff(file: Any) -> Numbers:
    tags = file.tag_v2
    bits, signed = (int(np.ravel(tags.get(tag, 1))[0]) for tag in (_BITS, _SAMPLE_FORMAT))
    if file.mode == "F":
        return Numbers("32-bit floats", "float32", None)
    if file.mode == "L" and signed == _SIGNED:
        return Numbers("8-bit signed integers", "int8", None)
    if file.mode.startswith("I;16"):
        inverted = int(np.ravel(tags.get(_PHOTOMETRIC, 1))[0]) == 0  # which Pillow sees to in 8 bits only
        return Numbers(f"{bits}-bit integers", "uint16", 2**bits - 1, inverted=inverted)
    if file.mode == "I":
        if signed == _SIGNED:
            return Numbers(f"{bits}-bit signed integers", f"int{bits}", None)
        return Numbers("32-bit integers", "uint32", None)
    return Numbers("colors of 16 bits", reduced=True) if bits == 16 else Numbers()


def _of_jpeg2000(file: Any) -> Numbers:
    """Read the precision from the codestream's header: Pillow stretches what has 9 to 15 bits to 16."""
    place = file.fp.tell()
    file.fp.seek(0)
    start = file.fp.read(1 << 16)
    file.fp.seek(place)
    marker = start.find(b"\xff\x4f\xff\x51")
    precision = start[marker + 42] if 0 <= marker < len(start) - 42 else 15
    bits, signed = (precision & 127) + 1, precision >= 128
    if file.mode.startswith("I"):
        if signed:
            return Numbers(f"{bits}-bit signed integers", f"int{16 if bits <= 16 else 32}", None, reduced=True)
        return Numbers(f"{bits}-bit integers", "uint16", 65535, reduced=bits != 16)
    return Numbers("colors of 16 bits", reduced=True) if bits > 8 else Numbers()
