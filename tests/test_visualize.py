"""Pictures: a figure out, nothing shown, nothing written."""

import io
from dataclasses import replace

import numpy as np
import pytest

from keras_mae import Reconstruction, visualize
from keras_mae.training import RunDirectory

pytestmark = pytest.mark.backends("torch")


def result(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 12, channels), dtype="uint8")
    return Reconstruction(images, images, images, images, np.eye(3, 6, dtype="float32"), "from somewhere")


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_reconstructions_show_four_columns_and_name_the_statistics(channels):
    figure = visualize.reconstructions(result(channels), max_images=2)
    assert len(figure.axes) == 8
    assert figure.get_suptitle() == "17% of the patches removed\nfrom somewhere"
    pixels = replace(result(channels), statistics="")
    assert visualize.reconstructions(pixels).get_suptitle() == "17% of the patches removed"
    shown = figure.axes[0].get_images()[0].get_array()
    assert shown.shape == ((8, 12) if channels < 3 else (8, 12, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_prediction_of_visible_patches_is_not_shown(channels):
    shown = result(channels)
    figure = visualize.reconstructions(replace(shown, grid=(2, 3)))
    panel = figure.axes[5].get_images()[0].get_array()  # of the second image, whose second patch is removed
    assert panel.shape == (8, 12, 4)
    hidden = np.zeros((8, 12))
    hidden[:4, 4:8] = 1
    np.testing.assert_array_equal(panel[..., 3], hidden)
    np.testing.assert_allclose(panel[..., :channels], shown.predicted[1] / np.float32(255))


def test_names_are_written_beside_the_images():
    names = ["a.png", "$x$/" + "long" * 30 + "/b.png", "\udcff.png"]
    figure = visualize.reconstructions(result(3), names=names)
    labels = [axes.get_ylabel() for axes in figure.axes[::4]]
    assert (labels[0], labels[2]) == ("a.png", "?.png")
    figure_of_one = visualize.reconstructions(result(3), names=["hubble_deep_field/085.jpg"])
    assert figure_of_one.axes[0].get_ylabel() == "hubble_deep_field/\n085.jpg"
    assert (labels[1][:3], labels[1][-6:]) == ("...", "/b.png")
    figure.savefig(io.BytesIO(), format="png")


def test_a_notebook_shows_a_figure_without_being_asked():
    pytest.importorskip("IPython")
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(visualize.reconstructions(result(3)))
    assert shown["image/png"].startswith(b"\x89PNG")


def test_bands_choose_the_channels():
    colour, grey = (visualize.reconstructions(result(5), bands=bands) for bands in ((4, 0, 2), 3))
    shown = [figure.axes[0].get_images()[0].get_array() for figure in (colour, grey)]
    images = result(5).original[0] / np.float32(255)
    np.testing.assert_allclose(shown[0], images[..., [4, 0, 2]])
    np.testing.assert_allclose(shown[1], images[..., 3])


def test_curves_show_loss_and_learning_rate():
    figure = visualize.curves({"loss": [3.0, 2.0], "val_loss": [4.0, 3.5], "learning_rate": [0.1, 0.0]})
    lines = [list(line.get_ydata()) for axes in figure.axes for line in axes.lines]
    assert lines == [[3.0, 2.0], [4.0, 3.5], [0.1, 0.0]]
    with pytest.raises(ValueError, match="must have a column 'loss'"):
        visualize.curves({"psnr": [1.0]})


def test_curves_of_several_runs_share_their_panels():
    runs = {"a": {"loss": [3.0, 2.0], "accuracy": [0.1, 0.2]}, "b": {"loss": [1.0], "learning_rate": [0.5]}}
    loss, accuracy, rate = visualize.curves(runs).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[3.0, 2.0], [1.0]]
    assert [line.get_label() for axes in (loss, accuracy, rate) for line in axes.lines] == [
        "a: loss",
        "b: loss",
        "a: accuracy",
        "b: learning_rate",
    ]
    assert rate.lines[0].get_color() == loss.lines[1].get_color() != loss.lines[0].get_color()


# === history.csv ===
def test_a_run_s_history_file_is_read_as_it_was_written(tmp_path):
    history = {"loss": [3.0, 0.1 + 0.2], "learning_rate": [0.1, 0.0]}
    RunDirectory(tmp_path).write_history(history)
    read = visualize.read_history(tmp_path / "history.csv")
    assert {name: list(column) for name, column in read.items()} == {"epoch": [1.0, 2.0], **history}
    figure = visualize.curves({"one": tmp_path / "history.csv", "two": history})
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[1, 2], [1, 2]]
    assert len(visualize.curves(str(tmp_path / "history.csv")).axes) == 2


