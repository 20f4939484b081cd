"""Wrong calls in Python, one group for each function; see `wrong_arguments.py`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from wrong_arguments import (
    BOOLEAN,
    CHOICE,
    COUNT,
    FRACTION,
    INF,
    NAMES,
    NAN,
    NOT_NEGATIVE,
    OPTIONAL_BOOLEAN,
    OPTIONAL_COUNT,
    OPTIONAL_POSITIVE,
    PAIR,
    PATH,
    PIXEL_RANGE,
    POSITIVE,
    SEED,
    SHAPE,
    SHARE,
    UP_TO_ONE,
    Group,
    sweep,
)

import keras_mae
from keras_mae import data, masking, optimizers, recipes, targets, training, transfer, visualize
from keras_mae.convert import exporting

ENCODER = {"image_shape": (8, 8, 3), "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 1}
RNG = np.random.default_rng(0)
BATCH = RNG.integers(0, 256, (4, 8, 8, 3), "uint8")
LABELS = np.array([0, 1, 2, 1])
STRINGS = np.full((2, 8, 8, 3), "a")
OBJECTS = np.array([BATCH[0], None], dtype=object)
IMAGES = (
    None,
    "x",
    3,
    [],
    STRINGS,
    OBJECTS,
    BATCH * 1j,
    BATCH[..., 0],
    BATCH[..., :2],
    BATCH[:0],
    -BATCH.astype("float32"),
    BATCH / 255,
    BATCH % 2,
    BATCH * np.float32(NAN),
    BATCH.astype("datetime64[s]"),
)
ARRAYS = (None, "x", 3, [], STRINGS, OBJECTS, BATCH * 1j)
ANY_LABELS = ("x", 3, LABELS[:2], LABELS + 0.5, -LABELS, np.array(list("abca")), np.stack([LABELS] * 2), [None] * 4)
MODELS = (None, "x", 3, keras_mae.ViTEncoder, keras.layers.Dense(2))
DATASETS = (None, 3, "digits", BATCH, (BATCH, LABELS))
CALLABLE = (3, "x")


@cache
def encoder() -> Any:
    return keras_mae.ViTEncoder(**ENCODER)


@cache
def mae() -> Any:
    return keras_mae.MaskedAutoencoder(encoder(), keras_mae.MAEDecoder(8, 1, 2))


@cache
def classifier() -> Any:
    model = keras_mae.ViTClassifier(encoder(), 3)
    model.compile()
    return model


@cache
def trained() -> Any:
    model = keras_mae.MaskedAutoencoder(keras_mae.ViTEncoder(**ENCODER), keras_mae.MAEDecoder(8, 1, 2))
    model.compile()
    return model


@cache
def batches() -> Any:
    return data.from_arrays(BATCH, LABELS, 2, class_names=("a", "b", "c"), loader="grain")


@cache
def unlabeled() -> Any:
    return data.from_arrays(BATCH, batch_size=2, loader="grain")


def _is_nan(images: np.ndarray) -> bool:
    return images.dtype.kind == "f" and bool(np.isnan(images).any())


def recipe(kind: str = "pretrain", **changes: Any) -> Any:
    small: dict[str, Any] = {"epochs": 2, "warmup_epochs": 0, "batch_size": 2, "crop_area": None}
    kinds: dict[str, Any] = {
        "pretrain": recipes.PretrainRecipe,
        "fine_tune": recipes.FineTuneRecipe,
        "linear_probe": recipes.LinearProbeRecipe,
    }
    return kinds[kind](**{**small, **changes})


def groups(folder: Path) -> list[Group]:
    """Return all groups; `folder` is empty, and the files that calls need are made in it."""
    make_files(folder)
    return [group for section in SECTIONS.values() for group in section(folder)]


def make_files(folder: Path) -> None:
    from PIL import Image

    for number, image in enumerate(BATCH):
        place = folder / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    encoder().save(folder / "encoder.keras")


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
    }
    everywhere: dict[str, Any] = {
        "drop_path_rate": FRACTION,
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
                "final_norm": ("no", None),
                "pixel_range": PIXEL_RANGE,
                "seed": SEED,
                "depth": (3,),
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


def of_optimizers(folder: Path) -> list[Group]:
    rate = {"learning_rate": (-1, "x", NAN, INF, None, [1e-3], True)}
    decay = {"weight_decay": NOT_NEGATIVE}
    keras_own: dict[str, Any] = {
        "clipnorm": OPTIONAL_POSITIVE,
        "clipvalue": OPTIONAL_POSITIVE,
        "global_clipnorm": OPTIONAL_POSITIVE,
        "gradient_accumulation_steps": OPTIONAL_COUNT,
        "use_ema": BOOLEAN,
        "ema_warmup": BOOLEAN,
        "ema_overwrite_frequency": OPTIONAL_COUNT,
        "loss_scale_factor": OPTIONAL_POSITIVE,
    }
    averaging = {"use_ema": True, "ema_momentum": 0.9}
    betas = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NOT_NEGATIVE}
    run: dict[str, Any] = {
        "base_learning_rate": POSITIVE,
        "batch_size": COUNT,
        "total_steps": OPTIONAL_COUNT,
        "warmup_steps": (-1, 1.5, "x", 10, 20, None),
    }
    ours = {"total_steps": 10}
    schedule: dict[str, Any] = {
        "peak": POSITIVE,
        "total_steps": COUNT,
        "warmup_steps": (-1, 1.5, "x", 10, None),
        "minimum": (*NOT_NEGATIVE, 2.0),
    }
    of_adam: dict[str, Any] = {
        "learning_rate_scales": ("x", 3, [-1.0], [NAN], ["a"]),
        "decayed": ("x", 3, ["no"], [1]),
    }
    of_muon: dict[str, Any] = {
        "momentum": FRACTION,
        "adam_beta_1": FRACTION,
        "adam_beta_2": FRACTION,
        "epsilon": NOT_NEGATIVE,
        "adam_lr_ratio": NOT_NEGATIVE,
        "rms_rate": OPTIONAL_POSITIVE,
        "ns_steps": COUNT,
        "exclude_layers": ("x", 3, [3], ["("], None),
        "fused": ("x", 3, {"qkv": 0}, {"qkv": "x"}, {3: 3}),
        "nesterov": BOOLEAN,
    }
    fine: dict[str, Any] = {
        "model": (*MODELS[:4], encoder()),
        "layer_decay": (0, -1, 1.5, "x", NAN, None),
        "minimum_learning_rate": (*NOT_NEGATIVE, 10.0),
        "beta_2": FRACTION,
    }
    return [
        sweep("AdamW", optimizers.AdamW, {}, {**rate, **decay, **betas, **of_adam, **keras_own}),
        sweep("AdamW ", optimizers.AdamW, averaging, {"ema_momentum": FRACTION}),
        sweep(
            "LARS",
            optimizers.LARS,
            {},
            {**rate, **decay, **keras_own, "momentum": FRACTION, "trust_coefficient": POSITIVE},
        ),
        sweep("Muon", optimizers.Muon, {}, {**rate, **decay, **keras_own, **of_muon}),
        sweep(
            "pretraining_adamw", optimizers.pretraining_adamw, ours, {**run, **decay, "decay_steps": OPTIONAL_COUNT}
        ),
        sweep("pretraining_muon", optimizers.pretraining_muon, ours, {**run, **decay, "decay_steps": OPTIONAL_COUNT}),
        sweep("probing_lars", optimizers.probing_lars, ours, run),
        sweep(
            "fine_tuning_adamw",
            optimizers.fine_tuning_adamw,
            {"model": classifier(), **ours},
            {**run, **decay, **fine},
            minimum_learning_rate=("minimum_learning_rate", "minimum"),
        ),
        sweep(
            "layer_decay_scales",
            optimizers.layer_decay_scales,
            {"model": classifier(), "layer_decay": 0.5},
            {"model": (*MODELS[:4], encoder()), "layer_decay": fine["layer_decay"]},
        ),
        sweep("warmup_cosine", optimizers.warmup_cosine, {"peak": 1.0, "total_steps": 10}, schedule),
        sweep(
            "warmup_stable_decay",
            optimizers.warmup_stable_decay,
            {"peak": 1.0, "total_steps": 10, "warmup_steps": 1, "decay_steps": 2},
            {**schedule, "decay_steps": (*COUNT, 20)},
        ),
        sweep("averaged_weights", _entered, {"model": trained()}, {"model": MODELS[:3]}),
    ]


def _entered(model: Any) -> None:
    with optimizers.averaged_weights(model):
        pass


def of_recipes(folder: Path) -> list[Group]:
    common: dict[str, Any] = {
        "epochs": COUNT,
        "warmup_epochs": (-1, 1.5, "x", None, True, 2),
        "batch_size": COUNT,
        "gradient_accumulation_steps": (*COUNT, 3),
        "base_learning_rate": POSITIVE,
        "weight_decay": NOT_NEGATIVE,
        "crop_area": (3, "x", (0, 1), (0.5, 0.2), (0.5, 2), (True, True), (NAN, 1), ("a", "b")),
        "flip": BOOLEAN,
        "evaluation_fraction": SHARE,
        "seed": SEED,
        "source": (*CHOICE, None),
        "changed": ("x", 3, ["nothing"], [3], None),
    }
    pretrain: dict[str, Any] = {
        "beta_1": FRACTION,
        "beta_2": FRACTION,
        "mask_ratio": FRACTION,
        "masking": (*CHOICE, None),
        "mask_cell": COUNT,
        "norm_pix_loss": OPTIONAL_BOOLEAN,
        "target": (*CHOICE, keras_mae.targets.HOG()),
        "masks_per_image": COUNT,
        "predict_ratio": SHARE,
        "decoder": (*CHOICE, None),
        "fuse_blocks": ("x", 0.5, (0.5,), (True, 1), ()),
        "shift": (-0.1, 0.3, "x", NAN, None, True),
        "optimizer_name": (*CHOICE, None),
        "ema_momentum": (-0.1, 1, "x", NAN),
        "schedule": (*CHOICE, None),
        "decay_epochs": (1, 0, "x"),
    }
    fine: dict[str, Any] = {
        "layer_decay": (0, -1, 1.5, "x", NAN, None),
        "drop_path_rate": FRACTION,
        "beta_1": FRACTION,
        "beta_2": FRACTION,
        "minimum_learning_rate": NOT_NEGATIVE,
        "shift": FRACTION,
        "rand_augment": (-1, 11, "x", NAN, None),
        "random_erasing": UP_TO_ONE,
        "mixup": NOT_NEGATIVE,
        "cutmix": UP_TO_ONE,
        "switch_probability": UP_TO_ONE,
        "label_smoothing": FRACTION,
        "pooling": (*CHOICE, None),
        "ema_momentum": (-0.1, 1, "x", NAN),
    }
    probe: dict[str, Any] = {"momentum": FRACTION, "clamp_crops": BOOLEAN, "pooling": (*CHOICE, None)}
    size: dict[str, Any] = {"size": (*CHOICE, None), "source": CHOICE, "images": OPTIONAL_COUNT, "nothing": (3,)}
    kinds: dict[str, Any] = {
        "PretrainRecipe": (recipes.PretrainRecipe, pretrain),
        "FineTuneRecipe": (recipes.FineTuneRecipe, fine),
        "LinearProbeRecipe": (recipes.LinearProbeRecipe, probe),
    }
    small = {"epochs": 2, "warmup_epochs": 0, "crop_area": None, "batch_size": 16}
    found = []
    for name, (kind, own) in kinds.items():
        found.append(sweep(name, kind, small, {**common, **own}))
        found.append(sweep(f"{name}.for_size", kind.for_size, {"size": "small_images"}, size))
    steps = {"steps_per_epoch": COUNT}
    return [
        *found,
        sweep("PretrainRecipe.optimizer", recipe().optimizer, {"steps_per_epoch": 3}, steps),
        sweep(
            "FineTuneRecipe.optimizer",
            recipe("fine_tune").optimizer,
            {"steps_per_epoch": 3, "model": classifier()},
            {**steps, "model": MODELS[:3]},
        ),
        sweep("LinearProbeRecipe.optimizer", recipe("linear_probe").optimizer, {"steps_per_epoch": 3}, steps),
        sweep(
            "Recipe.from_dict",
            recipes.Recipe.from_dict,
            {"values": {"kind": "pretrain"}},
            {"values": (None, 3, "x", [], {"kind": "x"}, {"kind": "pretrain", "x": 1})},
            values=("values", "kind", "x"),
        ),
        sweep("Recipe.evaluation_crop", recipe().evaluation_crop, {"image_size": 8}, {"image_size": COUNT}),
    ]


# === Data ===
def of_arrays(folder: Path) -> list[Group]:
    images = [one for one in IMAGES if not (isinstance(one, np.ndarray) and one.shape == (4, 8, 8))]
    images = [one for one in images if not (isinstance(one, np.ndarray) and one.shape[-1:] == (2,))]
    big = np.zeros((2, 3, 16, 16), "uint8")
    making: dict[str, Any] = {
        "batch_size": (*COUNT[:-1], [1]),
        "shuffle": BOOLEAN,
        "seed": SEED,
        "drop_remainder": BOOLEAN,
        "loader": CHOICE,
        "augment": ("x", 3, data.Augmentation, lambda images: images),
        "crop": ("x", 3, data.RandomResizedCrop),
        "crops_per_image": (*COUNT, 3),
        "shard": ("x", 3, (0,), (2, 2), (-1, 2), (0.0, 1)),
        "workers": OPTIONAL_COUNT,
    }
    right = {"images": BATCH, "labels": LABELS, "batch_size": 2, "loader": "grain"}
    of_array: dict[str, Any] = {
        "images": [*images, big],
        "labels": ANY_LABELS,
        "image_size": [one for one in PAIR if one is not None],
        "class_names": (*NAMES, ["a", "b"]),
        "pixel_range": PIXEL_RANGE,
    }
    source = data.ArraySource(BATCH, LABELS)
    augment: dict[str, Any] = {
        "num_classes": COUNT,
        "flip": BOOLEAN,
        "shift": FRACTION,
        "rand_augment": (-1, 11, "x", NAN, None),
        "random_erasing": UP_TO_ONE,
        "mixup": NOT_NEGATIVE,
        "cutmix": UP_TO_ONE,
        "switch_probability": UP_TO_ONE,
        "label_smoothing": FRACTION,
        "seed": SEED,
        "pixel_range": PIXEL_RANGE,
    }
    ends = (3, "x", (0, 1), (0.5, 0.2), None, (NAN, 1), ("a", "b"), (True, True))
    return [
        sweep("from_arrays", data.from_arrays, right, {**of_array, **making}, labels="abels"),
        sweep("ArraySource", data.ArraySource, {"images": BATCH, "labels": LABELS}, of_array, labels="abels"),
        sweep(
            "make_dataset",
            data.make_dataset,
            {"source": source, "batch_size": 2, "loader": "grain"},
            {"source": (None, BATCH, "digits", [BATCH], data.ArraySource, encoder())},
        ),
        sweep(
            "Subset",
            data.Subset,
            {"source": source, "indices": [0, 1]},
            {
                "source": (None, BATCH, "digits", data.ArraySource),
                "indices": (None, "x", 99, [99], [-5], [0.5], [[0, 1]], [], ["a"], [True, False]),
            },
        ),
        sweep("Augmentation", data.Augmentation, {"num_classes": 3}, augment),
        sweep(
            "RandomResizedCrop",
            data.RandomResizedCrop,
            {},
            {"area": (*ends, (0.5, 2)), "aspect_ratio": (*ends[:-1], (INF, INF)), "flip": BOOLEAN, "clamp": BOOLEAN},
            aspect_ratio=("aspect_ratio",),
        ),
        sweep("RandomCrop", data.RandomCrop, {}, {"shift": (-0.1, 0.3, "x", NAN, None), "flip": BOOLEAN}),
        sweep("CenterCrop", data.CenterCrop, {}, {"fraction": SHARE}),
        sweep(
            "pixel_statistics",
            data.pixel_statistics,
            {"source": BATCH},
            {"source": (*ARRAYS, BATCH[:0]), "channels": (0, 5, "x", 1.5)},
            source=("source", "images", "directory"),
        ),
        sweep("digits", data.digits, {}, {"split": (*CHOICE, None)}),
        sweep(
            "load_builtin", data.load_builtin, {"name": "digits"}, {"name": (*CHOICE, None), "split": (*CHOICE, None)}
        ),
        sweep(
            "fashion_mnist",
            data.fashion_mnist,
            {},
            {"split": (*CHOICE, None), "directory": (3, "nowhere", "", ["x"])},
            check_right=False,
            directory=("directory", "nowhere"),
        ),
        sweep(
            "read_idx", data.read_idx, {}, {"path": (*PATH, "nowhere")}, check_right=False, path=("path", "nowhere")
        ),
    ]


def of_folders(folder: Path) -> list[Group]:
    place = {"directory": (*PATH, "nowhere", "encoder.keras")}
    levels: dict[str, Any] = {"pixel_range": PIXEL_RANGE, "white_level": OPTIONAL_COUNT}
    opening: dict[str, Any] = {
        **place,
        "image_size": PAIR,
        "channels": (0, 2, "x", None, 1.5, True),
        "labeled": ("a", 1, None, []),
        "allow_damaged": UP_TO_ONE,
        **levels,
    }
    right = {"directory": folder / "photos", "image_size": 8}
    preparing: dict[str, Any] = {
        **place,
        "out": (*PATH, folder / "photos", folder / "photos" / "x", folder / "encoder.keras"),
        "short_side": COUNT,
        "format": (*CHOICE, None),
        "images_per_shard": COUNT,
        "quality": (0, 101, "x", 1.5, None, True),
        "labeled": BOOLEAN,
        "allow_damaged": UP_TO_ONE,
        "white_level": OPTIONAL_COUNT,
        "progress": CALLABLE,
    }
    image = folder / "photos" / "a" / "0.png"
    return [
        sweep("FolderSource", data.FolderSource, right, opening),
        sweep("open_directory", data.open_directory, right, {**opening, "class_names": NAMES}),
        sweep(
            "from_directory",
            data.from_directory,
            {**right, "batch_size": 2, "loader": "grain"},
            {**place, "labeled": opening["labeled"], "nothing": (3,), "batch_size": COUNT},
        ),
        sweep(
            "RecordSource",
            data.RecordSource,
            {"files": ["x"]},
            {
                "files": (None, 3, "x", [], [3], ["nowhere"]),
                "image_size": PAIR,
                "channels": (0, 2, "x", None),
                **levels,
            },
            check_right=False,
            files=("files", "nowhere"),
        ),
        sweep(
            "check_directory",
            data.check_directory,
            {"directory": folder / "photos"},
            {**place, **levels, "progress": CALLABLE},
        ),
        sweep("find_damaged", data.find_damaged, {"directory": folder / "photos"}, place),
        sweep(
            "data.prepare",
            data.prepare,
            {"directory": folder / "photos", "out": folder / "shards"},
            preparing,
            check_right=False,
        ),
        sweep(
            "read_image",
            data.read_image,
            {"file": image, "image_shape": (8, 8, 3)},
            {
                "file": (None, 0, 3, "", "nowhere", ["x"], b"", folder),
                "image_shape": (8, (8, 8), (8, 8, 0), (8, 8, 2), "abc", None),
                "crop": ("x", 3, data.CenterCrop),
                **levels,
            },
            file=("file", "nowhere"),
        ),
    ]


def of_datasets(folder: Path) -> list[Group]:
    found = []
    try:
        import tensorflow as tf
    except ImportError:
        pass
    else:
        small = tf.data.Dataset.from_tensor_slices((BATCH, LABELS))
        found.append(
            sweep(
                "from_dataset",
                data.from_dataset,
                {"dataset": small, "batch_size": 2},
                {
                    "dataset": (None, 3, "x", BATCH, small.batch(2).batch(2), tf.data.Dataset.range(3)),
                    "batch_size": COUNT,
                    "image_size": [one for one in PAIR if one is not None],
                    "allow_damaged": UP_TO_ONE,
                    "pixel_range": PIXEL_RANGE,
                    "white_level": OPTIONAL_COUNT,
                    "shuffle": BOOLEAN,
                },
                dataset=("dataset", "mages", "abels"),
            )
        )
    records: dict[str, Any] = {
        "files": (None, 3, [], [3], "", "nowhere", {}),
        "image_size": PAIR,
        "channels": (0, 2, "x"),
        "image_key": (None, 3, ""),
        "label_key": (3, ""),
        "count": OPTIONAL_COUNT,
    }
    stream: dict[str, Any] = {
        "name": (None, 3),
        "items": (None, "x", 3),
        "image_size": PAIR,
        "channels": (*COUNT,),
        "labeled": BOOLEAN,
        "count": (-1, 1.5, "x"),
        "allow_damaged": UP_TO_ONE,
        "class_names": [one for one in NAMES if one != ["a"]],
        "dtype": (*CHOICE, None),
        "sized": BOOLEAN,
        "shuffle_buffer": COUNT,
        "unpack": (3, "x", dict),
    }
    right = {"name": "x", "items": lambda shuffle, seed: None, "image_size": 8, "channels": 3, "labeled": False}
    return [
        *found,
        sweep(
            "from_tfrecords",
            data.from_tfrecords,
            {"files": "x"},
            records,
            check_right=False,
            files=("files", "nowhere", "TensorFlow"),
        ),
        sweep("Stream", data.Stream, right, stream),
        sweep(
            "from_tfds",
            data.from_tfds,
            {"name": "x"},
            {"name": (None, 3, ""), "split": (None, 3), "data_dir": (3, ["x"]), "download": BOOLEAN},
            check_right=False,
        ),
    ]


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
        sweep("open_unlabeled", training.open_unlabeled, photos, {**opening, "allow_damaged": UP_TO_ONE}),
        sweep(
            "open_labeled",
            training.open_labeled,
            photos,
            {**opening, "test": (3, "nowhere", ""), "num_labels": (0, -1, 2.5, "x", 99, True), "seed": SEED},
            test=("test", "directory"),
            data=("data", "directory"),
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
            {**classes, **run, "recipe": (None, 3, "x", recipe())},
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
            "knn_predict",
            transfer.knn_predict,
            {"train": known, "features": features, "k": 2},
            {**neighbors, "features": (None, 3, "x", features[0], features[:, :3], features * NAN, STRINGS[0, 0])},
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
            {**training_options, "cache_features": BOOLEAN, "console": (3, "x")},
            check_right=False,
        ),
    ]


# === Pictures ===
def of_pictures(folder: Path) -> list[Group]:
    shown = (None, "x", 3, [], STRINGS, OBJECTS, BATCH * 1j, BATCH[0], BATCH[:0])
    bands = (9, -1, "x", (0, 1), (0.5,), ())
    looking: dict[str, Any] = {"model": MODELS, "images": IMAGES, "batch_size": COUNT}
    drawing: dict[str, Any] = {"images": shown, "bands": bands, "pixel_range": PIXEL_RANGE}
    maps, tokens = RNG.random((4, 2, 2)), RNG.random((4, 5, 5))
    colors = RNG.integers(0, 256, (4, 2, 2, 3), "uint8")
    result = mae().reconstruct(BATCH)
    text = np.full((4, 2, 2), "a")
    explained: dict[str, Any] = {
        "classifier": (*MODELS, encoder()),
        "images": IMAGES,
        "classes": (3, -1, "x", 0.5, LABELS[:2], LABELS + 0.5),
        "batch_size": COUNT,
    }
    history = {"loss": [1.0, 2.0]}
    histories = (
        None,
        3,
        [],
        {},
        {"x": [1]},
        {"loss": []},
        {"loss": [1, 2], "val_loss": [1]},
        {"loss": [1, 2], "learning_rate": [1]},
        {"loss": ["a", "b"]},
        {"loss": 3},
        {"loss": [[1], [2]]},
        {"loss": [1, 2], "epoch": [1]},
        "nowhere",
        {"a": history, "b": 3},
    )
    attentive = keras_mae.ViTClassifier(encoder(), 3, pooling="attentive")
    return [
        sweep(
            "attention",
            visualize.attention,
            {"model": encoder(), "images": BATCH},
            {**looking, "layers": (2, -3, "x", 0.5, (), (0.5,), [True])},
        ),
        sweep("attention_rollout", visualize.attention_rollout, {"model": encoder(), "images": BATCH}, looking),
        sweep("feature_colors", visualize.feature_colors, {"model": encoder(), "images": BATCH}, looking),
        sweep("position_similarity", visualize.position_similarity, {"model": encoder()}, {"model": MODELS}),
        sweep(
            "patch_maps",
            visualize.patch_maps,
            {"model": encoder(), "attention": tokens},
            {
                "model": MODELS,
                "attention": (None, "x", 3, tokens[:, 0], np.full((5, 5), "a")),
                "query": (3, "x", (0,), (2, 0), (-1, 0), (0.5, 0), (0, "x")),
            },
        ),
        sweep(
            "reconstruct_at",
            visualize.reconstruct_at,
            {"mae": mae(), "images": BATCH, "mask_ratios": (0.5,)},
            {
                "mae": (*MODELS, encoder()),
                "images": IMAGES,
                "mask_ratios": (0.5, None, "x", (), (0,), (1,), (NAN,), ("a",)),
                "seed": SEED,
                "statistics": CHOICE,
            },
            mask_ratios="mask_ratio",
        ),
        sweep(
            "reconstructions",
            visualize.reconstructions,
            {"result": result, "max_images": 1},
            {"result": (None, 3, "x", [], [3], BATCH), "max_images": COUNT, "bands": bands},
        ),
        sweep(
            "overlays",
            visualize.overlays,
            {"images": BATCH, "maps": maps},
            {**drawing, "maps": (None, "x", 3, maps[:2], maps[0], text, {}, {"a": maps[:2]})},
        ),
        sweep(
            "attention_heads",
            visualize.attention_heads,
            {"image": BATCH[0], "maps": RNG.random((1, 1, 2, 2))},
            {
                "image": (None, "x", 3, BATCH, STRINGS[0]),
                "maps": (None, "x", 3, maps, text[None], maps[None, :0]),
                "layers": ((0, 1), "x", 0.5),
                "bands": bands,
                "pixel_range": PIXEL_RANGE,
            },
        ),
        sweep(
            "position_maps",
            visualize.position_maps,
            {"similarity": np.ones((2, 2, 2, 2))},
            {"similarity": (None, "x", 3, maps, np.ones((2, 3, 3, 2)), np.full((2, 2, 2, 2), "a"))},
        ),
        sweep(
            "feature_maps",
            visualize.feature_maps,
            {"images": BATCH, "colors": colors},
            {**drawing, "colors": (None, "x", 3, colors[:2], colors[..., 0], np.full((4, 2, 2, 3), "a"))},
        ),
        sweep(
            "confusion",
            visualize.confusion,
            {"labels": LABELS, "predicted": LABELS, "class_names": ["a", "b", "c"]},
            {
                "labels": (
                    None,
                    "x",
                    3,
                    LABELS + 0.5,
                    LABELS[:2],
                    -LABELS,
                    LABELS + 5,
                    LABELS[:0],
                    ["a"] * 4,
                    [LABELS],
                ),
                "predicted": (None, "x", 3, LABELS + 0.5, LABELS[:2], -LABELS, LABELS + 5, ["a"] * 4),
                "class_names": (None, 3, [], ["a"], [1, 2, 3], ["a", "a", "b"], "abc"),
            },
            class_names=("class_names", "labels"),
        ),
        sweep(
            "curves",
            visualize.curves,
            {"history": history},
            {"history": histories},
            history=("history", "loss", "nowhere"),
        ),
        sweep(
            "read_history",
            visualize.read_history,
            {},
            {"path": (*PATH, "nowhere")},
            check_right=False,
            path=("path", "nowhere", "history file"),
        ),
        sweep(
            "maskings",
            visualize.maskings,
            {"images": BATCH[:1], "patch_size": 4, "kinds": [keras_mae.RandomMasking()]},
            {
                **drawing,
                "patch_size": (*PAIR, 3),
                "kinds": (3, "x", [], [3], keras_mae.RandomMasking(), [keras_mae.RandomMasking]),
                "seed": SEED,
            },
        ),
        sweep("saliency", visualize.saliency, {"classifier": classifier(), "images": BATCH}, explained),
        sweep(
            "smooth_grad",
            visualize.smooth_grad,
            {"classifier": classifier(), "images": BATCH, "samples": 1},
            {**explained, "samples": COUNT, "noise": NOT_NEGATIVE, "seed": SEED},
        ),
        sweep(
            "query_attention",
            visualize.query_attention,
            {"classifier": attentive, "images": BATCH},
            {"classifier": (*MODELS, encoder(), classifier()), "images": IMAGES, "batch_size": COUNT},
        ),
        sweep(
            "query_maps",
            visualize.query_maps,
            {"images": BATCH, "maps": RNG.random((4, 3, 2, 2))},
            {
                **drawing,
                "maps": (None, "x", 3, maps, RNG.random((2, 3, 2, 2))),
                "queries": (3, -1, "x", 0.5, (), [True]),
            },
        ),
        sweep(
            "check_savable",
            visualize.check_savable,
            {"path": "a.png"},
            {"path": (*PATH, "a.xyz", "png")},
            path=("path", "picture's name"),
        ),
        sweep(
            "keras_vis",
            visualize.keras_vis,
            {},
            {"classifier": (*MODELS, encoder())},
            check_right=False,
            classifier=("classifier", "backend"),
        ),
    ]


# === Files ===
def of_files(folder: Path) -> list[Group]:
    path = {"path": (*PATH, "nowhere")}
    heads: dict[str, Any] = {"num_heads": OPTIONAL_COUNT, "decoder_num_heads": OPTIONAL_COUNT}
    loading: dict[str, Any] = {
        **path,
        "norm_pix_loss": OPTIONAL_BOOLEAN,
        "image_shape": (8, (8, 8), "abc", (8, 8, 0)),
        "encoder_only": BOOLEAN,
        "checkpoint_key": (3, ""),
        **heads,
    }
    saved = folder / "encoder.keras"
    named: dict[str, Any] = {"path": ("path", "nowhere")}
    names = {"preset": (*PATH, "nowhere"), "weights": (3, "", "nowhere", ["x"]), "nothing": (3,)}
    preset: dict[str, Any] = {"preset": "mae_vit_micro_patch2_8"}
    return [
        sweep("convert.load", keras_mae.convert.load, {"path": saved}, loading, **named),
        sweep(
            "convert.load_model",
            keras_mae.convert.load_model,
            {"path": saved},
            path,
            path=("path", "nowhere", "model"),
        ),
        sweep(
            "convert.save",
            keras_mae.convert.save,
            {"model": encoder(), "path": folder / "new.keras", "format": "keras"},
            {"model": MODELS, "path": PATH, "format": (*CHOICE, None)},
            check_right=False,
        ),
        sweep(
            "convert.export",
            exporting.export,
            {"model": encoder(), "path": folder / "new.onnx", "format": "onnx"},
            {"model": MODELS, "path": PATH, "format": (*CHOICE, None)},
            check_right=False,
        ),
        sweep(
            "convert.export_ending", keras_mae.convert.export_ending, {"format": "onnx"}, {"format": (*CHOICE, None)}
        ),
        sweep(
            "convert.fetch", keras_mae.convert.fetch, {}, {"name": (*CHOICE, None)}, check_right=False, name="weights"
        ),
        sweep(
            "convert.image_converter_of",
            keras_mae.convert.image_converter_of,
            {},
            {"encoder": MODELS},
            check_right=False,
            encoder=("encoder", "keras_hub", "keras-hub"),
        ),
        sweep(
            "convert.to_keras_hub",
            keras_mae.convert.to_keras_hub,
            {},
            {"model": MODELS},
            check_right=False,
            model=("model", "KerasHub", "keras-hub"),
        ),
        sweep(
            "convert.from_keras_hub",
            keras_mae.convert.from_keras_hub,
            {},
            {"model": MODELS},
            check_right=False,
            model=("model", "keras_hub", "keras-hub"),
        ),
        sweep("save_to_preset", encoder().save_to_preset, {}, {"path": (*PATH, saved)}, check_right=False),
        sweep(
            "ViTEncoder.from_preset",
            keras_mae.ViTEncoder.from_preset,
            preset,
            names,
            preset=("preset", "nowhere"),
            weights=("weights", "nowhere"),
        ),
        sweep(
            "MaskedAutoencoder.from_preset",
            keras_mae.MaskedAutoencoder.from_preset,
            preset,
            {"preset": names["preset"], "decoder": (*CHOICE, None), "masking": (3, "x")},
            preset=("preset", "nowhere"),
        ),
        sweep(
            "ViTClassifier.from_preset",
            keras_mae.ViTClassifier.from_preset,
            {**preset, "num_classes": 3},
            {"preset": names["preset"], "num_classes": COUNT},
            preset=("preset", "nowhere"),
        ),
        sweep(
            "scope",
            _scope,
            {"engine": "none"},
            {"engine": (*CHOICE, None), "model_devices": OPTIONAL_COUNT},
            model_devices=("model_devices", "devices"),
        ),
    ]


def _scope(**options: Any) -> None:
    with keras_mae.distribution.scope(**options):
        pass


SECTIONS = {
    "models": of_models,
    "layers": of_layers,
    "maskings and targets": of_maskings_and_targets,
    "optimizers": of_optimizers,
    "recipes": of_recipes,
    "arrays": of_arrays,
    "folders": of_folders,
    "datasets": of_datasets,
    "training": of_training,
    "transfer": of_transfer,
    "pictures": of_pictures,
    "files": of_files,
}
