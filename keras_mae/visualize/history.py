"""Training curves, from what `fit` returned or from the files that runs leave."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.visualize.figures import new_figure

__all__ = ["curves", "read_history"]

_PANELS = {
    "accuracy": "accuracy",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "accuracy\nof pixels",
    "knn_accuracy": "accuracy of the\nnearest neighbors",
    "probe_accuracy": "accuracy of\nthe probe",
    "rankme": "RankMe",
    "learning_rate": "learning rate",
}
"""Columns that have a panel below the loss, where they are there, and what is written beside it."""
_DRAWN = ("epoch", "loss", "val_loss", "val_accuracy", "val_mean_iou", "val_pixel_accuracy", *_PANELS)

Columns = Mapping[str, Any]  # of numbers
History = Columns | str | os.PathLike[str]


def read_history(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the columns of a run's `history.csv`.

    Args:
        path: Path of the file.

    Returns:
        float64 (epochs,) by name; NaN where the file has nothing.

    Raises:
        ValueError: If there is no such file, or it is not a table of numbers under a line of names.
    """
    path = _checks.path("path", path)
    if not path.is_file():
        raise ValueError(f"There is no history file {str(path)!r}")
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = list(csv.reader(file)) or [[]]
    for line, row in enumerate(rows, 2):
        try:
            if len(row) != len(names):
                raise ValueError(f"{len(row)} of {len(names)} columns")
            row[:] = [float(value or "nan") for value in row]  # type: ignore[misc]
        except ValueError as error:
            raise ValueError(
                f"{str(path)!r} must hold numbers under a line of names. Line {line}: {error}"
            ) from error
    return {name: np.array([row[index] for row in rows], float) for index, name in enumerate(names)}


def curves(history: History | Mapping[str, History]) -> Any:
    """Draw the loss, and accuracies, RankMe and the learning rate where there are some, over the epochs of runs.

    Args:
        history: Columns of a run by name, as in `History.history`, or the path of its `history.csv`; or a dict of
            either, by the names of the runs. Columns are "loss" and, if they are there, "accuracy", "mean_iou" and
            "pixel_accuracy", all with "val_" before them, "knn_accuracy", "probe_accuracy", "rankme",
            "learning_rate", and "epoch", which counts from 1 otherwise.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If a file cannot be read, or there is no loss.
    """
    runs = {name: _columns(name, run) for name, run in _by_name(history).items()}
    classifies = ["accuracy" in run or "mean_iou" in run for run in runs.values()]
    loss = "mean squared error\non removed patches"
    panels = {"loss": "cross-entropy" if all(classifies) else "loss" if any(classifies) else loss}
    panels |= {name: label for name, label in _PANELS.items() if any(name in run for run in runs.values())}
    heights = [1 if column == "learning_rate" else 3 for column in panels]
    figure = new_figure(6, 0.5 + 1.1 * sum(heights))
    grid = figure.subplots(len(panels), squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (column, label) in zip(grid, panels.items(), strict=True):
        for number, (name, run) in enumerate(runs.items()):
            epochs = run.get("epoch", np.arange(1, len(run["loss"]) + 1))
            for key, style in {column: "-", f"val_{column}": "--"}.items():
                if key in run:
                    shown = f"{name}: {key}" if name else key
                    marker = "." if len(epochs) < 50 else None
                    axes.plot(epochs, run[key], style, color=f"C{number}", label=shown, marker=marker)
        axes.set_ylabel(label, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if column != "learning_rate":  # its panel is low, and the colors are those of the others
            axes.legend(fontsize=7)
    grid[-1].set_xlabel("epoch", fontsize=8)
    grid[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def _by_name(history: Any) -> dict[str, History]:
    """Return the runs by name; a single one has none."""
    if not isinstance(history, str | os.PathLike | Mapping):
        raise ValueError(
            "`history` must be columns by name, the path of a history.csv, or a dict of either by the names of runs. "
            f"Received: {type(history).__name__}"
        )
    if isinstance(history, Mapping) and any(isinstance(run, str | os.PathLike | Mapping) for run in history.values()):
        return {str(name): run for name, run in history.items()}
    return {"": history}


def _columns(name: str, run: Any) -> Columns:
    columns = read_history(run) if isinstance(run, str | os.PathLike) else run
    if not isinstance(columns, Mapping) or not np.size(columns.get("loss", ())):
        where = (
            repr(str(run)) if isinstance(run, str | os.PathLike) else f"`history[{name!r}]`" if name else "`history`"
        )
        received = ", ".join(columns) if isinstance(columns, Mapping) else type(columns).__name__
        raise ValueError(f"{where} must have a column 'loss'. Received: {received or 'nothing'}")
    rule = "columns of numbers, all of one length"
    known = {column: _checks.array("history", values, rule) for column, values in columns.items() if column in _DRAWN}
    if any(values.shape != (np.size(columns["loss"]),) for values in known.values()):
        shapes = ", ".join(f"{column} {values.shape}" for column, values in known.items())
        raise ValueError(f"`history` must be {rule}. Received: {shapes}")
    return columns
