"""`keras-mae prepare`: a folder of images as shards, also in parts, or a report on its health."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_mae.cli.options import AllowDamaged, MaxPixels, Part, PixelRange, WhiteLevel
from keras_mae.cli.output import echo

__all__ = ["prepare"]


def prepare(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of images; with --check also one that was prepared, with --merge one of parts."),
    ],
    out: Annotated[Path | None, typer.Argument(help="Folder to write; if it was begun, it is finished.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Report damaged images or shards, and write nothing.")
    ] = False,
    part: Part = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Check and join the parts in SOURCE, which is then a prepared folder.")
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

    --part I/N packs a part, which any N processes can share, in a folder of its own in OUT; --merge joins them.
    """
    from keras_mae import data
    from keras_mae.data.parts import checked_part

    if sum((out is not None, check, merge)) != 1:
        raise ValueError(
            "`out` is where shards are written, and with --check or --merge none are: give one of the three"
        )
    if part is not None and out is None:
        raise ValueError(f"`part` goes with OUT, where its shards are written. Received: --part {part}")
    if merge:
        with _progress("checking") as show:
            joined = data.merge_prepared(source, show)
        echo(f"{source}: {joined['parts']:,} parts, {_described(joined)}")
        return
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
    chosen = None if part is None else checked_part(part)
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
                part=chosen,
                progress=show,
            )
    except KeyboardInterrupt:
        echo(f"{out}: stopped; the same command continues it")
        raise
    echo(f"{out}: " + (f"part {part}, " if part else "") + _described(manifest))


def _described(manifest: dict[str, Any]) -> str:
    """Return what is in a prepared folder, in a few words."""
    left_out = f", {len(manifest['skipped'])} damaged ones left out" if manifest["skipped"] else ""
    return f"{manifest['images']:,} images in {len(manifest['shards'])} files{left_out}"


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar; yield the function that is told how many images are done, and of how many."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
