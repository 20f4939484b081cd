"""What the classifier computes and starts from."""

import math

import keras
import numpy as np
import oracles
import pytest
from classifier_helpers import (
    BATCH,
    CLASSES,
    GRID,
    IMAGES,
    WIDTH,
    assert_same,
    compiled,
    fit,
    make_classifier,
    make_encoder,
    randomise_head,
    to_numpy,
    values,
)
from their_files import import_timm
from training_helpers import quick_compile

import keras_mae
from keras_mae import presets


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


# === What it computes ===
def norm(x, gamma, beta):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * gamma + beta


@pytest.fixture(scope="module")
def oracle_classifier(mae):
    """Of the shared model's encoder, which must stay as it is: one classifier each pooling."""
    options = {"mean": {}, "token": {"batch_norm": True}}
    return {
        pooling: randomise_head(keras_mae.ViTClassifier(mae.encoder, CLASSES, pooling=pooling, **options[pooling]))
        for pooling in options
    }


def test_mean_pooling_is_the_normed_mean_of_the_patch_tokens(oracle_classifier, images, quick):
    """From the last block on in NumPy. The class token has no part in it."""
    classifier = oracle_classifier["mean"]
    tokens = to_numpy(quick(lambda x: classifier.encoder.encode(x))(images)).astype("float64")
    kernel, bias = values(classifier.head.weights)
    features = norm(tokens[:, 1:].mean(axis=1), *values(classifier.pool_norm.weights))
    with_class_token = norm(tokens.mean(axis=1), *values(classifier.pool_norm.weights))
    assert np.abs(features - with_class_token).max() > 1e-3
    np.testing.assert_allclose(to_numpy(quick(classifier)(images)), features @ kernel + bias, atol=1e-5)


def test_token_pooling_is_the_normed_class_token_through_batch_statistics(
    oracle_classifier, weights, sizes, images, quick
):
    classifier = oracle_classifier["token"]
    mean, variance, kernel, bias = values(classifier.head.weights)
    features = (oracles.encode(images, weights, sizes)[:, 0] - mean) / np.sqrt(variance + 1e-6)
    np.testing.assert_allclose(to_numpy(quick(classifier)(images)), features @ kernel + bias, atol=2e-5)


def test_features_are_what_the_head_sees(oracle_classifier, images, quick):
    classifier = oracle_classifier["mean"]
    features, logits = map(to_numpy, quick(lambda x: (classifier.features(x), classifier(x)))(images))
    kernel, bias = values(classifier.head.weights)
    assert features.shape == (3, 12)
    np.testing.assert_allclose(features @ kernel + bias, logits, atol=1e-5)


# === timm ===
def their_state(classifier):
    """Our weights under the names, and in the layouts, of timm."""

    def dense(layer, name):
        return {f"{name}.weight": to_numpy(layer.kernel).T, f"{name}.bias": to_numpy(layer.bias)}

    def layer_norm(layer, name):
        return {f"{name}.weight": to_numpy(layer.gamma), f"{name}.bias": to_numpy(layer.beta)}

    encoder = classifier.encoder
    p, q = encoder.patch_size
    projection = encoder.patch_embedding.projection
    kernel = to_numpy(projection.kernel).reshape(p, q, encoder.image_shape[2], -1)
    state = {
        "cls_token": to_numpy(encoder.class_token),
        "pos_embed": to_numpy(encoder.position_embedding)[None],
        "patch_embed.proj.weight": kernel.transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": to_numpy(projection.bias),
        **dense(classifier.head.layers[-1], "head"),
    }
    for i, block in enumerate(encoder.blocks):
        state |= layer_norm(block.norm1, f"blocks.{i}.norm1") | layer_norm(block.norm2, f"blocks.{i}.norm2")
        state |= dense(block.attention.qkv, f"blocks.{i}.attn.qkv")
        state |= dense(block.attention.projection, f"blocks.{i}.attn.proj")
        state |= dense(block.mlp.fc1, f"blocks.{i}.mlp.fc1") | dense(block.mlp.fc2, f"blocks.{i}.mlp.fc2")
    if classifier.pooling == "mean":
        return state | layer_norm(classifier.pool_norm, "fc_norm")
    return state | layer_norm(encoder.norm, "norm")


