"""Under gradient accumulation everything counts updates: the same training, in smaller batches."""

import keras
import numpy as np
import pytest
from keras import ops
from training_helpers import apply_gradients, quick_compile, trainable, without_key_biases

import keras_mae
from keras_mae.optimizers import LARS, AdamW, warmup_cosine
from keras_mae.random import StepCounter
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe
from keras_mae.training.callbacks import LogLearningRate

STEPS, UPDATES = 4, 12
SHAPES = {"kernel": (3, 5), "bias": (5,)}


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


# === Optimizers ===
def draws(count, seed):
    generator = np.random.default_rng(seed)
    return [[generator.standard_normal(shape).astype("float32") for shape in SHAPES.values()] for _ in range(count)]


GRADIENTS = draws(3 * 5, seed=1)
MEANS = [[np.mean(parts, 0) for parts in zip(*GRADIENTS[i : i + 3], strict=True)] for i in range(0, 15, 3)]
OPTIONS = {
    "averaged": {"use_ema": True, "ema_momentum": 0.6, "ema_overwrite_frequency": 2},
    "clipped": {"global_clipnorm": 0.5},
}


def optimizer_of(kind, options, **more):
    schedule = warmup_cosine(0.05, total_steps=6, warmup_steps=2)
    own = {"momentum": 0.7, "trust_coefficient": 0.5} if kind is LARS else {"weight_decay": 0.5, "amsgrad": True}
    return kind(schedule, **own, **OPTIONS[options], **more)


def apply(optimizer, variables, gradients):
    """Values and learning rate after each step."""
    found = []
    for step in gradients:
        apply_gradients(optimizer, [ops.convert_to_tensor(value) for value in step], variables)
        values = [np.array(ops.convert_to_numpy(variable)) for variable in variables]
        found.append((float(ops.convert_to_numpy(optimizer.learning_rate)), *values))
    return found


def variables_of():
    return [keras.Variable(value, name=name) for name, value in zip(SHAPES, draws(1, seed=0)[0], strict=True)]


def assert_close(got, expected):
    for one, other in zip(got, expected, strict=True):
        for value, wanted in zip(one, other, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=0, atol=2e-6, equal_nan=False)


@pytest.mark.parametrize(
    ("kind", "options", "scaled"),
    [(AdamW, "averaged", False), (AdamW, "clipped", True), (LARS, "averaged", False)],
)
def test_three_batches_are_one_of_their_mean(kind, options, scaled):
    """Rates, weights and averages after each update; in between nothing moves, the learning rate included."""
    expected_of, optimizer = optimizer_of(kind, options), optimizer_of(kind, options, gradient_accumulation_steps=3)
    whole, variables = variables_of(), variables_of()
    expected = apply(expected_of, whole, MEANS)
    outer, gradients = optimizer, GRADIENTS
    if scaled:
        outer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)
        gradients = [[value * 64 for value in step] for step in GRADIENTS]
    start = [0.0, *map(ops.convert_to_numpy, variables_of())]
    got = apply(outer, variables, gradients)
    assert_close(got, [start, start, *(row for row in expected for _ in range(3))][: len(got)])
    assert int(outer.iterations) == 5
    for one in (expected_of, optimizer):
        one.finalize_variable_values(whole if one is expected_of else variables)
    assert_close([list(map(ops.convert_to_numpy, variables))], [list(map(ops.convert_to_numpy, whole))])


def test_averages_do_not_stand_for_weights_that_were_never_updated():
    """`fit` ends by putting them in the weights' place, and they begin as zeros."""
    optimizer, variables = AdamW(0.1, use_ema=True, gradient_accumulation_steps=3), variables_of()
    got = apply(optimizer, variables, GRADIENTS[:2])
    optimizer.finalize_variable_values(variables)
    assert_close([list(map(ops.convert_to_numpy, variables))], [got[0][1:]])


def test_a_batch_that_overflows_leaves_no_trace():
    """Its place is taken by the next: the update comes a batch later, and has three of them."""
    optimizer, variables = optimizer_of(AdamW, "averaged", gradient_accumulation_steps=3), variables_of()
    scaler = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)
    got = apply(scaler, variables, [[value * 64 for value in step] for step in GRADIENTS[:4]])
    got += apply(scaler, variables, [[np.full(shape, np.inf, "float32") for shape in SHAPES.values()]])
    assert_close(got[-1:], got[-2:-1])  # the scale is 32 from here
    got += apply(scaler, variables, [[value * 32 for value in step] for step in GRADIENTS[4:6]])
    expected = apply(optimizer_of(AdamW, "averaged"), variables_of(), MEANS[:2])
    assert_close(got[-1:], expected[-1:])


