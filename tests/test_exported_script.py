"""The script that goes with an ONNX file, run beside a runtime that is Keras: what it prints and saves."""

import json
import runpy
import sys
from types import SimpleNamespace

import asking_helpers as helpers
import keras
import numpy as np
import pytest
from PIL import Image

import keras_mae
from keras_mae.convert import beside

pytestmark = pytest.mark.backends("torch")


def encoder(channels=3, **options):
    return keras_mae.ViTEncoder((8, 6, channels), 2, embed_dim=12, depth=1, num_heads=3, **options)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A function that runs a model's script on a file, with the model itself in the place of its export."""
    monkeypatch.chdir(tmp_path)

    def run(model, file, name="model.onnx", center_crop=1.0, dtype="uint8"):
        texts = {"preprocessing": beside.preprocessing_of(model, dtype, center_crop)}
        if getattr(model, "class_names", None):
            texts["class_names"] = model.class_names
        asked = []

        class Session:
            def __init__(self, path):
                assert path.name == name

            def get_modelmeta(self):
                return SimpleNamespace(custom_metadata_map={key: json.dumps(value) for key, value in texts.items()})

            def run(self, names, inputs):
                asked.append(inputs)
                outputs = model(inputs if len(inputs) > 1 else inputs["images"])
                outputs = outputs if isinstance(outputs, dict) else dict(zip(names, [outputs], strict=True))
                return [keras.ops.convert_to_numpy(outputs[one]) for one in names]

        monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
        (tmp_path / "script.py").write_text(beside.script_of(model, name, "script.py"), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["script.py", file, "out.npz"])
        runpy.run_path("script.py")
        return asked[0], capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("fraction", [1.0, 0.8])
@pytest.mark.parametrize("size", [(8, 6), (9, 31), (40, 17)])
def test_a_picture_is_read_as_the_package_reads_it(run, size, fraction):
    """By whole pixels the parts are the same; resizing in one step or before the cut differs in the last gray."""
    smooth = np.add.outer(np.linspace(0, 150, size[0]), np.linspace(0, 100, size[1]))
    Image.fromarray(np.stack([smooth, smooth[::-1], smooth[:, ::-1]], -1).astype("uint8")).save("a.png")
    inputs, _ = run(helpers.classifier(), "a.png", center_crop=fraction)
    read = keras_mae.data.read_image("a.png", (8, 6, 3), keras_mae.data.CenterCrop(fraction))
    assert inputs["images"].dtype == np.uint8
    assert np.abs(inputs["images"][0].astype(int) - read).max() <= 3


def test_a_turned_and_transparent_picture_is_upright_and_on_white(run):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), "uint8")
    pixels[..., 3] = np.where(np.arange(8) < 4, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save("a.png", exif=exif)
    inputs, _ = run(helpers.encoder(), "a.png")
    np.testing.assert_array_equal(inputs["images"][0], keras_mae.data.read_image("a.png", (8, 6, 3)))


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_pictures_and_those_with_opacity(run, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 4), "uint8")
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save("a.png")
    inputs, _ = run(encoder(channels), "a.png")
    np.testing.assert_array_equal(inputs["images"][0], keras_mae.data.read_image("a.png", (8, 6, channels)))


def test_a_picture_of_16_bits_is_refused(run):
    Image.fromarray(np.full((8, 6), 4000, "uint16")).save("a.png")
    with pytest.raises(SystemExit, match=r"a\.png has more than 8 bits a channel"):
        run(helpers.encoder(), "a.png")


def test_arrays_in_units_of_their_own(run):
    array = np.random.default_rng(0).normal(size=(8, 6, 5)).astype("float32")
    np.save("a.npy", array)
    model = encoder(5, pixel_range=(-9, 9))
    inputs, _ = run(model, "a.npy", dtype="float32")
    np.testing.assert_array_equal(inputs["images"], array[None])
    with np.load("out.npz") as saved:
        np.testing.assert_array_equal(saved["tokens"], keras.ops.convert_to_numpy(model(array[None])))


def test_probabilities_are_those_of_the_loss(run):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 6, 3), "uint8")).save("a.png")
    classifier = keras_mae.ViTClassifier(encoder(), 7)
    classifier.head.set_weights(
        [np.random.default_rng(1).normal(size=weight.shape) for weight in classifier.head.weights]
    )
    for loss, activation in (
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), "softmax"),
        (keras.losses.BinaryCrossentropy(from_logits=True), "sigmoid"),
        (keras.losses.MeanSquaredError(), None),
    ):
        classifier.compile("sgd", loss)
        assert classifier.activation == activation
        _, lines = run(classifier, "a.png")
        numbers = classifier.predict(np.asarray(Image.open("a.png"))[None], verbose=0)[0]
        if activation:
            numbers = classifier.predict_files("a.png").probabilities[0]
        assert lines == [f"{numbers[index]:.4f} {index}" for index in np.argsort(-numbers)[:5]]


def test_any_name_of_a_file_is_only_a_name(run):
    Image.fromarray(np.zeros((8, 6, 3), "uint8")).save("a.png")
    run(helpers.encoder(), "a.png", name='x"""\nraise SystemExit(9)\n#\udcff.onnx')
