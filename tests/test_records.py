"""Records: what is in one, and reading files of them, ours and others'."""

import struct

import numpy as np
import pytest
from data_helpers import COUNT, epoch, needs_tensorflow, numbered, numbers, png, write_folder
from PIL import Image

from keras_mae import data
from keras_mae.data import records, tfrecords

pytestmark = pytest.mark.backends("torch")


def record(images=(b"pixels",), label=None):
    """An example with any number of images, and nothing that `serialize` would add."""
    example = records._example_class()()
    for image in images:
        example.features.feature[records.IMAGE].bytes_list.value.append(image)
    if label is not None:
        example.features.feature[records.LABEL].int64_list.value.append(label)
    return example.SerializeToString()


def write_tfrecord(path, payloads):
    """A TFRecord file."""
    parts = []
    for payload in payloads:
        length = struct.pack("<Q", len(payload))
        parts += [length, checksum(length), payload, checksum(payload)]
    path.write_bytes(b"".join(parts))
    return str(path)


def checksum(content):
    return struct.pack("<I", tfrecords.masked_crc32c(content))


def write_array_record(path, payloads):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for payload in payloads:
        writer.write(payload)
    writer.close()
    return path


# === One record ===
@pytest.mark.parametrize("label", [None, 0, 11])
def test_a_record_gives_back_what_was_put_in(label):
    expected = {records.IMAGE: b"pixels", records.NAME: b"a/b.png"}
    expected |= {} if label is None else {records.LABEL: label}
    assert records.features(records.serialize(b"pixels", "a/b.png", label)) == expected


@needs_tensorflow
@pytest.mark.parametrize("label", [None, 0, 300])
def test_a_record_is_byte_for_byte_the_one_tensorflow_writes(label):
    import tensorflow as tf

    example = tf.train.Example()
    feature = example.features.feature
    feature[records.IMAGE].bytes_list.value.append(b"\x00pixels\xff")
    feature[records.NAME].bytes_list.value.append("größe/b.png".encode())
    if label is not None:
        feature[records.LABEL].int64_list.value.append(label)
    theirs = example.SerializeToString(deterministic=True)
    assert records.serialize(b"\x00pixels\xff", "größe/b.png", label) == theirs


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            record(images=(), label=3),
            r"must have the feature 'image/encoded' with one value. Received: the features \['image/class/label'\]",
        ),
        (record(images=(b"one", b"other")), r"must have the feature 'image/encoded'"),
        (record()[:-3], "is not a tf.train.Example"),
    ],
    ids=["no image", "two images", "cut off"],
)
def test_a_record_without_one_image_is_refused(made, message):
    with pytest.raises(ValueError, match=message):
        records.features(made)


# === Counting ===
def test_records_are_counted_over_all_files_empty_ones_among_them(tmp_path):
    files = [
        write_tfrecord(tmp_path / str(number), [bytes(length) for length in lengths])
        for number, lengths in enumerate([(3, 0, 1000), (), (7,)])
    ]
    assert tfrecords.count_tfrecords(files) == 4


@pytest.mark.parametrize(
    "kept", [3, 8, 11, 14, 19], ids=["length", "its checksum", "rest of it", "data", "data's checksum"]
)
def test_a_file_cut_anywhere_within_a_record_is_refused_by_name(tmp_path, kept):
    whole = write_tfrecord(tmp_path / "whole", [b"first"])
    size = len((tmp_path / "whole").read_bytes())
    cut = write_tfrecord(tmp_path / "cut", [b"first", b"second"])
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[: size + kept])
    with pytest.raises(
        ValueError, match=f"The TFRecord file '.*cut' ends within a record: number 1 begins at byte {size}"
    ):
        tfrecords.count_tfrecords([whole, cut])


def test_the_checksum_is_the_published_one():
    """RFC 3720: 32 bytes of zeros have 0x8a9136aa, those from 0 to 31 have 0x46dd794e; rotated, plus a constant."""
    for content, plain in ((bytes(32), 0x8A9136AA), (bytes(range(32)), 0x46DD794E)):
        masked = ((plain >> 15 | plain << 17) + 0xA282EAD8) % 2**32
        assert tfrecords.masked_crc32c(content) == masked