# === Draws ===
@pytest.mark.parametrize("steps", [1, 3])
def test_draws_go_by_updates(steps):
    counter = StepCounter()
    counter.steps_per_update = steps
    for step in range(7):
        update, index = map(ops.convert_to_numpy, counter.place(5))
        assert (int(update), index.tolist()) == (step // steps, [step % steps * 5 + row for row in range(5)])
        assert int(counter.value) == step
        counter.advance()


def test_compile_says_how_many_steps_make_an_update():
    model = pretraining()
    for optimizer, steps in (("sgd", 1), (AdamW(gradient_accumulation_steps=3), 3), (AdamW(), 1)):
        model.compile(optimizer)
        assert model.encoder.step.steps_per_update == steps
    model.compile(keras.optimizers.LossScaleOptimizer(AdamW(gradient_accumulation_steps=2)))
    assert model.encoder.step.steps_per_update == 2


def test_a_schedule_of_keras_own_that_would_end_early_is_warned_of(recwarn):
    model, schedule = pretraining(), warmup_cosine(1e-3, 8)
    for optimizer in (
        AdamW(schedule, gradient_accumulation_steps=4),
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=4),
        keras.optimizers.SGD(schedule),
    ):
        model.compile(optimizer)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="over after 1/4 of its updates.* Received: optimizer=SGD"):
        model.compile(keras.optimizers.SGD(schedule, gradient_accumulation_steps=4))


# === Recipes ===
def test_a_run_of_too_few_batches_for_one_update_is_refused():
    recipe = PretrainRecipe(epochs=3, warmup_epochs=1, batch_size=8, gradient_accumulation_steps=8)
    with pytest.raises(ValueError, match="no update.*Received: gradient_accumulation_steps=8 in a run of 6 batches"):
        recipe.optimizer(2)
    assert int(recipe.optimizer(3)._learning_rate.decay_steps) == 1


@pytest.mark.parametrize("steps_per_epoch", [0, 2.5])
def test_epochs_are_of_whole_batches(steps_per_epoch):
    with pytest.raises(ValueError, match="`steps_per_epoch` must be a positive integer"):
        LinearProbeRecipe().optimizer(steps_per_epoch)


RECIPES = {
    "pretraining": PretrainRecipe(epochs=3, warmup_epochs=1, batch_size=32, masks_per_image=2, weight_decay=0.5),
    "partial pretraining": PretrainRecipe(epochs=3, warmup_epochs=1, batch_size=32, predict_ratio=0.4),
    "fine-tuning": FineTuneRecipe(epochs=3, warmup_epochs=1, batch_size=32, weight_decay=0.5),
    "probe": LinearProbeRecipe(epochs=3, warmup_epochs=1, batch_size=32, base_learning_rate=2.0),
}
PER_EPOCH = UPDATES // 3
IMAGES = np.random.default_rng(3).integers(0, 256, (32 * PER_EPOCH, 12, 12, 3), "uint8")
LABELS = np.random.default_rng(4).integers(0, 5, len(IMAGES))


def encoder_of(depth):
    keras.utils.set_random_seed(5)
    return keras_mae.ViTEncoder((12, 12, 3), 4, embed_dim=16, depth=depth, num_heads=2, mlp_ratio=2)


def pretraining(predict_ratio=1.0):
    return keras_mae.MaskedAutoencoder(
        encoder_of(1), keras_mae.MAEDecoder(8, 1, 2), masks_per_image=2, predict_ratio=predict_ratio, seed=6
    )


def model_of(task):
    if task.endswith("pretraining"):
        return pretraining(0.4 if task.startswith("partial") else 1.0)
    options = {"drop_path_rate": 0.5} if task == "fine-tuning" else {"pooling": "token", "trainable_blocks": 0}
    return keras_mae.ViTClassifier(encoder_of(2), 5, **options)


def trained(task, steps):
    """A model after three epochs of updates of 32 images, and the learning rate after each epoch."""
    recipe = RECIPES[task]
    changes = {"gradient_accumulation_steps": steps, "base_learning_rate": 20 * recipe.base_learning_rate}
    recipe = type(recipe).from_dict({**recipe.to_dict(), **changes})
    model = model_of(task)
    arguments = (model,) if task == "fine-tuning" else ()
    model.compile(recipe.optimizer(*arguments, PER_EPOCH * steps))
    given = (IMAGES,) if task.endswith("pretraining") else (IMAGES, LABELS)
    history = model.fit(
        *given,
        batch_size=recipe.step_batch_size,
        epochs=recipe.epochs,
        shuffle=False,
        callbacks=[LogLearningRate()],
        verbose=0,
    ).history
    return model, history["learning_rate"]


@pytest.mark.parametrize(
    "task",
    [
        "pretraining",
        *(
            pytest.param(task, marks=pytest.mark.backends(*names))
            for task, *names in (
                ("partial pretraining", "torch"),
                ("fine-tuning", "torch", "jax"),
                ("probe", "torch"),
            )
        ),
    ],
)
def test_four_batches_of_8_train_as_one_of_32(task):
    """Twelve updates with warm-up, cosine, decay, several masks an image and drop path.

    The probe goes without BatchNorm, whose statistics are those of the batch that is at hand.
    """
    (whole, rates), (parts, part_rates) = (trained(task, steps) for steps in (1, STEPS))
    assert int(parts.optimizer.iterations) == int(whole.optimizer.iterations) == UPDATES
    np.testing.assert_allclose(part_rates, rates, rtol=1e-6, atol=1e-9)
    start, expected, got = (without_key_biases(trainable(one)) for one in (model_of(task), whole, parts))
    for path, value in expected.items():
        size = np.abs(value).max()
        assert np.abs(value - start[path]).max() > 1e-3 * size, path
        assert np.abs(got[path] - value).max() < 1e-5 * size, path
