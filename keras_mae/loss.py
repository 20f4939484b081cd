"""The losses: of a reconstruction, with its target and what undoes a normalized one, and of a classification."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.ops import constant

__all__ = [
    "PROBABILITY_TOLERANCE",
    "Accuracy",
    "CrossEntropy",
    "are_classes",
    "checked_class_weights",
    "patch_statistics",
    "per_pixel",
    "psnr",
    "reconstruction_loss",
    "reconstruction_target",
    "visible_statistics",
    "weights_for",
]

NORM_EPS = 1e-6
"""Added to a patch's variance when its pixels are standardized."""


Groups = tuple[tuple[int, ...], ...] | None
"""Groups of channels that have statistics of their own, or `None` for all channels together."""


def patch_statistics(pixels: Tensor, groups: Groups = None) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of every patch, or of its groups of channels, the variance unbiased.

    Args:
        pixels: float (..., pixels), in the order of `patchify`.
        groups: Groups of channels, each in one of them.

    Returns:
        Two tensors (..., 1), or (..., groups); `per_pixel` gives each pixel its own.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", section 3, "Reconstruction target".
    """
    if groups is not None:
        places = _places(groups, pixels.shape[-1])
        parts = [patch_statistics(ops.take(pixels, place, axis=-1)) for place in places]
        means, deviations = (ops.concatenate(values, axis=-1) for values in zip(*parts, strict=True))
        return means, deviations
    mean = ops.mean(pixels, axis=-1, keepdims=True)
    squares = ops.sum(ops.square(pixels - mean), axis=-1, keepdims=True)
    # A patch of one pixel has no variance: its standardized value is 0, not 0 / 0.
    variance = squares / max(pixels.shape[-1] - 1, 1)
    return mean, ops.sqrt(variance + NORM_EPS)


def _places(groups: tuple[tuple[int, ...], ...], pixels: int) -> list[np.ndarray]:
    """Return the pixels of a patch, int32, that belong to each group; channels are the last of their axes."""
    channel = np.arange(pixels, dtype="int32") % sum(map(len, groups))
    return [np.flatnonzero(np.isin(channel, group)).astype("int32") for group in groups]


def per_pixel(values: Tensor, groups: Groups, pixels: int) -> Tensor:
    """Return for every pixel of a patch its group's value.

    Args:
        values: float (..., 1), or (..., groups).
        groups: Groups of channels.
        pixels: Number of pixels of a patch.

    Returns:
        float (..., 1), which every pixel shares, or (..., pixels).
    """
    if groups is None:
        return values
    group = np.empty(pixels, "int32")
    for index, place in enumerate(_places(groups, pixels)):
        group[place] = index
    return ops.take(values, group, axis=-1)


def reconstruction_target(pixels: Tensor, norm_pix_loss: bool, groups: Groups = None) -> Tensor:
    """Return what the decoder is to predict: the pixels, or each patch standardized by its own statistics.

    Args:
        pixels: float32 (batch, patches, pixels), normalized as the encoder sees them.
        norm_pix_loss: Whether to standardize every patch.
        groups: Groups of channels that are standardized each by itself.

    Returns:
        float32 (batch, patches, pixels).
    """
    if not norm_pix_loss:
        return pixels
    mean, std = (per_pixel(values, groups, pixels.shape[-1]) for values in patch_statistics(pixels, groups))
    return (pixels - mean) / std


def reconstruction_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared error over the removed patches of every sample, in float32.

    Args:
        prediction: (batch, patches, pixels).
        target: (batch, patches, pixels).
        mask: (batch, patches), 1 = removed. `None` if every patch given was removed.

    Returns:
        float32 (batch,).
    """
    error = ops.square(ops.cast(prediction, "float32") - ops.cast(target, "float32"))
    by_patch = ops.mean(error, axis=-1)
    if mask is None:
        return ops.mean(by_patch, axis=-1)
    return ops.sum(by_patch * mask, axis=-1) / ops.sum(mask, axis=-1)


_PAIRS_AT_ONCE = 2**24
"""Pairs of a removed and a visible patch, of one image, whose distances are held at once."""


