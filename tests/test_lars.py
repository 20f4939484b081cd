"""LARS against its formula, and as an optimizer that is saved, accumulated and compiled like any other."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_mae
from keras_mae.optimizers import LARS, probing_lars, warmup_cosine

# "still" never gets a gradient and "empty" starts at zero: either norm of the trust ratio is 0 once.
SHAPES = {"kernel": (3, 5), "bias": (5,), "still": (2, 7), "empty": (11, 3)}
STEPS = 10
compiles_on_cpu = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch's training step is not compiled"
)


def draws(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return {name: (scale * generator.standard_normal(shape)).astype("float32") for name, shape in SHAPES.items()}


START = {**draws(0), "empty": np.zeros(SHAPES["empty"], "float32")}
GRADIENTS = [
    {**draws(step, scale=0.3), "still": np.zeros(SHAPES["still"], "float32")} for step in range(1, 1 + STEPS)
]
# The trust coefficient is the published one times a thousand, or no tolerance would see the scaled updates.
SIZES = {"learning_rate": 0.02, "momentum": 0.8, "trust_coefficient": 1.3}


def train(optimizer, gradients=GRADIENTS):
    variables = [keras.Variable(value, name=name) for name, value in START.items()]
    for step in gradients:
        optimizer.apply([ops.convert_to_tensor(value) for value in step.values()], variables)
    return {variable.name: np.array(ops.convert_to_numpy(variable)) for variable in variables}


def numpy_lars(gradients, rate, momentum, weight_decay, trust_coefficient):
    """Table 10's LARS, in float64: one-dimensional weights are neither decayed nor scaled."""
    values = {name: value.astype("float64") for name, value in START.items()}
    buffers = dict.fromkeys(SHAPES, 0.0)
    for step, gradient in enumerate(gradients):
        for name, shape in SHAPES.items():
            update = gradient[name].astype("float64")
            if len(shape) > 1:
                update = update + weight_decay * values[name]
                norms = np.linalg.norm(values[name]), np.linalg.norm(update)
                update = update * (trust_coefficient * norms[0] / norms[1] if min(norms) > 0 else 1.0)
            buffers[name] = momentum * buffers[name] + update
            values[name] = values[name] - rate(step) * buffers[name]
    return values


def assert_close(got, expected):
    for name in SHAPES:
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=5e-6, equal_nan=False, err_msg=name)


# === The formula ===
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_lars_follows_its_formula(weight_decay):
    got = train(LARS(weight_decay=weight_decay, **SIZES))
    assert_close(got, numpy_lars(GRADIENTS, lambda step: 0.02, 0.8, weight_decay, 1.3))


def test_the_learning_rate_multiplies_the_momentum_and_not_what_enters_it():
    """The two differ only where the learning rate changes."""
    schedule = warmup_cosine(0.05, total_steps=13, warmup_steps=3)
    rates = [float(schedule(step)) for step in range(STEPS)]
    got = train(LARS(**{**SIZES, "learning_rate": schedule}))
    assert_close(got, numpy_lars(GRADIENTS, lambda step: rates[step], 0.8, 0.0, 1.3))


def test_the_first_step_of_a_matrix_has_the_length_of_the_matrix_times_rate_and_trust():
    got = train(LARS(1.0), GRADIENTS[:1])
    step = np.linalg.norm(got["kernel"] - START["kernel"])
    np.testing.assert_allclose(step, 1e-3 * np.linalg.norm(START["kernel"]), rtol=1e-4)


def test_vectors_are_not_scaled():
    got = train(LARS(1.0), GRADIENTS[:1])
    np.testing.assert_allclose(got["bias"], START["bias"] - GRADIENTS[0]["bias"], rtol=0, atol=1e-6)


def test_zero_weights_take_the_gradient_as_it_is():
    """A trust ratio of 0 would keep them zero for ever."""
    got = train(LARS(1.0), GRADIENTS[:1])
    np.testing.assert_allclose(got["empty"], -GRADIENTS[0]["empty"], rtol=0, atol=1e-6)


def test_without_gradient_and_decay_nothing_moves():
    """|g| = 0 divides: NaN would show here."""
    got = train(LARS(1.0), GRADIENTS[:3])
    np.testing.assert_array_equal(got["still"], START["still"])


def test_decay_alone_shrinks_matrices_and_spares_vectors():
    """With no gradient the update is the decay, scaled to trust · |w|: its own size cancels out."""
    zeros = [{name: np.zeros(shape, "float32") for name, shape in SHAPES.items()}]
    got = train(LARS(0.5, weight_decay=0.3, trust_coefficient=0.2), zeros)
    np.testing.assert_allclose(got["kernel"], START["kernel"] * 0.9, rtol=1e-5, equal_nan=False)
    np.testing.assert_array_equal(got["bias"], START["bias"])
    np.testing.assert_array_equal(got["empty"], START["empty"])


# === Like any other optimizer ===
def test_gradient_accumulation_averages_the_gradients():
    got = train(LARS(gradient_accumulation_steps=2, **SIZES), GRADIENTS[:4])
    means = [
        {name: (first[name] + second[name]) / 2 for name in SHAPES}
        for first, second in (GRADIENTS[0:2], GRADIENTS[2:4])
    ]
    assert_close(got, numpy_lars(means, lambda step: 0.02, 0.8, 0.0, 1.3))


