"""PyTorch's training step asks the device for no value: on a GPU, that would wait for all that was started before."""

import keras
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


@pytest.mark.parametrize("make", [pre_training, fine_tuning])
def test_a_training_step_sends_nothing_from_the_host(make):
    """A tensor made of a number of the host's is waited for by both, behind all that a GPU still has to do."""
    import torch
    from torch.overrides import TorchFunctionMode

    sent = []

    class Sent(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function in (torch.as_tensor, torch.tensor, torch.asarray) and not torch.is_tensor(args[0]):
                sent.append(args[0])
            return function(*args, **(kwargs or {}))

    model = make()
    data = torch.zeros((4, *model.encoder.image_shape), dtype=torch.uint8), torch.zeros(4, dtype=torch.int32)
    data = data[: 2 if make is fine_tuning else 1]
    model.train_step(data)  # which makes the optimizer's slots
    with Sent():
        torch.as_tensor(1)
        model.train_step(data)
    # Keras' own loss and metrics count the images: how many of them there are, and in what shape.
    assert sent == ([1] if make is pre_training else [1, (4,), 4])


def test_batches_are_on_the_device_before_keras_sees_them(monkeypatch):
    """Arrays are sent, and what is none, or of a kind that PyTorch does not know, is left to Keras."""
    import torch

    from keras_mae.train_step.uploading import Uploaded

    class Batches(keras.utils.PyDataset):
        given = (
            random_images(2),
            [random_images(2), np.arange(2)],
            {"images": random_images(2)[::-1], "kind": np.arange(2, dtype="uint32")},
        )
        num_batches = len(given)
        epochs = 0

        def __getitem__(self, index):
            return self.given[index]

        def on_epoch_end(self):
            self.epochs += 1

    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # there is none without a GPU
    batches = Batches()
    assert Uploaded.to(torch.device("cpu"), batches) is batches
    assert Uploaded.to(torch.device("cuda"), batches.given) is batches.given
    assert isinstance(Uploaded.to(torch.device("cuda"), batches), Uploaded)
    sent = Uploaded(batches, torch.device("cpu"))
    alone, pair, named = list(sent)
    assert [type(batch) for batch in (alone, pair, named)] == [tuple, tuple, dict]
    np.testing.assert_array_equal(alone[0].numpy(), batches.given[0])
    assert [part.dtype for part in pair] == [torch.uint8, torch.int64]
    np.testing.assert_array_equal(named["images"].numpy(), batches.given[2]["images"])
    assert named["kind"] is batches.given[2]["kind"]
    model = pre_training()
    losses = [model.evaluate(each, return_dict=True, verbose=0)["loss"] for each in (Part(batches), Part(sent))]
    assert losses[0] == losses[1]
    sent.on_epoch_end()
    assert batches.epochs


class Part(keras.utils.PyDataset):
    """The first batch of another dataset, which has images alone."""

    num_batches = 1

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __getitem__(self, index):
        return self.batches[index]


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
