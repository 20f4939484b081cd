"""Training without labels: `compile`, `fit` and `evaluate` of a model that brings its own loss."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_mae.fit_arguments import check_data
from keras_mae.mask_inputs import check_names, masks_to_check
from keras_mae.train_step import TrainStep

__all__ = ["Unlabeled"]


class Unlabeled(TrainStep):
    """A model of images, or of dicts of images and masks, that needs no labels and has its own loss and metrics."""

    def compile(self, optimizer: Any = "rmsprop", **kwargs: Any) -> None:
        """Configure training. Arguments are `keras.Model.compile`'s, without losses and metrics.

        Raises:
            ValueError: If a loss or metrics are given: the model brings its own.
        """
        refused = [
            key for key in ("loss", "loss_weights", "metrics", "weighted_metrics") if kwargs.get(key) is not None
        ]
        if refused:
            raise ValueError(
                "A MaskedAutoencoder has its own loss and metrics (loss, psnr, skipped_steps): compile it with "
                f"an optimizer only. Received: {', '.join(refused)}"
            )
        super().compile(optimizer=optimizer, **kwargs)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does; `y` may be left out, also with sample weights."""
        check_data(x, y, kwargs.get("sample_weight"))
        held_out = kwargs.get("validation_data")
        self._check_first(x, held_out)
        if isinstance(held_out, tuple) and len(held_out) == 3:
            kwargs["validation_data"] = (held_out[0], _labels(held_out[1], held_out[2]), held_out[2])
        return super().fit(x, _labels(y, kwargs.get("sample_weight")), *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as `keras.Model.evaluate` does; `y` may be left out, also with sample weights."""
        check_data(x, y, kwargs.get("sample_weight"))
        self._check_first(x)
        return super().evaluate(x, _labels(y, kwargs.get("sample_weight")), *args, **kwargs)

    def _check_first(self, *data: Any) -> None:
        """Check the first masks of arrays before a compiled step meets them: its error is none of Python's."""
        for inputs in data:
            check_names(inputs[0] if isinstance(inputs, tuple) and inputs else inputs)
        for masks in masks_to_check(data):
            self.check_batch({"mask": masks})


def _labels(y: Any, sample_weight: Any) -> Any:
    """Return labels that nobody reads: without any, Keras drops the sample weights without a word."""
    return np.zeros(len(sample_weight)) if y is None and sample_weight is not None else y
