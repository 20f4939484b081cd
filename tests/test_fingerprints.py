"""What tells data from other data: names, sizes, labels and contents; and what does not, as a copy's times."""

import os
import shutil
import time

import numpy as np
import pytest

from keras_mae import data
from keras_mae.data import fingerprints
from keras_mae.data.relabeling import relabeled

pytestmark = pytest.mark.backends("torch")

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), "uint8")


def write(path, image):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0]).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of three bitmaps, which all have one size."""
    for number, image in enumerate(IMAGES):
        write(tmp_path / "photos" / "ab"[number % 2] / f"{number // 2}.bmp", image)
    return tmp_path / "photos"


def known(folder, labeled=True):
    return data.FolderSource(folder, 8, 1, labeled=labeled).fingerprint()


def said(now, then):
    return list(fingerprints.differences(now, then, "data"))


def touch(path):
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 10**9))


# === Folders ===
def test_the_same_folder_has_the_same_fingerprint_wherever_it_lies(folder, tmp_path, monkeypatch):
    first = known(folder)
    os.rename(folder, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert known("moved") == known("./moved/") == known(tmp_path / "moved") == first


def replaced(folder):
    for path in folder.rglob("*.bmp"):
        write(path, 255 - IMAGES[0])


def swapped(folder):
    """The classes' folders have one another's names; times and sizes are as they were."""
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        os.rename(folder / old, folder / new)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda folder: write(folder / "a" / "9.bmp", IMAGES[0]), ["data.files=7 and not 6", "data: other labels"]),
        (lambda folder: os.rename(folder / "a/0.bmp", folder / "a/9.bmp"), ["data: other names of files"]),
        (
            lambda folder: os.rename(folder / "a/0.bmp", folder / "b/9.bmp"),
            ["data: other names of files", "data: other labels"],
        ),
        (lambda folder: write(folder / "a/0.bmp", IMAGES[0, :4]), ["data: other sizes of files"]),
        (replaced, ["data: other contents"]),
        (swapped, ["data: other contents"]),
    ],
)
def test_what_differs_between_folders_is_said(folder, change, difference):
    first = known(folder)
    change(folder)
    assert said(known(folder), first) == difference


def test_a_copy_is_taken_for_one(folder, tmp_path):
    first = known(folder)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*.bmp"):
        touch(path)
    copy = known(tmp_path / "copy")
    assert said(copy, first) == []
    assert fingerprints.were_copied(copy, first)
    assert not fingerprints.were_copied(first, first)


def test_a_file_that_was_written_to_is_no_copy(folder, monkeypatch):
    """Nobody looks into it, and those that are looked into have their times."""
    monkeypatch.setattr(fingerprints, "_LOOKED_AT", 3)
    first = known(folder)
    touch(folder / "a/1.bmp")  # the second of a's, the second of all
    now = known(folder)
    assert said(now, first) == ["data: files that were written to since"]
    assert not fingerprints.were_copied(now, first)


def test_names_that_are_no_text_count(folder):
    os.rename(os.fsencode(folder / "a/0.bmp"), os.fsencode(folder / "a") + b"/\xff.bmp")
    assert known(folder)["files"] == 6


def test_both_ends_of_a_large_file_count(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "_READ", 4)

    def contents(text):
        (tmp_path / "file").write_text(text)
        return fingerprints.of_files([tmp_path / "file"], tmp_path)["contents"]

    assert len({contents(text) for text in ("abcdefghijkl", "Xbcdefghijkl", "abcdefghijkX", "abcde", "abcdX")}) == 5
    assert contents("abcdefghijkl") == contents("abcdXXXXijkl")


def test_files_behind_addresses_are_known_by_their_names():
    first = fingerprints.of_files(["gs://photos/0.tfrecord", "gs://photos/1.tfrecord"], "gs://photos")
    assert first.keys() == {"files", "paths"}


# === Arrays, and parts of sources ===
def test_arrays_differ_by_their_contents(tmp_path):
    first = data.ArraySource(IMAGES).fingerprint()
    changed = IMAGES.copy()
    changed[4, 7, 7] ^= 1
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert said(data.ArraySource(changed).fingerprint(), first) == ["data: other contents"]
    for same in (mapped, np.asfortranarray(IMAGES)):
        assert data.ArraySource(same).fingerprint() == first
    fewer = said(data.ArraySource(IMAGES[:5]).fingerprint(), first)
    assert fewer == ["data.shape=[5, 8, 8, 1] and not [6, 8, 8, 1]", "data: other contents"]


def test_byte_order_and_pieces_make_no_difference(monkeypatch):
    numbers = np.arange(240, dtype="float32").reshape(10, 4, 6)
    assert fingerprints.of_array(numbers) == fingerprints.of_array(numbers.astype(">f4"))
    whole = fingerprints.of_array(numbers)["contents"]
    monkeypatch.setattr(fingerprints, "_PIECE", 3 * 96)
    numbers[9, 3, 5] = -1
    assert fingerprints.of_array(numbers)["contents"] != whole


def test_of_a_huge_mapped_array_a_part_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "_WHOLE", IMAGES.nbytes // 2)
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r+")
    first = fingerprints.of_array(mapped)
    mapped[1] = 0
    assert fingerprints.of_array(mapped) == first
    mapped[2] = 0
    assert fingerprints.of_array(mapped) != first


def test_labels_choices_and_their_order_count():
    names = ("a", "b")
    source = data.ArraySource(IMAGES, [0, 1] * 3, class_names=names)
    swapped = data.ArraySource(IMAGES, [1, 0] * 3, class_names=names)
    assert said(swapped.fingerprint(), source.fingerprint()) == ["data: other labels"]
    assert said(relabeled(source, ("b", "a")).fingerprint(), source.fingerprint()) == ["data: other labels"]
    first, second = (data.Subset(source, chosen).fingerprint() for chosen in ([0, 1], [1, 0]))
    assert said(first, second) == ["data: another choice of images"]


def test_a_source_of_ones_own_is_known_by_its_kind():
    class Own:
        pass

    assert data.Subset.fingerprint(type("", (), {"_source": Own(), "_indices": np.arange(2)})())["kind"] == "Own"


# === Batches ===
def batches(**options):
    return data.from_arrays(IMAGES, [0, 1, 2] * 2, 2, **options).fingerprint()["batches"]


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"seed": 1}, "data.seed=1 and not 0"),
        ({"shuffle": False}, "data.shuffle=False and not True"),
        ({"crop": data.RandomCrop(0.2, flip=False)}, "data.crop={'name': 'RandomCrop', 'shift': 0.2, 'flip': False}"),
        ({"augment": data.Augmentation(3, shift=0.1)}, "data.augment={'num_classes': 3, 'flip': False, 'shift': 0.1"),
    ],
)
def test_what_differs_between_batches_is_said(options, difference):
    (words,) = said(batches(**options), batches())
    assert words.startswith(difference)


def test_one_setting_of_an_augmentation_that_differs_is_named():
    now, then = (batches(augment=data.Augmentation(3, shift=shift)) for shift in (0.1, 0.2))
    assert said(now, then) == ["data.augment.shift=0.1 and not 0.2"]


@pytest.mark.backends("torch", "tensorflow")
@pytest.mark.parametrize("loader", ["grain", "tf.data"])
def test_who_loads_the_batches_makes_no_difference(loader):
    if loader == "tf.data":
        pytest.importorskip("tensorflow")
    assert batches(loader=loader) == batches()


def test_a_crop_of_ones_own_is_known_by_what_it_does():
    def crop_to(share):
        def crop(width, height, size, generator):
            return data.Box(0, 0, width * share, height)

        return crop

    half, third = (fingerprints.of_crop(crop_to(share)) for share in (0.5, 0.25))
    assert half == fingerprints.of_crop(crop_to(0.5))
    assert said(half, third) == ["data.box=['0', '0', '320', '480', '0'] and not ['0', '0', '160', '480', '0']"]


def test_settings_that_are_no_json_are_described():
    assert fingerprints.plain({"a": (1, np.float32(2)), "b": float("inf")}) == {
        "a": [1, repr(np.float32(2))],
        "b": "Infinity",
    }
