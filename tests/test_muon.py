"""Muon against Newton-Schulz in NumPy and against Keras' own, and which weights it moves."""

import keras
import numpy as np
import pytest
from keras import ops
from training_helpers import apply_gradients, build, quick_compile

import keras_mae
from keras_mae.optimizers import Muon, pretraining_muon, warmup_cosine

BACKEND = keras.backend.backend()
# path -> shape; wide, tall, fused, fused and tall, first, last, and what has no two dimensions.
SHAPES = {
    "block/mlp/fc1/kernel": (4, 9),
    "block/mlp/fc2/kernel": (9, 4),
    "block/attention/qkv/kernel": (4, 12),
    "block/cross/key_value/kernel": (7, 6),
    "patch_embedding/projection/kernel": (5, 4),
    "decoder/prediction/kernel": (4, 5),
    "pooling/queries": (3, 4),
    "block/mlp/fc1/bias": (9,),
    "class_token": (1, 1, 4),
}
PARTS = {"block/attention/qkv/kernel": 3, "block/cross/key_value/kernel": 2}
HIDDEN = list(SHAPES)[:4]
STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def draws(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return {path: (scale * generator.standard_normal(shape)).astype("float32") for path, shape in SHAPES.items()}


START, GRADIENTS = draws(0), [draws(step, scale=0.3) for step in range(1, 1 + STEPS)]


def variables_of(dtype="float32"):
    made = []
    for path, value in START.items():
        scopes, name = path.split("/")[:-1], path.split("/")[-1]
        variable = keras.Variable(value, name=name, dtype=dtype)
        variable._path = "/".join((*scopes, name))
        made.append(variable)
    return made


def train(optimizer, gradients=GRADIENTS, variables=None, apply=keras.optimizers.Optimizer.apply):
    variables = variables_of() if variables is None else variables
    for step in gradients:
        values = [ops.cast(value, variable.dtype) for value, variable in zip(step.values(), variables, strict=True)]
        apply(optimizer, values, variables)
    values = [np.array(ops.convert_to_numpy(ops.cast(variable, "float32"))) for variable in variables]
    return dict(zip(SHAPES, values, strict=True))


def orthogonalized(matrix):
    """Five steps of the quintic Newton-Schulz iteration on a matrix of Frobenius norm 1."""
    x = matrix / (np.sqrt((matrix**2).sum()) + 1e-7)
    for _ in range(5):
        square = x @ x.T if len(x) <= len(x.T) else x.T @ x
        factor = -4.7750 * square + 2.0315 * square @ square
        x = 3.4445 * x + (factor @ x if len(x) <= len(x.T) else x @ factor)
    return x


def numpy_muon(path, rate, decay, rms=0.2, nesterov=True):
    value, momentum = START[path].astype("float64"), 0.0
    for step, gradients in enumerate(GRADIENTS):
        rate_now = rate(step) if callable(rate) else rate
        momentum = 0.9 * momentum + gradients[path]
        direction = gradients[path] + 0.9 * momentum if nesterov else momentum
        found = []
        for part in np.split(direction, PARTS.get(path, 1), axis=1):
            found.append(rms * np.sqrt(max(part.shape)) * orthogonalized(part))
        value = value * (1 - rate_now * decay) - rate_now * np.concatenate(found, axis=1)
    return value


def numpy_expected(rate, decay, ratio=1.0, **options):
    def adam_rate(step):
        return ratio * (rate(step) if callable(rate) else rate)

    expected = {path: numpy_muon(path, rate, decay, **options) for path in HIDDEN}
    others = [path for path in SHAPES if path not in HIDDEN]
    for path in others:
        own = decay if len(SHAPES[path]) > 1 else 0.0
        moments = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 0.01}
        expected[path] = numpy_adamw([step[path] for step in GRADIENTS], START[path], adam_rate, own, **moments)
    return expected


def numpy_adamw(gradients, start, rate, decay, beta_1, beta_2, epsilon):
    """Adam's algorithm 1 with decoupled decay."""
    value, mean, square = start.astype("float64"), 0.0, 0.0
    for step, gradient in enumerate(gradients):
        mean = beta_1 * mean + (1 - beta_1) * gradient
        square = beta_2 * square + (1 - beta_2) * gradient.astype("float64") ** 2
        root = np.sqrt(square / (1 - beta_2 ** (step + 1))) + epsilon
        change = mean / (1 - beta_1 ** (step + 1)) / root + decay * value
        value = value - rate(step) * change
    return value


def muon(rate=0.02, **options):
    sizes = {"weight_decay": 0.5, "momentum": 0.9, "adam_beta_1": 0.8, "epsilon": 0.01}
    return Muon(rate, **{**sizes, **options})


def assert_close(got, expected, atol=2e-6):
    assert got.keys() == expected.keys()
    for path in got:
        np.testing.assert_allclose(got[path], expected[path], rtol=0, atol=atol, equal_nan=False, err_msg=path)


# === The rule ===
def test_muon_follows_its_formula():
    """Each part of a fused projection on its own; first and last layer, tokens, queries and biases by AdamW."""
    assert_close(train(muon(), apply=apply_gradients), numpy_expected(0.02, 0.5))


def test_factors_and_schedule():
    schedule = warmup_cosine(0.04, total_steps=6, warmup_steps=2)
    rates = [float(schedule(step)) for step in range(STEPS)]
    got = train(muon(schedule, adam_lr_ratio=0.3, rms_rate=0.7, nesterov=False))
    assert_close(got, numpy_expected(lambda step: rates[step], 0.5, ratio=0.3, rms=0.7, nesterov=False))


