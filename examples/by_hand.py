"""A masked autoencoder written by hand in plain PyTorch, for a fixed size of image: what Keras is measured against.

Not a script.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

REMOVED = 0.75
_Sizes = tuple[int, int, int]  # width, depth, heads


class Block(nn.Module):
    """Attention and MLP, each after a layer norm and added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.before_attention(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.out(mixed)
        return x + self.down(gelu(self.up(self.before_mlp(x))))


class Autoencoder(nn.Module):
    """Patches of square RGB images of `side` pixels; the loss is over removed patches, normalized."""

    def __init__(
        self, encoder: tuple[int, int, int], decoder: tuple[int, int, int], side: int = 224, patch: int = 16
    ):
        super().__init__()
        width, decoder_width = encoder[0], decoder[0]
        self.patch, self.patches, pixels = patch, (side // patch) ** 2, 3 * patch**2
        self.embedding, self.to_decoder = nn.Linear(pixels, width), nn.Linear(width, decoder_width)
        self.class_token, self.mask_token = (nn.Parameter(torch.zeros(1, 1, n)) for n in (width, decoder_width))
        self.positions = nn.Buffer(torch.randn(1, self.patches, width) / 50)
        self.decoder_positions = nn.Buffer(torch.randn(1, 1 + self.patches, decoder_width) / 50)
        self.encoder, self.decoder = _blocks(*encoder), _blocks(*decoder)
        self.to_pixels = nn.Linear(decoder_width, pixels)
        deviation = torch.tensor([0.229, 0.224, 0.225])
        self.mean, self.deviation = nn.Buffer(torch.tensor([0.485, 0.456, 0.406])), nn.Buffer(deviation)

    def forward(self, images: Tensor) -> Tensor:
        batch, side = len(images), images.shape[1] // self.patch
        pixels = (images.float() / 255 - self.mean) / self.deviation
        pixels = pixels.view(batch, side, self.patch, side, self.patch, 3).transpose(2, 3).flatten(3).flatten(1, 2)
        order = torch.rand(batch, self.patches, device=images.device).argsort(1)
        kept, removed = order.split([self.patches - round(REMOVED * self.patches), round(REMOVED * self.patches)], 1)
        tokens = self.embedding(_gather(pixels, kept)) + _gather(self.positions.expand(batch, -1, -1), kept)
        tokens = self.encoder(torch.cat([self.class_token.expand(batch, -1, -1), tokens], 1))
        tokens = self.to_decoder(tokens)
        hidden = self.mask_token.to(tokens.dtype).expand(batch, removed.shape[1], -1)
        patches = _gather(torch.cat([tokens[:, 1:], hidden], 1), order.argsort(1))
        tokens = self.decoder(torch.cat([tokens[:, :1], patches], 1) + self.decoder_positions)
        predicted = self.to_pixels(_gather(tokens[:, 1:], removed)).float()
        target = layer_norm(_gather(pixels, removed), pixels.shape[-1:], eps=1e-6)
        return (predicted - target).square().mean()


def _blocks(width: int, depth: int, heads: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width, heads) for _ in range(depth)), nn.LayerNorm(width, eps=1e-6))


def _gather(tokens: Tensor, ids: Tensor) -> Tensor:
    return tokens.gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[-1]))


def optimizer(model: nn.Module, rate: float, decay: float, betas: tuple[float, float], fused: bool | None) -> Any:
    """Return AdamW that does not decay biases and norms."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=fused)
