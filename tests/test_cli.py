"""The command line, run as a user types it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from keras_mae import cli


@pytest.fixture
def keras_mae_command(monkeypatch, tmp_path, capsys):
    """Runs `keras-mae ARGUMENTS` in an empty folder: (status, output, error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["keras-mae", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture
def photo(tmp_path):
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="uint8")).save(path)
    return path


def test_pretrain_reconstruct_info(keras_mae_command, photo, tmp_path):
    """The three commands in a row, on the default data."""
    options = ("--epochs", 1, "--batch-size", 360, "--norm-pix-loss", "--masking", "block", "--seed", 3)
    status, out, _ = keras_mae_command("pretrain", *options)
    assert status == 0
    assert "1,437 images of 8x8x1" in out
    run = tmp_path / "runs" / "digits-1"
    assert f"{run.relative_to(tmp_path)}: encoder.keras, history.csv" in out
    assert json.loads((run / "recipe.json").read_text())["seed"] == 3

    status, out, _ = keras_mae_command("info", run / "model.keras")
    assert status == 0
    for fact in (
        "MaskedAutoencoder",
        "8x8x1",
        "BlockMasking, ratio 0.75, seed 3",
        "normalised pixels",
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "nowhere"], "`data` must be digits, fashion_mnist or an existing folder"),
        (["pretrain", "--mask-ratio", "1.5"], "`mask_ratio` must be in [0, 1). Received: mask_ratio=1.5"),
        (["pretrain", "--model", "mae_vit_giant"], "`preset` must be one of 'mae_vit_micro_patch2_8'"),
        (["pretrain", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["pretrain", "--image-size", "32"], "`image_size` goes with a folder of images"),
        (["pretrain", "--masking", "spiral"], "'spiral' is not one of 'random', 'block', 'grid'"),
        (["pretrain", "empty"], "`directory` must hold images"),
        (["pretrain", "--fast"], "No such option: --fast"),
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


def test_a_model_of_another_class_is_refused(keras_mae_command, tmp_path):
    import keras

    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    status, _, err = keras_mae_command("info", "dense.keras")
    assert (status, "must hold a MaskedAutoencoder or a ViTEncoder" in err) == (2, True)


@pytest.mark.parametrize("command", [(), ("pretrain",), ("reconstruct",), ("info",)])
def test_help_reads_well(keras_mae_command, command):
    status, out, _ = keras_mae_command(*command, "--help")
    assert status == 0
    assert "Usage:" in out
    assert "--help" in out


def test_the_backend_is_one_that_is_installed(tmp_path):
    """Each of tox' environments holds only one, and a fresh machine names none."""
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    environment |= {"KERAS_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import keras_mae, keras; print(keras.backend.backend())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.split()[-1] == os.environ["KERAS_BACKEND"], result.stderr
