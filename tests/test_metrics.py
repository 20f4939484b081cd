"""What counts in a metric, and which way each is better."""

import keras
import numpy as np
import pytest
from classifier_helpers import BACKEND, BATCH, CLASSES, IMAGES, LABELS, compiled, make_classifier
from training_helpers import compiled as compiled_autoencoder
from training_helpers import make_images, quick_compile

import keras_mae
from keras_mae.train_step import TrainStep

ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]
WEIGHTS = np.tile(np.array([0.2, 3, 0.5, 1, 2], "float32"), 4)


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def broken(images, batches, size=BATCH):
    """The images as floats, with a pixel that is not a number in each of `batches`."""
    images = images.astype("float32")
    for batch in batches:
        images[batch * size + 1, 5, 7, 0] = np.nan
    return images


def own_metrics():
    """One that is a mean, one that is not, and one that is weighted."""
    return {
        "metrics": [keras_mae.loss.Accuracy(), keras.metrics.AUC(from_logits=True, num_thresholds=20, name="auc")],
        "weighted_metrics": [keras.metrics.CategoricalCrossentropy(from_logits=True, name="weighted")],
    }


NAMES = {"loss", "accuracy", "auc", "weighted"}
# On the other backends compiled and eager code take the two ways there are.
MODES = [True, False] if BACKEND == "tensorflow" else [False]


# === Skipped batches ===
@pytest.fixture(scope="module", params=MODES, ids=lambda eager: "eager" if eager else "compiled")
def frozen(request):
    """A classifier whose steps change nothing, so that every batch is scored by the same weights."""
    return compiled(make_classifier(), keras.optimizers.SGD(0.0), run_eagerly=request.param, **own_metrics())


def fit(classifier, images):
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "sample_weight": WEIGHTS}
    return classifier.fit(images, ONE_HOT, **options).history


def test_without_a_step_that_was_taken_nothing_has_a_value(frozen):
    logs = fit(frozen, broken(IMAGES, range(4)))
    assert logs.pop("skipped_steps") == [4]
    assert logs.keys() == NAMES
    assert np.isnan(list(logs.values())).all()


@pytest.mark.parametrize("skipped", [[0, 3], [1, 2]], ids=["outer", "inner"])
def test_skipped_batches_count_in_no_metric(skipped, frozen):
    logs = fit(frozen, broken(IMAGES, skipped))
    assert logs.pop("skipped_steps") == [2]
    kept = np.repeat([batch not in skipped for batch in range(4)], BATCH)
    options = {"batch_size": BATCH, "verbose": 0, "return_dict": True, "sample_weight": WEIGHTS[kept]}
    expected = frozen.evaluate(IMAGES[kept], ONE_HOT[kept], **options)
    assert logs.keys() == expected.keys() == NAMES
    for name, value in expected.items():
        assert logs[name] == [pytest.approx(value, rel=1e-4)], name


def test_the_next_epoch_counts_from_the_start(frozen):
    fit(frozen, broken(IMAGES, range(4)))
    logs = fit(frozen, IMAGES)
    assert logs["skipped_steps"] == [0]
    assert np.isfinite([logs[name][0] for name in NAMES]).all()


def test_an_autoencoder_none_of_whose_steps_was_taken_has_neither_loss_nor_psnr():
    model = compiled_autoencoder()
    logs = model.fit(broken(make_images(6), [0], 6), batch_size=6, verbose=0).history
    assert logs["skipped_steps"] == [1]
    assert np.isnan([logs["loss"][0], logs["psnr"][0]]).all()


class Count(keras.metrics.Metric):
    """Counts rows, as a whole number, or twice in a dict as Keras allows."""

    def __init__(self, several=False, **kwargs):
        super().__init__(**kwargs)
        self.several, self.rows = several, self.add_weight(initializer="zeros", dtype="int32", name="rows")

    def update_state(self, labels, outputs, sample_weight=None):
        self.rows.assign_add(len(outputs))

    def result(self):
        return {"once": self.rows.value, "twice": 2 * self.rows.value} if self.several else self.rows.value


