"""PyTorch's training step asks the device for no value: on a GPU, that would wait for all that was started before."""

import numpy as np
import pytest
from conftest import build_mae, random_images

import keras_mae
from keras_mae.optimizers import AdamW, fine_tuning_adamw, pretraining_adamw

pytestmark = pytest.mark.backends("torch")


@pytest.fixture(autouse=True)
def _needs_torch():
    pytest.importorskip("torch")


SCHEDULE = {"total_steps": 10, "warmup_steps": 2}


def pre_training():
    model = build_mae(norm_pix_loss=True, predict_ratio=0.5, masks_per_image=2, drop_path_rate=0.2)
    model.compile(pretraining_adamw(1e-3, 256, **SCHEDULE))
    return model


def fine_tuning():
    model = keras_mae.ViTClassifier(build_mae().encoder, 5, batch_norm=True, drop_path_rate=0.2)
    optimizer = fine_tuning_adamw(model, 1e-3, 256, layer_decay=0.7, **SCHEDULE)
    model.compile(optimizer, keras_mae.loss.CrossEntropy(), [keras_mae.loss.Accuracy()])
    return model


@pytest.mark.parametrize("make", [pre_training, fine_tuning])
def test_a_training_step_needs_no_value(make):
    """Tensors that have a shape and no values are enough for it. Labels, which are checked, come from the host."""
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    model = make()
    with FakeTensorMode(allow_non_fake_inputs=True):
        data = torch.empty((4, *model.encoder.image_shape)), torch.zeros(4, dtype=torch.int32)
        logs = model.train_step(data[: 2 if make is fine_tuning else 1])
        with pytest.raises(DataDependentOutputException):
            float(logs["loss"])


def test_a_step_that_is_not_taken_leaves_no_trace():
    """Neither in weights and slots nor in the count of updates, by which learning rates go."""
    import torch

    model = build_mae()
    model.compile(AdamW(0.01))
    images = random_images(3).astype("float32")
    model.train_on_batch(images)
    kept = [*model.trainable_weights, *model.optimizer.variables]
    before = [variable.value.clone() for variable in kept]
    model.train_step((torch.tensor(np.where(images > 250, np.nan, images)),))
    for variable, value in zip(kept, before, strict=True):
        assert torch.equal(variable.value, value), variable.path
    model.train_on_batch(images)
    assert int(model.optimizer.iterations) == 2
