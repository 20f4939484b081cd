"""The names of the authors' repository, which `timm` shares: encoders, masked autoencoders and classifiers."""

from __future__ import annotations

from typing import Any

from keras_mae.convert.state_dict import StateDict
from keras_mae.convert.weight_map import FIRST_ROW, SAME, Rule, dense, norm, patch_kernel

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Attention heads of the published widths; a file does not say them."""


def matches(state: StateDict) -> bool:
    """Whether the names are these."""
    return "patch_embed.proj.weight" in state.tensors


def role(state: StateDict) -> str:
    """ "encoder", "autoencoder" or "classifier"."""
    if any(name.startswith("head.") for name in state.tensors):
        return "classifier"
    return "autoencoder" if "mask_token" in state.tensors else "encoder"


def sizes(state: StateDict, num_heads: int | None, decoder_num_heads: int | None) -> dict[str, dict[str, Any]]:
    """The arguments of `ViTEncoder`, and of `MAEDecoder` where there is one, that the shapes tell.

    Raises:
        ValueError: If they tell too little.
    """
    tensors = state.tensors
    if "cls_token" not in tensors or any(name in tensors for name in ("dist_token", "reg_token")):
        raise ValueError("A ViT here has a class token, and no distillation or register tokens")
    if tensors["patch_embed.proj.weight"].ndim != 4 or tensors["pos_embed"].ndim != 3:
        shapes = tensors["patch_embed.proj.weight"].shape, tensors["pos_embed"].shape
        raise ValueError(
            f"A patch kernel must have 4 dimensions and positions 3. Received: {shapes[0]} and {shapes[1]}"
        )
    timm = state.config.get("config.json", {})
    if role(state) == "classifier" and "fc_norm.weight" not in tensors and timm.get("global_pool") == "avg":
        raise ValueError(
            "This classifier of timm averages all tokens behind its norm; here the norm is behind the mean of the "
            "patch tokens (fc_norm). Received: global_pool='avg' without fc_norm"
        )
    width, channels, *patch = tensors["patch_embed.proj.weight"].shape
    encoder = _part(tensors, "blocks", width) | {
        "patch_size": tuple(patch),
        "channels": channels,
        "num_heads": num_heads or _heads(width, "num_heads"),
        "final_norm": "norm.weight" in tensors,
        "patches": tensors["pos_embed"].shape[1] - 1,
    }
    for ours, theirs in (("pixel_mean", "mean"), ("pixel_std", "std")):  # where timm's config.json is beside it
        values = timm.get("pretrained_cfg", {}).get(theirs)
        if values is not None:
            encoder[ours] = [round(255 * value, 9) for value in values]
    found = {"encoder": encoder}
    if "mask_token" in tensors:
        width = tensors["decoder_embed.weight"].shape[0]
        heads = decoder_num_heads or (16 if width == 512 else None)
        if heads is None:
            raise ValueError(f"The file does not say the decoder's heads: give `decoder_num_heads` for width {width}")
        found["decoder"] = _part(tensors, "decoder_blocks", width) | {"num_heads": heads}
    return found


def norm_pix_loss(state: StateDict) -> bool | None:
    """Whether the decoder predicts normalised pixels: as the training script's arguments say, or the file's name."""
    if isinstance(given := state.config.get("args", {}).get("norm_pix_loss"), bool):
        return given
    said = [value for word, value in (("full", True), ("visualize", False)) if word in state.path.name]
    return said[0] if len(said) == 1 else None


def _part(tensors: dict[str, Any], blocks: str, width: int) -> dict[str, Any]:
    depth = len({name.split(".")[1] for name in tensors if name.startswith(f"{blocks}.")})
    hidden = tensors[f"{blocks}.0.mlp.fc1.weight"].shape[0]
    return {"embed_dim": width, "depth": depth, "mlp_ratio": hidden / width}


def _heads(width: int, argument: str) -> int:
    if width not in HEADS:
        raise ValueError(f"The file does not say the number of heads: give `{argument}` for an encoder {width} wide")
    return HEADS[width]


def rules(model: Any) -> list[Rule]:
    """One rule for each weight of a `ViTEncoder`, `MaskedAutoencoder` or `ViTClassifier`."""
    encoder = getattr(model, "encoder", model)
    found = [
        Rule(("cls_token",), "encoder.class_token"),
        Rule(("pos_embed",), "encoder.positions", FIRST_ROW),
        Rule(
            ("patch_embed.proj.weight",),
            "encoder.patches.kernel",
            patch_kernel(encoder.patch_size, encoder.image_shape[2]),
        ),
        Rule(("patch_embed.proj.bias",), "encoder.patches.bias"),
        *_blocks("blocks", "encoder", encoder.depth),
    ]
    if encoder.norm is not None:
        found += norm("norm", "encoder.norm")
    if hasattr(model, "decoder"):
        found += [
            Rule(("mask_token",), "decoder.mask_token"),
            Rule(("decoder_pos_embed",), "decoder.positions", FIRST_ROW),
            *dense("decoder_embed", "decoder.embedding"),
            *_blocks("decoder_blocks", "decoder", model.decoder.depth),
            *norm("decoder_norm", "decoder.norm"),
            *dense("decoder_pred", "decoder.prediction"),
        ]
    elif encoder is not model:
        found += _head(model)
    return found


def _head(model: Any) -> list[Rule]:
    found = norm("fc_norm", "pool_norm") if model.pool_norm is not None else []
    if not model.batch_norm:
        return found + dense("head", "head")
    statistics = [Rule(("head.0.running_mean",), "head.mean", SAME), Rule(("head.0.running_var",), "head.variance")]
    return found + statistics + dense("head.1", "head")


def _blocks(theirs: str, ours: str, depth: int) -> list[Rule]:
    found = []
    for index in range(depth):
        found += norm(f"{theirs}.{index}.norm1", f"{ours}.{index}.norm1")
        found += dense(f"{theirs}.{index}.attn.qkv", f"{ours}.{index}.qkv")
        found += dense(f"{theirs}.{index}.attn.proj", f"{ours}.{index}.projection")
        found += norm(f"{theirs}.{index}.norm2", f"{ours}.{index}.norm2")
        found += dense(f"{theirs}.{index}.mlp.fc1", f"{ours}.{index}.fc1")
        found += dense(f"{theirs}.{index}.mlp.fc2", f"{ours}.{index}.fc2")
    return found
