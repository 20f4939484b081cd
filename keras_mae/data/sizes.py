"""How large images are before they are decoded: which are refused, and how many are decoded at once."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["MOST_PIXELS", "TooLarge", "allowed", "check_numbers", "check_pixels", "in_pixels", "room", "webp_size"]

_ANYWAY = 2**24  # pixels that need no room and no look: 16 megapixels
MOST_PIXELS = 178_956_970
"""Pixels of the largest image that Pillow reads unless it is told otherwise, and of all that are decoded at once."""
_DENSEST = 10_000  # pixels in a byte; deflate, PNG's and TIFF's compression, has at most 8,256


class TooLarge(ValueError):
    """An image that is refused for its size."""


def allowed(pillow: Any, max_pixels: int | None) -> float:
    """Return the pixels of the largest image that is read: by default as many as Pillow reads.

    Pillow's own limit is the process's, and is raised for a caller who asks for more.
    """
    own = pillow.MAX_IMAGE_PIXELS  # of which it warns; twice as many are its error
    if max_pixels is None:
        return math.inf if own is None else 2 * own
    if own is not None and max_pixels > 2 * own:
        pillow.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
    return max_pixels


def check_pixels(size: tuple[int, int], stored: int, most: float, sparse: bool = False) -> None:
    """Raise `TooLarge` for an image that would take more memory than it may.

    Args:
        size: (width, height) in pixels.
        stored: Bytes of its file.
        most: Pixels of the largest image to read.
        sparse: Whether an image may be much larger than its file, as an honest one never is.
    """
    pixels = size[0] * size[1]
    if pixels > most:
        raise TooLarge(f"it has {_counted(size)}, and {most:,} are read. If it is meant to be so large, {_REMEDY}")
    if not sparse and pixels > max(_ANYWAY, _DENSEST * stored):
        raise TooLarge(f"it has {_counted(size)} in {stored:,} bytes. If it is meant to be so empty, {_REMEDY}")


def check_numbers(
    shape: tuple[int, ...], itemsize: int, stored: int, max_pixels: int | None, what: str = "it has"
) -> None:
    """Raise `TooLarge` for an array of one image that would take more memory than it may.

    Pillow's pixels take four bytes. Where those of an array take more, each counts as so many more.

    Args:
        shape: (height, width, bands).
        itemsize: Bytes of a number.
        stored: Bytes of the file.
        max_pixels: Pixels of the largest image to read; by default `MOST_PIXELS`, and not many in few bytes.
        what: What has the shape, as the beginning of a sentence.
    """
    pixels, most = in_pixels(shape, itemsize), MOST_PIXELS if max_pixels is None else max_pixels
    if pixels > most:
        counted = f"{' x '.join(f'{side:,}' for side in shape)} numbers of {itemsize} bytes"
        raise TooLarge(
            f"{what} {counted}, which take as much memory as {pixels:,} pixels, and {most:,} are read. If it is "
            f"meant to be so large, {_REMEDY}"
        )
    if max_pixels is None and pixels > max(_ANYWAY, _DENSEST * stored):
        raise TooLarge(
            f"{what} {' x '.join(f'{side:,}' for side in shape)} numbers in {stored:,} bytes. If it is meant to be "
            f"so empty, {_REMEDY}"
        )


def in_pixels(shape: tuple[int, ...], itemsize: int) -> int:
    """Return how many pixels of four bytes take as much memory as an array (height, width, bands)."""
    height, width, bands = shape
    return int(height) * int(width) * max(1, math.ceil(int(bands) * itemsize / 4))


_REMEDY = "raise `max_pixels` (--max-pixels)"


def _counted(size: tuple[int, int]) -> str:
    return f"{size[0]:,} x {size[1]:,} pixels"


def webp_size(head: bytes) -> tuple[int, int] | None:
    """Return (width, height) by the first 30 bytes of a WebP file, whose pixels Pillow allocates as it opens it.

    `None` of any other file.

    Reference: RFC 9649, sections 2.7 and 3.4; RFC 6386, section 9.1.
    """
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


class _Room:
    """So many pixels are decoded at once in this process, however many threads there are."""

    def __init__(self, pixels: int):
        self.pixels = pixels
        self.begin_anew()
        if hasattr(os, "register_at_fork"):  # a thread that waits or decodes is not in the child
            os.register_at_fork(after_in_child=self.begin_anew)

    def begin_anew(self) -> None:
        self.free, self.changed = self.pixels, threading.Condition()

    @contextlib.contextmanager
    def __call__(self, size: tuple[int, int]) -> Iterator[None]:
        """Wait until an image of (width, height) can be decoded beside those that are; small ones need not wait."""
        pixels = size[0] * size[1]
        if pixels <= _ANYWAY:
            yield
            return
        pixels = min(pixels, self.pixels)  # the largest ones are alone
        with self.changed:
            self.changed.wait_for(lambda: self.free >= pixels)
            self.free -= pixels
        try:
            yield
        finally:
            with self.changed:
                self.free += pixels
                self.changed.notify_all()


room = _Room(MOST_PIXELS)
"""Context manager, called with (width, height), in which an image is decoded."""
