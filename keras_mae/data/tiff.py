"""TIFF files that Pillow does not read, or not in full: many bands, colors of 16 bits, floats of 16 and 64."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _optional
from keras_mae.data.array_images import ArrayImage, checked_shape, numbers_like
from keras_mae.data.levels import Levels, Numbers, WrongBands
from keras_mae.data.sizes import check_numbers

__all__ = ["has_unnamed_band", "is_for_tifffile", "named_channels", "open_tiff"]

_DESCRIPTION, _ORIENTATION, _PLANAR, _EXTRA_SAMPLES = 270, 274, 284, 338  # tags
_PLAIN = 1  # the compression that is none
_CHANNELS = re.compile(r'^channels=(\d{1,6})$|SizeC="(\d{1,6})"', re.MULTILINE)
_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")  # OME's element for an image
_ORDER = re.compile(r'DimensionOrder="([XYZCT]{5})"')
_SIZE = re.compile(r'Size([ZCT])="(\d{1,9})"')


def is_for_tifffile(file: Any, channels: int | None, levels: Levels, reduced: bool) -> bool:
    """Return whether a TIFF file that Pillow has opened holds more than Pillow would give.

    Args:
        file: Opened Pillow image.
        channels: Channels that are wanted; `None` for the file's own.
        levels: What becomes of the numbers.
        reduced: Whether Pillow reads only the upper 8 of its 16 bits.
    """
    planes = int(np.ravel(file.tag_v2.get(_PLANAR, 1))[0])
    if reduced and (levels.own_units or levels.white_level is not None or planes == 2):
        return True
    if channels == 4 and has_unnamed_band(file):
        return True
    return channels in (3, 4) and named_channels(file) == channels


def named_channels(file: Any) -> int:
    """Return how many pages are the channels of a TIFF file's image, as OME or ImageJ wrote; 1 where none are.

    Args:
        file: Opened Pillow image.
    """
    text = str(file.tag_v2.get(_DESCRIPTION, ""))
    known = _CHANNELS.search(text) if text.startswith("ImageJ=") or "<OME" in text else None
    return 1 if known is None or file.mode == "RGB" else int(known[1] or known[2])


def has_unnamed_band(file: Any) -> bool:
    """Return whether the fourth of a TIFF file's four bands is not opacity: infrared, say, which Pillow drops."""
    return [int(kind) for kind in np.ravel(file.tag_v2.get(_EXTRA_SAMPLES, ()))] == [0] and file.mode == "RGB"


def open_tiff(image: str | Path | bytes, channels: int | None, levels: Levels) -> ArrayImage:
    """Open the first image of a TIFF file with all of its bands.

    They are the samples of its first page, or, in files of OME and ImageJ, the pages of its channels where so many
    are wanted. No other file is opened that it may name.

    Raises:
        ValueError: If the file is damaged, or holds no image.
        ImportError: If tifffile is missing, or imagecodecs for a file that is compressed.
    """
    tifffile = _library()
    stored = len(image) if isinstance(image, bytes) else Path(image).stat().st_size
    with contextlib.ExitStack() as stack:
        source = io.BytesIO(image) if isinstance(image, bytes) else str(image)
        file = stack.enter_context(tifffile.TiffFile(source))
        pages = [file.pages[index] for index in _channel_pages(file, channels)]
        shape = _page_shape(pages[0])
        numbers = _numbers(pages[0])
        whole = (*shape[:2], shape[2] * len(pages))
        check_numbers(whole, pages[0].dtype.itemsize, stored, levels.max_pixels)
        for page in pages:
            if _page_shape(page) != shape or page.dtype != pages[0].dtype:
                raise WrongBands("its channels have other sizes or types than the first")
            _check_page(page, stored, levels)
        turned = int(np.ravel(pages[0].tags.valueof(_ORIENTATION, default=1))[0])
        count, close = len(file.pages) // len(pages), stack.pop_all().close

    def read() -> np.ndarray:
        bands = [np.moveaxis(page.asarray(maxworkers=1).reshape(_stored_shape(page)), *_axis(page)) for page in pages]
        return _upright(np.concatenate(bands, axis=-1), turned)

    upright = (whole[1], whole[0], whole[2]) if turned in (5, 6, 7, 8) else whole
    return ArrayImage(upright, numbers, read, count, close)


