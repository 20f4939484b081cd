"""Augmentation for fine-tuning does what its recipe says, by statistics of many images."""

import keras
import numpy as np
import pytest
from augment_helpers import ALL, CLASSES, HEIGHT, WIDTH, each_loader, run, slopes

from keras_mae import data
from keras_mae.data import Augmentation, mixing

pytestmark = pytest.mark.backends("tensorflow")  # where both loaders are; no backend has a part in it
COUNT = 997  # so many that a chance can be told from its half: three standard deviations are below 0.05
PAIRS = {"mixup": {"mixup": 0.8}, "cutmix": {"cutmix": 1.0}, "either": {"mixup": 0.8, "cutmix": 1.0}}
each_mix = pytest.mark.parametrize("mix", PAIRS.values(), ids=PAIRS)


def plain(count=COUNT, channels=1):
    """Images that are one colour, their label's: 20, 60, 100, 140 or 180."""
    labels = np.arange(count) % CLASSES
    images = np.broadcast_to(
        (20 + 40 * labels).astype("uint8")[:, None, None, None], (count, HEIGHT, WIDTH, channels)
    )
    return images.copy(), labels


# === Labels ===
@each_loader
def test_nothing_asked_for_changes_nothing(loader):
    images, labels = plain(13)
    got, same = run(Augmentation(CLASSES), images, labels, loader)
    np.testing.assert_array_equal(got, images)
    np.testing.assert_array_equal(same, labels)
    assert (got.dtype, same.dtype) == (np.float32, np.int64)


@each_loader
def test_label_smoothing_shares_out_its_part_among_all_classes(loader):
    images, labels = plain(7)
    _, got = run(Augmentation(CLASSES, label_smoothing=0.1), images, labels, loader)
    expected = np.where(np.arange(CLASSES) == labels[:, None], 0.92, 0.02)
    np.testing.assert_allclose(got, expected, rtol=1e-6, equal_nan=False)
    assert got.dtype == np.float32


@each_loader
@each_mix
def test_mixed_labels_are_probabilities(mix, loader):
    images, labels = plain(211)
    _, got = run(Augmentation(CLASSES, label_smoothing=0.1, **mix), images, labels, loader, batch_size=10)
    assert got.shape == (211, CLASSES)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5, equal_nan=False)
    # Smoothed before they are mixed: no class has less than its share of the 0.1.
    assert got.min() > 0.02 - 1e-6
    assert got.max() < 0.92 + 1e-6
    assert ((got > 0.03).sum(1) == 2).mean() > 0.5  # four in five partners are of another class


# === Mixing ===
def colour_of(labels):
    """What the pixels of an image with these probabilities are on average."""
    return labels @ (20.0 + 40 * np.arange(CLASSES))


def weights(augment, loader, batches=60):
    """The weight that each image of each batch keeps, by its labels: (batches, 6)."""
    labels = np.tile([0, 1, 2, 3, 4, 1], batches)  # an image and its partner are of two classes
    images = np.broadcast_to((20 + 40 * labels).astype("uint8")[:, None, None, None], (len(labels), HEIGHT, WIDTH, 1))
    got, mixed = run(augment, images.copy(), labels, loader, batch_size=6)
    return got, mixed, np.take_along_axis(mixed, labels[:, None], 1).reshape(batches, 6), labels


@each_loader
@each_mix
def test_a_batch_is_mixed_with_itself_in_reverse_by_one_weight(mix, loader):
    _, mixed, kept, labels = weights(Augmentation(CLASSES, **mix), loader)
    np.testing.assert_allclose(kept, np.broadcast_to(kept[:, :1], kept.shape), rtol=0, atol=1e-6, equal_nan=False)
    partners = labels.reshape(60, 6)[:, ::-1].ravel()
    share = np.take_along_axis(mixed, partners[:, None], 1).reshape(60, 6)
    np.testing.assert_allclose(share, 1 - kept, rtol=0, atol=1e-6, equal_nan=False)
    assert len(np.unique(kept[:, 0])) > 20  # of 60 batches: CutMix has boxes of one size, and of none


@each_loader
def test_mixup_mixes_pixels_and_labels_by_one_weight(loader):
    images, labels = plain(211)
    got, mixed = run(Augmentation(CLASSES, mixup=0.8), images, labels, loader, batch_size=10)
    expected = np.broadcast_to(colour_of(mixed)[:, None, None, None], got.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.01, equal_nan=False)


def test_mixups_weight_is_drawn_from_the_beta_distribution():
    """Of Beta(0.8, 0.8) deviation and mean are 0.31 and 0.5; of a uniform distribution 0.29, of Beta(2, 2) 0.22."""
    generator = np.random.default_rng(0)
    drawn = [mixing.mix_up(np.zeros((2, 1, 1, 1), "float32"), 0.8, generator) for _ in range(10_000)]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.01)
    assert np.std(drawn) == pytest.approx(0.3101, abs=0.005)


