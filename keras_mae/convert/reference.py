"""The names of the authors' repository, which `timm` shares: encoders, masked autoencoders and classifiers."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import numpy as np

from keras_mae.convert.layout import Hints, Layout, Sizes, Stated
from keras_mae.convert.metadata import KEY, metadata_of
from keras_mae.convert.state_dict import Files, StateDict, write_safetensors, write_torch
from keras_mae.convert.unwrap import IN_REFERENCE
from keras_mae.convert.weight_map import FIRST_ROW, Kind, Rule, Transform, dense, norm, patch_kernel, save_weights
from keras_mae.positions import sincos_grid

__all__ = ["Reference"]

WITHOUT_CLASS_TOKEN = Transform(
    lambda arrays: np.concatenate([np.zeros_like(arrays[0][0, :1]), arrays[0][0]]), lambda weight: [weight[None, 1:]]
)
"""Positions of the patches alone: timm has no row for a class token that is not there."""
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Attention heads of the published widths; a file does not state them."""


class Reference(Layout):
    """Files of the authors' repository: tensors alone, and in a run's own checkpoint the script's arguments."""

    name = "reference"
    holds_batch_norm = True

    def matches(self, files: Files) -> bool:
        return IN_REFERENCE in files.names

    def kind(self, state: StateDict) -> Kind:
        if any(name.startswith("head.") for name in state.tensors):
            return "classifier"
        return "autoencoder" if "mask_token" in state.tensors else "encoder"

    def sizes(self, state: StateDict, hints: Hints) -> Sizes:
        tensors, said = state.tensors, state.config.get(KEY, {})
        _check_stem(tensors)
        first = int("cls_token" in tensors)
        decoders = None if hints.encoder_only else said.get("decoder_num_heads")
        hints.check_heads(state, said.get("num_heads"), decoders)
        width, channels, *patch = tensors["patch_embed.proj.weight"].shape
        positions = tensors["pos_embed"]
        transform = FIRST_ROW if first else WITHOUT_CLASS_TOKEN
        grid = sincos_grid(transform.load([positions])) if len(positions) else None
        encoder = _part(tensors, "blocks", width) | {
            "patch_size": tuple(patch),
            "num_heads": said.get("num_heads") or hints.num_heads or _heads(width),
            "final_norm": "norm.weight" in tensors,
            "class_tokens": first,
        }
        size = None if grid is None else (grid[0] * patch[0], grid[1] * patch[1])
        return Sizes(
            encoder, channels, size, patches=positions.shape[1] - first, decoder=_decoder(tensors, said, hints)
        )

    def head(self, state: StateDict) -> dict[str, Any]:
        batch_norm = "head.0.running_mean" in state.tensors
        return {
            "num_classes": len(state.tensors["head.1.weight" if batch_norm else "head.weight"]),
            "pooling": "mean" if "fc_norm.weight" in state.tensors else "token",
            "batch_norm": batch_norm,
        }

    def rules(self, model: Any, state: StateDict | None = None) -> list[Rule]:
        encoder = getattr(model, "encoder", model)
        first = [Rule(("cls_token",), "encoder.class_token")] if encoder.class_tokens else []
        rules = [
            *first,
            Rule(("pos_embed",), "encoder.positions", FIRST_ROW if first else WITHOUT_CLASS_TOKEN),
            Rule(
                ("patch_embed.proj.weight",),
                "encoder.patches.kernel",
                patch_kernel(encoder.patch_size, encoder.image_shape[2]),
            ),
            Rule(("patch_embed.proj.bias",), "encoder.patches.bias"),
            *_blocks("blocks", "encoder", encoder.depth),
        ]
        if encoder.norm is not None:
            rules += norm("norm", "encoder.norm")
        if hasattr(model, "decoder"):
            rules += [
                Rule(("mask_token",), "decoder.mask_token"),
                Rule(("decoder_pos_embed",), "decoder.positions", FIRST_ROW),
                *dense("decoder_embed", "decoder.embedding"),
                *_blocks("decoder_blocks", "decoder", model.decoder.depth),
                *norm("decoder_norm", "decoder.norm"),
                *dense("decoder_pred", "decoder.prediction"),
            ]
        elif encoder is not model:
            rules += _head(model)
        return rules

    def norm_pix_loss(self, state: StateDict) -> Stated | None:
        """Return what its metadata or the training script's arguments say, or else what the file's name suggests."""
        if "norm_pix_loss" in (said := state.config.get(KEY, {})):
            return Stated(bool(said["norm_pix_loss"]), "The file's metadata")
        if isinstance(given := state.config.get("args", {}).get("norm_pix_loss"), bool):
            return Stated(given, "The run that saved it")
        name = PurePath(state.name).name
        suggested = [value for word, value in (("full", True), ("visualize", False)) if word in name]
        return Stated(suggested[0], "") if len(suggested) == 1 else None

    def mask_ratio(self, state: StateDict) -> float:
        said = state.config.get("args", {}) | state.config.get(KEY, {})
        return float(said.get("mask_ratio", super().mask_ratio(state)))

    def left_out(self, state: StateDict) -> dict[str, str]:
        counter = "head.0.num_batches_tracked"
        return {counter: "a counter of PyTorch's BatchNorm"} if counter in state.tensors else {}

    def refuse(self, model: Any) -> None:
        super().refuse(model)
        pooling = getattr(model, "pooling", "token")
        if pooling not in ("mean", "token"):
            raise ValueError(
                "The authors' names, which timm shares, are for the class token or the mean of the patch tokens: "
                "save the classifier in the format 'keras' or 'preset', or its encoder. "
                f"Received: a classifier with pooling={pooling!r}"
            )

    def write(self, model: Any, path: Path) -> None:
        write = write_torch if path.suffix.lower() in (".pth", ".pt", ".bin") else write_safetensors
        write(path, save_weights(model, self.rules(model)), metadata_of(model))


