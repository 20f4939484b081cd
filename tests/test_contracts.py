"""What every public class promises: configuration, saving, precision, registration."""

import inspect
import json

import contracts
import keras
import numpy as np
import pytest
from conftest import run_quickly
from keras import ops

import keras_mae

SERIALISABLE = contracts.serialisable()
# Two base classes, and three helpers that only their owners make, save and restore.
ABSTRACT = {"Masking", "Target", "StepCounter", "Linear", "Convolution"}
CONCRETE = [name for name, kind in SERIALISABLE.items() if kind.__name__ not in ABSTRACT]
CALLABLE = [name for name in CONCRETE if name not in contracts.EXAMPLES or contracts.EXAMPLES[name].call]
SAVED = [name for name in CONCRETE if name not in contracts.EXAMPLES or contracts.EXAMPLES[name].wrap]
DENSE = ["dense.SimplePyramid", "dense.UPerHead"]


def to_numpy(x):
    return ops.convert_to_numpy(x)


def example_of(name):
    if name not in contracts.EXAMPLES:
        pytest.fail(f"{name} is public and has no entry in contracts.EXAMPLES")
    return contracts.EXAMPLES[name]


def same_weights(target, source):
    for ours, theirs in zip(target.weights, source.weights, strict=True):
        ours.assign(theirs)


def comparable(config):
    """A configuration as it comes out of a file: tuples are lists."""
    return json.loads(json.dumps(config))


@pytest.mark.parametrize("name", keras_mae.__all__)
def test_every_public_name_exists(name):
    assert getattr(keras_mae, name) is not None


def test_the_walk_finds_the_classes_of_the_readme():
    assert {"MaskedAutoencoder", "ViTEncoder", "MAEDecoder", "RandomMasking", "optimizers.AdamW"} <= set(SERIALISABLE)


def test_no_example_is_left_of_a_class_that_is_gone():
    assert set(contracts.EXAMPLES) <= set(CONCRETE)


@pytest.mark.parametrize("name", CONCRETE)
def test_registered_under_the_package(name):
    kind = SERIALISABLE[name]
    assert keras.saving.get_registered_name(kind) == f"keras_mae>{kind.__name__}"


@pytest.mark.parametrize("name", CONCRETE)
def test_config_round_trip(name):
    made = example_of(name).make()
    config = made.get_config()
    again = type(made).from_config(comparable(config))
    assert comparable(again.get_config()) == comparable(config)


@pytest.mark.parametrize("name", CONCRETE)
def test_config_holds_every_argument_of_the_constructor(name):
    made = example_of(name).make()
    arguments = {
        key
        for key, parameter in inspect.signature(type(made).__init__).parameters.items()
        if key != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    assert arguments <= set(made.get_config())


@pytest.mark.parametrize("name", CALLABLE)
def test_outputs_survive_the_config_round_trip(name):
    example = example_of(name)
    made = example.make()
    expected = contracts.outputs_of(example, made)
    again = type(made).from_config(comparable(made.get_config()))
    if not again.built:
        example.call(again)
    same_weights(again, made)
    np.testing.assert_array_equal(contracts.outputs_of(example, again), expected)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in SAVED), ("MaskedAutoencoder", "mixed_bfloat16")]
)
def test_keras_file_round_trip(name, dtype, tmp_path):
    example = example_of(name)
    made = example.make(dtype=dtype)
    model = example.wrap(made)
    expected = contracts.outputs_of(example, made)
    model.save(tmp_path / "model.keras")
    loaded = example.unwrap(keras.saving.load_model(tmp_path / "model.keras"))
    assert type(loaded) is type(made)
    assert comparable(loaded.get_config()) == comparable(made.get_config())
    np.testing.assert_array_equal(contracts.outputs_of(example, loaded), expected)
    assert np.isfinite(expected).all()


# A classifier's head is float32 whatever the encoder's precision; `test_classifier.py` holds it to that. So are the
# pixels that a backbone takes.
OTHER_POLICIES = {"ViTClassifier", "DetectionBackbone"}
WITHOUT_OTHER_POLICIES = [
    name for name in SAVED if issubclass(SERIALISABLE[name], keras.layers.Layer) and name not in OTHER_POLICIES
]


@pytest.mark.parametrize("name", WITHOUT_OTHER_POLICIES)
def test_dtype_policy_reaches_all_children(name):
    example = example_of(name)
    made = example.make(dtype="mixed_bfloat16")
    if not made.built:
        example.call(made)
    policies = {layer.name: layer.dtype_policy.name for layer in contracts.layers_within(made)}
    assert {name: policy for name, policy in policies.items() if policy != "mixed_bfloat16"} == {}
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in made.trainable_weights} <= {"float32"}


@pytest.mark.parametrize("name", ["ViTEncoder", "PatchEmbedding", "TransformerBlock", "MAEDecoder", *DENSE])
def test_mixed_precision_computes_in_bfloat16(name):
    example = example_of(name)
    made = example.make(dtype="mixed_bfloat16")
    outputs = run_quickly(lambda: example.call(made))() if made.built else example.call(made)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"


@pytest.mark.parametrize("name", [name for name in CONCRETE if issubclass(SERIALISABLE[name], keras.Model)])
def test_models_summarise(name):
    made, lines = example_of(name).make(), []
    made.summary(print_fn=lines.append)
    assert f"{made.count_params():,}" in "\n".join(map(str, lines))


def test_the_step_counter_is_saved_with_the_model(tmp_path):
    model = contracts.mae()
    model.encoder.step.set(41)
    model.save(tmp_path / "mae.keras")
    assert int(keras.saving.load_model(tmp_path / "mae.keras").encoder.step.value) == 41
    model.save_weights(tmp_path / "mae.weights.h5")
    fresh = contracts.mae()
    fresh.load_weights(tmp_path / "mae.weights.h5")
    assert int(fresh.encoder.step.value) == 41


def test_the_encoder_of_a_saved_model_is_the_model_alone(tmp_path):
    model = contracts.mae()
    model.encoder.save(tmp_path / "encoder.keras")
    encoder = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(to_numpy(encoder(contracts.IMAGES)), to_numpy(model.encoder(contracts.IMAGES)))


# === The edge of the public API ===
PUBLIC_MODULES = [name for name in keras_mae.__all__ if inspect.ismodule(getattr(keras_mae, name))]


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_module_says_what_is_public(name):
    """Names that only other modules of the package use have no underscore and are left out of `__all__`."""
    module = getattr(keras_mae, name)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [public for public in module.__all__ if public.startswith("_") or not hasattr(module, public)] == []


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_what_the_top_level_exports_is_public_where_it_is_defined(name):
    module = getattr(keras_mae, name)
    exported = {
        public
        for public in keras_mae.__all__
        if getattr(getattr(keras_mae, public), "__module__", None) == module.__name__
    }
    assert exported <= set(module.__all__)
