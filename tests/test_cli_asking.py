"""`keras-mae predict`, `embed`, `similar`, `map` and `join`, run as a user types them."""

import csv
from pathlib import Path

import asking_helpers as helpers
import numpy as np
import pytest

import keras_mae
from keras_mae import transfer

NAMES = [f"{name}/{number}.png" for name, count in helpers.SIZES.items() for number in range(count)]


@pytest.fixture
def ask(keras_mae_command, tmp_path):
    """The command, in a folder with photographs, a classifier and an encoder."""
    helpers.write_photos(tmp_path / "photos")
    helpers.encoder().save(tmp_path / "encoder.keras")
    helpers.classifier().save(tmp_path / "classifier.keras")

    return helpers.asking(keras_mae_command)


def test_predict_prints_a_table_and_writes_one(ask):
    out = ask("predict", "classifier.keras", "photos", "--out", "p.csv")
    found = helpers.classifier().predict_files("photos")
    for word in ("photos/cats/0.png", found.classes[0], f"{found.probabilities[0].max():.1%}", "p.csv: 13 images"):
        assert word in out
    with open("p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == found.classes


@pytest.mark.backends("torch")
def test_predict_looks_at_what_the_recipe_says(ask):
    ask("predict", "classifier.keras", "photos", "--out", "p.csv", "--size", "base")
    crop = keras_mae.data.CenterCrop(224 / 256)
    expected = helpers.classifier().predict_files("photos", crop=crop).probabilities[0].max()
    with open("p.csv", newline="") as file:
        assert float(next(csv.DictReader(file))["probability"]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.backends("torch")
def test_predict_names_a_damaged_file(ask):
    bad = Path("photos/cats/2.png")
    bad.write_bytes(b"")
    status, _, err = ask.refused("predict", "classifier.keras", "photos", "--out", "p.csv")
    assert (status, "photos/cats/2.png" in err, Path("p.csv").exists()) == (2, True, False)
    assert "--allow-damaged 0.01 leaves out" in err
    assert "prepare FOLDER --check" in ask.refused("knn", "encoder.keras", "photos", "--k", "1")[2]
    with pytest.warns(UserWarning, match=r"cats/2\.png"):
        status, out, _ = ask.refused(
            "predict", "classifier.keras", "photos", "--out", "p.csv", "--allow-damaged", "0.1"
        )
    assert (status, "12 images" in out) == (0, True)


@pytest.mark.backends("torch")
def test_embed_similar_and_map(ask):
    out = ask("embed", "encoder.keras", "photos", "--out", "x.npz", "--pooling", "mean", "--block", "0")
    assert out.splitlines()[-1] == "x.npz: 13 images, features 12 wide, 2 classes"
    known = transfer.read_embeddings("x.npz")
    assert known.model_file() == Path("encoder.keras").absolute()

    Path("copy.png").write_bytes(Path("photos/dogs/2.png").read_bytes())
    out = ask("similar", "x.npz", "copy.png", "photos/cats/3.png", "--k", "2", "--out", "s.png")
    first = out.split("photos/cats/3.png")[0]
    assert "1.0000" in first
    assert "dogs/2.png" in first
    indices, cosines = transfer.nearest(known.features, known.features[[3]], 2, exclude=[3], center=True)
    for index, cosine in zip(indices[0], cosines[0], strict=True):
        assert NAMES[index] in out
        assert f"{cosine:.4f}" in out
    assert out.splitlines()[-2:] == [
        "cosines are of features minus their mean over the 13 images in x.npz",
        "s.png: 2 queries",
    ]
    assert Path("s.png").stat().st_size > 1000
    Path("photos/cats/3.png").unlink()
    out = ask("similar", "x.npz", "cats/3.png", "--k", "99", "--out", "s.png")
    assert out.splitlines()[-1] == "s.png: 1 query, 1 image not where they were; it replaces the one that was there"

    out = ask("map", "x.npz", "--method", "pca", "--thumbnails", "3")
    assert out.splitlines()[-1].startswith("map.html: 13 images by principal components")
    page = Path("map.html").read_text()
    assert '"title":"' + f"{Path.cwd().name}/photos: 13 images, features of {Path.cwd().name}/encoder.keras, " in page
    assert page.count("data:image/png") == 3
    assert all(f'"{name}"' in page for name in NAMES)


@pytest.mark.backends("torch")
def test_one_wrong_query_leaves_the_others_their_answers(ask):
    ask("embed", "encoder.keras", "photos", "--out", "x.npz")
    Path("bad.png").write_bytes(b"no image")
    wrong = ["4.png", "dog/1.png", "bad.png"]
    status, out, err = ask.refused("similar", "x.npz", "cats/3.png", *wrong, "dogs/2.png", "--out", "s.png")
    assert (status, out.splitlines()[-1], Path("s.png").exists()) == (1, "s.png: 2 queries", True)
    assert all(name in out for name in ("cats/3.png", "dogs/2.png"))
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("Received: '4.png'. Did you mean cats/4.png?")
    assert lines[1].endswith("Received: 'dog/1.png'. Did you mean cats/1.png?")
    assert "Cannot read the image file 'bad.png'" in lines[2]
    status, out, err = ask.refused("similar", "x.npz", *wrong, "--out", "t.png")
    assert (status, out, len(err.splitlines()), Path("t.png").exists()) == (2, "", 1, False)


@pytest.mark.backends("torch")
def test_one_missing_file_leaves_the_others_their_classes_and_pictures(ask):
    status, out, err = ask.refused("predict", "classifier.keras", "photos", "nowhere.png", "--out", "p.csv")
    assert (status, "p.csv: 13 images" in out) == (1, True)
    assert err.splitlines() == ["Error: There is no image file 'nowhere.png'"]
    encoder = keras_mae.ViTEncoder.from_config(helpers.encoder().get_config())
    keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2)).save("m.keras")
    status, out, err = ask.refused("reconstruct", "m.keras", "nowhere.png", "photos/cats/1.png", "--out", "r.png")
    assert (status, out, "nowhere.png" in err) == (1, "r.png: 1 image\n", True)


