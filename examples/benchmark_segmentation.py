"""Time and memory of the published UPerNet's training step, and of attention within windows on large images.

    KERAS_BACKEND=torch python examples/benchmark_segmentation.py
    KERAS_BACKEND=torch python examples/benchmark_segmentation.py --cases full windows --side 512
    KERAS_BACKEND=torch python examples/benchmark_segmentation.py --cases full windows --side 1024
    python examples/benchmark_segmentation.py --backends jax --python jax=.tox/jax/bin/python

`step` is a training step of `ViTSegmenter(head="upernet")` on ViT-B with patches of 16 pixels, with 150 classes and
AdamW: forward, backward, update. `full` and `windows` are forward passes of the encoder alone, to the last map, with
full attention in all blocks and with ViTDet's windows of 14 x 14 patches in eight of twelve.

Each case is a process of its own with one thread. CPU seconds are printed, which other programs on the machine
change little, as the median after a first turn that compiles; and the largest memory that the process had, which
counts what importing and compiling took.

Seen on PyTorch with one thread of an Intel Xeon Processor (model 167), float32, one image, one turn after the first:

                                         CPU s   peak GiB
    step, 512 px, 163.3 M parameters      28.6        5.4
    full, 512 px                           2.1        1.0
    windows, 512 px                        2.8        1.1
    full, 1024 px                         11.0        1.3
    windows, 1024 px                       7.9        1.4

Windows cost more than they save at 512 pixels. They save no memory here, because PyTorch's attention on a CPU keeps
no matrix of all patches with all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import benchmark_step
import machine
import numpy as np

SIZES = {"tiny": (48, 12, 3), "base": (768, 12, 12)}  # embed_dim, depth, num_heads; the first, whether it runs
CLASSES, PATCH, WINDOW = 150, 16, 14
CASES = ("step", "full", "windows")


# === In a case's process ===
def turn_of(case: str, size: str, side: int, batch: int) -> Callable[[], Any]:
    """Return a function that does it once, and returns a number that takes all of it."""
    import keras
    from keras import ops

    import keras_mae

    width, depth, heads = SIZES[size]
    window = WINDOW if case == "windows" else None
    encoder = keras_mae.ViTEncoder(
        (side, side, 3), PATCH, width, depth, heads, window=window, final_norm=False, drop_path_rate=0.1
    )
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, side, side, 3), "uint8")
    if case == "step":
        segmenter = keras_mae.ViTSegmenter(encoder, CLASSES, "upernet", copy=False)
        optimizer = keras_mae.optimizers.fine_tuning_adamw(segmenter, 1e-4, layer_decay=0.65)
        segmenter.compile(optimizer, jit_compile=keras.backend.backend() == "jax")
        masks = generator.integers(0, CLASSES, (batch, side, side), "uint8")
        print(f"parameters {segmenter.count_params()}", flush=True)
        return lambda: segmenter.train_on_batch(images, masks, return_dict=True)["loss"]
    inputs = keras.Input((side, side, 3))
    model = keras.Model(inputs, ops.mean(encoder.features(inputs, -1)[depth - 1]))
    print(f"parameters {encoder.count_params()}", flush=True)
    return lambda: model.predict_on_batch(images)


def work(case: str, size: str, side: int, batch: int, rounds: int) -> None:
    """Print the median of the CPU seconds of `rounds` turns, and the largest memory of this process."""
    turn = turn_of(case, size, side, batch)
    seconds = []
    for _ in range(rounds + 1):
        began = time.process_time()
        if not np.isfinite(float(turn())):
            raise RuntimeError(f"{case} gives no number")
        seconds.append(time.process_time() - began)
    print(f"measured {statistics.median(seconds[1:])} {seconds[0]} {machine.memory() / 2**30}", flush=True)


# === In the process that asks ===
def measured(backend: str, case: str, options: argparse.Namespace) -> None:
    """Print what a case takes on a backend."""
    environment = {**os.environ, **benchmark_step.ONE_THREAD, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [benchmark_step.interpreter(backend, options), __file__, "--worker", case, options.size]
    command += [str(number) for number in (options.side, options.batch, options.rounds)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{backend}, {case} stopped with status {process.returncode}")
    said = dict(line.split(" ", 1) for line in printed.splitlines() if line.startswith(("parameters", "measured")))
    seconds, first, memory = map(float, said["measured"].split())
    row = f"{int(said['parameters']) / 1e6:8.1f} M {seconds:10.2f} {first:10.2f} {memory:10.1f}"
    print(f"{f'{backend}, {case}':24}{row}", flush=True)


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["step"])
    parser.add_argument("--backends", nargs="+", choices=["torch", "tensorflow", "jax"], help="KERAS_BACKEND's")
    parser.add_argument("--size", choices=list(SIZES), default="base")
    parser.add_argument("--side", type=int, default=512, help="side of an image in pixels")
    parser.add_argument("--batch", type=int, default=1, help="images of a turn")
    parser.add_argument("--rounds", type=int, default=1, help="turns after the first")
    parser.add_argument("--python", action="append", default=[], metavar="BACKEND=INTERPRETER")
    options = parser.parse_args()
    batch = f"{options.batch} image{'s' * (options.batch > 1)}"
    print(f"ViT-{options.size}/{PATCH}, {batch} of {options.side} px, float32, one thread; {machine.name()}")
    print(f"{'':24}parameters     CPU s  the first  peak GiB", flush=True)
    for backend in options.backends or [os.environ.get("KERAS_BACKEND", "torch")]:
        for case in options.cases:
            measured(backend, case, options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        case, size, *numbers = sys.argv[2:]
        work(case, size, *map(int, numbers))
    else:
        main()
