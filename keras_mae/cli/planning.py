"""`keras-mae plan`: what to pre-train on a folder, and how long it takes here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from keras_mae.cli.options import AllowDamaged, Loader, MaxPixels, Workers
from keras_mae.cli.output import echo
from keras_mae.cli.pretrain_options import DtypePolicy, Precision, Weights

__all__ = ["plan"]


def plan(
    folder: Annotated[
        str, typer.Argument(help="Folder of images, or a prepared one; or an array in a file: FILE::IMAGES.")
    ],
    out: Annotated[Path, typer.Option(help="Recipe file to write, a new .toml file.")] = Path("plan.toml"),
    hours: Annotated[float, typer.Option(help="Hours that the run may take.")] = 8.0,
    model: Annotated[
        str | None, typer.Option(help="Preset, such as mae_vit_small_patch16_224; by default several are tried.")
    ] = None,
    weights: Weights = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Size of the images in pixels, such as 224 or 96x192 (height, width); by default it follows from "
            "the images.",
            metavar="SIZE",
        ),
    ] = None,
    patch_size: Annotated[
        str | None,
        typer.Option(
            help="Size of a patch in pixels, such as 8 or 4x16 (height, width); by default it follows from the size "
            "of the images.",
            metavar="SIZE",
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(help="Channels of the images; by default 1 if all are gray, 3 for colors, or their bands."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; by default as --hours allows.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images behind each update; by default it follows from the device and the number of images."
        ),
    ] = None,
    allow_damaged: AllowDamaged = 0.0,
    pixel_range: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Smallest and largest number in the images; by default 0 255, or, for images in units of their own, "
            "what is measured.",
            metavar="LOW HIGH",
            show_default=False,
        ),
    ] = None,
    white_level: Annotated[
        int | None,
        typer.Option(
            help="Number that is white in gray images of 9 to 16 bits, such as 4095; by default what is measured.",
            metavar="N",
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    loader: Loader = None,
    workers: Workers = None,
    precision: DtypePolicy = Precision.float32,
) -> None:
    """Propose a run of pre-training.

    It looks at the images' sizes, number, channels and values, trains models on them for some steps each, and
    proposes the largest that makes enough epochs in --hours. It prints how long the run would take on this machine
    and the reason for every number, and writes a recipe file: keras-mae pretrain --recipe plan.toml.
    """
    import keras_mae
    from keras_mae import planning
    from keras_mae.cli.shapes import side_lengths

    planning.check_free(out)
    sizes = {
        "image_size": side_lengths("image_size", image_size),
        "patch_size": side_lengths("patch_size", patch_size),
    }
    with keras_mae.distribution.scope() as devices, _progress() as progress:
        if devices.processes > 1:
            raise ValueError(f"A plan is made in one process. Received: {devices.processes} processes")
        proposed = planning.make_plan(
            folder,
            hours=hours,
            preset=model,
            weights=weights,
            **sizes,
            channels=channels,
            epochs=epochs,
            batch_size=batch_size,
            precision=precision.value,
            allow_damaged=allow_damaged,
            pixel_range=pixel_range,
            white_level=white_level,
            max_pixels=max_pixels,
            loader=None if loader is None else loader.value,
            workers=workers,
            say=echo,
            progress=progress,
        )
        proposed.save(out)
        table = str(proposed).partition("\n\n")[2]  # what the images are like was printed before
        echo(f"\n{table}\n{out}: keras-mae pretrain --recipe {out}")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (images read, their total) that shows a progress bar until all are read."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Progress(*columns, transient=True)
    task = bars.add_task("range of all images", total=None)

    def show(done: int, total: int) -> None:
        if done == 1:
            bars.start()
        bars.update(task, completed=done, total=total)
        if done == total:  # nothing else is to be at work while models are timed
            bars.stop()

    try:
        yield show
    finally:
        if bars.live.is_started:
            bars.stop()
