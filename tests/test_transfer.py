"""The protocols that train, as functions: fine-tuning and the linear probe."""

import io

import keras
import numpy as np
import pytest
from classifier_helpers import (
    BATCH,
    CLASSES,
    IMAGES,
    LABELS,
    assert_same,
    largest,
    make_encoder,
    values,
)
from rich.console import Console
from training_helpers import quick_compile
from transfer_helpers import dataset, unknown_length

import keras_mae
from keras_mae import recipes, transfer

FINE_TUNE = recipes.FineTuneRecipe.for_size(
    "small_images", epochs=2, warmup_epochs=1, batch_size=BATCH, base_learning_rate=0.5
)
PROBE = recipes.LinearProbeRecipe.for_size(
    "small_images", epochs=2, warmup_epochs=1, batch_size=BATCH, base_learning_rate=20.0
)


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


# === Fine-tuning ===
@pytest.fixture(scope="module")
def fine_tuned():
    """An encoder, its weights before, and its classifier after two epochs."""
    encoder = make_encoder()
    before = values(encoder.weights)
    validation = (IMAGES[:BATCH], LABELS[:BATCH])
    classifier = transfer.fine_tune(encoder, dataset(), CLASSES, FINE_TUNE, validation_data=validation, verbose=0)
    return encoder, before, classifier


def test_fine_tuning_leaves_the_given_encoder_alone(fine_tuned):
    encoder, before, classifier = fine_tuned
    assert_same(values(encoder.weights), before)
    assert (encoder.drop_path_rate, int(encoder.step.value)) == (0, 0)
    assert largest(values(classifier.encoder.blocks[0].weights), values(encoder.blocks[0].weights)) > 1e-3


def test_fine_tuning_follows_its_recipe(fine_tuned):
    """Two epochs of four batches: warm-up, then down to the minimum."""
    classifier = fine_tuned[2]
    optimizer = classifier.optimizer
    assert classifier.encoder.drop_path_rate == 0.1
    assert (classifier.pooling, classifier.trainable_blocks, classifier.num_classes) == ("mean", None, CLASSES)
    assert int(optimizer.iterations) == 8
    assert sorted({round(scale, 6) for scale in optimizer.learning_rate_scales}) == [0.421875, 0.5625, 0.75, 1.0]
    np.testing.assert_allclose(float(optimizer._learning_rate(4)), 0.5 * BATCH / 256, rtol=1e-5)
    np.testing.assert_allclose(float(optimizer._learning_rate(8)), 1e-6, rtol=1e-2)


def test_fine_tuning_keeps_a_finite_history(fine_tuned):
    history = fine_tuned[2].history.history
    assert set(history) == {"loss", "accuracy", "skipped_steps", "val_loss", "val_accuracy"}
    assert all(len(column) == 2 and np.isfinite(column).all() for column in history.values())
    assert history["loss"][1] < history["loss"][0]


def test_partial_fine_tuning_trains_the_last_blocks_of_a_copy():
    encoder = make_encoder()
    before = values(encoder.weights)
    classifier = transfer.partial_fine_tune(encoder, dataset(), CLASSES, FINE_TUNE, trainable_blocks=1, verbose=0)
    assert_same(values(encoder.weights), before)
    first, last = classifier.encoder.blocks
    assert_same(values(first.weights), values(encoder.blocks[0].weights))
    assert_same(values([classifier.encoder.position_embedding]), values([encoder.position_embedding]))
    assert largest(values(last.weights), values(encoder.blocks[1].weights)) > 1e-3


@pytest.mark.parametrize(
    "protocol", ["fine_tune", pytest.param("partial_fine_tune", marks=pytest.mark.backends("torch"))]
)
def test_images_of_another_size_are_fine_tuned_on(protocol):
    images = np.random.default_rng(9).integers(0, 256, (BATCH, 4, 8, 1), "uint8")
    options = {"trainable_blocks": 0.5} if protocol == "partial_fine_tune" else {}
    classifier = getattr(transfer, protocol)(
        make_encoder(),
        dataset(LABELS[:BATCH], images),
        CLASSES,
        FINE_TUNE,
        image_shape=(4, 8, 1),
        verbose=0,
        **options,
    )
    assert classifier.encoder.image_shape == (4, 8, 1)
    assert int(classifier.optimizer.iterations) == 2


# === The linear probe ===
def run_probe(encoder, **options):
    """A probe, and what it said."""
    keras.utils.set_random_seed(0)
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    validation = (IMAGES[:BATCH], LABELS[:BATCH])
    classifier = transfer.linear_probe(
        encoder, dataset(), CLASSES, PROBE, validation_data=validation, console=console, verbose=0, **options
    )
    return classifier, shown.getvalue()


@pytest.fixture(scope="module")
def probes():
    """The encoder, its weights before, and the probe after two epochs: live, and on features computed once."""
    encoder = make_encoder()
    before = values(encoder.weights)
    # `fit` would shuffle the features.
    cached = run_probe(encoder, cache_features=True, shuffle=False)
    live, default = run_probe(encoder, cache_features=False), run_probe(encoder)
    return encoder, before, {"live": live, "cached": cached, "by default": default}


