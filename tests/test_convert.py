"""Weights of other libraries, written by those libraries: same outputs here, the same bits back, or a refusal."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
import their_files
from conftest import run_quickly
from keras import ops
from their_files import CLASSES, DECODER_HEADS, HEADS, IMAGES, LARGE, NOISE

import keras_mae
from keras_mae import convert
from keras_mae.convert import hugging_face
from keras_mae.convert.state_dict import read, write_safetensors
from keras_mae.convert.weight_map import named_weights

BACKEND = keras.backend.backend()
SIZES = {"num_heads": HEADS, "decoder_num_heads": DECODER_HEADS}


@pytest.fixture(scope="session")
def folder(referee, tmp_path_factory):
    """Files that the other libraries wrote, and `expected.npz`."""
    if not referee.live:
        return referee.path("files")
    folder = (referee.directory or tmp_path_factory.mktemp("referee")) / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = their_files.write_authors(folder) | their_files.write_transformers(folder)
    np.savez(folder / "expected.npz", **found)
    return folder


@pytest.fixture(scope="session")
def expected(folder):
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


def numpy(value):
    return ops.convert_to_numpy(value)


def outputs(model):
    """What the other library's model gives too: tokens, logits, or the prediction of all patches."""
    if isinstance(model, keras_mae.MaskedAutoencoder):
        run = run_quickly(lambda x, noise: model({"images": x, "noise": noise})["reconstruction"])
        return numpy(run(IMAGES, NOISE))
    return numpy(run_quickly(model)(IMAGES))


def assert_same_tensors(got, wanted):
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.array_equal(got[name], value), name


# === The same outputs, and the same bits back ===
AUTHORS = {
    "timm_mae": "encoder",
    "mae_visualize_vit_small": "autoencoder",
    "mae_finetuned_vit_small": "classifier",
    "timm_token": "classifier",
    "probe": "classifier",
}


@pytest.mark.parametrize("name", AUTHORS)
def test_authors_and_timm(name, folder, expected, tmp_path):
    """Outputs, and file -> model -> file, as safetensors."""
    model, report = convert.load(folder / f"{name}.safetensors", **SIZES)
    if name == "mae_visualize_vit_small":
        masking = keras_mae.RandomMasking(1 - their_files.KEPT / 16)
        model = keras_mae.MaskedAutoencoder(model.encoder, model.decoder, masking)
    assert report.kind == AUTHORS[name]
    assert report.norm_pix_loss is (False if report.kind == "autoencoder" else None)
    assert expected[name].std() > 0.1
    np.testing.assert_allclose(outputs(model), expected[name], atol=1e-5, rtol=1e-5)
    back = convert.save(model, tmp_path / "back.safetensors", "reference")
    theirs = read(folder / f"{name}.safetensors").tensors
    assert_same_tensors(read(back).tensors, {key: theirs[key] for key in theirs if key not in report.left_out})


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch reads and writes these files")
@pytest.mark.parametrize("name", AUTHORS)
def test_pytorch_files_hold_the_same(name, folder, tmp_path):
    pth, safe = read(folder / f"{name}.pth"), read(folder / f"{name}.safetensors")
    assert_same_tensors(pth.tensors, safe.tensors)
    model, report = convert.load(folder / f"{name}.pth", **SIZES)
    back = read(convert.save(model, tmp_path / "back.pth", "reference"))
    assert_same_tensors(back.tensors, {key: safe.tensors[key] for key in safe.tensors if key not in report.left_out})


@pytest.mark.skipif(BACKEND == "torch", reason="it is about an installation without PyTorch")
def test_pytorch_files_need_pytorch(folder):
    with pytest.raises(ImportError, match=r"timm_mae\.pth, unlike safetensors files, requires PyTorch: pip install"):
        convert.load(folder / "timm_mae.pth", **SIZES)


