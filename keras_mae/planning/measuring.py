"""How long a model's training takes here: a few steps of it, with the images and the loading of the run itself."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_mae import _optional
from keras_mae.convert import continued
from keras_mae.data.reading import length
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.pixels import BYTES
from keras_mae.planning.candidates import Candidate
from keras_mae.recipes import PretrainRecipe
from keras_mae.training import UnlabeledImages, busy
from keras_mae.training.busy import ProcessorUse

__all__ = ["Measured", "measure", "timing_seconds"]

_SECONDS, _LEAST_SECONDS, _SHARE = 8.0, 1.0, 0.01
"""Seconds during which steps are timed, at most and at least, and the share of a short run that they may take."""
_SHORT = 1.25
"""Times these seconds: whole epochs are timed, with what lies between them, where one takes no longer than that."""
_FIRST = 10.0
"""Times a hopeless step: a first step that takes longer, and compiles nothing, is the only one."""
_ENOUGH = 30.0
"""Seconds: after a second step that takes longer, a third one would tell nothing more."""
_LOADED_AHEAD = 2
"""Batches that are loaded ahead, in addition to one for each core."""
_ENDLESS = 2**31 - 1
_FULL = ("out of memory", "resource_exhausted", "resource exhausted", "oom when allocating", "unable to allocate")
"""What errors of the backends say where a device's memory is full."""


@dataclass(frozen=True)
class Measured:
    """What a candidate took here.

    Attributes:
        candidate: The model.
        batch_size: Images in a batch.
        parameters: Number of the model's parameters.
        steps_per_epoch: Batches in an epoch.
        begin_seconds: Seconds from the start of its run to the end of its first step, which compiles it.
        step_seconds: Seconds of each further step, loading included.
        epoch_seconds: Seconds of each epoch.
        notice: Warning that other programs slowed the measuring down, with what helps; "" if none is known to have.
    """

    candidate: Candidate
    batch_size: int
    parameters: int
    steps_per_epoch: int
    begin_seconds: float
    step_seconds: float
    epoch_seconds: float
    notice: str = ""

    @property
    def images_per_second(self) -> float:
        """Images that a run trains on in a second."""
        return self.steps_per_epoch * self.batch_size / self.epoch_seconds

    def seconds(self, epochs: int) -> float:
        """Return the seconds that a run of so many epochs is expected to take."""
        return self.begin_seconds + max(epochs * self.epoch_seconds - self.step_seconds, 0.0)


def timing_seconds(run_seconds: float) -> float:
    """Return for how many seconds to time steps of a run that may take `run_seconds`."""
    return min(_SECONDS, max(_LEAST_SECONDS, _SHARE * run_seconds))


def measure(
    candidate: Candidate,
    images: UnlabeledImages,
    recipe: PretrainRecipe,
    *,
    opening_seconds: float = 0.0,
    seconds: float = _SECONDS,
    too_slow: float = math.inf,
    precision: str = "float32",
    loader: str | None = None,
    workers: int | None = None,
) -> Measured | None:
    """Train a new model for some steps as `run_pretraining` would, and return how long they took.

    Args:
        candidate: The model.
        images: Images in its size.
        recipe: Recipe of the run; its number of epochs makes no difference.
        opening_seconds: Seconds that opening the images took, which count as the beginning of the run.
        seconds: Seconds during which steps are timed.
        too_slow: Seconds of a step above which no further one is timed.
        precision: Name of the dtype policy.
        loader: Loader, as for `data.make_dataset`.
        workers: Parallel calls or processes that load, as for `data.make_dataset`.

    Returns:
        What was measured, or `None` if the model does not fit into the device's memory.
    """
    begun = time.perf_counter()
    feed = images.feed(recipe, loader=loader, workers=workers)
    dataset, recipe = feed["dataset"], feed["recipe"]
    steps = length(dataset)
    clock = _Clock(steps, too_slow, seconds)
    model: Any = None
    try:
        model = _model(
            candidate,
            images.train.image_shape,
            pixel_range=tuple(images.metadata["pixel_range"] or BYTES),
            decoder=recipe.decoder,
            dtype=precision,
            **recipe.model_arguments,
        )
        model.compile(recipe.optimizer(steps))
        model.fit(dataset, epochs=_ENDLESS, callbacks=[clock], shuffle=False, verbose=0)
        parameters = model.count_params()
    except Exception as error:
        if not _is_full(error):
            raise
        return None
    finally:
        del model
        gc.collect()
    loading = _loading_seconds(images.feed(recipe, loader=loader, workers=workers)["dataset"], seconds)
    step = max(clock.step_seconds, loading)
    return Measured(
        candidate=candidate,
        batch_size=min(recipe.step_batch_size, len(images.train)),
        parameters=parameters,
        steps_per_epoch=steps,
        begin_seconds=opening_seconds + clock.first - begun,
        step_seconds=step,
        epoch_seconds=steps * step,
        notice=clock.notice,
    )


