"""`keras-mae convert` and `export`: weights in and out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_mae.cli.app import app, load

if TYPE_CHECKING:
    from keras_mae.convert import Report


class Format(StrEnum):
    """Whose files are written."""

    keras = "keras"
    preset = "preset"
    reference = "reference"
    timm = "timm"
    transformers = "transformers"
    keras_hub = "keras_hub"


class Runtime(StrEnum):
    """What is to run the model."""

    saved_model = "saved_model"
    onnx = "onnx"
    litert = "litert"
    openvino = "openvino"
    torch = "torch"


class Part(StrEnum):
    """What of a model is exported."""

    model = "model"
    encoder = "encoder"


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A .pth, .bin or .safetensors file of the authors' or timm's, a folder of transformers' or "
            "KerasHub's, hf://user/name, or a model of keras_mae's."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="What to write: a .keras file, another file, or a folder.")],
    format: Annotated[
        Format | None, typer.Option(help="Whose file to write; keras if OUT ends so, otherwise to be given.")
    ] = None,
    norm_pix_loss: Annotated[
        bool | None,
        typer.Option("--norm-pix-loss/--no-norm-pix-loss", help="What the decoder predicts, where no file says."),
    ] = None,
    num_heads: Annotated[int | None, typer.Option(help="Of the encoder, where the file does not say.")] = None,
    decoder_num_heads: Annotated[int | None, typer.Option(help="Of the decoder, likewise.")] = None,
) -> None:
    """Carry weights from one library to another, and say what became of every tensor.

    A file that does not fit as a whole is refused, and nothing is written.
    """
    from keras_mae import convert as keras_mae_convert

    if format is None and out.suffix != ".keras":
        raise ValueError(f"`format` must be given for {str(out)!r}: {', '.join(Format)}")
    format = format or Format.keras
    if (format is Format.keras) != (out.suffix == ".keras"):
        raise ValueError(f"The format keras, and only that, is a .keras file. Received: {str(out)!r} as {format}")
    if out.exists():
        raise ValueError(f"`out` must not exist, so that nothing is lost. Received: {str(out)!r}")
    model, report = keras_mae_convert.load(
        source, norm_pix_loss=norm_pix_loss, num_heads=num_heads, decoder_num_heads=decoder_num_heads
    )
    _print(report, source)
    keras_mae_convert.save(model, out, format.value)
    typer.echo(f"{out}: {type(model).__name__}, {model.count_params():,} parameters")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A saved model, such as runs/digits-1/model.keras.")],
    out: Annotated[Path | None, typer.Argument(help="What to write; by default beside MODEL.")] = None,
    format: Annotated[Runtime, typer.Option(help="What is to run it.")] = Runtime.onnx,
    part: Annotated[
        Part,
        typer.Option(help="The model itself (of a masked autoencoder: the reconstruction), or its encoder."),
    ] = Part.model,
) -> None:
    """Write MODEL for another runtime, load it there, and compare the outputs before saying it is done.

    TensorFlow writes all formats but torch, which PyTorch writes, whichever backend the model was trained on.
    """
    from keras_mae import convert as keras_mae_convert

    loaded = load(model)
    if part is Part.encoder:
        loaded = getattr(loaded, "encoder", loaded)
    if out is None:
        out = model.with_name(f"{model.stem}_{part}" if part is Part.encoder else model.stem)
        out = out.with_name(f"{out.name}{keras_mae_convert.export_ending(format.value) or '_saved_model'}")
    difference = keras_mae_convert.export(loaded, out, format.value)
    typer.echo(f"{out}: {type(loaded).__name__}, within {difference:.1e} of Keras' outputs at batch 1 and 7")


def _print(report: Report, source: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{source}: {report.title}")
    for title in ("tensor", "weight", "shape", "remark"):
        table.add_column(title)
    for theirs, ours, shape, remark in report.rows:
        table.add_row(theirs, ours, "x".join(map(str, shape)), remark)
    for name, why in report.left_out.items():
        table.add_row(name, "", "", f"left out: {why}")
    Console().print(table)
