"""Recipes, and the runner that turns one into a directory of results."""

from keras_mae.recipes import PretrainRecipe
from keras_mae.training.callbacks import Progress, StopOnNonFinite
from keras_mae.training.protocols import (
    run_evaluation,
    run_fine_tuning,
    run_knn,
    run_linear_probe,
    run_pretraining,
)
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
    "run",
    "run_evaluation",
    "run_fine_tuning",
    "run_knn",
    "run_linear_probe",
    "run_pretraining",
]
