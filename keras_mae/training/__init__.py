"""Runs: training and scoring by a recipe, each of which leaves a directory of results."""

from keras_mae.recipes import PretrainRecipe
from keras_mae.training.batches import evaluation_batches, fit_recipe, training_batches, validation_batches
from keras_mae.training.callbacks import Progress, StopOnNonFinite
from keras_mae.training.checkpoints import Checkpoints, Interrupted, Position, Preempted
from keras_mae.training.directory import RunDirectory, RunFile
from keras_mae.training.feeding import (
    ClassifierFeed,
    LabeledImages,
    PretrainingFeed,
    UnlabeledImages,
    open_labeled,
    open_test,
    open_unlabeled,
)
from keras_mae.training.memory import StepMemory, memory
from keras_mae.training.online import open_probe, open_rankme
from keras_mae.training.pairs import PairedImages, SegmentationFeed, open_pairs, open_test_pairs
from keras_mae.training.protocols import run_fine_tuning, run_linear_probe, run_pretraining
from keras_mae.training.runner import RunOptions, run
from keras_mae.training.saving import Saving
from keras_mae.training.scoring import run_evaluation, run_knn
from keras_mae.training.segmenting import run_segmentation, run_segmentation_scores
from keras_mae.training.watching import OnlineProbe, RankMe, Watch

__all__ = [
    "Checkpoints",
    "ClassifierFeed",
    "Interrupted",
    "LabeledImages",
    "OnlineProbe",
    "PairedImages",
    "Position",
    "Preempted",
    "PretrainRecipe",
    "PretrainingFeed",
    "Progress",
    "RankMe",
    "RunDirectory",
    "RunFile",
    "RunOptions",
    "Saving",
    "SegmentationFeed",
    "StepMemory",
    "StopOnNonFinite",
    "UnlabeledImages",
    "Watch",
    "evaluation_batches",
    "fit_recipe",
    "memory",
    "open_labeled",
    "open_pairs",
    "open_probe",
    "open_rankme",
    "open_test",
    "open_test_pairs",
    "open_unlabeled",
    "run",
    "run_evaluation",
    "run_fine_tuning",
    "run_knn",
    "run_linear_probe",
    "run_pretraining",
    "run_segmentation",
    "run_segmentation_scores",
    "training_batches",
    "validation_batches",
]
