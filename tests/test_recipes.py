"""The published recipes, number by number, and the optimizers and augmentation that follow from them."""

import keras
import numpy as np
import pytest
from recipe_helpers import SIZES, SOURCES, assert_has, each_source

import keras_mae
from keras_mae import data, recipes
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe

pytestmark = pytest.mark.backends("torch")
each_size = pytest.mark.parametrize("size", SIZES)


# === Pre-training: FACTS, section 2 ===
@each_source
@each_size
def test_pretraining_is_one_recipe_for_all_sizes(size, source):
    recipe = recipes.PretrainRecipe.for_size(size, source)
    assert type(recipe) is PretrainRecipe
    assert_has(
        recipe,
        base_learning_rate=1.5e-4,
        batch_size=4096,
        epochs=800,
        warmup_epochs=40,
        weight_decay=0.05,
        beta_1=0.9,
        beta_2=0.95,
        mask_ratio=0.75,
        gradient_accumulation_steps=1,
        masks_per_image=1,
        norm_pix_loss=source == "repository",  # the paper's table 1d: pixels 84.9, normalized 85.4
        source=source,
    )


# === Fine-tuning: FACTS, section 3 ===
@pytest.mark.parametrize(
    ("size", "source", "rate", "layer_decay", "drop_path_rate", "epochs"),
    [
        ("base", "repository", 5e-4, 0.65, 0.1, 100),
        ("large", "repository", 1e-3, 0.75, 0.2, 50),
        ("huge", "repository", 1e-3, 0.75, 0.3, 50),
        ("base", "paper", 1e-3, 0.75, 0.1, 100),
        ("large", "paper", 1e-3, 0.75, 0.1, 50),
        ("huge", "paper", 1e-3, 0.75, 0.2, 50),
    ],
)
def test_fine_tuning_differs_by_size_and_source(size, source, rate, layer_decay, drop_path_rate, epochs):
    assert_has(
        recipes.FineTuneRecipe.for_size(size, source),
        base_learning_rate=rate,
        layer_decay=layer_decay,
        drop_path_rate=drop_path_rate,
        epochs=epochs,
        source=source,
    )


@each_source
@each_size
def test_the_rest_of_fine_tuning_is_shared(size, source):
    recipe = recipes.FineTuneRecipe.for_size(size, source)
    assert type(recipe) is FineTuneRecipe
    assert_has(
        recipe,
        batch_size=1024,
        warmup_epochs=5,
        weight_decay=0.05,
        beta_1=0.9,
        beta_2=0.999,
        minimum_learning_rate=1e-6,
        flip=True,
        shift=0.0,
        rand_augment=9.0,
        random_erasing={"repository": 0.25, "paper": 0.0}[source],  # table 9 has none
        mixup=0.8,
        cutmix=1.0,
        switch_probability=0.5,
        label_smoothing=0.1,
    )


# === Linear probing: FACTS, section 4 ===
@pytest.mark.parametrize(
    ("size", "source", "epochs"),
    [
        ("base", "repository", 90),
        ("large", "repository", 50),
        ("huge", "repository", 50),
        ("base", "paper", 90),
        ("large", "paper", 90),
        ("huge", "paper", 90),
    ],
)
def test_linear_probing(size, source, epochs):
    recipe = recipes.LinearProbeRecipe.for_size(size, source)
    assert type(recipe) is LinearProbeRecipe
    assert_has(
        recipe,
        base_learning_rate=0.1,
        batch_size=16384,
        epochs=epochs,
        warmup_epochs=10,
        weight_decay=0.0,
        momentum=0.9,
        flip=True,
        crop={"area": (0.08, 1.0), "flip": False, "fast": False, "clamp": True},
        source=source,
    )


@pytest.mark.parametrize("recipe", [PretrainRecipe, FineTuneRecipe, LinearProbeRecipe])
def test_the_defaults_are_one_published_recipe(recipe):
    """The one that `source` names."""
    assert recipe() in [recipe.for_size("base", source) for source in SOURCES if source == recipe().source]


def test_only_the_probe_clamps_its_crops():
    assert data.RandomResizedCrop(**LinearProbeRecipe().crop).clamp
    for recipe in (PretrainRecipe(), FineTuneRecipe()):
        assert not data.RandomResizedCrop(**recipe.crop).clamp


