"""The look that a model has at the first batch it is given: are these images as its encoder takes them?

`fit`, `evaluate`, `predict` and their `..._on_batch` get images in arrays and in every kind of dataset, and all of
them end at a step function of Keras', which the classes here stand in for. They look at the first batch of each call
before it is computed with, outside of compiled code; for bytes in 0-255 there is nothing to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_mae import distribution, pixels
from keras_mae._types import Tensor
from keras_mae.fit_arguments import PREDICT, check_data, check_fitting
from keras_mae.ops import concrete

__all__ = [
    "ChecksImages",
    "IteratorStep",
    "ListStep",
    "Places",
    "Step",
    "images_of",
    "is_stale",
    "looking",
    "rows_of",
]

_WEIGHTS = ("trainable_variables", "non_trainable_variables")


def images_of(data: Any) -> Any:
    """Return the images of a batch as a dataset gives it."""
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    return x.get("images") if isinstance(x, dict) else x


def rows_of(x: Any) -> Any:
    """Return the part of a model's input that has a row for each sample."""
    if not isinstance(x, dict):
        return x
    return x["images"] if "images" in x else next(iter(x.values()))


class ChecksImages:
    """A `keras.Model` that looks at the images of the first batch it is given.

    It knows what they must be by its attribute `encoder`, or is an encoder itself; a model without one looks at
    nothing. This class looks for `predict` and at arrays that the model is called with, and the training step for
    the rest.
    """

    predict_function: Any

    def make_predict_function(self, force: bool = False) -> None:
        super().make_predict_function(force or is_stale(self.predict_function))  # type: ignore[misc]
        step = IteratorStep if keras.backend.backend() == "jax" else ListStep
        self.predict_function = looking(step, self, self.predict_function, _WEIGHTS)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        images = images_of(args[:1]) if args else None
        # A user's: steps and other models pass tensors.
        if args and (args[0] is None or isinstance(images, np.ndarray | list | str | int | float)):
            check_data(args[0])
            self.look((images,), together=False)
            self.check_inputs(*args, **kwargs)
        return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def check_inputs(self, x: Any, *args: Any, **kwargs: Any) -> None:
        """Raise a `ValueError` unless the other arguments of a call with arrays fit the images."""

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict as `keras.Model.predict` does."""
        check_fitting(PREDICT, args, kwargs)
        check_data(x)
        self.look_at_bytes(x)
        return super().predict(x, *args, **kwargs)  # type: ignore[misc]

    def look_at_bytes(self, x: Any) -> None:
        """Raise a `ValueError` for an array of bytes that cannot be images, at which compiled steps do not look."""
        images = images_of((x,))
        if isinstance(images, np.ndarray) and images.dtype == np.uint8:
            self.look((images,), together=False)

    def look(self, data: Any, *, together: bool) -> None:
        """Raise a `ValueError` unless the images of a batch are what the encoder takes.

        Args:
            data: Batch as the dataset gave it. Values inside of compiled code are not looked at.
            together: Whether all processes look at their parts of one batch, and must agree.
        """
        encoder: Any = getattr(self, "encoder", self)
        images = images_of(data)
        if images is None or not hasattr(encoder, "pixel_range"):
            return
        image_shape, pixel_range = encoder.image_shape, encoder.pixel_range
        parts = _on_this_process(images)
        for part in parts:
            if not hasattr(part, "shape") or not hasattr(part, "dtype"):
                raise ValueError(f"`images` must be an array or a tensor. Received: a {type(part).__name__}")
            pixels.check_shape(part.shape, image_shape)
            pixels.check_dtype(pixels.dtype_name(part), pixel_range)
        dtype = pixels.dtype_name(parts[0])
        known = [_values(part) for part in parts]
        if any(part is None for part in known):
            return
        if pixels.needs_no_look(dtype, pixel_range):
            # Several processes would have to agree, for which bytes are too seldom wrong.
            if len(known) == 1 and not (together and distribution.current().processes > 1):
                pixels.check_bytes(known[0], pixel_range)
            return
        lows, highs = zip(*map(pixels.extremes, known), strict=True)
        low, high = min(lows), max(highs)
        if together:
            low, high = _of_all_processes(low, high)
        pixels.check_extremes(low, high, dtype, pixel_range)


def looking(kind: type[Step], model: Any, function: Any, state: tuple[str, ...] = (), **options: Any) -> Step:
    """Return a step function that looks at the next batch; one that does so already will do it again.

    Args:
        kind: Class of step functions.
        model: Model whose step function it is.
        function: What Keras made.
        state: Names of what the function takes and returns, on JAX.
        options: Other arguments of the class.
    """
    step = function if isinstance(function, Step) else kind(model, function, state, **options)
    step.pending = True
    return step


class Step:
    """A step function of Keras' that looks at the first batch it is given, once it is told to.

    `before` is called before every step.
    """

    def __init__(
        self,
        model: Any,
        function: Any,
        state: tuple[str, ...] = (),
        *,
        together: bool = False,
        before: Callable[[], None] = lambda: None,
    ):
        self.model, self.function, self.state, self.together = model, function, state, together
        self.before = before
        self.pending = True

    def look(self, data: Any) -> Any:
        """Return a batch, after a look at it if that is pending."""
        if self.pending:
            self.model.look(data, together=self.together)
            self.pending = False
        return data


class ListStep(Step):
    """A step that gets its batches in a list: PyTorch's, and TensorFlow's of `predict`."""

    def __call__(self, data: Any) -> Any:
        self.before()
        self.look(data[0])
        return self.function(data)


class IteratorStep(Step):
    """A step on JAX, which gets the model's state and an iterator over batches.

    Keras takes the weights out of the model while it runs. If the very first step fails, it does not put them back,
    and the model is lost; this does.
    """

    def __init__(self, model: Any, *args: Any, **options: Any):
        super().__init__(model, *args, **options)
        self.places = Places(model)

    def __call__(self, state: Any, iterator: Iterator[Any]) -> Any:
        import jax

        try:
            self.before()
            # A compiled step that fails has used up the weights it was given: batches are checked before.
            return self.function(state, map(self._checked, iterator))
        except BaseException:
            if not any(value.is_deleted() for value in jax.tree.leaves(state)):
                self.model._jax_state = dict(zip(self.state, state, strict=True))
                self.model._jax_state_synced = False
                self.model.jax_state_sync()
            raise

    def _checked(self, data: Any) -> Any:
        check = getattr(self.model, "check_batch", lambda data: data)
        if self.state == _WEIGHTS:  # `predict`, where labels, if there are any, are nobody's
            data = (keras.utils.unpack_x_y_sample_weight(data)[0],)
        return self.look(check(data))


class Places:
    """Which weight is where in a model's state on JAX.

    Frozen or unfrozen, a weight has another place; code that is compiled already would take one for another.
    """

    def __init__(self, model: Any):
        self.weights = [list(map(id, getattr(model, name))) for name in _WEIGHTS]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places) and self.weights == other.weights


def is_stale(function: Any) -> bool:
    """Return whether a step function takes the weights in other places than they now have."""
    return isinstance(function, IteratorStep) and function.places != Places(function.model)


def _on_this_process(images: Any) -> tuple[Any, ...]:
    """Return the parts of a batch that TensorFlow's replicas get on this machine; elsewhere it is one."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if isinstance(images, tf.distribute.DistributedValues):
            return tuple(images.values)
    return (images,)


def _values(images: Tensor) -> Any:
    """Return what `pixels.extremes` takes, or `None` where there are no values yet."""
    if isinstance(images, np.ndarray) or keras.backend.backend() == "torch":
        return images
    return concrete(images)


def _of_all_processes(low: float, high: float) -> tuple[float, float]:
    """Return the extremes over all processes' parts, so that all of them come to the same end."""
    if keras.backend.backend() == "torch":
        import torch

        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            ends = torch.tensor([-low, high], dtype=torch.float64, device=device)
            torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX)
            return -float(ends[0]), float(ends[1])
    elif keras.backend.backend() == "jax":
        import jax

        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            ends = np.asarray(multihost_utils.process_allgather(np.array([-low, high])))
            return -float(ends[..., 0].max()), float(ends[..., 1].max())
    return low, high
