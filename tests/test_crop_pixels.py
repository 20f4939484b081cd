"""The pixels of a crop, of files and of arrays."""

import io

import numpy as np
import pytest
from crop_helpers import torchvision_centre
from PIL import Image, JpegImagePlugin
from sklearn.datasets import load_sample_image

from keras_mae import data
from keras_mae.data.crops import Box
from keras_mae.data.images import views

pytestmark = pytest.mark.backends("torch")
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
    (photos := tmp_path / "photos").mkdir()
    image.save(photos / "flower.png")
    if kind == "array":
        got = data.ArraySource(np.asarray(image)[None], image_size=160).batch(first, crop)[0]
    elif kind == "folder":
        got = data.FolderSource(photos, 160).batch(first, crop)[0]
    elif kind == "records":
        pytest.importorskip("array_record")
        data.prepare(photos, tmp_path / "shards")
        got = data.open_directory(tmp_path / "shards", 160).batch(first, crop)[0]
    else:
        stream = data.Stream("flowers", lambda shuffle, seed: None, image_size=160, channels=3, labeled=False)
        got = stream.views((photos / "flower.png").read_bytes(), 0, crop, lambda index: [None])
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
            box = crop(41, 37, (37, 41), generator)
            cut = padded[4 + int(box.top) :, 4 + int(box.left) :][:37, :41]
            expected.append(cut[:, ::-1] if box.flip else cut)
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
