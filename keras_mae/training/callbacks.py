"""Callbacks of a run: progress, interrupts and steps that are not finite."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from keras_mae import _checks
from keras_mae.training.busy import ProcessorUse, notice
from keras_mae.training.durations import duration
from keras_mae.training.signals import Handler

__all__ = ["Interruptible", "LogLearningRate", "Progress", "StopOnNonFinite"]


class Progress(keras.callbacks.Callback):
    """Shows epoch, images/s, metrics and the time left: a live line on a terminal, elsewhere a line for each epoch.

    Where there is no terminal and epochs are long, a line after the first few steps says how long the run will take,
    and one every ten minutes where it is. Where other programs take the cores, that is said after the first epoch.

    Args:
        images_per_epoch: Images in an epoch.
        console: Console to write to; a new `rich` console by default.
        epochs: Total epochs of the run, if `fit` is called for only part of it.
        steps: Steps in an epoch, if `fit` is called for only part of one.
    """

    _SECONDS_BETWEEN_LOSSES = 1.0  # to read one, the processor waits for the accelerator
    _SECONDS_TO_FIRST_LINE, _SECONDS_BETWEEN_LINES = 10.0, 600.0
    _FEW = 3  # steps, the first of which is compiled

    def __init__(
        self,
        images_per_epoch: int,
        console: Console | None = None,
        epochs: int | None = None,
        steps: int | None = None,
    ):
        super().__init__()
        self.epochs = _checks.optional(_checks.positive_int, "epochs", epochs)
        self.images_per_epoch = _checks.positive_int("images_per_epoch", images_per_epoch)
        if console is not None:
            _checks.instance("console", console, Console, "a rich.console.Console, or None")
        self.steps = _checks.optional(_checks.positive_int, "steps", steps)
        self.console = console or Console()
        self._bars: Bars | None = None
        self._task, self._loss, self._read = TaskID(0), "", 0.0
        self._next_line = math.inf
        self._use: ProcessorUse | None = None
        self._looked = False  # for other programs

    def on_train_begin(self, logs: Any = None) -> None:
        self._began, self._done = time.perf_counter(), 0
        self._epochs = self.epochs or self.params["epochs"]
        self._first = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._epoch_began, self._epoch_done = epoch, time.perf_counter(), 0
        if self._bars is not None:
            self._bars.update(self._task, description=self._described())
        if not self._first:
            return
        self._first, steps = False, self.steps or self.params["steps"]
        total = self._epochs * steps if steps else None
        # What `fit` is not asked to do again of the epoch that it begins with was done before.
        before = epoch * steps + steps - (self.params["steps"] or steps) if steps else 0
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Bars(*columns, console=self.console, transient=True)
            self._loss, self._read = "", -self._SECONDS_BETWEEN_LOSSES
            self._task = self._bars.add_task(self._described(), total=total, completed=before)
            self._bars.start()

    def _described(self) -> str:
        return f"epoch {self._epoch + 1}/{self._epochs}{self._loss}"

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done, self._epoch_done = self._done + 1, self._epoch_done + 1
        if self._done == 1:
            self._begin_timing(logs)
        if self._bars is None:
            if time.perf_counter() >= self._next_line and self._done >= self._FEW:
                self._print_expected(logs)
            return
        if logs and "loss" in logs and time.perf_counter() - self._read >= self._SECONDS_BETWEEN_LOSSES:
            self._loss, self._read = _shown_loss(logs), time.perf_counter()
        self._bars.update(self._task, advance=1, description=self._described())

    def _begin_timing(self, logs: Any) -> None:
        """Time what comes after the first step, which is compiled, once it is done."""
        _shown_loss(logs)
        self._use = ProcessorUse.now()
        if math.isinf(self._next_line):  # and not `fit` for the epochs after one that was begun before
            self._next_line = self._use.clock + self._SECONDS_TO_FIRST_LINE

    def _print_expected(self, logs: Any) -> None:
        """Print a line within an epoch: where the run is, and how long it is expected to take."""
        loss, steps = _shown_loss(logs), self.steps or self.params["steps"]
        now = time.perf_counter()
        self._next_line = now + self._SECONDS_BETWEEN_LINES
        if not steps or self._use is None:
            return
        step = (now - self._use.clock) / (self._done - 1)
        done = steps - (self.params["steps"] or steps) + self._epoch_done
        left = (self._epochs - self._epoch) * steps - done
        self.console.print(
            f"{self._described()}  step {done:,}/{steps:,}{loss}  about {duration(steps * step)} an epoch, "
            f"{duration(left * step)} left",
            highlight=False,
            soft_wrap=True,
        )

    def _look_for_other_programs(self) -> None:
        """Print once what other programs do to the run."""
        now = ProcessorUse.now()
        if self._looked or self._use is None or now.clock - self._use.clock < self._SECONDS_TO_FIRST_LINE:
            return
        self._looked = True
        if text := notice(self._use, now):
            self.console.print(f"Slow: {text}", highlight=False, soft_wrap=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        steps = self.steps or self.params["steps"] or self._epoch_done
        self._next_line = max(self._next_line, now + self._SECONDS_BETWEEN_LINES)
        rate = self.images_per_epoch * self._epoch_done / max(steps, 1) / (now - self._epoch_began)
        left = (now - self._began) / max(self._done, 1) * steps * (self._epochs - epoch - 1)
        measured = "  ".join(
            f"{name} {float(value):.4g}"
            for name, value in (logs or {}).items()
            if value is not None and (name != "skipped_steps" or value)
        )
        minutes, seconds = divmod(round(left), 60)
        self.console.print(
            f"epoch {epoch + 1}/{self._epochs}  {measured}  {rate:.0f} images/s  {minutes}:{seconds:02d} left",
            highlight=False,
            soft_wrap=True,
        )
        self._look_for_other_programs()

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the live line; after an interrupt Keras calls no callback that would."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def _shown_loss(logs: Any) -> str:
    """Return the loss as it is shown, "" if there is none. It waits for the accelerator."""
    return f"  loss {float(logs['loss']):.4g}" if logs and "loss" in logs else ""


class Interruptible(keras.callbacks.Callback):
    """Makes one Ctrl-C save and stop a run at the end of the step, and a second one stop it at once.

    On JAX most of a step's time is spent where NumPy waits for its result, and NumPy drops the `KeyboardInterrupt`
    that is raised there. This remembers it, and raises it again at the end of the step.

    Args:
        interrupt: Function that has the run saved and stopped.
    """

    _SAME = 0.5
    """Seconds in which a second signal is the same Ctrl-C: torchrun passes on what the terminal has sent already."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        super().__init__()
        self._interrupt = interrupt
        self._first: float | None = None
        self._at_once = False
        self._handler = Handler(signal.SIGINT, self._pressed)

    def on_train_begin(self, logs: Any = None) -> None:
        self._handler.install()

    def _pressed(self) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._interrupt()
        elif now - self._first > self._SAME:
            self._at_once = True
            raise KeyboardInterrupt

    def _raise_if_dropped(self) -> None:
        if self._at_once:
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._raise_if_dropped()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._raise_if_dropped()

    def close(self) -> None:
        """Restore the former handler; after an interrupt Keras calls no callback that would."""
        self._handler.remove()


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends a run whose steps are no longer finite, and reports what can be known about the cause.

    The training step skips and counts such a step: the weights stay as they were. An occasional one is harmless; a
    run that skips every step learns nothing.

    Args:
        limit: Number of consecutive such steps that ends the run. The count is read once every `limit` steps, because
            reading stalls the accelerator, so up to twice as many may pass.
        dataset: Dataset of the run; one of its batches is examined for the report.

    Raises:
        FloatingPointError: In `fit`, if there are `limit` such steps in a row.
    """

    def __init__(self, limit: int = 50, dataset: Any = None):
        super().__init__()
        self.limit = _checks.positive_int("limit", limit)
        self.dataset = dataset
        self._steps, self._before_epoch = 0, 0.0
        self._seen: float | None = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps += 1
        if self._steps % self.limit:
            return
        skipped = self._before_epoch + float(logs["skipped_steps"])
        if self._seen is not None and skipped - self._seen >= self.limit:
            raise FloatingPointError(self._diagnosis())
        self._seen = skipped

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._before_epoch += float((logs or {}).get("skipped_steps", 0))

    def _diagnosis(self) -> str:
        model = self.model
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        report = (
            f"{self.limit} training steps in a row were not finite, and were skipped. Updates so far: "
            f"{int(keras.ops.convert_to_numpy(model.optimizer.iterations))}, learning rate {rate:.3g}"
        )
        if self.dataset is None:
            return report
        batch = keras.utils.unpack_x_y_sample_weight(next(iter(self.dataset)))
        images = np.asarray(batch[0]["images"] if isinstance(batch[0], dict) else batch[0])
        finite = np.isfinite(images.astype("float32"))
        report += (
            f". The images of a batch: {'finite' if finite.all() else f'{(~finite).sum()} values are not finite'}"
        )
        loss = model.test_on_batch(*batch, return_dict=True)["loss"]
        return f"{report}; its loss is {float(loss):.4g}" + (": it is the gradients" if np.isfinite(loss) else "")


class LogLearningRate(keras.callbacks.Callback):
    """Adds the learning rate to the logs of every epoch; place it before the callbacks that write them."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
