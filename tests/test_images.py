"""Reading image files: odd ones come out right, damaged ones are refused, and nothing is lost in silence.

`pytest -rP tests/test_images.py` shows how many.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, features
from sklearn.datasets import load_sample_image

from keras_mae import data
from keras_mae.data.crops import Box
from keras_mae.data.examination import examine
from keras_mae.data.levels import Levels

pytestmark = pytest.mark.backends("torch")

# Four fields of one colour each: an image that was mirrored, turned or mixed up shows it.
COLOURS = np.array([[(200, 40, 30), (30, 180, 60)], [(40, 60, 210), (230, 220, 90)]], "uint8")
UPRIGHT = COLOURS.repeat(32, 0).repeat(48, 1)  # 64 high, 96 wide: whole blocks of JPEG
ORIENTATION = 0x0112
WRITES_WEBP = pytest.mark.skipif(not features.check("webp"), reason="Pillow is built without WebP")


def encoded(image, form, **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def grey(colours):
    return np.asarray(colours, "float64") @ (0.299, 0.587, 0.114)


def fields(image):
    """The mean colour of each of the four fields, without their borders."""
    height, width = (side // 2 for side in image.shape[:2])
    parts = image.astype("float64").reshape(2, height, 2, width, -1)
    return parts[:, 3:-3, :, 3:-3].mean((1, 3))


def png_chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, rows, colour_type=2, interlaced=0):
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def interlaced_png(pixels):
    """Adam7, which Pillow reads and does not write: seven passes over coarser grids, no filter."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = (row for top, left, down, across in passes for row in pixels[top::down, left::across])
    return png(pixels.shape[1], pixels.shape[0], b"".join(b"\0" + row.tobytes() for row in rows), interlaced=1)


def rgba(alpha):
    return np.dstack([UPRIGHT, np.asarray(alpha, "uint8").repeat(32, 0).repeat(48, 1)])


def palette_with_transparency():
    """Each field is one of the palette's entries; the third is invisible, and the fourth half visible."""
    image = Image.fromarray(np.arange(4, dtype="uint8").reshape(2, 2).repeat(32, 0).repeat(48, 1))
    image = image.convert("L")
    image.putpalette(COLOURS.tobytes())
    return encoded(image, "PNG", transparency=bytes([255, 255, 0, 128]))


def odd_files():
    """What each file is called, its bytes, its colours and, where it has any, its transparency."""
    image, luma = Image.fromarray(UPRIGHT), grey(COLOURS).round().astype("uint8")
    levels = luma.repeat(32, 0).repeat(48, 1)
    greys = np.repeat(luma[..., None], 3, axis=2)
    other = Image.fromarray(255 - UPRIGHT)
    alpha = [[255, 0], [128, 255]]
    black_and_white = np.array([[0, 255], [255, 0]], "uint8")
    dot = np.full((2, 2, 3), (30, 180, 60))
    solid = [np.full((*size, 3), (30, 180, 60), "uint8") for size in ((1, 1), (1, 17), (17, 1))]
    files = {
        "grey.jpg": (encoded(levels, "JPEG"), greys),
        "cmyk.jpg": (encoded(image.convert("CMYK"), "JPEG", quality=95), COLOURS),
        "progressive.jpg": (encoded(image, "JPEG", progressive=True), COLOURS),
        "subsampled.jpg": (encoded(image, "JPEG", subsampling="4:2:0"), COLOURS),
        "sixteen.png": (encoded(levels.astype("uint16") * 257, "PNG"), greys),
        "sixteen.tif": (encoded(levels.astype("uint16") * 257, "TIFF"), greys),
        "one_bit.png": (
            encoded(Image.fromarray(black_and_white.repeat(32, 0).repeat(48, 1)).convert("1"), "PNG"),
            np.repeat(black_and_white[..., None], 3, axis=2),
        ),
        "palette.png": (palette_with_transparency(), COLOURS, [[255, 255], [0, 128]]),
        "transparent.png": (encoded(rgba(alpha), "PNG"), COLOURS, alpha),
        "grey_transparent.png": (encoded(Image.fromarray(rgba(alpha)).convert("LA"), "PNG"), greys, alpha),
        "one_colour.png": (encoded(image, "PNG", transparency=(30, 180, 60)), COLOURS, [[255, 0], [255, 255]]),
        "interlaced.png": (interlaced_png(UPRIGHT), COLOURS),
        "dot.png": (encoded(solid[0], "PNG"), dot),
        "row.png": (encoded(solid[1], "PNG"), dot),
        "column.jpg": (encoded(solid[2], "JPEG"), dot),
        "moving.gif": (encoded(image, "GIF", save_all=True, append_images=[other]), COLOURS),
        "plain.bmp": (encoded(image, "BMP"), COLOURS),
        "plain.tiff": (encoded(image, "TIFF"), COLOURS),
        "compressed.tiff": (encoded(image, "TIFF", compression="tiff_lzw"), COLOURS),
        "in_truth_a_png.jpg": (encoded(image, "PNG"), COLOURS),
    }
    if features.check("webp"):
        files["moving.webp"] = (encoded(image, "WEBP", save_all=True, append_images=[other], lossless=True), COLOURS)
        files["transparent.webp"] = (encoded(rgba(alpha), "WEBP", lossless=True), COLOURS, alpha)
    return files