def test_metrics_of_whole_numbers_and_of_several_values_are_taken():
    metrics = [Count(name="rows"), Count(several=True, name="both")]
    classifier = compiled(make_classifier(), keras.optimizers.SGD(0.0), metrics=metrics)
    data = broken(IMAGES, [1]), ONE_HOT
    logs = classifier.fit(*data, batch_size=BATCH, verbose=0, shuffle=False).history
    expected = len(IMAGES) - BATCH
    assert [logs[name] for name in ("rows", "once", "twice")] == [[expected], [expected], [2 * expected]]


class OwnMean(TrainStep):
    """Has a metric of its own, and leaves Keras' mean of the loss alone."""

    def __init__(self):
        super().__init__()
        self.classifier, self.own = make_classifier(), keras.metrics.Mean(name="own")
        self.build()

    def call(self, images, training=None):
        return self.classifier(images, training=training)

    @property
    def metrics(self):
        return [self.own]

    def update_metrics(self, data, outputs, loss, finite=None):
        self.own.update_state(loss)
        return self.get_metrics_result()


def test_a_model_may_count_in_metrics_of_its_own_alone():
    model = OwnMean()
    model.compile(keras.optimizers.SGD(0.0), keras_mae.loss.CrossEntropy())
    logs = model.fit(IMAGES, LABELS, batch_size=BATCH, verbose=0).history
    expected = model.classifier.predict(IMAGES, verbose=0)
    assert logs == {"own": [pytest.approx(float(keras_mae.loss.CrossEntropy()(LABELS, expected)), rel=1e-4)]}


# === Which way is better ===
class Asked(keras.callbacks.EarlyStopping):
    """Keeps what Keras made of `mode="auto"`."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.up = bool(self.monitor_op(1.0, 0.0))


def asked(model, names, *data):
    callbacks = [Asked(name) for name in names]
    model.fit(*data, validation_data=data if len(data) > 1 else (data[0], None), callbacks=callbacks, verbose=0)
    return [callback.up for callback in callbacks]


@pytest.mark.backends("torch")
def test_keras_callbacks_know_which_way_a_classifiers_metrics_are_better():
    data = IMAGES[:BATCH], LABELS[:BATCH]
    classifier = compiled(make_classifier())
    names = ["loss", "val_loss", "accuracy", "val_accuracy", "skipped_steps"]
    assert asked(classifier, names, *data) == [False, False, True, True, False]
    compiled(classifier, metrics=[keras_mae.loss.Accuracy(name="mine")], weighted_metrics=["acc"])
    assert asked(classifier, ["val_mine", "val_acc"], *data) == [True, True]


@pytest.mark.backends("torch")
def test_keras_callbacks_know_which_way_an_autoencoders_metrics_are_better():
    names = ["loss", "val_loss", "psnr", "val_psnr", "skipped_steps"]
    assert asked(compiled_autoencoder(), names, make_images(6)) == [False, False, True, True, False]


@pytest.mark.backends("torch")
@pytest.mark.parametrize("kind", ["ModelCheckpoint", "ReduceLROnPlateau"])
def test_the_other_callbacks_that_compare_know_too(kind, tmp_path):
    classifier = compiled(make_classifier(), keras.optimizers.SGD(0.0))
    if kind == "ModelCheckpoint":
        path = tmp_path / "best.weights.h5"
        callback = keras.callbacks.ModelCheckpoint(path, "val_accuracy", save_best_only=True, save_weights_only=True)
    else:
        callback = keras.callbacks.ReduceLROnPlateau("val_accuracy")
    data = IMAGES[:BATCH], LABELS[:BATCH]
    classifier.fit(*data, validation_data=data, callbacks=[callback], verbose=0)
    assert bool(callback.monitor_op(1.0, 0.0))
