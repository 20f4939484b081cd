"""A hundred thousand patches an image: places, orders and sums that 16 or 24 bits would not hold."""

import math

import numpy as np
import pytest
from conftest import run_quickly
from keras import ops

import keras_mae
from keras_mae import loss
from keras_mae.fusion import encoded
from keras_mae.random import hash_noise

GRID = (316, 317)
PATCHES = GRID[0] * GRID[1]
ROW, COLUMN = np.divmod(np.arange(PATCHES), GRID[1])
SEED, STEP, SAMPLE = 3, 11, 1


# === The referee, in NumPy: what `oracles` says in Python's integers, for many at a time ===
def mixed(x):
    x = (x ^ (x >> 16)) * np.uint64(0x85EBCA6B) & np.uint64(0xFFFFFFFF)
    x = (x ^ (x >> 13)) * np.uint64(0xC2B2AE35) & np.uint64(0xFFFFFFFF)
    return x ^ (x >> 16)


def low(value):
    return np.uint64(value % 2**32)


def hashed(key, multiplier, count):
    return mixed((key + np.arange(count, dtype="uint64") * np.uint64(multiplier)) & np.uint64(0xFFFFFFFF))


def noise():
    key = mixed(mixed(low(STEP * 0x9E3779B1 + SEED * 0x85EBCA77 + 1)))
    row = mixed(low(SAMPLE * 0xC2B2AE3D + int(key)))
    draws = mixed((hashed(row, 0x27D4EB2F, PATCHES) + np.uint64(0x165667B1)) & np.uint64(0xFFFFFFFF))
    return draws.astype("uint32").view("int32")


def second_draws(order, count):
    key = low(int(order[0]))
    for place in (1, 2, 3):
        key = mixed(low(int(key) + int(order[place]) * (2 * PATCHES * place + 1)))
    return hashed(key, 0x27D4EB2F, count)


def random_order(draws, kept):
    return np.argsort(draws, kind="stable")


def cell_order(draws, kept):
    corner = ROW // 2 * 2 * GRID[1] + COLUMN // 2 * 2
    bits = 31 - len(np.unique(corner)).bit_length()
    within = second_draws(random_order(draws, kept), PATCHES) % np.uint64(2**bits)
    return np.lexsort((np.arange(PATCHES), within, corner, draws[corner]))


