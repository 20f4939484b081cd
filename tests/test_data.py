"""Sources, loaders and the built-in data sets."""

import gzip
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from data_helpers import LOADERS

from keras_mae import data

pytestmark = pytest.mark.backends("torch")


def numpy_pairs(dataset):
    """The (images, labels) of an epoch, each in one array."""
    batches = [dataset[index] for index in range(len(dataset))] if hasattr(dataset, "num_batches") else list(dataset)
    assert {type(batch) for batch in batches} == {tuple}
    return tuple(np.concatenate([np.asarray(batch[part]) for batch in batches]) for part in range(2))


def numpy_batches(dataset):
    if isinstance(dataset, keras.utils.PyDataset):
        return [dataset[index] for index in range(len(dataset))]
    return [batch.numpy() for batch in dataset]


def numbered(count):
    """Images of 3 × 5 × 2 that hold their own number."""
    return np.broadcast_to(np.arange(count, dtype="uint8")[:, None, None, None], (count, 3, 5, 2)).copy()


def write_idx(path, array, compress=True):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = header + array.astype("uint8").tobytes()
    path.write_bytes(gzip.compress(content) if compress else content)


@pytest.fixture
def fashion_files(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 7), ("t10k", 5)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", rng.integers(0, 10, (count,)))
    return tmp_path


# === Built-in ===
def test_digits_are_the_real_ones_split_without_overlap():
    train, labels = data.digits()
    test, _ = data.digits("test")
    assert (train.shape, test.shape, train.dtype) == ((1437, 8, 8, 1), (360, 8, 8, 1), np.uint8)
    assert (train.min(), train.max()) == (0, 255)
    assert set(labels) == set(range(10))


def test_fashion_mnist_reads_a_directory_of_idx_files(fashion_files):
    images, labels = data.fashion_mnist("test", fashion_files)
    assert (images.shape, images.dtype, labels.shape) == ((5, 28, 28, 1), np.uint8, (5,))
    with gzip.open(fashion_files / "t10k-images-idx3-ubyte.gz") as file:
        np.testing.assert_array_equal(images.ravel(), np.frombuffer(file.read()[16:], "uint8"))


def test_fashion_mnist_downloads_through_keras_where_there_are_no_files(fashion_files, tmp_path, monkeypatch):
    """Keras' downloader finds its four files in its cache, as it would have left them there."""
    cache = tmp_path / "home" / "datasets" / "fashion-mnist"
    cache.mkdir(parents=True)
    for file in fashion_files.glob("*.gz"):
        file.rename(cache / file.name)
    code = (
        "from pathlib import Path; from keras_mae.data import builtin\n"
        "builtin.DEBIAN_FASHION_MNIST = Path('/nowhere')\n"
        "print(*(builtin.fashion_mnist(split)[0].shape for split in ('train', 'test')))\n"
        "import keras; print('backend', keras.backend.backend())"
    )
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    backend = os.environ["KERAS_BACKEND"]
    monkeypatch.delenv("KERAS_BACKEND")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "(7, 28, 28, 1) (5, 28, 28, 1)" in result.stdout, result.stderr
    # Each of tox' environments holds only one backend; this process, like a fresh machine, names none.
    assert f"backend {backend}" in result.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"hello world", "not an IDX file"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", r"header promises \(5,\) bytes, 3 follow"),
        (gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05abcde")[:-9], "damaged gzip"),
    ],
    ids=["empty", "text", "short", "short gzip"],
)
def test_damaged_idx_files_are_named(tmp_path, content, message):
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        data.read_idx(tmp_path / "broken")
    assert "broken" in str(error.value)


def test_missing_idx_file_and_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no IDX file"):
        data.fashion_mnist("train", tmp_path)
    with pytest.raises(ValueError, match="`split` must be one of 'train', 'test'"):
        data.digits("validation")
    with pytest.raises(ValueError, match="`name` must be one of 'digits'"):
        data.load_builtin("cifar")


