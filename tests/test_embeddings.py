"""Embeddings: files of features with names, that remember how they were made, from one call or several."""

import contextlib
import csv
import json
import os
import shutil
import zipfile

import asking_helpers as helpers
import keras
import numpy as np
import pytest

import keras_mae
from keras_mae import transfer
from keras_mae.transfer import embedding, unfinished

TORCH = pytest.mark.backends("torch")


@pytest.fixture
def photos(tmp_path):
    helpers.write_photos(tmp_path / "photos")
    return tmp_path / "photos"


NAMES = [f"{name}/{number}.png" for name, count in helpers.SIZES.items() for number in range(count)]
LABELS = [0] * 7 + [1] * 6


def embed(photos, out="x.npz", **options):
    return transfer.embed(helpers.encoder(), photos, photos.parent / out, batch_size=4, progress=False, **options)


def test_features_are_those_of_the_images_with_their_names(photos):
    made = embed(photos)
    expected = transfer.extract_features(helpers.encoder(), helpers.read(photos, NAMES), progress=False)
    np.testing.assert_allclose(made.features, expected.features, atol=2e-5)
    assert made.files.tolist() == NAMES
    assert (made.labels.tolist(), made.class_names) == (LABELS, ("cats", "dogs"))
    assert made.classes == ["cats"] * 7 + ["dogs"] * 6
    with np.load(photos.parent / "x.npz") as arrays:  # as any program reads it
        assert sorted(arrays) == ["about", "class_names", "features", "files", "labels"]
        np.testing.assert_array_equal(arrays["features"], made.features)
        np.testing.assert_array_equal(arrays["files"], NAMES)


@TORCH
def test_features_are_mapped_and_not_read_and_lie_aligned(photos):
    features = embed(photos).features
    assert isinstance(features, np.memmap)
    assert features.ctypes.data % 64 == 0


@pytest.mark.parametrize(("pooling", "block"), [("mean", None), ("token", 0), ("mean", -2), ("flatten", None)])
def test_pooling_and_block_are_the_encoders(photos, pooling, block):
    made = embed(photos, pooling=pooling, block=block)
    encoder, images = helpers.encoder(), helpers.read(photos, NAMES)
    tokens = encoder.encode(images, blocks=(-1 if block is None else block,))[0]
    expected = keras.ops.convert_to_numpy(keras_mae.pooling.pool_tokens(encoder, tokens, pooling))
    np.testing.assert_allclose(made.features, expected, atol=2e-5)
    assert (made.about["pooling"], made.about["block"]) == (pooling, block)
    direct = transfer.extract_features(encoder, images, pooling=pooling, block=block, progress=False)
    np.testing.assert_allclose(direct.features, made.features, atol=2e-5)


@TORCH
def test_a_block_that_is_not_there_and_one_of_a_classifier_are_refused(photos):
    with pytest.raises(ValueError, match="block"):
        embed(photos, block=2)
    with pytest.raises(ValueError, match="block"):
        transfer.extract_features(helpers.classifier(), helpers.read(photos, NAMES), block=0)


@TORCH
def test_a_classifier_gives_what_its_head_sees_or_by_another_pooling_its_encoders(photos):
    classifier, images = helpers.classifier(), helpers.read(photos, NAMES)
    own, other = (
        transfer.embed(classifier, photos, photos.parent / f"{name}.npz", pooling=name, progress=False)
        for name in ("mean", "token")
    )
    np.testing.assert_allclose(own.features, keras.ops.convert_to_numpy(classifier.features(images)), atol=2e-5)
    expected = transfer.extract_features(classifier.encoder, images, pooling="token", progress=False).features
    np.testing.assert_allclose(other.features, expected, atol=2e-5)


@TORCH
def test_a_folder_without_class_folders_has_no_labels(photos):
    made = embed(photos / "cats", "../x.npz")
    assert (made.labels, made.class_names, made.classes) == (None, None, None)
    (photos / "loose.png").write_bytes((photos / "cats" / "0.png").read_bytes())
    assert embed(photos, "y.npz").labels is None