def run_timm(classifier, images):
    """Logits of timm's ViT with our weights."""
    import torch

    timm = import_timm()
    encoder = classifier.encoder
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=encoder.image_shape[:2],
        patch_size=encoder.patch_size,
        in_chans=encoder.image_shape[2],
        num_classes=CLASSES,
        embed_dim=encoder.embed_dim,
        depth=encoder.depth,
        num_heads=encoder.num_heads,
        class_token=True,
        global_pool={"mean": "avg", "token": "token"}[classifier.pooling],
    ).eval()
    state = {key: torch.tensor(value) for key, value in their_state(classifier).items()}
    model.load_state_dict(state, strict=True)
    pixels = (images.astype("float64") - encoder.pixel_mean) / encoder.pixel_std
    with torch.no_grad():
        return model(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_logits_agree_with_timm(pooling, referee, mae, images, randomise, quick):
    name = f"timm_{pooling}.npz"
    classifier = keras_mae.ViTClassifier(mae.encoder, CLASSES, pooling=pooling)
    if referee.live:
        randomise(classifier, seed=9)
        found = {str(i): value for i, value in enumerate(values(classifier.weights))}
        referee.write(name, logits=run_timm(classifier, images), **found)
        expected = run_timm(classifier, images)
    else:
        left = referee.read(name)
        classifier.set_weights([left[str(i)] for i in range(len(classifier.weights))])
        expected = left["logits"]
    assert expected.std() > 0.1
    np.testing.assert_allclose(to_numpy(quick(classifier)(images)), expected, atol=1e-5)


# === What it starts from ===
@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("mae_vit_base_patch16_224", 86_567_656),
        ("mae_vit_large_patch16_224", 304_326_632),
        ("mae_vit_huge_patch14_224", 632_045_800),
    ],
)
def test_published_parameter_counts(preset, parameters):
    """Shapes without values; those of a copy could not be filled, so the encoder is made without its last norm."""
    with keras.StatelessScope(initialize_variables=False):
        encoder = keras_mae.ViTEncoder(**presets.get(preset).encoder, final_norm=False)
        classifier = keras_mae.ViTClassifier(encoder, 1000, copy=False)
        assert classifier.count_params() == parameters
        assert sum(math.prod(weight.shape) for weight in classifier.trainable_weights) == parameters
    keras.utils.clear_session()  # forget the variables that wait for a value


def test_a_copy_has_a_norm_of_the_mean_in_place_of_the_encoders():
    encoder = make_encoder()
    classifier = keras_mae.ViTClassifier(encoder, CLASSES)
    assert classifier.count_params() == encoder.count_params() + WIDTH * CLASSES + CLASSES
    assert classifier.encoder.norm is None
    assert_same(values(classifier.pool_norm.weights), [np.ones(WIDTH, "float32"), np.zeros(WIDTH, "float32")])


@pytest.mark.parametrize(("batch_norm", "std"), [(False, 2e-5), (True, 0.01)])
def test_the_head_starts_small(batch_norm, std):
    """Of 12,012 draws the standard deviation is known to 0.6 %."""
    keras.utils.set_random_seed(0)
    classifier = keras_mae.ViTClassifier(make_encoder(), 1001, batch_norm=batch_norm)
    kernel, bias = values(classifier.head.layers[-1].weights)
    np.testing.assert_allclose(kernel.std(), std, rtol=0.03)
    assert abs(kernel.mean()) < 4.5 * std / np.sqrt(kernel.size)
    assert not bias.any()


def test_the_probes_batch_norm_has_no_scale_and_no_shift():
    first, last = keras_mae.ViTClassifier(make_encoder(), CLASSES, pooling="token", batch_norm=True).head.layers
    assert [weight.path.rpartition("/")[2] for weight in first.weights] == ["moving_mean", "moving_variance"]
    assert (first.epsilon, first.momentum) == (1e-6, 0.9)
    assert len(last.trainable_weights) == 2


