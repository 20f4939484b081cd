"""AdamW against NumPy, and the pre-training optimizer."""

import keras
import numpy as np
import pytest
from keras import ops
from optimizer_helpers import (
    BACKEND,
    DECAYED,
    GRADIENTS,
    OWN_DECAYED,
    SCALES,
    SHAPES,
    START,
    STEPS,
    apply,
    assert_close,
    numpy_adamw,
    train,
    variables_of,
)

import keras_mae
from keras_mae.optimizers import AdamW, pretraining_adamw, warmup_cosine


# === AdamW ===
def test_adamw_follows_its_formula():
    """A large `epsilon` and decay, so that the place of either would show far above the tolerance."""
    sizes = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 0.01}
    got = train(AdamW(0.02, weight_decay=0.5, **sizes))
    assert_close(got, numpy_adamw(GRADIENTS, 0.02, 0.5, **sizes))


def test_adamw_follows_a_schedule():
    schedule = warmup_cosine(0.04, total_steps=7, warmup_steps=2)
    rates = [float(schedule(step)) for step in range(STEPS)]
    got = train(AdamW(schedule, weight_decay=0.5, epsilon=0.01))
    assert_close(got, numpy_adamw(GRADIENTS, lambda step: rates[step], 0.5, 0.9, 0.95, 0.01))


def test_adamws_defaults_are_the_papers():
    config = AdamW().get_config()
    assert {key: config[key] for key in ("weight_decay", "beta_1", "beta_2")} == {
        "weight_decay": 0.05,
        "beta_1": 0.9,
        "beta_2": 0.95,
    }


def test_zero_gradients_decay_matrices_and_tokens_only():
    still = [{name: np.zeros_like(value) for name, value in START.items()}]
    got = train(AdamW(0.1, weight_decay=0.5), still)
    for name in SHAPES:
        factor = 0.95 if name in DECAYED else 1.0
        np.testing.assert_allclose(got[name], START[name] * factor, rtol=1e-6, equal_nan=False, err_msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"clipnorm": 0.2},
        {"global_clipnorm": 0.2},
        {"clipvalue": 0.05},
        {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 2},
        {"amsgrad": True},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_adamw_agrees_with_keras_own_with_exclusions(options):
    """With an `epsilon` that is too small to count: its place is not Keras'."""
    sizes = {"learning_rate": 0.02, "weight_decay": 0.5, "beta_2": 0.95, "epsilon": 1e-10, **options}
    keras_own, variables = keras.optimizers.AdamW(**sizes), variables_of()
    keras_own.exclude_from_weight_decay(var_list=[variables[1]])
    expected = apply(keras_own, variables, GRADIENTS)
    ours = AdamW(**sizes)
    assert_close(train(ours), expected)
    kept = [[np.array(ops.convert_to_numpy(value)) for value in each.variables] for each in (ours, keras_own)]
    assert [value.shape for value in kept[0]] == [value.shape for value in kept[1]]
    for own, other in zip(*kept, strict=True):  # momentums, averages, accumulators
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-6, equal_nan=False)


@pytest.mark.parametrize("options", [{"gradient_accumulation_steps": 2}, {"clipnorm": 0.2}, {"clipvalue": 0.05}])
def test_options_change_the_result(options):
    """Or the agreement above would show nothing."""
    plain, changed = train(AdamW(0.02, epsilon=0.01)), train(AdamW(0.02, epsilon=0.01, **options))
    assert np.abs(plain["kernel"] - changed["kernel"]).max() > 1e-3


def test_sparse_gradients_are_taken_whole():
    """TensorFlow hands on an embedding's gradient as rows and their numbers."""
    variables = variables_of()
    gradients = [ops.convert_to_tensor(value) for value in GRADIENTS[0].values()]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        gradients[0] = tf.IndexedSlices(gradients[0], tf.range(3), tf.constant([3, 5]))
    AdamW(0.02, weight_decay=0.5, epsilon=0.01).apply(gradients, variables)
    got = {variable.name: ops.convert_to_numpy(variable) for variable in variables}
    assert_close(got, numpy_adamw(GRADIENTS[:1], 0.02, 0.5, 0.9, 0.95, 0.01))


