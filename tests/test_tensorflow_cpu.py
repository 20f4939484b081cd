"""What XLA compiles of a TensorFlow step on a CPU, and that it changes no result."""

import re

import keras
import numpy as np
import pytest
from keras import ops
from training_helpers import IMAGE_SHAPE, build

import keras_mae

pytestmark = [
    pytest.mark.backends("tensorflow"),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own step"),
]
IMAGES = np.random.default_rng(0).integers(0, 256, (8, *IMAGE_SHAPE)).astype("uint8")


def with_gradients(function, arguments, weights):
    import tensorflow as tf

    arguments = [tf.convert_to_tensor(argument) for argument in arguments]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        outputs = function(*arguments)
        total = tf.reduce_sum(tf.cast(outputs, "float64") * weights)
    return [ops.convert_to_numpy(ops.cast(each, "float64")) for each in (outputs, *tape.gradient(total, arguments))]


@pytest.mark.parametrize(
    ("dtype", "atol"), [("float64", 1e-12), ("float32", 1e-6), ("bfloat16", 2e-2), ("float16", 2e-3)]
)
def test_gelu_has_the_values_and_gradients_of_float64(dtype, atol):
    from keras_mae import tensorflow_cpu

    x = ops.cast(np.concatenate([np.linspace(-12, 12, 999), [-1e4, 1e4]]), dtype)
    expected = with_gradients(keras_mae.ops.gelu, [ops.cast(x, "float64")], 0.5)
    for got, wanted in zip(with_gradients(tensorflow_cpu.gelu, [x], 0.5), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=atol, rtol=atol)


def plain_attention(query, key, value):
    """Keras' own computes its softmax in float32."""
    logits = ops.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    return ops.einsum("bhqk,bkhd->bqhd", ops.softmax(logits, axis=-1), value)


@pytest.mark.parametrize(
    ("dtype", "atol"), [("float64", 1e-12), ("float32", 2e-6), ("bfloat16", 6e-2), ("float16", 6e-3)]
)
@pytest.mark.parametrize("context", [5, 9])
def test_attention_has_the_values_and_gradients_of_float64(dtype, atol, context):
    from keras_mae import tensorflow_cpu

    *parts, weights = np.random.default_rng(0).standard_normal((4, 2, 9, 3, 4)).astype("float32")
    parts = [parts[0].astype("float64"), *(part[:, :context].astype("float64") for part in parts[1:])]
    expected = with_gradients(plain_attention, parts, weights)
    got = with_gradients(tensorflow_cpu.attention, [ops.cast(part, dtype) for part in parts], weights)
    for each, wanted in zip(got, expected, strict=True):
        np.testing.assert_allclose(each, wanted, atol=atol, rtol=atol)


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Somebody's, with what XLA does not compile."""

    def __call__(self, step):
        import tensorflow as tf

        return tf.numpy_function(lambda: np.float32(1e-3), [], tf.float32)


class OwnConstraint(keras.constraints.Constraint):
    """Somebody's, likewise."""

    def __call__(self, weight):
        import tensorflow as tf

        return tf.ensure_shape(tf.numpy_function(lambda weight: weight, [weight], tf.float32), weight.shape)


def kernels_of(constraint=None, **options):
    """The names of the functions that XLA compiles of a model's training step."""
    import tensorflow as tf

    model = build()
    model.compile(**{"optimizer": keras_mae.optimizers.AdamW(1e-3), "run_eagerly": False, **options})
    model.optimizer.build(model.trainable_variables)
    model.trainable_variables[-1].constraint = constraint
    graph = tf.function(model.train_step, autograph=False).get_concrete_function((IMAGES,)).graph
    found = (one.signature for one in graph.as_graph_def().library.function if one.attr["_XlaMustCompile"].b)
    return {re.fullmatch(r"__(?:inference|forward|backward)_(\w+?)_\d+", one.name).group(1) for one in found}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"_gelu", "_gelu_gradient", "apply"}),
        ({"optimizer": keras_mae.optimizers.Muon(1e-3)}, {"_gelu", "_gelu_gradient"}),
        ({"optimizer": keras_mae.optimizers.AdamW(OwnSchedule())}, {"_gelu", "_gelu_gradient"}),
        ({"constraint": OwnConstraint()}, {"_gelu", "_gelu_gradient"}),
        ({"jit_compile": False}, set()),
        ({"run_eagerly": True}, set()),
    ],
    ids=["unasked", "products in the update", "somebody's schedule", "somebody's constraint", "no XLA", "eager"],
)
def test_xla_compiles_what_lies_between_products_unless_asked_not_to(options, expected):
    assert kernels_of(**options) == expected


def test_an_exported_model_is_made_of_tensorflows_operations():
    import tensorflow as tf

    model = build()
    model.compile(keras_mae.optimizers.AdamW(1e-3))
    model.fit(IMAGES, batch_size=4, verbose=0)
    functions = tf.function(model.encoder).get_concrete_function(IMAGES).graph.as_graph_def().library.function
    assert not any(one.attr["_XlaMustCompile"].b for one in functions)


def test_it_is_used_no_longer_after_a_step_that_fails(monkeypatch):
    from keras_mae import tensorflow_cpu

    model = build()
    model.compile(keras_mae.optimizers.AdamW(1e-3))
    used = []

    def failing(*args, **kwargs):
        used.append(tensorflow_cpu.is_used())
        raise ZeroDivisionError

    monkeypatch.setattr(model, "compute_loss", failing)
    with pytest.raises(ZeroDivisionError):
        model.train_on_batch(IMAGES)
    assert used == [True]
    assert not tensorflow_cpu.is_used()
