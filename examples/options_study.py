"""Which options pay: Fashion-MNIST, every option at the same cost, counted in core-seconds measured in the run.

    KERAS_BACKEND=torch python examples/options_study.py                     # many hours on 2 cores; resumes
    KERAS_BACKEND=torch python examples/options_study.py --only 'pixels-*'   # some cells
    KERAS_BACKEND=torch python examples/options_study.py --only nothing      # tables of what is there

Each option is one change to the plain recipe (the paper's model and loss, tuned on validation images). A cell first
times 30 steps of its model, and then trains for as many steps as its budget pays for: an option that makes a step
cheaper takes more of them. Options are compared on 10,000 training images kept apart (`--validate`), the winners are
trained once more on all 60,000 and scored on the 10,000 test images.

Beside them: classifiers on raw pixels, a small convolutional network and the same ViT trained from random weights with
the same augmentation and the same core-seconds, pre-training included, and the ViTMAE of `transformers` trained by the
settings of its own example. All read their features out by the same code.
"""

from __future__ import annotations

import argparse
import fnmatch
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import study

LABELS = (600, 6_000, 60_000)
SEEDS = (0, 1, 2)
ENCODER = {"image_shape": (28, 28, 1), "patch_size": 4, "embed_dim": 128, "depth": 6, "num_heads": 4}
DECODER = {"embed_dim": 64, "depth": 2, "num_heads": 4}
BUDGET = 600  # core-seconds of pre-training, to compare options by
FINAL = 3_600  # core-seconds of pre-training, for the winners
PLAIN = {"batch_size": 256, "base_learning_rate": 2e-3, "flip": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pixels": {"norm_pix_loss": False},
    "cells_of_2": {"mask_cell": 2},
    "green": {"masking": "green"},
    "red": {"masking": "red"},
    "blue": {"masking": "blue"},
    "purple": {"masking": "purple"},
    "no_class_token": {"class_tokens": 0},
    "class_tokens_4": {"class_tokens": 4},
    "predict_third": {"predict_ratio": 1 / 3},
    "cross": {"decoder": "cross_attention"},
    "cross_third": {"decoder": "cross_attention", "predict_ratio": 1 / 3},
    "fuse": {"fuse_blocks": (1, 3, 5)},
    "gentle_crop": {"shift": 0.07, "flip": True},
    "low_pass": {"norm_pix_loss": False, "target": "low_pass"},
    "hog": {"norm_pix_loss": False, "target": "hog"},
    "muon": {"optimizer_name": "muon"},
    "ema": {"ema_momentum": 0.999},
    "wsd": {"schedule": "wsd"},
}


# === In a cell's process ===
def steps_for(budget: float, step: Callable[[int], None]) -> tuple[int, float]:
    """Return how many steps `budget` core-seconds pay for, and what one costs; `step(n)` takes n steps."""
    step(10)
    began = time.process_time()
    step(30)
    cost = (time.process_time() - began) / 30
    return max(1, int(budget / cost)), cost
