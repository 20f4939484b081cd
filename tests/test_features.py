"""Features of a frozen encoder, and the vote of the nearest neighbours."""

import math

import keras
import numpy as np
import pytest
from classifier_helpers import (
    BATCH,
    CLASSES,
    IMAGES,
    LABELS,
    WIDTH,
    assert_same,
    make_encoder,
    values,
)
from training_helpers import quick_compile
from transfer_helpers import dataset, unknown_length

from keras_mae import transfer
from keras_mae.transfer import Features


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


# === Features ===
@pytest.fixture(scope="module")
def encoder():
    """Shared: tests must not change it."""
    return make_encoder()


@pytest.fixture(scope="module")
def expected(encoder):
    """Class tokens of all images, from one batch of them."""
    return np.array(keras.ops.convert_to_numpy(encoder(IMAGES))[:, 0])


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return IMAGES[rows], LABELS[rows]


def tf_data(*arrays):
    tf = pytest.importorskip("tensorflow", reason="tf.data needs TensorFlow")
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(BATCH)


FORMS = {  # data, and whether there are labels
    "array": (lambda: IMAGES, False),
    "arrays": (lambda: (IMAGES, LABELS), True),
    "dataset": (lambda: dataset(), True),
    "dataset without labels": (lambda: dataset(None), False),
    "PyDataset": (Batches, True),
    "generator": (lambda: unknown_length(IMAGES), False),
    "generator of pairs": (lambda: unknown_length(IMAGES, LABELS), True),
    "tf.data": (lambda: tf_data(IMAGES), False),
    "tf.data of pairs": (lambda: tf_data(IMAGES, LABELS), True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_features(form, encoder, expected):
    make, labeled = FORMS[form]
    features, labels = transfer.extract_features(encoder, make(), batch_size=BATCH, progress=False)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert (labels is not None) is labeled
    if labeled:
        np.testing.assert_array_equal(labels, LABELS)


def test_features_of_an_array_with_labels_and_a_smaller_last_batch(encoder, expected):
    features, labels = transfer.extract_features(encoder, IMAGES[:7], LABELS[:7], batch_size=BATCH)
    np.testing.assert_allclose(features, expected[:7], atol=1e-5)
    np.testing.assert_array_equal(labels, LABELS[:7])


def test_mean_features_are_the_mean_of_the_patch_tokens_before_the_norm(encoder):
    features = transfer.extract_features(encoder, IMAGES[:BATCH], pooling="mean", progress=False).features
    tokens = keras.ops.convert_to_numpy(encoder.encode(IMAGES[:BATCH]))
    np.testing.assert_allclose(features, tokens[:, 1:].mean(axis=1), atol=1e-5)


def test_features_do_not_change_the_encoder(encoder):
    before, step = values(encoder.weights), int(encoder.step.value)
    transfer.extract_features(encoder, IMAGES, batch_size=BATCH, progress=False)
    assert_same(values(encoder.weights), before)
    assert int(encoder.step.value) == step


def test_features_in_a_file_are_those_in_memory(encoder, tmp_path):
    """Of a generator, so that their number is not known when the file is begun; and float32 of bfloat16 models."""
    in_memory = transfer.extract_features(encoder, dataset(), progress=False)
    path = tmp_path / "features.npy"
    on_disk = transfer.extract_features(encoder, unknown_length(IMAGES, LABELS), file=path, progress=False)
    assert isinstance(on_disk.features, np.memmap)
    np.testing.assert_array_equal(on_disk.features, in_memory.features)
    np.testing.assert_array_equal(on_disk.labels, LABELS)
    np.testing.assert_array_equal(np.load(path), in_memory.features)
    assert [file.name for file in tmp_path.iterdir()] == ["features.npy"]


def stops_with_an_error():
    yield IMAGES[:BATCH]
    raise RuntimeError("the disk is gone")


def test_an_error_leaves_the_file_as_it_was_and_no_other(encoder, tmp_path):
    path = tmp_path / "features.npy"
    np.save(path, np.arange(3))
    with pytest.raises(RuntimeError, match="the disk is gone"):
        transfer.extract_features(encoder, stops_with_an_error(), file=path, progress=False)
    np.testing.assert_array_equal(np.load(path), np.arange(3))
    assert [file.name for file in tmp_path.iterdir()] == ["features.npy"]


def test_features_of_a_half_precision_encoder_are_float32(expected):
    features = transfer.extract_features(make_encoder(dtype="mixed_bfloat16"), IMAGES, progress=False).features
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=0.1)


# === Nearest neighbours ===
def vote(train, labels, test, k, temperature):
    """One image after the other, in NumPy."""
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    predicted = []
    for image in test:
        cosines = train @ image
        votes = np.zeros(CLASSES)
        for neighbour in np.argsort(-cosines)[:k]:
            votes[labels[neighbour]] += math.exp(cosines[neighbour] / temperature)
        predicted.append(votes.argmax())
    return np.array(predicted)


@pytest.fixture(scope="module")
def neighbours():
    """Features that are only about right, and so long in different ways that only the cosine finds neighbours."""
    generator = np.random.default_rng(11)
    labels = generator.integers(0, CLASSES, 97)
    centres = generator.standard_normal((CLASSES, WIDTH))
    features = centres[labels] + 0.8 * generator.standard_normal((97, WIDTH))
    features *= np.exp(generator.standard_normal((97, 1)))
    return Features(features[:67].astype("float32"), labels[:67]), Features(
        features[67:].astype("float32"), labels[67:]
    )


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (13, 0.07), (13, 5.0), (67, 0.07)])
def test_the_vote_is_that_of_the_oracle(k, temperature, neighbours):
    train, test = neighbours
    predicted = vote(*train, test.features, k, temperature)
    np.testing.assert_array_equal(transfer.knn_predict(train, test.features, k, temperature), predicted)
    accuracy = np.mean(predicted == test.labels)
    assert 0.2 < accuracy < 1
    assert transfer.knn_accuracy(train, test, k, temperature) == pytest.approx(accuracy)


