"""What a run leaves while it trains: a recipe to run it again, and a line of history for every epoch."""

from __future__ import annotations

from typing import Any

import keras

from keras_mae import distribution
from keras_mae.recipes import Recipe
from keras_mae.recipes.files import TRAINING, Settings, as_text, training_table
from keras_mae.recipes.sources import SOURCES
from keras_mae.training.checkpoints import Checkpoints
from keras_mae.training.directory import RunDirectory, RunFile

__all__ = ["Record", "recipe_file"]

_COMMANDS = {"pretrain": "pretrain", "fine_tune": "finetune", "linear_probe": "probe", "segment": "segment"}


def recipe_file(recipe: Recipe, settings: Settings | None) -> str:
    """Return the text of a run's `recipe.toml`.

    Args:
        recipe: Recipe of the run.
        settings: What it was told beside, as for `run`; `None` for a run of another program's than `keras-mae`.
    """
    kind = type(recipe).__name__
    header = [f"Everything that this run was told, on {keras.backend.backend()}."]
    if settings is None:
        header.append(f"It was run from Python: keras_mae.recipes.{kind}.from_file(PATH) is its recipe.")
    else:
        header.append(f"The same again: keras-mae {_COMMANDS[recipe.kind]} --recipe PATH")
    header.append("Beside each value it says where it comes from.")
    settings = settings or {}
    above = {"kind": (recipe.kind, ""), "source": (recipe.source, SOURCES[recipe.source]), **settings.get("", {})}
    below = {name: table for name, table in settings.items() if name}
    return as_text(header, {"": above, TRAINING: training_table(recipe), **below})


class Record(keras.callbacks.Callback):
    """Adds a line to `history.csv` after every epoch.

    Before the last line the run is saved: a kill while results are written loses nothing, and a history of all epochs
    without checkpoints is a finished run's.

    Args:
        checkpoints: The run's `Checkpoints`, before this one in the list of callbacks.
        directory: Directory of the run.
        epochs: Epochs of the whole run.
    """

    def __init__(self, checkpoints: Checkpoints, directory: RunDirectory, epochs: int):
        super().__init__()
        self.checkpoints, self.directory, self.epochs = checkpoints, directory, epochs

    def on_train_begin(self, logs: Any = None) -> None:
        self.rewrite()

    def rewrite(self) -> None:
        """Make the file hold what the run's position holds, no more and no less."""
        if not distribution.current().is_main:
            return
        # A process that was killed may have been further than its last checkpoint.
        if history := self.checkpoints.position.history:
            self.directory.write_history(history)
        else:
            self.directory.file(RunFile.HISTORY).unlink(missing_ok=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch + 1 == self.epochs or self.model.stop_training:
            self.checkpoints.save()  # here, because at the end of `fit` averages replace the weights
        if distribution.current().is_main:
            self.directory.add_to_history(self.checkpoints.position.history)
