"""A run knows its data, its encoder and its augmentation: it goes on with others only if that is allowed."""

import json
import shutil

import keras
import numpy as np
import pytest
from training_helpers import Stop, killed

import keras_mae
from keras_mae import data
from keras_mae.training import PretrainRecipe, RunDirectory, Saving, fingerprints, run_pretraining
from keras_mae.training.checkpoints import Checkpoints
from keras_mae.training.metadata import check_same_run
from keras_mae.training.stored import checksummed

pytestmark = pytest.mark.backends("torch")
EACH = pytest.mark.backends("torch", "jax", "tensorflow")

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), "uint8")
RECIPE = PretrainRecipe(epochs=2, warmup_epochs=1, batch_size=4, norm_pix_loss=False)


def build(heads=2, **options):
    keras.utils.set_random_seed(1)
    encoder = keras_mae.ViTEncoder((8, 8, 1), 4, embed_dim=8, depth=1, num_heads=heads)
    return keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), norm_pix_loss=False, **options)


def train(directory, *callbacks, images=IMAGES, heads=2, seed=0, allow_changed=False, **options):
    dataset = data.from_arrays(images, None, 4, drop_remainder=True, seed=seed, **options)
    saving = Saving(resume=True, every_steps=1, allow_changed=allow_changed)
    model = build(heads)
    run_pretraining(
        model, dataset, RECIPE, directory, examples=IMAGES[:1], callbacks=callbacks, saving=saving, jit_compile=False
    )
    return model


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(MemoryError):
        train(directory, Stop(3, killed))
    return directory


@pytest.fixture
def begun(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def state_of(directory):
    return Checkpoints(directory / "checkpoints", 1).newest()


# === Another dataset, encoder, augmentation ===
OTHERS = 255 - IMAGES
WAY_ON = "To go on with what there is now, allow it: --resume --allow-changed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": OTHERS}, f"is another one. Received: data: other contents. {WAY_ON}"),
        ({"crop": data.RandomCrop(0.25)}, "Received: batches.crop={'name': 'RandomCrop', .* and not None. To go on"),
        ({"seed": 1}, "Received: batches.seed=1 and not 0. To go on"),
        ({"heads": 1}, "Received: encoder.num_heads=1 and not 2. To go on"),
    ],
)
def test_something_else_is_refused(changes, message, begun):
    before = sorted(begun.rglob("*"))
    with pytest.raises(ValueError, match=message):
        train(begun, **changes)
    assert sorted(begun.rglob("*")) == before


def test_going_on_all_the_same_is_recorded(begun):
    """Also when it is stopped and gone on with, and for a run that is finished."""
    step = state_of(begun)[1]["position"]["step"]
    with pytest.raises(MemoryError):
        train(begun, Stop(2, killed), images=OTHERS, allow_changed=True)
    train(begun, images=OTHERS)
    run = RunDirectory(begun)
    assert run.metadata["resumed_despite"] == [{"step": step, "differences": ["data: other contents"]}]
    with pytest.raises(ValueError, match="data: other contents"):
        train(begun)
    train(begun, allow_changed=True)  # nothing is left to do
    assert run.metadata["fingerprint"]["data"] == data.ArraySource(OTHERS).fingerprint()


def test_a_run_from_before_there_were_fingerprints_goes_on(begun):
    path, state = state_of(begun)
    del state["metadata"]["fingerprint"]
    (path / "state.json").write_text(checksummed(state))
    train(begun, images=OTHERS)
    assert "resumed_despite" not in RunDirectory(begun).metadata


def test_what_a_fingerprint_did_not_hold_at_first_makes_no_difference(begun):
    stored = state_of(begun)[1]["metadata"]
    now = json.loads(json.dumps(stored))
    now["fingerprint"] |= {"later": 1, "encoder": {**now["fingerprint"]["encoder"], "later": 1}}
    assert check_same_run(begun, now, stored) == []


def test_what_trains_differently_is_not_allowed_to_change(begun):
    stored = state_of(begun)[1]["metadata"]
    changed = {**stored, "images": 9, "steps_per_epoch": 3}
    with pytest.raises(ValueError, match="Received: steps_per_epoch=3 and not 2, images=9 and not None$"):
        check_same_run(begun, changed, stored, allow_changed=True)


def test_copied_files_are_gone_on_with_and_said(tmp_path):
    def metadata(**times):
        return {"fingerprint": {"data": {"files": 2, "contents": "c", **times}}}

    then = metadata(times="t", sample_times="s")
    with pytest.warns(UserWarning, match="The files of the run's data have other times.* taken to be copies"):
        assert check_same_run(tmp_path, metadata(times="T", sample_times="S"), then) == []


def test_allowing_changes_takes_a_run_that_is_resumed():
    with pytest.raises(ValueError, match=r"`allow_changed` is for a run that is resumed: resume=True \(--resume\)"):
        Saving(allow_changed=True)


# === What a run knows of its model ===
@EACH
def test_encoders_of_other_weights_are_told_apart():
    dataset = data.from_arrays(IMAGES, [0, 1] * 4, 4)
    first, same, other = (build().encoder for _ in range(3))
    other.weights[0].assign(other.weights[0] + 1)
    entries = [
        fingerprints.of_classifier(encoder, dataset, dataset)["fingerprint"] for encoder in (first, same, other)
    ]
    assert entries[0] == entries[1]
    assert [name for name in entries[0] if entries[0][name] != entries[2][name]] == ["encoder_weights"]
    assert entries[0]["test"] == entries[0]["data"]


@EACH
def test_functions_as_targets_are_told_apart_by_what_they_make():
    def scaled(factor):
        return lambda images: keras.ops.reshape(images, (-1, 4, 16)) * factor

    noise = np.random.default_rng(0)

    def random(images):
        return keras.ops.reshape(images, (-1, 4, 16)) * noise.uniform()

    def known(function):
        mae = build()
        mae = keras_mae.MaskedAutoencoder(mae.encoder, keras_mae.MAEDecoder(8, 1, 2), target=function)
        return fingerprints.of_pretraining(mae, None)["fingerprint"]["target"]

    assert known(scaled(1)) == known(scaled(1)) != known(scaled(2))
    assert known(random).keys() == {"name"}


@EACH
def test_masks_are_told_apart():
    known = [fingerprints.of_pretraining(build(seed=seed), None)["fingerprint"] for seed in (0, 1)]
    assert [name for name in known[0] if known[0][name] != known[1][name]] == ["masks"]
