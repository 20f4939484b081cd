"""Pooling: attentive pooling against NumPy, and what a classifier, a probe and features make of it."""

import functools
import json

import keras
import numpy as np
import oracles
import pytest
from classifier_helpers import (
    BATCH,
    CLASSES,
    IMAGES,
    LABELS,
    WIDTH,
    assert_same,
    compiled,
    fit,
    largest,
    make_classifier,
    make_encoder,
    values,
)
from conftest import randomize_weights
from keras import ops
from training_helpers import arrays, quick_compile

import keras_mae
from keras_mae import training, transfer, visualize
from keras_mae.pooling import fitting_queries
from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe

POOLINGS = ["attentive", "flatten"]
PROBE = LinearProbeRecipe.for_size(
    "small_images", epochs=2, warmup_epochs=1, batch_size=BATCH, base_learning_rate=20.0
)


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def to_numpy(x):
    return ops.convert_to_numpy(x)


# === The layer against NumPy ===
def attention_of(patches, queries):
    """(batch, queries, patches); one image and one query at a time."""
    attention = np.zeros((len(patches), len(queries), patches.shape[1]))
    for image, tokens in enumerate(patches.astype("float64")):
        for number, query in enumerate(queries.astype("float64")):
            scores = tokens @ query / np.sqrt(len(query))
            attention[image, number] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    return attention


def pooled_by(patches, queries, kernel):
    """As published: the values first, then each chunk's weighted mean by its own query."""
    attention, chunks = attention_of(patches, queries), []
    for number, values_of_chunk in enumerate(np.split(patches.astype("float64") @ kernel, len(queries), axis=-1)):
        chunks.append((attention[:, number, :, None] * values_of_chunk).sum(axis=1))
    return np.concatenate(chunks, axis=-1)


PATCHES = np.random.default_rng(1).standard_normal((5, 7, 12)).astype("float32")


@pytest.fixture(scope="module")
def layer():
    """Four queries of chunks of three; their attention is far from even."""
    made = keras_mae.AttentivePooling(4)
    made.build(PATCHES.shape)
    randomize_weights(made, seed=2)
    made.queries.assign(8 * made.queries)
    return made


def test_attentive_pooling_is_that_of_the_oracle(layer):
    queries, kernel = values(layer.weights)
    attention = to_numpy(layer.probabilities(PATCHES))
    expected = attention_of(PATCHES, queries)
    assert expected.max() > 0.5
    np.testing.assert_allclose(attention, expected, atol=1e-6)
    np.testing.assert_allclose(to_numpy(layer(PATCHES)), pooled_by(PATCHES, queries, kernel), atol=1e-5)


def test_queries_start_small_and_values_as_every_projection():
    """Of 16,384 draws the standard deviation is known to half a percent."""
    keras.utils.set_random_seed(0)
    made = keras_mae.AttentivePooling()
    made.build((None, 7, 512))
    queries, kernel = values(made.weights)
    assert (queries.shape, kernel.shape) == ((32, 512), (512, 512))
    np.testing.assert_allclose(queries.std(), 0.02, rtol=0.03)
    np.testing.assert_allclose(np.abs(kernel).max(), np.sqrt(6 / 1024), rtol=0.01)


@pytest.mark.parametrize(
    ("width", "queries"), [(96, 32), (128, 32), (192, 32), (768, 32), (1280, 32), (48, 24), (100, 25), (12, 12)]
)
def test_queries_fit_the_width(width, queries):
    assert fitting_queries(width) == queries


@pytest.mark.backends("torch")
def test_queries_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="`num_queries` must divide the width of the tokens, 48, as 24 does. .*=32"):
        keras_mae.AttentivePooling().build((None, 7, 48))


# === The classifier ===
def patch_tokens_of(classifier):
    """The patch tokens of all images after the final norm, by the oracle's norm."""
    tokens = to_numpy(classifier.encoder.encode(IMAGES))[:, 1:].astype("float64")
    gamma, beta = values(classifier.encoder.norm.weights)
    return oracles.layer_norm(tokens, {"norm.gamma": gamma, "norm.beta": beta}, "norm")


