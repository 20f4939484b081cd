"""Encoders with no class token and with several: what they compute, learn, save and refuse."""

import keras
import numpy as np
import oracles
import pytest
from keras import ops

import keras_mae

COUNTS = (0, 1, 3)
SHAPE = {"image_shape": (8, 8, 1), "patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2}


def to_numpy(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(scope="module", params=COUNTS)
def model(request, make_mae, randomise):
    """A small masked autoencoder with random weights, also where training leaves zeros. Tests must not change it."""
    made = randomise(make_mae(class_tokens=request.param))
    generator = np.random.default_rng(5)
    for part in (made.encoder, made.decoder):
        part.position_embedding.assign(generator.standard_normal(tuple(part.position_embedding.shape)))
    return made


@pytest.fixture(scope="module")
def own(model):
    return oracles.weights_of(model), oracles.Sizes.of(model)


# === What they compute ===
def test_tokens_agree_with_the_oracle(model, own, images):
    tokens = to_numpy(model.encoder(images))
    assert tokens.shape == (3, model.encoder.class_tokens + 35, 12)
    np.testing.assert_allclose(tokens, oracles.encode(images, *own), atol=1e-5)


def test_loss_and_reconstruction_agree_with_the_oracle(model, own, images, noise, quick):
    mask = oracles.mask_from_noise(noise, 0.75)
    prediction = oracles.decode(oracles.encode(images, *own, mask), *own, mask)
    order = np.argsort(mask, axis=1, kind="stable").astype("int32")
    batch = {"images": images, "ids_keep": order[:, :8], "ids_removed": order[:, 8:]}

    @quick
    def computed(batch):
        outputs = model.outputs_for_loss(batch, training=False)
        return model(batch)["reconstruction"], model.compute_loss(batch, None, outputs, training=False)

    reconstruction, loss = computed(batch)
    np.testing.assert_allclose(to_numpy(reconstruction), prediction, atol=2e-5)
    expected = oracles.loss_of(prediction, oracles.target_of(images, own[1], False), mask)
    np.testing.assert_allclose(to_numpy(loss), expected, rtol=1e-5)


def test_features_are_the_means_of_class_tokens_and_of_patches(model, own, images):
    count, tokens = model.encoder.class_tokens, oracles.blocks_of(images, *own)[-1]
    features = keras_mae.transfer.extract_features(model.encoder, images, pooling="mean", progress=False).features
    np.testing.assert_allclose(features, tokens[:, count:].mean(axis=1), atol=1e-5)
    if count:
        normed = oracles.layer_norm(tokens, own[0], "encoder.norm")
        features = keras_mae.transfer.extract_features(model.encoder, images, progress=False).features
        np.testing.assert_allclose(features, normed[:, :count].mean(axis=1), atol=1e-5)


# === Weights ===
def test_all_class_tokens_are_one_weight_and_share_one_position():
    """So the table has the published shape, whatever their number, and a copy is resized as ever."""
    for count in COUNTS:
        encoder = keras_mae.ViTEncoder(**SHAPE, class_tokens=count)
        assert tuple(encoder.position_embedding.shape) == (1 + 16, 8)
        if count:
            assert tuple(encoder.class_token.shape) == (1, count, 8)
            assert len(np.unique(to_numpy(encoder.class_token))) == count * 8
        else:
            assert encoder.class_token is None
            assert not any("class_token" in weight.path for weight in encoder.weights)


@pytest.mark.parametrize("count", [0, 3])
def test_a_resized_copy_keeps_them(count, make_mae, make_images):
    mae = make_mae(class_tokens=count)
    copied = mae.copy(image_shape=(12, 16, 3))
    assert copied.encoder.class_tokens == copied.decoder.class_tokens == count
    if count:
        np.testing.assert_array_equal(to_numpy(copied.encoder.class_token), to_numpy(mae.encoder.class_token))
    expected = keras_mae.resize_positions(to_numpy(mae.encoder.position_embedding), (5, 7), (4, 8))
    np.testing.assert_array_equal(to_numpy(copied.encoder.position_embedding), expected)
    assert copied.encoder(make_images(2, (12, 16, 3))).shape == (2, count + 32, 12)


@pytest.mark.backends("torch")
@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("kind", ["keras", "preset"])
def test_saved_models_keep_them(count, kind, make_mae, images, noise, tmp_path):
    mae = make_mae(class_tokens=count)
    path = tmp_path / ("model.keras" if kind == "keras" else "model")
    keras_mae.convert.save(mae, path, kind)
    loaded = keras_mae.MaskedAutoencoder.from_preset(path)
    assert loaded.encoder.class_tokens == loaded.decoder.class_tokens == count
    batch = {"images": images, "noise": noise}
    np.testing.assert_array_equal(to_numpy(loaded(batch)["reconstruction"]), to_numpy(mae(batch)["reconstruction"]))


def test_a_configuration_without_them_has_one():
    """Files of before there was a choice."""
    mae = keras_mae.MaskedAutoencoder(keras_mae.ViTEncoder(**SHAPE), keras_mae.MAEDecoder(8, 1, 2))
    config = mae.get_config()
    for part in ("encoder", "decoder"):
        del config[part]["config"]["class_tokens"]
    again = keras_mae.MaskedAutoencoder.from_config(config)
    assert again.encoder.class_tokens == again.decoder.class_tokens == 1


@pytest.mark.backends("torch")
def test_a_preset_takes_their_number():
    name = "mae_vit_micro_patch2_8"
    assert keras_mae.MaskedAutoencoder.from_preset(name, class_tokens=4).decoder.class_tokens == 4
    assert keras_mae.ViTClassifier.from_preset(name, num_classes=3, class_tokens=0).encoder.class_token is None


@pytest.mark.backends("torch")
def test_weights_of_another_number_are_refused_for_an_architecture(tmp_path):
    name, path = "mae_vit_micro_patch2_8", tmp_path / "encoder.keras"
    keras_mae.ViTEncoder.from_preset(name, class_tokens=2).save(path)
    with pytest.raises(ValueError, match=r"not of 'mae_vit_micro_patch2_8': they have {'class_tokens': 2}"):
        keras_mae.ViTEncoder.from_preset(name, weights=path)
    assert keras_mae.ViTEncoder.from_preset(name, weights=path, class_tokens=2).class_tokens == 2


# === Training ===
@pytest.mark.parametrize(("count", "pooling"), [(0, "mean"), (4, "token")])
def test_a_classifier_trains_every_class_token(count, pooling, make_images):
    keras.utils.set_random_seed(0)
    classifier = keras_mae.ViTClassifier(keras_mae.ViTEncoder(**SHAPE, class_tokens=count), 3, pooling=pooling)
    classifier.head.layers[-1].kernel.assign(np.random.default_rng(0).standard_normal((8, 3)))
    classifier.compile(keras_mae.optimizers.fine_tuning_adamw(classifier, 1.0, batch_size=256))
    encoder = classifier.encoder
    before = {weight.path: to_numpy(weight) for weight in encoder.weights}
    classifier.fit(make_images(6, (8, 8, 1)), np.arange(6) % 3, batch_size=6, verbose=0)

    def moved(weight):
        return (to_numpy(weight) != before[weight.path]).any(axis=-1)

    assert moved(encoder.position_embedding)[1:].all()
    assert moved(encoder.position_embedding)[0] == bool(count)
    if count:
        assert moved(encoder.class_token).all()
        assert classifier.layer_index(encoder.class_token) == 0


@pytest.mark.parametrize("count", [0, 4])
def test_partial_fine_tuning_freezes_them(count):
    classifier = keras_mae.ViTClassifier(keras_mae.ViTEncoder(**SHAPE, class_tokens=count), 3, trainable_blocks=1)
    assert not any("class_token" in weight.path for weight in classifier.trainable_weights)


@pytest.mark.parametrize(("count", "name"), [(0, "decoder.mask_token"), (3, "encoder.class_token")])
def test_pre_training_goes_by_the_gradient_of_the_oracles_loss(count, name, make_mae, randomise, images, noise):
    mae = randomise(make_mae(class_tokens=count))
    weights, sizes = oracles.weights_of(mae), oracles.Sizes.of(mae)
    mask = oracles.mask_from_noise(noise, 0.75)
    target, direction = (
        oracles.target_of(images, sizes, False),
        np.random.default_rng(6).normal(size=weights[name].shape),
    )

    def loss(step):
        own = weights | {name: weights[name] + step * direction}
        prediction = oracles.decode(oracles.encode(images, own, sizes, mask), own, sizes, mask)
        return oracles.loss_of(prediction, target, mask)

    mae.compile(keras.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
    mae.fit({"images": images, "mask": mask.astype("int32")}, batch_size=3, verbose=0)
    gradient = (weights[name] - to_numpy(oracles.named_variables(mae)[name])) / 0.1
    np.testing.assert_allclose((gradient * direction).sum(), (loss(1e-4) - loss(-1e-4)) / 2e-4, rtol=2e-3)
    assert np.abs(gradient).max(axis=-1).min() > 1e-3


# === Refusals ===
@pytest.mark.parametrize("count", [-1, 9, 1.0, True, None])
def test_other_numbers_are_refused(count):
    with pytest.raises(
        ValueError, match=rf"`class_tokens` must be an integer in \[0, 8\]. Received: class_tokens={count}"
    ):
        keras_mae.ViTEncoder(**SHAPE, class_tokens=count)


def test_a_copy_cannot_change_their_number():
    with pytest.raises(ValueError, match="not in what its weights depend on. Received: {'class_tokens': 2}"):
        keras_mae.ViTEncoder(**SHAPE).copy(class_tokens=2)


def test_a_decoder_of_another_number_is_refused():
    decoder = keras_mae.MAEDecoder(8, 1, 2, class_tokens=1)
    with pytest.raises(ValueError, match="for class_tokens=1 and an encoder of 4"):
        keras_mae.MaskedAutoencoder(keras_mae.ViTEncoder(**SHAPE, class_tokens=4), decoder)


def test_pooling_class_tokens_that_are_not_there_is_refused(make_images):
    encoder = keras_mae.ViTEncoder(**SHAPE, class_tokens=0)
    refused = pytest.raises(ValueError, match=r'use pooling="mean"\. Received: class_tokens=0')
    with refused:
        keras_mae.ViTClassifier(encoder, 3, pooling="token")
    with refused:
        keras_mae.transfer.extract_features(encoder, make_images(2, (8, 8, 1)))


# === Other libraries ===
@pytest.mark.parametrize(
    ("format", "count", "rule"),
    [
        ("transformers", 0, "exactly one class token"),
        ("transformers", 4, "exactly one class token"),
        ("keras_hub", 0, "exactly one class token"),
        ("keras_hub", 4, "exactly one class token"),
        ("reference", 0, "exactly one class token"),
        ("reference", 4, "exactly one class token"),
        ("timm", 4, "one class token or none"),
    ],
)
def test_formats_refuse_what_they_have_no_place_for(format, count, rule, tmp_path):
    encoder = keras_mae.ViTEncoder(**SHAPE, class_tokens=count)
    with pytest.raises(
        ValueError, match=f"{rule}.*save this one as 'keras' or 'preset'. Received: class_tokens={count}"
    ):
        keras_mae.convert.save(encoder, tmp_path / "model", format)


def test_timm_holds_a_vit_without_class_token(tmp_path, randomise, make_images):
    pytest.importorskip("safetensors")
    encoder = randomise(keras_mae.ViTEncoder((8, 8, 1), 2, 8, 1, 2, class_tokens=0))
    classifier = randomise(keras_mae.ViTClassifier(encoder, 3))
    path = keras_mae.convert.save(classifier, tmp_path / "vit.safetensors", "timm")
    loaded = keras_mae.convert.load(path).model
    assert loaded.encoder.class_token is None
    images = make_images(2, (8, 8, 1))
    np.testing.assert_array_equal(to_numpy(loaded(images)), to_numpy(classifier(images)))


# === Pictures ===
def test_attention_of_class_tokens_is_their_mean(model, images):
    count = model.encoder.class_tokens
    attention = keras_mae.visualize.attention(model, images[:1], layers=1)
    rollout = keras_mae.visualize.attention_rollout(model, images[:1])
    assert rollout.shape == (1, count + 35, count + 35)
    mean = attention[..., count:, count:].mean(axis=-2).reshape(1, 1, 3, 5, 7)
    np.testing.assert_array_equal(keras_mae.visualize.patch_maps(model, attention, "mean"), mean)
    patch = attention[..., count + 2 * 7 + 3, count:].reshape(1, 1, 3, 5, 7)
    np.testing.assert_array_equal(keras_mae.visualize.patch_maps(model, attention, (2, 3)), patch)
    default = keras_mae.visualize.patch_maps(model, attention)
    if count:
        np.testing.assert_allclose(default, attention[..., :count, count:].mean(axis=-2).reshape(default.shape))
    else:
        np.testing.assert_array_equal(default, mean)
        with pytest.raises(ValueError, match="takes an encoder with class tokens"):
            keras_mae.visualize.patch_maps(model, attention, "class")
    assert keras_mae.visualize.feature_colors(model, images[:1]).shape == (1, 5, 7, 3)
