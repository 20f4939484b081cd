"""Masks of the caller, which a layer takes as they are."""

import keras
import numpy as np
import pytest
from keras import ops
from masking_helpers import to_numpy

from keras_mae.masking import explicit_mask

# === Masks of the caller ===
FLAGS = np.array([[1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 1, 0]])


@pytest.mark.parametrize("dtype", ["int32", "float32", "bool", "uint8"])
def test_explicit_mask_is_taken_as_it_is(dtype):
    mask = explicit_mask(ops.convert_to_tensor(FLAGS.astype(dtype)), (2, 3))
    assert to_numpy(mask.ids_keep).tolist() == [[1, 4], [0, 5]]
    assert to_numpy(mask.ids_removed).tolist() == [[0, 2, 3, 5], [1, 2, 3, 4]]
    np.testing.assert_array_equal(to_numpy(mask.mask), FLAGS)


def test_explicit_mask_may_have_the_shape_of_the_grid():
    square = explicit_mask(ops.convert_to_tensor(FLAGS.reshape(2, 2, 3)), (2, 3))
    np.testing.assert_array_equal(to_numpy(square.mask), FLAGS)


def test_explicit_mask_may_have_one_channel_as_images_do():
    wanted = to_numpy(explicit_mask(ops.convert_to_tensor(FLAGS), (2, 3)).mask).tolist()
    for patch, side in (((1, 1), 1), ((2, 2), 2)):
        pixels = np.kron(FLAGS.reshape(2, 2, 3), np.ones((1, side, side), FLAGS.dtype))[..., None]
        found = explicit_mask(ops.convert_to_tensor(pixels), (2, 3), patch_size=patch)
        assert to_numpy(found.mask).tolist() == wanted


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 2), (2, 1, 6), (2,), (2, 6, 1)])
def test_explicit_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(batch, 6\) or \(batch, 2, 3\). Received: mask.shape=\(2"):
        explicit_mask(ops.zeros(shape, dtype="int32"), (2, 3))


@pytest.mark.parametrize("value", [2, 0.5, -1, float("nan")])
def test_explicit_mask_of_other_values_is_refused(value):
    flags = FLAGS.astype("float32")
    flags[1, 1] = value
    with pytest.raises(ValueError, match=r"`mask` must hold 1 \(removed\) and 0 \(kept\) only"):
        explicit_mask(ops.convert_to_tensor(flags), (2, 3))


def test_explicit_mask_must_keep_something():
    with pytest.raises(ValueError, match="`mask` must leave at least one patch of every image visible"):
        explicit_mask(ops.ones((2, 6), dtype="int32"), (2, 3))


def test_unequal_counts_are_refused_in_every_form(compiled, request):
    if "xla" in request.node.callspec.id:
        request.applymarker(pytest.mark.xfail(strict=True, reason="TensorFlow drops assertions under XLA"))
    flags = FLAGS.copy()
    flags[1, 0] = 1

    @compiled
    def ids(mask):
        return explicit_mask(mask, (2, 3), num_kept=2).ids_keep

    with pytest.raises(Exception, match="must keep the same number of patches in every image, here 2 of 6"):
        run_to_the_end(ids, ops.convert_to_tensor(flags))


def test_equal_counts_are_taken_in_every_form(compiled):
    ids = compiled(lambda mask: explicit_mask(mask, (2, 3), num_kept=2).ids_keep)
    assert to_numpy(ids(ops.convert_to_tensor(FLAGS))).tolist() == [[1, 4], [0, 5]]


def run_to_the_end(function, *args):
    """JAX reports an error of a running step when its effects are waited for."""
    to_numpy(function(*args))
    if keras.backend.backend() == "jax":
        import jax

        jax.effects_barrier()