def _model(candidate: Candidate, image_shape: tuple[int, int, int], **arguments: Any) -> MaskedAutoencoder:
    """Return a model to train, as `keras-mae pretrain` makes it."""
    if candidate.weights is not None:
        return continued(candidate.weights, image_shape, **arguments)
    shape: dict[str, Any] = {"image_shape": image_shape, "patch_size": candidate.patch_size}
    return MaskedAutoencoder.from_preset(candidate.preset, **shape, **arguments)


class _Clock(keras.callbacks.Callback):
    """Times steps, and stops training when there were enough.

    Two kinds of steps are not timed: the first one, in which code is compiled, unless it is hopeless anyway, and
    those whose batches may have been loaded meanwhile. Reading the loss waits for an accelerator, so it is read only
    where timing begins and ends.

    Args:
        steps: Steps in an epoch.
        too_slow: Seconds of a step above which no further one is timed.
        seconds: Seconds during which steps are timed.
    """

    def __init__(self, steps: int, too_slow: float, seconds: float = _SECONDS):
        super().__init__()
        self.steps, self.too_slow, self.seconds = steps, too_slow, seconds
        self.done, self.first, self._started = 0, 0.0, 0.0
        self._begun, self._begun_at, self._ended = 0.0, 0, 0.0
        self._whole = False  # whether whole epochs are timed
        self._ahead = _optional.cores() + _LOADED_AHEAD

    @property
    def step_seconds(self) -> float:
        """Seconds of a step; where epochs are short, with its share of what lies between two of them."""
        return (self._ended - self._begun) / (self.done - self._begun_at)

    @property
    def notice(self) -> str:
        """How other programs slowed these steps down, "" if they did not."""
        return busy.notice(self._before, self._after)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if not self.done:
            self._started, self._before = time.perf_counter(), ProcessorUse.now()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.done += 1
        if self.done == 1:
            self.first = self._now(logs)
            if keras.backend.backend() == "torch" and self.first - self._started > _FIRST * self.too_slow:
                self._begun = self._started
                self._end(self.first)
                self.model.stop_training = True
            else:
                self._before = ProcessorUse.now()
        elif self.done == 2 and self._now(logs) - self.first > min(self.too_slow, _ENOUGH):
            self._begun, self._begun_at = self.first, 1
            self._end(time.perf_counter())
            self.model.stop_training = True
        elif not self._begun_at:
            if self.done > self._ahead or time.perf_counter() - self.first > self.seconds / 4:
                self._begin(self._now(logs))
        elif not self._whole and time.perf_counter() - self._begun >= self.seconds:
            self._end(self._now(logs))
            self.model.stop_training = self.steps * self.step_seconds > _SHORT * self.seconds

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.model.stop_training or not self._begun_at:
            return
        now = time.perf_counter()
        if not self._whole:
            timed = self.done - self._begun_at
            self._whole = not timed or self.steps * (now - self._begun) / timed <= _SHORT * self.seconds
            if self._whole:
                self._begin(now)
        elif now - self._begun >= self.seconds:
            self._end(now)
            self.model.stop_training = True

    def _begin(self, now: float) -> None:
        self._begun, self._begun_at, self._before = now, self.done, ProcessorUse.now()

    def _end(self, now: float) -> None:
        self._ended, self._after = now, ProcessorUse.now()

    def _now(self, logs: Any) -> float:
        """Return the time at which the step is done: the loss is waited for."""
        float(keras.ops.convert_to_numpy((logs or {})["loss"]))
        return time.perf_counter()


def _loading_seconds(dataset: Any, seconds: float = _SECONDS) -> float:
    """Return the seconds that loading a batch takes by itself, timed for about a quarter of `seconds`."""
    cores = _optional.cores()
    begun, begun_at = 0.0, 0
    for number, _ in enumerate(_batches(dataset), 1):
        now = time.perf_counter()
        if number == cores:  # these were loaded side by side
            begun, begun_at = now, number
        elif number % cores == 0 and (number >= 3 * cores or now - begun > seconds / 4):
            return (now - begun) / (number - begun_at)
    return 0.0


def _batches(dataset: Any) -> Iterator[Any]:
    """Yield batches, epoch after epoch, as `fit` asks for them."""
    while True:
        if isinstance(dataset, keras.utils.PyDataset):
            dataset.on_epoch_begin()
            yield from (dataset[index] for index in range(len(dataset)))
            dataset.on_epoch_end()
        else:
            yield from dataset


def _is_full(error: BaseException) -> bool:
    """Return whether an error says that the memory of a device is full."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or "outofmemory" in text or any(sign in text for sign in _FULL)
