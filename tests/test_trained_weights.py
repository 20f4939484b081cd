"""What `fit` trains is what the model says it trains, or an error that says to compile again."""

import re

import keras
import numpy as np
import pytest
from classifier_helpers import (
    BACKEND,
    BATCH,
    CLASSES,
    IMAGES,
    LABELS,
    assert_same,
    compiled,
    fit,
    make_classifier,
    make_encoder,
    randomise_head,
    values,
)
from training_helpers import Stop, make_images, quick_compile
from training_helpers import build as build_autoencoder

import keras_mae

CHANGED = "What is trained has changed since `compile`: compile again, with a new optimizer. Received: "


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def compile_again(model):
    model.compile(keras.optimizers.SGD(0.5), run_eagerly=BACKEND != "jax")


def small_decoder(**arguments):
    return keras_mae.MAEDecoder(8, depth=1, num_heads=1, **arguments)


def train(model):
    if isinstance(model, keras_mae.ViTClassifier):
        return fit(model)
    return model.fit(make_images(6), batch_size=6, shuffle=False, verbose=0).history


# === Action x backend ===
def unfreeze_all(model):
    model.encoder.trainable = True


def freeze_all(model):
    model.encoder.trainable = False


def freeze_a_block(model):
    model.encoder.blocks[0].trainable = False


def freeze_a_layer(model):
    model.encoder.blocks[0].mlp.trainable = False


def freeze_a_weight(model):
    model.head.layers[-1].bias.trainable = False


def train_the_last_block(model):
    model.trainable_blocks = 1


def train_half_a_block(model):
    model.trainable_blocks = 0.5


def exchange_blocks(model):
    """As many weights as before, of the same shapes."""
    model.encoder.blocks[1].trainable = False
    model.encoder.blocks[0].trainable = True


def train_positions(model):
    model.encoder.position_embedding.trainable = True


def freeze_the_decoder(model):
    model.decoder.trainable = False


def classify_without_a_copy(model):
    """The classifier trains positions, and so does the autoencoder whose encoder it shares."""
    keras_mae.ViTClassifier(model.encoder, CLASSES, copy=False)


PROBE = {"pooling": "token", "trainable_blocks": 0, "batch_norm": True}
ACTIONS = {
    "probe: unfreeze": (PROBE, unfreeze_all),
    "probe: train the last block": (PROBE, train_the_last_block),
    "fine-tuning: freeze": ({}, freeze_all),
    "fine-tuning: freeze a block": ({}, freeze_a_block),
    "fine-tuning: freeze a layer": ({}, freeze_a_layer),
    "fine-tuning: freeze a weight": ({}, freeze_a_weight),
    "last block: half of it": ({"trainable_blocks": 1}, train_half_a_block),
    "last block: the first": ({"trainable_blocks": 1}, exchange_blocks),
    "autoencoder: freeze the encoder": (None, freeze_all),
    "autoencoder: freeze the decoder": (None, freeze_the_decoder),
    "autoencoder: train positions": (None, train_positions),
    "autoencoder: classify": (None, classify_without_a_copy),
}


# One of each kind of model; the rest are other ways to the same.
ON_EVERY_BACKEND = ["probe: unfreeze", "fine-tuning: freeze a layer", "last block: the first"]
ON_EVERY_BACKEND += ["autoencoder: freeze the encoder"]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in ON_EVERY_BACKEND else pytest.mark.backends("torch")) for case in ACTIONS],
)
def test_what_is_frozen_or_unfrozen_is_an_error_until_compiled_again_and_then_so(case):
    arguments, action = ACTIONS[case]
    model = build_autoencoder() if arguments is None else make_classifier(**arguments)
    compile_again(model)
    kept = [id(weight) for weight in model.trainable_variables]
    weights = [weight for weight in model.weights if "moving" not in weight.path]
    before = values(weights)
    action(model)
    trained = [id(weight) for weight in model.trainable_variables]
    assert trained != kept
    with pytest.raises(ValueError, match=CHANGED):
        train(model)
    assert_same(values(weights), before)
    compile_again(model)
    logs = train(model)
    moved = [
        id(weight) for weight, old, now in zip(weights, before, values(weights), strict=True) if np.any(old != now)
    ]
    assert sorted(moved) == sorted(trained)
    assert logs["skipped_steps"] == [0]


