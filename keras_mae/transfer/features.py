"""Features of a frozen encoder, as an array."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import keras
import numpy as np
from numpy.lib import format as npy

from keras_mae import _checks, _class_names, _files, pixels
from keras_mae.classifier import ViTClassifier
from keras_mae.data.reading import numpy_batches
from keras_mae.encoder import ViTEncoder
from keras_mae.pooling import POOLINGS, check_pooling, pool, pool_tokens

__all__ = ["Features", "checked_pooling", "extract_features", "feature_batches"]


class _Pair(NamedTuple):
    features: np.ndarray
    labels: np.ndarray | None


class Features(_Pair):
    """What `extract_features` returns: the pair (features, labels).

    Attributes:
        features: float32 (images, width).
        labels: Labels (images,), or `None` where there are none.
        class_names: Names of the classes, in the order of the labels, if the dataset has any; not part of the pair.
    """

    class_names: tuple[str, ...] | None = None


class _Extractor(keras.Model):
    """The encoder and the pooling, for Keras to compile."""

    def __init__(self, model: ViTEncoder | ViTClassifier, pooling: str, block: int | None):
        super().__init__(name="features", autocast=False)  # TensorFlow takes no name that starts with "_"
        self.model, self.pooling, self.block = model, pooling, block
        self.built = True

    def call(self, images: Any) -> Any:
        if isinstance(self.model, ViTClassifier):
            return self.model.features(images, training=False)
        if self.block is None:
            return keras.ops.cast(pool(self.model, images, self.pooling), "float32")
        tokens = self.model.encode(images, training=False, blocks=(self.block,))[0]
        return keras.ops.cast(pool_tokens(self.model, tokens, self.pooling), "float32")


def extract_features(
    encoder: ViTEncoder | ViTClassifier,
    data: Any,
    labels: Any = None,
    *,
    pooling: str | None = None,
    block: int | None = None,
    batch_size: int = 256,
    file: str | Path | None = None,
    progress: bool = True,
) -> Features:
    """Compute one feature vector for each image, with the encoder as it is.

    Args:
        encoder: A `ViTEncoder`; or a trained `ViTClassifier`, whose features are what its head sees, before the
            BatchNorm if there is one. It is not changed.
        data: Images (images, height, width, channels) in the encoder's `pixel_range`, or a dataset of batches of
            images or of (images, labels), with or without a length. A dataset is read once, in its own order.
        labels: Labels (images,), for images in an array.
        pooling: "token", the class token after the final norm or the mean of several, by default; "mean", the mean of
            the patch tokens before it; or "flatten", all patch tokens after it, one after the other. Of a classifier
            it is the classifier's own, as "attentive" always is: its queries are learned.
        block: Index of the encoder's block whose tokens are pooled, from 0, or from the end if negative; the last by
            default. "token" and "flatten" take the final norm of an inner block's tokens, too. Not for a classifier,
            whose head sees the last block.
        batch_size: Images at a time, for images in an array.
        file: Path of a .npy file to write the features to. The features returned are then memory-mapped, and may be
            larger than memory. The file appears when it is complete.
        progress: Whether to show a progress bar.

    Returns:
        `Features`: the features, float32 (images, embed_dim), or (images, patches * embed_dim) for "flatten", and the
        labels, (images,) or `None`.

    Raises:
        ValueError: If the data are not images of the encoder's shape and range, there are none, or this pooling is
            not to be had.
    """
    _checks.boolean("progress", progress)
    path = None if file is None else _checks.path("file", file, "a name that ends in .npy")
    if path is not None and path.suffix != ".npy":
        raise _checks.argument_error("file", "a name that ends in .npy", str(file))
    batches = feature_batches(
        encoder, data, labels, pooling=pooling, block=block, batch_size=batch_size, progress=progress
    )
    label_parts: list[np.ndarray] = []

    def feature_parts() -> Iterator[np.ndarray]:
        for part, batch_labels in batches:
            if batch_labels is not None:
                label_parts.append(np.asarray(batch_labels))
            yield part

    features = _collect(feature_parts()) if path is None else _write(feature_parts(), path)
    found = Features(features, np.concatenate(label_parts) if label_parts else None)
    found.class_names = _class_names.named(data)
    return found


def feature_batches(
    encoder: ViTEncoder | ViTClassifier,
    data: Any,
    labels: Any = None,
    *,
    pooling: str | None = None,
    block: int | None = None,
    batch_size: int = 256,
    progress: bool = True,
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Return batches of features, float32 (batch, width), and of labels, as they are computed.

    The arguments, and what is raised, are those of `extract_features`; `pooling` and `block` are checked at once.
    """
    extractor = _Extractor(encoder, checked_pooling(encoder, pooling), _checked_block(encoder, block))
    looking = encoder.encoder if isinstance(encoder, ViTClassifier) else encoder

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        begun = False
        for images, batch_labels in numpy_batches(data, labels, batch_size, progress=progress):
            if not begun:
                looking.look(images, together=False)
                begun = True
            pixels.check_shape(images.shape, looking.image_shape)
            yield np.asarray(extractor.predict_on_batch(images), "float32"), batch_labels

    return batches()


