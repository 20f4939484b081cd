"""What a recipe shows, writes and is read back from, and its optimizers and schedules by name."""

import dataclasses
import json
import re

import numpy as np
import pytest
from recipe_helpers import each_function, each_source

import keras_mae
from keras_mae import recipes
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe
from keras_mae.recipes.base import changed

pytestmark = pytest.mark.backends("torch")


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
    fields = {field.name for field in dataclasses.fields(recipe)} - {"source", "changed", "origins"}
    assert {name: value for name, value, _ in rows} == {name: str(getattr(recipe, name)) for name in fields}
    assert name == "learning_rate (base × batch / 256)"
    assert float(value) == pytest.approx(recipe.learning_rate, rel=1e-3)


def notes_of(recipe):
    return {name: note for name, _, note in rows_of(recipe) if note not in ("", "the paper", "default")}


def test_a_value_that_is_not_the_papers_says_whose_it_is():
    repository = "the authors' repository; the paper: "
    assert notes_of(PretrainRecipe(seed=3)) == {"norm_pix_loss": repository + "False", "seed": "changed"}
    # Like the paper's for its own size, and for no other.
    assert notes_of(FineTuneRecipe.for_size("huge")) == {
        "drop_path_rate": repository + "0.2",
        "random_erasing": repository + "0.0",
    }
    assert notes_of(LinearProbeRecipe.for_size("huge")) == {"epochs": repository + "90"}
    ours = notes_of(FineTuneRecipe.for_size("small_images", drop_path_rate=0.5))
    assert ours["mixup"] == "keras_mae; the paper: 0.8"
    assert ours["drop_path_rate"] == "changed; the paper: 0.1"
    assert notes_of(PretrainRecipe.for_size("photos"))["batch_size"] == "default for folders; the paper: 4096"


@each_source
@each_function
def test_a_value_that_is_nobodys_was_changed(function, source):
    """Also by `dataclasses.replace`, of which no recipe knows."""
    recipe = dataclasses.replace(function("base", source), batch_size=333)
    assert notes_of(recipe)["batch_size"].startswith("changed; the paper: ")
    assert not any(note.startswith("changed") for note in notes_of(function("base", source)).values())


def test_every_value_says_where_it_comes_from():
    """But the rate that follows from the others."""
    for recipe in (PretrainRecipe(), FineTuneRecipe.for_size("small_images", images=600), LinearProbeRecipe()):
        assert [name for name, _, note in rows_of(recipe)[:-1] if not note] == []
    assert dict((name, note) for name, _, note in rows_of(PretrainRecipe()))["mask_ratio"] == "the paper"
    recipe = changed(PretrainRecipe(), {"seed": 3, "mask_ratio": 0.75, "epochs": 9}, {"seed": "command line"})
    assert recipe.origins == {"warmup_epochs": "follows epochs", "seed": "command line"}
    notes = {name: note for name, _, note in rows_of(recipe)}
    assert (notes["seed"], notes["mask_ratio"]) == ("command line", "the paper")
    assert (notes["epochs"], notes["warmup_epochs"]) == ("changed; the paper: 800", "follows epochs; the paper: 40")
    assert changed(recipe, {"seed": 4}).origins == {"warmup_epochs": "follows epochs"}
    back = recipes.Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert (back, back.origins) == (recipe, recipe.origins)
    with pytest.raises(ValueError, match="`origins` must be texts by the names of fields. Received: origins={'a'"):
        dataclasses.replace(recipe, origins={"a": "b"})


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
        ({"kind": "detect"}, "`kind` must be one of 'pretrain', 'fine_tune', 'linear_probe', .*'detect'"),
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
