"""`prepare` image by image, and folders that something happened to: what `test_shards.py` leaves open."""

import errno
import io
import json
import os
import sys

import numpy as np
import pytest
from data_helpers import CLASSES, COUNT, contents, needs_tensorflow, numbers, prepare, write_folder
from PIL import Image

from keras_mae import data, training
from keras_mae.data import preparation, records

pytestmark = pytest.mark.backends("torch")

FORMATS = ["array_record", pytest.param("tfrecord", marks=needs_tensorflow)]
ORIENTATION = 0x0112


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images")


def shard_files(directory):
    return sorted(directory.glob("0*"))


# === One image ===
def prepared(tmp_path, image, name="x.png", **options):
    """The bytes of one image's file, and those in its record."""
    (tmp_path / "one").mkdir()
    image.save(tmp_path / "one" / name, **options.pop("save", {}))
    data.prepare(tmp_path / "one", tmp_path / "out", **{"short_side": 24, **options})
    [record] = data.open_directory(tmp_path / "out")._records
    return (tmp_path / "one" / name).read_bytes(), records.features(record)[records.IMAGE]


def gradient(height=60, width=90):
    """Bright above, dark below, in colours that JPEG keeps."""
    rows = np.linspace(250, 5, height)[:, None, None]
    return Image.fromarray(np.broadcast_to(rows, (height, width, 3)).round().astype("uint8"))


@pytest.mark.parametrize("name", ["x.jpg", "x.JPEG", "x.png"])
@pytest.mark.parametrize("size", [(17, 29), (24, 31)], ids=["smaller", "just so"])
def test_small_images_keep_their_bytes(tmp_path, name, size):
    before, after = prepared(tmp_path, gradient(*size), name)
    assert after == before


