"""Formats that Pillow reads with a plug-in only: which one, whether it is there, and what a file is without it."""

from __future__ import annotations

import contextlib
import functools
import logging
from pathlib import Path
from typing import Any

__all__ = ["how_to_read", "reason", "register", "unread"]

_ENDINGS = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics"), "HEIC"),
    **dict.fromkeys((".avif", ".avifs"), "AVIF"),
    ".jxl": "JPEG XL",
    **dict.fromkeys((".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"), "raw"),
}
_FORMATS = {"HEIC": "HEIF", "AVIF": "AVIF", "JPEG XL": "JXL"}  # names that Pillow knows them by
_PLUG_INS = {"HEIC": "pillow-heif", "AVIF": "pillow-avif-plugin", "JPEG XL": "pillow-jxl-plugin"}


@functools.cache
def register(pillow: Any) -> None:
    """Have Pillow read what the plug-ins that are installed read; once, and not in place of one that does already."""
    pillow.init()
    # Of TIFF files with many bands, which tifffile reads, it would complain wherever nobody listens to its log.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    known = set(pillow.registered_extensions().values())
    if "HEIF" not in known:
        with contextlib.suppress(ImportError):
            import pillow_heif

            pillow_heif.register_heif_opener()
    if "AVIF" not in known:
        with contextlib.suppress(ImportError):
            import pillow_avif  # noqa: F401  (it registers itself)
    if "JXL" not in known:
        with contextlib.suppress(ImportError):
            import pillow_jxl  # noqa: F401


def how_to_read(kind: str) -> str:
    """Return what a user can do about images of a kind that is not read."""
    return f"pip install {_PLUG_INS[kind]}" if kind in _PLUG_INS else "make JPEG or TIFF files of them"


def unread(ending: str) -> str:
    """Return the kind of image that files with this ending are, of those that take a plug-in; "" of all others."""
    return _ENDINGS.get(ending, "")


def reason(pillow: Any, image: str | Path | bytes) -> str:
    """Return why Pillow does not know a file, by its first bytes; "" if they do not tell.

    Reference: ISO/IEC 23008-12, annex B (brands of HEIF files); ISO/IEC 18181-2 (JPEG XL).
    """
    if isinstance(image, bytes):
        head = image[:64]
    else:
        with open(image, "rb") as opened:
            head = opened.read(64)
    kind = ""
    if head[4:8] == b"ftyp":
        brands = head[8 : min(int.from_bytes(head[:4], "big"), 64)]
        if b"avif" in brands or b"avis" in brands:
            kind = "AVIF"
        elif any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")):
            kind = "HEIC"
    elif head[:2] == b"\xff\x0a" or head[:8] == b"\0\0\0\x0cJXL ":
        kind = "JPEG XL"
    if not kind:
        return ""
    if _FORMATS[kind] in pillow.registered_extensions().values():
        return f"it is a damaged image in the format {kind}"
    return f"it is an image in the format {kind}, which takes a plug-in for Pillow: {how_to_read(kind)}"
