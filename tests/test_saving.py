"""Where a disk is full or a file must not grow, writing is an `OSError` that names the file, and nothing is lost."""

import contextlib
import errno
import gc
import io
import subprocess

import full_disk
import keras
import numpy as np
import pytest
from training_helpers import BACKEND, build, compiled

from keras_mae import _files, _saving, convert, data
from keras_mae.training import Checkpoints

resource = pytest.importorskip("resource")
h5py = pytest.importorskip("h5py")


@contextlib.contextmanager
def files_of_at_most(size):
    """Let no file of this process grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_many(file, count=60):
    with h5py.File(file, "w") as opened:
        for number in range(count):
            opened.create_group(f"group{number}")["array"] = np.arange(100.0) + number


def arrays_in(file):
    with h5py.File(file, "r") as opened:
        return [float(opened[f"group{number}/array"][7]) for number in range(len(opened))]


# === Files that never fail ===
def test_what_is_written_is_what_hdf5_would_have_written(tmp_path):
    write_many(tmp_path / "a.h5")
    with _saving.unfailing(tmp_path / "b.h5") as file:
        write_many(file)
    assert arrays_in(tmp_path / "b.h5") == arrays_in(tmp_path / "a.h5") == [7.0 + number for number in range(60)]


@pytest.mark.parametrize("size", [100, 3_000, 30_000, 90_000])
def test_a_library_writes_on_in_memory_and_the_error_comes_at_the_end(tmp_path, size):
    kept = []

    def write():
        with files_of_at_most(size), _saving.unfailing(tmp_path / "a.h5") as file:
            write_many(file)
            kept.append(arrays_in(io.BytesIO(file.getvalue())))

    with pytest.raises(OSError, match="a.h5") as caught:
        write()
    assert caught.value.errno == errno.EFBIG
    assert kept == [[7.0 + number for number in range(60)]]


def test_an_error_of_the_library_leaves_a_file_that_can_be_closed(tmp_path):
    opened = []

    def write():
        with _saving.unfailing(tmp_path / "a.h5") as file:
            opened.append(h5py.File(file, "w"))
            opened[0]["a"] = np.zeros(1000)
            raise KeyError("a")

    with pytest.raises(KeyError):
        write()
    opened[0]["b"] = np.ones(1000)
    opened[0].close()


@pytest.mark.parametrize("write", [_saving.save_weights, _saving.save_model])
def test_a_model_that_does_not_fit_is_an_error_and_nothing_else(tmp_path, write, capfd):
    model, path = compiled(), tmp_path / "model.weights.h5"
    path = path if write is _saving.save_weights else tmp_path / "model.keras"
    with files_of_at_most(20_000), pytest.raises(OSError, match=rf"^\[Errno {errno.EFBIG}\] .*{path.name}"):
        write(model, path)
    gc.collect()
    assert capfd.readouterr().err == ""
    write(model, path)
    again = build()
    again.load_weights(path)
    assert all(
        np.array_equal(*map(keras.ops.convert_to_numpy, pair))
        for pair in zip(model.weights, again.weights, strict=True)
    )


@pytest.mark.parametrize("format", ["keras", "preset", "timm"])
def test_convert_leaves_nothing_of_what_does_not_fit(tmp_path, format):
    path = tmp_path / ("a.keras" if format == "keras" else "a")
    with files_of_at_most(9_000), pytest.raises(OSError, match=f"{path.name}'?$"):
        convert.save(build().encoder, path, format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's own file")
def test_a_file_of_pytorch_that_does_not_fit_is_an_error(tmp_path):
    with files_of_at_most(9_000), pytest.raises(OSError, match="a.pth'$"):
        convert.save(build().encoder, tmp_path / "a.pth", "reference")
    assert list(tmp_path.iterdir()) == []


# === Checkpoints ===
def test_a_checkpoint_that_does_not_fit_leaves_the_earlier_ones(tmp_path):
    model = compiled()
    saved = Checkpoints(tmp_path / "checkpoints", 10)
    saved.set_model(model)
    saved.position.step = 1
    first = saved.save()
    saved.position.step = 2
    with files_of_at_most(20_000), pytest.raises(OSError, match="step-000000002"):
        saved.save()
    assert saved.newest()[0] == first
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [first.name]
    assert saved.save().name == "step-000000002"


def test_the_room_that_is_asked_for_is_what_a_checkpoint_takes(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(_files, "check_room", lambda directory, size: asked.append(size))
    model = compiled()
    model.optimizer.build(model.trainable_variables)
    saved = Checkpoints(tmp_path / "checkpoints", 10)
    saved.set_model(model)
    taken = (saved.save() / "model.weights.h5").stat().st_size
    assert 0.5 * asked[0] < taken < 1.5 * asked[0]


# === Errors by the name of the file ===
def test_what_a_library_raises_on_a_full_disk_is_an_os_error(tmp_path):
    def write(error):
        with _files.whole(tmp_path / "a.txt") as path:
            with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
                while file.write(bytes(1000)):
                    pass
            raise error

    with files_of_at_most(70_000), pytest.raises(OSError, match="a.txt") as caught:
        write(RuntimeError("the library's own words"))
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_an_error_names_the_file_and_not_where_it_was_being_written(tmp_path):
    (tmp_path / "file").write_text("a file")
    for path in (tmp_path / "file" / "a.txt", tmp_path / "a.txt"):
        with pytest.raises(OSError, match="file|a.txt") as caught, _files.whole(path) as unfinished:
            unfinished.parent.joinpath("no folder", "x").write_text("x")
        assert ".writing-" not in str(caught.value)


def test_a_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a.txt")
    for content in ("new", "newer"):
        with _files.whole(tmp_path / "link") as unfinished:
            unfinished.write_text(content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "disk" / "a.txt").read_text() == content


def test_a_preparation_that_does_not_fit_says_so_and_goes_on_later(tmp_path):
    pytest.importorskip("array_record")
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "images").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 90, 3), "uint8")
        image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    with files_of_at_most(30_000), pytest.raises(OSError, match=r"00000-of-00001.array_record'$"):
        data.prepare(tmp_path / "images", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.array_record"))
    assert data.prepare(tmp_path / "images", tmp_path / "out")["images"] == 4


def test_shards_are_not_written_among_the_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for out in (tmp_path / "out", tmp_path / "deep" / ".." / "out"):
        with pytest.raises(ValueError, match="`out` must lie outside of `directory`, .*Received: out="):
            data.prepare(tmp_path, out)


@pytest.mark.skipif(BACKEND != "torch", reason="the quickest to start; the script runs on each by hand")
def test_runs_that_fill_their_disk_say_so_and_go_on(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    subprocess.run(["umount", tmp_path], check=True)
    counts = full_disk.main(1, seed=1, say=False)
    assert counts.disk_full + counts.file_too_large > 0
