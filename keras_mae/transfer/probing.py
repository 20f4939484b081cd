"""Probing: a linear classifier on an encoder that stays as it is, and the queries that pool its tokens, if any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_mae import _checks, _class_names
from keras_mae.classifier import ViTClassifier
from keras_mae.data.reading import check_batches, length
from keras_mae.encoder import ViTEncoder
from keras_mae.labels import check_labels
from keras_mae.loss import Accuracy, CrossEntropy
from keras_mae.recipes import LinearProbeRecipe, check_recipe
from keras_mae.transfer.cached import has_room, on_features, why_not_cached
from keras_mae.transfer.features import extract_features
from keras_mae.transfer.fine_tuning import fit_classifier

__all__ = ["compiled_probe", "linear_probe"]


def linear_probe(
    encoder: ViTEncoder,
    dataset: Any,
    num_classes: int,
    recipe: LinearProbeRecipe,
    *,
    class_names: Sequence[str] | None = None,
    validation_data: Any = None,
    cache_features: bool | None = None,
    console: Any = None,
    jit_compile: bool | str = "auto",
    **fit_options: Any,
) -> ViTClassifier:
    """Train a BatchNorm without scale and shift and a linear head on the frozen encoder's features.

    The features are the class token's, as published, or what the recipe's `pooling` says. With "attentive" the
    queries and the values that pool the frozen patch tokens are trained too: the attentive probe.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`. It is not changed; nor is the classifier's copy of it.
        dataset: Batches of (images, labels), with a length.
        num_classes: Number of classes.
        recipe: Numbers of the training; see `keras_mae.recipes.LinearProbeRecipe.for_size`.
        class_names: Names of the classes, in the order of the labels; by default the dataset's, if it has any.
        validation_data: Images and labels to evaluate after every epoch.
        cache_features: Whether to compute the features once and train on them, which is much faster. By default they
            are if that makes no difference beyond rounding: if `dataset` is one of `keras_mae.data` that is read by
            index and neither augments its images nor cuts them at random, on one device, and if they fit into half
            of the free memory. `True` takes any dataset, and the images as they come in one pass over it; a notice
            says that augmentation is off. Attentive pooling, as "flatten", keeps all patch tokens in memory,
            4 * patches * embed_dim bytes an image: 1.5 GB for 60,000 images of 49 patches, 128 wide.
        console: The `rich` console for that notice; a new one on stderr by default, none if `verbose` is 0.
        jit_compile: As in `keras.Model.compile`.
        fit_options: Other options of `keras.Model.fit`: `verbose`, `callbacks` and the like.

    Returns:
        The trained `ViTClassifier`; its `history` is `fit`'s.

    Raises:
        ValueError: If the dataset has no length or no labels, or anything does not fit.

    Example:
        >>> recipe = keras_mae.recipes.LinearProbeRecipe.for_size("small_images", pooling="attentive")
        >>> probe = keras_mae.transfer.linear_probe(mae.encoder, dataset, 10, recipe)

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 10; for the attentive probe
    "Attention, Please! Revisiting Attentive Probing for Masked Image Modeling" (arXiv 2506.10178).
    """
    check_recipe(recipe, LinearProbeRecipe)
    _checks.optional(_checks.boolean, "cache_features", cache_features)
    if console is not None:
        _checks.has("console", console, ("print",), "a rich.console.Console, or None")
    length(dataset) if not cache_features else check_batches("dataset", dataset)
    names = _class_names.given_or_named(class_names, dataset)
    if not cache_features:
        probe = compiled_probe(
            encoder, num_classes, recipe, length(dataset), class_names=names, jit_compile=jit_compile
        )
        if cache_features is None and not why_not_cached(dataset) and has_room(probe, dataset):
            progress = fit_options.get("verbose", 1) != 0
            dataset, validation_data = on_features(probe, dataset, validation_data, progress=progress)
        return fit_classifier(probe, dataset, recipe.epochs, validation_data=validation_data, **fit_options)
    if console is None and fit_options.get("verbose", 1):
        from rich.console import Console

        console = Console(stderr=True)
    if console is not None:
        notice = "The probe trains on cached features: augmentation is off, every epoch sees the same ones."
        console.print(notice, highlight=False)
    probe = _probe(encoder, num_classes, recipe, names)
    _fit_on_features(probe, dataset, recipe, validation_data=validation_data, jit_compile=jit_compile, **fit_options)
    return probe


def compiled_probe(
    encoder: ViTEncoder,
    num_classes: int,
    recipe: LinearProbeRecipe,
    steps_per_epoch: int,
    *,
    class_names: Sequence[str] | None = None,
    jit_compile: bool | str = "auto",
) -> ViTClassifier:
    """Return the classifier that `linear_probe` trains."""
    check_recipe(recipe, LinearProbeRecipe)
    probe = _probe(encoder, num_classes, recipe, class_names)
    probe.compile(recipe.optimizer(steps_per_epoch), jit_compile=jit_compile)
    return probe


def _probe(
    encoder: ViTEncoder, num_classes: int, recipe: LinearProbeRecipe, class_names: Sequence[str] | None
) -> ViTClassifier:
    return ViTClassifier(
        encoder, num_classes, pooling=recipe.pooling, trainable_blocks=0, batch_norm=True, class_names=class_names
    )


def _fit_on_features(
    probe: ViTClassifier,
    dataset: Any,
    recipe: LinearProbeRecipe,
    *,
    validation_data: Any,
    jit_compile: bool | str,
    **fit_options: Any,
) -> None:
    """Compute once what the frozen encoder gives, and train on it all that comes after."""

    def features_of(data: Any) -> tuple[Any, Any]:
        _class_names.check_places(data, probe.class_names)
        progress = fit_options.get("verbose", 1) != 0
        features, labels = extract_features(probe.encoder, data, pooling=probe.frozen_pooling, progress=progress)
        if labels is None:
            raise ValueError("A classifier is trained on (images, labels). Received: no labels")
        check_labels(labels, probe.num_classes)
        return features, labels

    features, labels = features_of(dataset)
    batch = min(recipe.step_batch_size, len(features))
    # A model of its own with the probe's layers: a compiled part of a model is not saved as it should be.
    head = keras.Sequential([*_pooling_layers(probe), *probe.head.layers])
    head.compile(
        recipe.optimizer(-(-len(features) // batch)),
        CrossEntropy(),
        metrics=[Accuracy()],
        jit_compile=jit_compile,
    )
    probe.history = head.fit(
        features,
        labels,
        batch_size=batch,
        epochs=recipe.epochs,
        validation_data=None if validation_data is None else features_of(validation_data),
        **fit_options,
    )
    probe.compile(head.optimizer)


def _pooling_layers(probe: ViTClassifier) -> list[keras.layers.Layer]:
    """Return the probe's layers between what is cached and the head."""
    if probe.attentive_pooling is not None:
        patches = (probe.encoder.num_patches, probe.encoder.embed_dim)
        return [keras.layers.Reshape(patches, dtype="float32"), probe.attentive_pooling]
    return [] if probe.pool_norm is None else [probe.pool_norm]
