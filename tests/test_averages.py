"""Averaged weights: their momentum, what is validated, what a run ends with, and that a resumed one ends the same."""

import keras
import numpy as np
import pytest
from keras import ops
from test_resume import IMAGES, everything, run
from training_helpers import Stop, killed, terminated

import keras_mae
from keras_mae.optimizers import LARS, AdamW, Muon, ValidateAverages, averaged_weights
from keras_mae.recipes import FineTuneRecipe, PretrainRecipe
from keras_mae.training import OnlineProbe
from keras_mae.training.checkpoints import Preempted

RECIPE = PretrainRecipe(
    epochs=3,
    warmup_epochs=1,
    batch_size=8,
    gradient_accumulation_steps=2,
    base_learning_rate=0.1,
    ema_momentum=0.9,
    norm_pix_loss=True,
    seed=4,
)


class Weights(keras.callbacks.Callback):
    """Keeps the weights after every batch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.found.append(values_of(self.model))


def values_of(model):
    return [np.array(ops.convert_to_numpy(value)) for value in model.trainable_variables]


def averages_of(steps, momentum):
    """The average after each update, of the weights after each update."""
    average = None
    for done, values in enumerate(steps):
        share = 1.0 if done == 0 else 1 - min(momentum, (1 + done) / (10 + done))
        average = values if average is None else [a + share * (v - a) for a, v in zip(average, values, strict=True)]
    return average


def assert_close(got, expected, atol=1e-6):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol, equal_nan=False)


# === The average ===
@pytest.mark.parametrize("kind", [AdamW, LARS, Muon])
@pytest.mark.parametrize("momentum", [0.15, 0.9999])
def test_averages_begin_short(kind, momentum):
    """With 0.15 the limit is reached, with 0.9999 never: Keras' average would be the first weights all along."""
    draw = np.random.default_rng(0).standard_normal
    variable = keras.Variable(draw((3, 4)).astype("float32"), name="kernel")
    optimizer, steps = kind(0.5, use_ema=True, ema_momentum=momentum, ema_warmup=True), []
    for _ in range(6):
        optimizer.apply([ops.convert_to_tensor(draw((3, 4)).astype("float32"))], [variable])
        steps.append([np.array(ops.convert_to_numpy(variable))])
    optimizer.finalize_variable_values([variable])
    assert_close([ops.convert_to_numpy(variable)], averages_of(steps, momentum))
    again = type(optimizer).from_config(optimizer.get_config())
    assert (again.ema_warmup, again.ema_momentum) == (True, momentum)


def test_without_it_averages_are_keras_own():
    assert AdamW(use_ema=True).get_config()["ema_warmup"] is False
    with pytest.raises(ValueError, match="`ema_warmup` must be True or False"):
        AdamW(ema_warmup=1)


# === Runs ===
@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run that nobody disturbs, and its weights after every batch."""
    directory, weights = tmp_path_factory.mktemp("alone") / "run", Weights()
    model = run(directory, weights, recipe=RECIPE, validation_data=IMAGES[:8])
    return everything(model), (directory / "history.csv").read_text(), weights.found, directory


def test_a_run_ends_with_the_average(alone):
    """Of the weights after each update, of which there is one every second batch; in its files, too."""
    _, _, found, directory = alone
    expected = averages_of(found[1::2], 0.9)
    assert max(np.abs(one - last).max() for one, last in zip(expected, found[-1], strict=True)) > 1e-4
    for name in ("model.keras", "encoder.keras"):
        loaded = keras.saving.load_model(directory / name, compile=False)
        got = values_of(loaded)
        assert_close(got, expected[: len(got)] if name == "encoder.keras" else expected)
    assert not (directory / "before_decay").exists()  # which is for other schedules


@pytest.mark.backends("torch")
def test_a_resumed_run_ends_the_same(alone, tmp_path):
    """Terminated within the second epoch, and within the last, in which the first `fit` is not to end the run."""
    for step in (8, 7):
        with pytest.raises(Preempted):
            run(tmp_path / "run", Stop(step, terminated), recipe=RECIPE, validation_data=IMAGES[:8])
    model = run(tmp_path / "run", recipe=RECIPE, validation_data=IMAGES[:8])
    for got, expected in zip(everything(model), alone[0], strict=True):
        assert np.array_equal(got, expected)
    assert (tmp_path / "run" / "history.csv").read_text() == alone[1]


@pytest.mark.backends("torch")
def test_a_run_killed_while_results_are_written_leaves_the_average(alone, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(keras_mae.MaskedAutoencoder, "save", lambda *_: killed())
        with pytest.raises(MemoryError):
            run(tmp_path / "run", recipe=RECIPE, validation_data=IMAGES[:8])
    run(tmp_path / "run", recipe=RECIPE, validation_data=IMAGES[:8])
    one, other = (
        values_of(keras.saving.load_model(directory / "model.keras", compile=False))
        for directory in (alone[3], tmp_path / "run")
    )
    for got, expected in zip(other, one, strict=True):
        assert np.array_equal(got, expected)


def test_validation_leaves_training_alone_and_sees_the_average(alone, tmp_path):
    """The last epoch's `val_loss` is the loss of the model that the run leaves."""
    weights = Weights()
    run(tmp_path / "run", weights, recipe=RECIPE)
    for got, expected in zip(weights.found[-1], alone[2][-1], strict=True):
        assert np.array_equal(got, expected)
    loaded = keras.saving.load_model(alone[3] / "model.keras")
    last = keras_mae.training.RunDirectory(alone[3]).history["val_loss"][-1]
    np.testing.assert_allclose(loaded.evaluate(IMAGES[:8], verbose=0, return_dict=True)["loss"], last, rtol=1e-5)


