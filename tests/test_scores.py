"""Scores and predictions that runs leave."""

import csv
import warnings

import keras
import numpy as np
import pytest
from sklearn import metrics as oracle

import keras_mae
from keras_mae import data, training
from keras_mae.data.file_names import names_of
from keras_mae.training.metrics import scores

torch_only = pytest.mark.backends("torch")


@torch_only
@pytest.mark.parametrize("classes", [2, 5])
def test_scores_are_those_of_scikit_learn(classes):
    """Class 0 has no images and is predicted, the last one has some and is never predicted."""
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(1, classes, 40), generator.integers(0, classes - 1, 40)
    got = scores(predicted, labels, [str(number) for number in range(classes + 1)])  # the last: neither
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert got["accuracy"] == pytest.approx(oracle.accuracy_score(labels, predicted))
        assert got["balanced_accuracy"] == pytest.approx(oracle.balanced_accuracy_score(labels, predicted))
        for name in ("precision", "recall", "f1"):
            score = getattr(oracle, f"{name}_score")
            assert got[name] == pytest.approx(score(labels, predicted, average="macro", zero_division=0))
    assert got["precision_by_class"][str(classes - 1)] is None
    assert got["accuracy_by_class"]["0"] is None
    assert (got["f1_by_class"]["0"], got["f1_by_class"][str(classes)]) == (0, None)
    assert got["images"] == 40


@torch_only
def test_names_are_found_through_parts_and_other_labels(class_folders):
    folder = data.FolderSource(class_folders, 8, labeled=True)
    part = data.Subset(folder, [3, 1])
    assert names_of(part) == folder.names([3, 1])
    assert names_of(data.Subset(part, [1])) == folder.names([1])
    other = data.open_directory(class_folders, 8, 3, labeled=True, class_names=["zebras", "dogs", "cats"])
    assert names_of(other) == names_of(folder)
    assert names_of(data.ArraySource(np.zeros((2, 8, 8, 1), "uint8"))) is None


def test_predictions_have_the_names_of_files(class_folders, tmp_path):
    encoder = keras_mae.ViTEncoder((8, 8, 3), 4, embed_dim=8, depth=1, num_heads=1)
    classifier = keras_mae.ViTClassifier(encoder, 3, class_names=("bears", "cats", "dogs"))
    test = training.open_test(class_folders, (8, 8, 3))
    run = training.RunDirectory(
        training.run_evaluation(classifier, training.evaluation_batches(test), tmp_path / "run")
    )
    with run.file("predictions.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["file", "class", "predicted", "probability"]
    assert [line[0] for line in lines] == names_of(test)
    assert [line[1] for line in lines] == [line[0].split("/")[0] for line in lines]
    images = test.batch(np.arange(len(test)))[0]
    logits = np.asarray(keras.ops.convert_to_numpy(classifier(images)), "float64")
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert [line[2] for line in lines] == [classifier.class_names[place] for place in logits.argmax(1)]
    np.testing.assert_allclose([float(line[3]) for line in lines], chances.max(1), rtol=1e-4)
    assert run.metrics["images"] == len(lines)
