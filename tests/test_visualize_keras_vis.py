"""The classifier in tf-keras-vis, which works on TensorFlow only."""

import keras
import numpy as np
import pytest
from classifier_helpers import GRID, IMAGE_SHAPE, IMAGES, LABELS, WIDTH, make_classifier, make_encoder

import keras_mae
from keras_mae import visualize

TENSORFLOW = keras.backend.backend() == "tensorflow"
only_tensorflow = pytest.mark.skipif(not TENSORFLOW, reason="tf-keras-vis works on TensorFlow only")
MAP = {"penultimate_layer": "feature_map", "seek_penultimate_conv_layer": False}
FLOATS = IMAGES[:3].astype("float32")


@pytest.mark.skipif(TENSORFLOW, reason="the other backends' error")
def test_other_backends_are_refused_by_name():
    with pytest.raises(
        ValueError, match=f"TensorFlow backend only.* Received: the backend '{keras.config.backend()}'"
    ):
        visualize.keras_vis(make_classifier())


@only_tensorflow
def test_other_models_are_refused():
    with pytest.raises(ValueError, match="`classifier` must be a keras_mae.ViTClassifier"):
        visualize.keras_vis(make_classifier().encoder)


@only_tensorflow
@pytest.mark.parametrize("changes", [{}, {"pooling": "token"}, {"pooling": "token", "batch_norm": True}], ids=str)
def test_the_logits_are_the_classifiers(changes):
    classifier = make_classifier(**changes)
    model = visualize.keras_vis(classifier)
    got, expected = (keras.ops.convert_to_numpy(one(FLOATS)) for one in (model, classifier))
    np.testing.assert_array_equal(got, expected)
    assert model.get_layer("feature_map").output.shape == (None, *GRID, WIDTH)


@only_tensorflow
@pytest.mark.parametrize(("count", "pooling"), [(0, "mean"), (3, "token")])
def test_any_number_of_class_tokens(count, pooling):
    classifier = make_classifier(make_encoder(class_tokens=count), pooling=pooling)
    got, expected = (keras.ops.convert_to_numpy(one(FLOATS)) for one in (visualize.keras_vis(classifier), classifier))
    np.testing.assert_array_equal(got, expected)


@only_tensorflow
def test_the_weights_are_shared():
    classifier = make_classifier()
    model = visualize.keras_vis(classifier)
    assert {id(weight) for weight in model.weights} == {id(weight) for weight in classifier.weights}


@pytest.fixture(scope="module", params=["mean", "token"])
def classifier(request):
    pytest.importorskip("tf_keras_vis")
    return make_classifier(pooling=request.param)


def method(name):
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    from tf_keras_vis.layercam import Layercam
    from tf_keras_vis.scorecam import Scorecam

    return {"Gradcam": Gradcam, "GradcamPlusPlus": GradcamPlusPlus, "Layercam": Layercam, "Scorecam": Scorecam}[name]


@only_tensorflow
@pytest.mark.parametrize("name", ["Gradcam", "GradcamPlusPlus", "Layercam", "Scorecam"])
def test_class_activation_maps(classifier, name):
    from tf_keras_vis.utils.scores import CategoricalScore

    score = CategoricalScore(LABELS[:3].tolist())
    maps = method(name)(visualize.keras_vis(classifier), clone=False)(score, FLOATS, **MAP)
    assert maps.shape == (3, *IMAGE_SHAPE[:2])
    assert np.isfinite(maps).all()
    assert np.ptp(maps) > 0.99  # tf-keras-vis stretches them to [0, 1]: something is there
    assert len(visualize.overlays(IMAGES[:3], {name: maps}).axes) == 6


@only_tensorflow
def test_its_saliency_is_ours(classifier):
    from tf_keras_vis.saliency import Saliency
    from tf_keras_vis.utils.scores import CategoricalScore

    theirs = Saliency(visualize.keras_vis(classifier))(CategoricalScore(LABELS[:3].tolist()), FLOATS)
    ours = visualize.saliency(classifier, IMAGES[:3], LABELS[:3])
    low, high = (side(ours, axis=(1, 2), keepdims=True) for side in (np.min, np.max))
    np.testing.assert_allclose(theirs, (ours - low) / (high - low), atol=1e-4)


@only_tensorflow
def test_activation_maximisation_raises_the_logit(classifier):
    from tf_keras_vis.activation_maximization import ActivationMaximization
    from tf_keras_vis.utils.scores import CategoricalScore

    start = np.full((1, *IMAGE_SHAPE), 127.0, "float32")
    model = visualize.keras_vis(classifier)
    end = ActivationMaximization(model)(CategoricalScore(5), start, steps=10, input_modifiers=[], regularizers=[])
    assert end.shape == start.shape
    assert float(model(end)[0, 5]) > float(model(start)[0, 5])


def striped_corner(count, seed):
    """Faint noise, and stripes across or down in the corner patch of 16: the class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    images = generator.normal(128, 10, (count, 16, 16))
    across = np.where(np.arange(4) % 2, 100, -100)[:, None] * np.ones((1, 4))
    images[:, :4, :4] += np.where(labels[:, None, None] == 1, across, across.T)
    return np.clip(images, 0, 255).astype("uint8")[..., None], labels


@only_tensorflow
def test_grad_cam_points_at_the_corner_that_decides():
    """Where attention is as it was drawn, the corner's news is not carried to other patches, where Grad-CAM would,
    rightly, find it."""
    pytest.importorskip("tf_keras_vis")
    from tf_keras_vis.utils.scores import CategoricalScore

    keras.utils.set_random_seed(0)
    encoder = keras_mae.ViTEncoder((16, 16, 1), 4, 32, depth=1, num_heads=2, mlp_ratio=2)
    classifier = keras_mae.ViTClassifier(encoder, 2, trainable_blocks=0.5)
    classifier.compile(keras.optimizers.Adam(3e-2))
    classifier.fit(*striped_corner(256, 0), batch_size=64, epochs=20, shuffle=False, verbose=0)
    images, labels = striped_corner(32, 1)
    assert (classifier.predict(images, verbose=0).argmax(axis=-1) == labels).all()
    gradcam = method("Gradcam")(visualize.keras_vis(classifier), clone=False)
    floats = images.astype("float32")
    maps = np.asarray(gradcam(CategoricalScore(labels.tolist()), floats, expand_cam=False, **MAP))
    assert (maps.reshape(32, 16).argmax(axis=1) == 0).all()
    share = (maps[:, 0, 0] / maps.sum(axis=(1, 2))).mean()
    assert share > 0.7, f"{share:.3f}, where chance is 0.0625"  # 0.97; 0.84 and 0.99 with seeds 1 and 2
