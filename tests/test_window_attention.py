"""Attention within windows: what it computes, where it is full attention, and what has no place for it."""

import keras
import numpy as np
import oracles
import pytest
from conftest import random_images, randomize_weights
from keras import ops

import keras_mae
from keras_mae.ops import gradient
from keras_mae.transformer import Attention
from keras_mae.window_attention import Windows, checked_global_blocks, rearranged

BACKEND = keras.backend.backend()
# Windows of 3 x 3 fill a grid of 6 x 9, and neither 5 x 7 nor 4 x 7; along 2 rows they are 2 x 3.
SHAPES = {"whole": (12, 27, 3), "filled up": (10, 21, 3), "one row too many": (8, 21, 3), "low": (4, 21, 3)}
GLOBAL = (1,)


def to_numpy(x):
    return ops.convert_to_numpy(x)


def encoder_of(**changes):
    arguments = {"image_shape": SHAPES["filled up"], "patch_size": (2, 3), "embed_dim": 8, "depth": 3, "num_heads": 2}
    keras.utils.set_random_seed(0)
    return randomize_weights(keras_mae.ViTEncoder(**arguments | {"window": 3, "global_blocks": GLOBAL} | changes))


# === The referee ===
def attention(x, w, name, heads, window, grid, first):
    """Token by token in float64: a patch takes of the class tokens and of its window, a class token of everything."""
    query, key, value = np.split(oracles.dense(x, w, f"{name}.qkv"), 3, axis=-1)
    width, mixed = x.shape[-1] // heads, np.zeros_like(x)
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    for token in range(x.shape[1]):
        others = list(range(x.shape[1]))
        if token >= first:
            own = [side // window for side in places[token - first]]
            others = [*range(first)] + [
                first + i for i, place in enumerate(places) if [side // window for side in place] == own
            ]
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = np.einsum("bd,btd->bt", query[:, token, part], key[:, others, part]) / np.sqrt(width)
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            mixed[:, token, part] = np.einsum("bt,btd->bd", shares, value[:, others, part])
    return oracles.dense(mixed, w, f"{name}.projection")


def outputs_of(encoder, images):
    """What each block returns, (batch, tokens, dim), by NumPy."""
    sized = encoder.copy(image_shape=images.shape[1:], window=None)
    decoder = keras_mae.MAEDecoder(8, 1, 2, class_tokens=encoder.class_tokens)
    mae = keras_mae.MaskedAutoencoder(sized, decoder)
    weights, sizes = oracles.weights_of(mae), oracles.Sizes.of(mae)
    x, outputs = oracles.blocks_of(images, weights, sizes)[0], []
    for index in range(encoder.depth):
        name = f"encoder.{index}"
        normed = oracles.layer_norm(x, weights, f"{name}.norm1")
        window = max(sized.grid) if index in encoder.global_blocks else encoder.window
        x = x + attention(normed, weights, name, encoder.num_heads, window, sized.grid, encoder.class_tokens)
        x = x + oracles.mlp(oracles.layer_norm(x, weights, f"{name}.norm2"), weights, name)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize(
    ("name", "class_tokens"), [*((name, 1) for name in SHAPES), ("filled up", 0), ("filled up", 3)]
)
def test_features_agree_with_the_referee_at_any_size(name, class_tokens, quick):
    encoder, images = encoder_of(class_tokens=class_tokens), random_images(2, SHAPES[name])
    found = quick(lambda x: encoder.features(x, blocks=(0, 1, 2)))(images)
    for index, expected in enumerate(outputs_of(encoder, images)):
        rows, columns = found[index].shape[1:3]
        expected = expected[:, class_tokens:].reshape(2, rows, columns, 8)
        np.testing.assert_allclose(to_numpy(found[index]), expected, atol=2e-5)


@pytest.mark.parametrize("blocks", [(), (0, 2), (-1,)])
def test_tokens_agree_with_the_referee_wherever_windows_begin_and_end(blocks, compiled):
    encoder, images = encoder_of(global_blocks=blocks), random_images(2, SHAPES["filled up"])
    np.testing.assert_allclose(to_numpy(compiled(encoder.encode)(images)), outputs_of(encoder, images)[-1], atol=2e-5)


@pytest.mark.parametrize("name", ["whole", "filled up"])
def test_gradients_are_those_of_the_referees_differences(name):
    encoder, images = encoder_of(), random_images(1, SHAPES[name]).astype("float32")
    direction = np.random.default_rng(3).standard_normal(images.shape)
    wanted = np.random.default_rng(4).standard_normal(outputs_of(encoder, images)[-1][:, 1:].shape)

    def loss(x):
        return ops.sum(ops.reshape(encoder.features(x)[2], wanted.shape) * ops.convert_to_tensor(wanted, "float32"))

    def difference(step):
        return (outputs_of(encoder, images + step * direction)[-1][:, 1:] * wanted).sum()

    found = to_numpy(gradient(loss, encoder.variables)(images))
    expected = (difference(1e-3) - difference(-1e-3)) / 2e-3
    np.testing.assert_allclose((found * direction).sum(), expected, rtol=1e-3)


# === Full attention ===
@pytest.mark.parametrize("window", [7, 100])
def test_one_window_over_the_image_is_full_attention(window):
    encoder = encoder_of(window=window, global_blocks=())
    images = random_images(2, SHAPES["filled up"])
    np.testing.assert_array_equal(to_numpy(encoder(images)), to_numpy(encoder.copy(window=None)(images)))


@pytest.mark.parametrize("class_tokens", [0, 2])
def test_attention_in_one_window_is_full_attention(class_tokens, quick):
    """Of the class tokens, too. An encoder does not come here: with one window its blocks have none."""
    layer, windows = Attention(2), Windows((3, 5), 5, class_tokens)
    layer.build((None, 15 + class_tokens, 8))
    x = np.random.default_rng(0).standard_normal((2, 15 + class_tokens, 8)).astype("float32")
    full, within = quick(lambda x: (layer(x), layer(x, windows=windows)))(x)
    np.testing.assert_allclose(to_numpy(within), to_numpy(full), atol=1e-6)


def test_orders_lose_nothing():
    windows, other = Windows((5, 7), 3, 2), Windows((5, 7), 2, 2)
    x = np.arange(37 * 2, dtype="float32").reshape(1, 37, 2)
    split = windows.split(x)
    assert split.shape == (1, 2 + 6 * 9, 2)
    np.testing.assert_array_equal(to_numpy(split)[0, 2 + 9 : 2 + 12, 0] / 2 - 2, [3, 4, 5])  # of the second window
    again = rearranged(rearranged(split, windows, other), other, None)
    np.testing.assert_array_equal(to_numpy(again), x)
    assert rearranged(x, windows, Windows((5, 7), 3, 2)) is x


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (32, (7, 15, 23, 31)), (5, (0, 1, 2, 4)), (6, (0, 2, 3, 5))],
)
def test_by_default_the_last_block_of_each_quarter_is_global(depth, expected):
    """Those of 12, 24 and 32 blocks are published."""
    assert checked_global_blocks(14, None, depth) == expected


