"""Checkpoints among strangers' files, under clocks that are wrong, on file systems that cannot do everything."""

import errno
import itertools
import os
import shutil
import time

import numpy as np
import pytest
from test_resume import IMAGES, alone, assert_as_if_nothing_had_happened, everything, finished, run  # noqa: F401
from training_helpers import BACKEND, Stop, compiled, killed, slots

import keras_mae
from keras_mae import _files
from keras_mae.training import Checkpoints, stored

pytestmark = pytest.mark.usefixtures("untraced")
only_files = pytest.mark.backends("torch")


@pytest.fixture
def begun(tmp_path):
    """A run that was killed after nine steps, with checkpoints of steps 4, 6 and 8."""
    with pytest.raises(MemoryError):
        run(tmp_path / "run", Stop(9, killed))
    return tmp_path / "run"


def assert_ended_the_same(model, directory, expected):
    for got, wanted in zip(everything(model), expected[0], strict=True):
        assert np.array_equal(got, wanted)
    assert (directory / "history.csv").read_text() == expected[1]


# === What is not ours ===
@only_files
def test_what_is_no_checkpoint_is_left_alone_and_read_by_nobody(begun, alone, tmp_path):  # noqa: F811
    folder, elsewhere = begun / "checkpoints", tmp_path / "elsewhere"
    shutil.copytree(folder / "step-000000008", elsewhere)
    shutil.copytree(folder / "step-000000008", folder / "step-zuletzt")
    (folder / "notes.txt").write_text("mine")
    (folder / "step-000000099").symlink_to(elsewhere)  # would be the newest
    (folder / "step-000000012").symlink_to(tmp_path / "nowhere")  # where the run writes one
    (folder / "step-000000016").write_text("mine")
    with pytest.warns(UserWarning, match=r"'.*step-0000000(12|16)' was no checkpoint of this run, and is 'step-"):
        model = run(begun)
    assert_ended_the_same(model, begun, alone)
    assert sorted(path.name for path in folder.iterdir()) == [
        "notes.txt",
        "step-000000012.1.found",
        "step-000000016.1.found",
        "step-000000099",
        "step-zuletzt",
    ]
    assert sorted(path.name for path in elsewhere.iterdir()) == sorted(
        path.name for path in (folder / "step-zuletzt").iterdir()
    )
    assert not (tmp_path / "nowhere").exists()
    run(begun, Stop(1, killed))  # it is finished, whatever lies there


@only_files
def test_a_copy_by_another_name_is_not_the_newest(begun):
    folder = begun / "checkpoints"
    shutil.copytree(folder / "step-000000006", folder / "step-000000099")
    with pytest.warns(UserWarning, match=r"step-000000099 \(it is that of step 6, by another name\)"):
        path, _ = Checkpoints(folder, 6).newest()
    assert path.name == "step-000000008"


@only_files
def test_steps_count_as_numbers_however_many_digits_they_have(tmp_path):
    for step in (999_999_999, 10**9, 5):
        (tmp_path / stored.name_of(step)).mkdir()
    for other in ("step-0000000007", "step-7", "step-", "step-00000000x", "Step-000000008"):
        (tmp_path / other).mkdir()
    assert list(stored.checkpoints_in(tmp_path)) == [5, 999_999_999, 10**9]
    assert stored.checkpoints_in(tmp_path / "nothing") == {}


@only_files
def test_damaged_later_ones_do_not_drive_out_the_new_ones(tmp_path):
    for step in (4, 8, 9, 20, 21, 22, 23):
        (tmp_path / stored.name_of(step)).mkdir()
    stored.prune(tmp_path, 9, keep=2)
    assert list(stored.checkpoints_in(tmp_path)) == [8, 9, 20, 21, 22, 23]


