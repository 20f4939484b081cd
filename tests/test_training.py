"""Recipes, and the runner with its run directory."""

import csv
import dataclasses
import io
import json
import re
from typing import ClassVar

import keras
import numpy as np
import pytest
from rich.console import Console

import keras_mae
from keras_mae.training import PretrainRecipe, Progress, Saving, run_pretraining

RECIPE = PretrainRecipe(epochs=2, warmup_epochs=1, batch_size=8, norm_pix_loss=False)


def small_model(**options):
    encoder = keras_mae.ViTEncoder((8, 12, 1), 4, embed_dim=16, depth=1, num_heads=2)
    return keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), **options)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (19, 8, 12, 1), dtype="uint8")


def dataset(images):
    return keras_mae.data.from_arrays(images, batch_size=8, drop_remainder=True, loader="grain")


# === Recipes ===
def test_the_defaults_are_the_published_recipe():
    recipe = PretrainRecipe()
    assert recipe.learning_rate == pytest.approx(2.4e-3)
    optimizer = recipe.optimizer(steps_per_epoch=312)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.weight_decay) == (0.9, 0.95, 0.05)
    schedule = optimizer._learning_rate
    rates = [float(schedule(step)) for step in (0, 20 * 312, 40 * 312, 420 * 312, 800 * 312)]
    np.testing.assert_allclose(rates, [0, 1.2e-3, 2.4e-3, 1.2e-3, 0], atol=1e-7)


def test_accumulation_divides_the_batch_and_stretches_the_schedule():
    recipe = PretrainRecipe(epochs=10, warmup_epochs=2, batch_size=64, gradient_accumulation_steps=4)
    assert recipe.step_batch_size == 16
    optimizer = recipe.optimizer(steps_per_epoch=8)
    assert optimizer.gradient_accumulation_steps == 4
    np.testing.assert_allclose(float(optimizer._learning_rate(4)), recipe.learning_rate, rtol=1e-6)
    np.testing.assert_allclose(float(optimizer._learning_rate(20)), 0, atol=1e-12)


@pytest.mark.backends("torch")
def test_a_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPE.epochs = 3


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"warmup_epochs": 800}, "`warmup_epochs` must be an integer, at least 0 and less than `epochs`"),
        ({"mask_ratio": 1.0}, r"`mask_ratio` must be in \[0, 1\)"),
        ({"base_learning_rate": float("nan")}, "`base_learning_rate` must be a finite number above 0"),
        ({"weight_decay": -1}, "`weight_decay` must be a finite number of at least 0"),
        ({"gradient_accumulation_steps": 3}, "`gradient_accumulation_steps` must divide `batch_size`"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PretrainRecipe(**options)


# === The runner ===
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (19, 8, 12, 1), dtype="uint8")
    directory = tmp_path_factory.mktemp("runs") / "one"
    shown = io.StringIO()
    model = small_model()
    data = dataset(images)
    run_pretraining(
        model,
        data,
        RECIPE,
        directory,
        examples=images[:3],
        validation_data=data,
        console=Console(file=shown, width=200),
    )
    return directory, model, shown.getvalue()


def test_a_run_leaves_its_directory_and_nothing_else(run):
    assert sorted(path.name for path in run[0].iterdir()) == [
        "encoder.keras",
        "history.csv",
        "loss.png",
        "model.keras",
        "recipe.toml",
        "reconstructions.png",
        "run.json",
    ]
    for name in ("loss.png", "reconstructions.png"):
        assert (run[0] / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_saved_models_are_the_trained_one(run, images):
    directory, model, _ = run
    loaded = keras.saving.load_model(directory / "model.keras")
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
    assert int(loaded.optimizer.iterations) == 4
    encoder = keras.saving.load_model(directory / "encoder.keras")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(encoder(images)), keras.ops.convert_to_numpy(model.encoder(images))
    )


