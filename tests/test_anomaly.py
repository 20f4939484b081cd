"""The detector of anomalies: each formula against NumPy's, SciPy's or scikit-learn's, and what is kept in a file."""

import json
import math

import numpy as np
import oracles
import pytest
from conftest import build_mae, random_images, randomize_weights
from keras import ops

import keras_mae
from keras_mae import anomaly
from keras_mae.anomaly.neighbors import PatchFeatures, PatchSample, inner_blocks
from keras_mae.anomaly.resampling import blur, resampled
from keras_mae.dense.resizing import linear_weights

RNG = np.random.default_rng(5)
of_no_backend = pytest.mark.backends("torch")


# === Complementary masks ===
@pytest.mark.parametrize(
    ("patches", "ratio", "masks", "times"),
    [(36, 0.75, 4, 3), (35, 0.75, 4, 3), (36, 0.5, 2, 1), (36, 0.25, 4, 1), (36, 0.6, 5, 3), (2, 0.9, 2, 1)],
)
def test_each_patch_is_hidden_equally_often(patches, ratio, masks, times):
    found = anomaly.complementary_masks(patches, ratio, partitions=3, seed=7)
    assert (found.shape, found.dtype) == ((3 * masks, patches), bool)
    for partition in found.reshape(3, masks, patches):
        np.testing.assert_array_equal(partition.sum(axis=0), times)
        assert np.ptp(partition.sum(axis=1)) <= times  # groups differ by one patch
    assert len({mask.tobytes() for mask in found}) == len(found) or patches == 2


def test_partitions_are_drawn_by_the_hash():
    """Three quarters: each of four masks leaves one group visible, in the order of the hash's noise."""
    found = anomaly.complementary_masks(10, 0.75, partitions=2, seed=3)
    for partition, masks in enumerate(found.reshape(2, 4, 10)):
        noise = oracles.hash_noise(3, -1, range(partition, partition + 1), 10)[0]
        dealt = np.array_split(np.argsort(noise), 4)
        visible = [set(np.flatnonzero(~mask)) for mask in masks]
        assert sorted(map(sorted, visible)) == sorted(sorted(group) for group in dealt)


# === Maps ===
@of_no_backend
def test_a_map_of_patches_is_interpolated_linearly():
    values = RNG.random(5)
    places = (np.arange(5) + 0.5) * 3 - 0.5  # the middles of the patches, in pixels
    np.testing.assert_allclose(linear_weights(5, 15) @ values, np.interp(np.arange(15), places, values), rtol=1e-5)
    np.testing.assert_array_equal(linear_weights(1, 4) @ np.array([7.0]), 7)


