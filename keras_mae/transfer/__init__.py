"""What pre-training is for: the paper's four protocols, from one encoder, and what its features find."""

from keras_mae.file_predictions import Predictions, join_predictions
from keras_mae.file_segmentations import Segmentations
from keras_mae.transfer.class_weights import balanced_class_weights
from keras_mae.transfer.embedding import embed, join_embeddings
from keras_mae.transfer.embeddings import Embeddings, read_embeddings
from keras_mae.transfer.features import Features, extract_features
from keras_mae.transfer.fine_tuning import fine_tune, partial_fine_tune
from keras_mae.transfer.knn import knn_accuracy, knn_predict
from keras_mae.transfer.probing import linear_probe
from keras_mae.transfer.rank import rankme
from keras_mae.transfer.segmenting import segment
from keras_mae.transfer.similar import map_coordinates, nearest

__all__ = [
    "Embeddings",
    "Features",
    "Predictions",
    "Segmentations",
    "balanced_class_weights",
    "embed",
    "extract_features",
    "fine_tune",
    "join_embeddings",
    "join_predictions",
    "knn_accuracy",
    "knn_predict",
    "linear_probe",
    "map_coordinates",
    "nearest",
    "partial_fine_tune",
    "rankme",
    "read_embeddings",
    "segment",
]
