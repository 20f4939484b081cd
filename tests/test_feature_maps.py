"""Features of any block, as maps, of images of any size."""

from functools import partial
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import oracles
import pytest
from conftest import random_images
from keras import ops
from their_files import import_timm

import keras_mae
from keras_mae import convert

BACKEND = keras.backend.backend()


def to_numpy(x):
    return ops.convert_to_numpy(x)


def encoder_of(**changes):
    arguments = {"image_shape": (9, 8, 3), "patch_size": (3, 2), "embed_dim": 8, "depth": 2, "num_heads": 2}
    return keras_mae.ViTEncoder(**arguments | changes)


# === What they are ===
def test_maps_are_the_blocks_outputs_in_their_places(mae, weights, sizes, images, quick):
    maps = quick(lambda x: mae.encoder.features(x, blocks=(-1, 0)))(images)
    assert set(maps) == {0, 1}
    for index, tokens in enumerate(oracles.blocks_of(images, weights, sizes)[1:]):
        assert maps[index].shape == (3, 5, 7, 12)
        np.testing.assert_allclose(to_numpy(maps[index]).reshape(3, 35, 12), tokens[:, 1:], atol=1e-5)


def test_the_last_block_is_the_default_and_the_norm_is_asked_for(mae, images, quick):
    tokens = to_numpy(quick(mae.encoder)(images))[:, 1:]
    maps = quick(lambda x: mae.encoder.features(x, norm=True))(images)
    assert list(maps) == [1]
    np.testing.assert_allclose(to_numpy(maps[1]).reshape(3, 35, 12), tokens, atol=1e-5)


def test_the_order_is_the_one_asked_for(mae):
    inputs = keras.Input((15, 14, 3))
    assert list(mae.encoder.features(inputs, blocks=(1, -2))) == [1, 0]
    assert list(mae.encoder.features(inputs, blocks=0)) == [0]


@pytest.mark.parametrize("class_tokens", [0, 3])
def test_class_tokens_are_left_out(class_tokens, quick):
    encoder, images = encoder_of(class_tokens=class_tokens), random_images(2, (9, 8, 3))
    found, tokens = quick(lambda x: (encoder.features(x)[1], encoder.encode(x)))(images)
    np.testing.assert_allclose(to_numpy(found).reshape(2, 12, 8), to_numpy(tokens)[:, class_tokens:], atol=1e-6)


def test_blocks_above_the_highest_are_not_run(monkeypatch, images, mae, quick):
    monkeypatch.setattr(mae.encoder.blocks[1], "call", None)
    assert list(quick(lambda x: mae.encoder.features(x, blocks=0))(images)) == [0]


def test_training_drops_paths_and_ends_a_step(quick):
    encoder, images = encoder_of(drop_path_rate=0.9), random_images(8, (9, 8, 3))

    @quick
    def found(x):
        plain, before = encoder.features(x)[1], encoder.step.value
        return plain, before, encoder.features(x, training=True)[1], encoder.step.value

    plain, before, trained, after = map(to_numpy, found(images))
    assert (int(before), int(after)) == (0, 1)
    assert not np.allclose(plain, trained)


def test_mixed_precision(quick):
    keras.utils.set_random_seed(0)
    exact, images = encoder_of(), random_images(2, (12, 14, 3))
    half = encoder_of(dtype="mixed_bfloat16")
    half.set_weights(exact.get_weights())
    found = quick(lambda x: half.features(x, norm=True)[1])(images)
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    expected = to_numpy(quick(lambda x: exact.features(x, norm=True)[1])(images))
    np.testing.assert_allclose(to_numpy(ops.cast(found, "float32")), expected, atol=0.1)


# === Other sizes ===
def test_images_of_another_size_are_seen_as_by_a_copy_for_them(mae, quick):
    images = random_images(2, (9, 22, 3))
    expected = to_numpy(quick(mae.encoder.copy(image_shape=(9, 22, 3)))(images))[:, 1:]
    found = quick(lambda x: mae.encoder.features(x, norm=True)[1])(images)
    np.testing.assert_allclose(to_numpy(found), expected.reshape(2, 3, 11, 12), atol=1e-5)


def test_what_is_missing_of_the_last_patches_is_the_pixel_mean(mae, quick):
    images = random_images(2, (14, 13, 3))
    full = np.tile(np.asarray(mae.encoder.pixel_mean, "float32"), (2, 15, 14, 1))
    full[:, :14, :13] = images
    found = quick(lambda x: mae.encoder.features(x, pad=True)[1])(images)
    expected = quick(lambda x: mae.encoder.features(x)[1])(full)
    np.testing.assert_allclose(to_numpy(found), to_numpy(expected), atol=1e-6)


