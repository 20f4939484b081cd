"""What a compiled model trains, and the error where that is no longer what it says it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

__all__ = ["TrainedWeights", "batch_norms", "set_trained_parts", "trained_parts"]


class TrainedWeights:
    """The weights and the optimizer that a model was compiled with.

    What is frozen or unfrozen afterwards would be passed over by some backends and not by others: a compiled step and
    the optimizer's slots are those of `compile`. So it is an error, on all of them.

    Args:
        model: A `BaseTrainStep` that has an optimizer.

    Raises:
        ValueError: If the optimizer was built for other weights.
    """

    def __init__(self, model: Any):
        self._optimizer = model.optimizer
        self._weights = list(model.trainable_variables)
        # Of these one list is made at every step, in 15 microseconds; `trainable_variables` takes a quarter of a
        # millisecond.
        self._switches = [*model.variables, *batch_norms(model)]
        self._settings = [switch.trainable for switch in self._switches]
        layers = getattr(getattr(self._optimizer, "inner_optimizer", self._optimizer), "scaled_layers", None)
        if layers is not None and layers != tuple(map(model.layer_index, self._weights)):
            raise ValueError(
                "`optimizer` has learning rates for the layers of other weights: make it once it is settled what is "
                f"trained. Received: scales for layers {sorted(set(layers))}"
            )
        if not self._optimizer.built:
            # Now, and not in the first step: saved state then finds its place whenever it is loaded, and
            # TensorFlow need not create variables in a function that may be traced again.
            self._optimizer.build(self._weights)
        elif not _same(self._optimizer._trainable_variables, self._weights):
            known = {id(weight) for weight in self._optimizer._trainable_variables}
            raise ValueError(
                "`optimizer` was made for other weights: give `compile` a new one. Received: an optimizer of "
                f"{len(known)} weights, for {len(self._weights)} of which it has "
                f"{sum(id(weight) in known for weight in self._weights)}"
            )

    def check(self, model: Any) -> None:
        """Raise unless `model` still trains what it was compiled to train.

        Raises:
            ValueError: If it does not, or if nothing is trained.
        """
        if model.optimizer is not self._optimizer:
            raise ValueError(
                "Another optimizer takes another `compile`. Received: "
                f"optimizer={model.optimizer!r}, compiled with {self._optimizer!r}"
            )
        now = model.trainable_variables
        if not _same(self._weights, now):
            raise _changed(_differences(self._weights, now))
        self.check_switches()
        if not now:
            raise ValueError("All weights are frozen: there is nothing to train. Received: trainable_variables=[]")

    def check_switches(self) -> None:
        """Raise if a weight or a BatchNorm was frozen or unfrozen since `compile`.

        Raises:
            ValueError: If one was.
        """
        settings = [switch.trainable for switch in self._switches]
        if settings != self._settings:
            names = [
                getattr(switch, "path", switch.name)
                for switch, now, before in zip(self._switches, settings, self._settings, strict=True)
                if now != before
            ]
            raise _changed(f"{len(names)} frozen or unfrozen, such as {names[0]!r}")


def trained_parts(model: Any) -> dict[str, list[bool]]:
    """Return whether each layer and each weight of a model is trained, for its file.

    Configurations have what constructors were told; what was frozen by hand is in none.
    """
    return {name: [bool(part.trainable) for part in parts] for name, parts in _parts(model).items()}


def set_trained_parts(model: Any, settings: dict[str, list[bool]]) -> None:
    """Freeze and unfreeze what `trained_parts` found so; a model that has other parts by now stays as it is."""
    parts = _parts(model)
    if any(len(parts[name]) != len(settings[name]) for name in parts):
        return
    for name in parts:
        for part, trained in zip(parts[name], settings[name], strict=True):
            if part.trainable != trained:  # a layer comes before its parts, which change with it
                part.trainable = trained


def _parts(model: Any) -> dict[str, list[Any]]:
    return {"layers": model._flatten_layers(), "weights": model.weights}


def batch_norms(model: Any) -> list[keras.layers.BatchNormalization]:
    """Return every BatchNorm of a model: it acts differently when it is frozen, even without weights of its own."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _differences(before: Sequence[Any], now: Sequence[Any]) -> str:
    """Return in words which weights are trained now, and were not before, and the other way round."""
    known, kept = {id(weight) for weight in before}, {id(weight) for weight in now}
    added = [weight.path for weight in now if id(weight) not in known]
    gone = [weight.path for weight in before if id(weight) not in kept]
    words = [f"{len(before)} weights for {len(now)} that are trained"]
    words += [f"{len(added)} of them new, such as {added[0]!r}"] if added else []
    words += [f"{len(gone)} no longer trained, such as {gone[0]!r}"] if gone else []
    return ", ".join(words)


def _changed(received: str) -> ValueError:
    return ValueError(
        "What is trained has changed since `compile`: compile again, with a new optimizer. Received: " + received
    )