def test_transformers_vit_det_has_the_same_windows():
    """Where windows fill the grid, and without class tokens: theirs takes zeros beyond the grid for patches."""
    if BACKEND != "torch":
        pytest.skip("needs PyTorch")
    import torch

    transformers = pytest.importorskip("transformers")
    encoder, images = encoder_of(image_shape=SHAPES["whole"], class_tokens=0), random_images(2, SHAPES["whole"])
    config = transformers.VitDetConfig(
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=[12, 27],
        patch_size=[2, 3],
        window_size=3,
        window_block_indices=[0, 2],
        layer_norm_eps=1e-6,
    )
    theirs = transformers.VitDetModel(config).eval()
    tensors = theirs.state_dict()

    def take(name, layer):
        tensors[f"{name}.weight"] = torch.tensor(to_numpy(getattr(layer, "kernel", getattr(layer, "gamma", None))).T)
        tensors[f"{name}.bias"] = torch.tensor(to_numpy(getattr(layer, "bias", getattr(layer, "beta", None))))

    for index, block in enumerate(encoder.blocks):
        name = f"encoder.layer.{index}"
        for part, layer in (
            ("norm1", block.norm1),
            ("attention.qkv", block.attention.qkv),
            ("attention.proj", block.attention.projection),
            ("norm2", block.norm2),
            ("mlp.fc1", block.mlp.fc1),
            ("mlp.fc2", block.mlp.fc2),
        ):
            take(f"{name}.{part}", layer)
    theirs.load_state_dict(tensors)
    embedded = encoder.embed(images)
    with torch.no_grad():
        maps = embedded.reshape(2, 6, 9, 8).permute(0, 3, 1, 2)
        states = theirs.encoder(maps, output_hidden_states=True).hidden_states[1:]
    found = encoder.features(images, blocks=(0, 1, 2))
    for index, state in enumerate(states):
        np.testing.assert_allclose(to_numpy(found[index]), state.permute(0, 2, 3, 1).numpy(), atol=1e-5)