@lru_cache(maxsize=8)
def _inverse_square_distances(grid: tuple[int, int]) -> np.ndarray:
    """Return float32 (patches,): 1 / squared distance of each patch of a grid to the first one, 0 for that."""
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    squared: np.ndarray = (row**2 + column**2).astype("float32")
    inverse = np.zeros_like(squared)
    np.divide(1.0, squared, out=inverse, where=squared > 0)
    return inverse


def visible_statistics(
    visible: Tensor, ids_keep: Tensor, ids_removed: Tensor, grid: tuple[int, int], groups: Groups = None
) -> tuple[Tensor, Tensor]:
    """Guess the removed patches' statistics from the visible ones alone.

    The average of the visible patches' means and standard deviations, weighted by 1 / distance**2 on the
    grid. It uses nothing a removed patch would give away. Of many patches, some of the removed ones are taken at a
    time, so that memory does not grow with the square of their number.

    Args:
        visible: float32 (batch, kept, pixels), the visible patches' pixels.
        ids_keep: int32 (batch, kept).
        ids_removed: int32 (batch, removed).
        grid: (rows, columns) of patches.
        groups: Groups of channels that have statistics of their own.

    Returns:
        Mean and standard deviation, float32 (batch, removed, 1), or (batch, removed, groups), each.
    """
    mean, std = patch_statistics(visible, groups)
    table = constant(_inverse_square_distances(grid), mean)
    columns, removed, kept = grid[1], ids_removed.shape[1], ids_keep.shape[1]
    seen_row, seen_column = (ops.expand_dims(place, 1) for place in (ids_keep // columns, ids_keep % columns))

    def guessed(ids: Tensor) -> tuple[Tensor, Tensor]:
        row, column = (ops.expand_dims(place, 2) for place in (ids // columns, ids % columns))
        apart = ops.abs(row - seen_row) * columns + ops.abs(column - seen_column)
        weights = ops.take(table, apart)  # (batch, removed, kept)
        weights = weights / ops.sum(weights, axis=-1, keepdims=True)
        return ops.matmul(weights, mean), ops.matmul(weights, std)

    step = removed if None in (removed, kept) else max(_PAIRS_AT_ONCE // kept, 1)
    if removed is None or removed <= step:
        return guessed(ids_removed)
    parts = [guessed(ids_removed[:, start : start + step]) for start in range(0, removed, step)]
    means, deviations = (ops.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return means, deviations


def psnr(prediction: Tensor, pixels: Tensor, pixel_std: tuple[float, ...], peak: float = 255.0) -> Tensor:
    """Return the peak signal-to-noise ratio of every sample, in dB.

    Args:
        prediction: float32 (batch, patches, pixels), normalized pixels.
        pixels: float32 (batch, patches, pixels), the true ones.
        pixel_std: Divisor of the pixels, one value a channel, in their own units.
        peak: Length of the pixels' range, in the same units.

    Returns:
        float32 (batch,): 10 log10(peak² / mean squared error).
    """
    scale = constant(np.tile(np.asarray(pixel_std, "float32"), pixels.shape[2] // len(pixel_std)), pixels)
    error = ops.mean(ops.square((ops.cast(prediction, "float32") - pixels) * scale), axis=(1, 2))
    smallest = 1e-6 * (peak / 255) ** 2  # 108 dB
    return 10 * ops.log10(peak**2 / ops.maximum(error, constant(smallest, error)))


# === Classification ===
# MixUp and CutMix train on probabilities and are validated on integers: one loss and one metric have to take both.
PROBABILITY_TOLERANCE = 0.01
"""How far from 1 the sum of an image's probabilities may be: bfloat16 and three decimals are as far off."""


def _are_probabilities(labels: Tensor, num_classes: int) -> bool:
    return len(labels.shape) == 2 and labels.shape[1] == num_classes > 1


def _probabilities(labels: Tensor, logits: Tensor) -> Tensor:
    """Return `labels` as float32 (batch, classes)."""
    classes = logits.shape[-1]
    if _are_probabilities(labels, classes):
        return ops.cast(labels, "float32")
    # What is no class has no probability. PyTorch's own one-hot would look for such labels on the host.
    indices = ops.reshape(ops.cast(labels, "int32"), (-1,))
    indices = ops.where(are_classes(labels, classes), indices, constant(-1, indices))
    return ops.cast(ops.expand_dims(indices, 1) == ops.arange(classes, dtype="int32"), "float32")


def are_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Return for every image whether its label is a class or a distribution over the classes, bool (batch,).

    Args:
        labels: (batch,), (batch, 1) or (batch, num_classes), the last one for probabilities.
        num_classes: Number of classes.
    """
    labels = ops.cast(labels, "float32")
    if _are_probabilities(labels, num_classes):
        total = ops.sum(labels, axis=-1)
        return ops.all(labels >= 0, axis=-1) & (ops.abs(total - 1.0) <= PROBABILITY_TOLERANCE)
    labels = ops.reshape(labels, (-1,))
    return (labels >= 0) & (labels < num_classes) & (labels == ops.floor(labels))


def checked_class_weights(class_weights: Any) -> tuple[float, ...] | None:
    """Return weights of classes as numbers, none of them below 0, or `None` if there are none."""
    if class_weights is None:
        return None
    rule = "numbers of at least 0, one for each class"
    weights = _checks.finite_numbers("class_weights", class_weights, rule)
    if min(weights) < 0:
        raise _checks.argument_error("class_weights", rule, class_weights)
    return weights


def weights_for(class_weights: tuple[float, ...], logits: Tensor) -> Tensor:
    """Return weights of classes as float32 (classes,), if there is one for each of the logits (..., classes)."""
    if len(class_weights) != logits.shape[-1]:
        raise ValueError(
            f"`class_weights` must be one for each of {logits.shape[-1]} classes. Received: {len(class_weights)}"
        )
    return constant(np.asarray(class_weights, "float32"), logits)


@keras.saving.register_keras_serializable(package="keras_mae")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits with class indices (batch,) or probabilities (batch, classes), in float32.

    A label that is neither gives NaN, for which the training step leaves the weights alone.

    Args:
        name: Name of the loss.
        class_weights: Factor of each class's term, (classes,), none below 0; all 1 by default. Of labels that MixUp,
            CutMix or label smoothing spread over classes, each share has its own class's weight. The sum over a batch
            is divided by the number of images, not by the sum of weights.
        kwargs: Other arguments of `keras.losses.Loss`.

    Raises:
        ValueError: If weights are not numbers of at least 0, or not one for each logit.

    Example:
        >>> weights = keras_mae.transfer.balanced_class_weights(labels, 10)
        >>> classifier.compile("adamw", keras_mae.loss.CrossEntropy(class_weights=weights))
    """

    def __init__(self, name: str = "cross_entropy", *, class_weights: Sequence[float] | None = None, **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.class_weights = checked_class_weights(class_weights)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        logits = ops.cast(y_pred, "float32")
        probabilities = _probabilities(y_true, logits)
        if self.class_weights is not None:
            probabilities = probabilities * weights_for(self.class_weights, logits)
        loss = -ops.sum(probabilities * ops.log_softmax(logits, axis=-1), axis=-1)
        return ops.where(are_classes(y_true, logits.shape[-1]), loss, constant(float("nan"), loss))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "class_weights": self.class_weights}


@keras.saving.register_keras_serializable(package="keras_mae")
class Accuracy(keras.metrics.MeanMetricWrapper):
    """The share of images whose largest logit is that of the label, or of the most probable one.

    An image whose label is no class counts as wrong.
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None):
        super().__init__(self._agree, name=name, dtype=dtype)
        self._direction = "up"  # where Keras' callbacks look for it

    @staticmethod
    def _agree(y_true: Tensor, y_pred: Tensor) -> Tensor:
        right = ops.equal(ops.argmax(_probabilities(y_true, y_pred), axis=-1), ops.argmax(y_pred, axis=-1))
        return right & are_classes(y_true, y_pred.shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}
