"""Names of classes in files: our own, other libraries' and other runtimes'."""

import json
import zipfile

import keras
import numpy as np
import pytest
from classifier_helpers import CLASSES, make_encoder

import keras_mae
from keras_mae import convert
from keras_mae.convert import beside
from keras_mae.convert.state_dict import write_safetensors

BACKEND = keras.backend.backend()
NAMES = ("ankle boot", "ümlaut", 'a "quoted", <marked> & long one', *(f"kind {letter}" for letter in "defghijk"))
FORMATS = {
    "x.safetensors": "reference",
    "y.safetensors": "timm",
    "hf": "transformers",
    "preset": "preset",
    "x.keras": "keras",
    **({"x.pth": "reference"} if BACKEND == "torch" else {}),
}


@pytest.fixture(scope="module")
def encoder():
    return make_encoder(image_shape=(8, 8, 1))


def classifier_of(encoder, **options):
    return keras_mae.ViTClassifier(encoder, CLASSES, **{"pooling": "token", "class_names": NAMES, **options})


def load(path):
    return convert.load(path, **({} if path.suffix == ".keras" or path.is_dir() else {"num_heads": 3}))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_brings_them_back(name, batch_norm, encoder, tmp_path):
    path = convert.save(classifier_of(encoder, batch_norm=batch_norm), tmp_path / name, FORMATS[name])
    model, report = load(path)
    assert type(model.class_names) is tuple
    assert model.class_names == NAMES
    assert "id2label" not in report.left_out


@pytest.mark.parametrize("name", FORMATS)
def test_there_are_none_where_there_were_none(name, encoder, tmp_path):
    path = convert.save(classifier_of(encoder, class_names=None), tmp_path / name, FORMATS[name])
    model, report = load(path)
    assert model.class_names is None
    assert report.left_out == {}


# === transformers ===
@pytest.fixture
def theirs(encoder, tmp_path):
    """A folder of `transformers`' with other names in its `config.json`; our own metadata is not there to help."""

    def write(**changes):
        path = convert.save(classifier_of(encoder, class_names=None), tmp_path / "hf", "transformers")
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | changes))
        return path

    return write


def test_transformers_has_them_as_its_own(encoder, tmp_path):
    path = convert.save(classifier_of(encoder), tmp_path / "hf", "transformers")
    config = json.loads((path / "config.json").read_text())
    assert config["id2label"] == {str(number): name for number, name in enumerate(NAMES)}
    assert config["label2id"] == {name: number for number, name in enumerate(NAMES)}
    if BACKEND == "torch":
        transformers = pytest.importorskip("transformers")
        assert transformers.AutoConfig.from_pretrained(path).id2label == dict(enumerate(NAMES))


@pytest.mark.backends("torch")
def test_names_that_transformers_gave_are_taken(theirs):
    labels = {str(number): f"kind {number}" for number in reversed(range(CLASSES))}
    assert convert.load(theirs(id2label=labels)).model.class_names == tuple(f"kind {n}" for n in range(CLASSES))


@pytest.mark.backends("torch")
@pytest.mark.parametrize("labels", [{}, None, {str(number): f"LABEL_{number}" for number in range(CLASSES)}])
def test_what_transformers_makes_up_is_no_name(labels, theirs):
    model, report = convert.load(theirs(id2label=labels))
    assert (model.class_names, report.left_out) == (None, {})


@pytest.mark.backends("torch")
def test_names_that_are_not_different_are_left_out_and_the_report_says_so(theirs):
    model, report = convert.load(theirs(id2label={str(number): "crane" for number in range(CLASSES)}))
    assert model.class_names is None
    assert report.left_out == {"id2label": "class names that do not tell all classes apart"}
    assert "id2label: left out, class names that do not tell all classes apart" in str(report)


# === timm ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (list(NAMES), NAMES),
        ({str(number): name for number, name in enumerate(NAMES)}, NAMES),
        (list(NAMES[:-1]), None),
        ({"0": "one of many"}, None),
        (None, None),
    ],
)
def test_timms_label_names_are_taken(labels, expected, encoder, tmp_path):
    file = convert.save(classifier_of(encoder, class_names=None), tmp_path / "x.safetensors", "timm")
    (tmp_path / "timm").mkdir()
    file.rename(tmp_path / "timm" / "model.safetensors")
    config = {"num_classes": CLASSES} | ({} if labels is None else {"label_names": labels})
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    assert convert.load(tmp_path / "timm", num_heads=3).model.class_names == expected


