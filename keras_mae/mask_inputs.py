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

__all__ = ["check_names", "given_mask", "masks_of", "masks_to_check", "named"]


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


def named(inputs: Any) -> dict[str, Any]:
    """Return `inputs` as a dict that has images."""
    found: dict[str, Any] = inputs if isinstance(inputs, dict) else {"images": inputs}
    if found.get("images") is None:
        raise ValueError(f"A dict of inputs must have the key 'images'. Received keys: {sorted(found)}")
    return found


def check_names(inputs: Any) -> None:
    """Raise ValueError if a dict of inputs has a name that is none of ours and looks as if it were meant to be.

    Raises:
        ValueError: If it does, or lacks its other half.
    """
    if not isinstance(inputs, dict):
        return
    known = ("images", "mask", "noise", "ids_keep", "ids_removed")
    words = ("mask", "noise", "ids")
    for name in map(str, inputs):
        if name not in known and any(word in name.lower() for word in words):
            raise ValueError(f"A dict of inputs may have {', '.join(map(repr, known))}. Received: {name!r}")
    halves = [name for name in known[3:] if inputs.get(name) is not None]
    if len(halves) == 1:
        raise ValueError(f"`ids_keep` and `ids_removed` go together. Received: {halves[0]} alone")
    named(inputs)


def masks_to_check(data: Iterable[Any], rows: int = 32) -> list[Any]:
    """Return the first masks of each of several arguments of `fit` that are arrays."""
    inputs = [each[0] if isinstance(each, tuple) else each for each in data]
    return [x["mask"][:rows] for x in inputs if isinstance(x, dict) and x.get("mask") is not None]


def masks_of(
    images: int, masking: Masking, encoder: Any, *, mask: Tensor | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the patches to keep and to remove of images that are looked at.

    Args:
        images: Number of images.
        masking: The model's masking, which draws what is not given.
        encoder: The model's encoder.
        mask: What to remove, as `MaskedAutoencoder.reconstruct` takes it; `None` to draw it.
        seed: Seed for what is drawn.

    Returns:
        int32 (images, kept) and (images, removed).

    Raises:
        ValueError: If the mask does not fit the images.
    """
    if mask is None:
        places = ops.arange(images, dtype="int32")
        drawn = masking(hash_noise(seed, EVALUATION_STEP, places, encoder.num_patches), grid=encoder.grid)
    else:
        _checks.has("mask", mask, ("shape", "dtype"), "an array or a tensor of 0 and 1")
        if len(mask) != images:
            raise ValueError(f"`mask` must have one row an image. Received: {len(mask)} rows for {images} images")
        drawn = explicit_mask(ops.convert_to_tensor(mask), encoder.grid, patch_size=encoder.patch_size)
    ids_keep, ids_removed = (ops.convert_to_numpy(ids) for ids in drawn)
    return ids_keep, ids_removed
