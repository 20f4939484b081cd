"""TFDS: a real data set, made here, read with and without TensorFlow."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from data_helpers import CLASSES, COUNT, WITH_TENSORFLOW, epoch, needs_tensorflow, numbered, numbers, write_tfds

import keras_mae
from keras_mae import data

pytestmark = pytest.mark.backends("torch")

pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_tfds(tmp_path_factory.mktemp("tfds"))


def test_splits_and_parts_of_them(data_dir):
    assert len(data.from_tfds("numbered", "train[:50%]", 8, 4, data_dir=data_dir)) == 3
    assert numbers(data.from_tfds("numbered", "train[2:5]", 8, 4, data_dir=data_dir, shuffle=False)) == [2, 3, 4]


def test_classes_are_known(data_dir):
    from keras_mae.data import tfds

    source = tfds.tfds_source(
        "numbered", "train", 8, channels=3, data_dir=data_dir, download=False, allow_damaged=0.0
    )
    assert (source.class_names, source.labeled, len(source)) == (CLASSES, True, COUNT)


def test_the_version_tells_data_apart(data_dir):
    dataset = data.from_tfds("numbered", "train[:4]", 8, 4, data_dir=data_dir)
    assert dataset.fingerprint()["data"] == {"kind": "TFDS", "name": "numbered/1.0.0", "split": "train[:4]"}


def test_what_is_not_there_is_refused(data_dir, tmp_path):
    with pytest.raises(ValueError, match="There is no data set 'nothing' in TFDS or in data_dir="):
        data.from_tfds("nothing", data_dir=data_dir)
    with pytest.raises(ValueError, match="`split` must be one of train, or a part of one.*Received: split='test'"):
        data.from_tfds("numbered", "test", data_dir=data_dir)
    with pytest.raises(ValueError, match="The data set 'cifar10' is not prepared in .*pass download=True"):
        data.from_tfds("cifar10", data_dir=tmp_path)
    with pytest.raises(ValueError, match="ArrayRecord data sets are read by index: `allow_damaged` must be 0"):
        data.from_tfds("numbered", data_dir=data_dir, allow_damaged=0.01)


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


@pytest.mark.parametrize("split", ["train[23:]", "train[5:2]", "train[:0%]"])
def test_a_part_that_holds_nothing_is_refused(data_dir, split):
    with pytest.raises(ValueError, match="`split` must hold images. Received: split='train"):
        data.from_tfds("numbered", split, data_dir=data_dir)


@pytest.mark.parametrize("split", ["train[:", "train[:200%]", "", "train[:5]+test"])
def test_a_split_that_is_none_is_refused(data_dir, split):
    with pytest.raises(ValueError, match="`split` must be one of train, or a part of one such as 'train"):
        data.from_tfds("numbered", split, data_dir=data_dir)


@pytest.mark.parametrize("name", ["numbered:9.9.9", "numbered/nothing", "cifar10:9.9.9"])
def test_versions_and_configurations_that_are_not_there_are_refused(data_dir, name):
    with pytest.raises(ValueError, match=f"There is no data set '{name}' in TFDS or in data_dir="):
        data.from_tfds(name, data_dir=data_dir)


def test_a_version_can_be_named_and_a_prepared_set_is_not_downloaded(data_dir):
    dataset = data.from_tfds("numbered:1.0.0", "train", 8, 4, data_dir=data_dir, shuffle=False, download=True)
    assert numbers(dataset) == list(range(COUNT))


def info(features, supervised_keys=None):
    """What a builder says about its data set; `features` by name: "image", "label" or "text"."""
    import tensorflow_datasets as tfds

    made = {
        "image": lambda: tfds.features.Image(shape=(None, None, 3)),
        "label": lambda: tfds.features.ClassLabel(names=CLASSES),
        "text": lambda: tfds.features.Text(),
    }
    found = tfds.features.FeaturesDict({name: made[kind]() for name, kind in features.items()})
    return SimpleNamespace(name="theirs", features=found, supervised_keys=supervised_keys)


@pytest.mark.parametrize(
    ("features", "supervised_keys", "expected"),
    [
        ({"a": "image", "b": "label"}, None, ("a", "b", CLASSES)),
        ({"a": "image", "b": "image", "c": "label", "d": "label"}, ("b", "d"), ("b", "d", CLASSES)),
        ({"a": "image", "c": "label", "d": "label"}, None, ("a", None, None)),  # nothing says which is meant
        ({"a": "image", "b": "text"}, ("b", "a"), ("a", None, None)),
        ({"a": "image", "b": "image"}, ("a", "b"), ("a", None, None)),  # one image made of another
    ],
    ids=["one of each", "several, named", "several labels", "text", "image to image"],
)
def test_the_image_and_the_label_are_found(features, supervised_keys, expected):
    from keras_mae.data import tfds

    assert tfds._keys(info(features, supervised_keys)) == expected


@pytest.mark.parametrize("features", [{"b": "text", "c": "label"}, {"a": "image", "b": "image"}])
def test_a_set_without_one_image_is_refused(features):
    from keras_mae.data import tfds

    with pytest.raises(ValueError, match="theirs must have one image for each example"):
        tfds._keys(info(features))


@pytest.mark.skipif(WITH_TENSORFLOW, reason="TensorFlow is installed")
def test_other_files_than_array_record_say_that_they_take_tensorflow(data_dir, tmp_path):
    shutil.copytree(data_dir / "numbered", tmp_path / "numbered")
    path = tmp_path / "numbered" / "1.0.0" / "dataset_info.json"
    path.write_text(path.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        ImportError, match="Reading a TFDS data set that is not ArrayRecord requires TensorFlow: pip install"
    ):
        data.from_tfds("numbered", data_dir=tmp_path)


# === Written by TFDS ===
@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The same data set in both formats, as TFDS writes it."""
    directory = tmp_path_factory.mktemp("theirs")
    store(directory / "array_record", "numbered", "array_record")
    store(directory / "tfrecord", "numbered", "tfrecord")
    return directory


