"""`keras-mae embed` and `join`: the features of a folder's images as a file, and the files of its parts as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_mae.cli.options import AllowDamaged, MaxPixels, Part, PoolingName, SavedModel, WhiteLevel
from keras_mae.cli.output import echo

__all__ = ["embed", "join"]

EmbeddingsOut = Annotated[Path, typer.Option(help="File to write: .npz, or .parquet or .csv for other programs.")]


def embed(
    model: SavedModel,
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of images, or one that was prepared as array_record; or an array in a file: FILE::IMAGES."
        ),
    ],
    out: EmbeddingsOut,
    pooling: Annotated[
        PoolingName | None,
        typer.Option(
            help="Feature vector of an image: its class token (token), the mean of its patches' tokens (mean), or "
            "all of these one after another (flatten). By default the class token, or the mean if there is none; for "
            "a classifier what its head sees, which may be attentive."
        ),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option(
            help="Index of the block whose tokens to take, from 0, or from the end, such as -2; by default the last.",
            metavar="N",
        ),
    ] = None,
    part: Part = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 256,
    allow_damaged: AllowDamaged = 0.0,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Write features of images to a file.

    If all images lie in folders in FOLDER, these are their classes. An .npz file holds features, files, and labels
    and class_names if there are classes, and remembers MODEL: similar and map take it. After an interruption the same
    command goes on where it stopped. The files of all parts are joined by join.
    """
    from keras_mae import convert, transfer
    from keras_mae.data.parts import checked_part

    chosen = checked_part(part)
    loaded = convert.load_model(model)
    try:
        found = transfer.embed(
            loaded,
            folder,
            out,
            model_file=model,
            pooling=None if pooling is None else pooling.value,
            block=block,
            part=chosen,
            batch_size=batch_size,
            allow_damaged=allow_damaged,
            white_level=white_level,
            max_pixels=max_pixels,
        )
    except KeyboardInterrupt:
        echo(f"{out}: stopped; the same command goes on from here")
        raise
    echo(f"{out}: {_described(found)}" if found is not None else f"{out}: written")


def join(
    files: Annotated[list[Path], typer.Argument(help="Files of all parts, in any order.")],
    out: Annotated[
        Path,
        typer.Option(
            help="File to write, which must not exist: .npz, .parquet or .csv for files of embed; for those of "
            "predict in their format."
        ),
    ],
) -> None:
    """Join the files of all parts.

    These are files that embed (.npz) or predict (.csv, .json) wrote. A part that is missing, is given twice or was
    made differently from the others is named, and nothing is written.
    """
    from keras_mae import transfer

    endings = {file.suffix for file in files}
    if endings == {".npz"}:
        found = transfer.join_embeddings(files, out)
        echo(f"{out}: {_described(found)}" if found is not None else f"{out}: written")
        return
    if len(endings) > 1 or not endings <= {".csv", ".json"}:
        raise ValueError(
            "`files` must be .npz files of embed, or .csv or .json files of predict, all with the same ending. "
            f"Received: {', '.join(sorted(ending or 'no ending' for ending in endings))}"
        )
    echo(f"{out}: {transfer.join_predictions(files, out):,} images")


def _described(embeddings: object) -> str:
    """Return what is in embeddings, in a few words."""
    from keras_mae.transfer import Embeddings

    if not isinstance(embeddings, Embeddings):
        return ""
    names = embeddings.class_names
    classes = "" if names is None else f", {len(names)} classes"
    return f"{len(embeddings):,} images, features {embeddings.features.shape[1]} wide{classes}"