def test_neighbours_and_temperature_act(neighbours):
    """A vote that ignores either would pass for some settings."""
    train, test = neighbours
    settings = [(1, 0.07), (13, 0.07), (13, 5.0), (67, 5.0)]
    assert len({tuple(vote(*train, test.features, *setting)) for setting in settings}) == len(settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "vit"}, "`encoder` must be a keras_mae.ViTEncoder, such as mae.encoder"),
        ({"pooling": "max"}, "`pooling` must be one of 'mean', 'token', 'attentive', 'flatten'"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"labels": LABELS[:7]}, "`labels` must be one for each image. Received: 7 for 20 images"),
        ({"data": IMAGES[:, :4]}, r"`images` must have shape \(batch, 8, 12, 1\).*\(20, 4, 12, 1\)"),
        ({"data": IMAGES[:0]}, "`data` must hold at least one batch of images. Received: none"),
        ({"data": iter(())}, "`data` must hold at least one batch of images. Received: none"),
        ({"file": "features.txt"}, "`file` must be a name that ends in .npy. Received: file='features.txt'"),
        ({"data": iter(()), "file": "features.npy"}, "`data` must hold at least one batch of images. Received: none"),
    ],
)
def test_bad_arguments_of_features_are_refused(arguments, message, encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        transfer.extract_features(**{"encoder": encoder, "data": IMAGES, "progress": False, **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("k", "temperature", "message"),
    [
        (68, 0.07, "`k` must not exceed the number of training images. Received: k=68 for 67 images"),
        (0, 0.07, "`k` must be a positive integer. Received: k=0"),
        (3, 0, "`temperature` must be a finite number above 0. Received: temperature=0"),
    ],
)
def test_bad_arguments_of_the_vote_are_refused(k, temperature, message, neighbours):
    train, test = neighbours
    with pytest.raises(ValueError, match=message):
        transfer.knn_accuracy(train, test, k, temperature)


def test_a_vote_without_labels_is_refused(neighbours):
    train, test = neighbours
    with pytest.raises(ValueError, match="`train` must have labels"):
        transfer.knn_predict(train._replace(labels=None), test.features, 3)
    with pytest.raises(ValueError, match="`test` must have labels"):
        transfer.knn_accuracy(train, test._replace(labels=None), 3)
