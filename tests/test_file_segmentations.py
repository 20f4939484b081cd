"""Masks that a segmenter writes for image files, and pictures of them."""

import keras
import numpy as np
import pytest
from pair_helpers import labels_of, write_image, write_pairs
from PIL import Image

import keras_mae
from keras_mae import data, dense, visualize
from keras_mae._colors import class_colors
from keras_mae.dense.classes import classes_at

SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def segmenter():
    """Shared: tests must not change it."""
    keras.utils.set_random_seed(3)
    encoder = keras_mae.ViTEncoder(SHAPE, 4, embed_dim=12, depth=1, num_heads=2, mlp_ratio=2)
    made = keras_mae.ViTSegmenter(encoder, 3, "linear", class_names=("floor", "wall", "door"))
    made.head.logits.kernel.assign(np.random.default_rng(0).standard_normal((12, 3)))
    made.compile("sgd", run_eagerly=keras.backend.backend() != "jax")
    return made


@pytest.fixture
def rooms(tmp_path):
    return write_pairs(tmp_path / "rooms", 3)


def test_each_image_gets_a_mask_of_its_size(segmenter, rooms, tmp_path):
    found = segmenter.predict_files(rooms / "images", tmp_path / "masks")
    names = [name.removeprefix(f"{(rooms / 'images').as_posix()}/") for name in found.files]
    assert names == ["0.png", "2.png", "below/1.png"]
    assert [mask.relative_to(tmp_path / "masks").as_posix() for mask in found.masks] == names
    source = data.FolderPairs(rooms, None, num_classes=3)
    for number, mask in enumerate(found.masks):
        with Image.open(mask) as image:
            written, palette = np.asarray(image), np.array(image.getpalette("RGB")).reshape(-1, 3)
        assert written.shape == source.labels_of(number).shape
        np.testing.assert_array_equal(palette[:3], class_colors(3))
        images, _ = source.batch(np.array([number]), data.WholeImage(short_side=16))
        logits = segmenter.predict([images[0]], pad=True)[0]
        np.testing.assert_array_equal(written, classes_at(logits, written.shape))
        np.testing.assert_array_equal(found.pixels[number], np.bincount(written.ravel(), minlength=3))
    np.testing.assert_allclose(found.shares.sum(axis=1), 1)
    assert found.class_names == ("floor", "wall", "door")
    # As masks, they are read by what reads masks.
    read = data.FolderPairs(rooms / "images", 16, masks=tmp_path / "masks", num_classes=3)
    np.testing.assert_array_equal(read.labels_of(0), np.asarray(Image.open(found.masks[0])))


@pytest.mark.backends("torch")
def test_nothing_is_overwritten_and_nothing_half_written(segmenter, rooms, tmp_path, monkeypatch):
    (tmp_path / "masks" / "below").mkdir(parents=True)
    (tmp_path / "masks" / "below" / "1.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"`out` must hold none of the masks.*below/1.png$"):
        segmenter.predict_files(rooms / "images", tmp_path / "masks")
    assert (tmp_path / "masks" / "below" / "1.png").read_bytes() == b"mine"
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["below"]

    def fails(self, path, *args, **options):
        path.write_bytes(b"half")
        raise OSError("the disk is gone")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        segmenter.predict_files(rooms / "images" / "0.png", tmp_path / "others")
    assert list((tmp_path / "others").iterdir()) == []


@pytest.mark.backends("torch")
def test_files_of_one_name_are_refused(segmenter, rooms, tmp_path):
    write_image(tmp_path / "other" / "0.bmp", labels_of(0))
    files = [rooms / "images" / "0.png", tmp_path / "other" / "0.bmp"]
    with pytest.raises(ValueError, match=r"these two would be one.*0.png' and .*0.bmp', both for .*masks/0.png'"):
        segmenter.predict_files(files, tmp_path / "masks")
    found = segmenter.predict_files(files[1], tmp_path / "masks")
    assert [mask.name for mask in found.masks] == ["0.png"]
    np.save(tmp_path / "many.npy", np.zeros((2, 16, 16, 3), "uint8"))
    with pytest.raises(ValueError, match="`files` must be image files, or folders of them, for masks"):
        segmenter.predict_files(tmp_path / "many.npy", tmp_path / "new")


@pytest.mark.backends("torch")
def test_an_image_is_turned_upright(segmenter, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 33, 3), "uint8")).save(tmp_path / "turned.jpg", exif=exif)
    (mask,) = segmenter.predict_files(tmp_path / "turned.jpg", tmp_path / "masks").masks
    assert Image.open(mask).size == (20, 33)


