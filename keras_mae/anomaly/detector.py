"""The detector, which is fitted once, on normal images, and scores any number of others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae.anomaly import stored
from keras_mae.anomaly.errors import ReconstructionErrors
from keras_mae.anomaly.neighbors import PatchFeatures, PatchSample, coreset, inner_blocks, nearest_distances
from keras_mae.anomaly.partitions import complementary_masks
from keras_mae.anomaly.resampling import resampled
from keras_mae.anomaly.scores import MEAN, AnomalyScores, standardized
from keras_mae.classifier import ViTClassifier
from keras_mae.data.reading import numpy_batches
from keras_mae.dense.resizing import linear_weights
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.pixels import check_images
from keras_mae.random import EVALUATION_STEP, HELD_OUT, hash_noise
from keras_mae.training.fingerprints import of_weights

__all__ = ["METHODS", "AnomalyDetector"]

METHODS = ("reconstruction", "neighbors")
"""Names of the methods; the mean of both is the third score."""
_HELD_OUT_EVERY = 4
_MOST_HELD_OUT = 256
_CANDIDATES = 4  # patches that are sampled for each one that the bank will hold

Raw = dict[str, tuple[np.ndarray, np.ndarray]]


class AnomalyDetector:
    """Finds what is unlike normal images, by what a pre-trained model makes of them.

    There are two methods, and the mean of their scores:

    - "reconstruction": what the model cannot fill in. Complementary masks hide each patch equally often; a pixel's
      value is the root mean squared error over the masks that hide it, and an image's score its map's largest value.
    - "neighbors": what no normal patch is like. A pixel's value is the distance of its patch's features from the
      nearest ones in a bank of normal patches, and an image's score the largest distance. If there are more normal
      patches than `bank_size`, the bank is a coreset of them.

    One in four normal images, at most 256, is held out of the bank; without "neighbors" there is no bank, and up to
    256 of all images are used. Their scores say what is usual, so that the scores of the two methods can be averaged,
    and where the threshold lies.

    Args:
        model: A pre-trained `MaskedAutoencoder`; or a `ViTEncoder` or `ViTClassifier`, which have no decoder and
            score by "neighbors" alone. It is not changed.
        methods: Names of the methods, or one; by default both, or what the model can do.
        mask_ratio: Fraction of the patches that a mask hides, as for `complementary_masks`; by default that of the
            model's pre-training.
        partitions: Number of partitions into complementary masks. A `mask_ratio` of 0.75 makes four masks a
            partition, so that each image is reconstructed four times as often.
        blocks: Indices of the encoder's blocks whose patch tokens are the features; by default those at half and at
            three quarters of its depth.
        neighbors: Number of nearest normal patches whose distances are averaged.
        bank_size: Largest number of normal patches in the bank. The coreset is chosen from a random sample of at most
            four times as many.
        quantile: Share of the held-out normal images whose scores are not above the threshold, in (0, 1).
        seed: Seed for the masks, the sample, the coreset and which images are held out.
        batch_size: Images at a time.

    Raises:
        ValueError: If the arguments do not fit one another.

    Example:
        >>> detector = keras_mae.anomaly.AnomalyDetector(mae).fit(normal_images)
        >>> found = detector.score(images)
        >>> found.scores["mean"][found.above], found.maps["mean"].shape

    Reference: "MAEDAY: MAE for few and zero shot AnomalY-Detection", arXiv 2211.14307; "Towards Total Recall in
    Industrial Anomaly Detection" (PatchCore), arXiv 2106.08265.
    """

    def __init__(
        self,
        model: MaskedAutoencoder | ViTEncoder | ViTClassifier,
        methods: str | Sequence[str] | None = None,
        *,
        mask_ratio: float | None = None,
        partitions: int = 4,
        blocks: int | Sequence[int] | None = None,
        neighbors: int = 1,
        bank_size: int = 10_000,
        quantile: float = 0.95,
        seed: int = 0,
        batch_size: int = 32,
    ):
        rule = "a MaskedAutoencoder, a ViTEncoder or a ViTClassifier"
        self.model: Any = _checks.instance("model", model, (MaskedAutoencoder, ViTEncoder, ViTClassifier), rule)
        self.encoder: ViTEncoder = model if isinstance(model, ViTEncoder) else model.encoder
        self.methods = _checked_methods(methods, model)
        for name, value, method in (("mask_ratio", mask_ratio, METHODS[0]), ("blocks", blocks, METHODS[1])):
            if value is not None and method not in self.methods:
                raise _checks.argument_error(name, f"left out without the method {method!r}", value)
        self.mask_ratio: float | None = None
        self.blocks: tuple[int, ...] | None = None
        self.partitions = _checks.positive_int("partitions", partitions)
        self.neighbors = _checks.positive_int("neighbors", neighbors)
        self.bank_size = _checks.positive_int("bank_size", bank_size)
        if self.neighbors > self.bank_size:
            raise _checks.argument_error("neighbors", f"at most bank_size={bank_size}", neighbors)
        self.quantile = _checks.fraction("quantile", quantile)
        if not self.quantile:
            raise _checks.argument_error("quantile", "in (0, 1)", quantile)
        self.seed = _checks.seed_int("seed", seed)
        self.batch_size = _checks.positive_int("batch_size", batch_size)
        self.fitted: stored.Fitted | None = None
        if "reconstruction" in self.methods:
            ratio = self.mask_ratio = self.model.masking.mask_ratio if mask_ratio is None else mask_ratio
            masks = complementary_masks(self.encoder.num_patches, ratio, self.partitions, self.seed)
            self._errors = ReconstructionErrors(self.model, masks)
        if "neighbors" in self.methods:
            self.blocks = _checked_blocks(blocks, self.encoder.depth)
            self._features = PatchFeatures(self.encoder, self.blocks)

    # === Fitting ===
    def fit(self, normal: Any, *, progress: bool = False) -> AnomalyDetector:
        """Learn what is normal.

        Args:
            normal: Normal images (images, height, width, channels) in the encoder's `pixel_range`, or a dataset of
                batches of images or of (images, labels), whose labels are ignored. It is read once. At least eight
                images are needed, or two without "neighbors".
            progress: Whether to show a progress bar.

        Returns:
            The detector itself.

        Raises:
            ValueError: If there are too few images, or the model does not take them.
        """
        _checks.boolean("progress", progress)
        compares = "neighbors" in self.methods
        every = _HELD_OUT_EVERY if compares else 1
        if total := _number_of_images(normal):
            every = max(every, -(-total // _MOST_HELD_OUT))
        sample = PatchSample(_CANDIDATES * self.bank_size, self.seed)
        held_out: list[np.ndarray] = []
        seen = kept = 0
        for batch, _ in numpy_batches(normal, None, self.batch_size, progress=progress):
            images = self._checked(batch)
            places = np.arange(seen, seen + len(images))
            seen += len(images)
            out = self._are_held_out(places, every)
            out &= kept + np.cumsum(out) <= _MOST_HELD_OUT
            held_out.append(np.array(images[out]))
            kept += len(held_out[-1])
            if compares:
                sample.add(self._in_parts(self._features_of, images[~out]), places[~out])
        if kept < 2:
            least = 2 * every
            raise ValueError(f"`normal` must be {least} images or more, of which some are held out. Received: {seen}")
        needed = int(np.ceil(round(1 / (1 - self.quantile), 6)))  # 0.9 takes 10 images, not 9.999...
        if kept < needed:
            warnings.warn(
                f"The threshold is little more than the highest score of {kept} held-out normal images: the "
                f"{self.quantile:g} quantile takes at least {needed} of them",
                stacklevel=2,
            )
        bank = None
        if compares:
            taken = sample.taken()
            bank = taken[coreset(taken, self.bank_size, self.seed)]
            _checks.int_within("neighbors", self.neighbors, 1, len(bank))
        self.fitted = self._measured(bank, seen, np.concatenate(held_out))
        return self

    def _measured(self, bank: np.ndarray | None, seen: int, held_out: np.ndarray) -> stored.Fitted:
        """Return what was learned: the bank, and what scores are usual among the images that were held out."""
        scores: dict[str, list[np.ndarray]] = {name: [] for name in self.methods}
        sums = {name: np.zeros(3) for name in self.methods}
        for start in range(0, len(held_out), self.batch_size):
            for name, (raw, maps) in self._raw(held_out[start : start + self.batch_size], bank).items():
                scores[name].append(raw)
                wide = maps.astype("float64")
                sums[name] += (wide.size, wide.sum(), np.square(wide).sum())
        by_image = {name: np.concatenate(parts).astype("float64") for name, parts in scores.items()}
        of_images = {name: (float(one.mean()), float(one.std())) for name, one in by_image.items()}
        of_pixels = {}
        for name, (count, total, squares) in sums.items():
            mean = total / count
            of_pixels[name] = (float(mean), float(max(squares / count - mean**2, 0) ** 0.5))
        usual = standardized(by_image, of_images)[MEAN]
        threshold = float(np.quantile(usual.astype("float64"), self.quantile))
        return stored.Fitted(bank, of_images, of_pixels, threshold, seen, len(held_out))

    def _are_held_out(self, places: np.ndarray, every: int) -> np.ndarray:
        """Return which images are held out: one, drawn by the hash, of every `every` that follow one another."""
        groups = ops.convert_to_tensor((places // every).astype("int32"))
        noise = ops.convert_to_numpy(hash_noise(self.seed, EVALUATION_STEP, groups, 1, HELD_OUT))[:, 0]
        chosen: np.ndarray = places % every == (noise & 0x7FFFFFFF) % every
        return chosen

    # === Scoring ===
    def score(self, images: Any) -> AnomalyScores:
        """Score images, each by itself.

        Args:
            images: Images (images, height, width, channels) in the encoder's `pixel_range`. Their maps are returned,
                too: if they would not fit into memory, score some images at a time.

        Returns:
            `AnomalyScores`, with maps of the images' height and width.

        Raises:
            ValueError: If the detector is not fitted, or the model does not take the images.
        """
        fitted = self._known()
        images = self._checked(images)
        parts = [
            self._raw(images[start : start + self.batch_size], fitted.bank)
            for start in range(0, len(images), self.batch_size)
        ]
        scores = {name: np.concatenate([part[name][0] for part in parts]) for name in self.methods}
        maps = {name: np.concatenate([part[name][1] for part in parts]) for name in self.methods}
        return AnomalyScores(
            standardized(scores, fitted.of_images), standardized(maps, fitted.of_pixels), fitted.threshold
        )

    def _raw(self, images: np.ndarray, bank: np.ndarray | None) -> Raw:
        """Return each method's scores (batch,) and maps (batch, height, width), in the method's own units."""
        found: Raw = {}
        if "reconstruction" in self.methods:
            maps = self._in_parts(self._errors, images)
            found["reconstruction"] = maps.max(axis=(1, 2)), maps
        if bank is not None:
            features = self._in_parts(self._features_of, images)
            apart = nearest_distances(features.reshape(-1, features.shape[2]), bank, self.neighbors)
            (height, width, _), (rows, columns) = self.encoder.image_shape, self.encoder.grid
            on_grid = apart.reshape(-1, rows, columns)
            maps = resampled(on_grid, linear_weights(rows, height), linear_weights(columns, width))
            found["neighbors"] = on_grid.max(axis=(1, 2)), maps
        return found

    def _features_of(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(self._features.predict_on_batch(images))

    def _in_parts(self, function: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
        """Return what a function makes of images, some at a time.

        Their number is padded to a power of two, because code is compiled anew for each number.
        """
        results = []
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            size = min(1 << (len(part) - 1).bit_length(), self.batch_size)
            results.append(function(np.resize(part, (size, *part.shape[1:])))[: len(part)])
        return np.concatenate(results) if results else np.zeros((0, 0, 0), "float32")

    def _checked(self, images: Any) -> np.ndarray:
        return check_images(images, self.encoder.image_shape, self.encoder.pixel_range)

    def _known(self) -> stored.Fitted:
        if self.fitted is None:
            raise ValueError("`fit` must come before `score` and `save`. Received: a detector that is not fitted")
        return self.fitted

    # === Files ===
    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that it was made with, except the model, as JSON values by name."""
        names = ("mask_ratio", "partitions", "neighbors", "bank_size", "quantile", "seed", "batch_size")
        known = {name: getattr(self, name) for name in names}
        return {"methods": list(self.methods), "blocks": self.blocks and list(self.blocks), **known}

    def save(self, path: str | Path) -> None:
        """Write what was learned to an .npz file; the model is not in it.

        Args:
            path: File to write, which is replaced if it exists.

        Raises:
            ValueError: If the detector is not fitted, or the name does not end in .npz.
            OSError: If it cannot be written.
        """
        stored.write(_checks.path("path", path), self._known(), self.settings, of_weights(self.model))

    @classmethod
    def load(cls, path: str | Path, model: MaskedAutoencoder | ViTEncoder | ViTClassifier) -> AnomalyDetector:
        """Read what `save` wrote.

        Args:
            path: File to read.
            model: Model that the detector was fitted with.

        Returns:
            A fitted detector.

        Raises:
            ValueError: If the file is missing, damaged or not a detector's, or `model` is another one.
        """
        path = _checks.path("path", path)
        fitted, settings, digest = stored.read(path)
        if not isinstance(model, keras.Model) or digest != of_weights(model):
            rule = f"the model that {str(path)!r} was fitted with"
            raise _checks.argument_error("model", rule, f"a {type(model).__name__} of other weights")
        detector = cls(model, **settings)
        width = len(detector.blocks or ()) * detector.encoder.embed_dim
        detector.fitted = stored.checked(path, fitted, detector.methods, width)
        return detector


