"""Folders of images that are arrays of numbers: both loaders, prepared, their features, and pictures of bands."""

import io
import json
import os

import numpy as np
import pytest
from data_helpers import LOADERS, epoch
from science_helpers import RANGES, WRITERS, array_of, dicom, npy, tiff

import keras_mae
from keras_mae import data
from keras_mae.data.folders import look_into

on_one = pytest.mark.backends("torch")


# === Folders ===
@pytest.fixture
def scenes(tmp_path):
    """Six 13-band files of uint16 in two classes."""
    for number in range(6):
        folder = tmp_path / "scenes" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.tif").write_bytes(tiff(array_of("uint16", 13, number)))
    return tmp_path / "scenes"


OPTIONS = {"channels": 13, "pixel_range": (0, 10000)}
WANTED = [array_of("uint16", 13, number).astype("float32") for number in (0, 2, 4, 1, 3, 5)]


@pytest.mark.parametrize("loader", LOADERS)
def test_a_folder_of_13_bands_is_read_by_both_loaders(scenes, loader):
    batches = data.from_directory(scenes, (11, 13), 4, labeled=True, shuffle=False, loader=loader, **OPTIONS)
    (first, labels), (second, _) = epoch(batches)
    np.testing.assert_array_equal(np.concatenate([first, second]), WANTED)
    assert labels.tolist() == [0, 0, 0, 1]


def test_a_prepared_folder_holds_the_same_numbers(scenes, tmp_path):
    pytest.importorskip("array_record")
    out = tmp_path / "shards"
    manifest = data.prepare(scenes, out, labeled=True, pixel_range=OPTIONS["pixel_range"])
    assert manifest["pixel_range"] == [0, 10000]
    assert json.loads((out / "manifest.json").read_text())["pixel_range"] == [0, 10000]
    source = data.open_directory(out, (11, 13), labeled=True, **OPTIONS)
    images, labels = source.batch(np.arange(6))
    np.testing.assert_array_equal(images, WANTED)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match=r"was prepared with pixel_range=\(0, 10000\), which must be the encoder's"):
        data.open_directory(out, 8, 13)
    with pytest.raises(ValueError, match="written with another pixel_range"):
        data.prepare(scenes, out, labeled=True, pixel_range=(0, 10001))


@on_one
def test_prepared_images_are_resized_in_their_own_integers(scenes, tmp_path):
    pytest.importorskip("array_record")
    data.prepare(scenes, tmp_path / "shards", short_side=8, pixel_range=OPTIONS["pixel_range"])
    record = data.open_directory(tmp_path / "shards", 8, **OPTIONS)._read([0])[0][0]
    stored = np.load(io.BytesIO(record))
    assert stored.dtype == np.uint16
    assert stored.shape == (8, 9, 13)
    near = data.read_image(scenes / "a" / "0.tif", (8, 9, 13), pixel_range=OPTIONS["pixel_range"])
    assert np.abs(stored - near).mean() < 100  # a center crop in another aspect ratio


@on_one
def test_own_units_of_pictures_are_prepared_too(tmp_path):
    pytest.importorskip("array_record")
    from PIL import Image

    (tmp_path / "scans").mkdir()
    gray = np.arange(80, dtype="uint16").reshape(8, 10) * 50
    Image.fromarray(gray).save(tmp_path / "scans" / "a.png")
    data.prepare(tmp_path / "scans", tmp_path / "out", pixel_range=(0, 4095))
    image = data.open_directory(tmp_path / "out", (8, 10), 1, pixel_range=(0, 4095)).batch(np.arange(1))[0]
    np.testing.assert_array_equal(image[0, ..., 0], gray)


@on_one
def test_a_check_reports_damaged_and_dark_files_of_arrays(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(np.full((8, 8, 5), 900, "uint16")))
    (tmp_path / "b.npy").write_bytes(npy(np.full((8, 8, 5), 900, "uint16"))[:-1])
    found = data.check_directory(tmp_path)
    assert [path.name for path, _ in found.damaged] == ["b.npy"]
    assert "its largest number is 900, and 65535 is white; if 1023 should be" in found.dark[0][1]
    with pytest.warns(UserWarning, match="1 of 2 images are damaged and left out"):
        source = data.FolderSource(tmp_path, 8, 5, allow_damaged=0.5, white_level=1023)
    assert len(source) == 1


