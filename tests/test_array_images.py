"""Files of one image as an array of numbers: .npy, TIFF of many bands, DICOM; also hostile ones."""

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from science_helpers import RANGES, WRITERS, array_of, dicom, npy, tiff

from keras_mae import data

on_one = pytest.mark.backends("torch")


# === The same numbers ===
@on_one
@pytest.mark.parametrize("bands", [2, 4, 5, 13])
@pytest.mark.parametrize("dtype", RANGES)
@pytest.mark.parametrize("form", ["npy", "tiff", "planes"])
def test_bands_are_read_as_they_were_written(form, dtype, bands):
    array = array_of(dtype, bands)
    read = data.read_image(WRITERS[form](array), array.shape, pixel_range=RANGES[dtype])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array.astype("float32"))


@on_one
@pytest.mark.parametrize("form", ["deflated", "imagej", "ome"])
def test_compressed_tiff_and_microscopes_channels_are_read(form):
    if form == "deflated":
        pytest.importorskip("imagecodecs")
    array = array_of("uint16", 5)
    read = data.read_image(WRITERS[form](array), array.shape, pixel_range=RANGES["uint16"])
    np.testing.assert_array_equal(read, array)


@on_one
def test_channels_of_a_stack_of_slices_are_those_of_its_first_slice():
    stack = np.arange(2 * 3 * 8 * 8, dtype="uint16").reshape(2, 3, 8, 8)  # slices, channels
    read = data.read_image(
        tiff(stack, imagej=True, metadata={"axes": "ZCYX"}, planarconfig=None), (8, 8, 3), pixel_range=(0, 999)
    )
    np.testing.assert_array_equal(read, np.moveaxis(stack[0], 0, -1))


@on_one
def test_float_and_16_bit_grays_are_given_to_all_three_channels():
    for dtype in ("float64", "uint16"):
        array = array_of(dtype, 1)
        for content in (npy(array[..., 0]), tiff(array[..., 0])):
            read = data.read_image(content, (11, 13, 3), pixel_range=RANGES[dtype])
            np.testing.assert_array_equal(read, np.repeat(array, 3, -1).astype("float32"))


