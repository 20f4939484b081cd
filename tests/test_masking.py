"""Masks are a pure function of (seed, step, sample, token), bit-identical on every backend."""

from functools import partial

import numpy as np
import oracles
import pytest
from conftest import run_quickly
from keras import ops
from masking_helpers import GRID, draw, make, to_numpy

import keras_mae
from keras_mae.random import hash_noise

ORACLES = {
    "RandomMasking": oracles.random_mask,
    "Cells": oracles.cell_mask,
    "BlockMasking": oracles.block_mask,
    "GridMasking": oracles.grid_mask,
    **{color: partial(oracles.color_mask, color=color) for color in oracles.BANDS},
}

# Fingerprints of the masks that `oracles` draws for seed 3, step 11, samples 0-12 on 6 x 10 patches.
GOLDEN = {
    ("RandomMasking", 0.75): "2316984ab29c24bf5414d4913eb2702a",
    ("RandomMasking", 0.6): "dccf348c805edd942e1f33687591bce7",
    ("Cells", 0.75): "17bfd584dcd3a960a5598dd1c39f5cf8",
    ("Cells", 0.6): "9a2d099c88f2a02cc69055ea8b3a54f0",
    ("BlockMasking", 0.5): "fa532d93efea4cb4801103e7ad6ae502",
    ("BlockMasking", 0.75): "21bf2fd8b4bb781ce434e8da5f3574d0",
    ("red", 0.75): "4115f0cfc8418acdbf8e194b8ce4c5f3",
    ("green", 0.75): "3ad3073d10765eb618f4dd7481a16c77",
    ("green", 0.6): "6fbb27cd47d25554e8af4b1f82e9c5d1",
    ("blue", 0.75): "9e7b62e93db1291a3824a050bcf05091",
    ("purple", 0.75): "0db2f06799ed1460e0d2ddeb167106af",
    ("GridMasking", 0.75): "26fa181039b91f6b7ae5a022e2f79226",
}


@pytest.mark.parametrize(("kind", "ratio"), list(GOLDEN))
def test_masks_have_the_same_bits_everywhere(compiled, kind, ratio):
    masking = make(kind, ratio)

    @compiled
    def mask(index, step):
        return masking(hash_noise(3, step, index, 60), grid=GRID).mask

    drawn = to_numpy(mask(ops.arange(13, dtype="int32"), ops.convert_to_tensor(11, dtype="int32")))
    assert oracles.fingerprint(drawn) == GOLDEN[kind, ratio]


def test_golden_masks_are_the_oracles():
    noise = oracles.hash_noise(3, 11, range(13), 60)
    for (kind, ratio), expected in GOLDEN.items():
        assert oracles.fingerprint(ORACLES[kind](noise, GRID, ratio)) == expected


@pytest.mark.parametrize("kind", list(ORACLES))
@pytest.mark.parametrize("grid", [(6, 10), (2, 14), (8, 4)])
def test_masks_agree_with_the_oracle_on_other_grids(kind, grid):
    noise = oracles.hash_noise(5, 2, range(7), grid[0] * grid[1])
    masking = make(kind, 0.75)
    drawn = to_numpy(run_quickly(lambda noise: masking(noise, grid=grid).mask)(noise.astype("int32")))
    np.testing.assert_array_equal(drawn, ORACLES[kind](noise, grid, 0.75))


@pytest.mark.parametrize("kind", list(ORACLES))
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float16"])
def test_masks_do_not_depend_on_the_dtype_policy(kind, policy):
    assert oracles.fingerprint(draw(kind, 0.75, dtype=policy)["mask"]) == GOLDEN[kind, 0.75]


def test_float_noise_is_not_rounded_by_a_bfloat16_policy():
    # Steps of 1e-4 above 0.5 vanish in bfloat16, and every order would become the reading order.
    noise = (0.5 + 1e-4 * np.arange(10)[None, ::-1]).astype("float32")
    kept = to_numpy(keras_mae.RandomMasking(0.7, dtype="mixed_bfloat16")(noise, grid=(2, 5)).ids_keep)
    assert kept.tolist() == [[9, 8, 7]]


@pytest.mark.parametrize("kind", list(ORACLES))
def test_a_mask_depends_on_its_own_sample_alone(kind):
    """Another share of the global batch, in another order: sample 7 keeps its mask wherever it is computed."""
    masking = make(kind, 0.75)
    index = np.arange(12, -1, -1, dtype="int32") + 5
    drawn = to_numpy(run_quickly(lambda index: masking(hash_noise(3, 11, index, 60), grid=GRID).mask)(index))
    first_share = draw(kind, 0.75)["mask"]
    np.testing.assert_array_equal(drawn[5:][::-1], first_share[5:])


@pytest.mark.parametrize("kind", list(ORACLES))
def test_mask_is_one_where_removed_and_ids_partition_the_patches(kind):
    mask = draw(kind, 0.75)
    keep, removed, flags = mask["ids_keep"], mask["ids_removed"], mask["mask"]
    assert keep.shape == (13, 15)
    assert removed.shape == (13, 45)
    np.testing.assert_array_equal(np.sort(np.concatenate([keep, removed], axis=1)), np.tile(np.arange(60), (13, 1)))
    assert not np.take_along_axis(flags, keep, axis=1).any()
    assert np.take_along_axis(flags, removed, axis=1).all()


@pytest.mark.parametrize("kind", list(ORACLES))
def test_ids_restore_puts_the_order_kept_removed_back(kind):
    mask = draw(kind, 0.75)
    order = np.concatenate([mask["ids_keep"], mask["ids_removed"]], axis=1)
    restored = np.take_along_axis(order, mask["restore"], axis=1)
    np.testing.assert_array_equal(restored, np.tile(np.arange(60), (13, 1)))


