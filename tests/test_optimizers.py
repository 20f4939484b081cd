"""AdamW against its formula, PyTorch's and Keras' own, and the learning-rate schedule."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_mae
from keras_mae.optimizers import AdamW, pretraining_adamw, warmup_cosine, warmup_stable_decay

BACKEND = keras.backend.backend()
SHAPES = {"kernel": (3, 5), "bias": (5,), "class_token": (1, 1, 7)}
DECAYED = ("kernel", "class_token")
STEPS = 5


def draws(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return {name: (scale * generator.standard_normal(shape)).astype("float32") for name, shape in SHAPES.items()}


START, GRADIENTS = draws(0), [draws(step, scale=0.3) for step in range(1, 1 + STEPS)]


def variables_of(start=START):
    return [keras.Variable(value, name=name) for name, value in start.items()]


def apply(optimizer, variables, gradients):
    for step in gradients:
        optimizer.apply([ops.convert_to_tensor(value) for value in step.values()], variables)
    return {variable.name: np.array(ops.convert_to_numpy(variable)) for variable in variables}


def train(optimizer, gradients=GRADIENTS):
    return apply(optimizer, variables_of(), gradients)


def numpy_adamw(gradients, rate, decay, beta_1, beta_2, epsilon):
    """Adam's algorithm 1, `epsilon` added to the root after the bias correction, and decay of its own."""
    values = {name: value.astype("float64") for name, value in START.items()}
    mean, square = ({name: 0.0 for name in SHAPES} for _ in range(2))
    for step, gradient in enumerate(gradients, start=1):
        rate_now = rate(step - 1) if callable(rate) else rate
        for name in SHAPES:
            if name in DECAYED:
                values[name] = values[name] * (1 - rate_now * decay)
            mean[name] = beta_1 * mean[name] + (1 - beta_1) * gradient[name]
            square[name] = beta_2 * square[name] + (1 - beta_2) * gradient[name].astype("float64") ** 2
            corrected = mean[name] / (1 - beta_1**step), square[name] / (1 - beta_2**step)
            values[name] = values[name] - rate_now * corrected[0] / (np.sqrt(corrected[1]) + epsilon)
    return values


def assert_close(got, expected, atol=1e-6):
    for name in SHAPES:
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=atol, equal_nan=False, err_msg=name)


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


# kernel, bias, class token: no two share a factor, and the exclusions are not those of the default rule.
SCALES, OWN_DECAYED = [0.5, 2.0, 0.25], [True, False, False]


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


# === PyTorch's fused update ===
needs_torch = pytest.mark.skipif(BACKEND != "torch", reason="the fused update is PyTorch's")


@pytest.fixture
def fused_calls(monkeypatch):
    """The number of variables of every call of the fused update."""
    from keras_mae.optimizers import adamw

    calls, fused = [], adamw.fused_adamw

    def spy(gradients, variables, *args, **kwargs):
        calls.append(len(variables))
        return fused(gradients, variables, *args, **kwargs)

    monkeypatch.setattr(adamw, "fused_adamw", spy)
    return calls


@needs_torch
def test_the_fused_update_is_taken_once_for_each_decay(fused_calls):
    train(AdamW(0.02), GRADIENTS[:2])
    assert fused_calls == [1, 2] * 2  # the bias, and what is decayed


@needs_torch
def test_the_fused_update_is_taken_once_for_each_scale(fused_calls):
    """Not once for each variable, though the variables of one scale are not neighbours."""
    train(AdamW(0.02, learning_rate_scales=[0.5, 1.0, 0.5], decayed=[True, True, True]), GRADIENTS[:1])
    assert fused_calls == [2, 1]


@needs_torch
@pytest.mark.parametrize("options", [{}, {"learning_rate_scales": SCALES}, {"amsgrad": True}], ids=str)
def test_fused_and_unfused_updates_agree(fused_calls, options):
    sizes = {"learning_rate": 0.02, "weight_decay": 0.5, "epsilon": 0.01, **options}
    unfused = AdamW(**sizes)
    unfused._fused = False
    expected = train(unfused)
    assert fused_calls == []
    assert_close(train(AdamW(**sizes)), expected)
    assert sum(fused_calls) == len(SHAPES) * STEPS


@needs_torch
@pytest.mark.parametrize("amsgrad", [False, True], ids=["plain", "amsgrad"])
def test_the_update_is_pytorchs(amsgrad):
    """A large `epsilon`; and gradients that shrink, or the largest second moment would be the last."""
    import torch

    gradients = [{name: value / step**2 for name, value in each.items()} for step, each in enumerate(GRADIENTS, 1)]
    sizes = {"weight_decay": 0.5, "amsgrad": amsgrad}
    values = {name: torch.tensor(value) for name, value in START.items()}
    groups = [
        {"params": [value for name, value in values.items() if (name in DECAYED) == decays], **options}
        for decays, options in ((True, {}), (False, {"weight_decay": 0.0}))
    ]
    theirs = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95), eps=0.01, **sizes)
    for step in gradients:
        for name, value in values.items():
            value.grad = torch.tensor(step[name])
        theirs.step()
    assert_close(train(AdamW(0.02, epsilon=0.01, **sizes), gradients), values)
    if not amsgrad:
        assert_close(values, numpy_adamw(gradients, 0.02, 0.5, 0.9, 0.95, 0.01))


