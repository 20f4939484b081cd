"""Which labels, losses and metrics a classifier takes; what it refuses it refuses before a weight changes."""

import functools

import keras
import numpy as np
import pytest
from classifier_helpers import (
    BACKEND,
    BATCH,
    CLASSES,
    IMAGES,
    LABELS,
    assert_same,
    compiled,
    fit,
    largest,
    make_classifier,
    make_encoder,
    randomise_head,
    values,
)
from keras import ops
from training_helpers import quick_compile

import keras_mae
from keras_mae.labels import check_labels, check_loss, check_metrics

X, Y = IMAGES[:BATCH], LABELS[:BATCH]
ONE_HOT = np.eye(CLASSES, dtype="float32")[Y]
MULTI_HOT = np.maximum(ONE_HOT, np.roll(ONE_HOT, 1, axis=1))
OTHER_LOSSES = r".*BinaryCrossentropy\(from_logits=True\).*MeanSquaredError\(\)"


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


@pytest.fixture(scope="module")
def classifier():
    """One that no test of this file changes."""
    return compiled(make_classifier(), run_eagerly=False)


# === Labels that cross-entropy does not take ===
REFUSED = {
    "truncated": (Y * 0.7, rf"integers in \[0, 11\).{OTHER_LOSSES}.* Received: \d+\.\d+"),
    "not a number": (np.array([np.nan, *Y[1:]]), r"integers in \[0, 11\). .* Received: nan"),
    "names": (np.array(["cat"] * BATCH), r"np.unique\(labels, return_inverse=True\).* Received: labels.dtype=<U"),
    "objects": (np.array(["cat", None, 1, 2, 3], object), r"integers in \[0, 11\)..* Received: labels.dtype=object"),
    "several classes": (MULTI_HOT, rf"must be probabilities: {OTHER_LOSSES}.* a sum of 2"),
    "several classes, integers": (MULTI_HOT.astype("int64"), r"must be probabilities: .* a sum of 2"),
    "no class": (ONE_HOT * 0, r"must be probabilities: .* a sum of 0"),
    "rows of 0.7": (ONE_HOT * 0.7, r"must be probabilities: .* a sum of 0.7"),
    "below 0": (2 * ONE_HOT - 1 / CLASSES, r"must be probabilities: .* values from -0.09"),
    "not a probability": (np.where(ONE_HOT > 0, np.nan, 0.0), r"must be probabilities: .* Received: values from nan"),
    "another shape": (ONE_HOT[:, :, None], r"integers \(batch,\) or probabilities \(batch, 11\)..*\(10, 11, 1\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_arrays_are_checked_before_anything_is_computed(method, kind, classifier):
    labels, message = REFUSED[kind]
    before = values(classifier.weights)
    # The last label of the last batch is the only one that is wrong.
    images = IMAGES[: 2 * BATCH]
    good = {1: Y, 2: ONE_HOT, 3: ONE_HOT[:, :, None]}[labels.ndim].astype(labels.dtype)
    labels = np.concatenate([good, labels])
    with pytest.raises(ValueError, match=message):
        getattr(classifier, method)(images, labels, batch_size=BATCH, verbose=0)
    assert_same(values(classifier.weights), before)


@pytest.mark.backends("torch")
def test_labels_are_one_array(classifier):
    with pytest.raises(ValueError, match="Labels must be one array. Received: list"):
        fit(classifier, X, Y.tolist())


@pytest.mark.parametrize("held_out", [tuple, list])
def test_arrays_to_validate_on_are_checked_too(held_out, classifier):
    with pytest.raises(ValueError, match="must be probabilities: .* a sum of 2"):
        fit(classifier, validation_data=held_out((X, MULTI_HOT)))


class Batches(keras.utils.PyDataset):
    """Two batches, the second with other labels."""

    def __init__(self, first, second):
        super().__init__()
        self.labels = first, second

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X, self.labels[index]


BATCHES = {
    "truncated": (Y.astype("float32"), (Y * 0.7).astype("float32"), r"integers in \[0, 11\)\. Other labels"),
    "several classes": (ONE_HOT, MULTI_HOT, "must be probabilities: none below 0"),
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_each_batch_of_a_dataset_is_checked(method, kind):
    """In the compiled steps of TensorFlow and JAX as well."""
    first, second, message = BATCHES[kind]
    classifier = compiled(make_classifier(), keras.optimizers.SGD(0.0), run_eagerly=False)
    before = values(classifier.weights)
    with pytest.raises(Exception, match=message):
        getattr(classifier, method)(Batches(first, second), verbose=0)
    assert_same(values(classifier.weights), before)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only there XLA drops what a step checks")
def test_each_batch_of_a_dataset_is_checked_before_xla():
    first, second, message = BATCHES["truncated"]
    classifier = compiled(make_classifier(), keras.optimizers.SGD(0.0), run_eagerly=False, jit_compile=True)
    before = values(classifier.weights)
    for method in (classifier.fit, classifier.evaluate):
        with pytest.raises(Exception, match=message):
            method(Batches(first, second), verbose=0)
    assert_same(values(classifier.weights), before)


def test_cross_entropy_of_no_label_of_its_own_is_nan():
    rows = np.concatenate([ONE_HOT[:1], MULTI_HOT[:1], ONE_HOT[:1] * 0.7, 2 * ONE_HOT[:1] - 1 / CLASSES])
    loss = keras_mae.loss.CrossEntropy(reduction=None)
    logits = np.zeros((4, CLASSES), "float32")
    np.testing.assert_allclose(ops.convert_to_numpy(loss(rows, logits)), [np.log(CLASSES), *[np.nan] * 3], rtol=1e-6)
    indices = np.array([3, 3.5, -1, CLASSES], "float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(loss(indices, logits)), [np.log(CLASSES), *[np.nan] * 3], rtol=1e-6
    )


def test_one_class_has_nothing_to_tell_apart():
    classifier = compiled(keras_mae.ViTClassifier(make_encoder(), 1))
    with pytest.raises(ValueError, match=r"keras.losses.BinaryCrossentropy\(from_logits=True\).* num_classes=1"):
        fit(classifier, X, np.zeros(BATCH))


# === Labels that it takes ===
def smoothed(labels, dtype):
    return (0.9 * labels + 0.1 / CLASSES).astype(dtype)


TAKEN = {
    "whole floats": Y.astype("float64"),
    "column of floats": Y[:, None].astype("float32"),
    "booleans": ONE_HOT.astype(bool),
    "smoothed": smoothed(ONE_HOT, "float32"),
    "smoothed, half": smoothed(ONE_HOT, "float16"),
    "three decimals": smoothed(ONE_HOT, "float64").round(3),
    "nobody's": Y[:0],
}


@pytest.mark.parametrize("kind", TAKEN)
def test_indices_and_probabilities_of_every_kind_are_taken(kind):
    check_labels(TAKEN[kind], CLASSES)
    check_labels(ops.convert_to_tensor(TAKEN[kind]), CLASSES)


def test_two_classes_of_either_form_train_alike():
    """(batch, 1) is a column of indices, (batch, 2) are probabilities."""
    labels = Y % 2
    ends = []
    for given in (labels, labels[:, None], labels.astype(bool), np.eye(2)[labels]):
        classifier = compiled(
            randomise_head(keras_mae.ViTClassifier(make_encoder(), 2)), run_eagerly=BACKEND != "jax"
        )
        fit(classifier, X, given)
        ends.append(values(classifier.weights))
    for end in ends[1:]:
        assert largest(end, ends[0]) < 1e-6


def test_predict_reads_no_labels(classifier):
    """Test sets come with labels such as -1."""
    predicted = classifier.predict(Batches(-np.ones(BATCH, int), Y * 0.7), verbose=0)
    assert predicted.shape == (2 * BATCH, CLASSES)


# === Losses of one's own ===
def sigmoid_loss(labels, logits):
    logits = logits.astype("float64")
    return np.mean(np.logaddexp(0, logits) - labels * logits)


@pytest.mark.parametrize("shape", [pytest.param((BATCH,), marks=pytest.mark.backends("torch")), (BATCH, 1)])
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_one_output_trains_with_binary_cross_entropy(dtype, shape):
    classifier = randomise_head(keras_mae.ViTClassifier(make_encoder(), 1))
    compiled(classifier, loss=keras.losses.BinaryCrossentropy(from_logits=True), metrics=["accuracy"])
    logits = classifier.predict(X, verbose=0)
    labels = (Y % 2).astype(dtype)
    logs = fit(classifier, X, labels.reshape(shape))
    assert logs["loss"][0] == pytest.approx(sigmoid_loss(labels[:, None], logits), rel=1e-5)
    assert logs["accuracy"][0] == pytest.approx(np.mean((logits[:, 0] > 0) == labels))
    assert logs["skipped_steps"] == [0]


def ignoring(labels, logits):
    kept = labels >= 0
    exponents = np.exp(logits.astype("float64") - logits.max(-1, keepdims=True))
    chosen = (exponents / exponents.sum(-1, keepdims=True))[np.arange(BATCH)[kept], labels[kept]]
    return -np.log(chosen).sum() / kept.sum()


OWN = {
    "several classes": (
        keras.losses.BinaryCrossentropy(from_logits=True),
        MULTI_HOT,
        lambda logits: sigmoid_loss(MULTI_HOT, logits),
    ),
    "numbers": (keras.losses.MeanSquaredError(), ONE_HOT - 7, lambda logits: np.mean((logits - ONE_HOT + 7) ** 2)),
    "ignored": (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
        np.where(Y[0] == Y, -1, Y),
        lambda logits: ignoring(np.where(Y[0] == Y, -1, Y), logits),
    ),
}


@pytest.mark.parametrize("kind", OWN)
def test_a_loss_of_ones_own_decides_itself_which_labels_it_takes(kind):
    loss, labels, expected = OWN[kind]
    classifier = compiled(make_classifier(), loss=loss, run_eagerly=False)
    logits = classifier.predict(X, verbose=0)
    before = values(classifier.weights)
    logs = fit(classifier, X, labels)
    assert logs.keys() == {"loss", "skipped_steps"}  # and no accuracy
    assert logs["skipped_steps"] == [0]
    assert logs["loss"][0] == pytest.approx(expected(logits), rel=1e-4)
    assert largest(values(classifier.weights), before) > 1e-4
    assert set(classifier.evaluate(X, labels, batch_size=BATCH, verbose=0, return_dict=True)) == {"loss"}


# === Losses and metrics that take probabilities ===
def name_of(given):
    """Return a name that is the same in every process."""
    return given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)


LOSSES = {
    "sparse_categorical_crossentropy": r"give keras.losses.SparseCategoricalCrossentropy\(from_logits=True\)",
    "categorical_crossentropy": r"give keras.losses.CategoricalCrossentropy\(from_logits=True\)",
    "BinaryCrossentropy": r"give keras.losses.BinaryCrossentropy\(from_logits=True\)",
    "crossentropy": "leave it out, which is cross-entropy",
    "kl_divergence": "leave it out, which is cross-entropy",
    keras.losses.CategoricalFocalCrossentropy(): r"keras.losses.CategoricalFocalCrossentropy\(from_logits=True\)",
    keras.losses.binary_crossentropy: r"keras.losses.BinaryCrossentropy\(from_logits=True\)",
    keras.losses.Dice(): "leave it out",
}


@pytest.mark.backends("torch")
@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_a_loss_of_probabilities_is_refused(loss):
    for given in (loss, [loss], {"output": loss}):
        with pytest.raises(ValueError, match=f"gives logits, and this loss takes probabilities: .*{LOSSES[loss]}"):
            make_classifier().compile("sgd", given)


@pytest.mark.parametrize("loss", ["mse", "hinge", lambda labels, logits: ops.mean(logits)])
def test_other_losses_are_taken(loss):
    check_loss(loss)


@pytest.mark.backends("torch")
def test_one_output_has_one_loss():
    with pytest.raises(ValueError, match="one output, and one loss. Received: 2 losses"):
        make_classifier().compile("sgd", ["mse", "mae"])


METRICS = {
    "AUC": r"keras.metrics.AUC\(from_logits=True\)",
    "sparse_categorical_crossentropy": r"keras.metrics.SparseCategoricalCrossentropy\(from_logits=True\)",
    "binary_accuracy": r"keras.metrics.BinaryAccuracy\(threshold=0.0\)",
    keras.metrics.binary_accuracy: r"keras.metrics.BinaryAccuracy\(threshold=0.0\)",
    keras.metrics.Precision: r"keras.metrics.Precision\(thresholds=0.0\)",
    keras.metrics.BinaryIoU: r"keras.metrics.BinaryIoU\(threshold=0.0\)",
    keras.metrics.F1Score(threshold=0.5): None,
    keras.metrics.SensitivityAtSpecificity(0.5): None,
    keras.metrics.RecallAtPrecision(0.5): None,
    "kl_divergence": None,
}


@pytest.mark.backends("torch")
@pytest.mark.parametrize("metric", METRICS, ids=name_of)
@pytest.mark.parametrize("argument", ["metrics", "weighted_metrics"])
def test_a_metric_of_probabilities_is_refused(argument, metric):
    given = metric() if isinstance(metric, type) else metric
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    advice = f"give {METRICS[metric]}" if METRICS[metric] else "apply it to the sigmoid .* `predict`"
    with pytest.raises(ValueError, match=f"gives logits, and this metric takes probabilities: {advice}"):
        make_classifier().compile("sgd", loss, **{argument: [given]})


def test_metrics_of_logits_and_those_of_other_outputs_are_taken():
    logits = keras.losses.BinaryCrossentropy(from_logits=True)
    check_metrics([keras.metrics.Precision(thresholds=0.0), keras.metrics.Precision(top_k=2), "mse", "acc"], logits)
    check_metrics([keras.metrics.F1Score(), keras.metrics.BinaryIoU(threshold=0.0)], logits)
    check_metrics(["AUC", "binary_accuracy"], "mse")  # whose outputs may be anything


def test_the_name_accuracy_is_that_of_logits_and_of_any_labels():
    """Keras would choose by the first labels, and compare the outputs for several classes as if one were right."""
    classifier = compiled(make_classifier(), metrics=["accuracy"])
    logits = classifier.predict(X, verbose=0)
    expected = np.mean(logits.argmax(-1) == Y)
    for labels in (smoothed(ONE_HOT, "float32"), Y, Y[:, None]):
        scored = classifier.evaluate(X, labels, verbose=0, return_dict=True)["accuracy"]
        assert scored == pytest.approx(expected)
    function = functools.partial(keras.losses.binary_crossentropy, from_logits=True)
    for loss in (keras.losses.BinaryCrossentropy(from_logits=True), function):
        compiled(classifier, loss=loss, metrics=["acc"])
        scored = classifier.evaluate(X, MULTI_HOT, verbose=0, return_dict=True)["acc"]
        assert scored == pytest.approx(np.mean((logits > 0) == MULTI_HOT))


def test_a_classifier_that_was_saved_with_a_loss_of_probabilities_is_loaded_with_cross_entropy(tmp_path, monkeypatch):
    classifier = make_classifier()
    with monkeypatch.context() as earlier:
        earlier.setattr("keras_mae.classifier.check_loss", lambda loss: None)
        compiled(classifier, loss="sparse_categorical_crossentropy")
    classifier.save(tmp_path / "classifier.keras")
    with pytest.warns(UserWarning, match="Cross-entropy and accuracy take the place .* A classifier gives logits"):
        loaded = keras.saving.load_model(tmp_path / "classifier.keras")
    assert isinstance(loaded.loss, keras_mae.loss.CrossEntropy)
    assert type(loaded.optimizer) is type(classifier.optimizer)
    assert_same(values(loaded.weights), values(classifier.weights))
