"""`fit`, `evaluate` and `predict`: what they take, log and leave alone, and that training learns."""

import csv
import functools

import keras
import numpy as np
import pytest
from keras import ops
from training_helpers import (
    BATCH,
    PATCHES,
    assert_identical,
    build,
    compiled,
    make_images,
    quick_compile,
    sgd,
    slots,
    step_of,
    trainable,
)

import keras_mae
from keras_mae.random import hash_noise

IMAGES = make_images(2 * BATCH)
LABELS = np.arange(2 * BATCH) % 5
WEIGHTS = np.tile(np.array([0.2, 3, 0.5, 1, 0, 2], "float32"), 2)


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def noise_of(step, count=BATCH):
    """The training noise of a model with the helpers' seed."""
    return np.array(ops.convert_to_numpy(hash_noise(3, step, np.arange(count, dtype="int32"), PATCHES)))


def mask_from(noise):
    """1 = removed: all but the three patches of the smallest noise."""
    return (noise.argsort(axis=1).argsort(axis=1) >= 3).astype("float32")


def losses_of(model, images, noise):
    """Each image's loss under `noise`, float64, by NumPy from the predictions on."""
    rows = len(images)
    # Filled up to a full batch only so that no new shape needs compiling.
    full = {"images": np.resize(images, (BATCH, *images.shape[1:])), "noise": np.resize(noise, (BATCH, PATCHES))}
    outputs = model.outputs_for_loss(full, training=False)
    prediction, pixels = (
        np.array(ops.convert_to_numpy(outputs[key])) for key in ("removed_prediction", "removed_pixels")
    )
    return np.mean((prediction.astype("float64") - pixels) ** 2, axis=(1, 2))[:rows]


def fit_one_epoch(*args, **kwargs):
    model = compiled()
    model.fit(*args, shuffle=False, verbose=0, **kwargs)
    return model


# === What may be given ===
class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return IMAGES[rows], LABELS[rows]


def batches(*arrays):
    """Tuples, which is what Keras takes of a generator."""
    yield from zip(*(np.split(array, 2) for array in arrays), strict=True)


def tf_data(labelled):
    tf = pytest.importorskip("tensorflow", reason="tf.data needs TensorFlow")
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS) if labelled else IMAGES).batch(BATCH)


FORMS = {
    "float32": lambda: {"x": IMAGES.astype("float32"), "batch_size": BATCH},
    "images and labels": lambda: {"x": IMAGES, "y": LABELS, "batch_size": BATCH},
    "dict": lambda: {"x": {"images": IMAGES}, "batch_size": BATCH},
    "dict with other keys": lambda: {"x": {"images": IMAGES, "labels": LABELS}, "batch_size": BATCH},
    "generator": lambda: {"x": batches(IMAGES)},
    "generator of pairs": lambda: {"x": batches(IMAGES, LABELS)},
    "PyDataset": lambda: {"x": Pairs()},
    "tf.data": lambda: {"x": tf_data(labelled=False)},
    "tf.data of pairs": lambda: {"x": tf_data(labelled=True)},
}


@functools.cache
def fitted():
    """Weights after an epoch on the array of images."""
    return trainable(fit_one_epoch(IMAGES, batch_size=BATCH))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_trains_as_the_array_does(form):
    assert_identical(trainable(fit_one_epoch(**FORMS[form]())), fitted())


def test_sample_weights_of_a_dataset_act_as_the_argument():
    given = fit_one_epoch(IMAGES, LABELS, sample_weight=WEIGHTS, batch_size=BATCH)
    assert_identical(trainable(fit_one_epoch(batches(IMAGES, LABELS, WEIGHTS))), trainable(given))


def test_sample_weights_multiply_each_images_loss_in_fit():
    model = compiled(sgd(0.0))
    logs = model.fit(
        IMAGES[:BATCH],
        LABELS[:BATCH],
        sample_weight=WEIGHTS[:BATCH],
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
    ).history
    expected = np.mean(losses_of(model, IMAGES[:BATCH], noise_of(0)) * WEIGHTS[:BATCH])
    np.testing.assert_allclose(logs["loss"], [expected], rtol=1e-5, equal_nan=False)


