"""`keras-mae convert` and `export`: weights in and out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_mae.cli.options import RecipeSize, SavedModel
from keras_mae.cli.output import add_row, echo, table

if TYPE_CHECKING:
    from keras_mae.convert import Report

__all__ = ["convert", "export"]


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


class InputType(StrEnum):
    """Type of the pixels that an exported model takes."""

    uint8 = "uint8"
    float32 = "float32"


class Part(StrEnum):
    """What of a model is exported."""

    model = "model"
    encoder = "encoder"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="Weights to read: a .pth, .bin or .safetensors file in the layout of the authors or timm, a folder "
            "of transformers or KerasHub, hf://user/name, or a model of keras_mae."
        ),
    ],
    out: Annotated[
        str,
        typer.Argument(help="File or folder to write, which must not exist; or hf://user/name, to upload it there."),
    ],
    format: Annotated[
        Format | None,
        typer.Option(help="Format to write; keras if OUT ends in .keras, preset for hf://, otherwise needed."),
    ] = None,
    norm_pix_loss: Annotated[
        bool | None,
        typer.Option(
            "--norm-pix-loss/--no-norm-pix-loss",
            help="Whether the decoder predicts normalized patches; for files that do not say.",
        ),
    ] = None,
    num_heads: Annotated[
        int | None, typer.Option(help="Attention heads of the encoder; for files that do not say.")
    ] = None,
    decoder_num_heads: Annotated[
        int | None, typer.Option(help="Attention heads of the decoder; for files that do not say.")
    ] = None,
    image_shape: Annotated[
        tuple[int, int, int] | None,
        typer.Option(
            metavar="HEIGHT WIDTH CHANNELS",
            help="Shape of the images; for files that do not say how many rows their patches make, or to resize the "
            "positions.",
        ),
    ] = None,
    max_parameters: Annotated[
        int | None,
        typer.Option(help="Parameters of the largest model to read, 2,000,000,000 by default.", metavar="N"),
    ] = None,
    checkpoint_key: Annotated[
        str | None,
        typer.Option(
            help="Which of several models in a checkpoint: a dictionary, such as model_ema, or a word before the "
            "names, such as teacher.",
        ),
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Whether a repository that is made on the Hub is private; by default what its owner's settings say.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Convert weights from one format to another.

    What became of every tensor is listed, and what a user of timm, transformers or KerasHub types to load OUT. A file
    that does not fit as a whole is refused, and nothing is written.
    """
    from keras_mae import convert
    from keras_mae.convert.hub import PUSHED, check_repository
    from keras_mae.convert.locate import HUB
    from keras_mae.convert.usage import LIBRARIES

    uploading = out.startswith(HUB)
    if uploading:
        place, format = check_repository(out), format or Format.preset
        if format.value not in PUSHED:
            raise ValueError(f"`format` must be one of {', '.join(PUSHED)} for {HUB}. Received: {format.value}")
    else:
        place, format = out, _checked_format(format, Path(out))
        if private is not None:
            raise ValueError(f"`private` is for {HUB}user/name. Received: {out!r}")
    model, report = convert.load(
        source,
        norm_pix_loss=norm_pix_loss,
        num_heads=num_heads,
        decoder_num_heads=decoder_num_heads,
        image_shape=image_shape,
        checkpoint_key=checkpoint_key,
        max_parameters=max_parameters,
    )
    _print(report, source)
    if uploading:
        convert.push_to_hub(model, out, format=format.value, private=private)
    else:
        convert.save(model, out, format.value)
    echo(f"{out}: {type(model).__name__}, {model.count_params():,} parameters")
    if format.value in LIBRARIES:
        echo(f"\n{convert.how_to_load(model, place, format.value)}")


def export(
    model: SavedModel,
    out: Annotated[Path | None, typer.Argument(help="File or folder to write; by default beside MODEL.")] = None,
    format: Annotated[Runtime, typer.Option(help="Runtime to write for.")] = Runtime.onnx,
    part: Annotated[
        Part,
        typer.Option(help="Part to export: the model, which for a masked autoencoder reconstructs, or its encoder."),
    ] = Part.model,
    input_dtype: Annotated[
        InputType | None,
        typer.Option(
            help="Type of the pixels it takes; uint8 by default for onnx and pixels of 0-255, else float32."
        ),
    ] = None,
    size: Annotated[
        RecipeSize,
        typer.Option(
            help="Recipe a classifier was trained by: how much of each image to look at, which goes with the model."
        ),
    ] = RecipeSize.small_images,
    script: Annotated[
        bool | None,
        typer.Option(
            "--script/--no-script",
            help="Whether to write a script beside OUT that asks the model about an image; by default for onnx.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Export MODEL to another runtime.

    The exported model is loaded by its runtime, and its outputs are compared with those of Keras before it is kept.
    It takes pixels as they are in a picture, and holds what else its user has to know: how to crop and resize, and
    the names of the classes.

    PyTorch writes the format torch, and TensorFlow all others, whichever backend the model was trained on.
    """
    from keras_mae import convert, recipes
    from keras_mae.pixels import BYTES

    loaded = convert.load_model(model)
    if part is Part.encoder:
        loaded = getattr(loaded, "encoder", loaded)
    if out is None:
        name = f"{model.stem}_{part}" if part is Part.encoder else model.stem
        out = model.with_name(f"{name}{convert.export_ending(format.value) or '_saved_model'}")
    encoder = getattr(loaded, "encoder", loaded)
    crop = recipes.FineTuneRecipe.for_size(size.value).evaluation_crop(min(encoder.image_shape[:2]))
    if input_dtype is None:
        in_bytes = format is Runtime.onnx and tuple(encoder.pixel_range) == BYTES
        input_dtype = InputType.uint8 if in_bytes else InputType.float32
    script = format is Runtime.onnx if script is None else script
    difference = convert.export(
        loaded,
        out,
        format.value,
        input_dtype=input_dtype.value,
        center_crop=crop["fraction"],
        script=script,
    )
    echo(f"{out}: {type(loaded).__name__}, within {difference:.1e} of Keras' outputs at batch 1 and 7")
    if script:
        echo(f"{out.with_name(f'{out.stem}_onnx.py')}: asks it about an image")


def _checked_format(format: Format | None, out: Path) -> Format:
    """Return the format to write to a path that does not exist."""
    if format is None and out.suffix != ".keras":
        raise ValueError(f"`format` must be given for {str(out)!r}: {', '.join(Format)}")
    format = format or Format.keras
    if (format is Format.keras) != (out.suffix == ".keras"):
        raise ValueError(f"The format keras, and only that, is a .keras file. Received: {str(out)!r} as {format}")
    if out.exists():
        raise ValueError(f"`out` must not exist, so that nothing is lost. Received: {str(out)!r}")
    return format


def _print(report: Report, source: str) -> None:
    from rich.console import Console

    rows = table(f"{source}: {report.title}")
    for title in ("tensor", "weight", "shape", "remark"):
        rows.add_column(title)
    for theirs, ours, shape, remark in report.rows:
        add_row(rows, theirs, ours, "x".join(map(str, shape)), remark)
    for names, why in report.left_out_by_reason:
        add_row(rows, names, "", "", f"left out: {why}")
    Console().print(rows)
    for note in report.notes:
        echo(note)
