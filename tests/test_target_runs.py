"""Targets outside of the model: in recipes, in runs, at the command line, and in other libraries' files."""

import dataclasses
import json

import keras
import pytest
from conftest import build_mae, random_images

import keras_mae
from keras_mae.recipes import PretrainRecipe, Recipe
from keras_mae.targets import LowPass, Teacher
from keras_mae.training import RunDirectory, run_pretraining

pytestmark = pytest.mark.usefixtures("untraced")


# === Recipes ===
@pytest.mark.parametrize(
    ("changes", "norm_pix_loss"),
    [
        ({}, True),
        ({"target": "low_pass"}, True),  # as published
        ({"target": "low_pass", "norm_pix_loss": False}, False),
        ({"target": "pixels"}, False),
        ({"target": "normalized"}, True),
        ({"target": "hog"}, False),
    ],
)
def test_a_recipes_target_says_what_its_model_predicts(changes, norm_pix_loss):
    recipe = PretrainRecipe.for_size("base", **changes)
    assert recipe.norm_pix_loss == norm_pix_loss
    assert PretrainRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    mae = build_mae(**recipe.model_arguments)
    assert mae.norm_pix_loss == norm_pix_loss
    assert mae.target_name == (changes.get("target") or "normalized")


@pytest.mark.backends("torch")
def test_a_recipe_refuses_another_target():
    with pytest.raises(ValueError, match="`target` must be one of None, 'pixels', .* Received: target='hogs'"):
        PretrainRecipe(target="hogs")


@pytest.mark.backends("torch")
def test_a_recipe_refuses_changes_that_contradict():
    for target, norm_pix_loss in (("normalized", False), ("pixels", True), ("hog", True)):
        with pytest.raises(ValueError, match=f"norm_pix_loss={norm_pix_loss}, target='{target}'"):
            PretrainRecipe.for_size("base", target=target, norm_pix_loss=norm_pix_loss)


@pytest.mark.backends("torch")
def test_recipes_from_before_there_were_targets_predict_what_they_did():
    values = PretrainRecipe().to_dict()
    assert values.pop("target") is None
    assert Recipe.from_dict(values) == PretrainRecipe()


@pytest.mark.backends("torch")
def test_what_a_recipe_cannot_hold_has_to_be_given():
    with pytest.raises(ValueError, match="`target` must be the teacher or the function itself.*'teacher'"):
        build_mae(**PretrainRecipe(target="teacher").model_arguments)


# === Runs ===
RECIPE = PretrainRecipe(epochs=1, warmup_epochs=0, batch_size=4, norm_pix_loss=False)


def build_student(**changes):
    encoder = keras_mae.ViTEncoder((8, 8, 1), 4, embed_dim=8, depth=1, num_heads=2)
    return keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), **changes)


def build_teacher():
    return Teacher(keras_mae.ViTEncoder((8, 8, 1), 4, embed_dim=12, depth=1, num_heads=2))


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("target", "recipe", "disagreement"),
    [
        ("hog", RECIPE, "target=hog and pixels"),
        ("hog", dataclasses.replace(RECIPE, target="low_pass"), "target=hog and low_pass"),
        (None, dataclasses.replace(RECIPE, target="hog"), "target=pixels and hog"),
        (
            "low_pass",
            dataclasses.replace(RECIPE, target="low_pass", norm_pix_loss=True),
            "norm_pix_loss=False and True",
        ),
        (build_teacher, RECIPE, "target=teacher and pixels"),
    ],
)
def test_model_and_recipe_must_have_one_target(target, recipe, disagreement, tmp_path):
    images = random_images(4, (8, 8, 1))
    model = build_student(target=target() if callable(target) else target)
    dataset = keras_mae.data.from_arrays(images, batch_size=4)
    with pytest.raises(ValueError, match=f"Model and recipe must agree. Received: {disagreement}"):
        run_pretraining(model, dataset, recipe, tmp_path / "run", examples=images[:1])


