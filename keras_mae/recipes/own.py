"""The numbers that are our own: for images of 8 to 64 pixels, and for photos.

For small images, a base says what is the same for any number of them. What goes by that number is given for a few
numbers, and `by_images` says what is between them. All of it was chosen on validation images; that for photos is not
tuned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.recipes.sources import OWN

__all__ = [
    "FINE_TUNE",
    "FINE_TUNE_BY_IMAGES",
    "PHOTOS",
    "PRETRAIN",
    "PRETRAIN_BY_IMAGES",
    "PROBE",
    "PROBE_BY_IMAGES",
    "SEGMENT",
    "SEGMENT_BY_HEAD",
    "SEGMENT_BY_IMAGES",
    "by_images",
    "our_own",
    "untuned_base_rate",
]

# === Small images ===
PRETRAIN: dict[str, Any] = {  # one seed each; examples/options_study.py --validate is to compare them with all others
    "epochs": 40,
    "warmup_epochs": 2,
    "batch_size": 256,
    "base_learning_rate": 2e-3,
    "crop_area": None,
    "flip": False,
    "predict_ratio": 0.33,
    "decoder": "cross_attention",
    "optimizer_name": "muon",
}
PRETRAIN_BY_IMAGES: dict[int, dict[str, Any]] = {
    1_437: {  # digits
        "epochs": 40,
        "warmup_epochs": 2,
        "batch_size": 32,
        "base_learning_rate": 8e-3,
        "norm_pix_loss": False,
        "predict_ratio": 1.0,
        "decoder": "self_attention",
        "optimizer_name": "adamw",
    },
    60_000: {},  # Fashion-MNIST
}

FINE_TUNE: dict[str, Any] = {
    "epochs": 40,
    "warmup_epochs": 2,
    "batch_size": 128,
    "base_learning_rate": 2e-3,
    "rand_augment": 0.0,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "shift": 0.07,  # two pixels of 28
    "crop_area": None,
    "evaluation_fraction": 1.0,
}
_PLACES: dict[str, Any] = {"pooling": "flatten"}  # objects stand in the middle, so that places mean something
FINE_TUNE_BY_IMAGES: dict[int, dict[str, Any]] = {  # Fashion-MNIST, and digits
    600: {**_PLACES, "epochs": 60, "warmup_epochs": 5, "batch_size": 32},
    1_437: {**_PLACES, "epochs": 30, "warmup_epochs": 3, "batch_size": 32, "base_learning_rate": 8e-3},  # digits
    6_000: {**_PLACES, "epochs": 20, "warmup_epochs": 1, "batch_size": 64, "base_learning_rate": 4e-3},
    60_000: {**_PLACES, "epochs": 10, "warmup_epochs": 1, "batch_size": 128, "base_learning_rate": 2e-3},
}

PROBE: dict[str, Any] = {
    "epochs": 100,
    "warmup_epochs": 10,
    "batch_size": 256,
    "base_learning_rate": 4.0,
    "crop_area": None,
    "flip": False,  # its features are computed once, as in examples/study.py
    "evaluation_fraction": 1.0,
    "clamp_crops": False,
}
PROBE_BY_IMAGES: dict[int, dict[str, Any]] = {
    600: {**_PLACES, "batch_size": 150},
    6_000: _PLACES,
    60_000: {**_PLACES, "epochs": 10, "warmup_epochs": 1},  # thirty did no better
}

SEGMENT: dict[str, Any] = {  # chosen on scenes of 96 px, with 200 masks: examples/segmentation_study.py
    "epochs": 50,
    "warmup_epochs": 2,
    "batch_size": 16,
    "base_learning_rate": 1.6e-2,
    "layer_decay": 0.75,
    "scale": (0.8, 1.25),
}
SEGMENT_BY_IMAGES: dict[int, dict[str, Any]] = {  # 300, 600 and 1,250 updates
    20: {"epochs": 150, "warmup_epochs": 7, "batch_size": 10},
    200: {},
    2_000: {"epochs": 10, "warmup_epochs": 1},
}
SEGMENT_BY_HEAD: dict[str, dict[str, Any]] = {
    "upernet": {},
    "linear": {"weight_decay": 0.01, "trainable_blocks": 0, "base_learning_rate": 0.256},  # on a frozen encoder
}

_MOST_EPOCHS = 2
"""Times the epochs for the fewest images, for fewer still: each epoch ends with an evaluation."""


def our_own(base: Mapping[str, Any], cells: Mapping[int, Mapping[str, Any]], images: int | None) -> dict[str, Any]:
    """Return the fields of the recipe for small images, if need be for a number of them."""
    if images is None:
        return {**base, "source": OWN}
    return {**by_images(base, cells, _checks.positive_int("images", images)), "source": OWN}


def by_images(base: Mapping[str, Any], cells: Mapping[int, Mapping[str, Any]], images: int) -> dict[str, Any]:
    """Return the fields of a recipe for a number of images.

    They are those of the nearest number in `cells`, on a logarithmic scale, except for two. The batch is made smaller
    where more than a tenth of the images would fill none. And the length: the number of updates is interpolated on
    that scale. Fewer images than any in `cells` are trained on for as many updates, within
    twice as many epochs; more of them for as many epochs.

    Args:
        base: Fields that any number of images has.
        cells: Fields by number of images.
        images: Number of images to train on.

    Example:
        >>> by_images(FINE_TUNE, FINE_TUNE_BY_IMAGES, 600)["epochs"]
        60
    """
    known = {count: {**base, **cells[count]} for count in sorted(cells)}
    chosen = dict(known[min(known, key=lambda count: abs(math.log(count / images)))])
    length = chosen["epochs"]
    if images % chosen["batch_size"] > images / 10:
        chosen["batch_size"] = images // math.ceil(images / chosen["batch_size"])
    if images < max(known):
        updates = [count * fields["epochs"] / fields["batch_size"] for count, fields in known.items()]
        wanted = np.exp(np.interp(math.log(images), np.log(list(known)), np.log(updates)))
        epochs = max(round(float(wanted) * chosen["batch_size"] / images), 1)
        chosen["epochs"] = min(epochs, _MOST_EPOCHS * length) if images < min(known) else epochs
    if chosen["warmup_epochs"]:
        warmup = max(round(chosen["warmup_epochs"] * chosen["epochs"] / length), 1)
        chosen["warmup_epochs"] = min(warmup, chosen["epochs"] - 1)
    return chosen


# === Photos ===
PHOTOS: dict[str, Any] = {
    "epochs": 40,
    "warmup_epochs": 2,
    "batch_size": 32,
    "base_learning_rate": 8e-3,
    "norm_pix_loss": False,
}
"""Pre-training on a folder, on one machine: 1e-3 at this batch."""
_UNTUNED: dict[str, tuple[dict[str, Any], float]] = {  # and the published base learning rate
    "pretrain": (PHOTOS, 1.5e-4),
    "fine_tune": ({"batch_size": 32, "base_learning_rate": 8e-3}, 5e-4),
}


def untuned_base_rate(kind: str, batch_size: int) -> float:
    """Return the base learning rate for a folder and batches of so many images.

    A rate that grows with the batch, as published for batches of thousands, would be 0.03 at 1,024 photos. So it
    stays, above the recipe's batch, as high as at that, until the published rule asks for more.

    Args:
        kind: Kind of recipe, "pretrain" or "fine_tune".
        batch_size: Number of images behind one update.

    Example:
        >>> [untuned_base_rate("pretrain", size) * size / 256 for size in (32, 512, 4096)]
        [0.001, 0.001, 0.0024]
    """
    recipe, published = _UNTUNED[kind]
    base = float(recipe["base_learning_rate"])
    return min(max(base * int(recipe["batch_size"]) / batch_size, published), base)
