"""Runs as files: what a run writes down, and `--recipe` and `--set`, which run it again."""

import math
import tomllib

import keras
import numpy as np
import pytest
import typer
from PIL import Image

import keras_mae.cli
from keras_mae.cli import told
from keras_mae.recipes import FineTuneRecipe, PretrainRecipe, files

pytestmark = pytest.mark.usefixtures("untraced")
torch_only = pytest.mark.backends("torch")
SHORT = ("--epochs", 1, "--batch-size", 720)
COMMANDS = typer.main.get_command(keras_mae.cli.app).commands


def weights_of(path):
    return [keras.ops.convert_to_numpy(weight) for weight in keras.saving.load_model(path).weights]


def assert_same_weights(path, other):
    for one, two in zip(weights_of(path), weights_of(other), strict=True):
        assert np.array_equal(one, two)


# === The file ===
@torch_only
def test_what_is_written_is_read_back():
    values = {
        "whole": 3,
        "float": 1e-05,
        "long": 0.1 + 0.2,
        "infinite": math.inf,
        "yes": True,
        "nothing": None,
        "two": (0.2, 1.0),
        "empty": [],
        "text": 'C:\\a "b"\n\t\x7fé',
    }
    table = {name: (value, "a note\nof two lines") for name, value in values.items()}
    text = files.as_text(["Head", "line"], {"": table, "inner": table})
    expected = {**values, "two": [0.2, 1.0], "nothing": "none"}
    assert tomllib.loads(text) == {**expected, "inner": expected}
    unwritable = files.as_text([], {"data": {"data": ("caf\udce9", "default")}})
    assert tomllib.loads(unwritable) == {"data": {}}
    assert r"# data = caf\xe9" in unwritable


