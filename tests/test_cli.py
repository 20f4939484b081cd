"""The command line, run as a user types it."""

import json
import os
import shutil
import tomllib

import keras
import numpy as np
import pytest
import typer
from PIL import Image

import keras_mae
import keras_mae.cli


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="uint8")).save(path)
    return path


def test_pretrain_reconstruct_info(keras_mae_command, photo, tmp_path):
    """The three commands in a row, on the default data."""
    options = ("--epochs", 1, "--batch-size", 360, "--norm-pix-loss", "--masking", "block", "--seed", 3, "--watch", 1)
    status, out, _ = keras_mae_command("pretrain", *options, "--class-tokens", 2)
    assert status == 0
    assert "1,437 images of 8x8x1" in out
    run = tmp_path / "runs" / "digits-1"
    assert f"{run.relative_to(tmp_path)}: encoder.keras, history.csv" in out
    assert json.loads((run / "run.json").read_text())["recipe"]["seed"] == 3
    assert (run / "watch" / "epoch-0001.png").is_file()
    assert keras_mae.ViTEncoder.from_preset(run / "encoder.keras").class_tokens == 2

    status, out, _ = keras_mae_command("info", run / "model.keras")
    assert status == 0
    for fact in (
        "MaskedAutoencoder",
        "8x8x1",
        "BlockMasking, ratio 0.75, seed 3",
        "normalized pixels",
        "training steps",
    ):
        assert fact in out
    status, out, _ = keras_mae_command("info", run / "encoder.keras")
    assert "ViTEncoder" in out

    status, out, _ = keras_mae_command("reconstruct", run / "model.keras", photo, photo, "--out", "deep/picture.png")
    assert (status, out.strip()) == (0, "deep/picture.png: 2 images")
    assert (tmp_path / "deep" / "picture.png").read_bytes()[:4] == b"\x89PNG"

    status, _, err = keras_mae_command("reconstruct", run / "encoder.keras", photo)
    assert (status, "must be a MaskedAutoencoder" in err) == (2, True)
    status, _, err = keras_mae_command("reconstruct", run / "model.keras", photo, "--out", "picture.doc")
    assert (status, "must end in one of" in err) == (2, True)


@pytest.mark.backends("torch")
def test_pretrain_with_other_masks_and_gentle_crops(keras_mae_command, tmp_path):
    options = ("--epochs", 1, "--batch-size", 720, "--warmup-epochs", 0)
    status, _, _ = keras_mae_command("pretrain", *options, "--masking", "green", "--shift", 0.125, "--no-flip")
    assert status == 0
    run = tmp_path / "runs" / "digits-1"
    record = json.loads((run / "run.json").read_text())
    recipe = record["recipe"]
    assert (record["masking"], recipe["masking"], recipe["mask_cell"]) == ("NoiseMasking, green", "green", 1)
    assert (recipe["shift"], recipe["crop_area"], recipe["flip"]) == (0.125, None, False)
    assert "NoiseMasking, green, ratio 0.75" in keras_mae_command("info", run / "model.keras")[1]
    status, _, error = keras_mae_command("pretrain", *options, "--masking", "green", "--mask-cell", 2)
    assert (status, "Cells are for random masking" in error) == (2, True)


@pytest.mark.backends("torch")
def test_pretrain_on_a_folder(keras_mae_command, photo, tmp_path):
    folder = photo.parent / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(photo.read_bytes())
    options = ("--model", "mae_vit_micro_patch4_32", "--image-size", 16, "--epochs", 1, "--out", "run")
    status, out, _ = keras_mae_command("pretrain", folder, *options)
    assert status == 0
    assert "3 images of 16x16x3" in out
    assert (tmp_path / "run" / "model.keras").is_file()


@pytest.mark.backends("torch")
def test_images_and_patches_may_be_oblong_and_gray(keras_mae_command, photo, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / "photos" / f"{number}.png").write_bytes(photo.read_bytes())
    shape = ("--image-size", "8x24", "--patch-size", "4x8", "--channels", 1)
    options = ("--model", "mae_vit_micro_patch4_32", *shape, "--epochs", 1, "--out", "run")
    status, out, _ = keras_mae_command("pretrain", "photos", *options)
    assert (status, "2 images of 8x24x1" in out) == (0, True)
    encoder = keras.saving.load_model("run/encoder.keras")
    assert (encoder.image_shape, encoder.patch_size) == ((8, 24, 1), (4, 8))
    content = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())["model"]
    assert (content["image_size"], content["patch_size"], content["channels"]) == ("8x24", "4x8", 1)
    assert keras_mae_command("pretrain", "--recipe", "run/recipe.toml", "--out", "again")[0] == 0
    assert keras.saving.load_model("again/encoder.keras").patch_size == (4, 8)


