"""The published recipes, number by number, and what is refused."""

import dataclasses
import functools
import json
import re

import keras
import numpy as np
import pytest

import keras_mae
from keras_mae import data, recipes
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, own

pytestmark = pytest.mark.backends("torch")

FUNCTIONS = {
    "pretrain": PretrainRecipe.for_size,
    "fine_tune": FineTuneRecipe.for_size,
    "linear_probe": LinearProbeRecipe.for_size,
}
SIZES, SOURCES = ("base", "large", "huge"), ("repository", "paper")
CELLS = {
    PretrainRecipe: own.PRETRAIN_BY_IMAGES,
    FineTuneRecipe: own.FINE_TUNE_BY_IMAGES,
    LinearProbeRecipe: own.PROBE_BY_IMAGES,
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
each_size = pytest.mark.parametrize("size", SIZES)
each_source = pytest.mark.parametrize("source", SOURCES)


def assert_has(recipe, **expected):
    assert {name: getattr(recipe, name) for name in expected} == expected


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
        crop={"area": (0.08, 1.0), "flip": False, "clamp": True},
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


# === Changes ===
@each_function
def test_recipes_are_frozen(function):
    with pytest.raises(dataclasses.FrozenInstanceError):
        function().epochs = 3


@each_function
def test_changes_are_made_and_nothing_else(function):
    recipe = function("large", epochs=81, seed=5)
    assert recipe == dataclasses.replace(function("large"), epochs=81, seed=5)
    assert_has(recipe, epochs=81, seed=5)


@each_function
def test_unknown_sizes_are_refused_and_the_known_named(function):
    with pytest.raises(ValueError, match="`size` must be one of 'base', 'large', 'huge', 'small_images'.*'giant'"):
        function("giant")


@each_function
@pytest.mark.parametrize("size", ["huge", "small_images"])
def test_unknown_sources_are_refused(function, size):
    with pytest.raises(ValueError, match="`source` must be one of .*'memory'"):
        function(size, "memory")


@each_function
def test_unknown_fields_are_refused_by_name(function):
    with pytest.raises(ValueError, match="Recipe has epochs, .*weight_decay.* Received: colour, layer_dekay"):
        function(layer_dekay=0.5, colour=1)


@each_function
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"epochs": 5, "warmup_epochs": 5}, "`warmup_epochs` must be an integer, at least 0 and less than `epochs`"),
        ({"batch_size": 2.5}, "`batch_size` must be a positive integer"),
        ({"gradient_accumulation_steps": 3}, "`gradient_accumulation_steps` must divide `batch_size`"),
        ({"base_learning_rate": float("nan")}, "`base_learning_rate` must be a finite number above 0"),
        ({"weight_decay": -1}, "`weight_decay` must be a finite number of at least 0"),
        ({"seed": -1}, "`seed` must be an integer"),
    ],
)
def test_values_out_of_range_are_refused(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(**options)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (FineTuneRecipe, {"layer_decay": 0.0}, r"`layer_decay` must be in \(0, 1\]"),
        (FineTuneRecipe, {"layer_decay": 1.1}, "`layer_decay` must be in"),
        (FineTuneRecipe, {"drop_path_rate": 1.0}, "`drop_path_rate` must be in"),
        (FineTuneRecipe, {"beta_2": float("nan")}, "`beta_2` must be in"),
        (FineTuneRecipe, {"minimum_learning_rate": -1e-6}, "`minimum_learning_rate` must be"),
        (FineTuneRecipe, {"label_smoothing": 1.0}, "`label_smoothing` must be in"),
        (FineTuneRecipe, {"source": "memory"}, "`source` must be one of"),
        (LinearProbeRecipe, {"momentum": 1.0}, "`momentum` must be in"),
    ],
)
def test_values_of_one_recipe_out_of_range_are_refused(recipe, options, message):
    with pytest.raises(ValueError, match=message):
        recipe(**options)


def test_no_layer_decay_is_allowed():
    assert FineTuneRecipe(layer_decay=1).layer_decay == 1


@each_function
def test_fields_that_were_changed_are_named(function):
    recipe = function("small_images", seed=5, epochs=61, batch_size=function("small_images").batch_size)
    assert recipe.changed == ("epochs", "seed")  # in the order of the fields; the batch is as it was
    assert recipe == dataclasses.replace(recipe, changed=())
    back = recipes.Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert back.changed == ("epochs", "seed")
    with pytest.raises(ValueError, match="`changed` must be names of fields. Received: changed=\\['colour'\\]"):
        dataclasses.replace(recipe, changed=["colour"])


