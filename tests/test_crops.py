"""Where crops lie, and the pixels they become."""

import io
import math

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from sklearn.datasets import load_sample_image

from keras_mae import data
from keras_mae.data.crops import Box
from keras_mae.data.images import views

pytestmark = pytest.mark.backends("torch")

DRAWS = 10_000
# Where two samples of this size are of one distribution, their empirical distribution functions are further apart
# than this once in 8,000 times (Kolmogorov and Smirnov; seldomer still where values are whole numbers).
KS_BOUND = 2.2 * math.sqrt(2 / DRAWS)
SHAPES = {"panorama": (211, 53), "tall": (67, 149), "square": (101, 101), "dot": (1, 1), "tiny": (2, 3)}
PHOTOS = ("china.jpg", "flower.jpg")


def photo(name):
    return Image.fromarray(load_sample_image(name))


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def fixed(*box):
    """A crop that is always this box."""
    return lambda width, height, size, generator: Box(*box)


def difference(first, second):
    return np.abs(np.asarray(first, "float64") - np.asarray(second, "float64")).mean()


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


def torchvision_centre(width, height, size, fraction):
    """torchvision's `Resize(int(size / fraction))` and `CenterCrop(size)`: (width, height) between, and the box."""
    short = int(size / fraction)
    long = int(short * max(width, height) / min(width, height))
    whole = (short, long) if width <= height else (long, short)
    left, top = (round((side - size) / 2.0) for side in whole)
    return whole, (left, top, left + size, top + size)


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
        left, top, right, bottom, _ = crop(int(width), int(height), (7, 11), rng)
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


# === Pixels ===
@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize(
    "box", [(0, 0, 640, 427), (91, 85, 548, 426), (213, 142, 310, 255)], ids=["whole", "part", "enlarged"]
)
@pytest.mark.parametrize("size", [(224, 224), (61, 83)])
def test_pixels_are_those_of_pillows_crop_and_resize(name, box, size):
    image = photo(name)
    expected = image.crop(box).resize(size[::-1], Image.Resampling.BICUBIC)
    assert difference(data.read_image(encoded(image), (*size, 3), fixed(*box)), expected) < 1


def reflected_crop(image, size, pad, box):
    """torchvision's `Resize(size)` and `RandomCrop(size, pad, padding_mode="reflect")`, at the place of a box."""
    whole = [size * side // min(image.size) for side in image.size]
    resized = np.asarray(image.resize(whole, Image.Resampling.BICUBIC))
    padded = np.pad(resized, [(pad, pad), (pad, pad), (0, 0)], mode="reflect")
    left, top = (round(box[axis] / image.size[axis] * whole[axis]) + pad for axis in (0, 1))
    cut = padded[top : top + size, left : left + size]
    return cut[:, ::-1] if box.flip else cut


@pytest.mark.parametrize("size", [(640, 427), (149, 211), (64, 64), (31, 40)])
@pytest.mark.parametrize("seed", range(4))
def test_gentle_crops_are_cut_from_the_reflected_image(size, seed):
    image, crop = photo("flower.jpg").resize(size), data.RandomCrop(0.1)
    box = crop(*size, (64, 64), np.random.default_rng(seed))
    got = data.read_image(encoded(image), (64, 64, 3), fixed(*box))
    assert difference(got, reflected_crop(image, 64, 6, box)) < 0.5


@pytest.fixture(scope="module")
def large():
    """A photograph as from a camera: 12 megapixels."""
    return encoded(photo("china.jpg").resize((4000, 3000), Image.Resampling.BICUBIC), "JPEG", quality=90)


@pytest.mark.parametrize(
    ("box", "reduced"),
    [((0, 0, 4000, 3000), True), ((571, 600, 3428, 3000), True), ((1333, 1000, 1430, 1113), False)],
    ids=["whole", "part", "enlarged"],
)
def test_large_photographs_are_decoded_smaller_and_look_the_same(large, box, reduced, monkeypatch):
    drafts, draft = [], JpegImagePlugin.JpegImageFile.draft
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *args: drafts.append(draft(*args)))
    got = data.read_image(large, (101, 97, 3), fixed(*box))
    assert bool(drafts) == reduced
    monkeypatch.undo()
    expected = Image.open(io.BytesIO(large)).crop(box).resize((97, 101), Image.Resampling.BICUBIC)
    assert difference(got, expected) < 1


def test_large_photographs_keep_twice_the_wanted_pixels(large, monkeypatch):
    drafts, draft = [], JpegImagePlugin.JpegImageFile.draft
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *args: drafts.append(draft(*args)))
    data.read_image(large, (223, 211, 3), fixed(571, 600, 3428, 3000))
    ((_, (_, _, width, height)),) = drafts
    assert min(width / 4000 * (3428 - 571) / 211, height / 3000 * (3000 - 600) / 223) >= 2


@pytest.mark.parametrize("target", [96, 160, 224, 288])
@pytest.mark.parametrize("size", [(640, 427), (427, 640), (401, 401), (301, 299), (150, 211)])
def test_the_centre_is_that_of_resizing_the_short_side_and_cutting(size, target):
    image = photo("flower.jpg").resize(size)
    whole, box = torchvision_centre(*size, target, 224 / 256)
    expected = image.resize(whole, Image.Resampling.BICUBIC).crop(box)
    got = data.read_image(encoded(image), (target, target, 3), data.CenterCrop(224 / 256))
    assert difference(got, expected) < 0.5


