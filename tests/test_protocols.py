"""The protocols as runs: the directories they leave."""

import csv
import dataclasses
import functools
import io
import json

import keras
import numpy as np
import pytest
from classifier_helpers import BATCH, CLASSES, IMAGES, LABELS, assert_same, make_encoder, values
from rich.console import Console
from training_helpers import Stop, killed, quick_compile, terminated

import keras_mae
from keras_mae import recipes, training, transfer

pytestmark = pytest.mark.usefixtures("untraced")

SAVING = training.Saving(resume=True, every_steps=2)
NAMES = [f"kind {letter}" for letter in "abcdefghijk"]
FINE_TUNE = recipes.FineTuneRecipe.for_size("small_images", epochs=2, warmup_epochs=1, batch_size=BATCH)
PROBE = recipes.LinearProbeRecipe.for_size("small_images", epochs=2, warmup_epochs=1, batch_size=BATCH)
TRAINED = {
    "classifier.keras",
    "confusion.png",
    "curves.png",
    "history.csv",
    "metrics.json",
    "predictions.csv",
    "recipe.toml",
    "run.json",
}
RUNS = {"fine_tune": "run_fine_tuning", "linear_probe": "run_linear_probe", "knn": "run_knn"}
TEST = slice(0, 13)  # fewer than all, so that some class may be missing and the last batch is not full


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def dataset(names=NAMES):
    return keras_mae.data.from_arrays(IMAGES, LABELS, BATCH, class_names=names, drop_remainder=True, loader="grain")


def held_out():
    return keras_mae.data.from_arrays(IMAGES[TEST], LABELS[TEST], BATCH, shuffle=False, loader="grain")


class Run:
    """A run, what it was given, and what it showed."""

    def __init__(self, protocol, directory):
        shown, self.encoder, self.directory = io.StringIO(), make_encoder(), directory / "deep" / "run"
        self.before = values(self.encoder.weights)
        console = Console(file=shown, width=200)
        if protocol == "knn":
            training.run_knn(self.encoder, dataset(), held_out(), self.directory, k=3, pooling="mean")
        elif protocol == "probe":
            training.run_linear_probe(self.encoder, dataset(), held_out(), PROBE, self.directory, console=console)
        else:
            blocks = 1 if protocol == "partial" else None
            training.run_fine_tuning(
                self.encoder,
                dataset(),
                held_out(),
                FINE_TUNE,
                self.directory,
                trainable_blocks=blocks,
                console=console,
            )
        self.shown = shown.getvalue()
        self.files = {path.name for path in self.directory.iterdir()}
        self.metrics = json.loads((self.directory / "metrics.json").read_text())

    def metadata(self):
        return json.loads((self.directory / "run.json").read_text())


@pytest.fixture(scope="module", params=["fine-tuning", "partial", "probe"])
def run(request, tmp_path_factory):
    run = Run(request.param, tmp_path_factory.mktemp("runs"))
    run.protocol = request.param
    return run


@pytest.fixture(scope="module")
def knn_run(tmp_path_factory):
    return Run("knn", tmp_path_factory.mktemp("runs"))


