"""What images are like by a look at them, and how they are to be read."""

import numpy as np
import pytest
import science_helpers as science
from PIL import Image

from keras_mae import data

torch_only = pytest.mark.backends("torch")
GRAY = np.random.default_rng(0).integers(0, 256, (40, 50), dtype="uint8")
COLOR = np.stack([GRAY, GRAY, 255 - GRAY], axis=-1)
DEEP = np.random.default_rng(0).integers(0, 4000, (40, 50), dtype="uint16")


def write(folder, name, images):
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        path = folder / name.format(number)
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            Image.fromarray(image).save(path)
    return folder


def arrays(write_one, *spec):
    return [write_one(science.array_of(*spec, number)) for number in range(3)]


# name: ending, images, (channels, pixel_range, white_level)
FOLDERS = {
    "gray": ("png", [GRAY], (1, (0, 255), None)),
    "gray in three channels": ("jpg", [np.stack([GRAY] * 3, axis=-1)], (1, (0, 255), None)),
    "one in color": ("png", [GRAY, COLOR], (3, (0, 255), None)),
    "transparent": ("png", [np.dstack([COLOR, GRAY])], (3, (0, 255), None)),
    "12 bits in 16": ("png", [DEEP], (1, (0, 255), 4095)),
    "16 bits": ("png", [DEEP, DEEP * 16], (1, (0, 255), None)),
    "12 bits beside colors": ("png", [DEEP, COLOR], (3, (0, 255), 4095)),
    "bands": ("tif", arrays(science.tiff, "uint16", 5), (5, (0, 16383), None)),
    "pages of channels": ("tif", arrays(science.in_ome, "uint16", 5), (5, (0, 16383), None)),
    "arrays": ("npy", arrays(science.npy, "uint16", 2), (2, (0, 16383), None)),
    "signed": ("npy", arrays(science.npy, "int16", 1), (1, (-1030, 3030), None)),
    "floats": ("npy", [science.npy(np.full((9, 9), value, "float32")) for value in (0.25, 0.75)], (1, (0, 1), None)),
}


@torch_only
@pytest.mark.parametrize("name", FOLDERS)
def test_images_say_how_they_are_read(name, tmp_path):
    ending, images, expected = FOLDERS[name]
    found = data.survey(write(tmp_path / "x", "{}." + ending, images))
    assert found.images == len(found.sizes) == len(images)
    assert found.channels == expected[0]
    assert found.pixel_range == pytest.approx(expected[1])
    assert found.white_level == expected[2]
    assert bool(found.measured) == (expected[1:] != ((0, 255), None))
    source = data.open_directory(
        tmp_path / "x", 8, found.channels, pixel_range=found.pixel_range, white_level=found.white_level
    )
    assert source.batch(range(len(images)))[0].shape == (len(images), 8, 8, expected[0])


@torch_only
def test_the_range_is_that_of_all_images_and_not_of_those_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_mae.data.surveying.LOOKED_AT", 2)
    images = [science.npy(np.full((4, 5), value, "float32")) for value in (1, 1, -7, 1)]
    seen = []
    folder = write(tmp_path / "x", "{}.npy", images)
    found = data.survey(folder, progress=lambda *counts: seen.append(counts))
    assert (len(found.sizes), found.pixel_range) == (2, (-7, 1))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert data.survey(folder, pixel_range=(-9, 9), progress=lambda *counts: seen.clear()).pixel_range == (-9, 9)
    assert seen
    assert str(found) == "4 images (2 looked at) of 4 x 5 pixels, gray, 32-bit floats"


@torch_only
def test_sizes_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOR).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(COLOR).save(tmp_path / "upright.jpg")
    found = data.survey(tmp_path)
    assert (found.sizes, found.short_side, found.one_size) == (((50, 40), (40, 50)), 40, None)


@torch_only
def test_damaged_files_are_named_or_passed_over(tmp_path):
    folder = write(tmp_path / "x", "{}.png", [GRAY, b"", GRAY])
    with pytest.raises(ValueError, match=r"1\.png"):
        data.survey(folder)
    found = data.survey(folder, allow_damaged=0.5)
    assert (found.images, len(found.sizes)) == (3, 2)


@torch_only
def test_arrays_in_files_are_looked_at(tmp_path):
    images = np.stack([science.array_of("int16", 5, number) for number in range(3)])
    found = data.survey(science.write_hdf5(tmp_path / "x.h5", images=images) + "::images")
    assert (found.images, found.one_size, found.channels) == (3, (11, 13), 5)
    assert found.pixel_range[0] <= images.min() < images.max() <= found.pixel_range[1]
    np.save(tmp_path / "x.npy", images[:, 0, 0])
    with pytest.raises(ValueError, match=r"\(images, height, width, channels\)"):
        data.survey(tmp_path / "x.npy")


@pytest.mark.backends("torch", "tensorflow")
@pytest.mark.parametrize("format", ["array_record", pytest.param("tfrecord", marks=pytest.mark.needs_tensorflow)])
def test_prepared_folders_are_looked_at(tmp_path, format):
    colors = write(tmp_path / "x", "{}.png", [COLOR, GRAY])
    data.prepare(colors, tmp_path / "y", format=format)
    found = data.survey(tmp_path / "y")
    assert (found.images, found.one_size, found.channels, found.pixel_range) == (2, (40, 50), 3, (0, 255))
    bands = write(tmp_path / "bands", "{}.npy", arrays(science.npy, "int16", 5))
    data.prepare(bands, tmp_path / "z", format=format, pixel_range=(-2000, 4000))
    found = data.survey(tmp_path / "z")
    assert (found.images, found.channels, found.pixel_range) == (3, 5, (-2000, 4000))
