"""Wrong calls of optimizers, schedules and recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wrong_arguments import (
    BOOLEAN,
    CHOICE,
    COUNT,
    FRACTION,
    INF,
    NAN,
    NOT_NEGATIVE,
    OPTIONAL_BOOLEAN,
    OPTIONAL_COUNT,
    OPTIONAL_POSITIVE,
    POSITIVE,
    SEED,
    SHARE,
    UP_TO_ONE,
    Group,
    sweep,
)

import keras_mae
from keras_mae import optimizers, recipes
from wrong.inputs import (
    MODELS,
    classifier,
    encoder,
    recipe,
    trained,
)


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
        "power": OPTIONAL_POSITIVE,
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
        sweep(
            "warmup_polynomial",
            optimizers.warmup_polynomial,
            {"peak": 1.0, "total_steps": 10},
            {**schedule, "power": POSITIVE},
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
        "flip": BOOLEAN,
        "seed": SEED,
        "source": (*CHOICE, None),
        "changed": ("x", 3, ["nothing"], [3], None),
    }
    whole: dict[str, Any] = {
        "crop_area": (3, "x", (0, 1), (0.5, 0.2), (0.5, 2), (True, True), (NAN, 1), ("a", "b")),
        "evaluation_fraction": SHARE,
        "fast_crops": BOOLEAN,
    }
    pretrain: dict[str, Any] = {
        "beta_1": FRACTION,
        "beta_2": FRACTION,
        "mask_ratio": FRACTION,
        "masking": (*CHOICE, None),
        "mask_cell": COUNT,
        "norm_pix_loss": OPTIONAL_BOOLEAN,
        "target": (*CHOICE, keras_mae.targets.HOG()),
        "band_groups": ("x", 3, (), ((0,), (0,)), ((0, 2),), ((0.5,),), (0, 1)),
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
        "class_weights": CHOICE,
        "best_epoch": OPTIONAL_BOOLEAN,
        "patience": OPTIONAL_COUNT,
        "monitor": (*CHOICE, None),
    }
    segment: dict[str, Any] = {
        "head": (*CHOICE, None),
        "blocks": ("x", 0.5, (0.5,), (True, 1), ()),
        "trainable_blocks": (-1, 0.3, "x", NAN, True, [1]),
        "layer_decay": (0, -1, 1.5, "x", NAN, None),
        "drop_path_rate": FRACTION,
        "beta_1": FRACTION,
        "beta_2": FRACTION,
        "power": POSITIVE,
        "minimum_learning_rate": NOT_NEGATIVE,
        "auxiliary_weight": NOT_NEGATIVE,
        "ema_momentum": (-0.1, 1, "x", NAN),
        "class_weights": CHOICE,
        "scale": (3, "x", None, (0, 1), (2, 1), (NAN, 1)),
        "max_class_share": SHARE,
        "distortion": BOOLEAN,
        "best_epoch": OPTIONAL_BOOLEAN,
        "patience": OPTIONAL_COUNT,
        "monitor": (*CHOICE, None),
    }
    probe: dict[str, Any] = {"momentum": FRACTION, "clamp_crops": BOOLEAN, "pooling": (*CHOICE, None)}
    size: dict[str, Any] = {"size": (*CHOICE, None), "source": CHOICE, "images": OPTIONAL_COUNT, "nothing": (3,)}
    kinds: dict[str, Any] = {
        "PretrainRecipe": (recipes.PretrainRecipe, {**whole, **pretrain}),
        "FineTuneRecipe": (recipes.FineTuneRecipe, {**whole, **fine}),
        "LinearProbeRecipe": (recipes.LinearProbeRecipe, {**whole, **probe}),
        "SegmentationRecipe": (recipes.SegmentationRecipe, segment),
    }
    small = {"epochs": 2, "warmup_epochs": 0, "batch_size": 16}
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
            "SegmentationRecipe.optimizer",
            recipes.SegmentationRecipe().optimizer,
            {"steps_per_epoch": 3, "model": classifier()},
            {**steps, "model": MODELS[:3]},
        ),
        sweep(
            "Recipe.from_dict",
            recipes.Recipe.from_dict,
            {"values": {"kind": "pretrain"}},
            {"values": (None, 3, "x", [], {"kind": "x"}, {"kind": "pretrain", "x": 1})},
            values=("values", "kind", "x"),
        ),
        sweep("Recipe.evaluation_crop", recipe().evaluation_crop, {"image_size": 8}, {"image_size": COUNT}),
    ]
