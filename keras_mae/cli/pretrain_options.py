"""Options of `keras-mae pretrain` that no other command takes, each declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from keras_mae.cli.options import PretrainSize
from keras_mae.cli.shapes import list_presets

__all__ = [
    "BandGroups",
    "BaseLearningRate",
    "Channels",
    "ClassTokens",
    "CropArea",
    "CropsPerImage",
    "DecayEpochs",
    "DecoderChoice",
    "DecoderName",
    "DtypePolicy",
    "Flip",
    "FuseBlocks",
    "ImageSize",
    "Images",
    "ListPresets",
    "MaskCell",
    "MaskRatio",
    "MaskingChoice",
    "MaskingName",
    "MasksPerImage",
    "NewDecoder",
    "NormPixLoss",
    "OptimizerChoice",
    "OptimizerName",
    "PatchSize",
    "Precision",
    "PredictRatio",
    "PresetName",
    "PretrainSeed",
    "PretrainSizeChoice",
    "ProbeData",
    "ProbeEvery",
    "RankMeEvery",
    "ScheduleChoice",
    "ScheduleName",
    "Shift",
    "TargetChoice",
    "TargetName",
    "Teacher",
    "Validation",
    "Watch",
    "WatchImages",
    "Weights",
]


class MaskingName(StrEnum):
    """Ways to choose the patches to remove."""

    random = "random"
    block = "block"
    grid = "grid"
    green = "green"
    red = "red"
    blue = "blue"
    purple = "purple"


class DecoderName(StrEnum):
    """Kinds of decoders, by what their mask tokens attend to."""

    self_attention = "self_attention"
    cross_attention = "cross_attention"


class OptimizerName(StrEnum):
    """Optimizers."""

    adamw = "adamw"
    muon = "muon"


class ScheduleName(StrEnum):
    """Courses of the learning rate after the warm-up."""

    cosine = "cosine"
    wsd = "wsd"


class TargetName(StrEnum):
    """Targets to predict."""

    pixels = "pixels"
    normalized = "normalized"
    low_pass = "low_pass"
    hog = "hog"


class Precision(StrEnum):
    """Keras dtype policies."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"


