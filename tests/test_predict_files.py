"""What a classifier says of image files, and tables of it."""

import csv
import json
from pathlib import Path

import asking_helpers as helpers
import keras
import numpy as np
import pytest

import keras_mae
from keras_mae import file_predictions

TORCH = pytest.mark.backends("torch")
NAMES = [f"{name}/{number}.png" for name, count in helpers.SIZES.items() for number in range(count)]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    helpers.write_photos(tmp_path / "photos")
    return Path("photos")


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def read_csv(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_probabilities_are_the_softmax_of_the_images_logits(photos):
    classifier = helpers.classifier()
    found = classifier.predict_files(photos, batch_size=4)
    logits = keras.ops.convert_to_numpy(classifier(helpers.read(photos, NAMES)))
    np.testing.assert_allclose(found.probabilities, softmax(logits), atol=1e-5)
    assert found.files == tuple(f"photos/{name}" for name in NAMES)
    assert (found.class_names, found.probabilities.dtype) == (("cats", "dogs", "owls"), "float32")
    assert found.classes == [found.class_names[index] for index in logits.argmax(axis=1)]


@TORCH
def test_images_are_read_as_an_evaluation_reads_them(photos):
    """Whatever the recipe, to the bit: one gives the batches, the other the table."""
    classifier = helpers.classifier()
    images = keras_mae.training.open_test(photos, classifier.encoder.image_shape)
    recipe = keras_mae.recipes.FineTuneRecipe.for_size("base")
    batches = keras_mae.training.evaluation_batches(images, recipe)
    logits = classifier.predict(batches, verbose=0)
    crop = keras_mae.data.CenterCrop(**recipe.evaluation_crop(6))
    found = classifier.predict_files([photos], crop=crop)
    np.testing.assert_allclose(found.probabilities, softmax(logits), atol=1e-6)
    assert np.abs(classifier.predict_files([photos]).probabilities - found.probabilities).max() > 1e-3


@TORCH
def test_files_and_folders_go_in_the_order_given_each_once(photos):
    given = ["photos/dogs/1.png", photos / "cats", "photos/cats/3.png"]
    found = helpers.classifier().predict_files(given)
    assert found.files == ("photos/dogs/1.png", *(f"photos/{name}" for name in NAMES[:7]))
    absolute = (photos / "cats" / "0.png").absolute()
    assert helpers.classifier().predict_files(absolute).files == (absolute.as_posix(),)


@TORCH
def test_a_npy_file_with_a_damaged_header_is_one_clear_error(photos):
    np.save("x.npy", np.zeros((32, 32, 3), "uint8"))
    whole = Path("x.npy").read_bytes()
    Path("x.npy").write_bytes(whole.replace(b"'shape': (", b"'shape': [("))
    with pytest.raises(ValueError, match="x.npy"):
        helpers.classifier().predict_files("x.npy")


@TORCH
def test_a_prepared_folder_is_predicted_too(photos):
    keras_mae.data.prepare(photos, "shards", images_per_shard=5)
    found = helpers.classifier().predict_files("shards")
    assert found.files == tuple(NAMES)
    np.testing.assert_allclose(
        found.probabilities, helpers.classifier().predict_files(photos).probabilities, atol=1e-6
    )
    with pytest.raises(ValueError, match="by itself"):
        helpers.classifier().predict_files(["shards", photos])


@TORCH
def test_a_damaged_file_is_named_and_left_out_only_if_that_is_allowed(photos):
    bad = photos / "cats" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(Exception, match=r"photos/cats/2\.png"):
        helpers.classifier().predict_files(photos)
    with pytest.warns(UserWarning, match=r"1 of 13 images are damaged(?s:.*)cats/2\.png"):
        found = helpers.classifier().predict_files(photos, allow_damaged=0.1)
    assert len(found) == 12
    assert found.skipped[0][0] == "photos/cats/2.png"
    found.save("p.json")
    assert json.loads(Path("p.json").read_text())["skipped"] == [list(found.skipped[0])]


@TORCH
def test_binary_cross_entropy_takes_each_class_by_itself_and_another_loss_is_refused(photos):
    classifier = keras_mae.ViTClassifier(helpers.encoder(), 2)
    logits = classifier.predict(helpers.read(photos, NAMES), verbose=0)
    classifier.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    found = classifier.predict_files(photos)
    np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert found.class_names == ("0", "1")
    classifier.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    np.testing.assert_allclose(classifier.predict_files(photos).probabilities, softmax(logits), atol=1e-6)
    classifier.compile("sgd", keras.losses.MeanSquaredError())
    with pytest.raises(ValueError, match="MeanSquaredError"):
        classifier.predict_files(photos)


# === Tables ===
@TORCH
def test_a_table_has_a_header_and_a_line_an_image(photos):
    (photos / "cats" / "0.png").rename(photos / "cats" / '0, "a".png')
    found = helpers.classifier().predict_files(photos)
    found.save("p.csv")
    header, *rows = read_csv("p.csv")
    assert header == ["file", "class", "probability", *(f"probability of {name}" for name in found.class_names)]
    assert [row[0] for row in rows] == list(found.files)
    assert [row[1] for row in rows] == found.classes
    numbers = np.array([row[2:] for row in rows], "float32")
    np.testing.assert_array_equal(numbers[:, 1:], found.probabilities)
    np.testing.assert_array_equal(numbers[:, 0], found.probabilities.max(axis=1))
    found.save("p.json")
    written = json.loads(Path("p.json").read_text())
    assert written["class_names"] == list(found.class_names)
    assert written["predictions"][0]["file"] == 'photos/cats/0, "a".png'
    assert written["predictions"][3]["probabilities"] == {
        name: pytest.approx(float(number))
        for name, number in zip(found.class_names, found.probabilities[3], strict=True)
    }
    with pytest.raises(ValueError, match="must not exist"):
        found.save("p.csv")
    with pytest.raises(ValueError, match=r"\.csv or \.json"):
        found.save("p.txt")


@TORCH
@pytest.mark.parametrize("ending", ["csv", "json"])
def test_parts_join_to_the_whole_and_one_that_was_lost_is_named(photos, ending):
    classifier, join = helpers.classifier(), file_predictions.join_predictions
    classifier.predict_files(photos).save(f"whole.{ending}")
    parts = [f"{number}.{ending}" for number in (1, 2, 3)]
    for number, name in enumerate(parts, 1):
        classifier.predict_files(photos, part=(number, 3)).save(name)
    with pytest.raises(ValueError, match="2/3 missing"):
        join([parts[2], parts[0]], f"out.{ending}")
    classifier.predict_files("photos/cats", part=(1, 3)).save(f"other.{ending}")
    with pytest.raises(ValueError, match=f"other.{ending}' has other files"):
        join([*parts[1:], f"other.{ending}"], f"out.{ending}")
    for wrong in ("whole", "nowhere"):
        with pytest.raises(ValueError, match=wrong):
            join([*parts, f"{wrong}.{ending}"], f"out.{ending}")
    assert not Path(f"out.{ending}").exists()
    assert join([parts[2], parts[0], parts[1]], f"out.{ending}") == 13
    assert names_in(f"out.{ending}") == names_in(f"whole.{ending}")


def names_in(path):
    rows = json.loads(Path(path).read_text())["predictions"] if path.endswith("json") else read_csv(path)
    return [(row["file"], row["class"]) if isinstance(row, dict) else row[:2] for row in rows]
