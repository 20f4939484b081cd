"""KerasHub's `ViTBackbone` and `ViTImageClassifier`, and what they are here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from keras_mae import _checks, _files
from keras_mae._optional import require
from keras_mae.classifier import ViTClassifier
from keras_mae.convert import limits, metadata
from keras_mae.convert.layout import Converted, Hints, Layout, Sizes
from keras_mae.convert.state_dict import Files, StateDict
from keras_mae.convert.weight_map import Kind, Rule, Transform, save_weights
from keras_mae.encoder import ViTEncoder

__all__ = ["KerasHub", "from_keras_hub", "image_converter_of", "to_keras_hub"]

_METADATA = f"{metadata.KEY}.json"
_WEIGHTS = ("model.weights.h5", "task.weights.h5")


class KerasHub(Layout):
    """Presets of KerasHub, which its own classes read and write."""

    name = "keras_hub"

    def matches(self, files: Files) -> bool:
        config = files.path / "config.json"
        is_preset = (files.path / "metadata.json").is_file() and config.is_file()
        return is_preset and b"keras_hub" in config.read_bytes()

    def read(self, files: Files) -> StateDict:
        """Return the weights of the model in a preset, and its sizes."""
        hub, path = _package(), files.path
        if files.checkpoint_key is not None:
            raise ValueError(f"A KerasHub preset holds one model. Received: checkpoint_key={files.checkpoint_key!r}")
        said = _files.read_json(path / _METADATA) if (path / _METADATA).is_file() else None
        config = _files.read_json(path / "config.json")
        if config.get("class_name") != "ViTBackbone":
            raise ValueError(f"The KerasHub preset {str(path)!r} is no ViTBackbone")
        _check_sizes(files, config)
        try:
            if (path / "task.json").is_file():
                return _state_of(hub.models.ViTImageClassifier.from_preset(str(path)), said=said)
            converter = None
            model = hub.models.ViTBackbone.from_preset(str(path))
            if (path / "image_converter.json").is_file():
                converter = hub.layers.ViTImageConverter.from_preset(str(path))
        except OSError as error:
            raise ValueError(f"The KerasHub preset {str(path)!r} is damaged: {error}") from error
        return _state_of(model, converter, said)

    def kind(self, state: StateDict) -> Kind:
        return "classifier" if "num_classes" in state.config else "encoder"

    def sizes(self, state: StateDict, hints: Hints) -> Sizes:
        encoder = state.config["encoder"]
        hints.check_heads(state, encoder["num_heads"])
        height, width, channels = state.config["image_shape"]
        return Sizes(encoder, channels, image_size=(height, width))

    def head(self, state: StateDict) -> dict[str, Any]:
        return {"num_classes": state.config["num_classes"], "pooling": "token"}

    def rules(self, model: Any, state: StateDict | None = None) -> list[Rule]:
        encoder = getattr(model, "encoder", model)
        stem, blocks = "vit_patching_and_embedding", "vit_encoder"
        (height, width), channels = encoder.patch_size, encoder.image_shape[2]
        patches = Transform(
            lambda arrays: arrays[0].reshape(-1, arrays[0].shape[-1]),
            lambda weight: [weight.reshape(height, width, channels, -1)],
        )
        rules = [
            Rule((f"{stem}/class_token",), "encoder.class_token"),
            Rule((f"{stem}/position_embedding/embeddings",), "encoder.positions"),
            Rule((f"{stem}/patch_embedding/kernel",), "encoder.patches.kernel", patches),
            Rule((f"{stem}/patch_embedding/bias",), "encoder.patches.bias"),
        ]
        for index in range(encoder.depth):
            rules += _block(f"{blocks}/transformer_block_{index + 1}", f"encoder.{index}", encoder.num_heads)
        rules += _pair(f"{blocks}/ln", "encoder.norm", ("gamma", "beta"))
        return rules if encoder is model else rules + _pair("head", "head", ("kernel", "bias"))

    def refuse(self, model: Any) -> None:
        if not isinstance(model, ViTEncoder | ViTClassifier):
            raise ValueError(
                f"KerasHub takes a ViTEncoder, such as mae.encoder, or a ViTClassifier. Received: {model!r}"
            )
        if isinstance(model, ViTClassifier) and (model.pooling != "token" or model.batch_norm):
            what = "a BatchNorm before its head" if model.batch_norm else f"pooling={model.pooling!r}"
            raise ValueError(
                'KerasHub\'s ViTImageClassifier has the class token (its "gap" averages that token too, which MAE '
                f"does not) and no norm behind it. Received: a classifier with {what}"
            )
        super().refuse(model)
        encoder = model.encoder if isinstance(model, ViTClassifier) else model
        if encoder.norm is None:
            raise ValueError("KerasHub's ViTBackbone has a final norm. Received: an encoder with final_norm=False")

    def write(self, model: Any, path: Path) -> None:
        """Write a preset of an encoder or a classifier, with its image converter."""
        theirs = to_keras_hub(model)
        # KerasHub writes HDF5 itself, which a full disk crashes.
        _files.check_room(path.parent, 4 * theirs.count_params() + 2048 * len(theirs.weights))
        theirs.save_to_preset(str(path))
        (path / _METADATA).write_text(metadata.encoded(metadata.metadata_of(model)) + "\n", encoding="utf-8")
        if isinstance(model, ViTEncoder):  # a classifier's preprocessor has it
            image_converter_of(model).save_to_preset(str(path))


def _package() -> Any:
    return require("keras_hub", "Exchanging models with KerasHub")


def _check_sizes(files: Files, backbone: dict[str, Any]) -> None:
    """Raise a `ValueError` if a preset asks for more than its weights hold, which KerasHub would allocate first."""
    path, held = files.path, 0
    for name in _WEIGHTS:
        if (path / name).is_file():
            limits.check_size(path / name, files.max_parameters)
            held += limits.check_hdf5(path / name, str(path / name))
    for config in (backbone, _files.read_json(path / "task.json") if (path / "task.json").is_file() else {}):
        limits.check_config(str(path), config, held, files.max_parameters)


# === From KerasHub ===
def from_keras_hub(model: Any, **encoder: Any) -> Converted:
    """Return a `ViTEncoder` or `ViTClassifier` with the weights of a KerasHub model.

    Args:
        model: A `ViTBackbone`, or a `ViTImageClassifier(pooling="token")`.
        encoder: Arguments of `ViTEncoder`: `pixel_mean` and `pixel_std` for a model without an image converter
            that says how images are normalized, `drop_path_rate`, ...

    Returns:
        The model and the report.

    Raises:
        ValueError: If it is something else, or has what a ViT here does not have.
    """
    hints = Hints(image_shape=encoder.pop("image_shape", None), encoder=encoder)
    return KerasHub().load_state(_state_of(model), hints)


def _state_of(model: Any, converter: Any = None, said: dict[str, Any] | None = None) -> StateDict:
    """Return the weights of a KerasHub model, and, beside them, what `KerasHub.sizes` and `.head` tell.

    Args:
        model: The model.
        converter: A backbone's `ViTImageConverter`, if there is one.
        said: What this package said of the model, if it wrote it.
    """
    models = _package().models
    classifier = isinstance(model, models.ViTImageClassifier)
    backbone = model.backbone if classifier else model
    if not isinstance(backbone, models.ViTBackbone):
        raise ValueError(f"A KerasHub model must be a ViTBackbone or ViTImageClassifier. Received: {model!r}")
    if classifier:
        _refuse_other_classifiers(model)
        converter = getattr(model.preprocessor, "image_converter", None)
    _refuse_other_backbones(backbone)
    encoder = {
        "patch_size": tuple(backbone.patch_size),
        "embed_dim": backbone.hidden_dim,
        "depth": backbone.num_layers,
        "num_heads": backbone.num_heads,
        "mlp_ratio": backbone.mlp_dim / backbone.hidden_dim,
        "layer_norm_eps": backbone.layer_norm_epsilon,
    }
    config = {"encoder": encoder | _statistics_of(converter), "image_shape": backbone.image_shape}
    if classifier:
        config["num_classes"] = model.num_classes
    if said is not None:
        config[metadata.KEY] = said
    weights = _weights(model)
    tensors = {name: ops.convert_to_numpy(weight).astype("float32") for name, weight in weights.items()}
    stored = {name: str(weight.dtype) for name, weight in weights.items()}
    return StateDict(tensors, stored, config, model.name)


def _refuse_other_backbones(backbone: Any) -> None:
    for name in ("use_mha_bias", "use_mlp_bias", "use_class_token", "use_patch_bias"):
        if not getattr(backbone, name):
            raise ValueError(
                f"A ViT here has a class token and all biases. Received: a ViTBackbone with {name}=False"
            )
    if backbone.data_format != "channels_last":
        raise ValueError(f"A ViT here is channels last. Received: data_format={backbone.data_format!r}")


def _refuse_other_classifiers(model: Any) -> None:
    if model.pooling != "token":
        raise ValueError(
            'KerasHub\'s pooling "gap" averages the class token too, after the norm; MAE averages the patch tokens '
            f'alone and has the norm behind. Only pooling="token" can be carried over. Received: {model.pooling!r}'
        )
    if model.intermediate_dim is not None or model.activation not in (None, "linear"):
        raise ValueError(
            "A head here is one layer that gives logits. Received: a ViTImageClassifier with "
            f"intermediate_dim={model.intermediate_dim}, activation={model.activation!r}"
        )


def _statistics_of(converter: Any) -> dict[str, Any]:
    """Return `pixel_mean` and `pixel_std` of an image converter: pixels times `scale`, plus `offset`."""
    if converter is None or (converter.scale is None and converter.offset is None):
        return {}
    scale = np.asarray(1.0 if converter.scale is None else converter.scale, "float64")
    offset = np.asarray(0.0 if converter.offset is None else converter.offset, "float64")
    return {"pixel_mean": np.round(-offset / scale, 9), "pixel_std": np.round(1 / scale, 9)}


# === To KerasHub ===
def to_keras_hub(model: Any) -> Any:
    """Return a KerasHub model with the weights of a `ViTEncoder` or `ViTClassifier`.

    KerasHub normalizes images in a preprocessor. A classifier gets one; for an encoder `image_converter_of` makes it.

    Args:
        model: A `ViTEncoder`, or a `ViTClassifier(pooling="token")` without a BatchNorm.

    Returns:
        A `ViTBackbone` or a `ViTImageClassifier`.

    Raises:
        ValueError: If KerasHub has no such model.
    """
    hub = _package().models
    KerasHub().refuse(model)
    classifier = isinstance(model, ViTClassifier)
    encoder = model.encoder if classifier else model
    backbone = hub.ViTBackbone(
        image_shape=encoder.image_shape,
        patch_size=encoder.patch_size,
        num_layers=encoder.depth,
        num_heads=encoder.num_heads,
        hidden_dim=encoder.embed_dim,
        mlp_dim=round(encoder.embed_dim * encoder.mlp_ratio),
        layer_norm_epsilon=encoder.layer_norm_eps,
        dtype=encoder.variable_dtype,  # it cannot load its own presets of mixed precision
    )
    theirs = backbone
    if classifier:
        preprocessor = hub.ViTImageClassifierPreprocessor(image_converter_of(encoder))
        theirs = hub.ViTImageClassifier(
            backbone, model.num_classes, preprocessor, pooling="token", head_dtype="float32"
        )
    weights = _weights(theirs)
    for name, value in save_weights(model, KerasHub().rules(model)).items():
        weights[name].assign(value)
    return theirs


def image_converter_of(encoder: ViTEncoder) -> Any:
    """Return KerasHub's layer that resizes and normalizes images as `encoder` does."""
    _checks.instance("encoder", encoder, ViTEncoder)
    mean, std = np.asarray(encoder.pixel_mean), np.asarray(encoder.pixel_std)
    return _package().layers.ViTImageConverter(
        image_size=encoder.image_shape[:2], scale=(1 / std).tolist(), offset=(-mean / std).tolist()
    )


