"""Wrong calls of models, their layers, maskings and targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from wrong_arguments import (
    BOOLEAN,
    CHOICE,
    COUNT,
    FRACTION,
    NAMES,
    NAN,
    NOT_NEGATIVE_COUNT,
    OPTIONAL_BOOLEAN,
    OPTIONAL_COUNT,
    PAIR,
    PATH,
    PIXEL_RANGE,
    POSITIVE,
    SEED,
    SHAPE,
    SHARE,
    Group,
    sweep,
)

import keras_mae
from keras_mae import masking, targets
from wrong.inputs import (
    ANY_LABELS,
    BATCH,
    ENCODER,
    IMAGES,
    LABELS,
    MODELS,
    STRINGS,
    classifier,
    encoder,
    mae,
    trained,
)


def _is_nan(images: np.ndarray) -> bool:
    return images.dtype.kind == "f" and bool(np.isnan(images).any())


# === Models ===
def of_models(folder: Path) -> list[Group]:
    wrong_ids = (np.array([[0, 9]] * 4), np.zeros((4, 2)), np.zeros((3, 2), "int32"), "x", [[0]], np.array([0, 1]))
    dicts = (
        {"images": BATCH, "mask": np.ones((2, 4))},
        {"images": BATCH, "noise": np.ones((3, 4))},
        {"images": BATCH, "ids_keep": np.zeros((4, 1), "int32")},
        {"images": BATCH, "mask": np.full((4, 4), 2)},
        {"images": BATCH, "masks": np.ones((4, 4))},
        {"images": None},
        {"x": BATCH},
    )
    sizes: dict[str, Any] = {
        "mlp_ratio": (*POSITIVE, True),
        "layer_norm_eps": POSITIVE,
        "num_heads": (*COUNT, 3),
        "embed_dim": (*COUNT, 6),
        "depth": COUNT,
        "class_tokens": (-1, 9, 1.5, "x", True),
        "window": OPTIONAL_COUNT,
        "global_blocks": (0, (), (9,), "x"),  # without windows
    }
    everywhere: dict[str, Any] = {
        "drop_path_rate": FRACTION,
        "remat": BOOLEAN,
        "final_norm": BOOLEAN,
        "pixel_mean": ("x", (1, 2), NAN, (NAN, 1, 1), [None] * 3, {}),
        "pixel_std": ("x", (1, 2), NAN, 0, -1, (1, 1, 0)),
        "pixel_range": PIXEL_RANGE,
        "seed": SEED,
        "image_shape": SHAPE,
        "patch_size": (*PAIR, 3),
    }
    of_mae: dict[str, Any] = {
        "encoder": MODELS,
        "decoder": (*MODELS[1:], keras_mae.MAEDecoder),
        "masking": (0.75, "random", 3, keras_mae.RandomMasking, lambda noise, grid: None),
        "norm_pix_loss": OPTIONAL_BOOLEAN,
        "target": ("x", 3, 0.5, [], keras_mae.targets.HOG, keras.layers.Dense(2)),
        "band_groups": ("x", 3, (), ((0,), (1,)), ((0, 1, 2),), ((0, 0), (1, 2)), (0, 1, 2)),
        "masks_per_image": COUNT,
        "predict_ratio": SHARE,
        "fuse_blocks": (0, 1, (0,), "x", (0, 5), (0.5, 1), (True, 1)),
        "seed": SEED,
    }
    fit: dict[str, Any] = {
        "epochs": COUNT,
        "batch_size": OPTIONAL_COUNT,
        "steps_per_epoch": OPTIONAL_COUNT,
        "validation_batch_size": OPTIONAL_COUNT,
        "validation_steps": OPTIONAL_COUNT,
        "validation_freq": (0, -1, "x", None),
        "validation_split": (-0.1, 1.5, "x"),
        "initial_epoch": (-1, 1.5, "x", None),
        "callbacks": (3, [3], "x", [keras.callbacks.EarlyStopping]),
        "shuffle": BOOLEAN,
        "verbose": ("x", 7, 1.5),
    }
    images = [one for one in IMAGES if not isinstance(one, np.ndarray) or (one.size and not _is_nan(one))]
    of_fit = sweep("MaskedAutoencoder.fit", trained().fit, {"x": BATCH, "verbose": 0}, fit, check_right=False)
    of_x = sweep(
        "MaskedAutoencoder.fit ",
        trained().fit,
        {"x": BATCH, "verbose": 0},
        {"x": [*images, *dicts, [BATCH, BATCH]], "sample_weight": (LABELS[:2], "x", 3)},
        check_right=False,
        x=("images", "mask", "noise", "ids_removed"),
    )
    labels = sweep(
        "ViTClassifier.fit",
        classifier().fit,
        {"x": BATCH, "y": LABELS, "verbose": 0},
        {"x": images, "y": [*ANY_LABELS, None], "epochs": COUNT, "batch_size": OPTIONAL_COUNT},
        check_right=False,
        x="images",
        y=("abels", "`y`"),
    )
    calls = [
        sweep("ViTEncoder", keras_mae.ViTEncoder, ENCODER, {**sizes, **everywhere}),
        sweep(
            "ViTEncoder.copy",
            encoder().copy,
            {},
            {
                "image_shape": SHAPE,
                "drop_path_rate": FRACTION,
                "remat": BOOLEAN,
                "final_norm": ("no", None),
                "pixel_range": PIXEL_RANGE,
                "seed": SEED,
                "depth": (3,),
                "window": OPTIONAL_COUNT,
                "global_blocks": (0, (), (9,), "x"),
            },
        ),
        sweep(
            "ViTEncoder.features",
            encoder().features,
            {"images": BATCH},
            {
                "images": [*IMAGES, BATCH[:, :7]],
                "blocks": (2, -3, 0.5, "x", (), (0, 0), (1, -1), (True,), [None]),
                "norm": BOOLEAN,
                "pad": BOOLEAN,
            },
        ),
        sweep(
            "encoder()",
            lambda images, ids_keep: encoder()(images, ids_keep=ids_keep),
            {"images": BATCH, "ids_keep": np.array([[0, 1]] * 4)},
            {"images": images, "ids_keep": wrong_ids},
        ),
        sweep("encoder.predict", encoder().predict, {"x": BATCH}, {"x": images}, check_right=False, x="images"),
        sweep(
            "MaskedAutoencoder",
            lambda **k: keras_mae.MaskedAutoencoder(**k),
            {"encoder": encoder(), "decoder": mae().decoder},
            of_mae,
        ),
        sweep(
            "MaskedAutoencoder.copy",
            mae().copy,
            {},
            {"masking": (3, "random"), "masks_per_image": COUNT, "seed": SEED, "target": ("hog",), "dtype": (3,)},
        ),
        sweep(
            "MaskedAutoencoder.reconstruct",
            mae().reconstruct,
            {"images": BATCH},
            {
                "images": IMAGES,
                "mask": (
                    "x",
                    3,
                    np.ones((4, 3)),
                    np.ones((2, 4)),
                    np.ones((4, 4)),
                    np.full((4, 4), 0.5),
                    STRINGS[:, 0],
                ),
                "seed": SEED,
                "statistics": CHOICE,
                "batch_size": COUNT,
            },
        ),
        sweep(
            "ViTSegmenter",
            lambda **k: keras_mae.ViTSegmenter(**k),
            {"encoder": encoder(), "num_classes": 3},
            {
                "encoder": MODELS,
                "num_classes": (*COUNT, 1),
                "head": (*CHOICE, None),
                "auxiliary_weight": (-1, "x", NAN, None),
                "blocks": (-3, 2, 1.5, "x", (), (1, 0), (1, 1)),
                "drop_path_rate": (-0.1, 1, "x", NAN),
                "image_shape": (8, (8, 8), (8, 8, 0), "abc", (8, 8, 3, 1), ()),
                "trainable_blocks": (-1, 3, 0.3, "x", True, NAN),
                "class_names": (*NAMES, ["a", "b"]),
                "ignore_label": (*NOT_NEGATIVE_COUNT, 2),
                "reduce_zero_label": OPTIONAL_BOOLEAN,
                "copy": BOOLEAN,
            },
        ),
        sweep(
            "DetectionBackbone",
            lambda **k: keras_mae.DetectionBackbone(**k),
            {"encoder": keras_mae.ViTEncoder((8, 16, 3), 4, 12, 1, 3)},
            {
                "encoder": (*MODELS, keras_mae.ViTEncoder((12, 12, 3), 6, 12, 1, 3)),
                "image_shape": (8, (8, 8), (8, 8, 0), (8, 12, 3), (8, 8, 1), "abc", ()),
                "min_level": (-1, 4, 1.5, "x", NAN, True),
                "width": COUNT,
                "copy": BOOLEAN,
            },
        ),
        sweep(
            "ViTSegmenter.predict",
            lambda images, **k: keras_mae.ViTSegmenter(encoder(), 3).predict(images, **k),
            {"images": [BATCH[0]]},
            {
                "images": (None, "x", [], [np.zeros((8, 8))], [np.zeros((4, 4, 3))]),
                "stride": (*PAIR[:4], *PAIR[5:], 9),
                "pad": BOOLEAN,
                "batch_size": OPTIONAL_COUNT,
            },
        ),
        sweep(
            "ViTClassifier",
            lambda **k: keras_mae.ViTClassifier(**k),
            {"encoder": encoder(), "num_classes": 3},
            {
                "encoder": MODELS,
                "num_classes": COUNT,
                "pooling": (*CHOICE, None),
                "drop_path_rate": (-0.1, 1, "x", NAN),
                "image_shape": (8, (8, 8), (8, 8, 0), "abc", (8, 8, 3, 1), ()),
                "trainable_blocks": (-1, 3, 0.3, "x", True, NAN),
                "batch_norm": BOOLEAN,
                "class_names": (*NAMES, ["a", "b"]),
                "copy": BOOLEAN,
            },
        ),
    ]
    return [*calls, of_fit, of_x, labels]


def _of_dense() -> list[Group]:
    level = np.zeros((2, 4, 4, 8), "float32")
    maps: Any = (None, "x", [], level[0], [level[0]], {"a": level}, [level] * 5)
    heads = {"num_classes": COUNT, "dropout_rate": FRACTION}
    small, classes = level[:, :1], np.zeros((2, 4, 4), int)
    return [
        sweep(
            "dense.SimplePyramid",
            keras_mae.dense.SimplePyramid,
            {"width": 8},
            {"width": COUNT, "p6": BOOLEAN, "scales": (2, None, "x", (), (3,), (1, 2), (1, 1))},
        ),
        sweep(
            "dense.UPerHead",
            keras_mae.dense.UPerHead,
            {"num_classes": 3},
            {**heads, "width": OPTIONAL_COUNT, "pool_scales": (0, (), (0, 1), "x", None, (1.5,))},
        ),
        sweep("dense.FCNHead", keras_mae.dense.FCNHead, {"num_classes": 3}, {**heads, "width": COUNT}),
        sweep("dense.LinearHead", keras_mae.dense.LinearHead, {"num_classes": 3}, heads),
        *(
            sweep(
                f"dense.{kind.__name__}",
                kind,
                {"num_classes": 3},
                {"num_classes": COUNT, "ignore_label": (*NOT_NEGATIVE_COUNT, 2)},
            )
            for kind in (keras_mae.dense.MeanIoU, keras_mae.dense.PixelAccuracy, keras_mae.dense.ClassAccuracy)
        ),
        sweep(
            "dense.PixelCrossEntropy",
            keras_mae.dense.PixelCrossEntropy,
            {"class_weights": (1, 2.5)},
            {
                "ignore_label": NOT_NEGATIVE_COUNT,
                "class_weights": ("x", [], (1, -1), (1, NAN), ((1, 2),), (True, False)),
            },
        ),
        sweep(
            "dense.confusion",
            keras_mae.dense.confusion,
            {"labels": classes, "predictions": classes, "num_classes": 3},
            {
                "labels": (None, "x", classes[0], classes + 0.5, classes + 9),
                "predictions": (None, "x", classes[0], classes + 0.5, classes + 9),
                "num_classes": COUNT,
                "ignore_label": (*NOT_NEGATIVE_COUNT, 2),
            },
        ),
        sweep(
            "dense.scores_of",
            keras_mae.dense.scores_of,
            {"confusion": np.eye(3, dtype=int)},
            {"confusion": (None, "x", [], np.eye(3), -np.eye(3, dtype=int), np.ones((2, 3), int), 3)},
        ),
        sweep(
            "dense.window_starts",
            keras_mae.dense.window_starts,
            {"size": 9, "window": 4, "stride": 3},
            {"size": COUNT, "window": COUNT, "stride": (*COUNT, 5)},
        ),
        sweep(
            "dense.MultiLevelNeck()",
            keras_mae.dense.MultiLevelNeck(),
            {"maps": [level] * 4},
            {"maps": [*maps, [level] * 3, [level, level, level, small]]},
        ),
        sweep(
            "dense.SimplePyramid()",
            keras_mae.dense.SimplePyramid(8),
            {"maps": level},
            {"maps": [*maps, [level] * 2, small, level[..., :6], keras.KerasTensor((None, None, 4, 8))]},
        ),
        sweep(
            "dense.LinearHead()",
            keras_mae.dense.LinearHead(3),
            {"maps": level},
            {"maps": [*maps[:-1], [level, small]]},
        ),
    ]


def of_layers(folder: Path) -> list[Group]:
    ratio = {"mlp_ratio": POSITIVE}
    of_patches: dict[str, Any] = {
        "patch_size": PAIR,
        "embed_dim": COUNT,
        "pixel_mean": ("x", None, [NAN], ["a"], []),
        "pixel_std": ("x", None, [0], [-1], [NAN], ["a"], []),
    }
    patches = {"patch_size": 4, "embed_dim": 8, "pixel_mean": [0.0], "pixel_std": [1.0]}
    decoder: dict[str, Any] = {
        "embed_dim": (*COUNT, 6),
        "depth": COUNT,
        "num_heads": (*COUNT, 3),
        "mlp_ratio": POSITIVE,
        "layer_norm_eps": POSITIVE,
        "image_shape": (8, (8, 8), (8, 8, 0), "abc"),
        "patch_size": (0, -1, 1.5, "x", (8,)),
        "class_tokens": (-1, 9, 1.5, "x", True),
        "output_dim": OPTIONAL_COUNT,
        "remat": BOOLEAN,
    }
    small = {"embed_dim": 8, "depth": 1, "num_heads": 2}
    split: dict[str, Any] = {"images": (None, "x", BATCH[0]), "patch_size": (*PAIR, 3)}
    grids: Any = (None, 3, (2,), (0, 2), (2, 2.5), "ab", (3, 3))
    return [
        sweep("MAEDecoder", keras_mae.MAEDecoder, small, decoder),
        sweep("CrossAttentionDecoder", keras_mae.CrossAttentionDecoder, small, decoder),
        sweep("DropPath", keras_mae.DropPath, {"drop_path_rate": 0.1}, {"drop_path_rate": FRACTION}),
        sweep(
            "TransformerBlock",
            keras_mae.TransformerBlock,
            {"num_heads": 2},
            {"num_heads": COUNT, **ratio, "drop_path_rate": FRACTION, "layer_norm_eps": POSITIVE},
        ),
        *_of_dense(),
        sweep("AttentivePooling", keras_mae.AttentivePooling, {}, {"num_queries": COUNT}),
        sweep("PatchEmbedding", keras_mae.PatchEmbedding, patches, of_patches),
        sweep("BlockFusion", keras_mae.fusion.BlockFusion, {"num_blocks": 2}, {"num_blocks": (*COUNT, 1)}),
        sweep("patchify", keras_mae.patchify, {"images": BATCH, "patch_size": 4}, split),
        sweep(
            "unpatchify",
            keras_mae.unpatchify,
            {"patches": np.ones((2, 4, 48)), "patch_size": 4, "image_shape": (8, 8, 3)},
            {
                "patches": (None, "x", np.ones((2, 4))),
                "patch_size": (*PAIR, 3),
                "image_shape": (8, (8, 8), (8, 8, 0), "abc", None),
            },
        ),
        sweep(
            "sincos_positions",
            keras_mae.sincos_positions,
            {"grid": (2, 3), "embed_dim": 8},
            {"grid": (*grids[2:-1], None), "embed_dim": (*COUNT, 6)},
        ),
        sweep(
            "resize_positions",
            keras_mae.resize_positions,
            {"table": np.ones((5, 8)), "old_grid": (2, 2), "new_grid": (4, 4)},
            {"table": (None, "x", np.ones((4, 8)), np.ones(5)), "old_grid": grids, "new_grid": (*grids[2:-1], None)},
            old_grid=("grid", "table"),
            new_grid="grid",
        ),
        sweep(
            "presets.get", keras_mae.presets.get, {"name": "mae_vit_micro_patch2_8"}, {"name": CHOICE}, name="preset"
        ),
    ]


def of_maskings_and_targets(folder: Path) -> list[Group]:
    ratio = {"mask_ratio": FRACTION}
    masks = (None, "x", 3, np.ones((2, 3)), np.full((2, 4), 2), np.ones((2, 4)), np.array([["a"] * 4] * 2))
    half = np.array([[0, 1, 0, 1]] * 2)
    return [
        sweep("RandomMasking", keras_mae.RandomMasking, {}, {**ratio, "cell": COUNT}),
        sweep("BlockMasking", keras_mae.BlockMasking, {}, ratio),
        sweep("GridMasking", keras_mae.GridMasking, {}, {"mask_ratio": (*FRACTION, 0.5)}),
        sweep("NoiseMasking", keras_mae.NoiseMasking, {}, {**ratio, "color": (*CHOICE, None)}),
        sweep(
            "masking.make",
            masking.make,
            {},
            {"name": (*CHOICE, None), **ratio, "cell": COUNT},
            name="masking",
            cell=("cell", "mask_cell"),
        ),
        sweep(
            "explicit_mask",
            masking.explicit_mask,
            {"mask": half, "grid": (2, 2)},
            {
                "mask": masks,
                "grid": (None, "ab", (2, 2.5), (0, 2), (2,)),
                "num_kept": (0, -1, 1.5, "x", 3, 9),
                "patch_size": ("x", 0, (2,), 1.5),
            },
            num_kept=("num_kept", "mask"),
        ),
        sweep("HOG", targets.HOG, {}, {"cell": OPTIONAL_COUNT, "orientations": COUNT}),
        sweep("LowPass", targets.LowPass, {}, {"cutoff": POSITIVE}),
        sweep(
            "Teacher",
            lambda **k: targets.Teacher(**k),
            {"encoder": keras.Sequential([keras.layers.Dense(4)])},
            {
                "encoder": (None, "x", 3, keras_mae.ViTEncoder, lambda images: images),
                "image_shape": SHAPE[:4],
                "pixel_range": [one for one in PIXEL_RANGE if one is not None],
                "class_tokens": (-1, 1.5, "x", True),
            },
        ),
        sweep("Teacher.from_preset", targets.Teacher.from_preset, {}, {"preset": PATH}, check_right=False),
    ]
