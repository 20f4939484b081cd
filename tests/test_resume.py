"""Runs that are killed and gone on with end as if nothing had happened; damage and disorder are said."""

import errno
import io
import json
import os
import shutil
import signal

import keras
import kill_test
import numpy as np
import pytest
from keras import ops
from rich.console import Console

import keras_mae
from keras_mae.training import PretrainRecipe, pretrain
from keras_mae.training.resume import Checkpoints, Preempted, lock, seek

IMAGES = np.random.default_rng(0).integers(0, 256, (27, 8, 12, 1), "uint8")
RECIPE = PretrainRecipe(epochs=3, warmup_epochs=1, batch_size=8, accumulation_steps=2, norm_pix_loss=True, seed=4)
STEPS = 6  # an epoch, of 4 images each


class Stop(keras.callbacks.Callback):
    """Does something at the end of a step, counted from 1."""

    def __init__(self, step, action):
        super().__init__()
        self.step, self.action = step, action

    def on_train_batch_end(self, batch, logs=None):
        self.step -= 1
        if self.step == 0:
            self.action()


def killed():
    raise MemoryError("killed")


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)


def run(directory, *callbacks, recipe=RECIPE, loader=None, width=16, **options):
    keras.utils.set_random_seed(1)
    encoder = keras_mae.ViTEncoder((8, 12, 1), 4, embed_dim=width, depth=2, num_heads=2, drop_path_rate=0.3)
    model = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), norm_pix_loss=True, seed=2)
    dataset = keras_mae.data.from_arrays(
        IMAGES, batch_size=recipe.step_batch_size, drop_remainder=True, seed=recipe.seed, loader=loader
    )
    options = {"resume": True, "checkpoint_steps": 4, **options}
    console = Console(file=io.StringIO())
    pretrain(model, dataset, recipe, directory, IMAGES[:2], callbacks=callbacks, console=console, **options)
    return model


def everything(model):
    return [
        ops.convert_to_numpy(value)
        for value in (*model.weights, *model.optimizer.variables, model.encoder.step.value)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run that nobody disturbs: all it ends with."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    return everything(run(directory)), (directory / "history.csv").read_text()


def assert_as_if_nothing_had_happened(model, directory, alone):
    for got, expected in zip(everything(model), alone[0], strict=True):
        assert np.array_equal(got, expected)
    assert (directory / "history.csv").read_text() == alone[1]
    assert not (directory / "checkpoints").exists()


# === Killed and gone on with ===
@pytest.mark.parametrize(
    ("step", "how"), [(3, killed), (3, terminated), (6, killed), (6, terminated), (9, terminated), (17, killed)]
)
def test_it_ends_as_if_nothing_had_happened(step, how, alone, tmp_path):
    """Before the first checkpoint, at one, within and at the end of an epoch, with half an update's gradients."""
    with pytest.raises((MemoryError, Preempted)) as caught:
        run(tmp_path / "run", Stop(step, how))
    if how is terminated:
        assert caught.value.code == 143
        assert caught.value.path.name == f"step-{step:09d}"
    assert_as_if_nothing_had_happened(run(tmp_path / "run"), tmp_path / "run", alone)


@pytest.mark.parametrize("loader", ["grain", "tf.data"])
def test_both_loaders_go_on_where_they_were(loader, alone, tmp_path):
    if loader == "tf.data":
        pytest.importorskip("tensorflow")
    with pytest.raises(Preempted):
        run(tmp_path / "run", Stop(10, terminated), loader=loader)
    assert_as_if_nothing_had_happened(run(tmp_path / "run", loader=loader), tmp_path / "run", alone)


def test_it_may_be_killed_more_than_once(alone, tmp_path):
    for step in (2, 5, 1, 4):
        with pytest.raises(Preempted):
            run(tmp_path / "run", Stop(step, terminated))
    assert_as_if_nothing_had_happened(run(tmp_path / "run"), tmp_path / "run", alone)


def test_killed_processes():
    """The script's small form: two SIGKILLs and a SIGTERM at random moments, of real processes."""
    counts = kill_test.main(kills=3, epochs=1, say=False)
    assert (counts.kills, counts.terminated) == (3, 1)


def test_a_finished_run_is_left_as_it_is(alone, tmp_path):
    run(tmp_path / "run")
    before = (tmp_path / "run" / "model.keras").stat().st_mtime_ns
    run(tmp_path / "run", Stop(1, killed))
    assert (tmp_path / "run" / "model.keras").stat().st_mtime_ns == before


def test_without_resume_a_begun_run_is_refused(tmp_path):
    with pytest.raises(Preempted):
        run(tmp_path / "run", Stop(2, terminated))
    with pytest.raises(ValueError, match="`run_directory` must not exist or be empty"):
        run(tmp_path / "run", resume=False)


# === Checkpoints ===
@pytest.fixture
def begun(tmp_path):
    """A run with three checkpoints, that stopped at step 16."""
    with pytest.raises(Preempted):
        run(tmp_path / "run", Stop(16, terminated), checkpoint_steps=3)
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name[-2:] for path in checkpoints] == ["12", "15", "16"]
    return tmp_path / "run", checkpoints


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["model.weights.h5", "metrics.npz", "state.json"])
@pytest.mark.parametrize("damage", [cut, flip, empty, os.remove])
def test_damage_falls_back_to_the_checkpoint_before(name, damage, begun):
    directory, checkpoints = begun
    damage(checkpoints[-1] / name)
    saved = Checkpoints(directory / "checkpoints", STEPS)
    with pytest.warns(UserWarning, match="Damaged, and passed over for step-000000015: step-000000016"):
        path, _ = saved.newest()
    assert path == checkpoints[1]


