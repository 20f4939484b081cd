"""Watching a run: pictures and scores of a model while it trains."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae import _checks, transfer, visualize
from keras_mae.optimizers import averaged_weights
from keras_mae.pixels import check_images
from keras_mae.pooling import POOLINGS, check_pooling
from keras_mae.recipes import LinearProbeRecipe, check_recipe
from keras_mae.training.pictures import drawing
from keras_mae.visualize.figures import checked_bands

__all__ = ["EpochScores", "OnlineProbe", "RankMe", "Watch"]


class Watch(keras.callbacks.Callback):
    """Draws reconstructions of the same images, under the same masks, during training.

    `directory` gets a picture at each interval, and, where the package `tensorboard` is installed, its event files:
    all logged numbers at every epoch, and the pictures. `tensorboard --logdir DIRECTORY` shows them. A picture costs
    one forward pass of the images, and about a second of drawing; where the optimizer averages weights, the averages
    reconstruct. A model that does not predict pixels gets none; a picture that cannot be drawn is a warning.

    Args:
        examples: Images (n, height, width, channels) in the encoder's `pixel_range`.
        directory: Folder for pictures and event files, such as a run's `RunDirectory.file("watch")`.
        every_epochs: Epochs between pictures.
        names: Names of the images, to write beside them.
        bands: Channels to show, as in `keras_mae.visualize.reconstructions`.

    Raises:
        ValueError: If an argument is out of range; in `fit`, if the images do not fit the model.
    """

    def __init__(
        self,
        examples: Any,
        directory: str | Path,
        every_epochs: int = 1,
        *,
        names: Sequence[str] | None = None,
        bands: int | Sequence[int] | None = None,
    ):
        super().__init__()
        self.names, self.bands = names, bands
        rule = "images, an array (n, height, width, channels)"
        self.examples = _checks.array("examples", examples, rule)
        if self.examples.ndim != 4:
            raise _checks.argument_error("examples.shape", "(n, height, width, channels)", self.examples.shape)
        checked_bands(bands, self.examples.shape[-1])
        self.directory = _checks.path("directory", directory)
        self.every_epochs = _checks.positive_int("every_epochs", every_epochs)
        self._events: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        check_images(self.examples, self.model.encoder.image_shape, self.model.encoder.pixel_range)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        summaries: list[dict[str, Any]] = [
            {"tag": name, "simple_value": float(value)} for name, value in (logs or {}).items()
        ]
        if (epoch + 1) % self.every_epochs == 0 and self.model.predicts_pixels:
            with averaged_weights(self.model):
                result = self.model.reconstruct(self.examples)
            path = self.directory / f"epoch-{epoch + 1:04d}.png"
            with drawing(path):
                figure = visualize.reconstructions(result, len(self.examples), bands=self.bands, names=self.names)
                drawn = io.BytesIO()
                figure.savefig(drawn, format="png")
                path.write_bytes(drawn.getvalue())
                width, height = (round(side * figure.dpi) for side in figure.get_size_inches())
                image = {"height": height, "width": width, "colorspace": 4, "encoded_image_string": drawn.getvalue()}
                summaries.append({"tag": "reconstructions", "image": image})
        if importlib.util.find_spec("tensorboard"):
            self._write(epoch + 1, summaries)

    def _write(self, epoch: int, summaries: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._events is None:
            self._events = EventFileWriter(str(self.directory))
        values = [Summary.Value(**summary) for summary in summaries]
        self._events.add_event(Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))
        self._events.flush()

    def on_train_end(self, logs: Any = None) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


def _check_pair(argument: str, pair: Any) -> None:
    """Raise ValueError unless this is a pair (images, labels) of as many of each."""
    rule = "a pair (images, labels), two arrays of one length"
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise _checks.argument_error(argument, rule, pair)
    images, labels = pair[0], np.asarray(pair[1])
    lengths = [len(one) if getattr(one, "shape", ()) else None for one in (images, labels)]
    if None in lengths or lengths[0] != lengths[1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"`{argument}` must be {rule}, the labels integers. "
            f"Received: lengths {lengths[0]} and {lengths[1]}, labels.dtype={labels.dtype}"
        )


class EpochScores(keras.callbacks.Callback):
    """Adds scores of a model to the logs of every epoch; between two measurements they repeat the last ones.

    Where the optimizer averages weights, the averages are scored. The model is not changed.

    Args:
        every_epochs: Epochs between measurements.
        first: Scores to log before the first measurement, by name.
    """

    def __init__(self, every_epochs: int, first: Mapping[str, float]):
        super().__init__()
        self.every_epochs = _checks.positive_int("every_epochs", every_epochs)
        self._last = dict(first)

    def measure(self) -> dict[str, float]:
        """Return the scores of `self.model` by name."""
        raise NotImplementedError

    def resumed(self, history: Mapping[str, Sequence[float]]) -> None:
        """Repeat the last scores of a run that goes on; `run` calls this.

        Args:
            history: Values of the epochs that are done, by name.
        """
        self._last |= {name: history[name][-1] for name in self._last if history.get(name)}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self.every_epochs == 0:
            with averaged_weights(self.model):
                self._last = self.measure()
        if logs is not None:
            logs.update(self._last)


class RankMe(EpochScores):
    """Says how many dimensions the encoder's features use while it is pre-trained: `transfer.rankme`, without labels.

    Adds `rankme` to the logs of every epoch; between two measurements it repeats the last one. Place it before the
    callbacks that write logs or compare, such as `EarlyStopping`, which need `mode="max"` for it. The cost is a
    forward pass of the unmasked images, four times a masked one.

    Args:
        images: Images (n, height, width, channels) in the encoder's `pixel_range`; several times as many as the
            features are wide are best.
        every_epochs: Epochs between measurements.
        pooling: Pooling of the features, as in `transfer.extract_features`; by default "token", or "mean" for an
            encoder without class tokens.

    Raises:
        ValueError: If an argument is out of range; in `fit`, if images or pooling do not fit.
    """

    def __init__(self, images: Any, every_epochs: int = 10, *, pooling: str | None = None):
        super().__init__(every_epochs, {"rankme": float("nan")})
        self.pooling = _checks.optional(_of_an_encoder, "pooling", pooling)
        self.images = _checks.array("images", images, "images, an array (n, height, width, channels)")
        if self.images.ndim != 4 or not self.images.size:
            raise _checks.argument_error("images.shape", "(n, height, width, channels)", self.images.shape)

    def on_train_begin(self, logs: Any = None) -> None:
        encoder = self.model.encoder
        if self.pooling is not None:
            check_pooling(encoder, self.pooling)
        encoder.look(self.images, together=False)

    def measure(self) -> dict[str, float]:
        encoder = self.model.encoder
        pooling = _pooling_for(encoder, self.pooling)
        found = transfer.extract_features(encoder, self.images, pooling=pooling, progress=False).features
        # A model that has come to nothing gets no score, and the run says why elsewhere.
        return {"rankme": transfer.rankme(found) if np.isfinite(found).all() else float("nan")}


def _pooling_for(encoder: Any, asked: str | None) -> str:
    """Return the pooling that was asked for, or that of an encoder's class tokens if it has any."""
    return asked or ("token" if encoder.class_tokens else "mean")