# === Arrays ===
@pytest.mark.parametrize("loader", LOADERS)
def test_an_epoch_holds_every_image_once_in_an_order_that_changes(loader):
    dataset = data.from_arrays(numbered(23), batch_size=5, seed=3, loader=loader)
    assert len(dataset) == 5
    first = np.concatenate(numpy_batches(dataset))[:, 0, 0, 0]
    if loader == "grain":
        dataset.seek(epoch=1)
    second = np.concatenate(numpy_batches(dataset))[:, 0, 0, 0]
    assert sorted(first) == sorted(second) == list(range(23))
    assert list(first) != list(range(23))
    assert list(first) != list(second)


@pytest.mark.parametrize("loader", LOADERS)
def test_without_shuffle_the_order_is_kept_and_the_last_batch_can_be_dropped(loader):
    dataset = data.from_arrays(numbered(11), batch_size=4, shuffle=False, drop_remainder=True, loader=loader)
    batches = numpy_batches(dataset)
    assert [len(batch) for batch in batches] == [4, 4]
    assert list(np.concatenate(batches)[:, 0, 0, 0]) == list(range(8))
    assert batches[0].shape == (4, 3, 5, 2)
    assert batches[0].dtype == np.uint8


def test_memory_mapped_arrays_stay_on_disk(tmp_path):
    np.save(tmp_path / "images.npy", numbered(13))
    source = data.ArraySource(np.load(tmp_path / "images.npy", mmap_mode="r"))
    assert isinstance(source.images, np.memmap)
    assert list(source.batch(np.array([7, 2]))[0][:, 0, 0, 0]) == [7, 2]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 4, 4, 3), "uint8"), "not be empty"),
        (np.zeros((4, 4), "uint8"), "must have shape"),
        (np.full((2, 4, 4, 1), np.nan), "NaN or infinite pixels in image 0"),
        (np.full((2, 4, 4, 1), 256.0), "must be in 0-255"),
        (np.full((2, 4, 4, 1), -1.0), "must be in 0-255"),
        (np.full((2, 4, 4, 1), 0.5), "multiply by 255"),
        (np.array([[["a"]]]), "integers or floats"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(images)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer"):
        data.from_arrays(numbered(3), batch_size=0)
    with pytest.raises(ValueError, match=r"batch_size=4 for 3 images"):
        data.from_arrays(numbered(3), batch_size=4, drop_remainder=True)
    with pytest.raises(ValueError, match="`loader` must be one of 'tf.data', 'grain'"):
        data.from_arrays(numbered(3), batch_size=1, loader="dali")


# === Labels ===
# A label that is a function of the image, and not the image's place.
NUMBERS, LABELS = np.arange(23), (np.arange(23) * 7 + 3) % 11


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_image_keeps_its_label(shuffle, loader):
    dataset = data.from_arrays(numbered(23), LABELS, batch_size=5, shuffle=shuffle, seed=3, loader=loader)
    assert len(dataset) == 5
    images, labels = numpy_pairs(dataset)
    order = images[:, 0, 0, 0]
    np.testing.assert_array_equal(labels, LABELS[order])
    assert sorted(order) == list(NUMBERS)
    assert (list(order) != list(NUMBERS)) == shuffle
    assert labels.dtype == np.int64


@pytest.mark.parametrize("loader", LOADERS)
def test_labels_of_a_dropped_batch_are_dropped_with_it(loader):
    dataset = data.from_arrays(numbered(11), LABELS[:11], batch_size=4, drop_remainder=True, loader=loader)
    images, labels = numpy_pairs(dataset)
    np.testing.assert_array_equal(labels, LABELS[images[:, 0, 0, 0]])
    assert len(labels) == 8


@pytest.mark.parametrize("loader", LOADERS)
def test_without_labels_batches_are_images_and_no_tuples(loader):
    batch = next(iter(numpy_batches(data.from_arrays(numbered(7), batch_size=7, loader=loader))))
    assert batch.shape == (7, 3, 5, 2)


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS.astype("uint8"), list(LABELS)])
def test_columns_bytes_and_lists_of_labels_are_labels(labels):
    got = data.ArraySource(numbered(23), labels).labels
    np.testing.assert_array_equal(got, LABELS)
    assert (got.shape, got.dtype) == ((23,), np.int64)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:22], r"one for each of the 23 images. Received: labels.shape=\(22,\)"),
        (LABELS.astype("float32"), "`labels` must be integers from 0.*labels.dtype=float32"),
        (LABELS - 1, "`labels` must be integers from 0.*the smallest is -1"),
        (np.eye(11, dtype="int64")[LABELS], r"`labels` must be integers from 0.*labels.shape=\(23, 11\)"),
        ([str(label) for label in LABELS], "`labels` must be integers from 0"),
    ],
    ids=["too few", "floats", "negative", "one-hot", "strings"],
)
def test_labels_that_are_none_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(numbered(23), labels)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_subset_takes_images_and_labels_alike(loader):
    chosen = [19, 2, 13, 5, 7]
    source = data.Subset(data.ArraySource(numbered(23), LABELS), chosen)
    assert (len(source), source.image_shape, source.dtype) == (5, (3, 5, 2), np.uint8)
    images, labels = numpy_pairs(data.make_dataset(source, 2, shuffle=False, loader=loader))
    assert list(images[:, 0, 0, 0]) == chosen
    np.testing.assert_array_equal(labels, LABELS[chosen])


