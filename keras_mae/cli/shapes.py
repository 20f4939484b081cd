"""Sizes of images and patches as they are typed, and the presets that have them."""

from __future__ import annotations

import re

import typer

__all__ = ["image_shape", "list_presets", "shown", "side_lengths"]


def side_lengths(argument: str, text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of a size as it is typed: 224 or 96x192.

    Args:
        argument: Name of the option, for the error.
        text: Size, or `None` if none was typed.

    Raises:
        ValueError: If it is no size.
    """
    if text is None:
        return None
    typed = re.fullmatch(r"0*([1-9]\d*)(?:x0*([1-9]\d*))?", text)
    if typed is None:
        rule = "a positive integer, or HEIGHTxWIDTH such as 96x192"
        raise ValueError(f"`{argument}` must be {rule}. Received: {argument}={text}")
    return int(typed[1]), int(typed[2] or typed[1])


def shown(size: tuple[int, int]) -> str:
    """Return a size as it may be typed."""
    return "x".join(map(str, size))


def image_shape(
    data: str, default: tuple[int, int, int], size: str | None, channels: int | None
) -> tuple[int, int, int]:
    """Return the shape (height, width, channels) to bring a folder's images to; the built-in ones keep theirs.

    Args:
        data: Name of the data, or a folder.
        default: Shape by default.
        size: Option --image-size.
        channels: Option --channels.

    Raises:
        ValueError: If an option is no size, or goes with a folder only.
    """
    from keras_mae import _checks
    from keras_mae.data import BUILTIN

    sides = side_lengths("image_size", size)
    for name, given in (("image_size", size), ("channels", channels)):
        if given is not None and data in BUILTIN:
            raise ValueError(f"`{name}` goes with a folder of images. Received: {name}={given} for {data}")
    height, width, own = default
    if channels is not None:
        own = _checks.positive_int("channels", channels)  # pictures have 1, 3 or 4, files of arrays any number
    return (*(sides or (height, width)), own)


def list_presets(asked: bool) -> None:
    """Show the presets and end, if that is asked for."""
    if not asked:
        return
    from rich.console import Console

    from keras_mae import presets
    from keras_mae.cli.output import add_row, table

    rows = table("Presets: sizes of the encoder, and of the decoder behind it")
    for column in ("preset", "image", "patch", "wide", "blocks", "heads", "decoder"):
        rows.add_column(column)
    for name in presets.names():
        of = presets.get(name)
        sizes = [of.encoder[key] for key in ("embed_dim", "depth", "num_heads")]
        decoder = "{embed_dim} wide, {depth} blocks".format(**of.decoder)
        add_row(rows, name, "x".join(map(str, of.encoder["image_shape"])), of.encoder["patch_size"], *sizes, decoder)
    Console(width=120).print(rows)
    raise typer.Exit
