"""Ctrl-C before a command has begun."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import keras_mae
from keras_mae import _interrupt

pytestmark = pytest.mark.backends("torch")

COMMANDS = {"keras-mae": ["keras-mae", "info"], "keras-mae.exe": ["C:/keras-mae.exe"], "a module": ["-m"]}
SLOW = "import time; print('importing', flush=True); time.sleep(60)"  # stands for Keras


@pytest.fixture
def handler():
    """Ctrl-C as Python starts with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("how", COMMANDS)
def test_a_command_answers_until_it_has_begun(handler, monkeypatch, how):
    monkeypatch.setattr(sys, "argv", COMMANDS[how])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "keras_mae.cli", "info"])
    _interrupt.answer_early()
    assert signal.getsignal(signal.SIGINT) is not handler
    _interrupt.answer_late()
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("arguments", [["train.py"], ["-m"], [""], []])
def test_other_processes_are_left_alone(handler, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pytest"])
    _interrupt.answer_early()
    assert signal.getsignal(signal.SIGINT) is handler


def test_another_thread_and_somebody_elses_handler_are_left_alone(handler, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["keras-mae"])
    thread = threading.Thread(target=_interrupt.answer_early)  # in which no handler can be set
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _interrupt.answer_early()
    _interrupt.answer_late()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_while_keras_is_imported(tmp_path):
    """As the command's script does it, with a Keras that takes its time."""
    (tmp_path / "keras.py").write_text(SLOW)
    script = tmp_path / "bin" / "keras-mae"
    script.parent.mkdir()
    script.write_text("from keras_mae.cli import main; main()")
    paths = os.pathsep.join([str(tmp_path), str(Path(keras_mae.__file__).parent.parent)])
    environment = {**os.environ, "PYTHONPATH": paths}
    process = subprocess.Popen(
        [sys.executable, script],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
    )
    assert process.stdout.readline() == "importing\n"
    time.sleep(0.1)  # until it sleeps
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "keras-mae: stopped before it began\n")
