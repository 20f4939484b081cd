"""Features that a probe computes once: when it does, and that it makes no difference beyond rounding."""

import json

import keras
import numpy as np
import pytest
from classifier_helpers import BATCH, CLASSES, IMAGES, LABELS, assert_same, largest, make_encoder, values
from training_helpers import Stop, killed, quick_compile

import keras_mae
from keras_mae import recipes, training, transfer
from keras_mae.classifier import ViTClassifier
from keras_mae.data import Augmentation, RandomCrop
from keras_mae.training import stored
from keras_mae.transfer import cached

PROBE = recipes.LinearProbeRecipe.for_size("small_images", epochs=2, batch_size=BATCH, base_learning_rate=20.0)
NAMES = [f"kind {letter}" for letter in "abcdefghijk"]
SAVING = training.Saving(resume=True, every_steps=1)


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def batches(**options):
    options = {"drop_remainder": True, "seed": 4, **options}
    return keras_mae.data.from_arrays(IMAGES, LABELS, BATCH, class_names=NAMES, **options)


def held_out():
    return keras_mae.data.from_arrays(IMAGES[:13], LABELS[:13], BATCH, shuffle=False, loader="grain")


def run(directory, **options):
    keras.utils.set_random_seed(0)
    training.run_linear_probe(make_encoder(), batches(), held_out(), PROBE, directory, **options)
    return keras.saving.load_model(directory / "classifier.keras"), json.loads((directory / "run.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "cached")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "live", cache_features=False)


# === Whether ===
@pytest.mark.backends("torch")  # `test_transfer.py` compares them on each
def test_shuffled_batches_of_features_hold_what_those_of_images_hold(alone, live):
    """Epoch by epoch, in the same order, and none of the images is always left out."""
    (default, known), (probe, without) = alone, live
    assert (known["cache_features"], without["cache_features"]) == (True, False)
    assert largest(values(default.head.weights), values(probe.head.weights)) < 1e-4
    assert np.abs(values(probe.head.weights)[3]).max() > 0.1


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (lambda: batches(), ""),
        (lambda: batches(augment=Augmentation(CLASSES)), ""),  # that does nothing
        (lambda: batches(augment=Augmentation(CLASSES, flip=True)), "augments"),
        (lambda: batches(augment=Augmentation(CLASSES, label_smoothing=0.1)), "augments"),
        (lambda: batches(crop=RandomCrop(0.1)), "at random"),
        (lambda: batches(crop=lambda width, height, size, generator: (0, 0, width, height)), "at random"),
        (lambda: [(IMAGES, LABELS)], "is none of keras_mae.data's"),
    ],
)
def test_features_are_kept_where_images_are_the_same_in_every_epoch(dataset, reason):
    found = cached.why_not_cached(dataset())
    assert (reason in found) if reason else not found


@pytest.mark.backends("torch")
def test_the_recipe_for_small_images_has_no_augmentation():
    for images in (None, 560, 60_000):
        recipe = recipes.LinearProbeRecipe.for_size("small_images", images=images)
        assert (recipe.flip, recipe.crop) == (False, None)
    assert recipes.LinearProbeRecipe.for_size("base").flip


@pytest.mark.backends("torch")
def test_features_that_do_not_fit_into_memory_are_not_kept(monkeypatch):
    probe = ViTClassifier(make_encoder(), CLASSES, pooling="token", trainable_blocks=0, batch_norm=True)
    needed = 4 * len(IMAGES) * probe.encoder.embed_dim
    monkeypatch.setattr(cached, "free_memory", lambda: 2 * needed)
    assert cached.has_room(probe, batches())
    monkeypatch.setattr(cached, "free_memory", lambda: 2 * needed - 1)
    with pytest.warns(UserWarning, match="The features of 20 images take .* GB .*: they are computed anew"):
        assert not cached.has_room(probe, batches())
    monkeypatch.setattr(cached, "free_memory", lambda: None)
    assert cached.has_room(probe, batches())


@pytest.mark.backends("torch")
def test_the_free_memory_is_a_plausible_number():
    free = cached.free_memory()
    assert free is None or 2**20 < free < 2**50


@pytest.mark.backends("torch")
def test_a_run_refuses_to_keep_features_of_augmented_images(tmp_path):
    dataset = batches(augment=Augmentation(CLASSES, flip=True))
    with pytest.raises(ValueError, match="`cache_features` takes images that are the same in every epoch"):
        training.run_linear_probe(make_encoder(), dataset, held_out(), PROBE, tmp_path / "run", cache_features=True)


# === Resuming ===
def test_a_probe_goes_on_as_it_began(alone, tmp_path):
    """In the middle of an epoch, to the same weights."""
    with pytest.raises(MemoryError):
        run(tmp_path, saving=SAVING, callbacks=[Stop(3, killed)])
    began, goes_on = run(tmp_path, saving=SAVING)
    assert goes_on["cache_features"] is True
    assert_same(values(began.weights), values(alone[0].weights))


@pytest.mark.backends("torch")
@pytest.mark.parametrize("earlier", [False, True])
def test_a_run_that_began_without_goes_on_without(live, tmp_path, earlier):
    """Earlier versions said nothing of it."""
    with pytest.raises(MemoryError):
        run(tmp_path, cache_features=False, saving=SAVING, callbacks=[Stop(3, killed)])
    for file in tmp_path.glob("checkpoints/*/state.json") if earlier else ():
        state = json.loads(file.read_text())
        del state["metadata"]["cache_features"]
        file.write_text(stored.checksummed(state))
    with pytest.raises(ValueError, match="features anew in every epoch. Received: cache_features=True"):
        run(tmp_path, saving=SAVING, cache_features=True)
    probe, known = run(tmp_path, saving=SAVING)
    assert known["cache_features"] is False
    assert_same(values(probe.weights), values(live[0].weights))


# === Batches of features ===
@pytest.mark.backends("torch", "tensorflow")
@pytest.mark.parametrize("loader", ["grain", "tf.data"])
def test_probabilities_to_validate_on_are_taken_as_they_are(loader):
    if loader == "tf.data":
        pytest.importorskip("tensorflow")
    validation = (IMAGES[:BATCH], np.eye(CLASSES, dtype="float32")[LABELS[:BATCH]])
    probe = transfer.linear_probe(
        make_encoder(), batches(loader=loader), CLASSES, PROBE, validation_data=validation, verbose=0
    )
    found = probe.evaluate(*validation, return_dict=True, verbose=0)
    np.testing.assert_allclose(probe.history.history["val_loss"][-1], found["loss"], rtol=1e-3)
