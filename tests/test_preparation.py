"""Shards: what is written, that a stopped run goes on, and that nothing looks complete that is not."""

import hashlib
import json
import signal
import sys
import time
from pathlib import Path

import kill_test
import numpy as np
import processes
import pytest
from data_helpers import CLASSES, COUNT, WITH_TENSORFLOW, contents, needs_tensorflow, numbers, prepare, write_folder
from PIL import Image

from keras_mae import _files, data, training
from keras_mae.cli import preparing
from keras_mae.data import preparation, records, tfrecords

pytestmark = pytest.mark.backends("torch")

FORMATS = ["array_record", pytest.param("tfrecord", marks=needs_tensorflow)]
PER_SHARD = 5


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "images")


@pytest.mark.parametrize("format", FORMATS)
def test_shards_hold_every_image_its_label_and_the_manifest_their_checksums(folder, tmp_path, format):
    calls = []
    manifest = prepare(folder, tmp_path / "out", format=format, progress=lambda *call: calls.append(call))
    assert [shard["images"] for shard in manifest["shards"]] == [5, 5, 5, 5, 3]
    assert manifest["classes"] == list(CLASSES)
    for shard in manifest["shards"]:
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
    assert sorted(contents(tmp_path / "out")) == sorted(
        [shard["file"] for shard in manifest["shards"]] + ["manifest.json"]
    )
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (COUNT, COUNT)
    dataset = data.from_directory(tmp_path / "out", 8, 4)  # labels without being asked
    assert sorted(numbers(dataset)) == list(range(COUNT))
    assert data.find_damaged(tmp_path / "out") == []


def test_large_images_are_shrunk_upright_and_small_ones_keep_their_bytes(tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.zeros((60, 90, 3), "uint8")
    pixels[:30] = 250  # bright above; EXIF says: turn by a quarter
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "images" / "a.jpg", exif=exif)
    Image.fromarray(pixels[:12, :20]).save(tmp_path / "images" / "b.png")
    Image.fromarray(np.zeros((40, 40, 4), "uint8")).save(tmp_path / "images" / "c.png")
    data.prepare(tmp_path / "images", tmp_path / "out", short_side=24)
    source = data.open_directory(tmp_path / "out")
    large, small, transparent = (records.features(record)[records.IMAGE] for record in source._records)
    turned = data.read_image(large, (36, 24, 3))
    assert Image.open(__import__("io").BytesIO(large)).size == (24, 36)
    assert turned[:, 14:].min() > 200  # what was above is on the right
    assert turned[:, :10].max() < 50
    assert small == (tmp_path / "images" / "b.png").read_bytes()
    assert data.read_image(transparent, (8, 8, 3)).min() > 250


