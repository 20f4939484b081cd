"""Ten steps of training against `torch.optim.AdamW` with the published parameter groups and schedule.

PyTorch's environment trains one copy of a model by our optimizer and one by PyTorch's, and leaves the weights of the
latter in `KERAS_MAE_REFEREE`, where the other environments find them.
"""

import math

import keras
import numpy as np
import pytest
from conftest import build_mae, random_images, randomize_weights
from test_layer_decay import DECAY, DEPTH, layer_of
from training_helpers import quick_compile, trainable, without_key_biases

import keras_mae
from keras_mae.optimizers import fine_tuning_adamw, pretraining_adamw

STEPS, WARMUP, ROWS, PEAK, MINIMUM, WEIGHT_DECAY = 10, 3, 4, 4e-3, 1e-4, 0.3
IMAGES = random_images(STEPS * ROWS)
LABELS = np.random.default_rng(2).integers(0, 7, len(IMAGES))


def model_of(task):
    """Weights that are the same on every backend; a head as small as a new one's, so that gradients are."""
    if task == "pre-training":
        return randomize_weights(build_mae(norm_pix_loss=True), seed=3)
    model = keras_mae.ViTClassifier(build_mae().encoder, 7, drop_path_rate=0.3)
    randomize_weights(model, seed=4)
    for weight in model.head.weights:
        weight.assign(weight * 1e-4)
    return model


# === PyTorch's ===
def rate_of(step, minimum):
    """The published schedule: linear warm-up, then half a cosine."""
    if step < WARMUP:
        return PEAK * step / WARMUP
    return minimum + (PEAK - minimum) * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def group_of(task, variable):
    """The published group: no decay of biases and norms, nor in fine-tuning of class token and positions."""
    tokens = task == "fine-tuning" and variable.path in ("encoder/class_token", "encoder/position_embedding")
    scale = DECAY ** (DEPTH + 1 - layer_of(variable.path)) if task == "fine-tuning" else 1.0
    decays = len(variable.shape) > 1 and not tokens
    return {"params": [variable.value], "scale": scale, "weight_decay": WEIGHT_DECAY if decays else 0.0}


def trained_by_pytorch(task):
    import torch

    model = model_of(task)
    model.compile("sgd")
    groups = [group_of(task, variable) for variable in model.trainable_variables]
    betas, minimum = ((0.9, 0.95), 0.0) if task == "pre-training" else ((0.9, 0.999), MINIMUM)
    optimizer = torch.optim.AdamW(groups, betas=betas)
    for step in range(STEPS):
        batch = slice(step * ROWS, (step + 1) * ROWS)
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step, minimum) * group["scale"]
        optimizer.zero_grad()
        outputs = model.outputs_for_loss(IMAGES[batch], training=True)
        model.compute_loss(IMAGES[batch], keras.ops.convert_to_tensor(LABELS[batch]), outputs).backward()
        optimizer.step()
    return trainable(model)


# === Ours ===
def trained(task):
    model, numbers = model_of(task), {"total_steps": STEPS, "warmup_steps": WARMUP, "weight_decay": WEIGHT_DECAY}
    if task == "pre-training":
        model.compile(pretraining_adamw(PEAK, 256, **numbers))
        given = (IMAGES,)
    else:
        numbers |= {"layer_decay": DECAY, "minimum_learning_rate": MINIMUM}
        model.compile(fine_tuning_adamw(model, PEAK, 256, **numbers))
        given = (IMAGES, LABELS)
    with quick_compile():
        model.fit(*given, batch_size=ROWS, shuffle=False, verbose=0)
    return trainable(model)


@pytest.mark.parametrize("task", ["pre-training", "fine-tuning"])
def test_ten_steps_are_pytorchs(task, referee):
    name = f"trajectory_{task}.npz"
    if referee.live:
        theirs = trained_by_pytorch(task)
        referee.write(name, **theirs)
    else:
        theirs = referee.read(name)
    start, theirs, ours = map(without_key_biases, (trainable(model_of(task)), theirs, trained(task)))
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        update = np.abs(value - start[path]).max()
        assert update > 1e-4, path
        assert np.abs(ours[path] - value).max() < 1e-4 * update, path