# === In models ===
def two_sizes(encoder):
    """A model of two inputs, which share one encoder, and of which the second is padded."""
    inputs = [keras.Input((6, 14, 3)), keras.Input((10, 9, 3))]
    first, second = encoder.features(inputs[0], blocks=(1, 0)), encoder.features(inputs[1], norm=True, pad=True)
    return keras.Model(inputs, {"late": first[1], "early": first[0], "other": second[1]})


def test_a_functional_model_saves_its_encoder_once(tmp_path, quick):
    encoder = encoder_of()
    model = two_sizes(encoder)
    assert [layer for layer in model.layers if layer.weights] == [encoder]
    images = [random_images(2, (6, 14, 3)).astype("float32"), random_images(2, (10, 9, 3)).astype("float32")]
    found = model.predict(images, verbose=0)
    assert {name: value.shape for name, value in found.items()} == {
        "early": (2, 2, 7, 8),
        "late": (2, 2, 7, 8),
        "other": (2, 4, 5, 8),
    }

    @quick
    def by_itself(first, second):
        maps = encoder.features(first, blocks=(1, 0))
        return {"late": maps[1], "early": maps[0], "other": encoder.features(second, norm=True, pad=True)[1]}

    expected = by_itself(*images)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").predict(images, verbose=0)
    for name, value in found.items():
        np.testing.assert_allclose(value, to_numpy(expected[name]), atol=1e-5)
        np.testing.assert_array_equal(again[name], value)


def test_positions_learn_through_a_functional_model(untraced):
    encoder = encoder_of(final_norm=False)
    # What was made untrained is not watched by the tape of Keras' own step on TensorFlow; our step watches it.
    learned = BACKEND != "tensorflow"
    encoder.position_embedding.trainable = learned
    inputs = keras.Input((6, 14, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(encoder.features(inputs)[1]))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = {weight.path: np.array(to_numpy(weight)) for weight in encoder.weights}
    images = random_images(4, (6, 14, 3)).astype("float32")
    model.fit(images, np.ones((4, 8), "float32"), batch_size=4, verbose=0)
    moved = {weight.path: np.abs(to_numpy(weight) - before[weight.path]) for weight in encoder.weights}
    positions = moved.pop(encoder.position_embedding.path)
    assert [path for path, by in moved.items() if not by.any()] == []
    assert ((positions.max(axis=1) > 0) == learned).all()


@pytest.mark.needs_tensorflow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="on the other backends Keras' own export is not ours to promise")
def test_a_model_of_features_is_exported(tmp_path):
    import tensorflow as tf

    encoder, images = encoder_of(depth=1), random_images(2, (10, 9, 3)).astype("float32")
    inputs = keras.Input((10, 9, 3))
    model = keras.Model(inputs, encoder.features(inputs, norm=True, pad=True)[0])
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    expected = to_numpy(encoder.features(images, norm=True, pad=True)[0])
    np.testing.assert_allclose(loaded.serve(images).numpy(), expected, atol=1e-5)


# === The referees ===
SQUARE = {"image_shape": (15, 15, 3), "patch_size": 3, "embed_dim": 12, "depth": 3, "num_heads": 3}
OWN, LARGER, CUT = (random_images(2, shape) for shape in ((15, 15, 3), (12, 27, 3), (14, 13, 3)))


def run_referees(encoder, folder):
    """What `transformers` and timm make of our encoder's files: name -> (blocks, batch, rows, columns, dim)."""
    import torch
    from safetensors.torch import load_file

    timm = import_timm()
    import transformers

    def pixels(images):
        known = (images.astype("float64") - encoder.pixel_mean) / encoder.pixel_std
        return torch.tensor(known.transpose(0, 3, 1, 2), dtype=torch.float32)

    def of_transformers(images):
        rows, columns = images.shape[1] // 3, images.shape[2] // 3
        noise = torch.arange(rows * columns, dtype=torch.float32).repeat(len(images), 1)
        options = {"interpolate_pos_encoding": True, "output_hidden_states": True}
        hidden = theirs(pixels(images), noise=noise, **options).hidden_states[1:]
        return np.stack([one.numpy()[:, 1:].reshape(len(images), rows, columns, -1) for one in hidden])

    def of_timm(images, norm=False):
        found = vit.forward_intermediates(pixels(images), norm=norm, intermediates_only=True)
        return np.stack([one.numpy().transpose(0, 2, 3, 1) for one in found])

    convert.save(encoder, folder / "transformers", "transformers")
    theirs = transformers.ViTMAEModel.from_pretrained(folder / "transformers", mask_ratio=0.0).eval()
    convert.save(encoder, folder / "timm.safetensors", "timm")
    module = timm.models.vision_transformer
    sizes = {"img_size": 15, "patch_size": 3, "num_classes": 0, "embed_dim": 12, "depth": 3, "num_heads": 3}
    vit = module.VisionTransformer(**sizes, dynamic_img_size=True, dynamic_img_pad=True).eval()
    vit.load_state_dict(load_file(folder / "timm.safetensors"), strict=True)
    # timm's resize is antialiased, for which PyTorch takes another kernel (a = -0.5), also where the grid grows.
    plain = partial(module.resample_abs_pos_embed, antialias=False)
    with torch.no_grad(), mock.patch.object(module, "resample_abs_pos_embed", plain):
        return {
            "transformers": of_transformers(OWN),
            "transformers_larger": of_transformers(LARGER),
            "timm": of_timm(OWN),
            "timm_normed": of_timm(OWN, norm=True),
            "timm_larger": of_timm(LARGER),
            "timm_padded": of_timm(CUT),
        }


