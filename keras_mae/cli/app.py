"""The application that the commands register with, and what they print alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from keras_mae.distribution import Devices
    from keras_mae.recipes import Recipe

__all__ = ["app", "load", "run_directory", "say", "say_files", "say_plan", "say_scores"]

app = typer.Typer(
    help="Masked autoencoders in Keras: pre-train on images, look at what a model has learned, and classify with it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def run_directory(name: str, out: Path | None, resume: bool, devices: Devices) -> Path:
    """Return the directory that was asked for, or else the first runs/NAME-N that does not exist."""
    if out is None and resume:
        raise ValueError(f"`resume` takes the run directory: --out runs/{name}-1 --resume")
    if out is None and devices.processes > 1:
        raise ValueError(f"Several processes take the run directory, which they must share: --out runs/{name}-1")
    return out or next_run(name)


def next_run(name: str) -> Path:
    """The first runs/NAME-N that does not exist."""
    number = 1
    while (directory := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return directory


# === What is said of a run ===
def say(devices: Devices, text: Any) -> None:
    """Print a text once, however many processes there are."""
    if devices.is_main:
        typer.echo(text)


def say_plan(devices: Devices, recipe: Recipe) -> None:
    """Print what a run is spread over, and what follows from it, in one line."""
    say(devices, f"{devices}; global batch {recipe.batch_size}, learning rate {recipe.learning_rate:.3g}")


def say_files(devices: Devices, directory: Path) -> None:
    """Print what a run left."""
    say(devices, f"{directory}: {_files(directory)}")


def say_scores(directory: Path, of: str) -> None:
    """Print what a run scored, on which images, and what it left."""
    scores = json.loads((directory / "metrics.json").read_text())
    typer.echo(f"accuracy {scores['accuracy']:.2%} on {scores['images']:,} {of}; {directory}: {_files(directory)}")


def _files(directory: Path) -> str:
    return ", ".join(sorted(path.name for path in directory.iterdir()))


def load(path: Path) -> Any:
    """A model that keras_mae saved, or a `ValueError` that says what the file is instead."""
    import zipfile

    import keras

    import keras_mae
    from keras_mae import from_preset

    if path.is_dir() and from_preset.is_own(path):
        return from_preset.read(path)
    if path.is_dir():
        inside = sorted(path.glob("*.keras")) or [path / "model.keras"]
        raise ValueError(f"A model is a .keras file, not a folder: try {str(inside[-1])!r}")
    if not path.is_file():
        raise ValueError(f"There is no model file {str(path)!r}")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(f"A model file is a .keras file that keras_mae saved. Received: {str(path)!r}")
    try:
        model = keras.saving.load_model(path)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"Cannot load the model file {str(path)!r}: {first}") from error
    if not isinstance(model, (keras_mae.MaskedAutoencoder, keras_mae.ViTEncoder, keras_mae.ViTClassifier)):
        raise ValueError(
            f"`model` must hold a MaskedAutoencoder, a ViTEncoder or a ViTClassifier. "
            f"Received: a {type(model).__name__} in {str(path)!r}"
        )
    return model
