"""A plan: what it proposes, how long it takes and why, as text and as a recipe file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras

from keras_mae import _checks, _files, distribution
from keras_mae.data.surveying import Survey
from keras_mae.planning.candidates import Candidate
from keras_mae.planning.measuring import Measured
from keras_mae.planning.numbers import few_updates
from keras_mae.recipes import PretrainRecipe
from keras_mae.recipes.files import Settings, as_text
from keras_mae.training.durations import duration

__all__ = ["Plan", "check_free"]


@dataclass(frozen=True)
class Plan:
    """What to pre-train on a folder; `make_plan` makes it.

    Attributes:
        data: The folder, or the name of an array in a file.
        survey: What its images are like.
        measured: What was measured, in the order of measuring: the most costly model first.
        too_large: Models that did not fit into the memory of the device.
        chosen: One of `measured`, whose model is proposed.
        recipe: Recipe of the run.
        hours: Hours that the run may take.
        settings: What the recipe file says: (value, reason) by name, by table.
    """

    data: str
    survey: Survey
    measured: tuple[Measured, ...]
    too_large: tuple[Candidate, ...]
    chosen: Measured
    recipe: PretrainRecipe
    hours: float
    settings: Settings

    @property
    def preset(self) -> str:
        """Name of the preset of the model, or of the weights that it goes on from."""
        return self.chosen.candidate.preset

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels) of the model's images."""
        return (*self.chosen.candidate.image_size, self.survey.channels)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Size (height, width) of a patch in pixels."""
        return self.chosen.candidate.patch_size

    @property
    def seconds(self) -> float:
        """Seconds that the run is expected to take on this machine if nothing else is at work there."""
        return self.chosen.seconds(self.recipe.epochs)

    @property
    def expected(self) -> str:
        """The expected time in words, and where it was measured."""
        where = f"{distribution.current()}, {keras.backend.backend()}"
        epoch = duration(self.chosen.epoch_seconds)
        return f"{duration(self.seconds)} on this machine ({where}): {self.recipe.epochs} epochs of {epoch}"

    @property
    def warnings(self) -> list[str]:
        """What to know before the run: that it makes few updates, or that other programs slowed measuring down."""
        found = [few_updates(self.recipe, self.chosen.steps_per_epoch)]
        slowed = [one.notice for one in self.measured if one.notice]
        return [text for text in (*found, *(f"these times are too long: {text}" for text in slowed[-1:])) if text]

    def save(self, path: str | Path) -> None:
        """Write the recipe file that `keras-mae pretrain --recipe PATH` takes.

        Args:
            path: Path of the file, which must not exist; its name ends in .toml.

        Raises:
            ValueError: If the file exists, or its name does not end in .toml.
            OSError: If it cannot be written.
        """
        checked = check_free(path)
        header = [
            f"Planned for {self.survey}.",
            f"Expected: {self.expected}.",
            *(f"Warning: {text}." for text in self.warnings),
            *(f"Measured: {line}" for line in self._lines()),
            f"To run it: keras-mae pretrain --recipe {checked.name}",
            "Beside each value is the reason for it; what is not here is the recipe's for such images.",
        ]
        with _files.whole(checked) as unfinished:
            unfinished.write_text(as_text(header, self.settings), encoding="utf-8")

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the proposal as rows (name, value, reason)."""
        return [
            (name, str(value), reason)
            for table, values in self.settings.items()
            for name, (value, reason) in values.items()
            if table and name != "data"
        ]

    def __str__(self) -> str:
        rows = self.rows()
        names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
        proposed = [f"{name:{names}}  {value:{values}}  {reason}".rstrip() for name, value, reason in rows]
        parts = [f"{self.data}: {self.survey}", "", *self._lines(), "", *proposed, "", f"expected: {self.expected}"]
        return "\n".join([*parts, *(f"warning: {text}" for text in self.warnings)])

    def _lines(self) -> list[str]:
        """Return a line for every model that was tried."""
        measured = [
            f"{one.candidate}: {one.images_per_second:.3g} images/s in batches of {one.batch_size}, "
            f"{duration(one.epoch_seconds)} an epoch"
            for one in self.measured
        ]
        return [f"{one}: does not fit into memory" for one in self.too_large] + measured


def check_free(path: str | Path) -> Path:
    """Return the path of a recipe file to write.

    Raises:
        ValueError: If the file exists, or its name does not end in .toml.
    """
    checked = _checks.path("out", path)
    if checked.suffix != ".toml":
        raise _checks.argument_error("out", "the name of a file that ends in .toml", str(path))
    if checked.exists():
        raise _checks.argument_error("out", "the name of a file that does not exist (--out)", str(path))
    return checked