# === Fine-tuning ===
@pytest.mark.backends("torch")
def test_fine_tuning_returns_the_average():
    encoder = keras_mae.ViTEncoder((8, 12, 1), 4, embed_dim=8, depth=1, num_heads=2)
    recipe = FineTuneRecipe(epochs=2, warmup_epochs=0, batch_size=9, base_learning_rate=0.1, ema_momentum=0.999)
    labels, weights = np.arange(27) % 3, Weights()
    data = keras_mae.data.from_arrays(IMAGES, labels, batch_size=9)
    classifier = keras_mae.transfer.fine_tune(
        encoder, data, 3, recipe, validation_data=(IMAGES, labels), callbacks=[weights], verbose=0
    )
    assert_close(values_of(classifier), averages_of(weights.found, 0.999))
    loss = classifier.evaluate(IMAGES, labels, verbose=0, return_dict=True)["loss"]
    np.testing.assert_allclose(classifier.history.history["val_loss"][-1], loss, rtol=1e-5)


# === The swap ===
def test_the_same_bits_return():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(AdamW(0.3, use_ema=True, ema_momentum=0.5), "mse")
    with averaged_weights(model):
        pass  # before the first update there are no averages
    model.train_on_batch(np.ones((4, 3)), np.zeros((4, 2)))
    model.train_on_batch(np.ones((4, 3)), np.zeros((4, 2)))
    before = values_of(model)
    with averaged_weights(model):
        inside = values_of(model)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for one, other, same in zip(before, inside, values_of(model), strict=True):
        assert not np.array_equal(one, other) or not one.any()
        assert np.array_equal(other, same)


def test_without_averages_nothing_is_swapped():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    before = values_of(model)
    callback = ValidateAverages()
    model.evaluate(np.ones((4, 3)), np.zeros((4, 2)), callbacks=[callback], verbose=0)
    with averaged_weights(model):
        assert all(map(np.array_equal, values_of(model), before))


@pytest.mark.backends("torch")
def test_the_online_probe_scores_the_average(monkeypatch):
    seen = []
    monkeypatch.setattr(OnlineProbe, "_neighbors", lambda self: seen.append(values_of(self.model)) or 0.5)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(AdamW(0.3, use_ema=True, ema_momentum=0.9, ema_warmup=True), "mse")
    labels = np.zeros(len(IMAGES), int)
    probe = OnlineProbe((IMAGES, labels), (IMAGES, labels), every_epochs=1)
    monkeypatch.setattr(probe, "on_train_begin", lambda logs=None: None)
    model.fit(np.ones((6, 3)), np.zeros((6, 2)), batch_size=2, callbacks=[probe], verbose=0)
    assert_close(seen[0], values_of(model))


@pytest.mark.backends("torch")
@pytest.mark.parametrize("momentum", [-0.1, 1, "a"])
@pytest.mark.parametrize("kind", [PretrainRecipe, FineTuneRecipe])
def test_a_momentum_out_of_range_is_refused(kind, momentum):
    with pytest.raises(ValueError, match=r"`ema_momentum` must be in \[0, 1\)"):
        kind(ema_momentum=momentum)
