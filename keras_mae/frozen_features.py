"""A classifier on what its frozen encoder gave before: the part of a step that is left when features are kept."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_mae._types import Tensor
from keras_mae.encoder import ViTEncoder

__all__ = ["FEATURES", "TakesFeatures"]

FEATURES = "features"
"""Name of the entry by which a batch holds features, and no images."""


class TakesFeatures:
    """A classifier whose steps also take batches of ({"features": features}, labels).

    The features are what comes out of the frozen encoder: the pooled tokens, (batch, embed_dim), without the norm
    that "mean" has after them; for "flatten" and "attentive" all patch tokens, (batch, patches * embed_dim).
    """

    encoder: ViTEncoder
    pooling: str
    pool_norm: Any
    attentive_pooling: Any
    head: Any

    @property
    def frozen_pooling(self) -> str:
        """The pooling of the features that its steps take: what is learned of its own comes after it."""
        return "flatten" if self.pooling == "attentive" else self.pooling

    def outputs_for_loss(self, x: Any, training: bool) -> Any:
        """Return the logits, of images or of features.

        Args:
            x: Images, or {"features": features}.
            training: Whether this is a training step.
        """
        if not (isinstance(x, dict) and FEATURES in x):
            return super().outputs_for_loss(x, training)  # type: ignore[misc]
        features = x[FEATURES]
        if self.attentive_pooling is not None:
            patches = (-1, self.encoder.num_patches, self.encoder.embed_dim)
            features = self.attentive_pooling(ops.reshape(features, patches))
        elif self.pool_norm is not None:
            features = self.pool_norm(features)
        logits: Tensor = self.head(ops.cast(features, "float32"), training=training)
        return logits
