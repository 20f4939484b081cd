"""Wrong calls of runs and of the protocols of transfer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import keras
from wrong_arguments import (
    BOOLEAN,
    CHOICE,
    COUNT,
    NAMES,
    NAN,
    NOT_NEGATIVE,
    OPTIONAL_BOOLEAN,
    OPTIONAL_COUNT,
    PAIR,
    PATH,
    PIXEL_RANGE,
    POSITIVE,
    SEED,
    SHAPE,
    UP_TO_ONE,
    Group,
    sweep,
)

from keras_mae import data, loss, planning, training, transfer
from wrong.inputs import (
    ARRAYS,
    BATCH,
    IMAGES,
    LABELS,
    MODELS,
    RNG,
    STRINGS,
    classifier,
    encoder,
    mae,
    recipe,
    trained,
)

DATASETS = (None, 3, "digits", BATCH, (BATCH, LABELS))


@cache
def batches() -> Any:
    return data.from_arrays(BATCH, LABELS, 2, class_names=("a", "b", "c"), loader="grain")


@cache
def unlabeled() -> Any:
    return data.from_arrays(BATCH, batch_size=2, loader="grain")


# === Runs and protocols ===
def of_training(folder: Path) -> list[Group]:
    saving: dict[str, Any] = {"every_steps": OPTIONAL_COUNT, "every_minutes": NOT_NEGATIVE}
    opening: dict[str, Any] = {
        "data": (*PATH, "nowhere"),
        "image_shape": SHAPE,
        "pixel_range": PIXEL_RANGE,
        "white_level": OPTIONAL_COUNT,
    }
    photos = {"data": folder / "photos", "image_shape": (8, 8, 3)}
    images = training.open_unlabeled(**photos)
    labeled = training.open_labeled(**photos)
    source = labeled.train
    others = (None, 3, "x", {}, recipe("linear_probe"))
    pairs = (None, 3, "x", BATCH, (BATCH,), (BATCH, None), (BATCH, LABELS[:2]), (BATCH, LABELS + 0.5))
    run: dict[str, Any] = {
        "dataset": DATASETS,
        "recipe": others,
        "run_directory": PATH,
        "metadata": (3, "x", {"x": object()}, {3: 3, "3": 4}),
        "callbacks": (3, [3], [keras.callbacks.EarlyStopping]),
        "saving": (3, "x", True),
    }
    sources: dict[str, Any] = {"source": (None, BATCH, "digits"), "recipe": (3, "x", {})}
    right = {
        "model": mae(),
        "dataset": unlabeled(),
        "recipe": recipe(norm_pix_loss=False),
        "run_directory": folder / "run",
        "examples": BATCH,
    }
    tuned = {"encoder": encoder(), "dataset": batches(), "test": batches(), "run_directory": folder / "run"}
    classes: dict[str, Any] = {"encoder": MODELS, "test": (None, 3, "x"), "class_names": NAMES}
    pretraining: dict[str, Any] = {"model": (*MODELS, encoder()), "examples": IMAGES, "jit_compile": ("x", 3, 1.5)}
    fine: dict[str, Any] = {"trainable_blocks": (-1, 3, 0.3, "x"), "image_shape": (8, (8, 8), "abc")}
    return [
        sweep("Saving", training.Saving, {}, {"resume": BOOLEAN, **saving}),
        sweep(
            "Checkpoints",
            training.Checkpoints,
            {"directory": folder / "checkpoints", "batches_per_epoch": 2},
            {"directory": PATH, "batches_per_epoch": COUNT, "metadata": run["metadata"], **saving, "keep": COUNT},
        ),
        sweep(
            "Checkpoints.restore",
            training.Checkpoints(folder / "checkpoints", 2).restore,
            {"model": trained()},
            {"model": (*MODELS, mae())},
        ),
        sweep(
            "OnlineProbe",
            training.OnlineProbe,
            {"train": (BATCH, LABELS), "test": (BATCH, LABELS)},
            {"train": pairs, "test": pairs, "every_epochs": COUNT, "recipe": (3, "x", recipe()), "pooling": CHOICE},
        ),
        sweep(
            "Progress",
            training.Progress,
            {"images_per_epoch": 3},
            {"images_per_epoch": COUNT, "console": (3, "x"), "epochs": OPTIONAL_COUNT},
        ),
        sweep("RunDirectory", training.RunDirectory, {"path": "run"}, {"path": PATH}),
        sweep(
            "RunDirectory.next_free",
            training.RunDirectory.next_free,
            {"name": "a"},
            {"name": (None, 3, "", "a/b"), "parent": PATH},
        ),
        sweep(
            "RunDirectory.file", training.RunDirectory("run").file, {"name": "run.json"}, {"name": (*CHOICE, None)}
        ),
        sweep("StopOnNonFinite", training.StopOnNonFinite, {}, {"limit": COUNT}),
        sweep(
            "Watch",
            training.Watch,
            {"examples": BATCH, "directory": folder / "watch"},
            {"examples": (*ARRAYS, BATCH[0], BATCH[:0]), "directory": PATH, "every_epochs": COUNT},
        ),
        sweep(
            "make_plan",
            planning.make_plan,
            {"data": folder / "photos"},
            {
                "pixel_range": [one for one in PIXEL_RANGE if one is not None],
                "white_level": OPTIONAL_COUNT,
                "data": (*PATH, "nowhere", "digits"),
                "hours": POSITIVE,
                "preset": (3, *CHOICE),
                "weights": (3, "", "nowhere"),
                "image_size": [one for one in PAIR if one is not None],
                "patch_size": [one for one in PAIR if one is not None],
                "channels": OPTIONAL_COUNT,
                "epochs": OPTIONAL_COUNT,
                "batch_size": OPTIONAL_COUNT,
                "precision": (3, None, *CHOICE),
                "allow_damaged": UP_TO_ONE,
                "max_pixels": OPTIONAL_COUNT,
                "loader": CHOICE,
                "workers": (-1, 1.5, "x"),
                "say": (3, "x"),
                "progress": (3, "x"),
            },
            check_right=False,
            data=("data", "directory"),
            weights=("weights", "nowhere"),
        ),
        sweep(
            "RankMe",
            training.RankMe,
            {"images": BATCH},
            {"images": (*ARRAYS, BATCH[0], BATCH[:0]), "every_epochs": COUNT, "pooling": CHOICE},
        ),
        sweep(
            "open_rankme",
            training.open_rankme,
            {"images": images},
            {"images": (None, 3, "x", BATCH), "every_epochs": COUNT},
        ),
        sweep("open_unlabeled", training.open_unlabeled, photos, {**opening, "allow_damaged": UP_TO_ONE}),
        sweep(
            "open_labeled",
            training.open_labeled,
            photos,
            {
                **opening,
                "test": (3, "nowhere", ""),
                "validation": (0, 1, -0.1, "x", NAN, True),
                "num_labels": (0, -1, 2.5, "x", 99, True),
                "seed": SEED,
            },
            test=("test", "directory"),
            data=("data", "directory"),
        ),
        sweep(
            "memory",
            training.memory,
            {"model": trained(), "batch": 2},
            {"model": (None, "x", 3, encoder(), mae()), "batch": COUNT},
            check_right=False,  # on TensorFlow there is none
        ),
        sweep("open_test", training.open_test, photos, opening, data=("data", "directory")),
        sweep(
            "UnlabeledImages.feed", images.feed, {"recipe": recipe()}, {"recipe": others, "crops_per_image": COUNT}
        ),
        sweep(
            "LabeledImages.feed",
            labeled.feed,
            {"recipe": recipe("linear_probe")},
            {"recipe": (None, 3, "x", {}, recipe()), "epochs": OPTIONAL_COUNT, "nothing": (3,)},
        ),
        sweep(
            "fit_recipe",
            training.fit_recipe,
            {"recipe": recipe("fine_tune"), "images": 4},
            {"recipe": (None, 3, "x", {}), "images": COUNT, "batch_size": OPTIONAL_COUNT},
        ),
        sweep("evaluation_batches", training.evaluation_batches, {"source": source}, sources),
        sweep("validation_batches", training.validation_batches, {"source": source}, sources),
        sweep(
            "training_batches",
            training.training_batches,
            {"source": source, "recipe": recipe("linear_probe"), "num_classes": 2},
            {
                "source": sources["source"],
                "recipe": (None, 3, "x", {}),
                "num_classes": COUNT,
                "crops_per_image": COUNT,
            },
        ),
        sweep(
            "run_pretraining",
            training.run_pretraining,
            right,
            {**pretraining, **run},
            check_right=False,
            examples=("examples", "images"),
            callbacks="callback",
        ),
        sweep(
            "run_fine_tuning",
            training.run_fine_tuning,
            {**tuned, "recipe": recipe("fine_tune")},
            {**classes, **fine, **run},
            check_right=False,
            callbacks="callback",
            dataset=("dataset", "class_names"),
        ),
        sweep(
            "run_linear_probe",
            training.run_linear_probe,
            {**tuned, "recipe": recipe("linear_probe")},
            {**classes, **run, "recipe": (None, 3, "x", recipe()), "cache_features": OPTIONAL_BOOLEAN},
            check_right=False,
            callbacks="callback",
            dataset=("dataset", "class_names"),
        ),
        sweep(
            "run_knn",
            training.run_knn,
            {**tuned, "k": 2},
            {
                **classes,
                "k": (*COUNT, 99),
                "temperature": POSITIVE,
                "pooling": CHOICE,
                "run_directory": PATH,
                "dataset": DATASETS[:4],
            },
            check_right=False,
            dataset=("dataset", "class_names", "data"),
        ),
        sweep(
            "run_evaluation",
            training.run_evaluation,
            {"classifier": classifier(), "test": batches(), "run_directory": folder / "run"},
            {"classifier": (*MODELS, encoder()), "test": DATASETS[:4], "run_directory": PATH, "class_names": NAMES},
            test=("test", "labels"),
            class_names=("class_names", "class names"),
            check_right=False,
        ),
    ]


def of_transfer(folder: Path) -> list[Group]:
    features = RNG.random((4, 5)).astype("float32")
    known = transfer.Features(features, LABELS)
    bare = (None, 3, "x", features, (features, LABELS))
    others = (*bare, transfer.Features(features, None), transfer.Features(features * NAN, LABELS))
    short = (transfer.Features(features[:3], LABELS), transfer.Features(features[0], LABELS))
    neighbors: dict[str, Any] = {"train": (*others, *short), "k": (*COUNT, 99), "temperature": POSITIVE}
    training_options: dict[str, Any] = {
        "encoder": (*MODELS, classifier()),
        "dataset": DATASETS,
        "num_classes": COUNT,
        "recipe": (None, 3, "x", {}, recipe()),
        "class_names": (*NAMES, ["a", "b"]),
        "jit_compile": ("x", 3, 1.5),
        "nothing": (3,),
    }
    fine = {**training_options, "image_shape": (8, (8, 8), "abc")}
    right = {"encoder": encoder(), "dataset": batches(), "num_classes": 3, "verbose": 0}
    tuned, probed = ({**right, "recipe": recipe(kind)} for kind in ("fine_tune", "linear_probe"))
    return [
        sweep(
            "extract_features",
            transfer.extract_features,
            {"encoder": encoder(), "data": BATCH, "progress": False},
            {
                "encoder": (*MODELS, mae()),
                "data": (*ARRAYS, BATCH[..., 0], BATCH[:0], BATCH / 255),
                "labels": (LABELS[:2], "x", 3),
                "pooling": (*CHOICE, "attentive"),
                "block": (2, -3, 1.5, "x", True),
                "batch_size": COUNT,
                "file": (3, "", "x.txt", ["x"]),
                "progress": BOOLEAN,
            },
            data=("data", "images"),
            labels=("labels", "abels"),
        ),
        sweep(
            "knn_accuracy",
            transfer.knn_accuracy,
            {"train": known, "test": known, "k": 2},
            {**neighbors, "test": (*others, transfer.Features(features[:, :3], LABELS))},
            test=("test", "features"),
        ),
        sweep(
            "balanced_class_weights",
            transfer.balanced_class_weights,
            {"labels": [0, 2, 2], "num_classes": 3},
            {"labels": (None, "x", [], [0.5], [3], [-1]), "num_classes": COUNT},
        ),
        sweep(
            "CrossEntropy",
            loss.CrossEntropy,
            {"class_weights": (1, 2.5)},
            {"class_weights": ("x", [], (1, -1), (1, NAN), ((1, 2),), (True, False))},
        ),
        sweep(
            "knn_predict",
            transfer.knn_predict,
            {"train": known, "features": features, "k": 2},
            {**neighbors, "features": (None, 3, "x", features[0], features[:, :3], features * NAN, STRINGS[0, 0])},
        ),
        sweep(
            "embed",
            transfer.embed,
            {"model": encoder(), "folder": folder / "photos", "out": folder / "a.npz", "progress": False},
            {
                "model": MODELS,
                "folder": (*PATH, "nowhere"),
                "out": (*PATH, "x.txt", "x"),
                "model_file": (3, "", ["x"]),
                "pooling": (*CHOICE, "attentive"),
                "block": (2, -3, 1.5, "x", True),
                "part": (0, "x", (0, 2), (3, 2), (1, 2, 3), (1.5, 2), (1, 99), ("1", "2")),
                "batch_size": COUNT,
                "allow_damaged": UP_TO_ONE,
                "white_level": OPTIONAL_COUNT,
                "max_pixels": OPTIONAL_COUNT,
                "progress": BOOLEAN,
            },
            folder=("folder", "directory"),
        ),
        sweep(
            "ViTClassifier.predict_files",
            classifier().predict_files,
            {"files": folder / "photos"},
            {
                "files": (None, 3, "", [], [3], "nowhere", ["nowhere"]),
                "crop": (3, "x"),
                "part": (0, "x", (0, 2), (3, 2), (1, 2, 3), (1.5, 2), (1, 99), ("1", "2")),
                "batch_size": COUNT,
                "allow_damaged": UP_TO_ONE,
                "white_level": OPTIONAL_COUNT,
                "max_pixels": OPTIONAL_COUNT,
                "progress": BOOLEAN,
            },
            files=("files", "file"),
        ),
        sweep(
            "read_embeddings",
            transfer.read_embeddings,
            {"file": folder / "a.npz"},
            {"file": (*PATH, "x", "nowhere.npz")},
        ),
        sweep(
            "join_embeddings",
            transfer.join_embeddings,
            {"files": [folder / "a.npz"], "out": folder / "b.npz"},
            {"files": (None, 3, "x", [], [3], ["nowhere.npz"]), "out": (*PATH, "x")},
            files="file",
            check_right=False,
        ),
        sweep(
            "nearest",
            transfer.nearest,
            {"features": features, "queries": features, "k": 2},
            {
                "features": (None, 3, "x", features[0], features * NAN, STRINGS[0, 0], features[:0]),
                "queries": (None, 3, "x", features[0], features[:, :3], features * NAN, STRINGS[0, 0]),
                "k": COUNT,
                "exclude": (3, "x", [1], [0.5] * 4),
                "center": BOOLEAN,
            },
        ),
        sweep(
            "rankme",
            transfer.rankme,
            {"features": features},
            {"features": (None, 3, "x", features[0], features * NAN, STRINGS[0, 0], features[:0])},
        ),
        sweep(
            "map_coordinates",
            transfer.map_coordinates,
            {"features": features},
            {
                "features": (None, 3, "x", features[0], features * NAN, STRINGS[0, 0], features[:0]),
                "method": CHOICE,
                "seed": SEED,
                "center": BOOLEAN,
            },
        ),
        sweep("fine_tune", transfer.fine_tune, tuned, fine, check_right=False),
        sweep(
            "partial_fine_tune",
            transfer.partial_fine_tune,
            {**tuned, "trainable_blocks": 1},
            {**fine, "trainable_blocks": (-1, 3, 0.3, "x", True)},
            check_right=False,
        ),
        sweep(
            "linear_probe",
            transfer.linear_probe,
            probed,
            {**training_options, "cache_features": OPTIONAL_BOOLEAN, "console": (3, "x")},
            check_right=False,
        ),
    ]
