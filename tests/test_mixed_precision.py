"""Gradients under mixed precision: as large as in float32, and in the same direction, for every trainable weight.

The batch is 128, and all weights but the head's are shared by hundreds of rows: a sum in half precision shows.
"""

import functools
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import random_images
from keras import ops
from training_helpers import BACKEND, quick_compile

import keras_mae
from keras_mae.fused_attention import attention
from keras_mae.ops import add_shared, gradient, linear
from keras_mae.pooling import pool_tokens

BATCH, IMAGE_SHAPE, CLASSES = 128, (32, 32, 3), 7  # 64 patches, 16 of them visible
IMAGES = random_images(BATCH, IMAGE_SHAPE)
LABELS = np.random.default_rng(2).integers(0, CLASSES, BATCH)
MASKS = np.random.default_rng(3).integers(0, CLASSES, (BATCH, *IMAGE_SHAPE[:2]))
MASKS[:, :3] = 255
GIVEN = {"mean": LABELS, "token": LABELS, "segmenter": MASKS}
FORMS = {
    "torch": {"eager": {"jit_compile": False}},
    "jax": {"jit": {"jit_compile": True}, "eager": {"run_eagerly": True}},
    "tensorflow": {
        "eager": {"run_eagerly": True},
        "graph": {"jit_compile": False},
        "parts": {"run_eagerly": False},
        "xla": {"jit_compile": True},
    },
}[BACKEND]
QUICKEST = next(iter(FORMS))
KINDS = ("norm_pix", "mean", "token", "segmenter") + ("pixels",) * (
    BACKEND == "torch"
)  # which is less than "norm_pix"
SLOW = {"jax": "eager", "tensorflow": "xla"}.get(BACKEND)  # compiles for seconds
CASES = [(kind, QUICKEST) for kind in KINDS]
CASES += [("norm_pix", form) for form in FORMS if form != QUICKEST and (BACKEND, form) != ("jax", "eager")]
HALF_CASES = [("norm_pix", form) for form in FORMS if form != SLOW] + [("mean", QUICKEST), ("segmenter", QUICKEST)]
if BACKEND == "jax":  # compiled, XLA has no float16 matrix product on a CPU
    HALF_CASES = [("mean", "eager")]


class Recorder(keras.optimizers.Optimizer):
    """Keeps the gradients it is given, and changes no weight."""

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.gradients = self.add_optimizer_variables(variables, "gradient")

    def update_step(self, gradient, variable, learning_rate):
        self.assign(self.gradients[self._get_variable_index(variable)], gradient)


def build(kind, dtype):
    """A small model whose every call has the same weights, none of them zero, and trains its positions too."""
    keras.utils.set_random_seed(0)
    encoder = keras_mae.ViTEncoder(IMAGE_SHAPE, 4, embed_dim=16, depth=1, num_heads=2, mlp_ratio=2, dtype=dtype)
    if kind == "segmenter":
        model = keras_mae.ViTSegmenter(encoder, CLASSES, dtype=dtype)
    elif kind in ("mean", "token"):
        model = keras_mae.ViTClassifier(encoder, CLASSES, pooling=kind, dtype=dtype)
    else:
        decoder = keras_mae.MAEDecoder(16, depth=1, num_heads=2, mlp_ratio=2, dtype=dtype)
        model = keras_mae.MaskedAutoencoder(encoder, decoder, norm_pix_loss=kind == "norm_pix", dtype=dtype)
        encoder.position_embedding.trainable = decoder.position_embedding.trainable = True
    generator = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if len(weight.shape) == 1 or "logits" in weight.path:
            weight.assign(weight + 0.1 * generator.standard_normal(weight.shape).astype("float32"))
    return model


@functools.cache
def gradients(kind, dtype, form):
    """Return the gradient of every trainable weight in one training step, float64 by path."""
    model, recorder = build(kind, dtype), Recorder(1.0)
    scaled = dtype == "mixed_float16"
    model.compile(keras.optimizers.LossScaleOptimizer(recorder) if scaled else recorder, **FORMS[form])
    with quick_compile():
        logs = model.train_on_batch(IMAGES, GIVEN.get(kind), return_dict=True)
    assert float(logs["skipped_steps"]) == 0
    found = {}
    for weight, value in zip(model.trainable_weights, recorder.gradients, strict=True):
        if kind == "segmenter" and weight.path.split("/")[-2] == "norm":
            continue  # the head's BatchNorm does not see them: their gradient is zero, but for rounding
        value = ops.convert_to_numpy(value).astype("float64")
        if weight.path.endswith("qkv/bias"):
            # Softmax does not see a key's bias: its gradient is zero, but for rounding.
            query, _, others = np.split(value, 3)
            value = np.concatenate([query, others])
        found[re.sub(r"^(\w+?)_\d+/", r"\1/", weight.path)] = value
    return found