@of_no_backend
@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])  # the last one's window is wider than the map
def test_a_map_of_pixels_is_smoothed_as_scipy_does(sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    maps = RNG.random((2, 11, 13)).astype("float32")
    expected = np.stack([ndimage.gaussian_filter(one, sigma, mode="reflect") for one in maps])
    np.testing.assert_allclose(resampled(maps, blur(11, sigma), blur(13, sigma)), expected, rtol=1e-5)


# === Reconstruction ===
# JAX compiles for longest what `test_targets.py` compares on each backend.
OF_HOG = pytest.param("hog", marks=pytest.mark.backends("torch", "tensorflow"))


@pytest.mark.parametrize("kind", ["pixels", "normalized", OF_HOG])
def test_the_reconstruction_error_is_that_of_the_masks_that_hide_a_pixel(mae, norm_pix_mae, kind):
    """Against the pictures that `reconstruct` makes of the same masks, in normalized pixels."""
    ndimage = pytest.importorskip("scipy.ndimage")
    model = {"pixels": mae, "normalized": norm_pix_mae}.get(kind) or randomize_weights(build_mae(target="hog"))
    images = random_images(2).astype("float32")
    detector = anomaly.AnomalyDetector(model, "reconstruction", mask_ratio=0.5, partitions=1, seed=4)
    found = detector._errors(images)
    masks = anomaly.complementary_masks(35, 0.5, 1, seed=4).astype("float32")
    if kind == "hog":
        target = ops.convert_to_numpy(model._targets.to_predict(model._targets.vectors(images)))
        squared = np.zeros((2, 35))
        for mask in masks:
            predicted = ops.convert_to_numpy(model({"images": images, **ids_of(mask)})["reconstruction"])
            squared += mask * np.square(predicted - target).mean(axis=-1)
        expected = np.sqrt(resampled(squared.reshape(2, 5, 7), linear_weights(5, 15), linear_weights(7, 14)))
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        return
    squared = np.zeros((2, 15, 14))
    for mask in masks:
        pictures = model.reconstruct(images, np.tile(mask, (2, 1)))
        error = np.square((pictures.predicted - images) / np.array(model.encoder.pixel_std)).mean(axis=-1)
        squared += error * mask.reshape(5, 7).repeat(3, axis=0).repeat(2, axis=1)
    expected = np.sqrt([ndimage.gaussian_filter(one, (0.375, 0.25), mode="reflect") for one in squared])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


def ids_of(mask):
    kept, removed = (np.tile(np.flatnonzero(side), (2, 1)).astype("int32") for side in (mask == 0, mask == 1))
    return {"ids_keep": kept, "ids_removed": removed}


# === Neighbors ===
@of_no_backend
@pytest.mark.parametrize(("depth", "blocks"), [(1, (0,)), (2, (0, 1)), (4, (1, 2)), (12, (5, 8)), (24, (11, 17))])
def test_the_blocks_at_half_and_three_quarters_of_the_depth_are_compared(depth, blocks):
    assert inner_blocks(depth) == blocks


def test_features_are_standardized_tokens_of_each_block(mae, images):
    found = np.asarray(PatchFeatures(mae.encoder, (0, 1)).predict_on_batch(images))
    tokens = [ops.convert_to_numpy(one)[:, 1:] for one in mae.encoder.encode(images, blocks=(0, 1))]
    expected = [(one - one.mean(-1, keepdims=True)) / one.std(-1, keepdims=True) for one in tokens]
    np.testing.assert_allclose(found, np.concatenate(expected, -1) / np.sqrt(24), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-4)


@of_no_backend
@pytest.mark.parametrize("neighbors", [1, 3])
def test_distances_are_those_from_the_nearest(neighbors, monkeypatch):
    queries, bank = RNG.random((50, 6)), RNG.random((20, 6))
    queries[7] = bank[3]
    apart = np.linalg.norm(queries[:, None] - bank, axis=-1)
    monkeypatch.setattr("keras_mae.anomaly.neighbors._NUMBERS_AT_ONCE", 160)  # in several parts
    found = anomaly.nearest_distances(queries, bank, neighbors)
    np.testing.assert_allclose(found, np.sort(apart, axis=1)[:, :neighbors].mean(axis=1), rtol=1e-5)
    if neighbors == 1:
        assert found[7] == 0


@of_no_backend
@pytest.mark.parametrize("width", [6, 200])  # the longer ones are projected
def test_a_coreset_takes_the_farthest_each_time(width):
    vectors = RNG.random((60, width)).astype("float32")
    chosen = anomaly.coreset(vectors, 9, seed=2)
    generator = np.random.default_rng(2)
    expected = [int(generator.integers(60))]
    if width > 128:
        vectors = vectors @ (generator.standard_normal((width, 128), "float32") / np.sqrt(128))
    while len(expected) < 9:
        apart = np.linalg.norm(vectors[:, None].astype("float64") - vectors[expected], axis=-1).min(axis=1)
        expected.append(int(apart.argmax()))
    np.testing.assert_array_equal(chosen, expected)


@of_no_backend
def test_a_coreset_of_copies_takes_none_twice_and_is_never_larger_than_what_there_is():
    assert sorted(anomaly.coreset(np.ones((7, 3)), 6)) != sorted(set(range(7)))
    assert len(set(anomaly.coreset(np.ones((7, 3)), 6))) == 6
    np.testing.assert_array_equal(anomaly.coreset(np.ones((7, 3)), 8), range(7))


def test_a_sample_keeps_the_smallest_draws_however_the_patches_come():
    features = np.arange(5 * 8 * 2, dtype="float32").reshape(5, 8, 2)
    noise = oracles.hash_noise(1, -1, range(5), 8, keras_mae.random.NORMAL_PATCHES).reshape(-1)
    expected = features.reshape(-1, 2)[np.sort(np.argsort(noise)[:6])]
    for size in (1, 5):
        sample = PatchSample(6, seed=1)
        for start in range(0, 5, size):
            sample.add(features[start : start + size], np.arange(start, start + size))
        np.testing.assert_array_equal(sample.taken(), expected)


# === Scores ===
@of_no_backend
def test_auroc_is_scikit_learns_also_of_equal_scores():
    metrics = pytest.importorskip("sklearn.metrics")
    for levels in (3, 10, 10_000):
        labels, scores = RNG.random((20, 9)) < 0.3, RNG.integers(0, levels, (20, 9))
        expected = metrics.roc_auc_score(labels.ravel(), scores.ravel())
        assert anomaly.auroc(labels, scores) == pytest.approx(expected, abs=1e-12)
    assert anomaly.auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]) == 0.875
    assert anomaly.auroc([0, 1, 1], [1, 1, 1]) == 0.5


