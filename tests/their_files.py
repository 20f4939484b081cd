"""Models of other libraries, random everywhere, written to files by those libraries, and what they compute.

PyTorch's environment writes them afresh into the referees' directory; the others read them there.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest

# A B/16 in small: 3 channels, 16 patches (a square number, as `transformers` asks), no two sizes equal.
SIDE, PATCH, WIDTH, DEPTH, HEADS, CLASSES = 20, 5, 24, 3, 4, 11
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 16, 2, 2
KEPT = 7
EPS = 1e-5  # not anybody's default
IMAGES = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), "uint8")
NOISE = np.random.default_rng(1).permuted(np.tile(np.arange(16, dtype="float32"), (2, 1)), axis=1)
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
LARGE = np.random.default_rng(2).integers(0, 256, (1, 224, 224, 3), "uint8")


def import_timm():
    """timm, whether torchvision is installed or not: it is only imported there, never used by a ViT.

    There is no torchvision for a PyTorch without CUDA in the registry.
    """
    if importlib.util.find_spec("timm") is None:
        pytest.skip("the referee of the PyTorch environment is not installed")
    if importlib.util.find_spec("torchvision") is None:
        import torch

        parts = ("ops", "models", "models.feature_extraction", "transforms", "transforms.functional", "datasets")
        names = ["torchvision", *(f"torchvision.{part}" for part in parts)]
        stubs = {name: mock.MagicMock(__spec__=None) for name in names}
        stubs["torchvision.ops.misc"] = ModuleType("torchvision.ops.misc")
        stubs["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (torch.nn.Module,), {})
        sys.modules.update(stubs)
        try:
            import timm
        finally:
            for name in stubs:  # transformers would take them for the real one
                sys.modules.pop(name)
    import timm

    return timm


def pixels(images: np.ndarray) -> Any:
    """Images as the PyTorch libraries take them."""
    import torch

    return torch.tensor(((images - MEAN) / STD).transpose(0, 3, 1, 2), dtype=torch.float32)


def randomise(model: Any, spread: float = 0.2) -> Any:
    """Every parameter random: zero biases and unit gains would hide a missing one."""
    import torch

    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, spread, generator=generator)
        for value in model.buffers():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model.eval()


# === The authors' and timm's ===
def timm_vit(pool: str, classes: int = CLASSES, class_token: bool = True) -> Any:
    """timm's ViT, whose module the authors' classifiers are too."""
    return randomise(
        import_timm().models.vision_transformer.VisionTransformer(
            SIDE, PATCH, 3, classes, pool, WIDTH, DEPTH, HEADS, class_token=class_token
        )
    )


def authors_mae() -> Any:
    """The authors' masked autoencoder by its names, of timm's blocks, written from the paper."""
    import torch

    vit = import_timm().models.vision_transformer

    class MAE(vit.VisionTransformer):
        def __init__(self) -> None:
            super().__init__(SIDE, PATCH, 3, 0, "token", WIDTH, DEPTH, HEADS, class_token=True)
            self.decoder_embed = torch.nn.Linear(WIDTH, DECODER_WIDTH)
            self.mask_token = torch.nn.Parameter(torch.zeros(1, 1, DECODER_WIDTH))
            self.decoder_pos_embed = torch.nn.Parameter(torch.zeros(1, 17, DECODER_WIDTH))
            norm = partial(torch.nn.LayerNorm, eps=1e-6)
            blocks = [vit.Block(DECODER_WIDTH, DECODER_HEADS, qkv_bias=True, norm_layer=norm) for _ in range(2)]
            self.decoder_blocks = torch.nn.ModuleList(blocks)
            self.decoder_norm = torch.nn.LayerNorm(DECODER_WIDTH, eps=1e-6)
            self.decoder_pred = torch.nn.Linear(DECODER_WIDTH, PATCH * PATCH * 3)

        def predict(self, images: Any, noise: Any) -> Any:
            positions = self.pos_embed[0]
            order = torch.argsort(noise, dim=1)
            tokens = self.patch_embed(images) + positions[1:]
            rows = torch.arange(len(images))[:, None]
            first = (self.cls_token + positions[0]).expand(len(images), -1, -1)
            seen = torch.cat([first, tokens[rows, order[:, :KEPT]]], dim=1)
            seen = self.decoder_embed(self.norm(self.blocks(seen)))
            full = self.mask_token.repeat(len(images), 16, 1)
            full[rows, order[:, :KEPT]] = seen[:, 1:]
            full = torch.cat([seen[:, :1], full], dim=1) + self.decoder_pos_embed
            for block in self.decoder_blocks:
                full = block(full)
            return self.decoder_pred(self.decoder_norm(full))[:, 1:]

    return randomise(MAE())


def write_authors(folder: Path) -> dict[str, np.ndarray]:
    """`.pth` files under the authors' names, each also as safetensors; what the models compute."""
    import torch
    from safetensors.torch import save_file

    vit = import_timm().models.vision_transformer
    autoencoder, probe = authors_mae(), timm_vit("token")
    statistics = randomise(torch.nn.BatchNorm1d(WIDTH, affine=False, eps=1e-6))
    models = {
        "timm_mae": timm_vit("token", 0),
        "mae_visualize_vit_small": autoencoder,
        "mae_finetuned_vit_small": timm_vit("avg"),
        "timm_token": timm_vit("token"),
        "probe": probe,
    }
    found = {}
    with torch.no_grad():
        for name, model in models.items():
            state = dict(model.state_dict())
            if name == "probe":
                state |= {f"head.1.{part}": state.pop(f"head.{part}") for part in ("weight", "bias")}
                state |= {f"head.0.{part}": value for part, value in statistics.state_dict().items()}
            beside = {"epoch": 799, "args": Namespace(norm_pix_loss=True, mask_ratio=0.6)} if model is probe else {}
            torch.save({"model": state, **beside}, folder / f"{name}.pth")
            save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")
            if name == "probe":
                found[name] = model.head(statistics(model.forward_features(pixels(IMAGES))[:, 0])).numpy()
            elif name.startswith("mae_visualize"):
                found[name] = model.predict(pixels(IMAGES), torch.tensor(NOISE)).numpy()
            else:
                found[name] = (model if "head.weight" in state else model.forward_features)(pixels(IMAGES)).numpy()
        base = randomise(vit.vit_base_patch16_224(num_classes=0, global_pool="token"), spread=0.03)
        save_file({key: value.contiguous() for key, value in base.state_dict().items()}, folder / "base.safetensors")
        found["base"] = base.forward_features(pixels(LARGE)).numpy()
    half = {key: value.half() for key, value in models["timm_mae"].state_dict().items()}
    save_file(half, folder / "float16.safetensors")
    save_file({key: value.bfloat16() for key, value in half.items()}, folder / "bfloat16.safetensors")
    args = Namespace(norm_pix_loss=True, mask_ratio=0.6)
    torch.save({"model": autoencoder.state_dict(), "epoch": 3, "args": args}, folder / "checkpoint-3.pth")
    return found


