"""Attention, MLP, drop path and the block that holds them."""

import math

import keras
import numpy as np
import oracles
import pytest
from keras import ops

import keras_mae
from keras_mae import fused_attention
from keras_mae.random import hash_noise
from keras_mae.transformer import MLP, Attention

DROPPED, KEPT = 0, -1  # int32 noise that is 0.0 and almost 1.0 as a uniform draw

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's own gradients")


def to_numpy(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).standard_normal((3, 9, 12)).astype("float32")


@pytest.fixture(scope="module")
def block(mae):
    """The second encoder block of the small model: 12 channels, 3 heads. Its weights are `encoder.1` in `weights`."""
    return mae.encoder.blocks[1]


def test_attention_agrees_with_the_oracle(block, weights, tokens):
    expected = oracles.attention(tokens, weights, "encoder.1", 3)
    np.testing.assert_allclose(to_numpy(block.attention(tokens)), expected, atol=1e-5)


def test_attention_probabilities_agree_with_the_oracle_and_sum_to_1(block, weights, tokens):
    got = to_numpy(block.attention.probabilities(tokens))
    np.testing.assert_allclose(got, oracles.attention_weights(tokens, weights, "encoder.1", 3), atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=-1), np.ones((3, 3, 9)), atol=1e-6)


def test_attention_probabilities_are_what_attention_multiplies_with(block, tokens):
    values = to_numpy(block.attention.qkv(tokens))[..., 24:].reshape(3, 9, 3, 4)
    mixed = np.einsum("bhqk,bkhd->bqhd", to_numpy(block.attention.probabilities(tokens)), values).reshape(3, 9, 12)
    np.testing.assert_allclose(
        to_numpy(block.attention(tokens)), to_numpy(block.attention.projection(mixed)), atol=1e-5
    )


@on_jax
@pytest.mark.parametrize("context", [5, 9])
def test_attention_without_copies_has_the_gradients_of_keras_own(context):
    import jax

    from keras_mae import jax_cpu

    *parts, weights = np.random.default_rng(0).standard_normal((4, 2, 9, 3, 4)).astype("float32")
    parts[1:] = [part[:, :context] for part in parts[1:]]
    got, expected = (
        jax.value_and_grad(lambda *parts, of=of: (of(*parts) * weights).sum(), (0, 1, 2))(*parts)
        for of in (jax_cpu.attention, ops.dot_product_attention)
    )
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, atol=2e-5), got, expected)
    assert jax_cpu.computes(*map(ops.convert_to_tensor, parts)) == (jax.default_backend() == "cpu")


@on_jax
def test_matmul_without_copies_has_the_gradients_of_keras_own():
    import jax

    from keras_mae import jax_cpu

    generator = np.random.default_rng(0)
    *given, weights = (generator.standard_normal(shape, "float32") for shape in ((2, 9, 4), (4, 3), (2, 9, 3)))
    got, expected = (
        jax.value_and_grad(lambda x, kernel, of=of: (of(x, kernel) * weights).sum(), (0, 1))(*given)
        for of in (jax_cpu.matmul, ops.matmul)
    )
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, atol=2e-5), got, expected)
    assert not jax_cpu.computes(ops.cast(given[0], "bfloat16"))


def test_mlp_agrees_with_the_oracle(block, weights, tokens):
    np.testing.assert_allclose(to_numpy(block.mlp(tokens)), oracles.mlp(tokens, weights, "encoder.1"), atol=1e-5)


def test_block_agrees_with_the_oracle(block, weights, tokens):
    np.testing.assert_allclose(to_numpy(block(tokens)), oracles.block(tokens, weights, "encoder.1", 3), atol=1e-5)