def _checked_methods(methods: Any, model: Any) -> tuple[str, ...]:
    """Return the names of the methods in the order of `METHODS`, if this model can do them."""
    able = isinstance(model, MaskedAutoencoder)
    if methods is None:
        return METHODS if able else METHODS[1:]
    named = [methods] if isinstance(methods, str) else methods
    if not isinstance(named, list | tuple) or not named:
        raise _checks.argument_error("methods", f"some of {', '.join(map(repr, METHODS))}", methods)
    for name in named:
        _checks.one_of("methods", name, METHODS)
    if "reconstruction" in named and not able:
        raise ValueError(
            '`methods` must be "neighbors" for a model without a decoder: "reconstruction" takes a MaskedAutoencoder.'
            f" Received: methods={methods!r} for a {type(model).__name__}"
        )
    return tuple(name for name in METHODS if name in named)


def _checked_blocks(blocks: Any, depth: int) -> tuple[int, ...]:
    """Return the indices of blocks from 0."""
    if blocks is None:
        return inner_blocks(depth)
    rule = f"indices of blocks, from {-depth} to {depth - 1}"
    return tuple(index % depth for index in _checks.indices("blocks", blocks, -depth, depth, rule))


def _number_of_images(data: Any) -> int | None:
    """Return the number of images in an array, a pair of arrays, or a dataset of ours; `None` if it is not known."""
    data = data[0] if isinstance(data, tuple) and data else data
    if hasattr(data, "shape"):
        return len(data) if len(data.shape) else None
    source = getattr(getattr(data, "batches", None), "source", None)
    try:
        return None if source is None else len(source)
    except TypeError:
        return None
