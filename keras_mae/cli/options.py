"""Options and arguments that several commands take, each declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AccumulationSteps",
    "AllowChanged",
    "AllowDamaged",
    "Bands",
    "BaseLearningRate",
    "BatchSize",
    "CacheFeatures",
    "CheckpointMinutes",
    "CheckpointSteps",
    "Distribution",
    "Engine",
    "Epochs",
    "LabeledData",
    "MaxPixels",
    "NumLabels",
    "Out",
    "PixelRange",
    "Pooling",
    "PoolingName",
    "PretrainSize",
    "Pretrained",
    "RecipeSize",
    "Resume",
    "SavedModel",
    "Seed",
    "Size",
    "TestFolder",
    "WhiteLevel",
    "shown_bands",
]


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


class PoolingName(StrEnum):
    """What makes one vector of an image's tokens: `keras_mae.pooling.POOLINGS`."""

    mean = "mean"
    token = "token"
    attentive = "attentive"
    flatten = "flatten"


class RecipeSize(StrEnum):
    """Recipes of `keras_mae.recipes`."""

    small_images = "small_images"
    base = "base"
    large = "large"
    huge = "huge"


class PretrainSize(StrEnum):
    """Recipes of `keras_mae.recipes.PretrainRecipe`."""

    small_images = "small_images"
    photos = "photos"
    base = "base"
    large = "large"
    huge = "huge"


# === Runs ===
Out = Annotated[Path | None, typer.Option(help="Run directory; by default the next free one in runs/.")]
Distribution = Annotated[
    Engine, typer.Option(help="How to spread the run over devices; auto uses what is available.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Resume the run in --out if there is one; pass the same options.")
]
AllowChanged = Annotated[
    bool,
    typer.Option(
        "--allow-changed",
        help="Resume also with other data, or another MODEL, than the run began with; run.json says what differs.",
    ),
]
CheckpointMinutes = Annotated[float, typer.Option(help="Minutes between checkpoints.")]
CheckpointSteps = Annotated[int | None, typer.Option(help="Also write a checkpoint every N steps.", metavar="N")]

# === Recipes ===
Size = Annotated[
    RecipeSize | None,
    typer.Option(help="Recipe: small_images, by default, or the one for ImageNet and a ViT of this size."),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data; the recipe's by default.")]
BatchSize = Annotated[int | None, typer.Option(help="Images behind each update; the recipe's by default.")]
AccumulationSteps = Annotated[
    int | None,
    typer.Option(help="Batches whose gradients are averaged for each update; the recipe's by default."),
]
BaseLearningRate = Annotated[
    float | None, typer.Option(help="Learning rate for a batch of 256; the recipe's by default.")
]

CacheFeatures = Annotated[
    bool | None,
    typer.Option(
        "--cache-features/--no-cache-features",
        help="Compute each image's features once, and not in every epoch: without crops and flips. By default where "
        "the recipe has none and they fit into half of the free memory.",
        show_default=False,
    ),
]

Pooling = Annotated[
    PoolingName | None,
    typer.Option(
        help="Vector of an image: its patches' tokens' mean, its class token, its patches' tokens pooled by learned "
        "queries, or all of them one after another; the recipe's by default."
    ),
]

EmaMomentum = Annotated[
    float | None,
    typer.Option(help="Momentum of an average of the weights to end with, such as 0.999; none by default."),
]

# === Models and data ===
SavedModel = Annotated[Path, typer.Argument(help="Saved model, such as runs/digits-1/model.keras.")]
Pretrained = Annotated[
    Path, typer.Argument(help="Saved MaskedAutoencoder or ViTEncoder, such as runs/digits-1/model.keras.")
]
LabeledData = Annotated[
    str,
    typer.Argument(
        help="digits, fashion_mnist, or a folder with one folder of images per class, or one prepared from such a "
        "folder as array_record; or arrays in a file: FILE::IMAGES::LABELS."
    ),
]
TestFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder of images, or arrays in a file, to evaluate on; by default a tenth of DATA is held out for that."
    ),
]
NumLabels = Annotated[
    int | None,
    typer.Option(help="Number of labeled images to train on, as many of each class as there are; all by default."),
]
Seed = Annotated[int, typer.Option(help="Random seed for weights, augmentation, and the choice and order of images.")]
WhiteLevel = Annotated[
    int | None,
    typer.Option(
        help="Number that is white in gray images of 9 to 16 bits, such as 4095; by default the largest there is.",
        metavar="N",
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(help="Pixels of the largest image to read; by default as many as Pillow reads.", metavar="N"),
]
PixelRange = Annotated[
    tuple[float, float],
    typer.Option(
        help="Smallest and largest number in a folder's images; with others than 0 255 they are read in units of "
        "their own.",
        metavar="LOW HIGH",
    ),
]
Bands = Annotated[
    str | None,
    typer.Option(
        help="Bands to show in pictures, from 0: three as red, green and blue, such as 3,2,1, or one in gray; by "
        "default the first ones.",
        metavar="N,N,N",
    ),
]
AllowDamaged = Annotated[
    float, typer.Option(help="Largest share of damaged images to skip; with 0 the first one is an error.")
]


def shown_bands(text: str | None) -> tuple[int, ...] | None:
    """Return the bands to show as they are written: 3,2,1."""
    try:
        return None if text is None else tuple(int(band) for band in text.split(","))
    except ValueError:
        raise ValueError(f"`bands` must be one integer or three, with commas between. Received: {text}") from None
