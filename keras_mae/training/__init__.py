"""Recipes, and the runner that turns one into a directory of results."""

from keras_mae.recipes import PretrainRecipe
from keras_mae.training.callbacks import Progress
from keras_mae.training.protocols import fine_tune, knn, linear_probe
from keras_mae.training.runner import pretrain

__all__ = ["PretrainRecipe", "Progress", "fine_tune", "knn", "linear_probe", "pretrain"]