@on_one
def test_the_fourth_band_of_a_photograph_is_infrared_unless_it_is_said_to_be_opacity():
    array = np.random.default_rng(0).integers(0, 256, (9, 8, 4), "uint8")
    infrared = tiff(array, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(data.read_image(infrared, array.shape), array)
    opacity = tiff(array, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(data.read_image(opacity, array.shape), array)
    np.testing.assert_array_equal(data.read_image(infrared, array.shape, pixel_range=(0, 256)), array)


@on_one
def test_an_orientation_is_turned_upright_as_pillow_does():
    from PIL import Image

    array = np.arange(6, dtype="uint8").reshape(2, 3, 1).repeat(3, -1)
    for orientation in range(1, 9):
        content = tiff(array, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        by_pillow = data.read_image(content, (3, 2, 3) if orientation > 4 else (2, 3, 3))
        deep = tiff(array.astype("uint16"), photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        np.testing.assert_array_equal(data.read_image(deep, by_pillow.shape, pixel_range=(0, 9)), by_pillow)
    assert Image  # which turns the first


@on_one
def test_slices_are_in_the_unit_that_their_rescaling_says():
    pytest.importorskip("pydicom")
    numbers = np.arange(99, dtype="int16").reshape(9, 11) * 20
    scan = dicom(numbers, slope=2, intercept=-1024)
    read = data.read_image(scan, (9, 11, 1), pixel_range=(-1024, 6000))
    np.testing.assert_array_equal(read[..., 0], numbers * 2.0 - 1024)
    with pytest.raises(ValueError, match="nothing says which of them is black and which white: pass pixel_range="):
        data.read_image(scan, (9, 11, 1))


@on_one
def test_unsigned_slices_are_brought_to_8_bits_by_the_bits_that_they_say():
    pytest.importorskip("pydicom")
    numbers = np.linspace(0, 4095, 99).astype("uint16").reshape(9, 11)
    bright = data.read_image(dicom(numbers), (9, 11, 1))[..., 0]
    np.testing.assert_array_equal(bright, (numbers / (4095 / 255)).round())
    inverted = dicom(numbers, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(data.read_image(inverted, (9, 11, 1))[..., 0], 255 - bright)
    frames = np.stack([numbers, numbers * 0])
    assert data.read_image(dicom(frames, NumberOfFrames=2), (9, 11, 1)).max() == 255


@on_one
def test_bands_of_16_bits_are_brought_to_8_as_grays_are():
    array = np.linspace(0, 4095, 8 * 8 * 5).reshape(8, 8, 5).astype("uint16")
    for content in (npy(array), tiff(array)):
        read = data.read_image(content, (8, 8, 5), white_level=4095)
        np.testing.assert_array_equal(read, (array / (4095 / 255)).round())
        assert data.read_image(content, (8, 8, 5)).max() == round(4095 / 257)


# === What is not meant is said ===
@on_one
@pytest.mark.parametrize(
    ("content", "channels", "message"),
    [
        (tiff(array_of("uint16", 13)), 3, "it has 13 bands, and images of 3 channels are to be made"),
        (npy(array_of("float32", 2)), 1, "it has 2 bands, and images of 1 channel are to be made"),
        (npy(array_of("float32", 1)), 4, "it has 1 band, and images of 4 channels are to be made"),
        (
            npy(np.zeros((3, 4, 5, 6), "float32")),
            3,
            r"the shape \(3, 4, 5, 6\), and an image is \(height, width\) or",
        ),
        (npy(np.zeros(5, "float32")), 1, r"the shape \(5,\)"),
        (npy(np.zeros((0, 5, 3), "float32")), 3, r"the shape \(0, 5, 3\)"),
        (npy(np.zeros((3, 64, 48), "float32")), 3, "looks like bands first"),
        (npy(np.full((4, 4), np.nan, "float32")), 1, "must hold them all"),
        (npy(np.full((4, 4), 2, "float32")), 1, r"from 2 to 2, and pixel_range=\(-1, 1\) must hold them all"),
        (npy(np.zeros((4, 4), "complex64")), 1, "it holds complex64, and images are of integers or floats"),
        (npy(np.array([["a", "b"]])), 1, "it holds str"),
        (npy(np.zeros((4, 4), [("a", "int32")])), 1, "it holds void"),
        (npy(np.array([[{}]], object)), 1, "it holds objects, which would have to be unpickled"),
        (npy(np.zeros((4, 4), "float32"))[:-1], 1, "it is cut off: its header promises"),
        (npy(np.zeros((4, 4), "float32"))[:30], 1, "Cannot read the image file"),
        (tiff(array_of("float32", 5))[:-1], 5, "it is cut off: its numbers end at byte"),
        (tiff(array_of("float32", 5))[:60], 5, "Cannot read the image file"),
    ],
)
def test_what_is_no_image_of_these_bands_is_said_in_one_line(content, channels, message):
    with pytest.raises(ValueError, match=message) as error:
        data.read_image(content, (8, 8, channels), pixel_range=(-1, 1))
    assert "\n" not in str(error.value)
    assert "Cannot read the image file 'an image in memory'" in str(error.value)


@on_one
def test_pictures_have_no_other_channels(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="it is a picture, of which 1, 3 or 4 channels are made, and 13 are to be"):
        data.FolderSource(tmp_path, 8, 13)


def test_no_file_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    content = npy(np.array([[Evil()]], object))
    (tmp_path / "a.npy").write_bytes(content)
    for read in (
        lambda: data.read_image(content, (8, 8, 1)),
        lambda: data.FolderSource(tmp_path, 8, 1),
        lambda: data.ArrayFileSource(tmp_path / "a.npy"),
        lambda: data.pixel_statistics(tmp_path / "a.npy"),
    ):
        with pytest.raises(ValueError, match="would have to be unpickled"):
            read()
    assert not (tmp_path / "ran").exists()


# === Sizes ===
def huge_npy():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000, 13), }"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header + b"\n"


def huge_tiff():
    content = tiff(np.zeros((4, 4, 5), "float32"))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        places = [(file.pages[0].tags[tag].valueoffset, file.pages[0].tags[tag].dtype) for tag in (256, 257)]
    for place, kind in places:
        value = struct.pack("<H" if kind == 3 else "<I", 65000)
        content = content[:place] + value + content[place + len(value) :]
    return content


def huge_slice():
    return dicom(np.zeros((4, 4), "uint16"), Rows=65000, Columns=65000)


def bomb():
    """A TIFF file of a few pixels that says so, and whose strip inflates to 256 MiB."""
    content = tiff(np.zeros((4, 4, 5), "uint16"), compression="zlib")
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        sizes = file.pages[0].tags[279]
        place = file.pages[0].dataoffsets[0]
    strip = zlib.compress(bytes(2**28))
    entry = content.find(struct.pack("<HH", sizes.code, sizes.dtype))
    entry_of_4_bytes = struct.pack("<HHII", sizes.code, 4, 1, len(strip))
    return content[:entry] + entry_of_4_bytes + content[entry + 12 : place] + strip


@on_one
@pytest.mark.parametrize("make", [huge_npy, huge_tiff, huge_slice, bomb], ids=lambda make: make.__name__)
def test_nothing_is_allocated_that_is_too_large(make):
    if make is huge_slice:
        pytest.importorskip("pydicom")
    if make is bomb:
        pytest.importorskip("imagecodecs")
    content = make()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="Cannot read the image file") as error:
            data.read_image(content, (8, 8, 1 if make is huge_slice else 5), pixel_range=(-1, 1))
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    if make is not bomb:
        assert "raise `max_pixels` (--max-pixels)" in str(error.value)


@on_one
def test_max_pixels_counts_deep_numbers_and_many_bands_by_their_memory():
    array = array_of("uint16", 13)  # 11 x 13 pixels of 26 bytes, each as much as 7 of Pillow's
    for content in (npy(array), tiff(array)):
        data.read_image(content, array.shape, pixel_range=(0, 10000), max_pixels=11 * 13 * 7)
        with pytest.raises(ValueError, match="take as much memory as 1,001 pixels, and 1,000 are read"):
            data.read_image(content, array.shape, pixel_range=(0, 10000), max_pixels=11 * 13 * 7 - 1)


@on_one
def test_a_deflated_slice_is_not_inflated():
    pytest.importorskip("pydicom")
    content = dicom(np.zeros((4, 4), "uint16"))
    plain, deflate = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    at = content.find(plain)
    head = content[: at - 2] + struct.pack("<H", len(deflate)) + deflate + content[at + len(plain) :]
    length = head.find(b"\2\0\0\0UL\4\0") + 8
    head = head[:length] + struct.pack("<I", struct.unpack_from("<I", head, length)[0] + 2) + head[length + 4 :]
    with pytest.raises(ValueError, match="it is deflated as a whole, which is not read"):
        data.read_image(head, (4, 4, 1))
