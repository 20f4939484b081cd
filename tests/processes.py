"""Scripts and modules in processes of their own, without importing Keras and its backend anew for each.

A server that has imported them once is forked for every process: a tenth of a second instead of the seconds that a
new interpreter takes. A process has an environment, signals and an exit status of its own, as if `subprocess` had
started it; only what is read while Keras is imported (its backend, its home) comes from the server.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [f"keras_mae.{name}" for name in ("cli", "convert", "data", "training", "transfer", "visualize")]
)
SECONDS = 400  # after which a process is killed


class Popen:
    """Stand in for `subprocess.Popen([sys.executable, SCRIPT or "-m", ...], env=..., text=True)`.

    Errors are printed where all else is; of the other arguments, none changes anything.
    """

    def __init__(self, command: Sequence[object], env: Mapping[str, str] | None = None, **_: Any) -> None:
        read, own_write = _SERVER.Pipe(duplex=False)
        own_read, write = _SERVER.Pipe(duplex=False)
        self.stdin = open(os.dup(own_write.fileno()), "w")  # noqa: SIM115
        self.stdout = open(os.dup(own_read.fileno()), errors="replace")  # noqa: SIM115
        environment = dict(os.environ if env is None else env)
        arguments = (read, write, [*map(str, command[1:])], environment, os.getcwd())
        self._process = _SERVER.Process(target=_be, args=arguments)
        self._process.start()
        self.pid = self._process.pid
        for end in (read, write, own_write, own_read):  # else neither side would ever see the other's end
            end.close()

    def poll(self) -> int | None:
        return self._process.exitcode

    returncode = property(poll)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int | None:
        self._process.join()
        return self.poll()

    def communicate(self) -> tuple[str, str]:
        timer = threading.Timer(SECONDS, self.kill)
        timer.start()
        self.stdin.close()
        printed = self.stdout.read()
        self.wait()
        timer.cancel()
        self.stdout.close()
        return printed, printed if self.returncode else ""

    def __enter__(self) -> Popen:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()


def run(
    command: Sequence[object], env: Mapping[str, str] | None = None, **_: Any
) -> subprocess.CompletedProcess[str]:
    """Stand in for `subprocess.run([sys.executable, ...], env=..., capture_output=True, text=True)`."""
    process = Popen(command, env)
    printed, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, printed, errors)


def _be(read: Connection, write: Connection, command: list[str], environment: dict[str, str], folder: str) -> None:
    """Be the process."""
    os.dup2(read.fileno(), 0)
    os.dup2(write.fileno(), 1)
    os.dup2(write.fileno(), 2)
    read.close()
    write.close()
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (multiprocessing's reads nothing)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
