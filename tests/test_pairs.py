"""Images with segmentation masks: arrays and folders of them, what their numbers mean, and what is refused."""

import ast
import pickle
import re

import numpy as np
import pytest
from pair_helpers import (
    CLASSES,
    COLORS,
    COUNT,
    agrees,
    labels_of,
    write_ade20k,
    write_image,
    write_mask,
    write_pairs,
    write_voc,
)
from PIL import Image

from keras_mae import data, training
from keras_mae.data.masks import MaskLabels, read_mask

pytestmark = pytest.mark.backends("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def broken(tmp_path):
    return write_pairs(tmp_path / "broken")


def whole(source, index):
    """An image and its labels in their own size."""
    images, labels = source.batch([index], data.WholeImage())
    return images[0], labels[0]


# === Sources ===
@pytest.mark.parametrize("palette", [True, False], ids=["palette", "gray"])
def test_masks_are_the_numbers_in_their_files(tmp_path, palette):
    source = data.FolderPairs(write_pairs(tmp_path, palette=palette), None)
    assert (len(source), source.num_classes, source.class_names, source.ignore_label) == (COUNT, 3, None, 255)
    for index, name in enumerate(source.names(range(COUNT))):
        number = int(name.removesuffix(".png")[-1])
        image, labels = whole(source, index)
        np.testing.assert_array_equal(labels, labels_of(number))
        np.testing.assert_array_equal(image, COLORS[labels])
        assert labels.dtype == "uint8"


def test_a_source_can_be_pickled_and_be_a_part(folder):
    source = pickle.loads(pickle.dumps(data.Subset(data.FolderPairs(folder, 16), [3])))
    images, labels = source.batch([0])
    assert (images.shape, labels.shape, source.masks.num_classes) == ((1, 16, 16, 3), (1, 16, 16), 3)
    assert agrees(images[0], labels[0])


def test_a_mask_may_have_another_ending_and_another_place(tmp_path):
    write_image(tmp_path / "photos" / "a.b" / "c.d.png", labels_of(0))
    write_mask(tmp_path / "labels" / "a.b" / "c.d.tif", labels_of(0))
    source = data.FolderPairs(tmp_path / "photos", None, masks=tmp_path / "labels")
    np.testing.assert_array_equal(source.labels_of(0), labels_of(0))


def test_a_split_is_a_folder_in_both(tmp_path):
    for split, count in (("train", 2), ("test", 1)):
        for number in range(count):
            write_image(tmp_path / "images" / split / f"{number}.png", labels_of(number))
            write_mask(tmp_path / "masks" / split / f"{number}.png", labels_of(number))
    assert [len(data.FolderPairs(tmp_path, split=split)) for split in (None, "train", "test")] == [3, 2, 1]
    with pytest.raises(ValueError, match="`split` must be one that is there: test, train. Received: split='val'"):
        data.FolderPairs(tmp_path, split="val")


def test_ade20k(tmp_path):
    source = data.FolderPairs(write_ade20k(tmp_path), None)
    assert (len(source), source.num_classes, source.class_names[149]) == (3, 150, "thing 149, object")
    expected = labels_of(1)
    expected[0] = 255
    np.testing.assert_array_equal(whole(source, 1)[1], expected)
    assert len(data.FolderPairs(tmp_path, split="val")) == len(data.FolderPairs(tmp_path, split="validation")) == 2
    (tmp_path / "objectInfo150.txt").unlink()
    without = data.FolderPairs(tmp_path)
    assert (without.num_classes, without.class_names) == (150, None)
    with pytest.raises(ValueError, match="must be one that is there: training, validation. Received: split='test'"):
        data.FolderPairs(tmp_path, split="test")


def test_pascal_voc(tmp_path):
    source = data.FolderPairs(write_voc(tmp_path), None)
    assert (len(source), source.num_classes, source.class_names[20]) == (2, 21, "tvmonitor")
    assert source.names([0, 1]) == ["2007_2.jpg", "2007_0.jpg"]
    expected = labels_of(2)
    expected[:, -1] = 255
    np.testing.assert_array_equal(source.labels_of(0), expected)
    assert len(data.FolderPairs(tmp_path, split="val")) == 1
    with pytest.raises(ValueError, match="must be one that is there: train, val. Received: split='test'"):
        data.FolderPairs(tmp_path, split="test")
    (tmp_path / "SegmentationClass" / "2007_0.png").unlink()
    with pytest.raises(ValueError, match="must name images that have masks. Received: .*2007_0.png', not there"):
        data.FolderPairs(tmp_path)


def test_arrays(tmp_path):
    labels = np.stack([labels_of(2)] * 3)
    images = COLORS[labels]
    images[1] = 7
    source = data.ArrayPairs(images, labels.astype("int64"), class_names=CLASSES)
    batch, masks = source.batch(np.array([2, 1]))
    np.testing.assert_array_equal(batch, images[[2, 1]])
    np.testing.assert_array_equal(masks, labels[[2, 1]])
    assert (source.num_classes, source.sized, masks.dtype) == (3, True, "uint8")
    np.save(tmp_path / "masks.npy", labels)
    mapped = data.ArrayPairs(images, np.load(tmp_path / "masks.npy", mmap_mode="r"), class_names=CLASSES)
    assert mapped.fingerprint() == data.ArrayPairs(images, labels, class_names=CLASSES).fingerprint()
    other = data.ArrayPairs(images, labels[::-1].copy() // 2, class_names=CLASSES)
    assert mapped.fingerprint() != other.fingerprint()


def test_gray_images_and_many_bands(tmp_path):
    labels = np.stack([labels_of(0)] * 2)
    for channels, pixel_range in ((1, (0, 255)), (5, (0, 4095))):
        images = np.repeat(labels[..., None] * 100, channels, axis=-1).astype("uint8" if channels == 1 else "uint16")
        source = data.ArrayPairs(images, labels, 16, pixel_range=pixel_range)
        batch, masks = source.batch(np.arange(2), data.SegmentationCrop(scale=(0.4, 0.4)))
        assert (batch.shape, batch.dtype, masks.shape) == ((2, 16, 16, channels), images.dtype, (2, 16, 16))
        np.testing.assert_array_equal(batch[masks == 255][0], round(sum(pixel_range) / 2))
    np.save(tmp_path / "images.npy", images[0])
    (tmp_path / "scenes").mkdir()
    (tmp_path / "images.npy").rename(tmp_path / "scenes" / "a.npy")
    write_mask(tmp_path / "masks" / "a.png", labels[0])
    source = data.FolderPairs(
        tmp_path / "scenes", 16, 5, masks=tmp_path / "masks", pixel_range=(0, 4095), num_classes=3
    )
    images, masks = source.batch([0])
    assert (images.shape, images.dtype, masks.shape) == ((1, 16, 16, 5), "float32", (1, 16, 16))


# === What numbers mean ===
def test_class_names_are_given_or_in_a_file_and_else_the_labels_are_counted(folder, tmp_path):
    named = data.FolderPairs(folder, class_names=[*CLASSES, "window"])
    assert (named.num_classes, named.class_names) == (4, (*CLASSES, "window"))
    assert data.FolderPairs(folder, num_classes=9).num_classes == 9
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n\n")
    assert data.FolderPairs(tmp_path).class_names == CLASSES
    assert data.FolderPairs(tmp_path, class_names=["a", "b", "c", "d"]).num_classes == 4
    with pytest.raises(ValueError, match="`class_names` must be 5 different non-empty names"):
        data.FolderPairs(tmp_path, num_classes=5)
    (tmp_path / "classes.txt").write_text("floor\nfloor\n")
    with pytest.raises(
        ValueError, match=r"classes.txt' must hold different names, one a line. Received: 2 lines, 1 "
    ):
        data.FolderPairs(tmp_path)


def test_zero_may_stand_for_no_class(tmp_path):
    source = data.FolderPairs(write_pairs(tmp_path), None, reduce_zero_label=True)
    labels = source.labels_of(0)
    np.testing.assert_array_equal(labels, np.where(labels_of(0) == 0, 255, labels_of(0) - 1))
    assert source.num_classes == 2
    with pytest.raises(ValueError, match="holds unknown labels: 2, in .* pixels; labels are 1 to 1, or 255, .* is 0"):
        data.FolderPairs(tmp_path, None, reduce_zero_label=True, num_classes=1).labels_of(0)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_indices_of_few_bits_are_not_stretched(tmp_path, bits):
    mask = (np.arange(28, dtype="uint8") % 2**bits).reshape(4, 7)
    write_mask(tmp_path / "palette.png", mask, palette=True, bits=bits)
    write_mask(tmp_path / "clear.png", mask, palette=True, bits=bits, transparency=1)
    (tmp_path / "gray.png").write_bytes(gray_png(mask, bits))
    for name in ("palette.png", "clear.png", "gray.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name, name, False), mask)


def gray_png(mask, bits):
    """A PNG file of grays of 1, 2 or 4 bits, which Pillow reads and does not write."""
    import struct
    import zlib

    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:].ravel()).tobytes() for row in mask]

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_labels_above_255_take_sixteen_bits(tmp_path):
    mask = labels_of(0).astype("uint16") * 150
    write_image(tmp_path / "images" / "a.png", labels_of(0))
    write_mask(tmp_path / "masks" / "a.png", mask)
    with pytest.raises(
        ValueError,
        match="masks.a.png' holds unknown labels: 300, in .* labels are 0 to 255, and more with ignore_label=65535",
    ):
        data.FolderPairs(tmp_path)
    source = data.FolderPairs(tmp_path, None, ignore_label=65535)
    _, labels = whole(source, 0)
    assert (labels.dtype, source.num_classes) == ("uint16", 301)
    np.testing.assert_array_equal(labels, mask)