def test_a_run_with_a_teacher_leaves_no_picture_and_says_what_it_predicted(tmp_path):
    images = random_images(8, (8, 8, 1))
    recipe = dataclasses.replace(RECIPE, target="teacher")
    mae = build_student(target=build_teacher())
    dataset = keras_mae.data.from_arrays(images, batch_size=4)
    watch = keras_mae.training.Watch(images[:1], tmp_path / "watch")
    run = run_pretraining(mae, dataset, recipe, tmp_path / "run", examples=images[:1], callbacks=[watch])
    assert RunDirectory(run).metadata["target"] == "features of a frozen teacher"
    assert not (tmp_path / "run" / "reconstructions.png").exists()
    assert list((tmp_path / "watch").glob("epoch*")) == []
    assert keras.saving.load_model(tmp_path / "run" / "model.keras").target_name == "teacher"


@pytest.mark.backends("torch")
@pytest.mark.parametrize(("name", "make"), [("teacher", build_teacher), ("low_pass", lambda: LowPass(0.3))])
def test_a_run_is_not_resumed_with_another_target(name, make, tmp_path):
    recipe = dataclasses.replace(RECIPE, target=name)
    other = LowPass(0.2) if name == "low_pass" else build_teacher()

    def train(target):
        images = random_images(4, (8, 8, 1))
        saving = keras_mae.training.Saving(resume=True)
        dataset = keras_mae.data.from_arrays(images, batch_size=4, seed=0)
        run_pretraining(
            build_student(target=target), dataset, recipe, tmp_path / "run", examples=images, saving=saving
        )

    first = make()
    train(first)
    train(first)  # which says that nothing is left to do
    with pytest.raises(ValueError, match="is another one"):
        train(other)


# === The command line ===
SHORT = ("--epochs", 1, "--batch-size", 720)


@pytest.mark.backends("torch")
def test_pretrain_with_a_target(keras_mae_command, tmp_path):
    status, out, _ = keras_mae_command("pretrain", *SHORT, "--target", "hog", "--out", "run")
    assert status == 0
    assert "no pictures: the model predicts histograms of oriented gradients" in out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["target"] == "hog"
    assert "histograms of oriented gradients" in keras_mae_command("info", "run/model.keras")[1]


@pytest.mark.backends("torch")
def test_pretrain_with_a_teacher(keras_mae_command, digits_model, tmp_path):
    status, _, _ = keras_mae_command("pretrain", *SHORT, "--teacher", digits_model, "--out", "run")
    assert status == 0
    values = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (values["recipe"]["target"], values["teacher"]) == ("teacher", "model.keras")


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "hog", "--teacher", "x.keras"], "A teacher is a target: give one of them"),
        (["--target", "hog", "--norm-pix-loss"], "`norm_pix_loss` is what the target says"),
        (["--target", "normalized", "--no-norm-pix-loss"], "`norm_pix_loss` is what the target says"),
        (["--target", "hogs"], "'hogs' is not one of 'pixels', 'normalized', 'low_pass', 'hog'"),
        (["--teacher", "mae_vit_base_patch16_224"], "A teacher takes weights"),
    ],
)
def test_options_that_contradict_each_other_are_one_clear_line(keras_mae_command, options, message):
    status, _, err = keras_mae_command("pretrain", *options)
    assert (status, message in " ".join(err.replace("│", " ").split())) == (2, True)


@pytest.mark.backends("torch")
def test_reconstruct_says_why_there_is_nothing_to_draw(keras_mae_command, tmp_path):
    from PIL import Image

    Image.fromarray(random_images(1, (8, 8, 3))[0]).save(tmp_path / "photo.png")
    build_student(target="hog").save(tmp_path / "model.keras")
    status, _, err = keras_mae_command("reconstruct", "model.keras", "photo.png")
    assert (status, "this model predicts histograms of oriented gradients" in " ".join(err.split())) == (2, True)


# === Other libraries' files ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize("format", ["reference", "transformers"])
def test_another_librarys_file_has_no_place_for_another_target(format, tmp_path):
    mae = build_student(target=LowPass(0.3))
    with pytest.raises(ValueError, match=f"'{format}' has no place for .* Received: a model of target='low_pass'"):
        keras_mae.convert.save(mae, tmp_path / "file.safetensors", format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.backends("torch")
def test_a_loaded_target_is_told_in_the_report_and_the_card(tmp_path):
    mae = build_student(target="hog")
    keras_mae.convert.save(mae, tmp_path / "folder", "preset")
    assert (
        "It predicts histograms of oriented gradients of patches" in (tmp_path / "folder" / "README.md").read_text()
    )
    loaded = keras_mae.convert.load(tmp_path / "folder")
    assert (loaded.report.norm_pix_loss, loaded.model.target) == (None, "hog")
