"""What a masked autoencoder learns to predict for each patch: pixels, histograms of gradients, or anything else."""

from keras_mae.targets.base import Target
from keras_mae.targets.hog import HOG
from keras_mae.targets.low_pass import LowPass
from keras_mae.targets.teacher import Teacher

__all__ = ["HOG", "LowPass", "Target", "Teacher"]
