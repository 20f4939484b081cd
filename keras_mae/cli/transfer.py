"""`keras-mae finetune`, `probe`, `knn` and `evaluate`: what a pre-trained encoder is worth."""

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
    fingerprint,
    load,
    next_run,
    say,
    say_devices,
)


class RecipeSize(StrEnum):
    """Recipes of `keras_mae.recipes`."""

    small_images = "small_images"
    base = "base"
    large = "large"
    huge = "huge"


class Pooling(StrEnum):
    """What makes one vector of an image's tokens."""

    token = "token"
    mean = "mean"


_Model = Annotated[Path, typer.Argument(help="A saved MaskedAutoencoder or ViTEncoder.")]
_Labelled = Annotated[
    str,
    typer.Argument(
        help="digits, fashion_mnist, or a folder that holds one folder of images for each class, or is prepared so."
    ),
]
_Test = Annotated[
    Path | None,
    typer.Option(help="Folder of the images to evaluate on; without it a tenth of DATA's folder is kept for that."),
]
_NumLabels = Annotated[int | None, typer.Option(help="How many of the labelled images to train on; all by default.")]
_Seed = Annotated[int, typer.Option(help="Of weights, draws and data order.")]
_Size = Annotated[RecipeSize, typer.Option(help="Recipe: small_images, or ImageNet's for this ViT.")]
_Epochs = Annotated[int | None, typer.Option(help="Passes over the data; the recipe's by default.")]
_BatchSize = Annotated[int | None, typer.Option(help="Images behind one update; the recipe's by default.")]
_BaseLearningRate = Annotated[float | None, typer.Option(help="For 256 images; the recipe's by default.")]


@app.command()
def finetune(
    model: _Model,
    data: _Labelled = "digits",
    test: _Test = None,
    num_labels: _NumLabels = None,
    trainable_blocks: Annotated[
        float | None, typer.Option(help="Train the last 0, 0.5, 1, ... blocks only (partial fine-tuning).")
    ] = None,
    size: _Size = RecipeSize.small_images,
    epochs: _Epochs = None,
    batch_size: _BatchSize = None,
    gradient_accumulation_steps: Accumulation = None,
    base_learning_rate: _BaseLearningRate = None,
    layer_decay: Annotated[float | None, typer.Option(help="The recipe's by default.")] = None,
    drop_path_rate: Annotated[float | None, typer.Option(help="The recipe's by default.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of a folder's images; the model's by default.")] = None,
    seed: _Seed = 0,
    out: Out = None,
    distribution: Distribution = Engine.auto,
    resume: Resume = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
) -> None:
    """Turn MODEL's encoder into a classifier of labelled images, and leave a run directory.

    It is spread over devices, and goes on after it was killed, as `keras-mae pretrain` does. Several processes leave
    no scores of all test images: `keras-mae evaluate` does.
    """
    import keras_mae

    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = directory_for(f"finetune-{Path(data).name}", out, resume, devices)
        encoder = _encoder(model)
        shape = (image_size, image_size, encoder.image_shape[2]) if image_size else encoder.image_shape
        train, held_out, classes = _labelled(data, test, shape, num_labels, seed)
        recipe = _recipe(
            keras_mae.recipes.FineTuneRecipe.for_size(size.value),
            len(train),
            epochs=epochs,
            batch_size=batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            base_learning_rate=base_learning_rate,
            layer_decay=layer_decay,
            drop_path_rate=drop_path_rate,
            seed=seed,
        )
        options: dict[str, Any] = {
            "trainable_blocks": trainable_blocks,
            "image_shape": shape,
            "metadata": _metadata(model, data, test, num_labels, train),
        }
        options["saving"] = keras_mae.training.Saving(resume, checkpoint_steps, checkpoint_minutes)
        _train(
            keras_mae.training.run_fine_tuning, encoder, train, held_out, classes, recipe, directory, devices, options
        )


@app.command()
def probe(
    model: _Model,
    data: _Labelled = "digits",
    test: _Test = None,
    num_labels: _NumLabels = None,
    size: _Size = RecipeSize.small_images,
    epochs: _Epochs = None,
    batch_size: _BatchSize = None,
    base_learning_rate: _BaseLearningRate = None,
    seed: _Seed = 0,
    out: Out = None,
    distribution: Distribution = Engine.auto,
    resume: Resume = False,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    checkpoint_steps: CheckpointSteps = None,
) -> None:
    """Train a linear probe on MODEL's frozen encoder, and leave a run directory."""
    import keras_mae

    with keras_mae.distribution.scope(distribution.value) as devices:
        directory = directory_for(f"probe-{Path(data).name}", out, resume, devices)
        encoder = _encoder(model)
        train, held_out, classes = _labelled(data, test, encoder.image_shape, num_labels, seed)
        recipe = _recipe(
            keras_mae.recipes.LinearProbeRecipe.for_size(size.value),
            len(train),
            epochs=epochs,
            batch_size=batch_size,
            base_learning_rate=base_learning_rate,
            seed=seed,
        )
        options: dict[str, Any] = {"metadata": _metadata(model, data, test, num_labels, train)}
        options["saving"] = keras_mae.training.Saving(resume, checkpoint_steps, checkpoint_minutes)
        _train(
            keras_mae.training.run_linear_probe,
            encoder,
            train,
            held_out,
            classes,
            recipe,
            directory,
            devices,
            options,
        )


