"""Blocks that are computed again in the backward pass: the same training, and less that is kept for it."""

import keras
import numpy as np
import pytest
from keras import ops
from training_helpers import BACKEND, distance, quick_compile, trainable

import keras_mae
from keras_mae.training import fingerprints

SHAPE = (12, 20, 3)
DECODERS = {"self": keras_mae.MAEDecoder, "cross": keras_mae.CrossAttentionDecoder}


def build(remat, kind="self", dtype="float32"):
    keras.utils.set_random_seed(5)
    encoder = keras_mae.ViTEncoder(
        SHAPE, 4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, drop_path_rate=0.5, remat=remat, dtype=dtype
    )
    decoder = DECODERS[kind](embed_dim=8, depth=2, num_heads=1, mlp_ratio=2, remat=remat, dtype=dtype)
    return keras_mae.MaskedAutoencoder(encoder, decoder, seed=3, dtype=dtype)


def trained(model, **how):
    images = np.random.default_rng(1).integers(0, 256, (18, *SHAPE), "uint8")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), **how)
    with quick_compile():
        model.fit(images, batch_size=6, shuffle=False, verbose=0)
    return trainable(model)


def assert_same(ours, theirs, start, tolerance=1e-4, exact=BACKEND != "jax"):
    """Bit for bit; under JAX, XLA makes other kernels of another program, whose sums round otherwise."""
    way = distance(theirs, start)
    assert way > 1e-3
    if not exact:
        assert distance(ours, theirs) < tolerance * way
        return
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)


@pytest.mark.parametrize("how", [{}, {"jit_compile": False}] if BACKEND == "tensorflow" else [{}], ids=str)
@pytest.mark.parametrize(("kind", "dtype"), [("self", "float32"), ("cross", "mixed_bfloat16")])
def test_training_ends_at_the_same_weights(kind, dtype, how):
    """With drop path, in the compiled step of a backend that has one; where XLA has a part in it but for rounding."""
    start = trainable(build(False, kind, dtype))
    kept, again = (trained(build(remat, kind, dtype), **how) for remat in (False, True))
    exact = BACKEND == "torch" or "jit_compile" in how
    assert_same(again, kept, start, 1e-4 if dtype == "float32" else 2e-2, exact)  # of the way


def test_a_frozen_block_passes_gradients_on():
    """Frozen and unfrozen since it was made, which some backends note in the weights alone."""
    ends = []
    for remat in (False, True):
        model = build(remat)
        model.encoder.trainable = False
        model.encoder.trainable = True
        model.encoder.blocks[1].trainable = False
        start = trainable(model)
        ends.append(trained(model, run_eagerly=BACKEND != "jax"))
        path = next(path for path in start if "encoder" in path and "block_0/attention/qkv/kernel" in path)
        assert not np.array_equal(ends[-1][path], start[path])
    assert_same(ends[1], ends[0], start)


def test_blocks_run_twice_in_training_only(monkeypatch):
    """On JAX a block is traced once, and the program says that it is to be computed again."""
    runs, call = [], keras_mae.TransformerBlock.call
    monkeypatch.setattr(
        keras_mae.TransformerBlock, "call", lambda layer, *a, **k: runs.append(layer.name) or call(layer, *a, **k)
    )
    model = build(True)
    images = np.zeros((2, *SHAPE), "uint8")

    def loss(training):
        return ops.mean(model.outputs_for_loss(images, training=training)["removed_prediction"])

    if BACKEND == "jax":
        import jax

        def stateless(values, training):
            with keras.StatelessScope(zip(model.trainable_variables, values, strict=True)):
                return loss(training)

        values = [variable.value for variable in model.trainable_variables]
        programs = [str(jax.make_jaxpr(jax.grad(lambda v, t=t: stateless(v, t)))(values)) for t in (True, False)]
        assert ["remat" in program or "checkpoint" in program for program in programs] == [True, False]
        return
    counts = []
    for training in (True, False):
        runs.clear()
        if BACKEND == "torch":
            loss(training).backward()
        else:
            import tensorflow as tf

            with tf.GradientTape() as tape:
                value = loss(training)
            tape.gradient(value, model.trainable_weights)
        counts.append(len(runs))
    assert counts == [8, 4]


@pytest.mark.backends("torch")
@pytest.mark.skipif(BACKEND != "torch", reason="the hooks are PyTorch's")
def test_less_is_kept():
    import torch

    def kept(remat):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: (sizes.update({x.data_ptr(): x.nbytes}), x)[1], lambda x: x
        ):
            build(remat).outputs_for_loss(np.zeros((32, *SHAPE), "uint8"), training=True)
        return sum(sizes.values())

    assert kept(True) < 0.4 * kept(False)


@pytest.mark.backends("torch")
def test_it_is_kept_by_files_and_copies_and_can_be_changed(tmp_path):
    model = build(True)
    model.save_to_preset(tmp_path / "mae")
    for other, remat in (
        (keras_mae.MaskedAutoencoder.from_preset(tmp_path / "mae"), True),
        (keras_mae.MaskedAutoencoder.from_preset(tmp_path / "mae", remat=False), False),
        (keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch2_8", remat=True), True),
        (keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch2_8"), False),
        (model.copy(), True),
        (model.copy(remat=False), False),
        (keras_mae.convert.continued(model), False),
        (keras_mae.convert.continued(model, remat=True), True),
    ):
        assert (other.encoder.remat, other.decoder.remat) == (remat, remat)
    assert keras_mae.ViTClassifier(model.encoder, 3).encoder.remat


@pytest.mark.backends("torch")
def test_a_run_goes_on_with_it():
    """Where memory was short: what is computed is the same, so that it is the same run."""
    dataset = keras_mae.data.from_arrays(np.zeros((6, *SHAPE), "uint8"), batch_size=6)
    found = [fingerprints.of_pretraining(build(remat), dataset) for remat in (False, True)]
    assert found[0] == found[1]
