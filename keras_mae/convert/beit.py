"""The model of `transformers` that classifies by the mean of its patches: BEiT, without its other peculiarities.

`ViTForImageClassification` takes the class token. `BeitForImageClassification` with `use_mean_pooling` puts a norm
behind the mean of the patch tokens and has none before it, as fine-tuning does here. Its keys have no bias, which
makes no difference: a bias b of the keys adds q · b to all scores of a query q alike, which softmax does not notice.

Reference: "BEiT: BERT Pre-Training of Image Transformers" (arXiv 2106.08254).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_mae.convert.weight_map import Transform

__all__ = ["BIAS_WITHOUT_KEY", "PREFIX", "check", "config", "refuse"]

PREFIX = "beit."
"""What the names of all tensors but the head's begin with."""
BIAS_WITHOUT_KEY = Transform(
    lambda arrays: np.concatenate([arrays[0], np.zeros_like(arrays[0]), arrays[1]]),
    lambda weight: [np.split(weight, 3)[0], np.split(weight, 3)[2]],
)
"""Biases of query and value in the file."""
# What `config.json` must say, and what it means where it says nothing.
_SAID: dict[str, tuple[Any, Any]] = {
    "use_absolute_position_embeddings": (True, False),
    "use_relative_position_bias": (False, False),
    "use_shared_relative_position_bias": (False, False),
    "use_mean_pooling": (True, True),
    "layer_scale_init_value": (0.0, 0.1),
}


def check(config: dict[str, Any], kind: str) -> None:
    """Raise a `ValueError` unless a BEiT is a classifier like those of this package.

    Args:
        config: Content of its `config.json`.
        kind: Kind of model that its tensors make, such as "classifier".
    """
    if kind != "classifier":
        raise ValueError("A BEiT that can be read is a classifier. Received: one without classifier.weight")
    found = {name: config.get(name, usual) for name, (_, usual) in _SAID.items()}
    if wrong := [f"{name}={found[name]!r}" for name, (wanted, _) in _SAID.items() if found[name] != wanted]:
        raise ValueError(
            "A BEiT that can be read has absolute positions only, no layer scale, and classifies by the mean of its "
            f"patches, as one that was saved here does. Received: {', '.join(wrong)}"
        )


def config(encoder: Any) -> dict[str, Any]:
    """Return what `config.json` says about a BEiT with one of our encoders, besides what all models say."""
    own = {name: wanted for name, (wanted, _) in _SAID.items()}
    return {**own, "use_mask_token": False, "drop_path_rate": float(encoder.drop_path_rate)}


def refuse(encoder: Any) -> None:
    """Raise a `ValueError` for the encoder of a classifier that no BEiT can hold."""
    (height, width), (rows, columns) = encoder.image_shape[:2], encoder.patch_size
    if height != width or rows != columns:
        raise ValueError(
            "The model of `transformers` that classifies by the mean of the patches, BEiT, has square images and "
            f"patches. Received: image_shape={encoder.image_shape}, patch_size={encoder.patch_size}"
        )
