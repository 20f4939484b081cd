"""The encoder as the backbone of a detector: levels, what is trained and saved, and KerasHub's RetinaNet on it."""

import sys

import keras
import numpy as np
import pytest
from conftest import run_quickly
from keras import ops

import keras_mae

SHAPE, WIDTH = (32, 48, 3), 8
IMAGES = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), "uint8")


def numpy(value):
    return ops.convert_to_numpy(value)


def make_encoder(patch_size=8, image_shape=SHAPE, **options):
    return keras_mae.ViTEncoder(image_shape, patch_size, embed_dim=16, depth=2, num_heads=2, **options)


def shapes_of(backbone):
    return {level: tuple(one.shape[1:]) for level, one in backbone.pyramid_outputs.items()}


def values(layer):
    return [numpy(weight).copy() for weight in layer.weights]


def changed(layer, before):
    return [not np.array_equal(numpy(new), old) for new, old in zip(layer.weights, before, strict=True)]


@pytest.fixture(scope="module")
def backbone():
    return keras_mae.DetectionBackbone(make_encoder(), width=WIDTH)


# === Levels ===
@pytest.mark.parametrize("patch_size", [4, 8, 16, 32])
def test_level_n_has_a_stride_of_2_to_the_n_pixels(patch_size):
    shape = (4 * patch_size, 6 * patch_size, 3)
    found = shapes_of(keras_mae.DetectionBackbone(make_encoder(patch_size, shape), width=WIDTH))
    first = {4: 0, 8: 1, 16: 2, 32: 3}[patch_size]
    assert list(found) == [f"P{first + index}" for index in range(4)]
    for level, one in found.items():
        assert one == (shape[0] // 2 ** int(level[1]), shape[1] // 2 ** int(level[1]), WIDTH)


def test_the_levels_are_the_simple_pyramid_of_the_last_block(backbone):
    wanted = run_quickly(lambda: backbone.pyramid(backbone.encoder.features(IMAGES)))()
    found = run_quickly(lambda: backbone(IMAGES.astype("float32")))()
    assert list(found) == ["P1", "P2", "P3", "P4"]
    for ours, theirs in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(numpy(ours), numpy(theirs), atol=1e-5)


def test_levels_that_nobody_takes_are_not_made(backbone):
    coarse = keras_mae.DetectionBackbone(make_encoder(), min_level=3, width=WIDTH)
    assert shapes_of(coarse) == {level: shapes_of(backbone)[level] for level in ("P3", "P4")}
    assert (coarse.levels, backbone.levels) == ((3, 4), (1, 4))
    assert coarse.count_params() < backbone.count_params()


def test_a_pyramid_of_some_scales_has_their_maps():
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 8)).astype("float32")
    whole, some = keras_mae.dense.SimplePyramid(5), keras_mae.dense.SimplePyramid(5, scales=(2, 0.5))
    all_maps = whole(x)
    some(x)
    by_path = {weight.path.partition("/")[2]: weight for weight in whole.weights}
    for weight in some.weights:
        weight.assign(by_path[weight.path.partition("/")[2]])
    for ours, theirs in zip(some(x), (all_maps[1], all_maps[3], all_maps[4]), strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


# === The encoder in it ===
def test_a_copy_is_trained_and_images_may_have_another_size():
    encoder = make_encoder(drop_path_rate=0.25, window=2, global_blocks=1)
    backbone = keras_mae.DetectionBackbone(encoder, (48, 64, 3), min_level=3, width=WIDTH)
    assert encoder.image_shape == SHAPE
    assert backbone.encoder is not encoder
    assert shapes_of(backbone) == {"P3": (6, 8, WIDTH), "P4": (3, 4, WIDTH)}
    assert (backbone.encoder.drop_path_rate, backbone.encoder.window) == (0.25, 2)
    kernel = encoder.patch_embedding.weights[0]
    np.testing.assert_array_equal(numpy(backbone.encoder.patch_embedding.weights[0]), numpy(kernel))
    assert keras_mae.DetectionBackbone(encoder, width=WIDTH, copy=False).encoder is encoder


def test_a_frozen_encoder_leaves_the_pyramid(backbone):
    encoder = make_encoder()
    encoder.trainable = False  # as a probe leaves it
    made = keras_mae.DetectionBackbone(encoder, width=WIDTH)
    assert len(made.trainable_weights) == len(backbone.trainable_weights)
    made.encoder.trainable = False
    assert {id(weight) for weight in made.trainable_weights} == {id(weight) for weight in made.pyramid.weights}


def test_it_needs_nothing_of_keras_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError):
        import keras_hub  # noqa: F401
    assert keras_mae.DetectionBackbone(make_encoder(), width=WIDTH).levels == (1, 4)


