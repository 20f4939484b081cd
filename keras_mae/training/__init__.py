"""Recipes, and the runner that turns one into a directory of results."""

from keras_mae.recipes import PretrainRecipe
from keras_mae.training.callbacks import Progress, StopOnNonFinite
from keras_mae.training.feeding import (
    ClassifierFeed,
    LabeledImages,
    PretrainingFeed,
    UnlabeledImages,
    evaluation_batches,
    fit_recipe,
    open_labeled,
    open_test,
    open_unlabeled,
    training_batches,
    validation_batches,
)
from keras_mae.training.protocols import (
    run_evaluation,
    run_fine_tuning,
    run_knn,
    run_linear_probe,
    run_pretraining,
)
from keras_mae.training.resume import Checkpoints, Saving
from keras_mae.training.runner import run
from keras_mae.training.watching import OnlineProbe, Watch

__all__ = [
    "Checkpoints",
    "ClassifierFeed",
    "LabeledImages",
    "OnlineProbe",
    "PretrainRecipe",
    "PretrainingFeed",
    "Progress",
    "Saving",
    "StopOnNonFinite",
    "UnlabeledImages",
    "Watch",
    "evaluation_batches",
    "fit_recipe",
    "open_labeled",
    "open_test",
    "open_unlabeled",
    "run",
    "run_evaluation",
    "run_fine_tuning",
    "run_knn",
    "run_linear_probe",
    "run_pretraining",
    "training_batches",
    "validation_batches",
]
