"""Segmentation as a run: what it leaves, how it is scored, and that it goes on."""

import csv
import dataclasses
import io
import json

import keras
import numpy as np
import pytest
from pair_helpers import write_ade20k, write_pairs
from rich.console import Console
from training_helpers import Stop, killed, quick_compile

import keras_mae
from keras_mae import data, dense, recipes, training, transfer
from keras_mae.dense.classes import classes_at

pytestmark = pytest.mark.usefixtures("untraced")
NAMES = ("floor", "wall", "door")
SHAPE = (16, 16, 3)
LEFT = {
    "checkpoints",  # the names of the data's files
    "confusion.png",
    "curves.png",
    "history.csv",
    "metrics.json",
    "recipe.toml",
    "run.json",
    "segmentations.png",
    "segmenter.keras",
}
RECIPE = recipes.SegmentationRecipe.for_size("small_images", head="linear", epochs=2, batch_size=4, warmup_epochs=0)


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def make_encoder():
    keras.utils.set_random_seed(3)
    return keras_mae.ViTEncoder(SHAPE, 4, embed_dim=12, depth=1, num_heads=2, mlp_ratio=2)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Nine images of sizes of their own."""
    folder = write_pairs(tmp_path_factory.mktemp("data") / "rooms", 9)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    return folder


def feed(rooms, recipe=RECIPE, **options):
    return training.open_pairs(rooms, SHAPE, **options).feed(recipe, loader="grain")


@pytest.fixture(scope="module")
def run(rooms, tmp_path_factory):
    """Shared: tests must not change it."""
    directory = tmp_path_factory.mktemp("runs") / "deep" / "run"
    return training.run_segmentation(
        make_encoder(), **feed(rooms), run_directory=directory, console=Console(file=io.StringIO())
    )


def read(path):
    return json.loads(path.read_text())


# === A run ===
def test_a_run_leaves_its_files_and_nothing_else(run):
    assert {path.name for path in run.iterdir()} == LEFT
    rows = list(csv.DictReader((run / "history.csv").open()))
    assert len(rows) == 2
    assert {"loss", "mean_iou", "val_mean_iou", "val_pixel_accuracy", "learning_rate"} <= rows[0].keys()
    assert float(rows[1]["learning_rate"]) < float(rows[0]["learning_rate"])
    known = read(run / "run.json")
    assert (known["protocol"], known["class_names"], known["num_classes"]) == ("segmentation", list(NAMES), 3)
    assert known["fingerprint"]["test"]["kind"] == "pairs"
    assert training.RunDirectory(run).recipe == RECIPE
    loaded = keras.saving.load_model(run / "segmenter.keras")
    assert (loaded.class_names, loaded.trainable_blocks, loaded.head_kind) == (NAMES, 0, "linear")
    assert int(loaded.optimizer.iterations) == 4


@pytest.mark.backends("torch")
def test_a_run_weighs_classes_by_their_pixels(rooms, tmp_path):
    """Of the images that it trains on; what it leaves knows how."""
    recipe = dataclasses.replace(RECIPE, epochs=1, class_weights="balanced")
    fed, quiet = feed(rooms, recipe), Console(file=io.StringIO())
    directory = training.run_segmentation(make_encoder(), **fed, run_directory=tmp_path / "run", console=quiet)
    source = fed["dataset"].batches.source
    labels = np.concatenate([source.labels_of(index).ravel() for index in range(8)])
    expected = transfer.balanced_class_weights(labels, 3)
    loaded = keras.saving.load_model(directory / "segmenter.keras")
    assert loaded.loss.class_weights == pytest.approx(expected)
    assert expected.min() < 0.9 < 1.1 < expected.max()
    assert read(directory / "run.json")["recipe"]["class_weights"] == "balanced"
    with pytest.raises(ValueError, match='`class_weights="balanced"` counts the masks of a dataset'):
        transfer.segment(make_encoder(), data.from_arrays(np.zeros((4, *SHAPE), "uint8"), batch_size=4), 3, recipe)


def test_scores_are_counted_at_the_masks_own_sizes(run, rooms):
    """By another way: images resized by hand, windows put together, logits resized as a whole."""
    segmenter, metrics = keras.saving.load_model(run / "segmenter.keras"), read(run / "metrics.json")
    source = training.open_pairs(rooms, SHAPE).test.in_own_sizes()
    assert (metrics["images"], len(source)) == (1, 1)
    images, masks = source.batch(np.array([0]), data.WholeImage(short_side=16))
    labels = source.labels_of(0)
    assert labels.shape != masks.shape[1:]
    logits = segmenter.predict(images, pad=True)
    whole = keras.ops.convert_to_numpy(dense.resizing.resized(keras.ops.convert_to_tensor(logits), labels.shape))
    counts = dense.confusion(labels, whole[0].argmax(-1), 3)
    assert np.abs(counts - np.array(metrics["confusion"])).sum() <= 2  # of equal logits either may be the largest
    expected = dense.scores_of(np.array(metrics["confusion"]))
    for name in ("mean_iou", "pixel_accuracy", "class_accuracy"):
        assert metrics[name] == pytest.approx(expected[name])
    assert list(metrics["iou_by_class"]) == list(NAMES)
    for value, iou in zip(metrics["iou_by_class"].values(), expected["iou"], strict=True):
        assert value == (None if np.isnan(iou) else pytest.approx(iou))


def test_a_trained_segmenter_is_scored_alike(run, rooms, tmp_path):
    segmenter = keras.saving.load_model(run / "segmenter.keras")
    test = training.open_pairs(rooms, SHAPE).test
    directory = training.run_segmentation_scores(segmenter, test, tmp_path / "scores")
    assert {path.name for path in directory.iterdir()} == {"confusion.png", "metrics.json", "segmentations.png"}
    assert read(directory / "metrics.json") == {
        **read(run / "metrics.json"),
        "backend": keras.backend.backend(),
    }


@pytest.mark.backends("torch")
def test_batches_are_scored_in_the_size_they_have(run, rooms, tmp_path):
    segmenter = keras.saving.load_model(run / "segmenter.keras")
    batches = data.pairs_from_directory(rooms, 16, 4, shuffle=False, loader="grain")
    found = read(training.run_segmentation_scores(segmenter, batches, tmp_path / "scores") / "metrics.json")
    scores = segmenter.evaluate(batches, verbose=0, return_dict=True)
    assert found["images"] == 9
    assert found["mean_iou"] == pytest.approx(scores["mean_iou"], abs=1e-6)


@pytest.mark.backends("torch")
def test_wrong_images_are_refused_before_anything_is_trained(run, rooms, tmp_path):
    segmenter = keras.saving.load_model(run / "segmenter.keras")
    other = write_pairs(tmp_path / "others")
    (other / "classes.txt").write_text("floor\ndoor\nwall")
    source = data.FolderPairs(other, 16)
    with pytest.raises(ValueError, match="The dataset's labels mean other classes"):
        training.run_segmentation_scores(segmenter, source, tmp_path / "scores")
    with pytest.raises(ValueError, match="The dataset's labels mean other classes"):
        training.open_pairs(rooms, SHAPE, test=other)
    (other / "classes.txt").unlink()
    more = data.FolderPairs(other, 16, num_classes=7)
    with pytest.raises(ValueError, match="no more classes than the segmenter, 3. Received: 7"):
        training.run_segmentation(make_encoder(), **{**feed(rooms), "test": more}, run_directory=tmp_path / "run")
    with pytest.raises(ValueError, match="`test` must be an array of images, or a dataset of batches"):
        training.run_segmentation(make_encoder(), **{**feed(rooms), "test": None}, run_directory=tmp_path / "run")
    assert not (tmp_path / "scores").exists()
    assert not (tmp_path / "run").exists()


# === Killed and gone on with ===
@pytest.mark.backends("torch")
def test_a_killed_run_ends_as_if_nothing_had_happened(rooms, tmp_path):
    recipe = dataclasses.replace(
        RECIPE, head="upernet", trainable_blocks=None, drop_path_rate=0.2, best_epoch=True, batch_size=3
    )

    def trained(name, *callbacks):
        options = {"callbacks": callbacks, "console": Console(file=io.StringIO())}
        options["saving"] = training.Saving(resume=True, every_steps=1)
        keras.utils.set_random_seed(5)
        directory = training.run_segmentation(
            make_encoder(), **feed(rooms, recipe, validation=0.2), run_directory=tmp_path / name, **options
        )
        saved = keras.saving.load_model(directory / "segmenter.keras")
        weights = [keras.ops.convert_to_numpy(weight) for weight in (*saved.weights, *saved.optimizer.variables)]
        return weights, (directory / "history.csv").read_text(), read(directory / "metrics.json")

    alone = trained("alone")
    with pytest.raises(MemoryError):
        trained("run", Stop(3, killed))
    again = trained("run")
    assert again[1:] == alone[1:]
    assert again[2]["epoch"] in (1, 2)
    for one, other in zip(again[0], alone[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT
    for name in ("segmentations.png", "curves.png"):  # as if they had failed
        (tmp_path / "run" / name).unlink()
    trained("run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == LEFT


# === Data ===
@pytest.mark.backends("torch")
def test_images_are_held_out(rooms):
    images = training.open_pairs(rooms, SHAPE, validation=0.25, num_labels=6)
    assert (len(images.train), len(images.validation), len(images.test)) == (4, 2, 1)
    assert (images.total, images.held_out, images.num_classes) == (9, 1, 3)
    more = training.open_pairs(rooms, SHAPE, num_labels=7)
    fewer = training.open_pairs(rooms, SHAPE, num_labels=3)
    assert {*data.file_names.names_of(fewer.train)} < {*data.file_names.names_of(more.train)}
    assert images.metadata["num_labels"] == 6
    with pytest.raises(ValueError, match=r"`num_labels` must be .*8"):
        training.open_pairs(rooms, SHAPE, num_labels=9)
    with pytest.raises(ValueError, match="`best_epoch` and `patience` look at `validation_data`"):
        training.open_pairs(rooms, SHAPE).feed(dataclasses.replace(RECIPE, patience=1))


@pytest.mark.backends("torch")
def test_parts_of_a_folder(tmp_path):
    folder = write_ade20k(tmp_path / "ade20k")
    images = training.open_pairs(folder, SHAPE, test_split="val")
    assert (len(images.train), len(images.test), images.held_out, images.num_classes) == (3, 2, 0, 150)
    assert images.class_names[0] == "thing 0, object"
    assert images.metadata["test_split"] == "val"


@pytest.mark.backends("torch")
def test_batches_go_by_the_recipe(rooms):
    images = training.open_pairs(rooms, SHAPE)
    batches = training.training_batches(images.train, RECIPE, loader="grain")
    pictures, masks = next(iter(batches))
    assert (pictures.shape, masks.shape) == ((4, 16, 16, 3), (4, 16, 16))
    with pytest.raises(ValueError, match="Images with masks take a SegmentationRecipe. Received: a FineTuneRecipe"):
        training.training_batches(images.train, recipes.FineTuneRecipe(), 3)
    with pytest.raises(ValueError, match="A SegmentationRecipe takes images with masks. Received: a source without"):
        training.training_batches(data.ArraySource(np.zeros((4, 8, 8, 1), "uint8")), RECIPE)


# === In Python ===
def test_segment_trains_what_the_recipe_says(rooms):
    encoder, batches = make_encoder(), data.pairs_from_directory(rooms, 16, 4, drop_remainder=True, loader="grain")
    before = [keras.ops.convert_to_numpy(weight) for weight in encoder.weights]
    recipe = dataclasses.replace(RECIPE, trainable_blocks=1, epochs=1)
    segmenter = transfer.segment(encoder, batches, 3, recipe, verbose=0)
    assert (segmenter.class_names, segmenter.trainable_blocks) == (NAMES, 1)
    assert segmenter.history.history.keys() >= {"loss", "mean_iou"}
    moved = [
        not np.array_equal(keras.ops.convert_to_numpy(now), then)
        for now, then in zip(segmenter.encoder.blocks[0].weights, encoder.blocks[0].weights, strict=True)
    ]
    assert any(moved)
    for weight, then in zip(encoder.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), then)


@pytest.mark.backends("torch")
def test_segment_may_end_with_its_best_epoch(rooms):
    batches = data.pairs_from_directory(rooms, 16, 4, drop_remainder=True, loader="grain")
    recipe = dataclasses.replace(RECIPE, best_epoch=True)
    with pytest.raises(ValueError, match="`best_epoch` and `patience` look at `validation_data`"):
        transfer.segment(make_encoder(), batches, 3, recipe)
    held_out = data.pairs_from_directory(rooms, 16, 4, shuffle=False, loader="grain")
    segmenter = transfer.segment(make_encoder(), batches, 3, recipe, validation_data=held_out, verbose=0)
    best = max(segmenter.history.history["val_mean_iou"])
    assert segmenter.evaluate(held_out, verbose=0, return_dict=True)["mean_iou"] == pytest.approx(best, abs=1e-6)


# === Logits at another size ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize("size", [(13, 9), (29, 40), (5, 7), (1, 1)])
def test_classes_are_those_of_resized_logits(size, monkeypatch):
    import torch

    logits = np.random.default_rng(0).standard_normal((13, 9, 5)).astype("float32")
    wanted = torch.nn.functional.interpolate(
        torch.tensor(logits.transpose(2, 0, 1))[None], size, mode="bilinear", align_corners=False
    )
    expected = wanted[0].numpy().argmax(axis=0)
    for at_once in (2**24, 1, 300):
        monkeypatch.setattr("keras_mae.dense.classes._NUMBERS_AT_ONCE", at_once)
        found = classes_at(logits, size)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)
