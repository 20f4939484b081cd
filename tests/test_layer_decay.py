"""Layer-wise learning-rate decay: that every layer does move by its share, not only that it was asked for."""

import re

import keras
import numpy as np
import pytest
from conftest import build_mae, random_images, randomize_weights
from keras import ops
from training_helpers import apply_gradients

import keras_mae
from keras_mae.optimizers import AdamW, fine_tuning_adamw, layer_decay_scales

CLASSES, DEPTH = 7, 2
DECAY = 0.6
# conftest's encoder has two blocks: stem, two blocks, head.
SCALES = {0: 0.6**3, 1: 0.6**2, 2: 0.6, 3: 1.0}
LABELS = np.array([2, 6, 1])


def layer_of(path):
    """The layer a weight belongs to, read from its name alone: the oracle of `layer_index`."""
    if block := re.search(r"block_(\d+)/", path):
        return int(block[1]) + 1
    return 0 if path.startswith("encoder/") else DEPTH + 1


def is_decayed(variable):
    return len(variable.shape) > 1 and variable.path not in ("encoder/class_token", "encoder/position_embedding")


def classifier_of(**changes):
    # One seed for every classifier, and weights of a size that gradients reach through.
    encoder = build_mae(**changes).encoder
    return randomize_weights(keras_mae.ViTClassifier(encoder, CLASSES), seed=4)


@pytest.fixture(scope="module")
def classifier():
    """Shared: tests must not change it."""
    return classifier_of()


