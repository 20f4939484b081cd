"""Runs that are killed and gone on with end as if nothing had happened; damage and disorder are said."""

import errno
import io
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import kill_test
import numpy as np
import pytest
from keras import ops
from rich.console import Console
from training_helpers import Stop, killed, terminated

import keras_mae
from keras_mae.training import PretrainRecipe, RankMe, RunDirectory, Saving, StopOnNonFinite, run_pretraining
from keras_mae.training.checkpoints import Checkpoints, Preempted, seek
from keras_mae.training.stored import checksummed

pytestmark = pytest.mark.usefixtures("untraced")

IMAGES = np.random.default_rng(0).integers(0, 256, (27, 8, 12, 1), "uint8")
RECIPE = PretrainRecipe(
    epochs=3, warmup_epochs=1, batch_size=8, gradient_accumulation_steps=2, norm_pix_loss=True, seed=4
)
STEPS = 6  # an epoch, of 4 images each


def run(directory, *callbacks, recipe=RECIPE, width=16, **options):
    keras.utils.set_random_seed(1)
    encoder = keras_mae.ViTEncoder((8, 12, 1), 4, embed_dim=width, depth=1, num_heads=2, drop_path_rate=0.3)
    model = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), norm_pix_loss=True, seed=2)
    dataset = keras_mae.data.from_arrays(
        IMAGES, batch_size=recipe.step_batch_size, drop_remainder=True, seed=recipe.seed
    )
    options = {"saving": Saving(resume=True, every_steps=4), "console": Console(file=io.StringIO()), **options}
    run_pretraining(model, dataset, recipe, directory, examples=IMAGES[:2], callbacks=callbacks, **options)
    return model


def everything(model):
    return [
        ops.convert_to_numpy(value)
        for value in (*model.weights, *model.optimizer.variables, model.encoder.step.value)
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("alone") / "run"


@pytest.fixture(scope="module")
def alone(finished):
    """The run that nobody disturbs: all it ends with."""
    return everything(run(finished)), (finished / "history.csv").read_text()


def assert_as_if_nothing_had_happened(model, directory, alone):
    for got, expected in zip(everything(model), alone[0], strict=True):
        assert np.array_equal(got, expected)
    assert (directory / "history.csv").read_text() == alone[1]
    assert not (directory / "checkpoints").exists()


# === Killed and gone on with ===
@pytest.mark.backends("torch")  # the next is killed on each
@pytest.mark.parametrize("step", [3, 9])
def test_it_ends_as_if_nothing_had_happened(step, alone, tmp_path):
    """Killed before the first checkpoint, and between two."""
    with pytest.raises(MemoryError):
        run(tmp_path / "run", Stop(step, killed))
    assert_as_if_nothing_had_happened(run(tmp_path / "run"), tmp_path / "run", alone)


def test_it_may_be_terminated_again_and_again(alone, tmp_path):
    """Within an epoch, with half an update's gradients; at the end of one; and at the last step but one.

    Killed between two checkpoints, too.
    """
    done = 0
    for steps in (3, 3, 2, 7):
        if done == 6:
            with pytest.raises(MemoryError):
                run(tmp_path / "run", Stop(3, killed))
            done = 8  # the last checkpoint
        done += steps
        with pytest.raises(Preempted) as caught:
            run(tmp_path / "run", Stop(steps, terminated))
        assert (caught.value.code, caught.value.path.name) == (143, f"step-{done:09d}")
    assert_as_if_nothing_had_happened(run(tmp_path / "run"), tmp_path / "run", alone)


@pytest.mark.backends("torch")
def test_killed_processes():
    """The script's small form: a SIGKILL, a SIGTERM and a Ctrl-C at random moments, of real processes."""
    counts = kill_test.main(kills=3, epochs=1, say=False)
    assert (counts.kills, counts.terminated, counts.interrupted) == (3, 1, 1)


@pytest.mark.backends("torch")
def test_scores_go_on_as_if_nothing_had_happened(tmp_path):
    """Between two measurements, in an epoch that was begun."""
    run(tmp_path / "alone", RankMe(IMAGES, 2))
    with pytest.raises(Preempted):
        run(tmp_path / "run", RankMe(IMAGES, 2), Stop(2 * STEPS + 3, terminated))
    run(tmp_path / "run", RankMe(IMAGES, 2))
    assert (tmp_path / "run" / "history.csv").read_text() == (tmp_path / "alone" / "history.csv").read_text()


@pytest.mark.backends("torch")
@pytest.mark.parametrize("first", [(), (RankMe(IMAGES, 1),)], ids=["then with a score", "then without"])
def test_a_run_may_go_on_with_other_scores(tmp_path, first):
    with pytest.raises(Preempted):
        run(tmp_path / "run", *first, Stop(2 * STEPS, terminated))
    run(tmp_path / "run", *(() if first else (RankMe(IMAGES, 1),)))
    history = RunDirectory(tmp_path / "run").history
    assert np.isfinite(history["rankme"]).tolist() == [bool(first), bool(first), not first]
    assert np.isfinite(history["loss"]).all()


def test_a_finished_run_is_left_as_it_is(finished, alone):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    run(finished, Stop(1, killed))
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


@pytest.mark.backends("torch")
def test_killed_while_checkpoints_are_taken_away(alone, tmp_path, monkeypatch):
    """The run is finished then, and the next call takes away the rest."""
    remove = shutil.rmtree

    def removed_and_killed(path, **options):
        remove(path, **options)
        if Path(path).parent.name == ".checkpoints":
            killed()

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", removed_and_killed)
        with pytest.raises(MemoryError):
            run(tmp_path / "run")
    assert (tmp_path / "run" / ".checkpoints").exists()
    run(tmp_path / "run", Stop(1, terminated))
    assert (tmp_path / "run" / "history.csv").read_text() == alone[1]
    assert not list((tmp_path / "run").glob("*checkpoints"))


# === Checkpoints ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": 1}, "`resume` must be True or False. Received: resume=1"),
        ({"every_steps": 0}, "`every_steps` must be a positive integer"),
        ({"every_minutes": -1}, "`every_minutes` must be a finite number of at least 0"),
    ],
)
def test_saving_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Saving(**options)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Preempted):
        run(directory, Stop(16, terminated), saving=Saving(resume=True, every_steps=3))
    return directory


