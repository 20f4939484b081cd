"""Folders of images: what is data, what is a class, and what is said of the rest."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from keras_mae import data
from keras_mae.data.folders import look_into
from keras_mae.data.images import extensions

pytestmark = pytest.mark.backends("torch")

links = pytest.mark.skipif(os.name == "nt", reason="links take rights on Windows")
IMAGE = Image.fromarray(np.arange(7 * 9 * 3, dtype="uint8").reshape(7, 9, 3))


def write(path, image=IMAGE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def names(source):
    return [path.relative_to(source.directory).as_posix() for path in source.paths]


@pytest.fixture
def photos(tmp_path):
    """One image in each of two classes."""
    for name in ("cats", "dogs"):
        write(tmp_path / "photos" / name / "1.png")
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def nothing_is_said_unasked(request):
    """A warning that a test does not wait for is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


# === Hidden and system names ===
@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "System Volume Information"],
)  # fmt: skip
def test_hidden_and_system_folders_are_neither_data_nor_classes(photos, name):
    write(photos / name / "1-checkpoint.png")
    write(photos / "cats" / name / "deep" / "1.png")
    source = data.FolderSource(photos, 8, labeled=True)
    assert (source.class_names, names(source)) == (("cats", "dogs"), ["cats/1.png", "dogs/1.png"])
    assert names(data.FolderSource(photos, 8)) == names(source)


@pytest.mark.parametrize("name", [".DS_Store", "._1.png", "Thumbs.db", "desktop.ini", "THUMBS.DB"])
def test_hidden_and_system_files_are_no_data_and_not_worth_a_word(photos, name):
    (photos / "cats" / name).write_bytes(b"\0\5\x16\7")
    (photos / name).write_bytes(b"")
    assert names(data.FolderSource(photos, 8, labeled=True)) == ["cats/1.png", "dogs/1.png"]


def test_a_hidden_folder_that_was_asked_for_is_read(tmp_path):
    write(tmp_path / ".cache" / "cats" / "1.png")
    assert data.FolderSource(tmp_path / ".cache", 8, labeled=True).class_names == ("cats",)


def test_classes_without_images_count_and_folders_number_alike(photos, tmp_path):
    (photos / "bears").mkdir()
    write(tmp_path / "test" / "dogs" / "1.png")
    for name in ("bears", "cats"):
        (tmp_path / "test" / name).mkdir()
    sources = [data.FolderSource(folder, 8, labeled=True) for folder in (photos, tmp_path / "test")]
    assert sources[0].class_names == sources[1].class_names == ("bears", "cats", "dogs")
    assert [source.labels.tolist() for source in sources] == [[1, 2], [2]]


# === Links ===
@links
def test_links_to_folders_and_files_are_followed(photos, tmp_path):
    write(tmp_path / "elsewhere" / "deep" / "1.png")
    write(tmp_path / "lynx.png")
    (photos / "owls").symlink_to(tmp_path / "elsewhere")
    (photos / "cats" / "lynx.png").symlink_to(tmp_path / "lynx.png")
    source = data.FolderSource(photos, 8, labeled=True)
    assert source.class_names == ("cats", "dogs", "owls")
    assert names(source) == ["cats/1.png", "cats/lynx.png", "dogs/1.png", "owls/deep/1.png"]
    assert source.labels.tolist() == [0, 0, 1, 2]


