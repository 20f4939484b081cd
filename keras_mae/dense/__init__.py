"""What stands between the features of an encoder and dense tasks: necks, that make pyramids of maps, and heads."""

from keras_mae.dense.heads import FCNHead, LinearHead, UPerHead
from keras_mae.dense.necks import MultiLevelNeck, SimplePyramid

__all__ = ["FCNHead", "LinearHead", "MultiLevelNeck", "SimplePyramid", "UPerHead"]
