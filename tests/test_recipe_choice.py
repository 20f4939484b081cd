"""Which recipe a command trains by."""

import json
from dataclasses import replace

import pytest

from keras_mae.cli import choosing
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, own

pytestmark = pytest.mark.backends("torch")

SMALL = FineTuneRecipe.for_size("small_images")


@pytest.mark.parametrize(
    ("data", "size"), [("digits", "small_images"), ("fashion_mnist", "small_images"), ("photos/", "photos")]
)
def test_the_recipe_fits_the_data(data, size):
    assert choosing.default_size(data, "photos") == size


def test_only_the_recipe_for_small_images_goes_by_their_number():
    assert choosing.sized_recipe(FineTuneRecipe, "base", 600) == FineTuneRecipe.for_size("base")
    assert choosing.sized_recipe(FineTuneRecipe, "small_images", None) == SMALL
    assert choosing.sized_recipe(FineTuneRecipe, "small_images", 600).batch_size == 32


@pytest.mark.parametrize(
    ("given", "warmup"),
    [
        ({}, 2),
        ({"epochs": None, "batch_size": 3}, 2),
        ({"epochs": 60}, 3),
        ({"epochs": 12}, 0),
        ({"epochs": 12, "warmup_epochs": 1}, 1),
    ],
)
def test_a_warmup_keeps_its_share_unless_it_is_given(given, warmup):
    recipe = choosing.changed_recipe(SMALL, given)
    assert recipe.warmup_epochs == warmup
    assert recipe == replace(SMALL, **{"warmup_epochs": warmup, **{k: v for k, v in given.items() if v is not None}})


def test_a_recipe_names_who_gave_its_values():
    file = {"epochs": 30, "warmup_epochs": 3, "mixup": SMALL.mixup, "batch_size": 64}
    recipe = choosing.chosen_recipe(SMALL, None, {"batch_size": 32, "seed": 0, "cutmix": None}, None, file)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size) == (30, 3, 32)
    assert recipe.origins == {
        "epochs": "recipe file",
        "warmup_epochs": "recipe file",
        "batch_size": "command line",
        "seed": "command line",
    }
    few = choosing.sized_recipe(PretrainRecipe, "photos", 20)
    assert few.origins == {"batch_size": "the data"}
    assert choosing.fitted_recipe(SMALL, "photos/", flip=False).origins == {"flip": "default for folders"}


@pytest.mark.parametrize(("batch_size", "rate"), [(16, 5e-4), (64, 1e-3), (128, 1e-3), (512, 1e-3), (1024, 2e-3)])
def test_a_folder_is_fine_tuned_at_a_rate_that_does_not_run_away(batch_size, rate):
    recipe = choosing.untuned_recipe(SMALL, "photos/")
    assert (recipe, recipe.source) == (replace(SMALL, source="untuned"), "untuned")
    assert choosing.changed_recipe(recipe, {"batch_size": batch_size}).learning_rate == pytest.approx(rate)
    assert choosing.untuned_recipe(SMALL, "digits") == SMALL
    assert choosing.untuned_recipe(FineTuneRecipe(), "photos/") == FineTuneRecipe()
    for images in (200, 600, 6_000, 60_000):
        tuned = FineTuneRecipe.for_size("small_images", images=images)
        assert choosing.untuned_recipe(tuned, "photos/").learning_rate == pytest.approx(
            1e-3 * min(tuned.batch_size / 32, 1)
        )


def test_an_option_counts_more_than_a_file_and_takes_along_what_follows_it():
    file = {"epochs": 30, "warmup_epochs": 3, "target": "pixels", "norm_pix_loss": False}
    pretrain = PretrainRecipe.for_size("photos")
    options = {"epochs": 10, "target": "normalized"}
    recipe = choosing.chosen_recipe(pretrain, None, options, None, file)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.norm_pix_loss) == (10, 1, True)
    assert recipe.origins["warmup_epochs"] == "follows epochs"
    assert choosing.chosen_recipe(pretrain, recipe, options, None, file) == recipe  # resumed