# === The learning rate ===
@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (recipes.PretrainRecipe.for_size(), 2.4e-3),
        (recipes.FineTuneRecipe.for_size("base", "repository"), 2e-3),
        (recipes.FineTuneRecipe.for_size("base", "paper"), 4e-3),
        (recipes.LinearProbeRecipe.for_size(), 6.4),
        (recipes.FineTuneRecipe.for_size(batch_size=640, base_learning_rate=3e-4), 7.5e-4),
        (
            recipes.FineTuneRecipe.for_size(batch_size=640, base_learning_rate=3e-4, gradient_accumulation_steps=5),
            7.5e-4,
        ),
    ],
    ids=["pretrain", "fine_tune", "paper's fine_tune", "linear_probe", "another batch", "accumulated"],
)
def test_the_learning_rate_follows_the_batch(recipe, expected):
    assert recipe.learning_rate == pytest.approx(expected, rel=1e-12)


def rates_of(optimizer, *steps):
    schedule = keras.optimizers.schedules.deserialize(optimizer.get_config()["learning_rate"])
    return [float(schedule(step)) for step in steps]


class Model:
    """As much of a classifier as its optimizer asks for: a stem, and a head two layers up."""

    num_layers = 2

    def __init__(self):
        self.trainable_variables = [keras.Variable(np.ones((3, 5))), keras.Variable(np.ones((7,)))]
        self.no_weight_decay = []

    def layer_index(self, variable):
        return 0 if variable is self.trainable_variables[0] else 2


@pytest.mark.backends("torch", "jax", "tensorflow")
def test_the_fine_tuning_optimizer_has_the_recipes_numbers():
    recipe = FineTuneRecipe(
        epochs=13,
        warmup_epochs=3,
        batch_size=640,
        base_learning_rate=0.2,
        weight_decay=0.3,
        layer_decay=0.5,
        beta_1=0.8,
        beta_2=0.7,
        minimum_learning_rate=0.125,
        gradient_accumulation_steps=2,
    )
    optimizer = recipe.optimizer(Model(), steps_per_epoch=4)
    assert_has(
        optimizer,
        weight_decay=0.3,
        beta_1=0.8,
        beta_2=0.7,
        learning_rate_scales=[0.25, 1.0],
        decayed=[True, False],
        gradient_accumulation_steps=2,
    )
    # 13 epochs of 4 batches, two to an update: 26 updates, 6 of warm-up.
    rates = rates_of(optimizer, 0, 3, 6, 16, 26)
    np.testing.assert_allclose(rates, [0, 0.25, 0.5, 0.3125, 0.125], rtol=1e-6, atol=1e-9)


@pytest.mark.backends("torch", "jax", "tensorflow")
def test_a_learning_rate_below_the_minimum_is_kept():
    """A batch of one image at the published rates, say: the run must not be refused for it."""
    recipe = FineTuneRecipe(base_learning_rate=1e-5, batch_size=1, warmup_epochs=0, epochs=3)
    rates = rates_of(recipe.optimizer(Model(), steps_per_epoch=2), 0, 6)
    np.testing.assert_allclose(rates, [1e-5 / 256] * 2, rtol=1e-5)


@pytest.mark.backends("torch", "jax", "tensorflow")
def test_the_probes_optimizer_has_the_recipes_numbers():
    recipe = LinearProbeRecipe(
        epochs=13, warmup_epochs=3, batch_size=640, base_learning_rate=0.2, weight_decay=0.3, momentum=0.7
    )
    optimizer = recipe.optimizer(steps_per_epoch=2)
    assert type(optimizer) is keras_mae.optimizers.LARS
    assert_has(optimizer, weight_decay=0.3, momentum=0.7, gradient_accumulation_steps=None)
    np.testing.assert_allclose(rates_of(optimizer, 0, 3, 6, 16, 26), [0, 0.25, 0.5, 0.25, 0], rtol=1e-6, atol=1e-7)


# === Augmentation ===
@pytest.mark.parametrize(
    "recipe",
    [recipes.FineTuneRecipe.for_size(), recipes.LinearProbeRecipe.for_size()],
    ids=["fine_tune", "linear_probe"],
)
def test_augmentation_takes_all_it_is_given(recipe):
    keras_mae.data.Augmentation(7, **recipe.augmentation)


def test_every_number_of_the_augmentation_is_the_recipes():
    chosen = {
        "flip": False,
        "shift": 0.11,
        "rand_augment": 3.0,
        "random_erasing": 0.13,
        "mixup": 0.17,
        "cutmix": 0.19,
        "switch_probability": 0.23,
        "label_smoothing": 0.29,
        "seed": 31,
    }
    assert recipes.FineTuneRecipe.for_size(**chosen).augmentation == chosen


def test_the_probe_mirrors_and_does_nothing_else():
    assert recipes.LinearProbeRecipe.for_size(seed=31).augmentation == {"flip": True, "seed": 31}