def _of_an_encoder(argument: str, pooling: Any) -> str:
    """Return a pooling that an encoder alone can do."""
    return str(_checks.one_of(argument, pooling, [name for name in POOLINGS if name != "attentive"]))


class OnlineProbe(EpochScores):
    """Scores the encoder's features with labels while it is pre-trained without any.

    Adds `knn_accuracy` (or `probe_accuracy`) and its cost, `probe_seconds`, to the logs of every epoch; between two
    scores they repeat the last one. Place it before the callbacks that write logs or compare, such as
    `EarlyStopping`, which need `mode="max"` for it. The encoder is not changed; where the optimizer averages
    weights, the averages are scored. The cost is a forward pass of the
    unmasked images, four times a masked one, and the neighbors' vote or the probe's training on the features.

    Args:
        train: Pair (images, labels) that votes or is trained on; a few thousand images are enough.
        test: Pair (images, labels) to classify.
        every_epochs: Epochs between scores.
        recipe: Recipe of a linear or attentive probe; by default the 20 nearest neighbors vote instead.
        pooling: Pooling of the neighbors' features, as in `transfer.extract_features`; by default "token", or "mean"
            for an encoder without class tokens. A probe has its recipe's.

    Raises:
        ValueError: If an argument is out of range; in `fit`, if images, labels or pooling do not fit.
    """

    def __init__(
        self,
        train: Any,
        test: Any,
        every_epochs: int = 10,
        recipe: LinearProbeRecipe | None = None,
        *,
        pooling: str | None = None,
    ):
        name = "knn_accuracy" if recipe is None else "probe_accuracy"
        super().__init__(every_epochs, {name: float("nan"), "probe_seconds": 0.0})
        if recipe is not None:
            check_recipe(recipe, LinearProbeRecipe)
        for name, pair in {"train": train, "test": test}.items():
            _check_pair(name, pair)
        if recipe is not None and pooling not in (None, recipe.pooling):
            raise _checks.argument_error("pooling", f"the recipe's, {recipe.pooling!r}", pooling)
        self.pooling = None if recipe is not None else _checks.optional(_of_an_encoder, "pooling", pooling)
        self.train, self.test, self.recipe = train, test, recipe

    def on_train_begin(self, logs: Any = None) -> None:
        encoder = self.model.encoder
        check_pooling(encoder, self.recipe.pooling if self.recipe else _pooling_for(encoder, self.pooling))
        for images, _ in (self.train, self.test):
            encoder.look(images, together=False)

    def measure(self) -> dict[str, float]:
        began = time.perf_counter()
        accuracy = self._neighbors() if self.recipe is None else self._probe(self.recipe)
        name = "knn_accuracy" if self.recipe is None else "probe_accuracy"
        return {name: accuracy, "probe_seconds": time.perf_counter() - began}

    def _neighbors(self) -> float:
        """Return the accuracy of the nearest neighbors' vote."""
        encoder = self.model.encoder
        pooling = _pooling_for(encoder, self.pooling)
        voters, others = (
            transfer.extract_features(encoder, images, labels, pooling=pooling, progress=False)
            for images, labels in (self.train, self.test)
        )
        return transfer.knn_accuracy(voters, others, k=min(20, len(voters.features)))

    def _probe(self, recipe: LinearProbeRecipe) -> float:
        """Return the accuracy of a probe."""
        classes = int(np.max(self.train[1])) + 1
        probe = transfer.linear_probe(self.model.encoder, self.train, classes, recipe, cache_features=True, verbose=0)
        return float(probe.evaluate(*self.test, verbose=0, return_dict=True)["accuracy"])
