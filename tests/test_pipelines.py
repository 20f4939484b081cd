"""Every kind of source, through every loader: each image once an epoch, its label with it, shards, crops, `fit`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from data_helpers import COUNT, INDEXED, LOADERS, STREAMED, epoch, make, needs_tensorflow, numbers

import keras_mae
from keras_mae import data

pytestmark = pytest.mark.backends("torch")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("sources")


KINDS_AND_LOADERS = [(kind, loader) for kind in INDEXED for loader in LOADERS]
every_pipeline = pytest.mark.parametrize(
    ("kind", "loader"),
    [
        pytest.param(kind, *getattr(loader, "values", [loader]), marks=getattr(loader, "marks", ()))
        for kind, loader in KINDS_AND_LOADERS
    ]
    + [pytest.param(*kind.values, "tf.data", marks=kind.marks) for kind in STREAMED],
)


@every_pipeline
def test_two_epochs_see_every_image_once_each_with_its_label(directory, kind, loader):
    dataset = make(kind, directory, loader=loader, seed=3)
    assert len(dataset) == 6
    first, second = numbers(dataset), numbers(dataset)
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    assert first != sorted(first)


@every_pipeline
def test_two_workers_see_every_image_once_between_them(directory, kind, loader):
    """23 images in batches of 4, two for each worker: of the last 3 the first has 2."""
    shards = [make(kind, directory, loader=loader, shard=(index, 2)) for index in range(2)]
    assert [len(shard) for shard in shards] == [6, 6]
    for _ in range(2):
        seen = [numbers(shard) for shard in shards]
        assert sorted(map(len, seen)) == [11, 12]
        assert sorted(seen[0] + seen[1]) == list(range(COUNT))


@every_pipeline
def test_the_same_seed_gives_the_same_batches_and_another_seed_others(directory, kind, loader):
    one, same, other = (epoch(make(kind, directory, loader=loader, seed=seed)) for seed in (5, 5, 6))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


@every_pipeline
def test_without_shuffle_images_come_in_order(directory, kind, loader):
    assert len(set(map(tuple, (numbers(make(kind, directory, loader=loader, shuffle=False)) for _ in range(2))))) == 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seven images of noise: no two crops are alike."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (37, 41, 3), "uint8")
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("loader", LOADERS)
def test_crops_of_an_image_follow_one_another_and_differ(photos, loader):
    images = np.concatenate(epoch(data.from_directory(photos, 16, 6, loader=loader, crops_per_image=3, shuffle=True)))
    assert images.shape == (21, 16, 16, 3)
    assert len(np.unique(images.reshape(21, -1), axis=0)) == 21


@pytest.mark.parametrize("loader", LOADERS)
def test_a_labels_crops_are_as_many(directory, loader):
    images, labels = epoch(make("folder", directory, loader=loader, batch_size=8, crops_per_image=4))[0]
    assert (len(images), len(set(labels[:4].tolist())), len(set(labels[4:].tolist()))) == (8, 1, 1)


@pytest.mark.parametrize("loader", LOADERS)
def test_epochs_crop_otherwise_and_the_seed_brings_them_back(photos, loader):
    dataset, again = (data.from_directory(photos, 16, 7, loader=loader, seed=9) for _ in range(2))
    first, second = (np.sort(epoch(dataset)[0].reshape(7, -1), axis=0) for _ in range(2))
    assert not np.array_equal(first, second)
    for expected in (first, second):
        np.testing.assert_array_equal(np.sort(epoch(again)[0].reshape(7, -1), axis=0), expected)


@needs_tensorflow
@pytest.mark.parametrize("crop", [None, data.RandomCrop(0.1)], ids=["usual", "gentle"])
def test_both_loaders_give_the_same_pixels(photos, crop):
    batches = [
        epoch(data.from_directory(photos, 16, 3, loader=loader, seed=2, crop=crop)) for loader in ("grain", "tf.data")
    ]
    for one, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("loader", LOADERS)
def test_moved_arrays_are_drawn_by_seed_epoch_and_index(loader):
    arrays, crop = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 1), "uint8"), data.RandomCrop(0.2)
    dataset = data.make_dataset(data.ArraySource(arrays), 2, shuffle=False, seed=4, crop=crop, loader=loader)
    for number in range(2):
        expected, _ = data.ArraySource(arrays).batch(
            np.arange(5), crop, lambda index, number=number: [np.random.default_rng((4, number, index, 0))]
        )
        np.testing.assert_array_equal(np.concatenate(epoch(dataset)), expected)


@pytest.mark.parametrize("loader", LOADERS)
def test_seek_goes_on_as_if_all_before_had_been_seen(loader, photos):
    dataset, resumed = (data.from_directory(photos, 16, 2, loader=loader, seed=4) for _ in range(2))
    epochs = [epoch(dataset) for _ in range(3)]
    resumed.seek(1, 1)
    if loader == "grain":
        resumed.on_epoch_begin()
        rest = [np.asarray(resumed[0]) for _ in range(3)]
    else:
        rest = [np.asarray(batch) for batch in resumed.take(3)]
    for batch, expected in zip([*rest, *epoch(resumed)], [*epochs[1][1:], *epochs[2]], strict=True):
        np.testing.assert_array_equal(batch, expected)


# === Grain ===
def test_grain_goes_on_from_a_position_with_the_batches_that_would_have_come(photos):
    dataset, resumed = (data.from_directory(photos, 16, 2, loader="grain", seed=4) for _ in range(2))
    epoch(dataset)
    dataset.on_epoch_begin()
    dataset[0]
    assert dataset.position == {"epoch": 1, "batch": 1}
    resumed.seek(**dataset.position)
    resumed.on_epoch_begin()
    for _ in range(3):
        np.testing.assert_array_equal(resumed[0], dataset[0])
    assert resumed.position == {"epoch": 2, "batch": 0}


def test_outside_of_an_epoch_grain_gives_the_batch_asked_for(photos):
    dataset = data.from_directory(photos, 16, 2, loader="grain", seed=4)
    asked = [dataset[index] for index in (2, 0, 3, 1)]
    in_order = epoch(dataset)
    for index, batch in zip((2, 0, 3, 1), asked, strict=True):
        np.testing.assert_array_equal(batch, in_order[index])


def test_an_epoch_left_early_is_not_gone_on_with(photos):
    dataset = data.from_directory(photos, 16, 2, loader="grain", seed=4)
    dataset.on_epoch_begin()
    dataset[0]
    dataset.on_epoch_end()
    assert dataset.position == {"epoch": 1, "batch": 0}
    again = data.from_directory(photos, 16, 2, loader="grain", seed=4)
    again.seek(epoch=1)
    np.testing.assert_array_equal(epoch(dataset)[0], epoch(again)[0])


_PROCESS = """
import multiprocessing, os, signal, sys
import numpy as np
from keras_mae import data

