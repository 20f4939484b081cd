"""Options and arguments that several commands take, each declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from keras_mae.cli.told import take_file, take_values

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
    "EmaMomentum",
    "Engine",
    "Epochs",
    "IgnoreLabel",
    "LabeledData",
    "Loader",
    "LoaderName",
    "Masks",
    "MaxPixels",
    "NumLabels",
    "Out",
    "Part",
    "PixelRange",
    "Pooling",
    "PoolingName",
    "PretrainSize",
    "Pretrained",
    "RecipeFile",
    "RecipeSize",
    "ReduceZeroLabel",
    "Remat",
    "Resume",
    "SavedModel",
    "Seed",
    "SetValues",
    "Size",
    "Split",
    "TestFolder",
    "WarmupEpochs",
    "WeightDecay",
    "WhiteLevel",
    "Workers",
    "shown_bands",
]


class Engine(StrEnum):
    """Ways to spread a run over devices."""

    auto = "auto"
    none = "none"
    mirrored = "mirrored"
    tpu = "tpu"
    multi_worker = "multi_worker"
    data_parallel = "data_parallel"
    model_parallel = "model_parallel"
    torch_ddp = "torch_ddp"
    torch_fsdp = "torch_fsdp"


class LoaderName(StrEnum):
    """Libraries that load images: `keras_mae.data.make_dataset`."""

    tf_data = "tf.data"
    grain = "grain"


class PoolingName(StrEnum):
    """Ways to make one vector of an image's tokens: `keras_mae.pooling.POOLINGS`."""

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
    bool, typer.Option("--resume", help="Resume the run in --out if there is one; give the same options.")
]
AllowChanged = Annotated[
    bool,
    typer.Option(
        "--allow-changed",
        help="Resume even if the data, or MODEL, are not those that the run began with; run.json says what differs.",
    ),
]
CheckpointMinutes = Annotated[float, typer.Option(help="Minutes between checkpoints.")]
CheckpointSteps = Annotated[
    int | None,
    typer.Option(help="Also write a checkpoint every N steps; by default only time counts.", metavar="N"),
]

Loader = Annotated[
    LoaderName | None,
    typer.Option(help="Library that loads images; by default tf.data if TensorFlow is installed, or else grain."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Number of parallel calls (tf.data; by default one for each core) or processes (grain; by default none) "
        "that load images.",
        metavar="N",
    ),
]
Remat = Annotated[
    bool,
    typer.Option(
        "--remat", help="Compute blocks again in the backward pass: the same result with less memory, in more time."
    ),
]

# === Recipes ===
RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        help="Recipe file, such as the recipe.toml of a run, which is then repeated; options change its values.",
        metavar="FILE",
        is_eager=True,
        callback=take_file,
    ),
]
SetValues = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Value of any entry of a recipe file, such as beta_2=0.99; may be given several times.",
        metavar="KEY=VALUE",
        is_eager=True,
        callback=take_values,
    ),
]
Size = Annotated[
    RecipeSize | None,
    typer.Option(help="Recipe: small_images by default, or the one for ImageNet and a ViT of this size."),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data; the recipe's by default.")]
BatchSize = Annotated[int | None, typer.Option(help="Images behind each update; the recipe's by default.")]
AccumulationSteps = Annotated[
    int | None,
    typer.Option(help="Batches whose gradients are averaged for each update; the recipe's by default."),
]
WarmupEpochs = Annotated[
    int | None, typer.Option(help="Warm-up epochs; by default as large a share of the epochs as in the recipe.")
]
WeightDecay = Annotated[float | None, typer.Option(help="Decoupled weight decay; the recipe's by default.")]
BaseLearningRate = Annotated[
    float | None, typer.Option(help="Learning rate for a batch of 256; the recipe's by default.")
]

CacheFeatures = Annotated[
    bool | None,
    typer.Option(
        "--cache-features/--no-cache-features",
        help="Compute each image's features once, and not in every epoch: without crops and flips. By default if the "
        "recipe has neither, and the features fit into half of the free memory.",
        show_default=False,
    ),
]

Pooling = Annotated[
    PoolingName | None,
    typer.Option(
        help="Vector of an image: the mean of its patches' tokens (mean), its class token (token), its patches' "
        "tokens pooled by learned queries (attentive), or all of them one after another (flatten); the recipe's "
        "by default."
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
        help="Labeled images: digits, fashion_mnist, a folder with one folder of images for each class, or one "
        "prepared from such a folder as array_record; or arrays in a file: FILE::IMAGES::LABELS."
    ),
]
TestFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder of images, or arrays in a file, to evaluate on; by default a tenth of DATA is held out for "
        "that, or the built-in test images of digits and fashion_mnist are used."
    ),
]
NumLabels = Annotated[
    int | None,
    typer.Option(
        help="Number of labeled images to train on, equally many of each class if possible; all by default."
    ),
]
Masks = Annotated[
    Path | None, typer.Option(help="Folder of the masks, if they lie in no folder of the data.", metavar="FOLDER")
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Part of a folder of images and masks, such as val; of ADE20K and Pascal VOC train by default.",
        metavar="NAME",
    ),
]
IgnoreLabel = Annotated[
    int, typer.Option(help="Label in the masks of the pixels that belong to no class.", metavar="LABEL")
]
ReduceZeroLabel = Annotated[
    bool | None,
    typer.Option(
        "--reduce-zero-label/--keep-zero-label",
        help="Whether 0 in the masks stands for no class, and 1 for the first one; by default in the layout of "
        "ADE20K, and where a segmenter that is scored was trained so.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed for weights, augmentation, and the choice and order of images.")]
WhiteLevel = Annotated[
    int | None,
    typer.Option(
        help="Number that is white in gray images of 9 to 16 bits, such as 4095; by default the largest possible.",
        metavar="N",
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        help="Pixels of the largest image to read; by default 178,956,970, as many as Pillow reads.", metavar="N"
    ),
]
PixelRange = Annotated[
    tuple[float, float],
    typer.Option(
        help="Smallest and largest number in a folder's images; other numbers than 0 255 mean that images are read "
        "in units of their own.",
        metavar="LOW HIGH",
    ),
]
Bands = Annotated[
    str | None,
    typer.Option(
        help="Bands to show in pictures, counted from 0: three as red, green and blue, such as 3,2,1, or one in "
        "gray; by default the first three, or the first.",
        metavar="N,N,N",
    ),
]
AllowDamaged = Annotated[
    float, typer.Option(help="Largest share of damaged images to skip, 0 to 1; with 0 the first one is an error.")
]
Part = Annotated[
    str | None,
    typer.Option(
        help="Part I of N of the images, for N processes that share the work, such as 3/16; by default all images.",
        metavar="I/N",
    ),
]


def shown_bands(text: str | None) -> tuple[int, ...] | None:
    """Return the bands to show of a text such as 3,2,1.

    Raises:
        ValueError: If the text is something else.
    """
    try:
        return None if text is None else tuple(int(band) for band in text.split(","))
    except ValueError:
        raise ValueError(f"`bands` must be one integer or three, with commas between. Received: {text}") from None
