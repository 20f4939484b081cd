"""Whether other programs take the cores that a training could use, and what helps."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import keras

from keras_mae import _optional

__all__ = ["ProcessorUse", "is_accelerated", "notice"]

_TIMES = 1.5
"""A notice is due where something takes this many times as long as alone: less is an everyday difference."""
_LEAST_SECONDS = 1.0
"""Seconds below which there is no notice: any program needs a core for this long now and then."""
_THREADS = Path("/proc/self/task")


@dataclass(frozen=True)
class ProcessorUse:
    """What this process has had of the processor so far.

    A process that does not run may be waiting for a disk, or sleeping. Only Linux says for how long threads were
    ready to run and had no core: that is what other programs cost.

    Attributes:
        clock: Reading of the clock in seconds.
        ran: Seconds for which the process's threads have run.
        waited: Seconds for which the threads that are alive were ready to run and had no core; NaN where the system
            does not say.
    """

    clock: float
    ran: float
    waited: float

    @classmethod
    def now(cls) -> ProcessorUse:
        """Return what this process has had until now."""
        waited = [_waited(file) for file in _THREADS.glob("*/schedstat")]
        return cls(time.perf_counter(), time.process_time(), sum(waited) if waited else math.nan)


def _waited(file: Path) -> float:
    """Return the seconds for which a thread has waited for a core: the second number, in nanoseconds, of its file."""
    try:
        return int(file.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):  # it has just ended
        return 0.0


def notice(before: ProcessorUse, after: ProcessorUse) -> str:
    """Return how much longer something took because of other programs, and what helps; "" if nothing can be said.

    This process's own threads cannot run on more cores than there are: waiting for one another's cores does not
    count. Where an accelerator computes, nothing follows from what the processor does.

    Args:
        before: What the process had had when the work began.
        after: What it had had when the work ended.
    """
    seconds, ran, waited = after.clock - before.clock, after.ran - before.ran, after.waited - before.waited
    if is_accelerated() or seconds < _LEAST_SECONDS or not waited > 0:
        return ""
    could = min(ran + waited, _optional.cores() * seconds)
    times = could / max(ran, 0.01 * seconds)
    if times < _TIMES:
        return ""
    cores = max(int(ran / seconds), 1)
    threads = ""
    if keras.backend.backend() == "torch" and cores < _threads():
        threads = f", or set OMP_NUM_THREADS={cores}: threads that wait for one another lose the most"
    return (
        f"other programs are at work on this machine, and it takes at least {times:.2g} times as long as without "
        f"them. Run it when nothing else runs{threads}"
    )


def _threads() -> int:
    """Return the number of threads in which PyTorch computes on the processor."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() else _optional.cores()


def is_accelerated() -> bool:
    """Return whether there is an accelerator: whether new tensors are elsewhere than in the processor's memory."""
    return "cpu" not in str(getattr(keras.ops.convert_to_tensor(0.0), "device", "cpu")).lower()