def test_a_small_turned_image_keeps_its_bytes_and_is_read_upright(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    before, after = prepared(tmp_path, gradient(20, 20), "x.jpg", save={"exif": exif, "quality": 95})
    assert after == before
    pixels = data.from_directory(tmp_path / "out", 20, 1, shuffle=False, loader="grain")[0][0]
    assert pixels[:5].max() < 90
    assert pixels[-5:].min() > 160


@pytest.mark.parametrize("name", ["x.webp", "x.bmp", "x.tiff", "x.gif"])
def test_small_images_of_other_formats_become_jpeg_in_their_own_size(tmp_path, name):
    _, after = prepared(tmp_path, gradient(17, 29), name)
    with Image.open(io.BytesIO(after)) as image:
        assert (image.format, image.size) == ("JPEG", (29, 17))


@pytest.mark.parametrize(
    ("size", "expected"), [((60, 90), (36, 24)), ((90, 60), (24, 36)), ((25, 200), (192, 24)), ((700, 700), (24, 24))]
)
@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_large_images_get_the_short_side_and_keep_their_aspect_ratio(tmp_path, size, expected, name):
    _, after = prepared(tmp_path, gradient(*size), name)
    with Image.open(io.BytesIO(after)) as image:
        assert (image.format, image.size) == ("JPEG", expected)
        rows = np.asarray(image.convert("L"), "float32").mean(1)
    np.testing.assert_allclose(rows, np.linspace(250, 5, expected[1]), atol=12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_images_are_upright_afterwards_whatever_the_exif_data_said(tmp_path, orientation):
    """And say so: a reader that turns them again would undo it."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = np.zeros((60, 90, 3), "uint8")
    pixels[:30, :45] = 250  # one corner: no two orientations look alike but for the diagonal's, which the size tells
    _, after = prepared(tmp_path, Image.fromarray(pixels), "x.jpg", save={"exif": exif, "quality": 95})
    with Image.open(io.BytesIO(after)) as image:
        assert image.size == ((24, 36) if orientation > 4 else (36, 24))
        assert image.getexif().get(ORIENTATION, 1) == 1
        found = np.asarray(image.convert("L"))
    height, width = found.shape
    corners = found[3, 3], found[3, width - 4], found[height - 4, 3], found[height - 4, width - 4]
    bright = {1: 0, 2: 1, 3: 3, 4: 2, 5: 0, 6: 1, 7: 3, 8: 2}[orientation]
    assert [int(corner) > 125 for corner in corners] == [place == bright for place in range(4)]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_large_transparent_images_are_on_white(tmp_path, mode):
    image = Image.new("RGBA", (90, 60), (0, 0, 0, 0)).convert(mode)
    _, after = prepared(tmp_path, image, save={"transparency": 0} if mode == "P" else {})
    assert data.read_image(after, (8, 8, 3)).min() > 250


@pytest.mark.parametrize(("mode", "value"), [("L", 200), ("1", 1), ("I;16", 257 * 200)])
def test_large_grey_images_stay_grey(tmp_path, mode, value):
    image = (
        Image.fromarray(np.full((60, 90), value, "uint16")) if mode == "I;16" else Image.new(mode, (90, 60), value)
    )
    _, after = prepared(tmp_path, image)
    with Image.open(io.BytesIO(after)) as read:
        assert read.mode == "L"
        assert abs(int(np.asarray(read)[12, 12]) - (255 if mode == "1" else 200)) <= 1


def test_quality_is_jpegs(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), "uint8")
    sizes = []
    for quality in (10, 95):
        (tmp_path / str(quality)).mkdir()
        sizes.append(len(prepared(tmp_path / str(quality), Image.fromarray(pixels), quality=quality)[1]))
    assert sizes[0] < sizes[1] / 2


# === Shards ===
@pytest.mark.parametrize(
    ("per_shard", "expected"), [(23, [23]), (24, [23]), (22, [22, 1]), (1, [1] * COUNT)], ids=str
)
def test_the_last_shard_holds_what_is_left(folder, tmp_path, per_shard, expected):
    manifest = prepare(folder, tmp_path / "out", images_per_shard=per_shard)
    assert [shard["images"] for shard in manifest["shards"]] == expected
    assert sorted(numbers(data.from_directory(tmp_path / "out", 8, 4))) == list(range(COUNT))


@pytest.mark.parametrize("format", FORMATS)
def test_examples_to_draw_are_spread_over_all_images(folder, tmp_path, format):
    """Of all three classes, whose images follow one another, and with their names where those are known."""
    prepare(folder, tmp_path / "out", format=format, images_per_shard=12)
    images = training.open_unlabeled(tmp_path / "out", (8, 8, 3))
    shown = [round(float(image.mean()) / 10) for image in images.examples]
    assert len(set(shown)) == len(images.example_names) == 8
    assert {number % 3 for number in shown} == {0, 1, 2}
    if format == "array_record":
        assert images.example_names == tuple(f"{CLASSES[number % 3]}/{number:02d}.png" for number in shown)


def test_read_manifest_gives_what_prepare_gave_and_nothing_for_other_folders(folder, tmp_path):
    manifest = prepare(folder, tmp_path / "out")
    assert data.preparation.read_manifest(tmp_path / "out") == manifest
    assert data.preparation.read_manifest(folder) is None


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_call_again_leaves_the_very_same_files(folder, tmp_path, format):
    prepare(folder, tmp_path / "out", format=format)
    before, calls = contents(tmp_path / "out"), []
    inodes = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in shard_files(tmp_path / "out")]
    prepare(folder, tmp_path / "out", format=format, progress=lambda *call: calls.append(call))
    assert contents(tmp_path / "out") == before
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in shard_files(tmp_path / "out")] == inodes
    assert calls == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]


def test_the_same_call_again_with_damaged_files_left_out_is_the_same_call(folder, tmp_path):
    (folder / "cat" / "short.png").write_bytes(b"")
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 of 24 images are damaged and left out"):
            manifest = prepare(folder, tmp_path / "out", allow_damaged=0.1)
    assert manifest["images"] == COUNT


# === Stopped ===
@pytest.mark.parametrize("format", FORMATS)
def test_a_writer_that_fails_leaves_whole_shards_and_a_second_call_the_same_bytes(
    folder, tmp_path, monkeypatch, format
):
    """The exception comes from the place where a full disk would raise it: when a shard gets its name."""
    prepare(folder, tmp_path / "whole", format=format)
    replace = os.replace

    def full(source, target):
        if str(target).endswith(f"00003-of-00005.{format}"):
            raise OSError(errno.ENOSPC, "the disk is full")
        replace(source, target)

    out = tmp_path / "out"
    monkeypatch.setattr(preparation.os, "replace", full)
    with pytest.raises(OSError, match="the disk is full"):
        prepare(folder, out, format=format)
    monkeypatch.undo()
    whole = contents(tmp_path / "whole")
    assert contents(out).keys() == {".unfinished.json", *(f"0000{number}-of-00005.{format}" for number in range(3))}
    assert all(path.read_bytes() == whole[path.name] for path in shard_files(out))
    with pytest.raises(ValueError, match="is not complete: call `keras-mae prepare` again"):
        data.from_directory(out, 8, 4)
    prepare(folder, out, format=format)
    assert contents(out) == whole


@pytest.mark.parametrize("left", [".writing-.unfinished.json", ".writing-7@there-x/.unfinished.json"])
def test_a_run_stopped_before_its_first_shard_goes_on(left, folder, tmp_path):
    """Between making the folder and naming the plan there is a moment too."""
    path = tmp_path / "out" / left
    path.parent.mkdir(parents=True)
    path.write_text("{")
    prepare(folder, tmp_path / "out")
    prepare(folder, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_arguments_are_refused_in_an_unfinished_folder_too(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_write_records", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match="written with another quality"):
        prepare(folder, tmp_path / "out", quality=50)
    assert contents(tmp_path / "out") == before


# === Damaged, and other people's ===
@pytest.mark.parametrize("happens", ["a byte changes", "the end is lost", "it is deleted"])
def test_the_same_call_again_makes_a_damaged_shard_good(folder, tmp_path, happens):
    """And does not take its checksum as it is for the right one."""
    manifest = prepare(folder, tmp_path / "out")
    whole = contents(tmp_path / "out")
    path = shard_files(tmp_path / "out")[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if happens == "a byte changes" else content[:-100])
    if happens == "it is deleted":
        path.unlink()
    else:
        assert [found for found, _ in data.find_damaged(tmp_path / "out")] == [path]
    assert prepare(folder, tmp_path / "out") == manifest
    assert contents(tmp_path / "out") == whole


def test_check_finds_every_damaged_image_of_a_folder_and_nothing_else(folder):
    whole = (folder / "ant" / "03.png").read_bytes()
    (folder / "ant" / "03.png").write_bytes(whole[: len(whole) // 2])
    (folder / "owl" / "02.png").write_bytes(b"")
    calls = []
    found = data.find_damaged(folder, lambda *call: calls.append(call))
    assert [path for path, _ in found] == [folder / "ant" / "03.png", folder / "owl" / "02.png"]
    assert sorted(calls) == [(number, COUNT) for number in range(1, COUNT + 1)]


OTHERS = ['{"name": "a web page"}', "[1, 2]", "no JSON", '{"shards": []}']


@pytest.mark.parametrize("content", OTHERS)
def test_another_programs_manifest_among_images_is_no_matter(folder, content):
    (folder / "manifest.json").write_text(content)
    assert len(data.from_directory(folder, 8, 4)) == 6
    assert data.find_damaged(folder) == []


@pytest.mark.parametrize("content", OTHERS)
def test_a_folder_with_another_programs_manifest_is_refused_and_stays(folder, tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="`out` must not exist, be empty, or hold what the same call left"):
        prepare(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == {"manifest.json": content.encode()}


def test_a_file_in_the_place_of_the_folder_is_refused_and_stays(folder, tmp_path):
    (tmp_path / "out").write_text("dear")
    with pytest.raises(ValueError, match="`out` must not exist"):
        prepare(folder, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "dear"


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes are Linux's")
def test_names_that_are_no_text_are_names(folder, tmp_path):
    source = os.fsencode(folder / "ant" / "00.png")
    os.rename(source, os.path.join(os.path.dirname(source), b"\xff.png"))
    prepare(folder, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["images"] == COUNT
    assert sorted(numbers(data.from_directory(tmp_path / "out", 8, 4))) == list(range(COUNT))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": -1}, "`short_side` must be a positive integer"),
        ({"short_side": 16.0}, "`short_side` must be a positive integer"),
        ({"images_per_shard": 1.5}, "`images_per_shard` must be a positive integer"),
        ({"quality": 0}, r"`quality` must be an integer in \[1, 100\]"),
        ({"quality": 90.5}, r"`quality` must be an integer in \[1, 100\]"),
        ({"quality": True}, r"`quality` must be an integer in \[1, 100\]"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_written(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_images_are_the_same_in_both_formats(folder, tmp_path, format):
    """By the records' own bytes, read without the loaders."""
    prepare(folder, tmp_path / "out", format=format)
    if format == "tfrecord":
        import tensorflow as tf

        paths = [str(path) for path in shard_files(tmp_path / "out")]
        found = list(tf.data.TFRecordDataset(paths).as_numpy_iterator())
    else:
        found = list(data.open_directory(tmp_path / "out")._records)
    assert len(found) == COUNT
    source = data.FolderSource(folder, labeled=True)
    for record, path, label in zip(found, source.paths, source.labels, strict=True):
        name = path.relative_to(folder).as_posix()
        assert record == records.serialize(preparation._smaller(path, 16, 95), name, int(label))