def test_what_is_put_back_changes_nothing():
    classifier = make_classifier()
    compile_again(classifier)
    freeze_a_block(classifier)
    classifier.encoder.blocks[0].trainable = True
    assert np.isfinite(train(classifier)["loss"]).all()


def test_a_frozen_batch_norm_is_an_error_too():
    """It has no weight that is trained, and acts differently."""
    classifier = make_classifier(**PROBE)
    compile_again(classifier)
    classifier.head.layers[0].trainable = False
    with pytest.raises(ValueError, match=CHANGED + "1 frozen or unfrozen, such as 'head/batch_normalization"):
        train(classifier)


def test_the_error_names_what_changed():
    classifier = make_classifier()
    compile_again(classifier)
    freeze_a_layer(classifier)
    received = r"32 weights for 28 that are trained, 4 no longer trained, such as 'encoder/block_0/mlp/fc1/kernel'"
    with pytest.raises(ValueError, match=CHANGED + received):
        classifier.train_on_batch(IMAGES[:BATCH], LABELS[:BATCH])


@pytest.mark.parametrize("when", ["between epochs", "between batches"])
def test_a_callback_that_freezes_stops_the_training_with_every_weight_in_its_place(when):
    """The state that JAX takes out of the model has another order afterwards."""
    first, classifier = make_classifier(trainable_blocks=1), make_classifier(trainable_blocks=1)
    for model in (first, classifier):
        compile_again(model)
    fit(first, steps=2 if when == "between epochs" else 1)
    stop = Stop(1, lambda: exchange_blocks(classifier))
    if when == "between epochs":
        stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: exchange_blocks(classifier))
    with pytest.raises(ValueError, match=CHANGED):
        fit(classifier, steps=2, callbacks=[stop], epochs=2)
    assert_same(values(classifier.weights), values(first.weights))


def test_scores_and_predictions_follow_what_is_frozen_without_compiling():
    """Weights of equal shapes change places in the state that JAX compiles for."""
    classifier = compiled(make_classifier(trainable_blocks=1), run_eagerly=False)
    data = IMAGES[:BATCH], LABELS[:BATCH]
    predicted = classifier.predict(data[0], verbose=0)
    scored = classifier.evaluate(*data, verbose=0)
    exchange_blocks(classifier)
    np.testing.assert_allclose(classifier.predict(data[0], verbose=0), predicted, rtol=1e-6)
    np.testing.assert_allclose(classifier.evaluate(*data, verbose=0), scored, rtol=1e-6)


def test_a_model_without_weights_to_train_is_scored_but_not_trained():
    classifier = make_classifier()
    classifier.trainable = False
    compile_again(classifier)
    assert np.isfinite(classifier.evaluate(IMAGES[:BATCH], LABELS[:BATCH], verbose=0)).all()
    with pytest.raises(ValueError, match="All weights are frozen: there is nothing to train"):
        train(classifier)


def test_a_weight_without_a_part_in_the_loss_stays_and_the_others_train():
    """The final norm behind the patch tokens' mean; on TensorFlow and PyTorch it has no gradient at all."""
    classifier = randomise_head(keras_mae.ViTClassifier(make_encoder(), CLASSES, copy=False))
    classifier.encoder.norm.trainable = True
    compile_again(classifier)
    before = values(classifier.encoder.norm.weights)
    assert train(classifier)["skipped_steps"] == [0]
    assert_same(values(classifier.encoder.norm.weights), before)


def test_a_frozen_encoder_does_not_train_its_positions_either():
    """And has them back as they were."""
    classifier = make_classifier()
    trained = [weight.path for weight in classifier.trainable_variables]
    classifier.encoder.trainable = False
    classifier.encoder.trainable = False
    assert not [weight.path for weight in classifier.trainable_variables if weight.path.startswith("encoder")]
    assert not classifier.encoder.position_embedding.trainable
    classifier.encoder.trainable = True
    assert [weight.path for weight in classifier.trainable_variables] == trained
    probe = make_classifier(**PROBE)
    unfreeze_all(probe)
    assert not probe.encoder.position_embedding.trainable


