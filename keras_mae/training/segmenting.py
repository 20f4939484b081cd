"""Segmentation as a run that leaves a directory, and the scores of a segmenter as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import keras

from keras_mae import _checks, _class_names, _saving, distribution, visualize
from keras_mae.data.reading import length
from keras_mae.encoder import ViTEncoder
from keras_mae.recipes import SegmentationRecipe
from keras_mae.segmenter import ViTSegmenter
from keras_mae.training import fingerprints
from keras_mae.training.choosing import chosen_epoch
from keras_mae.training.directory import RunDirectory, RunFile
from keras_mae.training.metadata import merged, of_training
from keras_mae.training.pictures import draw
from keras_mae.training.pixel_scores import check_scored, leave_pixel_scores, named_classes, segmented
from keras_mae.training.runner import RunOptions, run
from keras_mae.transfer.best_epoch import checked_choice
from keras_mae.transfer.class_weights import pixel_weights_of
from keras_mae.transfer.segmenting import compiled_segmenter, ignore_label_of

__all__ = ["run_segmentation", "run_segmentation_scores"]


def run_segmentation(
    encoder: ViTEncoder,
    dataset: Any,
    test: Any,
    recipe: SegmentationRecipe,
    run_directory: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    validation_data: Any = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Unpack[RunOptions],
) -> Path:
    """Train a segmenter on a copy of `encoder` and leave `segmenter.keras` (with its optimizer), `run.json`,
    `history.csv`, `curves.png` and, if trained in one process, what `run_segmentation_scores` leaves; otherwise call
    that.

    Args:
        encoder: `ViTEncoder`, such as `mae.encoder`, which is not changed.
        dataset: Batches of (images, masks), cut as the recipe says, with a length.
        test: Other images with masks, for the scores at the end, as for `run_segmentation_scores`.
        recipe: Numbers of the run, the head among them, and how much of the encoder is trained.
        run_directory: Folder that does not exist or is empty.
        class_names: Names of the classes, in the order of the labels; by default the dataset's, if it has any.
        num_classes: Number of classes; by default that of the names, or the dataset's.
        image_shape: Shape of the crops, if it is not that of the encoder's images.
        validation_data: Batches of (images, masks) of the crops' size to evaluate after every epoch; none by default.
            A recipe with `best_epoch` or `patience` takes other images than those of `test`.
        metadata: More JSON values that identify the run, such as its encoder and data; see `run_pretraining`.
        options: `callbacks`, `console` and `saving`; see `run`, which also says how interruptions end.

    Returns:
        Path of the run directory; `RunDirectory` reads what is in it.

    Raises:
        ValueError: If anything does not fit; and as `run`.
    """
    steps = length(dataset)
    names = _class_names.checked(_class_names.given_or_named(class_names, dataset), num_classes)
    if class_names is not None:
        _class_names.check_places(dataset, names)
        if len(names or ()) < (count := getattr(dataset, "num_classes", None) or 0):
            _class_names.checked(names, count)  # which names are missing, nobody knows
    count = _count_of(num_classes, names, dataset)
    segmenter = compiled_segmenter(
        encoder,
        count,
        recipe,
        steps,
        class_names=names,
        image_shape=image_shape,
        ignore_label=ignore_label_of(dataset),
        class_weights=pixel_weights_of(recipe, dataset, count),
    )
    _check_test(test, segmenter)
    choice = checked_choice(recipe, validation_data, test)
    known = of_training(segmenter, recipe, steps) | {
        "class_names": None if names is None else list(names),
        "num_classes": segmenter.num_classes,
        "ignore_label": segmenter.ignore_label,
        "protocol": "segmentation",
    }
    known |= fingerprints.of_segmenter(encoder, dataset, test)

    def leave(directory: RunDirectory, history: dict[str, list[float]]) -> None:
        # Most precious first, should the disk fill up.
        directory.write(RunFile.SEGMENTER, partial(_saving.save_model, segmenter))
        directory.write_history(history)
        curves(directory)
        scores(directory, segmenter)

    def curves(directory: RunDirectory, missing_only: bool = False) -> None:
        history = directory.file(RunFile.HISTORY)
        draw(directory, RunFile.CURVES, lambda: visualize.curves(history), missing_only=missing_only)

    def scores(directory: RunDirectory, trained: ViTSegmenter) -> None:
        # `predict` is the work of all processes, and some may be gone.
        if distribution.current().processes == 1:
            found, named = segmented(trained, test), named_classes(names, trained.num_classes)
            leave_pixel_scores(directory, found, trained, named, **chosen_epoch(choice, directory))

    def complete(directory: RunDirectory) -> None:
        if not directory.file(RunFile.SEGMENTER).is_file():
            return
        curves(directory, missing_only=True)
        left = (RunFile.METRICS, RunFile.CONFUSION, RunFile.SEGMENTATIONS)
        if not all(directory.file(name).is_file() for name in left):
            scores(directory, keras.saving.load_model(directory.file(RunFile.SEGMENTER)))

    return run(
        segmenter,
        dataset,
        recipe,
        run_directory,
        metadata=merged(known, metadata),
        leave=leave,
        complete=complete,
        validation_data=validation_data,
        **options,
    )


def run_segmentation_scores(
    segmenter: ViTSegmenter, test: Any, run_directory: str | Path, *, class_names: Sequence[str] | None = None
) -> Path:
    """Score a trained segmenter and leave `metrics.json`, `confusion.png` and `segmentations.png`.

    Scores are those of all pixels together, at the masks' own sizes: an image is resized to a short side of the
    crop's, windows of the crop's size slide over it, and its logits are resized to the mask's size. `metrics.json`
    holds `mean_iou`, `pixel_accuracy` and `class_accuracy`, IoU and accuracy by class, and the counts behind them
    (`confusion`: rows are labels, columns predictions).

    Args:
        segmenter: Trained `ViTSegmenter`.
        test: Source of images with masks, such as `data.FolderPairs`; or batches of (images, masks), which are taken
            in the size they have.
        run_directory: Folder that does not exist or is empty.
        class_names: Names of the classes of a segmenter that has none; by default those of `test`, if it has any.

    Returns:
        Path of the run directory; `RunDirectory` reads what is in it.

    Raises:
        ValueError: If `run_directory` holds files, the classes of `test` are not the segmenter's, or anything else
            does not fit.
    """
    _checks.instance("segmenter", segmenter, ViTSegmenter, "a keras_mae.ViTSegmenter")
    directory = RunDirectory(_checks.path("run_directory", run_directory))
    directory.check_free()
    names = segmenter.class_names
    if names is None:
        names = _class_names.checked(_class_names.given_or_named(class_names, test), segmenter.num_classes)
    elif class_names is not None:
        _class_names.check_places(_Named(class_names), names)
    _check_test(test, segmenter)
    found = segmented(segmenter, test)
    with directory.opened(free=True):
        named = named_classes(names, segmenter.num_classes)
        leave_pixel_scores(directory, found, segmenter, named, backend=keras.backend.backend())
    return directory.path


class _Named:
    """Names of classes where those of a dataset are looked for."""

    def __init__(self, class_names: Sequence[str]):
        self.class_names = _class_names.checked(class_names)


def _check_test(test: Any, segmenter: ViTSegmenter) -> None:
    """Raise ValueError unless a segmenter can be scored on these images: before the training, not after it."""
    check_scored(test, segmenter.num_classes)
    _class_names.check_places(test, segmenter.class_names)


def _count_of(num_classes: int | None, class_names: Sequence[str] | None, dataset: Any) -> int:
    """Return the number of classes that is given, or that of the names, or the dataset's."""
    if num_classes is not None:
        return _checks.positive_int("num_classes", num_classes)
    count = len(class_names) if class_names is not None else getattr(dataset, "num_classes", None)
    if not isinstance(count, int):
        raise ValueError("`num_classes` must be given for a dataset without one. Received: None")
    return count