ODD_FILES = odd_files()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", list(ODD_FILES))
def test_odd_files_come_out_in_their_colours(tmp_path, name, channels):
    content, colours, *rest = ODD_FILES[name]
    (tmp_path / name).write_bytes(content)
    image = data.read_image(tmp_path / name, (20, 30, channels))
    assert (image.shape, image.dtype) == ((20, 30, channels), np.uint8)
    opacity = np.asarray(rest[0] if rest else np.full((2, 2), 255))[..., None] / 255
    on_white = colours * opacity + 255 * (1 - opacity)
    if channels == 4:
        np.testing.assert_allclose(fields(image)[..., 3:], 255 * opacity, atol=1)
        visible = opacity[..., 0] > 0  # of what nobody sees the colour does not matter
        np.testing.assert_allclose(fields(image)[visible][:, :3], colours[visible], atol=4)
    else:
        expected = on_white if channels == 3 else grey(on_white)[..., None]
        np.testing.assert_allclose(fields(image), expected, atol=4)


# What has to be done to an upright image for the EXIF orientation to be right.
TURNS = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image, -1),
}
LARGE = UPRIGHT.repeat(10, 0).repeat(10, 1)  # 640 × 960: decoded at an eighth


@pytest.mark.parametrize("orientation", list(TURNS))
@pytest.mark.parametrize(
    ("form", "upright", "options"),
    [
        ("JPEG", UPRIGHT, {}),
        ("JPEG", LARGE, {}),
        ("PNG", UPRIGHT, {}),
        ("TIFF", UPRIGHT, {}),
        ("TIFF", UPRIGHT, {"compression": "tiff_lzw"}),
        pytest.param("WEBP", UPRIGHT, {"lossless": True}, marks=WRITES_WEBP),
    ],
    ids=["jpeg", "large jpeg", "png", "tiff", "lzw tiff", "webp"],
)
def test_files_are_turned_upright(form, upright, options, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = encoded(np.ascontiguousarray(TURNS[orientation](upright)), form, exif=exif, **options)
    image = data.read_image(turned, (20, 30, 3))
    np.testing.assert_allclose(fields(image), COLOURS, atol=4)


@pytest.mark.parametrize("orientation", [3, 6, 7])
@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_crops_are_of_the_upright_image(form, orientation):
    """The crop is told the upright size, and its box is cut out of what is then upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = encoded(np.ascontiguousarray(TURNS[orientation](LARGE)), form, exif=exif)
    sizes = []

    def upper_right(width, height, size, generator):
        sizes.append((width, height))
        return Box(500, 20, 940, 300)

    image = data.read_image(turned, (11, 13, 3), upper_right)
    assert sizes == [(960, 640)]
    np.testing.assert_allclose(image.mean((0, 1)), COLOURS[0, 1], atol=4)


# === Damage ===
MAGIC = (
    b"", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", b"\xff\xd8\xff\xdb", b"\x89PNG\r\n\x1a\n",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"GIF87a", b"GIF89a", b"RIFF\x20\x00\x00\x00WEBPVP8 ",
    b"RIFF\x40\x00\x00\x00WEBPVP8L", b"BM", b"II*\x00", b"II*\x00\x08\x00\x00\x00", b"MM\x00*",
)  # fmt: skip


def refused(contents):
    """How many are refused; anything but a ValueError, or an array of another shape, is a failure."""
    count = 0
    for content in contents:
        try:
            assert data.read_image(content, (5, 7, 3)).shape == (5, 7, 3)
        except ValueError:
            count += 1
    return count


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage before it gives up
def test_random_bytes_are_refused():
    rng = np.random.default_rng(23)
    count = refused(MAGIC[turn % len(MAGIC)] + rng.bytes(rng.integers(97)) for turn in range(10_000))
    print(f"{count:,} of 10,000 random strings were refused")
    assert count == 10_000


@pytest.mark.filterwarnings("ignore")
def test_files_with_a_few_wrong_bytes_are_refused_or_read():
    """Only PNG has checksums: elsewhere a wrong byte may be a wrong pixel."""
    rng = np.random.default_rng(29)

    def altered(form):
        content = bytearray(encoded(UPRIGHT[20:40:2, 30:60:2], form))
        # The sizes in the first bytes of a BMP file would only ask for more memory.
        for place in rng.integers(26 if form == "BMP" else 0, len(content), 3):
            content[place] ^= rng.integers(1, 256)
        return bytes(content)

    forms = ["JPEG", "PNG", "GIF", "BMP", "TIFF"] + ["WEBP"] * features.check("webp")
    counts = {form: refused(altered(form) for _ in range(500)) for form in forms}
    print(f"of 500 files each with three wrong bytes, refused: {counts}; all others were read whole")
    assert counts["PNG"] >= 490
    assert all(0 < counts[form] < 500 for form in counts if form != "PNG"), counts


PHOTO = Image.fromarray(load_sample_image("china.jpg")).resize((401, 307))
WHOLE_FILES = {
    "jpeg": ("JPEG", PHOTO, {}),
    "progressive jpeg": ("JPEG", PHOTO, {"progressive": True}),
    "large jpeg": ("JPEG", PHOTO.resize((1604, 1228)), {}),
    "png": ("PNG", PHOTO, {}),
    "gif": ("GIF", PHOTO, {}),
    "bmp": ("BMP", PHOTO, {}),
    "grey bmp": ("BMP", PHOTO.convert("L"), {}),  # mapped into memory, and not decoded
    "tiff": ("TIFF", PHOTO, {}),
    "lzw tiff": ("TIFF", PHOTO, {"compression": "tiff_lzw"}),
}
if features.check("webp"):
    WHOLE_FILES["webp"] = ("WEBP", PHOTO, {})
    WHOLE_FILES["lossless webp"] = ("WEBP", PHOTO, {"lossless": True})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("image_shape", [(307, 401, 3), (8, 8, 1)], ids=["whole", "as `damaged` reads"])
@pytest.mark.parametrize("name", list(WHOLE_FILES))
def test_a_truncated_file_is_refused_by_name_or_has_lost_nothing(tmp_path, name, image_shape):
    form, image, options = WHOLE_FILES[name]
    content, path = encoded(image, form, **options), tmp_path / "cut_off"
    whole, messages = data.read_image(content, image_shape), []
    for percent in range(100):
        path.write_bytes(content[: len(content) * percent // 100])
        try:
            image = data.read_image(path, image_shape)
        except ValueError as error:
            messages.append(str(error))
        else:
            np.testing.assert_array_equal(image, whole, err_msg=f"{percent} % of the file")
    print(f"{name}: {len(messages)} of 100 truncations were refused, the others lost no pixel")
    assert len(messages) >= 95
    assert all(str(path) in message for message in messages)


@pytest.fixture
def bomb(tmp_path):
    """A PNG file of 100 bytes that says it is 30,000 × 30,000."""
    (tmp_path / "bomb.png").write_bytes(png(30_000, 30_000, b"\0" * 999))
    return tmp_path / "bomb.png"


@pytest.mark.parametrize(
    "read",
    [lambda path: data.read_image(path, (8, 8, 3)), lambda path: data.FolderSource(path.parent)],
    ids=["read_image", "FolderSource"],
)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(bomb, read, monkeypatch):
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image))
    with pytest.raises(ValueError, match=r"Cannot read the image file '.*bomb\.png'.*DecompressionBombError"):
        read(bomb)
    assert not decoded


# === Folders with damaged files ===
def folder_of(directory, count, truncated=(), empty=()):
    whole = encoded(UPRIGHT, "PNG")
    for number in range(count):
        content = b"" if number in empty else whole[: len(whole) // 2] if number in truncated else whole
        (directory / f"{number:03}.png").write_bytes(content)
    return directory


def test_skip_leaves_damaged_files_out_and_says_so(tmp_path):
    folder_of(tmp_path, 200, truncated=[17], empty=[131])
    with pytest.warns(UserWarning, match=r"2 of 200 images are damaged") as warned:
        source = data.FolderSource(tmp_path, 8, allow_damaged=0.01)
    assert [(path.name, *("truncated" in why, "it is empty" in why)) for path, why in source.skipped] == [
        ("017.png", True, False),
        ("131.png", False, True),
    ]
    assert all(name in str(warned[0].message) for name in ("017.png", "131.png"))
    assert len(source) == 198
    assert not {"017.png", "131.png"} & {path.name for path in source.paths}
    assert source.batch(np.arange(198))[0].shape == (198, 8, 8, 3)


def test_labels_stay_with_their_images_where_some_are_skipped(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        folder_of(tmp_path / name, 5, truncated=[0] if name == "ant" else [])
    with pytest.warns(UserWarning, match="1 of 10"):
        source = data.FolderSource(tmp_path, 8, labeled=True, allow_damaged=0.1)
    assert list(source.labels) == [0] * 4 + [1] * 5


def test_more_damage_than_allowed_is_an_error_all_the_same(tmp_path):
    folder_of(tmp_path, 200, truncated=[3, 19], empty=[101])
    with pytest.raises(ValueError, match=r"At most 1\.00% .* Received: 3 of 200 .*003\.png.*019\.png.*101\.png"):
        data.FolderSource(tmp_path, 8, allow_damaged=0.01)


@pytest.mark.filterwarnings("ignore")
def test_as_much_damage_as_allowed_is_skipped(tmp_path):
    folder_of(tmp_path, 200, truncated=[3, 19], empty=[101])
    assert len(data.FolderSource(tmp_path, 8, allow_damaged=0.02)) == 197


def test_raise_names_an_empty_file_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"Cannot read the image file '.*2\.png': it is empty"):
        data.FolderSource(folder_of(tmp_path, 5, empty=[2]), 8)


def test_raise_names_a_truncated_file_when_it_is_decoded(tmp_path):
    source = data.FolderSource(folder_of(tmp_path, 5, truncated=[3]), 8)
    assert len(source.batch(np.array([0, 1, 2, 4]))[0]) == 4
    with pytest.raises(ValueError, match=r"Cannot read the image file '.*3\.png'.*truncated"):
        source.batch(np.array([2, 3]))


def test_damaged_reports_after_each_file(tmp_path):
    folder_of(tmp_path, 13, truncated=[2], empty=[7])
    done, paths = [], sorted(tmp_path.iterdir())
    assert [path.name for path, _ in examine(paths, Levels(), lambda: done.append(1)).damaged] == [
        "002.png",
        "007.png",
    ]
    assert len(done) == 13
