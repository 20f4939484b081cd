"""Segmentation: a head that tells the class of every pixel, on an encoder that is fine-tuned or frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_mae import _checks, _class_names
from keras_mae.data.masks import IGNORED
from keras_mae.data.reading import length
from keras_mae.dense import PixelCrossEntropy
from keras_mae.encoder import ViTEncoder
from keras_mae.recipes import SegmentationRecipe, check_recipe
from keras_mae.segmenter import ViTSegmenter
from keras_mae.transfer.best_epoch import checked_choice
from keras_mae.transfer.class_weights import pixel_weights_of
from keras_mae.transfer.fine_tuning import fit_classifier

__all__ = ["compiled_segmenter", "segment"]


def segment(
    encoder: ViTEncoder,
    dataset: Any,
    num_classes: int,
    recipe: SegmentationRecipe,
    *,
    class_names: Sequence[str] | None = None,
    validation_data: Any = None,
    image_shape: tuple[int, int, int] | None = None,
    jit_compile: bool | str = "auto",
    **fit_options: Any,
) -> ViTSegmenter:
    """Train a copy of `encoder`, with a new head, on images with segmentation masks.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`. It is not changed.
        dataset: Batches of (images, masks), with a length, cut as the recipe says: see
            `keras_mae.data.pairs_from_directory` and `SegmentationCrop(**recipe.crop)`. Its `ignore_label`, if it has
            one, is the segmenter's; else that is 255.
        num_classes: Number of classes.
        recipe: Numbers of the training; see `keras_mae.recipes.SegmentationRecipe.for_size`. It says which head there
            is, and how much of the encoder is trained.
        class_names: Names of the classes, in the order of the labels; by default the dataset's, if it has any.
        validation_data: Images and masks, of the training crop's size, to evaluate after every epoch. A recipe with
            `best_epoch` or `patience` looks at them: they then say too much of themselves, so test on others.
        image_shape: Shape of the crops, (height, width, channels), if other than that of the encoder's images.
        jit_compile: As in `keras.Model.compile`.
        fit_options: Other options of `keras.Model.fit`: `verbose`, `callbacks` and the like.

    Returns:
        The trained `ViTSegmenter`; its `history` is `fit`'s. Where the recipe asks for the best epoch (`best_epoch`),
        it has that epoch's weights.

    Raises:
        ValueError: If the dataset has no length or no masks, or anything does not fit.

    Example:
        >>> recipe = keras_mae.recipes.SegmentationRecipe.for_size("base")
        >>> crop = keras_mae.data.SegmentationCrop(**recipe.crop)
        >>> train = keras_mae.data.pairs_from_directory("rooms/", 512, 16, crop=crop, drop_remainder=True)
        >>> segmenter = keras_mae.transfer.segment(encoder, train, 21, recipe, image_shape=(512, 512, 3))

    Reference: "Masked Autoencoders Are Scalable Vision Learners", section 5 (semantic segmentation) and appendix A.4.
    """
    segmenter = compiled_segmenter(
        encoder,
        num_classes,
        recipe,
        length(dataset),
        class_names=_class_names.given_or_named(class_names, dataset),
        image_shape=image_shape,
        ignore_label=ignore_label_of(dataset),
        class_weights=pixel_weights_of(recipe, dataset, num_classes),
        jit_compile=jit_compile,
    )
    fit_options["choice"] = checked_choice(recipe, validation_data)
    return fit_classifier(segmenter, dataset, recipe.epochs, validation_data=validation_data, **fit_options)


def compiled_segmenter(
    encoder: ViTEncoder,
    num_classes: int,
    recipe: SegmentationRecipe,
    steps_per_epoch: int,
    *,
    class_names: Sequence[str] | None = None,
    image_shape: tuple[int, int, int] | None = None,
    ignore_label: int = IGNORED,
    class_weights: Sequence[float] | None = None,
    jit_compile: bool | str = "auto",
) -> ViTSegmenter:
    """Return the segmenter that `segment` trains."""
    check_recipe(recipe, SegmentationRecipe)
    _checks.instance("encoder", encoder, ViTEncoder, "a keras_mae.ViTEncoder, such as mae.encoder")
    segmenter = ViTSegmenter(
        encoder,
        num_classes,
        recipe.head,
        blocks=recipe.blocks,
        image_shape=image_shape,
        drop_path_rate=recipe.drop_path_rate,
        auxiliary_weight=recipe.auxiliary_weight,
        trainable_blocks=recipe.trainable_blocks,
        class_names=class_names,
        ignore_label=ignore_label,
    )
    loss = PixelCrossEntropy(ignore_label, class_weights=class_weights)
    segmenter.compile(recipe.optimizer(segmenter, steps_per_epoch), loss, jit_compile=jit_compile)
    return segmenter


def ignore_label_of(dataset: Any) -> int:
    """Return the label of the pixels of no class in a dataset's masks."""
    ignored = getattr(dataset, "ignore_label", None)
    return IGNORED if ignored is None else int(ignored)
