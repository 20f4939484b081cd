"""What models are given to `fit`, `evaluate` and `predict`, checked before Keras takes it.

Keras takes much of what is wrong without a word, and fails at the rest somewhere in its loops.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_mae import _checks

__all__ = ["EVALUATE", "FIT", "PREDICT", "check_compiling", "check_data", "check_fitting"]

FIT = (
    "batch_size",
    "epochs",
    "verbose",
    "callbacks",
    "validation_split",
    "validation_data",
    "shuffle",
    "class_weight",
    "sample_weight",
    "initial_epoch",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
    "validation_freq",
)
"""Arguments of `keras.Model.fit` after x and y, in their order."""
EVALUATE = ("batch_size", "verbose", "sample_weight", "steps", "callbacks", "return_dict")
"""Those of `keras.Model.evaluate`."""
PREDICT = ("batch_size", "verbose", "steps", "callbacks")
"""Those of `keras.Model.predict`, after x."""

_IMAGES = "images (batch, height, width, channels) in an array or a tensor, a dict with them, or a dataset of batches"


def check_fitting(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError unless the options of a call of `fit`, `evaluate` or `predict` are what they must be.

    Args:
        names: `FIT`, `EVALUATE` or `PREDICT`.
        args: Options that were given by their place.
        kwargs: Options that were given by their name.
    """
    _checks.options({**dict(zip(names, args, strict=False)), **kwargs}, _OPTIONS)


def check_compiling(kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError unless options of `compile`, by name, are what they must be."""
    if "jit_compile" in kwargs:
        _checks.one_of("jit_compile", kwargs["jit_compile"], ("auto", True, False, None))
    if "steps_per_execution" in kwargs:
        _checks.positive_int("steps_per_execution", kwargs["steps_per_execution"])


def check_data(x: Any, y: Any = None, sample_weight: Any = None) -> None:
    """Raise ValueError unless `x` may be images or a dataset of them, with as many labels and weights.

    Args:
        x: What a model is given.
        y: Labels, or `None`.
        sample_weight: Weights, or `None`.
    """
    if x is None or isinstance(x, str | bytes | int | float | list | tuple | type):
        hint = ": np.stack makes an array of a list" if isinstance(x, list) and len(x) else ""
        received = f"a {type(x).__name__}" if isinstance(x, list | tuple) else repr(x)
        raise ValueError(f"`x` must be {_IMAGES}{hint}. Received: {received} as images")
    inputs = x if isinstance(x, Mapping) else {"images": x}
    for name, value in inputs.items():
        if isinstance(value, np.ndarray) and value.dtype.kind not in "biuf" and str(value.dtype) != "bfloat16":
            raise ValueError(f"`{name}` must be numbers. Received: {name}.dtype={value.dtype}")
        if isinstance(x, Mapping) and value is not None and not hasattr(value, "shape"):
            raise ValueError(f"`{name}` must be an array or a tensor. Received: {name}={type(value).__name__}")
    if sample_weight is not None and not getattr(sample_weight, "shape", ()):
        raise _checks.argument_error("sample_weight", "an array of one number for each image", sample_weight)
    counts = {name: _length(value) for name, value in {**inputs, "y": y, "sample_weight": sample_weight}.items()}
    known = {name: count for name, count in counts.items() if count is not None}
    if len(set(known.values())) > 1:
        received = ", ".join(f"{count} {'images' if name == 'x' else name}" for name, count in known.items())
        raise ValueError(f"`{'`, `'.join(known)}` must have one row for each image. Received: {received}")


def _length(value: Any) -> int | None:
    """Return how many rows an array has; `None` for what is no array."""
    shape = getattr(value, "shape", None)
    return int(shape[0]) if shape is not None and len(shape) and isinstance(shape[0], int) else None


def _callbacks(argument: str, value: Any) -> None:
    known = keras.callbacks.Callback, keras.callbacks.CallbackList
    several = [value] if isinstance(value, known) else keras.tree.flatten(value)
    for one in several:
        if not isinstance(one, known):
            raise _checks.argument_error(argument, "Keras callbacks, not their classes", one)


def _frequency(argument: str, value: Any) -> None:
    if not isinstance(value, Container) or isinstance(value, str):
        _checks.positive_int(argument, value)


def _verbosity(argument: str, value: Any) -> None:
    _checks.one_of(argument, value, ("auto", 0, 1, 2, False, True))


_OPTIONS: dict[str, Any] = {
    "epochs": _checks.positive_int,
    "initial_epoch": _checks.count,
    "shuffle": _checks.boolean,
    "return_dict": _checks.boolean,
    "verbose": _verbosity,
    "validation_split": partial(_checks.optional, _checks.fraction),
    "validation_freq": _frequency,
    "callbacks": partial(_checks.optional, _callbacks),
    **dict.fromkeys(
        ("batch_size", "steps", "steps_per_epoch", "validation_steps", "validation_batch_size"),
        partial(_checks.optional, _checks.positive_int),
    ),
}
