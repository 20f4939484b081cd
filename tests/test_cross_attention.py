"""The decoder whose tokens read the encoder's only: against NumPy, and what follows from it."""

import keras
import numpy as np
import oracles
import pytest
from conftest import run_quickly
from keras import ops

import keras_mae
from keras_mae import recipes
from keras_mae.convert import save


def to_numpy(x):
    return ops.convert_to_numpy(x)


def build(**changes):
    encoder = keras_mae.ViTEncoder((15, 14, 3), (3, 2), 12, 2, 3)
    return keras_mae.MaskedAutoencoder(encoder, keras_mae.CrossAttentionDecoder(8, 2, 2), **changes)


@pytest.fixture(scope="module")
def crossed(randomise):
    return randomise(build())


@pytest.fixture(scope="module")
def masked(images, noise):
    return {"images": images, "noise": noise}


# === The referee ===
def dense(x, layer):
    return x @ to_numpy(layer.kernel).astype("float64") + to_numpy(layer.bias)


def norm(x, layer, eps=1e-6):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps) * to_numpy(layer.gamma) + to_numpy(
        layer.beta
    )


def attend(x, context, layer, num_heads):
    query, (key, value) = dense(x, layer.query), np.split(dense(context, layer.key_value), 2, axis=-1)
    mixed = np.zeros_like(query)
    for own in np.split(np.arange(query.shape[-1]), num_heads):
        scores = np.exp(query[..., own] @ key[..., own].transpose(0, 2, 1) / np.sqrt(len(own)))
        mixed[..., own] = scores / scores.sum(-1, keepdims=True) @ value[..., own]
    return dense(mixed, layer.projection)


def predictions(model, images, mask):
    """(batch, patches, pixels) of every patch, in reading order."""
    encoder, decoder = model.encoder, model.decoder
    block_weights = {}
    for index, block in enumerate(encoder.blocks):
        for layer, name in (
            (block.norm1, "norm1"),
            (block.attention.qkv, "qkv"),
            (block.attention.projection, "projection"),
            (block.norm2, "norm2"),
            (block.mlp.fc1, "fc1"),
            (block.mlp.fc2, "fc2"),
        ):
            parts = ("kernel", "bias") if hasattr(layer, "kernel") else ("gamma", "beta")
            block_weights |= {f"encoder.{index}.{name}.{part}": to_numpy(getattr(layer, part)) for part in parts}
    weights = block_weights | {
        "encoder.patches.kernel": to_numpy(encoder.patch_embedding.projection.kernel),
        "encoder.patches.bias": to_numpy(encoder.patch_embedding.projection.bias),
        "encoder.positions": to_numpy(encoder.position_embedding),
        "encoder.class_token": to_numpy(encoder.class_token),
    }
    *outputs, last = oracles.blocks_of(images, weights, oracles.Sizes.of(model), mask)[1:]
    outputs = [*outputs, norm(last, encoder.norm)]
    x = to_numpy(decoder.mask_token)[0] + to_numpy(decoder.position_embedding)[1:].astype("float64")
    x = np.repeat(x[None], len(images), axis=0)
    for block, mix in zip(decoder.blocks, decoder.mixes, strict=True):
        context = sum(share * output for share, output in zip(to_numpy(mix), outputs, strict=True))
        x = x + attend(norm(x, block.norm1), norm(context, block.context_norm), block.attention, decoder.num_heads)
        x = x + dense(oracles.gelu(dense(norm(x, block.norm2), block.mlp.fc1)), block.mlp.fc2)
    return dense(norm(x, decoder.norm), decoder.prediction)


@pytest.fixture(scope="module")
def expected(crossed, masked, noise):
    return predictions(crossed, masked["images"], oracles.mask_from_noise(noise, 0.75))


def test_every_patch_is_predicted_as_the_oracle_does(crossed, masked, expected):
    outputs = run_quickly(crossed)(masked)
    np.testing.assert_allclose(to_numpy(outputs["reconstruction"]), expected, atol=2e-5)


def test_the_loss_agrees_with_the_oracle(crossed, masked, expected, noise):
    outputs = run_quickly(lambda x: crossed.outputs_for_loss(x, training=False))(masked)
    loss = float(to_numpy(crossed.compute_loss(masked, None, outputs, training=False)))
    target = oracles.target_of(masked["images"], oracles.Sizes.of(crossed), False)
    np.testing.assert_allclose(
        loss, oracles.loss_of(expected, target, oracles.mask_from_noise(noise, 0.75)), rtol=1e-5
    )


