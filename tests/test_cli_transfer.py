"""`keras-mae finetune`, `probe`, `knn` and `evaluate`, run as a user types them."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_mae

pytestmark = pytest.mark.usefixtures("untraced")

TRAINED = [
    "classifier.keras",
    "confusion.png",
    "curves.png",
    "history.csv",
    "metrics.json",
    "predictions.csv",
    "recipe.toml",
    "run.json",
]


def saying(directory, accuracy, images):
    """The line that a protocol ends with."""
    files = ", ".join(sorted(path.name for path in directory.iterdir()))
    return f"accuracy {accuracy:.2%} on {images:,} evaluation images; {directory}: {files}"


def read(path):
    return json.loads(path.read_text())


def test_finetune_and_info(keras_mae_command, digits_model, tmp_path):
    options = ("--epochs", 1, "--batch-size", 359, "--base-learning-rate", 0.5, "--drop-path-rate", 0.2, "--seed", 3)
    status, out, err = keras_mae_command("finetune", digits_model, *options)
    assert (status, err) == (0, "")
    run = Path("runs/finetune-digits-1")
    assert sorted(path.name for path in run.iterdir()) == TRAINED
    record, metrics = read(run / "run.json"), read(run / "metrics.json")
    given = {"epochs": 1, "warmup_epochs": 0, "batch_size": 359, "base_learning_rate": 0.5, "drop_path_rate": 0.2}
    given["flip"] = False  # as digits are not mirrored
    assert given.items() <= record["recipe"].items()
    assert (record["recipe"]["seed"], record["steps_per_epoch"], record["protocol"]) == (
        3,
        1437 // 359,
        "fine-tuning",
    )
    assert "FineTuneRecipe, from keras_mae, tuned on validation images" in out
    assert out.splitlines()[-1] == saying(run, metrics["accuracy"], 360)
    assert list(metrics["accuracy_by_class"]) == list("0123456789")

    status, out, _ = keras_mae_command("info", run / "classifier.keras")
    assert status == 0
    for fact in ("ViTClassifier", "classes", "10", "pooling", "mean", "trained blocks", "all"):
        assert fact in out


@pytest.mark.backends("torch")
def test_finetune_ends_with_the_best_epoch_on_images_held_out(keras_mae_command, digits_model):
    """And does so again by the recipe file that it leaves."""
    options = ("--epochs", 3, "--num-labels", 60, "--patience", 1, "--monitor", "val_loss")
    status, out, _ = keras_mae_command("finetune", digits_model, *options, "--class-weights", "balanced")
    assert status == 0
    run = Path("runs/finetune-digits-1")
    recipe, epoch = read(run / "run.json")["recipe"], read(run / "metrics.json")["epoch"]
    assert (recipe["best_epoch"], recipe["patience"], recipe["class_weights"]) == (True, 1, "balanced")
    assert "6 of 60 images to train on are held out to validate on" in out
    assert f" epochs is {epoch}: val_loss" in out
    lines = (run / "recipe.toml").read_text()
    for said in ("validation = 0.1 ", "best_epoch = true ", "# follows patience", 'monitor = "val_loss" '):
        assert said in lines
    keras_mae_command("finetune", digits_model, "--recipe", run / "recipe.toml")
    assert (Path("runs/finetune-digits-2") / "history.csv").read_text() == (run / "history.csv").read_text()


@pytest.mark.backends("torch")
def test_finetune_with_crops_of_a_folders_images(keras_mae_command, digits_model, class_folders):
    options = ("--epochs", 1, "--set", "rand_augment=0", "--out")
    status, _, _ = keras_mae_command("finetune", digits_model, "photos", *options, "run", "--crop-area", 0.5)
    assert (status, read(Path("run/run.json"))["recipe"]["crop_area"]) == (0, [0.5, 1.0])
    batches = read(Path("run/run.json"))["fingerprint"]["batches"]
    assert batches["crop"]["area"] == [0.5, 1.0]
    status, _, _ = keras_mae_command("finetune", digits_model, "photos", *options, "other", "--crop-area", 1)
    assert (status, read(Path("other/run.json"))["recipe"]["crop_area"]) == (0, None)


def test_probe_of_some_labels(keras_mae_command, encoder_file):
    """On an encoder's file, as pre-training leaves beside the model's, into a named directory."""
    options = ("--epochs", 2, "--num-labels", 101, "--out", "my/probe")
    status, out, _ = keras_mae_command("probe", encoder_file, "digits", *options)
    assert status == 0
    run = Path("my/probe")
    assert sorted(path.name for path in run.iterdir()) == TRAINED
    record = read(run / "run.json")
    assert (record["recipe"]["batch_size"], record["steps_per_epoch"], record["protocol"]) == (101, 1, "linear probe")
    assert (record["recipe"]["flip"], record["cache_features"]) == (False, True)
    assert (record["num_labels"], record["balanced"]) == (101, True)
    assert "LinearProbeRecipe" in out
    assert out.splitlines()[-1] == saying(run, read(run / "metrics.json")["accuracy"], 360)


@pytest.mark.backends("torch")
def test_labels_are_drawn_as_many_of_each_class_unless_a_run_began_before_that(tmp_path):
    from keras_mae.cli.runs import draws_balanced

    assert draws_balanced(tmp_path, True)
    for known, expected in (({}, True), ({"num_labels": 6}, False), ({"num_labels": 6, "balanced": True}, True)):
        (tmp_path / "run.json").write_text(json.dumps({"recipe": {}, "num_labels": None, **known}))
        assert (draws_balanced(tmp_path, True), draws_balanced(tmp_path, False)) == (expected, True)


@pytest.mark.backends("torch")
@pytest.mark.parametrize("keep", [True, False])
def test_a_probe_by_the_published_recipe_is_asked_to_keep_features(keras_mae_command, encoder_file, keep):
    """Which takes its crops and flips off, in the recipe."""
    options = ("--size", "base", "--epochs", 2, "--num-labels", 40, "--out", "run")
    status, _, _ = keras_mae_command("probe", encoder_file, *options, *["--cache-features"] * keep)
    record = read(Path("run/run.json"))
    assert (status, record["cache_features"], record["recipe"]["flip"]) == (0, keep, not keep)
    assert ("flip" in record["recipe"]["changed"]) is keep


@pytest.mark.backends("torch")
@pytest.mark.parametrize("stopped", [True, False])
def test_a_probe_that_an_earlier_version_began_keeps_its_crops(tmp_path, stopped):
    """Which drew crops that did not fit again, and did not write that into its recipe."""
    from keras_mae.cli.runs import begun_recipe
    from keras_mae.training import stored

    recipe = keras_mae.recipes.LinearProbeRecipe().to_dict()
    del recipe["clamp_crops"]
    assert begun_recipe(tmp_path, True) is begun_recipe(tmp_path, False) is None
    if stopped:
        state = {"metadata": {"recipe": recipe}, "position": {"step": 1}, "sha256": {}}
        file = tmp_path / "checkpoints" / "step-000000001" / "state.json"
        file.parent.mkdir(parents=True)
        file.write_text(stored.checksummed(state))
    else:
        (tmp_path / "run.json").write_text(json.dumps({"recipe": recipe}))
    assert begun_recipe(tmp_path, True).clamp_crops is False
    assert begun_recipe(tmp_path, False) is None


def test_knn_and_the_next_free_run(keras_mae_command, digits_model):
    for number in (1, 2):
        status, out, _ = keras_mae_command("knn", digits_model, "--k", 5, "--pooling", "mean", "--temperature", 0.5)
        assert status == 0
        run = Path(f"runs/knn-digits-{number}")
        metrics = read(run / "metrics.json")
        assert {"k": 5, "pooling": "mean", "temperature": 0.5, "images": 360}.items() <= metrics.items()
        assert metrics["accuracy"] > 0.2  # one in ten by chance, but random weights keep something of the pixels
        assert out.splitlines()[-1] == saying(run, metrics["accuracy"], 360)


@pytest.mark.backends("torch")
def test_finetune_on_a_folder_of_class_folders(keras_mae_command, digits_model, class_folders):
    """A tenth, at least one image, is kept; images of another size resize the positions."""
    options = ("--epochs", 1, "--image-size", 12, "--trainable-blocks", 0.5, "--out", "run")
    status, out, _ = keras_mae_command("finetune", digits_model, class_folders, *options)
    assert status == 0
    assert "1 of 11 images are kept to evaluate on" in out
    recipe = read(Path("run/run.json"))["recipe"]
    assert (recipe["batch_size"], recipe["pooling"]) == (10, "mean")
    classifier = keras.saving.load_model("run/classifier.keras")
    assert (classifier.encoder.image_shape, classifier.trainable_blocks, classifier.num_classes) == (
        (12, 12, 1),
        0.5,
        2,
    )
    assert list(read(Path("run/metrics.json"))["accuracy_by_class"]) == ["cats", "dogs"]


@pytest.mark.backends("torch")
def test_few_images_of_a_folder_are_trained_on_long_enough(
    keras_mae_command, digits_model, class_folders, monkeypatch
):
    """No run of these: what it would be."""
    monkeypatch.setattr(keras_mae.training, "run_fine_tuning", lambda *arguments, **options: None)
    monkeypatch.setattr("keras_mae.cli.transfer._say_end", lambda *arguments: None)
    _, out, _ = keras_mae_command("finetune", digits_model, class_folders)
    shown = dict(line.split()[:2] for line in out.splitlines() if len(line.split()) > 2)
    assert (shown["epochs"], shown["batch_size"], shown["pooling"]) == ("120", "10", "mean")


def test_knn_on_two_folders(keras_mae_command, digits_model, class_folders):
    status, out, _ = keras_mae_command("knn", digits_model, "photos", "--test", "others", "--k", 3)
    assert status == 0
    assert "kept" not in out
    assert read(Path("runs/knn-photos-1/metrics.json"))["images"] == 4


@pytest.mark.backends("torch")
def test_finetune_goes_on_where_it_was_stopped_and_is_scored_again(keras_mae_command, digits_model, monkeypatch):
    from keras_mae.training import checkpoints

    options = (
        "finetune",
        digits_model,
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
        patched.setattr(
            checkpoints.Checkpoints, "_asked", lambda self: checkpoints._TERMINATE * (self.position.step == 3)
        )  # SIGTERM came
        status, out, _ = keras_mae_command(*(option for option in options if option != "--resume"))
    assert status == 143
    assert out.splitlines()[-1] == "run: stopped at step 3; the same command with --out run --resume continues it"
    others = keras_mae.ViTEncoder((8, 8, 1), 2, embed_dim=12, depth=1, num_heads=3, mlp_ratio=2)
    others.save("other.keras")  # of the same shape
    for changed, said in (("other.keras", "model="), (digits_model, "num_labels=1436")):
        extra = () if changed == "other.keras" else ("--num-labels", 1436)
        status, _, err = keras_mae_command("finetune", changed, *options[2:], *extra)
        assert (status, "is another one. Received: " + said in err) == (2, True)
    status, out, _ = keras_mae_command(*options)
    assert (status, "epoch 1/2" in out, "epoch 2/2  " in out) == (0, False, True)
    assert "run: goes on in epoch 2/2 after 1 of 2 batches, from step 3\n" in out
    accuracy = read(Path("run/metrics.json"))["accuracy"]
    status, out, _ = keras_mae_command(*options)
    assert (status, "run: this run is finished, nothing is left to do" in out) == (0, True)
    for command in (("finetune", "--seed", 3), ("probe",)):
        status, _, err = keras_mae_command(command[0], digits_model, *options[2:], *command[1:])
        assert (status, "'run' is another one. Received: " in err) == (2, True)
    status, out, _ = keras_mae_command("evaluate", "run/classifier.keras")
    assert status == 0
    assert out.strip() == saying(Path("runs/evaluate-digits-1"), accuracy, 360).replace("evaluation ", "")
    assert read(Path("runs/evaluate-digits-1/metrics.json"))["accuracy"] == accuracy


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    "command",
    [
        ("pretrain", "nowhere"),
        ("finetune", "nothing.keras"),
        ("probe", "nothing.keras"),
        ("knn", "nothing.keras"),
        ("evaluate", "nothing.keras"),
        ("anomaly", "nothing.keras", "nowhere", "nowhere"),
    ],
)
def test_a_folder_that_is_taken_is_said_before_anything_is_looked_at(keras_mae_command, tmp_path, command):
    for name in ("begun/run.json", "finished/run.json", "finished/model.keras", "other/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    said = {
        "begun": "'begun', a run that `resume` (--resume) continues; a new one needs another folder",
        "finished": "'finished', which holds a finished run: name another folder",
        "other": "'other', which holds files of no run: name another folder",
        "other/notes.txt": "'other/notes.txt', a file: name another folder",
    }
    for out, words in said.items():
        status, printed, err = keras_mae_command(*command, "--out", out)
        assert (status, printed, err.count("\n")) == (2, "", 1)
        assert "`run_directory` (--out) must not exist or be empty" in err
        assert words in err
    if command[0] in ("pretrain", "finetune", "probe"):
        for out, words in (("other", "notes.txt"), ("other/notes.txt", "it is a file")):
            status, printed, err = keras_mae_command(*command, "--out", out, "--resume")
            assert (status, printed) == (2, "")
            assert f"{words}. There is nothing to resume: name another folder (--out)" in err


@pytest.mark.backends("torch")
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
        (["finetune", "MODEL", "--resume"], "`resume` needs the run directory: --out runs/finetune-digits-1"),
        (
            ["finetune", "MODEL", "--gradient-accumulation-steps", "3"],
            "`gradient_accumulation_steps` must divide `batch_size`",
        ),
        (["evaluate", "MODEL"], "`model` must be a ViTClassifier or a ViTSegmenter. Received: a MaskedAutoencoder"),
        (["evaluate", "nothing.keras"], "There is no model file 'nothing.keras'"),
        (["finetune", "MODEL", "--image-size", "12"], "images of (8, 8, 1). Received: a model for (12, 12, 1)"),
        (["finetune", "MODEL", "--test", "others"], "digits has a test set of its own"),
        (
            ["finetune", "MODEL", "--trainable-blocks", "1.5"],
            "`trainable_blocks` must be 0, 0.5, 1, ... up to the encoder's 1",
        ),
        (["finetune", "MODEL", "--size", "giant"], "'giant' is not one of 'small_images', 'base', 'large', 'huge'"),
        (["finetune", "MODEL", "--layer-decay", "1.5"], "`layer_decay` must be in (0, 1]"),
        (
            ["finetune", "MODEL", "--num-labels", "0"],
            "`num_labels` must be an integer in [1, 1437], the images there are",
        ),
        (["finetune", "MODEL", "--crop-area", "0.5"], "`crop_area` cuts crops out of images in sizes of their own"),
        (["finetune", "MODEL", "--out", "photos"], "`run_directory` (--out) must not exist or be empty"),
        (["probe", "MODEL", "--num-labels", "1438"], "`num_labels` must be an integer in [1, 1437]"),
        (["probe", "MODEL", "--epochs", "0"], "`epochs` must be a positive integer"),
        (["probe", "MODEL", "photos/cats"], "Labeled images lie in a folder for each class"),
        (
            ["probe", "MODEL", "photos", "--test", "birds"],
            "among those known: cats, dogs. Received: owls, of which unknown: owls",
        ),
        (["knn", "MODEL", "--k", "0"], "`k` must be a positive integer"),
        (["knn", "MODEL", "photos", "--test", "others"], "`k` must not exceed the number of training images"),
        (["knn", "MODEL", "--pooling", "max"], "'max' is not one of 'mean', 'token', 'attentive', 'flatten'"),
        (["knn", "MODEL", "--pooling", "attentive"], "give a ViTClassifier that was trained with pooling"),
    ],
)
def test_a_protocols_mistake_is_one_clear_line_and_status_2(
    keras_mae_command, digits_model, class_folders, tmp_path, monkeypatch, arguments, message
):
    clothes = np.zeros((1, 28, 28, 1), "uint8"), np.zeros(1, "int64")
    monkeypatch.setattr("keras_mae.data.builtin.fashion_mnist", lambda split: clothes)  # it may not be there
    before = sorted(tmp_path.rglob("*"))
    status, _, err = keras_mae_command(*(digits_model if argument == "MODEL" else argument for argument in arguments))
    assert status == 2
    assert message in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.backends("torch")
def test_one_image_alone_is_refused(keras_mae_command, digits_model, class_folders):
    """Nothing would be left to train on."""
    status, _, err = keras_mae_command("knn", digits_model, "birds", "--k", 1)
    assert (status, err.count("\n")) == (2, 1)


# === Classes by name ===
@pytest.mark.backends("torch")
def test_evaluate_goes_by_names(keras_mae_command, class_folders, tmp_path):
    encoder = keras_mae.ViTEncoder((8, 8, 1), 2, embed_dim=12, depth=1, num_heads=3, mlp_ratio=2)
    classifier = keras_mae.ViTClassifier(encoder, 3, class_names=("owls", "dogs", "cats"))
    classifier.head.layers[-1].bias.assign([0.0, 9.0, 0.0])  # to it everything is a dog
    classifier.save("dogs.keras")
    status, out, err = keras_mae_command("evaluate", "dogs.keras", "photos")
    assert (status, err) == (0, "")
    assert out.startswith("accuracy 36.36% on 11 images, of 2 of the 3 classes; ")
    assert read(Path("runs/evaluate-photos-1/metrics.json"))["accuracy_by_class"] == {
        "owls": None, "dogs": 1.0, "cats": 0.0,
    }  # fmt: skip
    status, out, _ = keras_mae_command("evaluate", "dogs.keras", "birds")
    assert out.startswith("accuracy 0.00% on 1 images, of 1 of the 3 classes; ")
    (tmp_path / "birds" / "owls").rename(tmp_path / "birds" / "ducks")
    status, _, err = keras_mae_command("evaluate", "dogs.keras", "birds")
    known = "Classes must be among those known: owls, dogs, cats. Received: ducks, of which unknown: ducks"
    assert (status, err) == (2, f"Error: {known}\n")
    assert "3: owls, dogs, cats" in keras_mae_command("info", "dogs.keras")[1]


@pytest.mark.backends("torch")
def test_a_classifier_without_names_goes_by_place_and_says_so(keras_mae_command, class_folders):
    encoder = keras_mae.ViTEncoder((8, 8, 1), 2, embed_dim=12, depth=1, num_heads=3, mlp_ratio=2)
    classifier = keras_mae.ViTClassifier(encoder, 2)
    classifier.head.layers[-1].bias.assign([0.0, 9.0])
    classifier.save("old.keras")
    status, out, err = keras_mae_command("evaluate", "old.keras", "photos")
    said, scored = out.splitlines()
    assert (status, err) == (0, "")
    assert said == ("The classifier has no class names: its classes 0 to 1 are taken to be cats, dogs, in this order")
    assert scored.startswith("accuracy 36.36% on 11 images; ")
    status, _, err = keras_mae_command("evaluate", "old.keras", "birds")
    assert (status, "has 2 classes. Received: 1 classes: owls" in err) == (2, True)