def absurd(length):
    """A header that says so many bytes, with the checksum that is right for it."""
    return struct.pack("<Q", length) + checksum(struct.pack("<Q", length))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda whole: whole[:9] + b"?" + whole[10:],
            "'.*x' is none, or is damaged: the length of record 0, at byte 0, has",
        ),
        (lambda whole: b"?" + whole[1:], "'.*x' is none, or is damaged: the length of record 0"),
        (
            lambda whole: whole[:21] + b"?" + whole[22:],
            "'.*x' is damaged: the length of record 1, at byte 21, has a wrong",
        ),
        (
            lambda whole: whole[:21] + absurd(2**60) + bytes(50),
            "number 1 begins at byte 21 of 83, and is said to have 1,1",
        ),
        (lambda whole: absurd(2**64 - 1), "number 0 begins at byte 0 of 12, and is said to have 18,446,744"),
        (lambda whole: b"\x1f\x8b" + bytes(40), "is compressed, which is not read"),
        (None, "Cannot read the TFRecord file '.*x': No such file or directory"),
    ],
    ids=["checksum", "length", "second", "absurd", "largest", "gzip", "gone"],
)
def test_a_header_that_is_wrong_is_named(tmp_path, made, message):
    whole = write_tfrecord(tmp_path / "x", [b"first", b"second"])
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").unlink()
    if made is not None:
        (tmp_path / "x").write_bytes(made(content))
    with pytest.raises(ValueError, match=message):
        tfrecords.count_tfrecords([whole])


# === TFRecord files ===
@pytest.fixture
def shards(tmp_path):
    """Four files as others write them: 23 images under the key "jpg", their classes under "cls"."""
    import tensorflow as tf

    for shard in range(4):
        with tf.io.TFRecordWriter(str(tmp_path / f"train-{shard}.tfrecord")) as writer:
            for number in range(shard, COUNT, 4):
                example = tf.train.Example()
                example.features.feature["jpg"].bytes_list.value.append(png(numbered(number)))
                example.features.feature["cls"].int64_list.value.append(number % 3)
                writer.write(example.SerializeToString())
    return tmp_path


@needs_tensorflow
def test_others_keys_are_read_by_name(shards):
    dataset = data.from_tfrecords(shards / "*.tfrecord", 8, 4, image_key="jpg", label_key="cls")
    for _ in range(2):
        assert sorted(numbers(dataset)) == list(range(COUNT))


@needs_tensorflow
def test_several_patterns_and_names_are_read_together(shards):
    files = [shards / "train-[01].tfrecord", str(shards / "train-3.tfrecord")]
    dataset = data.from_tfrecords(files, 8, 4, image_key="jpg", label_key="cls")
    assert sorted(numbers(dataset)) == [number for number in range(COUNT) if number % 4 != 2]


@needs_tensorflow
def test_without_a_label_key_batches_are_images(shards):
    batches = epoch(data.from_tfrecords(shards / "train-3.tfrecord", 8, 4, image_key="jpg", shuffle=False))
    assert [int(image[3, 3, 0]) for batch in batches for image in batch] == [30, 70, 110, 150, 190]


@needs_tensorflow
def test_a_label_that_is_not_there_is_named(shards):
    message = (
        r"Record \d of '.*' must have the feature 'class' with one value. Received: the features \['cls', 'jpg'\]"
    )
    with pytest.raises(Exception, match=message):
        epoch(data.from_tfrecords(shards / "*.tfrecord", 8, 4, image_key="jpg", label_key="class"))


@needs_tensorflow
def test_a_count_that_is_given_is_believed(shards):
    (shards / "train-9.tfrecord").write_bytes(b"short")  # counting would refuse it
    dataset = data.from_tfrecords(shards / "*.tfrecord", 8, 4, image_key="jpg", count=COUNT)
    assert len(dataset) == 6
    with pytest.raises(
        Exception, match="ValueError: The TFRecord file '.*train-9.tfrecord' ends within a record: number 0"
    ):
        epoch(dataset)