@pytest.fixture(scope="module")
def classifiers():
    """Of each pooling one on a frozen encoder with batch statistics, random everywhere. Shared: do not train."""
    options = {"trainable_blocks": 0, "batch_norm": True}
    return {pooling: make_classifier(pooling=pooling, **options) for pooling in POOLINGS}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_logits_are_those_of_the_oracle(pooling, classifiers):
    """From the last block on in NumPy: the final norm, the pooling, batch statistics, the linear layer."""
    classifier = classifiers[pooling]
    patches = patch_tokens_of(classifier)
    features = patches.reshape(len(patches), -1)
    if pooling == "attentive":
        features = pooled_by(patches, *values(classifier.attentive_pooling.weights))
    mean, variance, kernel, bias = values(classifier.head.weights)
    expected = (features - mean) / np.sqrt(variance + 1e-6) @ kernel + bias
    assert features.shape == (20, WIDTH if pooling == "attentive" else 6 * WIDTH)
    np.testing.assert_allclose(to_numpy(classifier.features(IMAGES)), features, atol=2e-5)
    np.testing.assert_allclose(to_numpy(classifier(IMAGES)), expected, atol=2e-4)


def test_a_probe_trains_queries_values_and_head_only():
    classifier = compiled(make_classifier(pooling="attentive", trainable_blocks=0, batch_norm=True))
    pooling, logits = classifier.attentive_pooling, classifier.head.layers[-1]
    expected = [pooling.queries, pooling.kernel, *logits.weights]
    assert [id(weight) for weight in classifier.trainable_weights] == [id(weight) for weight in expected]
    frozen, before = values(classifier.encoder.weights), arrays(classifier.trainable_weights)
    fit(classifier)
    assert_same(values(classifier.encoder.weights), frozen)
    after = arrays(classifier.trainable_weights)
    assert {path for path in before if not np.abs(after[path] - before[path]).max() > 1e-6} == set()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_fine_tuning_moves_every_weight(pooling):
    """The encoder's final norm too: here nothing takes its place."""
    classifier = make_classifier(pooling=pooling)
    optimizer = keras_mae.optimizers.fine_tuning_adamw(classifier, 0.1, BATCH, layer_decay=0.75)
    before = arrays(compiled(classifier, optimizer).trainable_variables)
    assert len(before) == len(classifier.weights)
    fit(classifier)
    after = arrays(classifier.trainable_variables)
    assert {path for path in before if not np.abs(after[path] - before[path]).max() > 1e-6} == set()


def test_the_queries_are_of_the_heads_layer_and_do_not_decay():
    classifier = make_classifier(pooling="attentive")
    optimizer = keras_mae.optimizers.fine_tuning_adamw(classifier, layer_decay=0.5)
    place = {id(variable): index for index, variable in enumerate(classifier.trainable_variables)}
    queries, kernel = (place[id(weight)] for weight in classifier.attentive_pooling.weights)
    assert (optimizer.learning_rate_scales[queries], optimizer.decayed[queries]) == (1, False)
    assert (optimizer.learning_rate_scales[kernel], optimizer.decayed[kernel]) == (1, True)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_saved_classifier_gives_the_same_logits(pooling, classifiers, tmp_path):
    expected = to_numpy(classifiers[pooling](IMAGES))
    classifiers[pooling].save(tmp_path / "classifier.keras")
    keras_mae.convert.save(classifiers[pooling], tmp_path / "preset", "preset")
    for path in ("classifier.keras", "preset"):
        loaded = keras_mae.convert.load(tmp_path / path).model
        np.testing.assert_array_equal(to_numpy(loaded(IMAGES)), expected)


def test_another_image_size_keeps_the_queries_and_lengthens_flat_features():
    images = np.zeros((2, 12, 20, 1), "uint8")
    widths = {
        pooling: make_classifier(pooling=pooling, image_shape=(12, 20, 1)).features(images).shape[1]
        for pooling in POOLINGS
    }
    assert widths == {"attentive": WIDTH, "flatten": 15 * WIDTH}