@pytest.fixture(scope="module")
def judged(referee, randomise, tmp_path_factory):
    """An encoder with random weights, its positions too, and what the referees make of it."""
    encoder = keras_mae.ViTEncoder(**SQUARE)
    if not referee.live:
        left = referee.read("feature_maps.npz")
        encoder.set_weights([left.pop(str(index)) for index in range(len(encoder.weights))])
        return SimpleNamespace(encoder=encoder, expected=left)
    randomise(encoder)
    table = np.random.default_rng(4).standard_normal(tuple(encoder.position_embedding.shape))
    encoder.position_embedding.assign(table.astype("float32"))
    expected = run_referees(encoder, tmp_path_factory.mktemp("referees"))
    weights = {str(index): to_numpy(weight) for index, weight in enumerate(encoder.weights)}
    referee.write("feature_maps.npz", **expected, **weights)
    return SimpleNamespace(encoder=encoder, expected=expected)


@pytest.mark.parametrize(
    ("name", "images", "options"),
    [
        ("transformers", OWN, {}),
        ("transformers_larger", LARGER, {}),
        ("timm", OWN, {}),
        ("timm_normed", OWN, {"norm": True}),
        ("timm_larger", LARGER, {}),
        ("timm_padded", CUT, {"pad": True}),
    ],
)
def test_features_agree_with_the_referees(name, images, options, judged, quick):
    expected = judged.expected[name]
    assert expected.std() > 0.1
    found = quick(lambda x: judged.encoder.features(x, range(3), **options))(images)
    for index in range(3):
        np.testing.assert_allclose(to_numpy(found[index]), expected[index], atol=1e-5, rtol=1e-5)


# === Refused ===
@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 9, 8, 3), "uint8"), {"blocks": 2}, "`blocks` must be indices of blocks, from -2 to 1"),
        (np.zeros((2, 9, 8, 3), "uint8"), {"blocks": (1, -1)}, r"`blocks` must be different blocks\. .*\(1, -1\)"),
        (np.zeros((2, 9, 8, 3), "uint8"), {"norm": "no"}, "`norm` must be True or False"),
        (np.zeros((2, 9, 8, 3), "uint8"), {"pad": 1}, "`pad` must be True or False"),
        (np.zeros((2, 10, 8, 3), "uint8"), {}, r"patch size \(3, 2\) divides: resize or crop them, or give pad=True"),
        (np.zeros((2, 9, 7, 3), "uint8"), {}, r"divides: .* Received: images.shape=\(2, 9, 7, 3\)"),
        (np.zeros((2, 9, 8, 1), "uint8"), {}, r"shape \(batch, height, width, 3\)\. Received: .*\(2, 9, 8, 1\)"),
        (np.zeros((2, 3, 9, 8), "uint8"), {}, r"np\.transpose\(images, \(0, 2, 3, 1\)\) makes it so"),
        (np.full((2, 9, 8, 3), 0.5), {}, "`images` must be in 0-255"),
        ("x", {}, "`images` must be an array or a tensor of images"),
        (keras.KerasTensor((None, None, 8, 3)), {}, r"known, .* name them, as in keras\.Input\(\(224, 224, 3\)\)"),
    ],
)  # fmt: skip
def test_what_is_no_map_is_refused(images, options, message):
    with pytest.raises(ValueError, match=message):
        encoder_of().features(images, **options)


def test_a_norm_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="`norm` must be False for an encoder without a final norm"):
        encoder_of(final_norm=False).features(np.zeros((1, 9, 8, 3), "uint8"), norm=True)


def test_a_call_takes_images_of_the_encoders_size_only():
    with pytest.raises(ValueError, match=r"shape \(batch, 9, 8, 3\)"):
        encoder_of().encode(np.zeros((1, 6, 8, 3), "uint8"))