@functools.cache
def _library() -> Any:
    """Return tifffile, whose complaints about damaged files are for those who listen to its log only."""
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    return _optional.require("tifffile", "Reading TIFF files of many bands, 16-bit colors or 64-bit floats")


def _numbers(page: Any) -> Numbers:
    if page.dtype is None:
        raise WrongBands("its numbers have no type of their own")
    known = numbers_like(page.dtype)
    bits = page.bitspersample
    white = 2**bits - 1 if known.white is not None and isinstance(bits, int) else known.white
    return Numbers(known.name, known.dtype, white, inverted=int(page.photometric) == 0)


def _page_shape(page: Any) -> tuple[int, int, int]:
    """Return (height, width, bands) of a page."""
    shape = _stored_shape(page)
    return checked_shape((shape[1], shape[2], shape[0]) if _planar(page) else shape)


def _stored_shape(page: Any) -> tuple[int, ...]:
    if page.axes not in ("YX", "YXS", "SYX"):
        raise WrongBands(f"its first page has the axes {page.axes}, and an image has height, width and bands")
    return (*page.shape, 1) if page.axes == "YX" else page.shape


def _planar(page: Any) -> bool:
    return bool(page.axes == "SYX")


def _axis(page: Any) -> tuple[int, int]:
    """Return where a page's bands are, and where they shall be."""
    return (0 if _planar(page) else -1), -1


def _check_page(page: Any, stored: int, levels: Levels) -> None:
    """Raise an error if a page asks for more memory than it may, or is cut off."""
    if page.is_tiled:
        tile = (page.tilelength, page.tilewidth, page.samplesperpixel)
        check_numbers(tile, page.dtype.itemsize, stored, levels.max_pixels)
    ends = [place + size for place, size in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > stored:
        raise ValueError(f"it is cut off: its numbers end at byte {max(ends, default=0):,} of {stored:,}")
    if int(page.compression) != _PLAIN:
        # Which, unlike what tifffile has itself, decodes no further than to the size that the header says.
        _optional.require("imagecodecs", "Reading compressed TIFF files of many bands, or of 16-bit colors,")


def _channel_pages(file: Any, channels: int | None) -> list[int]:
    """Return which pages are the channels of the first image; the first alone where they are not."""
    count = len(file.pages)
    if not count:
        raise WrongBands("it has no page")
    if channels in (None, 1) or file.pages[0].samplesperpixel > 1:
        return [0]
    sizes, order = _dimensions(file)
    if sizes.get("C") != channels or count < channels:
        return [0]
    step = 1
    for axis in order[: order.index("C")]:
        step *= sizes.get(axis, 1)
    if (channels - 1) * step >= count:
        raise WrongBands(f"it says that it has {channels} channels, and has {count} pages")
    return [index * step for index in range(channels)]


def _dimensions(file: Any) -> tuple[dict[str, int], str]:
    """Return the numbers of channels, slices and times that OME or ImageJ wrote, and how their pages are ordered."""
    if file.is_imagej:
        known = file.imagej_metadata or {}
        return {"C": known.get("channels", 1), "Z": known.get("slices", 1), "T": known.get("frames", 1)}, "CZT"
    pixels = _PIXELS.search(file.ome_metadata or "") if file.is_ome else None
    order = _ORDER.search(pixels[0]) if pixels else None
    if pixels is None or order is None:
        return {}, "CZT"
    return {axis: int(size) for axis, size in _SIZE.findall(pixels[0])}, order[1].replace("X", "").replace("Y", "")


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image as its tag says.

    Reference: TIFF 6.0, section 8, Orientation.
    """
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image[:, ::-1] if orientation in (2, 3, 6, 7) else image
