"""Arrays of many images in HDF5, Zarr and .npy files: names, laziness, labels, loaders, and what is refused."""

import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_helpers import LOADERS, epoch
from science_helpers import array_of, write_hdf5, write_zarr

import keras_mae
from keras_mae import data, training
from keras_mae.data.array_files import data_name, is_array_name
from keras_mae.data.levels import Levels

on_one = pytest.mark.backends("torch")
IMAGES = np.stack([array_of("uint16", 13, number, (8, 9)) for number in range(7)])
LABELS = np.array([0, 2, 1, 0, 2, 1, 0])
LEVELS = {"pixel_range": (0, 10000)}


def written(kind, folder):
    """The name of an array of IMAGES, and of LABELS where the format has room for them."""
    if kind == "npy":
        np.save(folder / "cells.npy", IMAGES)
        return str(folder / "cells.npy")
    if kind == "hdf5":
        return write_hdf5(folder / "cells.h5", images=IMAGES, labels=LABELS) + "::images::labels"
    pytest.importorskip("zarr")
    version = int(kind[-1])
    return write_zarr(folder / "cells.zarr", version, images=IMAGES, labels=LABELS) + "::images::labels"


KINDS = ["npy", "hdf5", "zarr 2", "zarr 3"]


@on_one
@pytest.mark.parametrize("kind", KINDS)
def test_images_are_read_by_index(kind, tmp_path):
    name = written(kind, tmp_path)
    source = data.ArrayFileSource(name, **LEVELS)
    assert source.image_shape == (8, 9, 13)
    assert source.sized
    assert source.dtype == np.float32
    images, labels = source.batch(np.array([5, 0, 5]))
    np.testing.assert_array_equal(images, IMAGES[[5, 0, 5]])
    if kind != "npy":
        assert labels.tolist() == [1, 0, 1]
        assert source.class_names == ("0", "1", "2")
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.batch(np.array([3]))[0], IMAGES[[3]])
    assert again.fingerprint() == source.fingerprint()
    assert data.pixel_statistics(name) == data.pixel_statistics(IMAGES)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", KINDS)
def test_both_loaders_read_an_array_in_a_file(kind, loader, tmp_path):
    batches = data.from_array_file(written(kind, tmp_path), 4, shuffle=False, loader=loader, **LEVELS)
    found = [batch[0] if isinstance(batch, tuple) else batch for batch in epoch(batches)]
    np.testing.assert_array_equal(np.concatenate(found), IMAGES)


@on_one
def test_a_worker_process_opens_the_file_for_itself(tmp_path):
    name = written("zarr 3", tmp_path)
    one, two = (
        epoch(data.from_array_file(name, 3, loader="grain", workers=workers, image_size=4, **LEVELS))
        for workers in (None, 1)
    )
    for (first, labels), (second, others) in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(labels, others)


@on_one
def test_only_the_images_of_a_batch_are_read(tmp_path, monkeypatch):
    source = data.ArrayFileSource(written("hdf5", tmp_path), **LEVELS)
    read = []

    class Noted:
        def __getitem__(self, index):
            read.append(index)
            return IMAGES[index]

    monkeypatch.setattr(source, "_array", Noted)
    source.batch(np.array([6, 2]))
    assert read == [6, 2]


@on_one
def test_bytes_floats_and_gray_images(tmp_path):
    gray = np.arange(2 * 8 * 8, dtype="uint8").reshape(2, 8, 8) * 2
    name = write_hdf5(tmp_path / "a.h5", gray=gray, deep=gray.astype("uint16") * 16, floats=gray.astype("float32"))
    source = data.ArrayFileSource(f"{name}::gray", channels=3)
    assert source.dtype == np.uint8
    np.testing.assert_array_equal(source.batch(np.arange(2))[0], np.repeat(gray[..., None], 3, -1))
    floats = data.ArrayFileSource(f"{name}::floats")
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats.batch([1])[0][0, ..., 0], gray[1])
    with pytest.raises(ValueError, match="`images` must be integers or floats in 0-255"):
        data.ArrayFileSource(f"{name}::deep")
    white = data.ArrayFileSource(f"{name}::deep", white_level=4095).batch([1])[0][0, ..., 0]
    np.testing.assert_array_equal(white, (gray[1] * 16.0 / (4095 / 255)).round())


# === Names ===
@on_one
def test_names_of_arrays():
    assert is_array_name("a.h5::x")
    assert is_array_name(Path("b/photos.zarr"))
    assert not is_array_name("photos")
    assert not is_array_name("digits")
    assert data_name("b/c/cells.h5::group/images") == "cells.h5::group/images"
    assert data_name("b/photos/") == "photos"


