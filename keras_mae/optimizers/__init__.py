"""Optimizers and schedules of the published recipes; ordinary Keras optimizers, saved with the model."""

from keras_mae.optimizers.adamw import AdamW, pretraining_adamw
from keras_mae.optimizers.schedules import warmup_cosine

__all__ = ["AdamW", "pretraining_adamw", "warmup_cosine"]