# === In use ===
def test_mixed_precision(quick):
    exact, images = encoder_of(), random_images(2, SHAPES["filled up"])
    half = encoder_of(dtype="mixed_bfloat16")
    half.set_weights(exact.get_weights())
    found, expected = quick(lambda x: (ops.cast(half(x), "float32"), exact(x)))(images)
    np.testing.assert_allclose(to_numpy(found), to_numpy(expected), atol=0.3)


def test_a_classifier_drops_paths_and_learns(untraced):
    images = random_images(6, SHAPES["filled up"])
    classifier = keras_mae.ViTClassifier(encoder_of(drop_path_rate=0.5), 3, pooling="token")
    assert classifier.encoder.window == 3
    assert classifier.encoder.global_blocks == GLOBAL
    before = [np.array(to_numpy(weight)) for weight in classifier.encoder.trainable_weights]
    classifier.compile(keras_mae.optimizers.fine_tuning_adamw(classifier, 1.0, batch_size=256))
    history = classifier.fit(images, np.arange(6) % 3, batch_size=3, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    after = [to_numpy(weight) for weight in classifier.encoder.trainable_weights]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))


def test_a_functional_model_is_saved_and_predicts_the_same(tmp_path, quick):
    encoder = encoder_of()
    inputs = keras.Input((10, 20, 3))
    model = keras.Model(inputs, list(encoder.features(inputs, blocks=(0, 2), pad=True).values()))
    images = random_images(2, (10, 20, 3)).astype("float32")
    found = model.predict(images, verbose=0)
    expected = quick(lambda x: encoder.features(x, blocks=(0, 2), pad=True))(images)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").predict(images, verbose=0)
    for block, value, other in zip((0, 2), found, again, strict=True):
        np.testing.assert_allclose(value, to_numpy(expected[block]), atol=1e-5)
        np.testing.assert_array_equal(other, value)


@pytest.mark.needs_tensorflow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="on the other backends Keras' own export is not ours to promise")
def test_a_model_of_features_is_exported(tmp_path):
    import tensorflow as tf

    encoder, images = encoder_of(), random_images(2, SHAPES["filled up"]).astype("float32")
    inputs = keras.Input(SHAPES["filled up"])
    keras.Model(inputs, encoder.features(inputs)[2]).export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.serve(images).numpy(), to_numpy(encoder.features(images)[2]), atol=1e-5)


# === Copies and files ===
def test_copies_take_and_lose_windows():
    plain = encoder_of(window=None, global_blocks=None, depth=6)
    windowed = plain.copy(window=2, image_shape=SHAPES["whole"])
    assert (windowed.window, windowed.global_blocks) == (2, (0, 2, 3, 5))
    assert windowed.copy(window=4, global_blocks=-1).global_blocks == (5,)
    assert windowed.copy(global_blocks=()).window == 2
    again = windowed.copy(window=None, image_shape=SHAPES["filled up"])
    assert (again.window, again.global_blocks) == (None, None)
    for own, copied in zip(plain.weights, windowed.weights, strict=True):
        if own is not plain.position_embedding:
            np.testing.assert_array_equal(to_numpy(own), to_numpy(copied))