def _check_stem(tensors: dict[str, Any]) -> None:
    """Raise a `ValueError` unless class token, patch kernel and positions are those of a ViT as it is here."""
    if any(name in tensors for name in ("dist_token", "reg_token")):
        raise ValueError("A ViT here has class tokens, and no distillation or register tokens")
    if "cls_token" not in tensors and "mask_token" in tensors:
        raise ValueError("A masked autoencoder of the authors' has a class token, and this file has none")
    if tensors["patch_embed.proj.weight"].ndim != 4 or tensors["pos_embed"].ndim != 3:
        shapes = tensors["patch_embed.proj.weight"].shape, tensors["pos_embed"].shape
        raise ValueError(
            f"A patch kernel must have 4 dimensions and positions 3. Received: {shapes[0]} and {shapes[1]}"
        )


def _decoder(tensors: dict[str, Any], said: dict[str, Any], hints: Hints) -> dict[str, Any] | None:
    if "mask_token" not in tensors:
        return None
    width = tensors["decoder_embed.weight"].shape[0]
    # They are in no tensor's shape: of a decoder that is only checked the heads do not matter.
    heads = said.get("decoder_num_heads") or hints.decoder_num_heads
    heads = heads or (1 if hints.encoder_only else 16 if width == 512 else None)
    if heads is None:
        raise ValueError(f"The file does not say the decoder's heads: give `decoder_num_heads` for width {width}")
    eps = {"layer_norm_eps": said["decoder_layer_norm_eps"]} if "decoder_layer_norm_eps" in said else {}
    return _part(tensors, "decoder_blocks", width) | {"num_heads": heads, **eps}


def _part(tensors: dict[str, Any], blocks: str, width: int) -> dict[str, Any]:
    depth = len({name.split(".")[1] for name in tensors if name.startswith(f"{blocks}.")})
    hidden = tensors[f"{blocks}.0.mlp.fc1.weight"].shape[0]
    return {"embed_dim": width, "depth": depth, "mlp_ratio": hidden / width}


def _heads(width: int) -> int:
    if width not in HEADS:
        raise ValueError(f"The file does not say the number of heads: give `num_heads` for an encoder {width} wide")
    return HEADS[width]


def _head(model: Any) -> list[Rule]:
    rules = norm("fc_norm", "pool_norm") if model.pool_norm is not None else []
    if not model.batch_norm:
        return rules + dense("head", "head")
    statistics = [Rule(("head.0.running_mean",), "head.mean"), Rule(("head.0.running_var",), "head.variance")]
    return rules + statistics + dense("head.1", "head")


def _blocks(theirs: str, ours: str, depth: int) -> list[Rule]:
    rules = []
    for index in range(depth):
        rules += norm(f"{theirs}.{index}.norm1", f"{ours}.{index}.norm1")
        rules += dense(f"{theirs}.{index}.attn.qkv", f"{ours}.{index}.qkv")
        rules += dense(f"{theirs}.{index}.attn.proj", f"{ours}.{index}.projection")
        rules += norm(f"{theirs}.{index}.norm2", f"{ours}.{index}.norm2")
        rules += dense(f"{theirs}.{index}.mlp.fc1", f"{ours}.{index}.fc1")
        rules += dense(f"{theirs}.{index}.mlp.fc2", f"{ours}.{index}.fc2")
    return rules
