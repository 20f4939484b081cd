"""The examples run; their numbers come from real sizes and are in their docstrings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script, *arguments):
    result = subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_pretrain_fashion_mnist_trains_and_compares(tmp_path):
    """On pictures of one bright square each, made here."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 256), ("t10k", 200)):
        images = np.zeros((count, 28, 28), "uint8")
        for image, (row, column) in zip(images, rng.integers(0, 12, (count, 2)), strict=True):
            image[row : row + 16, column : column + 16] = 200
        for kind, array in (("images-idx3", images), ("labels-idx1", np.zeros(count, "uint8"))):
            header = b"\x00\x00\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (tmp_path / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())
    out = run("pretrain_fashion_mnist.py", "--epochs", 2, "--data", tmp_path, "--out", tmp_path / "run")
    assert "inpaint_biharmonic" in out
    errors = json.loads((tmp_path / "run" / "errors.json").read_text())
    assert errors["inpaint_biharmonic"][0] is None
    for value in (*errors["mean of the visible pixels"], errors["inpaint_biharmonic"][1], *errors["keras_mae"]):
        assert 0 < value < 1


@pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "torch", reason="times transformers, which needs PyTorch")
def test_benchmark_step_times_and_compares():
    pytest.importorskip("transformers")
    options = ("--contestants", "torch", "transformers", "mask-tokens", "--dtypes", "float32")
    out = run("benchmark_step.py", *options, "--rounds", 1, "--batch", 1)
    lines = [line.split() for line in out.splitlines()]
    assert ["transformers", "1.00×"] in [[line[0], line[-1]] for line in lines if line]
    assert "without mask tokens in the encoder a step is" in out
