"""What the studies on Fashion-MNIST share: cells that are computed once, side by side, and survive a stop.

A study is a list of stages, a stage a list of cells' names, and a cell a function that returns a JSON value. Each
cell runs in a process of its own with one thread and leaves a file in the run directory; what is there is not
computed again. Not a script.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PLAIN: dict[str, Any] = {"batch_size": 128, "base_learning_rate": 4e-3, "crop_area": None, "flip": False}
"""The plain recipe for pre-training: the paper's, but for what small images and batches ask for."""


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """Options of every study."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="one seed, few images and labels: a look")
    made.add_argument("--jobs", type=int, default=2, help="cells side by side")
    made.add_argument("--data", type=Path, help="folder of Fashion-MNIST's IDX files")
    made.add_argument("--out", type=Path, help=f"run directory; runs/{name} by default, with -quick behind it")
    made.add_argument("--only", default="*", help="pattern of the cells to compute; '' for the report alone")
    made.add_argument("--cell", help="compute this cell only, here")
    made.set_defaults(name=name)
    return made


def add_tuning(parser: argparse.ArgumentParser) -> None:
    """Options that choose numbers without looking at the test images."""
    parser.add_argument("--validate", action="store_true", help="evaluate on training images kept apart")
    parser.add_argument("--change", default="{}", help="fields of FineTuneRecipe to change, as JSON (tuning)")


def main(options: argparse.Namespace, stages: list[list[str]], compute: Callable[[str], Any]) -> None:
    """Compute what is missing: a stage needs what the one before it left. Cells "cost-..." run one at a time."""
    ending = "".join(f"-{name}" for name in ("digits", "validate", "quick") if getattr(options, name, False))
    options.out = options.out or Path("runs") / (options.name + ending)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.cell:
        began = time.perf_counter()
        result = compute(options.cell)
        cell = {
            "result": result,
            "minutes": (time.perf_counter() - began) / 60,
            "core_seconds": time.process_time(),
            "processor": processor(),
        }
        unfinished = options.out / f".{options.cell}.json"
        unfinished.write_text(json.dumps(cell) + "\n")
        unfinished.replace(options.out / f"{options.cell}.json")
        sys.exit()
    for stage in stages:
        chosen = [name for name in stage if fnmatch.fnmatch(name, options.only)]
        timed = all(name.startswith("cost-") for name in stage)
        with ThreadPoolExecutor(1 if timed else options.jobs) as pool:
            list(pool.map(lambda name: _run(name, options), chosen))


def _run(name: str, options: argparse.Namespace) -> None:
    if (options.out / f"{name}.json").exists():
        return
    command = [sys.executable, sys.argv[0], *sys.argv[1:], "--cell", name]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    print(f"{name}: {json.loads((options.out / f'{name}.json').read_text())['minutes']:.1f} min", flush=True)


def read(options: argparse.Namespace, name: str) -> Any:
    """Return a cell's result, or `None` if it was not computed."""
    path = options.out / f"{name}.json"
    return json.loads(path.read_text())["result"] if path.exists() else None


def mean_and_spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds (0 for one seed)."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return mean, variance**0.5


def shown(values: list[float]) -> str:
    """Mean ± standard deviation, in per cent."""
    if not values:
        return "-"
    mean, spread = mean_and_spread(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if len(values) > 1 else "")


# === In a cell's process ===
def images(options: argparse.Namespace) -> tuple[Any, Any]:
    """(images, labels) to train on, and to evaluate on."""
    from keras_mae import data

    if getattr(options, "digits", False):
        train, test = data.digits("train"), data.digits("test")
    else:
        train, test = data.fashion_mnist("train", options.data), data.fashion_mnist("test", options.data)
    if getattr(options, "validate", False):
        rest = len(train[0]) * 5 // 6
        train, test = tuple(part[:rest] for part in train), tuple(part[rest:] for part in train)
    if options.quick:
        test = tuple(part[:2_000] for part in test)
    return train, test


def labeled(train: Any, count: int, seed: int) -> Any:
    """`count` of the labeled images, as many of every class, other ones for every seed."""
    import numpy as np

    if count >= len(train[0]):
        return train
    generator = np.random.default_rng(1000 + seed)
    chosen = [generator.permutation(np.flatnonzero(train[1] == label))[: count // 10] for label in range(10)]
    order = generator.permutation(np.concatenate(chosen))
    return train[0][order], train[1][order]


def pretrain(mae: Any, images: Any, recipe: Any, directory: Path) -> str:
    """Pre-train on images without labels; the encoder is `encoder.keras` in `directory`."""
    import keras_mae

    shutil.rmtree(directory, ignore_errors=True)  # what a stopped run left of this cell
    dataset = keras_mae.training.training_batches(keras_mae.data.ArraySource(images), recipe)
    return str(keras_mae.training.run_pretraining(mae, dataset, recipe, directory, examples=images[:8]))


def fine_tune(encoder: Any, train: Any, test: Any, recipe: Any) -> float:
    """Accuracy on `test` after fine-tuning on `train`."""
    from keras_mae import data, training, transfer

    dataset = training.training_batches(data.ArraySource(*train), recipe, num_classes=10)
    classifier = transfer.fine_tune(encoder, dataset, 10, recipe, verbose=0)
    return classifier.evaluate(*test, batch_size=500, verbose=0, return_dict=True)["accuracy"]


def probe(encoder: Any, train: Any, test: Any, seed: int, pooling: str = "token") -> float:
    """Accuracy on `test` of a probe on cached features of `train`."""
    import keras

    from keras_mae import recipes, transfer

    recipe = recipes.LinearProbeRecipe.for_size("small_images", images=len(train[0]), pooling=pooling, seed=seed)
    keras.utils.set_random_seed(seed)
    classifier = transfer.linear_probe(encoder, train, 10, recipe, cache_features=True, verbose=0)
    return classifier.evaluate(*test, batch_size=500, verbose=0, return_dict=True)["accuracy"]


# === Budgets ===
def processor() -> str:
    """Name of the processor."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cost(fit: Callable[[int], Any]) -> float:
    """Core-seconds of a step: the median of five times twenty; `fit(count)` takes `count` steps."""
    fit(10)
    spent = []
    for _ in range(5):
        began = time.process_time()
        fit(20)
        spent.append((time.process_time() - began) / 20)
    return sorted(spent)[2]


def first(dataset: Any, count: int) -> Any:
    """Return the first `count` batches of every epoch of a dataset, which goes on to shuffle as it does."""
    import keras

    if hasattr(dataset, "take"):  # tf.data's
        return dataset.take(count)

    class First(keras.utils.PyDataset):
        def __len__(self) -> int:
            return min(count, len(dataset))

        def __getitem__(self, index: int) -> Any:
            return dataset[index]

        def on_epoch_begin(self) -> None:
            dataset.on_epoch_begin()

        def on_epoch_end(self) -> None:
            dataset.on_epoch_end()

    return First()
