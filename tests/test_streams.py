"""What a `tf.data.Dataset` may hold, what is counted in an epoch, and that crops are of the image they should be."""

import warnings

import keras
import numpy as np
import pytest
from data_helpers import COUNT, INDEXED, LOADERS, STREAMED, epoch, make, needs_tensorflow, numbered, numbers, png
from PIL import Image

import keras_mae
from keras_mae import data

pytestmark = pytest.mark.backends("torch")

every_pipeline = pytest.mark.parametrize(
    ("kind", "loader"),
    [
        pytest.param(kind, *getattr(loader, "values", [loader]), marks=getattr(loader, "marks", ()))
        for kind in INDEXED
        for loader in LOADERS
    ]
    + [pytest.param(*kind.values, "tf.data", marks=kind.marks) for kind in STREAMED],
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("sources")


def from_list(images, signature=None):
    """A `tf.data.Dataset` that does not know its length."""
    import tensorflow as tf

    signature = signature or tf.TensorSpec((None, None, 3), tf.uint8)
    return tf.data.Dataset.from_generator(lambda: iter(images), output_signature=signature)


# === What elements may be ===
PLAIN = np.stack([np.full((12, 14, 3), 10 * number, "uint8") for number in range(COUNT)])


@needs_tensorflow
@pytest.mark.parametrize("batched", [False, True], ids=["one by one", "batched"])
@pytest.mark.parametrize("form", ["arrays", "bytes", "dict of arrays", "tuple of one"])
def test_images_without_labels(form, batched):
    import tensorflow as tf

    made = {
        "arrays": PLAIN,
        "bytes": [png(numbered(number)) for number in range(COUNT)],
        "dict of arrays": {"images": PLAIN},
        "tuple of one": (PLAIN,),
    }[form]
    dataset = tf.data.Dataset.from_tensor_slices(made)
    batches = epoch(data.from_dataset(dataset.batch(5) if batched else dataset, 4, 8, shuffle=False))
    assert [batch.shape for batch in batches] == [(4, 8, 8, 3)] * 5 + [(3, 8, 8, 3)]
    assert list(np.concatenate(batches)[:, 3, 3, 0] // 10) == list(range(COUNT))


@needs_tensorflow
@pytest.mark.parametrize("form", ["batches of bytes", "dict of plurals", "several sizes", "a list's pairs"])
def test_images_keep_their_labels(form):
    import tensorflow as tf

    labels = np.arange(COUNT) % 3
    files, sizes = [png(numbered(n)) for n in range(COUNT)], [numbered(n) for n in range(COUNT)]
    slices = tf.data.Dataset.from_tensor_slices
    pair = (tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.int32))
    made = {
        "batches of bytes": lambda: slices((files, labels)).batch(6),
        "dict of plurals": lambda: slices({"images": PLAIN, "labels": labels.astype("uint8"), "name": labels}),
        "several sizes": lambda: from_list(list(zip(sizes, labels, strict=True)), pair),
        "a list's pairs": lambda: slices((PLAIN, labels.astype("int16"))),
    }[form]()
    for _ in range(2):
        assert sorted(numbers(data.from_dataset(made, 4, 8))) == list(range(COUNT))


@needs_tensorflow
@pytest.mark.parametrize("image_size", [None, (5, 7)], ids=["own size", "cut"])
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("int32", "uint8"), ("int64", "uint8"), ("uint16", "uint8")]
    + [(dtype, "float32") for dtype in ("float16", "bfloat16", "float32", "float64")],
)
def test_integers_become_bytes_and_floats_single_precision(dtype, expected, image_size):
    import tensorflow as tf

    images = tf.cast(PLAIN, dtype)
    made = data.from_dataset(tf.data.Dataset.from_tensor_slices(images), 23, image_size, shuffle=False)
    [batch] = epoch(made)
    assert (batch.dtype, batch.shape) == (expected, (23, *(image_size or (12, 14)), 3))
    np.testing.assert_array_equal(batch[:, 2, 3, 0], PLAIN[:, 0, 0, 0])