if __name__ == "__main__":
    for workers in (None, 1):
        dataset = data.from_directory(sys.argv[1], 16, 2, loader="grain", seed=4, workers=workers)
        dataset.on_epoch_begin()
        np.save(f"{sys.argv[2]}/{workers}.npy", np.concatenate([dataset[0] for _ in range(3)]))
    [worker] = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)  # Ctrl-C in a terminal is for all, but not meant for it
    for _ in range(100):  # more than are loaded ahead
        dataset[0]
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.backends("jax")  # it is the quickest to start
def test_grains_processes_give_what_its_threads_give_and_end_with_their_parent(photos, tmp_path):
    (tmp_path / "script.py").write_text(_PROCESS)
    root = Path(keras_mae.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", photos, tmp_path],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
    )  # which waits for whoever has the other end of its pipes: the worker, too
    assert done.returncode == -signal.SIGKILL, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "1.npy"), np.load(tmp_path / "None.npy"))


# === fit ===
@pytest.mark.backends("torch", "jax", "tensorflow")
@every_pipeline
def test_fit_takes_it(directory, kind, loader):
    encoder = keras_mae.ViTEncoder((8, 8, 3), 4, embed_dim=8, depth=1, num_heads=2)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2))
    mae.compile(keras_mae.optimizers.AdamW(1e-3), run_eagerly=keras.backend.backend() != "jax")
    dataset = make(kind, directory, loader=loader, batch_size=8, drop_remainder=True)
    history = mae.fit(dataset, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert int(mae.optimizer.iterations) == 4


# === Streams ===
@needs_tensorflow
def test_workers_share_record_files_whatever_their_global_seeds(directory):
    import tensorflow as tf

    shards = []
    for index in range(2):
        tf.random.set_seed(100 + index)
        shards.append(make("tfrecord", directory, shard=(index, 2)))
    assert sorted(number for shard in shards for number in numbers(shard)) == list(range(COUNT))


@needs_tensorflow
@pytest.mark.parametrize("form", ["arrays", "batches", "bytes", "dicts"])
def test_any_tensorflow_dataset_of_images_will_do(form):
    import tensorflow as tf
    from data_helpers import numbered, png

    same = np.stack([np.full((12, 14, 3), 10 * number, "uint8") for number in range(COUNT)])
    labels = np.arange(COUNT) % 3
    made = {
        "arrays": lambda: tf.data.Dataset.from_tensor_slices((same, labels)),
        "batches": lambda: tf.data.Dataset.from_tensor_slices((same, labels)).batch(5),
        "bytes": lambda: tf.data.Dataset.from_tensor_slices(([png(numbered(n)) for n in range(COUNT)], labels)),
        "dicts": lambda: tf.data.Dataset.from_tensor_slices({"image": same, "label": labels.astype("uint8")}),
    }[form]()
    for image_size in (8, None):
        dataset = data.from_dataset(made, 4, image_size)
        own = (224, 224) if form == "bytes" else (12, 14)
        assert dataset.element_spec[0].shape == (None, *(own if image_size is None else (8, 8)), 3)
        assert sorted(numbers(dataset)) == list(range(COUNT))
    if form != "batches":  # tf.data does not count on
        assert len(dataset) == 6


@needs_tensorflow
def test_skipped_records_are_counted_and_listed_when_the_epoch_ends():
    import tensorflow as tf
    from data_helpers import numbered, png

    files = [png(numbered(number)) for number in range(COUNT)]
    files[3] = files[3][:-30]
    files[7] = b"no image"
    made = tf.data.Dataset.from_tensor_slices(files)
    dataset = data.from_dataset(made, 4, 8, allow_damaged=0.1, shuffle=False)
    assert int(dataset.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=r"2 of 23 images of the dataset are damaged:\n.*number 3[^\n]*\n.*number 7"
        ):
            assert [len(batch) for batch in epoch(dataset)] == [4, 4, 4, 4, 4, 1]
    with pytest.raises(Exception, match=r"At most 1.00% of the images may be damaged.*Received: 2 of 23"):
        epoch(data.from_dataset(made, 4, 8, allow_damaged=0.01))
    with pytest.raises(Exception, match="Cannot read the image file 'number 3 of the dataset'"):
        epoch(data.from_dataset(made, 4, 8, shuffle=False))


@needs_tensorflow
def test_what_is_no_dataset_of_images_is_refused(directory):
    import tensorflow as tf

    with pytest.raises(ValueError, match="`dataset` must be a tf.data.Dataset. Received: a list"):
        data.from_dataset([1, 2])
    for wrong in (tf.zeros((5, 3)), tf.zeros((5, 8, 8, 3), tf.string)):
        with pytest.raises(ValueError, match="Elements must be images"):
            data.from_dataset(tf.data.Dataset.from_tensor_slices(wrong))
    with pytest.raises(ValueError, match="Dicts must have the key 'image'. Received: the keys"):
        data.from_dataset(tf.data.Dataset.from_tensors({"pixels": tf.zeros((8, 8, 3))}))
    with pytest.raises(Exception, match=r"Images must be finite and in 0-255. Received: number 0.*from 0.5 to 0.5"):
        epoch(data.from_dataset(tf.data.Dataset.from_tensors(tf.fill((8, 8, 3), 0.5)), 1))
    with pytest.raises(ValueError, match="Grain reads by index, and the dataset can only be read from front to back"):
        make("dataset", directory, loader="grain")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops_per_image": 3}, "`crops_per_image` must divide `batch_size`"),
        ({"crops_per_image": 0}, "`crops_per_image` must be a positive integer"),
        ({"shard": (2, 2)}, "`shard` must be"),
        ({"shard": 1}, "`shard` must be"),
        ({"workers": 0}, "`workers` must be a positive integer"),
        ({"shard": (0, 8)}, "`batch_size` must be a multiple of workers.*batch_size=4, 8 workers"),
        ({"batch_size": 24, "drop_remainder": True}, "batch_size=24 for 23 images"),
        ({"loader": "dali"}, "`loader` must be one of"),
    ],
)
def test_options_out_of_range_are_refused(directory, options, message):
    with pytest.raises(ValueError, match=message):
        make("folder", directory, **options)


def test_crops_of_images_taken_whole_are_refused():
    with pytest.raises(ValueError, match="`crops_per_image` takes a `crop`"):
        data.from_arrays(np.zeros((4, 8, 8, 1), "uint8"), batch_size=4, crops_per_image=2)
