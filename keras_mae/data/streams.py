"""Images that can only be read from front to back: TFRecord files, TFDS, any `tf.data.Dataset`."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_mae import _checks, _class_names, _optional
from keras_mae.data import images as image_files
from keras_mae.data.crops import Crop
from keras_mae.data.levels import Levels
from keras_mae.data.sources import Generators
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["Stream", "dataset_stream"]


class Stream:
    """A `tf.data.Dataset` of single images, encoded or not, and how they become crops of one size.

    Args:
        name: Name of the data in errors.
        items: Function of (shuffle, seed) that makes a dataset of (image, label): the bytes of an image file or an
            array (height, width, channels) in `pixel_range`, and an integer, 0 where there are no labels.
        image_size: Side in pixels of the images to make, or (height, width).
        channels: Channels of the images to make: 1, 3 or 4; for arrays, their own.
        labeled: Whether elements carry real labels.
        count: Number of images, if known.
        allow_damaged: Largest share of images, in [0, 1], that may fail to decode in an epoch. They are skipped and
            listed in a warning at its end; more of them are an error. Above 0 the length is unknown. With 0 the first
            such image raises an error that names it.
        class_names: Names of the classes, in the order of the labels.
        dtype: dtype of the images to make: uint8, or float32 for arrays of floats.
        sized: Whether all images come in the shape wanted.
        shuffle_buffer: Size of the buffer from which shuffling draws the next image.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`; images in any other than
            (0, 255) are made as float32.
        white_level: Number that becomes 255 in encoded grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest encoded image to read, as for `read_image`.
        fingerprint: Function that returns JSON values that tell the data from others.
        unpack: Function that makes (image, label, name) of the values of an element of `items` that are something
            else. Its errors are those of a damaged image.
    """

    labels = None
    places: np.ndarray | None = None
    """What `load` makes of each label, if not itself."""

    def __init__(
        self,
        name: str,
        items: Callable[[bool, int], Any],
        *,
        image_size: int | tuple[int, int],
        channels: int,
        labeled: bool,
        count: int | None = None,
        allow_damaged: float = 0.0,
        class_names: Sequence[str] | None = None,
        dtype: str = "uint8",
        sized: bool = False,
        shuffle_buffer: int = 4096,
        pixel_range: PixelRange = BYTES,
        white_level: int | None = None,
        max_pixels: int | None = None,
        fingerprint: Callable[[], dict[str, Any]] | None = None,
        unpack: Callable[..., tuple[Any, int, str]] | None = None,
    ):
        self.name = _checks.text("name", name)
        self.items = _checks.function("items", items, "a function of (shuffle, seed) that returns a dataset")
        self.labeled, self.sized = _checks.boolean("labeled", labeled), _checks.boolean("sized", sized)
        self.allow_damaged = _checks.within("allow_damaged", allow_damaged, 1)
        self.image_shape = (*_checks.pair("image_size", image_size), _checks.positive_int("channels", channels))
        known: int | None = _checks.optional(_checks.count, "count", count)
        self.count = None if self.skips else known
        self.class_names = _class_names.checked(class_names)
        self.levels = Levels(pixel_range, white_level, max_pixels)
        _checks.one_of("dtype", dtype, ("uint8", "float32"))
        self.dtype = self.levels.dtype if self.levels.own_units else np.dtype(dtype)
        self.shuffle_buffer = _checks.positive_int("shuffle_buffer", shuffle_buffer)
        if unpack is not None:
            _checks.function("unpack", unpack, "a function of an element's values, or None")
        self._fingerprint, self._unpack = fingerprint, unpack
        self._seen, self._bad, self._lock = 0, list[str](), threading.Lock()

    def __len__(self) -> int:
        if self.count is None:
            raise TypeError(f"The number of images in {self.name} is not known")
        return self.count

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images from others."""
        if self._fingerprint is not None:
            return self._fingerprint()
        return {"kind": "stream", "name": self.name, "images": self.count, "image_shape": list(self.image_shape)}

    @property
    def skips(self) -> bool:
        """Whether damaged images are skipped, and not an error at once."""
        return self.allow_damaged > 0

    def views(self, image: Any, index: int, crop: Crop | None, generators: Generators) -> np.ndarray | None:
        """Cut the image that is number `index`, as `Source.batch` does.

        Returns:
            The crops, (crops, height, width, channels), or `None` where the image cannot be decoded and is skipped.
        """
        return self._views(lambda: (image, 0, ""), index, crop, generators)[0]

    def load(
        self, element: Sequence[Any], index: int, crop: Crop | None, generators: Generators
    ) -> tuple[np.ndarray | None, int]:
        """Return what `views` does of an element of `items`, whose values are NumPy's, and the label."""
        image_of = self._unpack or (lambda image, label: (image, label, ""))
        pixels, label = self._views(lambda: image_of(*element), index, crop, generators)
        if pixels is None or self.places is None:
            return pixels, label
        if not 0 <= label < len(self.places):
            raise ValueError(
                f"Labels in {self.name} must be numbers of its {len(self.places)} classes. Received: {label}"
            )
        return pixels, int(self.places[label])

    def _views(
        self, opened: Callable[[], tuple[Any, int, str]], index: int, crop: Crop | None, generators: Generators
    ) -> tuple[np.ndarray | None, int]:
        try:
            image, label, name = opened()
            return self._cut(image, name or f"number {index} of {self.name}", crop, generators(index)), int(label)
        except ValueError as error:
            if not self.skips:
                raise
            with self._lock:
                self._bad.append(str(error))
            return None, 0
        finally:
            with self._lock:
                self._seen += 1

    def _cut(self, image: Any, name: str, crop: Crop | None, generators: Sequence[np.random.Generator]) -> np.ndarray:
        least, most = self.levels.pixel_range
        if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or self.levels.own_units):
            values = image.astype("float32", copy=False)
            low, high = values.min(), values.max()
            divided = not self.levels.own_units and self.dtype.kind == "f" and 0 < high <= 1
            if not least <= low <= high <= most or divided:  # NaN is not
                raise ValueError(
                    f"Images must be finite and in {least:.10g}-{most:.10g}. "
                    f"Received: {name} with values from {low:.4g} to {high:.4g}"
                )
            image = image.astype(self.dtype, copy=False)
        if crop is None:
            return np.asarray(image)[None]
        return np.stack(image_files.views(image, name, self.image_shape, crop, generators, self.levels))

    def start_of_epoch(self) -> None:
        """Forget what was counted in an epoch that was left before its end."""
        with self._lock:
            self._seen, self._bad = 0, []

    def too_short(self) -> None:
        """Raise ValueError: the data ended before their number was reached."""
        raise ValueError(
            f"`count` must be the number of images in {self.name}, which end early. Received: {self.count}"
        )

    def end_of_epoch(self) -> None:
        """Warn of what was skipped since the last call.

        Raises:
            ValueError: If it was more than `allow_damaged`.
        """
        with self._lock:
            seen, bad, self._seen, self._bad = self._seen, self._bad, 0, []
        if len(bad) > self.allow_damaged * seen:
            raise ValueError(
                f"At most {self.allow_damaged:.2%} of the images may be damaged (`allow_damaged`). Received: "
                f"{len(bad)} of {seen:,} in {self.name}: " + "; ".join(bad[:5])
            )
        if bad:
            listed = "\n".join(bad)
            warnings.warn(f"{len(bad)} of {seen:,} images of {self.name} are damaged:\n{listed}", stacklevel=2)


def dataset_stream(
    dataset: Any, image_size: int | tuple[int, int] | None, channels: int, allow_damaged: float, levels: Levels
) -> Stream:
    """Return any `tf.data.Dataset` of images as a stream; see `from_dataset`."""
    tf = _optional.require("tensorflow", "Reading a tf.data.Dataset")
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(f"`dataset` must be a tf.data.Dataset. Received: a {type(dataset).__name__}")
    image, label = (_part(dataset.element_spec, part) for part in (0, 1))
    batched, shape = _layout(tf, dataset.element_spec, image, label)
    encoded = image.dtype == tf.string

    def pair(*element: Any) -> Any:
        element = element[0] if len(element) == 1 else element
        number = _part(element, 1)
        return _part(element, 0), tf.zeros((), tf.int64) if number is None else tf.cast(number, tf.int64)

    single = dataset.unbatch() if batched else dataset
    own_size = None if encoded or None in shape[:2] else (shape[0], shape[1])
    size = own_size or 224 if image_size is None else _checks.pair("image_size", image_size)
    count = int(single.cardinality())
    return Stream(
        "the dataset",
        lambda shuffle, seed: single.map(pair),
        image_size=size,
        channels=_checks.positive_int("channels", channels) if encoded else shape[2],
        labeled=label is not None,
        count=count if count >= 0 else None,
        allow_damaged=allow_damaged,
        class_names=None if label is None else _class_names.named(dataset),
        dtype="float32" if image.dtype.is_floating else "uint8",
        sized=size == own_size,
        pixel_range=levels.pixel_range,
        white_level=levels.white_level,
        max_pixels=levels.max_pixels,
    )


def _layout(tf: Any, element_spec: Any, image: Any, label: Any) -> tuple[bool, Any]:
    """Return whether elements are batches, and the shape of a single image.

    Raises:
        ValueError: If the elements are not images, with or without labels.
    """
    ranks = (0,) if image.shape.rank == 0 else (0, 1)
    if label is not None and (not label.dtype.is_integer or label.shape.rank not in ranks):
        raise ValueError(f"Labels must be integers, one for each image. Received: {label}")
    batched = image.shape.rank in (1, 4) if label is None else label.shape.rank == 1
    shape = image.shape[1:] if batched else image.shape
    encoded = image.dtype == tf.string
    if shape.rank != (0 if encoded else 3):
        raise ValueError(
            "Elements must be images, (images, labels) or dicts with 'image' and 'label'; arrays (height, width, "
            "channels) in 0-255 or the bytes of image files; in batches or one by one. "
            f"Received: {element_spec}"
        )
    if not encoded and shape[2] is None:
        raise ValueError(f"Images must have a known number of channels. Received: {image}")
    return batched, shape


def _part(element: Any, part: int) -> Any:
    """Return the image (0) or label (1) of an element or its spec; `None` where there is no label."""
    if isinstance(element, dict):
        names = (("image", "images"), ("label", "labels"))[part]
        present = [element[name] for name in names if name in element]
        if not present and part == 0:
            raise ValueError(f"Dicts must have the key 'image'. Received: the keys {sorted(element)}")
        return present[0] if present else None
    if isinstance(element, tuple | list):
        return element[part] if len(element) > part else None
    return element if part == 0 else None