def test_weights_in_bfloat16_move_too():
    """0.999 is 1 in bfloat16: a bias correction in the weights' precision is 0."""
    variable = keras.Variable(np.zeros(3), dtype="bfloat16")
    gradient = ops.cast(np.array([2.0, -0.5, 0.0]), "bfloat16")
    AdamW(0.25, beta_2=0.999).apply([gradient], [variable])
    np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(variable, "float32")), [-0.25, 0.25, 0], rtol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": "a"}, "`learning_rate` must be a number of at least 0 or a schedule. Received: .*'a'"),
        ({"learning_rate": -0.1}, "`learning_rate` must be a finite number of at least 0"),
        ({"weight_decay": -1}, "`weight_decay` must be a finite number of at least 0. Received: weight_decay=-1"),
        ({"weight_decay": None}, "`weight_decay` must be a finite number of at least 0"),
        ({"beta_1": 1.0}, r"`beta_1` must be in \[0, 1\)"),
        ({"beta_2": -0.1}, r"`beta_2` must be in \[0, 1\)"),
        ({"epsilon": -1e-8}, "`epsilon` must be a finite number of at least 0"),
        ({"epsilon": float("nan")}, "`epsilon` must be a finite number of at least 0"),
        ({"learning_rate_scales": [1, -1]}, "`learning_rate_scales` must be a finite number of at least 0"),
        ({"clipnorm": -1}, "`clipnorm` must be a finite number above 0"),
        ({"global_clipnorm": 0}, "`global_clipnorm` must be a finite number above 0"),
        ({"gradient_accumulation_steps": 2.5}, "`gradient_accumulation_steps` must be a positive integer"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdamW(**arguments)


def test_whole_numbers_are_numbers():
    assert float(ops.convert_to_numpy(AdamW(1, weight_decay=0).learning_rate)) == 1.0


def test_the_decay_rule_survives_saving(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5, bias_initializer="ones")])
    model.compile(optimizer=AdamW(0.1, weight_decay=0.5), loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is AdamW
    kernel, bias = (ops.convert_to_numpy(variable) * 1.0 for variable in model.trainable_variables)
    zeros = [ops.zeros(variable.shape) for variable in loaded.trainable_variables]
    loaded.optimizer.apply(zeros, loaded.trainable_variables)
    decayed, kept = (ops.convert_to_numpy(variable) for variable in loaded.trainable_variables)
    np.testing.assert_allclose(decayed, kernel * 0.95, rtol=1e-6, equal_nan=False)
    np.testing.assert_array_equal(kept, bias)


def numpy_scaled_adamw(gradients, rate):
    """Each variable as if it had an optimizer with a learning rate of its own."""
    found = {}
    for (name, _), scale, decays in zip(SHAPES.items(), SCALES, OWN_DECAYED, strict=True):
        own_rate = (lambda step, scale=scale: scale * rate(step)) if callable(rate) else scale * rate
        decay = 0.5 if decays else 0.0
        found[name] = numpy_adamw(gradients, own_rate, decay, 0.9, 0.95, 0.01)[name]
    return found


def test_scales_multiply_update_and_decay():
    got = train(AdamW(0.02, weight_decay=0.5, epsilon=0.01, learning_rate_scales=SCALES, decayed=OWN_DECAYED))
    assert_close(got, numpy_scaled_adamw(GRADIENTS, 0.02))


def test_scales_multiply_a_schedule_minimum_included():
    schedule = warmup_cosine(0.04, total_steps=4, warmup_steps=2, minimum=0.01)
    rates = [float(schedule(step)) for step in range(STEPS)]
    np.testing.assert_allclose(rates[-1], 0.01, rtol=1e-6)
    got = train(AdamW(schedule, weight_decay=0.5, epsilon=0.01, learning_rate_scales=SCALES, decayed=OWN_DECAYED))
    assert_close(got, numpy_scaled_adamw(GRADIENTS, lambda step: rates[step]))


def test_scales_of_one_change_nothing():
    plain = train(AdamW(0.02, weight_decay=0.5))
    assert_close(train(AdamW(0.02, weight_decay=0.5, learning_rate_scales=[1, 1, 1])), plain, atol=1e-7)


def test_scales_and_accumulation():
    """The waiting step must neither move nor decay anything, and the other must do so once."""
    options = {"learning_rate_scales": SCALES, "decayed": OWN_DECAYED, "gradient_accumulation_steps": 2}
    got = train(AdamW(0.02, weight_decay=0.5, epsilon=0.01, **options), GRADIENTS[:4])
    means = [
        {name: (first[name] + second[name]) / 2 for name in SHAPES}
        for first, second in (GRADIENTS[0:2], GRADIENTS[2:4])
    ]
    assert_close(got, numpy_scaled_adamw(means, 0.02))


@pytest.mark.parametrize("name", ["learning_rate_scales", "decayed"])
def test_another_number_of_variables_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must have one entry for each .*Received: 2 for 3 variables"):
        AdamW(**{name: [name == "decayed" or 1.0] * 2}).build(variables_of())


def test_config_round_trips():
    optimizer = AdamW(
        0.3,
        weight_decay=0.2,
        beta_1=0.7,
        beta_2=0.6,
        epsilon=1e-5,
        clipnorm=0.4,
        learning_rate_scales=SCALES,
        decayed=OWN_DECAYED,
    )
    config = optimizer.get_config()
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is AdamW
    assert again.get_config() == config
    assert (again.learning_rate_scales, again.decayed) == (SCALES, OWN_DECAYED)


# === The pre-training optimizer ===
def test_pretraining_learning_rate_grows_with_the_batch():
    optimizer = pretraining_adamw(base_learning_rate=3e-4, batch_size=640)
    np.testing.assert_allclose(float(ops.convert_to_numpy(optimizer.learning_rate)), 7.5e-4, rtol=1e-6)


def test_pretraining_schedule_peaks_at_the_scaled_rate():
    optimizer = pretraining_adamw(base_learning_rate=3e-4, batch_size=640, total_steps=50, warmup_steps=7)
    schedule = keras.optimizers.schedules.deserialize(optimizer.get_config()["learning_rate"])
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 7, 50)], [0, 7.5e-4, 0], rtol=1e-6, atol=1e-9)


def test_pretraining_arguments_reach_the_optimizer():
    optimizer = keras_mae.optimizers.pretraining_adamw(weight_decay=0.2, beta_2=0.9, clipnorm=0.4)
    assert (optimizer.weight_decay, optimizer.beta_2, optimizer.clipnorm) == (0.2, 0.9, 0.4)