# === Small images, by their number ===
def updates(recipe, images):
    return recipe.epochs * images / recipe.batch_size


@each_function
def test_small_images_by_number_keep_their_updates(function):
    def by(count):
        return function("small_images", images=count)

    cells = CELLS[function.__self__]
    for count, cell in cells.items():
        assert_has(by(count), source="keras_mae", **{"epochs": function("small_images").epochs, **cell})
    fewest, most = min(cells), max(cells)
    assert dataclasses.replace(by(10 * most), seed=1) == dataclasses.replace(by(most), seed=1)
    half, tiny = by(fewest // 2), by(7)
    assert updates(half, fewest // 2) == pytest.approx(updates(by(fewest), fewest), rel=0.01)
    assert tiny.epochs == 2 * by(fewest).epochs
    low, high = sorted(cells)[:2]
    middle = round((low * high) ** 0.5)
    expected = (updates(by(low), low) * updates(by(high), high)) ** 0.5
    assert updates(by(middle), middle) == pytest.approx(expected, rel=0.03)  # whole epochs
    for count in (1, 30, 1000, 20_000):
        assert 0 < by(count).warmup_epochs < by(count).epochs


def test_hardly_any_images_are_left_out_for_the_size_of_the_batch():
    assert_has(LinearProbeRecipe.for_size("small_images", images=504), batch_size=126, epochs=100)  # not 3 of 150
    for kind in CELLS:
        for images in (1, 7, 33, 47, 299, 504, 700, 1_999, 30_000):
            assert images % kind.for_size("small_images", images=images).batch_size <= images / 10


@each_function
def test_a_number_of_images_goes_with_small_ones(function):
    with pytest.raises(
        ValueError, match="`images` goes with the recipe \"small_images\". Received: images=600 for 'large'"
    ):
        function("large", images=600)
    with pytest.raises(ValueError, match="`images` must be a positive integer"):
        function("small_images", images=0)
    assert function("small_images", images=600, epochs=3, warmup_epochs=0).changed == ("epochs", "warmup_epochs")


@pytest.mark.parametrize(
    ("recipe", "epochs", "warmup"),
    [
        (PretrainRecipe.for_size, 3, 0),
        (PretrainRecipe.for_size, 79, 3),
        (PretrainRecipe.for_size, 80, 40),  # as long as the rest of the run: as it always was
        (FineTuneRecipe.for_size, 3, 0),
        (LinearProbeRecipe.for_size, 19, 2),
        (functools.partial(LinearProbeRecipe.for_size, "small_images"), 3, 0),
        (functools.partial(LinearProbeRecipe.for_size, "small_images"), 20, 10),
    ],
)
def test_a_warmup_that_would_take_more_than_half_keeps_its_share(recipe, epochs, warmup):
    assert recipe(epochs=epochs).warmup_epochs == warmup
    assert recipe(epochs=epochs, warmup_epochs=2).warmup_epochs == 2


def test_small_images_without_a_number():
    recipe = PretrainRecipe.for_size("small_images")
    assert_has(recipe, epochs=40, warmup_epochs=2, batch_size=256, base_learning_rate=2e-3, predict_ratio=0.33)
    assert_has(recipe, optimizer_name="muon", decoder="cross_attention")
    assert_has(
        FineTuneRecipe.for_size("small_images"), epochs=40, warmup_epochs=2, batch_size=128, base_learning_rate=2e-3
    )
    assert_has(
        LinearProbeRecipe.for_size("small_images"),
        epochs=100,
        warmup_epochs=10,
        batch_size=256,
        base_learning_rate=4.0,
    )


def test_photos_are_pre_trained_on_and_not_tuned_for():
    assert_has(PretrainRecipe.for_size("photos"), batch_size=32, crop_area=(0.2, 1.0), flip=True, source="untuned")
    with pytest.raises(ValueError, match="`size` must be one of 'base', .*Received: size='photos'"):
        FineTuneRecipe.for_size("photos")


# === What is shown and kept ===
@each_function
def test_small_images_have_recipes_of_our_own_and_say_so(function):
    recipe = function("small_images")
    assert recipe.source == "keras_mae"
    assert str(recipe).splitlines()[0] == f"{type(recipe).__name__}, from keras_mae, tuned on validation images"


def rows_of(recipe):
    """(name, value, note) of every row of the table; columns are two blanks or more apart."""
    return [(*re.split(r"\s{2,}", row), "")[:3] for row in str(recipe).splitlines()[1:]]


@each_source
@each_function
def test_a_recipe_prints_every_field_its_rate_and_where_it_comes_from(function, source):
    recipe = function("large", source, seed=17)
    where = {"repository": "the authors' repository", "paper": "the paper, appendix A.1"}[source]
    assert str(recipe).splitlines()[0] == f"{type(recipe).__name__}, from {where}"
    *rows, (name, value, _) = rows_of(recipe)
    fields = {field.name for field in dataclasses.fields(recipe)} - {"source", "changed"}
    assert {name: value for name, value, _ in rows} == {name: str(getattr(recipe, name)) for name in fields}
    assert name == "learning_rate (base × batch / 256)"
    assert float(value) == pytest.approx(recipe.learning_rate, rel=1e-3)


def notes_of(recipe):
    return {name: note for name, _, note in rows_of(recipe) if note}


def test_a_value_that_is_not_the_papers_says_whose_it_is():
    repository = "the authors' repository; the paper: "
    assert notes_of(PretrainRecipe(seed=3)) == {"norm_pix_loss": repository + "False"}
    # Like the paper's for its own size, and for no other.
    assert notes_of(FineTuneRecipe.for_size("huge")) == {
        "drop_path_rate": repository + "0.2",
        "random_erasing": repository + "0.0",
    }
    assert notes_of(LinearProbeRecipe.for_size("huge")) == {"epochs": repository + "90"}
    ours = notes_of(FineTuneRecipe.for_size("small_images", drop_path_rate=0.5))
    assert ours["mixup"] == "keras_mae; the paper: 0.8"
    assert ours["drop_path_rate"] == "changed; the paper: 0.1"
    assert notes_of(PretrainRecipe.for_size("photos"))["batch_size"] == "keras_mae; the paper: 4096"


@each_source
@each_function
def test_a_value_that_is_nobodys_was_changed(function, source):
    """Also by `dataclasses.replace`, of which no recipe knows."""
    recipe = dataclasses.replace(function("base", source), batch_size=333)
    assert notes_of(recipe)["batch_size"].startswith("changed; the paper: ")
    assert not any(note.startswith("changed") for note in notes_of(function("base", source)).values())


def test_options_name_who_proposed_them(monkeypatch):
    monkeypatch.setitem(keras_mae.recipes.sources.OPTIONS, "masks_per_image", "someone, arXiv:1234.5")
    note = notes_of(PretrainRecipe.for_size(masks_per_image=2))["masks_per_image"]
    assert note == "changed (someone, arXiv:1234.5); the paper: 1"


# === Written and read back ===
@each_function
@pytest.mark.parametrize("size", ["large", "small_images"])
def test_a_recipe_is_read_back_from_json(function, size):
    recipe = function(size, seed=5)
    back = recipes.Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert back == recipe
    assert type(back) is type(recipe)
    assert type(back.crop_area) is type(recipe.crop_area)
    assert type(recipe).from_dict(recipe.to_dict()) == recipe


def test_numbers_of_numpy_and_lists_are_written_as_json_has_them():
    recipe = PretrainRecipe(epochs=np.int64(61), mask_ratio=np.float32(0.5), crop_area=[0.5, 1])
    written = json.loads(json.dumps(recipe.to_dict()))
    assert (written["kind"], written["epochs"], written["mask_ratio"]) == ("pretrain", 61, 0.5)
    assert recipes.Recipe.from_dict(written) == recipe


def test_fields_that_a_file_lacks_keep_their_defaults():
    assert recipes.Recipe.from_dict({"kind": "fine_tune", "epochs": 13}) == FineTuneRecipe(epochs=13)


def test_a_whole_recipe_from_before_clamped_crops_is_read_as_it_was_trained():
    before = {name: value for name, value in LinearProbeRecipe(epochs=13).to_dict().items() if name != "clamp_crops"}
    assert recipes.Recipe.from_dict(before) == LinearProbeRecipe(epochs=13, clamp_crops=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"kind": "linear_probe", "layer_decay": 0.5, "zebra": 1},
            "A LinearProbeRecipe has .* Received: layer_dec.*, z",
        ),
        ({"kind": "segment"}, "`kind` must be one of 'pretrain', 'fine_tune', 'linear_probe'.*'segment'"),
        ({"epochs": 3}, "`kind` must be one of .*Received: kind=None"),
        ({"kind": "pretrain", "epochs": 0}, "`epochs` must be a positive integer"),
    ],
)
def test_what_is_no_recipe_is_not_read_as_one(values, message):
    with pytest.raises(ValueError, match=message):
        recipes.Recipe.from_dict(values)