def test_colors_take_a_table(tmp_path):
    write_image(tmp_path / "images" / "a.png", labels_of(0))
    write_image(tmp_path / "masks" / "a.png", labels_of(0))
    with pytest.raises(ValueError, match=r"a.png': it holds colors or floats \(mode RGB\), .*: pass colors="):
        data.FolderPairs(tmp_path)
    table = {tuple(map(int, color)): label for color, label in zip(COLORS, (1, 255, 0), strict=True)}
    source = data.FolderPairs(tmp_path, None, colors=table)
    np.testing.assert_array_equal(source.labels_of(0), np.array([1, 255, 0])[labels_of(0)])
    assert source.num_classes == 2
    del table[tuple(map(int, COLORS[2]))]
    with pytest.raises(
        ValueError, match=r"a.png' holds colors that `colors` does not: \(240, 60, 160\), in 144 pixels"
    ):
        data.FolderPairs(tmp_path, None, colors=table).labels_of(0)


# === What is refused ===
def test_a_missing_partner_is_named(broken):
    (broken / "masks" / "below" / "3.png").rename(broken / "masks" / "3.png")
    with pytest.raises(ValueError, match=r"Each image must have its mask.*below.3.png' with none in '.*masks'"):
        data.FolderPairs(broken)
    (broken / "images" / "below" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"Each mask must have its image.*masks.3.png' with none in '.*images'"):
        data.FolderPairs(broken)
    (broken / "masks" / "3.png").unlink()
    write_image(broken / "images" / "0.webp", labels_of(0))
    with pytest.raises(ValueError, match=r"which must differ. Received: '.*images.0.png' and '.*images.0.webp'"):
        data.FolderPairs(broken)