def test_history_and_recipe_say_what_happened(run):
    rows = list(csv.DictReader((run[0] / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    expected = {"epoch", "loss", "psnr", "skipped_steps", "val_loss", "val_psnr", "learning_rate"}
    assert set(rows[0]) == expected
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    np.testing.assert_allclose([float(row["learning_rate"]) for row in rows], [RECIPE.learning_rate, 0], atol=1e-12)
    metadata = json.loads((run[0] / "run.json").read_text())
    assert metadata["recipe"]["batch_size"] == 8
    assert metadata["learning_rate"] == pytest.approx(1.5e-4 * 8 / 256)
    assert metadata["steps_per_epoch"] == 2


def test_progress_shows_epoch_speed_and_time_left(run):
    lines = [line for line in run[2].strip().splitlines() if not line.startswith("Slow: ")]  # other programs' doing
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2  loss ")
    assert "images/s" in lines[0]
    assert "skipped_steps" not in lines[0]
    assert lines[1].endswith("0:00 left")


class Terminal(Progress):
    """Keeps what the live line shows."""

    _SECONDS_BETWEEN_LOSSES = 0
    seen: ClassVar[list] = []

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        [task] = self._bars.tasks
        self.seen.append((task.completed, task.total, task.description))


def test_the_bar_counts_what_is_left_and_shows_the_loss(images):
    """An epoch of six steps, of which three are done, and two more epochs."""
    model = small_model()
    model.compile(RECIPE.optimizer(6), run_eagerly=keras.backend.backend() != "jax")
    shown = io.StringIO()
    progress = Terminal(12, Console(file=shown, force_terminal=True, width=200), epochs=3, steps=6)
    batches = keras_mae.data.from_arrays(images[:12], batch_size=2, loader="grain")
    model.fit(batches, epochs=1, steps_per_epoch=3, verbose=0, callbacks=[progress])
    assert [seen[:2] for seen in Terminal.seen] == [(4, 18), (5, 18), (6, 18)]
    assert all(re.fullmatch(r"epoch 1/3  loss \d.*", seen[2]) for seen in Terminal.seen)


@pytest.mark.backends("torch")
def test_a_long_epoch_says_soon_how_long_it_takes_and_where_the_run_is(monkeypatch):
    """Epochs of a hundred steps of a minute, of which ten were done before; the first step takes longer."""
    now, read, shown = [0.0], [], io.StringIO()
    for module in ("callbacks", "busy"):
        monkeypatch.setattr(f"keras_mae.training.{module}.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("keras_mae.training.callbacks.notice", lambda before, after: f"{after.clock - before.clock}")

    class Loss:
        def __float__(self):
            read.append(now[0])
            return 0.5

    progress = Progress(200, Console(file=shown, width=200), epochs=3, steps=100)

    def fit(epoch, steps, seconds=60.0):
        progress.set_params({"epochs": epoch + 1, "steps": steps})
        progress.on_train_begin()
        progress.on_epoch_begin(epoch)
        for batch in range(steps):
            now[0] += 300.0 if batch == 0 else seconds
            progress.on_train_batch_end(batch, {"loss": Loss()})
        progress.on_epoch_end(epoch, {})
        progress.on_train_end()

    fit(0, 90)
    lines = shown.getvalue().splitlines()
    assert lines[0] == "epoch 1/3  step 13/100  loss 0.5  about 1 h 40 min an epoch, 4 h 47 min left"
    assert lines[1] == "epoch 1/3  step 23/100  loss 0.5  about 1 h 40 min an epoch, 4 h 37 min left"
    assert len(lines) == 9 + 2
    assert lines[-1] == "Slow: 5340.0"
    assert len(read) == 1 + 9  # at the first step, and for each line
    fit(1, 100, seconds=1.0)  # epochs that are short enough have a line of their own, and nothing is said twice
    assert [line.split()[:2] for line in shown.getvalue().splitlines()[11:]] == [["epoch", "2/3"]]
    assert len(read) == 1 + 9 + 1


def test_a_picture_that_fails_is_a_warning_and_is_drawn_when_asked_for_again(images, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no ink")

    recipe = dataclasses.replace(RECIPE, epochs=1, warmup_epochs=0)

    def again():
        run_pretraining(
            small_model(), dataset(images), recipe, tmp_path / "run", examples=images[:2], saving=Saving(resume=True)
        )

    with monkeypatch.context() as patched:
        patched.setattr("keras_mae.visualize.reconstructions", fail)
        patched.setattr("keras_mae.visualize.curves", fail)
        with pytest.warns(UserWarning, match="(loss|reconstructions).png could not be drawn: .* no ink") as warned:
            again()
    assert sum("could not be drawn" in str(warning.message) for warning in warned) == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    assert {path.name for path in before} == {
        "encoder.keras",
        "history.csv",
        "model.keras",
        "recipe.toml",
        "run.json",
    }
    again()
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    assert before.items() <= after.items()
    assert {path.name for path in after.keys() - before.keys()} == {"loss.png", "reconstructions.png"}


@pytest.mark.backends("torch")
def test_a_directory_with_files_is_refused_and_kept(tmp_path, images):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`run_directory` \(--out\) must not exist or be empty"):
        run_pretraining(small_model(), dataset(images), RECIPE, tmp_path, examples=images[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


class Fails(keras.callbacks.Callback):
    """Stops training in an epoch."""

    def __init__(self, epoch, error):
        super().__init__()
        self.epoch, self.error = epoch, error

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise self.error


@pytest.mark.backends("torch")
def test_a_run_that_fails_before_its_first_epoch_leaves_nothing(tmp_path, images):
    callbacks = [Fails(0, RuntimeError("no power"))]
    with pytest.raises(RuntimeError, match="no power"):
        run_pretraining(
            small_model(), dataset(images), RECIPE, tmp_path / "run", examples=images[:1], callbacks=callbacks
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("changes", "disagreement"),
    [
        ({"norm_pix_loss": True}, "norm_pix_loss=True and False"),
        ({"masking": keras_mae.RandomMasking(0.5)}, "mask_ratio=0.5 and 0.75"),
        ({"masking": keras_mae.BlockMasking(0.5)}, "mask_ratio=0.5 and 0.75"),
        ({"masking": keras_mae.RandomMasking(0.75, cell=2)}, "cell=2 and 1"),
        ({"masks_per_image": 2}, "masks_per_image=2 and 1"),
    ],
)
def test_model_and_recipe_must_agree(tmp_path, images, changes, disagreement):
    with pytest.raises(ValueError, match=f"Model and recipe must agree. Received: {disagreement}"):
        run_pretraining(small_model(**changes), dataset(images), RECIPE, tmp_path / "run", examples=images[:1])
    assert not (tmp_path / "run").exists()


@pytest.mark.backends("torch")
@pytest.mark.parametrize("changes", [{"masking": keras_mae.BlockMasking(0.75)}, {"seed": 5}])
def test_a_kind_of_masking_and_a_seed_that_recipes_did_not_name_are_the_models(tmp_path, images, changes):
    run = run_pretraining(
        small_model(**changes),
        dataset(images),
        dataclasses.replace(RECIPE, epochs=1, warmup_epochs=0),
        tmp_path / "run",
        examples=images[:1],
    )
    assert keras_mae.training.RunDirectory(run).metadata["masking"] == type(small_model(**changes).masking).__name__


@pytest.mark.backends("torch")
def test_a_model_made_with_a_recipes_arguments_agrees_with_it(tmp_path, images):
    recipe = PretrainRecipe(
        epochs=1, warmup_epochs=0, batch_size=8, mask_ratio=0.5, norm_pix_loss=True, masks_per_image=2, seed=7
    )
    model = small_model(**recipe.model_arguments)
    assert (model.masking.mask_ratio, model.norm_pix_loss, model.masks_per_image, model.seed) == (0.5, True, 2, 7)
    run_pretraining(model, dataset(images), recipe, tmp_path / "run", examples=images[:1])


@pytest.mark.backends("torch")
def test_a_dataset_without_length_is_refused(tmp_path, images):
    with pytest.raises(ValueError, match="`dataset` must have a known length"):
        run_pretraining(small_model(), iter([images]), RECIPE, tmp_path / "run", examples=images[:1])