@each_loader
def test_cutmix_mixes_labels_by_the_area_that_was_pasted(loader):
    got, _, kept, labels = weights(Augmentation(CLASSES, cutmix=1.0), loader)
    own, other = (20 + 40 * labels).astype("float32"), got.reshape(len(got), -1)
    assert all(len(np.unique(image)) <= 2 for image in other)
    pasted = (other != own[:, None]).mean(1)
    np.testing.assert_allclose(pasted, 1 - kept.ravel(), rtol=0, atol=1e-6, equal_nan=False)
    assert 0.2 < pasted[pasted > 0].mean() < 0.6


def test_cutmixs_boxes_are_of_the_images_shape_and_cut_off_at_its_borders():
    generator = np.random.default_rng(0)
    sizes = []
    for _ in range(400):
        images = np.zeros((2, 40, 80, 1), "float32")
        images[1] = 1
        kept = mixing.cut_mix(images, 1.0, generator)
        changed = images[0, ..., 0] == 1
        assert kept == pytest.approx(1 - changed.mean())
        rows, columns = changed.any(1), changed.any(0)
        assert changed.sum() == rows.sum() * columns.sum()
        whole = not (rows[[0, -1]].any() or columns[[0, -1]].any())
        if whole and changed.any():
            sizes.append((rows.sum(), columns.sum()))
    assert len(sizes) > 40
    assert all(abs(2 * rows - columns) <= 4 for rows, columns in sizes)


def kinds(switch_probability, loader, batches=60):
    """For every batch, whether it is CutMix's: of pure colours only."""
    augment = Augmentation(CLASSES, mixup=0.8, cutmix=1.0, switch_probability=switch_probability, seed=3)
    got, *_ = weights(augment, loader, batches)
    colours = 20 + 40 * np.arange(CLASSES)
    return [bool(np.isin(part, colours).all()) for part in np.split(got, batches)]


@each_loader
@pytest.mark.parametrize(("switch_probability", "expected"), [(0.0, False), (1.0, True)])
def test_the_switch_chooses_one_for_the_whole_batch(switch_probability, expected, loader):
    assert set(kinds(switch_probability, loader, batches=11)) == {expected}


@each_loader
def test_the_switch_is_cutmixs_chance(loader):
    """0.8 of 60 batches: a switch the wrong way round would give 12, one that is ignored 30."""
    assert 36 <= sum(kinds(0.8, loader)) <= 58


# === Erasing ===
@pytest.fixture(scope="module")
def erased():
    """Where each of `COUNT` images changed, and to what."""
    images, labels = plain(channels=3)
    got, same = run(Augmentation(CLASSES, random_erasing=0.25), images, labels, "grain")
    np.testing.assert_array_equal(same, labels)
    return (got != images).any(-1), got


def test_erasing_happens_with_the_chance_asked_for(erased):
    share = erased[0].any((1, 2)).mean()
    assert 0.2 < share < 0.3


def test_erased_boxes_are_of_the_published_size_and_shape(erased):
    """From 0.02 to 1/3 of the image, from 0.3 to 1 / 0.3 times as high as wide, rounded to whole pixels."""
    changed = erased[0][erased[0].any((1, 2))]
    height, width = changed.any(2).sum(1), changed.any(1).sum(1)
    np.testing.assert_array_equal(changed.sum((1, 2)), height * width)
    assert ((height - 0.5) * (width - 0.5)).max() <= HEIGHT * WIDTH / 3
    assert ((height + 0.5) * (width + 0.5)).min() >= HEIGHT * WIDTH * 0.02
    assert ((height + 0.5) / (width - 0.5)).min() >= 0.3
    assert ((height - 0.5) / (width + 0.5)).max() <= 1 / 0.3
    assert 0.1 < (height * width).mean() / (HEIGHT * WIDTH) < 0.2  # 0.177, less what does not fit
    assert (height > width).mean() == pytest.approx(0.5, abs=0.15)


def test_erased_boxes_hold_noise_around_the_mean_cut_off_at_the_ends(erased):
    noise = erased[1][erased[0]]
    assert (noise.min(), noise.max()) == (0, 255)
    np.testing.assert_allclose(noise.mean(0), (123.675, 116.28, 103.53), rtol=0, atol=3, equal_nan=False)
    np.testing.assert_allclose(noise.std(0), (58.4, 57.1, 57.4), rtol=0, atol=4, equal_nan=False)
    assert len(np.unique(noise)) > 0.9 * noise.size  # each pixel and channel its own, most of them within the range


def test_certain_erasing_spares_no_image():
    images, labels = plain(101)
    got, _ = run(Augmentation(CLASSES, random_erasing=1.0), images, labels, "grain")
    assert (got != images).any((1, 2, 3)).all()


# === Moving ===
@each_loader
def test_half_of_the_images_are_mirrored(loader):
    images, labels = slopes(COUNT)
    got, _ = run(Augmentation(CLASSES, flip=True), images, labels, loader)
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    kept = (got == images).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 0.45 < mirrored.mean() < 0.55


