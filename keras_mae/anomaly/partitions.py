"""Masks that hide each patch equally often."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae.random import EVALUATION_STEP, hash_noise

__all__ = ["complementary_masks"]

_MOST_GROUPS = 10


def complementary_masks(patches: int, mask_ratio: float = 0.75, partitions: int = 4, seed: int = 0) -> np.ndarray:
    """Draw masks that together hide each patch equally often.

    The patches are dealt to groups at random. Each mask of a partition hides some of the groups: for a ratio of 3/4
    there are four groups, and each of the four masks leaves a different one visible. Partitions are drawn by the
    hash, so that they are the same on every backend and for every image.

    Args:
        patches: Number of patches in an image, at least 2.
        mask_ratio: Fraction of the patches that a mask hides, in (0, 1). It is rounded to the nearest fraction whose
            denominator, the number of groups, is at most 10. If the patches cannot be shared out evenly, the groups'
            sizes differ by one.
        partitions: Number of partitions, each with one mask for each group.
        seed: Seed for the partitions.

    Returns:
        Masks, Boolean (masks, patches), true = removed.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> complementary_masks(196, 0.75, partitions=2).sum(axis=0)  # doctest: +ELLIPSIS
        array([6, 6, ..., 6])
    """
    _checks.int_within("patches", patches, 2, 2**24)
    ratio = _checks.fraction("mask_ratio", mask_ratio)
    if not ratio:
        raise _checks.argument_error("mask_ratio", "in (0, 1)", mask_ratio)
    _checks.positive_int("partitions", partitions)
    seed = _checks.seed_int("seed", seed)
    most = min(_MOST_GROUPS, patches)
    share = min(max(Fraction(ratio).limit_denominator(most), Fraction(1, most)), Fraction(most - 1, most))
    hidden_groups, groups = share.numerator, share.denominator
    noise = hash_noise(seed, EVALUATION_STEP, ops.arange(partitions, dtype="int32"), patches)
    orders = np.argsort(ops.convert_to_numpy(noise), axis=1, kind="stable")
    masks = np.zeros((partitions, groups, patches), bool)
    for partition, order in enumerate(orders):
        dealt = np.array_split(order, groups)
        for first in range(groups):
            hidden = [dealt[(first + step) % groups] for step in range(hidden_groups)]
            masks[partition, first, np.concatenate(hidden)] = True
    return masks.reshape(-1, patches)
