"""The names of `transformers`: ViTMAE, ViT and BEiT, as its versions hold and save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _class_names
from keras_mae.convert import beit
from keras_mae.convert.layout import Hints, Layout, Sizes, Stated
from keras_mae.convert.metadata import KEY, metadata_of
from keras_mae.convert.state_dict import Files, StateDict, write_safetensors
from keras_mae.convert.unwrap import IN_TRANSFORMERS, PREFIXES
from keras_mae.convert.weight_map import (
    FIRST_ROW,
    FUSED,
    FUSED_BIAS,
    Kind,
    Rule,
    dense,
    norm,
    patch_kernel,
    save_weights,
)
from keras_mae.pixels import BYTES

__all__ = ["HuggingFace"]

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
_GENERIC = "LABEL_{}"  # what `transformers` calls classes without names


class HuggingFace(Layout):
    """Folders of `transformers`: weights, `config.json` and, of most, `preprocessor_config.json`."""

    name = "transformers"

    def matches(self, files: Files) -> bool:
        return not files.names.isdisjoint(f"{prefix}{IN_TRANSFORMERS}" for prefix in ("", *PREFIXES))

    def kind(self, state: StateDict) -> Kind:
        if "classifier.weight" in state.tensors:
            return "classifier"
        return "autoencoder" if "decoder.mask_token" in state.tensors else "encoder"

    def sizes(self, state: StateDict, hints: Hints) -> Sizes:
        config = _config(state)
        if config.get("hidden_act", "gelu") not in ("gelu", "gelu_python") or not config.get("qkv_bias", True):
            raise ValueError(
                "A ViT here has the exact GELU and biases of query, key and value. Received: "
                f"hidden_act={config.get('hidden_act')!r}, qkv_bias={config.get('qkv_bias')}"
            )
        if _is_beit(state):
            beit.check(config, self.kind(state))
        eps = config.get("layer_norm_eps", 1e-12)
        decoder: dict[str, Any] = {}
        encoder = {
            "embed_dim": config["hidden_size"],
            "depth": config["num_hidden_layers"],
            "num_heads": config["num_attention_heads"],
            "mlp_ratio": config["intermediate_size"] / config["hidden_size"],
            "patch_size": _pair(config["patch_size"]),
            "layer_norm_eps": eps,
            "final_norm": not _is_beit(state),
        }
        if pixels := state.config.get("preprocessor_config.json", {}):
            said = state.config.get(KEY, {})
            encoder |= _statistics(pixels) | {name: said[name] for name in said if name == "pixel_range"}
        if self.kind(state) == "autoencoder":
            decoder = {
                "embed_dim": config["decoder_hidden_size"],
                "depth": config["decoder_num_hidden_layers"],
                "num_heads": config["decoder_num_attention_heads"],
                "mlp_ratio": config["decoder_intermediate_size"] / config["decoder_hidden_size"],
                "layer_norm_eps": eps,
            }
        hints.check_heads(state, encoder["num_heads"], decoder.get("num_heads"))
        return Sizes(encoder, config["num_channels"], image_size=_pair(config["image_size"]), decoder=decoder or None)

    def head(self, state: StateDict) -> dict[str, Any]:
        classes = len(state.tensors["classifier.weight"])
        names = _class_names.usable(_labels(state, classes), classes)
        return {"num_classes": classes, "pooling": "mean" if _is_beit(state) else "token", "class_names": names}

    def rules(self, model: Any, state: StateDict | None = None) -> list[Rule]:
        encoder = getattr(model, "encoder", model)
        names = set() if state is None else set(state.tensors)
        bare = state is not None and "embeddings.cls_token" in names
        of_beit = getattr(model, "pooling", None) == "mean"
        prefix = "" if bare or (state is None and encoder is model) else beit.PREFIX if of_beit else "vit."
        rules = [
            Rule((f"{prefix}embeddings.cls_token",), "encoder.class_token"),
            Rule((f"{prefix}embeddings.position_embeddings",), "encoder.positions", FIRST_ROW),
            Rule(
                (f"{prefix}embeddings.patch_embeddings.projection.weight",),
                "encoder.patches.kernel",
                patch_kernel(encoder.patch_size, encoder.image_shape[2]),
            ),
            Rule((f"{prefix}embeddings.patch_embeddings.projection.bias",), "encoder.patches.bias"),
            *_blocks(prefix, "encoder", encoder.depth, names, key_bias=not of_beit),
        ]
        if encoder.norm is not None:
            rules += norm(f"{prefix}layernorm", "encoder.norm")
        if of_beit:
            rules += norm(f"{prefix}pooler.layernorm", "pool_norm")
        if hasattr(model, "decoder"):
            rules += [
                Rule(("decoder.mask_token",), "decoder.mask_token"),
                Rule(("decoder.decoder_pos_embed",), "decoder.positions", FIRST_ROW),
                *dense("decoder.decoder_embed", "decoder.embedding"),
                *_blocks("decoder.", "decoder", model.decoder.depth, names),
                *norm("decoder.decoder_norm", "decoder.norm"),
                *dense("decoder.decoder_pred", "decoder.prediction"),
            ]
        elif encoder is not model:
            rules += dense("classifier", "head")
        return rules

    def norm_pix_loss(self, state: StateDict) -> Stated | None:
        return Stated(bool(_config(state).get("norm_pix_loss", False)), "config.json")

    def mask_ratio(self, state: StateDict) -> float:
        return float(_config(state).get("mask_ratio", super().mask_ratio(state)))

    def left_out(self, state: StateDict) -> dict[str, str]:
        poolers = [f"{prefix}pooler.dense.{part}" for prefix in ("", "vit.") for part in ("weight", "bias")]
        left = {name: "a pooler that no masked autoencoder trains" for name in poolers if name in state.tensors}
        if _is_beit(state) and (name := f"{beit.PREFIX}embeddings.mask_token") in state.tensors:
            left[name] = "a mask token that a classifier does not use"
        if self.kind(state) == "classifier":
            labels = _labels(state, len(state.tensors["classifier.weight"]))
            if labels is not None and _class_names.usable(labels) is None:
                left["id2label"] = "class names that do not tell all classes apart"
        return left

    def refuse(self, model: Any) -> None:
        super().refuse(model)
        encoder = getattr(model, "encoder", model)
        if (pooling := getattr(model, "pooling", "token")) in ("attentive", "flatten"):
            reason = {
                "attentive": "has no queries that pool patches as AttentivePooling does",
                "flatten": "has no head on all patch tokens",
            }[pooling]
            raise ValueError(
                f"`transformers` classifies by the class token or the mean of the patches, and {reason}: save the "
                "classifier in the format 'keras' or 'preset', export it (`convert.export`), or save its encoder. "
                f"Received: a classifier with pooling={pooling!r}"
            )
        if pooling == "mean":
            beit.refuse(encoder)
            return
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

    def write(self, model: Any, path: Path) -> None:
        path.mkdir()
        write_safetensors(path / "model.safetensors", save_weights(model, self.rules(model)), metadata_of(model))
        for name, content in (
            ("config.json", config_of(model)),
            ("preprocessor_config.json", preprocessor_of(model)),
        ):
            (path / name).write_text(json.dumps(content, indent=2) + "\n")


def _config(state: StateDict) -> dict[str, Any]:
    config: dict[str, Any] | None = state.config.get("config.json")
    if config is None:
        raise ValueError(f"There is no config.json beside {state.name!r}: name the folder that holds both")
    return config


def _labels(state: StateDict, classes: int) -> list[Any] | None:
    """Return the classes' names, or `None` if they have only those that `transformers` makes up."""
    by_number = _config(state).get("id2label") or {}
    labels = [by_number.get(str(number)) for number in range(classes)]
    return None if all(label in (None, _GENERIC.format(number)) for number, label in enumerate(labels)) else labels


