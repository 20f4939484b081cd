"""Targets that standardize groups of bands, each by its own mean and variance."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import keras_mae
from keras_mae import loss, recipes, training
from keras_mae.reconstruction import undo_normalization

pytestmark = pytest.mark.usefixtures("untraced")

GROUPS = ((3, 0), (1, 2, 4))
SHAPE, PATCH, GRID = (9, 10, 5), (3, 2), (3, 5)
GENERATOR = np.random.default_rng(0)
# Bands of other scales, and one that varies with the patch.
IMAGES = GENERATOR.uniform(0, 1, (4, *SHAPE)) * [200, 10, 3, 90, 1] + np.arange(90).reshape(9, 10, 1) / 2
IMAGES = IMAGES.astype("float32")


def build(groups=GROUPS, **options):
    keras.utils.set_random_seed(1)
    encoder = keras_mae.ViTEncoder(SHAPE, PATCH, embed_dim=8, depth=1, num_heads=2)
    decoder = keras_mae.MAEDecoder(8, 1, 2)
    return keras_mae.MaskedAutoencoder(encoder, decoder, band_groups=groups, **{"norm_pix_loss": True, **options})


@pytest.fixture(scope="module")
def mae():
    return build()


def patches(images, encoder):
    """float64 (batch, patches, pixels, channels), normalized as the encoder sees them."""
    scaled = (images.astype("float64") - encoder.pixel_mean) / encoder.pixel_std
    (rows, columns), (height, width) = GRID, PATCH
    split = scaled.reshape(-1, rows, height, columns, width, SHAPE[2]).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(len(images), rows * columns, height * width, SHAPE[2])


def standardized(mae, images):
    return ops.convert_to_numpy(mae._targets.to_predict(mae._targets.vectors(ops.convert_to_tensor(images))))


def test_each_group_has_its_own_mean_and_variance(mae):
    expected = patches(IMAGES, mae.encoder)
    for group in GROUPS:
        values = expected[..., group].reshape(*expected.shape[:2], -1)
        mean, variance = values.mean(-1), values.var(-1, ddof=1)
        expected[..., group] -= mean[..., None, None]
        expected[..., group] /= np.sqrt(variance + 1e-6)[..., None, None]
    got = standardized(mae, IMAGES)
    np.testing.assert_allclose(got, expected.reshape(got.shape), atol=2e-4)


@pytest.mark.backends("torch")
def test_a_group_knows_nothing_of_the_others(mae):
    louder = IMAGES.copy()
    louder[..., [1, 2, 4]] *= 1.5
    before, after = (standardized(mae, images).reshape(4, 15, 6, 5) for images in (IMAGES, louder))
    assert np.array_equal(before[..., [0, 3]], after[..., [0, 3]])
    assert not np.allclose(before[..., [1, 2, 4]], after[..., [1, 2, 4]])


@pytest.mark.backends("torch")
def test_one_group_of_all_bands_is_the_paper_s_target():
    whole, plain = (standardized(build(groups), IMAGES) for groups in (((4, 2, 0, 1, 3),), None))
    np.testing.assert_allclose(whole, plain, atol=1e-5)


def test_statistics_put_a_group_back_into_pixels(mae):
    encoder = mae.encoder
    pixels = ops.convert_to_numpy(mae._targets.vectors(ops.convert_to_tensor(IMAGES)))
    ids = np.stack([GENERATOR.permutation(15) for _ in IMAGES]).astype("int32")
    keep, removed = ids[:, :4], ids[:, 4:]
    options = {"ids_keep": keep, "ids_removed": removed, "encoder": encoder, "groups": GROUPS}
    target = standardized(mae, IMAGES)
    back, _ = undo_normalization(target, IMAGES, pixels, statistics="true", **options)
    np.testing.assert_allclose(back, pixels, atol=1e-4)

    back, _ = undo_normalization(target, IMAGES, pixels, statistics="visible", **options)
    channel = np.arange(pixels.shape[-1]) % 5
    for group in GROUPS:
        own = np.isin(channel, group)
        visible = np.take_along_axis(pixels[..., own], keep[..., None], axis=1)
        guess = loss.visible_statistics(
            ops.convert_to_tensor(visible), *map(ops.convert_to_tensor, (keep, removed)), GRID
        )
        mean, std = map(ops.convert_to_numpy, guess)
        found, wanted = (
            np.take_along_axis(values[..., own], removed[..., None], axis=1) for values in (back, target)
        )
        np.testing.assert_allclose(found, wanted * std + mean, atol=1e-4)


def test_it_trains_and_is_saved_with_its_groups(mae, tmp_path):
    mae.compile(keras_mae.optimizers.AdamW(1e-3))
    mae.fit(IMAGES, batch_size=2, verbose=0)
    mae.save(tmp_path / "mae.keras")
    loaded = keras.saving.load_model(tmp_path / "mae.keras")
    assert loaded.band_groups == loaded.copy().band_groups == GROUPS
    assert loaded.target_description == "normalized pixels in 2 groups of bands"
    scores = [model.evaluate(IMAGES, verbose=0, return_dict=True) for model in (mae, loaded)]
    assert scores[0] == pytest.approx(scores[1])
    assert np.isfinite(list(scores[0].values())).all()
    reconstruction = loaded.reconstruct(IMAGES)
    assert reconstruction.pasted.shape == IMAGES.shape
    assert np.isfinite(reconstruction.predicted).all()
    old = mae.get_config()
    del old["band_groups"]
    assert keras_mae.MaskedAutoencoder.from_config(old).band_groups is None


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": ((0, 1), (2, 3))}, r"hold each of them once, such as .*: the images have 5"),
        ({"groups": ((0, 1), (1, 2, 3, 4))}, "hold each of them once"),
        ({"groups": (0, 1, 2, 3, 4)}, "`band_groups` must be groups of channels"),
        ({"norm_pix_loss": False}, r"takes the target 'normalized' \(norm_pix_loss=True\)"),
        ({"norm_pix_loss": None, "target": "hog"}, r"takes the target 'normalized' \(norm_pix_loss=True\)"),
    ],
)
def test_groups_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.backends("torch")
@pytest.mark.parametrize("format", ["reference", "transformers"])
def test_other_libraries_do_not_get_it(mae, format, tmp_path):
    with pytest.raises(ValueError, match="No other library normalizes bands in groups"):
        keras_mae.convert.save(mae, tmp_path / "mae", format)


@pytest.mark.backends("torch")
def test_weights_go_on_with_groups(mae):
    """Both predict normalized pixels, so that the decoder stays."""
    going_on = keras_mae.convert.continued(build(None), norm_pix_loss=True, band_groups=GROUPS)
    assert going_on.band_groups == GROUPS
    assert np.array_equal(going_on.decoder.get_weights()[0], build(None).decoder.get_weights()[0])


@pytest.mark.backends("torch")
def test_a_recipe_has_groups_and_its_model_must_have_the_same(tmp_path):
    recipe = recipes.PretrainRecipe(
        epochs=1, warmup_epochs=0, batch_size=2, crop_area=None, band_groups=[[3, 0], [1, 2, 4]]
    )
    assert recipe.band_groups == recipe.model_arguments["band_groups"] == GROUPS
    text = json.dumps(recipe.to_dict())
    assert recipes.Recipe.from_dict(json.loads(text)) == recipe
    with pytest.raises(
        ValueError, match='`band_groups` are normalized each by itself, which takes the target "normal'
    ):
        recipes.PretrainRecipe(norm_pix_loss=False, band_groups=GROUPS)
    dataset = keras_mae.data.from_arrays(IMAGES, batch_size=2, drop_remainder=True)
    with pytest.raises(ValueError, match=r"Model and recipe must agree. Received: band_groups=None and \(\(3, 0\)"):
        training.run_pretraining(build(None, target=None), dataset, recipe, tmp_path / "run", examples=IMAGES)


@pytest.mark.backends("torch")
def test_in_a_shell(keras_mae_command):
    """With more bands than pictures have, and again by the recipe file."""
    Path("bands").mkdir()
    for number in range(12):
        np.save(f"bands/{number}.npy", GENERATOR.uniform(0, 1, (8, 8, 5)).astype("float32"))
    sizes = "--image-size 8 --channels 5 --model mae_vit_micro_patch2_8"
    options = f"--epochs 1 {sizes} --pixel-range 0 1".split()
    status, _, err = keras_mae_command("pretrain", "bands", *options, "--band-groups", "3,0/1,2,4", "--out", "run")
    assert status == 0, err
    assert "# follows band_groups" in Path("run/recipe.toml").read_text()
    again = ("pretrain", "bands", "--recipe", "run/recipe.toml", "--out", "again")
    assert keras_mae_command(*again)[0] == 0
    for run in ("run", "again"):
        assert json.loads(Path(run, "run.json").read_text())["recipe"]["band_groups"] == [[3, 0], [1, 2, 4]]
        assert keras.saving.load_model(f"{run}/model.keras").band_groups == GROUPS
    assert Path("run/history.csv").read_text() == Path("again/history.csv").read_text()
    status, _, err = keras_mae_command("pretrain", "bands", *options, "--band-groups", "0,1/2,3")
    assert (status, "the images have 5" in err) == (2, True)
    status, _, err = keras_mae_command("pretrain", "bands", "--epochs", 1, "--pixel-range", 0, 1, "--channels", 4)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "bands" in err