def test_a_recipe_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="`kind` must be 'pretrain'. Received: kind='fine_tune'"):
        PretrainRecipe.from_dict(FineTuneRecipe().to_dict())


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("norm_pix_loss", "no", "True or False"),
        ("flip", 1, "True or False"),
        ("crop_area", "ab", "two rising numbers"),
        ("crop_area", 5, "two rising numbers"),
        ("crop_area", ("a", "b"), "two rising numbers"),
        ("evaluation_fraction", "x", r"in \(0, 1\]"),
    ],
)
def test_a_value_of_another_kind_is_refused(field, value, rule):
    with pytest.raises(ValueError, match=f"`{field}` must be {rule}"):
        PretrainRecipe(**{field: value})


@pytest.mark.backends("torch", "jax", "tensorflow")
def test_a_recipe_makes_its_masking():
    made = PretrainRecipe(masking="blue", mask_ratio=0.6).model_arguments["masking"]
    assert (type(made).__name__, made.color, made.mask_ratio) == ("NoiseMasking", "blue", 0.6)
    assert PretrainRecipe(mask_cell=2).model_arguments["masking"].cell == 2
    with pytest.raises(ValueError, match="Cells are for random masking"):
        PretrainRecipe(masking="block", mask_cell=2)


def test_a_shift_is_a_crop_of_its_own():
    with pytest.raises(ValueError, match=r"takes crop_area=None. Received: shift=0.1, crop_area=\(0.2, 1.0\)"):
        PretrainRecipe(shift=0.1)
    with pytest.raises(ValueError, match=r"`shift` must be in \[0, 0.25\]"):
        PretrainRecipe(shift=0.3, crop_area=None)