def test_parts_that_are_made_frozen_stay_so_in_a_model_and_in_its_file(tmp_path):
    encoder = make_encoder(trainable=False)
    assert keras_mae.MaskedAutoencoder(encoder, small_decoder(trainable=False)).trainable_variables == []
    for model in (keras_mae.MaskedAutoencoder(encoder, small_decoder()), make_classifier()):
        model.encoder.trainable = False
        compile_again(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert len(loaded.trainable_variables) == len(model.trainable_variables) < len(model.weights) - 20


BY_HAND = ["freeze a block", "freeze a weight"]


@pytest.mark.parametrize("case", ["last block: the first", *(f"fine-tuning: {action}" for action in BY_HAND)])
def test_what_is_frozen_by_hand_stays_so_in_a_compiled_models_file(case, tmp_path):
    arguments, action = ACTIONS[case]
    model = make_classifier(**arguments)
    action(model)
    compile_again(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [weight.path for weight in loaded.trainable_variables] == [
        weight.path for weight in model.trainable_variables
    ]
    trained = [[block.trainable for block in each.encoder.blocks] for each in (model, loaded)]
    assert trained[0] == trained[1]
    assert fit(loaded)["loss"] == pytest.approx(fit(model)["loss"])


def test_unfrozen_by_hand_the_encoder_drops_paths():
    """A probe's encoder drops none, and one that is trained does."""
    classifier = make_classifier(make_encoder(drop_path_rate=0.5), **PROBE)
    logits = [keras.ops.convert_to_numpy(classifier(IMAGES[:BATCH], training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*logits)
    unfreeze_all(classifier)
    logits = [keras.ops.convert_to_numpy(classifier(IMAGES[:BATCH], training=True)) for _ in range(2)]
    assert np.any(logits[0] != logits[1])


def test_a_wrong_number_of_blocks_changes_nothing():
    classifier = make_classifier(**PROBE)
    with pytest.raises(ValueError, match="`trainable_blocks` must be 0, 0.5"):
        classifier.trainable_blocks = 7
    assert classifier.trainable_blocks == 0
    assert not classifier.encoder.trainable


# === Optimizers ===
def test_a_second_fit_with_another_optimizer_takes_another_compile():
    classifier = make_classifier()
    compile_again(classifier)
    train(classifier)
    before = values(classifier.weights)
    classifier.optimizer = keras.optimizers.SGD(0.0)
    with pytest.raises(ValueError, match="Another optimizer takes another `compile`"):
        train(classifier)
    assert_same(values(classifier.weights), before)
    compiled(classifier, keras.optimizers.SGD(0.0))
    train(classifier)
    assert_same(values(classifier.weights), before)


def test_an_optimizer_of_other_weights_is_refused():
    optimizer = keras.optimizers.Adam(1e-3)
    probe = compiled(make_classifier(**PROBE), optimizer)
    unfreeze_all(probe)
    for model in (make_classifier(**PROBE), probe):
        with pytest.raises(ValueError, match="`optimizer` was made for other weights: give `compile` a new one"):
            compiled(model, optimizer)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "loss scale"])
def test_the_same_optimizer_goes_on_where_it_was(scaled):
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer
    classifier = compiled(make_classifier(), optimizer)
    train(classifier)
    slots = values(optimizer.variables)
    compiled(classifier, optimizer)
    assert_same(values(optimizer.variables), slots)


@pytest.mark.parametrize("action", [exchange_blocks, unfreeze_all])
def test_rates_for_the_layers_of_other_weights_are_refused(action):
    """Also where there are as many of them."""
    classifier = make_classifier(trainable_blocks=1)
    optimizer = keras_mae.optimizers.fine_tuning_adamw(classifier, 1e-3, BATCH)
    action(classifier)
    with pytest.raises(ValueError, match="`optimizer` has learning rates for the layers of other weights"):
        compiled(classifier, optimizer)
    again = keras_mae.optimizers.fine_tuning_adamw(classifier, 1e-3, BATCH)
    compiled(classifier, again)
    assert again.learning_rate_scales == pytest.approx(
        [0.75 ** (3 - classifier.layer_index(weight)) for weight in classifier.trainable_variables]
    )


def test_training_without_an_optimizer_is_refused():
    classifier = make_classifier()
    classifier.compile(optimizer=None)
    with pytest.raises(ValueError, match=re.escape("Training takes an optimizer: give `compile` one.")):
        train(classifier)