def _statistics(pixels: dict[str, Any]) -> dict[str, Any]:
    """Return what an image processor says of pixels, which it multiplies and then normalizes.

    A factor of 1/255 is for bytes, and so is one up to 1/127.5, which takes them to -1…1; 1 is for pixels of 0–1, and
    a smaller one for those of a longer range.
    """
    factor = pixels.get("rescale_factor", 1 / 255) if pixels.get("do_rescale", True) else 1.0
    mean, std = 0.0, 1.0
    if pixels.get("do_normalize", True):
        mean, std = pixels.get("image_mean", 0.5), pixels.get("image_std", 0.5)
    factors_of_bytes = 1 / 255 - 1e-6 <= factor <= 1 / 127 or not 0 < factor <= 1
    return {
        "pixel_range": BYTES if factors_of_bytes else (0.0, round(1 / factor, 6)),
        "pixel_mean": np.round(np.asarray(mean, "float64") / factor, 9),
        "pixel_std": np.round(np.asarray(std, "float64") / factor, 9),
    }


def config_of(model: Any) -> dict[str, Any]:
    """Return the `config.json` of a model; a classifier is a ViT there, or on the mean of the patches a BEiT."""
    encoder = getattr(model, "encoder", model)
    architecture, model_type = "ViTMAEModel", "vit_mae"
    autoencoder, classifier = hasattr(model, "decoder"), hasattr(model, "head")
    if autoencoder:
        architecture = "ViTMAEForPreTraining"
    if classifier:
        of_beit = model.pooling == "mean"
        architecture, model_type = (
            ("BeitForImageClassification", "beit") if of_beit else ("ViTForImageClassification", "vit")
        )
    config = {
        "architectures": [architecture],
        "model_type": model_type,
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
        config |= beit.config(encoder) if of_beit else {}
        names = dict(enumerate(model.class_names or map(_GENERIC.format, range(model.num_classes))))
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
    """Return the `preprocessor_config.json` of a model: how images become its input there."""
    encoder = getattr(model, "encoder", model)
    height, width = encoder.image_shape[:2]
    length = encoder.pixel_range[1] - encoder.pixel_range[0]
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / length,
        "do_normalize": True,
        "image_mean": [value / length for value in encoder.pixel_mean],
        "image_std": [value / length for value in encoder.pixel_std],
    }