@pytest.mark.parametrize("kind", ["array", "folder", "records", "stream"])
def test_every_source_evaluates_on_the_same_centre(kind, tmp_path):
    """At 160 pixels, of which 224 / 256 is no whole number."""
    image, crop, first = photo("flower.jpg").resize((341, 229)), data.CenterCrop(224 / 256), np.array([0])
    image.save(tmp_path / "flower.png")
    if kind == "array":
        got = data.ArraySource(np.asarray(image)[None], image_size=160).batch(first, crop)[0]
    elif kind == "folder":
        got = data.FolderSource(tmp_path, 160).batch(first, crop)[0]
    elif kind == "records":
        pytest.importorskip("array_record")
        shards = tmp_path.with_name(f"{tmp_path.name} shards")
        data.prepare(tmp_path, shards)
        got = data.open_directory(shards, 160).batch(first, crop)[0]
    else:
        stream = data.Stream("flowers", lambda shuffle, seed: None, image_size=160, channels=3, labeled=False)
        got = stream.views((tmp_path / "flower.png").read_bytes(), 0, crop, lambda index: [None])
    whole, box = torchvision_centre(*image.size, 160, 224 / 256)
    assert whole == (271, 182)
    assert difference(got[0], image.resize(whole, Image.Resampling.BICUBIC).crop(box)) < 0.5


@pytest.mark.parametrize("source", [np.asarray, lambda image: encoded(image)], ids=["array", "file"])
def test_fine_patterns_become_grey_when_they_shrink(source):
    board = np.indices((230, 230)).sum(0) % 2 * 255
    image = Image.fromarray(np.repeat(board.astype("uint8")[..., None], 3, axis=2))
    (small,) = views(source(image), "board", (23, 23, 3), data.CenterCrop(), [np.random.default_rng(0)])
    assert np.abs(small.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_sharp_edges_do_not_overshoot_the_range(dtype, channels):
    """Bicubic overshoots at an edge; not clipped, white would turn black in uint8."""
    edge = np.repeat(np.repeat([0, 255], 6)[None], 11, axis=0).astype(dtype)
    image = np.repeat(edge[..., None], channels, axis=2)
    (wide,) = views(image, "edge", (11, 120, channels), fixed(0, 0, 12, 11), [np.random.default_rng(0)])
    assert (wide.min(), wide.max()) == (0, 255)
    assert (np.diff(wide.astype("float64"), axis=1) >= 0).all()


# === Arrays ===
def random_arrays(channels, dtype):
    return np.random.default_rng(channels).integers(0, 256, (3, 37, 41, channels)).astype(dtype)


def two_of_each(index):
    return [np.random.default_rng((index, number)) for number in range(2)]


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", "int64"])
def test_crops_of_arrays_keep_dtype_channels_and_range(dtype, channels):
    source = data.ArraySource(random_arrays(channels, dtype), image_size=(19, 23))
    images, _ = source.batch(np.array([2, 0]), data.RandomResizedCrop(), two_of_each)
    assert (images.shape, images.dtype) == ((4, 19, 23, channels), source.dtype)
    assert 0 <= images.min() < 20 < 235 < images.max() <= 255


@pytest.mark.parametrize("channels", [3, 4, 7])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_channels_do_not_mix(dtype, channels):
    """Not even the fourth of four: in an array nothing says that it is opacity."""
    arrays = random_arrays(channels, dtype)
    crop, every = data.RandomResizedCrop(), np.arange(3)
    together, _ = data.ArraySource(arrays, image_size=(19, 23)).batch(every, crop, two_of_each)
    alone = [
        data.ArraySource(arrays[..., [band]], image_size=(19, 23)).batch(every, crop, two_of_each)[0]
        for band in range(channels)
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=-1))


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_arrays_are_moved_by_whole_pixels_and_reflected(dtype, channels):
    arrays, crop = random_arrays(channels, dtype), data.RandomCrop(0.1)
    images, _ = data.ArraySource(arrays).batch(np.array([2, 0]), crop, two_of_each)
    assert images.dtype == arrays.dtype
    expected = []
    for index in (2, 0):
        padded = np.pad(arrays[index], [(4, 4), (4, 4), (0, 0)], mode="reflect")
        for generator in two_of_each(index):
            left, top, _, _, flip = crop(41, 37, (37, 41), generator)
            cut = padded[4 + int(top) :, 4 + int(left) :][:37, :41]
            expected.append(cut[:, ::-1] if flip else cut)
    np.testing.assert_array_equal(images, expected)
    assert len({image.tobytes() for image in images}) == 4


def test_moved_arrays_are_what_moved_files_are():
    array, crop = random_arrays(3, "uint8")[0], data.RandomCrop(0.1)
    for seed in range(5):
        (moved,), _ = data.ArraySource(array[None]).batch(
            np.array([0]), crop, lambda index, seed=seed: [np.random.default_rng(seed)]
        )
        box = crop(41, 37, (37, 41), np.random.default_rng(seed))
        read = data.read_image(encoded(Image.fromarray(array)), (37, 41, 3), fixed(*box))
        np.testing.assert_array_equal(moved, read)


def test_the_same_generators_give_the_same_pixels_and_others_do_not():
    source = data.ArraySource(random_arrays(3, "uint8"), image_size=(19, 23))
    first, again = (source.batch(np.array([1, 2]), data.RandomResizedCrop(), two_of_each)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_a_mirrored_box_is_the_box_mirrored():
    image = np.asarray(photo("china.jpg"))
    plain, mirrored = (
        views(image, "photo", (31, 43, 3), fixed(17, 5, 401, 311, flip), [np.random.default_rng(0)])[0]
        for flip in (False, True)
    )
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])