@each_loader
def test_shifts_move_both_ways_up_to_their_fraction_and_repeat_the_border(loader):
    images, labels = slopes(211)
    got, _ = run(Augmentation(CLASSES, shift=0.2), images, labels, loader)
    got = got / 8  # in pixels, as the slopes are
    middle = got[:, HEIGHT // 2, WIDTH // 2]
    for channel, size, axis in ((0, WIDTH, 2), (1, HEIGHT, 1)):
        moved = middle[:, channel] - size // 2
        assert np.abs(moved).max() <= 0.2 * size + 1e-3
        assert moved.min() < -0.15 * size
        assert moved.max() > 0.15 * size
        along = np.arange(size).reshape([-1 if which == axis else 1 for which in range(3)])
        expected = np.clip(along + moved[:, None, None], 0, size - 1)
        np.testing.assert_allclose(
            got[..., channel], np.broadcast_to(expected, got.shape[:3]), rtol=0, atol=1e-3, equal_nan=False
        )


# === RandAugment: see test_rand_augment.py ===
@each_loader
def test_rand_augment_refuses_grey_images(loader):
    images, labels = plain(3)
    with pytest.raises(ValueError, match=r"RandAugment takes RGB images. Received: images.shape=\(.*, 19, 23, 1\)"):
        run(Augmentation(CLASSES, rand_augment=9.0), images, labels, loader)


@each_loader
def test_pixels_are_moved_and_not_rounded(loader):
    images = np.broadcast_to(np.float32(200.3), (13, HEIGHT, WIDTH, 2)).copy()
    got, _ = run(Augmentation(CLASSES, flip=True), images, np.zeros(13, "int64"), loader)
    np.testing.assert_array_equal(got, images)


# === In training ===
@pytest.mark.backends("torch", "jax", "tensorflow")
@each_loader
def test_fit_takes_what_is_augmented(loader):
    images, labels = plain(25)
    augment = Augmentation(CLASSES, **{**ALL, "rand_augment": 0})  # they are gray
    dataset = data.from_arrays(images, labels, 11, loader=loader, augment=augment)
    model = keras.Sequential([keras.Input((HEIGHT, WIDTH, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    eagerly = keras.backend.backend() != "jax"  # JAX is quicker compiled
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), run_eagerly=eagerly)
    history = model.fit(dataset, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


# === What is refused ===
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be a positive integer"),
        ({"shift": 1.0}, "`shift` must be in [0, 1)"),
        ({"shift": -0.1}, "`shift` must be in [0, 1)"),
        ({"rand_augment": 10.5}, "`rand_augment` must be in [0, 10]"),
        ({"rand_augment": -1}, "`rand_augment` must be in [0, 10]"),
        ({"random_erasing": 1.1}, "`random_erasing` must be in [0, 1]"),
        ({"random_erasing": float("nan")}, "`random_erasing` must be in [0, 1]"),
        ({"mixup": -0.1}, "`mixup` must be a finite number of at least 0"),
        ({"cutmix": 1.5}, "`cutmix` must be in [0, 1]"),
        ({"cutmix": -0.1}, "`cutmix` must be in [0, 1]"),
        ({"switch_probability": 1.1}, "`switch_probability` must be in [0, 1]"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be in [0, 1)"),
        ({"seed": -1}, "`seed` must be an integer in [0, 2**31)"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (brackets: compared as they are)
        Augmentation(**{"num_classes": CLASSES, **arguments})
    assert message in str(error.value)


@pytest.mark.parametrize("argument", ["rand_augment", "random_erasing", "cutmix", "switch_probability"])
def test_the_upper_ends_are_allowed(argument):
    Augmentation(CLASSES, **{argument: 10 if argument == "rand_augment" else 1})


@each_loader
def test_labels_outside_the_classes_are_refused_before_training(loader):
    images, labels = plain(7)
    with pytest.raises(ValueError, match=r"`labels` must be in \[0, 4\).*Received: labels from 0 to 4"):
        data.from_arrays(images, labels, loader=loader, augment=Augmentation(4))


@each_loader
def test_images_without_labels_are_refused(loader):
    images, _ = plain(7)
    with pytest.raises(ValueError, match="`augment` takes a source with labels"):
        data.from_arrays(images, loader=loader, augment=Augmentation(CLASSES))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": np.array([0, 1, 5])}, "`labels` must be in [0, 5), the classes of the augmentation"),
        ({"labels": np.array([0, 1, -1])}, "Received: labels from -1 to 1"),
        ({"number": -1}, "`number` must be an integer of at least 0"),
        ({"number": 0.5}, "`number` must be an integer of at least 0"),
        ({"places": np.zeros((3, 2), "int64")}, "`places` must be integers of at least 0"),
        ({"places": np.zeros((3, 3))}, "`places` must be integers of at least 0"),
        ({"places": np.full((3, 3), -1)}, "`places` must be integers of at least 0"),
    ],
)
def test_wrong_arguments_of_a_call_are_refused(arguments, message):
    images = np.zeros((3, HEIGHT, WIDTH, 1), "uint8")
    with pytest.raises(ValueError) as error:  # noqa: PT011  (brackets: compared as they are)
        Augmentation(CLASSES, mixup=0.8)(**{"images": images, "labels": np.arange(3), **arguments})
    assert message in str(error.value)