def test_config_round_trips():
    optimizer = LARS(0.3, momentum=0.7, weight_decay=0.2, trust_coefficient=0.01, clipnorm=0.4)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is LARS
    assert again.get_config() == optimizer.get_config()
    values = again.momentum, again.weight_decay, again.trust_coefficient, again.clipnorm
    assert values == (0.7, 0.2, 0.01, 0.4)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"momentum": 1.0}, "`momentum` must be in"),
        ({"momentum": float("nan")}, "`momentum` must be in"),
        ({"weight_decay": -0.1}, "`weight_decay` must be a finite number of at least 0"),
        ({"trust_coefficient": 0.0}, "`trust_coefficient` must be a finite number above 0"),
    ],
)
def test_values_out_of_range_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        LARS(**arguments)


# === In a model ===
INPUTS = np.random.default_rng(5).standard_normal((7, 3)).astype("float32")
TARGETS = np.random.default_rng(6).standard_normal((7, 5)).astype("float32")


def model_of(dtype="float32", **compile_options):
    """Linear regression; every call starts from the same weights."""
    layer = keras.layers.Dense(5, dtype=dtype, kernel_initializer=keras.initializers.RandomNormal(seed=3))
    model = keras.Sequential([keras.Input((3,)), layer])
    compile_options.setdefault("jit_compile", keras.backend.backend() == "jax")
    model.compile(LARS(0.05, weight_decay=0.1, trust_coefficient=0.5), "mse", **compile_options)
    return model


def fit(model, steps):
    model.fit(INPUTS, TARGETS, batch_size=len(INPUTS), epochs=steps, shuffle=False, verbose=0)
    return weights_of(model)


def weights_of(model):
    return [np.array(ops.convert_to_numpy(weight)) for weight in model.trainable_variables]


@pytest.fixture(scope="module")
def four_steps():
    return fit(model_of(), 4)


def numpy_regression(steps):
    """What `fit` comes to: full-batch gradients of the mean squared error into `numpy_lars`' update."""
    kernel, bias = (value.astype("float64") for value in weights_of(model_of()))
    buffers = [0.0, 0.0]
    for _ in range(steps):
        error = 2 * (INPUTS @ kernel + bias - TARGETS) / TARGETS.size
        update = INPUTS.T @ error + 0.1 * kernel
        update = update * 0.5 * np.linalg.norm(kernel) / np.linalg.norm(update)
        buffers = [0.9 * buffers[0] + update, 0.9 * buffers[1] + error.sum(0)]
        kernel, bias = kernel - 0.05 * buffers[0], bias - 0.05 * buffers[1]
    return [kernel, bias]


def test_fit_trains_by_the_formula(four_steps):
    for got, expected in zip(four_steps, numpy_regression(4), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5, equal_nan=False)


@compiles_on_cpu
def test_compiled_steps_are_the_same(four_steps):
    for got, expected in zip(fit(model_of(jit_compile=True), 4), four_steps, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6, equal_nan=False)


def test_a_saved_model_goes_on_with_its_momentum(tmp_path, four_steps):
    model = model_of()
    fit(model, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is LARS
    for got, expected in zip(fit(loaded, 2), four_steps, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6, equal_nan=False)


def test_lost_momentum_would_show(four_steps):
    """Or the test above would show nothing."""
    model = model_of()
    fit(model, 2)
    for variable in model.optimizer._momentums:
        variable.assign(ops.zeros(variable.shape))
    assert np.abs(fit(model, 2)[0] - four_steps[0]).max() > 1e-4


def test_mixed_bfloat16_keeps_weights_and_momentum_in_float32(four_steps):
    model = model_of("mixed_bfloat16")
    got = fit(model, 4)
    assert {value.dtype for value in (*model.trainable_variables, *model.optimizer._momentums)} == {"float32"}
    for value, expected in zip(got, four_steps, strict=True):  # bfloat16 has 8 bits
        np.testing.assert_allclose(value, expected, rtol=0, atol=2e-3, equal_nan=False)
    assert np.abs(got[0] - weights_of(model_of())[0]).max() > 5e-3


# === The probe's optimizer ===
def test_the_probes_optimizer_is_the_papers():
    optimizer = probing_lars()
    values = optimizer.momentum, optimizer.weight_decay, optimizer.trust_coefficient
    assert values == (0.9, 0.0, 1e-3)
    np.testing.assert_allclose(float(ops.convert_to_numpy(optimizer.learning_rate)), 6.4, rtol=1e-6)


def test_the_probes_schedule_warms_up_to_the_scaled_rate_and_ends_at_zero():
    optimizer = probing_lars(0.3, batch_size=640, total_steps=50, warmup_steps=7)
    schedule = keras.optimizers.schedules.deserialize(optimizer.get_config()["learning_rate"])
    np.testing.assert_allclose([float(schedule(step)) for step in (0, 7, 50)], [0, 0.75, 0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"base_learning_rate": 0.0}, "base_learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"total_steps": 5, "warmup_steps": 5}, "warmup_steps"),
    ],
)
def test_bad_probing_arguments_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        keras_mae.optimizers.probing_lars(**arguments)