@needs_tensorflow
def test_a_count_that_is_too_large_is_said(shards):
    dataset = data.from_tfrecords(shards / "*.tfrecord", 8, 4, image_key="jpg", count=COUNT + 5)
    with pytest.raises(
        Exception, match=r"`count` must be the number of images in the 4 .*, which end early. Received: 28"
    ):
        epoch(dataset)


@needs_tensorflow
def test_a_changed_byte_is_an_error_and_no_image(shards):
    content = bytearray((shards / "train-2.tfrecord").read_bytes())
    content[40] ^= 1
    (shards / "train-2.tfrecord").write_bytes(content)
    with pytest.raises(Exception, match="ValueError: Cannot read record 0 of '.*train-2.tfrecord': it does not have"):
        epoch(data.from_tfrecords(shards / "*.tfrecord", 8, 4, image_key="jpg", shuffle=False))


@needs_tensorflow
def test_records_that_cannot_be_read_are_left_out_when_asked(shards):
    """The second of six in one file, which is left with the four after it."""
    path = shards / "train-2.tfrecord"
    content = bytearray(path.read_bytes())
    first = 16 + struct.unpack("<Q", content[:8])[0]
    content[first + 30] ^= 1
    path.write_bytes(content)
    dataset = data.from_tfrecords(shards / "*.tfrecord", 8, 4, image_key="jpg", label_key="cls", allow_damaged=0.3)
    with pytest.warns(
        UserWarning, match=r"5 of 23 images of (.|\n)*record 3 of '.*train-2.tfrecord': record 1 does not"
    ):
        assert sorted(numbers(dataset)) == [number for number in range(COUNT) if number % 4 != 2 or number == 2]


@needs_tensorflow
def test_a_record_of_something_else_is_named(shards):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(shards / "train-1.tfrecord")) as writer:
        writer.write(b"hello")
    with pytest.raises(Exception, match="ValueError: Record 0 of '.*train-1.tfrecord' is not a tf.train.Example"):
        epoch(data.from_tfrecords(shards / "*.tfrecord", 8, 4, image_key="jpg"))


@needs_tensorflow
def test_a_shard_that_lacks_records_is_named(tmp_path):
    data.prepare(write_folder(tmp_path / "images"), tmp_path / "out", format="tfrecord", images_per_shard=9)
    shard = tmp_path / "out" / "00001-of-00003.tfrecord"
    length = 16 + struct.unpack("<Q", shard.read_bytes()[:8])[0]
    for content, found in ((b"", 0), (shard.read_bytes()[:length], 1)):
        shard.write_bytes(content)
        with pytest.raises(
            Exception, match=f"00001-of-00003.tfrecord' holds {found} records, and its manifest says 9"
        ):
            epoch(data.from_directory(tmp_path / "out", 8, 4))


@needs_tensorflow
def test_damaged_images_in_records_are_left_out_when_asked(shards):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(shards / "train-4.tfrecord")) as writer:
        example = tf.train.Example()
        example.features.feature["jpg"].bytes_list.value.append(b"no image")
        example.features.feature["cls"].int64_list.value.append(1)
        writer.write(example.SerializeToString())
    dataset = data.from_tfrecords(shards / "*.tfrecord", 8, 4, image_key="jpg", label_key="cls", allow_damaged=0.1)
    with pytest.warns(UserWarning, match=r"1 of 24 images of the 5 TFRecord files from '.*train-0.tfrecord' on"):
        assert sorted(numbers(dataset)) == list(range(COUNT))


@pytest.fixture
def noise(tmp_path):
    """Seven images of noise in two TFRecord files: no two crops are alike."""
    (tmp_path / "noise").mkdir()
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (37, 41, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / "noise" / f"{number}.png")
    data.prepare(tmp_path / "noise", tmp_path / "records", format="tfrecord", images_per_shard=4)
    return tmp_path / "records" / "*.tfrecord"