@TORCH
def test_a_prepared_folder_gives_the_names_and_labels_of_what_it_was_made_from(photos):
    keras_mae.data.prepare(photos, photos.parent / "shards", labeled=True, images_per_shard=5)
    made, plain = embed(photos.parent / "shards"), embed(photos, "plain.npz")
    assert made.files.tolist() == NAMES
    np.testing.assert_array_equal(made.features, plain.features)
    np.testing.assert_array_equal(made.labels, plain.labels)
    parts = [embed(photos.parent / "shards", f"{number}.npz", part=(number, 2)) for number in (1, 2)]
    assert [*parts[0].files, *parts[1].files] == NAMES
    np.testing.assert_array_equal([*parts[1].read_images([1])], [*plain.read_images([7])])


# === Queries ===
@TORCH
def test_an_image_is_found_by_name_and_by_path(photos, monkeypatch):
    made = embed(photos)
    monkeypatch.chdir(photos.parent)
    os.symlink(photos, "link")
    queries = ["cats/3.png", "photos/cats/3.png", photos / "cats" / "3.png", "link/cats/3.png"]
    assert [made.find(query) for query in queries] == [3] * 4
    monkeypatch.chdir(photos / "dogs")
    (photos / "dogs" / "cats").mkdir()
    (photos / "dogs" / "cats" / "3.png").write_bytes((photos / "dogs" / "0.png").read_bytes())
    assert made.find("cats/3.png") is None  # a file that is there is meant, and it is another one
    assert made.find("nowhere.png") is None


def test_another_image_is_embedded_as_the_folders_were(photos):
    made = embed(photos, pooling="mean", block=0)
    (photos.parent / "copy.png").write_bytes((photos / "dogs" / "2.png").read_bytes())
    files = [photos.parent / "copy.png", photos / "cats" / "1.png", photos.parent / "copy.png"]
    found = made.embed(helpers.encoder(), files)
    np.testing.assert_allclose(found, made.features[[9, 1, 9]], atol=2e-5)
    with pytest.raises(ValueError, match="model"):
        made.embed(keras_mae.ViTEncoder((4, 6, 3), 2, embed_dim=12, depth=2, num_heads=3), files)


@TORCH
def test_the_file_of_the_model_must_be_there_and_be_what_it_was(photos):
    file = photos.parent / "encoder.keras"
    helpers.encoder().save(file)
    made = embed(photos, model_file=file)
    assert made.model_file() == file
    os.rename(file, photos.parent / "moved.keras")
    with pytest.raises(ValueError, match="not there"):
        made.model_file()
    assert made.model_file(photos.parent / "moved.keras") == photos.parent / "moved.keras"
    file.write_bytes(b"another")
    with pytest.raises(ValueError, match="unchanged"):
        made.model_file()
    with pytest.raises(ValueError, match="do not remember"):
        embed(photos, "y.npz").model_file()


@TORCH
def test_images_are_read_as_the_model_saw_them_and_missing_ones_are_none(photos):
    made = embed(photos)
    os.remove(photos / "cats" / "4.png")
    there, gone = made.read_images([9, 4])
    np.testing.assert_array_equal(there, helpers.read(photos, NAMES[9:10])[0])
    assert gone is None
    foreign = transfer.Embeddings(made.features, np.array(["../encoder.keras"] * 13), about=made.about)
    assert [*foreign.read_images([0])] == [None]  # no name leads out of the folder


