"""HEIC, AVIF and other images that Pillow reads with a plug-in only, or not in every build."""

import io
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from keras_mae import data
from keras_mae.data import plug_ins
from keras_mae.data.folders import look_into

pytestmark = pytest.mark.backends("torch")

HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(300)
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50)
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


@pytest.fixture
def no_plug_in(monkeypatch):
    """Pillow as it comes, whatever is installed beside it."""
    Image.init()
    monkeypatch.setattr(Image, "EXTENSION", {k: v for k, v in Image.EXTENSION.items() if v not in ("HEIF", "JXL")})
    monkeypatch.setattr(plug_ins, "register", lambda pillow: None)


@pytest.fixture
def heif(no_plug_in, monkeypatch):
    """A plug-in that the user has registered: it makes 40 x 30 red pixels of any HEIC file."""

    class Reader(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._size, self._mode = (40, 30), "RGB"

        def load(self):
            self.im = Image.new("RGB", self.size, "red").im
            return super(ImageFile.ImageFile, self).load()

    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN, "HEIF": (Reader, lambda head: head[4:12] == b"ftypheic")})
    monkeypatch.setattr(Image, "ID", [*Image.ID, "HEIF"])
    monkeypatch.setattr(Image, "EXTENSION", {**Image.EXTENSION, ".heic": "HEIF"})


def avif(size=(64, 96), **options):
    pixels = np.zeros((*size, 3), "uint8")
    pixels[: size[0] // 2, : size[1] // 2] = 250
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "AVIF", **options)
    return written.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEIC, "it is an image in the format HEIC, which takes a plug-in for Pillow: pip install pillow-heif$"),
        (
            JXL,
            "it is an image in the format JPEG XL, which takes a plug-in for Pillow: pip install pillow-jxl-plugin$",
        ),
        (b"no image at all" * 9, "UnidentifiedImageError"),
    ],
    ids=["heic", "jxl", "nothing"],
)
def test_an_image_that_takes_a_plug_in_says_which_whatever_it_is_called(content, message, no_plug_in, tmp_path):
    (tmp_path / "x.jpg").write_bytes(content)
    for file, name in ((content, "an image in memory"), (tmp_path / "x.jpg", "x.jpg")):
        with pytest.raises(ValueError, match=f"Cannot read the image file '.*{name}': {message}"):
            data.read_image(file, (8, 8, 3))


def test_a_folder_says_what_to_install_and_how_many_there_are(no_plug_in, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for name in ("b.heic", "c.HEIC", "d.nef", "e.txt"):
        (tmp_path / name).write_bytes(HEIC)
    expected = (
        "Passed over 3 images that Pillow does not read: 2 .heic, 1 .nef (pip install pillow-heif, make JPEG or TIFF "
        "files of them); 1 file that is no image: 1 .txt"
    )
    assert look_into(tmp_path).passed_over() == data.check_directory(tmp_path).passed_over == expected
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"none in .*2 .heic, 1 .nef \(pip install pillow-heif"):
        data.from_directory(tmp_path, 8, 1)


def test_a_plug_in_that_the_user_registered_is_used(heif, tmp_path):
    for name in ("a.heic", "b.heic"):
        (tmp_path / name).write_bytes(HEIC)
    [images] = data.from_directory(tmp_path, (6, 8), 2, shuffle=False, loader="grain")
    np.testing.assert_array_equal(images, np.broadcast_to([255, 0, 0], (2, 6, 8, 3)))
    assert data.check_directory(tmp_path).damaged == []


def test_what_a_plug_in_says_of_its_size_is_looked_at_before_it_decodes(heif):
    with pytest.raises(ValueError, match="it has 40 x 30 pixels, and 1,199 are read"):
        data.read_image(HEIC, (6, 8, 3), max_pixels=1199)


def test_an_installed_plug_in_is_registered_once(monkeypatch):
    plug_in = SimpleNamespace(register_heif_opener=lambda: calls.append("heif"))
    Image.init()
    monkeypatch.setattr(Image, "EXTENSION", {k: v for k, v in Image.EXTENSION.items() if v != "HEIF"})
    monkeypatch.setitem(sys.modules, "pillow_heif", plug_in)
    calls = []
    plug_ins.register.cache_clear()
    for _ in range(2):
        with pytest.raises(ValueError, match="UnidentifiedImageError"):
            data.read_image(b"no image at all", (8, 8, 3))
    assert calls == ["heif"]


@needs_avif
def test_avif_is_read_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options, corner in (("a", {}, (0, 0)), ("b", {"exif": exif}, (0, 1))):
        (tmp_path / f"{name}.avif").write_bytes(avif(**options))
        pixels = data.read_image(tmp_path / f"{name}.avif", (4, 4, 1))[..., 0]
        assert (pixels[::3, ::3] > 200).nonzero() == ([corner[0]], [corner[1]])
    data.prepare(tmp_path, tmp_path.with_name("out"), short_side=32)
    assert data.open_directory(tmp_path.with_name("out"), 8).batch([0, 1])[0].shape == (2, 8, 8, 3)


@needs_avif
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda whole: whole[: len(whole) // 2], "it is a damaged image in the format AVIF"),
        (lambda whole: of_size(whole, 12_000, 12_000), "it has 12,000 x 12,000 pixels in "),
        (lambda whole: of_size(whole, 16_000, 16_000), "exceeds limit of|16,000 x 16,000 pixels"),
        (lambda whole: b"", "it is empty"),
    ],
    ids=["cut off", "sparse", "bomb", "empty"],
)
def test_a_hostile_avif_is_named(made, message):
    with pytest.raises(ValueError, match=f"Cannot read the image file 'an image in memory': .*({message})"):
        data.read_image(made(avif()), (8, 8, 3))


def of_size(content, width, height):
    place = content.index(b"ispe") + 8
    return content[:place] + struct.pack(">II", width, height) + content[place + 8 :]
