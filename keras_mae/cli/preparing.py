"""`keras-mae prepare`: a folder of images as shards, or a report on its health."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from keras_mae.cli.options import AllowDamaged, MaxPixels, PixelRange, WhiteLevel
from keras_mae.cli.output import echo

__all__ = ["prepare"]


def prepare(
    source: Annotated[Path, typer.Argument(help="Folder of images; with --check also one that was prepared.")],
    out: Annotated[Path | None, typer.Argument(help="Folder to write; if it was begun, it is finished.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Report damaged images or shards, and write nothing.")
    ] = False,
    short_side: Annotated[
        int, typer.Option(help="Pixels to which the short side of larger images is reduced.")
    ] = 256,
    format: Annotated[
        str, typer.Option(help="File format: array_record, or tfrecord, which needs TensorFlow.")
    ] = "array_record",
    images_per_shard: Annotated[int, typer.Option(help="Images in each file.")] = 1024,
    quality: Annotated[int, typer.Option(help="JPEG quality, 1 to 100.")] = 95,
    labeled: Annotated[bool, typer.Option("--labeled", help="Take the folders in SOURCE as classes.")] = False,
    allow_damaged: AllowDamaged = 0.0,
    white_level: WhiteLevel = None,
    pixel_range: PixelRange = (0.0, 255.0),
    max_pixels: MaxPixels = None,
) -> None:
    """Pack images for training, or check them.

    A few large files of smaller images are faster to read. A prepared folder takes the place of the original one.

    --check decodes every image, or compares the checksum of every shard, lists what is damaged and what is nearly
    black, says what is passed over, and exits with status 1 if anything is damaged.
    """
    from keras_mae import data

    if check == (out is not None):
        raise ValueError("`out` is where shards are written, and with --check nothing is: give one of the two")
    if out is None:
        with _progress("checking") as show:
            found = data.check_directory(
                source, show, pixel_range=pixel_range, white_level=white_level, max_pixels=max_pixels
            )
        for _, message in (*found.damaged, *found.dark):
            echo(message)
        if found.passed_over:
            echo(found.passed_over)
        damage = f"{len(found.damaged)} damaged" if found.damaged else "nothing is damaged"
        echo(f"{source}: {damage}" + (f", {len(found.dark)} nearly black" if found.dark else ""))
        raise typer.Exit(1 if found.damaged else 0)
    try:
        with _progress("preparing") as show:
            manifest = data.prepare(
                source,
                out,
                short_side=short_side,
                format=format,
                images_per_shard=images_per_shard,
                quality=quality,
                labeled=labeled,
                allow_damaged=allow_damaged,
                pixel_range=pixel_range,
                white_level=white_level,
                max_pixels=max_pixels,
                progress=show,
            )
    except KeyboardInterrupt:
        echo(f"{out}: stopped; the same command continues it")
        raise
    left_out = f", {len(manifest['skipped'])} damaged ones left out" if manifest["skipped"] else ""
    echo(f"{out}: {manifest['images']:,} images in {len(manifest['shards'])} files{left_out}")


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar; yield the function that is told how many images are done, and of how many."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