@pytest.mark.backends("torch")
def test_presets_and_files_take_them(tmp_path):
    name = "mae_vit_tiny_patch4_32"
    assert keras_mae.ViTEncoder.from_preset(name, window=4).global_blocks == (2, 5, 8, 11)
    encoder_of(window=None, global_blocks=None).save(tmp_path / "plain.keras")
    loaded = keras_mae.ViTEncoder.from_preset(tmp_path / "plain.keras", window=2, global_blocks=0)
    loaded.save_to_preset(tmp_path / "windowed")
    again = keras_mae.ViTEncoder.from_preset(tmp_path / "windowed")
    assert (again.window, again.global_blocks) == (2, (0,))
    images = random_images(2, SHAPES["filled up"])
    np.testing.assert_array_equal(to_numpy(again(images)), to_numpy(loaded(images)))


@pytest.mark.backends("torch")
@pytest.mark.parametrize("format", ["transformers", "keras_hub", "reference", "timm"])
def test_other_libraries_formats_take_a_copy_without(format, tmp_path):
    pytest.importorskip("safetensors")
    square = {"image_shape": (12, 12, 3), "patch_size": 2, "mlp_ratio": 4.0}
    encoder = encoder_of(**square)
    with pytest.raises(
        ValueError, match=r"full attention in each block: .*copy\(window=None\)`\. Received: window=3"
    ):
        keras_mae.convert.save(encoder, tmp_path / "refused", format)
    assert not list(tmp_path.iterdir())
    if format == "keras_hub":
        return  # needs KerasHub; test_keras_hub.py writes them
    ending = {"transformers": "", "reference": ".safetensors", "timm": ".safetensors"}[format]
    path = keras_mae.convert.save(encoder.copy(window=None), tmp_path / f"model{ending}", format)
    hints = {} if format == "transformers" else {"num_heads": 2}
    loaded = keras_mae.ViTEncoder.from_preset(path, window=3, global_blocks=GLOBAL, **hints)
    images = random_images(2, (12, 12, 3))
    np.testing.assert_allclose(to_numpy(loaded(images)), to_numpy(encoder(images)), atol=1e-6)


# === Pictures ===
def test_pictures_of_attention_show_windows(quick):
    encoder, images = encoder_of(), random_images(1, SHAPES["filled up"])
    found = keras_mae.visualize.attention(encoder, images)
    allowed = Windows((5, 7), 3, 1).allowed()
    assert allowed[0].all()
    assert allowed[:, 0].all()
    assert not allowed.all()
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    for index, layer in enumerate(found[0]):
        assert ((layer > 0) == (allowed | (index in GLOBAL))).all()
    assert keras_mae.visualize.attention_rollout(encoder, images).shape == (1, 36, 36)

    @quick
    def by_hand(images):
        block, x = encoder.blocks[2], encoder.encode(images, blocks=(1,))[0]
        value = ops.reshape(block.attention.qkv(block.norm1(x)), (1, 36, 3, 2, 4))[:, :, 2]
        shares = block.attention.probabilities(block.norm1(x), allowed)
        x = x + block.attention.projection(ops.reshape(ops.einsum("bhqk,bkhd->bqhd", shares, value), (1, 36, 8)))
        return x + block.mlp(block.norm2(x)), encoder.encode(images)

    np.testing.assert_allclose(*map(to_numpy, by_hand(images)), atol=1e-5)


# === Refused ===
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "`window` must be a positive integer"),
        ({"window": 2.5}, "`window` must be a positive integer"),
        ({"window": None}, r"`global_blocks` takes a `window` for the other blocks\. Received: global_blocks=\(1,\)"),
        ({"global_blocks": (3,)}, "`global_blocks` must be indices of blocks, from -3 to 2"),
        ({"global_blocks": "1"}, "`global_blocks` must be indices of blocks"),
        ({"global_blocks": (0, 1, -1)}, "`global_blocks` must be such that some blocks are left to the windows"),
        ({"global_blocks": None}, "must be given for less than five blocks, .*window=3, global_blocks=None, depth=3"),
    ],
)  # fmt: skip
def test_other_windows_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        encoder_of(**arguments)


def test_some_of_the_patches_are_refused():
    """In pre-training too, which leaves most of them out."""
    encoder, refused = (
        encoder_of(),
        r"`window` must be None .* `encoder\.copy\(window=None\)` makes it so\. .*window=3",
    )
    with pytest.raises(ValueError, match=refused):
        encoder(random_images(1, SHAPES["filled up"]), ids_keep=np.array([[0, 1]], "int32"))
    with pytest.raises(ValueError, match=refused):
        keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2))