# === Presets ===
@pytest.mark.backends("torch")
def test_a_presets_card_and_its_other_heads(encoder, tmp_path):
    path = classifier_of(encoder).save_to_preset(tmp_path / "named")
    assert "It tells 11 classes apart: ankle boot, ümlaut" in (path / "README.md").read_text("utf-8")
    opened = keras_mae.ViTClassifier.from_preset
    assert opened(path).class_names == opened(path, num_classes=CLASSES).class_names == NAMES
    other = opened(path, num_classes=2, class_names=("no", "yes"))
    assert (other.num_classes, other.class_names) == (2, ("no", "yes"))
    turned = opened(
        path, num_classes=CLASSES, class_names=NAMES[::-1]
    )  # not that head: its outputs mean other classes
    assert turned.class_names == NAMES[::-1]
    assert not np.array_equal(*(keras.ops.convert_to_numpy(one.head.weights[0]) for one in (turned, opened(path))))


@pytest.mark.backends("torch")
def test_an_old_head_is_given_names(encoder, tmp_path):
    path = classifier_of(encoder, class_names=None).save_to_preset(tmp_path / "nameless")
    named = keras_mae.ViTClassifier.from_preset(path, class_names=NAMES)
    nameless = keras_mae.ViTClassifier.from_preset(path)
    assert (named.class_names, nameless.class_names) == (NAMES, None)
    assert np.array_equal(*(keras.ops.convert_to_numpy(one.head.weights[0]) for one in (named, nameless)))
    assert "It tells 11 classes apart." in (path / "README.md").read_text("utf-8")


# === Other runtimes; ONNX and PyTorch are in test_exporting.py ===
@pytest.mark.backends("torch")
def test_litert_has_them_behind_the_model(tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(b"the model")
    beside.WRITERS["litert"](path, {"class_names": ("ant", "two\nlines", "ümlaut"), "preprocessing": {"height": 3}})
    assert path.read_bytes().startswith(b"the model")
    assert zipfile.ZipFile(path).read("labels.txt").decode() == "ant\ntwo lines\nümlaut\n"
    assert json.loads(zipfile.ZipFile(path).read("preprocessing.json")) == {"height": 3}


@pytest.mark.backends("torch")
@pytest.mark.parametrize("information", ["", "<rt_info><Runtime_version value='1'/></rt_info>"])
def test_openvino_has_them_in_its_information(information, tmp_path):
    from xml.etree import ElementTree

    path = tmp_path / "x.xml"
    path.write_text(f"<net name='x'><layers/>{information}</net>")
    beside.WRITERS["openvino"](path, {"class_names": NAMES})
    net = ElementTree.parse(path).getroot()
    assert [child.tag for child in net] == ["layers", "rt_info"]
    assert len(net.find("rt_info")) == (2 if information else 1)
    assert json.loads(net.find("rt_info/class_names").get("value")) == list(NAMES)


@pytest.mark.backends("torch")
def test_a_saved_model_has_them_beside_it(tmp_path):
    beside.WRITERS["saved_model"](tmp_path, {"class_names": NAMES})
    assert json.loads((tmp_path / "assets.extra" / "class_names.json").read_text()) == list(NAMES)


@pytest.mark.backends("torch")
def test_damaged_names_in_a_file_of_ours_are_passed_over(encoder, tmp_path):
    """Weights are what counts: names are no reason to refuse them."""
    from keras_mae.convert.metadata import metadata_of
    from keras_mae.convert.state_dict import read

    path = convert.save(classifier_of(encoder), tmp_path / "x.safetensors", "reference")
    said = metadata_of(classifier_of(encoder)) | {"class_names": ["ant"]}
    write_safetensors(tmp_path / "y.safetensors", read(path).tensors, said)
    assert load(tmp_path / "y.safetensors").model.class_names is None
