"""Batches through tf.data: the loader where TensorFlow is installed, whatever the backend.

Pillow releases the GIL while it decodes and resizes, so Python calls from tf.data run in parallel. Both loaders give
the same pixels.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from keras_mae._optional import cores
from keras_mae.data.batches import Batches, Plan
from keras_mae.data.streams import Stream

__all__ = ["dataset", "stream_dataset"]


def dataset(batches: Batches) -> Any:
    """Return a `tf.data.Dataset` of what `batches` holds; every iteration is an epoch."""
    import tensorflow as tf

    plan, source = batches.plan, batches.source
    place = {"epoch": 0, "batch": 0}

    def seek(epoch: int, batch: int = 0) -> None:
        batches.check_place(epoch, batch)
        place.update(epoch=epoch, batch=batch)

    def order() -> np.ndarray:
        """Return, for each image, its index and the number of its batch."""
        epoch, begin = place["epoch"], place["batch"] * plan.own_images
        seek(epoch + 1)
        indices = batches.order(epoch)
        numbers = epoch * len(batches) + np.arange(len(indices)) // plan.own_images
        return np.stack([indices, numbers], axis=1)[begin:]

    def one_epoch(_: Any) -> Any:
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(tf.numpy_function(order, [], tf.int64), (None, 2)))

    def load(numbers: np.ndarray) -> list[np.ndarray]:
        indices, epoch = numbers[:, 0], int(numbers[0, 1]) // len(batches)
        images, labels = batches.load(indices, epoch)
        return [plan.places(indices, epoch), images, *([] if labels is None else [labels])]

    def batch_of(numbers: Any) -> Any:
        types = [tf.int64, source.dtype, *([batches.label_dtype] if source.labeled else [])]
        places, *loaded = tf.numpy_function(load, [numbers], types, stateful=False)
        shapes = [(plan.static_size, *shape) for shape in (source.image_shape, batches.label_shape)]
        return numbers[0, 1], tf.ensure_shape(places, (plan.static_size, 3)), _with_shapes(loaded, *shapes)

    numbered = tf.data.Dataset.from_tensors(0).flat_map(one_epoch)
    numbered = numbered.batch(plan.own_images, drop_remainder=plan.drop_remainder)
    numbered = numbered.map(batch_of, num_parallel_calls=plan.workers or cores())
    numbered = numbered.apply(tf.data.experimental.assert_cardinality(len(batches)))
    finished = _finish(numbered, plan)
    finished.batches, finished.fingerprint = batches, batches.fingerprint
    finished.num_images, finished.batch_size = batches.num_images, plan.batch_size
    finished.seek = seek  # the next iteration starts there, as if all before it had been seen
    return finished


def stream_dataset(stream: Stream, plan: Plan) -> Any:
    """Return a `tf.data.Dataset` of a stream's images, cut one by one; every iteration is an epoch."""
    import tensorflow as tf

    views = _views(stream, plan)
    if stream.skips:
        views = views.filter(lambda places, pixels, labels, good: good)
        views = views.concatenate(_at_the_end(stream.end_of_epoch, views.element_spec))
    views = views.map(lambda places, pixels, labels, good: (places, pixels, labels))
    batches = views.unbatch().batch(plan.own_size, drop_remainder=plan.drop_remainder)
    # A batch of a stream has no number by which it could be asked for again.
    numbers = tf.data.Dataset.random(plan.draw(plan.seed), rerandomize_each_iteration=True)
    numbered = tf.data.Dataset.zip(numbers, batches).map(
        lambda number, batch: (number, batch[0], batch[1:] if stream.labeled else batch[1])
    )
    if stream.count is not None:
        length = plan.length(stream.count)
        numbered = numbered.concatenate(_at_the_end(stream.too_short, numbered.element_spec))
        # This worker's part of the batch that is dropped may be full.
        numbered = numbered.take(length).apply(tf.data.experimental.assert_cardinality(length))
    finished = _finish(numbered, plan)
    finished.fingerprint = lambda: plan.fingerprint(stream)
    finished.batch_size = plan.batch_size
    finished.num_images = None if stream.count is None else stream.count * plan.crops_per_image
    return finished


