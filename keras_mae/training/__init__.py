"""Recipes, and the runner that turns one into a directory of results."""

from keras_mae.recipes import PretrainRecipe
from keras_mae.training.callbacks import Progress, StopOnNonFinite
from keras_mae.training.protocols import fine_tune, knn, linear_probe
from keras_mae.training.resume import Checkpoints
from keras_mae.training.runner import pretrain

__all__ = [
    "Checkpoints",
    "PretrainRecipe",
    "Progress",
    "StopOnNonFinite",
    "fine_tune",
    "knn",
    "linear_probe",
    "pretrain",
]
