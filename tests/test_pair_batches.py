"""Images with masks in batches: both loaders, epochs, workers, `fit`, and sets of TFDS and Hugging Face."""

import keras
import numpy as np
import pytest
from data_helpers import LOADERS, epoch, needs_tensorflow, png, write_json
from pair_helpers import CLASSES, COLORS, agrees, labels_of, write_pairs

from keras_mae import data
from keras_mae.data import pair_records, records

only_torch = pytest.mark.backends("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 5)


def unchanged(image, generator, pixel_range):
    return image


def flat(batches):
    """Images and masks of an epoch, one row each."""
    images, masks = (np.concatenate([batch[part] for batch in batches]) for part in (0, 1))
    return images, masks


# === Loaders ===
@only_torch
@pytest.mark.parametrize("loader", LOADERS)
def test_training_crops_every_pair_once_an_epoch_and_otherwise_in_the_next(folder, loader):
    dataset, again = (data.pairs_from_directory(folder, 16, 2, loader=loader, seed=4) for _ in range(2))
    assert (len(dataset), dataset.num_classes, dataset.ignore_label, dataset.class_names) == (3, 3, 255, None)
    first, second = flat(epoch(dataset)), flat(epoch(dataset))
    assert (first[0].shape, first[0].dtype) == ((5, 16, 16, 3), "uint8")
    assert (first[1].shape, first[1].dtype) == ((5, 16, 16), "uint8")
    assert not np.array_equal(first[0], second[0])
    for expected in (first, second):
        for one, other in zip(flat(epoch(again)), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@only_torch
@needs_tensorflow
def test_both_loaders_give_the_same_pixels_and_labels(folder):
    options = {"seed": 2, "crop": data.SegmentationCrop(scale=(0.3, 2)), "crops_per_image": 2, "ignore_label": 999}
    grain, ours = (
        data.pairs_from_directory(folder, 16, 4, loader=loader, **options) for loader in ("grain", "tf.data")
    )
    for _ in range(2):
        for one, other in zip(epoch(grain), epoch(ours), strict=True):
            for part in (0, 1):
                np.testing.assert_array_equal(one[part], other[part])
                assert one[part].dtype == other[part].dtype == ("uint8", "uint16")[part]


@only_torch
@pytest.mark.parametrize("loader", LOADERS)
def test_images_keep_their_sizes_one_a_batch(folder, loader):
    whole = data.WholeImage(multiple=4)
    dataset = data.pairs_from_directory(folder, None, 1, loader=loader, shuffle=False, crop=whole)
    shapes = [(images.shape, masks.shape) for images, masks in epoch(dataset)]
    assert shapes[0] == ((1, 20, 32, 3), (1, 20, 32))
    assert len(set(shapes)) > 1
    assert dataset.image_names()[0] == "0.png"


@only_torch
@pytest.mark.parametrize("loader", LOADERS)
def test_crops_of_an_image_follow_one_another_with_their_masks(folder, loader):
    crop = data.SegmentationCrop(distortion=None)
    dataset = data.pairs_from_directory(folder, 16, 6, loader=loader, crop=crop, crops_per_image=3)
    images, masks = epoch(dataset)[0]
    assert all(agrees(image, mask) for image, mask in zip(images, masks, strict=True))
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6


@only_torch
def test_workers_share_a_batch(folder):
    whole = epoch(data.pairs_from_directory(folder, 16, 4, loader="grain", seed=1, drop_remainder=True))[0]
    parts = [
        epoch(data.pairs_from_directory(folder, 16, 4, loader="grain", seed=1, drop_remainder=True, shard=(part, 2)))
        for part in range(2)
    ]
    for side in (0, 1):
        np.testing.assert_array_equal(np.concatenate([part[0][side] for part in parts]), whole[side])


@only_torch
def test_what_is_read_otherwise_has_another_fingerprint(folder):
    def known(**options):
        return data.pairs_from_directory(folder, 16, 2, loader="grain", **options).fingerprint()

    assert known() == known(num_classes=3, split=None)
    others = [known(num_classes=4), known(ignore_label=254), known(reduce_zero_label=True)]
    others += [known(crop=data.SegmentationCrop(max_class_share=0.5))]
    others += [known(crop=data.SegmentationCrop(distortion=data.PhotometricDistortion(hue=0.2)))]
    others += [known(crop=data.SegmentationCrop(distortion=unchanged))]
    assert all(other != known() for other in others)
    assert others[-1]["batches"]["crop"]["distortion"] == "unchanged"  # whatever its address
    listing = data.FolderPairs(folder).listing()
    assert {"images/0.png", "masks/below/1.png"} <= set(listing)
    assert len(listing) == 10


# === Training ===
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("ignore_label", [255, 65535])
def test_a_model_fits_masks(folder, loader, ignore_label):
    """One layer that tells the colors."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(3, 1)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignore_label)
    model.compile(keras.optimizers.Adam(0.1), loss)
    crop = data.SegmentationCrop(distortion=None)
    dataset = data.pairs_from_directory(folder, 16, 5, loader=loader, ignore_label=ignore_label, crop=crop)
    losses = model.fit(dataset, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]


# === Other sources ===
@only_torch
def test_hugging_face():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "annotation": datasets.Image(), "scene": datasets.Value("int64")}
    )
    rows = {
        "image": [{"bytes": png(COLORS[labels_of(number)]), "path": None} for number in range(3)],
        "annotation": [{"bytes": png(labels_of(number)), "path": None} for number in range(3)],
        "scene": [-1, 2, 3],
    }
    made = datasets.Dataset.from_dict(rows, features=features)
    dataset = data.pairs_from_huggingface(made, None, 1, shuffle=False, loader="grain")
    for number, (images, masks) in enumerate(epoch(dataset)):
        np.testing.assert_array_equal(masks[0], labels_of(number))
        np.testing.assert_array_equal(images[0], COLORS[masks[0]])
    assert dataset.num_classes == 3
    renamed = made.rename_columns({"image": "photo", "annotation": "drawn"})
    named = data.pairs_from_huggingface(renamed, 16, 3, image_key="photo", mask_key="drawn", loader="grain")
    assert agrees(*(part[0] for part in epoch(named)[0])) or len(epoch(named)) == 1
    with pytest.raises(ValueError, match="`image_key` and `mask_key` must name two of the columns that hold images"):
        data.pairs_from_huggingface(renamed, 16, 3)
    with pytest.raises(ValueError, match="`mask_key` must be one of .*'drawn', 'photo'.*mask_key='scene'"):
        data.pairs_from_huggingface(renamed, 16, 3, mask_key="scene")
    with pytest.raises(ValueError, match="'annotation of row 2' holds unknown labels: 2"):
        data.pairs_from_huggingface(made, 16, 3, num_classes=2, loader="grain").batches.source.batch([2])
    with pytest.raises(ValueError, match="`dataset` must be one split"):
        data.pairs_from_huggingface(datasets.DatasetDict({"train": made}), 16, 3)


def write_tfds(directory, count=4):
    """A TFDS set of ArrayRecord files, written without TensorFlow, whose masks count from 1."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = directory / "rooms" / "1.0.0"
    folder.mkdir(parents=True)
    writer = ArrayRecordWriter(str(folder / "rooms-train.array_record-00000-of-00001"), "group_size:1")
    for number in range(count):
        example = records._example_class()()
        for key, pixels in (
            ("image", COLORS[labels_of(number)]),
            ("segmentation_mask", labels_of(number)[..., None] + 1),
        ):
            encoded = png(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            example.features.feature[key].bytes_list.value.append(encoded)
        writer.write(example.SerializeToString())
    writer.close()
    core = "tensorflow_datasets.core.features"
    pictures = {
        key: {
            "pythonClassName": f"{core}.image_feature.Image",
            "image": {"shape": {"dimensions": ["-1", "-1", depth]}, "dtype": "uint8", "encodingFormat": "png"},
        }
        for key, depth in (("image", "3"), ("segmentation_mask", "1"))
    }
    described = {"pythonClassName": f"{core}.features_dict.FeaturesDict", "featuresDict": {"features": pictures}}
    write_json(folder / "features.json", described)
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    split = {"filepathTemplate": template, "name": "train", "numBytes": "1", "shardLengths": [str(count)]}
    info = {"name": "rooms", "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    write_json(folder / "dataset_info.json", info)
    return directory


@only_torch
@pytest.mark.parametrize("loader", LOADERS)
def test_tfds(tmp_path, loader):
    tfds = pytest.importorskip("tensorflow_datasets")
    labeled = tfds.features.LabeledImage(labels=list(CLASSES), shape=(None, None, 1))
    assert pair_records._names_of(labeled) == list(CLASSES)
    options = {"data_dir": write_tfds(tmp_path), "reduce_zero_label": True, "loader": loader}
    dataset = data.pairs_from_tfds("rooms", "train[1:]", None, 1, shuffle=False, class_names=CLASSES, **options)
    for number, (images, masks) in enumerate(epoch(dataset), 1):
        np.testing.assert_array_equal(masks[0], labels_of(number))
        np.testing.assert_array_equal(images[0], COLORS[masks[0]])
    assert (dataset.class_names, len(dataset)) == (CLASSES, 3)
    assert data.pairs_from_tfds("rooms", "train", 16, 2, **options).num_classes == 3
    with pytest.raises(ValueError, match="`split` must be one of train, or a part"):
        data.pairs_from_tfds("rooms", "test", **options)
    with pytest.raises(ValueError, match="`mask_key` must be one of .*'image', 'segmentation_mask'"):
        data.pairs_from_tfds("rooms", mask_key="trimap", **options)


@only_torch
@needs_tensorflow
def test_tfds_that_is_read_from_front_to_back_is_refused(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    mask = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    example = {"image": COLORS[labels_of(0)], "mask": labels_of(0)[..., None]}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="streamed",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"image": image, "mask": mask}),
        split_datasets={"train": [(0, example)]},
        data_dir=tmp_path,
        file_format="tfrecord",
    )
    with pytest.raises(ValueError, match="the data set 'streamed' must be stored as ArrayRecord"):
        data.pairs_from_tfds("streamed", data_dir=tmp_path)
