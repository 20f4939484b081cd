"""Signal handlers that can be removed again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Handler"]


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
