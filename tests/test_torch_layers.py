"""What goes around Keras' own operations on PyTorch gives the same numbers, and copies nothing."""

import keras
import numpy as np
import pytest

import keras_mae
from keras_mae.ops import BatchNormalization, Convolution, log_softmax

pytestmark = [
    pytest.mark.backends("torch"),
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others have Keras' own operations"),
]


def random(*shape):
    return np.random.default_rng(0).normal(1, 2, shape)


def copied(call):
    """The shapes of what is copied while `call` runs."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    shapes = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.clone.default:
                shapes.append(tuple(args[0].shape))
            return function(*args, **(kwargs or {}))

    with Copies():
        call()
    return shapes


def trained(layer, x):
    """What a layer makes of x, the gradients of x and of its weights, and its weights after it."""
    import torch

    x = torch.tensor(x, dtype=getattr(torch, layer.compute_dtype), requires_grad=True)
    y = layer(x, training=True)
    assert y.dtype == x.dtype
    (y.float() ** 2 * torch.arange(y.shape[-1])).sum().backward()
    found = [y, x.grad, *(weight.value.grad for weight in layer.trainable_weights)]
    return [value.detach().float().numpy() for value in found + [weight.value for weight in layer.weights]]


def test_attention_copies_nothing():
    """Keras' own copies query, key and value, and then their gradients."""
    attention = keras_mae.TransformerBlock(3).attention
    attention.build((None, None, 12))
    tokens = keras.ops.convert_to_tensor(random(3, 9, 12).astype("float32"))
    assert copied(lambda: attention(tokens)) == []


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("side", [1, 3])
def test_a_convolution_is_keras_own_without_copies(dtype, side):
    own = Convolution(5, side, dtype=dtype)
    theirs = keras.layers.Conv2D(5, side, padding="same", use_bias=False, dtype=dtype)
    for layer in (own, theirs):
        layer.build((None, 6, 7, 4))
    theirs.kernel.assign(own.kernel)
    x = random(2, 6, 7, 4)
    for ours, expected in zip(trained(own, x), trained(theirs, x), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 if dtype == "float32" else 0.2)
    maps = keras.ops.convert_to_tensor(x.astype("float32"))
    assert copied(lambda: theirs(maps)) != []
    assert copied(lambda: own(maps)) == []


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"axis": 1}])
@pytest.mark.parametrize("shape", [(8, 3), (6, 5, 4, 3)])
def test_batch_norm_is_keras_own(dtype, options, shape):
    made = []
    for kind in (BatchNormalization, keras.layers.BatchNormalization):
        layer = kind(dtype=dtype, momentum=0.8, **options)
        layer.build(shape)
        made.append(trained(layer, random(*shape)))
    for ours, theirs in zip(*made, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-4 if dtype == "float32" else 0.2)


def test_batch_norm_takes_integers_and_masks_as_keras_does():
    x, mask = np.array([[[1, 2], [3, 5]], [[4, 4], [9, 9]]]), np.array([[True, True], [True, False]])
    for given in (None, mask):
        own, theirs = (kind() for kind in (BatchNormalization, keras.layers.BatchNormalization))
        ours, expected = (keras.ops.convert_to_numpy(layer(x, training=True, mask=given)) for layer in (own, theirs))
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 15, 16, 30])
def test_a_softmax_of_few_classes_is_one_of_many(classes):
    import torch

    logits = torch.tensor(random(2, 5, classes), requires_grad=True)
    (own,) = torch.autograd.grad((log_softmax(logits) ** 2).sum(), logits)
    (theirs,) = torch.autograd.grad((torch.log_softmax(logits, -1) ** 2).sum(), logits)
    torch.testing.assert_close(own, theirs)