@pytest.mark.backends("torch")
def test_presets_are_listed(keras_mae_command):
    status, out, _ = keras_mae_command("pretrain", "--list-presets")
    assert (status, [name for name in keras_mae.presets.names() if name not in out]) == (0, [])


@pytest.mark.backends("torch")
def test_a_folder_that_vanishes_is_one_clear_line_and_nothing_is_lost(
    keras_mae_command, photo, tmp_path, monkeypatch
):
    folder, steps = photo.parent / "photos", []
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(photo.read_bytes())
    options = ("--model", "mae_vit_micro_patch4_32", "--batch-size", 1, "--epochs", 3, "--out", "run", "--resume")

    def vanish(self, batch, logs=None):
        steps.append(batch)
        if len(steps) == 9:
            folder.rename(tmp_path / "elsewhere")

    with monkeypatch.context() as patched:
        patched.setattr(keras_mae.training.StopOnNonFinite, "on_train_batch_end", vanish)
        status, _, err = keras_mae_command("pretrain", folder, *options, "--checkpoint-steps", 1)
    assert (status, err.count("\n")) == (2, 1)
    assert "Error: There is no image file" in err
    (tmp_path / "elsewhere").rename(folder)
    status, out, _ = keras_mae_command("pretrain", folder, *options)
    assert (status, "epoch 1/3" in out, "epoch 3/3" in out) == (0, False, True)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "nowhere"], "`data` must be digits, fashion_mnist, an existing folder"),
        (["pretrain", "--mask-ratio", "1.5"], "`mask_ratio` must be in [0, 1). Received: mask_ratio=1.5"),
        (["pretrain", "--model", "mae_vit_giant"], "`preset` must be one of 'mae_vit_micro_patch2_8'"),
        (["pretrain", "--class-tokens", "9"], "must be an integer in [0, 8]. Received: class_tokens=9"),
        (["pretrain", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["pretrain", "--image-size", "32"], "`image_size` goes with a folder of images"),
        (["pretrain", "--crop-area", "0.5"], "`crop_area` cuts crops out of images in sizes of their own"),
        (["pretrain", "--masking", "spiral"], "'spiral' is not one of 'random', 'block', 'grid', 'green'"),
        (["pretrain", "empty"], "`directory` must hold images"),
        (["pretrain", "--fast"], "No such option"),
        (["train"], "No such command 'train'"),
        ([], "Missing command"),
        (["info", "empty"], "not a folder: try 'empty/model.keras'"),
        (["info", "nothing.keras"], "There is no model file 'nothing.keras'"),
        (["info", "text.keras"], "A model file is a .keras file that keras_mae saved"),
        (["info", "zip.keras"], "Cannot load the model file 'zip.keras'"),
        (["reconstruct", "text.keras"], "Missing argument"),
    ],
)
def test_a_mistake_is_one_clear_line_and_status_2(keras_mae_command, tmp_path, arguments, message):
    import zipfile

    (tmp_path / "empty").mkdir()
    (tmp_path / "text.keras").write_text("no model")
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    before = sorted(tmp_path.rglob("*"))
    status, _, err = keras_mae_command(*arguments)
    assert status == 2
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.backends("torch")
def test_a_model_of_another_class_is_refused(keras_mae_command, tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    status, _, err = keras_mae_command("info", "dense.keras")
    assert (status, "must hold a MaskedAutoencoder, a ViTEncoder, a ViTClassifier or a ViTSegmenter" in err) == (
        2,
        True,
    )


# === prepare ===
@pytest.mark.backends("torch", "tensorflow")
def test_prepare_pretrain_and_finetune_on_what_was_prepared(keras_mae_command, digits_model, class_folders, tmp_path):
    folder = class_folders
    status, out, _ = keras_mae_command("prepare", folder, tmp_path / "shards", "--labeled", "--short-side", 24)
    assert status == 0
    images = len(list(folder.rglob("*.png")))
    assert f"{tmp_path / 'shards'}: {images} images in 1 files" in out
    options = ("--model", "mae_vit_micro_patch4_32", "--epochs", 1, "--batch-size", 4, "--crops-per-image", 2)
    assert keras_mae_command("pretrain", tmp_path / "shards", *options)[0] == 0
    record = json.loads((tmp_path / "runs" / "shards-1" / "run.json").read_text())
    assert (record["recipe"]["crop_area"], record["recipe"]["flip"]) == ([0.2, 1.0], True)
    assert record["steps_per_epoch"] == images * 2 // 4
    status, out, _ = keras_mae_command(
        "finetune", digits_model, tmp_path / "shards", "--epochs", 1, "--batch-size", 4
    )
    assert status == 0, out


@pytest.mark.backends("torch")
def test_parts_are_prepared_by_the_same_command_and_joined(keras_mae_command, class_folders, tmp_path):
    images = len(list(class_folders.rglob("*.png")))
    for part in ("2/2", "1/2"):
        status, out, _ = keras_mae_command("prepare", class_folders, "shards", "--labeled", "--part", part)
        assert (status, f"shards: part {part}, " in out) == (0, True)
        status, _, err = keras_mae_command("pretrain", "shards")
        assert (status, "which are not joined yet: when all are complete, call" in err) == (2, True)
        if part == "2/2":
            status, _, err = keras_mae_command("prepare", "shards", "--merge")
            assert (status, err.count("\n"), "Received: 1/2 missing" in err) == (2, 1, True)
    status, out, _ = keras_mae_command("prepare", "shards", "--merge")
    assert (status, out.splitlines()[-1]) == (0, f"shards: 2 parts, {images} images in 2 files")
    assert keras_mae_command("prepare", "shards", "--check")[0] == 0
    assert len(keras_mae.data.open_directory(tmp_path / "shards", 8)) == images


@pytest.mark.backends("torch")
def test_deep_grays_are_read_by_the_white_level_that_was_typed(keras_mae_command, tmp_path):
    for number in range(4):
        (tmp_path / "scans" / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), 1000 * number, "uint16")).save(tmp_path / "scans" / "a" / f"{number}.png")
    (tmp_path / "scans" / "notes.txt").write_text("12 bits")
    status, out, _ = keras_mae_command("prepare", "scans", "--check")
    assert status == 0
    report = ["Passed over 1 file that is no image: 1 .txt", "scans: nothing is damaged, 4 nearly black"]
    assert out.splitlines()[-2:] == report
    options = ("--model", "mae_vit_micro_patch2_8", "--epochs", 1, "--batch-size", 4, "--white-level", 3000)
    with pytest.warns(UserWarning, match="^Passed over 1 file that is no image: 1 .txt"):
        assert keras_mae_command("pretrain", "scans", *options)[0] == 0
    record = json.loads((tmp_path / "runs" / "scans-1" / "run.json").read_text())
    assert (record["white_level"], record["pixel_range"]) == (3000, None)
    status, _, err = keras_mae_command("pretrain", "scans", *options, "--pixel-range", 0, 4095)
    assert (status, "`white_level` says which gray becomes 255" in err) == (2, True)
    model = tmp_path / "runs" / "scans-1" / "model.keras"
    assert keras_mae_command("reconstruct", model, "scans/a/1.png", "--white-level", 3000)[0] == 0