def test_an_empty_cell_is_a_gap_in_the_line(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss,val_loss\n0,3,\n1,2,2.5\n")
    assert np.isnan(visualize.read_history(path)["val_loss"][0])
    validation = visualize.curves(path).axes[0].lines[1]
    np.testing.assert_array_equal(validation.get_ydata(), [np.nan, 2.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,psnr\n1,2\n", r"history.csv' must have a column 'loss'. Received: epoch, psnr"),
        ("", r"history.csv' must have a column 'loss'. Received: nothing"),
        ("epoch,loss\n", r"history.csv' must have a column 'loss'"),
        ("epoch,loss\n1,2\n3\n", r"must hold numbers under a line of names. Line 3: 1 of 2 columns"),
        ("epoch,loss\n1,two\n", r"must hold numbers under a line of names. Line 2: could not convert.*'two'"),
    ],
)
def test_damaged_history_files_are_refused(tmp_path, text, message):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        visualize.curves({"run": path})


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("nowhere.csv", "There is no history file 'nowhere.csv'"),
        ({"a": {"loss": [1.0]}, "b": {"psnr": [1.0]}}, r"`history\['b'\]` must have a column 'loss'. Received: psnr"),
        ([1.0, 2.0], "`history` must be columns by name, the path of a history.csv, or a dict"),
        ({}, "`history` must have a column 'loss'. Received: nothing"),
    ],
)
def test_what_is_no_history_is_refused(history, message):
    with pytest.raises(ValueError, match=message):
        visualize.curves(history)


# === Arrays that do not fit ===
IMAGES = np.zeros((2, 8, 12, 5), "uint8")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: visualize.reconstructions([]), "`result` must be a Reconstruction or several"),
        (lambda: visualize.reconstructions(IMAGES), r"`result` must be .* result.shape=\(2, 8, 12, 5"),
        (lambda: visualize.reconstructions(result(3), names="abc"), "`names` must be texts, one for each image"),
        (lambda: visualize.reconstructions(result(3), names=[1]), "`names` must be texts, one for each image"),
        (lambda: visualize.reconstructions(result(3), max_images=0), "`max_images` must be a positive integer"),
        (lambda: visualize.reconstructions(result(3), bands=3), "`bands` must be one or three of the images' 3"),
        (lambda: visualize.reconstructions(result(5), bands=(0, 1)), "`bands` must be one or three of the images' 5"),
        (lambda: visualize.overlays(IMAGES[0], np.ones((2, 2, 3))), "`images` must have shape"),
        (lambda: visualize.overlays(IMAGES, np.ones((3, 2, 3))), "`maps` must have shape .* each of the 2 images"),
        (lambda: visualize.overlays(IMAGES, {"cam": np.ones((2, 3))}), r"Received: cam.shape=\(2, 3\)"),
        (lambda: visualize.overlays(IMAGES, np.ones((2, 2, 3)), bands=-1), "`bands` must be"),
        (lambda: visualize.attention_heads(IMAGES, np.ones((1, 2, 2, 3))), "`image` must have shape"),
        (lambda: visualize.attention_heads(IMAGES[0], np.ones((2, 2, 3))), "`maps` must have shape"),
        (lambda: visualize.attention_heads(IMAGES[0], np.ones((1, 2, 2, 3)), [0, 1]), "`layers` must be one number"),
        (lambda: visualize.position_maps(np.ones((4, 6, 6, 4))), "`similarity` must have shape"),
        (lambda: visualize.feature_maps(IMAGES, np.ones((2, 4, 6))), "`colors` must have shape"),
        (lambda: visualize.feature_maps(IMAGES, np.ones((1, 4, 6, 3))), "`colors` must have shape .* 2 images"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_picture_formats_are_refused():
    visualize.check_savable("there/picture.PNG")
    with pytest.raises(ValueError, match=r"must end in one of .*\.png"):
        visualize.check_savable("picture.doc")