# === What follows from it ===
@pytest.mark.parametrize("masks_per_image", [1, 2])
def test_a_share_is_predicted_exactly_as_all_are(masks_per_image, crossed, images, expected):
    part = crossed.copy(predict_ratio=0.3, masks_per_image=masks_per_image)
    whole = crossed.copy(masks_per_image=masks_per_image)
    some, every = (run_quickly(lambda x, m=m: m(x, training=True))(images) for m in (part, whole))
    some, every = ({key: to_numpy(value) for key, value in one.items()} for one in (some, every))
    np.testing.assert_array_equal(some["mask"], every["mask"])
    seen = (some["predicted"] == 1) | (some["mask"] == 0)
    np.testing.assert_allclose(some["reconstruction"][seen], every["reconstruction"][seen], atol=1e-6)
    assert (some["predicted"].sum(axis=1) == 8).all()
    assert not some["reconstruction"][~seen].any()


def test_all_of_it_is_trained(crossed, images):
    model = crossed.copy()
    before = [to_numpy(weight).copy() for weight in model.trainable_weights]
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
    model.fit(images, verbose=0)
    same = [w.path for w, old in zip(model.trainable_weights, before, strict=True) if (to_numpy(w) == old).all()]
    assert same == []


def test_mixes_start_at_random_and_are_vectors():
    decoder = build().decoder
    assert [tuple(mix.shape) for mix in decoder.mixes] == [(2,), (2,)]
    wide = keras_mae.CrossAttentionDecoder(8, 40, 2, image_shape=(8, 8, 1), patch_size=4)
    wide.build((25, None, None, 4))
    values = np.concatenate([to_numpy(mix) for mix in wide.mixes])
    assert abs(values.std() - 0.2) < 0.02  # 1 / sqrt(25), of 1,000 draws


def test_mixed_precision_stays_close(crossed, masked):
    low = crossed.copy(dtype="mixed_bfloat16")
    outputs = run_quickly(lambda x: low.outputs_for_loss(x, training=False))(masked)
    exact = run_quickly(lambda x: crossed.outputs_for_loss(x, training=False))(masked)
    losses = [float(to_numpy(crossed.compute_loss(masked, None, one, training=False))) for one in (outputs, exact)]
    np.testing.assert_allclose(*losses, rtol=0.03)


# === Around it ===
def test_it_is_saved_copied_and_given_to_architectures(crossed, masked, tmp_path):
    result = to_numpy(crossed(masked)["reconstruction"])
    crossed.save(tmp_path / "mae.keras")
    crossed.save_to_preset(tmp_path / "mae")
    again = keras_mae.MaskedAutoencoder.from_preset(tmp_path / "mae")
    for model in (keras.saving.load_model(tmp_path / "mae.keras"), again, crossed.copy()):
        np.testing.assert_array_equal(to_numpy(model(masked)["reconstruction"]), result)
    report = keras_mae.convert.load(tmp_path / "mae.keras").report
    assert len(report.rows) == len(crossed.weights)
    small = keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch2_8", decoder="cross_attention")
    assert type(small.decoder) is keras_mae.CrossAttentionDecoder
    with pytest.raises(ValueError, match="`decoder` must be one of 'self_attention', 'cross_attention'"):
        keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch2_8", decoder="mlp")


def test_a_copy_for_other_images_has_positions_for_them(crossed):
    copied = crossed.copy(image_shape=(6, 14, 3))
    assert tuple(copied.decoder.position_embedding.shape) == (1 + 2 * 7, 8)
    np.testing.assert_array_equal(to_numpy(copied.decoder.mixes[1]), to_numpy(crossed.decoder.mixes[1]))


@pytest.mark.backends("torch")
@pytest.mark.parametrize("format", ["reference", "transformers", "timm", "keras_hub"])
def test_other_formats_refuse_it(format, crossed, tmp_path):
    with pytest.raises(
        ValueError, match="No other library has a decoder that reads.*Received: a CrossAttentionDecoder"
    ):
        save(crossed, tmp_path / "other.pth", format)


@pytest.mark.backends("torch")
def test_blocks_cannot_be_fused_as_well():
    with pytest.raises(ValueError, match="`fuse_blocks` is for an MAEDecoder: a CrossAttentionDecoder mixes all"):
        build(fuse_blocks=(0, 1))


@pytest.mark.backends("torch")
def test_another_encoder_is_refused(crossed):
    deeper = keras_mae.ViTEncoder((15, 14, 3), (3, 2), 12, 3, 3)
    with pytest.raises(
        ValueError, match="same `depth` and `embed_dim`. Received: 3, 12, where it was built for 2, 12"
    ):
        keras_mae.MaskedAutoencoder(deeper, crossed.decoder)


@pytest.mark.backends("torch")
def test_a_recipe_says_which_decoder(crossed, images, tmp_path):
    assert recipes.Recipe.from_dict(recipes.PretrainRecipe(decoder="cross_attention").to_dict()).decoder
    plain = recipes.PretrainRecipe(norm_pix_loss=False)
    with pytest.raises(ValueError, match="must agree.*decoder=cross_attention and self_attention"):
        keras_mae.training.run_pretraining(crossed, [images], plain, tmp_path / "run", examples=images)
    with pytest.raises(ValueError, match="`decoder` must be one of"):
        recipes.PretrainRecipe(decoder="linear")
