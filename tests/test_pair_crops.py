"""What a crop takes of an image and its mask: the same part, and whatever the recipe says of it."""

import numpy as np
import pytest
from pair_helpers import COLORS, agrees, labels_of
from PIL import Image

from keras_mae import data
from keras_mae.data.masks import cut_mask

pytestmark = pytest.mark.backends("torch")

PLAIN = {"distortion": None, "max_class_share": 1.0}


def pairs(labels, colors=COLORS, size=16, **options):
    labels = labels[None] if labels.ndim == 2 else labels
    return data.ArrayPairs(colors[labels], labels, size, num_classes=3, **options)


def drawn(source, crop, count=24, index=0):
    """So many crops of one image, and their masks."""
    images, labels = source.batch([index], crop, lambda _: [np.random.default_rng((3, one)) for one in range(count)])
    return images, labels


# === The same part ===
@pytest.mark.parametrize(
    "crop",
    [
        data.SegmentationCrop(**PLAIN),
        data.SegmentationCrop(**PLAIN, scale=(0.3, 0.6), base_size=24),
        data.RandomResizedCrop(),
        data.RandomCrop(0.2),
        data.CenterCrop(),
        data.WholeImage(),
    ],
    ids=["usual", "padded", "resized", "reflected", "center", "whole"],
)
def test_a_mask_lies_on_its_image(crop):
    """Colors say the label, up to what is blurred at edges."""
    crops = list(zip(*drawn(pairs(labels_of(1), size=(40, 34)), crop), strict=True))
    assert all(agrees(image, labels) for image, labels in crops)
    assert sum(agrees(image, labels[:, ::-1]) for image, labels in crops) < 0.4 * len(crops)


@pytest.mark.parametrize("scale", [(0.5, 0.6), (1.0, 1.0), (1.9, 2.0)])
def test_a_mask_lies_on_its_image_to_a_fraction_of_a_pixel(scale):
    """White is label 1. The image is gray halfway between centers of pixels, where the mask changes."""
    labels = np.zeros((61, 67), "uint8")
    labels[23:, 29:] = 1
    crop = data.SegmentationCrop(**PLAIN, scale=scale, base_size=61)
    images, masks = drawn(pairs(labels, np.array([[0], [255]], "uint8"), 41), crop, 40)
    inside = masks != 255
    assert inside.mean() > 0.6

    def differ(moved):
        return (((images[..., 0] > 127) != (moved == 1)) & inside & (moved != 255)).sum()

    others = [differ(np.roll(masks, shift, axis)) for axis in (1, 2) for shift in (-1, 1)]
    assert differ(masks) * 20 < min(others)


def test_photographs_that_are_decoded_smaller_keep_their_masks(tmp_path):
    labels = np.kron(labels_of(0), np.ones((16, 16), "uint8"))
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(COLORS[labels]).save(tmp_path / "images" / "a.jpg", quality=100, subsampling=0)
    Image.fromarray(labels).save(tmp_path / "masks" / "a.png")
    source = data.FolderPairs(tmp_path, 16, num_classes=3)
    for images, masks in zip(*drawn(source, data.SegmentationCrop(**PLAIN)), strict=True):
        assert agrees(images, masks)


def test_a_mask_is_cut_by_the_nearest_neighbor():
    labels = np.arange(20, dtype="uint8").reshape(4, 5)
    np.testing.assert_array_equal(cut_mask(labels, data.Box(0, 0, 5, 4), (2, 5)), labels[[1, 3]])
    np.testing.assert_array_equal(cut_mask(labels, data.Box(1, 1, 4, 3, True), (2, 3)), labels[1:3, 3:0:-1])
    outside = cut_mask(labels, data.Box(3, 2, 7, 6), (4, 4), 255)
    np.testing.assert_array_equal(outside[:2], [[13, 14, 255, 255], [18, 19, 255, 255]])
    np.testing.assert_array_equal(outside[2:], 255)
    reflected = cut_mask(labels, data.Box(-1, 0, 4, 4), (4, 5))
    np.testing.assert_array_equal(reflected[0], [1, 0, 1, 2, 3])


# === Scale, place and padding ===
def test_scale_is_of_the_base_size_and_the_long_side_has_a_limit():
    """40 × 60, resized to a short side of 20 times the scale."""
    generator = np.random.default_rng(0)
    for scale, base, whole in (
        (1.0, 20, (20, 30)),
        (0.5, 20, (10, 15)),
        (2.0, 20, (40, 60)),
        (1.0, (20, 24), (16, 24)),
        (1.0, None, (16, 24)),
    ):
        crop = data.SegmentationCrop(**PLAIN, scale=(scale, scale), base_size=base)
        box = crop(60, 40, (16, 16), generator)
        assert (box.bottom - box.top, box.right - box.left) == pytest.approx((16 * 40 / whole[0], 16 * 60 / whole[1]))
        assert box.top >= 0
        assert box.left >= 0
        assert box.bottom <= 40.001 or whole[0] < 16