Images = Annotated[
    str,
    typer.Argument(
        help="Images: digits, fashion_mnist, a folder of images, or a prepared one; or an array in a file: "
        "FILE::IMAGES."
    ),
]
PresetName = Annotated[
    str | None, typer.Option(help="Preset, such as mae_vit_base_patch16_224; by default one that fits the data.")
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Model to go on from: a file or folder of ours or of another library's, hf://USER/NAME, or the name of "
        "a published checkpoint, such as mae_pretrain_vit_base_full; by default weights are new.",
        metavar="FILE",
    ),
]
NewDecoder = Annotated[
    bool,
    typer.Option("--new-decoder", help="Take only the encoder of --weights, with a new decoder; by default both."),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        help="Size of a folder's images in pixels, such as 224 or 96x192 (height, width); the model's by default.",
        metavar="SIZE",
    ),
]
PatchSize = Annotated[
    str | None,
    typer.Option(
        help="Size of a patch in pixels, such as 8 or 4x16 (height, width), which must divide the image's; the "
        "model's by default.",
        metavar="SIZE",
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        help="Channels of a folder's images: 1 (gray), 3, 4 (with transparency), or the number of bands in files of "
        "arrays; the model's by default."
    ),
]
ListPresets = Annotated[
    bool,
    typer.Option("--list-presets", help="Show the presets and exit.", is_eager=True, callback=list_presets),
]
ClassTokens = Annotated[
    int, typer.Option(help="Number of class tokens, 0 to 8; their mean is an image's feature vector.")
]
PretrainSizeChoice = Annotated[
    PretrainSize | None,
    typer.Option(
        help="Recipe: small_images, by default for digits and fashion_mnist; photos, by default for a folder; or "
        "the one for ImageNet and a ViT of this size."
    ),
]
BaseLearningRate = Annotated[
    float | None,
    typer.Option(
        help="Learning rate for a batch of 256, scaled with the batch; the recipe's by default, which for photos "
        "depends on the batch."
    ),
]
OptimizerChoice = Annotated[
    OptimizerName | None, typer.Option(help="Optimizer that moves the weights; the recipe's by default.")
]
ScheduleChoice = Annotated[
    ScheduleName | None,
    typer.Option(
        help="Learning rate after the warm-up: half a cosine, or constant until a decay at the end; the recipe's "
        "by default."
    ),
]
DecayEpochs = Annotated[
    int | None, typer.Option(help="Epochs of the decay with --schedule wsd; a fifth of the epochs by default.")
]
MaskRatio = Annotated[float | None, typer.Option(help="Fraction of the patches to remove; the recipe's by default.")]
MaskingChoice = Annotated[
    MaskingName | None,
    typer.Option(
        help="Way to choose the patches to remove; a color is noise of one band of frequencies; the recipe's by "
        "default."
    ),
]
MaskCell = Annotated[
    int | None,
    typer.Option(
        help="Patches along each side of the cells that --masking random removes as a whole; the recipe's by default."
    ),
]
NormPixLoss = Annotated[
    bool | None,
    typer.Option(
        help="Predict each patch normalized by its own mean and deviation, or its pixels; the recipe's by default."
    ),
]
TargetChoice = Annotated[
    TargetName | None, typer.Option(help="Target to predict for each patch; the recipe's by default.")
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="Model whose features of each patch are predicted: a file or folder of ours or of another library's; "
        "none by default."
    ),
]
MasksPerImage = Annotated[
    int | None, typer.Option(help="Masks drawn for each image in each step; the recipe's by default.")
]
DecoderChoice = Annotated[
    DecoderName | None,
    typer.Option(
        help="Kind of decoder: the method's own (self_attention), or one whose mask tokens attend to the encoder's "
        "tokens only (cross_attention); the recipe's by default."
    ),
]
FuseBlocks = Annotated[
    str | None,
    typer.Option(
        help="Indices of the encoder's blocks that the decoder reads fused, such as 0,2,-1; the recipe's by default.",
        metavar="N,N,...",
    ),
]
BandGroups = Annotated[
    str | None,
    typer.Option(
        help="Groups of bands, counted from 0, each of which a normalized target standardizes by itself, such as "
        "0,1,2/3,4; by default all bands are one group.",
        metavar="N,N/N,N",
    ),
]
PredictRatio = Annotated[
    float | None,
    typer.Option(
        help="Share of the removed patches to predict in each step, drawn at random; the recipe's by default."
    ),
]
CropArea = Annotated[
    float | None,
    typer.Option(
        help="Smallest share of a folder's image that a random crop keeps; 1 turns crops and flips off; the recipe's "
        "by default."
    ),
]
Shift = Annotated[
    float | None,
    typer.Option(
        help="Move images at random by up to this fraction of their size, 0 to 0.25, in place of --crop-area: for "
        "images that one object fills, or that already have one size; the recipe's by default."
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        help="Mirror half of the images that are cropped or moved; the recipe's by default.",
        show_default=False,
    ),
]
Validation = Annotated[
    float | None,
    typer.Option(
        help="Share of the images to hold out and to validate on after every epoch, such as 0.1; by default none.",
        metavar="SHARE",
    ),
]
CropsPerImage = Annotated[int, typer.Option(help="Number of random crops to take of each decoded image.")]
DtypePolicy = Annotated[Precision, typer.Option(help="Keras dtype policy.")]
PretrainSeed = Annotated[int, typer.Option(help="Random seed for weights, masks and data order.")]
Watch = Annotated[
    int | None,
    typer.Option(
        help="Draw reconstructions every N epochs, in watch/ in the run directory; by default none.", metavar="N"
    ),
]
WatchImages = Annotated[
    list[Path] | None,
    typer.Option(
        help="Image file for --watch to draw, in place of images of the data; may be given several times.",
        metavar="FILE",
    ),
]
ProbeEvery = Annotated[
    int | None,
    typer.Option(
        help="Classify labeled images by their features' nearest neighbors every N epochs, for history.csv; by "
        "default never.",
        metavar="N",
    ),
]
ProbeData = Annotated[
    str | None,
    typer.Option(
        help="Labeled images for --probe-every: digits, fashion_mnist, or a folder with one folder of images for "
        "each class; DATA by default.",
        metavar="DATA",
    ),
]
RankMeEvery = Annotated[
    int | None,
    typer.Option(
        "--rankme-every",
        help="Measure every N epochs how many dimensions the features of up to 2,000 images use, for history.csv, "
        "without labels; by default never.",
        metavar="N",
    ),
]
