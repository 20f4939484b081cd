"""Several blocks of the encoder fused into the decoder's input, and several blocks' outputs at once."""

import keras
import numpy as np
import oracles
import pytest
from conftest import run_quickly
from keras import ops

import keras_mae
from keras_mae import recipes
from keras_mae.convert import save
from keras_mae.fusion import BlockFusion, fused_blocks


def to_numpy(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(scope="module")
def fused(make_mae, randomise):
    return randomise(make_mae(depth=3, fuse_blocks=(-1, 0)))


@pytest.fixture(scope="module")
def masked(images, noise):
    return {"images": images, "noise": noise}


def fused_by_hand(model, images, mask):
    """(batch, 1 + kept, dim), in NumPy: blocks 0 and 2 of three, before and after the final norm."""
    w, sizes = oracles.weights_of(model), oracles.Sizes.of(model)
    outputs = oracles.blocks_of(images, w, sizes, mask)[1:]
    mix = np.exp(to_numpy(model.fusion.mix).astype("float64"))
    shares = mix / mix.sum()
    (projection,) = model.fusion.projections
    low = outputs[0] @ to_numpy(projection.kernel).astype("float64") + to_numpy(projection.bias)
    return oracles.layer_norm(shares[0] * low + shares[1] * outputs[2], w, "encoder.norm")


# === What is computed ===
@pytest.mark.parametrize("training", [False, True])
def test_the_decoder_reads_the_fused_blocks(training, fused, masked, noise):
    mask = oracles.mask_from_noise(noise, 0.75)
    tokens = fused_by_hand(fused, masked["images"], mask)
    expected = oracles.decode(tokens, oracles.weights_of(fused), oracles.Sizes.of(fused), mask)
    outputs = run_quickly(lambda x: fused(x, training=training))(masked)
    np.testing.assert_allclose(to_numpy(outputs["reconstruction"]), expected, atol=1e-5)
    outputs = run_quickly(lambda x: fused.outputs_for_loss(x, training=training))(masked)
    loss = float(to_numpy(fused.compute_loss(masked, None, outputs, training=training)))
    target = oracles.target_of(masked["images"], oracles.Sizes.of(fused), False)
    np.testing.assert_allclose(loss, oracles.loss_of(expected, target, mask), rtol=1e-5)


def test_shares_start_equal(make_mae):
    fusion = make_mae(depth=3, fuse_blocks=(0, 1, 2)).fusion
    np.testing.assert_array_equal(to_numpy(fusion.mix), np.zeros(3))
    assert [tuple(one.kernel.shape) for one in fusion.projections] == [(12, 12), (12, 12)]


def test_what_fuses_is_trained(fused, images):
    model = fused.copy()
    before = [to_numpy(weight).copy() for weight in model.fusion.weights]
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
    model.fit(images, verbose=0)
    assert all((to_numpy(now) != old).any() for now, old in zip(model.fusion.weights, before, strict=True))


def test_gradients_of_shares_are_added_up_in_float32(make_mae):
    """Ones added up in bfloat16 end at 256."""
    fusion = BlockFusion(2, dtype="mixed_bfloat16")
    fusion.build((None, None, 4))
    fusion.projections[0].kernel.assign(np.eye(4))
    fusion.mix.assign([0.0, 0.0])
    ones = ops.ones((64, 64, 4), "bfloat16")

    def total(mix):
        shares = ops.softmax(mix)
        fusion_mix = fusion.mix
        with keras.StatelessScope(state_mapping=[(fusion_mix, mix)]):
            return ops.sum(ops.cast(fusion([ones, 0 * ones]), "float32")) + 0 * ops.sum(shares)

    gradient = keras_mae.ops.gradient(total, [])(ops.zeros((2,)))
    np.testing.assert_allclose(to_numpy(gradient), [64 * 64, -64 * 64], rtol=1e-2)


def test_mixed_precision_stays_close(fused, masked):
    low = fused.copy(dtype="mixed_bfloat16")
    outputs = run_quickly(lambda x: low.outputs_for_loss(x, training=False))(masked)
    exact = run_quickly(lambda x: fused.outputs_for_loss(x, training=False))(masked)
    losses = [float(to_numpy(fused.compute_loss(masked, None, one, training=False))) for one in (outputs, exact)]
    np.testing.assert_allclose(*losses, rtol=0.03)


def test_the_encoder_is_a_plain_one(fused, images, tmp_path):
    w, sizes = oracles.weights_of(fused), oracles.Sizes.of(fused)
    np.testing.assert_allclose(to_numpy(fused.encoder(images)), oracles.encode(images, w, sizes), atol=1e-5)
    fused.encoder.save(tmp_path / "encoder.keras")
    assert not any("fusion" in weight.path for weight in keras.saving.load_model(tmp_path / "encoder.keras").weights)


def test_without_a_final_norm_nothing_follows(make_images, randomise):
    encoder = keras_mae.ViTEncoder((15, 14, 3), (3, 2), 12, 2, 3, final_norm=False)
    model = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), fuse_blocks=(0, 1))
    assert np.isfinite(to_numpy(model(make_images(3))["reconstruction"])).all()