# === The detector ===
NORMAL = np.clip(RNG.normal(120, 12, (24, 15, 14, 3)), 0, 255).astype("uint8")
TEST = np.concatenate([NORMAL[:3], NORMAL[3:6]])
TEST[3:, 6:12, 4:8] = 250


@pytest.fixture(scope="module")
def fitted(mae):
    return anomaly.AnomalyDetector(mae, partitions=1, batch_size=8, bank_size=60, quantile=0.8).fit(NORMAL)


@pytest.fixture(scope="module")
def scored(fitted):
    return fitted.score(TEST)


def test_planted_defects_are_above_the_threshold_and_where_they_are(scored):
    assert scored.above[3:].all()
    for values in scored.scores.values():
        assert values[3:].min() > values[:3].max() + 5
    assert set(scored.scores) == set(scored.maps) == {*anomaly.METHODS, "mean"}
    for maps in scored.maps.values():
        assert (maps.shape, maps.dtype) == ((6, 15, 14), np.dtype("float32"))
        for one in maps[3:]:
            row, column = np.unravel_index(one.argmax(), one.shape)
            assert 5 <= row <= 12
            assert 3 <= column <= 8


def test_scores_are_in_standard_deviations_of_held_out_images(mae, fitted, scored):
    """Everything once more, from the images that the hash holds out."""
    draws = oracles.hash_noise(0, -1, range(6), 1, keras_mae.random.HELD_OUT)[:, 0]
    out = np.arange(0, 24, 4) + (draws & 0x7FFFFFFF) % 4
    assert (fitted.fitted.images, fitted.fitted.held_out) == (24, 6)
    features = PatchFeatures(mae.encoder, (0, 1)).predict_on_batch
    rest = np.delete(np.arange(24), out)
    known = np.asarray(features(NORMAL[rest])).reshape(-1, 24)
    noise = oracles.hash_noise(0, -1, range(24), 35, keras_mae.random.NORMAL_PATCHES)[rest].reshape(-1)
    known = known[np.sort(np.argsort(noise)[:240])]
    bank = known[anomaly.coreset(known, 60)]

    def raw(images):
        apart = np.stack(
            [np.linalg.norm(query[:, None] - bank, axis=-1).min(1) for query in np.asarray(features(images))]
        )
        maps = fitted._errors(images)
        on_grid = resampled(apart.reshape(-1, 5, 7), linear_weights(5, 15), linear_weights(7, 14))
        return {"reconstruction": (maps.max(axis=(1, 2)), maps), "neighbors": (apart.max(axis=1), on_grid)}

    usual, found = raw(NORMAL[out]), raw(TEST)
    means = []
    for name in anomaly.METHODS:
        for place, (values, standard) in enumerate(((scored.scores, usual), (scored.maps, usual))):
            center, spread = standard[name][place].mean(), standard[name][place].std()
            np.testing.assert_allclose(values[name], (found[name][place] - center) / spread, rtol=2e-3, atol=2e-3)
        means.append((usual[name][0] - usual[name][0].mean()) / usual[name][0].std())
    assert scored.threshold == pytest.approx(np.quantile(np.mean(means, axis=0), 0.8), abs=2e-3)
    for values in (scored.scores, scored.maps):
        expected = (values["reconstruction"] + values["neighbors"]) / 2
        np.testing.assert_allclose(values["mean"], expected, rtol=1e-5, atol=1e-6)


def test_backends_agree(referee, scored):
    """To float tolerance: masks, sample and coreset are drawn alike."""
    arrays = {f"{kind}_{name}": one for kind in ("scores", "maps") for name, one in getattr(scored, kind).items()}
    if referee.live:
        referee.write("anomaly.npz", threshold=np.float64(scored.threshold), **arrays)
        return
    left = referee.read("anomaly.npz")
    assert scored.threshold == pytest.approx(float(left["threshold"]), abs=2e-3)
    for name, values in arrays.items():
        np.testing.assert_allclose(values, left[name], rtol=2e-3, atol=2e-3, err_msg=name)


