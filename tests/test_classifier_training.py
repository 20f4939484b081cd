"""Training a classifier: the step, labels of every form, precision, and going on after a save."""

import keras
import numpy as np
import pytest
from classifier_helpers import (
    BACKEND,
    BATCH,
    CLASSES,
    IMAGE_SHAPE,
    IMAGES,
    LABELS,
    assert_same,
    compiled,
    fit,
    largest,
    make_classifier,
    make_encoder,
    values,
)
from keras import ops
from training_helpers import quick_compile

import keras_mae


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def to_numpy(x):
    return ops.convert_to_numpy(x)


def one_hot(labels):
    return np.eye(CLASSES, dtype="float32")[labels]


# === The step ===
class Stock(keras_mae.ViTClassifier):
    """The same model on Keras' own training step: the oracle wherever nothing is skipped."""

    train_step = keras.Model.train_step


KINDS = {
    "fine-tuning": {"drop_path_rate": 0.4},
    "sample weights": {},
    "last block": {"trainable_blocks": 1},
    "probe": {"pooling": "token", "trainable_blocks": 0, "batch_norm": True},
}
WEIGHTS = np.tile(np.array([0.2, 3, 0.5, 1, 2], "float32"), 4)


@pytest.mark.parametrize("kind", KINDS)
def test_four_steps_end_at_the_weights_and_logs_of_keras_own_step(kind):
    ends, logs = [], []
    for cls in (keras_mae.ViTClassifier, Stock):
        classifier = make_classifier(cls=cls, **KINDS[kind])
        # TensorFlow's tape, and so Keras' own step, overlooks what was frozen when it was made.
        classifier.encoder.position_embedding.trainable = False
        compiled(classifier)
        start = values(classifier.weights)
        logs.append(fit(classifier, steps=4, sample_weight=WEIGHTS if kind == "sample weights" else None))
        ends.append(values(classifier.weights))
    assert largest(ends[0], start) > 1e-2
    assert largest(ends[0], ends[1]) < 5e-6
    assert logs[0].pop("skipped_steps") == [0]
    logs[1].pop("skipped_steps", None)  # Keras' own step reports every metric it finds
    assert logs[0].keys() == logs[1].keys() == {"loss", "accuracy"}
    for name in logs[1]:
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-5, equal_nan=False)


@pytest.fixture(scope="module")
def one_step():
    """Logs and weights after one step on integer labels."""
    classifier = compiled(make_classifier())
    return fit(classifier), values(classifier.weights)


def test_the_logged_loss_and_accuracy_are_those_of_the_logits(one_step):
    logits = to_numpy(make_classifier().predict_on_batch(IMAGES[:BATCH])).astype("float64")
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    chosen = (exponents / exponents.sum(-1, keepdims=True))[np.arange(BATCH), LABELS[:BATCH]]
    np.testing.assert_allclose(one_step[0]["loss"], [-np.log(chosen).mean()], rtol=1e-5, equal_nan=False)
    assert one_step[0]["accuracy"] == pytest.approx([np.mean(logits.argmax(-1) == LABELS[:BATCH])])


def test_a_step_that_is_not_finite_changes_no_weight_and_is_counted():
    classifier = compiled(make_classifier())
    good = IMAGES[:BATCH].astype("float32")
    first = classifier.train_on_batch(good, LABELS[:BATCH], return_dict=True)
    before = values([*classifier.weights, *classifier.optimizer.variables])
    bad = good.copy()
    bad[2, 5, 7, 0] = np.nan
    logs = classifier.train_on_batch(bad, LABELS[:BATCH], return_dict=True)
    assert_same(values([*classifier.weights, *classifier.optimizer.variables]), before)
    assert (float(first["skipped_steps"]), float(logs["skipped_steps"])) == (0, 1)
    # It counts in no other metric, and nothing else was counted in this call.
    assert np.isnan([float(logs["loss"]), float(logs["accuracy"])]).all()


def test_a_step_that_is_not_finite_leaves_a_probes_statistics_alone():
    classifier = compiled(make_classifier(pooling="token", trainable_blocks=0, batch_norm=True))
    bad = IMAGES[:BATCH].astype("float32")
    bad[2, 5, 7, 0] = np.nan
    before = values(classifier.weights)
    logs = classifier.train_on_batch(bad, LABELS[:BATCH], return_dict=True)
    assert float(logs["skipped_steps"]) == 1
    assert_same(values(classifier.weights), before)


class Batches(keras.utils.PyDataset):
    """Each image says which batch of which epoch it is of."""

    def __init__(self):
        super().__init__()
        self.epoch = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.full((BATCH, *IMAGE_SHAPE), 10 * self.epoch + index, "uint8"), LABELS[:BATCH]

    def on_epoch_end(self):
        self.epoch += 1


