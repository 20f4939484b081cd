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
"""Times the time that something takes alone from which on it is said: less is an everyday difference."""
_LEAST_SECONDS = 1.0
"""Seconds below which nothing is said: any program needs a core for so long now and then."""
_THREADS = Path("/proc/self/task")


@dataclass(frozen=True)
class ProcessorUse:
    """What this process has had of the processor until some time.

    Seconds without the processor may be those in which it waited for a disk, or slept. Linux alone says for how long
    threads were ready to run, and had no core; that is what other programs cost.

    Attributes:
        clock: Seconds of the clock.
        ran: Seconds that the process's threads have run.
        waited: Seconds that those which there are were ready to run and had no core; NaN where nobody knows.
    """

    clock: float
    ran: float
    waited: float

    @classmethod
    def now(cls) -> ProcessorUse:
        """Return what it has had until now."""
        waited = [_waited(file) for file in _THREADS.glob("*/schedstat")]
        return cls(time.perf_counter(), time.process_time(), sum(waited) if waited else math.nan)


def _waited(file: Path) -> float:
    """Return for how many seconds a thread has waited for a core: the second number in its file, of nanoseconds."""
    try:
        return int(file.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):  # it has just ended
        return 0.0


def notice(before: ProcessorUse, after: ProcessorUse) -> str:
    """Return how much longer something took because of other programs, and what helps; "" if nothing can be said.

    Threads of this process that wait for one another's cores count only as far as there are cores for them. Where an
    accelerator computes, nothing follows from what the processor does.

    Args:
        before: What the process had had when it began.
        after: And when it had ended.
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
        f"other programs are at work on this machine, and it takes {times:.2g} times as long as without them, or "
        f"longer. Run it when nothing else runs{threads}"
    )


def _threads() -> int:
    """Return in how many threads PyTorch computes on the processor."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() else _optional.cores()


def is_accelerated() -> bool:
    """Return whether there is an accelerator: whether new tensors are anywhere but in the memory of the processor."""
    return "cpu" not in str(getattr(keras.ops.convert_to_tensor(0.0), "device", "cpu")).lower()
