"""Files that the code before 0.1.0 wrote still load, and compute what they did."""

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import keras_mae

FOLDER = Path(__file__).parent / "witnesses"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
CLASSES = {
    "masked_autoencoder": keras_mae.MaskedAutoencoder,
    "classifier": keras_mae.ViTClassifier,
    "probe": keras_mae.ViTClassifier,
}


@pytest.fixture(scope="module")
def arrays():
    with np.load(FOLDER / "expected.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def load():
    """Name -> the model in that file, loaded once."""
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = (
                keras_mae.MaskedAutoencoder.from_preset(FOLDER / "preset")
                if name == "preset"
                else keras.saving.load_model(FOLDER / f"{name}.keras")
            )
        return loaded[name]

    return load


def digest(model):
    """sha256 over the bytes of all weights."""
    total = hashlib.sha256()
    for weight in model.weights:
        total.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("name", CLASSES)
def test_a_file_gives_the_same_bits_compiled_as_it_was(name, load):
    model = load(name)
    assert type(model) is CLASSES[name]
    assert digest(model) == EXPECTED[name]
    assert model.compiled
    assert model.optimizer.built
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) > 0


def test_a_preset_gives_the_same_bits(load):
    assert digest(load("preset")) == EXPECTED["masked_autoencoder"]


@pytest.mark.parametrize("name", ["masked_autoencoder", "preset"])
def test_the_training_step_goes_on_where_it_was(name, load):
    assert int(ops.convert_to_numpy(load(name).encoder.step.value)) == EXPECTED["step"]


@pytest.mark.parametrize("name", ["masked_autoencoder", "preset"])
def test_a_masked_autoencoder_masks_and_predicts_as_before(name, load, arrays):
    model = load(name)
    pictures = model.reconstruct(arrays["images"])
    np.testing.assert_array_equal(pictures.mask, arrays["mask"])
    # Rounded to whole grey levels, of which one may fall on the other side.
    difference = np.abs(pictures.predicted.astype(int) - arrays["reconstruction"])
    assert difference.max() <= 1
    assert difference.mean() < 0.01
    tokens = ops.convert_to_numpy(model.encoder(arrays["images"]))
    np.testing.assert_allclose(tokens, arrays["tokens"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "key"), [("classifier", "logits"), ("probe", "probe_logits")])
def test_a_classifier_gives_the_same_logits(name, key, load, arrays):
    logits = load(name).predict(arrays["images"], verbose=0)
    np.testing.assert_allclose(logits, arrays[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_a_loaded_model_trains_on(name, load, arrays):
    """Last, for it changes the models."""
    model = load(name)
    before = digest(model)
    logs = model.train_on_batch(arrays["images"], arrays["labels"], return_dict=True)
    assert float(logs["skipped_steps"]) == 0
    assert digest(model) != before
