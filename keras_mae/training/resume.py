"""Exact resume: what a run needs to go on after it was killed, as if nothing had happened."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks, distribution

_STATE, _WEIGHTS, _METRICS = "state.json", "model.weights.h5", "metrics.npz"
_UNFINISHED = ".writing-"
_STEPS_BETWEEN_QUESTIONS = 10  # that processes put to one another: each costs a message


class Preempted(SystemExit):
    """Raised at the end of the step in which SIGTERM came, once the run is saved; the exit status is 143."""

    def __init__(self, path: Path):
        super().__init__(128 + signal.SIGTERM)
        self.path = path


@dataclass
class Position:
    """Where a run is.

    Attributes:
        epoch: The epoch, from 0.
        batch: Batches of it that are done.
        step: Training steps done altogether.
        history: Each metric's value of every epoch that is done.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)


class Checkpoints(keras.callbacks.Callback):
    """Saves a whole run as it goes: weights, optimizer with its schedule, averages and loss scale, step counters,
    metrics, history and the position in the data; every so often, when an epoch ends, and on SIGTERM.

    A checkpoint is a folder that appears under its name only when all of it is on the disk. It holds a checksum of
    each file; one that is damaged is passed over for the one before. Of several processes the first writes, and all
    save, stop and go on at the same step, on as many devices as there are then; the folder must be one they share.

    Args:
        directory: Where checkpoints are kept.
        batches_per_epoch: Steps in an epoch.
        metadata: What the run is made of, JSON values by name: a run of others is not gone on with.
        every_steps: Save after so many steps; never by default.
        every_minutes: Save when so many minutes have passed since the last time.
        keep: How many checkpoints stay.

    Raises:
        ValueError: If an argument is out of range.

    Example: what `run` does, with a `fit` of one's own. The epoch that was begun is ended first.
        >>> saved = keras_mae.training.Checkpoints("checkpoints", len(dataset), every_minutes=10)
        >>> position = saved.restore(mae)  # compiled
        >>> dataset.seek(position.epoch, position.batch)
        >>> left, begun = len(dataset) - position.batch, position.epoch
        >>> if position.batch:
        ...     mae.fit(dataset, initial_epoch=begun, epochs=begun + 1, steps_per_epoch=left, callbacks=[saved])
        >>> mae.fit(dataset, initial_epoch=position.epoch, epochs=100, callbacks=[saved])
    """

    def __init__(
        self,
        directory: str | Path,
        batches_per_epoch: int,
        metadata: dict[str, Any] | None = None,
        every_steps: int | None = None,
        every_minutes: float = 10.0,
        keep: int = 3,
    ):
        super().__init__()
        self.directory = Path(directory)
        self.batches_per_epoch = _checks.positive_int("batches_per_epoch", batches_per_epoch)
        self.metadata = json.loads(json.dumps(metadata or {}))
        self.every_steps = None if every_steps is None else _checks.positive_int("every_steps", every_steps)
        self.every_minutes = _checks.non_negative("every_minutes", every_minutes)
        self.keep = _checks.positive_int("keep", keep)
        self.position = Position()
        self._metrics: list[np.ndarray] | None = None
        self._offset = 0
        self._saved_step: int | None = None
        self._terminated = False
        self._previous: Any = None

    # === Loading ===
    def restore(self, model: Any) -> Position:
        """Put a compiled model where the newest whole checkpoint left it; where there is none, at the beginning.

        Args:
            model: As it was built and compiled when the run began.

        Returns:
            Where the run goes on.

        Raises:
            ValueError: If there are checkpoints and none of them is whole, or they are not of this model.
        """
        if distribution.current().is_main:
            for leftover in self.directory.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(leftover)
        found = self.newest()
        if found is not None:
            self._resume(model, *found)
        steps = distribution.gather(self.position.step)  # also keeps the first from writing while others read
        if len(set(steps)) > 1:
            raise ValueError(
                f"All processes must find the same checkpoints in {str(self.directory)!r}: a folder that they share. "
                f"Received: steps {', '.join(f'{step:.0f}' for step in steps)}"
            )
        return self.position

    def _resume(self, model: Any, path: Path, state: dict[str, Any]) -> None:
        check_same_run(self.directory.parent, self.metadata, state["facts"])
        self._load(model, path, state)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and its state; a warning names those that were passed over.

        Raises:
            ValueError: If there are checkpoints and none of them is whole.
        """
        damaged = []
        for path in reversed(self._paths()):
            try:
                state = _checked(path)
            except (OSError, ValueError, KeyError) as error:
                damaged.append(f"{path.name} ({error})")
                continue
            if damaged:
                warnings.warn(f"Damaged, and passed over for {path.name}: {', '.join(damaged)}", stacklevel=2)
            return path, state
        if damaged:
            raise ValueError(f"No checkpoint in {str(self.directory)!r} is whole: {', '.join(damaged)}")
        return None

    def _load(self, model: Any, path: Path, state: dict[str, Any]) -> None:
        model.optimizer.build(model.trainable_variables)  # or its state would be left out without a word
        try:
            model.load_weights(path / _WEIGHTS)
        except (ValueError, KeyError) as error:
            raise ValueError(f"The checkpoint {str(path)!r} is not of this model: {error}") from error
        with np.load(path / _METRICS) as arrays:
            self._metrics = [arrays[str(index)] for index in range(len(arrays.files))]
        self.position = Position(**state["position"])
        self._saved_step = self.position.step

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob("step-*"))

    # === Saving ===
    def save(self) -> Path:
        """Write a checkpoint of this moment.

        Returns:
            Its folder.

        Raises:
            OSError: If it cannot be written; the checkpoints before it are as they were.
        """
        path = self.directory / f"step-{self.position.step:09d}"
        if self._saved_step == self.position.step:
            return path
        values = enumerate(self.model.metrics_variables)
        metrics: dict[str, Any] = {str(index): ops.convert_to_numpy(value) for index, value in values}
        devices = distribution.current()
        if devices.is_main:
            self._write(path, metrics)
        elif devices.collective_reads:
            with tempfile.TemporaryDirectory() as folder:
                self.model.save_weights(Path(folder) / _WEIGHTS)
        distribution.gather(0)  # nobody exits before it is written
        self._saved, self._saved_step = time.monotonic(), self.position.step
        return path

    def _write(self, path: Path, metrics: dict[str, Any]) -> None:
        check_space(self.directory.parent, self.model)
        self.directory.mkdir(parents=True, exist_ok=True)
        unfinished = self.directory / f"{_UNFINISHED}{path.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            self.model.save_weights(unfinished / _WEIGHTS)
            np.savez(unfinished / _METRICS, **metrics)
            state = {
                "facts": self.metadata,
                "position": vars(self.position),
                "sha256": {name: _digest(unfinished / name) for name in (_WEIGHTS, _METRICS)},
            }
            (unfinished / _STATE).write_text(json.dumps({**state, "checksum": _checksum(state)}) + "\n")
            for file in unfinished.iterdir():
                _flush(file)
            shutil.rmtree(path, ignore_errors=True)  # a damaged one that was passed over
            unfinished.rename(path)
            _flush(self.directory)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        for old in self._paths()[: -self.keep]:
            shutil.rmtree(old)

    # === As a callback ===
    def on_train_begin(self, logs: Any = None) -> None:
        self._saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in no other
            self._previous = signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: Any) -> None:
        self._terminated = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._offset = self.position.batch
        if self._metrics is not None and self._offset:  # Keras has just reset them
            for variable, value in zip(self.model.metrics_variables, self._metrics, strict=True):
                variable.assign(value)
        self._metrics = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.position.batch = self._offset + batch + 1
        self.position.step += 1
        done = self.position.batch == self.batches_per_epoch
        if done:  # the epoch is evaluated first
            return
        stop, due = (False, False)
        if distribution.current().processes == 1 or self.position.step % _STEPS_BETWEEN_QUESTIONS == 0:
            stop, due = self._asked()
        if stop:
            raise Preempted(self.save())
        if due or (self.every_steps is not None and self.position.step % self.every_steps == 0):
            self.save()

    def _asked(self) -> tuple[bool, bool]:
        """Whether any process was told to stop, and whether it is time to save by any clock."""
        due = time.monotonic() - self._saved >= 60 * self.every_minutes
        asked = distribution.gather(2 * self._terminated + due)
        return max(asked) >= 2, max(asked) > 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for name, value in (logs or {}).items():
            self.position.history.setdefault(name, []).append(float(value))
        self.position.epoch, self.position.batch = epoch + 1, 0
        stop, due = self._asked()
        if stop:
            raise Preempted(self.save())
        if due or self.every_steps is not None:
            self.save()

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Put the former handler of SIGTERM back; also after an interrupt, when Keras calls nothing."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None


def check_same_run(directory: Path, metadata: dict[str, Any], stored: dict[str, Any]) -> None:
    """Refuses to take a run for another one, of which these metadata were stored.

    Raises:
        ValueError: If one of `metadata`, JSON values, is not the stored one.
    """
    if differ := [name for name, value in metadata.items() if stored.get(name) != value]:
        named = ", ".join(f"{name}={metadata[name]} and not {stored.get(name)}" for name in differ)
        raise ValueError(f"The run in {str(directory)!r} is another one. Received: {named}")


def seek(dataset: Any, epoch: int, batch: int = 0) -> None:
    """Let a dataset go on with the `batch`th batch of an epoch.

    Raises:
        ValueError: If it cannot.
    """
    if not hasattr(dataset, "seek"):
        raise ValueError(
            "To go on in the middle of a run a dataset must have `seek(epoch, batch)`, as those of keras_mae.data "
            f"that read images by index do. Received: {type(dataset).__name__}"
        )
    dataset.seek(epoch, batch)


def check_space(directory: Path, model: Any) -> None:
    """Raise an `OSError` where a model and its optimizer have no room.

    HDF5 finds out too late: it cannot close a file that it could not write, and ends the process with a violation.
    """
    sizes = [int(np.prod(variable.shape)) for variable in (*model.variables, *model.optimizer.variables)]
    needed, free = 4 * sum(sizes), shutil.disk_usage(directory).free
    if needed > free:
        raise OSError(
            errno.ENOSPC, f"{needed / 1e6:.1f} MB do not fit on the disk, which has {free / 1e6:.1f}", str(directory)
        )


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keeps other processes out of a run directory. The system lets go of it when a process is killed.

    Raises:
        ValueError: If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"Another process is at work in {str(directory)!r}") from error
        yield
    finally:
        os.close(descriptor)


def _checked(path: Path) -> dict[str, Any]:
    """The state of a checkpoint that is whole."""
    state = json.loads((path / _STATE).read_text())
    if state.pop("checksum", None) != _checksum(state):
        raise ValueError(f"{_STATE} is damaged")
    for name, digest in state["sha256"].items():
        if _digest(path / name) != digest:
            raise ValueError(f"{name} is damaged")
    return state


def _checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """See that a file, or a folder's list of files, is on the disk and not in a buffer."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