# === Errors ===
@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        ({"patch_size": 2}, {}, r"a power of 2 from 4 on.* Received: patch_size=\(2, 2\)"),
        ({"patch_size": (8, 16)}, {}, r"square patches.* Received: patch_size=\(8, 16\)"),
        (
            {"patch_size": 14, "image_shape": (28, 28, 3)},
            {},
            "strides of 2 .. n pixels. Received: patch_size=.14, 14",
        ),
        ({"image_shape": (24, 32, 3)}, {}, r"twice the patch size, 16, divides.*image_shape=\(24, 32, 3\)"),
        ({}, {"image_shape": (32, 40, 3)}, r"twice the patch size, 16, divides.*image_shape=\(32, 40, 3\)"),
        ({}, {"image_shape": (32, 48, 1)}, "of the encoder's 3 channels. Received: image_shape=.32, 48, 1"),
        ({}, {"image_shape": (32, 32, 3), "copy": False}, "With `copy=False` the encoder stays as it is"),
        ({}, {"min_level": 5}, r"`min_level` must be an integer in \[1, 4\]. Received: min_level=5"),
    ],
)
def test_what_makes_no_pyramid_is_refused(encoder, options, message):
    with pytest.raises(ValueError, match=message):
        keras_mae.DetectionBackbone(make_encoder(**encoder), **options)


# === KerasHub's RetinaNet ===
@pytest.fixture(scope="module")
def detector():
    """A detector of levels P3 and P4, compiled, with one anchor for each place."""
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_mae.DetectionBackbone(make_encoder(class_tokens=0), min_level=3, width=WIDTH)
    retinanet = keras_hub.models.RetinaNetBackbone(backbone, 3, 4, use_p5=False, image_shape=SHAPE)
    anchors = keras_hub.layers.AnchorGenerator("xyxy", 3, 4, num_scales=1, aspect_ratios=[1.0], anchor_size=2.0)
    made = keras_hub.models.RetinaNetObjectDetector(
        retinanet, 3, "xyxy", anchor_generator=anchors, pre_logits_num_conv_layers=1
    )
    made.compile(keras.optimizers.Adam(1e-3))
    return made


def train(detector):
    boxes = np.array([[[2, 3, 20, 17], [-1, -1, -1, -1]]] * 2, "float32")
    detector.fit(IMAGES, {"boxes": boxes, "labels": np.array([[1, -1]] * 2, "float32")}, verbose=0)


def test_a_step_of_a_detector_trains_the_encoder_and_a_file_keeps_it(detector, tmp_path):
    encoder = detector.backbone.image_encoder.encoder
    before = values(encoder)
    train(detector)
    places = [weight is encoder.position_embedding for weight in encoder.weights]
    assert changed(encoder, before) == [not place for place in places]
    detector.save(tmp_path / "detector.keras")
    loaded = keras.saving.load_model(tmp_path / "detector.keras")
    assert isinstance(loaded.backbone.image_encoder, keras_mae.DetectionBackbone)
    assert len(loaded.trainable_weights) == len(detector.trainable_weights)
    ours, theirs = (run_quickly(model)(IMAGES.astype("float32")) for model in (detector, loaded))
    for key, one in ours.items():
        np.testing.assert_array_equal(numpy(one), numpy(theirs[key]))


def test_a_detector_on_a_frozen_encoder_trains_the_rest(detector):
    backbone = detector.backbone.image_encoder
    backbone.encoder.trainable = False
    detector.compile(keras.optimizers.Adam(1e-3))
    before, pyramid = values(backbone.encoder), values(backbone.pyramid)
    train(detector)
    assert not any(changed(backbone.encoder, before))
    assert all(changed(backbone.pyramid, pyramid))