@on_one
@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("", r"name an array in it; it holds group/images \(7, 8, 9, 13\), labels \(7,\)"),
        ("::nothing", r"it holds no array 'nothing'; it holds group/images"),
        ("::group", "name an array in it"),
        ("::group/images/x", "it holds no array"),
        ("::../images", "leads to it from the top of its file"),
        ("::a::b::c", "An array in a file is named FILE::IMAGES or"),
        ("::labels", r"must have the shape \(images, height, width, channels\)"),
        ("::group/images::group/images", "Labels of .* must be integers from 0, one for each of its 7 images"),
    ],
)
@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_a_wrong_name_is_answered_with_what_there_is(kind, inside, message, tmp_path):
    path = tmp_path / f"cells.{kind}"
    if kind == "h5":
        write_hdf5(path, **{"group/images": IMAGES, "labels": LABELS})
    else:
        pytest.importorskip("zarr")
        write_zarr(path, 3, **{"group/images": IMAGES, "labels": LABELS})
        message = message.replace("group/images (7", "labels (7")
        if inside in ("", "::nothing"):
            message = "name an array in it" if not inside else "it holds no array 'nothing'"
    with pytest.raises(ValueError, match=message) as error:
        data.ArrayFileSource(f"{path}{inside}", **LEVELS)
    assert "\n" not in str(error.value)


@on_one
def test_other_names_are_refused(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"")
    for name, message in (
        (tmp_path / "none.h5::x", "There is no file"),
        (f"{tmp_path}/a.npy::x", "An array in a file is named"),
        (f"{tmp_path}/a.txt::x", "An array in a file is named"),
        (tmp_path / "a.npy", "Cannot read the array in"),
    ):
        with pytest.raises(ValueError, match=message):
            data.ArrayFileSource(name)


# === Files from strangers ===
@on_one
def test_a_file_that_leads_to_others_is_refused(tmp_path):
    secret = write_hdf5(tmp_path / "secret.h5", images=IMAGES)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink(secret, "/images")
        file["soft"] = h5py.SoftLink("/link")
        layout = h5py.VirtualLayout(IMAGES.shape, "uint16")
        layout[:] = h5py.VirtualSource(secret, "images", IMAGES.shape)
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (1, 8, 8), "uint8", external=[(secret, 0, 64)])
        file.create_dataset("names", data=["a", "b"])
    for name, message in (
        ("link", "is a link to another file, .* which is not followed"),
        ("soft", "'soft' is a link, to '/link'"),
        ("virtual", "'virtual' holds parts of other files"),
        ("raw", "'raw' holds parts of other files"),
        ("names", "must have the shape"),
    ):
        with pytest.raises(ValueError, match=message):
            data.ArrayFileSource(f"{tmp_path}/a.h5::{name}", **LEVELS)


@on_one
def test_a_store_runs_nothing_and_leads_nowhere(tmp_path):
    pytest.importorskip("zarr")
    name = write_zarr(tmp_path / "a.zarr", 2, images=IMAGES)
    about = tmp_path / "a.zarr" / "images" / ".zarray"
    known = json.loads(about.read_text())
    for codec, message in (
        ("base64", "it is encoded by base64, which is not read"),
        ("pickle", "Cannot read the array"),
    ):
        about.write_text(json.dumps(known | {"filters": [{"id": codec}]}))
        with pytest.raises(ValueError, match=message):
            data.ArrayFileSource(f"{name}::images", **LEVELS)
    about.write_text(json.dumps(known))
    os.symlink("/etc/passwd", tmp_path / "a.zarr" / "images" / "9.0.0.0")
    with pytest.raises(ValueError, match=r"'9.0.0.0' in it is a link, which may lead out of the store"):
        data.ArrayFileSource(f"{name}::images", **LEVELS)
    write_zarr(tmp_path / "b.zarr", 2, images=IMAGES)
    os.symlink(tmp_path / "b.zarr", tmp_path / "a.zarr" / "out")
    with pytest.raises(ValueError, match="leads out of the store"):
        data.ArrayFileSource(f"{name}::out/images", **LEVELS)


