"""What models look at: attention, gradients, positions and features, against NumPy on every backend."""

import keras
import numpy as np
import oracles
import pytest
from conftest import GRID, IMAGE_SHAPE, PATCHES, build_mae, random_images, randomize_weights
from keras import ops

import keras_mae
from keras_mae import visualize

TOKENS, HEADS, DEPTH, CLASSES = 1 + PATCHES, 3, 2, 7


def make_classifier(encoder, pooling):
    """Weights of the head from NumPy's generator, the same on every backend."""
    classifier = keras_mae.ViTClassifier(encoder, CLASSES, pooling=pooling)
    generator = np.random.default_rng(8)
    own = [] if classifier.pool_norm is None else classifier.pool_norm.weights
    for weight in [*own, *classifier.head.weights]:
        weight.assign(generator.standard_normal(tuple(weight.shape)).astype("float32"))
    return classifier


@pytest.fixture(scope="module")
def classifiers(mae):
    return {pooling: make_classifier(mae.encoder, pooling) for pooling in ("mean", "token")}


# === Attention ===
@pytest.fixture(scope="module")
def expected_attention(images, weights, sizes):
    """(batch, layers, heads, tokens, tokens)"""
    tokens = oracles.blocks_of(images, weights, sizes)
    layers = [
        oracles.attention_weights(
            oracles.layer_norm(x, weights, f"encoder.{i}.norm1"), weights, f"encoder.{i}", HEADS
        )
        for i, x in enumerate(tokens[:DEPTH])
    ]
    return np.stack(layers, axis=1)


def test_attention_agrees_with_the_oracle_and_its_rows_sum_to_1(mae, images, expected_attention):
    got = visualize.attention(mae, images, batch_size=3)
    assert got.shape == (3, DEPTH, HEADS, TOKENS, TOKENS)
    np.testing.assert_allclose(got, expected_attention, atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=-1), np.ones(got.shape[:-1]), atol=1e-5)


@pytest.mark.parametrize("layers", [1, -1, [-1]])
def test_attention_of_one_layer(mae, images, expected_attention, layers):
    got = visualize.attention(mae, images, layers=layers, batch_size=3)
    np.testing.assert_allclose(got, expected_attention[:, 1:], atol=1e-5)


def test_rollout_agrees_with_loops_and_its_rows_sum_to_1(mae, images, expected_attention):
    expected = np.zeros((3, TOKENS, TOKENS))
    for sample in range(3):
        arrived = np.eye(TOKENS)
        for layer in range(DEPTH):
            taken = sum(expected_attention[sample, layer, head] for head in range(HEADS)) / HEADS + np.eye(TOKENS)
            arrived = np.stack([row / row.sum() for row in taken]) @ arrived
        expected[sample] = arrived
    got = visualize.attention_rollout(mae, images, batch_size=3)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=-1), np.ones((3, TOKENS)), atol=1e-5)


def test_a_classifier_shows_its_encoder(mae, classifiers, images):
    expected = visualize.attention_rollout(mae.encoder, images[:1])
    np.testing.assert_allclose(visualize.attention_rollout(classifiers["mean"], images[:1]), expected, atol=1e-6)


def test_attention_of_a_bfloat16_model_sums_to_1(images):
    model = randomize_weights(build_mae(dtype="mixed_bfloat16"))
    got = visualize.attention(model, images[:1], layers=0)
    assert got.dtype == "float32"
    np.testing.assert_allclose(got.sum(axis=-1), np.ones(got.shape[:-1]), atol=1e-5)


