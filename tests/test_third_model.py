"""A model of a new kind has the training step for nothing but its parts and its `call`."""

import keras
import numpy as np
import pytest
from training_helpers import (
    BACKEND,
    BATCH,
    IMAGE_SHAPE,
    PATCHES,
    arrays,
    assert_identical,
    distance,
    make_images,
    quick_compile,
    slots,
    trainable,
)

import keras_mae
from keras_mae.train_step import TrainStep

CLASSES = 5
IMAGES = make_images(2 * BATCH).astype("float32")
LABELS = np.random.default_rng(0).integers(0, CLASSES, (2 * BATCH, PATCHES))


@keras.saving.register_keras_serializable(package="tests")
class PatchLabels(TrainStep):
    """The class of every patch, behind a BatchNorm."""

    def __init__(self, encoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.norm = keras.layers.BatchNormalization(synchronized=BACKEND == "tensorflow", name="norm")
        self.head = keras.layers.Dense(CLASSES, name="head")
        for layer in (self.norm, self.head):
            layer.build((None, None, encoder.embed_dim))
        self.build()

    def call(self, images, training=None):
        return self.head(self.norm(self.encoder(images, training=training)[:, 1:], training=training))

    def get_config(self):
        return {**super().get_config(), "encoder": keras.saving.serialize_keras_object(self.encoder)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "encoder": keras.saving.deserialize_keras_object(config["encoder"])})


def build():
    keras.utils.set_random_seed(5)
    encoder = keras_mae.ViTEncoder(IMAGE_SHAPE, 4, embed_dim=16, depth=1, num_heads=2, mlp_ratio=2)
    model = PatchLabels(encoder)
    model.compile(
        keras_mae.optimizers.AdamW(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=BACKEND != "jax",
    )
    return model


def state(model):
    return {**arrays(model.weights), **slots(model)}


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def test_it_trains_and_logs_what_it_is_compiled_with():
    model = build()
    before = trainable(model)
    history = model.fit(IMAGES, LABELS, batch_size=BATCH, epochs=5, shuffle=False, verbose=0).history
    assert set(history) == {"loss", "accuracy", "skipped_steps"}
    assert history["loss"][-1] < history["loss"][0]
    assert history["skipped_steps"] == [0] * 5
    assert distance(trainable(model), before) > 1e-3
    assert int(keras.ops.convert_to_numpy(model.encoder.step.value)) == 10
    scores = model.evaluate(IMAGES, LABELS, batch_size=BATCH, verbose=0, return_dict=True)
    assert set(scores) == {"loss", "accuracy"}


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "loss scale"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(scaled):
    model = build()
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(keras_mae.optimizers.AdamW(0.01))
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(True), run_eagerly=BACKEND != "jax")
    model.train_on_batch(IMAGES[:BATCH], LABELS[:BATCH])
    before, bad = arrays(model.weights), IMAGES[:BATCH].copy()
    statistics = len(model.moving_statistics)
    bad[1, 2, 3, 0] = np.nan
    logs = model.train_on_batch(bad, LABELS[:BATCH], return_dict=True)
    assert statistics == 2
    assert float(logs["skipped_steps"]) == 1
    assert_identical(arrays(model.weights), before)


def test_training_continues_after_a_save(tmp_path):
    model = build()
    model.train_on_batch(IMAGES[:BATCH], LABELS[:BATCH])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_identical(state(loaded), state(model))
    for one in (model, loaded):
        one.train_on_batch(IMAGES[BATCH:], LABELS[BATCH:])
    assert_identical(state(loaded), state(model))


@pytest.mark.backends("torch")
def test_keras_own_batch_norm_is_refused_in_several_processes(monkeypatch):
    """Its statistics would be those of a part of the batch."""
    from keras_mae.train_step import torch as step

    model = build()
    monkeypatch.setattr(step, "batch_parts", lambda: 2)
    with pytest.raises(ValueError, match=r"take keras_mae.ops.BatchNormalization. Received: 'norm'"):
        model.make_train_function()
