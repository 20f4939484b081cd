"""What memory a training step takes, said before it is run."""

import keras
import numpy as np
import pytest
from training_helpers import BACKEND, build

import keras_mae
from keras_mae.training import memory

says = pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow does not say what it will allocate")


def compiled(**changes):
    keras.utils.set_random_seed(0)
    encoder = keras_mae.ViTEncoder(
        (32, 32, 3), 4, embed_dim=48, depth=4, num_heads=3, remat=changes.pop("remat", False)
    )
    model = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(32, 2, 2), **changes)
    model.compile(keras_mae.optimizers.AdamW())
    return model


def allocated_at_most(model, batch):
    """Bytes that PyTorch's profiler sees allocated in a step, beyond those before it."""
    import torch

    images = torch.zeros((batch, *model.encoder.image_shape), dtype=torch.uint8)
    model.train_step((images,))
    model.zero_grad()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        model.train_step((images,))
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


@pytest.mark.backends("torch")
@pytest.mark.skipif(BACKEND != "torch", reason="the profiler is PyTorch's")
@pytest.mark.parametrize("remat", [False, True])
def test_it_is_what_a_step_allocates(remat):
    model = compiled(remat=remat, norm_pix_loss=True)
    found = memory(model, 16)
    added = found.peak - found.weights - found.optimizer  # and a few bytes of counters
    np.testing.assert_allclose(added, allocated_at_most(model, 16), rtol=0.1)


@says
def test_weights_gradients_and_slots_are_counted():
    model = compiled()
    found = memory(model, 2)
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert (found.weights, found.gradients) == (4 * model.count_params(), 4 * trained)
    assert found.optimizer == pytest.approx(8 * trained, abs=100)  # two moments, and the count of steps
    assert found.peak > found.weights + found.optimizer


@pytest.mark.backends("torch")
@pytest.mark.skipif(BACKEND != "torch", reason="on a CPU, XLA computes most in float32")
def test_half_precision_takes_what_it_does_on_a_gpu():
    """On a CPU attention would be trained in float32: queries, keys and values once more."""
    whole = memory(compiled(), 32)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = memory(compiled(), 32)
    finally:
        keras.config.set_dtype_policy("float32")
    assert half.weights == whole.weights
    assert half.activations < 0.7 * whole.activations


@says
def test_it_grows_with_the_batch():
    few, many = (memory(compiled(), batch).activations for batch in (8, 32))
    assert 3 < many / few < 5


@pytest.mark.backends("torch")
@pytest.mark.skipif(BACKEND != "torch", reason="on a CPU, XLA keeps what it could compute again")
def test_it_shrinks_with_remat():
    kept, again = (memory(compiled(remat=remat), 32).activations for remat in (False, True))
    assert again < 0.8 * kept


@pytest.mark.backends("torch")
def test_asking_changes_nothing():
    model = build()
    model.compile(keras_mae.optimizers.AdamW())
    kept = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [keras.ops.convert_to_numpy(variable) for variable in kept]
    memory(model, 3)
    for variable, value in zip(kept, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    assert int(model.encoder.step.value) == 0
    assert np.isfinite(model.train_on_batch(np.zeros((2, *model.encoder.image_shape), "uint8"))).all()


@pytest.mark.backends("torch")
@pytest.mark.skipif(BACKEND != "torch", reason="the others need no values")
def test_a_step_that_asks_for_values_is_refused():
    model = build()
    model.compile(keras_mae.optimizers.AdamW(use_ema=True))
    averaged = memory(model, 3)
    model.compile(keras_mae.optimizers.AdamW())
    assert averaged.optimizer > 1.4 * memory(model, 3).optimizer
    for optimizer in (keras_mae.optimizers.AdamW(gradient_accumulation_steps=2), keras.optimizers.SGD()):
        model.compile(optimizer)
        with pytest.raises(ValueError, match=f"Received: {type(optimizer).__name__} with gradient_acc"):
            memory(model, 3)


@pytest.mark.backends("torch")
def test_classifiers_are_asked_with_labels():
    classifier = keras_mae.ViTClassifier(build().encoder, 5)
    classifier.compile(keras_mae.optimizers.AdamW(), keras_mae.loss.CrossEntropy())
    assert memory(classifier, 8).activations > memory(classifier, 4).activations


@pytest.mark.backends("tensorflow")
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others say it")
def test_tensorflow_is_refused():
    model = build()
    model.compile(keras_mae.optimizers.AdamW())
    with pytest.raises(ValueError, match="ask on PyTorch or JAX. Received: KERAS_BACKEND=tensorflow"):
        memory(model, 2)


@pytest.mark.backends("torch")
def test_a_model_that_is_not_compiled_is_refused():
    with pytest.raises(ValueError, match="`model` must be compiled with an optimizer"):
        memory(build(), 2)


@pytest.mark.skipif(BACKEND != "jax", reason="the other backends' compilers leave little")
def test_what_a_long_compilation_leaves_goes_back_to_the_system(monkeypatch):
    import jax

    from keras_mae.train_step import jax as step

    seen, given = [], []
    monkeypatch.setattr(step, "_trim", given.append)
    jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **_: seen.append(event))
    jax.jit(lambda x: x * 3.5 + 1.25)(1.0)
    event = next(event for event in seen if event.endswith("/backend_compile_duration"))
    assert given == []
    jax.monitoring.record_event_duration_secs(event, 2.0)
    assert given == [0]