def values_of(variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


# === The factors ===
class OfDepth:
    """What an optimizer asks of a classifier, at the published depths and without their size.

    Class token, positions, patch embedding, a matrix and a gain for each block, the head's matrix and bias.
    """

    def __init__(self, depth):
        self.num_layers = depth + 1
        shapes = {"class_token": (1, 1, 3), "positions": (5, 3), "patch_embedding": (2, 3)}
        for index in range(depth):
            shapes |= {f"{index}/kernel": (3, 2), f"{index}/gamma": (3,)}
        shapes |= {"head": (3, 7), "head/bias": (7,)}
        self.trainable_variables = [
            keras.Variable(np.zeros(shape), name=name.replace("/", "_")) for name, shape in shapes.items()
        ]
        layers = [0, 0, 0, *(index + 1 for index in range(depth) for _ in range(2)), depth + 1, depth + 1]
        self._layers = {id(v): layer for v, layer in zip(self.trainable_variables, layers, strict=True)}
        self.no_weight_decay = self.trainable_variables[:2]

    def layer_index(self, variable):
        return self._layers[id(variable)]


@pytest.mark.parametrize(
    ("depth", "decay", "stem", "first", "last"),
    [
        (12, 0.65, 3.697206e-3, 5.688009e-3, 0.65),
        (24, 0.75, 7.525435e-4, 1.003391e-3, 0.75),
        (32, 0.75, 7.533932e-5, 1.004524e-4, 0.75),
    ],
    ids=["base", "large", "huge"],
)
def test_factors_at_the_published_depths(depth, decay, stem, first, last):
    scales = layer_decay_scales(OfDepth(depth), decay)
    assert len(scales) == 3 + 2 * depth + 2
    got = [*scales[:5], *scales[-4:]]
    np.testing.assert_allclose(got, [stem] * 3 + [first] * 2 + [last] * 2 + [1.0] * 2, rtol=1e-6)
    ratios = np.array(scales[5:-2:2]) / np.array(scales[3:-4:2])  # of each block's matrix to the one below
    np.testing.assert_allclose(ratios, 1 / decay, rtol=1e-9)


def test_without_decay_all_factors_are_one():
    assert layer_decay_scales(OfDepth(3), 1) == [1.0] * 11


@pytest.mark.parametrize("decay", [0, -0.5, 1.1, float("nan")])
def test_factors_out_of_range_are_refused(decay):
    with pytest.raises(ValueError, match="`layer_decay` must be"):
        layer_decay_scales(OfDepth(3), decay)


def test_every_weight_of_a_classifier_has_its_layer(classifier):
    got = {variable.path: classifier.layer_index(variable) for variable in classifier.trainable_variables}
    assert got == {path: layer_of(path) for path in got}
    assert set(got.values()) == set(SCALES)
    assert {"encoder/class_token", "encoder/position_embedding"} <= set(got)


def test_the_optimizer_takes_factors_and_exclusions_in_the_models_order(classifier):
    optimizer = fine_tuning_adamw(classifier, layer_decay=DECAY)
    variables = classifier.trainable_variables
    np.testing.assert_allclose(optimizer.learning_rate_scales, [SCALES[layer_of(v.path)] for v in variables])
    assert optimizer.decayed == [is_decayed(variable) for variable in variables]


# === What a step does ===
def steps_of(optimizer, model, count=1, gradient=0.5):
    """How far each weight moves at the last of `count` steps with the same gradient everywhere."""
    gradients = [ops.full(variable.shape, gradient) for variable in model.trainable_variables]
    optimizer.build(model.trainable_variables)
    for _ in range(count):
        before = values_of(model.trainable_variables)
        apply_gradients(optimizer, gradients, model.trainable_variables)
    after = values_of(model.trainable_variables)
    return [old - new for old, new in zip(before, after, strict=True)]


def assert_steps_are(steps, model, rate):
    """Every element of every weight went down by its layer's share of `rate`."""
    for step, variable in zip(steps, model.trainable_variables, strict=True):
        expected = np.full(step.shape, rate * SCALES[layer_of(variable.path)])
        np.testing.assert_allclose(step, expected, rtol=1e-4, atol=1e-6, equal_nan=False, err_msg=variable.path)


def zeroed(model):
    """Weights of zero: a small step is then exact in float32."""
    for variable in model.trainable_variables:
        variable.assign(ops.zeros(variable.shape))
    return model


@pytest.fixture(scope="module")
def scratch():
    """A classifier to move about: its weights are set to zero before every use of `zeroed`."""
    return classifier_of()


def test_every_layer_moves_by_its_share(scratch):
    """Adam's first step is the learning rate, whatever the gradient: what is left is the layer's factor."""
    optimizer = fine_tuning_adamw(scratch, 0.04, batch_size=512, layer_decay=DECAY, weight_decay=0.0)
    assert_steps_are(steps_of(optimizer, zeroed(scratch)), scratch, 0.08)


def test_the_minimum_is_scaled_too(scratch):
    """With one gradient at all steps every step of Adam is as long as the learning rate."""
    optimizer = fine_tuning_adamw(
        scratch,
        0.2,
        batch_size=256,
        total_steps=2,
        warmup_steps=1,
        layer_decay=DECAY,
        weight_decay=0.0,
        minimum_learning_rate=0.03,
    )
    assert_steps_are(steps_of(optimizer, zeroed(scratch), count=2), scratch, 0.2)
    assert_steps_are(steps_of(optimizer, scratch), scratch, 0.03)


def test_decay_shrinks_by_the_layers_share_and_spares_what_is_excluded(scratch):
    """No gradient: what moves is decayed. `fit` on data would hide it behind the gradients."""
    optimizer = fine_tuning_adamw(scratch, 0.5, batch_size=256, layer_decay=DECAY, weight_decay=0.4)
    randomize_weights(scratch, seed=9)
    before = values_of(scratch.trainable_variables)
    steps = steps_of(optimizer, scratch, gradient=0.0)
    shrunk = set()
    for step, value, variable in zip(steps, before, scratch.trainable_variables, strict=True):
        factor = 0.5 * 0.4 * SCALES[layer_of(variable.path)] if is_decayed(variable) else 0.0
        np.testing.assert_allclose(step, value * factor, rtol=1e-4, atol=1e-6, equal_nan=False, err_msg=variable.path)
        if np.abs(step).max() > 1e-3:
            shrunk.add(variable.path.rpartition("/")[2])
    assert shrunk == {"kernel"}


def test_accumulated_steps_are_scaled_once(scratch):
    optimizer = fine_tuning_adamw(
        scratch, 0.08, batch_size=256, layer_decay=DECAY, weight_decay=0.0, gradient_accumulation_steps=2
    )
    waiting = steps_of(optimizer, zeroed(scratch))
    assert max(np.abs(step).max() for step in waiting) == 0
    assert_steps_are(steps_of(optimizer, scratch), scratch, 0.08)


def test_scaled_losses_do_not_change_the_factors(scratch):
    """float16's optimizer wraps this one: it must find the same variables in the same order."""
    inner = fine_tuning_adamw(scratch, 0.08, batch_size=256, layer_decay=DECAY, weight_decay=0.0)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0)
    assert_steps_are(steps_of(optimizer, zeroed(scratch)), scratch, 0.08)