@pytest.mark.backends("torch")
def test_units_of_their_own_go_from_the_command_line_to_the_encoder_and_on(keras_mae_command, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((9, 9), 1000 * number - 900, "int32")
            Image.fromarray(pixels).save(tmp_path / "scans" / name / f"{number}.tif")
    options = ("--model", "mae_vit_micro_patch2_8", "--epochs", 1, "--batch-size", 4)
    status, _, err = keras_mae_command("pretrain", "scans", *options)
    assert (status, "0.tif': it holds 32-bit signed integers from -900 to -900" in err) == (2, True)
    assert keras_mae_command("pretrain", "scans", *options, "--pixel-range", -1024, 3071)[0] == 0
    run = tmp_path / "runs" / "scans-1"
    assert json.loads((run / "run.json").read_text())["pixel_range"] == [-1024, 3071]
    assert keras.saving.load_model(run / "encoder.keras").pixel_range == (-1024, 3071)
    assert keras_mae_command("knn", run / "model.keras", "scans", "--k", 1)[0] == 0
    assert keras_mae_command("reconstruct", run / "model.keras", "scans/a/1.tif")[0] == 0


@pytest.mark.backends("torch")
def test_built_in_images_are_taken_whole_and_the_recipe_says_so(keras_mae_command, tmp_path):
    assert keras_mae_command("pretrain", "--epochs", 1, "--batch-size", 360)[0] == 0
    recipe = json.loads((tmp_path / "runs" / "digits-1" / "run.json").read_text())["recipe"]
    assert (recipe["crop_area"], recipe["flip"]) == (None, False)


@pytest.mark.backends("torch")
def test_check_lists_damaged_files_and_exits_with_1(keras_mae_command, class_folders):
    folder = class_folders
    status, out, _ = keras_mae_command("prepare", folder, "--check")
    assert (status, out.splitlines()[-1]) == (0, f"{folder}: nothing is damaged")
    (folder / "empty.png").touch()
    status, out, _ = keras_mae_command("prepare", folder, "--check")
    assert status == 1
    assert "empty.png" in out
    assert "1 damaged" in out


# === Weights in and out ===
def test_convert_there_and_back(keras_mae_command, digits_model, tmp_path):
    """To the authors' names and back, with the report; the preset folder is a model for the other commands."""
    status, out, err = keras_mae_command("convert", digits_model, "authors.safetensors", "--format", "reference")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].startswith("authors.safetensors: MaskedAutoencoder, 2,")
    options = ("--num-heads", 3, "--decoder-num-heads", 2, "--no-norm-pix-loss")
    status, out, _ = keras_mae_command("convert", "authors.safetensors", "back", "--format", "preset", *options)
    assert status == 0
    target = "authors.safetensors: autoencoder that predicts pixels"
    for fact in (target, "blocks.0.attn.qkv.weight", "encoder.0.qkv.kernel", "12x36"):
        assert fact in out
    original, back = keras.saving.load_model(digits_model), keras_mae.MaskedAutoencoder.from_preset(tmp_path / "back")
    for ours, theirs in zip(original.weights, back.weights, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
    assert "MaskedAutoencoder" in keras_mae_command("info", "back")[1]
    assert keras_mae_command("convert", "back", "new/model.keras")[0] == 0
    assert keras.saving.load_model(tmp_path / "new" / "model.keras").count_params() == original.count_params()


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("model.keras", "out.safetensors"),
            "`format` must be given for 'out.safetensors': keras, preset",
        ),
        (("model.keras", "out.pth", "--format", "keras"), "The format keras, and only that, is a .keras file"),
        (("model.keras", "there", "--format", "preset"), "`out` must not exist, so that nothing is lost"),
        (("model.keras", "out", "--format", "keras_hub"), "takes a ViTEncoder, such as mae.encoder"),
        (("nothing.pth", "out.keras"), "There is no file or folder 'nothing.pth'"),
        (("photo.png", "out.keras"), "'photo.png' is neither a safetensors nor a PyTorch file"),
    ],
)
def test_a_conversion_that_cannot_be_leaves_nothing(
    arguments, message, keras_mae_command, digits_model, encoder_file, photo, tmp_path
):
    if "keras_hub" in arguments:
        pytest.importorskip("keras_hub")
    shutil.copy(digits_model, tmp_path / "model.keras")
    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.rglob("*"))
    status, _, err = keras_mae_command("convert", *arguments)
    assert status == 2
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_export_says_what_it_wrote_or_what_is_missing(keras_mae_command, digits_model, tmp_path):
    """The formats themselves are in test_exporting.py."""
    shutil.copy(digits_model, tmp_path / "model.keras")
    format = "torch" if os.environ["KERAS_BACKEND"] == "torch" else "saved_model"
    status, out, err = keras_mae_command("export", "model.keras", "--format", format, "--part", "encoder")
    if os.environ["KERAS_BACKEND"] == "jax":
        assert (status, 'takes tensorflow: pip install "keras-mae[tensorflow,export]"' in err) == (2, True)
        return
    name = "model_encoder.pt2" if format == "torch" else "model_encoder_saved_model"
    assert (status, err) == (0, "")
    assert out.startswith(f"{name}: ViTEncoder, within ")
    assert (tmp_path / name).exists()