def test_a_run_with_a_damaged_checkpoint_ends_the_same(begun, alone):
    directory, checkpoints = begun
    cut(checkpoints[-1] / "model.weights.h5")
    shutil.rmtree(checkpoints[-2])
    with pytest.warns(UserWarning, match="passed over for step-000000012"):
        model = run(directory)
    assert_as_if_nothing_had_happened(model, directory, alone)


def test_no_checkpoint_is_whole(begun):
    directory, checkpoints = begun
    for path in checkpoints:
        empty(path / "state.json")
    before = sorted(directory.rglob("*"))
    with pytest.raises(ValueError, match="No checkpoint in .* is whole: step-000000016 .*, step-000000015"):
        run(directory)
    assert sorted(directory.rglob("*")) == before


def test_leftovers_of_a_write_are_cleared_away(begun, alone):
    directory, checkpoints = begun
    shutil.copytree(checkpoints[-1], directory / "checkpoints" / ".writing-step-000000017")
    assert_as_if_nothing_had_happened(run(directory), directory, alone)


def test_a_full_disk_leaves_the_checkpoints_before(begun, monkeypatch):
    directory, _ = begun
    before = {path: path.read_bytes() for path in (directory / "checkpoints").rglob("*") if path.is_file()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(directory, checkpoint_steps=1)
    assert {path: path.read_bytes() for path in before} == before
    assert not list((directory / "checkpoints").glob(".writing-*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": PretrainRecipe(**{**vars(RECIPE), "epochs": 9})}, "is another one. Received: epochs=9 and not 3"),
        ({"width": 24}, r"is another one. Received: parameters=\d+ and not \d+"),
    ],
)
def test_another_run_is_not_gone_on_with(changes, message, begun):
    directory, _ = begun
    with pytest.raises(ValueError, match=message):
        run(directory, **changes)


def test_a_second_process_is_kept_out(begun):
    directory, _ = begun
    with lock(directory), pytest.raises(ValueError, match="Another process is at work in"):
        run(directory)


def test_a_dataset_that_cannot_seek_is_refused(begun):
    directory, _ = begun
    state = json.loads((directory / "checkpoints" / "step-000000016" / "state.json").read_text())
    assert state["position"]["batch"] == 4
    with pytest.raises(ValueError, match=r"must have `seek\(epoch, batch\)`.* Received: list"):
        seek([IMAGES], 2, 4)


def test_files_that_are_no_run_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files, and no checkpoint to go on from: 0 of 3 epochs"):
        run(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