# === Several blocks' outputs ===
def test_outputs_of_several_blocks(fused, images):
    w, sizes = oracles.weights_of(fused), oracles.Sizes.of(fused)
    expected = oracles.blocks_of(images, w, sizes)[1:]
    outputs = fused.encoder.encode(images, blocks=(-1, 0))
    for got, place in zip(outputs, (2, 0), strict=True):
        np.testing.assert_allclose(to_numpy(got), expected[place], atol=1e-5)
    (low,) = fused.encoder.encode(images, blocks=[0])
    np.testing.assert_array_equal(to_numpy(low), to_numpy(outputs[1]))
    np.testing.assert_array_equal(to_numpy(fused.encoder.encode(images)), to_numpy(outputs[0]))


@pytest.mark.backends("torch")
@pytest.mark.parametrize("blocks", [(3,), (-4,), (), "0", (0.5,)])
def test_blocks_that_are_not_there_are_refused(blocks, fused, images):
    with pytest.raises(ValueError, match="`blocks` must be indices of blocks, from -3 to 2. Received"):
        fused.encoder.encode(images, blocks=blocks)


# === Around it ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize("blocks", [(0, 1), (2,), (0, 0, 2), (2, -1), (0, 3), 2, "02", (0, 2.0), ()])
def test_blocks_that_cannot_be_fused_are_refused(blocks, make_mae):
    with pytest.raises(
        ValueError, match=r"`fuse_blocks` must be two or more.*3, the last one \(2 or -1\) among them"
    ):
        make_mae(depth=3, fuse_blocks=blocks)


@pytest.mark.backends("torch")
def test_blocks_are_taken_in_rising_order():
    assert fused_blocks((-1, 4, 0), 12) == (0, 4, 11)
    with pytest.raises(ValueError, match="`num_blocks` must be 2 or more"):
        BlockFusion(1)


def test_it_is_saved_copied_and_given_to_architectures(fused, masked, tmp_path):
    expected = to_numpy(fused(masked)["reconstruction"])
    fused.save(tmp_path / "mae.keras")
    fused.save_to_preset(tmp_path / "mae")
    again = keras_mae.MaskedAutoencoder.from_preset(tmp_path / "mae")
    for model in (keras.saving.load_model(tmp_path / "mae.keras"), again, fused.copy()):
        assert model.fuse_blocks == (-1, 0)
        np.testing.assert_array_equal(to_numpy(model(masked)["reconstruction"]), expected)
    small = keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch2_8", fuse_blocks=(0, 3))
    assert small.fusion.num_blocks == 2
    with pytest.raises(ValueError, match="not in what its weights depend on.*fuse_blocks"):
        fused.copy(fuse_blocks=(1, 2))
    report = keras_mae.convert.load(tmp_path / "mae.keras").report
    assert len(report.rows) == len(fused.weights)


@pytest.mark.backends("torch")
@pytest.mark.parametrize("format", ["reference", "transformers", "timm", "keras_hub"])
def test_other_formats_refuse_it(format, fused, tmp_path):
    with pytest.raises(ValueError, match=r"No other library has a decoder that reads several.*fuse_blocks=\(-1, 0\)"):
        save(fused, tmp_path / "other.pth", format)


@pytest.mark.backends("torch")
def test_a_recipe_says_which_blocks(fused, images, tmp_path):
    recipe = recipes.PretrainRecipe(fuse_blocks=[0, -1])
    assert recipes.Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.to_dict()["fuse_blocks"] == [0, -1]
    assert recipe.model_arguments["fuse_blocks"] == (0, -1)
    plain = recipes.PretrainRecipe(norm_pix_loss=False)
    with pytest.raises(ValueError, match=r"must agree.*fuse_blocks=\(-1, 0\) and None"):
        keras_mae.training.run_pretraining(fused, [images], plain, tmp_path / "run", examples=images)
    with pytest.raises(ValueError, match="`fuse_blocks` must be indices of blocks, or None"):
        recipes.PretrainRecipe(fuse_blocks="0,2")
