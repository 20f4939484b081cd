"""Pictures and scores of a model while it trains, which change nothing of the training."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import ops

import keras_mae
from keras_mae import recipes, training, transfer
from keras_mae.training import OnlineProbe, RankMe, Watch

GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 2, 24)
IMAGES = GENERATOR.integers(0, 40, (24, 8, 12, 1), dtype="uint8") + 200 * LABELS[:, None, None, None].astype("uint8")


def trained(*callbacks, epochs=3):
    keras.utils.set_random_seed(0)
    encoder = keras_mae.ViTEncoder((8, 12, 1), 4, embed_dim=8, depth=1, num_heads=2)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, depth=1, num_heads=2))
    mae.compile(keras_mae.optimizers.AdamW(1e-2), run_eagerly=keras.backend.backend() == "tensorflow")
    history = mae.fit(IMAGES, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    return [ops.convert_to_numpy(weight) for weight in mae.weights], history.history


def test_watching_leaves_pictures_and_training_alone(tmp_path):
    probe = OnlineProbe((IMAGES[:16], LABELS[:16]), (IMAGES[16:], LABELS[16:]), every_epochs=2)
    watched, history = trained(probe, Watch(IMAGES[:3], tmp_path / "watch", every_epochs=2))
    for weight, expected in zip(watched, trained()[0], strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert [path.name for path in sorted((tmp_path / "watch").glob("*.png"))] == ["epoch-0002.png"]
    assert np.isnan(history["knn_accuracy"][0])
    assert history["knn_accuracy"][1:] == [1.0, 1.0]  # bright against dark
    assert history["probe_seconds"][1] > 0


def test_rankme_is_that_of_the_features_and_leaves_training_alone():
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            features = transfer.extract_features(self.model.encoder, IMAGES, progress=False).features
            seen[epoch] = transfer.rankme(features)

    weights, history = trained(RankMe(IMAGES, every_epochs=2), Look())
    for weight, expected in zip(weights, trained()[0], strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert np.isnan(history["rankme"][0])
    assert history["rankme"][1:] == [seen[1], seen[1]]
    assert 1 < seen[1] < 8


@pytest.mark.backends("torch")
def test_without_class_tokens_features_are_the_patches_mean():
    encoder = keras_mae.ViTEncoder((8, 12, 1), 4, embed_dim=8, depth=1, num_heads=2, class_tokens=0)
    callback = RankMe(IMAGES, 1)
    callback.set_model(keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, depth=1, num_heads=2)))
    callback.on_train_begin()
    expected = transfer.rankme(transfer.extract_features(encoder, IMAGES, pooling="mean", progress=False).features)
    assert callback.measure() == {"rankme": expected}
    labeled = (IMAGES, LABELS)
    probe = OnlineProbe(labeled, labeled, 1)
    probe.set_model(callback.model)
    probe.on_train_begin()
    own = transfer.extract_features(encoder, *labeled, pooling="mean", progress=False)
    assert probe.measure()["knn_accuracy"] == transfer.knn_accuracy(own, own, k=20)
    callback.pooling = "token"
    with pytest.raises(ValueError, match="takes an encoder with class tokens"):
        callback.on_train_begin()


@pytest.mark.backends("torch")
def test_a_model_of_no_finite_features_has_no_rankme():
    encoder = keras_mae.ViTEncoder((8, 12, 1), 4, embed_dim=8, depth=1, num_heads=2)
    encoder.weights[0].assign(np.full(encoder.weights[0].shape, np.nan))
    callback = RankMe(IMAGES, 1)
    callback.set_model(keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, depth=1, num_heads=2)))
    assert np.isnan(callback.measure()["rankme"])


@pytest.mark.backends("torch")
def test_rankme_takes_images_that_are_held_out_or_those_trained_on(class_folders):
    held = training.open_unlabeled(class_folders, (8, 12, 1), validation=0.3)
    callback = training.open_rankme(held, 3)
    np.testing.assert_array_equal(callback.images, held.validation.batch(np.arange(len(held.validation)))[0])
    everything = training.open_unlabeled(class_folders, (8, 12, 1))
    assert len(training.open_rankme(everything).images) == 11
    digits = training.open_rankme(training.open_unlabeled("digits", (8, 8, 1)))
    assert len(digits.images) == 1437


@pytest.mark.backends("torch")
def test_a_run_that_goes_on_repeats_its_last_score():
    probe = OnlineProbe((IMAGES[:16], LABELS[:16]), (IMAGES[16:], LABELS[16:]), every_epochs=5)
    probe.resumed({"loss": [1.0, 0.5], "knn_accuracy": [float("nan"), 0.75], "probe_seconds": [0.0, 2.0]})
    _, history = trained(probe, epochs=1)
    assert (history["knn_accuracy"], history["probe_seconds"]) == ([0.75], [2.0])


@pytest.mark.backends("torch")
def test_a_probe_is_opened_by_name_or_folder(class_folders):
    probe = keras_mae.training.open_probe(class_folders, (8, 12, 1), 3, seed=1)
    assert [len(labels) for _, labels in (probe.train, probe.test)] == [10, 1]
    assert (probe.train[0].shape, probe.every_epochs) == ((10, 8, 12, 1), 3)
    digits = keras_mae.training.open_probe("digits", (8, 8, 1))
    assert len(digits.train[0]) == 1437
    with pytest.raises(ValueError, match="must hold images|Labeled images lie in a folder"):
        keras_mae.training.open_probe(class_folders / "cats", (8, 12, 1))


def test_a_picture_that_fails_is_a_warning(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no ink")

    monkeypatch.setattr("keras_mae.visualize.reconstructions", fail)
    with pytest.warns(UserWarning, match="epoch-0001.png could not be drawn: RuntimeError: no ink"):
        _, history = trained(Watch(IMAGES[:3], tmp_path), epochs=1)
    assert len(history["loss"]) == 1


@pytest.mark.backends("torch")
def test_tensorboard_reads_what_was_logged(tmp_path):
    if not importlib.util.find_spec("tensorboard"):
        pytest.skip("tensorboard is not installed here")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, history = trained(Watch(IMAGES[:2], tmp_path), epochs=2)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (epoch, pytest.approx(value)) for epoch, value in enumerate(history["loss"], 1)
    ]
    [image, _] = events.Images("reconstructions")
    assert (image.width, image.height) == tuple(np.frombuffer(image.encoded_image_string[16:24], ">u4"))


def test_a_linear_probe_is_trained_on_the_way():
    recipe = recipes.LinearProbeRecipe.for_size("small_images", epochs=3, warmup_epochs=1, batch_size=8)
    data = (IMAGES[:16], LABELS[:16]), (IMAGES[16:], LABELS[16:])
    _, history = trained(OnlineProbe(*data, every_epochs=1, recipe=recipe), epochs=1)
    assert 0 <= history["probe_accuracy"][0] <= 1


@pytest.mark.backends("torch")
def test_the_neighbors_features_are_those_asked_for():
    data = (IMAGES[:16], LABELS[:16]), (IMAGES[16:], LABELS[16:])
    _, history = trained(OnlineProbe(*data, every_epochs=1, pooling="flatten"), epochs=1)
    assert history["knn_accuracy"] == [1.0]
    with pytest.raises(ValueError, match="`pooling` must be the recipe's, 'token'. Received: pooling='mean'"):
        OnlineProbe(*data, recipe=recipes.LinearProbeRecipe(), pooling="mean")
    with pytest.raises(ValueError, match="`pooling` must be one of 'mean', 'token', 'flatten'"):
        OnlineProbe(*data, pooling="attentive")


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    "make", [lambda n: Watch(IMAGES, "x", n), lambda n: OnlineProbe(None, None, n), lambda n: RankMe(IMAGES, n)]
)
def test_intervals_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="`every_epochs` must be a positive integer. Received: every_epochs=0"):
        make(0)