@needs_tensorflow
@pytest.mark.parametrize(
    ("dtype", "value"),
    [("int32", 256), ("int32", -1), ("uint16", 65535), ("float32", 0.7), ("float64", np.nan), ("bfloat16", 0.5)],
)
def test_arrays_out_of_range_are_named(dtype, value):
    import tensorflow as tf

    images = tf.concat([tf.cast(PLAIN[3:5], dtype), tf.cast(tf.fill((1, 12, 14, 3), value), dtype)], 0)
    with pytest.raises(Exception, match="Images must be finite and in 0-255. Received: number 2 of the dataset"):
        epoch(data.from_dataset(tf.data.Dataset.from_tensor_slices(images), 4, 8, shuffle=False))


@needs_tensorflow
def test_labels_that_are_none_are_refused():
    import tensorflow as tf

    floats, one_hot = np.zeros(COUNT, "float32"), np.eye(COUNT, dtype="int64")
    files = [png(numbered(number)) for number in range(COUNT)]
    slices = tf.data.Dataset.from_tensor_slices
    for dataset in (slices((PLAIN, floats)), slices((PLAIN, one_hot)).batch(4), slices((files, one_hot))):
        with pytest.raises(ValueError, match="Labels must be integers, one for each image"):
            data.from_dataset(dataset)


@needs_tensorflow
def test_labels_are_classes_of_the_augmentation():
    import tensorflow as tf

    made = tf.data.Dataset.from_tensor_slices((PLAIN, np.arange(COUNT) % 3))
    augment = data.Augmentation(num_classes=2, label_smoothing=0.1)
    with pytest.raises(Exception, match=r"`labels` must be in \[0, 2\), the classes of `augment`"):
        epoch(data.from_dataset(made, 4, 8, augment=augment))


