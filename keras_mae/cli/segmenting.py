"""`keras-mae segment`: a class for every pixel."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_mae.cli.choosing import SMALL_IMAGES, chosen_recipe, default_for, sized_recipe
from keras_mae.cli.finetune_options import (
    BestEpoch,
    ClassWeights,
    DropPathRate,
    Flip,
    LayerDecay,
    Patience,
    Validation,
)
from keras_mae.cli.options import (
    AccumulationSteps,
    AllowChanged,
    AllowDamaged,
    BaseLearningRate,
    BatchSize,
    CheckpointMinutes,
    CheckpointSteps,
    Distribution,
    EmaMomentum,
    Engine,
    Epochs,
    IgnoreLabel,
    Loader,
    Masks,
    MaxPixels,
    Out,
    Pretrained,
    RecipeFile,
    ReduceZeroLabel,
    Resume,
    Seed,
    SetValues,
    Split,
    WarmupEpochs,
    WeightDecay,
    WhiteLevel,
    Workers,
)
from keras_mae.cli.runs import (
    begun_recipe,
    encoder_of,
    held_out_share,
    identified,
    resolved,
    run_directory,
    run_name,
    say,
    say_held_out,
    say_pixel_scores,
    say_plan,
)
from keras_mae.cli.scoring import SCORED
from keras_mae.cli.shapes import shown, side_lengths
from keras_mae.cli.told import Told

if TYPE_CHECKING:
    from keras_mae.distribution import Devices

__all__ = ["segment"]


class HeadName(StrEnum):
    """What makes classes of an encoder's maps: `keras_mae.recipes.dense.HEADS`."""

    upernet = "upernet"
    linear = "linear"


class SegmentSize(StrEnum):
    """Recipes of `keras_mae.recipes.SegmentationRecipe`."""

    small_images = "small_images"
    base = "base"
    large = "large"


class PixelMonitorName(StrEnum):
    """What says which epoch is the best: `keras_mae.recipes.dense.MONITORS`."""

    val_mean_iou = "val_mean_iou"
    val_loss = "val_loss"


