"""The transfer protocols as runs: train, evaluate on images not trained on, leave a directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from keras_mae import distribution, transfer, visualize
from keras_mae.encoder import ViTEncoder
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe
from keras_mae.training.callbacks import Interruptible, LogLearningRate, Progress
from keras_mae.training.runner import check_free, make, write, write_history, write_json
from keras_mae.transfer.features import batches
from keras_mae.transfer.fine_tuning import length


def fine_tune(
    encoder: ViTEncoder,
    dataset: Any,
    test: Any,
    classes: Sequence[str],
    recipe: FineTuneRecipe,
    run_directory: str | Path,
    blocks: float | None = None,
    image_shape: tuple[int, int, int] | None = None,
    console: Console | None = None,
) -> Path:
    """Fine-tune a copy of `encoder` and leave `classifier.keras` (with its optimizer), `metrics.json`,
    `history.csv`, `recipe.json`, `curves.png` and `confusion.png`.

    If training stops early, by Ctrl-C or an error, what was learned until then is saved; a run that stops before
    its first epoch ends leaves nothing.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`. It is not changed.
        dataset: Batches of (images, labels), with a length, augmented.
        test: Batches of other (images, labels), as they are; evaluated after every epoch and at the end.
        classes: Their names.
        recipe: The numbers.
        run_directory: A folder that does not exist or is empty.
        blocks: How many of the last blocks to train, as in `transfer.partial_fine_tune`; all by default.
        image_shape: Of the images, if other than the encoder's.
        console: Where progress is shown.

    Returns:
        The run directory.

    Raises:
        ValueError: If `run_directory` holds files, or anything does not fit.
    """

    def train(callbacks: list[Any]) -> None:
        protocol: Any = transfer.fine_tune
        options: dict[str, Any] = {}
        if blocks is not None:
            protocol, options = transfer.partial_fine_tune, {"blocks": blocks}
        protocol(
            encoder,
            dataset,
            len(classes),
            recipe,
            validation_data=test,
            image_shape=image_shape,
            callbacks=callbacks,
            verbose=0,
            **options,
        )

    facts = recipe.resolved(length(dataset)) | {"protocol": "fine-tuning", "blocks": blocks}
    return _run(train, dataset, recipe, facts, test, classes, run_directory, console)


def linear_probe(
    encoder: ViTEncoder,
    dataset: Any,
    test: Any,
    classes: Sequence[str],
    recipe: LinearProbeRecipe,
    run_directory: str | Path,
    console: Console | None = None,
) -> Path:
    """Train a linear probe on the frozen encoder and leave what `fine_tune` leaves; arguments as there."""

    def train(callbacks: list[Any]) -> None:
        transfer.linear_probe(
            encoder, dataset, len(classes), recipe, validation_data=test, callbacks=callbacks, verbose=0
        )

    facts = recipe.resolved(length(dataset)) | {"protocol": "linear probe"}
    return _run(train, dataset, recipe, facts, test, classes, run_directory, console)


def _run(
    train: Callable[[list[Any]], None],
    dataset: Any,
    recipe: Any,
    facts: dict[str, Any],
    test: Any,
    classes: Sequence[str],
    run_directory: str | Path,
    console: Console | None,
) -> Path:
    processes = distribution.current().processes
    if processes > 1:
        raise ValueError(
            "A transfer protocol runs in one process, whose devices may be several ('mirrored', 'data_parallel'). "
            f"Received: {processes} processes"
        )
    directory = check_free(run_directory)
    made = make(directory)
    history = keras.callbacks.History()
    interruptible = Interruptible()
    progress = Progress(length(dataset) * recipe.step_batch_size, console)
    try:
        train([interruptible, LogLearningRate(), history, progress])
    finally:
        interruptible.close()
        progress.close()
        if getattr(history, "epoch", None):  # Keras sets it when training begins
            classifier = history.model
            write(directory / "classifier.keras", classifier.save)
            facts |= {"backend": keras.backend.backend(), "parameters": classifier.count_params()}
            write_json(directory / "recipe.json", facts)
            write_history(directory / "history.csv", history.history)
            write(directory / "curves.png", lambda path: visualize.curves(history.history).savefig(path))
            pairs = [(classifier.predict_on_batch(images).argmax(-1), labels) for images, labels in batches(test)]
            predicted, labels = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
            _leave_scores(directory, predicted, labels, classes)
        else:
            for folder in made:
                folder.rmdir()
    return directory


def knn(
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