@torch_only
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "There is no recipe file 'x.toml'"), (b"a = ", "is not TOML: "), (b"\xff", "is not TOML: ")],
)
def test_what_is_no_recipe_file_is_said(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        files.read("x.toml")


@torch_only
def test_every_option_is_written_or_known_not_to_be():
    """Another one must be given its table, or a run of it would not be complete."""
    for name in ("pretrain", "finetune", "probe"):
        command = COMMANDS[name]
        context = command.context_class(command, info_name=name)
        fields = told._fields_of(context)
        ours = {"optimizer"}  # written under the names of fields
        written = {option for table in told.TABLES.values() for option in table}
        options = {param.name for param in command.params}
        assert options - fields - written - ours - set(told.UNWRITTEN) == set()


# === Runs ===
def test_a_run_is_done_again_with_the_same_bits(keras_mae_command, tmp_path):
    options = ("--mask-ratio", 0.5, "--seed", 3, "--norm-pix-loss", "--class-tokens", 2, "--validation", 0.1)
    status, out, _ = keras_mae_command("pretrain", *SHORT, *options, "--set", "beta_2=0.9")
    assert (status, "command line" in out) == (0, True)
    first, second = (tmp_path / "runs" / f"digits-{number}" for number in (1, 2))
    assert len(keras_mae.training.RunDirectory(first).history["val_loss"]) == 1
    assert "144 of 1,437 images are held out" in out
    text = (first / "recipe.toml").read_text()
    content = tomllib.loads(text)
    assert {**content, **dict.fromkeys(("data", "model", "training", "run"))} == {
        **dict.fromkeys(("data", "model", "training", "run")),
        "kind": "pretrain",
        "source": "keras_mae",
        "size": "small_images",
    }
    assert (content["data"]["data"], content["model"]["class_tokens"], content["training"]["beta_2"]) == (
        "digits",
        2,
        0.9,
    )
    notes = {line.split(" ")[0]: line.partition("#")[2].strip() for line in text.splitlines()}
    assert (notes["seed"], notes["mask_ratio"], notes["beta_1"]) == (
        "command line",
        "command line; the paper: 0.75",
        "the paper",
    )
    assert (notes["model"], notes["class_tokens"], notes["precision"], notes["patch_size"]) == (
        "default for digits",
        "command line",
        "default",
        "the model's",
    )
    assert PretrainRecipe.from_file(first / "recipe.toml") == keras_mae.training.RunDirectory(first).recipe

    assert keras_mae_command("pretrain", "--recipe", first / "recipe.toml")[0] == 0
    assert_same_weights(first / "model.keras", second / "model.keras")
    again = (second / "recipe.toml").read_text()
    assert tomllib.loads(again) == content
    assert "seed = 3" in again
    assert [line.split("#")[1] for line in again.splitlines() if line.startswith("seed")] == [" recipe file"]


@torch_only
def test_a_run_is_probed_and_watched(keras_mae_command, tmp_path):
    for number in range(2):
        Image.fromarray(np.full((9, 9), 100 * number, "uint8")).save(tmp_path / f"{number}.png")
    options = ("--probe-every", 1, "--watch", 1, "--watch-images", "0.png", "--watch-images", "1.png")
    options += ("--rankme-every", 1, "--validation", 0.1)
    assert keras_mae_command("pretrain", *SHORT, *options, "--out", "run")[0] == 0
    run = keras_mae.training.RunDirectory("run")
    assert 0 < run.history["knn_accuracy"][0] <= 1
    assert 1 < run.history["rankme"][0] < 144  # held-out images
    assert tomllib.loads(run.file("recipe.toml").read_text())["run"]["watch_images"] == ["0.png", "1.png"]
    for wrong in (("--watch-images", "0.png"), ("--probe-data", "digits")):
        status, _, err = keras_mae_command("pretrain", *wrong)
        assert (status, f"`{wrong[0][2:].replace('-', '_')}` goes with --" in err) == (2, True)


@torch_only
def test_options_and_set_count_more_than_the_file(keras_mae_command, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'epochs = 40\n[training]\nbatch_size = 720\nmask_ratio = 0.5\nema_momentum = 0.9\n[data]\ndata = "digits"\n'
    )
    options = ("--recipe", "mine.toml", "--epochs", 1, "--set", "mask_ratio=0.6", "--set", "model.class_tokens=2")
    assert keras_mae_command("pretrain", *options, "--out", "run")[0] == 0
    recipe = keras_mae.training.RunDirectory("run").recipe
    assert (recipe.epochs, recipe.warmup_epochs, recipe.batch_size, recipe.mask_ratio) == (1, 0, 720, 0.6)
    assert recipe.ema_momentum == 0.9
    assert recipe.origins == {
        "epochs": "command line",
        "warmup_epochs": "follows epochs",
        "batch_size": "recipe file",
        "mask_ratio": "command line",
        "ema_momentum": "recipe file",
    }
    status, out, _ = keras_mae_command("pretrain", *options, "--out", "run", "--resume")
    assert (status, "this run is finished" in out) == (0, True)
    status, out, _ = keras_mae_command("pretrain", "--recipe", "run/recipe.toml", "--out", "run", "--resume")
    assert (status, "this run is finished" in out) == (0, True)


@torch_only
def test_classifiers_are_trained_again_by_their_files(keras_mae_command, digits_model, tmp_path):
    for command, options in {"finetune": ("--pooling", "token", "--num-labels", 200), "probe": ()}.items():
        assert keras_mae_command(command, digits_model, *options, "--epochs", 1, "--out", command)[0] == 0
        again = ("--recipe", f"{command}/recipe.toml", "--out", f"{command}2")
        assert keras_mae_command(command, *again)[0] == 0
        assert_same_weights(tmp_path / command / "classifier.keras", tmp_path / f"{command}2" / "classifier.keras")
        known = keras_mae.training.RunDirectory(f"{command}2").metadata
        assert known["num_labels"] == (200 if options else None)
    assert "flip = false" in (tmp_path / "finetune" / "recipe.toml").read_text()
    assert FineTuneRecipe.from_file("finetune/recipe.toml").origins == {}
    status, _, err = keras_mae_command("probe", "--recipe", "finetune/recipe.toml")
    assert (status, "is for another command. Received: kind='fine_tune'" in err) == (2, True)
    status, _, err = keras_mae_command("finetune", "--recipe", "finetune/recipe.toml", "--size", "base")
    assert (status, "`size` chooses the numbers of a run" in err) == (2, True)


@torch_only
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--set", "epoch=3"),
            "a key that keras-mae pretrain does not know: 'epoch'. Did you mean epochs?",
        ),
        (("--set", "data.epochs=3"), "'data.epochs'. Did you mean training.epochs?"),
        (("--set", "optimizer=muon"), "'optimizer'. Did you mean optimizer_name?"),
        (("--set", "trainable_blocks=1"), "does not know: 'trainable_blocks'"),
        (("--set", "epochs"), "`set` must be a name and a value, such as --set epochs=10. Received: 'epochs'"),
        (("--set", "epochs=many"), "`epochs` must be a positive integer. Received: epochs='many'"),
        (("--set", "precision=half"), "'half' is not one of 'float32'"),
        (("--set", "epochs=3", "--epochs", 4), "`epochs` is given twice: by --set and by an option of its own"),
        (("--set", "seed=3", "--seed", 4), "`seed` is given twice"),
        (("--recipe", "nowhere.toml"), "There is no recipe file 'nowhere.toml'"),
        (("--recipe", "x.toml"), "The recipe file 'x.toml' has a key that keras-mae pretrain does not know: 'modle'"),
    ],
)
def test_a_wrong_key_is_one_line_that_names_the_right_one(keras_mae_command, tmp_path, arguments, message):
    (tmp_path / "x.toml").write_text("[modle]\n")
    status, out, err = keras_mae_command("pretrain", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "runs").exists()
