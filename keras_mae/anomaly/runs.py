"""Runs that score a folder's images and leave scores, pictures and the fitted detector."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae import _checks, visualize
from keras_mae.anomaly.detector import AnomalyDetector
from keras_mae.anomaly.folders import ScoredImages
from keras_mae.anomaly.scores import MEAN, auroc
from keras_mae.training.directory import RunDirectory, RunFile
from keras_mae.training.pictures import draw
from keras_mae.visualize.figures import checked_bands

__all__ = ["run_anomaly"]


def run_anomaly(
    detector: AnomalyDetector,
    normal: Any,
    test: ScoredImages,
    run_directory: str | Path,
    *,
    max_pictures: int = 12,
    bands: int | Sequence[int] | None = None,
    progress: bool = False,
) -> Path:
    """Fit a detector on normal images, score others, and leave what was found.

    The run directory holds `scores.csv`, a line for each image, the highest score first; `metrics.json`, with the
    area under the ROC curve of images and of pixels if it is known which are anomalous; `heat_maps.png`, of the
    images with the highest scores; and `detector.npz`, for `AnomalyDetector.load`.

    Args:
        detector: `AnomalyDetector`, fitted or not.
        normal: Normal images, as `AnomalyDetector.fit` takes them; `None` for a detector that is fitted.
        test: Images to score, which `open_scored` returned.
        run_directory: Folder for the results, new or empty.
        max_pictures: Largest number of images to draw.
        bands: Channels of these images to show, as in `keras_mae.visualize.reconstructions`.
        progress: Whether to show progress bars.

    Returns:
        Path of the run directory; `training.RunDirectory` reads what is in it.

    Raises:
        ValueError: If `run_directory` holds files, an argument is wrong, or the model does not take the images.

    Example:
        >>> detector = keras_mae.anomaly.AnomalyDetector(mae)
        >>> test = keras_mae.anomaly.open_scored("photos/new", mae.encoder.image_shape)
        >>> keras_mae.anomaly.run_anomaly(detector, normal_images, test, "runs/anomaly-new-1")
    """
    _checks.instance("detector", detector, AnomalyDetector)
    _checks.instance("test", test, ScoredImages, "what keras_mae.anomaly.open_scored returns")
    _checks.positive_int("max_pictures", max_pictures)
    _checks.boolean("progress", progress)
    checked_bands(bands, detector.encoder.image_shape[2])
    directory = RunDirectory(_checks.path("run_directory", run_directory))
    directory.check_free()
    if (normal is None) != (detector.fitted is not None):
        raise _checks.argument_error("normal", "normal images, and None for a detector that is fitted", normal)
    with directory.opened(free=True):
        if normal is not None:
            detector.fit(normal, progress=progress)
        found = _Found(detector, test, max_pictures, progress)
        directory.write(RunFile.SCORES, found.write_scores)
        directory.write_json(RunFile.METRICS, found.metrics())
        directory.write(RunFile.DETECTOR, detector.save)
        draw(directory, RunFile.HEAT_MAPS, lambda: found.heat_maps(bands))
    return directory.path


class _Found:
    """The scores of all images, and the maps of those with the highest; all maps if there are masks to compare."""

    def __init__(self, detector: AnomalyDetector, test: ScoredImages, max_pictures: int, progress: bool):
        self.detector, self.test, self.pictures = detector, test, max_pictures
        self.names = (*detector.methods, MEAN)
        scores: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        pixels: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        defects = []
        self._highest: list[tuple[float, int, dict[str, np.ndarray]]] = []
        starts: Any = range(0, len(test), detector.batch_size)
        if progress:
            from rich.progress import track

            starts = track(starts, "scores", transient=True)
        for start in starts:
            indices = np.arange(start, min(start + detector.batch_size, len(test)))
            part = detector.score(test.images(indices))
            self.threshold = part.threshold
            for name in self.names:
                scores[name].append(part.scores[name])
            if test.masks is not None:
                defects.append(test.defects(indices))
                for name in self.names:
                    pixels[name].append(part.maps[name])
            for place, index in enumerate(indices):
                maps = {name: part.maps[name][place].copy() for name in self.names}
                heapq.heappush(self._highest, (float(part.scores[MEAN][place]), -int(index), maps))
                if len(self._highest) > max_pictures:
                    heapq.heappop(self._highest)
        self.scores = {name: np.concatenate(parts) for name, parts in scores.items()}
        self.of_pixels = None
        if defects and 0 < (marked := np.concatenate(defects)).mean() < 1:
            self.of_pixels = {name: auroc(marked, np.concatenate(parts)) for name, parts in pixels.items()}

    def metrics(self) -> dict[str, Any]:
        """Return what `metrics.json` holds."""
        anomalous, fitted = self.test.anomalous, self.detector.fitted
        separable = anomalous is not None and 0 < anomalous.mean() < 1
        return {
            "images": len(self.test),
            "above_threshold": int((self.scores[MEAN] > self.threshold).sum()),
            "anomalous": None if anomalous is None else int(anomalous.sum()),
            "auroc": {name: auroc(anomalous, self.scores[name]) for name in self.names} if separable else None,
            "pixel_auroc": self.of_pixels,
            "threshold": self.threshold,
            "normal_images": getattr(fitted, "images", None),
            "held_out": getattr(fitted, "held_out", None),
            **self.detector.settings,
            "backend": keras.backend.backend(),
        }

    def write_scores(self, path: Path) -> None:
        """Write a line for each image, the highest score first."""
        known = self.test.anomalous
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["file", *self.names, "above_threshold", *([] if known is None else ["anomalous"])])
            for index in np.argsort(-self.scores[MEAN], kind="stable"):
                values = [f"{float(self.scores[name][index]):.6g}" for name in self.names]
                above = int(self.scores[MEAN][index] > self.threshold)
                last = [] if known is None else [int(known[index])]
                writer.writerow([self.test.names[index], *values, above, *last])

    def heat_maps(self, bands: int | Sequence[int] | None = None) -> Any:
        """Return the picture of the images with the highest scores."""
        ordered = sorted(self._highest, key=lambda one: one[:2], reverse=True)
        indices = [-place for _, place, _ in ordered]
        maps = {name: np.stack([one[2][name] for one in ordered]) for name in self.names}
        return visualize.heat_maps(
            self.test.images(indices),
            maps,
            names=[f"{self.test.names[index]} ({self.scores[MEAN][index]:.1f})" for index in indices],
            defects=None if self.test.masks is None else self.test.defects(indices),
            bands=bands,
            pixel_range=self.detector.encoder.pixel_range,
        )
