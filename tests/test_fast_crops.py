"""Crops that are decoded and resized by other libraries than Pillow."""

import dataclasses
import io
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_mae import data, training
from keras_mae.data import fingerprints
from keras_mae.data.crops import Box
from keras_mae.data.images import views
from keras_mae.recipes import PretrainRecipe

pytestmark = pytest.mark.backends("torch")
pytest.importorskip("simplejpeg")
simd = pytest.importorskip("cykooz_resizer")
PART, SIZE = (91, 60.5, 480.25, 366), (96, 112)


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("china.jpg"))


def encoded(image, form="JPEG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def cut(image, fast=True, flip=False, part=PART, size=SIZE, channels=3):
    box = Box(*part, flip, fast)
    return views(image, "photo", (*size, channels), lambda *_: box, [np.random.default_rng(0)])[0]


def reference(image, part=PART, size=SIZE):
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC, box=part), "float64")


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [SIZE, (300, 20), (500, 700)])
@pytest.mark.parametrize("part", [PART, (0, 0, 640, 427), (600, 400, 640, 427)], ids=["inner", "whole", "corner"])
def test_pixels_are_pillows_but_for_a_gray_level(photo, mode, size, part):
    image = photo.convert(mode)
    got = cut(encoded(image, "PNG"), True, False, part, size, len(mode)).squeeze()
    away = np.abs(got - reference(image, part, size))
    assert 0 < away.mean() < 0.25
    assert (away > 1).mean() < 0.002


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 20}, {"exif": {0x0112: 1}}],
    ids=repr,
)
def test_jpeg_decodes_to_the_pixels_that_pillow_decodes(photo, options):
    if "exif" in options:
        options = {"exif": exif(options["exif"])}
    content = encoded(photo, **options)
    np.testing.assert_array_equal(cut(content), cut(encoded(Image.open(io.BytesIO(content)), "PNG")))


def exif(tags):
    written = Image.Exif()
    written.update(tags)
    return written


def test_plain_jpeg_is_not_decoded_by_pillow(photo, monkeypatch):
    content = encoded(photo)
    expected = cut(content)
    monkeypatch.setattr(Image.core, "jpeg_decoder", None)
    np.testing.assert_array_equal(cut(content), expected)
    with pytest.raises(ValueError, match="Cannot read"):
        cut(content, fast=False)


def other_jpegs(photo):
    turned = photo.transpose(Image.Transpose.ROTATE_90)
    large = photo.resize((2560, 1708))
    return {
        "gray": (encoded(photo.convert("L")), PART),
        "CMYK": (encoded(photo.convert("CMYK")), PART),
        "turned": (encoded(turned, exif=exif({0x0112: 6})), PART),
        "decoded smaller": (encoded(large), (20, 30, 2000, 1700)),
        "noise before a marker": (damaged(encoded(photo)), PART),
        "several": (encoded(photo, "MPO", save_all=True, append_images=[turned]), PART),
    }


def damaged(content):
    """A file of which libjpeg complains, and whose pixels it knows all the same."""
    end = content.rindex(b"\xff\xd9")
    return content[:end] + b"\x11\x12" + content[end:]


def test_other_jpegs_are_pillows_and_resized_fast(photo):
    for name, (content, part) in other_jpegs(photo).items():
        away = np.abs(cut(content, part=part).astype(int) - cut(content, False, part=part))
        assert 0 < away.mean() < 0.3, name


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_damaged_files_are_refused_in_the_same_words(photo, left):
    content = encoded(photo)
    content = content[: int(left * len(content))]
    with pytest.raises(ValueError, match="Cannot read the image file 'photo'") as slow:
        cut(content, fast=False)
    with pytest.raises(ValueError, match="Cannot read the image file 'photo'") as fast:
        cut(content)
    assert str(fast.value).split("0x")[0] == str(slow.value).split("0x")[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_mirrored_crops_are_mirrored_to_the_bit(photo, channels):
    content = encoded(photo)
    for fast in (True, False):
        straight, mirrored = (cut(content, fast, flip, channels=channels) for flip in (False, True))
        np.testing.assert_array_equal(mirrored, straight[:, ::-1])
        assert mirrored.flags.c_contiguous


def test_arrays_are_cut_as_files_are(photo):
    content = encoded(photo)
    array = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(cut(array), cut(content))
    np.testing.assert_array_equal(
        cut(array[..., :1], channels=1)[..., 0], cut(array[..., [0] * 5], channels=5)[..., 4]
    )


def test_opacity_and_deeper_numbers_are_still_pillows(photo):
    clear = photo.copy()
    clear.putalpha(photo.convert("L"))
    content = encoded(clear, "PNG")
    np.testing.assert_array_equal(cut(content, channels=4), cut(content, False, channels=4))
    floats = np.asarray(photo, "float32")
    np.testing.assert_array_equal(cut(floats), cut(floats, False))


def test_pixels_are_the_same_without_simd_instructions(photo, monkeypatch):
    expected, resizer = cut(encoded(photo)), simd.Resizer

    def plain():
        made = resizer()
        made.cpu_extensions = simd.CpuExtensions.none
        return made

    monkeypatch.setattr(simd, "Resizer", plain)
    np.testing.assert_array_equal(cut(encoded(photo)), expected)


def test_boxes_at_the_borders_fit_in_whatever_their_fractions(photo):
    small, rng = photo.resize((53, 37)), np.random.default_rng(0)
    for _ in range(500):
        left, top = rng.uniform(0, 52), rng.uniform(0, 36)
        assert cut(np.asarray(small), part=(left, top, 53, 37), size=(3, 5)).shape == (3, 5, 3)


def test_random_crops_are_fast_when_they_are_told_to_be():
    crops = data.RandomResizedCrop(), data.RandomResizedCrop(fast=True)
    slow, fast = (crop(640, 427, SIZE, np.random.default_rng(7)) for crop in crops)
    assert fast == slow._replace(fast=True)
    assert fast.scaled(0.5, 2).fast


def test_recipes_say_so_and_runs_are_told_apart_by_it(photo, tmp_path):
    for number in range(2):
        photo.save(tmp_path / f"{number}.jpg")
    source = data.FolderSource(tmp_path, SIZE)
    recipe = PretrainRecipe(batch_size=2, crop_area=(0.3, 0.9))
    slow, fast = (
        training.training_batches(source, dataclasses.replace(recipe, fast_crops=fast), loader="grain")
        for fast in (False, True)
    )
    (told,) = fingerprints.differences(fast.fingerprint(), slow.fingerprint(), "data")
    assert "crop.fast=True and not False" in told
    away = np.abs(fast[0].astype(int) - slow[0])
    assert 0 < away.mean() < 0.25


@pytest.mark.parametrize("package", ["simplejpeg", "cykooz_resizer"])
def test_a_missing_library_is_named_before_anything_is_read(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'fast=True\) requires .*: pip install "keras-mae\[fast\]"'):
        data.RandomResizedCrop(fast=True)