def test_a_mask_of_another_size_is_named(broken):
    write_mask(broken / "masks" / "0.png", labels_of(0)[:-1])
    with pytest.raises(ValueError, match=r"images.0.png' of 19 x 31 pixels, '.*masks.0.png' of 18 x 31"):
        data.FolderPairs(broken)
    write_mask(broken / "masks" / "0.png", np.ascontiguousarray(labels_of(0).T))
    source = data.FolderPairs(broken)  # by the headers it might be an image that its EXIF data turn
    with pytest.raises(ValueError, match=r"turned upright. Received: .*0.png' of 19 x 31 .*0.png' of 31 x 19"):
        source.batch([0])


def test_a_mask_lies_on_the_upright_image(tmp_path):
    upright = Image.fromarray(COLORS[labels_of(0)])
    lying, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees to the right
    (tmp_path / "images").mkdir()
    lying.save(tmp_path / "images" / "a.png", exif=exif)
    write_mask(tmp_path / "masks" / "a.png", labels_of(0))
    image, labels = whole(data.FolderPairs(tmp_path, None), 0)
    np.testing.assert_array_equal(image, COLORS[labels])


def test_an_unknown_label_is_named_when_its_mask_is_read(broken):
    mask = labels_of(0)
    mask[2, :5] = 7
    write_mask(broken / "masks" / "0.png", mask)
    source = data.FolderPairs(broken, 16, num_classes=3)
    with pytest.raises(ValueError, match=r"0.png' holds unknown labels: 7, in 5 pixels; labels are 0 to 2, or 255"):
        source.batch([0])