def test_an_optimizer_for_another_model_is_refused(classifier):
    optimizer = fine_tuning_adamw(OfDepth(3))
    count = len(classifier.trainable_variables)
    with pytest.raises(ValueError, match=f"`learning_rate_scales` must have one entry.*11 for {count} variables"):
        optimizer.build(classifier.trainable_variables)


def test_exclusions_for_another_model_are_refused(classifier):
    with pytest.raises(ValueError, match="`decayed` must have one entry.*Received: 3 for"):
        AdamW(decayed=[True, False, True]).build(classifier.trainable_variables)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"base_learning_rate": 0.0}, "base_learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"total_steps": 5, "warmup_steps": 5}, "warmup_steps"),
        ({"total_steps": 5, "base_learning_rate": 1e-8}, "`minimum` must not exceed `peak`"),
    ],
)
def test_bad_arguments_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        fine_tuning_adamw(OfDepth(1), **arguments)


def test_the_published_betas_and_decay(classifier):
    optimizer = fine_tuning_adamw(classifier)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.weight_decay) == (0.9, 0.999, 0.05)


# === In `fit` ===
def fit(model, epochs=1):
    model.fit(random_images(), LABELS, batch_size=3, epochs=epochs, shuffle=False, verbose=0)
    return values_of(model.trainable_variables)


def compiled(model, **changes):
    changes = {"layer_decay": DECAY, "weight_decay": 0.4, **changes}
    options = (
        {"run_eagerly": True} if keras.backend.backend() != "jax" else {}
    )  # JAX compiles once and is slow eagerly
    model.compile(fine_tuning_adamw(model, 0.02, batch_size=256, **changes), **options)
    return model


def assert_longest_steps_are(before, after, model, rate):
    """The element of each weight with the longest step: elements with next to no gradient move less."""
    for old, new, variable in zip(before, after, model.trainable_variables, strict=True):
        expected = rate * SCALES[layer_of(variable.path)]
        np.testing.assert_allclose(
            np.abs(new - old).max(), expected, rtol=5e-3, equal_nan=False, err_msg=variable.path
        )


def test_fitting_moves_every_layer_by_its_share():
    """The whole way, positions included, which pre-training froze."""
    model = compiled(classifier_of(), weight_decay=0.0)
    before = values_of(model.trainable_variables)
    assert_longest_steps_are(before, fit(model), model, 0.02)


@pytest.mark.parametrize(
    "dtype",
    [
        "mixed_bfloat16",
        pytest.param(
            "mixed_float16",
            marks=pytest.mark.skipif(
                keras.backend.backend() == "jax", reason="XLA has no float16 matrix product on the CPU"
            ),
        ),
    ],
)
def test_mixed_precision_moves_every_layer_by_its_share(dtype):
    model = compiled(classifier_of(dtype=dtype), weight_decay=0.0)
    before = values_of(model.trainable_variables)
    assert_longest_steps_are(before, fit(model), model, 0.02)


def test_a_saved_classifier_goes_on_as_if_it_had_not_been_saved(tmp_path):
    """Scales, exclusions and moments: 2 steps, saved, and 2 more are 4 steps."""
    expected = fit(compiled(classifier_of()), epochs=4)
    model = compiled(classifier_of())
    fit(model, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is AdamW
    assert loaded.optimizer.learning_rate_scales == model.optimizer.learning_rate_scales
    assert loaded.optimizer.decayed == model.optimizer.decayed
    for got, value, variable in zip(fit(loaded, epochs=2), expected, loaded.trainable_variables, strict=True):
        np.testing.assert_allclose(got, value, rtol=0, atol=2e-5, equal_nan=False, err_msg=variable.path)
