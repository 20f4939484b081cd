"""Callbacks of a run."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress(keras.callbacks.Callback):
    """Shows epoch, images/s, loss and the time left: one live line on a terminal, one line an epoch elsewhere.

    Args:
        images_per_epoch: Images in an epoch.
        console: Where to write; a new `rich` console by default.
        epochs: The run's, if `fit` is only told of a part of them.
    """

    def __init__(self, images_per_epoch: int, console: Console | None = None, epochs: int | None = None):
        super().__init__()
        self.epochs = epochs
        self.images_per_epoch = images_per_epoch
        self.console = console or Console()
        self._bars: Bars | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._began = time.perf_counter()
        self._done = 0
        self._epochs = self.epochs or self.params["epochs"]
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Bars(*columns, console=self.console, transient=True)
            total = self._epochs * self.params["steps"] if self.params["steps"] else None
            self._task = self._bars.add_task("training", total=total)
            self._bars.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._epoch_began = epoch, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._bars is not None:
            self._bars.update(self._task, advance=1, description=f"epoch {self._epoch + 1}/{self._epochs}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        self._done += 1
        rate = self.images_per_epoch / (now - self._epoch_began)
        left = (now - self._began) / self._done * (self._epochs - epoch - 1)
        measured = "  ".join(
            f"{name} {float(value):.4g}" for name, value in (logs or {}).items() if value is not None
        )
        minutes, seconds = divmod(round(left), 60)
        self.console.print(
            f"epoch {epoch + 1}/{self._epochs}  {measured}  {rate:.0f} images/s  {minutes}:{seconds:02d} left",
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Take the live line away; also after an interrupt, when Keras calls nothing."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class Interruptible(keras.callbacks.Callback):
    """Makes one Ctrl-C stop a run, whatever it hits.

    On JAX most of a step's time is spent where NumPy waits for its result, and NumPy drops the `KeyboardInterrupt`
    that is raised there. This remembers it, and raises it again at the end of the step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._interrupted = False
        self._previous: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in no other
            self._previous = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: Any) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Put the former handler back; also after an interrupt, when Keras calls nothing."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


class LogLearningRate(keras.callbacks.Callback):
    """Adds the learning rate to the logs of every epoch; it goes before the callbacks that write them."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