def _checked_block(model: Any, block: Any) -> int | None:
    """Return the index of an encoder's block from 0, `None` for the last one."""
    if block is None:
        return None
    if isinstance(model, ViTClassifier):
        raise _checks.argument_error("block", "None for a classifier, whose head sees the last one", block)
    depth: int = model.depth
    if isinstance(block, bool) or not isinstance(block, int | np.integer) or not -depth <= block < depth:
        raise _checks.argument_error("block", f"the index of a block, from {-depth} to {depth - 1}", block)
    return int(block) % depth


def checked_pooling(model: Any, pooling: str | None) -> str:
    """Return the pooling that was asked for, if this model can do it."""
    if isinstance(model, ViTClassifier):
        if pooling not in (None, model.pooling):
            raise _checks.argument_error(
                "pooling", f"the classifier's own, {model.pooling!r}; its encoder takes others", pooling
            )
        return str(model.pooling)
    _checks.one_of("pooling", pooling or "token", POOLINGS)
    if not isinstance(model, ViTEncoder):
        raise _checks.argument_error(
            "encoder", "a keras_mae.ViTEncoder, such as mae.encoder, or a trained ViTClassifier", model
        )
    if pooling == "attentive":
        raise ValueError(
            "Attentive pooling has learned queries, and an encoder alone has none: give a ViTClassifier that was "
            "trained with pooling=\"attentive\". Received: pooling='attentive' for a ViTEncoder"
        )
    return check_pooling(model, pooling or "token")


def _collect(parts: Iterator[np.ndarray]) -> np.ndarray:
    collected = list(parts)
    if not collected:
        raise _no_images()
    return np.concatenate(collected)


def _write(parts: Iterator[np.ndarray], file: Path) -> np.ndarray:
    """Write the parts to a .npy file, and return it memory-mapped."""
    rows, width = 0, 0
    with _files.whole(file) as unfinished, unfinished.open("wb") as stream:
        for part in parts:
            if not rows:
                width = part.shape[1]
                _write_header(stream, rows, width)
            stream.write(np.ascontiguousarray(part, "<f4").tobytes())
            rows += len(part)
        if not rows:
            raise _no_images()
        _write_header(stream, rows, width)
    written: np.ndarray = np.load(file, mmap_mode="r")
    return written


def _write_header(stream: BinaryIO, rows: int, width: int) -> None:
    # NumPy leaves room in the header for the first axis to grow: it can be written again in place.
    stream.seek(0)
    npy.write_array_header_2_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})


def _no_images() -> ValueError:
    return ValueError("`data` must hold at least one batch of images. Received: none")