@pytest.mark.parametrize("how", ["live", "cached", "by default"])
def test_a_probe_changes_no_encoder(probes, how):
    encoder, before, found = probes
    assert_same(values(encoder.weights), before)
    assert_same(values(found[how][0].encoder.weights), before)


@pytest.mark.parametrize("how", ["live", "cached", "by default"])
def test_a_probes_batch_statistics_move(probes, how):
    """They start at 0 and 1, and after eight steps have gone most of the way to the features' own."""
    encoder, _, found = probes
    mean, variance = values(found[how][0].head.layers[0].weights)
    features = transfer.extract_features(encoder, IMAGES, progress=False).features
    assert np.abs(mean - features.mean(0)).max() < 0.7 * np.abs(features.mean(0)).max()
    assert np.abs(mean).max() > 0.1
    assert np.abs(variance - 1).max() > 0.1


def test_cached_features_say_that_augmentation_is_off(probes):
    found = probes[2]
    assert "cached features: augmentation is off" in found["cached"][1]
    assert found["live"][1] == found["by default"][1] == ""


@pytest.mark.backends("torch")
def test_a_silent_probe_says_nothing(capsys):
    transfer.linear_probe(make_encoder(), dataset(), CLASSES, PROBE, cache_features=True, verbose=0)
    said = capsys.readouterr()
    assert said.out + said.err == ""


@pytest.mark.parametrize("how", ["cached", "by default"])
def test_cached_and_live_probes_agree_where_nothing_is_random(probes, how):
    (live, _), (cached, _) = probes[2]["live"], probes[2][how]
    assert largest(values(live.head.weights), values(cached.head.weights)) < 1e-4
    assert np.abs(values(live.head.weights)[3]).max() > 0.1  # the bias, which started at 0
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(
            live.history.history[name], cached.history.history[name], rtol=1e-3, equal_nan=False
        )


def test_a_cached_probe_is_a_classifier_like_any_other(probes, tmp_path):
    """Compiled with the optimizer that trained it, and saved with it."""
    classifier = probes[2]["cached"][0]
    expected = classifier.predict_on_batch(IMAGES[:BATCH])
    classifier.save(tmp_path / "probe.keras")
    loaded = keras.saving.load_model(tmp_path / "probe.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(IMAGES[:BATCH]), expected)
    assert type(loaded.optimizer) is keras_mae.optimizers.LARS
    assert int(loaded.optimizer.iterations) == 8
    logs = loaded.evaluate(IMAGES[:BATCH], LABELS[:BATCH], batch_size=BATCH, verbose=0, return_dict=True)
    assert logs["accuracy"] == pytest.approx(classifier.history.history["val_accuracy"][-1])


# === Refused ===
def test_a_dataset_without_length_is_refused():
    for protocol, recipe in ((transfer.fine_tune, FINE_TUNE), (transfer.linear_probe, PROBE)):
        with pytest.raises(ValueError, match="`dataset` must have a known length.*Received: generator"):
            protocol(make_encoder(), unknown_length(IMAGES, LABELS), CLASSES, recipe, verbose=0)


CACHED = {"live": {"cache_features": False}, "cached": {"cache_features": True}, "by default": {}}


@pytest.mark.parametrize("how", CACHED)
def test_a_probe_on_images_without_labels_is_refused(how):
    with pytest.raises(ValueError, match=r"trained on \(images, labels\). Received: no labels"):
        transfer.linear_probe(make_encoder(), dataset(None), CLASSES, PROBE, verbose=0, **CACHED[how])


def test_fine_tuning_on_images_without_labels_is_refused():
    with pytest.raises(ValueError, match=r"trained on \(images, labels\). Received: no labels"):
        transfer.fine_tune(make_encoder(), dataset(None), CLASSES, FINE_TUNE, verbose=0)


@pytest.mark.parametrize("how", CACHED)
def test_labels_outside_the_range_are_refused(how):
    """Inside TensorFlow's compiled step it is TensorFlow's error, with the same message."""
    with pytest.raises(Exception, match=r"Labels must be integers in \[0, 10\)"):
        transfer.linear_probe(make_encoder(), dataset(np.arange(20) % 11), 10, PROBE, verbose=0, **CACHED[how])


def test_more_blocks_than_there_are_are_refused():
    with pytest.raises(ValueError, match="`trainable_blocks` must be 0, 0.5, 1, ... up to the encoder's 2"):
        transfer.partial_fine_tune(make_encoder(), dataset(), CLASSES, FINE_TUNE, trainable_blocks=3, verbose=0)


@pytest.mark.parametrize("how", CACHED)
def test_images_of_another_size_than_the_encoders_are_refused(how):
    with pytest.raises(ValueError, match=r"8, 12, 1\).*Received: images.shape=\(.*12, 8, 1\)"):
        transfer.linear_probe(
            make_encoder(), dataset(images=IMAGES.swapaxes(1, 2)), CLASSES, PROBE, verbose=0, **CACHED[how]
        )
