"""Fine-tuning, altogether or of the last blocks only."""

from __future__ import annotations

from typing import Any

from keras_mae.classifier import ViTClassifier
from keras_mae.encoder import ViTEncoder
from keras_mae.recipes import FineTuneRecipe, check_recipe


def fine_tune(
    encoder: ViTEncoder,
    dataset: Any,
    num_classes: int,
    recipe: FineTuneRecipe,
    validation_data: Any = None,
    image_shape: tuple[int, int, int] | None = None,
    **fit_options: Any,
) -> ViTClassifier:
    """Train a copy of `encoder`, with a new head, on labelled images.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`. It is not changed.
        dataset: Batches of (images, labels), with a length, augmented as the recipe says: see
            `keras_mae.data.Augmentation`.
        num_classes: Classes.
        recipe: The numbers; see `keras_mae.recipes.FineTuneRecipe.for_size`.
        validation_data: Images and labels to evaluate after every epoch.
        image_shape: Of the images, if other than the encoder's.
        fit_options: `verbose`, `callbacks` and the like, of `keras.Model.fit`; `jit_compile` of `compile`.

    Returns:
        The trained `ViTClassifier`; its `history` is `fit`'s.

    Raises:
        ValueError: If the dataset has no length or no labels, or anything does not fit.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 9.
    """
    return _fine_tune(encoder, dataset, num_classes, recipe, None, validation_data, image_shape, fit_options)


def partial_fine_tune(
    encoder: ViTEncoder,
    dataset: Any,
    num_classes: int,
    recipe: FineTuneRecipe,
    trainable_blocks: float,
    validation_data: Any = None,
    image_shape: tuple[int, int, int] | None = None,
    **fit_options: Any,
) -> ViTClassifier:
    """Train the last `trainable_blocks` blocks of a copy of `encoder`, and a new head, on labelled images.

    Args:
        trainable_blocks: Number of blocks to train: 0, 0.5, 1, ... up to the encoder's depth. Half a block is a
            block's MLP with its norm. With 0 only the new norm and the head are trained. Even with all blocks,
            the patch embedding, positions and class token stay as they are.

    The other arguments, and what is returned and raised, are `fine_tune`'s.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", section 4.3, "Partial fine-tuning" (figure 9);
    its 0 blocks are the linear probe.
    """
    return _fine_tune(
        encoder, dataset, num_classes, recipe, trainable_blocks, validation_data, image_shape, fit_options
    )


def compiled_classifier(
    encoder: ViTEncoder,
    num_classes: int,
    recipe: FineTuneRecipe,
    steps_per_epoch: int,
    trainable_blocks: float | None = None,
    image_shape: tuple[int, int, int] | None = None,
    jit_compile: bool | str = "auto",
) -> ViTClassifier:
    """The classifier that `fine_tune` or, with `trainable_blocks`, `partial_fine_tune` trains; arguments as there."""
    check_recipe(recipe, FineTuneRecipe)
    classifier = ViTClassifier(
        encoder,
        num_classes,
        drop_path_rate=recipe.drop_path_rate,
        image_shape=image_shape,
        trainable_blocks=trainable_blocks,
    )
    classifier.compile(recipe.optimizer(classifier, steps_per_epoch), jit_compile=jit_compile)
    return classifier


def _fine_tune(
    encoder: ViTEncoder,
    dataset: Any,
    num_classes: int,
    recipe: FineTuneRecipe,
    trainable_blocks: float | None,
    validation_data: Any,
    image_shape: tuple[int, int, int] | None,
    fit_options: dict[str, Any],
) -> ViTClassifier:
    jit_compile = fit_options.pop("jit_compile", "auto")
    classifier = compiled_classifier(
        encoder, num_classes, recipe, length(dataset), trainable_blocks, image_shape, jit_compile
    )
    return fitted(classifier, dataset, recipe.epochs, validation_data, fit_options)


def fitted(
    classifier: ViTClassifier, dataset: Any, epochs: int, validation_data: Any, fit_options: dict[str, Any]
) -> ViTClassifier:
    """The compiled classifier, trained."""
    classifier.fit(
        dataset,
        epochs=epochs,
        validation_data=validation_data,
        shuffle=False,  # the dataset shuffles itself
        **fit_options,
    )
    return classifier


def length(dataset: Any) -> int:
    """Batches in a dataset; the schedule needs it."""
    try:
        return len(dataset)
    except TypeError as error:
        raise ValueError(
            "`dataset` must have a known length: the schedule needs it. For a tf.data.Dataset see "
            f"tf.data.experimental.assert_cardinality. Received: {type(dataset).__name__} ({error})"
        ) from error
