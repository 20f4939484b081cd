"""`keras-mae pretrain`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_mae.cli.app import (
    Accumulation,
    CheckpointMinutes,
    CheckpointSteps,
    Distribution,
    Engine,
    Out,
    Resume,
    app,
    crop_of,
    directory_for,
    say,
    say_devices,
)

DEFAULT_MODELS = {"digits": "mae_vit_micro_patch2_8", "fashion_mnist": "mae_vit_micro_patch4_28"}
FOLDER_MODEL = "mae_vit_small_patch16_224"


class MaskingName(StrEnum):
    """How patches are chosen."""

    random = "random"
    block = "block"
    grid = "grid"


class OnError(StrEnum):
    """What to do about damaged images."""

    stop = "raise"
    skip = "skip"


class Precision(StrEnum):
    """Keras dtype policies."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"


@app.command()
def pretrain(
    data: Annotated[
        str, typer.Argument(help="digits, fashion_mnist, or a folder: of images, or from keras-mae prepare.")
    ] = "digits",
    model: Annotated[str | None, typer.Option(help="Preset; by default one that fits the data.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of a folder's images; the preset's by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 40,
    warmup_epochs: Annotated[
        int | None, typer.Option(help="Of warm-up; a twentieth of the epochs by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images behind one update.")] = 32,
    gradient_accumulation_steps: Accumulation = 1,
    base_learning_rate: Annotated[
        float,
        typer.Option(help="For 256 images; the learning rate is base * batch size / 256. Large batches take 1.5e-4."),
    ] = 8e-3,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.05,
    mask_ratio: Annotated[float, typer.Option(help="Fraction of the patches to remove.")] = 0.75,
    masking: Annotated[MaskingName, typer.Option(help="How patches are chosen.")] = MaskingName.random,
    norm_pix_loss: Annotated[
        bool, typer.Option(help="Predict each patch standardised by its own statistics.")
    ] = False,
    masks_per_image: Annotated[int, typer.Option(help="Masks drawn for each image in one step.")] = 1,
    crop_area: Annotated[
        float, typer.Option(help="Of a folder's images: smallest share that a random crop keeps; 1 takes them whole.")
    ] = 0.2,
    crops_per_image: Annotated[int, typer.Option(help="Crops of each image once it is decoded.")] = 1,
    on_error: Annotated[OnError, typer.Option(help="What to do about damaged images.")] = OnError.stop,
    precision: Annotated[Precision, typer.Option(help="Keras dtype policy.")] = Precision.float32,
    seed: Annotated[int, typer.Option(help="Of weights, masks and data order.")] = 0,
    out: Out = None,
    distribution: Distribution = Engine.auto,
    watch: Annotated[
        int | None,
        typer.Option(help="Draw reconstructions after every so many epochs, in the run directory's watch/."),
    ] = None,
    resume: Resume = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
) -> None:
    """Pre-train a masked autoencoder and leave a run directory.

    Without arguments: 1,437 digits, a micro ViT, a minute or two on a laptop. The defaults are for small images
    and data sets; the published recipe for ImageNet is --epochs 800 --warmup-epochs 40 --batch-size 4096
    --base-learning-rate 1.5e-4 --norm-pix-loss.

    A run that was killed goes on, as if nothing had happened, with the same command and --out DIRECTORY --resume; so
    that command can be given from the start.

    On several devices the batch is shared out among them: --batch-size stays the whole one's. Several processes, as
    of torchrun, take --out, a folder that they share.
    """
    import keras

    import keras_mae
    from keras_mae.recipes import PretrainRecipe

    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = directory_for(Path(data).name, out, resume, devices)
        preset = model or DEFAULT_MODELS.get(data, FOLDER_MODEL)
        source, held_out, image_shape = _open(data, preset, image_size, on_error.value)
        recipe = PretrainRecipe(
            epochs=epochs,
            warmup_epochs=epochs // 20 if warmup_epochs is None else warmup_epochs,
            batch_size=batch_size,
            gradient_accumulation_steps=1 if gradient_accumulation_steps is None else gradient_accumulation_steps,
            base_learning_rate=base_learning_rate,
            weight_decay=weight_decay,
            mask_ratio=mask_ratio,
            norm_pix_loss=norm_pix_loss,
            masks_per_image=masks_per_image,
            crop_area=None if source.sized or crop_area == 1 else (crop_area, 1.0),
            flip=not source.sized and crop_area < 1,
            seed=seed,
        )
        keras.utils.set_random_seed(seed)
        maskings = {"random": keras_mae.RandomMasking, "block": keras_mae.BlockMasking, "grid": keras_mae.GridMasking}
        mae = keras_mae.MaskedAutoencoder.from_preset(
            preset,
            image_shape=image_shape,
            masking=maskings[masking.value](mask_ratio),
            norm_pix_loss=norm_pix_loss,
            masks_per_image=masks_per_image,
            seed=seed,
            dtype=precision.value,
        )
        dataset = keras_mae.data.make_dataset(
            source,
            min(recipe.step_batch_size, len(source) * crops_per_image),
            seed=seed,
            drop_remainder=True,
            crop=None if source.sized else crop_of(recipe),
            crops_per_image=crops_per_image,
        )
        size = "x".join(map(str, image_shape))
        backend = keras.backend.backend()
        say(devices, f"{preset}: {mae.count_params():,} parameters, {len(source):,} images of {size}, {backend}")
        say_devices(devices, recipe)
        watching = []
        if watch is not None:
            if devices.processes > 1:
                raise ValueError(f"`watch` goes with one process. Received: {devices.processes} processes")
            watching = [keras_mae.training.Watch(held_out, directory / "watch", watch)]
            typer.echo(f"pictures: {directory / 'watch'} (tensorboard --logdir {directory / 'watch'})")
        keras_mae.training.run_pretraining(
            mae,
            dataset,
            recipe,
            directory,
            examples=held_out,
            callbacks=watching,
            metadata={"data": Path(data).name, "images": len(source)},
            saving=keras_mae.training.Saving(resume, checkpoint_steps, checkpoint_minutes),
        )
        if devices.is_main:
            typer.echo(f"{directory}: {', '.join(sorted(path.name for path in directory.iterdir()))}")


def _open(data: str, preset: str, image_size: int | None, on_error: str) -> tuple[Any, Any, tuple[int, int, int]]:
    """The source of images, a few to look at, and their shape."""
    import numpy as np

    from keras_mae import data as keras_mae_data
    from keras_mae import presets

    shape = presets.get(preset).encoder["image_shape"]
    if data in keras_mae_data.BUILTIN:
        if image_size is not None:
            raise ValueError(
                f"`image_size` goes with a folder of images. Received: image_size={image_size} for {data}"
            )
        source = keras_mae_data.ArraySource(keras_mae_data.load_builtin(data, "train")[0])
        return source, keras_mae_data.load_builtin(data, "test")[0][:8], source.image_shape
    if not Path(data).is_dir():
        names = ", ".join(keras_mae_data.BUILTIN)
        raise ValueError(f"`data` must be {names} or an existing folder of images. Received: data={data!r}")
    folder = keras_mae_data.open_directory(data, image_size or shape[:2], shape[2], on_error=on_error)
    first: Any = next(iter(keras_mae_data.make_dataset(folder, 8, shuffle=False, shard=(0, 1))))
    return folder, np.asarray(first[0] if isinstance(first, tuple) else first), folder.image_shape
