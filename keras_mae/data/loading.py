"""A source in batches: through tf.data, or through Grain without TensorFlow."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

from keras_mae import _checks, _class_names
from keras_mae.data import tf_data
from keras_mae.data.augment import Augmentation
from keras_mae.data.batches import Batches, Plan, check_options, checked_shard
from keras_mae.data.crops import CenterCrop, Crop, RandomResizedCrop
from keras_mae.data.file_names import names_of
from keras_mae.data.grain_data import GrainDataset
from keras_mae.data.pair_crops import SegmentationCrop, WholeImage
from keras_mae.data.sources import Source, check_source
from keras_mae.data.streams import Stream

__all__ = ["make_dataset"]

_LOADERS = ("tf.data", "grain")


def make_dataset(
    source: Source | Stream,
    batch_size: int,
    *,
    shuffle: bool = True,
    seed: int = 0,
    drop_remainder: bool = False,
    loader: str | None = None,
    augment: Augmentation | None = None,
    crop: Crop | None = None,
    crops_per_image: int = 1,
    shard: tuple[int, int] | None = None,
    workers: int | None = None,
) -> Any:
    """Load a source in batches, in parallel with training and in a different order every epoch.

    Args:
        source: An `ArraySource`, `FolderSource`, `RecordSource`, `Subset`, one of images with segmentation masks
            (`ArrayPairs`, `FolderPairs`), or, for tf.data, a `Stream`.
        batch_size: Images in a batch of all workers together, each crop counted.
        shuffle: Whether to shuffle: a source over its whole length, a `Stream` within its buffer.
        seed: Seed for order and crops; the same seed reproduces both.
        drop_remainder: Whether to leave out the last batch of an epoch if it is not full. Every batch then has
            the same shape, and XLA compiles once.
        loader: "tf.data", or "grain" (no TensorFlow needed). By default tf.data where TensorFlow is installed.
        augment: Augmentation of every batch of images and labels.
        crop: `RandomResizedCrop`, `CenterCrop`, or a function like them. For images of various sizes the default is
            `RandomResizedCrop()` with `shuffle`, which is for training, and `CenterCrop()` without; of images with
            segmentation masks `SegmentationCrop()` and `WholeImage()`.
        crops_per_image: Crops to take of each image once it is decoded, next to one another in the batch (repeated
            sampling); an epoch has as many times more batches. Useful where decoding limits training.
        shard: (index, count) of this worker, which gets its part of every batch. By default what the enclosing
            `keras_mae.distribution.scope` says, and outside of one all of every batch.
        workers: Parallel calls that load (tf.data; one a core by default), or processes (grain; by default none:
            threads of this process).

    Returns:
        A dataset for `fit`: images, or (images, labels) where the source has labels. It has a length unless it is a
        `Stream` whose number of images is unknown. Its `class_names` are the source's: a tuple, or `None`. Without
        `shuffle`, `image_names()` are the names of the images' files in their order, `None` for those without.
        Segmentation masks are its labels, (batch, height, width), and it has `num_classes`,
        `ignore_label` and `reduce_zero_label`.

    Raises:
        ValueError: If an argument is out of range, or no batch would be left.
    """
    check_source(source)
    check_options(batch_size, shuffle, seed, drop_remainder, crops_per_image, workers)
    shard = checked_shard(shard, batch_size, crops_per_image, drop_remainder)
    if crop is None and not source.sized:
        crop = _usual_crop(source, shuffle)
    plan = Plan(batch_size, shuffle, seed, drop_remainder, augment, crop, crops_per_image, shard, workers)
    plan.check(source)
    dataset = _loaded(source, plan, loader)
    dataset.class_names = _class_names.named(source)
    dataset.image_names = None if shuffle else partial(names_of, source)
    if masks := getattr(source, "masks", None):
        dataset.num_classes, dataset.ignore_label = masks.num_classes, masks.ignore_label
        dataset.reduce_zero_label = masks.reduce_zero_label
    return dataset


def _usual_crop(source: Source | Stream, shuffle: bool) -> Crop:
    if getattr(source, "masks", None):
        return SegmentationCrop() if shuffle else WholeImage()
    return RandomResizedCrop() if shuffle else CenterCrop()


def _loaded(source: Source | Stream, plan: Plan, loader: str | None) -> Any:
    if isinstance(source, Stream):
        _check_stream_loader(source, loader)
        return tf_data.stream_dataset(source, plan)
    if loader is None:
        loader = "tf.data" if importlib.util.find_spec("tensorflow") else "grain"
    grain = _checks.one_of("loader", loader, _LOADERS) == "grain"
    batches = Batches(source, plan)
    return GrainDataset(batches) if grain else tf_data.dataset(batches)


def _check_stream_loader(stream: Stream, loader: str | None) -> None:
    if _checks.one_of("loader", loader or "tf.data", _LOADERS) == "grain":
        raise ValueError(
            f"Grain reads by index, and {stream.name} can only be read from front to back: use "
            "loader='tf.data', or have `keras-mae prepare` write it as ArrayRecord"
        )
