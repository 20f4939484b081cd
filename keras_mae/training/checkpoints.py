"""Exact resume: what a run needs to go on after it was killed, as if nothing had happened."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks, _files, _saving, distribution
from keras_mae.data import listings
from keras_mae.from_preset import CONFIG, config_text
from keras_mae.training import stored
from keras_mae.training.agreement import together
from keras_mae.training.metadata import DESPITE, TIES, WARNINGS, check_same_run, json_values
from keras_mae.training.signals import Handler, Interrupted, Preempted
from keras_mae.training.stored import METRICS, STATE, WEIGHTS

__all__ = ["Checkpoints", "Interrupted", "Position", "Preempted", "check_room_for", "seek"]

_BYTES_AROUND_AN_ARRAY = 1024  # in HDF5: its name, its shape and its place
_NOTHING, _SAVE, _INTERRUPT, _TERMINATE = range(4)  # what a run may be asked for; the largest number is heeded
_STEPS_BETWEEN_QUESTIONS = 10  # between checks that all processes take part in: each costs a message


@dataclass
class Position:
    """Where a run is.

    Attributes:
        epoch: Current epoch, from 0.
        batch: Batches of it that are done.
        step: Training steps done since the run began.
        history: Values of each metric, one for every epoch that is done.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)


class Checkpoints(keras.callbacks.Callback):
    """Saves a whole run as it goes: weights, optimizer with its schedule, averages and loss scale, step counters,
    metrics, history and the position in the data; at intervals, when an epoch ends, on SIGTERM and SIGHUP, and on
    `interrupt`.

    A checkpoint is a folder that appears under its name only when all of it is on the disk. It holds a checksum of
    each file; if it is damaged, the one before it is used. Of several processes only the main one writes, and all
    save, stop and resume at the same step, on however many devices are then available; they must share the folder.
    `from_preset` and the commands that take a model load a checkpoint, too: the weights as they were, not their
    averages.

    Args:
        directory: Folder for the checkpoints.
        batches_per_epoch: Steps in an epoch.
        metadata: JSON values that identify the run; a checkpoint with different ones is refused.
        every_steps: Steps between checkpoints; `None` for checkpoints by the clock only.
        every_minutes: Minutes between checkpoints.
        keep: Number of checkpoints to keep.
        allow_changed: Whether to go on from a checkpoint of other data, too; see `Saving`.

    Raises:
        ValueError: If an argument is out of range.

    Example: what `run` does, with your own `fit`; finish the interrupted epoch first.
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
        *,
        metadata: Mapping[str, Any] | None = None,
        every_steps: int | None = None,
        every_minutes: float = 10.0,
        keep: int = 3,
        allow_changed: bool = False,
    ):
        super().__init__()
        self.directory = _checks.path("directory", directory)
        self.batches_per_epoch = _checks.positive_int("batches_per_epoch", batches_per_epoch)
        self.metadata = json_values({} if metadata is None else metadata)
        self.every_steps = None if every_steps is None else _checks.positive_int("every_steps", every_steps)
        self.every_minutes = _checks.non_negative("every_minutes", every_minutes)
        self.keep = _checks.positive_int("keep", keep)
        self.allow_changed = _checks.boolean("allow_changed", allow_changed)
        self.position = Position()
        self._metrics: list[np.ndarray] | None = None
        self._offset = 0
        self.saved_step: int | None = None
        self.listing: Callable[[], Mapping[str, Any] | None] = lambda: None
        """Function that returns the files of the data by name, to say later which of them are others."""
        self._listed = False
        self.best: Callable[[Mapping[str, Any]], int | None] = lambda history: None
        """Function that returns the epoch of a history, from 0, whose checkpoint is kept, for the run to end with."""
        self._asked_for = _NOTHING
        # Windows has no SIGHUP, by which a terminal that is closed ends its processes.
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        self._handlers = [Handler(number, self._terminate) for number in numbers]

    # === Loading ===
    def restore(self, model: Any) -> Position:
        """Load the newest whole checkpoint, if there is one, into a compiled model.

        Args:
            model: Model built and compiled as when the run began.

        Returns:
            Position from which the run goes on.

        Raises:
            ValueError: If there are checkpoints and none of them is whole, or they belong to another run or model.
        """
        if not isinstance(model, keras.Model) or getattr(model, "optimizer", None) is None:
            raise _checks.argument_error("model", "compiled, as when the run began", model)
        if distribution.current().is_main:
            _files.remove_unfinished(self.directory)
        newest = self.newest()
        if newest is not None:
            path, state = newest
            self._compare(state)
            self._load(model, path, state)
            self._check_best()
        steps = distribution.gather(self.position.step)  # also keeps the first from writing while others read
        if len(set(steps)) > 1:
            raise ValueError(
                f"All processes must find the same checkpoints in {str(self.directory)!r}: a folder that they share. "
                f"Received: steps {', '.join(f'{step:.0f}' for step in steps)}"
            )
        return self.position

    def _compare(self, state: dict[str, Any]) -> None:
        """Compare the run with that of a checkpoint, and take over the record of what changed on the way."""
        before, known = state["metadata"], listings.read(self.directory / listings.LISTING)

        def changed_files() -> list[str]:
            now = None if known is None else self.listing()
            return [] if known is None or now is None else listings.changed_files(now, known)

        options: dict[str, Any] = {"allow_changed": self.allow_changed, "changed_files": changed_files}
        changed = together(lambda: check_same_run(self.directory.parent, self.metadata, before, **options))
        since = [{"step": state["position"]["step"], "differences": changed}] if changed else []
        for name, added in ((DESPITE, since), (WARNINGS, [])):
            if record := [*before.get(name, []), *added]:
                self.metadata[name] = record
        if TIES in self.metadata:
            self.metadata[TIES] = before.get(TIES)

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest whole checkpoint and its state, if any; a warning names damaged ones that were skipped.

        Raises:
            ValueError: If there are checkpoints and none of them is whole.
        """
        damaged = []
        for path in reversed(stored.checkpoints_in(self.directory).values()):
            try:
                state = stored.whole_state(path)
            except (OSError, ValueError) as error:
                damaged.append(f"{path.name} ({error})")
                continue
            if damaged:
                warnings.warn(f"Damaged, and skipped for {path.name}: {', '.join(damaged)}", stacklevel=2)
            return path, state
        if damaged:
            raise ValueError(f"No checkpoint in {str(self.directory)!r} is whole: {', '.join(damaged)}")
        return None

    def load_best(self, model: Any) -> int:
        """Load the checkpoint of the end of the best epoch into a compiled model, and return the epoch, from 0.

        The position stays that of the run.

        Raises:
            ValueError: If it is not whole.
        """
        best = self.best(self.position.history) or 0
        self._check_best()
        self._load_variables(model, self._path_of(best))
        return best

    def _path_of(self, epoch: int) -> Path:
        return self.directory / stored.name_of(self._end_of(epoch))

    def _end_of(self, epoch: int) -> int:
        return (epoch + 1) * self.batches_per_epoch

    def _check_best(self) -> None:
        """Raise ValueError unless the checkpoint of the best epoch so far is whole, if one is kept."""
        best = self.best(self.position.history)
        if best is None:
            return
        try:
            stored.whole_state(self._path_of(best))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The weights of the best epoch, {best + 1}, which the run is to end with, cannot be read from "
                f"{str(self._path_of(best))!r}: {error}. Take away the run's directory to begin it anew"
            ) from error

    def _load(self, model: Any, path: Path, state: dict[str, Any]) -> None:
        self._load_variables(model, path)
        with np.load(path / METRICS) as arrays:
            self._metrics = [arrays[str(index)] for index in range(len(arrays.files))]
        self.position = Position(**state["position"])
        self.saved_step = self.position.step

    def _load_variables(self, model: Any, path: Path) -> None:
        if not model.optimizer.built:  # a second time, a loss scale would be added to it again
            model.optimizer.build(model.trainable_variables)
        try:
            with warnings.catch_warnings():  # without its state, the optimizer would go on as a new one
                warnings.filterwarnings("error", "Skipping variable loading for optimizer", UserWarning)
                model.load_weights(path / WEIGHTS)
        except (ValueError, KeyError, UserWarning) as error:
            lines = str(error).splitlines()  # Keras collects what it could not load, and then says it
            reason = next((line for line in lines if line.startswith("Skipping variable loading")), str(error))
            raise ValueError(f"The checkpoint {str(path)!r} is not of this model: {reason}") from error

    # === Saving ===
    def save(self) -> Path:
        """Write a checkpoint of the current state.

        Returns:
            Folder of the checkpoint.

        Raises:
            OSError: If it cannot be written; earlier checkpoints are left as they were.
        """
        path = self.directory / stored.name_of(self.position.step)
        if self.saved_step == self.position.step:
            return path
        values = enumerate(self.model.metrics_variables)
        metrics: dict[str, Any] = {str(index): ops.convert_to_numpy(value) for index, value in values}
        devices = distribution.current()
        if devices.is_main:
            self._write(path, metrics)
        elif devices.collective_reads:
            with tempfile.TemporaryDirectory() as folder:
                _saving.save_weights(self.model, Path(folder) / WEIGHTS)
        distribution.gather(0)  # nobody exits before it is written
        self._saved, self.saved_step = time.monotonic(), self.position.step
        return path

    def _write(self, path: Path, metrics: dict[str, Any]) -> None:
        check_room_for(self.model, self.directory.parent)
        stored.free(path)
        with _files.whole(path) as unfinished:
            unfinished.mkdir()
            _saving.save_weights(self.model, unfinished / WEIGHTS)
            with _saving.unfailing(unfinished / METRICS) as file:
                np.savez(file, **metrics)
            state: dict[str, Any] = {
                "metadata": self.metadata,
                "position": vars(self.position),
                "sha256": {name: _files.sha256(unfinished / name) for name in (WEIGHTS, METRICS)},
            }
            (unfinished / STATE).write_text(stored.checksummed(state))
            with contextlib.suppress(TypeError, ValueError, NotImplementedError):  # functions of the caller's own
                config = config_text(self.model, state["sha256"][WEIGHTS])
                (unfinished / CONFIG).write_text(config, encoding="utf-8")
            shutil.rmtree(path, ignore_errors=True)  # a damaged one that was skipped
        if not self._listed and (listing := self.listing()) is not None:
            listings.write(self.directory / listings.LISTING, listing)
        self._listed = True
        stored.prune(self.directory, self.position.step, self.keep, self._best_by)

    def _best_by(self, step: int) -> int | None:
        """Return the step at the end of the best epoch of those that were done at a step."""
        done = step // self.batches_per_epoch
        best = self.best({name: values[:done] for name, values in self.position.history.items()})
        return None if best is None else self._end_of(best)

    # === As a callback ===
    def on_train_begin(self, logs: Any = None) -> None:
        self._saved = time.monotonic()
        for handler in self._handlers:
            handler.install()

    def interrupt(self) -> None:
        """Have the run saved at the end of the step, and ended with `Interrupted`; a signal's handler may call it."""
        self._asked_for = max(self._asked_for, _INTERRUPT)

    def _terminate(self) -> None:
        self._asked_for = _TERMINATE

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._offset = self.position.batch
        self._end_with_averages(not self._offset)  # another `fit` goes on from the weights
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
        asked = _NOTHING
        if distribution.current().processes == 1 or self.position.step % _STEPS_BETWEEN_QUESTIONS == 0:
            asked = self._asked()
        self._heed(asked, self.every_steps is not None and self.position.step % self.every_steps == 0)

    def _asked(self) -> int:
        """Return what any process was asked for, or that it is time to save by any clock."""
        due = time.monotonic() - self._saved >= 60 * self.every_minutes
        return round(max(distribution.gather(max(self._asked_for, _SAVE if due else _NOTHING))))

    def _heed(self, asked: int, save: bool) -> None:
        """Save, and stop, as is asked for; `save` says that it is time to save by the number of steps."""
        if asked == _TERMINATE:
            raise Preempted(self.save())
        if asked == _INTERRUPT:
            raise Interrupted(self.save())
        if asked == _SAVE or save:
            self.save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        history, values = self.position.history, {name: float(value) for name, value in (logs or {}).items()}
        done = max(map(len, history.values()), default=0)
        for name in {**history, **values}:  # a run may go on with callbacks that it did not begin with, or without
            history.setdefault(name, [float("nan")] * done).append(values.get(name, float("nan")))
        self.position.epoch, self.position.batch = epoch + 1, 0
        self._heed(self._asked(), self.every_steps is not None)

    def on_train_end(self, logs: Any = None) -> None:
        self._end_with_averages(True)
        self.close()

    def _end_with_averages(self, ends: bool) -> None:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        optimizer.averages_at_end = ends

    def close(self) -> None:
        """Restore the former handlers of signals; after an interrupt Keras calls no callback that would."""
        for handler in self._handlers:
            handler.remove()


def seek(dataset: Any, epoch: int, batch: int = 0) -> None:
    """Make a dataset continue from a batch of an epoch, both counted from 0.

    Raises:
        ValueError: If it cannot.
    """
    if not hasattr(dataset, "seek"):
        raise ValueError(
            "To resume in the middle of a run a dataset must have `seek(epoch, batch)`, as those of keras_mae.data "
            f"that read images by index do. Received: {type(dataset).__name__}"
        )
    dataset.seek(epoch, batch)


def check_room_for(model: Any, directory: Path) -> None:
    """Raise OSError if a model and its optimizer do not fit on the disk that holds `directory`.

    It is asked before anything is written, which for a large model takes minutes.
    """
    variables = (*model.variables, *model.optimizer.variables)
    numbers = sum(int(np.prod(variable.shape)) for variable in variables)
    _files.check_room(directory, 4 * numbers + _BYTES_AROUND_AN_ARRAY * len(variables))