def _weights(model: Any) -> dict[str, Any]:
    """Return a KerasHub model's weights by names that do not depend on what the model is called."""
    backbone = getattr(model, "backbone", model)
    weights = {}
    for layer in backbone.layers:
        for weight in layer.weights:
            path = weight.path
            weights[path[path.index(layer.name) :]] = weight
    if backbone is not model:
        weights |= {"head/kernel": model.output_dense.kernel, "head/bias": model.output_dense.bias}
    return weights


# === Rules ===
def _block(theirs: str, ours: str, heads: int) -> list[Rule]:
    # Query, key and value apart, each (dim, heads, dim / heads).
    fused = Transform(
        lambda arrays: np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1),
        lambda weight: [part.reshape(len(part), heads, -1) for part in np.split(weight, 3, axis=1)],
    )
    fused_bias = Transform(
        lambda arrays: np.concatenate([array.reshape(-1) for array in arrays]),
        lambda weight: [part.reshape(heads, -1) for part in np.split(weight, 3)],
    )
    joined = Transform(
        lambda arrays: arrays[0].reshape(-1, arrays[0].shape[-1]),
        lambda weight: [weight.reshape(heads, -1, weight.shape[-1])],
    )
    apart = [f"{theirs}/mha/{name}" for name in ("query", "key", "value")]
    return [
        *_pair(f"{theirs}/ln_1", f"{ours}.norm1", ("gamma", "beta")),
        Rule(tuple(f"{name}/kernel" for name in apart), f"{ours}.qkv.kernel", fused),
        Rule(tuple(f"{name}/bias" for name in apart), f"{ours}.qkv.bias", fused_bias),
        Rule((f"{theirs}/mha/attention_output/kernel",), f"{ours}.projection.kernel", joined),
        Rule((f"{theirs}/mha/attention_output/bias",), f"{ours}.projection.bias"),
        *_pair(f"{theirs}/ln_2", f"{ours}.norm2", ("gamma", "beta")),
        *_pair(f"{theirs}/mlp/dense_1", f"{ours}.fc1", ("kernel", "bias")),
        *_pair(f"{theirs}/mlp/dense_2", f"{ours}.fc2", ("kernel", "bias")),
    ]


def _pair(theirs: str, ours: str, names: tuple[str, str]) -> list[Rule]:
    return [Rule((f"{theirs}/{name}",), f"{ours}.{name}") for name in names]