TRANSFORMERS = {"hf_saved": 1, "hf_hub": 1, "hf_memory": 1, "hf_encoder": 0, "hf_classifier": 0}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name, folder, expected, tmp_path):
    model, report = convert.load(folder / name)
    encoder = getattr(model, "encoder", model)
    assert encoder.layer_norm_eps == their_files.EPS
    if TRANSFORMERS[name]:
        assert (report.kind, report.norm_pix_loss) == ("autoencoder", True)
        assert model.norm_pix_loss
        assert model.masking.num_kept(encoder.grid) == their_files.KEPT
    if name == "hf_hub":
        np.testing.assert_allclose(encoder.pixel_mean, [127.5, 102, 76.5])
        np.testing.assert_allclose(encoder.pixel_std, [51, 63.75, 127.5])
        model = keras_mae.MaskedAutoencoder(
            keras_mae.ViTEncoder.from_config({**encoder.get_config(), "pixel_mean": None, "pixel_std": None}),
            model.decoder,
            model.masking,
            norm_pix_loss=True,
        )
        convert.load_weights(model, read(folder / name), convert.FORMATS["transformers"].rules(model), "autoencoder")
    wanted = expected["hf_saved" if TRANSFORMERS[name] else name]
    np.testing.assert_allclose(outputs(model), wanted, atol=1e-5, rtol=1e-5)

    back = convert.save(model, tmp_path / "back", "transformers")
    again, _ = convert.load(back)
    for old, new in zip(model.weights, again.weights, strict=True):
        assert np.array_equal(numpy(old), numpy(new))
    if name == "hf_hub":  # which is the layout that is written
        assert_same_tensors(read(back).tensors, read(folder / name).tensors)
    config, theirs = (json.loads((path / "config.json").read_text()) for path in (back, folder / name))
    for key, value in config.items():
        assert value == theirs.get(key, value), key


@pytest.mark.skipif(BACKEND != "torch", reason="transformers needs PyTorch")
@pytest.mark.parametrize("name", ["hf_saved", "hf_encoder", "hf_classifier"])
def test_transformers_takes_it_back(name, folder, tmp_path):
    import torch
    import transformers

    kinds = {"hf_saved": "ViTMAEForPreTraining", "hf_encoder": "ViTMAEModel"}
    kind = getattr(transformers, kinds.get(name, "ViTForImageClassification"))
    back = convert.save(convert.load(folder / name).model, tmp_path / "back", "transformers")
    one, two = kind.from_pretrained(folder / name).state_dict(), kind.from_pretrained(back).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch reads .bin")
def test_transformers_bin(folder):
    one, two = convert.load(folder / "hf_bin").model, convert.load(folder / "hf_hub").model
    assert all(np.array_equal(numpy(a), numpy(b)) for a, b in zip(one.weights, two.weights, strict=True))


@pytest.mark.skipif(BACKEND != "torch", reason="timm needs PyTorch")
@pytest.mark.parametrize(("pooling", "pool"), [("mean", "avg"), ("token", "token")])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_classifier_goes_to_timm(pooling, pool, batch_norm, randomise, tmp_path):
    """A fine-tuned one, and a probe, whose BatchNorm is folded into the head."""
    import torch
    from safetensors.torch import load_file

    encoder = keras_mae.ViTEncoder((20, 20, 3), 5, their_files.WIDTH, their_files.DEPTH, HEADS)
    classifier = randomise(keras_mae.ViTClassifier(encoder, CLASSES, pooling=pooling, batch_norm=batch_norm))
    if batch_norm:
        moving = classifier.head.layers[0]
        moving.moving_mean.assign(np.linspace(-1, 1, their_files.WIDTH))
        moving.moving_variance.assign(np.linspace(0.5, 2, their_files.WIDTH))
    vit = their_files.timm_vit(pool)
    path = convert.save(classifier, tmp_path / "x.safetensors", "timm")
    vit.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        theirs = vit(their_files.pixels(IMAGES)).numpy()
    np.testing.assert_allclose(outputs(classifier), theirs, atol=1e-5, rtol=1e-5)


