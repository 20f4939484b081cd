"""Models that are uploaded to a Hub, which stands on this machine, and loaded from there."""

import hub_stand_in
import keras
import numpy as np
import pytest

import keras_mae
from keras_mae import convert

NAME = "somebody/a-model"
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3)).astype("float32")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that huggingface_hub takes for the one in the network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    with hub_stand_in.running() as (hub, address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
        yield hub


@pytest.fixture
def classifier(randomise):
    encoder = keras_mae.ViTEncoder((12, 12, 3), 4, embed_dim=12, depth=1, num_heads=3)
    return randomise(keras_mae.ViTClassifier(encoder, 3, class_names=("ant", "bee", "cat")))


def test_a_model_is_uploaded_and_loaded_from_there(hub, classifier):
    assert classifier.push_to_hub(NAME, private=True, message="The first") == f"hf://{NAME}"
    assert hub.repositories[NAME].keys() == {".gitattributes", "README.md", "config.json", "model.weights.h5"}
    assert (hub.private[NAME], hub.messages) == (True, ["The first"])
    assert "Bearer hf_of_the_test" in hub.tokens
    card = hub.repositories[NAME]["README.md"].decode()
    assert f'keras_mae.ViTClassifier.from_preset("hf://{NAME}")' in card
    assert "library_name: keras_mae" in card
    loaded = keras_mae.ViTClassifier.from_preset(f"hf://{NAME}")
    assert loaded.class_names == ("ant", "bee", "cat")
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(one(IMAGES)) for one in (loaded, classifier)))


@pytest.mark.backends("torch")
def test_another_librarys_format_and_its_card(hub, classifier):
    convert.push_to_hub(classifier, f"hf://{NAME}", format="transformers", token="hf_another")
    assert hub.tokens == {"Bearer hf_another"}
    assert "model.safetensors" in hub.repositories[NAME]
    card = hub.repositories[NAME]["README.md"].decode()
    assert f"transformers.AutoModelForImageClassification.from_pretrained('{NAME}')" in card
    assert "library_name: transformers" in card
    assert convert.load(f"hf://{NAME}").model.pooling == "mean"


@pytest.mark.backends("torch")
def test_a_card_that_somebody_wrote_stays_and_other_weights_are_not_mixed(hub, classifier):
    classifier.push_to_hub(NAME)
    hub.repositories[NAME]["README.md"] = b"mine"
    before = hub.repositories[NAME]["model.weights.h5"]
    classifier.head.set_weights([2 * weight for weight in classifier.head.get_weights()])
    classifier.push_to_hub(NAME)
    assert hub.repositories[NAME]["README.md"] == b"mine"
    assert hub.repositories[NAME]["model.weights.h5"] != before
    with pytest.raises(ValueError, match=r"hold a model of the same format.*model\.weights\.h5"):
        classifier.push_to_hub(NAME, format="transformers")
    assert "model.safetensors" not in hub.repositories[NAME]


@pytest.mark.backends("torch")
def test_what_goes_wrong_is_one_line(hub, classifier):
    hub.refuses = True
    with pytest.raises(ValueError, match=f"^Cannot upload to hf://{NAME}: .*") as raised:
        classifier.push_to_hub(NAME)
    assert "\n" not in str(raised.value)
    for repository in ("", "a", "a/b/c", "a//b", "../b", None, 3):
        with pytest.raises(ValueError, match="`repository` must be the name of a repository on the Hub, user/name"):
            classifier.push_to_hub(repository)
    with pytest.raises(ValueError, match="`format` must be one of 'preset', 'transformers', 'keras_hub'"):
        classifier.push_to_hub(NAME, format="timm")
    for option in ({"private": 1}, {"token": 3}, {"message": ""}):
        with pytest.raises(ValueError, match=f"`{next(iter(option))}` must be"):
            classifier.push_to_hub(NAME, **option)


@pytest.mark.backends("torch")
def test_the_command_uploads(hub, classifier, keras_mae_command):
    classifier.save("c.keras")
    status, out, err = keras_mae_command(
        "convert", "c.keras", f"hf://{NAME}", "--format", "transformers", "--private"
    )
    assert (status, err) == (0, "")
    assert f"hf://{NAME}: ViTClassifier" in out
    assert f"AutoModelForImageClassification.from_pretrained('{NAME}')" in out
    assert hub.private[NAME]
    assert keras_mae_command("convert", f"hf://{NAME}", "back.keras")[0] == 0
    for arguments, message in (
        (("hf://x",), "`repository` must be"),
        ((f"hf://{NAME}", "--format", "timm"), "`format` must be one of preset, transformers, keras_hub"),
        (("y.keras", "--private"), "`private` is for hf://user/name"),
    ):
        status, _, err = keras_mae_command("convert", "c.keras", *arguments)
        assert (status, message in err) == (2, True)
