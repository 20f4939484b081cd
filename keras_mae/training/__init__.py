"""Recipes, and the runner that turns one into a directory of results."""

from keras_mae.recipes import PretrainRecipe
from keras_mae.training.callbacks import Progress, StopOnNonFinite
from keras_mae.training.protocols import evaluate, fine_tune, knn, linear_probe, pretrain
from keras_mae.training.resume import Checkpoints
from keras_mae.training.runner import run
from keras_mae.training.watching import OnlineProbe, Watch

__all__ = [
    "Checkpoints",
    "OnlineProbe",
    "PretrainRecipe",
    "Progress",
    "StopOnNonFinite",
    "Watch",
    "evaluate",
    "fine_tune",
    "knn",
    "linear_probe",
    "pretrain",
    "run",
]
