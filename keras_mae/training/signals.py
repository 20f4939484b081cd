"""Signal handlers that can be removed again, and the exceptions with which a run ends that was asked to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Handler", "Interrupted", "Preempted"]


class Preempted(SystemExit):
    """Raised at the end of the step in which SIGTERM or SIGHUP arrived, once the run is saved; exit status 143.

    Args:
        path: Folder of the checkpoint that was written.
    """

    def __init__(self, path: Path):
        super().__init__(128 + signal.SIGTERM)
        self.path = path


class Interrupted(KeyboardInterrupt):
    """Raised at the end of the step in which Ctrl-C was pressed, once the run is saved.

    Args:
        path: Folder of the checkpoint that was written.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path


class Handler:
    """A handler for one signal, which restores the previous one when it is removed.

    Args:
        number: Signal to handle, such as `signal.SIGTERM`.
        handle: Function to call when the signal arrives.
    """

    def __init__(self, number: signal.Signals, handle: Callable[[], None]):
        self.number, self.handle = number, handle
        self._previous: Any = None

    def install(self) -> None:
        """Install the handler, except outside the main thread, where Python allows none.

        A signal that is ignored stays so: `nohup` and shells that start a process in the background mean it.
        """
        if threading.current_thread() is not threading.main_thread() or self._previous is not None:
            return
        if signal.getsignal(self.number) is not signal.SIG_IGN:
            self._previous = signal.signal(self.number, lambda *_: self.handle())

    def remove(self) -> None:
        """Restore the handler that was there before, if this one is installed."""
        if self._previous is not None:
            signal.signal(self.number, self._previous)
            self._previous = None
