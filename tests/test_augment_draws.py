"""The draws of an augmentation: a pure function of its seed and of the number of the batch."""

import itertools

import numpy as np
import pytest
from augment_helpers import ALL, CLASSES, each_loader, run, slopes

from keras_mae import data
from keras_mae.data import Augmentation


def drawn(seed):
    images, labels = slopes(33)
    return run(Augmentation(CLASSES, seed=seed, **ALL), images, labels + np.arange(33) % CLASSES, "grain", 11)


@pytest.fixture(scope="module")
def once():
    return drawn(7)


def test_one_seed_draws_the_same_again(once):
    for got, expected in zip(drawn(7), once, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert np.isfinite(got).all()


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


def test_calls_are_counted_where_nobody_numbers_them():
    images, labels = slopes(33)
    augment, again = Augmentation(CLASSES, flip=True), Augmentation(CLASSES, flip=True)
    first, second = (augment(images, labels)[0] for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(again(images, labels)[0], first)
    np.testing.assert_array_equal(again(images, labels, 1)[0], second)


def test_another_seed_draws_otherwise(once):
    images, labels = drawn(8)
    assert np.abs(images - once[0]).mean() > 1
    assert np.abs(labels - once[1]).max() > 0.1


@pytest.mark.parametrize("alone", ["flip", "shift", "random_erasing", "mixup", "cutmix"])
def test_the_seed_reaches_every_draw(alone):
    labels = np.arange(11) % CLASSES
    images = slopes(11)[0] * (1 + labels[:, None, None, None]) / CLASSES  # no two alike, or mixing would not show

    def first_batch(seed):
        return run(Augmentation(CLASSES, seed=seed, **{alone: ALL[alone]}), images, labels, "grain")[0]

    assert np.abs(first_batch(5) - first_batch(8)).max() > 1


def test_batches_draw_anew():
    """A seed that is used again for every batch would give every batch the same flips."""
    images, labels = slopes(66)
    got, _ = run(Augmentation(CLASSES, flip=True), images, labels, "grain", batch_size=33)
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored[:33] != mirrored[33:]).any()


@each_loader
def test_the_last_batch_may_be_short(loader):
    images, labels = slopes(25)
    got, mixed = run(Augmentation(CLASSES, **ALL), images, labels, loader, batch_size=11)
    assert (got.shape, mixed.shape) == (images.shape, (25, CLASSES))
    assert (got.dtype, mixed.dtype) == (np.float32, np.float32)
    assert np.isfinite(got).all()
