"""The command line, run as a user types it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_mae
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
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    status, _, err = keras_mae_command("info", "dense.keras")
    assert (status, "must hold a MaskedAutoencoder, a ViTEncoder or a ViTClassifier" in err) == (2, True)


# === Protocols ===
@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved masked autoencoder for the digits: 4 x 4 patches, one block each side."""
    path = tmp_path_factory.mktemp("models") / "model.keras"
    encoder = keras_mae.ViTEncoder((8, 8, 1), 2, embed_dim=12, depth=1, num_heads=3, mlp_ratio=2)
    keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2)).save(path)
    return path


@pytest.fixture(scope="module")
def encoder_file(model):
    path = model.with_name("encoder.keras")
    keras.saving.load_model(model).encoder.save(path)
    return path


@pytest.fixture
def class_folders(tmp_path):
    """Seven grey images of one class and four of another, and two of each to evaluate on."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for folder, counts in {
        "photos": {"cats": 7, "dogs": 4},
        "others": {"cats": 2, "dogs": 2},
        "birds": {"owls": 1},
    }.items():
        for name, count in counts.items():
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (13, 11), dtype="uint8")
                Image.fromarray(pixels).save(tmp_path / folder / name / f"{number}.png")
    return tmp_path / "photos"


TRAINED = ["classifier.keras", "confusion.png", "curves.png", "history.csv", "metrics.json", "recipe.json"]


def saying(directory, accuracy, images):
    """The line that a protocol ends with."""
    files = ", ".join(sorted(path.name for path in directory.iterdir()))
    return f"accuracy {accuracy:.2%} on {images:,} images not trained on; {directory}: {files}"


def read(path):
    return json.loads(path.read_text())


def test_finetune_and_info(keras_mae_command, model, tmp_path):
    options = ("--epochs", 1, "--batch-size", 359, "--base-learning-rate", 0.5, "--drop-path-rate", 0.2, "--seed", 3)
    status, out, err = keras_mae_command("finetune", model, *options)
    assert (status, err) == (0, "")
    run = Path("runs/finetune-digits-1")
    assert sorted(path.name for path in run.iterdir()) == TRAINED
    recipe, metrics = read(run / "recipe.json"), read(run / "metrics.json")
    given = {"epochs": 1, "warmup_epochs": 0, "batch_size": 359, "base_learning_rate": 0.5, "drop_path_rate": 0.2}
    assert given.items() <= recipe.items()
    assert (recipe["seed"], recipe["steps_per_epoch"], recipe["protocol"]) == (3, 1437 // 359, "fine-tuning")
    assert "FineTuneRecipe, from keras_mae, tuned on validation images" in out
    assert out.splitlines()[-1] == saying(run, metrics["accuracy"], 360)
    assert list(metrics["accuracy_by_class"]) == list("0123456789")

    status, out, _ = keras_mae_command("info", run / "classifier.keras")
    assert status == 0
    for fact in ("ViTClassifier", "classes", "10", "pooling", "mean", "trained blocks", "all"):
        assert fact in out


def test_probe_of_some_labels(keras_mae_command, encoder_file):
    """On an encoder's file, as pre-training leaves beside the model's, into a named directory."""
    options = ("--epochs", 2, "--labels", 101, "--out", "my/probe")
    status, out, _ = keras_mae_command("probe", encoder_file, "digits", *options)
    assert status == 0
    run = Path("my/probe")
    assert sorted(path.name for path in run.iterdir()) == TRAINED
    recipe = read(run / "recipe.json")
    assert (recipe["batch_size"], recipe["steps_per_epoch"], recipe["protocol"]) == (101, 1, "linear probe")
    assert "LinearProbeRecipe" in out
    assert out.splitlines()[-1] == saying(run, read(run / "metrics.json")["accuracy"], 360)


def test_knn_and_the_next_free_run(keras_mae_command, model):
    for number in (1, 2):
        status, out, _ = keras_mae_command("knn", model, "--k", 5, "--pooling", "mean", "--temperature", 0.5)
        assert status == 0
        run = Path(f"runs/knn-digits-{number}")
        metrics = read(run / "metrics.json")
        assert {"k": 5, "pooling": "mean", "temperature": 0.5, "images": 360}.items() <= metrics.items()
        assert metrics["accuracy"] > 0.2  # one in ten by chance, but random weights keep something of the pixels
        assert out.splitlines()[-1] == saying(run, metrics["accuracy"], 360)


def test_finetune_on_a_folder_of_class_folders(keras_mae_command, model, class_folders):
    """A tenth, at least one image, is kept; images of another size resize the positions."""
    options = ("--epochs", 1, "--image-size", 12, "--blocks", 0.5, "--out", "run")
    status, out, _ = keras_mae_command("finetune", model, class_folders, *options)
    assert status == 0
    assert "1 of 11 images are kept to evaluate on" in out
    assert read(Path("run/recipe.json"))["batch_size"] == 10
    classifier = keras.saving.load_model("run/classifier.keras")
    assert (classifier.encoder.image_shape, classifier.trainable_blocks, classifier.num_classes) == (
        (12, 12, 1),
        0.5,
        2,
    )
    assert list(read(Path("run/metrics.json"))["accuracy_by_class"]) == ["cats", "dogs"]


def test_knn_on_two_folders(keras_mae_command, model, class_folders):
    status, out, _ = keras_mae_command("knn", model, "photos", "--test", "others", "--k", 3)
    assert status == 0
    assert "kept" not in out
    assert read(Path("runs/knn-photos-1/metrics.json"))["images"] == 4


def test_finetune_goes_on_where_it_was_stopped_and_is_scored_again(keras_mae_command, model, monkeypatch):
    from keras_mae.training import resume

    options = (
        "finetune",
        model,
        "--epochs",
        2,
        "--batch-size",
        700,
        "--out",
        "run",
        "--resume",
        "--checkpoint-steps",
        1,
    )
    with monkeypatch.context() as patched:
        patched.setattr(resume.Checkpoints, "_asked", lambda self: (self.position.step == 3, False))  # SIGTERM came
        assert keras_mae_command(*options)[0] == 143
    status, out, _ = keras_mae_command(*options)
    assert (status, "epoch 1/2" in out, "epoch 2/2" in out) == (0, False, True)
    accuracy = read(Path("run/metrics.json"))["accuracy"]
    status, out, _ = keras_mae_command("evaluate", "run/classifier.keras")
    assert status == 0
    assert out.strip() == saying(Path("runs/evaluate-digits-1"), accuracy, 360)
    assert read(Path("runs/evaluate-digits-1/metrics.json"))["accuracy"] == accuracy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune"], "Missing argument"),
        (["finetune", "nothing.keras"], "There is no model file 'nothing.keras'"),
        (["finetune", "MODEL", "nowhere"], "`directory` must be an existing folder"),
        (
            ["finetune", "MODEL", "fashion_mnist"],
            "fashion_mnist has images of (28, 28, 1). Received: a model for (8, 8, 1)",
        ),
        (["finetune", "MODEL", "--resume"], "`resume` takes the run directory: --out runs/finetune-digits-1"),
        (["finetune", "MODEL", "--accumulation-steps", "3"], "`accumulation_steps` must divide `batch_size`"),
        (["evaluate", "MODEL"], "`classifier` must be a ViTClassifier. Received: a MaskedAutoencoder"),
        (["evaluate", "nothing.keras"], "There is no model file 'nothing.keras'"),
        (["finetune", "MODEL", "--image-size", "12"], "images of (8, 8, 1). Received: a model for (12, 12, 1)"),
        (["finetune", "MODEL", "--test", "others"], "digits has a test set of its own"),
        (["finetune", "MODEL", "--blocks", "1.5"], "`trainable_blocks` must be 0, 0.5, 1, ... up to the encoder's 1"),
        (["finetune", "MODEL", "--size", "giant"], "'giant' is not one of 'small_images', 'base', 'large', 'huge'"),
        (["finetune", "MODEL", "--layer-decay", "1.5"], "`layer_decay` must be in [0, 1)"),
        (["finetune", "MODEL", "--labels", "0"], "`labels` must be in [1, 1437], the images there are"),
        (["finetune", "MODEL", "--out", "photos"], "`run_directory` must not exist or be empty"),
        (["probe", "MODEL", "--labels", "1438"], "`labels` must be in [1, 1437]"),
        (["probe", "MODEL", "--epochs", "0"], "`epochs` must be a positive integer"),
        (["probe", "MODEL", "photos/cats"], "Labelled images lie in a folder for each class"),
        (
            ["probe", "MODEL", "photos", "--test", "birds"],
            "must hold the same classes. Received: ['cats', 'dogs']",
        ),
        (["knn", "MODEL", "--k", "0"], "`k` must be a positive integer"),
        (["knn", "MODEL", "photos", "--test", "others"], "`k` must not exceed the number of training images"),
        (["knn", "MODEL", "--pooling", "max"], "'max' is not one of 'token', 'mean'"),
    ],
)
def test_a_protocols_mistake_is_one_clear_line_and_status_2(
    keras_mae_command, model, class_folders, tmp_path, monkeypatch, arguments, message
):
    clothes = np.zeros((1, 28, 28, 1), "uint8"), np.zeros(1, "int64")
    monkeypatch.setattr("keras_mae.data.builtin.fashion_mnist", lambda split: clothes)  # it may not be there
    before = sorted(tmp_path.rglob("*"))
    status, _, err = keras_mae_command(*(model if argument == "MODEL" else argument for argument in arguments))
    assert status == 2
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_one_image_alone_is_refused(keras_mae_command, model, class_folders):
    """Nothing would be left to train on."""
    status, _, err = keras_mae_command("knn", model, "birds", "--k", 1)
    assert (status, err.count("\n")) == (2, 1)


# === prepare ===
def test_prepare_pretrain_and_finetune_on_what_was_prepared(keras_mae_command, model, class_folders, tmp_path):
    folder = class_folders
    status, out, _ = keras_mae_command("prepare", folder, tmp_path / "shards", "--labelled", "--short-side", 24)
    assert status == 0
    images = len(list(folder.rglob("*.png")))
    assert f"{tmp_path / 'shards'}: {images} images in 1 files" in out
    options = ("--model", "mae_vit_micro_patch4_32", "--epochs", 1, "--batch-size", 4, "--crops-per-image", 2)
    assert keras_mae_command("pretrain", tmp_path / "shards", *options)[0] == 0
    recipe = json.loads((tmp_path / "runs" / "shards-1" / "recipe.json").read_text())
    assert (recipe["crop_area"], recipe["flip"]) == ([0.2, 1.0], True)
    assert recipe["steps_per_epoch"] == images * 2 // 4
    status, out, _ = keras_mae_command("finetune", model, tmp_path / "shards", "--epochs", 1, "--batch-size", 4)
    assert status == 0, out


def test_built_in_images_are_taken_whole_and_the_recipe_says_so(keras_mae_command, tmp_path):
    assert keras_mae_command("pretrain", "--epochs", 1, "--batch-size", 360)[0] == 0
    recipe = json.loads((tmp_path / "runs" / "digits-1" / "recipe.json").read_text())
    assert (recipe["crop_area"], recipe["flip"]) == (None, False)


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
def test_convert_there_and_back(keras_mae_command, model, tmp_path):
    """To the authors' names and back, with the report; the preset folder is a model for the other commands."""
    status, out, err = keras_mae_command("convert", model, "authors.safetensors", "--format", "reference")
    assert (status, err) == (0, "")
    assert out.startswith("authors.safetensors: MaskedAutoencoder, 2,")
    options = ("--num-heads", 3, "--decoder-num-heads", 2, "--no-norm-pix-loss")
    status, out, _ = keras_mae_command("convert", "authors.safetensors", "back", "--format", "preset", *options)
    assert status == 0
    for fact in ("authors.safetensors: pixels", "blocks.0.attn.qkv.weight", "encoder.0.qkv.kernel", "12x36"):
        assert fact in out
    original, back = keras.saving.load_model(model), keras_mae.MaskedAutoencoder.from_preset(tmp_path / "back")
    for ours, theirs in zip(original.weights, back.weights, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
    assert "MaskedAutoencoder" in keras_mae_command("info", "back")[1]
    assert keras_mae_command("convert", "back", "new/model.keras")[0] == 0
    assert keras.saving.load_model(tmp_path / "new" / "model.keras").count_params() == original.count_params()


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
    arguments, message, keras_mae_command, model, encoder_file, photo, tmp_path
):
    if "keras_hub" in arguments:
        pytest.importorskip("keras_hub")
    shutil.copy(model, tmp_path / "model.keras")
    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.rglob("*"))
    status, _, err = keras_mae_command("convert", *arguments)
    assert status == 2
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_export_says_what_it_wrote_or_what_is_missing(keras_mae_command, model, tmp_path):
    """The formats themselves are in test_exporting.py."""
    shutil.copy(model, tmp_path / "model.keras")
    format = "torch" if os.environ["KERAS_BACKEND"] == "torch" else "saved_model"
    status, out, err = keras_mae_command("export", "model.keras", "--format", format, "--part", "encoder")
    if os.environ["KERAS_BACKEND"] == "jax":
        assert (status, 'takes tensorflow: pip install "keras-mae[tensorflow,export]"' in err) == (2, True)
        return
    name = "model_encoder.pt2" if format == "torch" else "model_encoder_saved_model"
    assert (status, err) == (0, "")
    assert out.startswith(f"{name}: ViTEncoder, within ")
    assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    "command",
    [
        *[
            (),
            ("pretrain",),
            ("reconstruct",),
            ("info",),
            ("finetune",),
            ("probe",),
            ("knn",),
            ("evaluate",),
            ("prepare",),
        ],
        *[("convert",), ("export",)],
    ],
)
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
