"""Features of a frozen encoder, as an array."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.lib import format as npy

from keras_mae import _checks
from keras_mae.classifier import POOLINGS, pool
from keras_mae.encoder import ViTEncoder


class Features(NamedTuple):
    """What `extract_features` returns: features, float32 (images, embed_dim), and labels (images,) or `None`."""

    features: np.ndarray
    labels: np.ndarray | None


class _Extractor(keras.Model):
    """The encoder and the pooling, for Keras to compile."""

    def __init__(self, encoder: ViTEncoder, pooling: str):
        super().__init__(name="features", autocast=False)  # TensorFlow takes no name that starts with "_"
        self.encoder, self.pooling = encoder, pooling
        self.built = True

    def call(self, images: Any) -> Any:
        return keras.ops.cast(pool(self.encoder, images, self.pooling), "float32")


def extract_features(
    encoder: ViTEncoder,
    data: Any,
    labels: Any = None,
    pooling: str = "token",
    batch_size: int = 256,
    file: str | Path | None = None,
    progress: bool = True,
) -> Features:
    """One feature vector for each image, from the encoder as it is.

    Args:
        encoder: A `ViTEncoder`. It is not changed.
        data: Images (images, height, width, channels), 0–255, or a dataset of batches of images or of (images,
            labels), with or without a length. A dataset is gone through once, in its own order.
        labels: (images,), for images in an array.
        pooling: "token", the class token after the final norm; or "mean", the mean of the patch tokens before it.
        batch_size: Images at a time, for images in an array.
        file: A .npy file to write the features to. What is returned is then read from it as it is needed:
            features larger than memory. The file appears when it is complete.
        progress: Whether to show a progress bar.

    Returns:
        `Features`.

    Raises:
        ValueError: If the data are not images of the encoder's shape, or there are none.
    """
    _checks.one_of("pooling", pooling, POOLINGS)
    if not isinstance(encoder, ViTEncoder):
        raise _checks.argument_error("encoder", "a keras_mae.ViTEncoder, such as mae.encoder", encoder)
    extractor = _Extractor(encoder, pooling)
    found: list[np.ndarray] = []

    def extracted() -> Iterator[np.ndarray]:
        for images, their_labels in batches(data, labels, batch_size, progress):
            if tuple(images.shape[1:]) != encoder.image_shape:
                raise ValueError(
                    f"`data` must hold images of the encoder's shape {encoder.image_shape}. "
                    f"Received: images.shape={tuple(images.shape)}"
                )
            if their_labels is not None:
                found.append(np.asarray(their_labels))
            yield np.asarray(extractor.predict_on_batch(images), "float32")

    features = _collected(extracted()) if file is None else _written(extracted(), Path(file))
    return Features(features, np.concatenate(found) if found else None)


def _collected(parts: Iterator[np.ndarray]) -> np.ndarray:
    collected = list(parts)
    if not collected:
        raise ValueError("`data` must hold at least one batch of images. Received: none")
    return np.concatenate(collected)


def _written(parts: Iterator[np.ndarray], file: Path) -> np.ndarray:
    """The parts in a .npy file, memory-mapped."""
    if file.suffix != ".npy":
        raise _checks.argument_error("file", "a name that ends in .npy", str(file))
    unfinished = file.with_name(f".{file.name}.unfinished")
    rows = 0
    try:
        with unfinished.open("wb") as stream:

            def write_header(width: int) -> None:
                # NumPy leaves room in the header for the first axis to grow: it can be written again in place.
                header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
                stream.seek(0)
                npy.write_array_header_2_0(stream, header)

            for part in parts:
                if not rows:
                    write_header(part.shape[1])
                stream.write(np.ascontiguousarray(part, "<f4").tobytes())
                rows += len(part)
            if not rows:
                raise ValueError("`data` must hold at least one batch of images. Received: none")
            write_header(part.shape[1])
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return np.load(file, mmap_mode="r")


def batches(
    data: Any, labels: Any = None, batch_size: int = 256, progress: bool = False
) -> Iterator[tuple[Any, Any]]:
    """(images, labels or None) of arrays or of any dataset, as NumPy arrays, with a progress bar if asked for."""
    _checks.positive_int("batch_size", batch_size)
    if isinstance(data, tuple) and labels is None and len(data) == 2:
        data, labels = data
    if hasattr(data, "shape"):
        if labels is not None and len(labels) != len(data):
            raise ValueError(f"`labels` must be one for each image. Received: {len(labels)} for {len(data)} images")
        total: int | None = math.ceil(len(data) / batch_size)
        parts: Any = (
            (data[start : start + batch_size], None if labels is None else labels[start : start + batch_size])
            for start in range(0, len(data), batch_size)
        )
    else:
        try:
            total = len(data)
        except TypeError:
            total = None
        # A PyDataset goes by index, and does not end by itself when it is iterated over.
        parts = (data[index] for index in range(total or 0)) if isinstance(data, keras.utils.PyDataset) else data
    if progress:
        from rich.progress import track

        parts = track(parts, "features", total=total, transient=True)
    for part in parts:
        images, their_labels, _ = keras.utils.unpack_x_y_sample_weight(part if isinstance(part, tuple) else (part,))
        yield _numpy(images), None if their_labels is None else _numpy(their_labels)


def _numpy(array: Any) -> np.ndarray:
    return array.numpy() if hasattr(array, "numpy") else np.asarray(array)
