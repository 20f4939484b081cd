"""Pre-training and the transfer protocols as runs, each of which leaves a directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae import _checks, distribution, transfer, visualize
from keras_mae.classifier import ViTClassifier, check_labels
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, Recipe, check_recipe
from keras_mae.training.runner import check_free, run, write, write_history, write_json
from keras_mae.transfer.features import batches
from keras_mae.transfer.fine_tuning import compiled_classifier, length
from keras_mae.transfer.probing import compiled_probe


def run_pretraining(
    model: MaskedAutoencoder,
    dataset: Any,
    recipe: PretrainRecipe,
    run_directory: str | Path,
    examples: np.ndarray,
    validation_data: Any = None,
    jit_compile: bool | str = "auto",
    metadata: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Pre-train `model` and leave `model.keras` (with its optimizer), `encoder.keras`, `history.csv`, `recipe.json`,
    `loss.png` and, if trained in one process, `reconstructions.png`.

    Args:
        model: What to train, not yet compiled. Its masking and target are its own: make it by the recipe.
        dataset: Batches of images, with a length.
        recipe: The numbers.
        run_directory: A folder that does not exist or is empty.
        examples: Images (n, height, width, channels) for `reconstructions.png`.
        validation_data: Batches to evaluate after every epoch.
        jit_compile: As in `keras.Model.compile`.
        metadata: What else the run is made of, such as its data, JSON values by name: for `recipe.json`, and for
            `resume` to tell this run from another one.
        options: `callbacks`, `console`, `resume`, `checkpoint_steps` and `checkpoint_minutes`: see `run`, also for
            what becomes of a run that is interrupted.

    Returns:
        The run directory.

    Raises:
        ValueError: If the model is not the recipe's; and as `run`.
    """
    check_recipe(recipe, PretrainRecipe)
    for name, own in (
        ("mask_ratio", model.masking.mask_ratio),
        ("norm_pix_loss", model.norm_pix_loss),
        ("masks_per_image", model.masks_per_image),
    ):
        if own != getattr(recipe, name):
            raise ValueError(f"Model and recipe must agree. Received: {name}={own} and {getattr(recipe, name)}")
    steps = length(dataset)
    metadata = _metadata(model, recipe, steps) | {"masking": type(model.masking).__name__} | (metadata or {})
    model.compile(recipe.optimizer(steps), jit_compile=jit_compile)

    def leave(directory: Path, history: dict[str, list[float]]) -> None:
        # Most precious first, should the disk fill up.
        write(directory / "model.keras", model.save)
        write(directory / "encoder.keras", model.encoder.save)
        write_json(directory / "recipe.json", metadata)
        write_history(directory / "history.csv", history)
        write(directory / "loss.png", lambda path: visualize.curves(history).savefig(path))
        if distribution.current().processes > 1:
            return  # `predict` is the work of all of them, and some may be gone
        result = model.reconstruct(examples)
        write(directory / "reconstructions.png", lambda path: visualize.reconstructions(result).savefig(path))

    return run(model, dataset, recipe, metadata, run_directory, leave, validation_data, **options)


