"""What a model looks at and what it has learned, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.masking import RandomMasking
from keras_mae.pixels import check_images
from keras_mae.random import EVALUATION_STEP, hash_noise
from keras_mae.reconstruction import Reconstruction
from keras_mae.visualize.models import encoder_of, run

__all__ = [
    "attention",
    "attention_rollout",
    "feature_colors",
    "patch_maps",
    "position_similarity",
    "reconstruct_at",
]


# === Reconstructions ===
def reconstruct_at(
    mae: Any,
    images: Any,
    mask_ratios: Sequence[float] = (0.5, 0.75, 0.9),
    *,
    seed: int | None = None,
    statistics: str = "visible",
) -> list[Reconstruction]:
    """Reconstruct the same images at several mask ratios. What is hidden at one is hidden at all higher ones.

    Args:
        mae: A `MaskedAutoencoder`.
        images: Images (batch, height, width, channels) in the encoder's `pixel_range`.
        mask_ratios: Fractions of the patches to remove, at random.
        seed: Seed for the masks; the model's by default.
        statistics: As in `MaskedAutoencoder.reconstruct`.

    Returns:
        A `Reconstruction` for each ratio.

    Raises:
        ValueError: If the model has no decoder, or images or ratios do not fit it.
    """
    if not isinstance(mae, MaskedAutoencoder):
        raise _checks.argument_error("mae", "a MaskedAutoencoder: reconstructing takes its decoder", mae)
    grid, patches = mae.encoder.grid, mae.encoder.num_patches
    images = check_images(images, mae.encoder.image_shape, mae.encoder.pixel_range)
    rule = "a list of numbers in (0, 1)"
    if isinstance(mask_ratios, float | int) or not _checks.finite_numbers("mask_ratios", mask_ratios, rule):
        raise _checks.argument_error("mask_ratios", rule, mask_ratios)
    seed = mae.seed if seed is None else _checks.seed_int("seed", seed)
    noise = hash_noise(seed, EVALUATION_STEP, ops.arange(len(images), dtype="int32"), patches)
    results = []
    for ratio in mask_ratios:
        masking = RandomMasking(ratio)
        if not 0 < masking.num_kept(grid) < patches:
            raise _checks.argument_error(
                "mask_ratios", f"such that some of {patches} patches stay and some go", ratio
            )
        mask = ops.convert_to_numpy(masking(noise, grid=grid).mask)
        results.append(mae.reconstruct(images, mask=mask, statistics=statistics))
    return results


# === Attention ===
def attention(
    model: Any, images: Any, layers: int | Sequence[int] | None = None, *, batch_size: int = 32
) -> np.ndarray:
    """Compute how much of each token every token takes, in each layer and head.

    Args:
        model: A `ViTEncoder`, or a `ViTClassifier` or `MaskedAutoencoder`, whose encoder then sees all patches.
        images: Images (batch, height, width, channels) in the encoder's `pixel_range`.
        layers: Indices of the encoder's blocks, from 0, or from -1 backwards; all by default. For large models ask
            only for what you need: an image takes depth * heads * tokens² numbers.
        batch_size: Images at a time.

    Returns:
        float32 (batch, layers, heads, tokens, tokens); tokens are the class tokens and the patches, row by row,
        and the last axis sums to 1.

    Raises:
        ValueError: If the model has no encoder, the images do not fit, or there is no such layer.
    """
    depth = encoder_of(model).depth
    rule = f"of the encoder's {depth}: in [-{depth}, {depth})"
    wanted = _checks.indices("layers", range(depth) if layers is None else layers, -depth, depth, rule)
    chosen = [layer % depth for layer in wanted]

    def stacked(encoder: ViTEncoder, images: Any) -> Any:
        inputs = _inputs_of_blocks(encoder, images, max(chosen) + 1)
        return ops.stack([_probabilities(encoder, index, inputs[index]) for index in chosen], axis=1)

    return run(model, stacked, images, batch_size)


def _inputs_of_blocks(encoder: ViTEncoder, images: Any, count: int) -> list[Any]:
    """Return what each of the first blocks gets: (batch, tokens, embed_dim) in reading order."""
    x = encoder.embed(images)
    return [x, *(encoder.outputs_of(x, encoder.grid, False, range(count - 1)) if count > 1 else ())]


def _probabilities(encoder: ViTEncoder, index: int, x: Any) -> Any:
    """Return how much of each token every token takes in a block, of the block's input."""
    block, windows = encoder.blocks[index], encoder.windows_of(index, encoder.grid)
    return block.attention.probabilities(block.norm1(x), None if windows is None else windows.allowed())


