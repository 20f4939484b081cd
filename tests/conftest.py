"""Small models with distinct sizes, the referees' arrays, and what of a full run each backend tests."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fast_xla

os.environ |= fast_xla.environment(os.environ.get("KERAS_BACKEND", "")) | os.environ

import keras
import numpy as np
import oracles
import processes
import pytest

import keras_mae
import keras_mae.cli
from keras_mae.convert import exporting

pytest_plugins = ["example_helpers"]  # fixtures of two modules

# 5 x 7 patches of 3 x 2 pixels: no two sizes are equal, so a swapped axis shows.
IMAGE_SHAPE, PATCH_SIZE, GRID, PATCHES, PIXELS = (15, 14, 3), (3, 2), (5, 7), 35, 18

# === A full run's shares ===
BACKENDS = ("torch", "jax", "tensorflow")
# They take longest. A worker that begins one of them last would keep the others waiting.
LONGEST = (
    "test_distribution", "test_docs", "test_examples", "test_exporting", "test_resume", "test_train_step",
    "test_wrong_arguments",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", action="store_true", help="leave out what a full run tests on other backends")


def tested_on(item: pytest.Item) -> tuple[str, ...]:
    """The backends on which a full run tests it: what its nearest `backends` mark names, or else all."""
    if item.get_closest_marker("needs_tensorflow"):
        return ("tensorflow",)
    mark = item.get_closest_marker("backends")
    named = mark.args if mark else BACKENDS
    if not named or set(named) - set(BACKENDS):
        raise pytest.UsageError(f"{item.nodeid}: `backends` must name some of {BACKENDS}. Received: {named}")
    return named


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--share`, keep what is this backend's. What takes longest goes first."""
    if not importlib.util.find_spec("tensorflow"):
        for item in items:
            if item.get_closest_marker("needs_tensorflow"):
                item.add_marker(pytest.mark.skip(reason="TensorFlow is not installed"))
    shares = {item: keras.backend.backend() in tested_on(item) for item in items}
    if config.getoption("share"):
        config.hook.pytest_deselected(items=[item for item in items if not shares[item]])
        items[:] = [item for item in items if shares[item]]
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish() -> None:
    """Keep what is imported out of every garbage collection: it is large, and stays."""
    gc.collect()
    gc.freeze()


def build_mae(**changes: Any) -> keras_mae.MaskedAutoencoder:
    """A model of two encoder blocks and one decoder block; `changes` go to whichever part takes them."""
    encoder = {
        "image_shape": IMAGE_SHAPE,
        "patch_size": PATCH_SIZE,
        "embed_dim": 12,
        "depth": 2,
        "num_heads": 3,
        "dtype": changes.pop("dtype", "float32"),
    }
    decoder = {"embed_dim": 8, "depth": 1, "num_heads": 2, "dtype": encoder["dtype"]}
    encoder |= {key: changes.pop(key) for key in list(changes) if key in keras_mae.presets.ENCODER_ARGUMENTS}
    decoder |= {key[8:]: changes.pop(key) for key in list(changes) if key.startswith("decoder_")}
    changes.setdefault("dtype", encoder["dtype"])
    return keras_mae.MaskedAutoencoder(keras_mae.ViTEncoder(**encoder), keras_mae.MAEDecoder(**decoder), **changes)


def randomize_weights(model: Any, seed: int = 0) -> Any:
    """Give every trained weight values of its own: zero biases and unit gains would hide a missing term."""
    generator = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        scale, centre = (0.3, 1.0) if weight.path.endswith("gamma") else (0.25, 0.0)
        weight.assign((centre + scale * generator.standard_normal(tuple(weight.shape))).astype("float32"))
    return model


def random_images(batch: int = 3, image_shape: tuple[int, int, int] = IMAGE_SHAPE, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, *image_shape), "uint8")


@pytest.fixture(scope="session")
def make_mae() -> Any:
    return build_mae


@pytest.fixture(scope="session")
def randomise() -> Any:
    return randomize_weights


@pytest.fixture(scope="session")
def make_images() -> Any:
    return random_images


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Three images, uint8, of the small models' shape."""
    return random_images()


@pytest.fixture(scope="session")
def mae() -> keras_mae.MaskedAutoencoder:
    """A small model with random weights everywhere. Shared: tests must not change it."""
    return randomize_weights(build_mae())


@pytest.fixture(scope="session")
def norm_pix_mae() -> keras_mae.MaskedAutoencoder:
    """The same with a normalised target. Shared: tests must not change it."""
    return randomize_weights(build_mae(norm_pix_loss=True))


@pytest.fixture(scope="session")
def weights(mae: Any) -> oracles.Weights:
    return oracles.weights_of(mae)


