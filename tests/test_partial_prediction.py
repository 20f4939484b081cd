"""Training that predicts only a share of the removed patches: which ones, what the decoder sees, what the loss is."""

import numpy as np
import oracles
import pytest
from conftest import run_quickly
from keras import ops

import keras_mae
from keras_mae import recipes
from keras_mae.masking import Mask
from keras_mae.partial_prediction import drawn, num_predicted

RATIO = 1 / 3
STREAM = 2


def to_numpy(x):
    return ops.convert_to_numpy(x)


def predicted_from(mask, noise, count):
    """(batch, patches), 1 = predicted: of each image's removed patches the ones with the least noise."""
    predicted = np.zeros(mask.shape)
    for sample, draws in enumerate(noise):
        removed = np.flatnonzero(mask[sample])
        predicted[sample, sorted(removed, key=lambda patch: draws[patch])[:count]] = 1
    return predicted


@pytest.fixture(scope="module")
def partial(make_mae, mae, randomise):
    """The shared model's weights; a third of its 27 removed patches is predicted."""
    return randomise(make_mae(predict_ratio=RATIO, seed=4))


@pytest.fixture(scope="module")
def expected(partial, weights, sizes, images):
    """Mask, choice and prediction of the first training step, by the oracle."""
    mask = oracles.mask_from_noise(oracles.hash_noise(4, 0, range(3), 35), 0.75)
    predicted = predicted_from(mask, oracles.hash_noise(4, 0, range(3), 35, STREAM), 9)
    tokens = oracles.encode(images, weights, sizes, mask)
    return mask, predicted, oracles.decode(tokens, weights, sizes, mask, predicted)


# === Which patches ===
@pytest.mark.parametrize(
    ("ratio", "removed", "count"),
    [(1, 147, 147), (1 / 3, 147, 49), (2 / 3, 147, 98), (0.5, 3, 2), (0.35, 10, 4), (0.01, 12, 1), (0.999, 4, 4)],
)
def test_the_share_is_of_the_removed_patches_and_at_least_one(ratio, removed, count):
    assert num_predicted(ratio, removed) == count


@pytest.mark.parametrize("kind", ["RandomMasking", "BlockMasking", "GridMasking"])
def test_the_choice_has_the_same_bits_everywhere(kind, compiled):
    masking = getattr(keras_mae, kind)(0.75)
    noise = oracles.hash_noise(0, 5, range(4), 48).astype("int32")
    mask = masking(ops.convert_to_tensor(noise), grid=(6, 8))
    index = ops.arange(4, dtype="int32")

    def draw(ids_keep, ids_removed, step):
        shuffled, predicted = drawn(Mask(ids_keep, ids_removed), RATIO, 7, step, index)
        return shuffled.ids_removed, predicted, shuffled.mask

    outputs = compiled(draw)(*mask, ops.convert_to_tensor(5, dtype="int32"))
    removed, predicted, same = (to_numpy(one) for one in outputs)
    np.testing.assert_array_equal(same, to_numpy(mask.mask))
    draws = oracles.hash_noise(7, 5, range(4), 48, STREAM)
    order = [sorted(np.flatnonzero(gone), key=lambda p, row=row: draws[row][p]) for row, gone in enumerate(same)]
    np.testing.assert_array_equal(removed, order)
    np.testing.assert_array_equal(predicted, removed[:, :12])


def test_one_mask_is_one_choice_in_whatever_order_it_comes():
    removed = np.array([[9, 2, 4, 7, 1, 0]], "int32")
    mask = Mask(np.array([[3, 5, 6, 8]], "int32"), removed)
    again = Mask(mask.ids_keep, np.sort(removed))
    one, two = (to_numpy(drawn(each, 0.5, 1, 2, np.array([3], "int32"))[1]) for each in (mask, again))
    np.testing.assert_array_equal(one, two)


def test_every_removed_patch_is_chosen_alike():
    """Blocks come in reading order: the first of them must not be chosen more often. 4 sigma of the binomial."""
    rows = 2000
    mask = Mask(
        np.tile(np.arange(12, 16, dtype="int32"), (rows, 1)), np.tile(np.arange(12, dtype="int32"), (rows, 1))
    )
    _, predicted = drawn(mask, 0.25, 0, 1, np.arange(rows, dtype="int32"))
    share = np.bincount(to_numpy(predicted).ravel(), minlength=12) / rows
    assert np.abs(share - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / rows)