def _is_beit(state: StateDict) -> bool:
    return f"{beit.PREFIX}{IN_TRANSFORMERS}" in state.tensors


def _blocks(prefix: str, ours: str, depth: int, names: set[str], *, key_bias: bool = True) -> list[Rule]:
    place = next(
        (place for place in _PLACES[ours] if any(name.startswith(f"{prefix}{place}.") for name in names)),
        _PLACES[ours][0],
    )
    new = any(name.startswith(f"{prefix}{place}.") and ".q_proj." in name for name in names)
    parts = _NEW if new else _OLD
    rules = []
    for index in range(depth):
        theirs, own = f"{prefix}{place}.{index}", f"{ours}.{index}"
        apart = [f"{theirs}.{parts[name]}" for name in ("query", "key", "value")]
        rules += norm(f"{theirs}.layernorm_before", f"{own}.norm1")
        rules += [
            Rule(tuple(f"{name}.weight" for name in apart), f"{own}.qkv.kernel", FUSED),
            Rule(
                tuple(f"{name}.bias" for name in (apart if key_bias else apart[::2])),
                f"{own}.qkv.bias",
                FUSED_BIAS if key_bias else beit.BIAS_WITHOUT_KEY,
            ),
        ]
        rules += dense(f"{theirs}.{parts['projection']}", f"{own}.projection")
        rules += norm(f"{theirs}.layernorm_after", f"{own}.norm2")
        rules += dense(f"{theirs}.{parts['fc1']}", f"{own}.fc1") + dense(f"{theirs}.{parts['fc2']}", f"{own}.fc2")
    return rules


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _one(value: tuple[int, int]) -> Any:
    return value[0] if value[0] == value[1] else list(value)