@only_files
def test_one_that_cannot_be_removed_is_a_warning(tmp_path, monkeypatch):
    for step in (4, 8):
        (tmp_path / stored.name_of(step)).mkdir()

    def refuses(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(shutil, "rmtree", refuses)
    with pytest.warns(UserWarning, match="'.*step-000000004' cannot be removed: Permission denied"):
        stored.prune(tmp_path, 8, keep=1)


@only_files
def test_a_folder_for_checkpoints_on_another_disk_is_emptied_and_kept(begun, alone, tmp_path):  # noqa: F811
    os.rename(begun / "checkpoints", tmp_path / "scratch")
    (begun / "checkpoints").symlink_to(tmp_path / "scratch")
    assert_as_if_nothing_had_happened(run(begun), begun, alone)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not list(begun.glob(".*"))


# === Clocks ===
@only_files
def test_a_clock_that_runs_backwards_changes_nothing(alone, tmp_path, monkeypatch):  # noqa: F811
    """From the year 2099, by 66 years a look, to before there was time; and the files are from the future."""
    then = itertools.count(4.1e9, -2.1e9)
    monkeypatch.setattr(time, "time", lambda: next(then))
    with pytest.raises(MemoryError):
        run(tmp_path / "run", Stop(9, killed))
    for number, path in enumerate(sorted((tmp_path / "run" / "checkpoints").iterdir())):
        os.utime(path, (4e9 - number, 4e9 - number))  # the newest is the oldest
    assert_as_if_nothing_had_happened(run(tmp_path / "run"), tmp_path / "run", alone)
    assert next(then) < 0


# === File systems ===
def failing(number):
    def fails(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return fails


@only_files
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_fsync_locks_and_links_will_do(number, alone, tmp_path, monkeypatch):  # noqa: F811
    fcntl = pytest.importorskip("fcntl")
    for module, name in ((os, "fsync"), (fcntl, "flock"), (os, "link"), (os, "symlink")):
        monkeypatch.setattr(module, name, failing(number))
    with pytest.warns(UserWarning, match="The file system of '.*run' has no locks: see that no other process"):
        model = run(tmp_path / "run")
    assert_as_if_nothing_had_happened(model, tmp_path / "run", alone)


@only_files
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_system_that_cannot_rename_is_named_in_one_line(what, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", failing(errno.ENOSYS if what == "folder" else errno.EEXIST))
    (tmp_path / "target").write_text("old")
    kind = "a folder" if what == "folder" else "a file over another"
    with (
        pytest.raises(OSError, match=f"this file system cannot rename {kind}, .*: '.*{what}'$") as caught,
        _files.whole(tmp_path / what) as unfinished,
    ):
        unfinished.mkdir() if what == "folder" else unfinished.write_text("new")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@only_files
def test_a_locked_folder_keeps_others_out(tmp_path):
    pytest.importorskip("fcntl")
    with (
        _files.locked(tmp_path),
        pytest.raises(ValueError, match="Another process is at work in"),
        _files.locked(tmp_path),
    ):
        pass


# === The optimizer's state ===
@pytest.mark.skipif(BACKEND == "jax", reason="XLA has no float16 matrix product on the CPU")
def test_a_loss_scale_and_all_else_of_the_optimizer_come_back(tmp_path):
    def model():
        return compiled(keras_mae.optimizers.AdamW(0.01), dtype="mixed_float16")

    before, images = model(), np.random.default_rng(0).integers(0, 256, (6, 12, 20, 3), "uint8")
    saved = Checkpoints(tmp_path / "checkpoints", 3, every_steps=1)
    before.fit(images, batch_size=2, verbose=0, callbacks=[saved])
    after = model()
    Checkpoints(tmp_path / "checkpoints", 3).restore(after)
    found, expected = slots(after), slots(before)
    assert found.keys() == expected.keys()
    assert any(path.endswith("dynamic_scale") for path in found)
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@only_files
def test_an_optimizer_whose_state_does_not_fit_is_refused(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 12, 20, 3), "uint8")
    before = compiled()
    before.fit(images, verbose=0, callbacks=[Checkpoints(tmp_path / "checkpoints", 1, every_steps=1)])
    with pytest.raises(ValueError, match="is not of this model: Skipping variable loading for optimizer"):
        Checkpoints(tmp_path / "checkpoints", 1).restore(compiled(keras_mae.optimizers.AdamW(0.01)))
