"""Gray images deeper than 8 bits: read in the levels they are in, or refused with what they hold."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from data_helpers import needs_tensorflow
from PIL import Image

from keras_mae import data
from keras_mae.data.levels import Levels

pytestmark = pytest.mark.backends("torch")

RAMP = np.arange(30).reshape(5, 6)
SHAPE = (5, 6, 1)
HOUNSFIELD = (-1024, 3071)


# === Files ===
def tiff(array, order="<", sample_format=None, photometric=None, bits=None, content=None):
    """An uncompressed TIFF file of one strip, byte by byte: Pillow writes few of the types it reads."""
    kind = sample_format or {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    height, width, samples = (*array.shape, 1)[:3]
    content = array.astype(array.dtype.newbyteorder(order)).tobytes() if content is None else content
    bits = bits or array.dtype.itemsize * 8
    photometric = (1 if samples == 1 else 2) if photometric is None else photometric
    tags = {
        256: [width], 257: [height], 258: [bits] * samples, 259: [1], 262: [photometric],
        273: [0], 277: [samples], 278: [height], 279: [len(content)], 339: [kind] * samples,
    }  # fmt: skip
    end = 8 + 2 + 12 * len(tags) + 4
    far = {tag: struct.pack(f"{order}{len(values)}H", *values) for tag, values in tags.items() if len(values) > 2}
    tags[273] = [end + sum(map(len, far.values()))]
    entries, place = b"", end
    for tag, values in tags.items():
        if tag in far:
            entries += struct.pack(f"{order}HHII", tag, 3, len(values), place)
            place += len(far[tag])
        else:
            entries += struct.pack(f"{order}HHII", tag, 4, 1, values[0])
    header = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    directory = struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0)
    return header + directory + b"".join(far.values()) + content


def packed_12_bits(array):
    text = "".join(f"{number:012b}" for number in array.ravel())
    return tiff(array.astype("uint16"), bits=12, content=int(text, 2).to_bytes(len(text) // 8, "big"))


def saved(array, form, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **options)
    return file.getvalue()


def png_of_16_bits(array, color_type):
    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(b)) + a + b + struct.pack(">I", zlib.crc32(a + b)) for a, b in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def pgm(array, largest, binary=True):
    numbers = array.astype(">u2").tobytes() if binary else b" ".join(b"%d" % number for number in array.ravel())
    return b"P%d\n6 5\n%d\n" % (5 if binary else 2, largest) + numbers


UNSIGNED = {  # content, own numbers, and the largest that the type has
    "16-bit png": (saved((RAMP * 2000).astype("uint16"), "PNG"), RAMP * 2000, 65535),
    "16-bit tiff": (tiff((RAMP * 2000).astype("uint16")), RAMP * 2000, 65535),
    "big-endian tiff": (tiff((RAMP * 2000).astype("uint16"), ">"), RAMP * 2000, 65535),
    "lzw tiff": (saved((RAMP * 2000).astype("uint16"), "TIFF", compression="tiff_lzw"), RAMP * 2000, 65535),
    "12-bit tiff": (packed_12_bits(RAMP * 130), RAMP * 130, 4095),
    "16-bit pgm": (pgm(RAMP * 2000, 65535), RAMP * 2000, 65535),
    "12-bit pgm": (pgm(RAMP * 130, 4095), RAMP * 130, 4095),
    "plain pgm": (pgm(RAMP * 130, 4095, binary=False), RAMP * 130, 4095),
    "jpeg 2000": (saved((RAMP * 2000).astype("uint16"), "JPEG2000"), RAMP * 2000, 65535),
}
UNCLEAR = {  # content, own numbers, and the type in words
    "int8": (tiff((RAMP - 9).astype("int8")), RAMP - 9, "8-bit signed integers"),
    "int16": (tiff((RAMP * 100 - 1000).astype("int16")), RAMP * 100 - 1000, "16-bit signed integers"),
    "int16 >": (tiff((RAMP * 100 - 1000).astype("int16"), ">"), RAMP * 100 - 1000, "16-bit signed integers"),
    "int32": (tiff((RAMP * 10**6 - 1000).astype("int32")), RAMP * 10**6 - 1000, "32-bit signed integers"),
    "uint32": (tiff((RAMP + 3 * 10**9).astype("uint32")), RAMP + 3 * 10**9, "32-bit integers"),
    "float32": (tiff((RAMP / 7).astype("float32")), RAMP / 7, "32-bit floats"),
    "float32 >": (tiff((RAMP / 7).astype("float32"), ">"), RAMP / 7, "32-bit floats"),
    "pfm": (b"Pf\n6 5\n-1.0\n" + (RAMP / 7)[::-1].astype("<f4").tobytes(), RAMP / 7, "32-bit floats"),
    "im": (saved((RAMP * 1000).astype("int32"), "IM"), RAMP * 1000, "32-bit signed integers"),
}
COLORS = np.stack([RAMP * 2000, RAMP * 1000, 65535 - RAMP * 500], -1)
DEEP_COLORS = {
    "png": png_of_16_bits(COLORS, 2),
    "opaque png": png_of_16_bits(np.dstack([COLORS, np.full((5, 6), 65535)]), 6),
    "tiff": tiff(COLORS.astype("uint16")),
    "big-endian tiff": tiff(COLORS.astype("uint16"), ">"),
    "ppm": b"P6\n6 5\n65535\n" + COLORS.astype(">u2").tobytes(),
}


# === 0-255 ===
@pytest.mark.parametrize("name", UNSIGNED)
def test_unsigned_grays_are_divided_by_the_largest_number_of_their_type(name):
    content, own, white = UNSIGNED[name]
    image = data.read_image(content, SHAPE)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image[..., 0], np.round(own / white * 255))


@pytest.mark.parametrize("name", UNSIGNED)
def test_a_stated_white_level_is_255_and_what_is_brighter_too(name):
    content, own, _ = UNSIGNED[name]
    level = int(own.max() // 2)
    image = data.read_image(content, (*SHAPE[:2], 3), white_level=level)
    np.testing.assert_array_equal(image, np.repeat(np.round(own / level * 255).clip(0, 255)[..., None], 3, axis=2))


@pytest.mark.parametrize("white_level", [None, 4095])
def test_zero_is_white_where_the_file_says_so(white_level):
    image = data.read_image(tiff((RAMP * 130).astype("uint16"), photometric=0), SHAPE, white_level=white_level)
    expected = 255 - np.round(RAMP * 130 / (white_level or 65535) * 255)
    np.testing.assert_array_equal(image[..., 0], expected)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_8_bits_have_no_white_level(form):
    content = saved((RAMP * 8).astype("uint8"), form)
    np.testing.assert_array_equal(data.read_image(content, SHAPE, white_level=100), data.read_image(content, SHAPE))


@pytest.mark.parametrize("options", [{"white_level": 4095}, {"pixel_range": (0, 1000)}])
def test_ppm_of_8_bits_is_taken_as_any_colors_of_8_bits(options):
    colors = (COLORS // 257).astype("uint8")
    for content in (saved(colors, "PPM"), saved(colors, "PNG")):
        np.testing.assert_array_equal(data.read_image(content, (5, 6, 3), **options), colors)


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_has_no_white_is_refused_with_what_it_holds(name, tmp_path):
    content, own, kind = UNCLEAR[name]
    (tmp_path / "scan").write_bytes(content)
    with pytest.raises(ValueError, match=r"Cannot read the image file '.*scan': it holds ") as error:
        data.read_image(tmp_path / "scan", SHAPE)
    assert f"it holds {kind} from {own.min():.6g} to {own.max():.6g}, and nothing says" in str(error.value)
    assert "the encoder's (keras-mae pretrain --pixel-range LOW HIGH)" in str(error.value)


@pytest.mark.parametrize("name", DEEP_COLORS)
def test_colors_of_16_bits_are_read_in_8(name):
    image = data.read_image(DEEP_COLORS[name], (5, 6, 3))
    np.testing.assert_allclose(image, COLORS / 257, atol=1)
    for levels in ({"white_level": 4095}, {"pixel_range": (0, 65535)}):
        if "tiff" in name:  # which tifffile reads in full
            white = levels.get("white_level")
            wanted = COLORS if white is None else (COLORS / (white / 255)).round().clip(0, 255)
            np.testing.assert_allclose(data.read_image(DEEP_COLORS[name], (5, 6, 3), **levels), wanted)
            continue
        with pytest.raises(ValueError, match="it holds colors of 16 bits, of which Pillow gives 8"):
            data.read_image(DEEP_COLORS[name], (5, 6, 3), **levels)


@pytest.mark.parametrize(("precision", "kind"), [(11, "12-bit integers"), (0x8F, "16-bit signed integers")])
def test_jpeg_2000_that_pillow_stretches_is_not_taken_for_its_own_numbers(precision, kind):
    content = bytearray(UNSIGNED["jpeg 2000"][0])
    content[content.find(b"\xff\x4f\xff\x51") + 42] = precision
    with pytest.raises(ValueError, match=f"it holds {kind}"):
        data.read_image(bytes(content), SHAPE, pixel_range=(0, 4095))


# === Units of their own ===
@pytest.mark.parametrize("name", [*UNSIGNED, *UNCLEAR])
def test_own_numbers_are_read_as_floats(name):
    content, own, _ = {**UNSIGNED, **UNCLEAR}[name]
    image = data.read_image(content, SHAPE, pixel_range=(float(own.min()), float(own.max())))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[..., 0], own, rtol=1e-6)
    three = data.read_image(content, (5, 6, 3), pixel_range=(float(own.min()), float(own.max())))
    np.testing.assert_array_equal(three, np.repeat(image, 3, axis=2))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_8_bits_are_read_in_their_own_numbers_too(form):
    colors = np.stack([RAMP * 8, RAMP * 4, 255 - RAMP * 2], -1).astype("uint8")
    image = data.read_image(saved(colors, form), (5, 6, 3), pixel_range=(0, 1000))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, data.read_image(saved(colors, form), (5, 6, 3)))


@pytest.mark.parametrize("name", [*UNSIGNED, *UNCLEAR])
def test_numbers_beyond_the_range_are_an_error_that_names_the_file(name, tmp_path):
    content, own, _ = {**UNSIGNED, **UNCLEAR}[name]
    (tmp_path / "scan").write_bytes(content)
    low, high = float(own.min()), float(own.max())
    for wrong in ((low, high - (high - low) / 20), (low + (high - low) / 20, high)):
        with pytest.raises(ValueError, match=r"'.*scan': it holds .* from .* to .*, and pixel_range=\(.*must hold"):
            data.read_image(tmp_path / "scan", SHAPE, pixel_range=wrong)


def test_nan_is_in_no_range():
    with pytest.raises(ValueError, match=r"from nan to nan, and pixel_range=\(0, 1\) must hold them all"):
        data.read_image(tiff(np.full((5, 6), np.nan, "float32")), SHAPE, pixel_range=(0, 1))


def test_bicubic_resizing_does_not_leave_the_range():
    edge = np.repeat(np.repeat([-1024, 3071], 6)[None], 11, axis=0).astype("int16")
    wide = data.read_image(tiff(edge), (11, 120, 1), lambda *_: data.Box(0, 0, 12, 11), pixel_range=HOUNSFIELD)
    assert (wide.min(), wide.max()) == HOUNSFIELD


# === Arguments ===
@pytest.mark.parametrize("value", [(1, 0), (0, 0), (0, np.nan), (0,), "ab", None, 255, (0, "1")], ids=repr)
def test_ranges_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match=r"`pixel_range` must be \(low, high\), two finite numbers with low < high"):
        Levels(value)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_white_levels_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="`white_level` must be a positive integer"):
        Levels(white_level=value)


def test_a_white_level_goes_with_255():
    with pytest.raises(ValueError, match=r"which gray becomes 255, so `pixel_range` must be \(0, 255\)"):
        data.read_image(UNSIGNED["16-bit png"][0], SHAPE, pixel_range=(0, 4095), white_level=4095)


def test_opacity_has_no_unit():
    with pytest.raises(ValueError, match="a picture, whose fourth channel is opacity, which has no unit"):
        data.read_image(UNSIGNED["16-bit png"][0], (5, 6, 4), pixel_range=(0, 65535))


# === Sources ===
@pytest.fixture
def scans(tmp_path):
    """Two classes of 12 bits in 16-bit files, of 130, 260, ... at the upper left."""
    for number in range(1, 7):
        folder = tmp_path / "scans" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 11), 130 * number, "uint16")).save(folder / f"{number}.png")
    return tmp_path / "scans"


@pytest.mark.parametrize(
    ("levels", "dtype", "unit"),
    [({"white_level": 4095}, "uint8", 255 / 4095), ({"pixel_range": (0, 4095)}, "float32", 1.0)],
)
def test_folders_are_read_in_their_levels_by_every_reader(levels, dtype, unit, scans):
    expected = np.round(130 * unit * np.array([2, 4, 6, 1, 3, 5]))
    source = data.FolderSource(scans, 8, 1, **levels)
    assert source.dtype == dtype
    batches = data.from_directory(scans, 8, 6, channels=1, labeled=True, shuffle=False, loader="grain", **levels)
    for images in (source.batch(np.arange(6))[0], batches[0][0]):
        assert images.dtype == dtype
        np.testing.assert_array_equal(images[:, 3, 3, 0], expected)
    stream = data.Stream("scans", lambda *_: None, image_size=8, channels=1, labeled=False, **levels)
    image = stream.views((scans / "b" / "3.png").read_bytes(), 0, data.CenterCrop(), lambda index: [None])
    assert image.dtype == stream.dtype == dtype
    np.testing.assert_array_equal(image, np.full((1, 8, 8, 1), np.round(390 * unit)))


@needs_tensorflow
@pytest.mark.parametrize(
    ("levels", "dtype", "unit"),
    [({"white_level": 4095}, "uint8", 255 / 4095), ({"pixel_range": (0, 4095)}, "float32", 1.0)],
)
def test_files_in_a_tf_dataset_are_read_in_their_levels(levels, dtype, unit, scans):
    import tensorflow as tf

    files = tf.data.Dataset.from_tensor_slices([path.read_bytes() for path in sorted(scans.rglob("*.png"))])
    (images,) = data.from_dataset(files, 6, 8, channels=1, shuffle=False, **levels)
    assert images.dtype == dtype
    expected = np.round(130 * unit * np.array([2, 4, 6, 1, 3, 5]))
    np.testing.assert_array_equal(np.asarray(images)[:, 3, 3, 0], expected)


@needs_tensorflow
def test_arrays_in_a_tf_dataset_have_units_of_their_own():
    import tensorflow as tf

    scan = np.linspace(*HOUNSFIELD, 81).round().astype("int16").reshape(1, 9, 9, 1)
    dataset = tf.data.Dataset.from_tensor_slices(scan)
    (images,) = data.from_dataset(dataset, 1, shuffle=False, pixel_range=HOUNSFIELD)
    assert images.dtype == "float32"
    np.testing.assert_array_equal(np.asarray(images), scan)
    with pytest.raises(Exception, match="Images must be finite and in -1024-3000"):
        list(data.from_dataset(dataset, 1, shuffle=False, pixel_range=(-1024, 3000)))


def test_a_folder_that_cannot_be_read_is_refused_before_training(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.tif").write_bytes(tiff((RAMP * 100 - 1000 * number).astype("int16")))
    with pytest.raises(ValueError, match=r"0\.tif': it holds 16-bit signed integers from 0 to 2900"):
        data.FolderSource(tmp_path)
    with pytest.warns(UserWarning, match="3 of 3 images are damaged"):
        assert data.FolderSource(tmp_path, allow_damaged=1.0).skipped[2][1].count("from -2000 to 900") == 1
    assert len(data.find_damaged(tmp_path)) == 3
    assert data.find_damaged(tmp_path, pixel_range=(-2000, 2900)) == []
    source = data.FolderSource(tmp_path, 5, 1, pixel_range=(-2000, 2900))
    assert source.batch(np.array([2]))[0].min() == -2000


def test_shards_know_their_white_level(scans, tmp_path):
    pytest.importorskip("array_record")
    out = tmp_path / "shards"
    assert data.prepare(scans, out, white_level=4095, short_side=8)["white_level"] == 4095
    assert data.prepare(scans, out, white_level=4095, short_side=8)["white_level"] == 4095  # again
    with pytest.raises(ValueError, match="written with another white_level"):
        data.prepare(scans, out, short_side=8)
    for level in (None, 4095):
        source = data.open_directory(out, 8, 1, white_level=level)
        pixels = source.batch(np.arange(6))[0][:, 3, 3, 0].astype(int)
        np.testing.assert_allclose(pixels, 130 * 255 / 4095 * np.array([2, 4, 6, 1, 3, 5]), atol=1)
    with pytest.raises(ValueError, match="was prepared with white_level=4095: prepare it again. Received: .*=1000"):
        data.open_directory(out, white_level=1000)
    with pytest.raises(ValueError, match=r"was prepared with pixel_range=\(0, 255\), which must be the encoder's"):
        data.open_directory(out, pixel_range=(0, 4095))


def test_images_that_the_white_level_is_not_for_keep_their_bytes(scans, tmp_path):
    pytest.importorskip("array_record")
    Image.fromarray(np.full((9, 11), 77, "uint8")).save(scans / "a" / "0.png")
    data.prepare(scans, tmp_path / "shards", white_level=4095)
    records = [image for image, _ in data.open_directory(tmp_path / "shards")._read(list(range(7)))]
    assert records[0] == (scans / "a" / "0.png").read_bytes()
    assert {record[:2] for record in records[1:]} == {b"\xff\xd8"}


# === Nearly black ===
def test_what_is_nearly_black_after_reading_is_listed(scans):
    Image.fromarray(np.full((9, 11), 12, "uint8")).save(scans / "night.png")
    spot = np.zeros((90, 110), "uint8")
    spot[40, 50] = 200  # one bright pixel, which no small picture shows
    Image.fromarray(spot).save(scans / "star.png")
    found = data.check_directory(scans)
    assert found.damaged == []
    assert [path.name for path, _ in found.dark] == [
        "2.png",
        "4.png",
        "6.png",
        "1.png",
        "3.png",
        "5.png",
        "night.png",
    ]
    messages = [message for _, message in found.dark]
    assert messages[2].endswith(
        "6.png' is nearly black: its largest number is 780, and 65535 is white; if 1023 should be, pass "
        "white_level=1023 (--white-level 1023)"
    )
    assert messages[-1].endswith("night.png' is nearly black: its largest value is 12 of 255")
    assert [path.name for path, _ in data.check_directory(scans, white_level=1023).dark] == ["night.png"]
    assert data.check_directory(scans, pixel_range=(0, 4095)).dark == []


def test_a_folder_whose_deep_grays_are_nearly_black_asks_for_their_white_level(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(saved((RAMP * 130).astype("uint16"), "PNG"))
    with pytest.warns(UserWarning, match=r"0.png' is nearly black: .*pass white_level=4095 .*prepare --check lists"):
        data.FolderSource(tmp_path, 4, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.FolderSource(tmp_path, 4, 1, white_level=4095)
        data.FolderSource(tmp_path, 4, 1, pixel_range=(0, 4095))
        (tmp_path / "0.png").write_bytes(saved((RAMP * 2000).astype("uint16"), "PNG"))
        data.FolderSource(tmp_path, 4, 1)