@app.command()
def knn(
    model: _Model,
    data: _Labelled = "digits",
    test: _Test = None,
    num_labels: _NumLabels = None,
    k: Annotated[int, typer.Option(help="Neighbours that vote.")] = 20,
    temperature: Annotated[float, typer.Option(help="The smaller, the more the nearest count.")] = 0.07,
    pooling: Annotated[Pooling, typer.Option(help="What an image's feature vector is.")] = Pooling.token,
    seed: _Seed = 0,
    out: Out = None,
) -> None:
    """Classify by the nearest neighbours of MODEL's features, and leave a run directory."""
    import keras_mae

    encoder = _encoder(model)
    train, held_out, classes = _labelled(data, test, encoder.image_shape, num_labels, seed)
    dataset, evaluated = (
        keras_mae.data.make_dataset(part, min(256, len(part)), shuffle=False) for part in (train, held_out)
    )
    directory = out or next_run(f"knn-{Path(data).name}")
    keras_mae.training.run_knn(
        encoder, dataset, evaluated, classes, directory, k=k, temperature=temperature, pooling=pooling.value
    )
    _say_scores(directory)


@app.command()
def evaluate(
    classifier: Annotated[Path, typer.Argument(help="A saved ViTClassifier, such as a run's classifier.keras.")],
    data: Annotated[
        str,
        typer.Argument(
            help="digits, fashion_mnist (their test images), or a folder of class folders, or prepared so."
        ),
    ] = "digits",
    size: Annotated[
        RecipeSize, typer.Option(help="The recipe it was trained by, which says how much of an image is looked at.")
    ] = RecipeSize.small_images,
    out: Out = None,
) -> None:
    """Score a trained CLASSIFIER on labelled images, and leave a run directory."""
    import keras_mae

    loaded = load(classifier)
    if not isinstance(loaded, keras_mae.ViTClassifier):
        raise ValueError(
            f"`classifier` must be a ViTClassifier. Received: a {type(loaded).__name__} in {str(classifier)!r}"
        )
    shape = loaded.encoder.image_shape
    test, classes = _built_in(data, "test", shape) if data in keras_mae.data.BUILTIN else _folder(data, shape)
    directory = out or next_run(f"evaluate-{Path(data).name}")
    recipe = keras_mae.recipes.FineTuneRecipe.for_size(size.value)
    keras_mae.training.run_evaluation(loaded, _in_order(test, recipe), classes, directory)
    _say_scores(directory, "images")


def _encoder(path: Path) -> Any:
    loaded = load(path)
    return getattr(loaded, "encoder", loaded)