def test_a_run_leaves_its_files_and_nothing_else(run):
    assert run.files == TRAINED
    for name in ("curves.png", "confusion.png"):
        assert (run.directory / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_given_encoder_is_left_alone(run):
    assert_same(values(run.encoder.weights), run.before)


def test_the_saved_classifier_scores_what_the_metrics_say(run):
    """By a way of its own: predictions of the loaded model on the arrays."""
    loaded = keras.saving.load_model(run.directory / "classifier.keras")
    right = loaded.predict(IMAGES[TEST], batch_size=BATCH, verbose=0).argmax(-1) == LABELS[TEST]
    assert run.metrics["images"] == 13
    assert run.metrics["accuracy"] == pytest.approx(right.mean())
    assert list(run.metrics["accuracy_by_class"]) == NAMES
    for label, accuracy in enumerate(run.metrics["accuracy_by_class"].values()):
        chosen = right[LABELS[TEST] == label]
        assert accuracy == (pytest.approx(chosen.mean()) if chosen.size else None)
    assert None in run.metrics["accuracy_by_class"].values()


def test_the_saved_classifier_has_its_optimizer(run):
    loaded = keras.saving.load_model(run.directory / "classifier.keras")
    assert int(loaded.optimizer.iterations) == 8
    kind = keras_mae.optimizers.LARS if run.protocol == "probe" else keras_mae.optimizers.AdamW
    assert type(loaded.optimizer) is kind
    expected = {"fine-tuning": ("mean", None), "partial": ("mean", 1), "probe": ("token", 0)}
    assert (loaded.pooling, loaded.trainable_blocks) == expected[run.protocol]


def test_history_and_recipe_say_what_happened(run):
    rows = list(csv.DictReader((run.directory / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert set(rows[0]) == {
        "epoch", "loss", "accuracy", "skipped_steps", "val_loss", "val_accuracy", "learning_rate",
    }  # fmt: skip
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert float(rows[1]["val_accuracy"]) == pytest.approx(run.metrics["accuracy"])
    metadata, peak = run.metadata(), (PROBE if run.protocol == "probe" else FINE_TUNE).learning_rate
    assert metadata["learning_rate"] == pytest.approx(peak)
    assert float(rows[0]["learning_rate"]) == pytest.approx(peak)
    assert metadata["steps_per_epoch"] == 4
    assert metadata["backend"] == keras.backend.backend()
    assert metadata["protocol"] == ("linear probe" if run.protocol == "probe" else "fine-tuning")
    assert metadata.get("trainable_blocks") == (1 if run.protocol == "partial" else None)
    assert metadata["parameters"] == keras.saving.load_model(run.directory / "classifier.keras").count_params()


def test_progress_shows_accuracy_and_speed(run):
    lines = run.shown.strip().splitlines()
    assert [line.startswith(f"epoch {number}/2") for number, line in enumerate(lines, 1)] == [True, True]
    assert "val_accuracy" in lines[0]
    assert "images/s" in lines[0]


def test_nearest_neighbours_leave_their_scores(knn_run):
    assert knn_run.files == {"confusion.png", "metrics.json", "predictions.csv"}
    train, test = (
        transfer.extract_features(knn_run.encoder, IMAGES[part], LABELS[part], pooling="mean", progress=False)
        for part in (slice(None), TEST)
    )
    expected = transfer.knn_accuracy(train, test, k=3)
    assert 0 < expected <= 1
    assert knn_run.metrics["accuracy"] == pytest.approx(expected)
    settings = {"k": 3, "temperature": 0.07, "pooling": "mean", "backend": keras.backend.backend(), "images": 13}
    assert settings.items() <= knn_run.metrics.items()
    assert_same(values(knn_run.encoder.weights), knn_run.before)


PROTOCOLS = {
    "fine_tune": {"recipe": FINE_TUNE},
    "linear_probe": {"recipe": PROBE},
    "knn": {"k": 3},
}


@pytest.mark.backends("torch")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_directory_with_files_is_refused_and_kept(protocol, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    arguments = {"run_directory": tmp_path, **PROTOCOLS[protocol]}
    with pytest.raises(ValueError, match="`run_directory` .* must not exist or be empty"):
        getattr(training, RUNS[protocol])(make_encoder(), dataset(), held_out(), **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.backends("torch")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_run_that_cannot_begin_leaves_nothing(protocol, tmp_path):
    """Labels of more classes than there are names; more neighbours than images."""
    arguments = {"run_directory": tmp_path / "run", **PROTOCOLS[protocol]}
    arguments["class_names"] = NAMES if protocol == "knn" else NAMES[:3]
    if protocol == "knn":
        arguments["k"] = 21
    with pytest.raises(Exception, match=r"`k` must not exceed|Labels must be integers in \[0, 3\)"):
        getattr(training, RUNS[protocol])(make_encoder(), dataset(None), held_out(), **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.backends("torch")
@pytest.mark.parametrize("classes", [NAMES[:2] * 2, np.arange(11), 11, "abcdefghijk", []])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_classes_that_are_no_names_are_refused_before_anything_runs(protocol, classes, tmp_path):
    arguments = {"run_directory": tmp_path / "run", "class_names": classes, **PROTOCOLS[protocol]}
    with pytest.raises(ValueError, match="`class_names` must be different non-empty names, one for each class. Rec"):
        getattr(training, RUNS[protocol])(make_encoder(), dataset(), held_out(), **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.backends("torch")
@pytest.mark.parametrize("batches", [IMAGES, (IMAGES, LABELS), [IMAGES]], ids=["array", "tuple", "list"])
def test_what_is_no_batches_is_refused(batches, tmp_path):
    with pytest.raises(ValueError, match="`dataset` must be batches, as keras_mae.data makes them. Received: "):
        training.run_fine_tuning(make_encoder(), batches, held_out(), FINE_TUNE, tmp_path / "run")


# === Killed and gone on with ===
def resumable(protocol, directory, *callbacks):
    """A run of two epochs of four steps; draws of every kind."""
    keras.utils.set_random_seed(5)
    drawn = keras_mae.data.Augmentation(
        CLASSES, flip=True, **({"mixup": 0.8, "shift": 0.1} if protocol == "fine_tune" else {})
    )
    train = keras_mae.data.from_arrays(IMAGES, LABELS, BATCH, class_names=NAMES, drop_remainder=True, augment=drawn)
    recipe = dataclasses.replace(FINE_TUNE, drop_path_rate=0.3) if protocol == "fine_tune" else PROBE
    options = {"callbacks": callbacks, "console": Console(file=io.StringIO()), "saving": SAVING}
    getattr(training, RUNS[protocol])(make_encoder(), train, held_out(), recipe, directory, **options)
    saved = keras.saving.load_model(directory / "classifier.keras")
    return values([*saved.weights, *saved.optimizer.variables]), (directory / "history.csv").read_text()


@pytest.mark.parametrize("protocol", ["fine_tune", pytest.param("linear_probe", marks=pytest.mark.backends("torch"))])
def test_a_killed_run_ends_as_if_nothing_had_happened(protocol, tmp_path):
    weights, history = resumable(protocol, tmp_path / "alone")
    with pytest.raises(MemoryError):
        resumable(protocol, tmp_path / "run", Stop(3, killed))  # the checkpoint is a step behind
    with pytest.raises(SystemExit) as stopped:
        resumable(protocol, tmp_path / "run", Stop(4, terminated))  # in the second epoch
    assert stopped.value.code == 143
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "checkpoints",
        "history.csv",
        "recipe.toml",
        "run.json",
    }
    got, lines = resumable(protocol, tmp_path / "run")
    assert_same(got, weights)
    assert lines == history
    assert {path.name for path in (tmp_path / "run").iterdir()} == TRAINED
    metrics = (tmp_path / "run" / "metrics.json").read_text()
    for name in ("confusion.png", "curves.png", "metrics.json"):  # as if they had failed
        (tmp_path / "run" / name).unlink()
    resumable(protocol, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == TRAINED
    assert (tmp_path / "run" / "metrics.json").read_text() == metrics


class Infinite(keras.utils.PyDataset):
    num_batches = 4

    def __len__(self):
        return self.num_batches

    def __getitem__(self, index):
        return np.full((BATCH, *IMAGES.shape[1:]), np.inf, "float32"), LABELS[:BATCH]


def test_steps_that_have_ceased_to_be_finite_end_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_mae.training.runner.StopOnNonFinite", functools.partial(training.StopOnNonFinite, 2))
    with pytest.raises(FloatingPointError, match="2 training steps in a row were not finite.*values are not finite"):
        training.run_fine_tuning(
            make_encoder(), Infinite(), held_out(), FINE_TUNE, tmp_path / "run", class_names=NAMES
        )
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["recipe.toml", "run.json"]


# === Scores of a trained classifier ===
def test_evaluate_leaves_the_scores_that_the_run_left(run, tmp_path):
    classifier = keras.saving.load_model(run.directory / "classifier.keras")
    directory = training.run_evaluation(classifier, held_out(), tmp_path / "again")
    assert {path.name for path in directory.iterdir()} == {"confusion.png", "metrics.json", "predictions.csv"}
    again = json.loads((directory / "metrics.json").read_text())
    assert again == {**run.metrics, "backend": keras.backend.backend()}
    wrong = keras_mae.data.from_arrays(IMAGES[TEST], np.full(13, CLASSES), BATCH, shuffle=False, loader="grain")
    with pytest.raises(ValueError, match=rf"Labels must be integers in \[0, {CLASSES}\)"):
        training.run_evaluation(classifier, wrong, tmp_path / "other")
    with pytest.raises(ValueError, match="`classifier` must be a keras_mae.ViTClassifier"):
        training.run_evaluation(classifier.encoder, held_out(), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.backends("torch")
@pytest.mark.parametrize("protocol", ["fine_tune", "linear_probe"])
def test_a_recipe_for_something_else_is_refused(protocol, tmp_path):
    recipe = {"fine_tune": PROBE, "linear_probe": FINE_TUNE}[protocol]
    with pytest.raises(ValueError, match="`recipe` must be a (FineTune|LinearProbe)Recipe"):
        getattr(training, RUNS[protocol])(make_encoder(), dataset(), held_out(), recipe, tmp_path / "run")
