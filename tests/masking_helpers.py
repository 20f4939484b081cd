"""What the tests of masks share."""

import oracles
from conftest import run_quickly
from keras import ops

import keras_mae
from keras_mae.random import hash_noise

GRID = (6, 10)


def to_numpy(x):
    return ops.convert_to_numpy(x)


def make(kind, ratio, **kwargs):
    if kind == "Cells":
        return keras_mae.RandomMasking(ratio, cell=2, **kwargs)
    if kind in oracles.BANDS:
        return keras_mae.NoiseMasking(ratio, kind, **kwargs)
    return getattr(keras_mae, kind)(ratio, **kwargs)


def draw(kind, ratio, batch=13, grid=GRID, seed=3, step=11, **kwargs):
    masking = make(kind, ratio, **kwargs)

    @run_quickly
    def drawn(index):
        mask = masking(hash_noise(seed, step, index, grid[0] * grid[1]), grid=grid)
        return {
            "ids_keep": mask.ids_keep,
            "ids_removed": mask.ids_removed,
            "restore": mask.ids_restore,
            "mask": mask.mask,
        }

    return {key: to_numpy(value) for key, value in drawn(ops.arange(batch, dtype="int32")).items()}
