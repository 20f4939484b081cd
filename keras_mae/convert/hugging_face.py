"""The names of `transformers`: ViTMAE and ViT, as its versions hold and save them."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_mae.convert.state_dict import StateDict
from keras_mae.convert.weight_map import FIRST_ROW, FUSED, FUSED_BIAS, Rule, dense, norm, patch_kernel

# Where a block is, and what its parts are called: on the hub, in memory (5.x), and as 5.x saves the decoder.
_PLACES = {"encoder": ("encoder.layer", "layers"), "decoder": ("decoder_layers", "decoder_encoder.layer")}
_OLD = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "projection": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
_NEW = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "projection": "attention.o_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


def matches(state: StateDict) -> bool:
    """Whether the names are these."""
    return any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in state.tensors)


def role(state: StateDict) -> str:
    """ "encoder", "autoencoder" or "classifier"."""
    if "classifier.weight" in state.tensors:
        return "classifier"
    return "autoencoder" if "decoder.mask_token" in state.tensors else "encoder"


def sizes(state: StateDict) -> dict[str, dict[str, Any]]:
    """The arguments of `ViTEncoder`, and of `MAEDecoder` where there is one, that `config.json` holds.

    Raises:
        ValueError: If there is no configuration, or a model of it is none of ours.
    """
    config = state.config.get("config.json")
    if config is None:
        raise ValueError(f"There is no config.json beside {str(state.path)!r}: name the folder that holds both")
    if config.get("hidden_act", "gelu") not in ("gelu", "gelu_python") or not config.get("qkv_bias", True):
        raise ValueError(
            "A ViT here has the exact GELU and biases of query, key and value. Received: "
            f"hidden_act={config.get('hidden_act')!r}, qkv_bias={config.get('qkv_bias')}"
        )
    pixels = state.config.get("preprocessor_config.json", {})
    eps = config.get("layer_norm_eps", 1e-12)
    encoder = {
        "embed_dim": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": config["intermediate_size"] / config["hidden_size"],
        "patch_size": _pair(config["patch_size"]),
        "channels": config["num_channels"],
        "image_size": _pair(config["image_size"]),
        "layer_norm_eps": eps,
    }
    if pixels:
        encoder |= _statistics(pixels)
    found = {"encoder": encoder}
    if role(state) == "autoencoder":
        found["decoder"] = {
            "embed_dim": config["decoder_hidden_size"],
            "depth": config["decoder_num_hidden_layers"],
            "num_heads": config["decoder_num_attention_heads"],
            "mlp_ratio": config["decoder_intermediate_size"] / config["decoder_hidden_size"],
            "layer_norm_eps": eps,
        }
    return found


def _statistics(pixels: dict[str, Any]) -> dict[str, Any]:
    """`pixel_mean` and `pixel_std` of an image processor, which multiplies pixels and normalises then."""
    factor = pixels.get("rescale_factor", 1 / 255) if pixels.get("do_rescale", True) else 1.0
    mean, std = 0.0, 1.0
    if pixels.get("do_normalize", True):
        mean, std = pixels.get("image_mean", 0.5), pixels.get("image_std", 0.5)
    return {
        "pixel_mean": np.round(np.asarray(mean, "float64") / factor, 9),
        "pixel_std": np.round(np.asarray(std, "float64") / factor, 9),
    }


def norm_pix_loss(state: StateDict) -> bool:
    """Whether the target is normalised, as `config.json` says."""
    return bool(state.config["config.json"].get("norm_pix_loss", False))


def refuse(model: Any) -> None:
    """An error for a model that `transformers` cannot hold."""
    encoder = getattr(model, "encoder", model)
    if getattr(model, "pooling", None) == "mean":
        raise ValueError(
            "`transformers` classifies by the class token and has no norm behind the mean of the patch tokens: save "
            "a classifier with pooling=\"token\", or in the format 'timm'"
        )
    if encoder.norm is None:
        raise ValueError("`transformers`' ViT has a final norm. Received: an encoder with final_norm=False")
    if not hasattr(model, "decoder"):
        return
    if model.decoder.layer_norm_eps != encoder.layer_norm_eps:
        raise ValueError(
            "`transformers`' ViTMAE has one layer_norm_eps. Received: "
            f"{encoder.layer_norm_eps} in the encoder, {model.decoder.layer_norm_eps} in the decoder"
        )
    (height, width), (rows, columns) = encoder.image_shape[:2], encoder.patch_size
    if height != width or rows != columns:
        raise ValueError(
            "`transformers`' ViTMAE has square images and patches; an encoder alone may have others. "
            f"Received: image_shape={encoder.image_shape}, patch_size={encoder.patch_size}"
        )


def config_of(model: Any) -> dict[str, Any]:
    """The `config.json` of a model; a classifier is a `ViTForImageClassification` there."""
    encoder = getattr(model, "encoder", model)
    autoencoder, classifier = hasattr(model, "decoder"), hasattr(model, "head")
    architecture = "ViTMAEForPreTraining" if autoencoder else "ViTMAEModel"
    config = {
        "architectures": ["ViTForImageClassification" if classifier else architecture],
        "model_type": "vit" if classifier else "vit_mae",
        "hidden_act": "gelu",
        "qkv_bias": True,
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.num_heads,
        "intermediate_size": round(encoder.embed_dim * encoder.mlp_ratio),
        "image_size": _one(encoder.image_shape[:2]),
        "patch_size": _one(encoder.patch_size),
        "num_channels": encoder.image_shape[2],
        "layer_norm_eps": encoder.layer_norm_eps,
    }
    if classifier:
        names = {index: f"LABEL_{index}" for index in range(model.num_classes)}
        config |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    if autoencoder:
        decoder = model.decoder
        config |= {
            "decoder_hidden_size": decoder.embed_dim,
            "decoder_num_hidden_layers": decoder.depth,
            "decoder_num_attention_heads": decoder.num_heads,
            "decoder_intermediate_size": round(decoder.embed_dim * decoder.mlp_ratio),
            "mask_ratio": model.masking.mask_ratio,
            "norm_pix_loss": model.norm_pix_loss,
        }
    return config


def preprocessor_of(model: Any) -> dict[str, Any]:
    """The `preprocessor_config.json` of a model: how images become its input there."""
    encoder = getattr(model, "encoder", model)
    height, width = encoder.image_shape[:2]
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in encoder.pixel_mean],
        "image_std": [value / 255 for value in encoder.pixel_std],
    }


def rules(model: Any, state: StateDict | None = None) -> list[Rule]:
    """One rule for each weight, in the names of `state`, or as on the hub."""
    encoder = getattr(model, "encoder", model)
    names = set() if state is None else set(state.tensors)
    bare = state is not None and "embeddings.cls_token" in names
    prefix = "" if bare or (state is None and encoder is model) else "vit."
    found = [
        Rule((f"{prefix}embeddings.cls_token",), "encoder.class_token"),
        Rule((f"{prefix}embeddings.position_embeddings",), "encoder.positions", FIRST_ROW),
        Rule(
            (f"{prefix}embeddings.patch_embeddings.projection.weight",),
            "encoder.patches.kernel",
            patch_kernel(encoder.patch_size, encoder.image_shape[2]),
        ),
        Rule((f"{prefix}embeddings.patch_embeddings.projection.bias",), "encoder.patches.bias"),
        *_blocks(prefix, "encoder", encoder.depth, names),
    ]
    if encoder.norm is not None:
        found += norm(f"{prefix}layernorm", "encoder.norm")
    if hasattr(model, "decoder"):
        found += [
            Rule(("decoder.mask_token",), "decoder.mask_token"),
            Rule(("decoder.decoder_pos_embed",), "decoder.positions", FIRST_ROW),
            *dense("decoder.decoder_embed", "decoder.embedding"),
            *_blocks("decoder.", "decoder", model.decoder.depth, names),
            *norm("decoder.decoder_norm", "decoder.norm"),
            *dense("decoder.decoder_pred", "decoder.prediction"),
        ]
    elif encoder is not model:
        found += dense("classifier", "head")
    return found


def _blocks(prefix: str, ours: str, depth: int, names: set[str]) -> list[Rule]:
    place = next(
        (place for place in _PLACES[ours] if any(name.startswith(f"{prefix}{place}.") for name in names)),
        _PLACES[ours][0],
    )
    new = any(name.startswith(f"{prefix}{place}.") and ".q_proj." in name for name in names)
    parts = _NEW if new else _OLD
    found = []
    for index in range(depth):
        theirs, own = f"{prefix}{place}.{index}", f"{ours}.{index}"
        apart = [f"{theirs}.{parts[name]}" for name in ("query", "key", "value")]
        found += norm(f"{theirs}.layernorm_before", f"{own}.norm1")
        found += [
            Rule(tuple(f"{name}.weight" for name in apart), f"{own}.qkv.kernel", FUSED),
            Rule(tuple(f"{name}.bias" for name in apart), f"{own}.qkv.bias", FUSED_BIAS),
        ]
        found += dense(f"{theirs}.{parts['projection']}", f"{own}.projection")
        found += norm(f"{theirs}.layernorm_after", f"{own}.norm2")
        found += dense(f"{theirs}.{parts['fc1']}", f"{own}.fc1") + dense(f"{theirs}.{parts['fc2']}", f"{own}.fc2")
    return found


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _one(value: tuple[int, int]) -> Any:
    return value[0] if value[0] == value[1] else list(value)
