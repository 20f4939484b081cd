"""Weights of which each of several PyTorch processes holds a part: what is refused, and how long they are whole."""

import time

import keras
import numpy as np
import pytest

import keras_mae
from keras_mae import distribution

pytestmark = pytest.mark.backends("torch")


@pytest.fixture(autouse=True)
def _needs_torch():
    pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        (lambda: keras_mae.optimizers.LARS(), {}, "change each number by itself.*Received: LARS"),
        (lambda: keras_mae.optimizers.Muon(), {}, "change each number by itself.*Received: Muon"),
        (lambda: keras.optimizers.SGD(clipnorm=1.0), {}, "would clip by the norms of parts.*SGD with clipnorm=1.0"),
        (lambda: keras_mae.optimizers.AdamW(), {"jit_compile": True}, "cannot be compiled: jit_compile=False"),
    ],
)
def test_what_takes_whole_weights_is_refused(monkeypatch, optimizer, options, message):
    encoder = keras_mae.ViTEncoder((8, 8, 1), 4, embed_dim=4, depth=1, num_heads=1)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(4, depth=1, num_heads=1))
    monkeypatch.setattr(distribution, "_current", distribution.Devices("torch_fsdp", replicas=2, processes=2))
    monkeypatch.setattr("keras_mae.sharding.batch_parts", lambda: 2)  # and no other process to share out to
    with pytest.raises(ValueError, match=message):
        mae.compile(optimizer(), **options)


def test_a_constraint_on_a_part_is_refused():
    from keras_mae import sharding

    model = keras.Sequential([keras.layers.Dense(2, kernel_constraint="max_norm")])
    model.build((None, 2))
    model.compile(keras.optimizers.Adam())
    with pytest.raises(ValueError, match="a constraint would see a part of its weight. Received: one of '.*kernel'"):
        sharding.check(model)


def _outlives(storage, seconds=10):
    """Whether a storage is kept: gloo's own thread lets go of it some time after a message has been waited for."""
    until = time.monotonic() + seconds
    while not storage.expired() and time.monotonic() < until:
        time.sleep(0.001)
    return not storage.expired()


@pytest.mark.parametrize("remat", [False, True])
def test_a_weight_that_is_shared_out_is_whole_only_while_it_is_used(monkeypatch, remat):
    """In one process, whose part is all of it: gradients are the same bits."""
    import torch

    from keras_mae import sharding

    # An odd number of numbers, of which the whole is the first.
    monkeypatch.setattr(sharding, "_padded", lambda whole: torch.nn.functional.pad(whole.reshape(-1), (0, 1)))
    gathered, gather = [], sharding._gather

    def watched(numbers, part):
        gathered.append(sharding.StorageWeakRef(numbers.untyped_storage()))
        gather(numbers, part)

    monkeypatch.setattr(sharding, "_gather", watched)
    encoder = keras_mae.ViTEncoder((8, 8, 1), 4, embed_dim=8, depth=3, num_heads=2, remat=remat)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype("uint8")

    def gradients():
        with sharding.reading_again():
            loss = keras.ops.sum(keras.ops.square(encoder(images, training=True)))
        alive = [_outlives(one) for one in gathered]
        if sharding.distributed.is_initialized():
            with sharding.weighting(loss, 2):
                loss.backward()
        else:
            loss.backward()
        found = [weight._value.grad.clone() for weight in encoder.trainable_weights]
        for weight in encoder.trainable_weights:
            weight._value.grad = None
        return found, alive

    expected, _ = gradients()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        for weight in encoder.weights:
            sharding.share_out(weight)
        found, alive = gradients()
    finally:
        torch.distributed.destroy_process_group()
    matrices = 3 * 4 + 1  # of blocks, and the patch embedding's; positions have no gradient
    assert alive == [False] * (matrices + 1)
    assert len(gathered) == matrices + 1 + 3 * 4  # the embedding's own input needs no gradient
    for weight, own, wanted in zip(encoder.trainable_weights, found, expected, strict=True):
        assert own.numel() - wanted.numel() == isinstance(weight, sharding.ShardedVariable)
        torch.testing.assert_close(own[: wanted.numel()].view(wanted.shape) if own.ndim == 1 else own, wanted)