@pytest.fixture(scope="session")
def sizes(mae: Any) -> oracles.Sizes:
    return oracles.Sizes.of(mae)


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    return np.random.default_rng(2).random((3, PATCHES), "float32")


class Referee:
    """Arrays that the environment with PyTorch and `transformers` leaves for the other two.

    `KERAS_MAE_REFEREE` names the directory. There, `write` is called under PyTorch and `path` elsewhere.
    """

    def __init__(self) -> None:
        named = os.environ.get("KERAS_MAE_REFEREE")
        self.directory = Path(named) if named else None
        self.live = keras.backend.backend() == "torch"

    def path(self, name: str) -> Path:
        """A file the PyTorch run must have left; without the variable the test is skipped."""
        if self.directory is None:
            pytest.skip("KERAS_MAE_REFEREE is not set: no arrays of the PyTorch run to compare with")
        path = self.directory / name
        if not path.exists():
            pytest.fail(f"{name} is missing from KERAS_MAE_REFEREE: run the suite under PyTorch first")
        return path

    def read(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.path(name)) as arrays:
            return dict(arrays)

    def write(self, name: str, **arrays: np.ndarray) -> None:
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            np.savez(self.directory / name, **arrays)


@pytest.fixture(scope="session")
def referee() -> Referee:
    return Referee()


def _compiled_forms() -> dict[str, Any]:
    """Every way the backend can run a function of tensors: name -> decorator."""
    backend = keras.backend.backend()
    forms = {"eager": lambda function: function}
    if backend == "tensorflow":
        import tensorflow as tf

        forms["graph"] = tf.function
        forms["xla"] = lambda function: tf.function(function, jit_compile=True)
    elif backend == "jax":
        import jax

        forms["jit"] = jax.jit
    return forms


def run_quickly(function: Any) -> Any:
    """Run a function of arrays as one compiled program under JAX, which is slow to run it operation by operation.

    What the function assigns to variables is forgotten there.
    """
    if keras.backend.backend() != "jax":
        return function
    import jax

    def stateless(*args: Any) -> Any:
        with keras.StatelessScope():
            return function(*args)

    return jax.jit(stateless)


@pytest.fixture(scope="session")
def quick() -> Any:
    """Decorator, for tests whose subject is not eager execution."""
    return run_quickly


@pytest.fixture(scope="module")
def untraced() -> Any:
    """TensorFlow runs functions without tracing them, which takes longer than the few steps of a test's run.

    For runs whose subject is not the compiled step.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session", params=list(_compiled_forms()))
def compiled(request: Any) -> Any:
    """Decorator: run the function eagerly, and in each compiled form the backend has."""
    return _compiled_forms()[request.param]


@pytest.fixture
def forked_export(monkeypatch):
    """Exports in a process that is forked, for time; test_cli.py's export starts one as users do."""
    monkeypatch.setattr(exporting, "subprocess", SimpleNamespace(run=processes.run, DEVNULL=None))


# === The command line ===
@pytest.fixture
def shallow_presets(monkeypatch):
    """Presets of one narrow block each side: compiling four and two takes most of a short run's time."""
    get = keras_mae.presets.get

    def shallow(name):
        preset = get(name)
        return keras_mae.presets.Preset(
            preset.encoder | {"embed_dim": 24, "depth": 1, "num_heads": 2},
            preset.decoder | {"embed_dim": 16, "depth": 1, "num_heads": 2},
        )

    monkeypatch.setattr(keras_mae.presets, "get", shallow)


@pytest.fixture
def keras_mae_command(monkeypatch, shallow_presets, tmp_path, capsys):
    """Runs `keras-mae ARGUMENTS` in an empty folder: (status, output, error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["keras-mae", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            keras_mae.cli.main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory):
    """A saved masked autoencoder for the digits: 4 x 4 patches, one block each side."""
    path = tmp_path_factory.mktemp("models") / "model.keras"
    encoder = keras_mae.ViTEncoder((8, 8, 1), 2, embed_dim=12, depth=1, num_heads=3, mlp_ratio=2)
    keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2)).save(path)
    return path


@pytest.fixture(scope="module")
def encoder_file(digits_model):
    path = digits_model.with_name("encoder.keras")
    keras.saving.load_model(digits_model).encoder.save(path)
    return path


@pytest.fixture
def class_folders(tmp_path):
    """Seven grey images of one class and four of another, and two of each to evaluate on."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for folder, counts in {
        "photos": {"cats": 7, "dogs": 4},
        "others": {"cats": 2, "dogs": 2},
        "birds": {"owls": 1},
    }.items():
        for name, count in counts.items():
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (13, 11), dtype="uint8")
                Image.fromarray(pixels).save(tmp_path / folder / name / f"{number}.png")
    return tmp_path / "photos"