def block_order(draws, kept):
    """The patches in no block come last: they are those that stay."""
    order, first = random_order(draws, kept), np.full(PATCHES, 32)
    sizes = second_draws(order, 32) % np.uint64(64)
    for number in range(31, -1, -1):
        area, aspect = (
            (0.08 + 0.32 * (int(sizes[number]) // 8) / 7) * PATCHES,
            0.3 ** (1 - int(sizes[number]) % 8 / 3.5),
        )
        height = min(max(round(math.sqrt(area * aspect)), 1), GRID[0])
        width = min(max(round(math.sqrt(area / aspect)), 1), GRID[1])
        top, left = order[number] // GRID[1] - height // 2, order[number] % GRID[1] - width // 2
        first[(top <= ROW) & (top + height > ROW) & (left <= COLUMN) & (left + width > COLUMN)] = number
    by_block = np.lexsort((np.arange(PATCHES), first))
    return np.roll(by_block, kept)


def green_order(draws, kept):
    order, ranks = random_order(draws, kept), np.empty(PATCHES, "int64")
    ranks[order] = np.arange(PATCHES) >> PATCHES.bit_length() - 12

    def blurred(passes):
        values = ranks.reshape(GRID)
        for axis in (0, 1):
            weights = [math.comb(2 * passes, shift) for shift in range(2 * passes + 1)]
            values = sum(weight * np.roll(values, shift - passes, axis) for shift, weight in enumerate(weights))
        return values.ravel()

    place = np.empty(PATCHES, "int64")
    place[order] = np.arange(PATCHES)
    return np.lexsort((place, blurred(4) - 16**3 * blurred(1)))


MASKINGS = {
    "random": (keras_mae.RandomMasking(0.75), random_order),
    "few": (keras_mae.RandomMasking(0.999), random_order),
    "cells": (keras_mae.RandomMasking(0.7, cell=2), cell_order),
    "blocks": (keras_mae.BlockMasking(0.5), block_order),
    "green": (keras_mae.NoiseMasking(0.75, "green"), green_order),
}


@pytest.fixture(scope="module")
def drawn():
    return ops.convert_to_numpy(hash_noise(SEED, STEP, ops.convert_to_tensor([SAMPLE], "int32"), PATCHES))


def test_noise_is_the_referees(drawn):
    np.testing.assert_array_equal(drawn[0], noise())
    assert len(np.unique(drawn)) == PATCHES  # 24 bits, as a float32 has, would make 300 pairs of equals


@pytest.mark.parametrize("kind", MASKINGS)
def test_masks_are_the_referees(kind, drawn):
    masking, order_of = MASKINGS[kind]

    @run_quickly
    def drawn_mask(noise):
        mask = masking(noise, grid=GRID)
        return {"keep": mask.ids_keep, "mask": mask.mask}

    mask = {name: ops.convert_to_numpy(value)[0] for name, value in drawn_mask(drawn).items()}
    kept = masking.num_kept(GRID)
    expected = order_of(noise(), kept)[:kept]
    np.testing.assert_array_equal(np.sort(mask["keep"]), np.sort(expected))
    flags = np.ones(PATCHES)
    flags[expected] = 0
    np.testing.assert_array_equal(mask["mask"], flags)


def test_positions_pixels_and_predictions_are_in_their_places(drawn):
    """A decoder that does not attend to itself predicts every removed patch from a hundred visible ones."""
    encoder = keras_mae.ViTEncoder((*GRID, 1), 1, embed_dim=8, depth=1, num_heads=1)
    masking = keras_mae.RandomMasking(0.999)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.CrossAttentionDecoder(8, 1, 1), masking=masking)
    frequencies = np.array([1, 0.01])
    places = [turn(np.outer(axis, frequencies)) for axis in (COLUMN, ROW) for turn in (np.sin, np.cos)]
    for table in (encoder.position_embedding, mae.decoder.position_embedding):
        np.testing.assert_allclose(ops.convert_to_numpy(table)[1:], np.concatenate(places, axis=1), atol=1e-6)

    images = np.random.default_rng(0).integers(0, 256, (1, *GRID, 1), "uint8")
    order = random_order(noise(), 0)
    removed = order[masking.num_kept(GRID) :]
    some = [0, PATCHES // 2, len(removed) - 1]

    @run_quickly
    def predictions(images, drawn, ids_keep, ids_removed):
        """Of all removed patches, with their pixels, and of some, predicted without the others."""
        outputs = mae.outputs_for_loss({"images": images, "noise": drawn}, training=False)
        tokens = encoded(encoder, mae.decoder, images, ids_keep, False, mae.fusion, mae._fused)
        alone = mae.decoder(tokens, ids_keep, ids_removed, removed_only=True)
        return {"pixels": outputs["removed_pixels"], "all": outputs["removed_prediction"], "alone": alone}

    ids = (order[None, : masking.num_kept(GRID)], removed[None, some])
    found = predictions(images, drawn, *(ops.convert_to_tensor(one.astype("int32")) for one in ids))
    found = {name: ops.convert_to_numpy(value)[0] for name, value in found.items()}
    pixels = (images.reshape(-1)[removed] - 127.5) / 127.5
    np.testing.assert_allclose(found["pixels"][:, 0], pixels, atol=1e-6)
    np.testing.assert_allclose(found["all"][some], found["alone"], atol=1e-5)


def test_statistics_of_the_visible_patches_take_no_square_of_their_number(monkeypatch):
    """They come in parts, which add up to what one part gives."""
    grid, generator = (7, 11), np.random.default_rng(0)
    order = np.stack([generator.permutation(77) for _ in range(2)]).astype("int32")
    visible = ops.convert_to_tensor(generator.random((2, 20, 5)).astype("float32"))
    ids = ops.convert_to_tensor(order[:, :20]), ops.convert_to_tensor(order[:, 20:])
    whole = loss.visible_statistics(visible, *ids, grid)
    monkeypatch.setattr(loss, "_PAIRS_AT_ONCE", 20 * 8 + 3)
    for one, parts in zip(whole, loss.visible_statistics(visible, *ids, grid), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(parts), ops.convert_to_numpy(one), rtol=1e-6)
    assert loss._inverse_square_distances(GRID).shape == (PATCHES,)