# === Runs that are resumed ===
def resumed(begun, given, size=None, recipe=SMALL):
    return choosing.changed_recipe(choosing.resumed_recipe(recipe, begun, given, size), given)


def test_a_run_goes_on_by_the_numbers_it_began_with():
    """Those of another version, say; nobody typed them."""
    begun = choosing.changed_recipe(replace(SMALL, epochs=30, warmup_epochs=3, mixup=0.5), {"batch_size": 64})
    assert resumed(begun, {"batch_size": 64}) == begun
    assert resumed(begun, {"batch_size": 64}).changed == ("batch_size",)
    shorter = choosing.changed_recipe(begun, {"epochs": 20})
    assert (shorter.warmup_epochs, resumed(shorter, {"batch_size": 64, "epochs": 20})) == (2, shorter)
    before_names = replace(begun, changed=())
    assert resumed(before_names, {"batch_size": 64}) == begun


def test_an_option_that_is_forgotten_or_new_makes_another_run():
    begun = choosing.changed_recipe(SMALL, {"batch_size": 64, "epochs": 20, "seed": 0})
    assert resumed(begun, {"epochs": 20}).batch_size == SMALL.batch_size
    assert resumed(begun, {"batch_size": 64}).epochs == SMALL.epochs
    assert resumed(begun, {"batch_size": 64, "epochs": 20, "seed": 1}).seed == 1


def test_a_run_of_another_recipe_is_not_followed():
    base = FineTuneRecipe.for_size("base")
    assert resumed(base, {}) == SMALL
    assert resumed(SMALL, {}, "base", base) == base
    assert resumed(LinearProbeRecipe.for_size("small_images"), {}) == SMALL
    assert resumed(None, {}) == SMALL


def test_a_pre_training_from_before_sizes_goes_on_by_its_numbers():
    digits = PretrainRecipe.for_size("small_images", images=1437)
    begun = PretrainRecipe(epochs=9, warmup_epochs=0, batch_size=16, norm_pix_loss=False)  # "from the repository"
    assert resumed(begun, {"seed": 0}, None, digits) == begun
    assert resumed(begun, {"seed": 0}, "small_images", digits) == digits


# === As a user types it ===
def test_a_command_names_its_recipe_and_resumes_by_it(keras_mae_command, tmp_path, monkeypatch):
    options = ("pretrain", "digits", "--epochs", 1, "--batch-size", 479, "--out", "run", "--resume")
    status, out, _ = keras_mae_command(*options)
    assert (status, "from keras_mae, tuned on validation images" in out) == (0, True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["recipe_size"] == "small_images"
    assert record["recipe"]["changed"] == ["epochs", "warmup_epochs", "batch_size"]
    assert record["recipe"]["base_learning_rate"] == own.PRETRAIN_BY_IMAGES[1_437]["base_learning_rate"]
    monkeypatch.setitem(own.PRETRAIN_BY_IMAGES[1_437], "base_learning_rate", 0.5)  # in another version
    status, out, _ = keras_mae_command(*options)
    assert (status, "this run is finished" in out) == (0, True)
    for other in ((*options[:4], *options[6:]), (*options, "--size", "photos"), (*options, "--seed", 1)):
        status, _, err = keras_mae_command(*other)
        assert (status, "The run in 'run' is another one" in err) == (2, True)
    del record["recipe_size"], record["recipe"]["changed"]  # as an earlier version wrote it
    (tmp_path / "run" / "run.json").write_text(
        json.dumps({**record, "recipe": {**record["recipe"], "source": "repository"}})
    )
    assert keras_mae_command(*options)[0] == 0


@pytest.mark.parametrize(
    ("size", "images", "batch_size"), [("photos", 20, 20), ("photos", 33, 32), ("base", 20, 4096)]
)
def test_a_batch_that_nobody_chose_is_no_larger_than_the_data(size, images, batch_size):
    assert choosing.sized_recipe(PretrainRecipe, size, images).batch_size == batch_size
