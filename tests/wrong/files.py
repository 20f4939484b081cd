"""Wrong calls of what reads and writes files of models, and of distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wrong_arguments import (
    BOOLEAN,
    CHOICE,
    COUNT,
    NAN,
    OPTIONAL_BOOLEAN,
    OPTIONAL_COUNT,
    PATH,
    Group,
    sweep,
)

import keras_mae
from keras_mae.convert import exporting
from wrong.inputs import (
    MODELS,
    encoder,
)


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
            {
                "model": MODELS,
                "path": PATH,
                "format": (*CHOICE, None),
                "input_dtype": (*CHOICE, "int8"),
                "center_crop": (0, 1.5, "x", None, NAN),
                "script": BOOLEAN,
            },
            check_right=False,
        ),
        sweep(
            "convert.how_to_load",
            keras_mae.convert.how_to_load,
            {"model": encoder(), "path": "x.safetensors", "format": "timm"},
            {"model": MODELS, "path": PATH, "format": (*CHOICE, None, "keras")},
        ),
        sweep(
            "convert.push_to_hub",
            keras_mae.convert.push_to_hub,
            {"model": encoder(), "repository": "somebody/model"},
            {
                "model": MODELS,
                "repository": (None, 3, "", "x", "a/b/c", "hf://"),
                "format": (*CHOICE, None, "timm"),
                "private": OPTIONAL_BOOLEAN,
                "message": ("", 3),
                "token": ("", 3),
            },
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
