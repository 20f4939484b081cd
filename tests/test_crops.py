"""Which box of an image is cut out: torchvision's distributions, and gentle crops."""

import math

import numpy as np
import pytest
from crop_helpers import torchvision_centre

from keras_mae import data

pytestmark = pytest.mark.backends("torch")

DRAWS = 10_000
# Where two samples of this size are of one distribution, their empirical distribution functions are further apart
# than this once in 8,000 times (Kolmogorov and Smirnov; seldomer still where values are whole numbers).
KS_BOUND = 2.2 * math.sqrt(2 / DRAWS)
SHAPES = {"panorama": (211, 53), "tall": (67, 149), "square": (101, 101), "dot": (1, 1), "tiny": (2, 3)}


# === Boxes ===
def torchvision_box(rng, width, height, area, aspect):
    """torchvision's `RandomResizedCrop.get_params`, written from its documentation."""
    for _ in range(10):
        share = rng.uniform(*area)
        ratio = np.exp(rng.uniform(np.log(aspect[0]), np.log(aspect[1])))
        w = round(np.sqrt(width * height * share * ratio))
        h = round(np.sqrt(width * height * share / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < aspect[0]:
        h = round(width / aspect[0])
    elif width / height > aspect[1]:
        w = round(height * aspect[1])
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def reference_box(rng, width, height, area, aspect):
    """The box of the authors' linear probe: drawn once, and cut down to the image."""
    pixels = width * height * rng.uniform(*area)
    ratio = np.exp(rng.uniform(np.log(aspect[0]), np.log(aspect[1])))
    w = min(max(round(np.sqrt(pixels * ratio)), 1), width)  # of a dot it would take nothing, and fail
    h = min(max(round(np.sqrt(pixels / ratio)), 1), height)
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    return left, top, left + w, top + h


def apart(first, second):
    """The largest distance between two empirical distribution functions."""
    values = np.union1d(first, second)
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (first, second)]
    return np.abs(shares[0] - shares[1]).max()


@pytest.mark.parametrize(
    ("area", "clamp", "box"),
    [((0.2, 1.0), False, torchvision_box), ((0.08, 0.7), False, torchvision_box), ((0.08, 1.0), True, reference_box)],
    ids=["pretraining", "smaller", "clamped"],
)
@pytest.mark.parametrize("shape", list(SHAPES))
def test_boxes_are_distributed_as_theirs(shape, area, clamp, box):
    """torchvision's, and those of the authors' linear probe."""
    width, height = SHAPES[shape]
    crop, rng, other = data.RandomResizedCrop(area, clamp=clamp), np.random.default_rng(11), np.random.default_rng(12)
    ours = np.array([crop(width, height, (7, 7), rng)[:4] for _ in range(DRAWS)], "float64").T
    theirs = np.array([box(other, width, height, area, (3 / 4, 4 / 3)) for _ in range(DRAWS)]).T
    distances = {
        name: apart(a, b) for name, a, b in zip(("left", "top", "right", "bottom"), ours, theirs, strict=True)
    }
    sides, sizes = ours[2:] - ours[:2], theirs[2:] - theirs[:2]
    distances["area"] = apart(sides[0] * sides[1], sizes[0] * sizes[1])
    distances["aspect ratio"] = apart(np.log(sides[0] / sides[1]), np.log(sizes[0] / sizes[1]))
    assert max(distances.values()) < KS_BOUND, distances


@pytest.mark.parametrize(("clamp", "mean"), [(False, 0.43), (True, 0.52)])
def test_clamped_boxes_are_larger(clamp, mean):
    """The means that both procedures have, with the probe's areas, in a photograph of 500 by 375 pixels."""
    crop, rng = data.RandomResizedCrop((0.08, 1.0), clamp=clamp), np.random.default_rng(11)
    boxes = np.array([crop(500, 375, (7, 7), rng)[:4] for _ in range(DRAWS)])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.prod(axis=1).mean() / (500 * 375) == pytest.approx(mean, abs=0.01)


@pytest.mark.parametrize("fraction", [224 / 256, 1.0, 0.9])
@pytest.mark.parametrize("size", [96, 112, 128, 160, 192, 208, 224, 288, 384, 448])
def test_centres_are_torchvisions(size, fraction):
    """In pixels of the resized image: its size, and where the box lies in it."""
    rng = np.random.default_rng(size)
    for width, height in [*rng.integers(1, 1500, (200, 2)).tolist(), (500, 375), (375, 500), (333, 333), (1, 9)]:
        whole, expected = torchvision_centre(width, height, size, fraction)
        box = data.CenterCrop(fraction)(width, height, (size, size)).scaled(whole[0] / width, whole[1] / height)
        np.testing.assert_allclose(box[:4], expected, atol=1e-6, err_msg=f"{width} x {height}")


@pytest.mark.parametrize(
    ("width", "height", "size", "whole"),
    [
        (500, 375, (96, 160), (182, 136)),  # 182 = int(160 / .875) is the width, 109 = int(96 / .875) too low
        (500, 375, (160, 96), (242, 182)),
        (1000, 100, (96, 160), (1090, 109)),
        (100, 1000, (96, 160), (182, 1820)),
    ],
)
def test_an_oblong_centre_is_covered_by_the_smallest_image(width, height, size, whole):
    left, top = (round((side - cut) / 2) for side, cut in zip(whole, size[::-1], strict=True))
    box = data.CenterCrop(224 / 256)(width, height, size).scaled(whole[0] / width, whole[1] / height)
    np.testing.assert_allclose(box[:4], (left, top, left + size[1], top + size[0]), atol=1e-6)


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.0)])
def test_half_of_the_boxes_are_mirrored_if_any(flip, share):
    crop, rng = data.RandomResizedCrop(flip=flip), np.random.default_rng(13)
    mirrored = np.mean([crop(37, 31, (7, 7), rng).flip for _ in range(DRAWS)])
    assert abs(mirrored - share) <= 4 * math.sqrt(share * (1 - share) / DRAWS)


