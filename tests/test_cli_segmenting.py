"""`keras-mae segment`, and `predict` and `evaluate` of a segmenter, as a user types them."""

import json
from pathlib import Path

import keras
import pytest
from pair_helpers import write_pairs

import keras_mae

pytestmark = pytest.mark.usefixtures("untraced")
SHORT = ("--epochs", 1, "--batch-size", 4, "--loader", "grain")


@pytest.fixture
def encoder(tmp_path):
    write_pairs(tmp_path / "rooms", 9)
    (tmp_path / "rooms" / "classes.txt").write_text("floor\nwall\ndoor\n")
    keras_mae.ViTEncoder((16, 16, 3), 4, embed_dim=12, depth=1, num_heads=2, mlp_ratio=2).save(tmp_path / "e.keras")
    return "e.keras"


def read(path):
    return json.loads(path.read_text())


def test_segment_evaluate_and_predict(keras_mae_command, encoder):
    status, out, err = keras_mae_command("segment", encoder, "rooms", "--head", "linear", *SHORT)
    assert (status, [line for line in err.splitlines() if not line.startswith("Warning")]) == (0, [])
    run = Path("runs/segment-rooms-1")
    metrics, recipe = read(run / "metrics.json"), read(run / "run.json")["recipe"]
    assert (recipe["head"], recipe["trainable_blocks"], recipe["epochs"]) == ("linear", 0, 1)
    assert "1 of 9 images are kept to evaluate on" in out
    assert "SegmentationRecipe, from keras_mae, for short runs on one machine, not tuned" in out
    assert out.splitlines()[-1].startswith(
        f"mean IoU {metrics['mean_iou']:.2%}, accuracy of pixels {metrics['pixel_accuracy']:.2%} on 1 "
    )
    status, out, _ = keras_mae_command("evaluate", run / "segmenter.keras", "rooms")
    assert status == 0
    assert read(Path("runs/evaluate-rooms-1/metrics.json"))["images"] == 9
    assert " on 9 images; " in out
    status, out, err = keras_mae_command(
        "predict", run / "segmenter.keras", "rooms/images", "nothing", "--out", "new"
    )
    assert status == 1
    assert "There is no image file 'nothing'" in err
    assert out.splitlines()[-1] == "new: 9 masks"
    assert sum(path.is_file() for path in Path("new").rglob("*.png")) == 9
    for asked in (
        ("evaluate", run / "segmenter.keras", "rooms"),
        ("predict", run / "segmenter.keras", "rooms/images"),
    ):
        status, _, err = keras_mae_command(*asked, "--size", "base", "--out", "other")
        assert (status, "`size` is for classifiers" in err, Path("other").exists()) == (2, True, False)


@pytest.mark.backends("torch")
def test_segment_again_by_its_recipe_file(keras_mae_command, encoder):
    """With the best epoch of images held out, a crop of another size, and all blocks trained."""
    options = ("--head", "linear", "--trainable-blocks", "all", "--patience", 1, "--image-size", "8x12", "--seed", 3)
    options += ("--class-weights", "balanced")
    status, out, _ = keras_mae_command("segment", encoder, "rooms", *SHORT, *options)
    assert status == 0
    assert "1 of 8 images to train on are held out to validate on" in out
    run = Path("runs/segment-rooms-1")
    loaded = keras.saving.load_model(run / "segmenter.keras")
    assert (loaded.encoder.image_shape, loaded.trainable_blocks) == ((8, 12, 3), None)
    text = (run / "recipe.toml").read_text()
    for said in (
        'kind = "segment"',
        'head = "linear"',
        'class_weights = "balanced"',
        "# command line",
        'image_size = "8x12"',
        "validation = 0.1",
    ):
        assert said in text
    status, _, err = keras_mae_command("segment", encoder, "--recipe", run / "recipe.toml")
    assert (status, err) == (0, "")
    again = Path("runs/segment-rooms-2")
    assert (again / "history.csv").read_text() == (run / "history.csv").read_text()
    assert read(again / "metrics.json") == read(run / "metrics.json")


@pytest.mark.backends("torch")
def test_zero_stands_for_no_class(keras_mae_command, encoder):
    """What a folder cannot say, a segmenter remembers from its training."""
    (Path("rooms") / "classes.txt").unlink()
    zero = ("--reduce-zero-label", "--ignore-label", 254)
    status, _, err = keras_mae_command("segment", encoder, "rooms", "--head", "linear", *SHORT, *zero)
    assert (status, [line for line in err.splitlines() if not line.startswith("Warning")]) == (0, [])
    run = Path("runs/segment-rooms-1")
    loaded = keras.saving.load_model(run / "segmenter.keras")
    assert (loaded.num_classes, loaded.ignore_label, loaded.reduce_zero_label) == (2, 254, True)
    text = (run / "recipe.toml").read_text()
    assert "reduce_zero_label = true" in text
    assert "ignore_label = 254" in text
    status, _, err = keras_mae_command("evaluate", run / "segmenter.keras", "rooms", "--keep-zero-label")
    assert (status, "holds unknown labels: 2" in err) == (2, True)
    status, _, err = keras_mae_command("evaluate", run / "segmenter.keras", "rooms")
    assert (status, err) == (0, "")
    status, _, err = keras_mae_command("segment", encoder, "--recipe", run / "recipe.toml")
    assert status == 0
    assert read(Path("runs/segment-rooms-2/metrics.json")) == read(run / "metrics.json")


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("segment", "e.keras", "digits"), "`directory` must be an existing folder"),
        (("segment", "e.keras", "rooms", "--test-split", "val"), "`split` must be one that is there"),
        (("segment", "e.keras", "rooms", "--trainable-blocks", "x"), "`trainable_blocks` must be 0, 0.5, 1"),
        (
            ("segment", "e.keras", "rooms", "--set", "crop_area=none"),
            "--set has a key that keras-mae segment does not",
        ),
        (("segment", "e.keras", "rooms", "--num-classes", "2"), "`class_names` must be 2 different non-empty names"),
        (("predict", "s.keras", "rooms/images"), "`out` must be a folder for the masks of a segmenter"),
        (("predict", "e.keras", "rooms/images"), "`model` must be a ViTClassifier or a ViTSegmenter"),
        (("evaluate", "s.keras", "rooms", "--split", "val"), "`split` must be one that is there"),
        (("evaluate", "c.keras", "rooms", "--split", "val"), "`split` is for segmenters. Received: split=val"),
        (("evaluate", "c.keras", "rooms", "--keep-zero-label"), "`reduce_zero_label` is for segmenters. Received: "),
        (("segment", "e.keras", "rooms", "--ignore-label", "2"), "`ignore_label` must"),
    ],
)
def test_mistakes_are_one_line(keras_mae_command, encoder, arguments, message):
    loaded = keras.saving.load_model(encoder)
    if "s.keras" in arguments:
        keras_mae.ViTSegmenter(loaded, 3, "linear").save("s.keras")
    if "c.keras" in arguments:
        keras_mae.ViTClassifier(loaded, 3).save("c.keras")
    status, _, err = keras_mae_command(*arguments)
    lines = [line for line in err.splitlines() if not line.startswith("Warning")]
    assert (status, len(lines)) == (2, 1)
    assert message in lines[0]
