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
        self.make_projections(width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def make_projections(self, width: int) -> None:
        self.qkv = nn.Linear(width, 3 * width)

    def query_key_value(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.by_head(self.qkv(x), 3)

    def by_head(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return x.view(*x.shape[:2], parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        mixed = scaled_dot_product_attention(*self.query_key_value(self.before_attention(x), *context))
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.before_mlp(x))))


class CrossBlock(Block):
    """A block whose tokens attend to others, of another width, and not to one another."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        self.context_width = context_width
        super().__init__(width, heads)

    def make_projections(self, width: int) -> None:
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(self.context_width, 2 * width)
        self.before_keys = nn.LayerNorm(self.context_width, eps=1e-6)

    def query_key_value(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        return *self.by_head(self.query(x), 1), *self.by_head(self.key_value(self.before_keys(context)), 2)


class Autoencoder(nn.Module):
    """Patches of square images of `side` pixels; the loss is over removed patches, normalized.

    The decoder attends from all patches to all. With `cross_share` it attends to the encoder's tokens, of all blocks,
    from that share of the removed patches, and only these are predicted.
    """

    def __init__(
        self,
        encoder: _Sizes,
        decoder: _Sizes,
        side: int = 224,
        patch: int = 16,
        channels: int = 3,
        cross_share: float | None = None,
    ) -> None:
        super().__init__()
        width, decoder_width = encoder[0], decoder[0]
        self.patch, self.patches, self.cross_share = patch, (side // patch) ** 2, cross_share
        pixels = channels * patch**2
        self.embedding = nn.Linear(pixels, width)
        self.class_token, self.mask_token = (nn.Parameter(torch.zeros(1, 1, n)) for n in (width, decoder_width))
        self.positions = nn.Buffer(torch.randn(1, self.patches, width) / 50)
        self.decoder_positions = nn.Buffer(torch.randn(1, 1 + self.patches, decoder_width) / 50)
        self.encoder, self.norm = _blocks(*encoder), nn.LayerNorm(width, eps=1e-6)
        if cross_share is None:
            self.to_decoder, self.decoder = nn.Linear(width, decoder_width), _blocks(*decoder)
        else:
            self.mixes = nn.ParameterList(torch.randn(encoder[1]) / encoder[1] ** 0.5 for _ in range(decoder[1]))
            self.decoder = nn.ModuleList(CrossBlock(decoder[0], decoder[2], width) for _ in range(decoder[1]))
        self.decoder_norm, self.to_pixels = nn.LayerNorm(decoder_width, eps=1e-6), nn.Linear(decoder_width, pixels)
        mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if channels == 3 else ([0.5], [0.5])
        self.mean, self.deviation = nn.Buffer(torch.tensor(mean)), nn.Buffer(torch.tensor(deviation))

    def forward(self, images: Tensor) -> Tensor:
        batch, side, channels = len(images), images.shape[1] // self.patch, images.shape[-1]
        pixels = (images.float() / 255 - self.mean) / self.deviation
        pixels = pixels.view(batch, side, self.patch, side, self.patch, channels).transpose(2, 3)
        pixels = pixels.flatten(3).flatten(1, 2)
        order = torch.rand(batch, self.patches, device=images.device).argsort(1)
        kept, removed = order.split([self.patches - round(REMOVED * self.patches), round(REMOVED * self.patches)], 1)
        tokens = self.embedding(_gather(pixels, kept)) + _gather(self.positions.expand(batch, -1, -1), kept)
        tokens = torch.cat([self.class_token.expand(batch, -1, -1), tokens], 1)
        if self.cross_share is None:
            decoded = self.from_all(self.norm(self.encoder(tokens)), removed, order)
        else:
            removed = removed[:, : round(self.cross_share * removed.shape[1])]
            decoded = self.across(tokens, removed)
        predicted = self.to_pixels(self.decoder_norm(decoded)).float()
        target = layer_norm(_gather(pixels, removed), pixels.shape[-1:], eps=1e-6)
        return (predicted - target).square().mean()

    def from_all(self, tokens: Tensor, removed: Tensor, order: Tensor) -> Tensor:
        tokens = self.to_decoder(tokens)
        hidden = self.mask_token.to(tokens.dtype).expand(*removed.shape, -1)
        patches = _gather(torch.cat([tokens[:, 1:], hidden], 1), order.argsort(1))
        tokens = self.decoder(torch.cat([tokens[:, :1], patches], 1) + self.decoder_positions)
        return _gather(tokens[:, 1:], removed)

    def across(self, tokens: Tensor, removed: Tensor) -> Tensor:
        outputs = []
        for block in self.encoder:
            tokens = block(tokens)
            outputs.append(tokens)
        outputs[-1] = self.norm(tokens)
        contexts = torch.einsum("dn,nbtw->dbtw", torch.stack([*self.mixes]), torch.stack(outputs))
        x = self.mask_token + _gather(self.decoder_positions[:, 1:].expand(len(removed), -1, -1), removed)
        for block, context in zip(self.decoder, contexts, strict=True):
            x = block(x, context)
        return x


def _blocks(width: int, depth: int, heads: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width, heads) for _ in range(depth)))


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
