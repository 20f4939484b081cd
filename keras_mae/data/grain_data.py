"""Batches without TensorFlow: Grain's threads or processes load ahead of training."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_mae import _optional
from keras_mae.data.batches import Batches

__all__ = ["GrainDataset"]

_ENDLESS = 2**62


class GrainDataset(keras.utils.PyDataset):
    """Batches that Grain loads, for `fit` on any backend.

    While `fit` or `evaluate` is in an epoch its batches come in order, loaded ahead; outside of one, `dataset[index]`
    loads the batch asked for. `position` and `seek` are for checkpoints. With worker processes a script needs the
    usual `if __name__ == "__main__":`, for each of them imports it.

    Args:
        batches: Batches by their number.
    """

    def __init__(self, batches: Batches):
        super().__init__(workers=0)  # Grain has the workers
        # Grain warns that JAX has no profiler for it, also where nobody has JAX.
        logger = logging.getLogger("absl")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            self._grain = _optional.require("grain", "Loading images without TensorFlow")
        finally:
            logger.setLevel(level)
        self._batches = batches
        self._epoch, self._next = 0, 0
        self._in_epoch, self._begun = False, False
        self._sought = 0  # batch of its first epoch: TensorFlow reads ahead, and must not go on into the next one
        self._ahead: Iterator[Any] | None = None

    @property
    def batches(self) -> Batches:
        """The batches by their number."""
        return self._batches

    @property
    def num_batches(self) -> int:
        """Number of batches in an epoch, or what is left of the one that `seek` went into."""
        return len(self._batches) - self._sought

    @property
    def num_images(self) -> int:
        """Number of images that an epoch is made of, each crop counted; the last batch may be left out."""
        return self._batches.num_images

    @property
    def batch_size(self) -> int:
        """Number of images in a batch of all workers together."""
        return self._batches.plan.batch_size

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def position(self) -> dict[str, int]:
        """Epoch and number of the next batch to be handed out; what was loaded ahead does not count."""
        return {"epoch": self._epoch, "batch": self._next}

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these batches from others."""
        return self._batches.fingerprint()

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Continue with the `batch`th batch of an epoch, as if all before it had been seen.

        Raises:
            ValueError: If there is no such batch.
        """
        self._batches.check_place(epoch, batch)
        self._epoch, self._next, self._ahead, self._sought = epoch, batch, None, batch

    def on_epoch_begin(self) -> None:
        self._in_epoch = True

    def on_epoch_end(self) -> None:
        # Keras calls it before the first epoch too, when `seek` has been to the middle of one.
        left_before_its_end = self._begun and self._next
        self._sought = 0 if self._begun else self._sought
        self._in_epoch = self._begun = False
        if left_before_its_end:
            self.seek(self._epoch + 1)

    def __getitem__(self, index: int) -> Any:
        """Return the next batch within an epoch, whatever the index, which Keras may shuffle; else batch `index`."""
        number = self._epoch * len(self) + (self._next if self._in_epoch else index)
        if not self._in_epoch:
            return _handed_out(*self._batches[number])
        if self._ahead is None:
            self._ahead = self._read_ahead(number)
        batch = next(self._ahead)
        self._next, self._begun = self._next + 1, True
        if self._next == len(self):
            self._epoch, self._next = self._epoch + 1, 0
        return _handed_out(*batch)

    def _read_ahead(self, start: int) -> Iterator[Any]:
        processes = self._batches.plan.workers or 0
        numbers = self._grain.MapDataset.range(start, _ENDLESS)
        load = _InWorker(self._batches) if processes else self._batches.__getitem__
        threads = 1 if processes else _optional.cores()
        options = self._grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        ahead = numbers.map(load).to_iter_dataset(options)
        if processes:
            from absl import flags

            if not flags.FLAGS.is_parsed():  # Grain asks a flag, which nobody parses outside of an absl application
                flags.FLAGS.mark_as_parsed()
            ahead = ahead.mp_prefetch(self._grain.MultiprocessingOptions(num_workers=processes))
        return iter(ahead)


def _handed_out(images: Any, labels: np.ndarray | None) -> Any:
    return images if labels is None else (images, labels)


class _InWorker:
    """Loads batches in a process of its own, which ends with the process that started it, whatever ended that.

    Grain's own workers wait for one that was killed, for ever. And Ctrl-C, which a terminal sends to all of them, is
    for the process that trains: it needs its workers to the end of the step.

    Args:
        batches: Batches by their number.
    """

    def __init__(self, batches: Batches):
        self.batches, self.made_in = batches, os.getpid()

    def __call__(self, number: int) -> Any:
        return self.batches[number]

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        parent = multiprocessing.parent_process()
        if parent is None or os.getpid() == self.made_in:
            return
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with(sentinel: int) -> None:
    """Wait for the end of a process, and end this one at once: its other threads may wait for ever."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
