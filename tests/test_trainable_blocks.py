"""Which weights of a classifier are trained, and where paths are dropped."""

import numpy as np
import pytest
from classifier_helpers import (
    BATCH,
    IMAGES,
    assert_same,
    compiled,
    fit,
    make_classifier,
    make_encoder,
    to_numpy,
    values,
)
from training_helpers import arrays, quick_compile

import keras_mae


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


# === Drop path ===
def test_drop_path_acts_in_training_only(quick):
    classifier = make_classifier(drop_path_rate=0.5)
    images = np.repeat(IMAGES[:1], 40, axis=0)
    trained, plain = (to_numpy(quick(lambda x, t=t: classifier(x, training=t))(images)) for t in (True, False))
    np.testing.assert_allclose(plain, plain[:1].repeat(40, axis=0), atol=1e-5)
    assert np.abs(trained - trained[:1]).max() > 0.1


def silence(block):
    """Nothing that this block drops is missed."""
    for layer in (block.attention.projection, block.mlp.fc2):
        for weight in layer.weights:
            weight.assign(np.zeros(weight.shape))


@pytest.mark.parametrize(("trainable_blocks", "drops"), [(0, False), (1, False), (2, True)])
def test_frozen_blocks_drop_no_path(trainable_blocks, drops, quick):
    """Of three blocks the first never drops and the last is silent: what acts is the middle one."""
    encoder = make_encoder(depth=3)
    silence(encoder.blocks[2])
    classifier = make_classifier(encoder, drop_path_rate=0.8, trainable_blocks=trainable_blocks)
    trained, plain = (to_numpy(quick(lambda x, t=t: classifier(x, training=t))(IMAGES)) for t in (True, False))
    assert bool(np.abs(trained - plain).max() > 1e-2) is drops
    assert np.isfinite(trained).all()


# === What is trained ===
def test_one_step_of_fine_tuning_moves_every_weight():
    """With the recipe's optimizer, positions included: they are fixed in pre-training."""
    classifier = make_classifier()
    assert any(weight is classifier.encoder.position_embedding for weight in classifier.trainable_variables)
    compiled(classifier, keras_mae.optimizers.fine_tuning_adamw(classifier, 0.1, BATCH, layer_decay=0.75))
    before = arrays(classifier.trainable_variables)
    fit(classifier)
    after = arrays(classifier.trainable_variables)
    moved = {path: np.abs(after[path] - before[path]).max() for path in before}
    assert {path: value for path, value in moved.items() if not value > 1e-6} == {}
    assert len(moved) == len(classifier.weights)


ATTENTION, MLP = {"norm1", "attention"}, {"norm2", "mlp"}
# What of the encoder is trained: parts of block 0, parts of block 1, and whether the stem is.
TRAINED = {
    0: (set(), set(), False),
    0.5: (set(), MLP, False),
    1: (set(), ATTENTION | MLP, False),
    1.5: (MLP, ATTENTION | MLP, False),
    2: (ATTENTION | MLP, ATTENTION | MLP, False),
    None: (ATTENTION | MLP, ATTENTION | MLP, True),
}


def expected_trained(classifier, trainable_blocks):
    first, second, stem = TRAINED[trainable_blocks]
    encoder = classifier.encoder
    expected = [*classifier.pool_norm.weights, *classifier.head.weights]
    for block, parts in zip(encoder.blocks, (first, second), strict=True):
        expected += [weight for part in parts for weight in getattr(block, part).weights]
    if stem:
        expected += [encoder.class_token, encoder.position_embedding, *encoder.patch_embedding.weights]
    return {id(weight) for weight in expected}


@pytest.mark.parametrize("trainable_blocks", TRAINED)
def test_trainable_blocks_are_the_last_ones(trainable_blocks):
    classifier = make_classifier(trainable_blocks=trainable_blocks)
    trained = {id(weight) for weight in classifier.trainable_weights}
    assert trained == expected_trained(classifier, trainable_blocks)


def test_the_encoder_of_a_probe_can_be_fine_tuned():
    """It comes frozen, and its copy must not."""
    probed = make_classifier(pooling="token", trainable_blocks=0, batch_norm=True)
    classifier = make_classifier(probed.encoder)
    assert len(classifier.trainable_variables) == len(classifier.weights)


@pytest.mark.parametrize("trainable_blocks", [0, 0.5, 1.5])
def test_what_is_frozen_keeps_its_bits_and_all_else_moves(trainable_blocks):
    classifier = compiled(make_classifier(trainable_blocks=trainable_blocks))
    expected = expected_trained(classifier, trainable_blocks)
    frozen = [weight for weight in classifier.weights if id(weight) not in expected]
    trained = [weight for weight in classifier.weights if id(weight) in expected]
    before, moving = values(frozen), values(trained)
    fit(classifier, steps=2)
    assert_same(values(frozen), before)
    assert [
        i for i, (a, b) in enumerate(zip(values(trained), moving, strict=True)) if not np.abs(a - b).max() > 0
    ] == []
    assert frozen


@pytest.mark.parametrize("copy", [True, False])
def test_only_without_a_copy_is_the_given_encoder_trained(copy, make_mae):
    encoder = make_encoder()
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2))
    classifier = compiled(make_classifier(encoder, copy=copy))
    before, decoder = arrays(encoder.weights), values(mae.decoder.weights)
    positions_trained, norm_trained = encoder.position_embedding.trainable, encoder.norm.trainable
    fit(classifier)
    after = arrays(encoder.weights)
    moved = {path for path in before if not np.array_equal(after[path], before[path])}
    assert (classifier.encoder is encoder) is not copy
    # With mean pooling the final norm has no part in the output.
    assert moved == (set() if copy else {path for path in before if not path.startswith("encoder/norm/")})
    assert_same(values(mae.decoder.weights), decoder)
    assert (positions_trained, norm_trained) == ((False, True) if copy else (True, False))
    assert int(encoder.step.value) == (0 if copy else 1)


def test_a_probes_statistics_move_while_the_encoder_keeps_its_bits():
    classifier = compiled(make_classifier(pooling="token", trainable_blocks=0, batch_norm=True))
    before, statistics = values(classifier.encoder.weights), values(classifier.head.layers[0].weights)
    seen = to_numpy(classifier.features(IMAGES[:BATCH]))
    fit(classifier)
    assert_same(values(classifier.encoder.weights), before)
    moved = values(classifier.head.layers[0].weights)
    for got, old, batch in zip(moved, statistics, (seen.mean(0), seen.var(0)), strict=True):
        np.testing.assert_allclose(got, 0.9 * old + 0.1 * batch, atol=1e-5)
