"""From a data set's name or folder and a recipe to the batches of a run, without the command line."""

import itertools
import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image

import keras_mae
from keras_mae import data, distribution, training
from keras_mae.data import fingerprints
from keras_mae.data.drawing import balanced_draw
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe
from keras_mae.training import feeding

pytestmark = pytest.mark.backends("torch")

SMALL = FineTuneRecipe.for_size("small_images")
SHAPE = (9, 7, 1)
IN_BYTES = {"pixel_range": None, "white_level": None}


@pytest.fixture
def encoder():
    return keras_mae.ViTEncoder((8, 8, 1), 2, embed_dim=12, depth=1, num_heads=3, mlp_ratio=2)


def images_of(dataset):
    return np.concatenate([np.asarray(batch[0] if isinstance(batch, tuple) else batch) for batch in dataset])


def source_of(images=13, sized=True):
    """Images that differ, of three classes; in a size of their own if not `sized`."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 10, 10, 1), "uint8")
    return data.ArraySource(pixels, np.arange(images) % 3, None if sized else SHAPE[:2])


# === Opening ===
def test_a_built_in_set_is_opened_for_pre_training():
    images = training.open_unlabeled("digits", SHAPE)
    assert images.train.image_shape == (8, 8, 1)  # its own
    assert images.metadata == {"data": "digits", "images": 1437, **IN_BYTES}
    np.testing.assert_array_equal(images.examples, data.load_builtin("digits", "test")[0][:8])


def test_a_folder_is_opened_for_pre_training(class_folders):
    images = training.open_unlabeled(class_folders, SHAPE)
    every = sorted(path.relative_to(class_folders).as_posix() for path in class_folders.rglob("*.png"))
    assert images.example_names == tuple(every[index] for index in (0, 1, 3, 4, 6, 7, 9, 10))
    whole = images.train.batch(np.array([0, 1, 3, 4, 6, 7, 9, 10]))[0]
    np.testing.assert_array_equal(images.examples, whole)
    assert (len(images.train), images.train.image_shape, images.examples.shape) == (11, SHAPE, (8, *SHAPE))
    assert images.metadata == {"data": "photos", "images": 11, **IN_BYTES}


def test_images_are_held_out_to_validate_on(class_folders):
    images = training.open_unlabeled(class_folders, SHAPE, validation=0.3, seed=3)
    assert (len(images.train), len(images.validation)) == (8, 3)
    assert (images.metadata["images"], images.metadata["validation"]) == (8, 0.3)
    every = training.open_unlabeled(class_folders, SHAPE).train.batch(np.arange(11))[0]
    parts = [part.batch(np.arange(len(part)))[0] for part in (images.train, images.validation)]
    assert {image.tobytes() for part in parts for image in part} == {image.tobytes() for image in every}
    feed = images.feed(PretrainRecipe(), loader="grain")
    seen = images.validation.batch(np.arange(3), data.CenterCrop(224 / 256))[0]
    np.testing.assert_array_equal(images_of(feed["validation_data"]), seen)
    assert "validation_data" not in training.open_unlabeled(class_folders, SHAPE).feed(PretrainRecipe())
    others = training.open_unlabeled(class_folders, SHAPE, validation=0.3, seed=4).validation
    assert not np.array_equal(others.batch(np.arange(3))[0], parts[1])
    for share in (0, 1, -1, "x", True):
        with pytest.raises(ValueError, match=r"`validation` must be in [\[(]0, 1\)"):
            training.open_unlabeled(class_folders, SHAPE, validation=share)


def test_damaged_images_are_left_out_only_if_that_is_allowed(class_folders):
    (class_folders / "cats" / "empty.png").touch()
    with pytest.warns(UserWarning, match="empty.png"):
        images = training.open_unlabeled(class_folders, SHAPE, allow_damaged=0.1)
    assert len(images.train) == 11


@pytest.mark.parametrize(
    ("levels", "recorded", "gray"),
    [
        ({"white_level": 4095}, {"pixel_range": None, "white_level": 4095}, 255),
        ({"pixel_range": (0, 5000)}, {"pixel_range": [0.0, 5000.0], "white_level": None}, 4095),
    ],
)
def test_deep_grays_are_read_in_their_levels_and_the_run_knows_them(levels, recorded, gray, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.full((9, 9), 4095, "uint16")).save(tmp_path / name / f"{number}.png")
    unlabeled = training.open_unlabeled(tmp_path, SHAPE, **levels)
    labeled = training.open_labeled(tmp_path, SHAPE, test=tmp_path, **levels)
    assert recorded.items() <= unlabeled.metadata.items()
    assert recorded.items() <= labeled.metadata.items()
    sources = (unlabeled.train, labeled.train, labeled.test, training.open_test(tmp_path, SHAPE, **levels))
    for images in (unlabeled.examples, *(source.batch(np.arange(2))[0] for source in sources)):
        assert (images == gray).all()


@pytest.mark.parametrize("levels", [{"white_level": 4095}, {"pixel_range": (0, 1)}])
def test_built_in_sets_have_levels_of_their_own(levels):
    for opens in (training.open_unlabeled, training.open_labeled, training.open_test):
        with pytest.raises(ValueError, match="digits has images of 0-255. Received: pixel_range=.*, white_level="):
            opens("digits", (8, 8, 1), **levels)


def test_a_built_in_set_is_opened_with_its_own_test_images():
    images = training.open_labeled("digits", (8, 8, 1))
    assert (len(images.train), len(images.test), images.total, images.held_out) == (1437, 360, 1437, 0)
    assert images.class_names == tuple("0123456789")
    assert images.metadata == {"data": "digits", "test": None, "num_labels": None, "images": 1437, **IN_BYTES}


def test_a_tenth_of_a_folder_is_held_out_and_no_image_is_in_both(class_folders):
    images = training.open_labeled(class_folders, SHAPE)
    assert (len(images.train), len(images.test), images.total, images.held_out) == (10, 1, 11, 1)
    assert images.class_names == ("cats", "dogs")
    every = [image.tobytes() for part in (images.train, images.test) for image in part.batch(np.arange(len(part)))[0]]
    assert len(set(every)) == 11
    again = training.open_labeled(class_folders, SHAPE)
    np.testing.assert_array_equal(again.test.batch([0])[0], images.test.batch([0])[0])
    others = [training.open_labeled(class_folders, SHAPE, seed=seed).test.batch([0])[0] for seed in range(1, 5)]
    assert any((other != images.test.batch([0])[0]).any() for other in others)


def test_another_folder_is_evaluated_on_and_some_labels_are_taken(class_folders):
    images = training.open_labeled(class_folders, SHAPE, test=class_folders.with_name("others"), num_labels=5)
    assert (len(images.train), len(images.test), images.total, images.held_out) == (5, 4, 11, 0)
    assert images.metadata == {"data": "photos", "test": "others", "num_labels": 5, "images": 5, **IN_BYTES}


def test_labels_are_drawn_as_many_of_each_class():
    def drawn(count, **options):
        images = training.open_labeled("digits", (8, 8, 1), num_labels=count, **options)
        return np.bincount(images.train.labels, minlength=10), images

    counts, images = drawn(43, balanced=True)
    assert sorted(counts) == [4] * 7 + [5] * 3
    assert images.metadata["balanced"] is True
    known, again, other = (drawn(43, balanced=True, seed=seed)[1].train.fingerprint() for seed in (0, 0, 1))
    assert known == again != other
    counts, images = drawn(43)  # as it always was
    generator = np.random.default_rng(0)
    assert images.train.fingerprint()["indices"] == fingerprints.of_integers(generator.permutation(1437)[:43])
    assert counts.max() > counts.min() + 1
    assert "balanced" not in images.metadata
    assert "balanced" not in training.open_labeled("digits", (8, 8, 1), balanced=True).metadata


def test_a_class_with_few_images_gives_all_of_them_and_a_larger_draw_holds_the_smaller():
    labels = np.array([0] * 50 + [2] * 3 + [5] * 20)
    draws = [balanced_draw(labels, count, np.random.default_rng(1)) for count in (1, 9, 10, 30, 73)]
    by_class = [sorted(np.bincount(labels[draw])[[0, 2, 5]]) for draw in draws[1:]]
    assert by_class == [[3, 3, 3], [3, 3, 4], [3, 13, 14], [3, 20, 50]]
    assert sorted(draws[4]) == list(range(73))
    for smaller, larger in itertools.pairwise(draws):
        assert set(smaller) < set(larger)


def test_labels_in_records_are_drawn_as_many_of_each_class(class_folders, tmp_path):
    """Of a folder with seven cats and four dogs, or the other way round."""
    data.prepare(class_folders, tmp_path / "out", labeled=True)
    images = training.open_labeled(tmp_path / "out", SHAPE, num_labels=6, balanced=True)
    assert images.train.labels is None
    labels = images.train.batch(np.arange(6))[1]
    assert np.bincount(labels).tolist() == [3, 3]
    np.testing.assert_array_equal(labels, images.train.read_labels())


def test_images_to_score_on_are_the_test_images_or_all_of_a_folder(class_folders):
    source = training.open_test("digits", (8, 8, 1))
    assert (len(source), source.class_names) == (360, tuple("0123456789"))
    source = training.open_test(class_folders, SHAPE)
    assert (len(source), source.class_names) == (11, ("cats", "dogs"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda folder: training.open_unlabeled("nowhere", SHAPE),
            "`data` must be digits, fashion_mnist, an existing folder",
        ),
        (lambda folder: training.open_labeled("nowhere", SHAPE), "`directory` must be an existing folder"),
        (
            lambda folder: training.open_labeled("digits", SHAPE),
            r"digits has images of \(8, 8, 1\). Received: ",
        ),
        (lambda folder: training.open_labeled("digits", (8, 8, 1), test=folder), "digits has a test set of its own"),
        (
            lambda folder: training.open_labeled(folder, SHAPE, test=folder.with_name("birds")),
            "must be among those known: cats, dogs. Received: owls, of which unknown: owls",
        ),
        (
            lambda folder: training.open_labeled(folder, SHAPE, num_labels=11),
            r"`num_labels` must be an integer in \[1, 10\]",
        ),
        (lambda folder: training.open_labeled(folder, SHAPE, seed=-1), "`seed` must be an integer"),
        (lambda folder: training.open_test(folder / "cats", SHAPE), "Labeled images lie in a folder for each class"),
    ],
)
def test_what_cannot_be_opened_is_refused(call, message, class_folders):
    with pytest.raises(ValueError, match=message):
        call(class_folders)


# === Recipes ===
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (128, 40, 2)),
        ({"epochs": None, "batch_size": None}, (128, 40, 2)),
        ({"batch_size": 500}, (200, 40, 2)),  # no more than there are
        ({"epochs": 2}, (128, 2, 0)),
        ({"epochs": 3}, (128, 3, 0)),
        ({"epochs": 4}, (128, 4, 2)),
        ({"epochs": 2, "warmup_epochs": 1}, (128, 2, 1)),
    ],
)
def test_a_recipe_is_fitted_to_the_data(changes, expected):
    fitted = training.fit_recipe(SMALL, 200, **changes)
    assert (fitted.batch_size, fitted.epochs, fitted.warmup_epochs) == expected
    assert type(fitted) is FineTuneRecipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"layer_decay": 1.5}, "`layer_decay` must be"),
        ({"warmups": 1}, "warmups"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        training.fit_recipe(SMALL, 200, **changes)


# === Batches ===
@pytest.mark.backends("torch", "tensorflow")
def test_training_batches_are_whole_shuffled_and_those_of_the_seed():
    recipe = PretrainRecipe(batch_size=8, gradient_accumulation_steps=2, epochs=1, warmup_epochs=0, seed=3)
    source = source_of()
    batches = training.training_batches(source, recipe)
    assert len(batches) == 3
    shown = images_of(batches)
    assert len({image.tobytes() for image in shown}) == 12
    assert (shown != source.images[:12]).any()
    np.testing.assert_array_equal(shown, images_of(training.training_batches(source, recipe)))
    assert len(training.training_batches(source, replace(recipe, batch_size=64))) == 1  # all 13


def test_images_in_sizes_of_their_own_are_cropped_as_the_recipe_says(monkeypatch):
    seen = []
    module = "keras_mae.training.batches"
    monkeypatch.setattr(f"{module}.make_dataset", lambda source, size, **options: seen.append((size, options)))
    monkeypatch.setattr(f"{module}.Augmentation", lambda num_classes, **options: options)
    source = source_of(sized=False)
    pretrain = PretrainRecipe(batch_size=4, crop_area=(0.3, 0.9), flip=True)
    training.training_batches(source, pretrain, crops_per_image=2)
    training.training_batches(source, replace(pretrain, crop_area=None))
    fine_tune = replace(SMALL, crop_area=(0.3, 0.9), flip=True, batch_size=4)
    training.training_batches(source, fine_tune, 3)
    training.training_batches(source_of(), fine_tune, 3)
    training.training_batches(source, LinearProbeRecipe(batch_size=4), 3)
    assert [(size, options["crop"]) for size, options in seen] == [
        (4, data.RandomResizedCrop((0.3, 0.9), flip=True)),
        (4, data.CenterCrop()),
        (4, data.RandomResizedCrop((0.3, 0.9), flip=True)),
        (4, None),
        (4, data.RandomResizedCrop((0.08, 1.0), flip=True, clamp=True)),
    ]
    assert [options["crops_per_image"] for _, options in seen] == [2, 1, 1, 1, 1]
    assert [options["augment"] is not None for _, options in seen] == [False, False, True, True, True]
    # Mirrored once, by the crop.
    assert ["flip" in options["augment"] for _, options in seen[2:]] == [False, True, False]


@pytest.mark.parametrize("sized", [True, False])
def test_gentle_crops_are_for_images_of_one_size_and_of_many(sized, monkeypatch):
    seen = {}
    monkeypatch.setattr(training.batches, "make_dataset", lambda source, size, **options: seen.update(options))
    recipe = PretrainRecipe(batch_size=4, crop_area=None, shift=0.1, flip=False)
    training.training_batches(source_of(sized=sized), recipe)
    assert seen["crop"] == data.RandomCrop(0.1, flip=False)


@pytest.mark.backends("torch", "tensorflow")
def test_images_of_one_size_are_moved_and_mirrored_as_the_recipe_says():
    images = training.open_unlabeled("digits", SHAPE)
    feed = images.feed(PretrainRecipe.for_size("small_images", shift=1 / 8, flip=True))
    assert (feed["recipe"].shift, feed["recipe"].flip) == (1 / 8, True)
    (still,) = {batch.shape for batch in map(np.asarray, images.feed(PretrainRecipe(batch_size=256))["dataset"])}
    batch = np.asarray(next(iter(feed["dataset"])))
    assert batch.shape == still
    known = {image.tobytes() for image in images.train.images}
    # One place of 3 x 3 and no mirror image: an 18th of the digits is as it was.
    assert sum(image.tobytes() in known for image in batch) < 30


@pytest.mark.parametrize(("recipe", "num_classes"), [(PretrainRecipe(), 3), (SMALL, None)])
def test_classes_go_with_a_recipe_for_a_classifier_only(recipe, num_classes):
    with pytest.raises(ValueError, match="`num_classes` must be (left out|given) for a (Pretrain|FineTune)Recipe"):
        training.training_batches(source_of(), recipe, num_classes)


@pytest.mark.backends("torch", "tensorflow")
def test_evaluation_batches_are_all_images_in_order_as_they_are():
    source = source_of(300)
    batches = training.evaluation_batches(source, SMALL)
    assert [len(np.asarray(images)) for images, _ in batches] == [256, 44]
    np.testing.assert_array_equal(images_of(batches), source.images)


@pytest.mark.backends("torch", "tensorflow")
def test_evaluation_looks_at_what_the_recipe_says(class_folders):
    source = training.open_test(class_folders, SHAPE)
    whole, center = (images_of(training.evaluation_batches(source, recipe)) for recipe in (None, FineTuneRecipe()))
    expected = source.batch(np.arange(11), data.CenterCrop(224 / 256))[0]
    np.testing.assert_array_equal(center, expected)
    np.testing.assert_array_equal(whole, source.batch(np.arange(11), data.CenterCrop())[0])
    assert (whole != center).any()


@pytest.mark.parametrize(
    ("images", "replicas", "batches", "batch_size"),
    [
        (360, 2, 2, 180),  # all of them
        (13, 2, 1, 12),  # one is left out: the largest of 2, 4, 6 and 12
        (1000, 3, 9, 111),
        (300, 300, 1, 300),
    ],
)
def test_validation_batches_are_whole_and_leave_out_few(images, replicas, batches, batch_size, monkeypatch):
    monkeypatch.setattr(distribution, "current", lambda: distribution.Devices(replicas=replicas))
    sizes = [len(np.asarray(batch)) for batch, _ in training.validation_batches(source_of(images))]
    assert sizes == [batch_size] * batches


def test_fewer_images_than_devices_cannot_be_validated_on(monkeypatch):
    monkeypatch.setattr(distribution, "current", lambda: distribution.Devices(replicas=16))
    with pytest.raises(ValueError, match="16 devices take as many images to evaluate on. Received: 13"):
        training.validation_batches(source_of(), SMALL)


# === Two lines ===
def test_images_of_one_size_are_pre_trained_on_whole_and_the_recipe_says_so(class_folders):
    feed = training.open_unlabeled("digits", SHAPE).feed(PretrainRecipe())
    assert (feed["recipe"].crop_area, feed["recipe"].flip) == (None, False)
    feed = training.open_unlabeled(class_folders, SHAPE).feed(PretrainRecipe())
    assert feed["recipe"] == PretrainRecipe()
    with pytest.raises(ValueError, match="`recipe` must be a PretrainRecipe"):
        training.open_unlabeled("digits", SHAPE).feed(SMALL)


def test_every_run_takes_two_lines(encoder, class_folders, tmp_path):
    """The files they leave are in test_training.py and test_protocols.py."""
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), norm_pix_loss=True)

    photos = training.open_unlabeled(class_folders, encoder.image_shape)
    run = training.run_pretraining(
        mae, **photos.feed(PretrainRecipe(epochs=1, warmup_epochs=0)), run_directory=tmp_path / "pretrain"
    )
    assert (run / "model.keras").is_file()

    photos = training.open_labeled(class_folders, encoder.image_shape)
    runs = {
        "finetune": training.run_fine_tuning(
            encoder, **photos.feed(SMALL, epochs=1), run_directory=tmp_path / "finetune"
        ),
        "probe": training.run_linear_probe(
            encoder,
            **photos.feed(LinearProbeRecipe.for_size("small_images"), epochs=1),
            run_directory=tmp_path / "probe",
        ),
        "knn": training.run_knn(
            encoder,
            *map(training.evaluation_batches, (photos.train, photos.test)),
            tmp_path / "knn",
            k=3,
        ),
    }
    images = training.open_test(class_folders.with_name("others"), encoder.image_shape)
    classifier = keras.saving.load_model(runs["finetune"] / "classifier.keras")
    runs["evaluate"] = training.run_evaluation(classifier, training.evaluation_batches(images), tmp_path / "evaluate")
    scores = {name: json.loads((run / "metrics.json").read_text()) for name, run in runs.items()}
    assert {name: scored["images"] for name, scored in scores.items()} == {
        "finetune": 1, "probe": 1, "knn": 1, "evaluate": 4,
    }  # fmt: skip
    assert all(list(scored["accuracy_by_class"]) == ["cats", "dogs"] for scored in scores.values())


# === Classes ===
def saved_images(folder, names):
    for name in names:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name / "0.png")
    return folder


def test_parts_of_a_data_set_are_not_taken_for_classes_without_a_word(tmp_path):
    photos = saved_images(tmp_path / "photos", ["Train", "val"])
    with pytest.warns(UserWarning, match="The classes are Train, val, which look like parts of a data set"):
        training.open_labeled(photos, (8, 8, 3))


def test_classes_without_images_to_train_on_are_named(tmp_path):
    photos = saved_images(tmp_path / "photos", ["test", "cats", "dogs"])
    (photos / "out").mkdir()
    with pytest.warns(UserWarning, match="1 of the 4 classes have no images in .*photos.: out$") as warned:
        training.open_labeled(photos, (8, 8, 3), test=saved_images(tmp_path / "few", ["cats"]))
    assert len(warned) == 1


def test_few_labels_are_validated_on_few_test_images(monkeypatch):
    monkeypatch.setattr(feeding, "_FEWEST_VALIDATED", 50)
    for labels, validated in ((20, 50), (90, 90), (None, 360)):
        images = training.open_labeled("digits", (8, 8, 1), num_labels=labels)
        feed = images.feed(FineTuneRecipe.for_size("small_images"))
        seen = images_of(feed["validation_data"])
        assert (len(seen), len(images_of(feed["test"]))) == (validated, 360)
        places = np.linspace(0, 359, validated).round().astype(int)
        np.testing.assert_array_equal(seen, images.test.batch(places)[0])