def test_a_subset_of_a_subset_counts_within_it():
    source = data.Subset(data.Subset(data.ArraySource(numbered(23), LABELS), [19, 2, 13]), [2, 0])
    assert list(source.batch(np.array([0, 1]))[0][:, 0, 0, 0]) == [13, 19]
    assert list(source.labels) == [LABELS[13], LABELS[19]]


def test_a_subset_of_images_without_labels_has_none():
    assert data.Subset(data.ArraySource(numbered(5)), [3, 1]).labels is None


# === Folders ===
@pytest.fixture
def classes_folder(tmp_path):
    """Three classes whose grey level is 10, 20 or 30; made in another order than that of their names."""
    from PIL import Image

    for name, level, where in (("owl", 30, "."), ("cat", 20, "young/kittens"), ("ant", 10, "."), ("cat", 20, ".")):
        folder = tmp_path / name / where
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 7), level, "uint8")).save(folder / f"{len(where)}.png")
    return tmp_path


@pytest.mark.parametrize("loader", LOADERS)
def test_a_folders_classes_are_numbered_by_name(classes_folder, loader):
    source = data.FolderSource(classes_folder, (9, 7), channels=1, labeled=True)
    assert source.class_names == ("ant", "cat", "owl")
    dataset = data.from_directory(
        classes_folder, (9, 7), batch_size=3, channels=1, labeled=True, shuffle=True, loader=loader
    )
    images, labels = numpy_pairs(dataset)
    np.testing.assert_array_equal(images[:, 0, 0, 0], 10 * (labels + 1))
    assert sorted(labels) == [0, 1, 1, 2]  # a folder within a class is of that class
    assert labels.dtype == np.int64


def test_a_class_without_images_keeps_its_number(classes_folder):
    """Or training and validation folders number their classes differently, and nobody is told."""
    (classes_folder / "ant" / "1.png").unlink()
    source = data.FolderSource(classes_folder, (9, 7), channels=1, labeled=True)
    np.testing.assert_array_equal(source.batch(np.arange(len(source)))[0][:, 0, 0, 0], 10 * (source.labels + 1))


def test_a_folder_is_not_labeled_unless_asked(classes_folder):
    source = data.FolderSource(classes_folder, 8)
    assert (source.labels, source.class_names) == (None, None)


