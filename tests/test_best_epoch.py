"""Fine-tuning that ends with its best epoch, or early, killed or not; and weights of classes."""

import dataclasses
import io
import json
import math
from unittest import mock

import keras
import numpy as np
import pytest
from keras import ops
from rich.console import Console
from training_helpers import Stop, killed, terminated

import keras_mae
from keras_mae import recipes, training, transfer
from keras_mae.optimizers import averaged_weights
from keras_mae.training.checkpoints import Preempted
from keras_mae.transfer.best_epoch import EpochChoice

pytestmark = pytest.mark.usefixtures("untraced")

GENERATOR = np.random.default_rng(0)
IMAGES, LABELS = GENERATOR.integers(0, 256, (26, 8, 8, 1), "uint8"), np.arange(26) % 2
TRAIN, HELD_OUT, TEST = slice(0, 12), slice(12, 19), slice(19, 26)
STEPS = 3  # an epoch, of 4 images each
# Labels that mean nothing: what is learned by heart makes the loss on others rise.
RECIPE = recipes.FineTuneRecipe(
    epochs=9,
    warmup_epochs=0,
    batch_size=4,
    base_learning_rate=0.3,
    monitor="val_loss",
    patience=2,
    **dict.fromkeys(("rand_augment", "mixup", "cutmix", "label_smoothing", "drop_path_rate"), 0.0),
)


@pytest.fixture(autouse=True, scope="module")
def _no_pictures():
    """Which take longer than the training."""
    with mock.patch("keras_mae.training.protocols.draw"), mock.patch("keras_mae.training.scoring.draw"):
        yield


class Seen(keras.callbacks.Callback):
    """The weights, or their averages, after every epoch."""

    def __init__(self):
        super().__init__()
        self.weights = {}

    def on_epoch_end(self, epoch, logs=None):
        with averaged_weights(self.model):
            self.weights[epoch] = self.model.get_weights()


class OfAnotherKind:
    """Batches of who knows what labels."""

    def __len__(self):
        return 1


def encoder():
    keras.utils.set_random_seed(1)
    return keras_mae.ViTEncoder((8, 8, 1), 4, embed_dim=8, depth=1, num_heads=2)


def batches(part, size=4, **options):
    return keras_mae.data.from_arrays(IMAGES[part], LABELS[part], batch_size=size, **options)


def run(directory, *callbacks, recipe=RECIPE, **options):
    console = io.StringIO()
    options = {
        "saving": training.Saving(resume=True),
        "console": Console(file=console, width=200),
        "validation_data": batches(HELD_OUT, shuffle=False),
        **options,
    }
    train, test = batches(TRAIN, drop_remainder=True), batches(TEST, shuffle=False)
    names = {"class_names": ("a", "b")}
    training.run_fine_tuning(encoder(), train, test, recipe, directory, callbacks=callbacks, **names, **options)
    return console.getvalue()


