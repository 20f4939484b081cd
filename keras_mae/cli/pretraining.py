"""`keras-mae pretrain`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import typer

from keras_mae.cli.choosing import check_crops, chosen_recipe, default_for, default_size, sized_recipe
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
    Loader,
    MaxPixels,
    Out,
    PixelRange,
    RecipeFile,
    Remat,
    Resume,
    SetValues,
    WarmupEpochs,
    WeightDecay,
    WhiteLevel,
    Workers,
    shown_bands,
)
from keras_mae.cli.pretrain_options import (
    BandGroups,
    BaseLearningRate,
    Channels,
    ClassTokens,
    CropArea,
    CropsPerImage,
    DecayEpochs,
    DecoderChoice,
    DtypePolicy,
    Flip,
    FuseBlocks,
    Images,
    ImageSize,
    ListPresets,
    MaskCell,
    MaskingChoice,
    MaskRatio,
    MasksPerImage,
    NewDecoder,
    NormPixLoss,
    OptimizerChoice,
    PatchSize,
    Precision,
    PredictRatio,
    PresetName,
    PretrainSeed,
    PretrainSizeChoice,
    ProbeData,
    ProbeEvery,
    RankMeEvery,
    ScheduleChoice,
    Shift,
    TargetChoice,
    TargetName,
    Teacher,
    Validation,
    Watch,
    WatchImages,
    Weights,
)
from keras_mae.cli.runs import begun_recipe, run_directory, run_name, say, say_files, say_plan, with_metadata
from keras_mae.cli.shapes import image_shape, shown
from keras_mae.cli.starting import start
from keras_mae.cli.told import Told
from keras_mae.cli.watching import probed, ranked, watched

__all__ = ["pretrain"]


def pretrain(
    context: typer.Context,
    data: Images = "digits",
    model: PresetName = None,
    weights: Weights = None,
    new_decoder: NewDecoder = False,
    image_size: ImageSize = None,
    patch_size: PatchSize = None,
    channels: Channels = None,
    class_tokens: ClassTokens = 1,
    recipe_file: RecipeFile = None,
    set_: SetValues = None,
    size: PretrainSizeChoice = None,
    epochs: Epochs = None,
    warmup_epochs: WarmupEpochs = None,
    batch_size: BatchSize = None,
    gradient_accumulation_steps: AccumulationSteps = None,
    base_learning_rate: BaseLearningRate = None,
    weight_decay: WeightDecay = None,
    optimizer: OptimizerChoice = None,
    ema_momentum: EmaMomentum = None,
    schedule: ScheduleChoice = None,
    decay_epochs: DecayEpochs = None,
    mask_ratio: MaskRatio = None,
    masking: MaskingChoice = None,
    mask_cell: MaskCell = None,
    norm_pix_loss: NormPixLoss = None,
    target: TargetChoice = None,
    teacher: Teacher = None,
    band_groups: BandGroups = None,
    masks_per_image: MasksPerImage = None,
    decoder: DecoderChoice = None,
    fuse_blocks: FuseBlocks = None,
    predict_ratio: PredictRatio = None,
    crop_area: CropArea = None,
    shift: Shift = None,
    flip: Flip = None,
    crops_per_image: CropsPerImage = 1,
    validation: Validation = None,
    allow_damaged: AllowDamaged = 0.0,
    pixel_range: PixelRange = (0.0, 255.0),
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    bands: Bands = None,
    loader: Loader = None,
    workers: Workers = None,
    precision: DtypePolicy = Precision.float32,
    remat: Remat = False,
    seed: PretrainSeed = 0,
    list_presets: ListPresets = False,
    out: Out = None,
    distribution: Distribution = Engine.auto,
    watch: Watch = None,
    watch_images: WatchImages = None,
    probe_every: ProbeEvery = None,
    probe_data: ProbeData = None,
    rankme_every: RankMeEvery = None,
    resume: Resume = False,
    allow_changed: AllowChanged = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
) -> None:
    """Pre-train a masked autoencoder.

    It leaves a run directory with the model, its encoder, losses and pictures. Without arguments: 1,437 digits, a
    micro ViT, a minute or two on a laptop. What no option says is the recipe's, which is printed and fits the data;
    --size base, large or huge is the one for ImageNet in the authors' repository. The run's recipe.toml holds all
    that it was told: --recipe FILE runs it again.

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
    from keras_mae.data import BUILTIN
    from keras_mae.recipes import PretrainRecipe

    told = Told(context)
    saving = training.Saving(resume, checkpoint_steps, checkpoint_minutes, allow_changed)
    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = run_directory(run_name(data), out, resume, devices)
        begun = begun_recipe(directory, resume)
        begin = start(data, model, weights, patch_size, class_tokens, new_decoder)
        images = training.open_unlabeled(
            data,
            image_shape(data, begin.image_shape, image_size, channels),
            validation=validation,
            seed=seed,
            allow_damaged=allow_damaged,
            pixel_range=pixel_range,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        crops = _crops(crop_area, shift, flip)
        options = {
            "epochs": epochs,
            "warmup_epochs": warmup_epochs,
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
            "band_groups": _groups(band_groups),
            "masks_per_image": masks_per_image,
            "predict_ratio": predict_ratio,
            "decoder": decoder and decoder.value,
            "fuse_blocks": _blocks(fuse_blocks),
            **crops,
            "seed": seed,
        }
        told.check_size(size)
        chosen = str(size or default_size(data, "photos"))
        recipe = sized_recipe(PretrainRecipe, chosen, len(images.train))
        given = told.given(options)
        if begun and given["warmup_epochs"] is None and "wsd" in (given["schedule"], told.fields.get("schedule")):
            given["warmup_epochs"] = begun.warmup_epochs  # a run that may now be made longer
        recipe = chosen_recipe(recipe, begun, given, size, told.fields)
        check_crops(crop_area, images.train.sized)
        if flip and begun is None and not (recipe.crop_area and not images.train.sized) and not recipe.shift:
            raise ValueError(
                "`flip` mirrors images that are cropped or moved, and these are taken whole: give --shift as well. "
                "Received: --flip"
            )
        feed = images.feed(recipe, crops_per_image=crops_per_image, loader=loader, workers=workers)
        keras.utils.set_random_seed(recipe.seed)
        fixed = dict(recipe.model_arguments)
        if teacher is not None:
            fixed["target"] = keras_mae.targets.Teacher.from_preset(teacher, dtype=precision.value)
            feed["metadata"]["teacher"] = Path(teacher).name
        mae = begin.model(
            images.train.image_shape,
            pixel_range=pixel_range,
            decoder=recipe.decoder,
            new_decoder=new_decoder,
            dtype=precision.value,
            remat=remat,
            say=partial(say, devices),
            **fixed,
        )
        feed["metadata"] |= begin.metadata or {}
        shapes: dict[str, Any] = {"patch_size": shown(begin.patch_size)}
        if data not in BUILTIN:  # whose images have a size of their own
            shapes |= {"image_size": shown(images.train.image_shape[:2]), "channels": images.train.image_shape[2]}
        shape, backend = "x".join(map(str, images.train.image_shape)), keras.backend.backend()
        count = len(images.train)
        if images.validation is not None:
            say(devices, f"{len(images.validation):,} of {count + len(images.validation):,} images are held out")
        say(devices, f"{begin.name}: {mae.count_params():,} parameters, {count:,} images of {shape}, {backend}")
        say(devices, feed["recipe"])
        say_plan(devices, feed["recipe"])
        if not mae.predicts_pixels:
            say(devices, f"no pictures: the model predicts {mae.target_description}")
        levels: dict[str, Any] = {
            "pixel_range": pixel_range,
            "white_level": white_level,
            "max_pixels": max_pixels,
        }
        callbacks = probed(probe_every, probe_data, data, images, devices, seed=recipe.seed, **levels)
        callbacks += ranked(rankme_every, images, devices)
        callbacks += watched(watch, watch_images, images, directory, devices, bands=shown_bands(bands), **levels)
        training.run_pretraining(
            mae,
            **with_metadata(feed, recipe_size=chosen),
            run_directory=directory,
            bands=shown_bands(bands),
            callbacks=callbacks,
            saving=saving,
            settings=told.settings(
                default_for(data), shapes, size=chosen, **({"model": begin.preset} if begin.preset else {})
            ),
        )
        say_files(devices, directory)


def _blocks(text: str | None) -> tuple[int, ...] | None:
    """Return indices of blocks as they are written: 0,2,5."""
    try:
        return None if text is None else tuple(int(index) for index in text.split(","))
    except ValueError:
        raise ValueError(f"`fuse_blocks` must be integers with commas between. Received: {text}") from None


def _groups(text: str | None) -> tuple[tuple[int, ...], ...] | None:
    """Return groups of bands as they are written: 0,1,2/3,4."""
    try:
        return (
            None
            if text is None
            else tuple(tuple(int(band) for band in group.split(",")) for group in text.split("/"))
        )
    except ValueError:
        raise ValueError(
            f"`band_groups` must be integers with commas between, in groups with slashes between. Received: {text}"
        ) from None


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