COMMANDS = typer.main.get_command(keras_mae.cli.app).commands


@pytest.mark.backends("torch")
@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_is_shown(keras_mae_command, command):
    status, out, _ = keras_mae_command(*command, "--help")
    assert status == 0
    assert "Usage:" in out
    assert "--help" in out


@pytest.mark.backends("torch")
@pytest.mark.skipif(
    tuple(map(int, typer.__version__.split(".")[:2])) < (0, 26), reason="beside Click 8.5 they lose arguments' texts"
)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_text_stands_alone(name):
    """A summary that fits its line, and no text that begins as if something stood before it."""
    assert "..." not in COMMANDS[name].get_short_help_str()
    for parameter in COMMANDS[name].params:
        assert parameter.help.endswith("."), parameter.name
        assert not parameter.help.startswith(("Of ", "For ", "As ", "In ", "What ")), parameter.name


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("option", "library"),
    [
        (keras_mae.cli.converting.Format, keras_mae.convert.FORMATS),
        (keras_mae.cli.converting.Runtime, keras_mae.convert.EXPORT_FORMATS),
        (keras_mae.cli.options.Engine, keras_mae.distribution.ENGINES),
        (keras_mae.cli.options.PoolingName, keras_mae.pooling.POOLINGS),
    ],
    ids=["formats", "runtimes", "engines", "poolings"],
)
def test_an_option_offers_what_the_library_has(option, library):
    assert {str(choice) for choice in option} == set(library)
