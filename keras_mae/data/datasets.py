"""A source as batches for `fit`: through tf.data, or through Grain without TensorFlow."""

from __future__ import annotations

import importlib.util
from typing import Any

from keras_mae import _checks, distribution
from keras_mae.data.augment import Augmentation
from keras_mae.data.batches import Batches, Plan
from keras_mae.data.crops import CenterCrop, Crop, RandomResizedCrop
from keras_mae.data.sources import Source
from keras_mae.data.streams import Stream

LOADERS = ("tf.data", "grain")


def make_dataset(
    source: Source | Stream,
    batch_size: int,
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
    """Batches of images, or of images and labels, loaded in parallel with training, in another order every epoch.

    Args:
        source: An `ArraySource`, `FolderSource`, `RecordSource`, `Subset`, or, for tf.data, a `Stream`.
        batch_size: Images in a batch, each crop counted; of all workers together.
        shuffle: Whether to shuffle: a source over its whole length, a `Stream` within its buffer.
        seed: Of order and crops: for the same seed, both are the same again.
        drop_remainder: Whether to leave out the last batch of an epoch if it is not full. Every batch then has
            the same shape, and XLA compiles once.
        loader: "tf.data", or "grain" (no TensorFlow needed). By default tf.data where TensorFlow is installed.
        augment: What to do to every batch of images and labels.
        crop: `RandomResizedCrop`, `CenterCrop`, or a function like them. Where images come in sizes of their own, by
            default `RandomResizedCrop()` with `shuffle`, which is for training, and `CenterCrop()` without.
        crops_per_image: Crops taken of each image once it is decoded, one behind the other in the batch (repeated
            sampling): an epoch has as many times more batches. For when decoding is what limits training.
        shard: Which of how many workers this is: it gets its part of every batch. By default what the enclosing
            `keras_mae.distribution.scope` says, and all of every batch outside of one.
        workers: Calls that load side by side (tf.data; as many as there are cores by default), or processes (grain;
            none by default: threads of this process).

    Returns:
        A dataset for `fit`, with a length: of images, and of (images, labels) where the source has labels.

    Raises:
        ValueError: If an argument is out of range, or no batch would be left.
    """
    _checks.positive_int("batch_size", batch_size)
    _checks.seed_int("seed", seed)
    _checks.positive_int("crops_per_image", crops_per_image)
    if workers is not None:
        _checks.positive_int("workers", workers)
    if batch_size % crops_per_image:
        raise ValueError(
            "`crops_per_image` must divide `batch_size`. "
            f"Received: crops_per_image={crops_per_image}, batch_size={batch_size}"
        )
    shard = _checked_shard(shard, batch_size, crops_per_image, drop_remainder)
    if crop is None and not source.sized:
        crop = RandomResizedCrop() if shuffle else CenterCrop()
    if crop is None and crops_per_image > 1:
        raise ValueError(f"`crops_per_image` takes a `crop`. Received: crops_per_image={crops_per_image}, crop=None")
    if augment is not None and not source.labelled:
        raise ValueError("`augment` takes a source with labels. Received: one without")
    plan = Plan(batch_size, shuffle, seed, drop_remainder, augment, crop, crops_per_image, shard, workers)
    if source.labels is not None:
        plan.check_labels(source.labels)
    has_length = not isinstance(source, Stream) or source.count is not None
    if has_length and plan.length(len(source)) == 0:
        raise ValueError(
            "`batch_size` must not exceed the number of images when the last batch is dropped. "
            f"Received: batch_size={batch_size} for {len(source)} images"
            + (f" in {shard[1]} shards" if shard[1] > 1 else "")
        )
    return _loaded(source, plan, loader)


def _loaded(source: Source | Stream, plan: Plan, loader: str | None) -> Any:
    if isinstance(source, Stream):
        if _checks.one_of("loader", loader or "tf.data", LOADERS) == "grain":
            raise ValueError(
                f"Grain reads by index, and {source.name} can only be read from front to back: use "
                "loader='tf.data', or have `keras-mae prepare` write it as ArrayRecord"
            )
        from keras_mae.data import tf_data

        return tf_data.stream_dataset(source, plan)
    if loader is None:
        loader = "tf.data" if importlib.util.find_spec("tensorflow") else "grain"
    batches = Batches(source, plan)
    if _checks.one_of("loader", loader, LOADERS) == "grain":
        from keras_mae.data.grain_data import GrainDataset

        return GrainDataset(batches)
    from keras_mae.data import tf_data

    return tf_data.dataset(batches)


def _checked_shard(shard: Any, batch_size: int, crops_per_image: int, drop_remainder: bool) -> tuple[int, int]:
    """Which part of every batch is this worker's."""
    devices = distribution.current()
    if shard is None:
        shard = devices.shard
        if shard[1] > 1 and not drop_remainder:
            raise ValueError(
                "In several processes every batch must be whole: drop_remainder=True. "
                f"Received: drop_remainder=False in {devices.processes} processes"
            )
        if batch_size % (devices.replicas * crops_per_image):
            raise ValueError(
                "`batch_size` must be a multiple of replicas × crops_per_image. Received: "
                f"batch_size={batch_size}, {devices.replicas} replicas, crops_per_image={crops_per_image}"
            )
    whole = isinstance(shard, tuple | list) and len(shard) == 2 and all(type(part) is int for part in shard)
    if not whole or not 0 <= shard[0] < shard[1]:
        raise _checks.argument_error("shard", "(number of this worker from 0, number of workers)", shard)
    if batch_size % (shard[1] * crops_per_image):
        raise ValueError(
            "`batch_size` must be a multiple of workers × crops_per_image. Received: "
            f"batch_size={batch_size}, {shard[1]} workers, crops_per_image={crops_per_image}"
        )
    return shard[0], shard[1]
