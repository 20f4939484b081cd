"""Pre-training, fine-tuning and the linear probe as runs, each of which leaves a directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import keras
import numpy as np

from keras_mae import _checks, _class_names, _saving, distribution, visualize
from keras_mae.classifier import ViTClassifier
from keras_mae.data.reading import check_batches, length
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.masking import RandomMasking
from keras_mae.masking.names import describe
from keras_mae.pixels import check_images
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, Recipe, check_recipe
from keras_mae.training import fingerprints
from keras_mae.training.begun import begun_metadata
from keras_mae.training.choosing import chosen_epoch
from keras_mae.training.directory import RunDirectory, RunFile
from keras_mae.training.metadata import merged, of_training
from keras_mae.training.pictures import draw
from keras_mae.training.runner import RunOptions, run
from keras_mae.training.saving import Saving
from keras_mae.training.scoring import leave_scores, predictions, trained_names
from keras_mae.training.targets import identified
from keras_mae.transfer.best_epoch import checked_choice
from keras_mae.transfer.cached import has_room, on_features, why_not_cached
from keras_mae.transfer.class_weights import class_weights_of
from keras_mae.transfer.fine_tuning import compiled_classifier
from keras_mae.transfer.probing import compiled_probe
from keras_mae.visualize.figures import checked_bands

__all__ = ["run_fine_tuning", "run_linear_probe", "run_pretraining"]

_OF_EVERY_LAYER = ("name", "trainable", "dtype")
"""Entries of every layer's config, by which maskings do not differ."""
_BY_NORM_PIX_LOSS = ("pixels", "normalized")
"""Targets that `norm_pix_loss` tells apart."""


# === Training ===
def run_pretraining(
    model: MaskedAutoencoder,
    dataset: Any,
    recipe: PretrainRecipe,
    run_directory: str | Path,
    *,
    examples: np.ndarray,
    example_names: Sequence[str] | None = None,
    bands: int | Sequence[int] | None = None,
    validation_data: Any = None,
    jit_compile: bool | str = "auto",
    metadata: Mapping[str, Any] | None = None,
    **options: Unpack[RunOptions],
) -> Path:
    """Pre-train `model` and leave `model.keras` (with its optimizer), `encoder.keras`, `run.json`, `history.csv`,
    `loss.png` and, if trained in one process and predicting pixels, `reconstructions.png`.

    Args:
        model: Model to train, not yet compiled, with the masking and target that the recipe asks for.
        dataset: Batches of images, with a length.
        recipe: Numbers of the run.
        run_directory: Folder that does not exist or is empty.
        examples: Images (n, height, width, channels) for `reconstructions.png`.
        example_names: Names of these images, to write beside them.
        bands: Channels of these images to show, as in `keras_mae.visualize.reconstructions`.
        validation_data: Batches to evaluate after every epoch.
        jit_compile: The argument of `keras.Model.compile`.
        metadata: More JSON values that identify the run, such as its data's name: they are written to `run.json`, and
            a checkpoint with different ones is refused.
        options: `callbacks`, `console` and `saving`; see `run`, which also says how interruptions end.

    Returns:
        Path of the run directory; `RunDirectory` reads what is in it.

    Raises:
        ValueError: If the model is not the recipe's; and as `run`.
    """
    _check_agreement(model, recipe)
    examples = check_images(examples, model.encoder.image_shape, model.encoder.pixel_range)
    checked_bands(bands, examples.shape[-1])
    steps = length(dataset)
    known = of_training(model, recipe, steps) | {"masking": describe(model.masking)}
    if model.target_name not in _BY_NORM_PIX_LOSS:
        known |= identified(model)
    known |= fingerprints.of_pretraining(model, dataset)
    identity = merged(known, metadata)
    model.compile(recipe.optimizer(steps), jit_compile=jit_compile)

    def leave(directory: RunDirectory, history: dict[str, list[float]]) -> None:
        # Most precious first, should the disk fill up.
        directory.write(RunFile.MODEL, partial(_saving.save_model, model))
        directory.write(RunFile.ENCODER, partial(_saving.save_model, model.encoder))
        directory.write_history(history)
        pictures(directory, lambda: model)

    def pictures(directory: RunDirectory, trained: Callable[[], Any], missing_only: bool = False) -> None:
        history = directory.file(RunFile.HISTORY)
        draw(directory, RunFile.LOSS, lambda: visualize.curves(history), missing_only=missing_only)
        # `predict` is the work of all processes, and some may be gone.
        if model.predicts_pixels and distribution.current().processes == 1:

            def figure() -> Any:
                result = trained().reconstruct(examples)
                return visualize.reconstructions(result, bands=bands, names=example_names)

            draw(directory, RunFile.RECONSTRUCTIONS, figure, missing_only=missing_only)

    def complete(directory: RunDirectory) -> None:
        if directory.file(RunFile.MODEL).is_file():
            pictures(directory, lambda: keras.saving.load_model(directory.file(RunFile.MODEL)), missing_only=True)

    return run(
        model,
        dataset,
        recipe,
        run_directory,
        metadata=identity,
        leave=leave,
        complete=complete,
        validation_data=validation_data,
        **options,
    )