def test_block_does_not_see_the_order_of_tokens(block, tokens):
    order = np.array([3, 0, 4, 8, 1, 6, 2, 7, 5])
    np.testing.assert_allclose(to_numpy(block(tokens[:, order])), to_numpy(block(tokens))[:, order], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_wanted_tokens_come_out_as_those_of_all(dtype, block, tokens):
    """Also where the weights are cast first."""
    own = keras_mae.TransformerBlock(3, drop_path_rate=0.2, dtype=dtype)
    own.build((None, None, 12))
    for ours, source in zip(own.weights, block.weights, strict=True):
        ours.assign(source)
    noise = np.array([[DROPPED, KEPT], [KEPT, DROPPED], [KEPT, KEPT]], "int32")
    some, every = own(tokens, noise, wanted=slice(2, 7)), own(tokens, noise)
    assert some.dtype == every.dtype
    some, every = (to_numpy(ops.cast(x, "float32")) for x in (some, every))
    np.testing.assert_allclose(some, every[:, 2:7], atol=1e-6 if dtype == "float32" else 0.02)


def test_gelu_is_exact():
    """Identity projections leave the activation alone; the tanh form is off by up to 5e-4."""
    layer = MLP(1.0)
    layer.build((None, None, 1))
    for projection in (layer.fc1, layer.fc2):
        projection.kernel.assign(np.ones((1, 1)))
    x = np.linspace(-4, 4, 41, dtype="float32").reshape(1, 41, 1)
    expected = [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x.ravel().astype(float)]
    np.testing.assert_allclose(to_numpy(layer(x)).ravel(), expected, atol=2e-6)


def test_layer_norm_epsilon_is_1e_6(block, weights):
    """A token whose variance is 1e-6 tells 1e-6 from 1e-3 and from 1e-12."""
    faint = (1e-3 * np.tile([1, -1], 6)).reshape(1, 1, 12).astype("float32")
    expected = oracles.layer_norm(faint.astype("float64"), weights, "encoder.1.norm1", eps=1e-6)
    np.testing.assert_allclose(to_numpy(block.norm1(faint)), expected, atol=1e-4)
    assert {block.norm1.epsilon, block.norm2.epsilon} == {1e-6}


def test_hidden_width_follows_the_ratio():
    layer = MLP(2.5)
    layer.build((None, None, 12))
    assert tuple(layer.fc1.kernel.shape) == (12, 30)
    assert tuple(layer.fc2.kernel.shape) == (30, 12)


@pytest.mark.parametrize("make", [lambda: Attention(5), lambda: keras_mae.TransformerBlock(5)])
def test_heads_must_divide_the_width(make):
    with pytest.raises(ValueError, match=r"`num_heads` must divide `embed_dim`. Received: num_heads=5, embed_dim=12"):
        make().build((None, None, 12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 0}, "`num_heads` must be a positive integer. Received: num_heads=0"),
        ({"num_heads": 3, "mlp_ratio": 0}, "`mlp_ratio` must be a finite number above 0. Received: mlp_ratio=0"),
        ({"num_heads": 3, "drop_path_rate": 1}, r"`drop_path_rate` must be in \[0, 1\). Received: drop_path_rate=1"),
        ({"num_heads": 3, "layer_norm_eps": -1}, "`layer_norm_eps` must be a finite number above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_mae.TransformerBlock(**arguments)


# === Initial weights ===
def test_initial_kernels_are_xavier_uniform_and_biases_zero():
    keras.utils.set_random_seed(0)
    block = keras_mae.TransformerBlock(4)
    block.build((None, None, 64))
    limits = {  # sqrt(6 / (in + out)); query, key and value share one matrix of (64, 192)
        "qkv": (block.attention.qkv, math.sqrt(6 / 256)),
        "projection": (block.attention.projection, math.sqrt(6 / 128)),
        "fc1": (block.mlp.fc1, math.sqrt(6 / 320)),
        "fc2": (block.mlp.fc2, math.sqrt(6 / 320)),
    }
    for name, (layer, limit) in limits.items():
        kernel = to_numpy(layer.kernel)
        assert limit * 0.99 < np.abs(kernel).max() <= limit, name
        np.testing.assert_allclose(kernel.std(), limit / math.sqrt(3), rtol=0.05, err_msg=name)
        assert not to_numpy(layer.bias).any(), name


def test_initial_norms_are_one_and_zero():
    block = keras_mae.TransformerBlock(3)
    block.build((None, None, 12))
    for norm in (block.norm1, block.norm2):
        np.testing.assert_array_equal(to_numpy(norm.gamma), np.ones(12))
        np.testing.assert_array_equal(to_numpy(norm.beta), np.zeros(12))


# === Drop path: the effect, not the flag ===
def test_drop_path_zeroes_whole_samples_at_its_rate_and_scales_the_others():
    samples = 4000
    noise = hash_noise(0, 0, np.arange(samples, dtype="int32"), 1)[:, 0]
    out = to_numpy(keras_mae.DropPath(0.3)(np.ones((samples, 2, 5), "float32"), noise))
    assert set(np.unique(out.reshape(samples, 10).std(axis=1))) == {0}
    np.testing.assert_allclose(np.unique(out), [0, 1 / 0.7], rtol=1e-6)
    # The standard deviation of the rate over 4,000 samples is 0.0072.
    assert abs((out[:, 0, 0] == 0).mean() - 0.3) < 4.5 * 0.0072


def test_drop_path_of_rate_zero_changes_nothing(tokens):
    noise = np.array([DROPPED, 1 << 20, KEPT], "int32")
    np.testing.assert_array_equal(to_numpy(keras_mae.DropPath(0.0)(tokens, noise)), tokens)


def test_drop_path_keeps_the_dtype():
    x = ops.ones((2, 3), dtype="bfloat16")
    out = keras_mae.DropPath(0.5, dtype="mixed_bfloat16")(x, np.array([DROPPED, KEPT], "int32"))
    assert keras.backend.standardize_dtype(out.dtype) == "bfloat16"


def test_block_drops_each_branch_by_its_own_draw(tokens, mae, weights):
    block = keras_mae.TransformerBlock(3, drop_path_rate=0.2)
    block.build((None, None, 12))
    for ours, source in zip(block.weights, mae.encoder.blocks[1].weights, strict=True):
        ours.assign(source)
    noise = np.array([[DROPPED, DROPPED], [KEPT, DROPPED], [DROPPED, KEPT]], "int32")
    out = to_numpy(block(tokens, drop_path_noise=noise))

    def attended(x):
        return oracles.attention(oracles.layer_norm(x, weights, "encoder.1.norm1"), weights, "encoder.1", 3)

    def mixed(x):
        return oracles.mlp(oracles.layer_norm(x, weights, "encoder.1.norm2"), weights, "encoder.1")

    np.testing.assert_array_equal(out[0], tokens[0])
    np.testing.assert_allclose(out[1], (tokens + attended(tokens) / 0.8)[1], atol=1e-5)
    np.testing.assert_allclose(out[2], (tokens + mixed(tokens) / 0.8)[2], atol=1e-5)


def test_block_without_draws_drops_nothing(tokens):
    block = keras_mae.TransformerBlock(3, drop_path_rate=0.9)
    block.build((None, None, 12))
    plain = keras_mae.TransformerBlock(3)
    plain.build((None, None, 12))
    for ours, source in zip(plain.weights, block.weights, strict=True):
        ours.assign(source)
    np.testing.assert_array_equal(to_numpy(block(tokens)), to_numpy(plain(tokens)))


@on_jax
@pytest.mark.parametrize(("asking", "known"), [(5, 5), (4, 5), (5, 4)])
def test_cudnn_gets_even_numbers_of_tokens_and_the_result_is_of_all(asking, known, monkeypatch):
    """JAX would not train by its kernel otherwise. Where it is not, JAX's own form of the call stands in for it."""
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    parts = [jax.numpy.asarray(rng.normal(size=(2, n, 3, 8)), "bfloat16") for n in (asking, known, known)]

    def gradients():
        def total(*given):
            return (fused_attention.attention(*given).astype("float32") ** 2).sum()

        return jax.grad(total, argnums=(0, 1, 2))(*parts)

    expected, own, seen = gradients(), jax.nn.dot_product_attention, []

    def as_cudnn(query, key, *others, implementation, **lengths):
        assert implementation == "cudnn"
        seen.append((query.shape[1], key.shape[1]))
        return own(query, key, *others, implementation="xla", **lengths)

    monkeypatch.setattr(jax.nn, "dot_product_attention", as_cudnn)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr("keras.src.backend.jax.nn._can_use_flash_attention", lambda *parts: True)
    for found, wanted in zip(gradients(), expected, strict=True):
        np.testing.assert_allclose(found.astype("float32"), wanted.astype("float32"), rtol=0.02, atol=0.02)
    assert seen == [(asking + asking % 2, known + known % 2)]