def test_patch_maps_are_rows_of_the_matrix(mae, classifiers):
    attention = np.random.default_rng(0).random((2, 5, TOKENS, TOKENS))
    places = attention[..., 1:].reshape(2, 5, TOKENS, *GRID)
    for model in (mae, mae.encoder, classifiers["token"]):
        np.testing.assert_array_equal(visualize.patch_maps(model, attention), places[:, :, 0])
    averaged = visualize.patch_maps(classifiers["mean"], attention)
    np.testing.assert_allclose(averaged, places[:, :, 1:].mean(axis=2))
    np.testing.assert_array_equal(visualize.patch_maps(mae, attention, query="mean"), averaged)
    third_row = visualize.patch_maps(mae, attention, query=(2, 4))
    np.testing.assert_array_equal(third_row, places[:, :, 1 + 2 * GRID[1] + 4])


# === Gradients ===
def logits_of(classifier, weights, sizes, images):
    """In NumPy, float64."""
    tokens = oracles.blocks_of(images, weights, sizes)[-1]
    own = {"head.kernel": classifier.head.layers[-1].kernel, "head.bias": classifier.head.layers[-1].bias}
    if classifier.pooling == "mean":
        own |= {"norm.gamma": classifier.pool_norm.gamma, "norm.beta": classifier.pool_norm.beta}
    own = {name: ops.convert_to_numpy(value) for name, value in own.items()}
    if classifier.pooling == "mean":
        return oracles.dense(oracles.layer_norm(tokens[:, 1:].mean(axis=1), own, "norm"), own, "head")
    return oracles.dense(oracles.layer_norm(tokens, weights, "encoder.norm")[:, 0], own, "head")


PLACES = [(0, 0), (3, 8), (7, 13), (14, 5), (11, 2)]


def slopes_at(places, classifier, weights, sizes, images, classes):
    """Central differences of each image's logit, (batch, places, channels)."""
    images, step = images.astype("float64"), 1e-3
    found = np.zeros((len(images), len(places), images.shape[3]))
    for i, (row, column) in enumerate(places):
        for channel in range(images.shape[3]):
            moved = [images.copy(), images.copy()]
            moved[0][:, row, column, channel] += step
            moved[1][:, row, column, channel] -= step
            up, down = (logits_of(classifier, weights, sizes, one) for one in moved)
            found[:, i, channel] = (up - down)[np.arange(len(images)), classes] / (2 * step)
    return found


def at(places, maps):
    return np.stack([maps[:, row, column] for row, column in places], axis=1)


@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_saliency_agrees_with_differences_in_numpy(classifiers, pooling, weights, sizes, images):
    classifier = classifiers[pooling]
    predicted = logits_of(classifier, weights, sizes, images).argmax(axis=-1)
    got = visualize.saliency(classifier, images)
    assert got.shape == (3, *IMAGE_SHAPE[:2])
    expected = np.abs(slopes_at(PLACES, classifier, weights, sizes, images, predicted)).max(axis=-1)
    np.testing.assert_allclose(at(PLACES, got) / expected.max(), expected / expected.max(), atol=1e-4)


def test_saliency_of_asked_classes(classifiers, weights, sizes, images):
    classifier, classes = classifiers["mean"], np.array([6, 0, 3])
    expected = np.abs(slopes_at(PLACES, classifier, weights, sizes, images, classes)).max(axis=-1)
    got = visualize.saliency(classifier, images, classes, batch_size=2)
    np.testing.assert_allclose(at(PLACES, got) / expected.max(), expected / expected.max(), atol=1e-4)
    np.testing.assert_allclose(visualize.saliency(classifier, images[:1], 6), got[:1], rtol=1e-3)


def test_smooth_grad_agrees_with_differences_in_numpy(classifiers, weights, sizes, images):
    classifier, classes, generator = classifiers["token"], [1, 2, 3], np.random.default_rng(5)
    spread = 0.1 * np.ptp(images.astype("float32"), axis=(1, 2, 3))[:, None, None, None]
    noisy = [images + spread * generator.standard_normal(images.shape, "float32") for _ in range(2)]
    slopes = [slopes_at(PLACES, classifier, weights, sizes, one, classes) for one in noisy]
    expected = np.abs((slopes[0] + slopes[1]) / 2).max(axis=-1)
    got = visualize.smooth_grad(classifier, images, classes, samples=2, noise=0.1, seed=5)
    np.testing.assert_allclose(at(PLACES, got) / expected.max(), expected / expected.max(), atol=1e-4)


