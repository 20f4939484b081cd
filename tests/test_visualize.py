"""Pictures: a figure out, nothing shown, nothing written."""

import numpy as np
import pytest

from keras_mae import Reconstruction, visualize


def result(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 12, channels), dtype="uint8")
    return Reconstruction(images, images, images, images, np.eye(3, 6, dtype="float32"), "none needed")


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_reconstructions_show_four_columns_and_name_the_statistics(channels):
    figure = visualize.reconstructions(result(channels), max_images=2)
    assert len(figure.axes) == 8
    assert "17% of the patches removed" in figure.get_suptitle()
    assert "none needed" in figure.get_suptitle()
    shown = figure.axes[0].get_images()[0].get_array()
    assert shown.shape == ((8, 12) if channels < 3 else (8, 12, 3))


def test_curves_show_loss_and_learning_rate():
    figure = visualize.curves({"loss": [3.0, 2.0], "val_loss": [4.0, 3.5], "learning_rate": [0.1, 0.0]})
    lines = [list(line.get_ydata()) for axes in figure.axes for line in axes.lines]
    assert lines == [[3.0, 2.0], [4.0, 3.5], [0.1, 0.0]]
    with pytest.raises(ValueError, match="must have a column 'loss'"):
        visualize.curves({"psnr": [1.0]})


def test_unknown_picture_formats_are_refused():
    visualize.check_savable("there/picture.PNG")
    with pytest.raises(ValueError, match=r"must end in one of .*\.png"):
        visualize.check_savable("picture.doc")
