"""`keras-mae knn` and `evaluate`: scores, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_mae.cli.choosing import SMALL_IMAGES
from keras_mae.cli.options import (
    LabeledData,
    Masks,
    MaxPixels,
    NumLabels,
    Out,
    PoolingName,
    Pretrained,
    RecipeSize,
    ReduceZeroLabel,
    Seed,
    Split,
    TestFolder,
    WhiteLevel,
)
from keras_mae.cli.output import echo
from keras_mae.cli.runs import run_directory, run_name, say_held_out, say_pixel_scores, say_scores

if TYPE_CHECKING:
    from keras_mae.distribution import Devices
    from keras_mae.training import LabeledImages

__all__ = ["SCORED", "check_classifier", "evaluate", "knn", "open_images", "refuse_size"]

SCORED = "evaluation images"


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
    directory = run_directory(f"knn-{run_name(data)}", out, False, devices)
    loaded = convert.load_model(model)
    encoder = getattr(loaded, "encoder", loaded)
    images = open_images(
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
    model: Annotated[
        Path,
        typer.Argument(
            help="Saved ViTClassifier or ViTSegmenter, such as a run's classifier.keras or segmenter.keras."
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="digits or fashion_mnist, of which the test images are used, or a folder with one folder of images "
            "per class, or one prepared from such a folder as array_record; or arrays in a file: "
            "FILE::IMAGES::LABELS. For a segmenter, a folder of images and masks, as for segment."
        ),
    ] = "digits",
    size: Annotated[
        RecipeSize | None,
        typer.Option(
            help="Recipe that a classifier was trained by, small_images by default: it says how much of each image "
            "to look at."
        ),
    ] = None,
    masks: Masks = None,
    split: Split = None,
    reduce_zero_label: ReduceZeroLabel = None,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    out: Out = None,
) -> None:
    """Score a trained MODEL on labeled images.

    A segmenter is scored on images with masks. A classifier's classes go by their names, not by their order: a folder
    may lack some of the classifier's, but hold no others. It leaves a run directory with the scores.
    """
    import keras_mae
    from keras_mae import _class_names, convert, training

    directory = run_directory(f"evaluate-{run_name(data)}", out, False, keras_mae.distribution.current())
    loaded = convert.load_model(model)
    if isinstance(loaded, keras_mae.ViTSegmenter):
        refuse_size(size)
        pairs = training.open_test_pairs(
            data,
            loaded,
            masks=masks,
            split=split,
            reduce_zero_label=reduce_zero_label,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        training.run_segmentation_scores(loaded, pairs, directory)
        return say_pixel_scores(directory, "images")
    check_classifier(loaded, model)
    for name, value in {"masks": masks, "split": split, "reduce_zero_label": reduce_zero_label}.items():
        if value is not None:
            raise ValueError(f"`{name}` is for segmenters. Received: {name}={value} for a ViTClassifier")
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
    recipe = keras_mae.recipes.FineTuneRecipe.for_size(str(size or SMALL_IMAGES))
    training.run_evaluation(loaded, training.evaluation_batches(images, recipe), directory)
    say_scores(directory, "images")


def check_classifier(loaded: Any, file: Path) -> None:
    """Raise ValueError unless a model that was loaded is a classifier."""
    import keras_mae

    if not isinstance(loaded, keras_mae.ViTClassifier):
        raise ValueError(
            f"`model` must be a ViTClassifier or a ViTSegmenter. Received: a {type(loaded).__name__} in {str(file)!r}"
        )


def refuse_size(size: str | None) -> None:
    """Raise ValueError if a classifier's recipe was named for a segmenter, which looks at whole images."""
    if size is not None:
        raise ValueError(f"`size` is for classifiers. Received: --size {size} for a ViTSegmenter")


def _is_attentive(loaded: Any, pooling: PoolingName) -> bool:
    """Return whether attentive pooling is asked for, and is what this model was trained with."""
    return pooling is PoolingName.attentive and getattr(loaded, "pooling", None) == pooling.value


def open_images(
    data: str, encoder: Any, devices: Devices, image_shape: tuple[int, int, int] | None = None, **options: Any
) -> LabeledImages:
    """Open labeled images, and print how many of them were held out if nobody said which."""
    from keras_mae import training

    shape = encoder.image_shape if image_shape is None else image_shape
    images = training.open_labeled(data, shape, pixel_range=encoder.pixel_range, **options)
    say_held_out(devices, images)
    return images