@links
def test_a_folder_that_is_a_link_itself_is_read(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    assert names(data.FolderSource(tmp_path / "link", 8, labeled=True)) == ["cats/1.png", "dogs/1.png"]


@links
def test_circles_end_and_each_folder_is_read_once(photos):
    (photos / "again").symlink_to(photos)
    (photos / "up").symlink_to(photos.parent)
    (photos / "cats" / "back").symlink_to(photos)
    (photos / "cats" / "dogs").symlink_to(photos / "dogs")
    (photos / "dogs" / "cats").symlink_to(photos / "cats")
    (photos / "dogs" / "itself").symlink_to(photos / "dogs" / "itself")
    expected = "^Passed over 1 link that leads nowhere; 5 links to folders that are read already"
    for labeled in (False, True):
        with pytest.warns(UserWarning, match=expected):
            source = data.FolderSource(photos, 8, labeled=labeled)
        assert names(source) == ["cats/1.png", "dogs/1.png"]
    assert source.class_names == ("cats", "dogs")


@links
@pytest.mark.parametrize("target", ["cats", "../elsewhere"])
def test_two_classes_must_not_be_one_folder(photos, tmp_path, target):
    write(tmp_path / "elsewhere" / "1.png")
    for name in ("lions", "tigers"):
        (photos / name).symlink_to(target)
    with pytest.raises(
        ValueError, match="Each class must be a folder of its own. Received: '(lions|tigers)' in .*, a link"
    ):
        data.FolderSource(photos, 8, labeled=True)
    with pytest.warns(UserWarning, match="Passed over . links? to folders that are read already"):
        assert len(data.FolderSource(photos, 8)) == (2 if target == "cats" else 3)


# === Kinds of files ===
@pytest.mark.parametrize(
    ("ending", "form"),
    [("jfif", "JPEG"), ("JPG", "JPEG"), ("jpe", "JPEG"), ("ppm", "PPM"), ("pgm", "PPM"), ("jp2", "JPEG2000"),
     ("webp", "WEBP"), ("tga", "TGA"), ("ico", "ICO"), ("dib", "DIB"), ("pcx", "PCX"), ("sgi", "SGI"),
     ("apng", "PNG")],
)  # fmt: skip
def test_every_kind_that_pillow_opens_is_read(tmp_path, ending, form):
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"Pillow is built without {form}")
    write(tmp_path / f"1.{ending}", format=form)
    source = data.FolderSource(tmp_path, 7)
    assert names(source) == [f"1.{ending}"]
    assert source.batch(np.array([0]))[0].shape == (1, 7, 7, 3)


def test_documents_films_and_what_pillow_only_recognizes_are_no_images():
    known = extensions()
    assert {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".mpo", ".psd"} <= known
    assert not known & {".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".h5", ".grib", ".fits", ".wmf", ".txt", ""}


def test_a_document_named_like_an_image_is_not_read(tmp_path):
    IMAGE.save(tmp_path / "1.jpg", "EPS")
    with pytest.raises(ValueError, match=r"Cannot read the image file '.*1\.jpg'"):
        data.FolderSource(tmp_path)


def test_what_is_passed_over_is_said_in_one_line(photos, recwarn):
    for name in ("a.txt", "b.TXT", "c.pdf", "README", "cats/film.mp4"):
        (photos / name).write_bytes(b"x")
    warnings.simplefilter("always")
    source = data.FolderSource(photos, 8, labeled=True)
    (warning,) = recwarn.list
    assert str(warning.message) == (
        f"Passed over 5 files that are no images: 2 .txt, 1 without an ending, 1 .pdf, 1 .mp4 (in {str(photos)!r})"
    )
    assert len(source) == 2
    assert (
        look_into(photos).passed_over()
        == data.check_directory(photos).passed_over
        == ("Passed over 5 files that are no images: 2 .txt, 1 without an ending, 1 .pdf, 1 .mp4")
    )


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"Received: none in '.*'\. Passed over 1 file that is no image: 1 \.txt$"):
        data.FolderSource(tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(ValueError, match="Received: none in '[^']*'$"):
        data.FolderSource(tmp_path)


@pytest.mark.parametrize("allow_damaged", [0.0, 0.5])
def test_further_pages_are_passed_over_and_it_is_said(photos, allow_damaged):
    other = Image.fromarray(255 - np.asarray(IMAGE))
    write(photos / "stack.tif", save_all=True, append_images=[other])
    write(photos / "moving.gif", IMAGE, save_all=True, append_images=[other])
    with pytest.warns(UserWarning, match="^Passed over all pages but the first of 1 TIFF file"):
        source = data.FolderSource(photos, 7, allow_damaged=allow_damaged)
    assert data.check_directory(photos).stacks == [photos / "stack.tif"]
    first = source.batch(np.array([names(source).index("stack.tif")]))[0][0]
    np.testing.assert_array_equal(first, data.read_image(photos / "cats" / "1.png", (7, 7, 3)))


# === Commands ===
def test_the_report_on_a_folder_lists_all_of_it(photos, capsys):
    import typer

    from keras_mae.cli.preparing import prepare

    Image.fromarray(np.full((9, 11), 4000, "uint16")).save(photos / "scan.png")
    (photos / "empty.png").write_bytes(b"")
    (photos / "notes.txt").write_text("x")
    with pytest.raises(typer.Exit) as left:
        prepare(photos, check=True)
    assert left.value.exit_code == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("'")[0] for line in lines[-4:]] == [
        "Cannot read the image file ",
        "",
        "Passed over 1 file that is no image: 1 .txt",
        f"{photos}: 1 damaged, 1 nearly black",
    ]
    assert lines[-3].endswith("if 4095 should be, pass white_level=4095 (--white-level 4095)")