def _views(stream: Stream, plan: Plan) -> Any:
    """Return a dataset of (places, crops, labels, whether the image could be decoded), one element an image."""
    import tensorflow as tf

    epochs = itertools.count()
    types = [tf.int64, stream.dtype, tf.int64, tf.bool]

    def load(index: int, epoch: int, *element: Any) -> list[Any]:
        pixels, label = stream.load(element, int(index), plan.crop, plan.generators(int(epoch)))
        labels = np.full(plan.crops_per_image, label, "int64")
        plan.check_labels(labels)
        good = pixels is not None
        shape = (plan.crops_per_image, *stream.image_shape)
        places = plan.places([index], int(epoch))
        return [places, pixels if good else np.zeros(shape, stream.dtype), labels, good]

    def views_of(item: Any, epoch: Any) -> Any:
        index, element = item
        loaded = tf.numpy_function(load, [index, epoch, *element], types)
        crops = plan.crops_per_image
        shapes = [(crops, 3), (crops, *stream.image_shape), (crops,), ()]
        return tuple(tf.ensure_shape(part, shape) for part, shape in zip(loaded, shapes, strict=True))

    def next_epoch() -> np.int64:
        stream.start_of_epoch()
        return np.int64(next(epochs))

    epoch = tf.data.Dataset.from_tensors(0).map(
        lambda _: tf.ensure_shape(tf.numpy_function(next_epoch, [], tf.int64), ())
    )
    items = stream.items(plan.shuffle, plan.seed).enumerate()
    if plan.shard[1] > 1:
        items = items.filter(lambda place, item: plan.is_own(place))
    if plan.shuffle:
        items = items.shuffle(stream.shuffle_buffer, seed=plan.seed)
    in_epoch = epoch.flat_map(lambda epoch: tf.data.Dataset.from_tensors(epoch).repeat())
    return tf.data.Dataset.zip(items, in_epoch).map(views_of, num_parallel_calls=plan.workers or cores())


def _at_the_end(call: Any, spec: Any) -> Any:
    """Return an empty dataset that calls a function when it is read."""
    import tensorflow as tf

    def called(_: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(lambda: np.bool_(call()), [], tf.bool), ())

    def nothing(part: Any) -> Any:
        return tf.ensure_shape(tf.zeros([size or 0 for size in part.shape], part.dtype), part.shape)

    return tf.data.Dataset.from_tensors(0).filter(called).map(lambda _: tf.nest.map_structure(nothing, spec))


def _with_shapes(loaded: Any, *shapes: tuple[int | None, ...]) -> Any:
    """Give images, and labels if there are any, the shapes that `tf.numpy_function` forgets."""
    import tensorflow as tf

    known = [tf.ensure_shape(part, shape) for part, shape in zip(loaded, shapes, strict=False)]
    return known[0] if len(known) == 1 else tuple(known)


def _finish(numbered: Any, plan: Plan) -> Any:
    """Augment, prefetch and set the sharding policy of a dataset of (number, places, batch)."""
    import tensorflow as tf

    augment = plan.augment
    if augment is None:
        batches = numbered.map(lambda number, places, batch: batch)
    else:
        batches = numbered.map(
            lambda number, places, batch: augment(batch[0], batch[1], plan.draw(number), places),
            num_parallel_calls=cores(),
        )
    options = tf.data.Options()
    options.autotune.enabled = False  # the settings are known, and tuning them costs a tenth of the time
    options.deterministic = True
    policy = tf.data.experimental.AutoShardPolicy
    options.experimental_distribute.auto_shard_policy = policy.OFF if plan.shard[1] > 1 else policy.DATA
    batches = batches.prefetch(2).with_options(options)
    batches.static_size = plan.static_size  # a distribution strategy divides batches by it
    return batches
