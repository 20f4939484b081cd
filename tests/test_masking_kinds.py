"""Masks from filtered noise, in blocks and in grids, and maskings by name."""

import numpy as np
import oracles
import pytest
from conftest import run_quickly
from masking_helpers import draw, make, to_numpy

import keras_mae
from keras_mae.masking import names


# === Filtered noise ===
def neighbors_of_kept(color, grid=(14, 14)):
    """How often the patch to the right of a visible one is visible, too."""
    kept = 1 - draw(color, 0.75, 500, grid)["mask"].reshape(-1, *grid)
    return (kept[:, :, 1:] * kept[:, :, :-1]).sum() / kept[:, :, :-1].sum()


def test_colors_are_bands_from_large_spots_to_single_patches():
    red, green, white, blue = map(neighbors_of_kept, ("red", "green", "RandomMasking", "blue"))
    assert red > green + 0.1 > white + 0.2 > blue + 0.25
    spectra = {}
    for color in oracles.BANDS:
        kept = draw(color, 0.75, 500, (14, 14))["mask"].reshape(-1, 14, 14) - 0.75
        spectra[color] = (np.abs(np.fft.fft2(kept)) ** 2).mean(axis=0) / (0.75 * 0.25 * 196)
    slow, middle, fast = (0, 1), (0, 3), (7, 7)  # of 14 periods to the side at most 7
    power = {color: [spectrum[place] for place in (slow, middle, fast)] for color, spectrum in spectra.items()}
    assert power["red"][0] > 3 > 0.5 > power["red"][2]
    assert power["green"][1] > 2 > 1 > max(power["green"][0], power["green"][2])
    assert power["blue"][2] > 1.2 > 0.7 > power["blue"][1]
    assert min(power["purple"][0], power["purple"][2]) > 0.8 > 0.6 > power["purple"][1]


@pytest.mark.parametrize("color", list(oracles.BANDS))
@pytest.mark.parametrize("side", [7, 14])
def test_filtered_noise_keeps_every_patch_equally_often(color, side):
    """Also at the borders and in the corners."""
    kept = 1 - draw(color, 0.75, 10_000, (side, side))["mask"].mean(axis=0)
    share = keras_mae.RandomMasking(0.75).num_kept((side, side)) / side**2
    assert np.abs(kept - share).max() < 4.5 * np.sqrt(share * (1 - share) / 10_000)


@pytest.mark.parametrize("color", list(oracles.BANDS))
def test_filters_of_large_grids_do_not_overflow(color):
    """72 x 72 patches have more ranks than the filters get bits, and here the ranks are extreme side by side."""
    noise = np.indices((72, 72)).sum(axis=0).reshape(1, -1) % 2 * 10_000 - np.arange(72 * 72)
    masking = make(color, 0.75)
    mask = to_numpy(run_quickly(lambda noise: masking(noise, grid=(72, 72)).mask)(noise.astype("int32")))
    np.testing.assert_array_equal(mask, wide_color_mask(noise, (72, 72), color))


