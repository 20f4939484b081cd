"""`keras-mae pretrain`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_mae.cli.choosing import changed_recipe, default_size, resumed_recipe, sized_recipe
from keras_mae.cli.options import (
    AccumulationSteps,
    AllowChanged,
    AllowDamaged,
    Bands,
    BatchSize,
    CheckpointMinutes,
    CheckpointSteps,
    Distribution,
    EmaMomentum,
    Engine,
    Epochs,
    MaxPixels,
    Out,
    PixelRange,
    PretrainSize,
    Resume,
    WhiteLevel,
    shown_bands,
)
from keras_mae.cli.output import echo
from keras_mae.cli.runs import begun_recipe, run_directory, run_name, say, say_files, say_plan, with_metadata

if TYPE_CHECKING:
    from keras_mae.distribution import Devices
    from keras_mae.recipes import Recipe
    from keras_mae.training import UnlabeledImages

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


def pretrain(
    data: Annotated[
        str, typer.Argument(help="digits, fashion_mnist, a folder of images, also a prepared one, or FILE::IMAGES.")
    ] = "digits",
    model: Annotated[
        str | None, typer.Option(help="Preset, such as mae_vit_base_patch16_224; by default one that fits the data.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of a folder's images, in pixels; the preset's by default.")
    ] = None,
    class_tokens: Annotated[
        int, typer.Option(help="Class tokens of the encoder, 0 to 8; their mean is the image's feature vector.")
    ] = 1,
    size: Annotated[
        PretrainSize | None,
        typer.Option(
            help="Recipe: small_images, by default for digits and fashion_mnist; photos, by default for a folder; or "
            "the one for ImageNet and a ViT of this size."
        ),
    ] = None,
    epochs: Epochs = None,
    warmup_epochs: Annotated[
        int | None, typer.Option(help="Warm-up epochs; as large a share of the epochs as the recipe's by default.")
    ] = None,
    batch_size: BatchSize = None,
    gradient_accumulation_steps: AccumulationSteps = None,
    base_learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate for a batch of 256, scaled with the batch; the recipe's by default. Large batches "
            "of photos need 1.5e-4."
        ),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Decoupled weight decay; the recipe's by default.")
    ] = None,
    optimizer: Annotated[
        OptimizerName | None, typer.Option(help="Optimizer that moves the weights; the recipe's by default.")
    ] = None,
    ema_momentum: EmaMomentum = None,
    schedule: Annotated[
        ScheduleName | None,
        typer.Option(
            help="Learning rate after the warm-up: half a cosine, or constant until a decay at the end; the recipe's "
            "by default."
        ),
    ] = None,
    decay_epochs: Annotated[
        int | None, typer.Option(help="Epochs of the decay of --schedule wsd; a fifth of the epochs by default.")
    ] = None,
    mask_ratio: Annotated[
        float | None, typer.Option(help="Fraction of the patches to remove; the recipe's by default.")
    ] = None,
    masking: Annotated[
        MaskingName | None,
        typer.Option(
            help="How to choose the patches to remove, the recipe's way by default; a color is noise of one band of "
            "frequencies."
        ),
    ] = None,
    mask_cell: Annotated[
        int | None,
        typer.Option(
            help="Patches along each side of the cells that random masks are drawn for; the recipe's by default."
        ),
    ] = None,
    norm_pix_loss: Annotated[
        bool | None,
        typer.Option(
            help="Predict each patch normalized by its own mean and deviation, not its pixels; the recipe's by "
            "default."
        ),
    ] = None,
    target: Annotated[
        TargetName | None, typer.Option(help="Target to predict for each patch; the recipe's by default.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Model whose features of each patch are predicted: a file or folder of ours or of another library's."
        ),
    ] = None,
    masks_per_image: Annotated[
        int | None, typer.Option(help="Masks drawn for each image in each step; the recipe's by default.")
    ] = None,
    decoder: Annotated[
        DecoderName | None,
        typer.Option(
            help="Kind of decoder: the method's own, or one whose tokens attend to the encoder's only; the recipe's "
            "by default."
        ),
    ] = None,
    fuse_blocks: Annotated[
        str | None,
        typer.Option(
            help="Blocks of the encoder that the decoder reads fused, such as 0,2,-1; the recipe's by default.",
            metavar="N,N,...",
        ),
    ] = None,
    predict_ratio: Annotated[
        float | None,
        typer.Option(
            help="Share of the removed patches to predict in each step, drawn at random; the recipe's by default."
        ),
    ] = None,
    crop_area: Annotated[
        float | None,
        typer.Option(
            help="Smallest share of a folder's image that a random crop keeps, the recipe's by default; 1 turns "
            "crops and flips off."
        ),
    ] = None,
    shift: Annotated[
        float | None,
        typer.Option(
            help="Move images at random by up to this fraction of their size, in place of --crop-area, the recipe's "
            "by default: for images that an object fills, and for arrays."
        ),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip",
            help="Mirror half of the images that are cropped or moved; the recipe's by default.",
            show_default=False,
        ),
    ] = None,
    crops_per_image: Annotated[int, typer.Option(help="Random crops to take from each decoded image.")] = 1,
    allow_damaged: AllowDamaged = 0.0,
    pixel_range: PixelRange = (0.0, 255.0),
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    bands: Bands = None,
    precision: Annotated[Precision, typer.Option(help="Keras dtype policy.")] = Precision.float32,
    seed: Annotated[int, typer.Option(help="Random seed for weights, masks and data order.")] = 0,
    out: Out = None,
    distribution: Distribution = Engine.auto,
    watch: Annotated[
        int | None,
        typer.Option(help="Draw reconstructions every N epochs, in watch/ in the run directory.", metavar="N"),
    ] = None,
    resume: Resume = False,
    allow_changed: AllowChanged = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
) -> None:
    """Pre-train a masked autoencoder.

    It leaves a run directory with the model, its encoder, losses and pictures. Without arguments: 1,437 digits, a
    micro ViT, a minute or two on a laptop. What no option says is the recipe's, which is printed and fits the data;
    --size base, large or huge is the one for ImageNet in the authors' repository.

    With --out DIRECTORY --resume, the same command starts a run, and resumes it if it was killed, with the same
    result as if it had not been. So give both options from the start. If the data are others by then, it says so and
    stops; --allow-changed goes on with them. With --schedule wsd,
    --resume and more --epochs make a finished run longer: it goes on from where its decay began.

    On several devices, each takes a part of every batch: --batch-size is the size of the whole batch. A run of
    several processes, as torchrun starts them, needs --out: a directory that all of them share.
    """
    import keras

    import keras_mae
    from keras_mae import training
    from keras_mae.recipes import PretrainRecipe

    saving = training.Saving(resume, checkpoint_steps, checkpoint_minutes, allow_changed)
    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = run_directory(run_name(data), out, resume, devices)
        begun = begun_recipe(directory, resume)
        preset = model or DEFAULT_MODELS.get(data, FOLDER_MODEL)
        images = training.open_unlabeled(
            data,
            _image_shape(data, preset, image_size),
            allow_damaged=allow_damaged,
            pixel_range=pixel_range,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        crops = _crops(crop_area, shift, flip)
        given = {
            "epochs": epochs,
            "warmup_epochs": _warmup(begun, schedule) if warmup_epochs is None else warmup_epochs,
            "batch_size": batch_size,
            "gradient_accumulation_steps": gradient_accumulation_steps,
            "base_learning_rate": base_learning_rate,
            "weight_decay": weight_decay,
            "optimizer_name": optimizer,
            "ema_momentum": ema_momentum,
            "schedule": schedule,
            "decay_epochs": decay_epochs,
            "mask_ratio": mask_ratio,
            "masking": masking,
            "mask_cell": mask_cell,
            "norm_pix_loss": norm_pix_loss,
            "target": _target(target, teacher, norm_pix_loss),
            "masks_per_image": masks_per_image,
            "predict_ratio": predict_ratio,
            "decoder": decoder and decoder.value,
            "fuse_blocks": _blocks(fuse_blocks),
            **crops,
            "seed": seed,
        }
        chosen = str(size or default_size(data, "photos"))
        recipe = sized_recipe(PretrainRecipe, chosen, len(images.train))
        recipe = resumed_recipe(recipe, begun, given, size)
        recipe = changed_recipe(recipe, given)
        if flip and begun is None and not (recipe.crop_area and not images.train.sized) and not recipe.shift:
            raise ValueError(
                "`flip` mirrors images that are cropped or moved, and these are taken whole: give --shift as well. "
                "Received: --flip"
            )
        feed = images.feed(recipe, crops_per_image=crops_per_image)
        keras.utils.set_random_seed(seed)
        fixed = dict(recipe.model_arguments)
        if teacher is not None:
            fixed["target"] = keras_mae.targets.Teacher.from_preset(teacher, dtype=precision.value)
            feed["metadata"]["teacher"] = Path(teacher).name
        mae = keras_mae.MaskedAutoencoder.from_preset(
            preset,
            image_shape=images.train.image_shape,
            pixel_range=pixel_range,
            class_tokens=class_tokens,
            **fixed,
            decoder=recipe.decoder,
            dtype=precision.value,
        )
        shape, backend = "x".join(map(str, images.train.image_shape)), keras.backend.backend()
        count = len(images.train)
        say(devices, f"{preset}: {mae.count_params():,} parameters, {count:,} images of {shape}, {backend}")
        say(devices, feed["recipe"])
        say_plan(devices, feed["recipe"])
        if not mae.predicts_pixels:
            say(devices, f"no pictures: the model predicts {mae.target_description}")
        training.run_pretraining(
            mae,
            **with_metadata(feed, recipe_size=chosen),
            run_directory=directory,
            bands=shown_bands(bands),
            callbacks=[] if watch is None else [_watch(watch, images, directory, devices, bands)],
            saving=saving,
        )
        say_files(devices, directory)


def _blocks(text: str | None) -> tuple[int, ...] | None:
    """Return indices of blocks as they are written: 0,2,5."""
    try:
        return None if text is None else tuple(int(index) for index in text.split(","))
    except ValueError:
        raise ValueError(f"`fuse_blocks` must be integers with commas between. Received: {text}") from None


def _warmup(begun: Recipe | None, schedule: ScheduleName | None) -> int | None:
    """Return the epochs of warm-up with which a run began that may now be made longer."""
    return begun.warmup_epochs if begun and schedule is ScheduleName.wsd else None


def _image_shape(data: str, preset: str, image_size: int | None) -> tuple[int, int, int]:
    """Return the shape to bring a folder's images to."""
    from keras_mae import presets
    from keras_mae.data import BUILTIN

    if image_size is not None and data in BUILTIN:
        raise ValueError(f"`image_size` goes with a folder of images. Received: image_size={image_size} for {data}")
    height, width, channels = presets.get(preset).encoder["image_shape"]
    return (height, width, channels) if image_size is None else (image_size, image_size, channels)