def segment(
    context: typer.Context,
    model: Pretrained,
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of images and masks: images/ and masks/ of the same names, with classes.txt for the names "
            "of the classes; or laid out as ADE20K or Pascal VOC."
        ),
    ],
    masks: Masks = None,
    split: Split = None,
    test: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images and masks to evaluate on; by default a tenth of DATA is held out for that."
        ),
    ] = None,
    test_split: Annotated[
        str | None, typer.Option(help="Part of --test, or of DATA, to evaluate on, such as val.", metavar="NAME")
    ] = None,
    validation: Validation = None,
    num_labels: Annotated[int | None, typer.Option(help="Number of images to train on; all by default.")] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Number of classes; by default that of their names, or all masks are read.")
    ] = None,
    ignore_label: IgnoreLabel = 255,
    reduce_zero_label: ReduceZeroLabel = None,
    allow_damaged: AllowDamaged = 0.0,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    head: Annotated[
        HeadName | None,
        typer.Option(help="Head of the segmenter: upernet, by default, or linear, for which the encoder is frozen."),
    ] = None,
    trainable_blocks: Annotated[
        str | None,
        typer.Option(
            help="Number of last blocks to train: 0 for none, 0.5, 1, ..., or all; the recipe's by default.",
            metavar="N",
        ),
    ] = None,
    recipe_file: RecipeFile = None,
    set_: SetValues = None,
    size: Annotated[
        SegmentSize | None,
        typer.Option(
            help="Recipe: small_images, by default, or the published one for ADE20K and a ViT of this size."
        ),
    ] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    gradient_accumulation_steps: AccumulationSteps = None,
    base_learning_rate: BaseLearningRate = None,
    warmup_epochs: WarmupEpochs = None,
    weight_decay: WeightDecay = None,
    layer_decay: LayerDecay = None,
    drop_path_rate: DropPathRate = None,
    flip: Flip = None,
    ema_momentum: EmaMomentum = None,
    class_weights: ClassWeights = None,
    best_epoch: BestEpoch = None,
    patience: Patience = None,
    monitor: Annotated[
        PixelMonitorName | None,
        typer.Option(help="Metric that says which epoch is the best; the recipe's by default."),
    ] = None,
    loader: Loader = None,
    workers: Workers = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Size of the crops to train on in pixels, such as 512 or 96x192 (height, width); else the model's.",
            metavar="SIZE",
        ),
    ] = None,
    seed: Seed = 0,
    out: Out = None,
    distribution: Distribution = Engine.auto,
    resume: Resume = False,
    allow_changed: AllowChanged = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
) -> None:
    """Train a segmenter on images with masks.

    MODEL's encoder is fine-tuned, or frozen with --head linear. The run leaves a directory with the segmenter, its
    scores, curves, and some segmentations. Scores are counted at the masks' own sizes; windows of the crop's size
    slide over larger images. The run can be spread over devices, and resumed if it was killed: see the help of
    pretrain. A run of several processes leaves no scores; evaluate does.
    """
    import keras

    import keras_mae

    told = Told(context)
    saving = keras_mae.training.Saving(resume, checkpoint_steps, checkpoint_minutes, allow_changed)
    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = run_directory(f"segment-{run_name(str(data))}", out, resume, devices)
        encoder = encoder_of(model)
        sides = side_lengths("image_size", image_size) or encoder.image_shape[:2]
        options = {
            "head": head,
            "trainable_blocks": _number_or_text(trainable_blocks),
            "epochs": epochs,
            "batch_size": batch_size,
            "gradient_accumulation_steps": gradient_accumulation_steps,
            "base_learning_rate": base_learning_rate,
            "warmup_epochs": warmup_epochs,
            "weight_decay": weight_decay,
            "layer_decay": layer_decay,
            "drop_path_rate": drop_path_rate,
            "flip": flip,
            "ema_momentum": ema_momentum,
            "class_weights": class_weights,
            "best_epoch": best_epoch,
            "patience": patience,
            "monitor": monitor,
            "seed": seed,
        }
        given = told.given(options)
        held_out = held_out_share(validation, given, told.fields)
        images = keras_mae.training.open_pairs(
            data,
            (*sides, encoder.image_shape[2]),
            masks=masks,
            split=split,
            test=test,
            test_split=test_split,
            validation=held_out,
            num_labels=num_labels,
            num_classes=num_classes,
            ignore_label=ignore_label,
            reduce_zero_label=reduce_zero_label,
            allow_damaged=allow_damaged,
            seed=seed,
            pixel_range=encoder.pixel_range,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        say_held_out(devices, images)
        told.check_size(size)
        chosen = str(size or SMALL_IMAGES)
        asked = str(given["head"] or told.fields.get("head") or HeadName.upernet)
        recipe = sized_recipe(keras_mae.recipes.SegmentationRecipe, chosen, len(images.train), head=asked)
        recipe = chosen_recipe(recipe, begun_recipe(directory, resume), given, size, told.fields)
        feed = images.feed(recipe, loader=loader, workers=workers)
        say(devices, feed["recipe"])
        say_plan(devices, feed["recipe"])
        keras.utils.set_random_seed(feed["recipe"].seed)
        keras_mae.training.run_segmentation(
            encoder,
            **identified(feed, model, chosen),
            run_directory=directory,
            saving=saving,
            settings=told.settings(
                default_for(str(data)), {"image_size": shown(sides)}, size=chosen, **resolved(held_out)
            ),
        )
        _say_end(devices, directory)


def _number_or_text(text: str | None) -> Any:
    """Return a number that was typed as such, and any other text as it is, for the recipe to judge."""
    from keras_mae.recipes import files

    return None if text is None else files.parsed(text)


def _say_end(devices: Devices, directory: Path) -> None:
    from keras_mae import training

    if devices.processes == 1:
        say_pixel_scores(directory, SCORED)
    else:
        say(
            devices,
            f"{directory}: keras-mae evaluate {directory / training.RunFile.SEGMENTER} DATA scores all images",
        )
