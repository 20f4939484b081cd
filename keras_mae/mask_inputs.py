"""What the caller of a masked autoencoder says is to be hidden: a mask, noise, or the patches themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.masking import Mask, Masking, explicit_mask
from keras_mae.random import EVALUATION_STEP, hash_noise

__all__ = ["given_mask", "mask_of_images", "masks_to_check", "named"]


def given_mask(
    inputs: dict[str, Tensor],
    masking: Masking,
    grid: tuple[int, int],
    *,
    patch_size: tuple[int, int],
    repeats: int = 1,
) -> Mask | None:
    """Return the patches to keep and to remove as `inputs` says; `None` if it leaves them to be drawn.

    Args:
        inputs: At most one of `mask`, `noise` or `ids_keep` with `ids_removed`, as of `MaskedAutoencoder`.
        masking: The model's masking: it turns noise into a mask, and says how many patches a mask keeps.
        grid: (rows, columns) of patches.
        patch_size: (height, width) of a patch.
        repeats: Masks of each image.

    Raises:
        ValueError: If there is more than one, or it does not fit the model.
    """
    patches = grid[0] * grid[1]
    given = [key for key in ("mask", "noise", "ids_keep") if inputs.get(key) is not None]
    if len(given) > 1 or (given and repeats > 1):
        raise ValueError(
            "Give one of `mask`, `noise` or `ids_keep` with `ids_removed`, and only with masks_per_image=1. "
            f"Received: {', '.join(given)} with masks_per_image={repeats}"
        )
    if given == ["ids_keep"]:
        mask = Mask(inputs["ids_keep"], inputs["ids_removed"])
        if mask.ids_keep.shape[1] + mask.ids_removed.shape[1] != patches:
            raise ValueError(
                f"`ids_keep` and `ids_removed` must share out all {patches} patches. Received: "
                f"ids_keep.shape={tuple(mask.ids_keep.shape)}, ids_removed.shape={tuple(mask.ids_removed.shape)}"
            )
        return mask
    if given == ["mask"]:
        # Compiled code cannot count what it is given, so the number is the masking's, on every backend.
        return explicit_mask(inputs["mask"], grid, masking.num_kept(grid), patch_size)
    if given == ["noise"]:
        if tuple(inputs["noise"].shape[1:]) != (patches,):
            raise ValueError(
                f"`noise` must have shape (batch, {patches}). Received: noise.shape={tuple(inputs['noise'].shape)}"
            )
        drawn: Mask = masking(inputs["noise"], grid=grid)
        return drawn
    return None


def mask_of_images(
    images: np.ndarray, mask: Any, masking: Masking, *, encoder: Any, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return `ids_keep` and `ids_removed` for pictures of images.

    Args:
        images: (batch, height, width, channels).
        mask: What to remove, one row an image, of any ratio; `None` to draw it.
        masking: The model's masking.
        encoder: The model's encoder.
        seed: Seed for the drawn masks, the same every time.

    Raises:
        ValueError: If the mask does not fit images or encoder.
    """
    if mask is None:
        index = ops.arange(len(images), dtype="int32")
        noise = hash_noise(_checks.seed_int("seed", seed), EVALUATION_STEP, index, encoder.num_patches)
        drawn = masking(noise, grid=encoder.grid)
    elif len(mask) != len(images):
        raise ValueError(f"`mask` must have one row an image. Received: {len(mask)} rows for {len(images)} images")
    else:
        drawn = explicit_mask(ops.convert_to_tensor(mask), encoder.grid, patch_size=encoder.patch_size)
    return ops.convert_to_numpy(drawn.ids_keep), ops.convert_to_numpy(drawn.ids_removed)


def named(inputs: Any) -> dict[str, Any]:
    """Return `inputs` as a dict that has images."""
    found: dict[str, Any] = inputs if isinstance(inputs, dict) else {"images": inputs}
    if found.get("images") is None:
        raise ValueError(f"A dict of inputs must have the key 'images'. Received keys: {sorted(found)}")
    return found


def masks_to_check(data: Iterable[Any], rows: int = 32) -> list[Any]:
    """Return the first masks of each of several arguments of `fit` that are arrays."""
    inputs = [each[0] if isinstance(each, tuple) else each for each in data]
    return [x["mask"][:rows] for x in inputs if isinstance(x, dict) and x.get("mask") is not None]
