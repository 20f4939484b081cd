"""What runs the examples in tests, and a data set for them."""

import os
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import processes
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))


def run(script, *arguments):
    result = processes.run([sys.executable, EXAMPLES / script, *arguments])
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Runs a script that starts processes: itself here, so that these are forked instead."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / script), *map(str, arguments)])
        forked = SimpleNamespace(run=processes.run, Popen=processes.Popen, PIPE=None, DEVNULL=None)
        module = import_module(script.removesuffix(".py"))
        for starts_some in (module, import_module("study")):
            monkeypatch.setattr(starts_some, "subprocess", forked, raising=False)
        module.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def squares(tmp_path):
    """A folder like Fashion-MNIST's, of pictures of one bright square each, made here."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 256), ("t10k", 200)):
        images = np.zeros((count, 28, 28), "uint8")
        for image, (row, column) in zip(images, rng.integers(0, 12, (count, 2)), strict=True):
            image[row : row + 16, column : column + 16] = 200
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(count, dtype="uint8") % 10)):
            header = b"\x00\x00\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (tmp_path / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return tmp_path


# What the examples are made of is tested on each backend; that the scripts work, on one.
on_one_backend = pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "torch", reason="on PyTorch only, for time")
