"""Images that would take more memory than they may are refused before anything is decoded."""

import struct
import threading
import time
import zlib

import pytest

from keras_mae import data
from keras_mae.data import sizes

pytestmark = pytest.mark.backends("torch")
pytest.importorskip("PIL")


def png(path, width, height):
    """Write a black PNG file, whose bytes are hardly a thousandth of its pixels'."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(9), bytes(1 + width)
    packed = b"".join([packer.compress(row) for _ in range(height)]) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path


def webp(path, width, height):
    """Write 34 bytes that claim to be a WebP file of so many pixels."""
    bits = (width - 1 | height - 1 << 14).to_bytes(4, "little")
    head = b"RIFF" + (26).to_bytes(4, "little") + b"WEBPVP8L" + (13).to_bytes(4, "little") + b"\x2f" + bits
    path.write_bytes(head + bytes(34 - len(head)))
    return path


def test_a_few_bytes_that_claim_many_pixels_are_refused_unless_they_are_allowed(tmp_path):
    file = webp(tmp_path / "bomb.webp", 16383, 10000)
    with pytest.raises(ValueError, match=r"bomb.webp.*16,383 x 10,000 pixels in 34 bytes.*`max_pixels`"):
        data.read_image(file, (8, 8, 3))
    with pytest.raises(ValueError, match="16,383 x 10,000 pixels in 34 bytes"):
        data.read_image(file.read_bytes(), (8, 8, 3))
    with pytest.raises(ValueError, match="16,383 x 10,000 pixels, and 163,829,999 are read"):
        data.read_image(file, (8, 8, 3), max_pixels=163_829_999)


def test_an_honest_image_is_read_up_to_the_limit(tmp_path):
    file = png(tmp_path / "a.png", 40, 30)
    assert data.read_image(file, (8, 8, 1), max_pixels=1200).shape == (8, 8, 1)
    with pytest.raises(ValueError, match="40 x 30 pixels, and 1,199 are read"):
        data.read_image(file, (8, 8, 1), max_pixels=1199)
    with pytest.raises(ValueError, match="`max_pixels` must be a positive integer. Received: max_pixels=0"):
        data.read_image(file, (8, 8, 1), max_pixels=0)


def test_a_folder_is_checked_and_prepared_by_the_limit(tmp_path):
    (tmp_path / "images").mkdir()
    png(tmp_path / "images" / "a.png", 40, 30)
    assert not data.check_directory(tmp_path / "images", max_pixels=1200).damaged
    [(path, message)] = data.check_directory(tmp_path / "images", max_pixels=1000).damaged
    assert path.name == "a.png"
    assert "40 x 30 pixels, and 1,000 are read" in message
    with pytest.raises(ValueError, match="1,000 are read"):
        data.prepare(tmp_path / "images", tmp_path / "out", max_pixels=1000)


@pytest.mark.backends("torch", "tensorflow")
@pytest.mark.parametrize("kind", ["folder", "array_record", "tfrecord", "dataset"])
def test_whatever_reads_image_files_goes_by_the_limit(tmp_path, kind):
    """The image has 40 x 30 pixels."""
    (tmp_path / "images").mkdir()
    bytes_of = png(tmp_path / "images" / "a.png", 40, 30).read_bytes()
    how = {"crop": data.CenterCrop(), "loader": "grain"}
    if kind in ("tfrecord", "dataset"):
        tf = pytest.importorskip("tensorflow")
        how["loader"] = "tf.data"
    if kind in ("array_record", "tfrecord"):
        data.prepare(tmp_path / "images", tmp_path / "out", format=kind)

    def first(most):
        if kind == "dataset":
            dataset = tf.data.Dataset.from_tensors(bytes_of)
            batches = data.from_dataset(dataset, 1, 8, channels=1, max_pixels=most, **how)
        else:
            folder = tmp_path / ("images" if kind == "folder" else "out")
            batches = data.from_directory(folder, 8, 1, channels=1, max_pixels=most, **how)
        return next(iter(batches))

    assert first(1200).shape == first(None).shape == (1, 8, 8, 1)
    with pytest.raises(Exception, match="40 x 30 pixels, and 1,199 are read"):  # TensorFlow's error within tf.data
        first(1199)


def test_a_tfds_source_goes_by_the_limit():
    """Which takes it with the levels, as all sources."""
    for make in (data.from_tfds, data.from_tfrecords):
        with pytest.raises(ValueError, match="`max_pixels` must be a positive integer. Received: max_pixels=0"):
            make("mnist", max_pixels=0)


def test_pillows_own_limit_is_raised_for_who_asks_for_more(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    file = png(tmp_path / "a.png", 40, 30)
    with pytest.raises(ValueError, match="1000 pixels"):
        data.read_image(file, (8, 8, 1))
    assert data.read_image(file, (8, 8, 1), max_pixels=1201).shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("kind", "rest", "size"),
    [
        (b"VP8X", bytes(8) + (299).to_bytes(3, "little") + (16_000_000).to_bytes(3, "little"), (300, 16_000_001)),
        (b"VP8L", bytes(4) + b"\x2f" + (299 | 199 << 14).to_bytes(4, "little") + bytes(5), (300, 200)),
        (b"VP8 ", bytes(7) + b"\x9d\x01\x2a" + struct.pack("<HH", 300 | 1 << 14, 200), (300, 200)),
    ],
)
def test_the_size_of_a_webp_file_is_in_its_first_bytes(kind, rest, size):
    assert sizes.webp_size(b"RIFF" + bytes(4) + b"WEBP" + kind + rest) == size
    assert sizes.webp_size(b"GIF89a" + bytes(30)) is None


def test_large_images_are_decoded_one_after_another_and_small_ones_do_not_wait():
    room, large = sizes._Room(3 * 2**24), (2**13, 2**12)  # of which one has room
    inside, most = [], []

    def decode():
        with room(large):
            inside.append(1)
            with room((10, 10)):
                most.append(len(inside))
                time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
    assert room.free == room.pixels


def test_an_image_larger_than_all_the_room_is_decoded_alone():
    room = sizes._Room(2**24 + 1)
    with room((2**14, 2**12)):
        assert room.free == 0
    assert room.free == room.pixels
