"""A run's directory: the names of its files, and whether it is free, finished or in use."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _files, distribution, visualize
from keras_mae.recipes import Recipe, files
from keras_mae.training.metadata import RECIPE, check_same_run, from_flat
from keras_mae.training.stored import checkpoints_in

__all__ = ["RunDirectory", "RunFile"]


class RunFile(StrEnum):
    """The names of all files and folders that a run may leave in its directory."""

    MODEL = "model.keras"
    """Pre-trained `MaskedAutoencoder`, with its optimizer."""
    ENCODER = "encoder.keras"
    """Its `ViTEncoder` alone."""
    CLASSIFIER = "classifier.keras"
    """Fine-tuned or probing `ViTClassifier`, with its optimizer."""
    SEGMENTER = "segmenter.keras"
    """Trained `ViTSegmenter`, with its optimizer."""
    RECIPE = "recipe.toml"
    """Everything that the run was told, to run it again."""
    RUN = "run.json"
    """Recipe and other metadata."""
    HISTORY = "history.csv"
    """Losses and metrics, a line for each epoch."""
    METRICS = "metrics.json"
    """Scores on the test images."""
    PREDICTIONS = "predictions.csv"
    """Class and predicted class of every test image, by its file."""
    LOSS = "loss.png"
    """Loss and learning rate of pre-training."""
    CURVES = "curves.png"
    """Loss, accuracy and learning rate of a classifier, mean IoU of a segmenter."""
    RECONSTRUCTIONS = "reconstructions.png"
    """Example images, masked and reconstructed."""
    CONFUSION = "confusion.png"
    """Confusion matrix on the test images."""
    SEGMENTATIONS = "segmentations.png"
    """Some test images with their masks, what a segmenter makes of them, and where it is wrong."""
    SCORES = "scores.csv"
    """How unlike normal ones images are, a line for each; see `keras_mae.anomaly`."""
    HEAT_MAPS = "heat_maps.png"
    """Where those with the highest scores are."""
    DETECTOR = "detector.npz"
    """Fitted `anomaly.AnomalyDetector`, without its model."""
    WATCH = "watch"
    """Folder of pictures drawn during training; see `Watch`."""
    BEFORE_DECAY = "before_decay"
    """Folder of the checkpoint from which a run with schedule "wsd" can be made longer."""
    CHECKPOINTS = "checkpoints"
    """Folder of what it takes to resume, until the run is finished; see `Checkpoints`."""


_FLAT_RUN = "recipe.json"  # before run.json
_OUTDATED_CHECKPOINTS = ".checkpoints"
_OF_A_BEGUN_RUN = {
    RunFile.RUN,
    RunFile.RECIPE,
    RunFile.HISTORY,
    RunFile.WATCH,
}  # what it leaves before its first checkpoint


class RunDirectory:
    """The directory of one run, with all that is known about its files.

    Of several processes only the main one writes.

    Args:
        path: Path of the directory, which may not exist yet.

    Example:
        >>> run = keras_mae.training.RunDirectory("runs/digits-1")
        >>> run.recipe.epochs, run.history["loss"][-1], run.metadata["data"]
        >>> keras.saving.load_model(run.file("encoder.keras"))
    """

    def __init__(self, path: str | Path):
        self.path = _checks.path("path", path)

    @classmethod
    def next_free(cls, name: str, parent: str | Path = "runs") -> RunDirectory:
        """Return the first of NAME-1, NAME-2, ... in `parent` that does not exist.

        Args:
            name: Name of the run, without a number.
            parent: Directory that holds the runs' directories.
        """
        rule = "a name for a folder, without a separator"
        if Path(_checks.text("name", name, rule)).name != name:
            raise _checks.argument_error("name", rule, name)
        parent = _checks.path("parent", parent)
        number = 1
        while (path := parent / f"{name}-{number}").exists():
            number += 1
        return cls(path)

    def file(self, name: RunFile | str) -> Path:
        """Return the path of a file of the run.

        Args:
            name: One of the names in `RunFile`.

        Raises:
            ValueError: If it is another name.
        """
        _checks.one_of("name", str(name), map(str, RunFile))
        return self.path / str(name)

    # === Reading ===
    @property
    def files(self) -> list[str]:
        """Names of the files and folders in the directory, in alphabetical order."""
        if not self.path.is_dir():
            return []
        names = (path.name for path in self.path.iterdir())
        return sorted(name for name in names if not name.startswith(_files.UNFINISHED))

    @property
    def metadata(self) -> dict[str, Any]:
        """What identifies the run: its recipe, model and data, as JSON values by name.

        Raises:
            ValueError: If the directory holds no run.
        """
        if (self.path / _FLAT_RUN).is_file() and not self.file(RunFile.RUN).is_file():
            return from_flat(_files.read_json(self.path / _FLAT_RUN))
        return self._json(RunFile.RUN)

    @property
    def recipe(self) -> Recipe:
        """The recipe the run was trained by.

        Raises:
            ValueError: If the directory holds no run that was trained by a recipe.
        """
        metadata = self.metadata
        if RECIPE not in metadata:
            raise ValueError(f"The run in {str(self.path)!r} has no recipe. Received: {', '.join(metadata)}")
        return Recipe.from_dict(metadata[RECIPE])

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Losses and metrics by name, float64 (epochs,); "epoch" counts from 1.

        Raises:
            ValueError: If the directory holds no history.
        """
        return visualize.read_history(self.file(RunFile.HISTORY))

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores on the test images by name.

        Raises:
            ValueError: If the directory holds no scores.
        """
        return self._json(RunFile.METRICS)

    def _json(self, name: RunFile) -> dict[str, Any]:
        if not self.file(name).is_file():
            raise ValueError(
                f"There is no {name} in {str(self.path)!r}. Received: {', '.join(self.files) or 'nothing'}"
            )
        return _files.read_json(self.file(name))

    # === Free, finished, in use ===
    @property
    def is_free(self) -> bool:
        """Whether a new run may use the directory: it does not exist or holds no files."""
        return not self.path.exists() or (self.path.is_dir() and not self.files)

    def check_free(self) -> None:
        """Raise ValueError if the directory holds files, which a new run would mix with its own."""
        if not self.is_free:
            raise ValueError(
                "`run_directory` (--out) must not exist or be empty, so that no other run is lost. "
                f"Received: {str(self.path)!r}, {self._held}"
            )

    @property
    def _held(self) -> str:
        """What a directory that is not free holds, and what to do about it."""
        if self._is_in_progress:
            return "a run that `resume` (--resume) continues; a new one needs another folder"
        what = "which holds a finished run" if RunFile.RUN in self.files else "which holds files of no run"
        return f"{what if self.path.is_dir() else 'a file'}: name another folder"

    @property
    def _is_in_progress(self) -> bool:
        """Whether the directory holds a run that has checkpoints, or has not got that far."""
        return self.has_checkpoints or ({RunFile.RUN} <= set(self.files) and self._has_only_begun)

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is a checkpoint, whole or not; what else lies among them does not count."""
        return bool(checkpoints_in(self.file(RunFile.CHECKPOINTS)))

    @property
    def _has_only_begun(self) -> bool:
        return set(self.files) <= {*_OF_A_BEGUN_RUN, RunFile.CHECKPOINTS}

    def is_finished(self, epochs: int, metadata: Mapping[str, Any], *, allow_changed: bool = False) -> bool:
        """Return whether the directory holds the run of these metadata, with all its epochs or results of fewer.

        A run that was stopped before its first checkpoint is not finished, and begins anew.

        Args:
            epochs: Epochs of the whole run.
            metadata: JSON values that identify the run.
            allow_changed: Whether its data may have changed since; see `Saving`.

        Raises:
            ValueError: If the directory holds another run, or files of none.
        """
        self.check_resumable()
        if self.is_free or self.has_checkpoints or not self._names_its_run:
            return False
        check_same_run(self.path, metadata, self.metadata, allow_changed=allow_changed)
        return self.epochs_done >= epochs or not self._has_only_begun

    @property
    def _names_its_run(self) -> bool:
        return self.file(RunFile.RUN).is_file() or (self.path / _FLAT_RUN).is_file()

    def check_resumable(self) -> None:
        """Raise ValueError if the directory is neither free nor a run's: there is nothing in it to resume."""
        if self.is_free or self.has_checkpoints or self._names_its_run:
            return
        # Pictures were drawn before there was a run.json from the start.
        if not self.path.is_dir() or not set(self.files) <= {RunFile.WATCH, RunFile.CHECKPOINTS}:
            found = ", ".join(self.files) or "it is a file"
            raise ValueError(
                f"{str(self.path)!r} holds files, and no {RunFile.RUN} that says of what run: {found}. There is "
                "nothing to resume: name another folder (--out)"
            )

    @property
    def epochs_done(self) -> int:
        """Number of epochs in the history, 0 where it cannot be read."""
        try:
            return len(next(iter(self.history.values()), ()))
        except ValueError:
            return 0

    @contextlib.contextmanager
    def opened(self, *, free: bool = False) -> Iterator[None]:
        """Make the directory, and keep other processes out of it until the block ends.

        What a killed process left unfinished is removed first, and a new directory is removed at the end if nothing
        was written to it. Processes other than the main one do nothing.

        Args:
            free: Whether the directory must hold no files: another process may have been there since it was checked.

        Raises:
            ValueError: If another process uses the directory, or it is not free and must be.
        """
        if not distribution.current().is_main:
            yield
            return
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        with _files.locked(self.path):
            _files.remove_unfinished(self.path)
            if free:
                self.check_free()
            try:
                yield
            finally:  # still locked: an empty folder may be another process's that has just begun
                for folder in made:
                    if any(folder.iterdir()):
                        break
                    folder.rmdir()

    # === Writing ===
    @contextlib.contextmanager
    def begun(self, metadata: Mapping[str, Any], recipe: str, learned: Callable[[], bool]) -> Iterator[None]:
        """Write `run.json` and `recipe.toml`, and take them away if the block ends in an error before anything was
        learned.

        Args:
            metadata: JSON values that identify the run.
            recipe: Text of `recipe.toml`. One that says the same stays, with its comments.
            learned: Function that says whether anything was.
        """
        was_there = bool(self.files)
        if distribution.current().is_main:
            self.write_json(RunFile.RUN, metadata)
            if not files.says_the_same(self.file(RunFile.RECIPE), recipe):
                self.write(RunFile.RECIPE, lambda path: path.write_text(recipe, encoding="utf-8"))
        try:
            yield
        except BaseException:
            if distribution.current().is_main and not was_there and not learned():
                self.file(RunFile.RECIPE).unlink(missing_ok=True)
                self.file(RunFile.RUN).unlink()
            raise

    def write(self, name: RunFile | str, save: Callable[[Path], Any]) -> None:
        """Write a file whole or not at all.

        Where reading weights is a collective operation, every process calls `save`, and the others' files are thrown
        away.

        Args:
            name: One of the names in `RunFile`.
            save: Function that writes to the path it is given.
        """
        devices, path = distribution.current(), self.file(name)
        if devices.is_main:
            with _files.whole(path) as unfinished:
                save(unfinished)
        elif devices.collective_reads:
            with tempfile.TemporaryDirectory() as folder:
                save(Path(folder) / path.name)

    def write_json(self, name: RunFile | str, content: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        self.write(name, lambda path: path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))

    def write_history(self, history: Mapping[str, Any]) -> None:
        """Write the values of each metric, a line for each epoch."""

        def save(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["epoch", *history], *_lines(history)])

        self.write(RunFile.HISTORY, save)

    def add_to_history(self, history: Mapping[str, Any]) -> None:
        """Add the line of the last epoch to `history.csv`, which holds those before it, or nothing."""
        path, names = self.file(RunFile.HISTORY), io.StringIO()
        csv.writer(names).writerow(["epoch", *history])
        *others, last = _lines(history)
        if path.is_file() and others:
            with path.open("r+", newline="", encoding="utf-8") as file:
                if file.readline() == names.getvalue():
                    file.seek(0, io.SEEK_END)
                    csv.writer(file).writerow(last)
                    return
        self.write_history(history)  # the first line, or other metrics than before

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of a finished run, all at once: nothing could be resumed from a part of them.

        What somebody else put among them stays, and the folder with it. If the folder is a link, it leads to a folder
        of the user's, which stays too.
        """
        if not distribution.current().is_main:
            return
        folder, outdated = self.file(RunFile.CHECKPOINTS), self.path / _OUTDATED_CHECKPOINTS
        _remove_checkpoints_in(outdated)  # of which a kill has left a part
        if os.path.lexists(folder) and not os.path.lexists(outdated):
            os.rename(folder, outdated)
        for place in (outdated, folder):
            _remove_checkpoints_in(place)
        if os.path.lexists(outdated) and not os.path.lexists(folder):  # with what is not ours
            os.rename(outdated, folder)


def _remove_checkpoints_in(folder: Path) -> None:
    """Remove the checkpoints in a folder, and the folder if nothing else is in it; a link goes in any case."""
    for path in checkpoints_in(folder).values():
        shutil.rmtree(path, ignore_errors=True)
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        _files.remove_unfinished(folder)
        if not any(folder.iterdir()):
            folder.rmdir()


def _lines(history: Mapping[str, Any]) -> list[list[float]]:
    """Return the lines of `history.csv` below that of the names."""
    return [[epoch, *map(float, row)] for epoch, row in enumerate(zip(*history.values(), strict=True), 1)]
