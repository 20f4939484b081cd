"""Other values than a recipe has: what is changed, what is refused, and what goes by the number of images."""

import dataclasses
import functools
import json

import pytest
from recipe_helpers import assert_has, each_function

from keras_mae import recipes
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, own
from keras_mae.recipes.base import changed

pytestmark = pytest.mark.backends("torch")
CELLS = {
    PretrainRecipe: own.PRETRAIN_BY_IMAGES,
    FineTuneRecipe: own.FINE_TUNE_BY_IMAGES,
    LinearProbeRecipe: own.PROBE_BY_IMAGES,
}


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
    with pytest.raises(ValueError, match=r"Received: weight_dekay. Did you mean weight_decay\?"):
        function(weight_dekay=0.5)


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


@pytest.mark.parametrize(("batch_size", "rate"), [(8, 0.00025), (32, 1e-3), (512, 1e-3), (4096, 2.4e-3)])
def test_the_rate_for_photos_does_not_grow_with_the_batch_as_if_it_were_the_published_one(batch_size, rate):
    recipe = PretrainRecipe.for_size("photos", batch_size=batch_size)
    assert recipe.learning_rate == pytest.approx(rate)
    chosen = PretrainRecipe.for_size("photos", batch_size=batch_size, base_learning_rate=0.5)
    assert (chosen.base_learning_rate, changed(chosen, {"batch_size": 7}).base_learning_rate) == (0.5, 0.5)
    as_typed = changed(PretrainRecipe.for_size("photos"), {"base_learning_rate": 8e-3}, {"base_learning_rate": "x"})
    assert changed(as_typed, {"batch_size": batch_size}).base_learning_rate == 8e-3  # the same, but chosen
    before = dataclasses.replace(PretrainRecipe.for_size("photos"), batch_size=batch_size)  # of an earlier version
    assert changed(before, {"batch_size": batch_size}) == before
