"""Linear probing: a linear classifier on features that stay as they are."""

from __future__ import annotations

from typing import Any

import keras

from keras_mae.classifier import ViTClassifier, check_labels
from keras_mae.encoder import ViTEncoder
from keras_mae.loss import Accuracy, CrossEntropy
from keras_mae.recipes import LinearProbeRecipe, check_recipe
from keras_mae.transfer.features import extract_features
from keras_mae.transfer.fine_tuning import fitted, length


def linear_probe(
    encoder: ViTEncoder,
    dataset: Any,
    num_classes: int,
    recipe: LinearProbeRecipe,
    validation_data: Any = None,
    cache_features: bool = False,
    console: Any = None,
    **fit_options: Any,
) -> ViTClassifier:
    """Train a BatchNorm without scale and shift and a linear head on the frozen encoder's class token.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`. It is not changed; nor is the classifier's copy of it.
        dataset: Batches of (images, labels), with a length.
        num_classes: Classes.
        recipe: The numbers; see `keras_mae.recipes.LinearProbeRecipe.for_size`.
        validation_data: Images and labels to evaluate after every epoch.
        cache_features: Whether to compute the features once and train on them: much faster, but every epoch sees
            the images as they came in that one pass. It says so: augmentation is off.
        console: The `rich` console where it says so; a new one on stderr by default, none if `verbose` is 0.
        fit_options: `verbose`, `callbacks` and the like, of `keras.Model.fit`; `jit_compile` of `compile`.

    Returns:
        The trained `ViTClassifier`; its `history` is `fit`'s.

    Raises:
        ValueError: If the dataset has no length or no labels, or anything does not fit.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 10.
    """
    jit_compile = fit_options.pop("jit_compile", "auto")
    if not cache_features:
        classifier = compiled_probe(encoder, num_classes, recipe, length(dataset), jit_compile)
        return fitted(classifier, dataset, recipe.epochs, validation_data, fit_options)
    if console is None and fit_options.get("verbose", 1):
        from rich.console import Console

        console = Console(stderr=True)
    if console is not None:
        notice = "The probe trains on cached features: augmentation is off, every epoch sees the same ones."
        console.print(notice, highlight=False)
    return _on_cached_features(
        _probe(encoder, num_classes), dataset, recipe, validation_data, jit_compile, fit_options
    )


def compiled_probe(
    encoder: ViTEncoder,
    num_classes: int,
    recipe: LinearProbeRecipe,
    steps_per_epoch: int,
    jit_compile: bool | str = "auto",
) -> ViTClassifier:
    """The classifier that `linear_probe` trains; arguments as there."""
    check_recipe(recipe, LinearProbeRecipe)
    probe = _probe(encoder, num_classes)
    probe.compile(recipe.optimizer(steps_per_epoch), jit_compile=jit_compile)
    return probe


def _probe(encoder: ViTEncoder, num_classes: int) -> ViTClassifier:
    return ViTClassifier(encoder, num_classes, pooling="token", trainable_blocks=0, batch_norm=True)


def _on_cached_features(
    classifier: ViTClassifier,
    dataset: Any,
    recipe: LinearProbeRecipe,
    validation_data: Any,
    jit_compile: bool | str,
    fit_options: dict[str, Any],
) -> ViTClassifier:
    def features_of(data: Any) -> tuple[Any, Any]:
        features, labels = extract_features(classifier.encoder, data, progress=fit_options.get("verbose", 1) != 0)
        if labels is None:
            raise ValueError("A classifier is trained on (images, labels). Received: no labels")
        check_labels(labels, classifier.num_classes)
        return features, labels

    features, labels = features_of(dataset)
    batch = min(recipe.step_batch_size, len(features))
    head = keras.Sequential(classifier.head.layers)  # a compiled part of a model is not saved as it should be
    head.compile(
        recipe.optimizer(-(-len(features) // batch)),
        CrossEntropy(),
        metrics=[Accuracy()],
        jit_compile=jit_compile,
    )
    classifier.history = head.fit(
        features,
        labels,
        batch_size=batch,
        epochs=recipe.epochs,
        validation_data=None if validation_data is None else features_of(validation_data),
        **fit_options,
    )
    classifier.compile(head.optimizer)
    return classifier
