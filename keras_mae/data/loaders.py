"""A source as shuffled batches for `fit`: through tf.data, or without TensorFlow."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import keras
import numpy as np

from keras_mae import _checks
from keras_mae.data.augment import Augmentation
from keras_mae.data.sources import Source

LOADERS = ("tf.data", "python")


def make_dataset(
    source: Source,
    batch_size: int,
    shuffle: bool = True,
    seed: int = 0,
    drop_remainder: bool = False,
    loader: Any = None,
    augment: Augmentation | None = None,
) -> Any:
    """Batches of images, or of images and labels, decoded in parallel with training, in another order every epoch.

    Args:
        source: An `ArraySource` or `FolderSource`.
        batch_size: Images in a batch.
        shuffle: Whether to shuffle, over the whole source.
        seed: Of the order.
        drop_remainder: Whether to leave out the last batch of an epoch if it is not full. Every batch then has
            the same shape, and XLA compiles once.
        loader: "tf.data" or "python" (threads of a `keras.utils.PyDataset`, no TensorFlow needed). By default
            tf.data where TensorFlow is installed.
        augment: What to do to every batch of images and labels.

    Returns:
        A dataset for `fit`, with a length: of images, and of (images, labels) where the source has labels.

    Raises:
        ValueError: If an argument is out of range, or no batch would be left.
    """
    _checks.positive_int("batch_size", batch_size)
    _checks.seed_int("seed", seed)
    if loader is None:
        loader = "tf.data" if importlib.util.find_spec("tensorflow") else "python"
    _checks.one_of("loader", loader, LOADERS)
    if drop_remainder and len(source) < batch_size:
        raise ValueError(
            "`batch_size` must not exceed the number of images when the last batch is dropped. "
            f"Received: batch_size={batch_size} for {len(source)} images"
        )
    if augment is not None:
        _check_augmentable(source, augment)
    make = _tf_data if loader == "tf.data" else _PythonDataset
    return make(source, batch_size, shuffle, seed, drop_remainder, augment)


def _check_augmentable(source: Source, augment: Augmentation) -> None:
    if source.labels is None:
        raise ValueError("`augment` takes a source with labels. Received: one without")
    if source.labels.max() >= augment.num_classes:
        raise ValueError(
            f"`labels` must be in [0, {augment.num_classes}), the classes of `augment`. "
            f"Received: labels up to {source.labels.max()}"
        )


def _tf_data(
    source: Source, batch_size: int, shuffle: bool, seed: int, drop_remainder: bool, augment: Augmentation | None
) -> Any:
    import tensorflow as tf

    def load(indices: Any) -> Any:
        # Pillow decodes and resizes outside Python's lock, so that these calls do run side by side, and both
        # loaders give the same pixels.
        images = tf.numpy_function(source.batch, [indices], source.dtype, stateful=False)
        images = tf.ensure_shape(images, (batch_size if drop_remainder else None, *source.image_shape))
        if source.labels is None:
            return images
        labels = tf.gather(source.labels, indices)
        return (images, labels) if augment is None else augment(images, labels)

    dataset = tf.data.Dataset.range(len(source))
    if shuffle:
        dataset = dataset.shuffle(len(source), seed=seed)
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


class _PythonDataset(keras.utils.PyDataset):
    """Batches by index, loaded by threads ahead of training."""

    def __init__(
        self,
        source: Source,
        batch_size: int,
        shuffle: bool,
        seed: int,
        drop_remainder: bool,
        augment: Augmentation | None,
    ):
        # One thread where draws are made: two would take them in any order.
        super().__init__(workers=2 if augment is None else 1, use_multiprocessing=False)
        self._augment = augment
        self._source, self._batch_size, self._shuffle, self._seed = source, batch_size, shuffle, seed
        self._batches = len(source) // batch_size if drop_remainder else math.ceil(len(source) / batch_size)
        self._epoch = 0
        self._order = self._draw()

    def _draw(self) -> np.ndarray:
        if not self._shuffle:
            return np.arange(len(self._source))
        return np.random.default_rng((self._seed, self._epoch)).permutation(len(self._source))

    @property
    def num_batches(self) -> int:
        return self._batches

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> Any:
        start = index * self._batch_size
        chosen = self._order[start : start + self._batch_size]
        images = self._source.batch(chosen)
        if self._source.labels is None:
            return images
        labels = self._source.labels[chosen]
        return (images, labels) if self._augment is None else self._augment(images, labels)

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._order = self._draw()