# === transformers' ===
def write_transformers(folder: Path) -> dict[str, np.ndarray]:
    """Folders of `save_pretrained`, and the same weights under the other two layouts of its names."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * WIDTH,
        "image_size": SIDE,
        "patch_size": PATCH,
        "layer_norm_eps": EPS,
    }
    config = transformers.ViTMAEConfig(
        **sizes,
        decoder_hidden_size=DECODER_WIDTH,
        decoder_num_hidden_layers=DECODER_DEPTH,
        decoder_num_attention_heads=DECODER_HEADS,
        decoder_intermediate_size=3 * DECODER_WIDTH,
        norm_pix_loss=True,
        mask_ratio=1 - KEPT / 16,
    )
    autoencoder = randomise(transformers.ViTMAEForPreTraining(config))
    labelled = transformers.ViTConfig(**sizes, num_labels=CLASSES)
    classifier = randomise(transformers.ViTForImageClassification(labelled))
    models = {"hf_saved": autoencoder, "hf_encoder": autoencoder.vit, "hf_classifier": classifier}
    for name, model in models.items():
        model.save_pretrained(folder / name)
    saved = load_file(folder / "hf_saved" / "model.safetensors")
    hub = {key.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers."): saved[key] for key in saved}
    layouts = {
        "hf_hub": hub,
        "hf_memory": {key: value.contiguous() for key, value in autoencoder.state_dict().items()},
    }
    for name, state in layouts.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_bytes((folder / "hf_saved" / "config.json").read_bytes())
        save_file(state, folder / name / "model.safetensors")
    (folder / "hf_bin").mkdir()
    (folder / "hf_bin" / "config.json").write_bytes((folder / "hf_saved" / "config.json").read_bytes())
    torch.save(layouts["hf_hub"], folder / "hf_bin" / "pytorch_model.bin")
    normalise = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5], "do_normalize": True}
    (folder / "hf_hub" / "preprocessor_config.json").write_text(json.dumps(normalise))
    with torch.no_grad():
        found = {
            "hf_saved": autoencoder(pixels(IMAGES), noise=torch.tensor(NOISE)).logits.numpy(),
            "hf_classifier": classifier(pixels(IMAGES)).logits.numpy(),
        }
        config.mask_ratio = 0.0
        order = torch.arange(16.0).repeat(len(IMAGES), 1)
        found["hf_encoder"] = autoencoder.vit(pixels(IMAGES), noise=order).last_hidden_state.numpy()
    return found