@pytest.mark.skipif(BACKEND != "torch", reason="elsewhere all matrices are moved one by one")
def test_matrices_moved_together_are_moved_as_one_by_one():
    alone = muon()
    alone._together = False
    assert_close(train(muon()), train(alone))


def test_steps_are_of_adamws_size():
    """What `rms_rate` is for; and all singular values of a step are about 1 before it."""
    got = train(muon(1.0, weight_decay=0.0), GRADIENTS[:1])
    steps = [np.sqrt(np.mean((got[path] - START[path]) ** 2)) for path in HIDDEN]
    assert np.all(np.abs(np.array(steps) / 0.2 - 1) < 0.35), steps
    singular = np.linalg.svd((got[HIDDEN[0]] - START[HIDDEN[0]]) / (0.2 * 3), compute_uv=False)
    assert np.all((singular > 0.6) & (singular < 1.3))


@pytest.mark.parametrize("nesterov", [True, False])
def test_whole_matrices_move_as_keras_own_moves_them(nesterov):
    sizes = {"momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.5}
    keras_own = keras.optimizers.Muon(0.02, **sizes)
    expected, got = train(keras_own), train(Muon(0.02, **sizes, fused={}))
    for path in HIDDEN:
        np.testing.assert_allclose(got[path], expected[path], rtol=0, atol=2e-6, equal_nan=False, err_msg=path)


def test_three_batches_are_one_of_their_mean():
    """Schedule and weights go by updates."""
    schedule = warmup_cosine(0.04, total_steps=4, warmup_steps=1)
    parts = [*GRADIENTS, *(draws(seed, 0.3) for seed in (11, 12))]
    means = [{path: np.mean([p[path] for p in parts[i : i + 3]], 0) for path in SHAPES} for i in (0, 3)]
    got = train(muon(schedule, gradient_accumulation_steps=3), parts)
    assert_close(got, train(muon(schedule), means))


def test_weights_in_bfloat16_are_orthogonalized_in_float32():
    got = train(muon(weight_decay=0.0), GRADIENTS[:1], variables_of("bfloat16"))
    expected = train(muon(weight_decay=0.0), GRADIENTS[:1])
    assert_close({p: got[p] for p in HIDDEN}, {p: expected[p] for p in HIDDEN}, atol=0.02)


# === The model ===
def test_which_weights_are_orthogonalized():
    """In a masked autoencoder: all projections of the blocks, and the decoder's first."""
    model = build()
    optimizer = Muon()
    optimizer.build(model.trainable_variables)
    paths = [v.path.split("/", 1)[1] for v in model.trainable_variables]
    got = {path: parts for path, parts in zip(paths, optimizer._parts, strict=True) if parts}
    block = {"attention/qkv/kernel": 3, "attention/projection/kernel": 1, "mlp/fc1/kernel": 1, "mlp/fc2/kernel": 1}
    assert got == {**{f"block_0/{name}": parts for name, parts in block.items()}, "embedding/kernel": 1}
    assert sum(map(bool, optimizer._parts)) == 9  # a block on either side


def test_a_classifiers_head_and_positions_are_adamws():
    model = keras_mae.ViTClassifier(build().encoder, 3)
    optimizer = Muon()
    optimizer.build(model.trainable_variables)
    parts = {v.path: n for v, n in zip(model.trainable_variables, optimizer._parts, strict=True)}
    of = [n for path, n in parts.items() if "head/" in path or path.endswith("position_embedding")]
    assert of == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_model_trains_and_is_saved(tmp_path, dtype):
    images = np.random.default_rng(0).integers(0, 256, (6, 12, 20, 3), "uint8")
    model = build(dtype=dtype)
    model.compile(Muon(3e-3), run_eagerly=BACKEND == "tensorflow")
    losses = [float(model.train_on_batch(images, return_dict=True)["loss"]) for _ in range(4)]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is Muon
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for got, expected in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(got), ops.convert_to_numpy(expected))


# === Arguments ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\)"),
        ({"weight_decay": None}, "`weight_decay` must be a finite number of at least 0"),
        ({"adam_lr_ratio": -1}, "`adam_lr_ratio` must be a finite number of at least 0"),
        ({"rms_rate": 0}, "`rms_rate` must be a finite number above 0"),
        ({"ns_steps": 0}, "`ns_steps` must be a positive integer"),
        ({"fused": {"qkv": 0}}, "`fused` must be a positive integer"),
        ({"adam_weight_decay": 0.1}, "`weight_decay` is that of all.*Received: adam_weight_decay=0.1"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Muon(**arguments)


@pytest.mark.backends("torch")
def test_a_projection_that_cannot_be_divided_is_refused():
    with pytest.raises(
        ValueError, match=r"equal parts. Received: fused={'qkv': 5}, and .*qkv/kernel of shape \(4, 12\)"
    ):
        Muon(fused={"qkv": 5}).build(variables_of())


def test_the_pretraining_optimizer():
    optimizer = pretraining_muon(3e-4, 640, total_steps=50, warmup_steps=7, weight_decay=0.2, momentum=0.9)
    assert [round(float(optimizer._learning_rate(step)), 9) for step in (0, 7, 50)] == [0, 7.5e-4, 0]
    assert (optimizer.weight_decay, optimizer.momentum) == (0.2, 0.9)
    np.testing.assert_allclose(float(ops.convert_to_numpy(pretraining_muon(3e-4, 640).learning_rate)), 7.5e-4)
