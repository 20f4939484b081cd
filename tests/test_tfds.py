"""TFDS: a real data set, made here, read with and without TensorFlow."""

import numpy as np
import pytest
from data_helpers import CLASSES, COUNT, epoch, needs_tensorflow, numbered, numbers, write_tfds

from keras_mae import data

pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_tfds(tmp_path_factory.mktemp("tfds"))


def test_splits_and_parts_of_them(data_dir):
    assert len(data.from_tfds("numbered", "train[:50%]", 8, 4, data_dir=data_dir)) == 3
    assert numbers(data.from_tfds("numbered", "train[2:5]", 8, 4, data_dir=data_dir, shuffle=False)) == [2, 3, 4]


def test_classes_are_known(data_dir):
    from keras_mae.data import tfds

    source = tfds.source("numbered", "train", 8, 3, data_dir, False, "raise", 0.01)
    assert (source.classes, source.labelled, len(source)) == (list(CLASSES), True, COUNT)


def test_what_is_not_there_is_refused(data_dir, tmp_path):
    with pytest.raises(ValueError, match="There is no data set 'nothing' in TFDS or in data_dir="):
        data.from_tfds("nothing", data_dir=data_dir)
    with pytest.raises(ValueError, match="`split` must be one of train, or a part of one.*Received: split='test'"):
        data.from_tfds("numbered", "test", data_dir=data_dir)
    with pytest.raises(ValueError, match="The data set 'cifar10' is not prepared in .*pass download=True"):
        data.from_tfds("cifar10", data_dir=tmp_path)
    with pytest.raises(ValueError, match="ArrayRecord sets are read by index: `on_error` must be 'raise'"):
        data.from_tfds("numbered", data_dir=data_dir, on_error="skip")


def store(directory, name, file_format, features=None, examples=None):
    """A data set that TFDS itself writes."""
    import tensorflow_datasets as tfds

    made = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=CLASSES),
    }
    examples = examples or [(number, {"image": numbered(number), "label": number % 3}) for number in range(COUNT)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features or made),
        split_datasets={"train": examples},
        data_dir=directory,
        file_format=file_format,
    )


@needs_tensorflow
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_what_tfds_itself_writes_is_read_alike(data_dir, tmp_path, file_format):
    store(tmp_path, "theirs", file_format)
    ours, theirs = (
        sorted(numbers(data.from_tfds(name, "train", 8, 4, data_dir=folder)))
        for name, folder in (("numbered", data_dir), ("theirs", tmp_path))
    )
    assert ours == theirs == list(range(COUNT))


@needs_tensorflow
def test_sets_without_a_label_or_without_one_image(tmp_path):
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    store(tmp_path, "pictures", "tfrecord", {"image": image}, [(0, {"image": numbered(3)})])
    [images] = epoch(data.from_tfds("pictures", "train", 8, 1, data_dir=tmp_path))
    np.testing.assert_array_equal(images, np.full((1, 8, 8, 3), 30))
    pair = {"left": image, "right": image}
    store(tmp_path, "pairs", "tfrecord", pair, [(0, {"left": numbered(3), "right": numbered(4)})])
    with pytest.raises(ValueError, match="pairs must have one image for each example. Received: the images"):
        data.from_tfds("pairs", data_dir=tmp_path)
