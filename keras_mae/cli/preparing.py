"""`keras-mae prepare`: a folder of images as shards, or a report on its health."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_mae.cli.app import app
from keras_mae.cli.pretraining import OnError


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="Folder of images; with --check also one that was prepared.")],
    out: Annotated[Path | None, typer.Argument(help="Folder to write; a stopped run goes on there.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Report what is damaged; write nothing.")] = False,
    short_side: Annotated[int, typer.Option(help="In pixels; larger images are shrunk.")] = 256,
    format: Annotated[str, typer.Option(help="array_record, or tfrecord (takes TensorFlow).")] = "array_record",
    images_per_shard: Annotated[int, typer.Option(help="Images in a file.")] = 1024,
    quality: Annotated[int, typer.Option(help="Of JPEG, 1 to 100.")] = 95,
    labeled: Annotated[bool, typer.Option("--labeled", help="The folders in SOURCE are classes.")] = False,
    on_error: Annotated[OnError, typer.Option(help="What to do about damaged images.")] = OnError.stop,
    allowed: Annotated[float, typer.Option(help="With skip: share of damaged images that is no error.")] = 0.01,
) -> None:
    """Write the images of a folder as few large files that train faster, or check a folder.

    --check decodes every image, or compares the checksum of every shard, lists what is wrong and exits with status 1
    if anything is.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from keras_mae import data

    if check == (out is not None):
        raise ValueError("`out` is where shards are written, and with --check nothing is: give one of the two")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("checking" if check else "preparing", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        if out is not None:
            manifest = data.prepare(
                source,
                out,
                short_side=short_side,
                format=format,
                images_per_shard=images_per_shard,
                quality=quality,
                labeled=labeled,
                allow_damaged=allowed if on_error is OnError.skip else 0.0,
                progress=show,
            )
        else:
            damaged = data.find_damaged(source, show)
    if out is not None:
        left_out = f", {len(manifest['skipped'])} damaged ones left out" if manifest["skipped"] else ""
        typer.echo(f"{out}: {manifest['images']:,} images in {len(manifest['shards'])} files{left_out}")
        return
    for _, message in damaged:
        typer.echo(message)
    typer.echo(f"{source}: {len(damaged)} damaged" if damaged else f"{source}: nothing is damaged")
    if damaged:
        raise typer.Exit(1)