def _labelled(
    data: str, test: Path | None, image_shape: tuple[int, int, int], num_labels: int | None, seed: int
) -> tuple[Any, Any, list[str]]:
    """The source to train on, the one to evaluate on, and the classes."""
    import numpy as np

    from keras_mae import data as keras_mae_data

    generator = np.random.default_rng(seed)
    train: Any
    held_out: Any
    if data in keras_mae_data.BUILTIN:
        if test is not None:
            raise ValueError(f"{data} has a test set of its own. Received: --test {test}")
        train, classes = _built_in(data, "train", image_shape)
        held_out, _ = _built_in(data, "test", image_shape)
    else:
        train, classes = _folder(data, image_shape)
        if test is not None:
            held_out, others = _folder(test, image_shape)
            if others != classes:
                raise ValueError(f"DATA and --test must hold the same classes. Received: {classes} and {others}")
        else:
            order = generator.permutation(len(train))
            kept = max(len(train) // 10, 1)
            train, held_out = keras_mae_data.Subset(train, order[kept:]), keras_mae_data.Subset(train, order[:kept])
            typer.echo(f"{kept} of {len(order)} images are kept to evaluate on")
    if num_labels is not None:
        if not 0 < num_labels <= len(train):
            raise ValueError(
                f"`num_labels` must be in [1, {len(train)}], the images there are. Received: num_labels={num_labels}"
            )
        train = keras_mae_data.Subset(train, generator.permutation(len(train))[:num_labels])
    return train, held_out, classes


def _built_in(name: str, split: str, image_shape: tuple[int, int, int]) -> tuple[Any, list[str]]:
    """A source of images, and their classes."""
    from keras_mae import data as keras_mae_data

    source = keras_mae_data.ArraySource(*keras_mae_data.load_builtin(name, split))
    if source.image_shape != image_shape:
        raise ValueError(f"{name} has images of {source.image_shape}. Received: a model for {image_shape}")
    return source, list(keras_mae_data.CLASS_NAMES[name])


def _folder(directory: str | Path, image_shape: tuple[int, int, int]) -> tuple[Any, list[str]]:
    """A source of images, and their classes."""
    from keras_mae import data as keras_mae_data

    folder = keras_mae_data.open_directory(directory, image_shape[:2], image_shape[2], labelled=True)
    if isinstance(folder, keras_mae_data.Stream):
        raise ValueError(
            f"This takes images by index. Received: {str(directory)!r}, prepared as TFRecord: prepare it with "
            "--format array_record"
        )
    return folder, list(folder.classes)


def _recipe(recipe: Any, images: int, **asked: Any) -> Any:
    """The recipe with what was asked for, its batch no larger than the data and its warm-up within its epochs."""
    from dataclasses import replace

    changes = {name: value for name, value in asked.items() if value is not None}
    changes["batch_size"] = min(changes.get("batch_size", recipe.batch_size), images)
    epochs = changes.get("epochs", recipe.epochs)
    if recipe.warmup_epochs >= epochs:
        changes["warmup_epochs"] = max(epochs // 10, 0)
    return replace(recipe, **changes)


def _metadata(model: Path, data: str, test: Path | None, num_labels: int | None, train: Any) -> dict[str, Any]:
    """What a run is made of besides its recipe."""
    metadata = {"model": fingerprint(model), "data": Path(data).name, "test": None if test is None else test.name}
    return {**metadata, "num_labels": num_labels, "images": len(train)}


def _train(
    protocol: Any,
    encoder: Any,
    train: Any,
    held_out: Any,
    classes: list[str],
    recipe: Any,
    directory: Path,
    devices: Any,
    options: dict[str, Any],
) -> None:
    """One of the protocols of `keras_mae.training`, and what is said of it."""
    import keras

    keras.utils.set_random_seed(recipe.seed)
    say(devices, recipe)
    say_devices(devices, recipe)
    dataset, test = _augmented(train, recipe, len(classes)), _in_order(held_out, recipe)
    whole = _in_whole_batches(held_out, recipe, devices)
    protocol(encoder, dataset, test, classes, recipe, directory, validation_data=whole, **options)
    if devices.processes == 1:
        _say_scores(directory)
    else:
        say(devices, f"{directory}: keras-mae evaluate {directory / 'classifier.keras'} DATA scores all test images")


def _augmented(train: Any, recipe: Any, classes: int) -> Any:
    """Batches to train on."""
    from dataclasses import replace

    from keras_mae import data as keras_mae_data

    crop = None
    augmentation = dict(recipe.augmentation)
    if not train.sized:
        crop = crop_of(recipe)
        if recipe.crop is not None:  # mirrored on the way: ten times faster than in the augmentation
            crop = replace(crop, flip=augmentation.pop("flip"))
    return keras_mae_data.make_dataset(
        train,
        recipe.step_batch_size,
        seed=recipe.seed,
        drop_remainder=True,
        crop=crop,
        augment=keras_mae_data.Augmentation(classes, **augmentation),
    )


def _in_order(source: Any, recipe: Any, batch_size: int = 256, **options: Any) -> Any:
    """Batches to evaluate on."""
    from keras_mae import data as keras_mae_data

    crop = None
    if not source.sized:
        crop = keras_mae_data.CenterCrop(**recipe.evaluation_crop(min(source.image_shape[:2])))
    options = {"shard": (0, 1), **options}
    return keras_mae_data.make_dataset(source, min(batch_size, len(source)), shuffle=False, crop=crop, **options)


def _in_whole_batches(source: Any, recipe: Any, devices: Any) -> Any:
    """Batches to evaluate on after every epoch, where several devices each take an equal part of every batch: of
    those of up to 256 images that leave out the fewest, the largest."""
    if devices.replicas == 1:
        return None
    sizes = range(devices.replicas, max(256, devices.replicas) + 1, devices.replicas)
    size = max(sizes, key=lambda size: (len(source) // size * size, size))
    if size > len(source):
        raise ValueError(f"{devices.replicas} devices take as many images to evaluate on. Received: {len(source)}")
    return _in_order(source, recipe, size, drop_remainder=True, shard=None)


def _say_scores(directory: Path, of: str = "images not trained on") -> None:
    from keras_mae.training import RunDirectory

    scores = RunDirectory(directory).metrics
    typer.echo(
        f"accuracy {scores['accuracy']:.2%} on {scores['images']:,} {of}; "
        f"{directory}: {', '.join(sorted(path.name for path in directory.iterdir()))}"
    )
