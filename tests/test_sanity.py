"""What is suspicious of a run is said once, with what to change, and kept."""

import json
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_mae
from keras_mae import data
from keras_mae.recipes import LinearProbeRecipe, PretrainRecipe
from keras_mae.training import RunDirectory, Saving, run_pretraining, sanity

pytestmark = pytest.mark.backends("torch")

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), "uint8")


def recipe(**changes):
    return PretrainRecipe(**{"epochs": 100, "warmup_epochs": 5, "batch_size": 32, **changes})


def held(batch_size, num_images):
    return SimpleNamespace(batch_size=batch_size, num_images=num_images)


@pytest.mark.parametrize(
    ("changes", "steps", "dataset", "message"),
    [
        ({"epochs": 20}, 9, held(32, 300), "updates the weights only 180 times.* Received: epochs=20, batch_size=32"),
        ({"gradient_accumulation_steps": 4}, 7, held(8, 60), "only 175 times"),
        (
            {"batch_size": 5000},
            2,
            held(1437, 2874),
            "1,437 images, and not the recipe's 5,000, .*, 0.00293, is",
        ),
        ({"batch_size": 64}, 2, held(50, 100), r"batch_size=50 \(--batch-size 50\) scales it"),
        (
            {"batch_size": 64, "gradient_accumulation_steps": 2},
            4,
            held(25, 100),
            r"batch_size=50 \(--batch-size 50\) scales it",
        ),
        ({"warmup_epochs": 60}, 9, held(32, 300), "rises during 60 of the 100 epochs.* such as 10"),
        ({"epochs": 300}, 1, held(32, 50), r"leaves out 18 of 50 images.* of 32: batch_size=25 .* leaves out none"),
        ({"epochs": 300}, 2, held(32, 95), r"leaves out 31 of 95 images.* batch_size=31 .* leaves out 2"),
    ],
)
def test_what_is_suspicious_is_said_with_what_to_change(changes, steps, dataset, message):
    (found,) = sanity.doubts(recipe(**changes), steps, dataset)
    assert re.search(message, found)


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_the_published_recipes_are_above_suspicion(size):
    for kind in (PretrainRecipe, keras_mae.recipes.FineTuneRecipe, LinearProbeRecipe):
        made = kind.for_size(size)
        batch = made.step_batch_size
        assert sanity.doubts(made, 1_281_167 // batch, held(batch, 1_281_167)) == []


def test_of_a_dataset_that_says_nothing_the_recipe_is_judged():
    assert sanity.doubts(recipe(), 10, object()) == []


@pytest.mark.backends("torch", "tensorflow")
@pytest.mark.parametrize("loader", ["grain", "tf.data"])
def test_datasets_say_how_many_images_they_hold(loader):
    if loader == "tf.data":
        pytest.importorskip("tensorflow")
    dataset = data.from_arrays(IMAGES, None, 6, loader=loader, crop=data.RandomCrop(0.25), crops_per_image=2)
    assert (dataset.num_images, dataset.batch_size) == (16, 6)


# === A loss that rises ===
@pytest.mark.parametrize(
    ("losses", "rises"),
    [
        ([3, 2, 1, 2, 3, 4, 5, 6], True),
        ([3, 2, 1, 2, 3, 4, 5], False),  # not yet for long
        ([3, 2, 1, 1.05, 1.08, 1.06, 1.09, 1.05, 1.07], False),  # only a little above
        ([3, 2, 1, 2, 3, 1.05, 3, 4, 5], False),  # not throughout
        ([1, float("nan"), 2, 2, 2, 2, 2], True),
        ([float("nan")] * 9, False),
        ([], False),
    ],
)
def test_a_loss_that_has_risen_for_long(losses, rises):
    assert bool(sanity.rising(losses)) is rises


def test_it_is_said_once():
    said = []
    callback = sanity.RisingLoss({"loss": [1.0, 2.0]}, said.append)
    for epoch in range(2, 5):
        callback.on_epoch_end(epoch, {"loss": 2.0 + epoch})
    with pytest.warns(UserWarning, match="The loss has risen: it was 1 after epoch 1, and has been above for 5"):
        callback.on_epoch_end(5, {"loss": 7.0})
    callback.on_epoch_end(6, {"loss": 8.0})
    assert len(said) == 1
    sanity.RisingLoss({"loss": [1.0, *[2.0] * 5]}, said.append).on_epoch_end(6, {"loss": 3.0})
    assert len(said) == 1


# === In a run ===
def test_a_run_keeps_what_was_said(tmp_path):
    keras.utils.set_random_seed(1)
    encoder = keras_mae.ViTEncoder((8, 8, 1), 4, embed_dim=8, depth=1, num_heads=2)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), norm_pix_loss=False)
    dataset = data.from_arrays(IMAGES, None, 8, drop_remainder=True)
    made = PretrainRecipe(epochs=1, warmup_epochs=0, batch_size=16, norm_pix_loss=False)
    options = {"examples": IMAGES[:1], "saving": Saving(resume=True), "jit_compile": False}
    with pytest.warns(UserWarning, match="Batches hold 8 images"):
        run_pretraining(mae, dataset, made, tmp_path / "run", **options)
    kept = RunDirectory(tmp_path / "run").metadata["warnings"]
    assert [text.split(":")[0].split(",")[0] for text in kept] == [
        "The run updates the weights only once",
        "Batches hold 8 images",
    ]
    run_pretraining(mae, dataset, made, tmp_path / "run", **options)  # finished: not another run for its warnings
    assert json.loads((tmp_path / "run" / "run.json").read_text())["warnings"] == kept
