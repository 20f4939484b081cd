"""Each picture against a stored one: `KERAS_MAE_REDRAW=1` draws the stored ones anew, to be looked at.

What is drawn is made here and by no model, so that it is the same on every backend.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracles
import pytest
from PIL import Image

import keras_mae
from keras_mae import Reconstruction, visualize

pytestmark = pytest.mark.backends("torch")

PICTURES = Path(__file__).parent / "pictures"
DPI = 50


def scene(height, width, channels=3, phase=0.0):
    """A smooth picture that is unlike itself when it is turned or flipped, its channels all different."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(6 * x + 3 * y * channel + phase) * (1 - 0.6 * y) for channel in range(1, channels + 1)]
    disc = (x - 0.3) ** 2 + (y - 0.4) ** 2 < 0.04
    return np.clip(127 + 100 * np.stack(waves, -1) + 90 * disc[..., None], 0, 255).astype("uint8")


def blob(rows, columns, row, column):
    y, x = np.mgrid[0:rows, 0:columns]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2.0).astype("float32")


def reconstruction(removed, channels=3, images=1):
    """24 x 36 pixels, 4 x 6 patches of which `removed` are hidden; predicted is paler than true."""
    original = np.stack([scene(24, 36, channels, phase) for phase in range(images)])
    mask = np.zeros((images, 24), "float32")
    mask[:, [patch * 7 % 24 for patch in range(removed)]] = 1
    hidden = mask.reshape(images, 4, 6).repeat(6, 1).repeat(6, 2)[..., None].astype(bool)
    predicted = (original // 2 + 64).astype("uint8")
    return Reconstruction(
        original,
        np.where(hidden, 124, original).astype("uint8"),
        predicted,
        np.where(hidden, predicted, original).astype("uint8"),
        mask,
        "their brightness and contrast guessed from visible patches",
    )


def reconstructions_of_colour_images():
    return visualize.reconstructions(reconstruction(18, images=2))


def reconstructions_at_three_ratios():
    return visualize.reconstructions([reconstruction(removed) for removed in (12, 18, 22)])


def reconstructions_of_bands():
    return visualize.reconstructions(reconstruction(18, channels=5), bands=(4, 2, 0))


def reconstructions_in_grey():
    return visualize.reconstructions(reconstruction(18, channels=5), bands=3)


def attention_heads():
    maps = np.stack([[blob(4, 6, layer + 1, 2 * head) * (1 + head) for head in range(3)] for layer in range(2)])
    return visualize.attention_heads(scene(24, 36), maps)


def overlays():
    images = np.stack([scene(24, 36, 1), scene(24, 36, 1, 2.0)])
    rollout = np.stack([blob(4, 6, 1, 1), blob(4, 6, 3, 5)])
    pixels = np.stack([blob(24, 36, 6, 9), blob(24, 36, 20, 30)])
    return visualize.overlays(images, {"rollout": rollout, "saliency": pixels})


def heat_maps():
    images = np.stack([scene(24, 36), scene(24, 36, 3, 2.0)])
    maps = np.stack([9 * blob(24, 36, 6, 9), 4 * blob(24, 36, 20, 30)])
    defects = np.stack([maps[0] > 3, np.zeros((24, 36), bool)])
    named = {"reconstruction": maps, "neighbors": maps / 4, "mean": maps * 5 / 8}
    return visualize.heat_maps(images, named, names=["crack/0.png (5.6)", "good/1.png (2.5)"], defects=defects)


def query_maps():
    images = np.stack([scene(24, 36), scene(24, 36, 3, 2.0)])
    rows = [[blob(4, 6, row, column) for column in (0, 2, 5)] for row in (0, 3)]
    return visualize.query_maps(images, np.array(rows), queries=(0, 2))


def position_maps():
    rows, columns = np.mgrid[0:4, 0:6]
    distance = np.abs(rows.ravel()[:, None] - rows.ravel()) + 0.5 * np.abs(columns.ravel()[:, None] - columns.ravel())
    return visualize.position_maps(np.cos(0.7 * distance).reshape(4, 6, 4, 6))


def feature_maps():
    images = np.stack([scene(24, 36), scene(24, 36, 3, 2.0)])
    return visualize.feature_maps(images, images[:, 3::6, 3::6])


def curves_of_one_run():
    return visualize.curves(pretraining(40, 0.8))


def curves_of_runs():
    return visualize.curves({"from scratch": fine_tuning(0.9, 1e-3), "pre-trained": fine_tuning(0.5, 5e-4)})


def confusion():
    labels = np.repeat([0, 1, 2], [10, 20, 5])
    predicted = np.concatenate([np.repeat([0, 1], [8, 2]), np.repeat([1, 2], [15, 5]), np.repeat(2, 5)])
    return visualize.confusion(labels, predicted, ["ankle boot", "bag", "coat"])


@pytest.mark.parametrize("name", ["$\\bag$", "caf\udce9"])
def test_a_confusion_matrix_draws_any_name_of_a_folder(name):
    visualize.confusion([0, 1], [0, 1], [name, "b"]).canvas.draw()


def pretraining(epochs, start):
    epoch = np.arange(1, epochs + 1)
    return {
        "loss": start / np.sqrt(epoch),
        "val_loss": start / np.sqrt(epoch) + 0.05,
        "psnr": 10 + np.log(epoch),
        "learning_rate": 1e-3 * np.minimum(epoch / 5, 0.5 + 0.5 * np.cos(epoch / epochs * np.pi)),
    }


def fine_tuning(start, rate):
    epoch = np.arange(1, 13)
    loss = start / epoch
    return {"loss": loss, "accuracy": 1 - loss, "val_accuracy": 0.95 - loss, "learning_rate": rate / epoch}


def maskings():
    images = np.stack([scene(28, 42, phase=phase) for phase in range(3)])
    return visualize.maskings(images, patch_size=(4, 6), seed=2)


DRAWN = [
    reconstructions_of_colour_images,
    reconstructions_at_three_ratios,
    reconstructions_of_bands,
    reconstructions_in_grey,
    attention_heads,
    overlays,
    heat_maps,
    query_maps,
    maskings,
    position_maps,
    feature_maps,
    curves_of_one_run,
    curves_of_runs,
    confusion,
]


def small(picture):
    """Means over 5 x 5 pixels: where something is, and not how a letter's edge is smoothed."""
    height, width = (side // 5 for side in picture.shape[:2])
    return picture[: height * 5, : width * 5].reshape(height, 5, width, 5, 3).mean(axis=(1, 3))


def drawn(make, tmp_path):
    path = tmp_path / "picture.png"
    make().savefig(path, dpi=DPI)
    return np.asarray(Image.open(path).convert("RGB"), float)


@pytest.mark.parametrize("make", DRAWN, ids=lambda make: make.__name__)
def test_the_picture_is_the_stored_one(make, tmp_path):
    got, stored = drawn(make, tmp_path), PICTURES / f"{make.__name__}.png"
    if os.environ.get("KERAS_MAE_REDRAW"):
        PICTURES.mkdir(exist_ok=True)
        Image.fromarray(got.astype("uint8")).save(stored, optimize=True)
    expected = np.asarray(Image.open(stored).convert("RGB"), float)
    assert got.shape == expected.shape
    # Mean grey levels. Another matplotlib's fonts move letters; two mirrored panels of eight are above 3.
    assert np.abs(small(got) - small(expected)).mean() < 1.5


@pytest.mark.backends("torch", "jax", "tensorflow")
def test_a_picture_of_maskings_shows_the_masks_themselves():
    images = np.full((2, 8, 12, 1), 255, "uint8")
    kinds = [keras_mae.RandomMasking(0.5), keras_mae.NoiseMasking(0.5, "red")]
    figure = visualize.maskings(images, 2, kinds, seed=5)
    noise = oracles.hash_noise(5, -1, range(2), 24)
    expected = [oracles.random_mask(noise, (4, 6), 0.5), oracles.color_mask(noise, (4, 6), 0.5, "red")]
    panels = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    shown = np.stack(panels).reshape(2, 2, 4, 2, 6, 2)[:, :, :, 0, :, 0].reshape(2, 2, 24)
    np.testing.assert_array_equal(shown, 1 - 0.5 * np.stack(expected))
    assert [axes.get_ylabel().split("\n")[:2] for axes in figure.axes[::2]] == [
        ["RandomMasking", "50% removed"],
        ["NoiseMasking", "red"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 5}, "`patch_size` must divide"),
        ({"patch_size": 2, "kinds": []}, "`kinds` must be maskings"),
        ({"patch_size": 2, "kinds": ["green"]}, "`kinds` must be maskings"),
        ({"patch_size": 2, "kinds": [keras_mae.GridMasking(0.889)]}, "must divide the grid of patches"),
    ],
)
def test_maskings_that_cannot_be_drawn_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        visualize.maskings(np.zeros((1, 8, 12, 1), "uint8"), **arguments)


def test_the_comparison_sees_a_panel_that_is_mirrored(tmp_path):
    """The least of the mistakes that it is for: everything right but the first column."""
    result = reconstruction(18, images=2)
    mirrored = replace(result, masked=result.masked[:, :, ::-1])
    right = drawn(lambda: visualize.reconstructions(result), tmp_path)
    wrong = drawn(lambda: visualize.reconstructions(mirrored), tmp_path)
    assert np.abs(small(right) - small(wrong)).mean() > 3