@on_one
def test_files_of_arrays_are_images_only_where_there_are_no_others(tmp_path, recwarn):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "features.npy").write_bytes(npy(np.zeros((100, 768), "float32")))
    (tmp_path / "b.dcm").write_bytes(bytes(200))
    assert len(data.FolderSource(tmp_path, 8)) == 1
    assert "Passed over 2 files that are no images: 1 .dcm, 1 .npy" in str(recwarn[0].message)


@on_one
def test_slices_without_an_ending_are_known_by_their_first_bytes(tmp_path):
    pytest.importorskip("pydicom")
    scan = dicom(np.arange(80, dtype="uint16").reshape(8, 10))
    for name in ("IM0001", "1.2.840.113619.2", "DICOMDIR", "README"):
        (tmp_path / name).write_bytes(scan if name != "README" else b"text")
    os.mkfifo(tmp_path / "pipe")
    contents = look_into(tmp_path)
    assert [path.name for path in contents.paths] == ["1.2.840.113619.2", "IM0001"]
    assert contents.other == {"without an ending": 3}
    np.testing.assert_array_equal(
        data.FolderSource(tmp_path, (8, 10), 1, pixel_range=(0, 100)).batch([1])[0][0, ..., 0],
        np.arange(80).reshape(8, 10),
    )


# === Features ===
@pytest.mark.parametrize(
    ("form", "dtype", "bands"),
    [("tiff", "uint16", 13), ("npy", "float32", 13), ("npy", "uint16", 3), ("tiff", "float64", 1)],
)
def test_features_are_those_of_the_same_arrays(form, dtype, bands, tmp_path):
    arrays = [array_of(dtype, bands, number, (8, 8)) for number in range(3)]
    for number, array in enumerate(arrays):
        content = array[..., 0] if bands == 1 else array
        (tmp_path / f"{number}.{form}").write_bytes(WRITERS[form](content))
    shape, pixel_range = (8, 8, bands), RANGES[dtype]
    statistics = data.pixel_statistics(data.ArraySource(np.stack(arrays), pixel_range=pixel_range))
    encoder = keras_mae.ViTEncoder(
        shape,
        patch_size=4,
        embed_dim=8,
        depth=1,
        num_heads=2,
        pixel_mean=statistics.pixel_mean,
        pixel_std=statistics.pixel_std,
        pixel_range=pixel_range,
    )
    folder = data.from_directory(tmp_path, 8, 3, channels=bands, shuffle=False, pixel_range=pixel_range)
    from_files, _ = keras_mae.transfer.extract_features(encoder, folder)
    directly, _ = keras_mae.transfer.extract_features(encoder, np.stack(arrays).astype("float32"))
    np.testing.assert_array_equal(from_files, directly)
    of_folder = data.pixel_statistics(tmp_path, channels=bands, own_units=True)
    for measured, wanted in zip(vars(of_folder).values(), vars(statistics).values(), strict=True):
        np.testing.assert_allclose(measured, wanted, rtol=1e-5)


# === Pictures ===
@on_one
def test_bands_say_which_of_many_a_picture_shows(tmp_path, monkeypatch):
    from keras_mae.cli.saved import reconstruct

    encoder = keras_mae.ViTEncoder((8, 8, 5), patch_size=4, embed_dim=8, depth=1, num_heads=2, pixel_range=(0, 10000))
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(embed_dim=8, depth=1, num_heads=2))
    mae.save(tmp_path / "mae.keras")
    array = np.zeros((8, 8, 5), "uint16")
    array[..., 4] = 10000
    (tmp_path / "scene.tif").write_bytes(tiff(array))
    drawn = []
    monkeypatch.setattr(
        "keras_mae.visualize.figures.show_panel", lambda axes, image, **style: drawn.append(np.asarray(image))
    )
    for bands, brightest in ((None, [0, 0, 0]), ("4,2,1", [1, 0, 0]), ("4", [1])):
        drawn.clear()
        reconstruct(tmp_path / "mae.keras", [tmp_path / "scene.tif"], tmp_path / "out.png", bands=bands)
        np.testing.assert_array_equal(drawn[-1][0, 0], brightest)
    with pytest.raises(ValueError, match="`bands` must be one or three of the images' 5 channels, from 0"):
        reconstruct(tmp_path / "mae.keras", [tmp_path / "scene.tif"], bands="5")
    with pytest.raises(ValueError, match="`bands` must be one integer or three, with commas between. Received: x"):
        reconstruct(tmp_path / "mae.keras", [tmp_path / "scene.tif"], bands="x")