def test_damaged_pairs_are_left_out_if_they_are_few(broken):
    """An image that is cut off, and a mask that is none."""
    for path, bytes_left in ((broken / "images" / "2.png", 60), (broken / "masks" / "below" / "1.png", 3)):
        path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(
        ValueError, match=r"At most 30.00% of the images may be damaged .*: 2 of 5 in .*2\.png.*1\.png"
    ):
        data.FolderPairs(broken, 8, allow_damaged=0.3)
    with pytest.warns(UserWarning, match=r"2 of 5 images are damaged and left out:\n.*2\.png.*\n.*1\.png"):
        images = training.open_pairs(broken, (8, 8, 3), allow_damaged=0.4)
    assert (images.total, len(images.train), images.num_classes) == (3, 2, 3)
    with pytest.warns(UserWarning, match="left out"):
        source = data.FolderPairs(broken, None, allow_damaged=1)
    assert [path.name for path, _ in source.skipped] == ["2.png", "1.png"]
    assert source.names(range(3)) == ["0.png", "4.png", "below/3.png"]
    for index, number in enumerate((0, 4, 3)):
        image, labels = whole(source, index)
        assert np.array_equal(labels, labels_of(number))
        assert agrees(image, labels)
    for path in (broken / "masks").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="5 of 5"), pytest.raises(ValueError, match="all 5 pairs in .* are damaged"):
        data.FolderPairs(broken, 8, allow_damaged=1)


def test_a_mask_that_is_cut_off_is_named_when_it_is_read(broken):
    content = (broken / "masks" / "0.png").read_bytes()
    (broken / "masks" / "0.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"masks.0.png': OSError"):
        data.FolderPairs(broken)  # which reads all masks, to count the classes
    with pytest.raises(ValueError, match=r"masks.0.png': OSError"):
        data.FolderPairs(broken, 16, num_classes=3).batch([0])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: Image.fromarray(labels_of(0)).save(path, "JPEG"), "it is JPEG, which does not keep labels"),
        (lambda path: Image.fromarray(labels_of(0) / np.float32(2)).save(path, "TIFF"), r"floats \(mode F\)"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: Image.fromarray(labels_of(0)).convert("LA").save(path), r"mode LA\), and masks are palette"),
        (lambda path: Image.fromarray(labels_of(0) > 0).save(path, "PPM"), "0 is white in it"),
    ],
    ids=["jpeg", "floats", "empty", "alpha", "inverted"],
)
def test_files_that_hold_no_labels_are_named_before_training(broken, write, reason):
    write(broken / "masks" / "0.png")
    with pytest.raises(ValueError, match=rf"masks.0.png': .*{reason}"):
        data.FolderPairs(broken, num_classes=3)


