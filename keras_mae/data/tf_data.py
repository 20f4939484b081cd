"""Batches through tf.data: the loader where TensorFlow is installed, whatever the backend.

Pillow decodes and resizes outside Python's lock, so that calls of Python from tf.data do run side by side, and both
loaders give the same pixels.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from keras_mae.data.batches import Batches, Plan
from keras_mae.data.streams import Stream, cores


def dataset(batches: Batches) -> Any:
    """A `tf.data.Dataset` of what `batches` holds; every iteration is an epoch."""
    import tensorflow as tf

    plan, source = batches.plan, batches.source
    place = {"epoch": 0, "batch": 0}

    def seek(epoch: int, batch: int = 0) -> None:
        batches.check_place(epoch, batch)
        place.update(epoch=epoch, batch=batch)

    def order() -> np.ndarray:
        """For each image its index and the number of its batch."""
        epoch, begin = place["epoch"], place["batch"] * plan.own_images
        seek(epoch + 1)
        indices = batches.order(epoch)
        numbers = epoch * len(batches) + np.arange(len(indices)) // plan.own_images
        return np.stack([indices, numbers], axis=1)[begin:]

    def one_epoch(_: Any) -> Any:
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(tf.numpy_function(order, [], tf.int64), (None, 2)))

    def load(numbers: np.ndarray) -> list[np.ndarray]:
        images, labels = batches.load(numbers[:, 0], int(numbers[0, 1]) // len(batches))
        return [images] if labels is None else [images, labels]

    def batch_of(numbers: Any) -> Any:
        types = [source.dtype, tf.int64] if source.labelled else [source.dtype]
        loaded = tf.numpy_function(load, [numbers], types, stateful=False)
        return numbers[0, 1], _shaped(loaded, (plan.static_size, *source.image_shape))

    made = tf.data.Dataset.from_tensors(0).flat_map(one_epoch)
    made = made.batch(plan.own_images, drop_remainder=plan.drop_remainder)
    made = made.map(batch_of, num_parallel_calls=plan.workers or cores())
    made = made.apply(tf.data.experimental.assert_cardinality(len(batches)))
    made = _finished(made, plan)
    made.seek = seek  # the next iteration starts there, as if all before it had been seen
    return made


def stream_dataset(stream: Stream, plan: Plan) -> Any:
    """A `tf.data.Dataset` of a stream's images, cut one by one; every iteration is an epoch."""
    import tensorflow as tf

    epochs = itertools.count()
    types = [stream.dtype, tf.int64, tf.bool]

    def load(image: Any, label: int, index: int, epoch: int) -> list[Any]:
        pixels = stream.views(image, int(index), plan, int(epoch))
        labels = np.full(plan.crops_per_image, label, "int64")
        plan.check_labels(labels)
        good = pixels is not None
        shape = (plan.crops_per_image, *stream.image_shape)
        return [pixels if good else np.zeros(shape, stream.dtype), labels, good]

    def views_of(item: Any, epoch: Any) -> Any:
        index, (image, label) = item
        pixels, labels, good = tf.numpy_function(load, [image, label, index, epoch], types)
        pixels = tf.ensure_shape(pixels, (plan.crops_per_image, *stream.image_shape))
        return pixels, tf.ensure_shape(labels, (plan.crops_per_image,)), tf.ensure_shape(good, ())

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
    made = tf.data.Dataset.zip(items, epoch.flat_map(lambda epoch: tf.data.Dataset.from_tensors(epoch).repeat()))
    made = made.map(views_of, num_parallel_calls=plan.workers or cores())
    if stream.skips:
        made = made.filter(lambda pixels, labels, good: good)
        made = made.concatenate(_at_the_end(stream.end_of_epoch, made.element_spec))
    made = made.map(lambda pixels, labels, good: (pixels, labels))
    made = made.unbatch().batch(plan.own_size, drop_remainder=plan.drop_remainder)
    if not stream.labelled:
        made = made.map(lambda pixels, labels: pixels)
    # A batch of a stream has no number by which it could be asked for again.
    numbers = tf.data.Dataset.random(plan.draw(plan.seed), rerandomize_each_iteration=True)
    made = tf.data.Dataset.zip(numbers, made)
    if stream.count is not None:
        batches = plan.length(stream.count)
        # Of a last batch that is dropped, this worker's part may be whole.
        made = made.take(batches).apply(tf.data.experimental.assert_cardinality(batches))
    return _finished(made, plan)


def _at_the_end(call: Any, spec: Any) -> Any:
    """A dataset without elements that calls a function when it is asked for one."""
    import tensorflow as tf

    def called(_: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(lambda: np.bool_(call()), [], tf.bool), ())

    none = tf.nest.map_structure(lambda part: tf.zeros(part.shape, part.dtype), spec)
    return tf.data.Dataset.from_tensors(0).filter(called).map(lambda _: none)


def _shaped(loaded: Any, shape: tuple[int | None, ...]) -> Any:
    """What `tf.numpy_function` forgot: the shape of images and labels."""
    import tensorflow as tf

    images = tf.ensure_shape(loaded[0], shape)
    return images if len(loaded) == 1 else (images, tf.ensure_shape(loaded[1], shape[:1]))


def _finished(made: Any, plan: Plan) -> Any:
    """Of (number, batch): augmented, loaded ahead, and told how to be distributed."""
    import tensorflow as tf

    if plan.augment is None:
        made = made.map(lambda number, batch: batch)
    else:
        made = made.map(
            lambda number, batch: plan.augment(batch[0], batch[1], plan.draw(number)), num_parallel_calls=cores()
        )
    options = tf.data.Options()
    options.autotune.enabled = False  # the numbers are known, and finding them takes a tenth of the time
    options.deterministic = True
    policy = tf.data.experimental.AutoShardPolicy
    options.experimental_distribute.auto_shard_policy = policy.OFF if plan.shard[1] > 1 else policy.DATA
    made = made.prefetch(2).with_options(options)
    made.static_size = plan.static_size  # a distribution strategy parts batches by it
    return made
