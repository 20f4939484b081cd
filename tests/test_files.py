"""Files that appear whole or not at all."""

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from keras_mae import _files, _optional

pytestmark = pytest.mark.backends("torch")


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_file_appears_when_the_block_ends_and_replaces_the_old_one(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with _files.whole(tmp_path / "a.txt") as unfinished:
        assert unfinished.name == "a.txt"
        unfinished.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_appears_with_all_that_is_in_it_and_its_parents_are_made(tmp_path):
    with _files.whole(tmp_path / "deep" / "folder") as unfinished:
        (unfinished / "inner").mkdir(parents=True)
        (unfinished / "inner" / "file").write_bytes(b"content")
        assert not (tmp_path / "deep" / "folder").exists()
    assert (tmp_path / "deep" / "folder" / "inner" / "file").read_bytes() == b"content"
    assert names(tmp_path / "deep") == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_everything_as_it_was(error, tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def fail():
        with _files.whole(tmp_path / "a.txt") as unfinished:
            unfinished.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), _files.whole(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


# Without the package's own __init__, which takes seconds to import a backend.
_KILLED = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("_files", sys.argv[2])
spec.loader.exec_module(_files := importlib.util.module_from_spec(spec))
with _files.whole(sys.argv[1]) as unfinished:
    unfinished.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_that_of_a_live_one_is_not(tmp_path):
    arguments = [sys.executable, "-c", _KILLED, tmp_path / "a.txt", _files.__file__]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        assert len(names(tmp_path)) == 1
        with _files.whole(tmp_path / "b.txt") as unfinished:  # while it lives
            unfinished.write_text("b")
        assert len(names(tmp_path)) == 2
        process.kill()
    with _files.whole(tmp_path / "c.txt") as unfinished:
        unfinished.write_text("c")
    assert names(tmp_path) == ["b.txt", "c.txt"]


def test_another_machines_unfinished_files_are_left_alone(tmp_path):
    other = tmp_path / f"{_files.UNFINISHED}{2**22 + 1}@not-{platform.node()}-abcdef"
    other.mkdir()
    _files.remove_abandoned(tmp_path)
    assert names(tmp_path) == [other.name]
    _files.remove_unfinished(tmp_path)
    assert names(tmp_path) == []


def test_the_checksum_is_sha256s(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-4's own example
    assert _files.sha256(tmp_path / "a") == digest


def test_a_disk_without_room_is_an_error_that_says_how_much_is_missing(tmp_path):
    _files.check_room(tmp_path, 1)
    with pytest.raises(OSError, match=r"1000000000000.0 MB do not fit on the disk, which has") as caught:
        _files.check_room(tmp_path, 10**18)
    assert caught.value.errno == errno.ENOSPC


def test_a_file_system_that_cannot_flush_is_no_error_and_a_failing_disk_is(tmp_path, monkeypatch):
    def fails_with(number):
        def fsync(descriptor):
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", fails_with(errno.EINVAL))
    with _files.whole(tmp_path / "a") as unfinished:
        unfinished.write_text("a")
    monkeypatch.setattr(os, "fsync", fails_with(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), _files.whole(tmp_path / "b") as unfinished:
        unfinished.write_text("b")
    assert names(tmp_path) == ["a"]


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.neighbors", raising=False)
    with pytest.raises(ImportError, match=r'^Voting requires scikit-learn: pip install "keras-mae\[data\]"$'):
        _optional.require("sklearn.neighbors", "Voting")


def test_every_extra_that_is_named_exists():
    import tomllib

    project = Path(__file__).parent.parent / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    assert {extra for _, extra in _optional._DISTRIBUTIONS.values()} <= set(extras)


def test_cores_are_those_this_process_may_use():
    assert 1 <= _optional.cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("name", ["folder", ".", ".."])
def test_a_place_where_no_file_can_be_is_named(name, tmp_path, monkeypatch):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "folder")
    target = tmp_path / "folder" if name == "folder" else name

    def write():
        with _files.whole(target) as unfinished:
            unfinished.write_text("a")

    with pytest.raises(OSError, match="directory|exists") as caught:
        write()
    assert caught.value.filename == str(Path(target))
    assert names(tmp_path) == ["folder"]
