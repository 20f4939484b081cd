"""The 2-D sine-cosine table and its resize."""

import math

import numpy as np
import oracles
import pytest
from keras import ops

import keras_mae
from keras_mae.ops import gradient
from keras_mae.positions import resized_on_the_fly


@pytest.mark.parametrize(("grid", "dim"), [((5, 7), 12), ((14, 14), 768), ((1, 11), 4), ((3, 2), 20)])
def test_table_agrees_with_the_oracle(grid, dim):
    table = keras_mae.sincos_positions(grid, dim)
    assert table.dtype == "float32"
    np.testing.assert_allclose(table, oracles.position_table(grid, dim), atol=1e-7)


def test_one_row_of_the_table_by_hand():
    # Row 2, column 3 of a grid of 5 columns; 8 channels: frequencies 1 and 1/100; the column comes first.
    expected = [f(place * omega) for place in (3, 2) for f in (math.sin, math.cos) for omega in (1, 0.01)]
    np.testing.assert_allclose(keras_mae.sincos_positions((4, 5), 8)[1 + 2 * 5 + 3], expected, atol=1e-7)


def test_class_token_has_a_row_of_zeros_and_no_patch_has():
    table = keras_mae.sincos_positions((5, 7), 12)
    assert not table[0].any()
    assert np.abs(table[1:]).max(axis=1).min() > 0.5


def test_no_two_patches_share_a_position():
    assert len(np.unique(keras_mae.sincos_positions((14, 14), 16)[1:], axis=0)) == 196


@pytest.mark.parametrize("dim", [6, 10, 13])
def test_width_must_be_a_multiple_of_four(dim):
    with pytest.raises(ValueError, match=f"`embed_dim` must be a multiple of 4. Received: embed_dim={dim}"):
        keras_mae.sincos_positions((5, 7), dim)


def test_resize_to_the_same_grid_changes_nothing():
    table = np.random.default_rng(0).random((36, 12), "float32")
    np.testing.assert_array_equal(keras_mae.resize_positions(table, (5, 7), (5, 7)), table)


def test_resize_keeps_the_class_row():
    table = np.random.default_rng(0).random((36, 12), "float32")
    np.testing.assert_array_equal(keras_mae.resize_positions(table, (5, 7), (11, 3))[0], table[0])


def test_resize_is_two_dimensional():
    """A table that varies with the row alone still does after a resize; a resize in 1-D smears it over columns."""
    row, _ = np.divmod(np.arange(35), 7)
    table = np.concatenate([[0], row])[:, None].astype("float32")
    resized = keras_mae.resize_positions(table, (5, 7), (10, 13))[1:].reshape(10, 13)
    np.testing.assert_allclose(resized, np.repeat(resized[:, :1], 13, axis=1), atol=1e-6)
    assert (np.diff(resized[:, 0]) > 0).all()


def test_resize_treats_rows_and_columns_alike():
    table = np.random.default_rng(0).random((36, 3), "float32")
    turned = np.concatenate([table[:1], table[1:].reshape(5, 7, 3).transpose(1, 0, 2).reshape(35, 3)])
    straight = keras_mae.resize_positions(table, (5, 7), (9, 4))[1:].reshape(9, 4, 3)
    other_way = keras_mae.resize_positions(turned, (7, 5), (4, 9))[1:].reshape(4, 9, 3)
    np.testing.assert_allclose(straight, other_way.transpose(1, 0, 2), atol=1e-6)


def test_resize_keeps_constants_and_the_middle_of_a_ramp():
    row, column = np.divmod(np.arange(64), 8)
    table = np.concatenate([[[0, 0]], np.stack([np.full(64, 0.7), 2.0 * column - row], axis=1)]).astype("float32")
    resized = keras_mae.resize_positions(table, (8, 8), (16, 16))[1:].reshape(16, 16, 2)
    np.testing.assert_allclose(resized[..., 0], 0.7, atol=1e-6)
    centre = (np.arange(16) + 0.5) / 2 - 0.5  # half-pixel centres
    ramp = 2 * centre[None] - centre[:, None]
    middle = slice(5, 11)
    # A cubic kernel with a = -0.75 misses a line by up to 5 % of a step.
    np.testing.assert_allclose(resized[middle, middle, 1], ramp[middle, middle], atol=0.15)


def test_resize_agrees_with_pytorch():
    functional = pytest.importorskip("torch.nn.functional")
    import torch

    table = np.random.default_rng(0).random((36, 12), "float32")
    picture = torch.tensor(table[1:].reshape(1, 5, 7, 12).transpose(0, 3, 1, 2))
    expected = functional.interpolate(picture, size=(11, 4), mode="bicubic", align_corners=False)
    expected = expected.numpy().transpose(0, 2, 3, 1).reshape(44, 12)
    np.testing.assert_allclose(keras_mae.resize_positions(table, (5, 7), (11, 4))[1:], expected, atol=1e-5)


def test_resize_by_hand():
    # Two columns to four. The outputs lie at -0.25, 0.25, 0.75 and 1.25; for the kernel (a = -0.75, edges
    # repeated) the weights of the second column at 0.25 are w(0.75) + w(1.75) = 0.26171875 - 0.03515625.
    table = np.array([[9.0], [0.0], [1.0]], "float32")
    resized = keras_mae.resize_positions(table, (1, 2), (1, 4))[:, 0]
    inner = 0.26171875 - 0.03515625
    outer = -0.10546875
    np.testing.assert_allclose(resized, [9, outer, inner, 1 - inner, 1 - outer], atol=1e-6)


GRIDS = [((5, 7), (11, 4)), ((5, 7), (2, 13)), ((1, 6), (3, 6)), ((5, 7), (5, 7))]


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_a_resize_on_the_fly_gives_the_same_table(old, new):
    table = np.random.default_rng(0).standard_normal((1 + old[0] * old[1], 12)).astype("float32")
    found = ops.convert_to_numpy(resized_on_the_fly(ops.convert_to_tensor(table), old, new))
    np.testing.assert_allclose(found, keras_mae.resize_positions(table, old, new), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_a_gradient_goes_through_a_resize_on_the_fly(old, new):
    """The resize is a matrix, whose transpose is the way back."""
    size, generator = 1 + old[0] * old[1], np.random.default_rng(0)
    matrix = keras_mae.resize_positions(np.eye(size, dtype="float32"), old, new)
    cotangent = generator.standard_normal((len(matrix), 4)).astype("float32")
    wanted = ops.convert_to_tensor(cotangent)
    matrix = np.concatenate([np.eye(1, size), matrix[1:]])  # the class token's row is its own
    table = ops.convert_to_tensor(generator.standard_normal((size, 4)).astype("float32"))
    found = gradient(lambda x: ops.sum(resized_on_the_fly(x, old, new) * wanted))(table)
    np.testing.assert_allclose(ops.convert_to_numpy(found), matrix.T @ cotangent, atol=1e-5)


def test_resize_names_the_rows_it_wants():
    with pytest.raises(ValueError, match=r"shape \(1 \+ 35, embed_dim\).*Received: table.shape=\(35, 12\)"):
        keras_mae.resize_positions(np.zeros((35, 12)), (5, 7), (7, 9))