def astray(kind, dtype, form):
    """Return (norm / float32's, cosine with float32's) of each gradient that is out of bounds, by path."""
    exact, found = gradients(kind, "float32", QUICKEST), gradients(kind, dtype, form)
    assert found.keys() == exact.keys()
    norms = {path: (np.linalg.norm(value), np.linalg.norm(exact[path])) for path, value in found.items()}
    shares = {path: one / other for path, (one, other) in norms.items()}
    cosines = {path: np.sum(found[path] * exact[path]) / (one * other) for path, (one, other) in norms.items()}
    return {
        path: (shares[path], cosines[path])
        for path in exact
        if not (abs(shares[path] - 1) <= 0.02 and cosines[path] >= 0.999)
    }


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_bfloat16_gradients_have_the_size_and_direction_of_float32s(kind, form):
    assert astray(kind, "mixed_bfloat16", form) == {}


@pytest.mark.parametrize(("kind", "form"), HALF_CASES)
def test_float16_gradients_with_a_loss_scale_have_the_size_and_direction_of_float32s(kind, form):
    assert astray(kind, "mixed_float16", form) == {}


def test_an_encoder_in_float16_is_trained_under_a_loss_scale():
    """Keras looks at the policy of the model, which is the head's. What is frozen has no gradients to scale."""
    encoder = keras_mae.ViTEncoder((8, 8, 1), 4, embed_dim=8, depth=1, num_heads=2, dtype="mixed_float16")
    model = keras_mae.ViTClassifier(encoder, CLASSES)
    scales = []
    for how in ({}, {"auto_scale_loss": False}):
        model.compile(keras.optimizers.SGD(), **how)
        scales.append(isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer))
    model = keras_mae.ViTClassifier(encoder, CLASSES, pooling="token")
    model.encoder.trainable = False
    model.compile(keras.optimizers.SGD())
    scales.append(isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer))
    assert scales == [True, False, False]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("what", ["vector", "positions", "bias"])
def test_a_shared_weight_gets_the_sum_of_its_rows_gradients(what, dtype, compiled):
    """Thousands of numbers near 1: a sum in bfloat16 ends at 256, one in float16 at 2,048."""
    shape, kernel = (2, 3) if what == "positions" else (3,), np.zeros((2, 3), "float32")
    x = np.ones((5000, 2, 2), "float32")
    upstream = np.random.default_rng(0).integers(1, 16, (5000, 2, 3)).astype("float32") / 8

    def total(shared, x, upstream):
        if what == "bias":
            y = linear(ops.cast(x, dtype), ops.cast(kernel, dtype), ops.cast(shared, dtype))
        else:
            y = add_shared(ops.matmul(ops.cast(x, dtype), ops.cast(kernel, dtype)), shared)
        return ops.sum(ops.cast(y, "float32") * upstream)

    arguments = (ops.convert_to_tensor(value) for value in (np.zeros(shape, "float32"), x, upstream))
    got = ops.convert_to_numpy(compiled(gradient(total))(*arguments))
    np.testing.assert_allclose(got, upstream.sum(axis=0 if what == "positions" else (0, 1)), rtol=1 / 256)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_mean_of_the_patch_tokens_is_added_up_in_float32(dtype):
    encoder, tokens = SimpleNamespace(class_tokens=1), ops.ones((2, 1 + 5000, 3), dtype)
    np.testing.assert_array_equal(ops.convert_to_numpy(ops.cast(pool_tokens(encoder, tokens, "mean"), "float32")), 1)


@pytest.mark.parametrize("dtype", ["bfloat16"] + ["float16"] * (BACKEND != "jax"))  # JAX has none on CPUs
def test_attention_has_the_gradients_of_float32_but_for_rounding(dtype):
    rng = np.random.default_rng(0)
    *parts, upstream = (ops.cast(rng.standard_normal((2, 9, 3, 8)), dtype) for _ in range(4))

    def gradients(dtype):
        query, key, value = (ops.cast(part, dtype) for part in parts)

        def total(query, key, value):
            return ops.sum(ops.cast(attention(query, key, value), "float32") * ops.cast(upstream, "float32"))

        found = {
            "query": gradient(total)(query, key, value),
            "key": gradient(lambda key, query, value: total(query, key, value))(key, query, value),
            "value": gradient(lambda value, query, key: total(query, key, value))(value, query, key),
        }
        return {name: ops.convert_to_numpy(ops.cast(part, "float32")) for name, part in found.items()}

    narrow, unit = gradients(dtype), {"bfloat16": 2**-8, "float16": 2**-11}[dtype]
    for name, expected in gradients("float32").items():  # PyTorch computes in float32, the others do not
        near = {"rtol": unit} if BACKEND == "torch" else {"rtol": 0, "atol": 16 * unit * np.abs(expected).max()}
        np.testing.assert_allclose(narrow[name], expected, err_msg=name, **near)