def test_pictures_leave_the_classifier_alone(classifiers, images):
    classifier = classifiers["token"]
    before = [np.array(ops.convert_to_numpy(weight)) for weight in classifier.variables]
    visualize.smooth_grad(classifier, images[:1], samples=2)
    for weight, value in zip(classifier.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)
    if keras.backend.backend() == "torch":
        assert [weight.path for weight in classifier.trainable_variables if weight.value.grad is not None] == []


def test_gradient_follows_the_variables_it_is_told_of():
    scale = keras.Variable([2.0, 3.0])
    slope = keras_mae.ops.gradient(lambda x, power: ops.sum(scale * x**power), [scale])
    x = np.array([1.0, -2.0], "float32")
    np.testing.assert_allclose(ops.convert_to_numpy(slope(x, 2)), [4, -12])
    scale.assign([1.0, 10.0])
    np.testing.assert_allclose(ops.convert_to_numpy(slope(x, 2)), [2, -40])


def corner_images(count, seed):
    """16 patches, each light or dark by chance; the one in the corner is the class, and only its place tells it."""
    generator = np.random.default_rng(seed)
    light = generator.integers(0, 2, (count, 4, 4))
    images = (78 + 100 * light).repeat(4, 1).repeat(4, 2) + generator.normal(0, 20, (count, 16, 16))
    return np.clip(images, 0, 255).astype("uint8")[..., None], light[:, 0, 0]


def test_saliency_points_at_the_corner_that_decides():
    keras.utils.set_random_seed(0)  # of the head, whose start hardly matters
    encoder = keras_mae.ViTEncoder((16, 16, 1), 4, 16, depth=1, num_heads=2, mlp_ratio=2)
    classifier = keras_mae.ViTClassifier(randomize_weights(encoder), 2)
    classifier.compile(keras.optimizers.Adam(5e-3))
    classifier.fit(*corner_images(512, 0), batch_size=64, epochs=12, shuffle=False, verbose=0)
    images, labels = corner_images(64, 1)
    assert (classifier.predict(images, batch_size=64, verbose=0).argmax(axis=-1) == labels).all()
    for name, maps in {
        "saliency": visualize.saliency(classifier, images, batch_size=64),
        "smooth_grad": visualize.smooth_grad(classifier, images, samples=4, batch_size=64),
    }.items():
        by_patch = maps.reshape(64, 4, 4, 4, 4).sum(axis=(2, 4)).reshape(64, 16)
        assert (by_patch.argmax(axis=1) == 0).all(), name
        share = (by_patch[:, 0] / by_patch.sum(axis=1)).mean()
        assert share > 0.5, f"{name}: {share:.3f}, where chance is 0.0625"  # 0.60 and 0.65


# === Positions, features, ratios ===
def test_position_similarity_is_the_cosine(mae, weights):
    got = visualize.position_similarity(mae)
    assert got.shape == (*GRID, *GRID)
    first, second = weights["encoder.positions"][1 + 2 * 7 + 3], weights["encoder.positions"][1 + 4 * 7 + 6]
    cosine = first @ second / np.sqrt((first @ first) * (second @ second))
    np.testing.assert_allclose(got[2, 3, 4, 6], cosine, atol=1e-6)
    np.testing.assert_allclose(np.diag(got.reshape(PATCHES, PATCHES)), np.ones(PATCHES), atol=1e-6)