# === Formats ===
@TORCH
def test_csv_holds_names_classes_and_features_to_the_last_bit(photos):
    made = embed(photos)
    os.rename(photos / "cats" / "0.png", os.fsencode(photos / "cats") + b"/0\xff.png")
    assert embed(photos, "x.csv") is None
    with open(photos.parent / "x.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "label", *(f"feature_{index}" for index in range(12))]
    assert [row[0] for row in rows] == ["cats/0\udcff.png", *NAMES[1:]]
    assert [row[1] for row in rows] == ["cats"] * 7 + ["dogs"] * 6
    np.testing.assert_array_equal(np.array([row[2:] for row in rows], "float32"), made.features)
    with pytest.raises(ValueError, match="UTF-8"):
        embed(photos, "x.parquet")
    assert not (photos.parent / "x.parquet.begun").exists()


@TORCH
def test_parquet_holds_names_classes_features_and_how_they_were_made(photos):
    parquet = pytest.importorskip("pyarrow.parquet")
    made = embed(photos)
    embed(photos, "x.parquet")
    table = parquet.read_table(photos.parent / "x.parquet")
    assert table.column("file").to_pylist() == NAMES
    assert table.column("label").to_pylist() == made.classes
    np.testing.assert_array_equal(np.array(table.column("features").to_pylist(), "float32"), made.features)
    assert json.loads(table.schema.metadata[b"keras_mae"]) == made.about


@TORCH
def test_files_that_are_no_embeddings_or_damaged_are_one_clear_error(photos):
    embed(photos)
    whole = (photos.parent / "x.npz").read_bytes()
    features = np.ones((2, 3), "float32")
    files = {
        "text.npz": b"no archive",
        "cut.npz": whole[: len(whole) // 2],
        "short.npz": whole.replace(b"(13, 12)", b"(14, 12)"),  # more rows than there are
        "names.npz": {"features": features, "files": np.array(["a"])},
        "labels.npz": {"features": features, "files": np.array(["a", "b"]), "labels": np.array([0, -1])},
        "objects.npz": {"features": features, "files": np.array(["a", None], object)},
        "none.npz": {"features": features[:0], "files": np.zeros(0, "U1")},
        "about.npz": {"features": features, "files": np.array(["a", "b"]), "about": np.array("[1]")},
    }
    for entry in ('"part": 3', '"image_shape": [8, 8]', '"pixel_range": ["0", 255]', '"model": "m"', '"folder": 1'):
        about = np.array(f"{{{entry}}}")
        files[f"about {entry[1:5]}.npz"] = {"features": features, "files": np.array(["a", "b"]), "about": about}
    for name, content in files.items():
        path = photos.parent / name
        path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
        with pytest.raises(ValueError, match=name):
            transfer.read_embeddings(path)
    np.savez_compressed(photos.parent / "other.npz", features=features, files=np.array(["a", "b"]))
    other = transfer.read_embeddings(photos.parent / "other.npz")  # another program's
    assert (other.about, [*other.read_images([0])], len(other)) == ({}, [None], 2)
    with pytest.raises(ValueError, match="do not remember"):
        other.embed(helpers.encoder(), ["a"])


@TORCH
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_byte_is_one_clear_error_or_none(tmp_path, save):
    path = tmp_path / "x.npz"
    save(path, features=np.ones((3, 4), "float32"), files=np.array(["a", "b", "c"]))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with contextlib.suppress(ValueError):
            transfer.read_embeddings(path)


# === One file in several goes ===
@TORCH
def test_a_file_that_is_there_is_kept(photos, monkeypatch):
    first = embed(photos)
    monkeypatch.setattr(embedding, "feature_batches", None)
    assert embed(photos).files.tolist() == first.files.tolist()  # the same call: nothing is computed
    for name, options in {"pooling": {"pooling": "mean"}, "data": {}}.items():
        if not options:
            os.utime(photos / "cats" / "0.png", (1, 1))
        with pytest.raises(ValueError, match=f"out.*another {name}"):
            embed(photos, **options)
    (photos.parent / "x.csv").write_text("mine")
    with pytest.raises(ValueError, match="`out` .* must not exist"):
        embed(photos, "x.csv")


@pytest.fixture
def pieces(monkeypatch):
    """Pieces of four images, and the images whose features were computed."""
    seen = []
    monkeypatch.setattr(unfinished, "_IMAGES", 4)

    def watched(*args, **options):
        for features, labels in transfer.features.feature_batches(*args, **options):
            seen.append(len(features))
            yield features, labels

    monkeypatch.setattr(embedding, "feature_batches", watched)
    return seen


@TORCH
def test_an_interrupted_call_goes_on_where_it_stopped(photos, pieces, monkeypatch):
    embed(photos, "whole.npz")
    pieces.clear()
    save = np.savez

    def interrupted(*args, **arrays):
        if len(pieces) == 3:
            raise KeyboardInterrupt
        save(*args, **arrays)

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed(photos)
    assert not (photos.parent / "x.npz").exists()
    with pytest.raises(ValueError, match="another pooling"):
        embed(photos, pooling="mean")
    pieces.clear()
    embed(photos)
    assert sum(pieces) == len(NAMES) - 8
    assert (photos.parent / "x.npz").read_bytes() == (photos.parent / "whole.npz").read_bytes()
    assert not (photos.parent / "x.npz.begun").exists()


class Killed(BaseException):
    """What ends a process at once: nothing is tidied up."""


@TORCH
def test_kills_leave_nothing_that_looks_whole(photos, pieces, monkeypatch):
    """At renames: of the plan, of each of four pieces, and of the file."""
    replace = os.replace
    for renames in (0, 1, 3, 2, 2):  # those that come later go on from what is there
        left = [renames]

        def killed(source, target, left=left):
            if not left[0]:
                raise Killed
            left[0] -= 1
            replace(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", killed)
            patched.setattr(shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                embed(photos)
        assert not (photos.parent / "x.npz").exists()
    assert sum(pieces) == len(NAMES) + 4 + 4 + 1  # three kills lost a piece each, and the last piece is of one image
    embed(photos)
    embed(photos, "whole.npz")
    assert (photos.parent / "x.npz").read_bytes() == (photos.parent / "whole.npz").read_bytes()
    assert not (photos.parent / "x.npz.begun").exists()


@TORCH
def test_features_that_are_not_finite_are_an_error_that_names_the_image(photos, monkeypatch):
    def broken(*args, **options):
        yield np.array([[1.0], [np.nan]] + [[1.0]] * 11, "float32"), None

    monkeypatch.setattr(embedding, "feature_batches", broken)
    with pytest.raises(ValueError, match=r"finite.*cats/1\.png"):
        embed(photos)


# === Parts ===
@TORCH
def test_parts_join_to_the_whole_and_one_that_was_lost_is_named(photos):
    whole = embed(photos)
    paths = [photos.parent / f"{number}.npz" for number in (1, 2, 3)]
    parts = [embed(photos, path.name, part=(number, 3)) for number, path in enumerate(paths, 1)]
    assert [len(part) for part in parts] == [4, 4, 5]
    out = photos.parent / "joined.npz"
    for wrong, message in (
        (paths[:2], "3/3 missing"),
        ([*paths, paths[0]], "1/3 given twice"),
        ([*paths[:2], photos.parent / "x.npz"], "of one whole"),
    ):
        with pytest.raises(ValueError, match=message):
            transfer.join_embeddings(wrong, out)
    embed(photos, "other.npz", part=(3, 3), pooling="mean")
    with pytest.raises(ValueError, match="another pooling"):
        transfer.join_embeddings([*paths[:2], photos.parent / "other.npz"], out)
    assert not out.exists()
    joined = transfer.join_embeddings([paths[2], paths[0], paths[1]], out)
    assert joined.files.tolist() == NAMES
    np.testing.assert_array_equal(joined.labels, LABELS)
    np.testing.assert_allclose(joined.features, whole.features, atol=2e-5)
    assert joined.find("dogs/5.png") == 12
    with pytest.raises(ValueError, match="must not exist"):
        transfer.join_embeddings(paths, out)
    with pytest.raises(ValueError, match="at most 13 parts"):
        embed(photos, "y.npz", part=(1, 14))


@TORCH
def test_the_archive_is_one_that_unzip_reads(photos):
    embed(photos)
    with zipfile.ZipFile(photos.parent / "x.npz") as archive:
        assert archive.testzip() is None
