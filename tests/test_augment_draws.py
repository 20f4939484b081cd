"""The draws of an augmentation: an image's by (seed, epoch, image, crop), a batch's by (seed, its number)."""

import itertools

import numpy as np
import pytest
from augment_helpers import ALL, CLASSES, each_loader, run, slopes

from keras_mae import data
from keras_mae.data import Augmentation

pytestmark = pytest.mark.backends("tensorflow")  # where both loaders are; no backend has a part in it
OF_IMAGES = {name: ALL[name] for name in ("flip", "shift", "rand_augment", "random_erasing")}


def drawn(seed, loader="grain"):
    images, labels = slopes(33)
    return run(Augmentation(CLASSES, seed=seed, **ALL), images, labels + np.arange(33) % CLASSES, loader, 11)


@pytest.fixture(scope="module")
def once():
    return drawn(7)


def test_one_seed_draws_the_same_again(once):
    for got, expected in zip(drawn(7), once, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert np.isfinite(got).all()


@pytest.mark.needs_tensorflow
def test_both_loaders_draw_the_same_to_the_last_bit(once):
    for got, expected in zip(drawn(7, "tf.data"), once, strict=True):
        np.testing.assert_array_equal(got, expected)


@each_loader
def test_draws_are_the_batchs_whoever_asks_and_in_whatever_order(loader):
    """From the middle of an epoch on, as a run that was killed goes on, and side by side in tf.data."""
    images, labels = slopes(66)

    def epochs(epoch, batch):
        augment = Augmentation(CLASSES, **ALL)
        dataset = data.from_arrays(images, labels, 11, seed=3, loader=loader, augment=augment)
        dataset.seek(epoch, batch)
        if loader == "grain":
            dataset.on_epoch_begin()
            batches = [dataset[0] for _ in range(12 - 6 * epoch - batch)]
        else:
            batches = [*itertools.islice(dataset, 6 - batch), *(dataset if epoch == 0 else ())]
        return [np.concatenate([np.ravel(part) for part in batch]) for batch in batches]

    whole, rest = epochs(0, 0), epochs(1, 2)
    assert len(whole) == 12
    np.testing.assert_array_equal(rest, whole[8:])
    assert len({batch.tobytes() for batch in whole}) == 12


def epoch_of(dataset, loader):
    """The images of an epoch by their label and their place in the batch."""
    batches = [dataset[index] for index in range(len(dataset))] if loader == "grain" else list(dataset)
    return {
        (int(label), crop): np.asarray(image)
        for images, labels in batches
        for crop, (image, label) in enumerate(zip(images, np.asarray(labels), strict=True))
    }


@each_loader
def test_an_image_is_changed_by_its_own_draws_in_whatever_batch_it_is(loader):
    """Other batches, another order, a part of every batch: only what is mixed depends on them."""
    images, labels = slopes(24)[0], np.arange(24)
    augment = Augmentation(24, seed=5, **OF_IMAGES)

    def by_label(batch_size, **options):
        dataset = data.from_arrays(images, labels, batch_size, loader=loader, augment=augment, **options)
        return {label: image for (label, _), image in epoch_of(dataset, loader).items()}

    whole = by_label(8, shuffle=False)
    assert len({image.tobytes() for image in whole.values()}) == 24  # all alike before
    for options in (
        {"batch_size": 6, "seed": 1},
        {"batch_size": 12, "seed": 2, "shard": (1, 3), "drop_remainder": True},
    ):
        for label, image in by_label(**options).items():
            np.testing.assert_array_equal(image, whole[label])


@each_loader
def test_crops_of_an_image_have_draws_of_their_own(loader):
    images, labels = slopes(4)[0], np.arange(4)
    dataset = data.from_arrays(
        *(images, labels, 3),
        crop=data.CenterCrop(),
        crops_per_image=3,
        shuffle=False,
        loader=loader,
        augment=Augmentation(4, **OF_IMAGES),
    )
    assert len({image.tobytes() for image in epoch_of(dataset, loader).values()}) == 12


@pytest.mark.needs_tensorflow
def test_images_of_a_stream_are_changed_as_those_by_index_are():
    """The order and the batches differ: an image keeps its number."""
    import tensorflow as tf

    images, labels = slopes(12)[0], np.arange(12)
    augment = Augmentation(12, **OF_IMAGES)
    made = tf.data.Dataset.from_tensor_slices((images, labels))
    stream = data.from_dataset(made, 5, seed=3, augment=augment)
    by_index = data.from_arrays(images, labels, 4, loader="grain", augment=augment)
    expected = {label: image for (label, _), image in epoch_of(by_index, "grain").items()}
    got = {label: image for (label, _), image in epoch_of(stream, "tf.data").items()}
    assert len(got) == 12
    for label, image in got.items():
        np.testing.assert_array_equal(image, expected[label])


def test_calls_are_counted_where_nobody_numbers_them():
    images, labels = slopes(33)
    augment, again = Augmentation(CLASSES, flip=True), Augmentation(CLASSES, flip=True)
    first, second = (augment(images, labels)[0] for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(again(images, labels)[0], first)
    np.testing.assert_array_equal(again(images, labels, 1)[0], second)


@pytest.mark.needs_tensorflow
@pytest.mark.parametrize("alone", ["flip", "label_smoothing"])
def test_a_pipeline_of_ones_own_is_augmented_as_arrays_are(alone):
    import tensorflow as tf

    images, labels = slopes(33)
    augment = Augmentation(CLASSES, **{alone: ALL[alone]})
    made = tf.data.Dataset.from_tensors((images, labels)).repeat(2).map(augment)
    assert made.element_spec[0].shape == images.shape
    assert made.element_spec[1].shape == ((33,) if alone == "flip" else (33, CLASSES))
    got, again = list(made), Augmentation(CLASSES, **{alone: ALL[alone]})
    for batch in got:
        for part, expected in zip(batch, again(images, labels), strict=True):
            np.testing.assert_array_equal(part, expected)


def test_arguments_of_a_call_are_left_as_they_are():
    images, labels = slopes(33)
    before = images.copy()
    Augmentation(CLASSES, seed=7, **ALL)(images, labels)
    np.testing.assert_array_equal(images, before)


def test_another_seed_draws_otherwise(once):
    images, labels = drawn(8)
    assert np.abs(images - once[0]).mean() > 1
    assert np.abs(labels - once[1]).max() > 0.1


@pytest.mark.parametrize("alone", ["flip", "shift", "rand_augment", "random_erasing", "mixup", "cutmix"])
def test_the_seed_reaches_every_draw(alone):
    labels = np.arange(11) % CLASSES
    images = slopes(11)[0] * (1 + labels[:, None, None, None]) / CLASSES  # no two alike, or mixing would not show

    def first_batch(seed):
        return run(Augmentation(CLASSES, seed=seed, **{alone: ALL[alone]}), images, labels, "grain")[0]

    assert np.abs(first_batch(5) - first_batch(8)).max() > 1


def test_batches_and_epochs_draw_anew():
    """A seed that is used again for every batch would give every batch the same flips."""
    images, labels = slopes(33)
    dataset = data.from_arrays(
        images, labels, 33, shuffle=False, loader="grain", augment=Augmentation(CLASSES, flip=True)
    )
    first = dataset[0][0]
    dataset.seek(1)
    mirrored = [(got == images[:, :, ::-1]).all((1, 2, 3)) for got in (first, dataset[0][0])]
    assert (mirrored[0] != mirrored[1]).any()


@each_loader
def test_the_last_batch_may_be_short(loader):
    images, labels = slopes(25)
    got, mixed = run(Augmentation(CLASSES, **ALL), images, labels, loader, batch_size=11)
    assert (got.shape, mixed.shape) == (images.shape, (25, CLASSES))
    assert (got.dtype, mixed.dtype) == (np.float32, np.float32)
    assert np.isfinite(got).all()
