"""What is asked of a model about arrays in files and images of prepared folders; bands of pictures."""

import csv
import json
from pathlib import Path

import asking_helpers as helpers
import numpy as np
import pytest
from PIL import Image
from science_helpers import write_hdf5

import keras_mae
from keras_mae import anomaly, transfer

pytestmark = pytest.mark.backends("torch")
IMAGES = np.random.default_rng(5).integers(0, 256, (13, 8, 6, 3), "uint8")
LABELS = np.array([1] * 8 + [0] * 5)


@pytest.fixture
def ask(keras_mae_command, tmp_path):
    """The command, in a folder with an encoder and a classifier."""
    helpers.encoder().save(tmp_path / "encoder.keras")
    helpers.classifier().save(tmp_path / "classifier.keras")

    return helpers.asking(keras_mae_command)


def written(kind):
    """The name of a file, or of an array in one, that holds IMAGES."""
    if kind == "npy":
        np.save("cells.npy", IMAGES)
        return "cells.npy"
    if kind == "hdf5":
        return write_hdf5(Path("cells.h5"), images=IMAGES, labels=LABELS) + "::images::labels"
    zarr = pytest.importorskip("zarr")
    zarr.create_array("cells.zarr", shape=IMAGES.shape, chunks=(1, *IMAGES.shape[1:]), dtype="uint8")[...] = IMAGES
    return "cells.zarr"  # a folder, which is no folder of images


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["npy", "hdf5", "zarr"])
def test_arrays_in_files_are_predicted_and_embedded(ask, kind):
    name = written(kind)
    assert "p.csv: 13 images" in ask("predict", "classifier.keras", name, "--out", "p.csv")
    logits = helpers.classifier().predict(IMAGES, verbose=0)
    assert [row["class"] for row in rows_of("p.csv")] == [("cats", "dogs", "owls")[best] for best in logits.argmax(1)]
    assert rows_of("p.csv")[3]["file"] == {"npy": "cells.npy[3]", "hdf5": "images[3]", "zarr": "cells.zarr[3]"}[kind]

    ask("embed", "encoder.keras", name, "--out", "x.npz")
    known = transfer.read_embeddings("x.npz")
    directly, _ = transfer.extract_features(helpers.encoder(), IMAGES, pooling="token")
    np.testing.assert_allclose(known.features, directly, atol=1e-5)
    np.testing.assert_array_equal(np.stack([*known.read_images([12, 0])]), IMAGES[[12, 0]])
    assert known.classes == (["1"] * 8 + ["0"] * 5 if kind == "hdf5" else None)


def test_parts_of_an_array_are_parts_of_its_predictions(ask):
    name = written("hdf5")
    for number in (1, 2):
        ask("predict", "classifier.keras", name, "--out", f"{number}.csv", "--part", f"{number}/2")
    assert ask("join", "1.csv", "2.csv", "--out", "p.csv") == "p.csv: 13 images\n"
    assert [row["file"] for row in rows_of("p.csv")] == [f"images[{index}]" for index in range(13)]


def test_a_npy_file_of_three_dimensions_is_one_image_and_an_array_goes_alone(ask):
    np.save("one.npy", IMAGES[0])
    found = helpers.classifier().predict_files("one.npy")
    assert (found.files, len(found)) == (("one.npy",), 1)
    np.save("many.npy", IMAGES)
    status, _, err = ask.refused("predict", "classifier.keras", "one.npy", "many.npy")
    assert (status, "An array of images is asked about by itself" in err) == (2, True)
    status, _, err = ask.refused("predict", "classifier.keras", "nowhere.h5::images")
    assert (status, "There is no file 'nowhere.h5'" in err) == (2, True)