def test_a_subclass_is_read_back_as_itself_and_leaves_the_others_alone():
    class Longer(PretrainRecipe):
        pass

    class Unnamed(recipes.Recipe):
        pass

    assert type(Longer.from_dict(Longer(epochs=900).to_dict())) is Longer
    assert type(recipes.Recipe.from_dict(PretrainRecipe().to_dict())) is PretrainRecipe
    assert Unnamed.__name__ == "Unnamed"


# === Muon and schedules with a decay ===
@pytest.mark.backends("torch", "jax", "tensorflow")
def test_the_optimizer_goes_by_its_name():
    changes = {"optimizer_name": "muon", "beta_1": 0.8, "beta_2": 0.7, "weight_decay": 0.3, "ema_momentum": 0.99}
    optimizer = recipes.PretrainRecipe.for_size(**changes).optimizer(10)
    assert type(optimizer) is keras_mae.optimizers.Muon
    assert (optimizer.adam_beta_1, optimizer.adam_beta_2, optimizer.weight_decay) == (0.8, 0.7, 0.3)
    assert (optimizer.use_ema, optimizer.ema_momentum, optimizer.ema_warmup) == (True, 0.99, True)
    plain = recipes.PretrainRecipe.for_size().optimizer(10)
    assert type(plain) is keras_mae.optimizers.AdamW
    assert (plain.use_ema, plain.ema_warmup) == (False, False)


@pytest.mark.backends("torch", "jax", "tensorflow")
@pytest.mark.parametrize("optimizer_name", ["adamw", "muon"])
def test_a_schedule_with_a_decay(optimizer_name):
    """Seven epochs of five batches, three to an update; the decay begins where a longer run's would not."""
    sizes = {"warmup_epochs": 2, "batch_size": 12, "gradient_accumulation_steps": 3, "schedule": "wsd"}
    sizes["optimizer_name"] = optimizer_name
    for epochs, decay_epochs, decay in ((7, 3, 11 - 6), (14, 10, 23 - 6), (7, None, 11 - 10), (14, None, 23 - 20)):
        recipe = PretrainRecipe(epochs=epochs, decay_epochs=decay_epochs, **sizes)
        config = recipe.optimizer(5)._learning_rate.get_config()
        expected = {"total_steps": 35 * epochs // 21, "warmup_steps": 3, "decay_steps": decay, "minimum": 0.0}
        assert config == {"peak": recipe.learning_rate, **expected}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer_name": "sgd"}, "`optimizer_name` must be "),
        ({"schedule": "linear"}, "`schedule` must be "),
        ({"decay_epochs": 2}, '`decay_epochs` must be None, unless schedule="wsd". Received: decay_epochs=2'),
        ({"schedule": "wsd", "decay_epochs": 0}, "`decay_epochs` must be a positive integer"),
        ({"schedule": "wsd", "decay_epochs": 761}, "warmup_epochs=40, decay_epochs=761, epochs=800"),
    ],
)
def test_optimizers_and_schedules_that_are_none_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PretrainRecipe(**changes)