@on_one
@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_sizes_are_looked_at_before_anything_is_read(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("wide", (2, 200_000, 200_000), "float64", chunks=(1, 8, 8))
            file.create_dataset("thick", (2**20, 64, 64), "float64", chunks=(2**20 // 4, 64, 64))
    else:
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(path, mode="w")
        group.create_array("wide", shape=(2, 200_000, 200_000), dtype="float64", chunks=(1, 8, 8))
        group.create_array("thick", shape=(2**20, 64, 64), dtype="float64", chunks=(2**20, 64, 64))
    for name in ("wide", "thick"):
        with pytest.raises(ValueError, match=r"numbers of 8 bytes, which take .* raise `max_pixels`"):
            data.ArrayFileSource(f"{path}::{name}", **LEVELS)


@on_one
def test_a_damaged_image_is_named(tmp_path):
    name = write_hdf5(tmp_path / "a.h5", images=IMAGES)
    with h5py.File(name) as file:
        where = file["images"].id.get_chunk_info(3)  # which is not among those that are looked at when it is opened
    content = bytearray(Path(name).read_bytes())
    content[where.byte_offset : where.byte_offset + 20] = b"\xff" * 20
    Path(name).write_bytes(content)
    again = data.ArrayFileSource(f"{name}::images", **LEVELS)
    with pytest.raises(ValueError, match=r"Cannot read image 3 of '.*a.h5::images'") as error:
        again.batch(np.arange(7))
    assert "\n" not in str(error.value)
    low = np.where(np.arange(7)[:, None, None, None] == 2, -1, IMAGES.astype("int16"))
    np.save(tmp_path / "b.npy", low)
    below = data.ArrayFileSource(tmp_path / "b.npy", pixel_range=(-1, 10000))
    below.levels = Levels((0, 10000))
    with pytest.raises(ValueError, match=r"Cannot read image 2 of .*b.npy': it holds 16-bit signed integers from -1"):
        below.batch(np.arange(7))


# === Commands ===
def test_features_of_an_array_in_a_file_are_those_of_the_array(tmp_path):
    name = written("hdf5", tmp_path)
    encoder = keras_mae.ViTEncoder((8, 9, 13), patch_size=(4, 3), embed_dim=8, depth=1, num_heads=2, **LEVELS)
    batches = data.from_array_file(name, 4, shuffle=False, **LEVELS)
    features, labels = keras_mae.transfer.extract_features(encoder, batches)
    directly, _ = keras_mae.transfer.extract_features(encoder, IMAGES.astype("float32"))
    np.testing.assert_allclose(features, directly, rtol=0, atol=1e-6)
    assert labels.tolist() == LABELS.tolist()


@on_one
def test_commands_open_arrays_in_files_by_their_name(tmp_path):
    name = written("hdf5", tmp_path)
    images = training.open_unlabeled(name, (8, 9, 13), **LEVELS)
    assert images.metadata["data"] == "cells.h5::images::labels"
    assert images.example_names[1] == "images[1]"
    np.testing.assert_array_equal(images.examples, IMAGES)
    labeled = training.open_labeled(name, (8, 9, 13), test=name, **LEVELS)
    assert labeled.class_names == ("0", "1", "2")
    assert len(training.open_test(name, (8, 9, 13), **LEVELS)) == 7
    with pytest.raises(ValueError, match="Labels are a second array in the file, named FILE::IMAGES::LABELS"):
        training.open_labeled(name.removesuffix("::labels"), (8, 9, 13), **LEVELS)
    with pytest.raises(ValueError, match=r"`channels` must be 13, as '.*cells.h5::images' has"):
        training.open_unlabeled(name, (8, 9, 3), **LEVELS)


@on_one
def test_commands_train_and_score_on_an_array_in_a_file(tmp_path, monkeypatch, capsys):
    from keras_mae.cli import main

    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), "uint8")
    write_hdf5(tmp_path / "cells.h5", **{"group/images": images, "labels": np.arange(12) % 2})

    def command(*words):
        monkeypatch.setattr("sys.argv", ["keras-mae", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0, capsys.readouterr().err

    micro = ("--model", "mae_vit_micro_patch4_28", "--epochs", "1", "--batch-size", "6", "--distribution", "none")
    command("pretrain", "cells.h5::group/images", *micro, "--bands", "0")
    run = tmp_path / "runs" / "cells.h5-group-images-1"
    assert (run / "reconstructions.png").is_file()
    assert json.loads((run / "run.json").read_text())["data"] == "cells.h5::group/images"
    command("knn", str(run / "encoder.keras"), "cells.h5::group/images::labels", "--k", "1")
    assert (tmp_path / "runs" / "knn-cells.h5-group-images-labels-1" / "metrics.json").is_file()