@pytest.mark.backends("torch")
@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_encoder_without_its_norm_is_refused(pooling):
    with pytest.raises(ValueError, match=f'`pooling="{pooling}"` takes an encoder with a final norm'):
        keras_mae.ViTClassifier(make_encoder(final_norm=False), CLASSES, pooling=pooling)


@pytest.mark.backends("torch")
@pytest.mark.parametrize("format", ["reference", "timm", "transformers", "keras_hub"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_other_libraries_have_no_place_for_it(pooling, format, classifiers, tmp_path):
    with pytest.raises(ValueError, match=f"class token.*Received: a classifier with pooling='{pooling}'"):
        keras_mae.convert.save(classifiers[pooling], tmp_path / "there.safetensors", format)
    assert list(tmp_path.iterdir()) == []


# === Features ===
def test_flat_features_are_all_patch_tokens(classifiers):
    encoder = make_encoder()
    found = transfer.extract_features(encoder, IMAGES, pooling="flatten", progress=False)
    expected = patch_tokens_of(classifiers["flatten"]).reshape(len(IMAGES), -1)
    np.testing.assert_allclose(found.features, expected, atol=1e-5)


@pytest.mark.parametrize("class_tokens", [0, 3])
def test_flat_features_leave_any_class_tokens_out(class_tokens):
    encoder = make_encoder(class_tokens=class_tokens)
    found = transfer.extract_features(encoder, IMAGES[:BATCH], pooling="flatten", progress=False)
    expected = to_numpy(encoder(IMAGES[:BATCH]))[:, class_tokens:]
    np.testing.assert_allclose(found.features, expected.reshape(BATCH, 6 * WIDTH), atol=1e-5)


def test_features_of_a_classifier_are_what_its_head_sees(classifiers):
    classifier = classifiers["attentive"]
    found = transfer.extract_features(classifier, IMAGES, LABELS, progress=False)
    np.testing.assert_allclose(found.features, to_numpy(classifier.features(IMAGES)), atol=1e-5)
    np.testing.assert_array_equal(found.labels, LABELS)


@pytest.mark.backends("torch")
def test_features_that_cannot_be_had_are_refused(classifiers):
    with pytest.raises(ValueError, match="learned queries, and an encoder alone has none: give a ViTClassifier"):
        transfer.extract_features(make_encoder(), IMAGES, pooling="attentive")
    with pytest.raises(ValueError, match="`pooling` must be the classifier's own, 'attentive'; .* pooling='mean'"):
        transfer.extract_features(classifiers["attentive"], IMAGES, pooling="mean")


# === Pictures ===
def test_pictures_of_queries_are_their_attention_on_the_grid(classifiers):
    classifier = classifiers["attentive"]
    maps = visualize.query_attention(classifier, IMAGES, batch_size=len(IMAGES))
    queries, _ = values(classifier.attentive_pooling.weights)
    expected = attention_of(patch_tokens_of(classifier), queries).reshape(20, WIDTH, 2, 3)
    assert expected.max() > 0.3
    np.testing.assert_allclose(maps, expected, atol=1e-5)


def test_the_default_query_of_a_map_is_what_the_head_sees(classifiers):
    attention = np.random.default_rng(0).random((7, 7))
    for classifier in classifiers.values():
        expected = visualize.patch_maps(classifier, attention, "mean")
        np.testing.assert_array_equal(visualize.patch_maps(classifier, attention), expected)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda made: visualize.query_attention(made["flatten"], IMAGES), "'attentive': others have no queries"),
        (lambda made: visualize.query_attention(made["attentive"].encoder, IMAGES), "`classifier` must be a keras_m"),
        (
            lambda made: visualize.query_maps(IMAGES[:2], np.ones((2, 2, 3))),
            r"must have shape \(batch, queries,",
        ),
        (lambda made: visualize.query_maps(IMAGES[:2], np.ones((2, 4, 2, 3)), 4), "`queries` must be some of the 4"),
    ],
)
def test_pictures_that_cannot_be_had_are_refused(call, message, classifiers):
    with pytest.raises(ValueError, match=message):
        call(classifiers)