@pytest.mark.parametrize("command", ["similar", "map"])
def test_bands_of_pictures_are_chosen(ask, monkeypatch, command):
    images = np.zeros((6, 8, 6, 3), "uint8")
    images[..., 2] = 200
    np.save("blue.npy", images)
    ask("embed", "encoder.keras", "blue.npy", "--out", "x.npz")
    drawn, module = [], "retrieval" if command == "similar" else "page"
    as_shown = getattr(keras_mae.visualize, module).as_shown

    def noted(image, bands, pixel_range):
        drawn.append(as_shown(image, bands, pixel_range))
        return drawn[-1]

    monkeypatch.setattr(f"keras_mae.visualize.{module}.as_shown", noted)
    options = {"similar": ["blue.npy[0]", "--out", "s.png"], "map": ["--method", "pca"]}[command]
    for bands, brightest in (("2", [1]), ("2,0,1", [1, 0, 0])):
        ask(command, "x.npz", *options, "--bands", bands)
        np.testing.assert_allclose(drawn[-1][0, 0], np.array(brightest) * 200 / 255, atol=1e-6)
    for wrong in ("3", "0,1", "x"):
        status, _, err = ask.refused(command, "x.npz", *options, "--bands", wrong)
        assert (status, "`bands` must be" in err) == (2, True)


# === Anomalies ===
@pytest.fixture
def scored(ask):
    """Options of a quick detector, after folders of normal and of other images, by name."""
    for index, image in enumerate(IMAGES):
        folder = Path("test") / ("good" if LABELS[index] else "bad")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index:02}.png")
    np.save("normal.npy", np.random.default_rng(6).integers(0, 256, (12, 8, 6, 3), "uint8"))
    return ["--quantile", 0.5, "--pictures", 2, "--bands", "1"]


@pytest.mark.filterwarnings("ignore:The threshold is little more")
def test_prepared_folders_and_arrays_are_scored_as_the_folder_is(ask, scored):
    pytest.importorskip("array_record")
    keras_mae.data.prepare("test", "shards")
    order = np.argsort(np.concatenate([np.flatnonzero(LABELS == 0), np.flatnonzero(LABELS == 1)]))
    array = write_hdf5(Path("t.h5"), images=IMAGES, labels=LABELS) + "::images::labels"
    found = {}
    for name, test, more in (("f", "test", []), ("s", "shards", []), ("a", array, ["--normal-class", "1"])):
        ask("anomaly", "encoder.keras", "normal.npy", test, "--out", name, *scored, *more)
        metrics = json.loads(Path(name, "metrics.json").read_text())
        found[name] = rows_of(Path(name, "scores.csv")), metrics["auroc"], metrics["anomalous"]
        assert Path(name, "heat_maps.png").stat().st_size > 1000
    assert found["f"] == found["s"]
    assert found["a"][1:] == found["f"][1:]
    by_file = {row.pop("file"): row for row in found["f"][0]}
    names = sorted(by_file)
    for row in found["a"][0]:
        index = int(row.pop("file").removeprefix("images[").removesuffix("]"))
        assert row == by_file[names[order[index]]]
    ask("anomaly", "encoder.keras", "normal.npy", array, *scored)
    assert Path("runs/anomaly-t.h5-images-labels-1").is_dir()


def test_what_cannot_be_scored_is_refused(ask, scored):
    Path("masks").mkdir()
    array = write_hdf5(Path("t.h5"), images=IMAGES, labels=LABELS) + "::images"
    for test, more, message in (
        (array, ["--masks", "masks"], "are files of their own"),
        (array, ["--normal-class", "1"], "13 images that have no class"),
        (f"{array}::labels", ["--normal-class", "good"], "which are: 0, 1"),
        ("normal.npy", [], "must not lie in `normal`"),
    ):
        status, _, err = ask.refused("anomaly", "encoder.keras", "normal.npy", test, *scored, *more)
        assert (status, message in " ".join(err.split())) == (2, True), err


def test_images_of_another_shape_than_the_models_are_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("wide.npy", np.zeros((70, 8, 24, 3), "uint8"))
    with pytest.warns(UserWarning, match="64 of 64 images looked at are cut to the model's shape, up to 75%"):
        anomaly.open_scored("wide.npy", (8, 6, 3))