# === A length that nobody knows ===
@needs_tensorflow
def test_without_a_length_every_image_still_comes_once():
    made = data.from_dataset(from_list([numbered(number) for number in range(COUNT)]), 4, 8)
    with pytest.raises(TypeError):
        len(made)
    for _ in range(2):
        found = np.concatenate(epoch(made))
        assert sorted(found[:, 3, 3, 0] // 10) == list(range(COUNT))


@needs_tensorflow
@pytest.mark.filterwarnings("ignore:.*shuffle=True. was passed", "ignore:Your input ran out of data")
def test_fit_takes_a_dataset_without_a_length_and_one_without_an_end():
    mae = tiny()
    endless = from_list([numbered(number) for number in range(COUNT)]).repeat()
    for dataset, steps, expected in ((from_list(PLAIN), None, 2), (endless, 3, 5)):
        made = data.from_dataset(dataset, 8, 8, drop_remainder=True, shuffle=False)
        loss = mae.fit(made, steps_per_epoch=steps, verbose=0).history["loss"]
        assert np.isfinite(loss).all()
        assert int(mae.optimizer.iterations) == expected


def tiny(side=8):
    encoder = keras_mae.ViTEncoder((side, side, 3), side // 2, embed_dim=8, depth=1, num_heads=2)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2))
    mae.compile(keras_mae.optimizers.AdamW(1e-3), run_eagerly=keras.backend.backend() != "jax")
    return mae


# === What is counted ===
def damaged_files():
    files = [png(numbered(number)) for number in range(COUNT)]
    files[4] = b"no image"
    return files


@needs_tensorflow
def test_an_epoch_that_was_left_early_is_not_counted_into_the_next():
    import tensorflow as tf

    made = tf.data.Dataset.from_tensor_slices(damaged_files())
    dataset = data.from_dataset(made, 4, 8, allow_damaged=0.1, shuffle=False)
    iterator = iter(dataset)
    for _ in range(3):
        next(iterator)
    del iterator
    with pytest.warns(UserWarning, match=r"^1 of 23 images of the dataset are damaged") as caught:
        epoch(dataset)
    assert str(caught[0].message).count("number 4") == 1


@needs_tensorflow
def test_each_worker_counts_its_own():
    import tensorflow as tf

    made = tf.data.Dataset.from_tensor_slices(damaged_files())
    workers = [data.from_dataset(made, 4, 8, allow_damaged=0.1, shard=(n, 2)) for n in range(2)]
    with pytest.warns(UserWarning, match=r"^1 of 12 images of the dataset"):
        assert sum(map(len, epoch(workers[0]))) == 11
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(map(len, epoch(workers[1]))) == 11


@needs_tensorflow
def test_all_crops_of_a_damaged_image_are_left_out():
    import tensorflow as tf

    made = tf.data.Dataset.from_tensor_slices((damaged_files(), np.arange(COUNT) % 3))
    dataset = data.from_dataset(made, 6, 8, allow_damaged=0.1, crops_per_image=3)
    with pytest.warns(UserWarning, match="1 of 23 images"):
        found = numbers(dataset)
    assert sorted(found) == sorted([number for number in range(COUNT) if number != 4] * 3)


@needs_tensorflow
def test_exactly_as_many_as_are_allowed_are_no_error():
    import tensorflow as tf

    made = tf.data.Dataset.from_tensor_slices(damaged_files()[:5])
    with pytest.warns(UserWarning, match="1 of 5 images"):
        epoch(data.from_dataset(made, 4, 8, allow_damaged=0.2))
    with pytest.raises(Exception, match=r"At most 19.00% .*Received: 1 of 5 in the dataset: .*number 4"):
        epoch(data.from_dataset(made, 4, 8, allow_damaged=0.19))


@needs_tensorflow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow_damaged": "skip"}, "`allow_damaged` must be in"),
        ({"allow_damaged": 2.0}, "`allow_damaged` must be in"),
        ({"image_size": 0}, "`image_size` must be"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    import tensorflow as tf

    with pytest.raises(ValueError, match=message):
        data.from_dataset(tf.data.Dataset.from_tensor_slices(PLAIN), 4, **options)


# === Shards ===
@every_pipeline
@pytest.mark.parametrize("workers", [3, 7])
def test_any_number_of_workers_shares_out_every_image(directory, kind, loader, workers):
    options = {"loader": loader, "batch_size": 2 * workers}
    seen = [numbers(make(kind, directory, shard=(index, workers), **options)) for index in range(workers)]
    assert max(map(len, seen)) - min(map(len, seen)) <= 2  # what one has of a batch
    assert sorted(number for numbers_of_one in seen for number in numbers_of_one) == list(range(COUNT))


# === Crops ===
SIDES = 41, 37
MARKED = 7


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Images of faint noise around a level of their own: a crop tells its image, and no two are alike."""
    folder = tmp_path_factory.mktemp("marked")
    for number in range(MARKED):
        pixels = 30 * number + 20 + np.random.default_rng(number).integers(-9, 10, (*SIDES, 3))
        (folder / "images" / "abc"[number % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype("uint8")).save(folder / "images" / "abc"[number % 3] / f"{number}.png")
    return folder


def make_marked(kind, folder, **options):
    """The same images from each kind of source."""
    if kind == "arrays":
        source = data.FolderSource(folder / "images", SIDES, labeled=True)
        images, labels = source.batch(np.arange(MARKED))
        return data.from_arrays(images, labels, image_size=16, **options)
    if kind == "folder":
        return data.from_directory(folder / "images", 16, labeled=True, **options)
    if kind == "dataset":
        import tensorflow as tf

        paths = data.FolderSource(folder / "images").paths
        files, labels = [path.read_bytes() for path in paths], ["abc".index(path.parent.name) for path in paths]
        return data.from_dataset(tf.data.Dataset.from_tensor_slices((files, labels)), image_size=16, **options)
    if not (folder / kind).exists():
        data.prepare(folder / "images", folder / kind, format=kind, labeled=True, images_per_shard=4)
    return data.from_directory(folder / kind, 16, **options)


every_marked = pytest.mark.parametrize(
    ("kind", "loader"),
    [
        pytest.param(kind, *getattr(loader, "values", [loader]), marks=getattr(loader, "marks", ()))
        for kind in ("arrays", "folder", "array_record")
        for loader in LOADERS
    ]
    + [pytest.param(*kind.values, "tf.data", marks=kind.marks) for kind in STREAMED],
)


@every_marked
def test_crops_of_one_image_stand_together_differ_and_have_its_label(marked, kind, loader):
    dataset = make_marked(kind, marked, batch_size=6, crops_per_image=3, loader=loader, seed=2)
    assert len(dataset) == 4
    images, labels = (np.concatenate(part) for part in zip(*epoch(dataset), strict=True))
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 3 * MARKED
    found = np.rint((images.astype("float32").mean((1, 2, 3)) - 20) / 30).astype(int)
    np.testing.assert_array_equal(found, np.repeat(found[::3], 3))
    assert sorted(found[::3]) == list(range(MARKED))
    np.testing.assert_array_equal(labels, found % 3)


@every_marked
def test_epochs_crop_anew_and_the_seed_brings_both_back(marked, kind, loader):
    dataset, again = (make_marked(kind, marked, batch_size=MARKED, loader=loader, seed=5) for _ in range(2))
    first, second = (epoch(dataset)[0][0] for _ in range(2))
    assert len(np.unique(np.concatenate([first, second]).reshape(2 * MARKED, -1), axis=0)) == 2 * MARKED
    for expected in (first, second):
        np.testing.assert_array_equal(epoch(again)[0][0], expected)


@every_marked
def test_without_shuffle_the_centre_comes_again_and_again(marked, kind, loader):
    dataset = make_marked(kind, marked, batch_size=MARKED, shuffle=False, loader=loader)
    expected = sorted(
        data.read_image(path, (16, 16, 3)).tobytes() for path in data.FolderSource(marked / "images").paths
    )
    for _ in range(2):
        assert sorted(image.tobytes() for image in epoch(dataset)[0][0]) == expected


# === Grain's position ===
def test_seek_goes_to_any_batch_with_its_crops_and_labels(marked):
    options = {"batch_size": 4, "crops_per_image": 2, "loader": "grain", "seed": 6, "shard": (1, 2)}
    dataset, resumed = (make_marked("array_record", marked, **options) for _ in range(2))
    expected = [epoch(dataset) for _ in range(3)]
    assert dataset.position == {"epoch": 3, "batch": 0}
    for place in ((2, 1), (0, 0), (1, 1)):
        resumed.seek(*place)
        resumed.on_epoch_begin()
        images, labels = resumed[0]
        resumed.on_epoch_end()
        np.testing.assert_array_equal(images, expected[place[0]][place[1]][0])
        np.testing.assert_array_equal(labels, expected[place[0]][place[1]][1])


@pytest.mark.backends("torch", "jax", "tensorflow")
def test_fit_moves_the_position_and_goes_on_from_it(marked, monkeypatch):
    dataset, seen = make_marked("array_record", marked, batch_size=4, loader="grain", seed=6), []
    hand_out = type(dataset).__getitem__

    def record(dataset, index):
        batch = hand_out(dataset, index)
        if dataset._in_epoch:  # Keras looks at a batch beforehand
            seen.append(batch[0])
        return batch

    monkeypatch.setattr(type(dataset), "__getitem__", record)
    mae = tiny(16)
    for epochs, after in ((2, 2), (1, 3)):
        mae.fit(dataset, epochs=epochs, verbose=0)
        assert dataset.position == {"epoch": after, "batch": 0}
    dataset.seek(4, 1)  # into an epoch, of which no more is read than what is left
    batches = len(dataset)
    mae.fit(dataset, epochs=1, steps_per_epoch=batches - 1, verbose=0)
    assert dataset.position == {"epoch": 5, "batch": 0}
    mae.fit(dataset, epochs=1, verbose=0)
    assert dataset.position == {"epoch": 6, "batch": 0}
    expected = [*range(3 * batches), *range(4 * batches + 1, 6 * batches)]
    assert len(seen) == len(expected)
    for number, images in zip(expected, seen, strict=True):
        np.testing.assert_array_equal(images, dataset._batches[number][0])
