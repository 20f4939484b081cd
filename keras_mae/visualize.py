"""Pictures: arrays in, a matplotlib figure out; nothing is shown or written unless asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_mae.reconstruction import Reconstruction


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures take matplotlib: pip install "keras-mae[viz]"') from error
    return Figure((width, height), dpi=100, layout="constrained")  # no pyplot: no display, no global state


def _show(axes: Any, image: np.ndarray) -> None:
    """An image of 0–255: one channel in grey, three in colour, the first three of more."""
    shown = np.clip(image.astype("float32") / 255, 0, 1)
    if shown.shape[2] in (1, 2):
        axes.imshow(shown[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(shown[..., :3], interpolation="nearest")


def reconstructions(result: Reconstruction, max_images: int = 8) -> Any:
    """Masked, predicted, pasted and original side by side, an image a row, as in the paper's figure 2.

    Args:
        result: What `MaskedAutoencoder.reconstruct` returned.
        max_images: Images to show, the first ones.

    Returns:
        A matplotlib `Figure`; `figure.savefig(path)` writes it.

    Raises:
        ImportError: If matplotlib is missing.
    """
    columns = {
        "masked": result.masked,
        "prediction": result.predicted,
        "prediction + visible": result.pasted,
        "original": result.original,
    }
    rows = min(max_images, len(result.original))
    height, width = result.original.shape[1:3]
    figure = _figure(1.5 * len(columns), 1.5 * rows * height / width + 0.5)
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        grid[0, column].set_title(title, fontsize=8)
        for row in range(rows):
            _show(grid[row, column], images[row])
            grid[row, column].axis("off")
    removed = float(result.mask.mean())
    figure.suptitle(f"{removed:.0%} of the patches removed; statistics: {result.statistics}", fontsize=7)
    return figure


def curves(history: Mapping[str, Sequence[float]]) -> Any:
    """Loss, and the accuracy and the learning rate where there are some, over the epochs.

    Args:
        history: Columns by name, as in `History.history` or a `history.csv`: "loss" and, if they are there,
            "accuracy", both with "val_" before them, and "learning_rate".

    Returns:
        A matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is no loss.
    """
    if not len(history.get("loss", ())):
        raise ValueError(f"`history` must have a column 'loss'. Received: {', '.join(history) or 'nothing'}")
    classifies = "accuracy" in history
    figure = _figure(6, 8 if classifies else 4)
    panels = figure.subplots(1 + classifies, squeeze=False)[:, 0]
    epochs = np.arange(1, len(history["loss"]) + 1)
    labels = {"loss": "cross-entropy" if classifies else "mean squared error on removed patches"}
    labels |= {"accuracy": "accuracy"} if classifies else {}
    for axes, (column, label) in zip(panels, labels.items(), strict=True):
        for name in (column, f"val_{column}"):
            if name in history:
                axes.plot(epochs, history[name], label=name, marker="." if len(epochs) < 50 else None)
        axes.set(xlabel="epoch", ylabel=label)
        axes.legend(loc="center right")
    if "learning_rate" in history:
        rate = panels[0].twinx()
        rate.plot(epochs, history["learning_rate"], color="gray", linewidth=0.8, linestyle="--")
        rate.set_ylabel("learning rate")
    return figure


def confusion(labels: Any, predicted: Any, classes: Sequence[str]) -> Any:
    """Which class is taken for which: a row for each true class, in per cent of its images.

    Args:
        labels: True classes, integers (images,).
        predicted: Predicted ones, integers (images,).
        classes: Names.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is missing.
    """
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (np.asarray(labels), np.asarray(predicted)), 1)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(2.5 + 0.5 * len(classes), 20)
    figure = _figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(classes) <= 30:
        for row, column in np.argwhere(shares >= 0.5):
            colour = "white" if shares[row, column] > 50 else "black"
            axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=7)
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    axes.set(
        xlabel="predicted",
        ylabel="true",
        title=f"% of each class; accuracy {np.diag(counts).sum() / max(counts.sum(), 1):.2%}",
    )
    return figure


def check_savable(path: Any) -> None:
    """Refuses a file ending that matplotlib cannot write, before the work is done.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If it does not know the ending.
    """
    formats = _figure(1, 1).canvas.get_supported_filetypes()
    ending = str(path).rpartition(".")[2].lower()
    if ending not in formats:
        raise ValueError(
            f"A picture's name must end in one of .{', .'.join(sorted(formats))}. Received: {str(path)!r}"
        )