def test_a_folder_of_no_known_layout_is_refused(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(
        ValueError, match="must hold the folders images and masks, or be .* with the folders pictures"
    ):
        data.FolderPairs(tmp_path)
    with pytest.raises(ValueError, match="`directory` must be an existing folder"):
        data.FolderPairs(tmp_path / "nowhere")


@pytest.mark.parametrize("count", [None, 2])
def test_classes_that_are_ignored_are_told(tmp_path, count):
    """255 for the second class is what many programs write, and nothing would be learned of it."""
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.png", labels_of(number))
        write_mask(tmp_path / "masks" / f"{number}.png", np.uint8(255) * (labels_of(number) > 0))
    told = r"the labels 0 and 255 alone, of which 255 is ignored. .* colors=(\{.*\}) with a folder"
    if count is None:
        with pytest.raises(ValueError, match=rf"two classes or more, .* Received: 3 masks with {told}") as caught:
            data.FolderPairs(tmp_path, 8)
        text = str(caught.value)
    else:
        with pytest.warns(UserWarning, match=rf"The masks that were looked at hold {told}") as warned:
            data.FolderPairs(tmp_path, 8, num_classes=count)
        text = str(warned[0].message)
    source = data.FolderPairs(tmp_path, 8, colors=ast.literal_eval(re.search(told, text)[1]))
    np.testing.assert_array_equal(source.labels_of(1), labels_of(1) > 0)


def test_masks_of_one_class_tell_no_classes():
    images, masks = np.zeros((2, 4, 4, 3), "uint8"), np.zeros((2, 4, 4), "uint8")
    with pytest.raises(ValueError, match="two classes or more, .* Received: 2 masks with the label 0 alone"):
        data.ArrayPairs(images, masks)
    assert data.ArrayPairs(images, masks, num_classes=2).num_classes == 2


def test_names_in_another_encoding_are_refused(broken):
    (broken / "classes.txt").write_text("floor\nwall\ndoor\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"classes.txt' must be text in UTF-8. Received: .*byte 0xff"):
        data.FolderPairs(broken)


def test_masks_that_are_all_ignored_tell_no_classes():
    images, masks = np.full((2, 4, 4, 3), 9, "uint8"), np.full((2, 4, 4), 255)
    with pytest.raises(ValueError, match="Masks must hold at least one label"):
        data.ArrayPairs(images, masks)
    with pytest.warns(UserWarning, match="hold 255 alone, which is ignored"):
        assert data.ArrayPairs(images, masks, num_classes=2).num_classes == 2


def test_arrays_that_do_not_belong_together_are_refused():
    images, masks = np.full((2, 4, 5, 3), 9, "uint8"), np.zeros((2, 4, 5), "uint8")
    for wrong in (masks[:1], masks[:, 1:], masks / 2, images):
        with pytest.raises(
            ValueError, match=re.escape("`masks` must be integers (images, height, width), of the im")
        ):
            data.ArrayPairs(images, wrong)
    with pytest.raises(ValueError, match="The mask 'number 1' holds unknown labels: 3, in 1 pixel;"):
        data.ArrayPairs(images, np.where(np.arange(40).reshape(2, 4, 5) == 39, 3, 0), num_classes=3)
    with pytest.raises(ValueError, match="holds unknown labels: -1, in 20 pixels; labels are 0 to 255"):
        data.ArrayPairs(images, masks.astype("int8") - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 300}, "`ignore_label` must be none of the labels of the 300 classes, such as 65535"),
        (
            {"num_classes": 3, "ignore_label": 0},
            "such as 255. Received: ignore_label=0, for 0 see `reduce_zero_label`",
        ),
        ({"ignore_label": -1}, "`ignore_label` must be an integer in"),
        ({"num_classes": 2, "class_names": CLASSES}, "`class_names` must be 2 different non-empty names"),
        ({"colors": {(1, 2): 3}}, "`colors` must be a dict from"),
        ({"colors": {(1, 2, 300): 3}}, "`colors` must be a dict from"),
        ({"colors": {(1, 2, 3): 255}}, "`colors` must be labels of classes"),
        ({"colors": {(1, 2, 3): 4}, "num_classes": 3}, r"`colors` must be labels in \[0, 3\), or 255"),
        ({"colors": {(1, 2, 3): 4}, "reduce_zero_label": True}, "leave `reduce_zero_label` out"),
    ],
)
def test_labels_that_contradict_one_another_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskLabels(**arguments)