def test_smallest_noise_stays():
    noise = np.array([[5, -7, 3, 0, 2, -1]], "int32")
    mask = keras_mae.RandomMasking(0.5)(noise, grid=(2, 3))
    assert to_numpy(mask.ids_keep).tolist() == [[1, 5, 3]]
    assert to_numpy(mask.mask).tolist() == [[1, 0, 1, 0, 1, 0]]


def test_ties_in_the_noise_go_to_the_earlier_patch(compiled):
    noise = np.tile(np.repeat([1, 0], 50), (3, 1)).astype("int32")  # long enough for an unstable sort to show
    keep = compiled(lambda noise: keras_mae.RandomMasking(0.75)(noise, grid=(10, 10)).ids_keep)
    np.testing.assert_array_equal(to_numpy(keep(ops.convert_to_tensor(noise))), np.tile(np.arange(50, 75), (3, 1)))


@pytest.mark.parametrize(
    ("ratio", "grid", "kept"),
    [
        (0.75, (14, 14), 49),
        (0.75, (16, 16), 64),
        (0.75, (5, 7), 8),
        (0.9, (2, 5), 1),
        (0.7, (2, 5), 3),
        (0.6, (5, 5), 10),
        (0.95, (10, 10), 5),
        (0.0, (2, 3), 6),
    ],
)
def test_number_of_kept_patches(ratio, grid, kept):
    assert keras_mae.RandomMasking(ratio).num_kept(grid) == kept


def test_awkward_ratio_keeps_that_many():
    noise = np.random.default_rng(0).random((2, 10))
    assert tuple(keras_mae.RandomMasking(0.9)(noise, grid=(2, 5)).ids_keep.shape) == (2, 1)


@pytest.mark.parametrize("kind", list(ORACLES))
@pytest.mark.parametrize("ratio", [-0.1, 1, 1.2, float("nan"), "0.75", None])
def test_ratio_must_be_a_fraction(kind, ratio):
    with pytest.raises(ValueError, match=r"`mask_ratio` must be in \[0, 1\). Received: mask_ratio="):
        make(kind, ratio)


def test_ratio_must_leave_a_patch():
    with pytest.raises(ValueError, match=r"leave at least one patch visible. Received: mask_ratio=0.95.* 2 x 5"):
        keras_mae.RandomMasking(0.95).num_kept((2, 5))


def test_every_patch_is_kept_equally_often_and_no_mask_comes_twice():
    mask = draw("RandomMasking", 0.75, batch=20_000, grid=(7, 7))["mask"]
    rate = 1 - mask.mean(axis=0)
    # 12 of 49 stay; the standard deviation of a rate over 20,000 samples is 0.00304.
    assert np.abs(rate - 12 / 49).max() < 4.5 * 0.00304
    assert len(np.unique(mask, axis=0)) == 20_000


# === Cells ===
@pytest.mark.parametrize(("grid", "cell"), [((7, 7), 2), ((8, 8), 4), ((5, 9), 4), ((2, 14), 3)])
def test_cells_of_any_size_on_any_grid_keep_the_exact_count(grid, cell):
    noise = oracles.hash_noise(5, 2, range(40), grid[0] * grid[1])
    masking = keras_mae.RandomMasking(0.75, cell=cell)
    mask = to_numpy(run_quickly(lambda noise: masking(noise, grid=grid).mask)(noise.astype("int32")))
    np.testing.assert_array_equal(mask, oracles.cell_mask(noise, grid, 0.75, cell))
    assert set((1 - mask).sum(axis=1)) == {keras_mae.RandomMasking(0.75).num_kept(grid)}


def test_cells_that_divide_grid_and_count_stay_or_go_whole():
    mask = draw("Cells", 0.75, 200, (8, 8))["mask"].reshape(200, 4, 2, 4, 2)
    assert set(np.unique(mask.sum(axis=(2, 4)))) == {0, 4}
    assert np.abs(mask.mean(axis=(0, 2, 4)) - 0.75).max() < 4.5 * np.sqrt(0.75 * 0.25 / 200)


@pytest.mark.parametrize("side", [7, 14])
def test_a_divided_cell_prefers_no_place(side):
    """7 x 7 patches cut the last cells, and on both grids the last cell that stays is divided."""
    kept = 1 - draw("Cells", 0.75, 20_000, (side, side))["mask"].mean(axis=0)
    share = keras_mae.RandomMasking(0.75).num_kept((side, side)) / side**2
    # In reading order a cell's first place would be kept in 27.5 % and its last in 21.4 % of the samples.
    assert np.abs(kept - share).max() < 4.5 * np.sqrt(share * (1 - share) / 20_000)


def test_one_patch_a_cell_is_the_method_s_own():
    noise = oracles.hash_noise(5, 2, range(3), 60).astype("int32")
    for name in ("ids_keep", "ids_removed"):
        own, cells = (
            getattr(masking(noise, grid=GRID), name)
            for masking in (keras_mae.RandomMasking(0.75), keras_mae.RandomMasking(0.75, cell=1))
        )
        np.testing.assert_array_equal(to_numpy(own), to_numpy(cells))


@pytest.mark.parametrize("cell", [0, -1, 1.5, True, "2", (2, 2)])
def test_cell_must_be_a_positive_integer(cell):
    with pytest.raises(ValueError, match="`cell` must be a positive integer. Received: cell="):
        keras_mae.RandomMasking(0.75, cell=cell)


def test_one_cell_must_not_cover_the_grid():
    with pytest.raises(ValueError, match="`cell` must be smaller than the grid.*cell=7 for a grid of 7 x 6"):
        keras_mae.RandomMasking(0.75, cell=7).num_kept((7, 6))
