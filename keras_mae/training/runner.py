"""Train a model by a recipe, through interruptions and crashes, and leave a run directory."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import keras
from rich.console import Console

from keras_mae import _checks, distribution
from keras_mae.data.listings import of_dataset
from keras_mae.data.reading import length
from keras_mae.fit_arguments import check_fitting
from keras_mae.optimizers import ValidateAverages
from keras_mae.recipes import Recipe
from keras_mae.recipes.files import Settings
from keras_mae.training import sanity
from keras_mae.training.agreement import together
from keras_mae.training.callbacks import Interruptible, LogLearningRate, Progress, StopOnNonFinite
from keras_mae.training.checkpoints import Checkpoints, check_room_for, seek
from keras_mae.training.choosing import ChooseEpoch
from keras_mae.training.directory import RunDirectory, RunFile
from keras_mae.training.extending import KeepBeforeDecay, extend
from keras_mae.training.metadata import WARNINGS
from keras_mae.training.recording import Record, recipe_file
from keras_mae.training.saving import Saving
from keras_mae.training.watching import EpochScores
from keras_mae.transfer.best_epoch import checked_choice

__all__ = ["RunOptions", "run"]


class RunOptions(TypedDict, total=False):
    """Arguments of `run` that every protocol takes and passes on.

    Attributes:
        callbacks: Additional Keras callbacks.
        console: Console to show progress on; a new one by default.
        saving: When to write checkpoints, and whether to resume from one; `Saving()` by default.
        settings: What the run was told beside its recipe, for `recipe.toml`: values, and where they come from, by
            name, by table.
    """

    callbacks: Sequence[keras.callbacks.Callback]
    console: Console | None
    saving: Saving | None
    settings: Settings | None


def run(
    model: Any,
    dataset: Any,
    recipe: Recipe,
    run_directory: str | Path,
    *,
    metadata: Mapping[str, Any],
    leave: Callable[[RunDirectory, dict[str, list[float]]], None],
    complete: Callable[[RunDirectory], None] | None = None,
    prepare: Callable[[], tuple[Any, Any]] | None = None,
    validation_data: Any = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    console: Console | None = None,
    saving: Saving | None = None,
    settings: Settings | None = None,
) -> Path:
    """Train a compiled model to the end of its recipe, and let `leave` write the results.

    `run.json` and `recipe.toml`, which says all that the run was told, are there from the start, and `history.csv`
    gets a line after every epoch; results are written when the run is finished.

    Where the recipe averages weights (`ema_momentum`), `val_` metrics, pictures and results are the averages'. Where
    it asks for the best epoch (`best_epoch`), results are those of its weights, and `history.csv` is of all epochs.

    During training, `checkpoints/` holds all that is needed to continue after the process is killed: with
    `Saving(resume=True)` the run ends with the same weights, bit for bit on one machine, as without the interruption.
    A finished run with schedule "wsd" is made longer by resuming it with more epochs: it goes on from
    `before_decay/`, and ends as if it had been begun with them.

    On Ctrl-C, on SIGTERM, which a preempted machine receives, and on SIGHUP, which a closed terminal sends, the step
    is finished, a checkpoint is written, one line says so, and the run stops: with `Interrupted`, a
    `KeyboardInterrupt`, or with exit status 143. A second Ctrl-C stops it at once. After that, as after an error or a
    kill, the last checkpoint is what the run continues from. A checkpoint is a folder that `from_preset` loads, too.

    Inside a `keras_mae.distribution.scope` of several processes all of them call this, with the same arguments, and
    only the main one writes.

    Args:
        model: Compiled `MaskedAutoencoder` or `ViTClassifier`.
        dataset: Batches to train on, with a length.
        recipe: Numbers of the run.
        run_directory: Folder that does not exist or is empty.
        metadata: JSON values that identify the run; a checkpoint with different ones is refused.
        leave: Function called with (`RunDirectory`, history) to write the run's files.
        complete: Function called with the `RunDirectory` of a finished run that is asked for again, to draw what
            could not be drawn.
        prepare: Function called before a run that is not finished is trained: it returns the dataset and the
            validation data to train with in place of `dataset` and `validation_data`, batch by batch the same.
        validation_data: Batches to evaluate after every epoch.
        callbacks: Additional Keras callbacks.
        console: Console to show progress on; a new one by default.
        saving: When to write checkpoints, and whether to resume from one; `Saving()` by default.
        settings: What the run was told beside its recipe, for `recipe.toml`: values, and where they come from, by
            name, by table. Those of `keras-mae` are there for a `keras-mae` that runs it again, and with them it is
            told what to type where it stops.

    Returns:
        Path of the run directory.

    Raises:
        ValueError: If `run_directory` holds files or another run, another process is at work there, `metadata` are
            not JSON values, or `dataset` has no `seek`, which resuming requires.
        FloatingPointError: If too many steps in a row were not finite.
        Interrupted: On Ctrl-C.
    """
    saving = Saving() if saving is None else saving
    _checks.instance("saving", saving, Saving, "a keras_mae.training.Saving")
    check_fitting(("callbacks",), (), {"callbacks": callbacks})
    if console is not None:
        _checks.instance("console", console, Console, "a rich.console.Console, or None")
    directory = RunDirectory(_checks.path("run_directory", run_directory))
    if not saving.resume:
        together(directory.check_free if distribution.current().is_main else lambda: None)
    checkpoints = Checkpoints(
        directory.file(RunFile.CHECKPOINTS),
        length(dataset),
        metadata=metadata,
        every_steps=saving.every_steps,
        every_minutes=saving.every_minutes,
        allow_changed=saving.allow_changed,
    )
    checkpoints.listing = partial(of_dataset, dataset)
    console = _console(console)
    record = Record(checkpoints, directory, recipe.epochs)
    choice = checked_choice(recipe, validation_data)
    chosen = None if choice is None else ChooseEpoch(choice, checkpoints)

    def note(warning: str) -> None:
        checkpoints.metadata.setdefault(WARNINGS, []).append(warning)
        if distribution.current().is_main and directory.file(RunFile.RUN).is_file():
            directory.write_json(RunFile.RUN, checkpoints.metadata)

    def train() -> None:
        for callback in callbacks:
            if isinstance(callback, EpochScores):
                callback.resumed(checkpoints.position.history)
        batches, held_out = (dataset, validation_data) if prepare is None else prepare()
        _fit(
            model,
            batches,
            recipe,
            checkpoints,
            validation_data=held_out,
            callbacks=[
                *callbacks,
                sanity.RisingLoss(checkpoints.position.history, note),
                checkpoints,
                *([] if chosen is None else [chosen]),
                record,
                KeepBeforeDecay(checkpoints, directory, recipe),
            ],
            console=console,
            is_over=lambda: chosen is not None and chosen.is_over,
        )

    def end() -> None:
        if distribution.current().is_main:
            check_room_for(model, directory.path)
        if chosen is not None and chosen.choice.best_epoch:
            console.print(chosen.said(checkpoints.load_best(model)), highlight=False, soft_wrap=True)
        # `fit` does so only where it comes to its end, and not in an epoch that was begun before.
        model.optimizer.finalize_variable_values(model.trainable_variables)
        leave(directory, checkpoints.position.history)

    with directory.opened(free=not saving.resume):
        if saving.resume:
            known, allowed = checkpoints.metadata, saving.allow_changed
            if distribution.current().is_main:
                together(lambda: extend(directory, known, allow_changed=allowed))
            else:
                together(lambda: None)  # and see what it left
            if together(lambda: directory.is_finished(recipe.epochs, known, allow_changed=allowed)):
                directory.remove_checkpoints()  # of which a kill may have left a part
                if complete is not None:
                    complete(directory)
                console.print(_finished(directory, recipe.epochs), highlight=False, soft_wrap=True)
                return directory.path
            checkpoints.restore(model)
            over = chosen is not None and chosen.is_over
            console.print(_goes_on(directory, checkpoints, recipe.epochs, over), highlight=False, soft_wrap=True)
        for text in sanity.doubts(recipe, checkpoints.batches_per_epoch, dataset):
            if text not in checkpoints.metadata.get(WARNINGS, []):  # where it was said when the run began
                sanity.say(text)
                note(text)
        text = recipe_file(recipe, settings)
        with directory.begun(checkpoints.metadata, text, lambda: checkpoints.position.step > 0):
            try:
                train()
                end()
            except BaseException:
                if checkpoints.position.step:
                    with contextlib.suppress(OSError):  # the disk may be full, or the terminal closed
                        record.rewrite()  # with the line of the epoch at whose end it was
                        line = _stopped(directory, checkpoints, dataset, saving, settings)
                        console.print(line, highlight=False, soft_wrap=True)
                raise
        directory.remove_checkpoints()
    return directory.path


def _finished(directory: RunDirectory, epochs: int) -> str:
    """Return the line that says that a run is finished; a callback may have stopped it early."""
    done = directory.epochs_done
    early = f" after {done} of {epochs} epochs" if done < epochs else ""
    return f"{directory.path}: this run is finished{early}, nothing is left to do"


def _goes_on(directory: RunDirectory, checkpoints: Checkpoints, epochs: int, over: bool) -> str:
    """Return the line that says from where a run is resumed; `over` says that no epoch is left to train."""
    position = checkpoints.position
    if not position.step:
        return f"{directory.path}: there is nothing to resume yet, and the run begins"
    if over or position.epoch >= epochs:
        return f"{directory.path}: all epochs are done, and the results are left to write"
    within = f" after {position.batch:,} of {checkpoints.batches_per_epoch:,} batches" if position.batch else ""
    return f"{directory.path}: goes on in epoch {position.epoch + 1}/{epochs}{within}, from step {position.step:,}"


def _stopped(
    directory: RunDirectory, checkpoints: Checkpoints, dataset: Any, saving: Saving, settings: Settings | None
) -> str:
    """Return the line that says where a run stopped, and how it goes on: a command's, or a program's."""
    step, saved = checkpoints.position.step, checkpoints.saved_step
    stopped = f"{directory.path}: stopped at step {step}"
    if saved and not hasattr(dataset, "seek"):
        return f"{stopped}, saved at step {saved}; to continue it the dataset must have `seek(epoch, batch)`"
    again, how = "call", " with saving=Saving(resume=True)"
    if settings is not None:
        again, how = "command", f" with --out {shlex.quote(str(directory.path))} --resume"
    goes_on = "continues it" + f" from step {saved}" * (saved != step) if saved else "begins it anew"
    return f"{stopped}; the same {again}{'' if saving.resume else how} {goes_on}"


def _console(console: Console | None) -> Console:
    """Return the console to write to: one process is enough to show what all do."""
    return console or Console() if distribution.current().is_main else Console(quiet=True)


def _fit(
    model: Any,
    dataset: Any,
    recipe: Recipe,
    checkpoints: Checkpoints,
    *,
    validation_data: Any,
    callbacks: Sequence[keras.callbacks.Callback],
    console: Console,
    is_over: Callable[[], bool],
) -> None:
    """Call `fit` from where the run is to its last epoch, or to the one with which it is over."""
    position, steps = checkpoints.position, checkpoints.batches_per_epoch
    interruptible, stop = Interruptible(checkpoints.interrupt), StopOnNonFinite(dataset=dataset)
    progress = Progress(steps * recipe.step_batch_size, console, recipe.epochs, steps)
    options: dict[str, Any] = {
        "validation_data": validation_data,
        "callbacks": [interruptible, LogLearningRate(), stop, progress, ValidateAverages(), *callbacks],
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
        if position.epoch < recipe.epochs and not is_over():
            model.fit(dataset, initial_epoch=position.epoch, epochs=recipe.epochs, **options)
    finally:
        interruptible.close()
        progress.close()
        checkpoints.close()