def test_scales_and_places_are_spread():
    crop, generator = data.SegmentationCrop(**PLAIN), np.random.default_rng(0)
    boxes = np.array([crop(100, 100, (50, 50), generator)[:4] for _ in range(2000)])
    scales = 100 / (boxes[:, 3] - boxes[:, 1])  # a crop of 50 from an image of 100, whose base is 50
    assert 0.49 < scales.min() < 0.51
    assert 1.99 < scales.max() < 2.01
    assert np.histogram(scales, 3, (0.5, 2))[0].min() > 550
    room = 100 - (boxes[:, 2] - boxes[:, 0])
    wide = room > 30
    assert np.histogram((boxes[:, 0] / np.maximum(room, 1))[wide], 4, (0, 1))[0].min() > 0.2 * wide.sum()


def test_what_lies_beyond_the_image_is_padding_and_ignored():
    source = pairs(labels_of(0))
    for padding, expected in ((None, [124, 116, 104]), (9, [9, 9, 9]), ((1, 2, 3.4), [1, 2, 3])):
        crop = data.SegmentationCrop(**PLAIN, scale=(0.5, 0.5), base_size=16, flip=False, padding=padding)
        images, labels = drawn(source, crop, 2)
        assert (labels[:, :8, :13] != 255).all()
        assert (labels[:, 8:] == 255).all()
        assert (labels[:, :, 13:] == 255).all()
        np.testing.assert_array_equal(images[:, 8:], np.broadcast_to(expected, images[:, 8:].shape))
        assert not (images[:, :8, :13] == expected).all(axis=-1).any()
    flipped = drawn(source, data.SegmentationCrop(**PLAIN, scale=(0.5, 0.5), base_size=16))
    assert {bool(labels[0, 0] == 255) for labels in flipped[1]} == {True, False}
    for images, labels in zip(*flipped, strict=True):
        np.testing.assert_array_equal((images == [124, 116, 104]).all(axis=-1), labels == 255)


def test_half_of_the_images_are_mirrored_or_none():
    generator = np.random.default_rng(0)
    flips = [data.SegmentationCrop(**PLAIN)(9, 9, (4, 4), generator).flip for _ in range(400)]
    assert 160 < sum(flips) < 240
    assert not any(data.SegmentationCrop(**PLAIN, flip=False)(9, 9, (4, 4), generator).flip for _ in range(20))


def test_no_class_has_too_large_a_share():
    """A third of the image is of class 1, and a crop half as wide: 41 % of them have a quarter of either or more."""
    labels = np.zeros((120, 120), "uint8")
    labels[:, 80:] = 1
    labels[:30] = 255
    source = pairs(labels, np.tile(COLORS, (86, 1)))
    crop = {"scale": (1, 1), "base_size": 32, "distortion": None, "flip": False}

    def shares(**options):
        _, masks = drawn(source, data.SegmentationCrop(**crop, **options), 200)
        counts = np.stack([(masks == label).sum(axis=(1, 2)) for label in (0, 1)])
        return counts.max(axis=0) / counts.sum(axis=0)

    assert 0.25 < (shares(max_class_share=1.0) <= 0.75).mean() < 0.55
    assert (shares() <= 0.75).mean() > 0.98  # ten tries; after that whatever came last is taken
    ignored = pairs(np.full((20, 20), 255, "uint8"), np.tile(COLORS, (86, 1)))
    assert (drawn(ignored, data.SegmentationCrop(), 2)[1] == 255).all()


def test_draws_do_not_depend_on_what_they_are_drawn_beside():
    labels = np.stack([labels_of(0)] * 4)
    source, crop = pairs(labels), data.SegmentationCrop()

    def of(index):
        return [np.random.default_rng((5, index))]

    images, masks = source.batch([0, 1, 2, 3], crop, of)
    again, mask = source.batch([2], crop, of)
    np.testing.assert_array_equal(images[2], again[0])
    np.testing.assert_array_equal(masks[2], mask[0])
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4


# === The whole image ===
def test_a_whole_image_fits_into_the_size_or_keeps_its_own():
    labels = np.ones((10, 20), "uint8")
    images, masks = pairs(labels).batch([0], data.WholeImage())
    assert (masks[0, :8] == 1).all()
    assert (masks[0, 8:] == 255).all()
    assert (images[0, :8] == COLORS[1]).all()
    for whole, shape, inside in (
        (data.WholeImage(), (10, 20), (10, 20)),
        (data.WholeImage(multiple=8), (16, 24), (10, 20)),
        (data.WholeImage(short_side=15), (15, 30), (15, 30)),
        (data.WholeImage(short_side=5, multiple=(2, 4)), (6, 12), (5, 10)),
    ):
        source = pairs(labels)
        source.image_shape = (None, None, 3)
        images, masks = source.batch([0], whole)
        assert (images.shape, masks.shape) == ((1, *shape, 3), (1, *shape))
        expected = np.full(shape, 255)
        expected[: inside[0], : inside[1]] = 1
        np.testing.assert_array_equal(masks[0], expected)


