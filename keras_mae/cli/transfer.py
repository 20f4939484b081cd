"""`keras-mae finetune`, `probe`, `knn` and `evaluate`: what a pre-trained encoder is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_mae.cli.choosing import SMALL_IMAGES, changed_recipe, default_size, resumed_recipe, sized_recipe
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
    MaxPixels,
    NumLabels,
    Out,
    Pooling,
    PoolingName,
    Pretrained,
    RecipeSize,
    Resume,
    Seed,
    Size,
    TestFolder,
    WhiteLevel,
)
from keras_mae.cli.output import echo
from keras_mae.cli.runs import (
    begun_recipe,
    draws_balanced,
    run_directory,
    run_name,
    say,
    say_plan,
    say_scores,
    with_metadata,
)

if TYPE_CHECKING:
    from keras_mae.distribution import Devices
    from keras_mae.training import LabeledImages

__all__ = ["evaluate", "finetune", "knn", "probe"]

SCORED = "evaluation images"


def finetune(
    model: Pretrained,
    data: LabeledData = "digits",
    test: TestFolder = None,
    num_labels: NumLabels = None,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    trainable_blocks: Annotated[
        float | None, typer.Option(help="Number of last blocks to train: 0, 0.5, 1, ...; all by default.")
    ] = None,
    pooling: Pooling = None,
    size: Size = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    gradient_accumulation_steps: AccumulationSteps = None,
    base_learning_rate: BaseLearningRate = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(
            help="Factor by which the learning rate falls from each layer to the one below; the recipe's by default."
        ),
    ] = None,
    drop_path_rate: Annotated[
        float | None, typer.Option(help="Drop path rate of the last block; the recipe's by default.")
    ] = None,
    ema_momentum: EmaMomentum = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of a folder's images, in pixels; the model's by default.")
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
    """
    import keras

    import keras_mae

    saving = keras_mae.training.Saving(resume, checkpoint_steps, checkpoint_minutes, allow_changed)
    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = run_directory(f"finetune-{run_name(data)}", out, resume, devices)
        encoder = _encoder(model)
        shape = encoder.image_shape if image_size is None else (image_size, image_size, encoder.image_shape[2])
        images = _open(
            data,
            encoder,
            devices,
            image_shape=shape,
            test=test,
            num_labels=num_labels,
            balanced=draws_balanced(directory, resume),
            seed=seed,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        given = {
            "epochs": epochs,
            "batch_size": batch_size,
            "gradient_accumulation_steps": gradient_accumulation_steps,
            "base_learning_rate": base_learning_rate,
            "layer_decay": layer_decay,
            "drop_path_rate": drop_path_rate,
            "ema_momentum": ema_momentum,
            "pooling": pooling,
            "seed": seed,
        }
        chosen = str(size or default_size(data, SMALL_IMAGES))
        # How many labels need how many epochs was measured on the built-in images.
        count = len(images.train) if data in keras_mae.data.BUILTIN else None
        recipe = sized_recipe(keras_mae.recipes.FineTuneRecipe, chosen, count)
        if data == "digits":  # which mean nothing, or another digit, in a mirror
            recipe = replace(recipe, flip=False)
        recipe = resumed_recipe(recipe, begun_recipe(directory, resume), given, size)
        feed = images.feed(changed_recipe(recipe, given))
        say(devices, feed["recipe"])
        say_plan(devices, feed["recipe"])
        keras.utils.set_random_seed(seed)
        keras_mae.training.run_fine_tuning(
            encoder,
            **_identified(feed, model, chosen),
            run_directory=directory,
            trainable_blocks=trainable_blocks,
            image_shape=shape,
            saving=saving,
        )
        _say_end(devices, directory)


def probe(
    model: Pretrained,
    data: LabeledData = "digits",
    test: TestFolder = None,
    num_labels: NumLabels = None,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    pooling: Pooling = None,
    size: Size = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    base_learning_rate: BaseLearningRate = None,
    cache_features: CacheFeatures = None,
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

    saving = keras_mae.training.Saving(resume, checkpoint_steps, checkpoint_minutes, allow_changed)
    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = run_directory(f"probe-{run_name(data)}", out, resume, devices)
        begun = begun_recipe(directory, resume)
        encoder = _encoder(model)
        images = _open(
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
        given = {
            "epochs": epochs,
            "batch_size": batch_size,
            "base_learning_rate": base_learning_rate,
            "clamp_crops": getattr(begun, "clamp_crops", None),  # earlier versions drew crops otherwise
            "pooling": pooling,
            "seed": seed,
            **({"crop_area": None, "flip": False} if cache_features else {}),
        }
        chosen = str(size or default_size(data, SMALL_IMAGES))
        recipe = sized_recipe(keras_mae.recipes.LinearProbeRecipe, chosen, len(images.train))
        if data not in keras_mae.data.BUILTIN:  # whose objects may be anywhere, and whose patches too many to keep
            recipe = replace(recipe, pooling="token")
        feed = images.feed(changed_recipe(resumed_recipe(recipe, begun, given, size), given))
        say(devices, feed["recipe"])
        say_plan(devices, feed["recipe"])
        keras.utils.set_random_seed(seed)
        keras_mae.training.run_linear_probe(
            encoder,
            **_identified(feed, model, chosen),
            run_directory=directory,
            cache_features=cache_features,
            saving=saving,
        )
        _say_end(devices, directory)


def knn(
    model: Pretrained,
    data: LabeledData = "digits",
    test: TestFolder = None,
    num_labels: NumLabels = None,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    k: Annotated[int, typer.Option(help="Number of neighbors that vote.")] = 20,
    temperature: Annotated[
        float, typer.Option(help="Temperature of the votes; the lower, the more the nearest neighbors count.")
    ] = 0.07,
    pooling: Annotated[
        PoolingName,
        typer.Option(
            help="Feature vector of an image: its class token, its patches' tokens' mean, all of them one after "
            "another, or, of a MODEL that is a classifier trained with it, what its learned queries pool."
        ),
    ] = PoolingName.token,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Classify by nearest neighbors of features.

    It leaves a run directory with the scores.
    """
    from keras_mae import convert, distribution, training

    devices = distribution.current()
    loaded = convert.load_model(model)
    encoder = getattr(loaded, "encoder", loaded)
    images = _open(
        data,
        encoder,
        devices,
        test=test,
        num_labels=num_labels,
        balanced=True,
        seed=seed,
        white_level=white_level,
        max_pixels=max_pixels,
    )
    directory = run_directory(f"knn-{run_name(data)}", out, False, devices)
    training.run_knn(
        loaded if _is_attentive(loaded, pooling) else encoder,
        training.evaluation_batches(images.train),
        training.evaluation_batches(images.test),
        directory,
        k=k,
        temperature=temperature,
        pooling=pooling.value,
    )
    say_scores(directory, SCORED)


def evaluate(
    classifier: Annotated[Path, typer.Argument(help="Saved ViTClassifier, such as a run's classifier.keras.")],
    data: Annotated[
        str,
        typer.Argument(
            help="digits or fashion_mnist, of which the test images are used, or a folder with one folder of images "
            "per class, or one prepared from such a folder as array_record; or arrays in a file: "
            "FILE::IMAGES::LABELS."
        ),
    ] = "digits",
    size: Annotated[
        RecipeSize,
        typer.Option(help="Recipe the classifier was trained by: it says how much of each image to look at."),
    ] = RecipeSize.small_images,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    out: Out = None,
) -> None:
    """Score a trained CLASSIFIER on labeled images.

    Classes go by their names, not by their order: a folder may lack some of the classifier's, but hold no others. It
    leaves a run directory with the scores.
    """
    import keras_mae
    from keras_mae import _class_names, convert, training

    loaded = convert.load_model(classifier)
    if not isinstance(loaded, keras_mae.ViTClassifier):
        raise ValueError(
            f"`classifier` must be a ViTClassifier. Received: a {type(loaded).__name__} in {str(classifier)!r}"
        )
    images = training.open_test(
        data,
        loaded.encoder.image_shape,
        pixel_range=loaded.encoder.pixel_range,
        white_level=white_level,
        max_pixels=max_pixels,
    )
    if loaded.class_names is None:
        echo(_class_names.by_place(images.class_names or (), loaded.num_classes))
        loaded.class_names = images.class_names
    recipe = keras_mae.recipes.FineTuneRecipe.for_size(size.value)
    directory = run_directory(f"evaluate-{run_name(data)}", out, False, keras_mae.distribution.current())
    training.run_evaluation(loaded, training.evaluation_batches(images, recipe), directory)
    say_scores(directory, "images")


def _encoder(path: Path) -> Any:
    """Return a saved encoder, also one that is part of a larger model."""
    from keras_mae import convert

    loaded = convert.load_model(path)
    return getattr(loaded, "encoder", loaded)


def _is_attentive(loaded: Any, pooling: PoolingName) -> bool:
    """Return whether attentive pooling is asked for, and is what this model was trained with."""
    return pooling is PoolingName.attentive and getattr(loaded, "pooling", None) == pooling.value


def _open(
    data: str, encoder: Any, devices: Devices, image_shape: tuple[int, int, int] | None = None, **options: Any
) -> LabeledImages:
    """Open labeled images, and print how many of them were held out if nobody said which."""
    from keras_mae import training

    shape = encoder.image_shape if image_shape is None else image_shape
    images = training.open_labeled(data, shape, pixel_range=encoder.pixel_range, **options)
    if images.held_out:
        say(devices, f"{images.held_out} of {images.total} images are kept to evaluate on")
    return images


def _identified(feed: Any, model: Path, size: str) -> dict[str, Any]:
    """Return a feed whose metadata tell its model's file from another one, too, and name its recipe."""
    from keras_mae import _files

    return with_metadata(feed, model=_files.sha256(model)[:16], recipe_size=size)


def _say_end(devices: Devices, directory: Path) -> None:
    from keras_mae import training

    if devices.processes == 1:
        say_scores(directory, SCORED)
    else:
        say(
            devices,
            f"{directory}: keras-mae evaluate {directory / training.RunFile.CLASSIFIER} DATA scores all test images",
        )
