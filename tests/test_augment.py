"""Augmentation for fine-tuning does what its recipe says, by statistics of many images."""

import keras
import numpy as np
import pytest
from augment_helpers import ALL, CLASSES, HEIGHT, WIDTH, each_loader, run, slopes

from keras_mae import data
from keras_mae.data import Augmentation

# Statistics of draws that Keras' layers make alike on every backend; JAX compiles each of them for every shape.
# There they train a model below, and `test_augment_draws.py` has what the seed does.
pytestmark = pytest.mark.backends("torch", "tensorflow")
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
    images, labels = plain()
    _, got = run(Augmentation(CLASSES, label_smoothing=0.1, **mix), images, labels, loader)
    assert got.shape == (COUNT, CLASSES)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-5, equal_nan=False)
    # Smoothed before they are mixed: no class has less than its share of the 0.1.
    assert got.min() > 0.02 - 1e-6
    assert got.max() < 0.92 + 1e-6
    assert ((got > 0.03).sum(1) == 2).mean() > 0.5  # four in five partners are of another class


# === Mixing ===
def colour_of(labels):
    """What the pixels of an image with these probabilities are on average."""
    return labels @ (20.0 + 40 * np.arange(CLASSES))


@each_loader
def test_mixup_mixes_pixels_and_labels_by_one_weight(loader):
    images, labels = plain()
    got, mixed = run(Augmentation(CLASSES, mixup=0.8), images, labels, loader)
    expected = np.broadcast_to(colour_of(mixed)[:, None, None, None], got.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.01, equal_nan=False)


@each_loader
def test_cutmix_mixes_labels_by_the_area_that_was_pasted(loader):
    images, labels = plain()
    got, mixed = run(Augmentation(CLASSES, cutmix=1.0), images, labels, loader)
    own, other = images[:, 0, 0, 0].astype("float32"), got.reshape(COUNT, -1)
    assert all(len(np.unique(image)) <= 2 for image in other)
    assert set(np.unique(got)) == set(np.unique(images))
    pasted = (other != own[:, None]).mean(1)
    weight = np.take_along_axis(mixed, labels[:, None], 1)[:, 0]
    # A box is as large as drawn to within a row and a column, hence the tolerance.
    np.testing.assert_allclose(pasted, 1 - weight, rtol=0, atol=1 / HEIGHT + 1 / WIDTH, equal_nan=False)
    assert 0.3 < pasted[pasted > 0].mean() < 0.7


def kinds(switch_probability, loader, batches=60):
    """For every batch, whether it is CutMix's: of pure colours only."""
    images, labels = plain(batches * 11)
    augment = Augmentation(CLASSES, mixup=0.8, cutmix=1.0, switch_probability=switch_probability, seed=3)
    got, _ = run(augment, images, labels, loader, batch_size=11)
    colours = np.unique(images)
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
    images, labels = plain()
    got, same = run(Augmentation(CLASSES, random_erasing=0.25), images, labels, "grain")
    np.testing.assert_array_equal(same, labels)
    return (got != images)[..., 0], got[..., 0]


def test_erasing_happens_with_the_chance_asked_for(erased):
    """Keras takes one number as the upper end of a range: half as many would be erased."""
    share = erased[0].any((1, 2)).mean()
    assert 0.2 < share < 0.3


@pytest.mark.needs_tensorflow
def test_erasing_happens_with_the_chance_asked_for_in_tf_data():
    images, labels = plain()
    got, _ = run(Augmentation(CLASSES, random_erasing=0.25), images, labels, "tf.data")
    assert 0.2 < (got != images).any((1, 2, 3)).mean() < 0.3


def test_erased_boxes_are_of_the_published_size(erased):
    """From 0.02 to 1/3 of the image, to within a row and a column."""
    changed = erased[0][erased[0].any((1, 2))]
    height, width = changed.any(2).sum(1), changed.any(1).sum(1)
    assert ((height - 1) * (width - 1)).max() <= HEIGHT * WIDTH / 3
    assert ((height + 1) * (width + 1)).min() >= HEIGHT * WIDTH * 0.02
    assert changed.sum((1, 2)).mean() > 0.05 * HEIGHT * WIDTH


def test_erased_boxes_hold_noise_of_the_images_range(erased):
    noise = erased[1][erased[0]]
    assert noise.min() >= 0
    assert noise.max() <= 255
    assert noise.std() > 30


def test_half_of_an_erased_box_is_black(erased):
    """Keras' noise is normal around 0 and cut off there, which the class says."""
    noise = erased[1][erased[0]]
    assert 0.45 < (noise == 0).mean() < 0.55


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


# === RandAugment ===
@each_loader
def test_rand_augment_changes_colour_images_and_keeps_their_range(loader):
    images = np.random.default_rng(0).integers(0, 256, (11, HEIGHT, WIDTH, 3), "uint8")
    got, same = run(Augmentation(CLASSES, rand_augment=9.0), images, np.zeros(11, "int64"), loader)
    assert (got.shape, got.dtype) == (images.shape, np.float32)
    assert got.min() >= 0
    assert got.max() <= 255
    assert np.abs(got - images).mean() > 1
    np.testing.assert_array_equal(same, 0)


def test_rand_augment_is_keras_cvs_where_it_is_installed():
    """Keras' own draws once a batch: images that come in alike come out alike."""
    pytest.importorskip("keras_cv")
    images = np.tile(np.random.default_rng(0).integers(0, 256, (1, 29, 31, 3), "uint8"), (13, 1, 1, 1))
    got, _ = run(Augmentation(CLASSES, rand_augment=9.0), images, np.zeros(13, "int64"), "tf.data")
    assert len(np.unique(got.reshape(13, -1), axis=0)) > 4


@each_loader
def test_rand_augment_refuses_grey_images(loader):
    images, labels = plain(3)
    with pytest.raises(ValueError, match=r"RandAugment takes RGB images. Received: images.shape=\(.*, 19, 23, 1\)"):
        run(Augmentation(CLASSES, rand_augment=9.0), images, labels, loader)


# === Half precision ===
@pytest.fixture
def half_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("half_precision")
@each_loader
@pytest.mark.parametrize("mix", [{"mixup": 0.8}, {"cutmix": 1.0}], ids=["mixup", "cutmix"])
def test_a_model_in_half_precision_leaves_the_data_in_full(mix, loader):
    """Keras' global policy is meant for models: images and labels mixed in 8 bits are no pair any more."""
    images, labels = plain(211)
    got, mixed = run(Augmentation(CLASSES, **mix), images, labels, loader)
    assert (got.dtype, mixed.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-5, equal_nan=False)
    # MixUp's pixels are their labels' colour; of CutMix's, each is a colour that was there before.
    if "mixup" in mix:
        np.testing.assert_allclose(got[:, 0, 0, 0], colour_of(mixed), rtol=0, atol=0.01, equal_nan=False)
    else:
        assert set(np.unique(got)) == set(np.unique(images))


@pytest.mark.usefixtures("half_precision")
@each_loader
def test_in_half_precision_pixels_are_moved_and_not_rounded(loader):
    images = np.broadcast_to(np.float32(200.3), (13, HEIGHT, WIDTH, 2)).copy()
    got, _ = run(Augmentation(CLASSES, flip=True), images, np.zeros(13, "int64"), loader)
    np.testing.assert_array_equal(got, images)


# === In training ===
@pytest.mark.backends("torch", "jax", "tensorflow")
@each_loader
def test_fit_takes_what_is_augmented(loader):
    images, labels = plain(25)
    dataset = data.from_arrays(images, labels, 11, loader=loader, augment=Augmentation(CLASSES, **ALL))
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
