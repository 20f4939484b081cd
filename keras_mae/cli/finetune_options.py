"""Options of `keras-mae finetune` that no other command takes, each declared once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = [
    "BestEpoch",
    "ClassWeights",
    "CropArea",
    "Cutmix",
    "DropPathRate",
    "Flip",
    "LabelSmoothing",
    "LayerDecay",
    "Mixup",
    "Monitor",
    "Patience",
    "RandAugment",
    "RandomErasing",
    "Shift",
    "Validation",
]


class ClassWeightsName(StrEnum):
    """Ways to weight the classes in the loss."""

    balanced = "balanced"
    none = "none"


class MonitorName(StrEnum):
    """Metrics that say which epoch is the best: `keras_mae.recipes.options.MONITORS`."""

    val_accuracy = "val_accuracy"
    val_loss = "val_loss"


LayerDecay = Annotated[
    float | None,
    typer.Option(
        help="Factor by which the learning rate falls from each layer to the one below; the recipe's by default."
    ),
]
DropPathRate = Annotated[
    float | None, typer.Option(help="Drop path probability of the last block; the recipe's by default.")
]
CropArea = Annotated[
    float | None,
    typer.Option(
        help="Smallest share of a folder's image that a random crop keeps; the recipe's by default, 1 for no crops."
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="Mirror half of the images; the recipe's by default.", show_default=False),
]
Shift = Annotated[
    float | None,
    typer.Option(help="Move images at random by up to this fraction of their size; the recipe's by default."),
]
RandAugment = Annotated[
    float | None,
    typer.Option(help="Magnitude of RandAugment's two operations, 0 (none) to 10; the recipe's by default."),
]
RandomErasing = Annotated[
    float | None, typer.Option(help="Probability of erasing a box of an image; the recipe's by default.")
]
Mixup = Annotated[
    float | None, typer.Option(help="Alpha of MixUp, which mixes two images, 0 for none; the recipe's by default.")
]
Cutmix = Annotated[
    float | None,
    typer.Option(
        help="Alpha of CutMix, which puts a box of one image into another, 0 for none; the recipe's by default."
    ),
]
LabelSmoothing = Annotated[
    float | None, typer.Option(help="Probability mass spread over all classes; the recipe's by default.")
]
ClassWeights = Annotated[
    ClassWeightsName | None,
    typer.Option(
        help="Weights of the classes in the loss: balanced, so that rare classes count as much as common ones, or "
        "none; the recipe's by default."
    ),
]
Validation = Annotated[
    float | None,
    typer.Option(
        help="Share of the training images to hold out and to validate on after every epoch, such as 0.2; by default "
        "0.1 with --best-epoch or --patience, or else none: evaluation images are validated on, no more of them than "
        "there are training images, or 1,000.",
        metavar="SHARE",
    ),
]
BestEpoch = Annotated[
    bool | None,
    typer.Option(
        "--best-epoch/--no-best-epoch",
        help="End with the weights of the epoch that is best on the held-out images, not those of the last one; by "
        "default only with --patience.",
        show_default=False,
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(help="Stop after N epochs in a row without a better one; by default never.", metavar="N"),
]
Monitor = Annotated[
    MonitorName | None, typer.Option(help="Metric that says which epoch is the best; the recipe's by default.")
]