def test_a_crop_that_is_not_for_the_source_is_refused(tmp_path):
    source = pairs(labels_of(0))
    with pytest.raises(ValueError, match="`short_side` and `multiple` are for sources of image_size=None"):
        data.make_dataset(source, 1, crop=data.WholeImage(short_side=9), loader="grain")
    with pytest.raises(
        ValueError, match="SegmentationCrop is for images with segmentation masks. Received: a source w"
    ):
        data.from_arrays(np.full((2, 8, 8, 3), 9, "uint8"), None, 1, crop=data.SegmentationCrop(), loader="grain")
    with pytest.raises(ValueError, match="`augment` is for labels of whole images"):
        data.make_dataset(source, 1, augment=data.Augmentation(3), loader="grain")
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for side in ("images", "masks"):
        Image.fromarray(labels_of(0)).save(tmp_path / side / "a.png")
    own = data.FolderPairs(tmp_path, None, 1)
    with pytest.raises(ValueError, match="`image_size` must be given: only crop=keras_mae.data.WholeImage"):
        data.make_dataset(own, 1, loader="grain")
    with pytest.raises(ValueError, match=r"`batch_size` must be 1 for each worker.*Received: 2 images"):
        data.make_dataset(own, 2, shuffle=False, loader="grain")
    with pytest.raises(
        ValueError, match=r"`padding` must be a number in \[0, 255\], or one for each of the 3 channels"
    ):
        source.batch([0], data.WholeImage(padding=(1, 2)))


# === Light and colors ===
RGB = np.random.default_rng(0).integers(0, 256, (16, 17, 3), "uint8")


def test_each_distortion_is_its_own_and_pixels_stay_where_they_are():
    none = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0, "probability": 1}
    np.testing.assert_array_equal(distorted(RGB, **none), RGB)
    brighter = distorted(RGB, **none | {"brightness": 0.2}).astype(int) - RGB
    assert len(np.unique(brighter[(RGB > 60) & (RGB < 200)])) == 1
    contrast = distorted(RGB, **none | {"contrast": (0.5, 0.5)})
    assert np.abs(contrast - RGB / 2).max() <= 0.5
    np.testing.assert_array_equal(distorted(RGB, **none, seed=3), RGB)


def test_saturation_and_hue_are_those_of_hsv():
    """Against Python's own conversion, color by color."""
    import colorsys

    def by_hand(saturation, turn):
        converted = []
        for red, green, blue in RGB.reshape(-1, 3) / 255:
            hue, saturated, value = colorsys.rgb_to_hsv(red, green, blue)
            converted.append(colorsys.hsv_to_rgb((hue + turn) % 1, min(saturated * saturation, 1), value))
        return np.array(converted).reshape(RGB.shape) * 255

    still = {"brightness": 0, "contrast": (1, 1), "probability": 1}
    for factor in (0.5, 1.4):
        pixels = distorted(RGB, **still, saturation=(factor, factor), hue=0)
        assert np.abs(pixels - by_hand(factor, 0)).max() < 0.51
    generator = np.random.default_rng(1)
    generator.random(5), generator.uniform(size=3)
    turn = generator.uniform(-0.4, 0.4)
    assert np.abs(distorted(RGB, **still, saturation=(1, 1), hue=0.4, seed=1) - by_hand(1, turn)).max() < 0.51


def distorted(pixels, seed=0, pixel_range=(0, 255), **options):
    return data.PhotometricDistortion(**options)(pixels, np.random.default_rng(seed), pixel_range)


def test_other_ranges_and_other_channels_are_distorted_alike():
    wide = RGB.astype("float32") / 255 * 4000 - 1000
    for seed in range(4):
        expected = distorted(RGB.astype("float32"), seed) / 255 * 4000 - 1000
        np.testing.assert_allclose(distorted(wide, seed, (-1000, 3000)), expected, atol=0.01)
    bands = np.stack([RGB[..., 0]] * 5, axis=-1)
    for seed in range(4):
        pixels = distorted(bands, seed, probability=1)
        assert pixels.dtype == "uint8"
        assert not np.array_equal(pixels, bands)
        assert (pixels == pixels[..., :1]).all()


def test_a_quarter_of_the_distortions_are_drawn_by_their_probability():
    black = np.zeros((1, 1, 3), "float32")  # only brightness shows on it, upwards half of the time
    changed = sum(bool((distorted(black, seed) > 0).any()) for seed in range(400))
    assert 70 < changed < 130
    assert not any((distorted(black + 9, seed, probability=0) != 9).any() for seed in range(20))