# === Pictures ===
@pytest.mark.backends("torch")
def test_classes_have_colors_of_their_own():
    colors = class_colors(256)
    assert len({tuple(color) for color in colors.tolist()}) == 256
    np.testing.assert_array_equal(class_colors(7), colors[:7])
    np.testing.assert_array_equal(class_colors(300)[256:], colors[:44])
    few = class_colors(12).astype(int)
    assert min(np.abs(one - other).sum() for number, one in enumerate(few) for other in few[:number]) > 90


@pytest.mark.backends("torch")
def test_segmentations_show_truth_prediction_and_error():
    images = [np.zeros((4, 6, 3), "uint8"), np.zeros((8, 8, 3), "uint8")]
    masks = [np.array([[0, 1, 255], [1, 1, 2]]), np.zeros((3, 3), "uint8")]
    predicted = [np.array([[0, 2, 2], [1, 1, 2]]), np.ones((3, 3), "uint8")]
    names = ["floor $", "wall", "door", "never"]
    figure = visualize.segmentations(images, masks, predicted, names, names=["a.png", "b.png"])
    shown = [axes.images[0].get_array() for axes in figure.axes[:4]]
    colors = class_colors(3)
    np.testing.assert_array_equal(shown[1], [[colors[0], colors[1], [255] * 3], [colors[1], colors[1], colors[2]]])
    np.testing.assert_array_equal(shown[2], colors[predicted[0]])
    right, wrong, none = [215] * 3, [0] * 3, [255] * 3
    np.testing.assert_array_equal(shown[3], [[right, wrong, none], [right, right, right]])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["floor $", "wall", "door", "no class", "error"]
    assert figure.axes[4].get_ylabel() == "b.png"


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "`images` must be one or more images"),
        ({"masks": [np.zeros((4, 6))]}, r"`masks` must be integers in \[0, 2\).*or 255. Received: float64"),
        ({"masks": [np.full((4, 6), 2)]}, r"`masks` must be integers in \[0, 2\)"),
        ({"predictions": [np.full((4, 6), 255)]}, r"`predictions` must be integers in \[0, 2\).*from 255 to 255"),
        ({"predictions": [np.zeros((4, 5), int)]}, "a mask and a prediction, both of one shape"),
        ({"class_names": []}, "`class_names` must be"),
        ({"names": ["a", "b"]}, "`names` must be texts, one for each image"),
    ],
)
def test_segmentations_that_do_not_fit_are_refused(changes, message):
    label = np.zeros((4, 6), int)
    right = {"images": [np.zeros((4, 6, 1), "uint8")], "masks": [label], "predictions": [label]}
    with pytest.raises(ValueError, match=message):
        visualize.segmentations(**{**right, "class_names": ["a", "b"], **changes})


@pytest.mark.backends("torch")
def test_the_confusion_of_pixels_is_drawn():
    counts = dense.confusion(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 2)
    axes = visualize.pixel_confusion(counts, ["a", "b"]).axes[0]
    assert axes.get_title() == "% of each class's pixels; pixel accuracy 75.00%"
    np.testing.assert_allclose(axes.images[0].get_array(), [[200 / 3, 100 / 3], [0, 100]])
    with pytest.raises(ValueError, match=r"`counts` must be integers \(3, 3\)"):
        visualize.pixel_confusion(counts, ["a", "b", "c"])
