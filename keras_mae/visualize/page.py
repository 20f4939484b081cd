"""A map of images as one HTML file: points that show their image, and that can be zoomed into."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _optional
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.visualize.figures import as_shown

__all__ = ["map_page"]

_DATA = "/*DATA*/"
_QUALITY = 80  # of JPEG


def map_page(
    coordinates: Any,
    names: Sequence[str],
    classes: Sequence[str] | None = None,
    images: Iterable[np.ndarray | None] | None = None,
    *,
    title: str = "Map",
    thumbnail: int = 64,
    bands: int | Sequence[int] | None = None,
    pixel_range: PixelRange = BYTES,
) -> str:
    """Return an HTML page with a point for each image, which shows its name, class and picture under the pointer.

    The page needs no other file and no network, and forbids itself to ask for any. Names are shown as text, whatever
    is in them.

    Args:
        coordinates: Places (images, 2), such as those of `transfer.map_coordinates`.
        names: Name of each image.
        classes: Name of the class of each image, which gives it its mark: a color and a shape, different ones for up
            to 49 classes. By default all images have the same.
        images: Image (height, width, channels) for each, or `None` for one without a picture; by default there are
            none. They are taken one by one, and may be read as they are asked for.
        title: Title of the page.
        thumbnail: Longest side, in pixels, of the pictures.
        bands: Channels to show, as for `reconstructions`.
        pixel_range: (low, high), the smallest and the largest value that a pixel may have.

    Returns:
        The text of the page; write it in UTF-8.

    Raises:
        ImportError: If there are images, and Pillow is missing.
        ValueError: If the arguments are not equally many.
    """
    rule = "finite numbers (images, 2)"
    places = _checks.array("coordinates", coordinates, rule)
    if places.ndim != 2 or places.shape[1] != 2 or places.dtype.kind not in "iuf" or not np.isfinite(places).all():
        raise ValueError(f"`coordinates` must be {rule}. Received: coordinates.shape={places.shape}, or NaN in them")
    _checks.text("title", title)
    _checks.positive_int("thumbnail", thumbnail)
    given: dict[str, Any] = {"names": names, "classes": classes}
    for argument, values in given.items():
        if values is None and argument != "names":
            continue
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != len(places):
            raise _checks.argument_error(argument, f"one for each of the {len(places)} places", type(values).__name__)
    if images is not None and (isinstance(images, str) or not isinstance(images, Iterable)):
        raise _checks.argument_error("images", "arrays (height, width, channels), or None for one without", images)
    pictures = [] if images is None else [_picture(image, thumbnail, bands, pixel_range) for image in images]
    if images is not None and len(pictures) != len(places):
        raise _checks.argument_error("images", f"one for each of the {len(places)} places", len(pictures))
    kinds = sorted(set(classes)) if classes is not None else []
    numbers = {name: number for number, name in enumerate(kinds)}
    centered = places - (places.max(axis=0) + places.min(axis=0)) / 2
    scaled = centered / max(np.abs(centered).max(), 1e-12)
    data: dict[str, Any] = {
        "title": title,
        "places": [[round(float(x), 5), round(float(y), 5)] for x, y in scaled],
        "names": [str(name) for name in names],
        "kinds": [str(kind) for kind in kinds],
        "classes": [] if classes is None else [numbers[name] for name in classes],
        "pictures": pictures,
    }
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    before, after = template.split(_DATA)
    return before + _as_script(data) + after


def _as_script(data: Any) -> str:
    """Return JSON that ends no script element, and no line of one, whatever texts it holds."""
    text = json.dumps(data, separators=(",", ":"))  # ASCII only: all else is escaped
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _picture(
    image: np.ndarray | None, side: int, bands: int | Sequence[int] | None, pixel_range: PixelRange
) -> str | None:
    """Return an image as the address of its own JPEG, or PNG where that is small."""
    if image is None:
        return None
    if not isinstance(image, np.ndarray) or image.ndim != 3:
        raise _checks.argument_error("images", "arrays (height, width, channels), or None", type(image).__name__)
    pillow = _optional.require("PIL.Image", "Drawing thumbnails")
    pixels = (as_shown(image, bands, pixel_range) * 255).round().astype("uint8")
    picture = pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((side, side))
    kind = "png" if max(picture.size) <= 32 else "jpeg"
    written = io.BytesIO()
    picture.save(written, kind, **({"optimize": True} if kind == "png" else {"quality": _QUALITY}))
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"
