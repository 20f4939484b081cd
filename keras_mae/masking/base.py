"""What all maskings share: the mask, and the layer that turns the order of a sample's noise into one."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.random import mix

__all__ = ["Mask", "Masking", "order_of", "second_draws"]


class Mask(NamedTuple):
    """The patches of each sample, divided.

    Attributes:
        ids_keep: int32 (batch, kept), the visible patches in the order the encoder sees them.
        ids_removed: int32 (batch, removed), the patches to predict.
    """

    ids_keep: Tensor
    ids_removed: Tensor

    @property
    def mask(self) -> Tensor:
        """float32 (batch, patches), 1 = removed."""
        kept = self.ids_keep.shape[1]
        return ops.cast(self.ids_restore >= kept, "float32")

    @property
    def ids_restore(self) -> Tensor:
        """int32 (batch, patches): where each patch stands in the order [kept, removed]."""
        order = ops.concatenate([self.ids_keep, self.ids_removed], axis=1)
        return ops.cast(ops.argsort(order, axis=1), "int32")


def order_of(values: Tensor) -> Tensor:
    """Return int32 (batch, patches): the patches by their values, smallest first, the earlier one of a tie first."""
    return ops.cast(ops.argsort(values, axis=1), "int32")


def second_draws(order: Tensor, count: int) -> Tensor:
    """Return other random numbers, int32 (batch, count): a hash of the four patches with the smallest noise."""
    patches = order.shape[1]
    key = order[:, 0]
    for place in range(1, min(4, patches)):
        key = mix(key + order[:, place] * (2 * patches * place + 1))
    return mix(ops.expand_dims(key, 1) + ops.arange(count, dtype="int32") * 0x27D4EB2F)


class Masking(keras.layers.Layer):
    """What all maskings share: a ratio, and a call that turns noise into a `Mask`.

    Args:
        mask_ratio: Fraction of the patches to remove, in [0, 1).

    Call arguments:
        noise: (batch, patches), integer or float; its order decides.
        grid: (rows, columns) of patches.

    Returns:
        A `Mask`.

    Raises:
        ValueError: If the ratio is out of range or would leave nothing visible.
    """

    def __init__(self, mask_ratio: float = 0.75, **kwargs: Any):
        kwargs.setdefault("autocast", False)  # rounding the noise would make ties, and ties a bias
        super().__init__(**kwargs)
        self.mask_ratio = _checks.fraction("mask_ratio", mask_ratio)
        self.built = True  # no weights

    def num_kept(self, grid: tuple[int, int]) -> int:
        """Return how many patches stay visible: int(patches * (1 - mask_ratio)).

        The product is rounded at the tenth digit first, so that 0.9 of 10 patches leaves 1 and not, by the
        error of 1 - 0.9, none.
        """
        kept = int(round(grid[0] * grid[1] * (1 - self.mask_ratio), 10))
        if kept < 1:
            raise ValueError(
                f"`mask_ratio` must leave at least one patch visible. Received: mask_ratio={self.mask_ratio} "
                f"for a grid of {grid[0]} x {grid[1]} patches"
            )
        return kept

    def call(self, noise: Tensor, grid: tuple[int, int]) -> Mask:
        raise NotImplementedError(f"{type(self).__name__} must implement `call`.")

    def compute_output_spec(self, noise: Tensor, grid: tuple[int, int]) -> Mask:
        kept = self.num_kept(grid)
        removed = grid[0] * grid[1] - kept
        return Mask(
            keras.KerasTensor((noise.shape[0], kept), "int32"),
            keras.KerasTensor((noise.shape[0], removed), "int32"),
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mask_ratio": self.mask_ratio}
