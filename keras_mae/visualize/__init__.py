"""Pictures: arrays in, a matplotlib figure out; nothing is shown or written unless asked.

Some functions compute arrays (attention, gradients, features), the others draw them, on every backend alike. Only
`keras_vis` is for one backend.
"""

from keras_mae.visualize.adapter import keras_vis
from keras_mae.visualize.anomalies import heat_maps
from keras_mae.visualize.arrays import (
    attention,
    attention_rollout,
    feature_colors,
    patch_maps,
    position_similarity,
    reconstruct_at,
)
from keras_mae.visualize.figures import (
    attention_heads,
    check_savable,
    feature_maps,
    overlays,
    position_maps,
    reconstructions,
)
from keras_mae.visualize.gradients import saliency, smooth_grad
from keras_mae.visualize.history import curves, read_history
from keras_mae.visualize.masks import maskings
from keras_mae.visualize.page import map_page
from keras_mae.visualize.queries import query_attention, query_maps
from keras_mae.visualize.retrieval import neighbors
from keras_mae.visualize.scores import confusion, pixel_confusion
from keras_mae.visualize.segmentations import segmentations

__all__ = [
    "attention",
    "attention_heads",
    "attention_rollout",
    "check_savable",
    "confusion",
    "curves",
    "feature_colors",
    "feature_maps",
    "heat_maps",
    "keras_vis",
    "map_page",
    "maskings",
    "neighbors",
    "overlays",
    "patch_maps",
    "pixel_confusion",
    "position_maps",
    "position_similarity",
    "query_attention",
    "query_maps",
    "read_history",
    "reconstruct_at",
    "reconstructions",
    "saliency",
    "segmentations",
    "smooth_grad",
]
