"""What tells a run's data and model from others, beyond what its recipe says."""

from __future__ import annotations

import hashlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import distribution
from keras_mae.data.fingerprints import plain
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.targets.patch_targets import PatchTargets

__all__ = ["of_batches", "of_classifier", "of_pretraining", "of_segmenter", "of_weights"]

_NO_DIFFERENCE = ("name", "trainable", "dtype", "remat")
"""Entries of configs by which layers do not differ here; the policy is recorded beside them."""


def of_pretraining(model: MaskedAutoencoder, dataset: Any) -> dict[str, Any]:
    """Return what tells this model, its target and its data from others, as the entry of a run's metadata.

    The weights are left out: a run that is resumed has those of its checkpoint, and new ones may be drawn anew.
    """
    known = {
        "encoder": _settings(model.encoder),
        "decoder": _settings(model.decoder),
        "masks": {**_settings(model.masking), "seed": model.seed},
    }
    if model.target_name == "custom":
        known["target"] = _of_function(model)
    return _entry({**of_batches(dataset), **known})


def of_classifier(encoder: ViTEncoder, dataset: Any, test: Any) -> dict[str, Any]:
    """Return what tells an encoder, its weights and its data from others, as the entry of a run's metadata."""
    known = {**of_batches(dataset), "encoder": _settings(encoder)}
    if "data" in (tested := of_batches(test)):
        known["test"] = tested["data"]
    if keras.backend.backend() == "torch" or not distribution.current().collective_reads:
        known["encoder_weights"] = of_weights(encoder)
    return _entry(known)


def of_segmenter(encoder: ViTEncoder, dataset: Any, test: Any) -> dict[str, Any]:
    """Return the same of an encoder and its images with masks; those to test on may be a source of them."""
    known = of_classifier(encoder, dataset, None)
    found = getattr(test, "fingerprint", None)
    if known and callable(found):
        tested = dict(found())
        known["fingerprint"]["test"] = tested.get("data", tested)
    return known


def of_batches(dataset: Any) -> dict[str, Any]:
    """Return what a dataset says of its data and of how it makes batches of them; nothing if it has no fingerprint.

    Only the main process looks: it is the one that compares.
    """
    found = getattr(dataset, "fingerprint", None)
    return dict(found()) if callable(found) and distribution.current().is_main else {}


def of_weights(layer: keras.layers.Layer) -> str:
    """Return a short digest of a layer's weights."""
    digest = hashlib.sha256()
    for weight in layer.weights:
        digest.update(ops.convert_to_numpy(ops.cast(weight, "float32")).tobytes())
    return digest.hexdigest()[:16]


def _entry(known: dict[str, Any]) -> dict[str, Any]:
    return {"fingerprint": known} if distribution.current().is_main else {}


def _settings(layer: keras.layers.Layer) -> dict[str, Any]:
    config = {name: value for name, value in layer.get_config().items() if name not in _NO_DIFFERENCE}
    return {"class": type(layer).__name__, **plain(config)}


def _of_function(model: MaskedAutoencoder) -> dict[str, Any]:
    """Return what tells a function as target from others: its name, and some of what it makes of one noise image.

    A function that makes other things of it the second time has a name only.
    """
    encoder, function = model.encoder, model.target
    targets = PatchTargets(function, model.norm_pix_loss, encoder)
    name = getattr(function, "__qualname__", type(function).__name__)
    low, high = encoder.pixel_range
    image = np.random.default_rng(0).uniform(low, high, (1, *encoder.image_shape)).astype("float32")

    def values() -> list[str]:
        vectors = np.asarray(ops.convert_to_numpy(targets.vectors(ops.convert_to_tensor(image))), "float64").ravel()
        chosen = vectors[np.linspace(0, len(vectors) - 1, 6).astype(int)]
        # Rounded: another machine may differ in the last digits.
        return [f"{value:.3g}" for value in (vectors.mean(), vectors.std(), *chosen)]

    once, again = values(), values()
    return {"name": name, **({"values": once} if once == again else {})}