def test_another_image_size_resizes_the_positions_in_two_dimensions():
    """And takes every other weight as it is. A resize of the flattened grid would give another table."""
    encoder = make_encoder()
    generator = np.random.default_rng(5)
    encoder.position_embedding.assign(generator.standard_normal((7, WIDTH)))
    classifier = keras_mae.ViTClassifier(encoder, CLASSES, pooling="token", image_shape=(12, 20, 1))
    expected = keras_mae.resize_positions(to_numpy(encoder.position_embedding), GRID, (3, 5))
    np.testing.assert_array_equal(to_numpy(classifier.encoder.position_embedding), expected)
    same = [
        (new, old)
        for new, old in zip(classifier.encoder.weights, encoder.weights, strict=True)
        if "pos" not in old.path
    ]
    assert len(same) == len(encoder.weights) - 1
    assert_same(values(new for new, _ in same), values(old for _, old in same))
    assert to_numpy(classifier(np.zeros((2, 12, 20, 1), "uint8"))).shape == (2, CLASSES)


# === Refused ===
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be a positive integer. Received: num_classes=0"),
        ({"pooling": "max"}, "`pooling` must be one of 'mean', 'token', 'att.* Received: pooling='max'"),
        (
            {"trainable_blocks": 2.5},
            "`trainable_blocks` must be 0, .* up to the encoder's 2. Received: .*2.5",
        ),
        ({"trainable_blocks": 3}, "`trainable_blocks` must be 0, 0.5, .* Received: trainable_blocks=3"),
        ({"trainable_blocks": 0.25}, "`trainable_blocks` must be 0, 0.5, .* Received: trainable_blocks=0.25"),
        ({"trainable_blocks": -1}, "`trainable_blocks` must be 0, 0.5, .* Received: trainable_blocks=-1"),
        ({"trainable_blocks": True}, "`trainable_blocks` must be 0, 0.5, .* Received: trainable_blocks=True"),
        ({"drop_path_rate": 1.0}, r"`drop_path_rate` must be in \[0, 1\). Received: drop_path_rate=1.0"),
        ({"image_shape": (9, 12, 1)}, r"`patch_size` must divide.*image_shape=\(9, 12, 1\)"),
        ({"copy": False, "drop_path_rate": 0.5}, "With `copy=False` the encoder stays as it is. Received: .*0.5"),
        ({"copy": False, "image_shape": (4, 8, 1)}, "With `copy=False` the encoder stays as it is. Received: .*4, 8"),
        (
            {"encoder": "vit"},
            "`encoder` must be a keras_mae.ViTEncoder, .* Received: encoder='vit'",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_mae.ViTClassifier(**{"encoder": make_encoder(), "num_classes": CLASSES, **arguments})


def test_the_class_token_of_an_encoder_without_its_norm_is_refused():
    with pytest.raises(ValueError, match='`pooling="token"` takes an encoder with a final norm'):
        keras_mae.ViTClassifier(make_encoder(final_norm=False), CLASSES, pooling="token")


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`images` must have shape \(batch, 8, 12, 1\)"):
        make_classifier()(np.zeros((BATCH, 12, 8, 1), "uint8"))


BAD_LABELS = {
    "too large": (np.array([0, 1, 2, 3, CLASSES]), r"integers in \[0, 11\). Received: labels from 0 to 11"),
    "negative": (np.array([0, -1, 2, 3, 4]), r"integers in \[0, 11\). Received: labels from -1 to 4"),
    "column": (np.array([[0], [1], [2], [3], [CLASSES]]), r"integers in \[0, 11\)."),
    "other classes": (np.zeros((BATCH, 7), "float32"), r"or probabilities \(batch, 11\).*labels.shape=\(5, 7\)"),
    "none": (None, r"trained on \(images, labels\). Received: no labels"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_labels_of_other_classes_are_refused_before_a_weight_changes(kind):
    """TensorFlow's and JAX's compiled steps included."""
    labels, message = BAD_LABELS[kind]
    classifier = compiled(make_classifier(), run_eagerly=False)
    before = values(classifier.weights)
    with pytest.raises(Exception, match=message):
        fit(classifier, IMAGES[:BATCH], labels)
    assert_same(values(classifier.weights), before)


def test_labels_to_validate_on_are_checked_too():
    classifier = compiled(make_classifier())
    with pytest.raises(ValueError, match=r"integers in \[0, 11\). Received: labels from 0 to 12"):
        fit(classifier, validation_data=(IMAGES[:BATCH], np.array([0, 1, 2, 3, 12])))
