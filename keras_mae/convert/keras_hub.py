"""KerasHub's `ViTBackbone` and `ViTImageClassifier`, and what they are here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from keras_mae.classifier import ViTClassifier
from keras_mae.convert.state_dict import StateDict, read_json
from keras_mae.convert.weight_map import SAME, Report, Rule, Transform, load_weights, save_weights
from keras_mae.encoder import ViTEncoder


def matches(path: Path) -> bool:
    """Whether a folder is a KerasHub preset."""
    config = path / "config.json"
    return (path / "metadata.json").is_file() and config.is_file() and "keras_hub" in config.read_text("utf-8")


def _package() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError('KerasHub is not installed: pip install "keras-mae[keras-hub]"') from error
    return keras_hub


# === From KerasHub ===
def from_keras_hub(model: Any, **encoder: Any) -> tuple[Any, Report]:
    """A `ViTEncoder` or `ViTClassifier` with the weights of KerasHub's.

    Args:
        model: A `ViTBackbone`, or a `ViTImageClassifier(pooling="token")`.
        encoder: Arguments of `ViTEncoder`: `pixel_mean` and `pixel_std` for a model without an image converter
            that says how images are normalised, `drop_path_rate`, ...

    Returns:
        The model and the report.

    Raises:
        ValueError: If it is something else, or has what a ViT here does not have.
    """
    package = _package()
    classifier = isinstance(model, package.models.ViTImageClassifier)
    backbone = model.backbone if classifier else model
    if not isinstance(backbone, package.models.ViTBackbone):
        raise ValueError(f"A KerasHub model must be a ViTBackbone or ViTImageClassifier. Received: {model!r}")
    if classifier:
        _refuse_other_heads(model)
    for name in ("use_mha_bias", "use_mlp_bias", "use_class_token", "use_patch_bias"):
        if not getattr(backbone, name):
            raise ValueError(
                f"A ViT here has a class token and all biases. Received: a ViTBackbone with {name}=False"
            )
    if backbone.data_format != "channels_last":
        raise ValueError(f"A ViT here is channels last. Received: data_format={backbone.data_format!r}")
    found = {
        "image_shape": backbone.image_shape,
        "patch_size": backbone.patch_size,
        "embed_dim": backbone.hidden_dim,
        "depth": backbone.num_layers,
        "num_heads": backbone.num_heads,
        "mlp_ratio": backbone.mlp_dim / backbone.hidden_dim,
        "layer_norm_eps": backbone.layer_norm_epsilon,
    }
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    vit = ViTEncoder(**found | _statistics_of(converter) | encoder)
    ours = ViTClassifier(vit, model.num_classes, pooling="token", copy=False) if classifier else vit
    tensors = {name: ops.convert_to_numpy(weight).astype("float32") for name, weight in _weights(model).items()}
    stored = {name: str(weight.dtype) for name, weight in _weights(model).items()}
    role = "classifier" if classifier else "encoder"
    state = StateDict(tensors, stored, path=Path(model.name))
    return ours, load_weights(ours, state, rules(ours), role)


def _refuse_other_heads(model: Any) -> None:
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
    """`pixel_mean` and `pixel_std` of an image converter, which multiplies by `scale` and then adds `offset`."""
    if converter is None or (converter.scale is None and converter.offset is None):
        return {}
    scale = np.asarray(1.0 if converter.scale is None else converter.scale, "float64")
    offset = np.asarray(0.0 if converter.offset is None else converter.offset, "float64")
    return {"pixel_mean": np.round(-offset / scale, 9), "pixel_std": np.round(1 / scale, 9)}


# === To KerasHub ===
def to_keras_hub(model: Any) -> Any:
    """KerasHub's model with the weights of a `ViTEncoder` or `ViTClassifier`.

    KerasHub normalises images in a preprocessor: a classifier gets one, for an encoder it is `image_converter_of`.

    Args:
        model: A `ViTEncoder`, or a `ViTClassifier(pooling="token")` without a BatchNorm.

    Returns:
        A `ViTBackbone` or a `ViTImageClassifier`.

    Raises:
        ValueError: If KerasHub has no such model.
    """
    hub = _package().models
    refuse(model)
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
    for name, value in save_weights(model, rules(model)).items():
        weights[name].assign(value)
    return theirs


def refuse(model: Any) -> None:
    """An error for a model that KerasHub cannot hold."""
    if not isinstance(model, ViTEncoder | ViTClassifier):
        raise ValueError(f"KerasHub takes a ViTEncoder, such as mae.encoder, or a ViTClassifier. Received: {model!r}")
    if isinstance(model, ViTClassifier) and (model.pooling != "token" or model.batch_norm):
        what = "a BatchNorm before its head" if model.batch_norm else f"pooling={model.pooling!r}"
        raise ValueError(
            'KerasHub\'s ViTImageClassifier has the class token (its "gap" averages that token too, which MAE does '
            f"not) and no norm behind it. Received: a classifier with {what}"
        )
    encoder = model.encoder if isinstance(model, ViTClassifier) else model
    if encoder.norm is None:
        raise ValueError("KerasHub's ViTBackbone has a final norm. Received: an encoder with final_norm=False")


def image_converter_of(encoder: ViTEncoder) -> Any:
    """KerasHub's layer that resizes and normalises images (0–255) as `encoder` does."""
    mean, std = np.asarray(encoder.pixel_mean), np.asarray(encoder.pixel_std)
    return _package().layers.ViTImageConverter(
        image_size=encoder.image_shape[:2], scale=(1 / std).tolist(), offset=(-mean / std).tolist()
    )