class Seeing(keras_mae.ViTClassifier):
    def outputs_for_loss(self, x, training):
        self.seen.append(int(to_numpy(x).max()))
        return super().outputs_for_loss(x, training)


@pytest.mark.skipif(BACKEND == "jax", reason="a compiled step cannot say what it sees")
def test_every_epoch_sees_the_batches_from_the_first_on():
    """Keras builds metrics with the first batch of `fit`, after which a `PyDataset` stays a batch ahead."""
    classifier = compiled(make_classifier(cls=Seeing))
    classifier.seen = []
    classifier.fit(Batches(), epochs=2, shuffle=False, verbose=0)
    assert [seen % 10 for seen in classifier.seen] == [0, 1, 2, 0, 1, 2]
    assert [len({seen // 10 for seen in epoch}) for epoch in (classifier.seen[:3], classifier.seen[3:])] == [1, 1]


# === Labels ===
LABEL_FORMS = {
    "column": lambda labels: labels[:, None],
    "int32": lambda labels: labels.astype("int32"),
    "uint8": lambda labels: labels.astype("uint8"),
    "probabilities": one_hot,
}


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_every_form_of_labels_trains_as_integers_do(form, one_step):
    classifier = compiled(make_classifier())
    logs = fit(classifier, IMAGES[:BATCH], LABEL_FORMS[form](LABELS[:BATCH]))
    assert largest(values(classifier.weights), one_step[1]) < 1e-6
    assert logs["accuracy"] == one_step[0]["accuracy"]


def test_mixed_labels_and_integers_have_one_loss_and_one_metric():
    """MixUp trains on probabilities and is validated on integers; the most probable label counts as the right one."""
    logits = np.random.default_rng(0).standard_normal((BATCH, CLASSES)).astype("float32")
    mixed = 0.7 * one_hot(LABELS[:BATCH]) + 0.3 * one_hot(LABELS[BATCH : 2 * BATCH])
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = to_numpy(keras_mae.loss.CrossEntropy()(mixed, logits))
    np.testing.assert_allclose(loss, -(mixed * log_softmax).sum(-1).mean(), rtol=1e-6)
    logits[:2] += 9 * one_hot(LABELS[:2])
    expected = np.mean(logits.argmax(-1) == LABELS[:BATCH])
    assert 0 < expected < 1
    for labels in (mixed, LABELS[:BATCH], LABELS[:BATCH, None]):
        metric = keras_mae.loss.Accuracy()
        metric.update_state(labels, logits)
        assert float(metric.result()) == pytest.approx(expected)


def test_class_weights_act_as_sample_weights():
    by_class = {label: 0.25 + 0.5 * label for label in range(CLASSES)}
    weighted = [compiled(make_classifier()) for _ in range(2)]
    fit(weighted[0], class_weight=by_class)
    fit(weighted[1], sample_weight=np.array([by_class[label] for label in LABELS[:BATCH]], "float32"))
    assert_same(values(weighted[0].weights), values(weighted[1].weights))


def test_sample_weights_act(one_step):
    classifier = compiled(make_classifier())
    logs = fit(classifier, sample_weight=WEIGHTS[:BATCH])
    assert abs(logs["loss"][0] - one_step[0]["loss"][0]) > 1e-3


def test_other_losses_and_metrics_get_logits(one_step):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier = compiled(make_classifier(), loss=loss, metrics=["sparse_categorical_accuracy"])
    logs = fit(classifier)
    assert largest(values(classifier.weights), one_step[1]) < 1e-6
    assert logs["sparse_categorical_accuracy"] == one_step[0]["accuracy"]


def test_predictions_need_no_labels_and_no_compiling():
    """The training step's check of the labels is not predict's."""
    classifier = make_classifier()
    predicted = classifier.predict(IMAGES, batch_size=BATCH, verbose=0)
    assert predicted.shape == (20, CLASSES)
    np.testing.assert_allclose(predicted[:BATCH], to_numpy(classifier(IMAGES[:BATCH])), atol=1e-5)


def test_evaluation_counts_no_steps_and_changes_nothing():
    classifier = compiled(make_classifier(drop_path_rate=0.5, batch_norm=True))
    before = values([*classifier.weights, *classifier.optimizer.variables])
    logs = classifier.evaluate(IMAGES, LABELS, batch_size=BATCH, verbose=0, return_dict=True)
    assert logs.keys() == {"loss", "accuracy"}
    predicted = classifier.predict(IMAGES, batch_size=BATCH, verbose=0)
    assert logs["accuracy"] == pytest.approx(np.mean(predicted.argmax(-1) == LABELS))
    assert_same(values([*classifier.weights, *classifier.optimizer.variables]), before)


# === Precision ===
@pytest.mark.parametrize("where", ["encoder", "everywhere"])
def test_mixed_precision_gives_float32_logits(where):
    """The encoder alone, and with the whole of Keras set to it, as a script does."""
    policy = keras.config.dtype_policy()
    try:
        if where == "everywhere":
            keras.config.set_dtype_policy("mixed_bfloat16")
        classifier = make_classifier(make_encoder(dtype="mixed_bfloat16"), batch_norm=True)
        logits = classifier(IMAGES[:BATCH])
        tokens = classifier.encoder(IMAGES[:BATCH])
    finally:
        keras.config.set_dtype_policy(policy)
    assert [keras.backend.standardize_dtype(x.dtype) for x in (tokens, logits)] == ["bfloat16", "float32"]
    assert {layer.compute_dtype for layer in classifier.head.layers} == {"float32"}
    exact = to_numpy(make_classifier(batch_norm=True)(IMAGES[:BATCH]))
    np.testing.assert_allclose(to_numpy(logits), exact, atol=0.05 * np.abs(exact).max())


# === Saved ===
def probe():
    classifier = make_classifier(pooling="token", trainable_blocks=0, batch_norm=True)
    return compiled(classifier, keras_mae.optimizers.probing_lars(3.0, BATCH, total_steps=6, warmup_steps=3))


def fine_tuning():
    classifier = make_classifier(drop_path_rate=0.4)
    options = {"total_steps": 6, "warmup_steps": 3, "layer_decay": 0.5}
    return compiled(classifier, keras_mae.optimizers.fine_tuning_adamw(classifier, 2.0, BATCH, **options))


def train_on(classifier, steps):
    for step in steps:
        rows = slice(step * BATCH, (step + 1) * BATCH)
        classifier.train_on_batch(IMAGES[rows], LABELS[rows])
    return classifier


@pytest.mark.parametrize("make", [fine_tuning, probe])
def test_training_continues_after_a_save_as_if_there_had_been_none(make, tmp_path):
    """Two steps, save, load, two steps: the bits of four, in weights, slots, statistics and the drop-path draws."""
    classifier = train_on(make(), range(2))
    classifier.save(tmp_path / "classifier.keras")
    halfway = values(classifier.weights)
    loaded = keras.saving.load_model(tmp_path / "classifier.keras")
    assert type(loaded.optimizer) is type(classifier.optimizer)
    ends = [
        values([*model.weights, *model.optimizer.variables])
        for model in (train_on(classifier, range(2, 4)), train_on(loaded, range(2, 4)))
    ]
    assert_same(ends[1], ends[0])
    assert int(loaded.encoder.step.value) == int(classifier.encoder.step.value)
    assert largest(values(classifier.weights), halfway) > 1e-3


@pytest.fixture(scope="module")
def saved(referee):
    """A classifier as PyTorch saved it, and what PyTorch computed with it."""
    name = "classifier"
    if referee.live:
        if referee.directory is None:
            pytest.skip("KERAS_MAE_REFEREE is not set: nowhere to save for the other backends")
        classifier = make_classifier(pooling="token", trainable_blocks=1.5, batch_norm=True, image_shape=(12, 20, 1))
        optimizer = keras_mae.optimizers.fine_tuning_adamw(classifier, 0.2, BATCH, layer_decay=0.5)
        compiled(classifier, optimizer).train_on_batch(large_images(), LABELS[:BATCH])
        logits = to_numpy(classifier.predict_on_batch(large_images()))
        referee.write(f"{name}.npz", logits=logits, slot=to_numpy(optimizer.variables[-1]))
        classifier.save(referee.directory / f"{name}.keras")
    return keras.saving.load_model(referee.path(f"{name}.keras")), referee.read(f"{name}.npz")


def large_images():
    return np.random.default_rng(7).integers(0, 256, (BATCH, 12, 20, 1), "uint8")


def test_a_classifier_saved_on_another_backend_computes_the_same(saved):
    classifier, left = saved
    assert classifier.encoder.image_shape == (12, 20, 1)
    np.testing.assert_allclose(classifier.predict_on_batch(large_images()), left["logits"], atol=1e-5)


def test_a_classifier_saved_on_another_backend_goes_on_training(saved):
    classifier, left = saved
    trained = {id(weight) for weight in classifier.trainable_variables}
    assert len(trained) == 6 + 12 + 2 + 2  # half a block, a block, the final norm, the head
    assert len(classifier.optimizer.learning_rate_scales) == len(trained)
    assert int(classifier.optimizer.iterations) == 1
    np.testing.assert_array_equal(to_numpy(classifier.optimizer.variables[-1]), left["slot"])
