"""Train a model by a recipe, through interruptions and crashes, and leave a run directory."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_mae import distribution
from keras_mae.data.datasets import length
from keras_mae.recipes import Recipe
from keras_mae.training.callbacks import Interruptible, LogLearningRate, Progress, StopOnNonFinite
from keras_mae.training.resume import Checkpoints, Preempted, check_same_run, check_space, lock, seek

_CHECKPOINTS = "checkpoints"
_NEEDED_NO_MORE = ".checkpoints"


def run(
    model: Any,
    dataset: Any,
    recipe: Recipe,
    metadata: dict[str, Any],
    run_directory: str | Path,
    leave: Callable[[Path, dict[str, list[float]]], None],
    validation_data: Any = None,
    callbacks: Any = (),
    console: Console | None = None,
    resume: bool = False,
    checkpoint_steps: int | None = None,
    checkpoint_minutes: float = 10.0,
) -> Path:
    """Train a compiled model to the end of its recipe, and let `leave` write what came of it.

    If training stops early, by Ctrl-C or an error, what was learned until then is left; a run that stops before its
    first epoch ends leaves nothing.

    Meanwhile `checkpoints/` holds all it takes to go on after the process was killed: with `resume=True` the run
    ends with the weights, bit for bit on one machine, that it would have had. On SIGTERM, which a machine that is
    preempted sends, one is written and the process exits with status 143.

    Inside a `keras_mae.distribution.scope` of several processes all of them call this, with the same arguments, and
    the first writes.

    Args:
        model: A compiled `MaskedAutoencoder` or `ViTClassifier`.
        dataset: Batches to train on, with a length.
        recipe: The numbers.
        metadata: What the run is made of, JSON values by name: a run of others is not gone on with.
        run_directory: A folder that does not exist or is empty.
        leave: (directory, history) -> `None`; writes the run's files, with `write`.
        validation_data: Batches to evaluate after every epoch.
        callbacks: More Keras callbacks.
        console: Where progress is shown.
        resume: Whether to go on with the run in `run_directory`, if there is one. A finished one is left as it is.
        checkpoint_steps: Write a checkpoint after so many steps.
        checkpoint_minutes: Write one when so many minutes have passed.

    Returns:
        The run directory.

    Raises:
        ValueError: If `run_directory` holds files or another run, another process is at work there, or `dataset`
            has, to resume, no `seek`.
        FloatingPointError: If the steps have ceased to be finite.
    """
    devices = distribution.current()
    directory = Path(run_directory) if resume or not devices.is_main else check_free(run_directory)
    checkpoints = Checkpoints(
        directory / _CHECKPOINTS, length(dataset), metadata, checkpoint_steps, checkpoint_minutes
    )
    if resume and _finished(directory, recipe.epochs, checkpoints.metadata):
        if devices.is_main:
            _forget(directory)
            (console or Console()).print(f"{directory}: this run is finished, nothing is left to do", highlight=False)
        return directory
    made = _make(directory) if devices.is_main else []

    def end() -> None:
        if checkpoints.position.history:
            if devices.is_main:
                check_space(directory, model)
            leave(directory, checkpoints.position.history)
        elif directory.exists() and not any(directory.iterdir()):
            for folder in made:
                folder.rmdir()

    with lock(directory) if devices.is_main else contextlib.nullcontext():
        if resume:
            checkpoints.restore(model)
        try:
            _fit(model, dataset, recipe, checkpoints, validation_data, callbacks, console)
        except Preempted:
            raise
        except BaseException:
            if devices.processes == 1:
                end()
            raise  # of several, the others are elsewhere, and may be needed to read the weights: checkpoints are left
        end()
        if devices.is_main:  # what is left holds it all now
            _forget(directory)
    return directory


def _fit(
    model: Any,
    dataset: Any,
    recipe: Recipe,
    checkpoints: Checkpoints,
    validation_data: Any,
    callbacks: Any,
    console: Console | None,
) -> None:
    """`fit` from where the run is to its last epoch."""
    position, steps = checkpoints.position, checkpoints.batches_per_epoch
    interruptible, stop = Interruptible(), StopOnNonFinite(dataset=dataset)
    if not distribution.current().is_main:
        console = Console(quiet=True)
    progress = Progress(steps * recipe.step_batch_size, console, recipe.epochs)
    options: dict[str, Any] = {
        "validation_data": validation_data,
        "callbacks": [interruptible, LogLearningRate(), stop, progress, *callbacks, checkpoints],
        "shuffle": False,  # the dataset shuffles itself
        "verbose": 0,
    }
    try:
        if position.step:
            seek(dataset, position.epoch, position.batch)
        if position.batch:  # the epoch that was begun
            left = steps - position.batch
            model.fit(
                dataset, initial_epoch=position.epoch, epochs=position.epoch + 1, steps_per_epoch=left, **options
            )
        if position.epoch < recipe.epochs:
            model.fit(dataset, initial_epoch=position.epoch, epochs=recipe.epochs, **options)
    finally:
        interruptible.close()
        progress.close()
        checkpoints.close()


def _finished(directory: Path, epochs: int, metadata: dict[str, Any]) -> bool:
    """Whether a run directory holds all epochs.

    Raises:
        ValueError: If it holds files of another run, or of one that cannot be gone on with.
    """
    if (directory / _CHECKPOINTS).exists() or not directory.exists() or not any(directory.iterdir()):
        return False
    if (directory / "recipe.json").is_file():
        check_same_run(directory, metadata, json.loads((directory / "recipe.json").read_text()))
    history = directory / "history.csv"
    rows = len(history.read_text().splitlines()) - 1 if history.is_file() else 0
    if rows < epochs:
        raise ValueError(
            f"{str(directory)!r} holds files, and no checkpoint to go on from: {rows} of {epochs} epochs"
        )
    return True


def _forget(directory: Path) -> None:
    """Take the checkpoints away: all at once, for a part of them could not be gone on from if this were cut off."""
    if (directory / _CHECKPOINTS).exists():
        os.replace(directory / _CHECKPOINTS, directory / _NEEDED_NO_MORE)
    shutil.rmtree(directory / _NEEDED_NO_MORE, ignore_errors=True)


def check_free(run_directory: str | Path) -> Path:
    """The run directory, unless it holds anything.

    Raises:
        ValueError: If it does.
    """
    directory = Path(run_directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(
            f"`run_directory` must not exist or be empty, so that no other run is lost. "
            f"Received: run_directory={str(directory)!r}"
        )
    return directory


def _make(directory: Path) -> list[Path]:
    """Make the directory, and return what was made for it, the innermost first."""
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return made


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Let `save` write a file beside `path`, then move it there: `path` is never half written.

    Only the first process writes; where weights are read together, the others' file is thrown away.
    """
    devices = distribution.current()
    if not devices.is_main:
        if devices.collective_reads:
            with tempfile.TemporaryDirectory() as folder:
                save(Path(folder) / path.name)
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        unfinished = Path(folder) / path.name  # the same name: Keras and matplotlib go by its ending
        save(unfinished)
        os.replace(unfinished, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    write(path, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))


def write_history(path: Path, history: dict[str, Any]) -> None:
    """A line for each epoch, whole or not at all."""

    def save(path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *history])
            writer.writerows(
                [epoch, *map(float, row)] for epoch, row in enumerate(zip(*history.values(), strict=True), 1)
            )

    write(path, save)
