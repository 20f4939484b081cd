"""Optimizers and schedules of the published recipes; ordinary Keras optimizers, saved with the model."""

from keras_mae.optimizers.adamw import AdamW, pretraining_adamw
from keras_mae.optimizers.averages import ValidateAverages, averaged_weights
from keras_mae.optimizers.lars import LARS, probing_lars
from keras_mae.optimizers.layer_decay import fine_tuning_adamw, layer_decay_scales
from keras_mae.optimizers.muon import Muon, pretraining_muon
from keras_mae.optimizers.schedules import warmup_cosine, warmup_polynomial, warmup_stable_decay

__all__ = [
    "LARS",
    "AdamW",
    "Muon",
    "ValidateAverages",
    "averaged_weights",
    "fine_tuning_adamw",
    "layer_decay_scales",
    "pretraining_adamw",
    "pretraining_muon",
    "probing_lars",
    "warmup_cosine",
    "warmup_polynomial",
    "warmup_stable_decay",
]
