"""`keras-mae finetune`, `probe` and `knn`: what a pre-trained encoder is worth."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_mae.cli.app import app, crop_of, load, next_run


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
_Out = Annotated[Path | None, typer.Option(help="Run directory; by default the next free runs/PROTOCOL-DATA-N.")]
_Labels = Annotated[int | None, typer.Option(help="How many of the labelled images to train on; all by default.")]
_Seed = Annotated[int, typer.Option(help="Of weights, draws and data order.")]


@app.command()
def finetune(
    model: _Model,
    data: _Labelled = "digits",
    test: _Test = None,
    labels: _Labels = None,
    blocks: Annotated[
        float | None, typer.Option(help="Train the last 0, 0.5, 1, ... blocks only (partial fine-tuning).")
    ] = None,
    size: Annotated[
        RecipeSize, typer.Option(help="Recipe: small_images, or ImageNet's for this ViT.")
    ] = RecipeSize.small_images,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; the recipe's by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images behind one update; the recipe's by default.")] = None,
    base_learning_rate: Annotated[float | None, typer.Option(help="For 256 images; the recipe's by default.")] = None,
    layer_decay: Annotated[float | None, typer.Option(help="The recipe's by default.")] = None,
    drop_path_rate: Annotated[float | None, typer.Option(help="The recipe's by default.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of a folder's images; the model's by default.")] = None,
    seed: _Seed = 0,
    out: _Out = None,
) -> None:
    """Turn MODEL's encoder into a classifier of labelled images, and leave a run directory."""
    import keras

    import keras_mae

    encoder = _encoder(model)
    shape = (image_size, image_size, encoder.image_shape[2]) if image_size else encoder.image_shape
    train, held_out, classes = _labelled(data, test, shape, labels, seed)
    recipe = _recipe(
        keras_mae.recipes.fine_tune(size.value),
        len(train),
        epochs=epochs,
        batch_size=batch_size,
        base_learning_rate=base_learning_rate,
        layer_decay=layer_decay,
        drop_path_rate=drop_path_rate,
        seed=seed,
    )
    keras.utils.set_random_seed(seed)
    dataset, evaluated = _datasets(train, held_out, recipe, len(classes))
    directory = out or next_run(f"finetune-{Path(data).name}")
    typer.echo(recipe)
    keras_mae.training.fine_tune(encoder, dataset, evaluated, classes, recipe, directory, blocks, shape)
    _say_scores(directory)


@app.command()
def probe(
    model: _Model,
    data: _Labelled = "digits",
    test: _Test = None,
    labels: _Labels = None,
    size: Annotated[
        RecipeSize, typer.Option(help="Recipe: small_images, or ImageNet's for this ViT.")
    ] = RecipeSize.small_images,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; the recipe's by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images behind one update; the recipe's by default.")] = None,
    base_learning_rate: Annotated[float | None, typer.Option(help="For 256 images; the recipe's by default.")] = None,
    seed: _Seed = 0,
    out: _Out = None,
) -> None:
    """Train a linear probe on MODEL's frozen encoder, and leave a run directory."""
    import keras

    import keras_mae

    encoder = _encoder(model)
    train, held_out, classes = _labelled(data, test, encoder.image_shape, labels, seed)
    recipe = _recipe(
        keras_mae.recipes.linear_probe(size.value),
        len(train),
        epochs=epochs,
        batch_size=batch_size,
        base_learning_rate=base_learning_rate,
        seed=seed,
    )
    keras.utils.set_random_seed(seed)
    dataset, evaluated = _datasets(train, held_out, recipe, len(classes))
    directory = out or next_run(f"probe-{Path(data).name}")
    typer.echo(recipe)
    keras_mae.training.linear_probe(encoder, dataset, evaluated, classes, recipe, directory)
    _say_scores(directory)


@app.command()
def knn(
    model: _Model,
    data: _Labelled = "digits",
    test: _Test = None,
    labels: _Labels = None,
    k: Annotated[int, typer.Option(help="Neighbours that vote.")] = 20,
    temperature: Annotated[float, typer.Option(help="The smaller, the more the nearest count.")] = 0.07,
    pooling: Annotated[Pooling, typer.Option(help="What an image's feature vector is.")] = Pooling.token,
    seed: _Seed = 0,
    out: _Out = None,
) -> None:
    """Classify by the nearest neighbours of MODEL's features, and leave a run directory."""
    import keras_mae

    encoder = _encoder(model)
    train, held_out, classes = _labelled(data, test, encoder.image_shape, labels, seed)
    dataset, evaluated = (
        keras_mae.data.make_dataset(part, min(256, len(part)), shuffle=False) for part in (train, held_out)
    )
    directory = out or next_run(f"knn-{Path(data).name}")
    keras_mae.training.knn(encoder, dataset, evaluated, classes, directory, k, temperature, pooling.value)
    _say_scores(directory)