def run_fine_tuning(
    encoder: ViTEncoder,
    dataset: Any,
    test: Any,
    classes: Sequence[str],
    recipe: FineTuneRecipe,
    run_directory: str | Path,
    trainable_blocks: float | None = None,
    image_shape: tuple[int, int, int] | None = None,
    validation_data: Any = None,
    metadata: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Fine-tune a copy of `encoder` and leave `classifier.keras` (with its optimizer), `history.csv`, `recipe.json`,
    `curves.png` and, if trained in one process, `metrics.json` and `confusion.png`; otherwise see `run_evaluation`.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`. It is not changed.
        dataset: Batches of (images, labels), with a length, augmented.
        test: Batches of other (images, labels), as they are, for the scores at the end.
        classes: Their names.
        recipe: The numbers.
        run_directory: A folder that does not exist or is empty.
        trainable_blocks: How many of the last blocks to train, as in `transfer.partial_fine_tune`; all by default.
        image_shape: Of the images, if other than the encoder's.
        validation_data: What to evaluate after every epoch, if not `test`: on several devices batches must be whole.
        metadata: What else the run is made of, such as its encoder and its data: see `run_pretraining`.
        options: `callbacks`, `console`, `resume`, `checkpoint_steps` and `checkpoint_minutes`: see `run`, also for
            what becomes of a run that is interrupted.

    Returns:
        The run directory.

    Raises:
        ValueError: If anything does not fit; and as `run`.
    """
    steps = length(dataset)
    classifier = compiled_classifier(encoder, len(classes), recipe, steps, trainable_blocks, image_shape)
    metadata = (
        _metadata(classifier, recipe, steps)
        | {"protocol": "fine-tuning", "trainable_blocks": trainable_blocks}
        | (metadata or {})
    )
    return _classified(classifier, dataset, test, classes, recipe, metadata, run_directory, validation_data, options)


def run_linear_probe(
    encoder: ViTEncoder,
    dataset: Any,
    test: Any,
    classes: Sequence[str],
    recipe: LinearProbeRecipe,
    run_directory: str | Path,
    validation_data: Any = None,
    metadata: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Train a linear probe on the frozen encoder and leave what `run_fine_tuning` leaves; arguments as there."""
    steps = length(dataset)
    probe = compiled_probe(encoder, len(classes), recipe, steps)
    metadata = _metadata(probe, recipe, steps) | {"protocol": "linear probe"} | (metadata or {})
    return _classified(probe, dataset, test, classes, recipe, metadata, run_directory, validation_data, options)


def _metadata(model: Any, recipe: Recipe, steps: int) -> dict[str, Any]:
    """What a run is made of."""
    return recipe.resolved(steps) | {
        "image_shape": model.encoder.image_shape,
        "patch_size": model.encoder.patch_size,
        "dtype": model.encoder.dtype_policy.name,
        "backend": keras.backend.backend(),
        "parameters": model.count_params(),
    }


def _classified(
    classifier: ViTClassifier,
    dataset: Any,
    test: Any,
    classes: Sequence[str],
    recipe: Recipe,
    metadata: dict[str, Any],
    run_directory: str | Path,
    validation_data: Any,
    options: dict[str, Any],
) -> Path:
    def leave(directory: Path, history: dict[str, list[float]]) -> None:
        write(directory / "classifier.keras", classifier.save)
        write_json(directory / "recipe.json", metadata)
        write_history(directory / "history.csv", history)
        write(directory / "curves.png", lambda path: visualize.curves(history).savefig(path))
        if distribution.current().processes == 1:
            _leave_scores(directory, *_predicted(classifier, test), classes)

    validation_data = test if validation_data is None else validation_data
    return run(classifier, dataset, recipe, metadata, run_directory, leave, validation_data, **options)


def run_evaluation(classifier: ViTClassifier, test: Any, classes: Sequence[str], run_directory: str | Path) -> Path:
    """Score a trained classifier, and leave `metrics.json` and `confusion.png`.

    Args:
        classifier: A `ViTClassifier`.
        test: Batches of (images, labels), as they are.
        classes: Names of the classes.
        run_directory: A folder that does not exist or is empty.

    Returns:
        The run directory.

    Raises:
        ValueError: If `run_directory` holds files, or anything does not fit.
    """
    directory = check_free(run_directory)
    if not isinstance(classifier, ViTClassifier):
        raise _checks.argument_error("classifier", "a keras_mae.ViTClassifier", classifier)
    if len(classes) != classifier.num_classes:
        raise ValueError(
            f"`classes` must be the {classifier.num_classes} that the classifier knows. "
            f"Received: {len(classes)} ({', '.join(map(str, list(classes)[:10]))})"
        )
    predicted, labels = _predicted(classifier, test)
    directory.mkdir(parents=True, exist_ok=True)
    _leave_scores(directory, predicted, labels, classes, {"backend": keras.backend.backend()})
    return directory


def _predicted(classifier: ViTClassifier, test: Any) -> tuple[np.ndarray, np.ndarray]:
    """The classes that a classifier finds, and the right ones."""
    predicted, right = [], []
    for images, labels in batches(test):
        if labels is None:
            raise ValueError("A classifier is scored on (images, labels). Received: no labels")
        check_labels(labels, classifier.num_classes)
        whole = distribution.current().pad(images)
        predicted.append(classifier.predict_on_batch(whole)[: len(images)].argmax(-1))
        right.append(labels)
    return np.concatenate(predicted), np.concatenate(right)


def run_knn(
    encoder: ViTEncoder,
    dataset: Any,
    test: Any,
    classes: Sequence[str],
    run_directory: str | Path,
    k: int = 20,
    temperature: float = 0.07,
    pooling: str = "token",
) -> Path:
    """Let the nearest neighbours vote, and leave `metrics.json` and `confusion.png`.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`.
        dataset: Batches of (images, labels) that vote, as they are.
        test: Batches of (images, labels) to classify.
        classes: Names of the classes.
        run_directory: A folder that does not exist or is empty.
        k: Neighbours that vote.
        temperature: The smaller, the more the nearest count.
        pooling: As in `transfer.extract_features`.

    Returns:
        The run directory.

    Raises:
        ValueError: If `run_directory` holds files, or anything does not fit.
    """
    directory = check_free(run_directory)
    train_features, test_features = (
        transfer.extract_features(encoder, data, pooling=pooling) for data in (dataset, test)
    )
    predicted = transfer.knn_predict(train_features, test_features.features, k, temperature)
    directory.mkdir(parents=True, exist_ok=True)
    settings = {"k": k, "temperature": temperature, "pooling": pooling, "backend": keras.backend.backend()}
    _leave_scores(directory, predicted, test_features.labels, classes, settings)
    return directory


def _leave_scores(
    directory: Path, predicted: Any, labels: Any, classes: Sequence[str], settings: dict[str, Any] | None = None
) -> None:
    right = predicted == labels
    scores = {
        "accuracy": float(right.mean()),
        "images": len(labels),
        "accuracy_by_class": {
            name: float(right[labels == index].mean()) if (labels == index).any() else None
            for index, name in enumerate(classes)
        },
        **(settings or {}),
    }
    write_json(directory / "metrics.json", scores)
    write(
        directory / "confusion.png",
        lambda path: visualize.confusion(labels, predicted, classes).savefig(path),
    )
