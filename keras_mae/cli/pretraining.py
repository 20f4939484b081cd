"""`keras-mae pretrain`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_mae.cli.options import (
    AllowDamaged,
    CheckpointMinutes,
    CheckpointSteps,
    Distribution,
    Engine,
    Out,
    PixelRange,
    Resume,
    WhiteLevel,
)
from keras_mae.cli.runs import run_directory, say, say_files, say_plan

if TYPE_CHECKING:
    from keras_mae.distribution import Devices

__all__ = ["pretrain"]

DEFAULT_MODELS = {"digits": "mae_vit_micro_patch2_8", "fashion_mnist": "mae_vit_micro_patch4_28"}
FOLDER_MODEL = "mae_vit_small_patch16_224"


class MaskingName(StrEnum):
    """How patches are chosen."""

    random = "random"
    block = "block"
    grid = "grid"
    green = "green"
    red = "red"
    blue = "blue"
    purple = "purple"


class Precision(StrEnum):
    """Keras dtype policies."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"


def pretrain(
    data: Annotated[
        str, typer.Argument(help="digits, fashion_mnist, or a folder of images, also one from keras-mae prepare.")
    ] = "digits",
    model: Annotated[
        str | None, typer.Option(help="Preset, such as mae_vit_base_patch16_224; by default one that fits the data.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of a folder's images, in pixels; the preset's by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 40,
    warmup_epochs: Annotated[
        int | None, typer.Option(help="Warm-up epochs; a twentieth of the epochs by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images behind each update.")] = 32,
    gradient_accumulation_steps: Annotated[
        int, typer.Option(help="Batches whose gradients are averaged for each update.")
    ] = 1,
    base_learning_rate: Annotated[
        float,
        typer.Option(
            help="Learning rate for a batch of 256; it is scaled with --batch-size. Large batches need 1.5e-4."
        ),
    ] = 8e-3,
    weight_decay: Annotated[float, typer.Option(help="AdamW weight decay.")] = 0.05,
    mask_ratio: Annotated[float, typer.Option(help="Fraction of the patches to remove.")] = 0.75,
    masking: Annotated[
        MaskingName,
        typer.Option(help="How to choose the patches to remove; a color is noise of one band of frequencies."),
    ] = MaskingName.random,
    mask_cell: Annotated[
        int, typer.Option(help="Patches along each side of the cells that random masks are drawn for.")
    ] = 1,
    norm_pix_loss: Annotated[
        bool, typer.Option(help="Predict each patch normalized by its own mean and deviation, not its pixels.")
    ] = False,
    masks_per_image: Annotated[int, typer.Option(help="Masks drawn for each image in each step.")] = 1,
    predict_ratio: Annotated[
        float, typer.Option(help="Share of the removed patches to predict in each step, drawn at random.")
    ] = 1.0,
    crop_area: Annotated[
        float,
        typer.Option(
            help="Smallest share of a folder's image that a random crop keeps; 1 turns crops and flips off."
        ),
    ] = 0.2,
    shift: Annotated[
        float,
        typer.Option(
            help="Move images at random by up to this fraction of their size, in place of --crop-area: for images "
            "that an object fills, and for arrays."
        ),
    ] = 0.0,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the images that are cropped or moved.")
    ] = None,
    crops_per_image: Annotated[int, typer.Option(help="Random crops to take from each decoded image.")] = 1,
    allow_damaged: AllowDamaged = 0.0,
    pixel_range: PixelRange = (0.0, 255.0),
    white_level: WhiteLevel = None,
    precision: Annotated[Precision, typer.Option(help="Keras dtype policy.")] = Precision.float32,
    seed: Annotated[int, typer.Option(help="Random seed for weights, masks and data order.")] = 0,
    out: Out = None,
    distribution: Distribution = Engine.auto,
    watch: Annotated[
        int | None,
        typer.Option(help="Draw reconstructions every N epochs, in watch/ in the run directory.", metavar="N"),
    ] = None,
    resume: Resume = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
) -> None:
    """Pre-train a masked autoencoder.

    It leaves a run directory with the model, its encoder, losses and pictures. Without arguments: 1,437 digits, a
    micro ViT, a minute or two on a laptop. The defaults are for small images and data sets; the recipe
    for ImageNet in the authors' repository is:

    \b
      --epochs 800 --warmup-epochs 40 --batch-size 4096
      --base-learning-rate 1.5e-4 --norm-pix-loss

    With --out DIRECTORY --resume, the same command starts a run, and resumes it if it was killed, with the same
    result as if it had not been. So give both options from the start.

    On several devices, each takes a part of every batch: --batch-size is the size of the whole batch. A run of
    several processes, as torchrun starts them, needs --out: a directory that all of them share.
    """
    import keras

    import keras_mae
    from keras_mae import training
    from keras_mae.recipes import PretrainRecipe

    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = run_directory(Path(data).name, out, resume, devices)
        preset = model or DEFAULT_MODELS.get(data, FOLDER_MODEL)
        images = training.open_unlabeled(
            data,
            _image_shape(data, preset, image_size),
            allow_damaged=allow_damaged,
            pixel_range=pixel_range,
            white_level=white_level,
        )
        recipe = PretrainRecipe(
            epochs=epochs,
            warmup_epochs=epochs // 20 if warmup_epochs is None else warmup_epochs,
            batch_size=batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            base_learning_rate=base_learning_rate,
            weight_decay=weight_decay,
            mask_ratio=mask_ratio,
            masking=masking.value,
            mask_cell=mask_cell,
            norm_pix_loss=norm_pix_loss,
            masks_per_image=masks_per_image,
            predict_ratio=predict_ratio,
            crop_area=None if crop_area == 1 or shift else (crop_area, 1.0),
            shift=shift,
            flip=crop_area < 1 or shift > 0 if flip is None else flip,
            seed=seed,
        )
        feed = images.feed(recipe, crops_per_image=crops_per_image)
        keras.utils.set_random_seed(seed)
        mae = keras_mae.MaskedAutoencoder.from_preset(
            preset,
            image_shape=images.train.image_shape,
            pixel_range=pixel_range,
            **recipe.model_arguments,
            dtype=precision.value,
        )
        size, backend = "x".join(map(str, images.train.image_shape)), keras.backend.backend()
        count = len(images.train)
        say(devices, f"{preset}: {mae.count_params():,} parameters, {count:,} images of {size}, {backend}")
        say_plan(devices, feed["recipe"])
        training.run_pretraining(
            mae,
            **feed,
            run_directory=directory,
            callbacks=[] if watch is None else [_watch(watch, images.examples, directory, devices)],
            saving=training.Saving(resume, checkpoint_steps, checkpoint_minutes),
        )
        say_files(devices, directory)


def _image_shape(data: str, preset: str, image_size: int | None) -> tuple[int, int, int]:
    """Return the shape to bring a folder's images to."""
    from keras_mae import presets
    from keras_mae.data import BUILTIN

    if image_size is not None and data in BUILTIN:
        raise ValueError(f"`image_size` goes with a folder of images. Received: image_size={image_size} for {data}")
    height, width, channels = presets.get(preset).encoder["image_shape"]
    return (height, width, channels) if image_size is None else (image_size, image_size, channels)


def _watch(every_epochs: int, examples: Any, directory: Path, devices: Devices) -> Any:
    """Return the callback that draws reconstructions, and print how to look at them."""
    from keras_mae import training

    if devices.processes > 1:
        raise ValueError(f"`watch` goes with one process. Received: {devices.processes} processes")
    pictures = directory / training.RunFile.WATCH
    typer.echo(f"pictures: {pictures} (tensorboard --logdir {pictures})")
    return training.Watch(examples, pictures, every_epochs)