@pytest.fixture
def begun(stopped, tmp_path):
    """A run with three checkpoints, that stopped at step 16."""
    directory = shutil.copytree(stopped, tmp_path / "run")
    checkpoints = sorted((directory / "checkpoints").iterdir())
    assert [path.name[-2:] for path in checkpoints] == ["12", "15", "16"]
    return directory, checkpoints


@pytest.mark.backends("torch")
def test_without_resume_a_begun_run_is_refused(begun):
    with pytest.raises(ValueError, match="`run_directory` .* must not exist or be empty"):
        run(begun[0], saving=Saving())


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


NESTED = "[" * 10**5, '{"a":' * 900 + "1" + "}" * 900
WHOLE = {"metadata": {}, "position": {}, "sha256": {}}
OF_OTHER_KINDS = [{}, *({**WHOLE, name: value} for name in WHOLE for value in (None, [1], "a"))]


@pytest.mark.backends("torch")
@pytest.mark.parametrize("content", ["null", "[]", "9" * 5000, *NESTED, *map(checksummed, OF_OTHER_KINDS)])
def test_a_state_of_another_kind_is_damaged_like_any_other(content, begun):
    """With a checksum that is right, too."""
    directory, checkpoints = begun
    (checkpoints[-1] / "state.json").write_text(content)
    with pytest.warns(UserWarning, match="Damaged, and skipped for step-000000015: step-000000016"):
        path, _ = Checkpoints(directory / "checkpoints", STEPS).newest()
    assert path == checkpoints[1]


@pytest.mark.backends("torch")
@pytest.mark.parametrize("name", ["model.weights.h5", "metrics.npz", "state.json"])
@pytest.mark.parametrize("damage", [cut, flip, empty, os.remove])
def test_damage_falls_back_to_the_checkpoint_before(name, damage, begun):
    directory, checkpoints = begun
    damage(checkpoints[-1] / name)
    saved = Checkpoints(directory / "checkpoints", STEPS)
    with pytest.warns(UserWarning, match="Damaged, and skipped for step-000000015: step-000000016"):
        path, _ = saved.newest()
    assert path == checkpoints[1]