def attention_rollout(model: Any, images: Any, batch_size: int = 32) -> np.ndarray:
    """Compute how much of each patch arrives in every token after all layers.

    This is the heads' mean in each layer, with the identity added for the residual path and rows made to sum to 1
    again, multiplied through the layers.

    Args:
        model: As in `attention`.
        images: Images (batch, height, width, channels) in the encoder's `pixel_range`.
        batch_size: Images at a time.

    Returns:
        float32 (batch, tokens, tokens); the last axis sums to 1. `patch_maps` turns it into maps.

    Raises:
        ValueError: If the model has no encoder, or the images do not fit.

    Reference: "Quantifying Attention Flow in Transformers", section 3, "Attention rollout".
    """

    def rolled_out(encoder: ViTEncoder, images: Any) -> Any:
        identity = ops.eye(encoder.class_tokens + encoder.num_patches, dtype="float32")
        arrived = identity
        for index, x in enumerate(_inputs_of_blocks(encoder, images, encoder.depth)):
            taken = ops.mean(_probabilities(encoder, index, x), axis=1) + identity
            arrived = ops.matmul(taken / ops.sum(taken, axis=-1, keepdims=True), arrived)
        return arrived

    return run(model, rolled_out, images, batch_size)


def patch_maps(model: Any, attention: np.ndarray, query: tuple[int, int] | str | None = None) -> np.ndarray:
    """Return what one token takes from the patches, as maps on their grid.

    Args:
        model: The model that `attention` was computed with.
        attention: Array (..., tokens, tokens), from `attention` or `attention_rollout`.
        query: The token that takes: "class", the class token, or several on average; "mean", the patches on average;
            or the (row, column) of a patch. By default what the model's head sees: "mean" for a classifier on the
            patch tokens or an encoder without class tokens, else "class".

    Returns:
        (..., rows, columns). What goes to class tokens is left out.

    Raises:
        ValueError: If `attention` is not of such a model, or there is no such token.
    """
    encoder = encoder_of(model)
    rows, columns = encoder.grid
    first = encoder.class_tokens
    tokens = first + rows * columns
    attention = _checks.array("attention", attention, f"numbers (..., {tokens}, {tokens})")
    if attention.ndim < 2 or attention.shape[-2:] != (tokens, tokens):
        raise ValueError(
            f"`attention` must have shape (..., {tokens}, {tokens}) for a grid of {rows} x {columns} patches. "
            f"Received: attention.shape={attention.shape}"
        )
    if query is None:
        query = "class" if first and getattr(model, "pooling", "token") == "token" else "mean"
    if query == "mean":
        taken = attention[..., first:, first:].mean(axis=-2)
    elif query == "class":
        if not first:
            raise ValueError('`query="class"` takes an encoder with class tokens. Received: class_tokens=0')
        taken = attention[..., :first, first:].mean(axis=-2)
    elif (
        not isinstance(query, tuple | list)
        or len(query) != 2
        or not all(isinstance(place, int | np.integer) for place in query)
        or not all(0 <= place < size for place, size in zip(query, (rows, columns), strict=True))
    ):
        raise _checks.argument_error(
            "query", f'"class", "mean" or (row, column) on a grid of {rows} x {columns}', query
        )
    else:
        taken = attention[..., first + query[0] * columns + query[1], first:]
    maps: np.ndarray = taken.reshape(*taken.shape[:-1], rows, columns)
    return maps


# === Positions and features ===
def position_similarity(model: Any) -> np.ndarray:
    """Return the cosine similarity of each patch's position embedding with all others.

    Args:
        model: A `ViTEncoder`, a `ViTClassifier` or a `MaskedAutoencoder`, whose encoder counts.

    Returns:
        float32 (rows, columns, rows, columns), in [-1, 1].

    Raises:
        ValueError: If the model has no encoder.

    Reference: "An Image is Worth 16x16 Words", figure 7.
    """
    encoder = encoder_of(model)
    positions = ops.convert_to_numpy(encoder.position_embedding)[1:].astype("float64")
    positions /= np.maximum(np.linalg.norm(positions, axis=1, keepdims=True), 1e-12)
    similarity: np.ndarray = (positions @ positions.T).astype("float32")
    return similarity.reshape(*encoder.grid, *encoder.grid)


def feature_colors(model: Any, images: Any, batch_size: int = 32) -> np.ndarray:
    """Return the patches' features as colors: alike where the model finds patches alike, across the images too.

    Red, green and blue are the features' first three principal components over all patches of the given images,
    each stretched to the whole range. A component's sign, which means nothing, is chosen such that its largest weight
    is positive.

    Args:
        model: As in `attention`.
        images: Images (batch, height, width, channels) in the encoder's `pixel_range`.
        batch_size: Images at a time.

    Returns:
        uint8 (batch, rows, columns, 3).

    Raises:
        ValueError: If the model has no encoder, or the images do not fit.
    """
    features = run(model, lambda encoder, images: encoder(images)[:, encoder.class_tokens :], images, batch_size)
    features = features.astype("float64")
    flat = features.reshape(-1, features.shape[-1])
    flat -= flat.mean(axis=0)
    axes = np.linalg.svd(flat.T @ flat)[0][:, :3]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(3)])
    colors: np.ndarray = flat @ axes
    low, high = colors.min(axis=0), colors.max(axis=0)
    colors = np.rint(255 * (colors - low) / np.maximum(high - low, 1e-12)).astype("uint8")
    return colors.reshape(len(features), *encoder_of(model).grid, 3)
