"""Which of the removed patches are predicted in training, where only a share of them is."""

from __future__ import annotations

from keras import ops

from keras_mae._types import Tensor
from keras_mae.masking import Mask
from keras_mae.ops import gather_tokens
from keras_mae.random import PREDICTED, hash_noise

__all__ = ["drawn", "in_reading_order", "num_predicted"]


def num_predicted(predict_ratio: float, num_removed: int) -> int:
    """Return how many of an image's removed patches are predicted: the nearest integer, at least 1.

    The product is rounded at the tenth digit first, so that 0.35 of 10 patches is the half that it looks like. Halves
    go to the even neighbor, as Python rounds.

    Args:
        predict_ratio: Share of the removed patches, in (0, 1].
        num_removed: Number of removed patches.
    """
    return max(1, round(round(predict_ratio * num_removed, 10)))


def drawn(mask: Mask, predict_ratio: float, seed: int, step: Tensor, index: Tensor) -> tuple[Mask, Tensor]:
    """Return the mask with each image's removed patches in random order, and the first of them: those to predict.

    Args:
        mask: Mask of this step.
        predict_ratio: Share of the removed patches to predict, in (0, 1].
        seed: Seed of the masks; this draws from a stream of its own.
        step: Number of the update, an int32 scalar.
        index: Places of the samples in the update's batch, int32 (batch,).

    Returns:
        A `Mask` that removes the same patches, and int32 (batch, predicted). Where all are predicted, the order is
        left as it was.

    Reference: "Rethinking Patch Dependence for Masked Autoencoders" (CrossMAE, arXiv 2401.14391), partial
        reconstruction.
    """
    removed = mask.ids_removed
    count = num_predicted(predict_ratio, removed.shape[1])
    if count == removed.shape[1]:
        return mask, removed
    # Noise goes by patch and not by place: blocks, grids and masks of the caller come in reading order, and one mask
    # means one choice in whatever order its patches are.
    noise = hash_noise(seed, step, index, mask.ids_keep.shape[1] + removed.shape[1], PREDICTED)
    order = ops.argsort(ops.take_along_axis(noise, removed, axis=1), axis=1)
    shuffled = ops.cast(ops.take_along_axis(removed, order, axis=1), "int32")
    return Mask(mask.ids_keep, shuffled), shuffled[:, :count]


def in_reading_order(prediction: Tensor, mask: Mask, predicted: Tensor) -> dict[str, Tensor]:
    """Return what a call of the model returns: the prediction of every patch in its place, and the mask.

    Args:
        prediction: float32 (batch, kept + predicted, pixels), in the decoder's order.
        mask: Mask of the batch, the predicted ones first among its removed patches.
        predicted: int32 (batch, predicted), the patches that were predicted.

    Returns:
        `reconstruction` and `mask`; where not every removed patch was predicted also `predicted`, float32
        (batch, patches), 1 = predicted, and the reconstruction of the other removed patches is 0.
    """
    restore = mask.ids_restore
    outputs = {"mask": mask.mask}
    if predicted is not mask.ids_removed:
        last = prediction.shape[1]
        missing = mask.ids_removed.shape[1] - predicted.shape[1]
        prediction = ops.pad(prediction, ((0, 0), (0, missing), (0, 0)))
        outputs["predicted"] = outputs["mask"] * ops.cast(restore < last, "float32")
    return {"reconstruction": gather_tokens(prediction, restore), **outputs}