def run_fine_tuning(
    encoder: ViTEncoder,
    dataset: Any,
    test: Any,
    recipe: FineTuneRecipe,
    run_directory: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    trainable_blocks: float | None = None,
    image_shape: tuple[int, int, int] | None = None,
    validation_data: Any = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Unpack[RunOptions],
) -> Path:
    """Fine-tune a copy of `encoder` and leave `classifier.keras` (with its optimizer), `run.json`, `history.csv`,
    `curves.png` and, if trained in one process, what `run_evaluation` leaves; otherwise call that.

    Args:
        encoder: `ViTEncoder`, such as `mae.encoder`, which is not changed.
        dataset: Batches of (images, labels), augmented, with a length.
        test: Batches of other (images, labels), not augmented, for the scores at the end. Its labels are compared by
            its `class_names`, if it has any: it may lack some classes.
        recipe: Numbers of the run.
        run_directory: Folder that does not exist or is empty.
        class_names: Names of the classes, in the order of the labels; by default the dataset's `class_names`.
        trainable_blocks: Number of last blocks to train, as in `transfer.partial_fine_tune`; all by default.
        image_shape: Shape of the images, if it is not the encoder's.
        validation_data: Batches to evaluate after every epoch; `test` by default. With several devices, all batches
            must have one size; see `validation_batches`. A recipe with `best_epoch` or `patience` takes other images
            than those of `test`, whose scores would be too good if they had chosen the epoch, and in a fixed order,
            or a run that is resumed may round its losses otherwise.
        metadata: More JSON values that identify the run, such as its encoder and data; see `run_pretraining`.
        options: `callbacks`, `console` and `saving`; see `run`, which also says how interruptions end.

    Returns:
        Path of the run directory; `RunDirectory` reads what is in it.

    Raises:
        ValueError: If anything does not fit; and as `run`.
    """
    steps, names = length(dataset), trained_names(class_names, dataset)
    classifier = compiled_classifier(
        encoder,
        len(names),
        recipe,
        steps,
        class_names=names,
        trainable_blocks=trainable_blocks,
        image_shape=image_shape,
        class_weights=class_weights_of(recipe, dataset, len(names)),
    )
    known = of_training(classifier, recipe, steps) | {
        "class_names": names,
        "protocol": "fine-tuning",
        "trainable_blocks": trainable_blocks,
    }
    known |= fingerprints.of_classifier(encoder, dataset, test)
    return _run_classifier(
        classifier,
        dataset,
        recipe,
        run_directory,
        test=test,
        metadata=merged(known, metadata),
        validation_data=validation_data,
        options=options,
    )


def run_linear_probe(
    encoder: ViTEncoder,
    dataset: Any,
    test: Any,
    recipe: LinearProbeRecipe,
    run_directory: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    validation_data: Any = None,
    cache_features: bool | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Unpack[RunOptions],
) -> Path:
    """Train a linear probe on the frozen encoder and leave what `run_fine_tuning` leaves.

    All arguments but one, and what is returned and raised, are those of `run_fine_tuning`.

    Args:
        cache_features: Whether to compute the features once, and not in every epoch, which is much faster and makes
            no difference beyond rounding. By default they are if `dataset` is one of `keras_mae.data` that is read
            by index and neither augments its images nor cuts them at random, on one device, and if they fit into
            half of the free memory. A run that is resumed goes on as it began.
    """
    steps, names = length(dataset), trained_names(class_names, dataset)
    probe = compiled_probe(encoder, len(names), recipe, steps, class_names=names)
    cached = _caches(probe, dataset, _checks.path("run_directory", run_directory), cache_features, options)
    known = of_training(probe, recipe, steps) | {"class_names": names, "protocol": "linear probe"}
    known["cache_features"] = cached
    known |= fingerprints.of_classifier(encoder, dataset, test)
    return _run_classifier(
        probe,
        dataset,
        recipe,
        run_directory,
        test=test,
        metadata=merged(known, metadata),
        validation_data=validation_data,
        options=options,
        cached=cached,
    )