def test_sample_weights_without_labels_are_not_lost():
    """Keras packs arrays as (x,) when there is no `y`, and forgets weights in silence."""
    given = fit_one_epoch(IMAGES, LABELS, sample_weight=WEIGHTS, batch_size=BATCH)
    try:
        without = fit_one_epoch(IMAGES, sample_weight=WEIGHTS, batch_size=BATCH)
    except ValueError as error:
        assert "sample_weight" in str(error)  # noqa: PT017 (refusing them is as good as using them)
    else:
        assert_identical(trainable(without), trainable(given))


@pytest.mark.parametrize("key", ["noise", "mask"])
def test_masks_may_be_given_through_fit(key):
    """As Keras runs it unasked, where a mask cannot be counted while the step is compiled."""
    noise = noise_of(100)
    x = {"images": IMAGES[:BATCH], key: noise if key == "noise" else mask_from(noise)}
    model = compiled(sgd(0.0), run_eagerly=False)
    logs = model.fit(x, batch_size=BATCH, shuffle=False, verbose=0).history
    expected, drawn = (losses_of(model, IMAGES[:BATCH], each).mean() for each in (noise, noise_of(0)))
    assert abs(expected - drawn) > 1e-3
    np.testing.assert_allclose(logs["loss"], [expected], rtol=1e-5, equal_nan=False)


# === What is refused ===
@pytest.mark.parametrize(
    "argument",
    [{"loss": "mse"}, {"metrics": ["mae"]}, {"loss_weights": [1.0]}, {"weighted_metrics": ["mae"]}],
    ids=lambda argument: next(iter(argument)),
)
def test_losses_and_metrics_are_refused(argument):
    name = next(iter(argument))
    with pytest.raises(ValueError, match=rf"its own loss and metrics .*Received: {name}$"):
        build().compile(optimizer="sgd", **argument)


# === What is logged ===
def test_logged_loss_is_the_mean_over_images_with_a_partial_last_batch():
    """Batches of six, six and one. A learning rate of 0, so that the model is the same throughout."""
    images = make_images(2 * BATCH + 1)
    model = compiled(sgd(0.0), run_eagerly=False)
    logged = model.fit(images, batch_size=BATCH, shuffle=False, verbose=0).history["loss"]
    parts = [images[:BATCH], images[BATCH : 2 * BATCH], images[2 * BATCH :]]
    each = [losses_of(model, part, noise_of(step, len(part))) for step, part in enumerate(parts)]
    by_batch = np.mean([part.mean() for part in each])
    assert abs(by_batch - np.concatenate(each).mean()) > 1e-3
    np.testing.assert_allclose(logged, [np.concatenate(each).mean()], rtol=1e-5, equal_nan=False)
    assert step_of(model) == 3


def test_psnr_is_that_of_the_removed_pixels_in_image_units():
    images = IMAGES[:BATCH].astype("float32")
    model = compiled()
    logged = model.evaluate(images, batch_size=BATCH, verbose=0, return_dict=True)
    seen = model.reconstruct(images)
    removed = seen.mask.reshape(-1, 3, 1, 5, 1).repeat(4, axis=2).repeat(4, axis=4).reshape(-1, 12, 20).astype(bool)
    errors = [np.mean((seen.predicted[i][removed[i]] - images[i][removed[i]]) ** 2) for i in range(BATCH)]
    expected = np.mean(10 * np.log10(255**2 / np.array(errors)))
    np.testing.assert_allclose(logged["psnr"], expected, rtol=1e-5, equal_nan=False)


def test_skipped_steps_stay_out_of_the_logs():
    """A good, a bad and a good batch log what the two good ones log, and one skipped step."""
    images = make_images(3 * BATCH).astype("float32")
    images[BATCH + 1, 2, 3] = np.nan
    logs = compiled(sgd(0.0)).fit(images, batch_size=BATCH, shuffle=False, verbose=0).history
    model = compiled(sgd(0.0))
    each = [losses_of(model, images[i * BATCH :][:BATCH], noise_of(i)).mean() for i in (0, 2)]
    np.testing.assert_allclose(logs["loss"], [np.mean(each)], rtol=1e-5, equal_nan=False)
    assert logs["skipped_steps"] == [1]
    assert np.isfinite(logs["psnr"]).all()


