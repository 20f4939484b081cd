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
    """How patches are chosen."""

    random = "random"
    block = "block"
    grid = "grid"
    green = "green"
    red = "red"
    blue = "blue"
    purple = "purple"


class DecoderName(StrEnum):
    """What the decoder's mask tokens attend to."""

    self_attention = "self_attention"
    cross_attention = "cross_attention"


class OptimizerName(StrEnum):
    """What moves the weights."""

    adamw = "adamw"
    muon = "muon"


class ScheduleName(StrEnum):
    """How the learning rate goes after the warm-up."""

    cosine = "cosine"
    wsd = "wsd"


class TargetName(StrEnum):
    """Targets by name."""

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
    str, typer.Argument(help="digits, fashion_mnist, a folder of images, also a prepared one, or FILE::IMAGES.")
]
PresetName = Annotated[
    str | None, typer.Option(help="Preset, such as mae_vit_base_patch16_224; by default one that fits the data.")
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Model to go on from, in place of new weights: a file or folder of ours or of another library's, "
        "hf://USER/NAME, or the name of a published checkpoint, such as mae_pretrain_vit_base_full.",
        metavar="FILE",
    ),
]
NewDecoder = Annotated[
    bool,
    typer.Option("--new-decoder", help="Take the encoder alone of --weights; an encoder gets a new decoder anyway."),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        help="Size of a folder's images in pixels, such as 224 or 96x192 (height, width); the preset's by default.",
        metavar="SIZE",
    ),
]
PatchSize = Annotated[
    str | None,
    typer.Option(
        help="Size of a patch in pixels, such as 8 or 4x16 (height, width), which must divide the image's; the "
        "preset's by default.",
        metavar="SIZE",
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        help="Channels of a folder's images: 1 (gray), 3 or 4 (with transparency), or the bands of files that have "
        "more; the preset's by default."
    ),
]
ListPresets = Annotated[
    bool,
    typer.Option("--list-presets", help="Show the presets and exit.", is_eager=True, callback=list_presets),
]
ClassTokens = Annotated[
    int, typer.Option(help="Class tokens of the encoder, 0 to 8; their mean is the image's feature vector.")
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
        "goes by the batch."
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
    int | None, typer.Option(help="Epochs of the decay of --schedule wsd; a fifth of the epochs by default.")
]
MaskRatio = Annotated[float | None, typer.Option(help="Fraction of the patches to remove; the recipe's by default.")]
MaskingChoice = Annotated[
    MaskingName | None,
    typer.Option(
        help="How to choose the patches to remove, the recipe's way by default; a color is noise of one band of "
        "frequencies."
    ),
]
MaskCell = Annotated[
    int | None,
    typer.Option(
        help="Patches along each side of the cells that random masks are drawn for; the recipe's by default."
    ),
]
NormPixLoss = Annotated[
    bool | None,
    typer.Option(
        help="Predict each patch normalized by its own mean and deviation, not its pixels; the recipe's by default."
    ),
]
TargetChoice = Annotated[
    TargetName | None, typer.Option(help="Target to predict for each patch; the recipe's by default.")
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="Model whose features of each patch are predicted: a file or folder of ours or of another library's."
    ),
]
MasksPerImage = Annotated[
    int | None, typer.Option(help="Masks drawn for each image in each step; the recipe's by default.")
]
DecoderChoice = Annotated[
    DecoderName | None,
    typer.Option(
        help="Kind of decoder: the method's own, or one whose tokens attend to the encoder's only; the recipe's "
        "by default."
    ),
]
FuseBlocks = Annotated[
    str | None,
    typer.Option(
        help="Blocks of the encoder that the decoder reads fused, such as 0,2,-1; the recipe's by default.",
        metavar="N,N,...",
    ),
]
BandGroups = Annotated[
    str | None,
    typer.Option(
        help="Groups of bands, from 0, that a normalized target standardizes each by itself, such as 0,1,2/3,4; all "
        "together by default.",
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
        help="Smallest share of a folder's image that a random crop keeps, the recipe's by default; 1 turns "
        "crops and flips off."
    ),
]
Shift = Annotated[
    float | None,
    typer.Option(
        help="Move images at random by up to this fraction of their size, in place of --crop-area, the recipe's "
        "by default: for images that an object fills, and for arrays."
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
        help="Share of the images to hold out and to validate on after every epoch, such as 0.1; none by default.",
        metavar="SHARE",
    ),
]
CropsPerImage = Annotated[int, typer.Option(help="Random crops to take from each decoded image.")]
DtypePolicy = Annotated[Precision, typer.Option(help="Keras dtype policy.")]
PretrainSeed = Annotated[int, typer.Option(help="Random seed for weights, masks and data order.")]
Watch = Annotated[
    int | None,
    typer.Option(help="Draw reconstructions every N epochs, in watch/ in the run directory.", metavar="N"),
]
WatchImages = Annotated[
    list[Path] | None,
    typer.Option(
        help="Image file that --watch draws, in place of images of the data; may be given several times.",
        metavar="FILE",
    ),
]
ProbeEvery = Annotated[
    int | None,
    typer.Option(
        help="Classify labeled images by their features' nearest neighbors every N epochs, for history.csv.",
        metavar="N",
    ),
]
ProbeData = Annotated[
    str | None,
    typer.Option(
        help="Labeled images for --probe-every: digits, fashion_mnist, or a folder with one folder of images per "
        "class; DATA by default.",
        metavar="DATA",
    ),
]
RankMeEvery = Annotated[
    int | None,
    typer.Option(
        "--rankme-every",
        help="Measure every N epochs how many dimensions the features of up to 2,000 images use, for history.csv: no "
        "labels are needed.",
        metavar="N",
    ),
]