def test_labeled_images_outside_a_class_are_refused_by_name(classes_folder):
    (classes_folder / "ant" / "1.png").rename(classes_folder / "loose.png")
    with pytest.raises(ValueError, match=r"in a folder for each class. Received: 'loose.png' and 0 more"):
        data.FolderSource(classes_folder, 8, labeled=True)


@pytest.fixture
def folder(tmp_path):
    """Six real files, nested: colour, grey, transparent, palette, 16-bit and an animation; and a text file."""
    from PIL import Image

    rng = np.random.default_rng(1)
    colour = Image.fromarray(rng.integers(0, 256, (31, 47, 3), dtype="uint8"))
    (tmp_path / "flat").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    colour.save(tmp_path / "flat" / "colour.JPG", quality=95)
    colour.convert("L").save(tmp_path / "grey.png")
    colour.convert("RGBA").save(tmp_path / "a" / "b" / "alpha.webp", lossless=True)
    colour.quantize(16).save(tmp_path / "a" / "palette.png")
    Image.fromarray(np.full((40, 40), 257 * 200, "uint16")).save(tmp_path / "sixteen.tiff")
    colour.save(tmp_path / "moving.gif", save_all=True, append_images=[colour.rotate(90)])
    (tmp_path / "readme.txt").write_text("not an image")
    return tmp_path


@pytest.mark.parametrize("loader", LOADERS)
def test_a_nested_folder_becomes_batches_of_one_shape(folder, loader):
    dataset = data.from_directory(folder, image_size=(16, 24), batch_size=4, loader=loader)
    batches = numpy_batches(dataset)
    assert [batch.shape for batch in batches] == [(4, 16, 24, 3), (2, 16, 24, 3)]
    assert batches[0].dtype == np.uint8


def test_channels_are_converted(folder):
    grey = data.FolderSource(folder, 16, channels=1)
    assert grey.batch([0, 1])[0].shape == (2, 16, 16, 1)
    sixteen = [path.name for path in grey.paths].index("sixteen.tiff")
    np.testing.assert_array_equal(grey.batch([sixteen])[0], np.full((1, 16, 16, 1), 200))
    with pytest.raises(ValueError, match="of which 1, 3 or 4 channels are made, and 2 are to be"):
        data.FolderSource(folder, 16, channels=2)


def test_images_are_resized_to_cover_and_cut_from_the_centre(tmp_path):
    """A wide image in three bands keeps only its middle one when it is made square."""
    from PIL import Image

    bands = np.repeat(np.array([10, 130, 250], "uint8"), 30)[None].repeat(30, 0)
    Image.fromarray(bands).save(tmp_path / "bands.png")
    image = data.read_image(tmp_path / "bands.png", (15, 15, 1))
    np.testing.assert_array_equal(image[:, 2:-2], 130)


def test_images_are_turned_upright(tmp_path):
    from PIL import Image

    pixels = np.zeros((20, 20), "uint8")
    pixels[:10] = 255  # white above, and EXIF says: turn by 180 degrees
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = data.read_image(tmp_path / "turned.png", (20, 20, 1))
    assert image[:8].max() == 0
    assert image[12:].min() == 255


@pytest.mark.parametrize("content", [b"", b"this is no image", b"\x89PNG\r\n\x1a\n garbage"])
def test_files_that_are_no_images_are_named_before_training(folder, content):
    (folder / "broken.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"Cannot read the image file '.*broken\.png'"):
        data.from_directory(folder, image_size=16)


def test_a_truncated_image_is_named_when_it_is_decoded(folder):
    whole = (folder / "flat" / "colour.JPG").read_bytes()
    (folder / "short.jpg").write_bytes(whole[: len(whole) // 2])
    source = data.FolderSource(folder, 16)
    with pytest.raises(ValueError, match=r"Cannot read the image file '.*short\.jpg'.*truncated"):
        source.batch(np.arange(len(source)))


def test_empty_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold images"):
        data.from_directory(tmp_path)
    with pytest.raises(ValueError, match="must be an existing folder"):
        data.from_directory(tmp_path / "nowhere")
