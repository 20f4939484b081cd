"""The training step against Keras' own, on steps that are not finite, with several masks, and across a save."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from training_helpers import (
    BACKEND,
    BATCH,
    PATCHES,
    Stock,
    arrays,
    assert_identical,
    build,
    compiled,
    distance,
    make_images,
    quick_compile,
    sgd,
    slots,
    step_of,
    trainable,
)

import keras_mae
from keras_mae.random import hash_noise

STEPS = 5
WEIGHTS = np.tile(np.array([0.2, 3, 0.5, 1, 0, 2], "float32"), STEPS)
NO_HALF_ATTENTION = "JAX on a CPU has no float16 attention"


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


# === The same weights as Keras' own step ===
FEATURES = {
    "float32": {},
    "mixed_bfloat16": {"dtype": "mixed_bfloat16"},
    "accumulation": {"optimizer": {"gradient_accumulation_steps": 2}},
    "clipnorm": {"optimizer": {"clipnorm": 0.05}},
    "global_clipnorm": {"optimizer": {"global_clipnorm": 0.1}},
    "clipvalue": {"optimizer": {"clipvalue": 0.03}},
    "ema": {"optimizer": {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3}},
    "sample_weight": {"sample_weight": WEIGHTS},
    "masks_per_image": {"masks_per_image": 3, "sample_weight": WEIGHTS},
    "predict_ratio": {"predict_ratio": 0.4, "masks_per_image": 3, "sample_weight": WEIGHTS},
    "loss_scale": {"scaled": True},
    "mixed_float16": {"dtype": "mixed_float16"},
}


@functools.cache
def fit_five_steps(cls, feature):
    """A model after five steps of `fit`; with three masks an image, a third of the images a step."""
    feature = dict(FEATURES[feature])
    optimizer = sgd(0.05, **feature.pop("optimizer", {}))
    if feature.pop("scaled", False):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    images, weights = make_images(BATCH * STEPS), feature.pop("sample_weight", None)
    rows = BATCH // feature.get("masks_per_image", 1)
    images, weights = images[: rows * STEPS], None if weights is None else weights[: rows * STEPS]
    model = compiled(optimizer, cls, **feature)
    labels = None if weights is None else np.zeros(len(images))  # Keras drops weights that come without labels
    model.fit(images, labels, sample_weight=weights, batch_size=rows, shuffle=False, verbose=0)
    return model


@pytest.fixture(scope="module")
def plain():
    """Weights before and after five steps without any feature."""
    return trainable(build()), trainable(fit_five_steps(keras_mae.MaskedAutoencoder, "float32"))


# The other clippings are the same code of Keras, and weights go with several masks, too.
ON_ONE_BACKEND = ("clipnorm", "clipvalue", "sample_weight")


def features(names):
    marks = {name: pytest.mark.backends("torch") for name in ON_ONE_BACKEND}
    return [pytest.param(name, marks=marks.get(name, ())) for name in names]


@pytest.mark.parametrize("feature", features(FEATURES))
def test_five_steps_end_at_the_weights_of_keras_own_step(feature, plain):
    """The two compute one loss in two ways, removed patches alone or all patches and a mask, so sums round
    differently. In float32 that is 1e-7 of a weight near 1 and 2e-6 allow for five steps; half precision
    rounds a gradient at 4e-3 (bfloat16) or 5e-4 (float16) of its size, so 1 % of the way gone is allowed.
    """
    if feature == "mixed_float16" and BACKEND == "jax":
        pytest.skip(NO_HALF_ATTENTION)
    ours, keras_own = (fit_five_steps(cls, feature) for cls in (keras_mae.MaskedAutoencoder, Stock))
    way = distance(trainable(ours), plain[0])
    assert way > 1e-2
    tolerance = 0.01 * way if feature.startswith("mixed") else 2e-6
    assert distance(trainable(ours), trainable(keras_own)) < tolerance
    assert distance(slots(ours), slots(keras_own)) < 20 * tolerance  # gradients are larger than steps
    assert step_of(ours) == step_of(keras_own) == STEPS


@pytest.mark.parametrize(
    "feature", features(["accumulation", "clipnorm", "global_clipnorm", "clipvalue", "ema", "sample_weight"])
)
def test_features_change_the_weights(feature, plain):
    """A feature that both steps ignore would pass the test above."""
    assert distance(trainable(fit_five_steps(keras_mae.MaskedAutoencoder, feature)), plain[1]) > 1e-3


def test_loss_scaling_changes_nothing(plain):
    """The scale is a power of two, so even rounding stays the same."""
    assert distance(trainable(fit_five_steps(keras_mae.MaskedAutoencoder, "loss_scale")), plain[1]) < 2e-6


# === Steps that are not finite ===
SCALE = ("step_counter", "dynamic_scale")


def adamw(**options):
    return keras_mae.optimizers.AdamW(0.01, **options)


OPTIMIZERS = {
    "plain": lambda: adamw(use_ema=True),
    "accumulation": lambda: adamw(gradient_accumulation_steps=2),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(adamw()),
    "float16": lambda: keras.optimizers.LossScaleOptimizer(adamw()),
}


class Interrupted:
    """Training on: a good batch, one with a NaN image, one with an infinite weight, a good batch."""

    def __init__(self, kind):
        self.exact = kind != "float16"
        self.dtype = "float32" if self.exact else "mixed_float16"
        self.make = lambda: compiled(OPTIMIZERS[kind](), dtype=self.dtype)
        images = make_images(2 * BATCH).astype("float32")
        self.good, weights = (images[:BATCH], images[BATCH:]), WEIGHTS[:BATCH]
        with_nan, infinite = self.good[0].copy(), weights.copy()
        with_nan[1, 5, 7, 2] = np.nan
        infinite[3] = np.inf
        batches = [(self.good[0], weights), (with_nan, weights), (self.good[0], infinite), (self.good[1], weights)]
        self.model, self.weights, self.slots, self.scales, self.logs = self.make(), [], [], [], []
        for batch, sample_weight in batches:
            self.logs.append(self.model.train_on_batch(batch, sample_weight=sample_weight, return_dict=True))
            self.weights.append(trainable(self.model))
            self.slots.append(slots(self.model, but=SCALE))
            kept = [value for path, value in slots(self.model).items() if path.endswith("dynamic_scale")]
            self.scales.append(float(kept[0]) if kept else None)


@pytest.fixture(scope="module", params=OPTIMIZERS)
def interrupted(request):
    if request.param == "float16" and BACKEND == "jax":
        pytest.skip(NO_HALF_ATTENTION)
    return Interrupted(request.param)


@pytest.mark.parametrize("after", [1, 2], ids=["nan image", "infinite weight"])
def test_a_step_that_is_not_finite_changes_no_weight_and_no_slot(after, interrupted):
    assert_identical(interrupted.weights[after], interrupted.weights[after - 1])
    assert_identical(interrupted.slots[after], interrupted.slots[after - 1])


def test_a_step_that_is_not_finite_is_counted_once(interrupted):
    assert [float(logs["skipped_steps"]) for logs in interrupted.logs] == [0, 1, 1, 0]


def test_a_step_that_is_not_finite_lowers_the_loss_scale(interrupted):
    if interrupted.scales[0] is None:
        pytest.skip("no loss scale here")
    first = interrupted.scales[0]
    assert interrupted.scales == [first, first / 2, first / 4, first / 4]


def test_training_goes_on_after_steps_that_are_not_finite(interrupted):
    """Exactly as if they had never been, but for the masks: a skipped step is over too. Float16 gradients
    under the lowered scale round in other places.
    """
    assert distance(interrupted.weights[3], interrupted.weights[2]) > 1e-3
    model, weights = interrupted.make(), WEIGHTS[:BATCH]
    model.train_on_batch(interrupted.good[0], sample_weight=weights)
    model.encoder.step.advance()
    model.encoder.step.advance()
    logs = model.train_on_batch(interrupted.good[1], sample_weight=weights, return_dict=True)
    if interrupted.exact:
        assert_identical(interrupted.weights[3], trainable(model))
        assert_identical(interrupted.slots[3], slots(model, but=SCALE))
    for name in ("loss", "psnr"):
        np.testing.assert_allclose(interrupted.logs[3][name], logs[name], rtol=1e-6, equal_nan=False)


def test_an_infinite_loss_skips_the_step_even_if_the_gradients_are_finite():
    """A removed patch of 1e21: its squared error overflows, the gradient of the error does not. A
    LossScaleOptimizer looks at the gradients only.
    """
    images, mask = make_images().astype("float32"), np.ones((BATCH, PATCHES), "float32")
    mask[:, :3], images[0, 8:, 16:] = 0, 1e21
    model = compiled(keras.optimizers.LossScaleOptimizer(sgd()))
    model.encoder.pixel_range = (0.0, 1e22)  # or these would be no images
    before = trainable(model)
    logs = model.train_on_batch({"images": images, "mask": mask}, return_dict=True)
    assert float(logs["skipped_steps"]) == 1
    assert_identical(trainable(model), before)


# === Several masks an image ===
def test_the_loss_of_several_masks_is_the_mean_over_single_ones():
    """Two images with three masks each; draw j of image i is number i * 3 + j. In NumPy from there on."""
    images, weights = make_images(2), np.array([0.5, 3], "float32")
    model = build(masks_per_image=3)
    for _ in range(4):
        model.encoder.step.advance()
    outputs = model.outputs_for_loss(images, training=True)
    got = float(ops.convert_to_numpy(model.compute_loss(images, None, outputs, weights, training=True)))

    noise = np.array(ops.convert_to_numpy(hash_noise(3, 4, np.arange(6, dtype="int32"), PATCHES)))
    single, each = build(), np.zeros((2, 3))
    for image in range(2):
        for draw in range(3):
            # Repeated to a full batch only so that no new shape needs compiling.
            given = {"images": images[[image] * BATCH], "noise": noise[[image * 3 + draw] * BATCH]}
            outputs = single.outputs_for_loss(given, training=False)
            prediction, pixels = (
                np.array(ops.convert_to_numpy(outputs[key])) for key in ("removed_prediction", "removed_pixels")
            )
            each[image, draw] = np.mean((prediction[0].astype("float64") - pixels[0]) ** 2)
    assert each.std() > 1e-3
    np.testing.assert_allclose(got, np.mean(each.mean(axis=1) * weights), rtol=1e-5, equal_nan=False)


# === Compiled and not ===
COMPILED_DIFFERS = 5e-6
"""XLA and graphs fuse and reorder sums: 1e-7 of a weight near 1 at each of four steps, times the momentum."""

needs_compiling = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch is eager by default")


def full_optimizer():
    """Every feature that has state of its own."""
    return sgd(0.05, gradient_accumulation_steps=2, global_clipnorm=0.5, use_ema=True, ema_momentum=0.8)


def batches_of(count):
    images, weights = make_images(BATCH * count).astype("float32"), WEIGHTS[: BATCH * count]
    return [(images[i : i + BATCH], weights[i : i + BATCH]) for i in range(0, BATCH * count, BATCH)]


def train_on(model, batches):
    for images, weights in batches:
        model.train_on_batch(images, sample_weight=weights)
    return model


def everything(model):
    return {**arrays(model.variables), **slots(model)}


class Default:
    """Four steps as they run unasked: jitted on JAX, a graph with compiled parts on TensorFlow. Saved after two."""

    def __init__(self, path):
        self.path = path
        self.model = train_on(compiled(full_optimizer(), run_eagerly=False), batches_of(4)[:2])
        self.model.save(path)
        train_on(self.model, batches_of(4)[2:])
        self.slots, self.state = slots(self.model), everything(self.model)


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    return Default(tmp_path_factory.mktemp("default") / "model.keras")


# Unasked, JAX jits, and TensorFlow on a CPU makes a graph of which XLA compiles what lies between products.
OTHER_MODES = {
    "jax": {"jit off": {"jit_compile": False}},
    "tensorflow": {
        "eager": {"run_eagerly": True},
        "jit on": {"jit_compile": True},
        "jit off": {"jit_compile": False},
    },
    "torch": {},
}[BACKEND]


@needs_compiling
@pytest.mark.parametrize("mode", OTHER_MODES)
def test_compiled_and_other_steps_agree(mode, default):
    model = train_on(compiled(full_optimizer(), **{"run_eagerly": False, **OTHER_MODES[mode]}), batches_of(4))
    assert distance(trainable(model), trainable(build())) > 1e-2
    assert distance(everything(model), default.state) < COMPILED_DIFFERS


def fit_two_steps_at_once():
    images, weights = (np.concatenate(each) for each in zip(*batches_of(4), strict=True))
    model = compiled(full_optimizer(), run_eagerly=False, steps_per_execution=2)
    model.fit(images, np.zeros(len(images)), sample_weight=weights, batch_size=BATCH, shuffle=False, verbose=0)
    return model


@needs_compiling
def test_two_steps_per_execution_are_two_steps(default):
    """Compared in the optimizer, averages of the weights included: `fit` ends by replacing weights by them."""
    model = fit_two_steps_at_once()
    assert distance(slots(model), default.slots) < COMPILED_DIFFERS
    assert step_of(model) == 4


def test_a_saved_model_is_compiled_as_this_backend_does_it():
    """A file written on JAX says True, of which PyTorch can make nothing."""
    model = build()
    model.compile(keras_mae.optimizers.AdamW())
    config = model.get_compile_config()
    other = build()
    other.compile_from_config(config | {"jit_compile": not config["jit_compile"]})
    assert other.jit_compile == model.jit_compile


def test_keras_own_optimizers_are_found_under_the_names_that_pytorch_saves():
    model = compiled(keras.optimizers.SGD(0.25))
    config = model.get_compile_config()
    optimizer = {**config["optimizer"], "module": "keras.src.backend.torch.optimizers.torch_sgd"}
    model.compile_from_config(config | {"optimizer": {**optimizer, "registered_name": "SGD"}})
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert float(model.optimizer.learning_rate) == 0.25


@pytest.mark.skipif(BACKEND != "torch", reason="the other backends can")
def test_steps_per_execution_are_refused_by_pytorch():
    with pytest.raises(ValueError, match="`steps_per_execution` must be 1 with the PyTorch backend"):
        fit_two_steps_at_once()


@needs_compiling
def test_a_compiled_step_that_is_not_finite_changes_nothing(default):
    images, weights = batches_of(1)[0]
    before, images[2, 3, 11, 1] = [trainable(default.model), slots(default.model)], np.nan
    logs = default.model.train_on_batch(images, sample_weight=weights, return_dict=True)
    assert_identical(trainable(default.model), before[0])
    assert_identical(slots(default.model), before[1])
    assert float(logs["skipped_steps"]) == 1


# === Across a save ===
def test_training_continues_after_a_save_as_if_there_had_been_none(default):
    """Two steps, save, load, two steps: the bits of four steps, in weights, averages, accumulators, step."""
    loaded = keras.saving.load_model(default.path)
    assert step_of(loaded) == 2
    assert_identical(everything(train_on(loaded, batches_of(4)[2:])), default.state)


SCHEDULED = {
    "constant": lambda: adamw(weight_decay=0.3),
    "warm-up and cosine": lambda: keras_mae.optimizers.pretraining_adamw(
        2.0, BATCH, total_steps=6, warmup_steps=3, weight_decay=0.3
    ),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(adamw()),
    "in the middle of an update": lambda: keras_mae.optimizers.pretraining_adamw(
        2.0, BATCH, total_steps=2, warmup_steps=1, gradient_accumulation_steps=3, use_ema=True
    ),
    "LARS in the middle of an update": lambda: keras_mae.optimizers.LARS(0.3, gradient_accumulation_steps=3),
}


@pytest.mark.parametrize("optimizer", SCHEDULED)
def test_our_optimizers_continue_after_a_save_bit_for_bit(optimizer, tmp_path):
    batches, path = batches_of(4), tmp_path / "model.keras"
    model = train_on(compiled(SCHEDULED[optimizer]()), batches[:2])
    model.save(path)
    saved = slots(model)
    loaded = keras.saving.load_model(path)
    assert type(loaded.optimizer) is type(model.optimizer)
    kind = keras_mae.optimizers.LARS if optimizer.startswith("LARS") else keras_mae.optimizers.AdamW
    assert type(getattr(loaded.optimizer, "inner_optimizer", loaded.optimizer)) is kind
    assert loaded.encoder.step.steps_per_update == model.encoder.step.steps_per_update
    assert loaded.run_eagerly == model.run_eagerly
    assert_identical(slots(loaded), saved)
    train_on(model, batches[2:])
    assert_identical(everything(train_on(loaded, batches[2:])), everything(model))
    assert distance(slots(loaded), saved) > 1e-3


def test_weights_files_keep_the_step(tmp_path):
    model, other = build(), build()
    for _ in range(7):
        model.encoder.step.advance()
    model.save_weights(tmp_path / "mae.weights.h5")
    other.load_weights(tmp_path / "mae.weights.h5")
    assert step_of(other) == 7