@needs_tensorflow
def test_crops_differ_between_epochs_and_come_back_with_the_seed(noise):
    dataset, again, other = (data.from_tfrecords(noise, 16, 7, seed=seed) for seed in (5, 5, 6))
    epochs = [epoch(dataset)[0] for _ in range(2)]
    for expected in epochs:
        np.testing.assert_array_equal(epoch(again)[0], expected)
    crops = np.concatenate([*epochs, epoch(other)[0]]).reshape(21, -1)
    assert len(np.unique(crops, axis=0)) == 21


# === ArrayRecord files ===
@pytest.fixture
def files(tmp_path):
    """Ten images with labels in files of three, five and two."""
    made = [records.serialize(png(numbered(number)), f"{number}.png", number % 3) for number in range(10)]
    parts = [made[:3], made[3:8], made[8:]]
    return [write_array_record(tmp_path / f"{number}.array_record", part) for number, part in enumerate(parts)]


def test_files_are_counted_through_in_order(files):
    source = data.RecordSource(files, 8)
    images, labels = source.batch(np.arange(10))
    assert (len(source), images.shape) == (10, (10, 8, 8, 3))
    assert list(images[:, 3, 3, 0] // 10) == list(range(10))
    assert list(labels) == [number % 3 for number in range(10)]


def test_indices_may_come_in_any_order_and_more_than_once(files):
    images, labels = data.RecordSource(files, 8).batch(np.array([8, 2, 8, 3]))
    assert list(images[:, 3, 3, 0] // 10) == [8, 2, 8, 3]
    assert list(labels) == [2, 2, 2, 0]


def test_a_subset_of_records_knows_that_labels_come_with_the_images(files):
    subset = data.Subset(data.RecordSource(files, 8), [9, 1, 4])
    dataset = data.make_dataset(subset, 2, shuffle=False, loader="grain")
    assert numbers(dataset) == [9, 1, 4]


def test_channels_of_records_are_converted(files):
    assert data.RecordSource(files, (5, 7), channels=1).batch([0])[0].shape == (1, 5, 7, 1)


def test_no_file_and_records_of_others_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`files` must name at least one ArrayRecord file"):
        data.RecordSource([])
    for number, made in enumerate([b"no example", record(images=(), label=3)]):
        path = write_array_record(tmp_path / f"{number}.array_record", [made])
        with pytest.raises(ValueError, match="Record 0 of '.*.array_record' "):
            data.RecordSource([path])


def test_a_damaged_image_in_a_record_is_named_by_its_number(tmp_path):
    made = [records.serialize(content, "x.png", None) for content in (png(numbered(1)), b"no image")]
    source = data.RecordSource([write_array_record(tmp_path / "x.array_record", made)], 8)
    with pytest.raises(ValueError, match="Cannot read the image file 'number 1'"):
        source.batch(np.arange(2))


@pytest.mark.parametrize("happens", ["a byte changes", "the end is lost"])
def test_a_damaged_file_is_an_error_that_says_what_to_do(files, happens):
    content = bytearray(files[1].read_bytes())
    content[200] ^= 1
    files[1].write_bytes(content if happens == "a byte changes" else content[: len(content) // 2])
    place = "damaged: record 0 cannot be read" if happens == "a byte changes" else "damaged;"
    with pytest.raises(ValueError, match=f"^The ArrayRecord file '.*1.array_record' is {place}.* --check"):
        data.RecordSource(files, 8).batch(np.arange(10))


@pytest.mark.parametrize("labeled", [False, True])
def test_a_prepared_folder_opens_as_a_source(tmp_path, labeled):
    data.prepare(write_folder(tmp_path / "images"), tmp_path / "out", images_per_shard=7, labeled=labeled)
    source = data.open_directory(tmp_path / "out", (8, 9), 1)
    assert isinstance(source, data.RecordSource)
    images, labels = source.batch(np.arange(COUNT))
    # Files are in the order of their classes' folders.
    order = sorted(range(COUNT), key=lambda number: (number % 3, number))
    assert list(images[:, 3, 3, 0] // 10) == order
    if labeled:
        assert (source.class_names, list(labels)) == (("ant", "cat", "owl"), [number % 3 for number in order])
    else:
        assert (source.class_names, source.labeled, labels) == (None, False, None)
