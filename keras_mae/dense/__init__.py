"""What stands between the features of an encoder and dense tasks.

Necks, that make pyramids of maps; heads; and what segmentations are trained on and scored by.
"""

from keras_mae.dense.heads import FCNHead, LinearHead, UPerHead
from keras_mae.dense.necks import MultiLevelNeck, SimplePyramid
from keras_mae.dense.scores import ClassAccuracy, MeanIoU, PixelAccuracy, PixelCrossEntropy, confusion, scores_of
from keras_mae.dense.windows import window_starts

__all__ = [
    "ClassAccuracy",
    "FCNHead",
    "LinearHead",
    "MeanIoU",
    "MultiLevelNeck",
    "PixelAccuracy",
    "PixelCrossEntropy",
    "SimplePyramid",
    "UPerHead",
    "confusion",
    "scores_of",
    "window_starts",
]
