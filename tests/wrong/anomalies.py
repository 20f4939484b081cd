"""Wrong calls of what finds anomalies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from wrong_arguments import (
    BOOLEAN,
    CHOICE,
    COUNT,
    NAN,
    OPTIONAL_COUNT,
    PATH,
    PIXEL_RANGE,
    SEED,
    SHAPE,
    Group,
    sweep,
)

from keras_mae import anomaly
from wrong.inputs import ARRAYS, BATCH, IMAGES, MODELS, RNG, encoder, mae

RATIO = (0, 1, -0.1, "x", NAN, [0.5])
VECTORS = (*ARRAYS, BATCH, RNG.random((3, 2)) * NAN)


def of_anomalies(folder: Path) -> list[Group]:
    detector = anomaly.AnomalyDetector(encoder(), quantile=0.5, bank_size=8)
    normal = np.concatenate([BATCH, BATCH])
    detector.fit(normal)
    detector.save(folder / "detector.npz")
    test = anomaly.open_scored(folder / "photos", (8, 8, 3))
    vectors = RNG.random((3, 2))
    return [
        sweep(
            "AnomalyDetector",
            anomaly.AnomalyDetector,
            {"model": mae()},
            {
                "model": MODELS,
                "methods": (*CHOICE, (), ("neighbors", 3)),
                "mask_ratio": RATIO,
                "partitions": COUNT,
                "blocks": (2, -3, 0.5, "x", (), (0, 2)),
                "neighbors": (*COUNT, 10_001),
                "bank_size": COUNT,
                "quantile": (*RATIO, None),
                "seed": SEED,
                "batch_size": COUNT,
            },
        ),
        sweep(
            "AnomalyDetector.fit",
            detector.fit,
            {"normal": normal},
            {
                "normal": (
                    *(one for one in IMAGES if not hasattr(one, "shape")),
                    BATCH / 255,
                    BATCH[..., 0],
                    BATCH[:2],
                )
            },
            normal=("normal", "images", "data"),
        ),
        sweep("AnomalyDetector.fit(progress)", detector.fit, {"normal": normal}, {"progress": BOOLEAN}),
        sweep("AnomalyDetector.score", detector.score, {"images": BATCH}, {"images": IMAGES}),
        sweep("AnomalyDetector.save", detector.save, {"path": folder / "again.npz"}, {"path": (*PATH, "x.zip")}),
        sweep(
            "AnomalyDetector.load",
            anomaly.AnomalyDetector.load,
            {"path": folder / "detector.npz", "model": encoder()},
            {"path": (*PATH, "nowhere.npz", folder / "encoder.keras"), "model": (*MODELS, mae())},
        ),
        sweep(
            "complementary_masks",
            anomaly.complementary_masks,
            {"patches": 4},
            {"patches": (*COUNT, 1), "mask_ratio": (*RATIO, None), "partitions": COUNT, "seed": SEED},
        ),
        sweep(
            "coreset",
            anomaly.coreset,
            {"features": vectors, "size": 2},
            {"features": VECTORS, "size": COUNT, "seed": SEED},
        ),
        sweep(
            "nearest_distances",
            anomaly.nearest_distances,
            {"queries": vectors, "bank": vectors},
            {"queries": (*VECTORS, RNG.random((3, 4))), "bank": VECTORS, "neighbors": (*COUNT, 4)},
        ),
        sweep(
            "auroc",
            anomaly.auroc,
            {"anomalous": [0, 1], "scores": [0.1, 0.2]},
            {
                "anomalous": (None, "x", 3, [], [0, 2], [0, 0], [1, 1], ["a", "b"]),
                "scores": (None, "x", 3, [], [0.1], [0.1, NAN], ["a", "b"], [[0.1, 0.2]]),
            },
        ),
        sweep(
            "open_scored",
            anomaly.open_scored,
            {"directory": folder / "photos", "image_shape": (8, 8, 3)},
            {
                "directory": (*PATH, "nowhere"),
                "image_shape": SHAPE,
                "normal_class": ("", 3, "c"),
                "masks": (3, "", ["x"], "nowhere", folder / "taken"),
                "pixel_range": PIXEL_RANGE,
                "white_level": OPTIONAL_COUNT,
                "max_pixels": OPTIONAL_COUNT,
            },
        ),
        sweep(
            "run_anomaly",
            anomaly.run_anomaly,
            {"detector": detector, "normal": None, "test": test, "run_directory": folder / "anomalies"},
            {
                "detector": (None, "x", encoder()),
                "normal": (normal,),
                "test": (None, "x", BATCH, folder / "photos"),
                "run_directory": PATH,
                "max_pictures": COUNT,
                "progress": BOOLEAN,
            },
        ),
    ]
