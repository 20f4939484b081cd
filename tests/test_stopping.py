"""Ctrl-C, and other ends of a run before its end: it is saved, says so, and goes on as if nothing had happened."""

import contextlib
import functools
import io
import os
import signal

import keras
import numpy as np
import pytest
from rich.console import Console
from test_resume import IMAGES, alone, assert_as_if_nothing_had_happened, everything, finished, run  # noqa: F401
from training_helpers import Stop, killed

import keras_mae
from keras_mae.training import Interrupted, Preempted, RunDirectory, Saving
from keras_mae.training.callbacks import Interruptible
from keras_mae.training.signals import Handler

ON_TORCH = functools.partial(pytest.param, marks=pytest.mark.backends("torch"))  # once is enough for the others
HANDLERS = ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL))


def pressed():
    os.kill(os.getpid(), signal.SIGINT)


def hung_up():
    os.kill(os.getpid(), signal.SIGHUP)


@pytest.fixture(autouse=True)
def not_in_the_background():
    """As in a terminal, also where a shell started the tests with Ctrl-C ignored."""
    before = [(number, signal.signal(number, handler)) for number, handler in HANDLERS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def stopped_run(directory, *callbacks, **options):
    """What a run that is stopped raises, and what it prints."""
    shown = io.StringIO()
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        run(directory, *callbacks, console=Console(file=shown, width=200), **options)
    return caught.value, shown.getvalue().splitlines()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("step", [ON_TORCH(1), 6, ON_TORCH(17)])
def test_ctrl_c_saves_and_the_same_call_continues(step, alone, tmp_path):  # noqa: F811
    """In the first step, at the end of an epoch, and at the last step but one."""
    handler, directory = signal.getsignal(signal.SIGINT), tmp_path / "run"
    error, lines = stopped_run(directory, Stop(step, pressed), saving=Saving(resume=True))
    assert (type(error), error.path.name) == (Interrupted, f"step-{step:09d}")
    assert lines[0] == f"{directory}: there is nothing to resume yet, and the run begins"
    assert lines[-1] == f"{directory}: stopped at step {step}; the same call continues it"
    assert names(directory) == ["checkpoints", *["history.csv"] * (step > 5), "recipe.toml", "run.json"]
    assert signal.getsignal(signal.SIGINT) is handler
    assert_as_if_nothing_had_happened(run(directory), directory, alone)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(("stop", "kind"), [(pressed, Interrupted), (hung_up, Preempted)])
def test_a_run_that_was_not_to_be_resumed_says_how(stop, kind, alone, tmp_path):  # noqa: F811
    directory = tmp_path / "run"
    error, lines = stopped_run(directory, Stop(2, stop), saving=Saving())
    assert type(error) is kind
    assert lines == [f"{directory}: stopped at step 2; the same call with saving=Saving(resume=True) continues it"]
    with pytest.raises(ValueError, match="a run that `resume` \\(--resume\\) continues"):
        run(directory, saving=Saving())
    assert_as_if_nothing_had_happened(run(directory), directory, alone)


@pytest.mark.parametrize("dropped", [ON_TORCH(False), True])
def test_a_second_one_stops_at_once_even_if_numpy_drops_it(dropped, alone, tmp_path, monkeypatch):  # noqa: F811
    """On JAX a step is waited for inside NumPy, which drops a KeyboardInterrupt raised there."""
    monkeypatch.setattr(Interruptible, "_SAME", 0)
    ended, directory = [], tmp_path / "run"

    class Press(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if len(ended) == 2:
                pressed()
                with contextlib.suppress(*[KeyboardInterrupt] * dropped):
                    pressed()

        def on_train_batch_end(self, batch, logs=None):
            ended.append(batch)

    error, lines = stopped_run(directory, Press(), saving=Saving(resume=True))
    assert (type(error), len(ended)) == (KeyboardInterrupt, 2)
    assert lines[1:] == [f"{directory}: stopped at step 2; the same call begins it anew"]
    assert names(directory) == ["recipe.toml", "run.json"]
    assert_as_if_nothing_had_happened(run(directory), directory, alone)


@pytest.mark.backends("torch")
def test_a_signal_that_is_ignored_stays_ignored():
    """As `nohup` and a shell that starts a run in the background ask for."""
    asked = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handler = Handler(signal.SIGHUP, lambda: asked.append(1))
    handler.install()
    hung_up()
    handler.remove()
    assert (asked, signal.getsignal(signal.SIGHUP)) == ([], signal.SIG_IGN)


@pytest.mark.backends("torch")
def test_two_signals_of_one_ctrl_c_are_one(tmp_path):
    def twice():
        pressed()
        pressed()

    error, _ = stopped_run(tmp_path / "run", Stop(2, twice))
    assert type(error) is Interrupted


@pytest.mark.backends("torch")
def test_a_run_that_cannot_be_continued_says_so(tmp_path):
    class Still(keras.utils.PyDataset):
        def __len__(self):
            return 6

        num_batches = 6

        def __getitem__(self, index):
            return IMAGES[:4]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keras_mae.data, "from_arrays", lambda *_, **__: Still())
        _, lines = stopped_run(tmp_path / "run", Stop(2, pressed))
    assert lines[-1].endswith(": stopped at step 2, saved at step 2; to continue it the dataset must have "
                              "`seek(epoch, batch)`")  # fmt: skip


# === Other ends ===
@pytest.mark.backends("torch")
def test_an_error_leaves_the_history_and_the_run_begins_anew(alone, tmp_path):  # noqa: F811
    shown = io.StringIO()
    with pytest.raises(MemoryError):
        run(tmp_path / "run", Stop(9, killed), saving=Saving(resume=True), console=Console(file=shown, width=200))
    assert shown.getvalue().endswith("run: stopped at step 8; the same call begins it anew\n")
    assert names(tmp_path / "run") == ["history.csv", "recipe.toml", "run.json"]
    assert len(RunDirectory(tmp_path / "run").history["loss"]) == 1
    assert_as_if_nothing_had_happened(run(tmp_path / "run"), tmp_path / "run", alone)


@pytest.mark.backends("torch")
def test_killed_while_results_are_written(alone, tmp_path, monkeypatch):  # noqa: F811
    """The last step is saved by then, whatever `every_steps` is."""
    directory, write = tmp_path / "run", RunDirectory.write

    def until_the_encoder(self, name, save):
        if name == "encoder.keras":
            (self.path / ".writing-of-a-killed-process").mkdir()
            killed()
        write(self, name, save)

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "write", until_the_encoder)
        with pytest.raises(MemoryError):
            run(directory, saving=Saving(resume=True))
    assert "model.keras" in names(directory)
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["step-000000018"]
    assert_as_if_nothing_had_happened(run(directory, Stop(1, killed)), directory, alone)
    assert "encoder.keras" in names(directory)
    assert not list(directory.glob(".writing-*"))


@pytest.mark.backends("torch")
def test_a_run_that_a_callback_ended_early_is_finished(tmp_path):
    class Enough(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    shown = io.StringIO()
    run(tmp_path / "run", Enough())
    run(tmp_path / "run", Stop(1, killed), console=Console(file=shown, width=300))
    assert shown.getvalue().endswith("this run is finished after 1 of 3 epochs, nothing is left to do\n")


# === What a checkpoint is good for ===
def test_a_checkpoint_is_loaded_as_a_model(tmp_path):
    models = []

    class Keep(Stop):
        def on_train_batch_end(self, batch, logs=None):
            models[:] = [self.model]
            super().on_train_batch_end(batch, logs)

    error, _ = stopped_run(tmp_path / "run", Keep(3, pressed))
    loaded = keras_mae.MaskedAutoencoder.from_preset(error.path)
    for got, expected in zip(loaded.weights, models[0].weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (got, expected)))
    with pytest.raises(ValueError, match=r"not a folder: try '.*run/checkpoints/step-000000003'"):
        keras_mae.convert.load_model(tmp_path / "run")
    assert keras_mae.ViTEncoder.from_preset(error.path).depth == 1
    assert len(everything(models[0])) > len(loaded.weights)