@pytest.mark.backends("torch")
def test_a_model_that_has_changed_or_moved_is_refused_or_said_where_it_is(ask):
    ask("embed", "encoder.keras", "photos", "--out", "x.npz")
    Path("copy.png").write_bytes(Path("photos/dogs/2.png").read_bytes())
    Path("encoder.keras").rename("moved.keras")
    status, _, err = ask.refused("similar", "x.npz", "copy.png")
    assert (status, "not there" in err) == (2, True)
    assert "1.0000" in ask("similar", "x.npz", "copy.png", "--model", "moved.keras")
    status, _, err = ask.refused("similar", "x.npz", "copy.png", "--model", "classifier.keras")
    assert (status, "unchanged" in err) == (2, True)
    assert "dogs/2.png" in ask("similar", "x.npz", "dogs/2.png")  # which takes no model


@pytest.mark.backends("torch")
def test_parts_of_a_folder_are_joined(ask):
    for number in (1, 2):
        ask("embed", "encoder.keras", "photos", "--out", f"x{number}.npz", "--part", f"{number}/2")
        ask("predict", "classifier.keras", "photos", "--out", f"p{number}.csv", "--part", f"{number}/2")
    assert ask("join", "x2.npz", "x1.npz", "--out", "x.npz") == "x.npz: 13 images, features 12 wide, 2 classes\n"
    assert transfer.read_embeddings("x.npz").files.tolist() == NAMES
    assert ask("join", "p2.csv", "p1.csv", "--out", "p.csv") == "p.csv: 13 images\n"
    status, _, err = ask.refused("join", "p2.csv", "--out", "q.csv")
    assert (status, "1/2 missing" in err) == (2, True)


@pytest.mark.backends("torch")
def test_a_masked_autoencoder_is_embedded_by_its_encoder(ask):
    decoder = keras_mae.MAEDecoder(8, 1, 2)
    keras_mae.MaskedAutoencoder(keras_mae.ViTEncoder.from_config(helpers.encoder().get_config()), decoder).save(
        "m.keras"
    )
    assert "13 images" in ask("embed", "m.keras", "photos", "--out", "x.npz")
    with np.load("x.npz") as arrays:
        assert arrays["files"][0] == "cats/0.png"