@pytest.mark.backends("torch")
def test_a_run_with_a_damaged_checkpoint_ends_the_same(begun, alone):
    directory, checkpoints = begun
    cut(checkpoints[-1] / "model.weights.h5")
    # And what a write left that was killed.
    checkpoints[-2].rename(directory / "checkpoints" / ".writing-step-000000017")
    with pytest.warns(UserWarning, match="skipped for step-000000012"):
        model = run(directory)
    assert_as_if_nothing_had_happened(model, directory, alone)


@pytest.mark.backends("torch")
def test_no_checkpoint_is_whole(begun):
    directory, checkpoints = begun
    for path in checkpoints:
        empty(path / "state.json")
    before = sorted(directory.rglob("*"))
    with pytest.raises(ValueError, match="No checkpoint in .* is whole: step-000000016 .*, step-000000015"):
        run(directory)
    assert sorted(directory.rglob("*")) == before


@pytest.mark.backends("torch")
def test_a_disk_with_no_room_is_said_before_anything_is_written(begun, monkeypatch):
    directory, _ = begun
    before = sorted(directory.rglob("*"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(OSError, match="do not fit on the disk"):
        run(directory, saving=Saving(resume=True, every_steps=1))
    assert sorted(directory.rglob("*")) == before


@pytest.mark.backends("torch")
def test_a_full_disk_leaves_the_checkpoints_before(begun, monkeypatch):
    directory, _ = begun
    before = {path: path.read_bytes() for path in (directory / "checkpoints").rglob("*") if path.is_file()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(directory, saving=Saving(resume=True, every_steps=1))
    assert {path: path.read_bytes() for path in before} == before
    assert not list((directory / "checkpoints").glob(".writing-*"))


@pytest.mark.backends("torch")
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


@pytest.mark.backends("torch")
def test_a_second_process_is_kept_out(begun):
    directory, _ = begun
    with RunDirectory(directory).opened(), pytest.raises(ValueError, match="Another process is at work in"):
        run(directory)


@pytest.mark.backends("torch")
def test_a_dataset_that_cannot_seek_is_refused(begun):
    directory, _ = begun
    state = json.loads((directory / "checkpoints" / "step-000000016" / "state.json").read_text())
    assert state["position"]["batch"] == 4
    with pytest.raises(ValueError, match=r"must have `seek\(epoch, batch\)`.* Received: list"):
        seek([IMAGES], 2, 4)


# === Steps that are not finite ===
class Spoilt(keras.utils.PyDataset):
    """Batches of floats; from one on, a pixel is infinite, or all are so large that the loss is."""

    def __init__(self, value, begin):
        super().__init__()
        self.value, self.begin = value, begin

    num_batches = 6

    def __len__(self):
        return self.num_batches

    def __getitem__(self, index):
        images = IMAGES[:4].astype("float32")
        if self.begin == 0 or index >= self.begin:
            images[0, 0, 0] = self.value  # one pixel, of one channel
        return images


@pytest.mark.parametrize("steps", [4, pytest.param(20, marks=pytest.mark.backends("torch"))])
def test_a_long_row_of_steps_that_are_not_finite_ends_the_run(steps):
    """Across the ends of epochs too: four are less than one, twenty more than three."""
    model = compiled_model()
    stop = StopOnNonFinite(steps, Spoilt(np.inf, 0))
    before = everything(model)[:-1]
    with pytest.raises(FloatingPointError, match="so far: 0, .* 1 values are not finite; its loss is (nan|inf)"):
        model.fit(Spoilt(np.inf, 0), epochs=40, callbacks=[stop], verbose=0)
    for now, then in zip(everything(model)[:-1], before, strict=True):
        assert np.array_equal(now, then)
    assert stop._steps <= 2 * steps


def test_single_steps_that_are_not_finite_do_not(capsys):
    model = compiled_model()
    history = model.fit(Spoilt(np.nan, 3), epochs=4, callbacks=[StopOnNonFinite(4)], verbose=0).history
    assert history["skipped_steps"] == [3] * 4


def compiled_model():
    encoder = keras_mae.ViTEncoder((8, 12, 1), 4, embed_dim=16, depth=1, num_heads=2)
    model = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2))
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() != "jax")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.backends("torch")
def test_files_that_are_no_run_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files, and no run.json that says of what run: notes.txt"):
        run(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