def test_a_full_size_vit_b16(folder, expected):
    model, report = convert.load(folder / "base.safetensors")
    assert (model.num_heads, model.grid, len(report.rows)) == (12, (14, 14), 150)
    assert model.count_params() == 85_798_656
    # `predict` hands the weights to the compiled program, which JAX would else take for constants to be folded.
    np.testing.assert_allclose(model.predict(LARGE, verbose=0), expected["base"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_storage_loads_and_is_reported(dtype, folder):
    model, report = convert.load(folder / f"{dtype}.safetensors", **SIZES)
    assert {remark for *_, remark in report.rows} == {f"stored as {dtype}"}
    exact = convert.load(folder / "timm_mae.safetensors", **SIZES).model
    for rounded, weight in zip(model.weights, exact.weights, strict=True):
        assert keras.backend.standardize_dtype(rounded.dtype) == "float32"
        np.testing.assert_allclose(numpy(rounded), numpy(weight), atol=2e-2 if dtype == "bfloat16" else 2e-3)


# === What a file does not say ===
def test_positions_are_resized_only_when_asked(folder):
    model, report = convert.load(folder / "timm_mae.safetensors", image_shape=(30, 40, 3), **SIZES)
    assert model.grid == (6, 8)
    resized = [(ours, remark) for _, ours, _, remark in report.rows if remark]
    assert resized == [("encoder.positions", "resized from (4, 4) to (6, 8)")]
    plain = convert.load(folder / "timm_mae.safetensors", **SIZES).model
    np.testing.assert_allclose(
        numpy(model.position_embedding), numpy(plain.copy(image_shape=(30, 40, 3)).position_embedding)
    )


def test_heads_and_target_must_be_known(folder, tmp_path):
    with pytest.raises(ValueError, match="give `num_heads` for an encoder 24 wide"):
        convert.load(folder / "timm_mae.safetensors")
    unnamed = shutil.copy(folder / "mae_visualize_vit_small.safetensors", tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match="Nothing in 'mine.safetensors' says .* give `norm_pix_loss`"):
        convert.load(unnamed, **SIZES)
    assert convert.load(unnamed, norm_pix_loss=True, **SIZES).report.norm_pix_loss
    with pytest.raises(ValueError, match="config.json says norm_pix_loss=True. Received: norm_pix_loss=False"):
        convert.load(folder / "hf_saved", norm_pix_loss=False)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch reads .pth")
def test_a_runs_own_checkpoint_holds_its_arguments(folder):
    model, report = convert.load(folder / "checkpoint-3.pth", **SIZES)
    assert report.norm_pix_loss
    assert model.masking.mask_ratio == 0.6


# === Files that are not what they seem ===
def spoil(folder, path, change):
    tensors = read(folder / "timm_mae.safetensors").tensors
    write_safetensors(path, change(dict(tensors)))
    return path


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if not key.startswith(name)}


def renamed(tensors):
    return {key.replace("blocks.1.norm1.weight", "blocks.1.norm1.gamma"): value for key, value in tensors.items()}


def changed(name, function):
    return lambda tensors: {**tensors, name: function(tensors[name])}


SPOILT = {
    "renamed": (renamed, r"missing: blocks\.1\.norm1\.weight; unexpected: blocks\.1\.norm1\.gamma"),
    "no layer": (without("blocks.1.mlp.fc2"), r"missing: blocks\.1\.mlp\.fc2\.weight, blocks\.1\.mlp\.fc2\.bias"),
    "transposed": (
        changed("blocks.1.mlp.fc1.weight", np.transpose),
        r"of another shape: blocks\.1\.mlp\.fc1\.weight \(24, 96\), where \(96, 24\) fits",
    ),
    "NaN": (changed("blocks.2.attn.proj.bias", lambda x: x * np.nan), r"not finite: blocks\.2\.attn\.proj\.bias"),
    "too many": (lambda tensors: {**tensors, "gate": np.ones(3, "float32")}, "unexpected: gate"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_file_that_does_not_fit_is_refused_whole(kind, folder, tmp_path):
    change, message = SPOILT[kind]
    path = spoil(folder, tmp_path / "x.safetensors", change)
    with pytest.raises(ValueError, match=f"do not fit, and none was loaded. .*{message}"):
        convert.load(path, **SIZES)
    target = convert.load(folder / "timm_mae.safetensors", **SIZES).model
    for weight in target.weights:
        weight.assign(numpy(weight) + 1)
    before = {name: numpy(weight).copy() for name, weight in named_weights(target).items()}
    with pytest.raises(ValueError, match=message):
        convert.load_weights(target, read(path), convert.FORMATS["reference"].rules(target), "encoder")
    assert_same_tensors({name: numpy(weight) for name, weight in named_weights(target).items()}, before)


def test_a_truncated_file_is_refused_wherever_it_ends(folder, tmp_path):
    content = (folder / "timm_mae.safetensors").read_bytes()
    for part in range(0, 100, 7):
        path = tmp_path / f"{part}.safetensors"
        path.write_bytes(content[: len(content) * part // 100])
        with pytest.raises(ValueError, match="damaged safetensors|neither a safetensors nor a PyTorch file"):
            convert.load(path, **SIZES)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch reads .pth")
def test_a_truncated_pytorch_file_is_refused(folder, tmp_path):
    content = (folder / "timm_mae.pth").read_bytes()
    for part in range(5, 100, 19):
        path = tmp_path / f"{part}.pth"
        path.write_bytes(content[: len(content) * part // 100])
        with pytest.raises(ValueError, match="is damaged"):
            convert.load(path, **SIZES)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch reads pickles")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_does_not(zipped, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": Evil()}}, "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="asks for more than tensors, and that is not run") as caught:
        convert.load("x.pth")
    assert "weights_only=False" not in str(caught.value)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.safetensors", b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, of Keras"),
        ("x.pth", b"GIF89a" + bytes(99), "neither a safetensors nor a PyTorch file"),
        ("x.bin", b"", "neither a safetensors nor a PyTorch file"),
        (None, None, "There is no file or folder"),
    ],
)
def test_other_files(name, content, message, tmp_path):
    path = tmp_path / (name or "nothing")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        convert.load(path)


def test_folders_that_are_not_whole(folder, tmp_path):
    with pytest.raises(ValueError, match="holds no weights: none of model.safetensors"):
        convert.load(tmp_path)
    shutil.copy(folder / "hf_saved" / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match="There is no config.json beside"):
        convert.load(tmp_path)
    (tmp_path / "config.json").write_text("{,")
    with pytest.raises(ValueError, match="config.json' is not JSON"):
        convert.load(tmp_path)
    config = json.loads((folder / "hf_saved" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(ValueError, match="exact GELU .* Received: hidden_act='relu'"):
        convert.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ValueError, match="unexpected: .*layer.2"):
        convert.load(tmp_path)


# === What a library cannot hold ===
def test_save_refuses_what_a_library_cannot_hold(folder, tmp_path):
    mae = convert.load(folder / "hf_saved").model
    queries = keras_mae.ViTClassifier(mae.encoder, 3, pooling="attentive")
    for model, format, message in (
        (mae, "timm", "has no decoder: save mae.encoder"),
        (queries, "transformers", "has no queries that pool patches as AttentivePooling does"),
        (mae, "torch", "`format` must be one of 'keras', 'preset', 'keras_hub', 'transformers', 'timm', 'reference'"),
        (mae.decoder, "timm", "`model` must be a ViTEncoder, MaskedAutoencoder or ViTClassifier"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.save(model, tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="`path` must not exist"):
        convert.save(mae.encoder, tmp_path / "out", "timm")


def test_a_failed_write_leaves_nothing(folder, tmp_path, monkeypatch):
    mae = convert.load(folder / "hf_saved").model

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(hugging_face, "preprocessor_of", full)
    with pytest.raises(OSError, match="No space"):
        convert.save(mae, tmp_path / "out", "transformers")
    assert list(tmp_path.iterdir()) == []