# === What is computed ===
def test_the_decoder_sees_the_visible_and_the_predicted_patches_alone(partial, expected, images):
    mask, predicted, prediction = expected
    partial.encoder.step.set(0)
    outputs = run_quickly(lambda x: partial(x, training=True))(images)
    np.testing.assert_array_equal(to_numpy(outputs["mask"]), mask)
    np.testing.assert_array_equal(to_numpy(outputs["predicted"]), predicted)
    np.testing.assert_allclose(to_numpy(outputs["reconstruction"]), prediction, atol=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_loss_is_over_the_predicted_patches(norm_pix_loss, partial, expected, images, sizes, make_mae):
    model = partial
    if norm_pix_loss:
        model = make_mae(predict_ratio=RATIO, seed=4, norm_pix_loss=True)
        for ours, source in zip(model.weights, partial.weights, strict=True):
            ours.assign(source)
    _, predicted, prediction = expected
    loss = oracles.loss_of(prediction, oracles.target_of(images, sizes, norm_pix_loss), predicted)
    model.encoder.step.set(0)
    outputs = run_quickly(lambda x: model.outputs_for_loss(x, training=True))(images)
    assert {value.shape[1] for value in outputs.values()} == {9}
    np.testing.assert_allclose(float(to_numpy(model.compute_loss(images, None, outputs))), loss, rtol=1e-5)
    assert np.isfinite(to_numpy(model.removed_psnr(outputs))).all()
    model.encoder.step.set(0)
    by_keras = model.compute_loss(images, None, model(images, training=True))
    np.testing.assert_allclose(float(to_numpy(by_keras)), loss, rtol=1e-5)


def test_guessed_statistics_are_those_of_the_predicted_patches(make_mae, images):
    model = make_mae(depth=1, predict_ratio=RATIO, norm_pix_loss=True)
    noise = np.array(oracles.hash_noise(1, 1, range(3), 35), "int32")
    x = {"images": images, "noise": noise}
    some = {key: to_numpy(value) for key, value in model.outputs_for_loss(x, training=True).items()}
    every = {key: to_numpy(value) for key, value in model.outputs_for_loss(x, training=False).items()}
    for row in range(3):
        places = [
            np.flatnonzero((every["removed_pixels"][row] == one).all(axis=1)) for one in some["removed_pixels"][row]
        ]
        assert [len(place) for place in places] == [1] * 9
        for key in ("guessed_mean", "guessed_std"):
            np.testing.assert_allclose(some[key][row], every[key][row][np.concatenate(places)], rtol=1e-6)


def test_without_training_every_patch_is_predicted(partial, mae, images, noise):
    x = {"images": images, "noise": noise}
    ours, whole = (model(x, training=False) for model in (partial, mae))
    assert set(ours) == {"reconstruction", "mask"}
    np.testing.assert_array_equal(to_numpy(ours["reconstruction"]), to_numpy(whole["reconstruction"]))
    ours, whole = (model.outputs_for_loss(x, training=False) for model in (partial, mae))
    np.testing.assert_array_equal(to_numpy(ours["removed_prediction"]), to_numpy(whole["removed_prediction"]))


def test_each_mask_of_an_image_has_a_choice_of_its_own(make_mae, images):
    model = make_mae(depth=1, predict_ratio=RATIO, masks_per_image=2, seed=4)
    outputs = model(images, training=True)
    mask = oracles.mask_from_noise(oracles.hash_noise(4, 0, range(6), 35), 0.75)
    expected = predicted_from(mask, oracles.hash_noise(4, 0, range(6), 35, STREAM), 9)
    np.testing.assert_array_equal(to_numpy(outputs["predicted"]), expected)


def test_a_whole_share_leaves_everything_as_it_is(make_mae, images):
    outputs = make_mae(depth=1, predict_ratio=1)(images, training=True)
    assert set(outputs) == {"reconstruction", "mask"}


# === Around it ===
def test_it_is_kept_and_can_be_changed(partial, tmp_path):
    partial.save_to_preset(tmp_path / "mae")
    assert keras_mae.MaskedAutoencoder.from_preset(tmp_path / "mae").predict_ratio == RATIO
    assert keras_mae.MaskedAutoencoder.from_preset(tmp_path / "mae", predict_ratio=1.0).predict_ratio == 1.0
    assert partial.copy().predict_ratio == RATIO
    assert partial.copy(predict_ratio=0.5).predict_ratio == 0.5
    config = partial.get_config()
    del config["predict_ratio"]  # as files of earlier versions are
    assert keras_mae.MaskedAutoencoder.from_config(config).predict_ratio == 1.0


@pytest.mark.backends("torch")
@pytest.mark.parametrize("ratio", [0, -0.5, 1.01, "half", True, float("nan")])
def test_other_shares_are_refused(ratio, make_mae):
    with pytest.raises(ValueError, match=r"`predict_ratio` must be in \(0, 1\]"):
        make_mae(depth=1, predict_ratio=ratio)
    with pytest.raises(ValueError, match=r"`predict_ratio` must be in \(0, 1\]"):
        recipes.PretrainRecipe(predict_ratio=ratio)


@pytest.mark.backends("torch")
def test_a_model_that_predicts_another_share_than_its_recipe_is_refused(partial, images, tmp_path):
    recipe = recipes.PretrainRecipe(norm_pix_loss=False)
    with pytest.raises(ValueError, match="must agree.*predict_ratio=0.333.* and 1.0"):
        keras_mae.training.run_pretraining(partial, [images], recipe, tmp_path / "run", examples=images)


@pytest.mark.backends("torch")
def test_a_recipe_of_an_earlier_version_predicts_all():
    values = recipes.PretrainRecipe(epochs=50).to_dict()
    del values["predict_ratio"]
    assert recipes.Recipe.from_dict(values) == recipes.PretrainRecipe(epochs=50)