def _weights(model: Any) -> dict[str, Any]:
    """A KerasHub model's weights by names of their own, which do not hang on what the model is called."""
    backbone = getattr(model, "backbone", model)
    found = {}
    for layer in backbone.layers:
        for weight in layer.weights:
            path = weight.path
            found[path[path.index(layer.name) :]] = weight
    if backbone is not model:
        found |= {"head/kernel": model.output_dense.kernel, "head/bias": model.output_dense.bias}
    return found


# === Rules ===
def rules(model: Any) -> list[Rule]:
    """One rule for each weight of a `ViTEncoder` or `ViTClassifier(pooling="token")`."""
    encoder = getattr(model, "encoder", model)
    stem, blocks = "vit_patching_and_embedding", "vit_encoder"
    (height, width), channels = encoder.patch_size, encoder.image_shape[2]
    patches = Transform(
        lambda arrays: arrays[0].reshape(-1, arrays[0].shape[-1]),
        lambda weight: [weight.reshape(height, width, channels, -1)],
    )
    found = [
        Rule((f"{stem}/class_token",), "encoder.class_token"),
        Rule((f"{stem}/position_embedding/embeddings",), "encoder.positions"),
        Rule((f"{stem}/patch_embedding/kernel",), "encoder.patches.kernel", patches),
        Rule((f"{stem}/patch_embedding/bias",), "encoder.patches.bias"),
    ]
    for index in range(encoder.depth):
        found += _block(f"{blocks}/transformer_block_{index + 1}", f"encoder.{index}", encoder.num_heads)
    found += _pair(f"{blocks}/ln", "encoder.norm", ("gamma", "beta"))
    return found if encoder is model else found + _pair("head", "head", ("kernel", "bias"))


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
    return [Rule((f"{theirs}/{name}",), f"{ours}.{name}", SAME) for name in names]


# === Presets ===
def read_preset(path: Path, **encoder: Any) -> tuple[Any, Report]:
    """The model in a folder that KerasHub saved."""
    package = _package()
    if read_json(path / "config.json").get("class_name") != "ViTBackbone":
        raise ValueError(f"The KerasHub preset {str(path)!r} is no ViTBackbone")
    kind = "ViTImageClassifier" if (path / "task.json").is_file() else "ViTBackbone"
    try:
        model = getattr(package.models, kind).from_preset(str(path))
        statistics = {}
        if kind == "ViTBackbone" and (path / "image_converter.json").is_file():
            statistics = _statistics_of(package.layers.ViTImageConverter.from_preset(str(path)))
    except OSError as error:
        raise ValueError(f"The KerasHub preset {str(path)!r} is damaged: {error}") from error
    return from_keras_hub(model, **statistics | encoder)


def write_preset(model: Any, path: Path) -> None:
    """Save a KerasHub preset of a `ViTEncoder` or `ViTClassifier`, with its image converter."""
    theirs = to_keras_hub(model)
    theirs.save_to_preset(str(path))
    if theirs is getattr(theirs, "backbone", theirs):
        image_converter_of(model).save_to_preset(str(path))