def _encoder(path: Path) -> Any:
    loaded = load(path)
    return getattr(loaded, "encoder", loaded)


def _labelled(
    data: str, test: Path | None, image_shape: tuple[int, int, int], labels: int | None, seed: int
) -> tuple[Any, Any, list[str]]:
    """The source to train on, the one to evaluate on, and the classes."""
    import numpy as np

    from keras_mae import data as keras_mae_data

    generator = np.random.default_rng(seed)
    train: Any
    held_out: Any
    if data in keras_mae_data.NAMES:
        train, held_out = (
            keras_mae_data.ArraySource(*keras_mae_data.load(data, split)) for split in ("train", "test")
        )
        if train.image_shape != image_shape or test is not None:
            raise ValueError(
                f"{data} has a test set of its own and images of {train.image_shape}. "
                f"Received: a model for {image_shape}" + ("" if test is None else f", --test {test}")
            )
        classes = list(keras_mae_data.CLASSES[data])
    else:
        train = _folder(data, image_shape)
        classes = train.classes
        if test is not None:
            held_out = _folder(test, image_shape)
            if held_out.classes != classes:
                raise ValueError(
                    f"DATA and --test must hold the same classes. Received: {classes} and {held_out.classes}"
                )
        else:
            order = generator.permutation(len(train))
            kept = max(len(train) // 10, 1)
            train, held_out = keras_mae_data.Subset(train, order[kept:]), keras_mae_data.Subset(train, order[:kept])
            typer.echo(f"{kept} of {len(order)} images are kept to evaluate on")
    if labels is not None:
        if not 0 < labels <= len(train):
            raise ValueError(
                f"`labels` must be in [1, {len(train)}], the images there are. Received: labels={labels}"
            )
        train = keras_mae_data.Subset(train, generator.permutation(len(train))[:labels])
    return train, held_out, classes


def _folder(directory: str | Path, image_shape: tuple[int, int, int]) -> Any:
    from keras_mae import data as keras_mae_data

    folder = keras_mae_data.open_directory(directory, image_shape[:2], image_shape[2], labelled=True)
    if isinstance(folder, keras_mae_data.Stream):
        raise ValueError(
            f"This takes images by index. Received: {str(directory)!r}, prepared as TFRecord: prepare it with "
            "--format array_record"
        )
    return folder


def _recipe(recipe: Any, images: int, **asked: Any) -> Any:
    """The recipe with what was asked for, its batch no larger than the data and its warm-up within its epochs."""
    from dataclasses import replace

    changes = {name: value for name, value in asked.items() if value is not None}
    changes["batch_size"] = min(changes.get("batch_size", recipe.batch_size), images)
    epochs = changes.get("epochs", recipe.epochs)
    if recipe.warmup_epochs >= epochs:
        changes["warmup_epochs"] = max(epochs // 10, 0)
    return replace(recipe, **changes)


def _datasets(train: Any, held_out: Any, recipe: Any, classes: int) -> tuple[Any, Any]:
    from dataclasses import replace

    from keras_mae import data as keras_mae_data

    crop, evaluated = None, None
    augmentation = dict(recipe.augmentation)
    if not train.sized:
        crop = crop_of(recipe)
        if recipe.crop is not None:  # mirrored on the way: ten times faster than in the augmentation
            crop = replace(crop, flip=augmentation.pop("flip"))
        evaluated = keras_mae_data.CenterCrop(**recipe.evaluation_crop(min(train.image_shape[:2])))
    dataset = keras_mae_data.make_dataset(
        train,
        recipe.step_batch_size,
        seed=recipe.seed,
        drop_remainder=True,
        crop=crop,
        augment=keras_mae_data.Augmentation(classes, **augmentation),
    )
    batch = min(256, len(held_out))
    return dataset, keras_mae_data.make_dataset(held_out, batch, shuffle=False, crop=evaluated)


def _say_scores(directory: Path) -> None:
    scores = json.loads((directory / "metrics.json").read_text())
    typer.echo(
        f"accuracy {scores['accuracy']:.2%} on {scores['images']:,} images not trained on; "
        f"{directory}: {', '.join(sorted(path.name for path in directory.iterdir()))}"
    )