def _target(target: TargetName | None, teacher: str | None, norm_pix_loss: bool | None) -> str | None:
    """Return the target by the name that a recipe has for it, if the options agree."""
    from keras_mae.recipes.options import check_target_and_norm

    if target is not None and teacher is not None:
        raise ValueError(f"A teacher is a target: give one of them. Received: target={target}, teacher={teacher}")
    name = "teacher" if teacher is not None else target and target.value
    check_target_and_norm(name, norm_pix_loss)
    return name


def _crops(smallest: float | None, shift: float | None, flip: bool | None) -> dict[str, Any]:
    """Return the fields of the recipe that --crop-area, --shift and --flip say."""
    fields: dict[str, Any] = {}
    if smallest is not None:
        fields = {"crop_area": None if smallest == 1 else (smallest, 1.0), "flip": smallest < 1}
    if shift is not None:
        fields |= {"shift": shift, **({"crop_area": None} if shift and smallest in (None, 1) else {})}
        fields.pop("flip", None)
    return fields if flip is None else {**fields, "flip": flip}


def _watch(every: int, images: UnlabeledImages, directory: Path, devices: Devices, bands: str | None) -> Any:
    """Return the callback that draws reconstructions, and print how to look at them."""
    from keras_mae import training

    if devices.processes > 1:
        raise ValueError(f"`watch` goes with one process. Received: {devices.processes} processes")
    pictures = directory / training.RunFile.WATCH
    echo(f"pictures: {pictures} (tensorboard --logdir {pictures})")
    return training.Watch(images.examples, pictures, every, names=images.example_names, bands=shown_bands(bands))
