"""`keras-mae finetune` and `probe`: what a pre-trained encoder is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_mae.cli.choosing import (
    MOST_IN_FOLDERS,
    SMALL_IMAGES,
    check_crops,
    chosen_recipe,
    default_for,
    default_size,
    fitted_recipe,
    sized_recipe,
    untuned_recipe,
)
from keras_mae.cli.finetune_options import (
    BestEpoch,
    ClassWeights,
    CropArea,
    Cutmix,
    DropPathRate,
    Flip,
    LabelSmoothing,
    LayerDecay,
    Mixup,
    Monitor,
    Patience,
    RandAugment,
    RandomErasing,
    Shift,
    Validation,
)
from keras_mae.cli.options import (
    AccumulationSteps,
    AllowChanged,
    BaseLearningRate,
    BatchSize,
    CacheFeatures,
    CheckpointMinutes,
    CheckpointSteps,
    Distribution,
    EmaMomentum,
    Engine,
    Epochs,
    LabeledData,
    Loader,
    MaxPixels,
    NumLabels,
    Out,
    Pooling,
    Pretrained,
    RecipeFile,
    Remat,
    Resume,
    Seed,
    SetValues,
    Size,
    TestFolder,
    WarmupEpochs,
    WeightDecay,
    WhiteLevel,
    Workers,
)
from keras_mae.cli.runs import (
    begun_recipe,
    draws_balanced,
    encoder_of,
    held_out_share,
    identified,
    resolved,
    run_directory,
    run_name,
    say,
    say_plan,
    say_scores,
)
from keras_mae.cli.scoring import SCORED, open_images
from keras_mae.cli.shapes import shown, side_lengths
from keras_mae.cli.told import Told

if TYPE_CHECKING:
    from keras_mae.distribution import Devices

__all__ = ["finetune", "probe"]


def finetune(
    context: typer.Context,
    model: Pretrained,
    data: LabeledData = "digits",
    test: TestFolder = None,
    validation: Validation = None,
    num_labels: NumLabels = None,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    trainable_blocks: Annotated[
        float | None, typer.Option(help="Number of last blocks to train: 0, 0.5, 1, ...; all by default.")
    ] = None,
    pooling: Pooling = None,
    recipe_file: RecipeFile = None,
    set_: SetValues = None,
    size: Size = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    gradient_accumulation_steps: AccumulationSteps = None,
    base_learning_rate: BaseLearningRate = None,
    warmup_epochs: WarmupEpochs = None,
    weight_decay: WeightDecay = None,
    layer_decay: LayerDecay = None,
    drop_path_rate: DropPathRate = None,
    crop_area: CropArea = None,
    flip: Flip = None,
    shift: Shift = None,
    rand_augment: RandAugment = None,
    random_erasing: RandomErasing = None,
    mixup: Mixup = None,
    cutmix: Cutmix = None,
    label_smoothing: LabelSmoothing = None,
    class_weights: ClassWeights = None,
    ema_momentum: EmaMomentum = None,
    best_epoch: BestEpoch = None,
    patience: Patience = None,
    monitor: Monitor = None,
    loader: Loader = None,
    workers: Workers = None,
    remat: Remat = False,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Size of a folder's images in pixels, such as 224 or 96x192 (height, width); else the model's.",
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
    """Fine-tune MODEL's encoder on labeled images.

    It leaves a run directory with the classifier, its scores and curves. The run can be spread over devices, and
    resumed if it was killed: see the help of pretrain. A run of several processes leaves no scores; evaluate does.

    --best-epoch and --patience look at images that are held out of the training for that, and not at those that
    score the classifier.
    """
    import keras

    import keras_mae

    told = Told(context)
    saving = keras_mae.training.Saving(resume, checkpoint_steps, checkpoint_minutes, allow_changed)
    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = run_directory(f"finetune-{run_name(data)}", out, resume, devices)
        encoder = encoder_of(model)
        encoder.remat = remat
        sides = side_lengths("image_size", image_size) or encoder.image_shape[:2]
        shape = (*sides, encoder.image_shape[2])
        options = {
            "epochs": epochs,
            "batch_size": batch_size,
            "gradient_accumulation_steps": gradient_accumulation_steps,
            "base_learning_rate": base_learning_rate,
            "warmup_epochs": warmup_epochs,
            "weight_decay": weight_decay,
            "layer_decay": layer_decay,
            "drop_path_rate": drop_path_rate,
            **_crop(crop_area),
            "flip": flip,
            "shift": shift,
            "rand_augment": rand_augment,
            "random_erasing": random_erasing,
            "mixup": mixup,
            "cutmix": cutmix,
            "label_smoothing": label_smoothing,
            "class_weights": class_weights,
            "ema_momentum": ema_momentum,
            "best_epoch": best_epoch,
            "patience": patience,
            "monitor": monitor,
            "pooling": pooling,
            "seed": seed,
        }
        given = told.given(options)
        held_out = held_out_share(validation, given, told.fields)
        images = open_images(
            data,
            encoder,
            devices,
            image_shape=shape,
            test=test,
            validation=held_out,
            num_labels=num_labels,
            balanced=draws_balanced(directory, resume),
            seed=seed,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        told.check_size(size)
        chosen = str(size or default_size(data, SMALL_IMAGES))
        builtin = data in keras_mae.data.BUILTIN
        count = len(images.train) if builtin else min(len(images.train), MOST_IN_FOLDERS)
        recipe = sized_recipe(keras_mae.recipes.FineTuneRecipe, chosen, count)
        recipe = untuned_recipe(recipe, data)
        if chosen == SMALL_IMAGES and not builtin:  # whose objects may be anywhere
            recipe = fitted_recipe(recipe, data, pooling="mean")
        if data == "digits":  # which mean nothing, or another digit, in a mirror
            recipe = fitted_recipe(recipe, data, flip=False)
        recipe = chosen_recipe(recipe, begun_recipe(directory, resume), given, size, told.fields)
        check_crops(crop_area, images.train.sized)
        feed = images.feed(recipe, loader=loader, workers=workers)
        say(devices, feed["recipe"])
        say_plan(devices, feed["recipe"])
        keras.utils.set_random_seed(feed["recipe"].seed)
        keras_mae.training.run_fine_tuning(
            encoder,
            **identified(feed, model, chosen),
            run_directory=directory,
            trainable_blocks=trainable_blocks,
            image_shape=shape,
            saving=saving,
            settings=told.settings(
                default_for(data), {"image_size": shown(sides)}, size=chosen, **resolved(held_out)
            ),
        )
        _say_end(devices, directory)


def probe(
    context: typer.Context,
    model: Pretrained,
    data: LabeledData = "digits",
    test: TestFolder = None,
    num_labels: NumLabels = None,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    pooling: Pooling = None,
    recipe_file: RecipeFile = None,
    set_: SetValues = None,
    size: Size = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    base_learning_rate: BaseLearningRate = None,
    cache_features: CacheFeatures = None,
    loader: Loader = None,
    workers: Workers = None,
    seed: Seed = 0,
    out: Out = None,
    distribution: Distribution = Engine.auto,
    resume: Resume = False,
    allow_changed: AllowChanged = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
) -> None:
    """Train a probe on MODEL's frozen features.

    A linear one, or, with --pooling attentive, an attentive one. It leaves a run directory with the classifier, its
    scores and curves; see the help of finetune. Features are computed once where images are the same in every epoch,
    as the recipe for small images has them.
    """
    import keras

    import keras_mae

    told = Told(context)
    saving = keras_mae.training.Saving(resume, checkpoint_steps, checkpoint_minutes, allow_changed)
    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = run_directory(f"probe-{run_name(data)}", out, resume, devices)
        begun = begun_recipe(directory, resume)
        encoder = encoder_of(model)
        images = open_images(
            data,
            encoder,
            devices,
            test=test,
            num_labels=num_labels,
            balanced=draws_balanced(directory, resume),
            seed=seed,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        options = {
            "epochs": epochs,
            "batch_size": batch_size,
            "base_learning_rate": base_learning_rate,
            "clamp_crops": getattr(begun, "clamp_crops", None),  # earlier versions drew crops otherwise
            "pooling": pooling,
            "seed": seed,
            **({"crop_area": None, "flip": False} if cache_features else {}),
        }
        given = told.given(options)
        told.check_size(size)
        chosen = str(size or default_size(data, SMALL_IMAGES))
        recipe = sized_recipe(keras_mae.recipes.LinearProbeRecipe, chosen, len(images.train))
        if data not in keras_mae.data.BUILTIN:  # whose objects may be anywhere, and whose patches too many to keep
            recipe = fitted_recipe(recipe, data, pooling="token")
        recipe = chosen_recipe(recipe, begun, given, size, told.fields)
        feed = images.feed(recipe, loader=loader, workers=workers)
        say(devices, feed["recipe"])
        say_plan(devices, feed["recipe"])
        keras.utils.set_random_seed(feed["recipe"].seed)
        keras_mae.training.run_linear_probe(
            encoder,
            **identified(feed, model, chosen),
            run_directory=directory,
            cache_features=cache_features,
            saving=saving,
            settings=told.settings(default_for(data), size=chosen),
        )
        _say_end(devices, directory)


def _crop(smallest: float | None) -> dict[str, Any]:
    """Return the field of the recipe that --crop-area says."""
    return {} if smallest is None else {"crop_area": None if smallest == 1 else (smallest, 1.0)}


def _say_end(devices: Devices, directory: Path) -> None:
    from keras_mae import training

    if devices.processes == 1:
        say_scores(directory, SCORED)
    else:
        say(
            devices,
            f"{directory}: keras-mae evaluate {directory / training.RunFile.CLASSIFIER} DATA scores all test images",
        )
