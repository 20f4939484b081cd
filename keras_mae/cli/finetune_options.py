"""Options of `keras-mae finetune` that no other command takes, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "Cutmix",
    "DropPathRate",
    "Flip",
    "LabelSmoothing",
    "LayerDecay",
    "Mixup",
    "RandAugment",
    "RandomErasing",
    "Shift",
]

LayerDecay = Annotated[
    float | None,
    typer.Option(
        help="Factor by which the learning rate falls from each layer to the one below; the recipe's by default."
    ),
]
DropPathRate = Annotated[
    float | None, typer.Option(help="Drop path rate of the last block; the recipe's by default.")
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
