"""Masked autoencoders in Keras 3: the same model on TensorFlow, JAX and PyTorch.

Public names in reading order; `anomaly`, `convert`, `data`, `planning`, `training` and `visualize` load on first use.
"""

from importlib import import_module
from typing import Any

from keras_mae._backend import choose_backend
from keras_mae._interrupt import answer_early

answer_early()
choose_backend()  # before anything imports Keras

from keras_mae import (
    dense,
    distribution,
    from_preset,
    loss,
    masking,
    ops,
    optimizers,
    patches,
    pooling,
    positions,
    presets,
    random,
    recipes,
    targets,
    transfer,
)
from keras_mae.classifier import ViTClassifier
from keras_mae.cross_attention import CrossAttentionDecoder
from keras_mae.decoder import MAEDecoder
from keras_mae.detection import DetectionBackbone
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.masking import BlockMasking, GridMasking, NoiseMasking, RandomMasking
from keras_mae.patches import PatchEmbedding, patchify, unpatchify
from keras_mae.pooling import AttentivePooling
from keras_mae.positions import resize_positions, sincos_positions
from keras_mae.reconstruction import Reconstruction
from keras_mae.segmenter import ViTSegmenter
from keras_mae.transformer import DropPath, TransformerBlock

__version__ = "0.1.0"

__all__ = [
    "AttentivePooling",
    "BlockMasking",
    "CrossAttentionDecoder",
    "DetectionBackbone",
    "DropPath",
    "GridMasking",
    "MAEDecoder",
    "MaskedAutoencoder",
    "NoiseMasking",
    "PatchEmbedding",
    "RandomMasking",
    "Reconstruction",
    "TransformerBlock",
    "ViTClassifier",
    "ViTEncoder",
    "ViTSegmenter",
    "anomaly",
    "convert",
    "data",
    "dense",
    "distribution",
    "loss",
    "masking",
    "ops",
    "optimizers",
    "patches",
    "patchify",
    "planning",
    "pooling",
    "positions",
    "presets",
    "random",
    "recipes",
    "resize_positions",
    "sincos_positions",
    "targets",
    "training",
    "transfer",
    "unpatchify",
    "visualize",
]


def _opener() -> from_preset.Opener:
    from keras_mae.convert import presets as opener

    return opener


from_preset.hand_in(_opener)


def __getattr__(name: str) -> Any:
    if name in ("anomaly", "convert", "data", "planning", "training", "visualize"):
        return import_module(f"keras_mae.{name}")
    raise AttributeError(f"module 'keras_mae' has no attribute {name!r}")