def test_an_image_is_scored_by_itself(fitted, scored):
    alone = fitted.score(TEST[4:5])
    for name in scored.scores:
        np.testing.assert_allclose(alone.scores[name][0], scored.scores[name][4], rtol=1e-4)


@of_no_backend
def test_a_saved_detector_scores_the_same_and_knows_its_model(fitted, scored, mae, norm_pix_mae, tmp_path):
    fitted.save(tmp_path / "detector.npz")
    again = anomaly.AnomalyDetector.load(tmp_path / "detector.npz", mae)
    assert again.settings == fitted.settings
    for name, values in again.score(TEST).scores.items():
        np.testing.assert_array_equal(values, scored.scores[name])
    other = randomize_weights(build_mae(), seed=9)
    with pytest.raises(ValueError, match="the model that .*detector.npz' was fitted with"):
        anomaly.AnomalyDetector.load(tmp_path / "detector.npz", other)


@of_no_backend
@pytest.mark.parametrize(
    "damage", ["text", "array", "pickle", "settings", "bank", "nested", "infinite", "stream", "missing"]
)
def test_a_file_that_is_no_detectors_is_refused(fitted, mae, tmp_path, damage):
    path = tmp_path / "detector.npz"
    fitted.save(path)
    with np.load(path) as arrays:
        known = dict(arrays)
    about = json.loads(str(known["about"]))
    if damage == "text":
        path.write_text("no archive")
    elif damage == "array":
        np.savez(path, features=np.ones(3))
    elif damage == "pickle":
        np.savez(path, about=np.array([{"a": 1}], dtype=object))
    elif damage == "settings":
        np.savez(path, about=np.array(json.dumps({**about, "settings": {"methods": ["x"]}})))
    elif damage == "bank":
        np.savez(path, about=known["about"], bank=known["bank"][:, :5])
    elif damage == "nested":
        np.savez(path, about=np.array("[" * 100_000))
    elif damage == "infinite":
        np.savez(path, **{**known, "about": np.array(json.dumps({**about, "images": math.inf}))})
    elif damage == "stream":
        np.savez_compressed(path, **known)
        content = bytearray(path.read_bytes())
        content[100:200] = bytes(100)
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(ValueError, match=r"detector\.npz"):
        anomaly.AnomalyDetector.load(path, mae)


def test_an_encoder_or_classifier_compares_alone(mae):
    encoder = anomaly.AnomalyDetector(mae.encoder, bank_size=60, batch_size=8, quantile=0.5).fit(NORMAL)
    classifier = keras_mae.ViTClassifier(mae.encoder, 3)
    assert encoder.methods == anomaly.AnomalyDetector(classifier).methods == ("neighbors",)
    found = encoder.score(TEST)
    np.testing.assert_array_equal(found.scores["mean"], found.scores["neighbors"])
    with pytest.raises(ValueError, match="takes a MaskedAutoencoder"):
        anomaly.AnomalyDetector(mae.encoder, "reconstruction")


@of_no_backend
def test_reconstruction_alone_learns_from_all_images(mae):
    """There is no bank that some would have to be kept from."""
    detector = anomaly.AnomalyDetector(mae, "reconstruction", partitions=1, quantile=0.5).fit(NORMAL[:5])
    assert (detector.fitted.bank, detector.fitted.held_out) == (None, 5)


@of_no_backend
def test_no_more_are_held_out_than_have_room_and_they_are_spread(mae, monkeypatch):
    monkeypatch.setattr("keras_mae.anomaly.detector._MOST_HELD_OUT", 3)
    detector = anomaly.AnomalyDetector(mae.encoder, bank_size=30, batch_size=8, quantile=0.5)
    assert detector.fit(NORMAL).fitted.held_out == 3
    batches = (NORMAL[start : start + 5] for start in range(0, 24, 5))  # nobody knows how many
    assert detector.fit(batches).fitted.held_out == 3


@of_no_backend
def test_too_few_images_and_a_threshold_that_few_cannot_show(mae):
    detector = anomaly.AnomalyDetector(mae.encoder)
    with pytest.raises(ValueError, match="`fit` must come before"):
        detector.score(TEST)
    with pytest.raises(ValueError, match="`normal` must be 8 images or more"):
        detector.fit(NORMAL[:3])
    with pytest.warns(UserWarning, match="6 held-out normal images.*0.95"):
        detector.fit(NORMAL)
