"""Data sets of the `datasets` library, by index."""

import io
import pickle

import numpy as np
import pytest
from data_helpers import CLASSES, COUNT, epoch, numbered, numbers, png

from keras_mae import data

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.backends("torch")


@pytest.fixture
def made():
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(CLASSES))})
    rows = {
        "picture": [{"bytes": png(numbered(number)), "path": None} for number in range(COUNT)],
        "kind": [number % 3 for number in range(COUNT)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_images_and_labels_are_read_by_index(made):
    batches = data.from_huggingface(made, 8, 4, loader="grain")
    assert sorted(numbers(batches)) == list(range(COUNT))
    assert batches.class_names == CLASSES
    again = pickle.loads(pickle.dumps(batches.batches.source))
    np.testing.assert_array_equal(again.batch(np.array([7]))[0][0, 3, 3], [70, 70, 70])
    still = data.from_huggingface(made.select(range(20, 23)), 8, 4, shuffle=False, loader="grain")
    assert numbers(still) == [20, 21, 22]
    assert still.fingerprint() != batches.fingerprint()


def test_files_of_arrays_and_paths_of_files(tmp_path):
    array = np.random.default_rng(0).uniform(0, 1, (8, 8, 5)).astype("float32")
    np.save(tmp_path / "a.npy", array)
    written = io.BytesIO()
    np.save(written, array / 2)
    rows = {"image": [{"path": str(tmp_path / "a.npy"), "bytes": None}, {"path": None, "bytes": written.getvalue()}]}
    dataset = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(decode=False)}))
    (images,) = epoch(
        data.from_huggingface(dataset, 8, 2, channels=5, pixel_range=(0, 1), shuffle=False, loader="grain")
    )
    np.testing.assert_array_equal(images, [array, array / 2])


def test_what_is_no_such_data_set_is_said(made):
    for dataset, message in (
        (datasets.DatasetDict({"train": made}), "`dataset` must be one split. Received: all of them: train"),
        (made.to_iterable_dataset(), "load it without streaming=True"),
        (made.select([]), "must hold at least one image"),
        (made.select_columns(["kind"]), "must have a column of images. Received: the columns"),
        ([1, 2], "`dataset` must be a datasets.Dataset, read by index"),
    ):
        with pytest.raises(ValueError, match=message):
            data.from_huggingface(dataset, 8, 2)
    with pytest.raises(ValueError, match="`image_key` must be one of"):
        data.from_huggingface(made, 8, 2, image_key="kind")
    with pytest.raises(ValueError, match="`label_key` must be one of"):
        data.from_huggingface(made, 8, 2, label_key="nothing")


def test_an_image_on_another_machine_is_not_fetched():
    rows = {"image": [{"path": "https://example.org/a.png", "bytes": None}]}
    dataset = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(decode=False)}))
    with pytest.raises(ValueError, match="Row 0 must hold an image, or the path of one on this machine"):
        epoch(data.from_huggingface(dataset, 8, 1, loader="grain"))
