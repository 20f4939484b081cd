"""What our files in other libraries' formats say of a model beside its tensors, and how it comes back."""

import json

import keras
import numpy as np
import pytest

import keras_mae
from keras_mae import convert
from keras_mae.convert.metadata import KEY, metadata_of
from keras_mae.convert.state_dict import read, write_safetensors

pytestmark = pytest.mark.backends("torch")

BACKEND = keras.backend.backend()


def oblong():
    """2 x 8 patches, as many as 4 x 4."""
    return keras_mae.ViTEncoder((16, 64, 3), 8, 24, 1, 4)


FILES = {"x.safetensors": "reference", "y.safetensors": "timm", "hf": "transformers"}


@pytest.mark.backends("torch", "jax", "tensorflow")
@pytest.mark.parametrize("name", [*FILES, *(["x.pth"] if BACKEND == "torch" else [])])
def test_every_file_says_what_metadata_of_does(name, tmp_path):
    encoder = oblong()
    state = read(convert.save(encoder, tmp_path / name, FILES.get(name, "reference")))
    assert state.config[KEY] == json.loads(json.dumps(metadata_of(encoder)))
    assert state.config[KEY]["image_shape"] == [16, 64, 3]
    assert KEY not in state.tensors


MASKINGS = [
    keras_mae.RandomMasking(0.5, cell=2),
    keras_mae.BlockMasking(0.5),
    keras_mae.GridMasking(0.75),
    keras_mae.NoiseMasking(0.5, "blue"),
]


def square(masking=None, **settings):
    encoder = keras_mae.ViTEncoder((16, 16, 3), 4, 8, 1, 2)
    return keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), masking, **settings)


@pytest.mark.parametrize("name", ["x.safetensors", "hf"])
@pytest.mark.parametrize("masking", MASKINGS, ids=lambda masking: type(masking).__name__)
def test_a_masking_comes_back_as_it_went(masking, name, tmp_path):
    again = convert.load(convert.save(square(masking), tmp_path / name, FILES[name])).model.masking
    assert type(again) is type(masking)
    assert again.get_config() == {**masking.get_config(), "name": again.name}


@pytest.mark.parametrize("name", ["x.safetensors", "hf"])
def test_what_matters_in_training_comes_back(name, tmp_path):
    settings = {"masks_per_image": 2, "predict_ratio": 0.5, "seed": 7}
    again = convert.load(convert.save(square(**settings), tmp_path / name, FILES[name])).model
    assert {setting: getattr(again, setting) for setting in settings} == settings


def test_plain_masking_needs_no_word():
    assert "masking" not in metadata_of(square(keras_mae.RandomMasking(0.5)))


def test_a_masking_of_a_class_of_its_own_is_not_lost_without_a_word(tmp_path):
    class Own(keras_mae.masking.Masking):
        pass

    with pytest.warns(UserWarning, match="gets a RandomMasking of the same ratio. Received: a Own"):
        convert.save(square(Own(0.5)), tmp_path / "x.safetensors", "reference")


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch reads .pth")
def test_a_pytorch_file_is_still_plain(tmp_path):
    import torch

    path = convert.save(oblong(), tmp_path / "x.pth", "timm")
    assert sorted(torch.load(path, weights_only=True)) == [KEY, "model"]


@pytest.mark.parametrize("length", [0x180, 0x4B50])
def test_a_header_may_be_as_long_as_a_pickle_or_an_archive_begins(length, tmp_path):
    """The length comes first in the file: 0x80 is how a pickle begins, 0x50 0x4B an archive."""
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": np.ones(2, "float32")}, {"pad": ""})
    padding = length - int.from_bytes(path.read_bytes()[:8], "little")
    for more in range(padding - 8, padding + 1):  # headers are padded to eight bytes
        write_safetensors(path, {"a": np.ones(2, "float32")}, {"pad": "x" * more})
        if path.read_bytes()[:2] == length.to_bytes(2, "little"):
            break
    assert path.read_bytes()[:2] == length.to_bytes(2, "little")
    assert read(path).tensors["a"].tolist() == [1, 1]


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[1]", "is no dict")])
def test_damaged_metadata_is_an_error(text, message, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    monkeypatch.setattr("keras_mae.convert.metadata.encoded", lambda metadata: text)
    write_safetensors(path, {"a": np.zeros(2, "float32")}, {})
    with pytest.raises(ValueError, match=f"x.safetensors' is damaged: its metadata 'keras_mae' {message}"):
        read(path)