def _caches(probe: ViTClassifier, dataset: Any, directory: Path, asked: bool | None, options: RunOptions) -> bool:
    """Return whether a probe's features are computed once: as when the run began, as is asked for, or if they can."""
    _checks.optional(_checks.boolean, "cache_features", asked)
    saving = options.get("saving")
    begun = begun_metadata(directory) if isinstance(saving, Saving) and saving.resume else None
    if begun is not None:
        began = bool(begun.get("cache_features", False))  # which earlier versions did not
        if asked not in (None, began):
            how = "computes its features once" if began else "computes its features anew in every epoch"
            raise ValueError(f"The run in {str(directory)!r} {how}. Received: cache_features={asked}")
        return began
    reason = why_not_cached(dataset)
    if asked and reason:
        raise ValueError(f"`cache_features` takes images that are the same in every epoch, and {reason}")
    return not reason and (bool(asked) or (asked is None and has_room(probe, dataset)))


def _check_agreement(model: MaskedAutoencoder, recipe: PretrainRecipe) -> None:
    """Raise ValueError if the model masks or predicts otherwise than the recipe says.

    The seed is left out: a model may draw masks by a seed of its own. So is the kind of masking where the recipe asks
    for the plain one, as long as both share their settings: earlier recipes named none, and `run.json` does.
    """
    check_recipe(recipe, PretrainRecipe)
    _checks.instance("model", model, MaskedAutoencoder)
    wanted = dict(recipe.model_arguments)
    del wanted["seed"]
    found = {name: getattr(model, name) for name in wanted}
    wanted["decoder"], found["decoder"] = recipe.decoder, model.decoder.kind
    # By name: a recipe holds no function and no teacher, and no other settings of a target.
    found["target"] = model.target_name
    wanted["target"] = recipe.target or ("normalized" if recipe.norm_pix_loss else "pixels")
    if found["target"] in _BY_NORM_PIX_LOSS and wanted["target"] in _BY_NORM_PIX_LOSS:
        del found["target"], wanted["target"]
    elif found["target"] != wanted["target"]:
        del found["norm_pix_loss"], wanted["norm_pix_loss"]
    masks, own = wanted.pop("masking"), found.pop("masking")
    settings = {name: value for name, value in masks.get_config().items() if name not in _OF_EVERY_LAYER}
    wanted |= settings
    found |= {name: getattr(own, name, value) for name, value in settings.items()}
    if type(masks) is not RandomMasking:
        wanted["masking"], found["masking"] = type(masks).__name__, type(own).__name__
    for name, value in wanted.items():
        if found[name] != value:
            raise ValueError(f"Model and recipe must agree. Received: {name}={found[name]} and {value}")


def _run_classifier(
    classifier: ViTClassifier,
    dataset: Any,
    recipe: Recipe,
    run_directory: str | Path,
    *,
    test: Any,
    metadata: dict[str, Any],
    validation_data: Any,
    options: RunOptions,
    cached: bool = False,
) -> Path:
    check_batches("test", test)
    held_out = test if validation_data is None else validation_data
    choice = checked_choice(recipe, held_out, test)
    names = classifier.class_names or ()
    test_names = _class_names.named(test) or names
    places = _class_names.places(test_names, names)  # now: an unknown class must not be found after the training

    def leave(directory: RunDirectory, history: dict[str, list[float]]) -> None:
        directory.write(RunFile.CLASSIFIER, partial(_saving.save_model, classifier))
        directory.write_history(history)
        curves(directory)
        scores(directory, classifier)

    def curves(directory: RunDirectory, missing_only: bool = False) -> None:
        history = directory.file(RunFile.HISTORY)
        draw(directory, RunFile.CURVES, lambda: visualize.curves(history), missing_only=missing_only)

    def scores(directory: RunDirectory, trained: ViTClassifier) -> None:
        if distribution.current().processes == 1:
            of_epoch = chosen_epoch(choice, directory)
            leave_scores(directory, predictions(trained, test, places), names, **of_epoch)

    def complete(directory: RunDirectory) -> None:
        if not directory.file(RunFile.CLASSIFIER).is_file():
            return
        curves(directory, missing_only=True)
        if not all(directory.file(name).is_file() for name in (RunFile.METRICS, RunFile.CONFUSION)):
            scores(directory, keras.saving.load_model(directory.file(RunFile.CLASSIFIER)))

    return run(
        classifier,
        dataset,
        recipe,
        run_directory,
        metadata=metadata,
        leave=leave,
        complete=complete,
        prepare=partial(on_features, classifier, dataset, held_out) if cached else None,
        validation_data=held_out,
        **options,
    )
