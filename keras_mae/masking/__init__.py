"""Which patches are removed: at random, in cells or blocks, on a grid, by filtered noise, or as the caller says.

Every masking is a function of the order of a sample's noise alone, so one kind of noise serves all, and
noise given by the caller may be integer or float. 1 = removed, 0 = kept, everywhere.
"""

from keras_mae.masking.base import Mask, Masking
from keras_mae.masking.explicit import explicit_mask
from keras_mae.masking.layers import BlockMasking, GridMasking, RandomMasking
from keras_mae.masking.names import make
from keras_mae.masking.noise import NoiseMasking

__all__ = [
    "BlockMasking",
    "GridMasking",
    "Mask",
    "Masking",
    "NoiseMasking",
    "RandomMasking",
    "explicit_mask",
    "make",
]