# === Protocols ===
def probe_with(pooling, **options):
    keras.utils.set_random_seed(0)
    recipe = keras_mae.recipes.Recipe.from_dict({**PROBE.to_dict(), "pooling": pooling})
    data = keras_mae.data.from_arrays(IMAGES, LABELS, BATCH, shuffle=False, loader="grain")
    validation = (IMAGES[:BATCH], LABELS[:BATCH])
    return transfer.linear_probe(
        make_encoder(), data, CLASSES, recipe, validation_data=validation, verbose=0, **options
    )


@pytest.fixture(scope="module")
def live_probes():
    """Probes by pooling whose features are computed in every step."""
    return functools.cache(lambda pooling: probe_with(pooling, cache_features=False))


IN_ONE_PASS = {"cache_features": True, "shuffle": False}  # `fit` would shuffle the features


@pytest.mark.parametrize(
    ("pooling", "how"),
    [
        ("mean", {}),
        ("attentive", {}),
        ("flatten", {}),
        pytest.param("mean", IN_ONE_PASS, marks=pytest.mark.backends("torch")),
        ("attentive", IN_ONE_PASS),
        pytest.param("flatten", IN_ONE_PASS, marks=pytest.mark.backends("torch")),
    ],
)
def test_cached_and_live_probes_agree(live_probes, pooling, how):
    live, cached = live_probes(pooling), probe_with(pooling, **how)
    assert live.pooling == cached.pooling == pooling
    after = [values(probe.trainable_variables + probe.head.layers[0].weights) for probe in (live, cached)]
    assert largest(*after) < 1e-4
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(live.history.history[name], cached.history.history[name], rtol=1e-3)
    if how:  # the optimizer that was trained with fits the whole classifier
        fit(cached)


@pytest.mark.backends("torch")
def test_recipes_say_the_pooling():
    assert (FineTuneRecipe().pooling, LinearProbeRecipe().pooling) == ("mean", "token")
    recipe = LinearProbeRecipe.for_size("large", "efficient_probing")
    numbers = (recipe.pooling, recipe.epochs, recipe.base_learning_rate, recipe.weight_decay, recipe.batch_size)
    assert numbers == ("attentive", 90, 0.1, 0, 16384)
    with pytest.raises(ValueError, match="`pooling` must be one of 'mean', .*pooling='max'"):
        FineTuneRecipe(pooling="max")


@pytest.mark.backends("torch")
def test_recipes_of_earlier_versions_have_their_pooling():
    for recipe in (FineTuneRecipe(pooling="token"), LinearProbeRecipe(pooling="mean")):
        old = recipe.to_dict()
        old.pop("pooling")
        assert keras_mae.recipes.Recipe.from_dict(old) == type(recipe)()


def test_fine_tuning_takes_its_recipes_pooling():
    recipe = FineTuneRecipe.for_size("small_images", epochs=1, warmup_epochs=0, batch_size=BATCH, pooling="attentive")
    data = keras_mae.data.from_arrays(IMAGES, LABELS, BATCH, shuffle=False, loader="grain")
    assert transfer.fine_tune(make_encoder(), data, CLASSES, recipe, verbose=0).pooling == "attentive"


@pytest.mark.backends("torch")
def test_neighbors_vote_on_what_a_classifiers_head_sees(classifiers, tmp_path):
    """A run says which pooling it was, also where the classifier brings it."""
    data = keras_mae.data.from_arrays(IMAGES, LABELS, BATCH, shuffle=False, loader="grain")
    names = [str(number) for number in range(CLASSES)]
    directory = training.run_knn(classifiers["attentive"], data, data, tmp_path / "knn", class_names=names, k=1)
    metrics = json.loads((directory / "metrics.json").read_text())
    assert (metrics["pooling"], metrics["accuracy"]) == ("attentive", 1.0)