def test_feature_colors_are_principal_components_over_all_images(mae, images, weights, sizes):
    features = oracles.encode(images, weights, sizes)[:, 1:].reshape(-1, 12)
    centred = features - features.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    got = visualize.feature_colors(mae, images)
    assert (got.shape, got.dtype) == ((3, *GRID, 3), "uint8")
    for channel in range(3):
        direction = directions[:, -1 - channel]
        values = centred @ (direction * np.sign(direction[np.abs(direction).argmax()]))
        expected = 255 * (values - values.min()) / np.ptp(values)
        assert np.abs(got[..., channel].ravel() - expected).max() < 0.51


def test_ratios_hide_more_and_more_of_the_same(norm_pix_mae, images):
    few, many = visualize.reconstruct_at(norm_pix_mae, images, (0.4, 0.8), statistics="true")
    assert few.mask.sum(axis=1).tolist() == [14] * 3
    assert many.mask.sum(axis=1).tolist() == [28] * 3
    assert (few.mask <= many.mask).all()
    again = norm_pix_mae.reconstruct(images, mask=many.mask, statistics="true")
    np.testing.assert_array_equal(many.pasted, again.pasted)
    title = visualize.reconstructions([few, many]).get_suptitle()
    assert title == f"40%, 80% of the patches removed\n{many.statistics}"
    assert "taken from the original" in title


# === What is refused ===
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda mae, _, images: visualize.reconstruct_at(mae.encoder, images), "`mae` must be a MaskedAutoencoder"),
        (lambda mae, _, images: visualize.reconstruct_at(mae, images, [0.0]), "`mask_ratios` must be such that some"),
        (lambda mae, _, images: visualize.reconstruct_at(mae, images, [1.0]), r"`mask_ratio` must be in \[0, 1\)"),
        (lambda mae, _, images: visualize.reconstruct_at(mae, images[:, 1:]), "`images` must have shape"),
        (lambda mae, _, images: visualize.attention(mae, images[..., :2]), "`images` must have shape"),
        (lambda mae, _, images: visualize.attention(mae, images, 2), r"`layers` must be .* in \[-2, 2\). .*layers=2"),
        (lambda mae, _, images: visualize.attention(mae, images, []), "`layers` must be of the encoder's 2"),
        (lambda mae, _, images: visualize.attention(mae.decoder, images), "`model` must be a ViTEncoder, a ViTCl"),
        (lambda mae, _, images: visualize.attention_rollout(mae, images[0]), "`images` must have shape"),
        (lambda mae, _, images: visualize.patch_maps(mae, np.ones((2, 2))), r"`attention` must have shape .*36, 36"),
        (lambda mae, _, images: visualize.patch_maps(mae, np.ones((36, 36)), (5, 0)), "`query` must be"),
        (lambda mae, _, images: visualize.patch_maps(mae, np.ones((36, 36)), "patch"), "`query` must be"),
        (lambda mae, _, images: visualize.feature_colors(mae, images[:, :, 1:]), "`images` must have shape"),
        (lambda mae, _, images: visualize.position_similarity(mae.decoder), "`model` must be a ViTEncoder, a ViTCl"),
        (lambda mae, _, images: visualize.saliency(mae, images), "`classifier` must be a keras_mae.ViTClassifier"),
        (lambda _, tail, images: visualize.saliency(tail, images[:, 1:]), "`images` must have shape"),
        (lambda _, tail, images: visualize.saliency(tail, images, 7), r"`classes` must be an integer in \[0, 7\)"),
        (lambda _, tail, images: visualize.saliency(tail, images, [1, 2]), "`classes` must be .* each of 3 images"),
        (lambda _, tail, images: visualize.saliency(tail, images, 0.5), "`classes` must be an integer"),
        (lambda _, tail, images: visualize.smooth_grad(tail, images, samples=0), "`samples` must be a positive int"),
        (lambda _, tail, images: visualize.smooth_grad(tail, images, noise=-1), "`noise` must be a finite number"),
    ],
)
def test_what_does_not_fit_is_refused(mae, classifiers, call, message):
    with pytest.raises(ValueError, match=message):
        call(mae, classifiers["mean"], random_images())