def left(directory):
    """What a run ends with: the classifier's weights, its optimizer, and the scores and losses."""
    classifier = keras.saving.load_model(directory / "classifier.keras")
    values = [ops.convert_to_numpy(value) for value in (*classifier.weights, *classifier.optimizer.variables)]
    return values, (directory / "history.csv").read_text(), (directory / "metrics.json").read_text()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run that nobody disturbs: its directory, what it said, and its weights after every epoch."""
    directory, seen = tmp_path_factory.mktemp("alone") / "run", Seen()
    return directory, run(directory, seen), seen.weights


@pytest.fixture(scope="module")
def best(alone):
    """The best epoch, from 0, which is neither the first one nor near the last that there could be."""
    losses = training.RunDirectory(alone[0]).history["val_loss"]
    found = int(np.argmin(losses))
    assert len(losses) == found + 1 + RECIPE.patience < RECIPE.epochs
    return found


def assert_same(directory, alone):
    (values, *texts), (expected, *others) = left(directory), left(alone[0])
    assert texts == others
    for got, value in zip(values, expected, strict=True):
        assert np.array_equal(got, value)
    assert not (directory / "checkpoints").exists()


# === Which epoch ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("monitor", "values", "best", "over"),
    [
        ("val_accuracy", [], None, False),
        ("val_accuracy", [0.5, 0.7, 0.7], 1, False),
        ("val_accuracy", [0.7, 0.7, 0.6], 0, True),
        ("val_loss", [0.7, 0.5, 0.6], 1, False),
        ("val_loss", [math.nan, math.inf, 3.0, math.nan], 2, False),
        ("val_loss", [math.nan, math.nan, math.nan], 0, True),
    ],
)
def test_the_best_epoch_is_the_first_of_equals(monitor, values, best, over):
    choice = EpochChoice(monitor, 2, True)
    assert (choice.best({monitor: values}), choice.is_over({monitor: values})) == (best, over)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("accuracies", "losses", "best", "over"),
    [
        ([0.5, 0.7, 0.7, 0.7, 0.6], [9.0, 3.0, 1.0, 2.0, 0.0], 2, True),
        ([0.7, 0.7, 0.7, 0.7], [4.0, 3.0, 2.0, 1.0], 3, False),  # the loss still falls
        ([0.7, 0.7, 0.7], [1.0, 1.0, 1.0], 0, True),
        ([0.7, 0.7, 0.7], [math.nan, 1.0, math.nan], 1, False),
        ([0.7, 0.7, 0.7], [], 0, True),
    ],
)
def test_of_equal_accuracies_the_lowest_loss_is_the_best(accuracies, losses, best, over):
    history, choice = {"val_accuracy": accuracies, "val_loss": losses}, EpochChoice("val_accuracy", 2, True)
    assert (choice.best(history), choice.is_over(history)) == (best, over)


@pytest.mark.backends("torch")
def test_a_run_that_an_earlier_version_began_goes_on_with_the_first_of_equals(tmp_path, monkeypatch):
    """Whose checkpoint is the one that it kept. Accuracies are equal, and the loss falls."""

    class Equal(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_accuracy"], logs["val_loss"] = 0.5, 1.0 / (epoch + 1)

    recipe = dataclasses.replace(RECIPE, monitor="val_accuracy", patience=4, epochs=4)
    with monkeypatch.context() as patched:
        patched.setattr("keras_mae.training.choosing.TIES", "unknown to it")
        patched.setattr("keras_mae.training.choosing.as_begun", lambda own, _: dataclasses.replace(own, ties=None))
        with pytest.raises(MemoryError):
            run(tmp_path / "run", Equal(), Stop(3 * STEPS, killed), recipe=recipe)
    said = run(tmp_path / "run", Equal(), recipe=recipe)
    assert "the best of 4 epochs is 1: val_accuracy 0.5\n" in said
    assert training.RunDirectory(tmp_path / "run").metrics["epoch"] == 1
    said = run(tmp_path / "new", Equal(), recipe=recipe)
    assert "the best of 4 epochs is 4: val_accuracy 0.5, as others have, and the lowest val_loss of these" in said
    assert training.RunDirectory(tmp_path / "new").metrics["epoch"] == 4


@pytest.mark.backends("torch")
def test_a_patience_asks_for_the_best_epoch_unless_told_otherwise():
    plain = recipes.FineTuneRecipe()
    assert EpochChoice.of(plain) is None
    assert EpochChoice.of(recipes.PretrainRecipe()) is None
    of_size = recipes.FineTuneRecipe.for_size("base", patience=3)
    assert of_size.best_epoch
    assert of_size.origins["best_epoch"] == "follows patience"
    assert not recipes.FineTuneRecipe.for_size("base", patience=3, best_epoch=False).best_epoch
    old = {
        name: value for name, value in plain.to_dict().items() if name not in ("best_epoch", "patience", "monitor")
    }
    assert recipes.Recipe.from_dict(old) == plain


# === Runs ===
def test_a_run_stops_early_and_ends_with_its_best_epoch(alone, best):
    directory, said, weights = alone
    assert f"the best of {best + 3} epochs is {best + 1}: val_loss" in said
    classifier = keras.saving.load_model(directory / "classifier.keras")
    for got, expected in zip(classifier.get_weights(), weights[best], strict=True):
        assert np.array_equal(got, expected)
    assert training.RunDirectory(directory).metrics["epoch"] == best + 1
    assert int(classifier.optimizer.iterations) == (best + 1) * STEPS
    assert f"finished after {best + 3} of {RECIPE.epochs} epochs" in run(directory, Stop(1, killed))


@pytest.mark.parametrize(
    ("after", "saving"),
    [
        (1, {}),  # of the epoch after the best one
        pytest.param(STEPS + 1, {"every_steps": 2}, marks=pytest.mark.backends("torch")),
    ],
)
def test_killed_after_its_best_epoch(after, saving, alone, best, tmp_path):
    saving = training.Saving(resume=True, **saving)
    with pytest.raises(MemoryError):
        run(tmp_path / "run", Stop((best + 1) * STEPS + after, killed), saving=saving)
    run(tmp_path / "run", saving=saving)
    assert_same(tmp_path / "run", alone)


@pytest.mark.backends("torch")
def test_terminated_in_the_last_step_it_does_not_train_on(alone, best, tmp_path):
    with pytest.raises(Preempted):
        run(tmp_path / "run", Stop((best + 3) * STEPS, terminated))
    run(tmp_path / "run", Stop(1, killed))
    assert_same(tmp_path / "run", alone)


@pytest.mark.backends("torch")
def test_killed_while_results_are_written(alone, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("keras_mae.training.protocols.predictions", lambda *args: killed())
        with pytest.raises(MemoryError):
            run(tmp_path / "run")
    run(tmp_path / "run", Stop(1, killed))
    assert_same(tmp_path / "run", alone)


@pytest.mark.backends("torch")
def test_the_best_epoch_is_kept_however_many_checkpoints_follow(alone, best, tmp_path):
    """And one that is damaged is said before the run goes on."""
    steps = (best + 3) * STEPS - 1
    with pytest.raises(MemoryError):
        run(tmp_path / "run", Stop(steps, killed), saving=training.Saving(resume=True, every_steps=1))
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.is_dir())
    newest = [f"step-{step:09d}" for step in range(steps - 3, steps)]
    assert kept == [f"step-{(best + 1) * STEPS:09d}", *newest]
    (tmp_path / "run" / "checkpoints" / kept[0] / "model.weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=f"weights of the best epoch, {best + 1}, .* cannot be read .* is damaged"):
        run(tmp_path / "run", Stop(1, killed))


@pytest.mark.backends("torch")
def test_averages_of_the_best_epoch(tmp_path):
    recipe, seen = dataclasses.replace(RECIPE, ema_momentum=0.5, patience=None, best_epoch=True, epochs=4), Seen()
    run(tmp_path / "run", seen, recipe=recipe)
    epoch = training.RunDirectory(tmp_path / "run").metrics["epoch"] - 1
    assert epoch < 3
    for got, expected in zip(
        keras.saving.load_model(tmp_path / "run" / "classifier.keras").get_weights(), seen.weights[epoch], strict=True
    ):
        assert np.array_equal(got, expected)


@pytest.mark.backends("torch")
def test_early_stopping_alone_keeps_the_last_epoch(alone, best, tmp_path):
    run(tmp_path / "run", recipe=dataclasses.replace(RECIPE, best_epoch=False))
    classifier = keras.saving.load_model(tmp_path / "run" / "classifier.keras")
    for got, expected in zip(classifier.get_weights(), alone[2][best + 2], strict=True):
        assert np.array_equal(got, expected)
    assert "epoch" not in training.RunDirectory(tmp_path / "run").metrics


@pytest.mark.backends("torch")
def test_images_that_score_do_not_choose(tmp_path):
    test = batches(TEST, shuffle=False)
    options = {"class_names": ("a", "b"), "run_directory": tmp_path / "run"}
    for given in ({}, {"validation_data": test}):
        with pytest.raises(ValueError, match="`validation_data`, images that are neither trained nor scored on"):
            training.run_fine_tuning(encoder(), batches(TRAIN), test, RECIPE, **options, **given)
    with pytest.raises(ValueError, match="neither trained nor scored on"):
        transfer.fine_tune(encoder(), batches(TRAIN), 2, RECIPE)
    with pytest.raises(ValueError, match=r"training.open_labeled\(..., validation=0.1\) holds some out"):
        training.open_labeled("digits", (8, 8, 1)).feed(RECIPE)


def test_without_a_run_directory():
    held_out = batches(HELD_OUT, shuffle=False)
    classifier = transfer.fine_tune(encoder(), batches(TRAIN), 2, RECIPE, validation_data=held_out, verbose=0)
    losses = classifier.history.history["val_loss"]
    assert len(losses) < RECIPE.epochs
    assert classifier.evaluate(held_out, return_dict=True, verbose=0)["loss"] == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.backends("torch")
def test_validation_images_are_held_out_of_those_to_train_on():
    images = training.open_labeled("digits", (8, 8, 1), num_labels=50, balanced=True, validation=0.2, seed=3)
    whole = training.open_labeled("digits", (8, 8, 1), num_labels=50, balanced=True, seed=3)
    assert (len(images.train), len(images.validation), len(images.test)) == (40, 10, len(whole.test))
    assert images.metadata["validation"] == 0.2
    assert "validation" not in whole.metadata
    parts = [keras_mae.data.drawing.labels_of(part) for part in (images.train, images.validation, whole.train)]
    assert np.array_equal(np.bincount(parts[0], minlength=10) + np.bincount(parts[1], minlength=10), [5] * 10)
    feed = images.feed(RECIPE)
    assert feed["validation_data"] is not feed["test"]
    assert sum(len(y) for _, y in feed["validation_data"]) == 10


# === Weights of classes ===
@pytest.mark.backends("torch")
def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([2, 0, 0, 2, 0, 3, 0])
    weights = transfer.balanced_class_weights(labels, 5)
    known = np.unique(labels)
    assert np.allclose(weights[known], compute_class_weight("balanced", classes=known, y=labels))
    assert weights[[1, 4]].tolist() == [1, 1]
    assert np.isclose(weights[labels].mean(), 1)
    with pytest.raises(ValueError, match=r"integers in \[0, 3\)"):
        transfer.balanced_class_weights(labels, 3)


def test_cross_entropy_with_weights():
    logits = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], "float32")
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    weights, mixed = np.array([0.5, 2.0, 3.0]), np.array([[0.2, 0.8, 0.0], [0.1, 0.1, 0.8]], "float32")
    loss = keras_mae.loss.CrossEntropy(reduction=None, class_weights=weights)
    assert np.allclose(ops.convert_to_numpy(loss(mixed, logits)), -(mixed * weights * logs).sum(1), rtol=1e-5)
    classes = ops.convert_to_numpy(loss(np.array([2, 1]), logits))
    assert np.allclose(classes, [-3 * logs[0, 2], -2 * logs[1, 1]], rtol=1e-5)
    with pytest.raises(ValueError, match="`class_weights` must be one for each of 3 classes. Received: 2"):
        keras_mae.loss.CrossEntropy(class_weights=(1, 2))(mixed, logits)
    with pytest.raises(ValueError, match="`class_weights` must be numbers of at least 0"):
        keras_mae.loss.CrossEntropy(class_weights=(1, -2))


def test_a_run_weighs_classes_by_its_labels(tmp_path):
    """And what it leaves knows how."""
    recipe = dataclasses.replace(RECIPE, class_weights="balanced", epochs=1, patience=None, best_epoch=False)
    few = keras_mae.data.from_arrays(IMAGES[:6], np.array([0, 0, 1, 0, 0, 0]), batch_size=6)
    test = batches(TEST, shuffle=False)
    options = {"class_names": ("a", "b"), "console": Console(file=io.StringIO())}
    training.run_fine_tuning(encoder(), few, test, recipe, tmp_path / "run", **options)
    loaded = keras.saving.load_model(tmp_path / "run" / "classifier.keras")
    assert loaded.loss.class_weights == (0.6, 3.0)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["class_weights"] == "balanced"
    with pytest.raises(ValueError, match='`class_weights="balanced"` counts the labels of a dataset'):
        transfer.fine_tune(encoder(), OfAnotherKind(), 2, recipe)
