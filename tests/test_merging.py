"""A folder that is prepared in parts, side by side, and joined: the same images, or an error that names the part."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_helpers import CLASSES, COUNT, contents, needs_tensorflow, numbers, prepare, write_folder

from keras_mae import _files, data
from keras_mae.data import manifests, preparation

pytestmark = pytest.mark.backends("torch")

FORMATS = ["array_record", pytest.param("tfrecord", marks=needs_tensorflow)]
PARTS = 3  # of 7, 8 and 8 images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    """All parts, not joined."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    for number in range(PARTS, 0, -1):  # in any order
        prepare(folder, out, part=(number, PARTS))
    return out


@pytest.fixture
def out(prepared, tmp_path):
    """A copy, as on another machine."""
    return Path(shutil.copytree(prepared, tmp_path / "out"))


def everything(directory):
    """A checksum of each file, by its path."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def records_of(directory):
    return [bytes(record) for record in data.open_directory(directory)._records]


# === What comes out ===
def test_the_parts_joined_are_the_folder_prepared_in_one_piece(folder, out, tmp_path):
    """Record by record, in the same order; with the names of all classes."""
    calls = []
    manifest = data.merge_prepared(out, lambda *call: calls.append(call))
    whole = prepare(folder, tmp_path / "whole")
    assert records_of(out) == records_of(tmp_path / "whole")
    assert {name: manifest[name] for name in ("images", "classes", "skipped", "quality", "short_side")} == {
        name: whole[name] for name in ("images", "classes", "skipped", "quality", "short_side")
    }
    assert (manifest["parts"], manifest["total"]) == (PARTS, COUNT)
    assert [shard["file"] for shard in manifest["shards"]][:2] == [
        f"part-1-of-3/0000{number}-of-00002.array_record" for number in range(2)
    ]
    assert manifest == json.loads((out / "manifest.json").read_text()) == manifests.read_manifest(out)
    assert calls == [(number, 6) for number in range(1, 7)]
    assert data.find_damaged(out) == []


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_joined_is_trained_on(folder, tmp_path, format):
    for number in (1, 2):
        prepare(folder, tmp_path / "out", format=format, part=(number, 2))
    data.merge_prepared(tmp_path / "out")
    dataset = data.from_directory(tmp_path / "out", 8, 4)
    assert sorted(numbers(dataset)) == list(range(COUNT))
    assert dataset.class_names == CLASSES
    before = dataset.fingerprint()
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert data.from_directory(tmp_path / "moved", 8, 4).fingerprint() == before


def test_a_part_is_a_prepared_folder_by_itself(out):
    found = [sorted(numbers(data.from_directory(out / f"part-{part}-of-3", 8, 4))) for part in (1, 2, 3)]
    assert [len(part) for part in found] == [7, 8, 8]
    assert sorted(np.concatenate(found)) == list(range(COUNT))


def test_damaged_images_of_all_parts_are_listed(folder, tmp_path):
    images = Path(shutil.copytree(folder, tmp_path / "images"))
    for name in ("ant/00.png", "owl/20.png"):
        (images / name).write_bytes(b"")
    for number in (1, 2):
        with pytest.warns(UserWarning, match="are damaged and left out"):
            prepare(images, tmp_path / "out", part=(number, 2), allow_damaged=0.1)
    manifest = data.merge_prepared(tmp_path / "out")
    assert (manifest["images"], manifest["skipped"]) == (COUNT - 2, ["ant/00.png", "owl/20.png"])


def test_one_part_may_be_all(folder, tmp_path):
    prepare(folder, tmp_path / "out", part=(1, 1))
    assert data.merge_prepared(tmp_path / "out")["images"] == COUNT


# === Again ===
def test_a_part_and_the_join_may_be_done_again(folder, out):
    data.merge_prepared(out)
    before = everything(out)
    prepare(folder, out, part=(2, PARTS))
    data.merge_prepared(out)
    assert everything(out) == before


def test_a_part_that_was_stopped_goes_on(folder, out, monkeypatch):
    whole = contents(out / "part-2-of-3")
    shutil.rmtree(out / "part-2-of-3")
    smaller, calls = preparation._smaller, []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) > 6:
            raise OSError("the disk is full")
        return smaller(*arguments)

    monkeypatch.setattr(preparation, "_smaller", stopped)
    with pytest.raises(OSError, match="the disk is full"):
        prepare(folder, out, part=(2, PARTS))
    monkeypatch.undo()
    shutil.rmtree(out / "part-3-of-3")
    with pytest.raises(ValueError, match="Received: 3/3 missing; 2/3 not complete: the same call goes on with each"):
        data.merge_prepared(out)
    prepare(folder, out, part=(3, PARTS))
    with pytest.raises(ValueError, match="must be complete. Received: 2/3 not complete"):
        data.merge_prepared(out)
    assert not (out / "manifest.json").exists()
    prepare(folder, out, part=(2, PARTS))
    assert contents(out / "part-2-of-3") == whole
    assert data.merge_prepared(out)["images"] == COUNT


def test_parts_do_not_wait_for_one_another_and_one_is_done_by_one(folder, out):
    pytest.importorskip("fcntl")
    with _files.locked(out / "part-1-of-3"):
        prepare(folder, out, part=(2, PARTS))
        with pytest.raises(ValueError, match="Another process is at work in '.*part-1-of-3'"):
            prepare(folder, out, part=(1, PARTS))


# === What does not go together ===
def refused(out, message):
    before = everything(out)
    with pytest.raises(ValueError, match=message):
        data.merge_prepared(out)
    assert everything(out) == before


def test_a_lost_part_is_named(out):
    shutil.rmtree(out / "part-2-of-3")
    refused(out, "Parts to join must be there once each. Received: 2/3 missing$")


def test_a_part_of_other_parts_is_refused(folder, out):
    prepare(folder, out, part=(4, 4))
    refused(out, "must be of one whole. Received: parts of 3, 4")


def test_a_part_that_was_copied_is_there_twice(out):
    shutil.copytree(out / "part-1-of-3", out / "part-01-of-3")
    refused(out, "Received: 1/3 given twice")


@pytest.mark.parametrize("change", [{"quality": 50}, {"short_side": 8}, {"labeled": False}])
def test_parts_that_were_made_otherwise_are_refused(folder, out, change):
    shutil.rmtree(out / "part-3-of-3")
    prepare(folder, out, part=(3, PARTS), **change)
    name = next(iter(change)).replace("labeled", "classes")
    refused(out, f"must be made alike. '.*part-3-of-3' has another {name}")


def test_parts_of_other_images_are_refused(folder, out, tmp_path):
    images = Path(shutil.copytree(folder, tmp_path / "images"))
    (images / "ant" / "00.png").rename(images / "ant" / "01.png")
    shutil.rmtree(out / "part-3-of-3")
    prepare(images, out, part=(3, PARTS))
    refused(out, "'.*part-3-of-3' has another names")


def test_a_shard_that_was_damaged_on_its_way_is_named_and_made_good_by_its_part(folder, out):
    path = sorted((out / "part-2-of-3").glob("0*"))[1]
    path.write_bytes(path.read_bytes()[:-1])
    refused(out, f"prepare these parts again, which makes them good. Received: part-2-of-3/{path.name}")
    prepare(folder, out, part=(2, PARTS))
    assert data.merge_prepared(out)["images"] == COUNT
    path.unlink()
    with pytest.raises(ValueError, match=f"lacks 1 of its shards. Missing: part-2-of-3/{path.name}"):
        data.from_directory(out, 8, 4)
    refused(out, f"part-2-of-3' lacks 1 of its shards. Missing: {path.name}")


def test_parts_that_are_not_joined_are_no_folder_of_images(out):
    for read in (data.open_directory, data.find_damaged, data.from_directory):
        with pytest.raises(
            ValueError, match="in parts, which are not joined yet: .* `keras-mae prepare FOLDER --merge`"
        ):
            read(out)


def test_a_folder_is_prepared_in_parts_or_in_one_piece(folder, out, tmp_path):
    with pytest.raises(ValueError, match="`out` must not exist, be empty, or hold what the same call left"):
        prepare(folder, out)
    data.merge_prepared(out)
    with pytest.raises(ValueError, match="written with another .*parts"):
        prepare(folder, out)
    prepare(folder, tmp_path / "whole")
    with pytest.raises(ValueError, match="`out` must not exist, be empty, or hold what the same call left"):
        prepare(folder, tmp_path / "whole", part=(1, 2))
    refused(tmp_path / "whole", "`directory` must be a folder that holds the parts of one")
    (tmp_path / "file").write_text("dear")
    with pytest.raises(ValueError, match="`out` must not exist"):
        prepare(folder, tmp_path / "file", part=(1, 2))


@pytest.mark.parametrize("name", ["nowhere", "", "images"])
def test_what_holds_no_parts_is_refused(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "images")
    with pytest.raises(ValueError, match="`directory` must be"):
        data.merge_prepared(tmp_path / name if name else "")


@pytest.mark.parametrize("part", [(0, 2), (3, 2), "3", 1.5, (1, 2, 3), (1, 99), (True, 2)], ids=str)
def test_a_part_that_there_is_not_is_refused(folder, tmp_path, part):
    with pytest.raises(ValueError, match="`part` must be"):
        prepare(folder, tmp_path / "out", part=part)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"part": [9, 3]}, {"part": "x"}, {"part": None}, {"images": 3}], ids=str)
def test_a_parts_manifest_that_was_changed_is_refused(out, change):
    file = out / "part-1-of-3" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(out, "is damaged, or was changed|is not a part of one")
    file.write_text("{")
    refused(out, "is damaged, or was changed")


def test_a_joined_manifest_that_was_changed_is_refused(out):
    data.merge_prepared(out)
    (out / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged, or was changed"):
        data.open_directory(out)