def test_validation_leaves_the_count_of_skipped_steps_alone():
    images = IMAGES[: 2 * BATCH].astype("float32")
    images[0, 0, 0, 0] = np.nan
    given = {"validation_data": IMAGES[:BATCH], "batch_size": BATCH, "shuffle": False, "verbose": 0}
    assert compiled().fit(images, **given).history["skipped_steps"] == [1]


def test_an_epoch_of_skipped_steps_logs_no_loss():
    """A loss of 0 would be every checkpoint's best."""
    bad = np.full_like(IMAGES[:BATCH], np.nan, dtype="float32")
    logs = compiled().fit(bad, batch_size=BATCH, verbose=0).history
    assert logs["skipped_steps"] == [1]
    assert np.isnan([*logs["loss"], *logs["psnr"]]).all()


def test_single_batches_log_under_the_same_names():
    model, images = compiled(), IMAGES[:BATCH]
    expected = losses_of(model, images, noise_of(0)).mean()
    logs = model.train_on_batch(images, return_dict=True)
    assert list(logs) == ["loss", "psnr", "skipped_steps"]
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5, equal_nan=False)
    tested = model.test_on_batch(images, return_dict=True)
    assert list(tested) == ["loss", "psnr"]
    np.testing.assert_allclose(tested["loss"], losses_of(model, images, noise_of(-1)).mean(), rtol=1e-5)


def test_callbacks_see_the_logs(tmp_path):
    """A learning rate that drives the loss up, so that the first epoch is the best and the second the last."""
    model = compiled(keras.optimizers.SGD(30.0))
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss", save_best_only=True),
        keras.callbacks.CSVLogger(tmp_path / "history.csv"),
        keras.callbacks.EarlyStopping(monitor="loss", patience=1),
    ]
    history = model.fit(
        IMAGES[:BATCH],
        validation_data=(IMAGES[BATCH:], None),
        batch_size=BATCH,
        epochs=5,
        callbacks=callbacks,
        verbose=0,
    ).history
    assert len(history["loss"]) == 2
    assert history["loss"][1] > history["loss"][0]
    assert step_of(keras.saving.load_model(tmp_path / "best.keras")) == 1
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "psnr", "skipped_steps", "val_loss", "val_psnr"]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], history["loss"], rtol=1e-6, equal_nan=False)


# === Evaluation leaves training alone ===
def test_evaluate_repeats_itself():
    model = compiled()
    first, second = (model.evaluate(IMAGES, batch_size=BATCH, verbose=0, return_dict=True) for _ in range(2))
    assert set(first) == {"loss", "psnr"}
    assert first == second  # which NaN would fail


def test_evaluate_and_predict_do_not_disturb_training():
    undisturbed, model = fit_one_epoch(IMAGES, batch_size=BATCH), compiled()
    for (batch,) in batches(IMAGES):
        model.train_on_batch(batch)
        step, before = step_of(model), slots(model)
        model.evaluate(IMAGES[:BATCH], batch_size=BATCH, verbose=0)
        model.predict(IMAGES[:BATCH], batch_size=BATCH, verbose=0)
        assert step_of(model) == step
        assert_identical(slots(model), before)
    assert_identical(trainable(model), trainable(undisturbed))


# === Learning ===
def test_one_step_changes_every_trainable_weight():
    """By the gradient: without decay Adam's first step is the learning rate, unless a gradient is so small
    that it is only rounding (the key's third of a qkv bias, whose true gradient is 0, but not the variable).
    """
    model = compiled(keras_mae.optimizers.AdamW(0.01, weight_decay=0.0))
    before = trainable(model)
    model.fit(IMAGES[:BATCH], batch_size=BATCH, verbose=0)
    after = trainable(model)
    assert {name.split("/")[0] for name in after} == {"encoder", "decoder"}
    assert len(after) == 36
    assert [name for name in after if not np.abs(after[name] - before[name]).max() > 0.005] == []


def test_thirty_steps_on_one_batch_more_than_halve_the_loss():
    """Every step under masks of its own."""
    model = compiled(keras_mae.optimizers.AdamW(0.01), run_eagerly=False)
    losses = [model.train_on_batch(IMAGES[:BATCH], return_dict=True)["loss"] for _ in range(30)]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