def test_the_same_call_again_writes_nothing_anew(folder, tmp_path):
    manifest = prepare(folder, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.array_record")}
    assert prepare(folder, tmp_path / "out") == manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.array_record")} == before


@pytest.mark.parametrize("change", [{"short_side": 12}, {"images_per_shard": 7}, {"labeled": False}, {"quality": 50}])
def test_other_arguments_in_the_same_folder_are_refused_and_it_stays(folder, tmp_path, change):
    prepare(folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(
        ValueError, match=f"written with another .*{next(iter(change)).replace('labeled', 'classes')}"
    ):
        prepare(folder, tmp_path / "out", **change)
    assert contents(tmp_path / "out") == before


def test_images_that_changed_are_other_images(folder, tmp_path):
    prepare(folder, tmp_path / "out")
    (folder / "ant" / "new.png").write_bytes((folder / "ant" / "00.png").read_bytes())
    with pytest.raises(ValueError, match="written with another images, source"):
        prepare(folder, tmp_path / "out")


def test_a_folder_of_other_things_is_refused_and_stays(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="`out` must not exist, be empty, or hold what the same call left"):
        prepare(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == {"letter.txt": b"dear"}


# === Stopped ===
def check_unfinished(out):
    assert not (out / "manifest.json").exists()
    for reader in (data.open_directory, data.find_damaged):
        with pytest.raises(ValueError, match="is not complete: call `keras-mae prepare` again, and it continues"):
            reader(out)


def test_a_run_that_fails_half_way_leaves_whole_shards_and_goes_on(folder, tmp_path, monkeypatch):
    prepare(folder, tmp_path / "whole")
    smaller, calls = preparation._smaller, []

    def fails_at_the_twelfth(*arguments):
        calls.append(arguments)
        if len(calls) == 12:
            raise OSError("the disk is full")
        return smaller(*arguments)

    monkeypatch.setattr(preparation, "_smaller", fails_at_the_twelfth)
    with pytest.raises(OSError, match="the disk is full"):
        prepare(folder, tmp_path / "out")
    monkeypatch.setattr(preparation, "_smaller", smaller)
    check_unfinished(tmp_path / "out")
    kept = contents(tmp_path / "out")
    assert 1 <= len([name for name in kept if name.endswith(".array_record")]) <= 2
    assert not any(name.startswith(".writing") for name in kept)
    prepare(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


_SLOWLY = """
import sys, time
from keras_mae import data
from keras_mae.data import preparation
smaller = preparation._smaller
preparation._smaller = lambda *arguments: (time.sleep(0.2), smaller(*arguments))[1]
data.prepare(sys.argv[1], sys.argv[2], images_per_shard=5, short_side=16, labeled=True)
"""


def test_a_killed_run_leaves_nothing_that_looks_complete_and_goes_on(folder, tmp_path):
    prepare(folder, tmp_path / "whole")
    out = tmp_path / "out"
    (tmp_path / "slowly.py").write_text(_SLOWLY)
    process = processes.Popen([sys.executable, tmp_path / "slowly.py", folder, out])
    deadline = time.monotonic() + 120
    while not list(out.glob(".writing-*/*.array_record")) or not list(out.glob("0*.array_record")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    check_unfinished(out)
    whole = contents(tmp_path / "whole")
    for path in out.glob("0*.array_record"):
        assert path.read_bytes() == whole[path.name]
    prepare(folder, out)
    assert contents(out) == whole


# === Damage ===
def test_damaged_images_are_named_or_left_out(folder, tmp_path):
    content = (folder / "cat" / "01.png").read_bytes()
    (folder / "cat" / "short.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"Cannot read the image file '.*short\.png'"):
        prepare(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"At most 1\.00% of the images may be damaged.*Received: 1 of 24"):
        prepare(folder, tmp_path / "none", allow_damaged=0.01)
    assert not (tmp_path / "none").exists()
    with pytest.warns(UserWarning, match=r"1 of 24 images are damaged and left out"):
        manifest = prepare(folder, tmp_path / "skipped", allow_damaged=0.1)
    assert (manifest["images"], manifest["skipped"]) == (COUNT, [str(Path("cat") / "short.png")])
    [(path, message)] = data.find_damaged(folder)
    assert path == folder / "cat" / "short.png"
    assert str(path) in message


def test_check_finds_a_changed_byte_and_reading_a_missing_shard(folder, tmp_path):
    manifest = prepare(folder, tmp_path / "out")
    path = tmp_path / "out" / manifest["shards"][2]["file"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    calls = []
    [(found, _)] = data.find_damaged(tmp_path / "out", lambda *call: calls.append(call))
    assert found == path
    assert calls == [(number, 5) for number in range(1, 6)]
    path.unlink()
    with pytest.raises(ValueError, match=f"lacks 1 of its shards. Missing: {path.name}"):
        data.open_directory(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 0}, "`short_side` must be a positive integer"),
        ({"images_per_shard": 0}, "`images_per_shard` must be a positive integer"),
        ({"quality": 101}, r"`quality` must be an integer in \[1, 100\]"),
        ({"format": "zip"}, "`format` must be one of 'array_record', 'tfrecord'"),
        ({"allow_damaged": "skip"}, "`allow_damaged` must be in"),
        ({"allow_damaged": 1.5}, "`allow_damaged` must be in"),
    ],
)
def test_arguments_out_of_range_are_refused(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(WITH_TENSORFLOW, reason="TensorFlow is installed")
def test_what_takes_tensorflow_says_so(folder, tmp_path):
    for call in (
        lambda: prepare(folder, tmp_path / "out", format="tfrecord"),
        lambda: data.from_tfrecords(tmp_path / "x.tfrecord"),
        lambda: data.from_dataset([]),
    ):
        with pytest.raises(ImportError, match=r'requires TensorFlow: pip install "keras-mae\[tensorflow\]"'):
            call()
    assert not (tmp_path / "out").exists()


def test_labels_of_a_folder_prepared_without_are_refused(folder, tmp_path):
    prepare(folder, tmp_path / "out", labeled=False)
    with pytest.raises(ValueError, match="was prepared without labels"):
        data.from_directory(tmp_path / "out", labeled=True)


# === Records ===
@needs_tensorflow
def test_records_are_tensorflows_examples():
    import tensorflow as tf

    theirs = tf.train.Example.FromString(records.serialize(b"pixels", "a/b.png", 7)).features.feature
    assert theirs[records.IMAGE].bytes_list.value[:] == [b"pixels"]
    assert theirs[records.NAME].bytes_list.value[:] == [b"a/b.png"]
    assert theirs[records.LABEL].int64_list.value[:] == [7]
    made = tf.train.Example()
    made.features.feature[records.IMAGE].bytes_list.value.append(b"x")
    made.features.feature[records.LABEL].int64_list.value.append(-3)
    made.features.feature["other"].float_list.value.append(0.5)
    assert records.features(made.SerializeToString()) == {records.IMAGE: b"x", records.LABEL: -3}


@pytest.mark.parametrize("record", [b"", b"no example", b"\x0a\x05hello"])
def test_records_that_are_none_are_refused(record):
    with pytest.raises(ValueError, match="A record"):
        records.features(record)


@needs_tensorflow
def test_tfrecord_files_of_others_are_read_by_their_keys(folder, tmp_path):
    prepare(folder, tmp_path / "out", format="tfrecord")
    pattern = tmp_path / "out" / "*.tfrecord"
    assert sorted(numbers(data.from_tfrecords(pattern, 8, 4, label_key=records.LABEL))) == list(range(COUNT))
    dataset = data.from_tfrecords(sorted(pattern.parent.glob(pattern.name)), 8, 4)
    assert (len(dataset), dataset.element_spec.shape.as_list()) == (6, [None, 8, 8, 3])
    with pytest.raises(Exception, match="must have the feature 'pixels' with one value"):
        next(iter(data.from_tfrecords(pattern, 8, 4, image_key="pixels")))
    with pytest.raises(ValueError, match="`files` must name TFRecord files"):
        data.from_tfrecords(tmp_path / "*.nothing")


@needs_tensorflow
def test_a_tfrecord_file_that_was_cut_off_is_refused_by_name(folder, tmp_path):
    prepare(folder, tmp_path / "out", format="tfrecord")
    path = sorted((tmp_path / "out").glob("*.tfrecord"))[1]
    assert tfrecords.count_tfrecords([str(path)]) == PER_SHARD
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=f"{path.name}' ends within a record"):
        data.from_tfrecords(tmp_path / "out" / "*.tfrecord")


def test_the_manifest_is_json_a_person_can_read(folder, tmp_path):
    prepare(folder, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["short_side"], manifest["format"], manifest["images"]) == (16, "array_record", COUNT)


def test_a_prepared_folder_takes_no_share_of_damaged_images(folder, tmp_path):
    prepare(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="`allow_damaged` must be 0 for .*, prepared as ArrayRecord. Received"):
        data.from_directory(tmp_path / "out", allow_damaged=0.1)


@needs_tensorflow
def test_a_stream_of_unknown_length_is_not_pretrained_on(folder, tmp_path):
    prepare(folder, tmp_path / "out", format="tfrecord")
    with pytest.raises(ValueError, match="prepared as TFRecord, `allow_damaged` must be 0. Received: .*=0.1"):
        training.open_unlabeled(tmp_path / "out", (8, 8, 3), allow_damaged=0.1)


# === Killed, and at once ===
def test_killed_processes():
    """The script's small form: a SIGKILL and a SIGTERM at random moments, of real processes."""
    counts = kill_test.main(kills=2, say=False, protocol="prepare")
    assert (counts.kills, counts.terminated) == (2, 1)


def test_ctrl_c_says_how_it_goes_on(folder, tmp_path, monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "prepare", stopped)
    with pytest.raises(KeyboardInterrupt):
        preparing.prepare(folder, tmp_path / "out")
    assert capsys.readouterr().out.endswith("out: stopped; the same command continues it\n")


def test_two_processes_do_not_write_to_one_folder(folder, tmp_path):
    """As a process would whose parent is gone, and the command that is typed again."""
    pytest.importorskip("fcntl")
    (tmp_path / "out").mkdir()
    with _files.locked(tmp_path / "out"), pytest.raises(ValueError, match="Another process is at work in '.*out'"):
        prepare(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == {}