@needs_torch
def test_the_fused_update_goes_into_a_compiled_step(fused_calls):
    import torch

    compiled = torch.compile(train, backend="aot_eager")  # what fails does so before code is generated
    assert_close(compiled(AdamW(0.02)), train(AdamW(0.02)))
    assert fused_calls == [1, 2] * 2 * STEPS


# === The schedule ===
@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (3, 0.15), (10, 0.5), (10 + 26, 0.25), (10 + 13, 0.25 * (1 + np.sqrt(0.5))), (62, 0.0), (70, 0.0)],
    ids=["start", "warming up", "peak", "half way", "a quarter", "end", "after the end"],
)
def test_warmup_cosine(step, expected):
    rate = float(warmup_cosine(0.5, total_steps=62, warmup_steps=10)(step))
    np.testing.assert_allclose(rate, expected, atol=1e-7, equal_nan=False)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.5), (26, 0.25), (52, 0.0)])
def test_warmup_cosine_without_warmup_starts_at_its_peak(step, expected):
    np.testing.assert_allclose(float(warmup_cosine(0.5, 52)(step)), expected, atol=1e-7, equal_nan=False)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (3, 0.15), (10, 0.5), (10 + 26, 0.3), (62, 0.1), (70, 0.1)],
    ids=["start", "warming up", "peak", "half way", "end", "after the end"],
)
def test_warmup_cosine_ends_at_its_minimum_and_still_starts_at_zero(step, expected):
    rate = float(warmup_cosine(0.5, total_steps=62, warmup_steps=10, minimum=0.1)(step))
    np.testing.assert_allclose(rate, expected, atol=1e-7, equal_nan=False)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.5), (26, 0.3), (52, 0.1)])
def test_warmup_cosine_without_warmup_has_a_minimum_too(step, expected):
    rate = float(warmup_cosine(0.5, 52, minimum=0.1)(step))
    np.testing.assert_allclose(rate, expected, atol=1e-7, equal_nan=False)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"peak": 0.1, "total_steps": 10, "minimum": 0.2}, "minimum=0.2, peak=0.1"),
        ({"peak": 0.1, "total_steps": 10, "minimum": -0.1}, "`minimum` must be a finite number of at least 0"),
        ({"peak": 0.1, "total_steps": 10, "minimum": float("nan")}, "`minimum` must be a finite number"),
        ({"peak": 0.0, "total_steps": 10}, "peak"),
        ({"peak": 0.1, "total_steps": 0}, "total_steps"),
        ({"peak": 0.1, "total_steps": 10, "warmup_steps": 10}, "warmup_steps=10, total_steps=10"),
        ({"peak": 0.1, "total_steps": 10, "warmup_steps": -1}, "warmup_steps=-1"),
    ],
)
def test_bad_schedules_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        warmup_cosine(**arguments)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.0), (3, 0.15), (10, 0.5), (46, 0.5), (50, 0.3), (55, 0.2), (62, 0.1), (70, 0.1)],
    ids=["start", "warming up", "peak", "decay begins", "a quarter", "nine sixteenths", "end", "after the end"],
)
def test_warmup_stable_decay(step, expected):
    """minimum + (peak - minimum) * (1 - sqrt(s)): from 0.5 to 0.1, half the way in a quarter of it."""
    schedule = warmup_stable_decay(0.5, 62, 10, 16, minimum=0.1)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    for one in (schedule, again):
        np.testing.assert_allclose(float(one(step)), expected, atol=1e-7, equal_nan=False)


def test_a_longer_run_has_the_same_rates_up_to_the_decay():
    """Also where float32 cannot tell neighboring steps apart; and the decay is as smooth there."""
    short, long = (warmup_stable_decay(0.3, total, 3, 10) for total in (40, 90))
    assert [float(short(step)) for step in range(31)] == [float(long(step)) for step in range(31)]
    late = warmup_stable_decay(0.3, 2**24 + 10, 3, 10)
    assert [float(late(2**24 + step)) for step in range(10)] == [float(short(30 + step)) for step in range(10)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0.1, 10, 4, 7), "warmup_steps=4, decay_steps=7, total_steps=10"),
        ((0.1, 10, 4, 0), "`decay_steps` must be a positive integer"),
        ((0.1, 10, 10, 1), "warmup_steps=10, total_steps=10"),
        ((0.0, 10, 1, 1), "peak"),
    ],
)
def test_bad_schedules_with_a_decay_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        warmup_stable_decay(*arguments)


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
