"""What is unlike images that are known to be normal: scores, heat maps, and the runs that leave them."""

from keras_mae.anomaly.detector import METHODS, AnomalyDetector
from keras_mae.anomaly.folders import ScoredImages, open_scored
from keras_mae.anomaly.neighbors import coreset, nearest_distances
from keras_mae.anomaly.partitions import complementary_masks
from keras_mae.anomaly.runs import run_anomaly
from keras_mae.anomaly.scores import AnomalyScores, auroc

__all__ = [
    "METHODS",
    "AnomalyDetector",
    "AnomalyScores",
    "ScoredImages",
    "auroc",
    "complementary_masks",
    "coreset",
    "nearest_distances",
    "open_scored",
    "run_anomaly",
]