@needs_tensorflow
def test_what_is_made_here_is_described_as_tfds_describes_it(data_dir, theirs):
    """Or the tests without TensorFlow would read something that TFDS never writes."""
    import tensorflow_datasets as tfds

    ours, real = (
        tfds.builder_from_directory(folder / "numbered" / "1.0.0") for folder in (data_dir, theirs / "array_record")
    )
    assert repr(ours.info.features) == repr(real.info.features)
    assert ours.info.file_format == real.info.file_format
    for builder in (ours, real):
        split = builder.info.splits["train"]
        assert (split.num_examples, [path.name for path in split.filepaths]) == (
            COUNT,
            ["numbered-train.array_record-00000-of-00001"],
        )
    example, their_example = (builder.as_data_source("train") for builder in (ours, real))
    by_size = sorted(range(COUNT), key=lambda index: int(their_example[index]["image"].mean()))  # TFDS shuffles
    for index in range(COUNT):
        np.testing.assert_array_equal(example[index]["image"], their_example[by_size[index]]["image"])


@needs_tensorflow
def test_a_stream_has_splits_classes_and_parts_too(theirs):
    from keras_mae.data import tfds

    source = tfds.tfds_source(
        "numbered", "train[5:12]", 8, channels=3, data_dir=theirs / "tfrecord", download=False, allow_damaged=0.0
    )
    assert (source.class_names, source.labeled, len(source)) == (CLASSES, True, 7)
    parts = [
        numbers(data.from_tfds("numbered", split, 8, 4, data_dir=theirs / "tfrecord"))
        for split in ("train[:50%]", "train[50%:]")
    ]
    assert sorted(map(len, parts)) == [11, 12]
    assert sorted(parts[0] + parts[1]) == list(range(COUNT))
    with pytest.raises(ValueError, match="`split` must be one of train"):
        data.from_tfds("numbered", "test", data_dir=theirs / "tfrecord")
    with pytest.raises(ValueError, match="`split` must hold images"):
        data.from_tfds("numbered", "train[23:]", data_dir=theirs / "tfrecord")


@needs_tensorflow
def test_two_workers_share_a_stream(theirs):
    workers = [
        data.from_tfds("numbered", "train", 8, 4, data_dir=theirs / "tfrecord", shard=(n, 2)) for n in range(2)
    ]
    for _ in range(2):
        assert sorted(numbers(workers[0]) + numbers(workers[1])) == list(range(COUNT))


@needs_tensorflow
def test_a_stream_leaves_damaged_images_out_when_asked(theirs):
    """The files' bytes are what is stored: one of them loses its end."""
    import tensorflow as tf

    directory = theirs / "damaged"
    shutil.copytree(theirs / "tfrecord", directory)
    [path] = (directory / "numbered" / "1.0.0").glob("*.tfrecord*")
    examples = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    image = examples[4].features.feature["image"].bytes_list
    image.value[:] = [image.value[0][:40]]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example.SerializeToString())
    dataset = data.from_tfds("numbered", "train", 8, 4, data_dir=directory, allow_damaged=0.1)
    with pytest.warns(UserWarning, match=r"1 of 23 images of numbered \(train\) are damaged"):
        assert len(numbers(dataset)) == COUNT - 1
    with pytest.raises(Exception, match=r"Cannot read the image file 'number 4 of numbered \(train\)'"):
        epoch(data.from_tfds("numbered", "train", 8, 4, data_dir=directory, shuffle=False))


@needs_tensorflow
@pytest.mark.filterwarnings("ignore:.*shuffle=True. was passed")
def test_fit_takes_a_stream(theirs):
    encoder = keras_mae.ViTEncoder((8, 8, 3), 4, embed_dim=8, depth=1, num_heads=2)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2))
    mae.compile(keras_mae.optimizers.AdamW(1e-3), run_eagerly=True)
    dataset = data.from_tfds("numbered", "train", 8, 8, data_dir=theirs / "tfrecord", drop_remainder=True)
    assert np.isfinite(mae.fit(dataset, verbose=0).history["loss"]).all()
    assert int(mae.optimizer.iterations) == 2
