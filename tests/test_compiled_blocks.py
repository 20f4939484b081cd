"""`jit_compile=True` on PyTorch: blocks of one kind are one program without a break, and compute what they did."""

import keras
import numpy as np
import pytest
from conftest import random_images

import keras_mae

pytestmark = pytest.mark.backends("torch")


@pytest.fixture(autouse=True)
def _needs_torch():
    pytest.importorskip("torch")


def make(decoder, **options):
    encoder = keras_mae.ViTEncoder((16, 16, 3), 4, embed_dim=32, depth=3, num_heads=2, drop_path_rate=0.3, **options)
    return keras_mae.MaskedAutoencoder(encoder, decoder(16, depth=2, num_heads=2, **options))


@pytest.mark.parametrize(
    ("decoder", "options", "programs"),
    [
        # Of the decoder's blocks the last computes the removed tokens only.
        (keras_mae.MAEDecoder, {}, 3),
        (keras_mae.CrossAttentionDecoder, {"remat": True}, 2),
    ],
)
def test_a_step_is_the_same(decoder, options, programs):
    import torch

    images = random_images(7, (16, 16, 3))
    losses, gradients, weights = [], [], None
    for compiled in (False, True):
        keras.utils.set_random_seed(0)
        model = make(decoder, **options)
        weights = weights or model.get_weights()
        model.set_weights(weights)
        model.compile(keras_mae.optimizers.AdamW(1e-3), jit_compile=compiled)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        for start in (0, 3):  # batches of three and four images
            model.train_step((torch.from_numpy(images[start : start + 3 + start // 3]),))
        gradients.append([weight.value.grad.clone() for weight in model.trainable_weights])
        losses.append(model.evaluate(images, batch_size=7, verbose=0, return_dict=True)["loss"])
    assert not torch._dynamo.utils.counters["graph_break"]
    # For all blocks of a kind a program for training and one for evaluation, of one size of batch and then of any.
    assert len(model._block_programs._by_kind) == 2 * programs
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4 * programs
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for whole, apart in zip(*gradients, strict=True):
        np.testing.assert_allclose(apart, whole, rtol=1e-3, atol=1e-4)


def test_blocks_with_windows_are_left_as_they_are():
    """Three of four, and a segmenter's step is the same."""
    images, labels = random_images(2, (16, 16, 3)), np.random.default_rng(0).integers(0, 3, (2, 16, 16))
    losses, weights = [], None
    for compiled in (False, True):
        encoder = keras_mae.ViTEncoder(
            (16, 16, 3), 4, embed_dim=16, depth=4, num_heads=2, window=3, global_blocks=[-1], drop_path_rate=0.2
        )
        model = keras_mae.ViTSegmenter(encoder, 3)
        weights = weights or model.get_weights()
        model.set_weights(weights)
        model.compile("sgd", jit_compile=compiled)
        losses.append(model.train_on_batch(images, labels)[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(model._block_programs._by_kind) == 1


def test_nothing_is_compiled_without_it():
    import torch

    model = make(keras_mae.MAEDecoder)
    model.compile("sgd")
    torch._dynamo.utils.counters.clear()
    model.train_on_batch(random_images(2, (16, 16, 3)))
    model.predict(random_images(2, (16, 16, 3)), verbose=0)
    assert not torch._dynamo.utils.counters["stats"]
