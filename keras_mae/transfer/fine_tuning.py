"""Fine-tuning, of the whole encoder or of its last blocks only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import keras

from keras_mae import _class_names
from keras_mae.classifier import ViTClassifier
from keras_mae.data.reading import length
from keras_mae.encoder import ViTEncoder
from keras_mae.loss import CrossEntropy
from keras_mae.optimizers import ValidateAverages
from keras_mae.recipes import FineTuneRecipe, check_recipe
from keras_mae.transfer.best_epoch import EpochChoice, KeepBest, checked_choice
from keras_mae.transfer.class_weights import class_weights_of

__all__ = ["compiled_classifier", "fine_tune", "fit_classifier", "partial_fine_tune"]

_Model = TypeVar("_Model", bound=keras.Model)


def fine_tune(
    encoder: ViTEncoder,
    dataset: Any,
    num_classes: int,
    recipe: FineTuneRecipe,
    *,
    class_names: Sequence[str] | None = None,
    validation_data: Any = None,
    image_shape: tuple[int, int, int] | None = None,
    jit_compile: bool | str = "auto",
    **fit_options: Any,
) -> ViTClassifier:
    """Train a copy of `encoder`, with a new head, on labeled images.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`. It is not changed.
        dataset: Batches of (images, labels), with a length, augmented as the recipe says: see
            `keras_mae.data.Augmentation`.
        num_classes: Number of classes.
        recipe: Numbers of the training; see `keras_mae.recipes.FineTuneRecipe.for_size`.
        class_names: Names of the classes, in the order of the labels; by default the dataset's, if it has any.
        validation_data: Images and labels to evaluate after every epoch. A recipe with `best_epoch` or `patience`
            looks at them: they then say too much of themselves, so test on others.
        image_shape: Shape of the images, (height, width, channels), if other than the encoder's.
        jit_compile: As in `keras.Model.compile`.
        fit_options: Other options of `keras.Model.fit`: `verbose`, `callbacks` and the like.

    Returns:
        The trained `ViTClassifier`; its `history` is `fit`'s. Where the recipe averages weights (`ema_momentum`), it
        has the averages, of which `val_` metrics are, too. Where it asks for the best epoch (`best_epoch`), it has
        that epoch's weights.

    Raises:
        ValueError: If the dataset has no length or no labels, or anything does not fit.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 9.
    """
    classifier = compiled_classifier(
        encoder,
        num_classes,
        recipe,
        length(dataset),
        class_names=_class_names.given_or_named(class_names, dataset),
        image_shape=image_shape,
        class_weights=class_weights_of(recipe, dataset, num_classes),
        jit_compile=jit_compile,
    )
    fit_options["choice"] = checked_choice(recipe, validation_data)
    return fit_classifier(classifier, dataset, recipe.epochs, validation_data=validation_data, **fit_options)


def partial_fine_tune(
    encoder: ViTEncoder,
    dataset: Any,
    num_classes: int,
    recipe: FineTuneRecipe,
    *,
    trainable_blocks: float,
    class_names: Sequence[str] | None = None,
    validation_data: Any = None,
    image_shape: tuple[int, int, int] | None = None,
    jit_compile: bool | str = "auto",
    **fit_options: Any,
) -> ViTClassifier:
    """Train the last `trainable_blocks` blocks of a copy of `encoder`, and a new head, on labeled images.

    Args:
        encoder: As in `fine_tune`.
        dataset: As in `fine_tune`.
        num_classes: As in `fine_tune`.
        recipe: As in `fine_tune`.
        trainable_blocks: Number of blocks to train: 0, 0.5, 1, ... up to the encoder's depth. Half a block is a
            block's MLP with its norm. With 0 only the new norm and the head are trained. Even with all blocks,
            the patch embedding, positions and class tokens stay as they are.
        class_names: As in `fine_tune`.
        validation_data: As in `fine_tune`.
        image_shape: As in `fine_tune`.
        jit_compile: As in `fine_tune`.
        fit_options: As in `fine_tune`.

    Returns:
        The trained `ViTClassifier`; its `history` is `fit`'s.

    Raises:
        ValueError: If the dataset has no length or no labels, or anything does not fit.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", section 4.3, "Partial fine-tuning" (figure 9);
    its 0 blocks are the linear probe.
    """
    classifier = compiled_classifier(
        encoder,
        num_classes,
        recipe,
        length(dataset),
        class_names=_class_names.given_or_named(class_names, dataset),
        trainable_blocks=trainable_blocks,
        image_shape=image_shape,
        class_weights=class_weights_of(recipe, dataset, num_classes),
        jit_compile=jit_compile,
    )
    fit_options["choice"] = checked_choice(recipe, validation_data)
    return fit_classifier(classifier, dataset, recipe.epochs, validation_data=validation_data, **fit_options)


def compiled_classifier(
    encoder: ViTEncoder,
    num_classes: int,
    recipe: FineTuneRecipe,
    steps_per_epoch: int,
    *,
    class_names: Sequence[str] | None = None,
    trainable_blocks: float | None = None,
    image_shape: tuple[int, int, int] | None = None,
    class_weights: Sequence[float] | None = None,
    jit_compile: bool | str = "auto",
) -> ViTClassifier:
    """Return the classifier that `fine_tune` or, with `trainable_blocks`, `partial_fine_tune` trains."""
    check_recipe(recipe, FineTuneRecipe)
    classifier = ViTClassifier(
        encoder,
        num_classes,
        pooling=recipe.pooling,
        drop_path_rate=recipe.drop_path_rate,
        image_shape=image_shape,
        trainable_blocks=trainable_blocks,
        class_names=class_names,
    )
    loss = CrossEntropy(class_weights=class_weights)
    classifier.compile(recipe.optimizer(classifier, steps_per_epoch), loss, jit_compile=jit_compile)
    return classifier


def fit_classifier(
    classifier: _Model,
    dataset: Any,
    epochs: int,
    *,
    validation_data: Any = None,
    choice: EpochChoice | None = None,
    **fit_options: Any,
) -> _Model:
    """Train a compiled classifier, or a segmenter, on a dataset that shuffles itself, and return it."""
    callbacks = keras.tree.flatten(fit_options.pop("callbacks", None) or [])
    if getattr(classifier.optimizer, "inner_optimizer", classifier.optimizer).use_ema:
        callbacks.insert(0, ValidateAverages())
    if choice is not None:
        callbacks.append(KeepBest(choice))
    fit_options["callbacks"] = callbacks
    classifier.fit(dataset, epochs=epochs, validation_data=validation_data, shuffle=False, **fit_options)
    return classifier
