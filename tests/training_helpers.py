"""The small model that the training tests train, and how they compare what came of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

import keras_mae

BACKEND = keras.backend.backend()
IMAGE_SHAPE, GRID, PATCHES, REMOVED, BATCH = (12, 20, 3), (3, 5), 15, 12, 6


class Stock(keras_mae.MaskedAutoencoder):
    """The same model on Keras' own training step: the oracle wherever nothing is skipped."""

    train_step = keras.Model.train_step


class Stop(keras.callbacks.Callback):
    """Does something at the end of a step, counted from 1."""

    def __init__(self, step, action):
        super().__init__()
        self.step, self.action = step, action

    def on_train_batch_end(self, batch, logs=None):
        self.step -= 1
        if self.step == 0:
            self.action()


def killed():
    raise MemoryError("killed")


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)


def build(cls: Any = keras_mae.MaskedAutoencoder, dtype: str = "float32", **changes: Any) -> Any:
    """A model of one block each side. Every call gives the same weights."""
    keras.utils.set_random_seed(5)
    encoder = keras_mae.ViTEncoder(IMAGE_SHAPE, 4, embed_dim=16, depth=1, num_heads=2, mlp_ratio=2, dtype=dtype)
    decoder = keras_mae.MAEDecoder(embed_dim=8, depth=1, num_heads=1, mlp_ratio=2, dtype=dtype)
    return cls(encoder, decoder, seed=3, dtype=dtype, **changes)


def compiled(optimizer: Any = None, cls: Any = keras_mae.MaskedAutoencoder, **changes: Any) -> Any:
    """The same, compiled; unless asked it runs as is quickest here: jitted on JAX and eager elsewhere."""
    how = {key: changes.pop(key) for key in ("run_eagerly", "jit_compile", "steps_per_execution") if key in changes}
    model = build(cls, **changes)
    model.compile(optimizer=sgd() if optimizer is None else optimizer, **{"run_eagerly": BACKEND != "jax", **how})
    return model


def sgd(learning_rate: float = 0.1, **kwargs: Any) -> keras.optimizers.Optimizer:
    """Momentum SGD: unlike Adam it sees the size of the gradients, so a wrong scale cannot hide."""
    return keras.optimizers.SGD(learning_rate, momentum=0.9, **kwargs)


def apply_gradients(optimizer: Any, gradients: Any, variables: Any) -> None:
    """`optimizer.apply`, as the backend's training step does it: JAX compiles a function of all state."""
    if BACKEND != "jax":
        optimizer.apply(gradients, variables)
        return
    import jax

    if not optimizer.built:
        optimizer.build(variables)
    state = [[variable.value for variable in kept] for kept in (optimizer.variables, variables)]
    new_values, new_state = jax.jit(optimizer.stateless_apply)(state[0], gradients, state[1])
    for variable, value in zip([*variables, *optimizer.variables], [*new_values, *new_state], strict=True):
        variable.assign(value)


def make_images(count: int = BATCH, seed: int = 7) -> np.ndarray:
    """uint8 images with something to learn: a slope of random direction and colour each."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1:1:12j, -1:1:20j]
    slope, base = generator.uniform(-60, 60, (2, count, 3)), generator.uniform(90, 160, (count, 3))
    images = [rows[..., None] * a + columns[..., None] * b + c for a, b, c in zip(*slope, base, strict=True)]
    return np.stack(images).round().astype("uint8")


def arrays(variables: Any) -> dict[str, np.ndarray]:
    """Copies of all values, by path without the number Keras gives a second object of one name."""
    found = {
        re.sub(r"^(\w+?)_\d+/", r"\1/", variable.path): np.array(keras.ops.convert_to_numpy(variable))
        for variable in variables
    }
    assert len(found) == len(variables)
    return found


def trainable(model: Any) -> dict[str, np.ndarray]:
    return arrays(model.trainable_variables)


def without_key_biases(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same but for the keys' biases: softmax ignores them, and Adam makes steps of their rounding errors."""
    return {
        path: np.delete(value, np.s_[len(value) // 3 : -len(value) // 3]) if path.endswith("qkv/bias") else value
        for path, value in values.items()
    }


def slots(model: Any, but: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Everything the optimizer keeps, except paths that end with one of `but`."""
    return {path: value for path, value in arrays(model.optimizer.variables).items() if not path.endswith(but or "!")}


def step_of(model: Any) -> int:
    return int(keras.ops.convert_to_numpy(model.encoder.step.value))


def assert_identical(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same names, and the same bits in each; NaN is never the same."""
    assert got.keys() == expected.keys()
    assert [name for name in got if not np.array_equal(got[name], expected[name])] == []


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference of any value; NaN if there is one anywhere."""
    assert one.keys() == other.keys()
    return float(np.max([np.max(np.abs(one[name].astype("float64") - other[name])) for name in one]))


@contextlib.contextmanager
def quick_compile() -> Iterator[None]:
    """JAX compiles without optimising, a quarter of the time, and each program once; rounding is not the point."""
    if BACKEND != "jax":
        yield
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    with tempfile.TemporaryDirectory() as directory:
        wanted = {
            "jax_disable_most_optimizations": True,
            "jax_compilation_cache_dir": jax.config.jax_compilation_cache_dir or directory,
            "jax_persistent_cache_min_compile_time_secs": 0.2,
        }
        before = {name: getattr(jax.config, name, False) for name in wanted}  # one has no attribute: it is off

        def use(values: dict[str, Any]) -> None:
            for name, value in values.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()  # or it stays what the first compilation of the process found

        use(wanted)
        try:
            yield
        finally:
            use(before)
