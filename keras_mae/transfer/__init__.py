"""What pre-training is for: the paper's four protocols, from one encoder."""

from keras_mae.transfer.features import Features, extract_features
from keras_mae.transfer.fine_tuning import fine_tune, partial_fine_tune
from keras_mae.transfer.knn import knn_accuracy, knn_predict
from keras_mae.transfer.probing import linear_probe

__all__ = [
    "Features",
    "extract_features",
    "fine_tune",
    "knn_accuracy",
    "knn_predict",
    "linear_probe",
    "partial_fine_tune",
]
