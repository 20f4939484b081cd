"""The application that the commands register with, and what they share."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Masked autoencoders in Keras: pre-train on images, look at what a model learned, and classify with it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Engine(StrEnum):
    """What spreads a run over devices."""

    auto = "auto"
    none = "none"
    mirrored = "mirrored"
    tpu = "tpu"
    multi_worker = "multi_worker"
    data_parallel = "data_parallel"
    model_parallel = "model_parallel"
    torch_ddp = "torch_ddp"


# === Options of all that trains ===
Out = Annotated[Path | None, typer.Option(help="Run directory; by default the next free one in runs/.")]
Distribution = Annotated[Engine, typer.Option(help="What to spread the run over; 'auto' takes what there is.")]
Accumulation = Annotated[int | None, typer.Option(help="Batches whose gradients make one update.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out, if one was begun; with its own options.")
]
CheckpointMinutes = Annotated[float, typer.Option(help="Save what --resume needs so often.")]
CheckpointSteps = Annotated[int | None, typer.Option(help="Save it after so many steps, too.")]


def directory_for(name: str, out: Path | None, resume: bool, devices: Any) -> Path:
    """Where a run goes: what was asked for, or runs/NAME-N."""
    if out is None and resume:
        raise ValueError(f"`resume` takes the run directory: --out runs/{name}-1 --resume")
    if out is None and devices.processes > 1:
        raise ValueError(f"Several processes take the run directory, which they must share: --out runs/{name}-1")
    return out or next_run(name)


def fingerprint(path: Path) -> str:
    """What tells a model's file, or folder of files, from another one."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def say_devices(devices: Any, recipe: Any) -> None:
    """One line: what the run is spread over, and what follows from it."""
    say(devices, f"{devices}; global batch {recipe.batch_size}, learning rate {recipe.learning_rate:.3g}")


def say(devices: Any, text: Any) -> None:
    """Print it once, however many processes there are."""
    if devices.is_main:
        typer.echo(text)


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
    from keras_mae import convert

    return convert.load_model(path)
