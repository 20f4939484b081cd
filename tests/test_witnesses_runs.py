"""Runs that commit b39f61b left, before run.json: they are read, seen to be finished, and resumed."""

import dataclasses
import io
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from rich.console import Console
from training_helpers import arrays, without_key_biases

import keras_mae
from keras_mae import training
from keras_mae.recipes import PretrainRecipe

pytestmark = pytest.mark.usefixtures("untraced")

WITNESSES = Path(__file__).parent / "witnesses"
# As the call that wrote them said, by the names of today.
RECIPE = PretrainRecipe(
    epochs=2, warmup_epochs=1, batch_size=4, mask_ratio=0.5, norm_pix_loss=True, base_learning_rate=1e-2,
    gradient_accumulation_steps=1, crop_area=None, flip=False, source="paper",
)  # fmt: skip
written_on_this_backend = pytest.mark.skipif(keras.backend.backend() != "torch", reason="a run keeps its backend")


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(WITNESSES / "expected.npz"))


@pytest.fixture(params=["interrupted_run", "finished_run"])
def witness(request, tmp_path):
    return shutil.copytree(WITNESSES / request.param, tmp_path / request.param)


def make_model():
    keras.utils.set_random_seed(11)
    encoder = keras_mae.ViTEncoder((8, 8, 1), 2, embed_dim=8, depth=1, num_heads=2)
    decoder = keras_mae.MAEDecoder(4, depth=1, num_heads=1)
    return keras_mae.MaskedAutoencoder(encoder, decoder, keras_mae.RandomMasking(0.5), norm_pix_loss=True)


def batches_of(images):
    return keras_mae.data.from_arrays(images, batch_size=4, seed=RECIPE.seed, drop_remainder=True, loader="grain")


def resume(directory, images, recipe=RECIPE, **options):
    model = make_model()
    training.run_pretraining(
        model,
        batches_of(images),
        recipe,
        directory,
        examples=images[:2],
        metadata={"data": "witness", "images": 8},
        console=Console(file=io.StringIO()),
        saving=training.Saving(resume=True, every_steps=1, every_minutes=1000.0),
        **options,
    )
    return model


def assert_trained_to_the_end(model, expected):
    """A step is about 1e-4. The witnesses have `epsilon` in Keras' place: here it shows in the keys' biases only."""
    theirs = {weight.path: expected[f"finished_{index}"] for index, weight in enumerate(model.weights)}
    theirs = without_key_biases(theirs)
    for path, value in without_key_biases(arrays(model.weights)).items():
        np.testing.assert_allclose(value, theirs[path], rtol=0, atol=1e-6, err_msg=path)
    assert f"finished_{len(model.weights)}" not in expected


def test_a_finished_run_is_read():
    run = training.RunDirectory(WITNESSES / "finished_run")
    assert run.recipe == RECIPE
    assert {"data": "witness", "images": 8, "backend": "torch"}.items() <= run.metadata.items()
    assert run.history["loss"].shape == (2,)


def test_a_checkpoint_is_restored_on_every_backend(expected, tmp_path):
    folder = shutil.copytree(WITNESSES / "interrupted_run" / "checkpoints", tmp_path / "checkpoints")
    model, batches = make_model(), batches_of(expected["images"])
    model.compile(RECIPE.optimizer(len(batches)))
    saved = training.Checkpoints(folder, len(batches))
    position = saved.restore(model)
    assert (position.epoch, position.batch, position.step) == (1, 0, 2)
    assert list(position.history) == ["loss", "psnr", "skipped_steps", "learning_rate"]
    assert int(ops.convert_to_numpy(model.encoder.step.value)) == int(model.optimizer.iterations) == 2
    batches.seek(position.epoch, position.batch)
    model.fit(batches, initial_epoch=position.epoch, epochs=2, callbacks=[saved], verbose=0)
    assert_trained_to_the_end(model, expected)


@written_on_this_backend
def test_an_interrupted_run_is_resumed(expected, tmp_path):
    directory = shutil.copytree(WITNESSES / "interrupted_run", tmp_path / "run")
    assert_trained_to_the_end(resume(directory, expected["images"]), expected)
    run = training.RunDirectory(directory)
    assert run.files == [
        "encoder.keras", "history.csv", "loss.png", "model.keras", "recipe.toml", "reconstructions.png", "run.json",
    ]  # fmt: skip
    assert run.recipe == RECIPE
    alone = training.RunDirectory(WITNESSES / "finished_run").history
    np.testing.assert_allclose(run.history["loss"], alone["loss"], rtol=1e-6)


@written_on_this_backend
def test_a_finished_run_is_left_as_it_is(expected, tmp_path):
    directory = shutil.copytree(WITNESSES / "finished_run", tmp_path / "run")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    class Never(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise AssertionError("it was trained again")

    resume(directory, expected["images"], callbacks=[Never()])
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


@written_on_this_backend
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "epochs=3 and not 2"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2 and not 1"),
        ({"crop_area": (0.2, 1.0)}, r"crop_area=\[0.2, 1.0\] and not None"),
    ],
)
def test_another_run_is_refused(changes, message, witness, expected):
    with pytest.raises(ValueError, match=f"is another one. Received: {message}"):
        resume(witness, expected["images"], dataclasses.replace(RECIPE, **changes))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="the witnesses are PyTorch's")
def test_a_run_of_another_backend_is_refused(witness, expected):
    with pytest.raises(ValueError, match=f"Received: backend={keras.backend.backend()} and not torch"):
        resume(witness, expected["images"])