def test_mirroring_does_not_depend_on_the_place():
    crop, rng = data.RandomResizedCrop(), np.random.default_rng(17)
    boxes = np.array([crop(101, 101, (7, 7), rng) for _ in range(DRAWS)], "float64")
    correlations = np.corrcoef(boxes.T)[4, :4]
    assert np.abs(correlations).max() < 4 / math.sqrt(DRAWS)


@pytest.mark.parametrize(
    "crop",
    [
        data.RandomResizedCrop((0.01, 1.0), (1 / 9, 9)),
        data.RandomResizedCrop((0.01, 1.0), (1 / 9, 9), clamp=True),
        data.CenterCrop(7 / 8),
    ],
)
def test_every_box_lies_inside_the_image(crop):
    rng = np.random.default_rng(19)
    for width, height in [*rng.integers(1, 60, (500, 2)), (1, 997), (997, 1), (1, 1)]:
        left, top, right, bottom = crop(int(width), int(height), (7, 11), rng)[:4]
        # CenterCrop's boxes are fractions of pixels: a rounding error over the edge is cut off where they are used.
        assert -1e-9 <= left < right <= width + 1e-9, (width, height)
        assert -1e-9 <= top < bottom <= height + 1e-9, (width, height)


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (1000, 10, (493, 0, 506, 10)),  # 13 = round(10 · 4 / 3) wide
        (10, 1000, (0, 493, 10, 506)),
        (1, 1000, (0, 499, 1, 500)),
        (1000, 1, (499, 0, 500, 1)),
    ],
)
def test_where_no_box_fits_the_centre_is_taken_at_the_nearest_aspect_ratio(width, height, box):
    assert data.RandomResizedCrop()(width, height, (7, 7), np.random.default_rng(0))[:4] == box


def test_a_crop_is_at_least_a_pixel():
    """Also of an image too small for any allowed aspect ratio."""
    assert data.RandomResizedCrop(aspect_ratio=(0.1, 0.2))(1, 1, (7, 7), np.random.default_rng(0))[:4] == (0, 0, 1, 1)


@pytest.mark.parametrize("name", ["area", "aspect_ratio"])
@pytest.mark.parametrize(
    "value", [(0.9, 0.3), (0, 0.5), (-0.1, 0.5), (math.nan, 0.5), (0.5, math.nan), (0.5, math.inf), (True, True),
              ("0.2", "1"), "ab", 0.5, None, (0.2, 0.5, 0.9), ()],
    ids=repr,
)  # fmt: skip
def test_ranges_that_are_none_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be two rising numbers above 0"):
        data.RandomResizedCrop(**{name: value})


def test_more_than_the_whole_area_is_refused():
    with pytest.raises(ValueError, match=r"`area` must be .* up to 1. Received: area=\(0.2, 1.1\)"):
        data.RandomResizedCrop((0.2, 1.1))


@pytest.mark.parametrize("value", [-0.1, 0.26, math.nan, True, "0.1", None], ids=repr)
def test_shifts_that_are_none_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"`shift` must be in \[0, 0.25\]"):
        data.RandomCrop(value)


def test_a_shift_of_no_pixel_is_refused():
    with pytest.raises(ValueError, match="`shift` must be 0, or half a pixel or more of 8 x 8. Received: shift=0.02"):
        data.RandomCrop(0.02)(8, 8, (8, 8), np.random.default_rng(0))


@pytest.mark.parametrize(("shape", "free"), [((28, 28), (4, 4)), ((56, 70), (11, 4)), ((31, 28), (4, 7))])
def test_gentle_crops_lie_everywhere_alike(shape, free):
    """`free` is by how many pixels of the resized image the result can move down and across."""
    crop, rng = data.RandomCrop(2 / 28), np.random.default_rng(3)
    boxes = np.array([crop(*shape, (28, 28), rng) for _ in range(DRAWS)])
    sides = boxes[0, 2:4] - boxes[0, :2]
    np.testing.assert_allclose(boxes[:, 2:4] - boxes[:, :2], np.tile(sides, (DRAWS, 1)))
    left, top = np.rint(boxes[:, :2] / sides * 28).astype(int).T + 2
    counts = np.zeros((free[0] + 1, free[1] + 1))
    np.add.at(counts, (top, left), 1)
    mean = DRAWS / counts.size
    assert np.abs(counts - mean).max() < 4.5 * math.sqrt(mean)
    assert abs(boxes[:, 4].mean() - 0.5) < 4.5 * math.sqrt(0.25 / DRAWS)


@pytest.mark.parametrize("value", [0, -0.5, 1.01, math.nan, math.inf, True, "0.9", None, (0.9,)], ids=repr)
def test_fractions_that_are_none_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"`fraction` must be in \(0, 1\]"):
        data.CenterCrop(value)
