"""The application that the commands register with, and what they share."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import typer

app = typer.Typer(
    help="Masked autoencoders in Keras: pre-train on images, look at what a model learned, and classify with it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def next_run(name: str) -> Path:
    """The first runs/NAME-N that does not exist."""
    number = 1
    while (directory := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return directory


def crop_of(recipe: Any) -> Any:
    """The crops that a recipe trains on, of images in sizes of their own."""
    from keras_mae import data

    return data.CenterCrop() if recipe.crop is None else data.RandomResizedCrop(**recipe.crop)


def load(path: Path) -> Any:
    """A model that keras_mae saved, or a `ValueError` that says what the file is instead."""
    import keras

    import keras_mae
    from keras_mae import preset_files

    if path.is_dir() and preset_files.is_own(path):
        return preset_files.read(path)
    if path.is_dir():
        raise ValueError(f"A model is a .keras file, not a folder: try {str(path / 'model.keras')!r}")
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