def wide_color_mask(noise, grid, color):
    """`oracles.color_mask` by NumPy's 64-bit integers."""
    order = np.argsort(noise[0], kind="stable")
    rank = np.argsort(order)
    x = (rank >> 1).reshape(grid)
    passes = [x]
    for _ in range(4):
        for axis in (0, 1):
            x = np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)
        passes.append(x)
    band = sum(times * passes[number] for number, times in oracles.BANDS[color].items()).reshape(-1)
    mask = np.ones((1, len(rank)))
    mask[0, np.lexsort((rank, -band))[: len(rank) // 4]] = 0
    return mask


@pytest.mark.parametrize("color", list(oracles.BANDS))
def test_only_the_order_of_the_noise_counts(color):
    noise = np.random.default_rng(1).permutation(35 * 4).reshape(4, 35)
    floats = (noise**2 / 1e4).astype("float32")
    masks = [to_numpy(make(color, 0.75)(values, grid=(5, 7)).mask) for values in (noise.astype("int32"), floats)]
    np.testing.assert_array_equal(*masks)
    np.testing.assert_array_equal(masks[0], oracles.color_mask(noise, (5, 7), 0.75, color))


@pytest.mark.parametrize("color", ["pink", "", None, "Green", 1])
def test_color_must_be_one_of_four(color):
    with pytest.raises(ValueError, match="`color` must be one of 'green', 'red', 'blue', 'purple'. Received: color="):
        keras_mae.NoiseMasking(0.75, color)


# === Names ===
@pytest.mark.parametrize("name", keras_mae.masking.names.NAMES)
def test_every_name_makes_a_masking_and_is_found_again(name):
    masking = keras_mae.masking.make(name, 0.75, cell=2 if name == "random" else 1)
    again = keras_mae.masking.make(**names.arguments_of(masking))
    ignored = {"name"}
    assert type(again) is type(masking)
    assert {key: value for key, value in again.get_config().items() if key not in ignored} == {
        key: value for key, value in masking.get_config().items() if key not in ignored
    }


def test_names_say_which_masking_it_is():
    described = [names.describe(keras_mae.masking.make(name)) for name in keras_mae.masking.names.NAMES]
    assert described[:4] == ["RandomMasking", "BlockMasking", "GridMasking", "NoiseMasking, green"]
    assert names.describe(keras_mae.RandomMasking(0.75, cell=3)) == "RandomMasking, cells of 3 x 3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "spiral"}, "`masking` must be one of 'random', 'block', .*'purple'. Received: masking='spiral'"),
        ({"name": "green", "cell": 2}, "Cells are for random masking. Received: mask_cell=2, masking='green'"),
        ({"cell": 0}, "`mask_cell` must be a positive integer"),
    ],
)
def test_names_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_mae.masking.make(**arguments)


def test_masks_of_one_image_in_successive_steps_are_independent():
    kept = np.stack([1 - draw("RandomMasking", 0.75, 500, (7, 7), step=step)["mask"] for step in (8, 9)])
    both = (kept[0] * kept[1]).sum(axis=1)
    # Hypergeometric: mean 12 * 12 / 49, variance 12 * (12/49) * (37/49) * (37/48).
    deviation = np.sqrt(12 * 12 / 49 * 37 / 49 * 37 / 48 / 500)
    assert abs(both.mean() - 144 / 49) < 4.5 * deviation


def test_block_masks_remove_neighbours():
    """Pairs of horizontal neighbours with the same fate: near 1 in blocks, 0.5 for independent patches."""

    def alike(kind):
        mask = draw(kind, 0.5, 200, (14, 14))["mask"].reshape(-1, 14, 14)
        return (mask[:, :, 1:] == mask[:, :, :-1]).mean()

    assert alike("BlockMasking") > 0.75
    assert alike("RandomMasking") < 0.55


def test_block_masks_reach_every_patch_and_differ():
    mask = draw("BlockMasking", 0.5, 500, (7, 7))["mask"]
    rate = mask.mean(axis=0)
    assert rate.min() > 0.2
    assert rate.max() < 0.9
    assert len(np.unique(mask, axis=0)) > 400


def test_grid_masks_keep_the_same_place_of_every_cell_and_all_places_come():
    mask = draw("GridMasking", 0.75, 400)["mask"].reshape(400, 3, 2, 5, 2)
    kept = (1 - mask).transpose(0, 2, 4, 1, 3).reshape(400, 4, 15)  # sample, place, cell
    assert set(np.unique(kept.sum(axis=2))) == {0, 15}
    counts = kept[:, :, 0].sum(axis=0)
    # 100 of 400 are expected at each place, with a standard deviation of 8.7.
    assert np.abs(counts - 100).max() < 4.5 * 8.7


def test_grid_ratio_must_be_that_of_a_cell():
    with pytest.raises(ValueError, match=r"`mask_ratio` must be 1 - 1 / side\*\*2 .*Received: mask_ratio=0.6"):
        keras_mae.GridMasking(0.6)


def test_grid_cells_must_divide_the_grid():
    with pytest.raises(ValueError, match=r"must divide the grid of patches.*2 x 2 \(mask_ratio=0.75\) for 5 x 8"):
        keras_mae.GridMasking(0.75).num_kept((5, 8))
