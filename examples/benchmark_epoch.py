"""Time what training on small images takes: until the first step, an epoch of Fashion-MNIST, and between epochs.

    python examples/benchmark_epoch.py
    python examples/benchmark_epoch.py --images 10000 --rounds 1         # a look
    python examples/benchmark_epoch.py --python jax=.tox/jax/bin/python --python torch=.tox/torch/bin/python

keras_mae trains on each backend by `training.run_pretraining`, as `keras-mae pretrain` does, with the files that it
writes: the model and batch of the recipe for small images, with AdamW. By hand the same model is trained in plain
PyTorch, by a loop that shuffles, steps and takes the mean of the losses. Every run is a new process of one thread,
pinned to the same core; the contestants take turns. The table is Markdown, medians over the rounds:

- until the first step's end, from the start of the process: imports, the model, compiling; the images are an array
- an epoch: from its first step to the first of the next, the pause included; the second epoch of three
- the pause: from the last step to the first of the next epoch, less a median step
- the largest resident set of the process, Python and its libraries included
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import benchmark_step
import contestants
import machine
import numpy as np

CONTESTANTS = ("torch", "tensorflow", "jax", "by-hand")
EPOCHS = 3
SIZE = contestants.SIZES["micro"]


# === In a contestant's process ===
class Clock:
    """When each step began, when the first one ended, and the memory in the end."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.first_end = 0.0
        self.memory = 0

    def begin(self) -> None:
        self.starts.append(time.time())

    def end(self, loss: Any) -> None:
        if not self.first_end:
            float(loss)  # which waits for it
            self.first_end = time.time()

    def stop(self, logs: Any = None) -> None:
        self.memory = machine.memory()


def train_with_keras(images: np.ndarray, batch: int, clock: Clock) -> int:
    """Pre-train with keras_mae, and return the steps of an epoch."""
    import keras

    import keras_mae
    from keras_mae import data, recipes, training

    timing = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: clock.begin(),
        on_train_batch_end=lambda batch, logs: clock.end(logs["loss"]),
        on_train_end=clock.stop,
    )
    recipe = recipes.PretrainRecipe.for_size(
        "small_images", epochs=EPOCHS, warmup_epochs=0, optimizer_name="adamw", batch_size=batch
    )
    dataset = training.training_batches(data.ArraySource(images), recipe)
    mae = keras_mae.MaskedAutoencoder.from_preset(
        "mae_vit_micro_patch4_28", decoder=recipe.decoder, **recipe.model_arguments
    )
    jit = keras.backend.backend() != "torch"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        training.run_pretraining(mae, dataset, recipe, run, examples=images[:8], jit_compile=jit, callbacks=[timing])
    return len(dataset)


def train_by_hand(images: np.ndarray, batch: int, clock: Clock) -> int:
    """Pre-train in plain PyTorch, and return the steps of an epoch."""
    import torch

    step = contestants.torch_step(contestants.model_by_hand(SIZE), "float32", fused=True)
    pixels, count = torch.from_numpy(images), len(images) // batch
    for _ in range(EPOCHS):
        losses = []
        for ids in torch.randperm(len(pixels))[: count * batch].split(batch):
            clock.begin()
            losses.append(step(pixels[ids]).detach())
            clock.end(losses[-1])
        print(float(torch.stack(losses).mean()), flush=True)
    clock.stop()
    return count


def work(contestant: str, images: str, batch: int, started: float) -> None:
    """Train, and print what it took."""
    pixels = np.load(images)
    clock = Clock()
    count = (train_by_hand if contestant == "by-hand" else train_with_keras)(pixels, batch, clock)
    second, third = clock.starts[count], clock.starts[2 * count]
    step = statistics.median(np.diff(clock.starts[count : 2 * count]))
    took = {"first": clock.first_end - started, "epoch": third - second, "memory": clock.memory / 2**30}
    took["pause"] = max(0.0, third - clock.starts[2 * count - 1] - step)
    print(f"took {json.dumps(took | {'machine': machine.name()})}", flush=True)


# === In the process that asks ===
def run(name: str, images: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a contestant's run took."""
    backend = benchmark_step.backend_of(name, options)
    command = [benchmark_step.interpreter(backend, options), __file__, "--worker", name, str(images)]
    command += [str(options.batch), str(options.core), str(time.time())]
    environment = {**os.environ, **benchmark_step.ONE_THREAD, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("took ")]
    if done.returncode or not lines:
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("took "))


def main() -> None:
    """Take turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--images", type=int, default=60_000, help="training images; fewer for a look")
    parser.add_argument("--batch", type=int, default=SIZE.batch, help="images of a step")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's IDX files")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant")
    parser.add_argument("--core", type=int, default=0, help="the core all are pinned to")
    parser.add_argument("--python", action="append", default=[], metavar="BACKEND=INTERPRETER")
    options = parser.parse_args()
    if options.images < 2 * options.batch:
        parser.error(f"--images must be at least two batches. Received: {options.images} for --batch {options.batch}")
    names = [name for name in options.contestants if benchmark_step.can_run(name, "micro", options)]
    if not names:
        raise SystemExit("No contestant can run here: see --contestants and --python")
    from keras_mae import data

    images, _ = data.fashion_mnist("train", options.data)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images[: options.images])
        turns = [
            {name: run(name, Path(folder) / "images.npy", options) for name in names} for _ in range(options.rounds)
        ]
    medians = {
        name: {
            key: statistics.median(turn[name][key] for turn in turns) for key in ("first", "epoch", "pause", "memory")
        }
        for name in names
    }
    count, machine_name = min(options.images, len(images)), turns[0][names[0]]["machine"]
    print(f"\n{count:,} images, batch {options.batch}, {options.rounds} rounds on one core: {machine_name}.\n")
    print("| | until the first step, s | an epoch, s | of which between epochs | GiB | speed against by hand |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, took in medians.items():
        ratio = f"{medians['by-hand']['epoch'] / took['epoch']:.2f}×" if "by-hand" in medians else ""
        numbers = f"{took['first']:.1f} | {took['epoch']:.2f} | {took['pause']:.2f} | {took['memory']:.2f} | {ratio}"
        print(f"| {benchmark_step.label(name, options)} | {numbers} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        name, images, batch, core, started = sys.argv[2:]
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {int(core)})
        work(name, images, int(batch), float(started))
    else:
        main()
