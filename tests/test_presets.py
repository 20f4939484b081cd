"""Architectures by name: published sizes to the last parameter."""

import math

import keras
import pytest

import keras_mae
from keras_mae import presets

pytestmark = pytest.mark.backends("torch")

PUBLISHED = {  # encoder, decoder, trained in pre-training
    "mae_vit_base_patch16_224": (85_798_656, 26_109_184, 111_655_680),
    "mae_vit_large_patch16_224": (303_301_632, 26_240_256, 329_239_296),
    "mae_vit_huge_patch14_224": (630_764_800, 26_309_708, 656_613_964),
}
TOTALS = {
    "mae_vit_base_patch16_224": 111_907_840,
    "mae_vit_large_patch16_224": 329_541_888,
    "mae_vit_huge_patch14_224": 657_074_508,
}


@pytest.fixture
def without_values():
    """Variables with shapes and no values: a ViT-H is built in half a second and no memory."""
    with keras.StatelessScope(initialize_variables=False):
        yield
    keras.utils.clear_session()  # forget the variables that wait for a value


def count(weights):
    return sum(math.prod(weight.shape) for weight in weights)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_parameter_counts(name, without_values):
    mae = keras_mae.MaskedAutoencoder.from_preset(name)
    assert (count(mae.encoder.weights), count(mae.decoder.weights), count(mae.trainable_weights)) == PUBLISHED[name]
    assert mae.count_params() == TOTALS[name]


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_fits_together(name, without_values):
    mae = keras_mae.MaskedAutoencoder.from_preset(name)
    size, patch, pixels = name.split("_")[2:]
    assert mae.encoder.image_shape[:2] == (int(pixels), int(pixels))
    assert mae.encoder.patch_size == (int(patch.removeprefix("patch")),) * 2
    assert 0 < mae.masking.num_kept(mae.encoder.grid) < mae.encoder.num_patches
    assert size in ("micro", "tiny", "small", "base", "large", "huge")


def test_every_size_has_a_preset():
    assert {name.split("_")[2] for name in presets.names()} == {"micro", "tiny", "small", "base", "large", "huge"}


def test_sizes_of_the_paper():
    widths = {
        name: tuple(presets.get(name).encoder[key] for key in ("embed_dim", "depth", "num_heads"))
        for name in PUBLISHED
    }
    assert list(widths.values()) == [(768, 12, 12), (1024, 24, 16), (1280, 32, 16)]
    for name in PUBLISHED:
        assert presets.get(name).decoder == {"embed_dim": 512, "depth": 8, "num_heads": 16}


@pytest.mark.backends("torch", "jax", "tensorflow")
def test_overrides_reach_the_part_they_are_for(without_values):
    mae = keras_mae.MaskedAutoencoder.from_preset(
        "mae_vit_micro_patch4_32",
        image_shape=(24, 40, 5),
        drop_path_rate=0.1,
        masking=keras_mae.BlockMasking(0.5),
        norm_pix_loss=True,
        masks_per_image=3,
        seed=7,
        dtype="mixed_bfloat16",
    )
    assert mae.encoder.grid == (6, 10)
    assert mae.encoder.drop_path_rate == 0.1
    assert mae.decoder.prediction.kernel.shape[1] == 4 * 4 * 5
    assert (mae.masking.mask_ratio, mae.norm_pix_loss, mae.masks_per_image, mae.seed) == (0.5, True, 3, 7)
    assert {part.dtype_policy.name for part in (mae, mae.encoder, mae.decoder)} == {"mixed_bfloat16"}


def test_a_preset_is_not_changed_by_its_use(without_values):
    before = presets.get("mae_vit_micro_patch4_32")
    keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch4_32", image_shape=(8, 8, 1), depth=1)
    assert presets.get("mae_vit_micro_patch4_32") == before


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"`preset` must be one of mae_vit_micro.*Received: preset='vit_giant'"
    ) as error:
        keras_mae.MaskedAutoencoder.from_preset("vit_giant")
    assert all(name in str(error.value) for name in presets.names())


def test_unknown_argument_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"takes arguments of .*image_shape.*norm_pix_loss.*Received: mask_ratio"):
        keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch4_32", mask_ratio=0.5)
