"""A masked autoencoder in plain NumPy float64, and the masks in Python integers: slow, and written to be read.

Nothing here follows the package's way of computing. As the paper has it, all patches are embedded and get
their positions, the visible ones are picked, the decoder sees every token in its own place, and the loss is
sum(loss * mask) / sum(mask). Nothing is shuffled, so every result is in reading order.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


# === The model ===
@dataclass(frozen=True)
class Sizes:
    """What the weights alone do not say."""

    image_shape: tuple[int, int, int]
    patch_size: tuple[int, int]
    depth: int
    num_heads: int
    decoder_depth: int
    decoder_num_heads: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    class_tokens: int = 1

    @classmethod
    def of(cls, mae: Any) -> Sizes:
        return cls(
            mae.encoder.image_shape,
            mae.encoder.patch_size,
            mae.encoder.depth,
            mae.encoder.num_heads,
            mae.decoder.depth,
            mae.decoder.num_heads,
            mae.encoder.pixel_mean,
            mae.encoder.pixel_std,
            mae.encoder.class_tokens,
        )

    @property
    def grid(self) -> tuple[int, int]:
        return self.image_shape[0] // self.patch_size[0], self.image_shape[1] // self.patch_size[1]


def named_variables(mae: Any) -> dict[str, Any]:
    """The Keras variables of a model under the names this module uses."""

    def dense(layer: Any, name: str) -> dict[str, Any]:
        return {f"{name}.kernel": layer.kernel, f"{name}.bias": layer.bias}

    def norm(layer: Any, name: str) -> dict[str, Any]:
        return {f"{name}.gamma": layer.gamma, f"{name}.beta": layer.beta}

    def blocks(layers: Any, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i, block in enumerate(layers):
            found |= norm(block.norm1, f"{name}.{i}.norm1")
            found |= dense(block.attention.qkv, f"{name}.{i}.qkv")
            found |= dense(block.attention.projection, f"{name}.{i}.projection")
            found |= norm(block.norm2, f"{name}.{i}.norm2")
            found |= dense(block.mlp.fc1, f"{name}.{i}.fc1")
            found |= dense(block.mlp.fc2, f"{name}.{i}.fc2")
        return found

    encoder, decoder = mae.encoder, mae.decoder
    class_token = {} if encoder.class_token is None else {"encoder.class_token": encoder.class_token}
    return {
        **class_token,
        "encoder.positions": encoder.position_embedding,
        **dense(encoder.patch_embedding.projection, "encoder.patches"),
        **blocks(encoder.blocks, "encoder"),
        **norm(encoder.norm, "encoder.norm"),
        "decoder.mask_token": decoder.mask_token,
        "decoder.positions": decoder.position_embedding,
        **dense(decoder.embedding, "decoder.embedding"),
        **blocks(decoder.blocks, "decoder"),
        **norm(decoder.norm, "decoder.norm"),
        **dense(decoder.prediction, "decoder.prediction"),
    }


def weights_of(mae: Any) -> Weights:
    import keras

    return {name: keras.ops.convert_to_numpy(variable) for name, variable in named_variables(mae).items()}


def patches_of(images: np.ndarray, patch_size: tuple[int, int]) -> np.ndarray:
    """(batch, patches, pixels): pixel by pixel, in the order the paper's code has them."""
    batch, height, width, channels = images.shape
    p, q = patch_size
    out = np.zeros((batch, (height // p) * (width // q), p * q * channels), images.dtype)
    for y in range(height):
        for x in range(width):
            patch = (y // p) * (width // q) + x // q
            for channel in range(channels):
                out[:, patch, ((y % p) * q + x % q) * channels + channel] = images[:, y, x, channel]
    return out


def normalised(images: np.ndarray, sizes: Sizes) -> np.ndarray:
    return (images.astype("float64") - np.array(sizes.pixel_mean)) / np.array(sizes.pixel_std)


def position_table(grid: tuple[int, int], dim: int) -> np.ndarray:
    """(1 + patches, dim): [sin column, cos column, sin row, cos row], a quarter of the channels each."""
    table = np.zeros((1 + grid[0] * grid[1], dim))
    quarter = dim // 4
    for row in range(grid[0]):
        for column in range(grid[1]):
            for i in range(quarter):
                frequency = 1.0 / 10000.0 ** (i / quarter)
                table[1 + row * grid[1] + column, [i, quarter + i, 2 * quarter + i, 3 * quarter + i]] = (
                    math.sin(column * frequency),
                    math.cos(column * frequency),
                    math.sin(row * frequency),
                    math.cos(row * frequency),
                )
    return table


def layer_norm(x: np.ndarray, w: Weights, name: str, eps: float = 1e-6) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * w[f"{name}.gamma"] + w[f"{name}.beta"]


def dense(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return x @ w[f"{name}.kernel"].astype("float64") + w[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def attention_weights(x: np.ndarray, w: Weights, name: str, num_heads: int) -> np.ndarray:
    """(batch, heads, tokens, tokens); one sample and one head at a time."""
    width = x.shape[-1] // num_heads
    query, key, _ = np.split(dense(x, w, f"{name}.qkv"), 3, axis=-1)
    weights = np.zeros((len(x), num_heads, x.shape[1], x.shape[1]))
    for sample in range(len(x)):
        for head in range(num_heads):
            own = slice(head * width, (head + 1) * width)
            scores = query[sample, :, own] @ key[sample, :, own].T / math.sqrt(width)
            weights[sample, head] = np.exp(scores - scores.max(-1, keepdims=True))
            weights[sample, head] /= weights[sample, head].sum(-1, keepdims=True)
    return weights


def attention(x: np.ndarray, w: Weights, name: str, num_heads: int) -> np.ndarray:
    """x is (batch, tokens, dim)."""
    width = x.shape[-1] // num_heads
    value = np.split(dense(x, w, f"{name}.qkv"), 3, axis=-1)[2]
    weights = attention_weights(x, w, name, num_heads)
    mixed = np.zeros_like(x)
    for sample in range(len(x)):
        for head in range(num_heads):
            own = slice(head * width, (head + 1) * width)
            mixed[sample, :, own] = weights[sample, head] @ value[sample, :, own]
    return dense(mixed, w, f"{name}.projection")


def mlp(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return dense(gelu(dense(x, w, f"{name}.fc1")), w, f"{name}.fc2")


def block(x: np.ndarray, w: Weights, name: str, num_heads: int) -> np.ndarray:
    x = x + attention(layer_norm(x, w, f"{name}.norm1"), w, name, num_heads)
    return x + mlp(layer_norm(x, w, f"{name}.norm2"), w, name)


def blocks_of(images: np.ndarray, w: Weights, sizes: Sizes, mask: np.ndarray | None = None) -> list[np.ndarray]:
    """What each block gets and, last, what the last one returns: (batch, class tokens + kept, dim)."""
    x = dense(patches_of(normalised(images, sizes), sizes.patch_size), w, "encoder.patches")
    x = x + w["encoder.positions"][1:]
    if mask is not None:
        x = np.stack([tokens[gone == 0] for tokens, gone in zip(x, mask, strict=True)])
    for number in reversed(range(sizes.class_tokens)):
        class_token = w["encoder.class_token"][0, number] + w["encoder.positions"][0]
        x = np.stack([np.concatenate([class_token[None], tokens]) for tokens in x])
    tokens = [x]
    for i in range(sizes.depth):
        tokens.append(block(tokens[-1], w, f"encoder.{i}", sizes.num_heads))
    return tokens


def encode(images: np.ndarray, w: Weights, sizes: Sizes, mask: np.ndarray | None = None) -> np.ndarray:
    """(batch, class tokens + kept, dim): class tokens and visible patches, in reading order."""
    return layer_norm(blocks_of(images, w, sizes, mask)[-1], w, "encoder.norm")


def decode(
    tokens: np.ndarray, w: Weights, sizes: Sizes, mask: np.ndarray, predicted: np.ndarray | None = None
) -> np.ndarray:
    """(batch, patches, pixels): mask tokens stand where patches were removed; every patch is predicted.

    With `predicted`, the removed patches that are 0 in it have no token, and their prediction is 0.
    """
    embedded, first = dense(tokens, w, "decoder.embedding"), sizes.class_tokens
    x = np.zeros((len(tokens), first + mask.shape[1], embedded.shape[-1]))
    for sample in range(len(x)):
        x[sample, :first] = embedded[sample, :first] + w["decoder.positions"][0]
        visible = iter(embedded[sample, first:])
        for patch in range(mask.shape[1]):
            token = w["decoder.mask_token"].reshape(-1) if mask[sample, patch] else next(visible)
            x[sample, first + patch] = token + w["decoder.positions"][1 + patch]
    absent = np.zeros(mask.shape) if predicted is None else mask - predicted
    present = np.concatenate([np.ones((len(x), first)), 1 - absent], axis=1) == 1
    x = np.stack([tokens[there] for tokens, there in zip(x, present, strict=True)])
    for i in range(sizes.decoder_depth):
        x = block(x, w, f"decoder.{i}", sizes.decoder_num_heads)
    x = dense(layer_norm(x, w, "decoder.norm"), w, "decoder.prediction")
    out = np.zeros((*present.shape, x.shape[-1]))
    out[present] = x.reshape(-1, x.shape[-1])
    return out[:, first:]


def target_of(images: np.ndarray, sizes: Sizes, norm_pix_loss: bool) -> np.ndarray:
    target = patches_of(normalised(images, sizes), sizes.patch_size)
    if norm_pix_loss:
        mean = target.mean(-1, keepdims=True)
        variance = target.var(-1, ddof=1, keepdims=True)
        target = (target - mean) / np.sqrt(variance + 1e-6)
    return target


def loss_of(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
    by_patch = ((prediction - target) ** 2).mean(-1)
    return float((by_patch * mask).sum() / mask.sum())


def mask_from_noise(noise: np.ndarray, mask_ratio: float) -> np.ndarray:
    """(batch, patches), 1 = removed: the patches with the least noise stay, the earlier one of a tie."""
    mask = np.ones(noise.shape)
    kept = int(round(noise.shape[1] * (1 - mask_ratio), 10))
    for sample, draws in enumerate(noise):
        for patch in sorted(range(len(draws)), key=lambda place: (draws[place], place))[:kept]:
            mask[sample, patch] = 0
    return mask


# === The hash, in Python integers ===
def _mix(x: int) -> int:
    """MurmurHash3's 32-bit finaliser."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def hash_draw(seed: int, step: int, sample: int, token: int, stream: int = 0) -> int:
    """One draw, as a signed 32-bit integer."""
    key = _mix((step * 0x9E3779B1 + seed * 0x85EBCA77 + 1) % 2**32)
    key = _mix((key + stream * 0x2545F491) % 2**32)
    row = _mix((sample * 0xC2B2AE3D + key) % 2**32)
    draw = _mix((_mix((row + token * 0x27D4EB2F) % 2**32) + 0x165667B1) % 2**32)
    return draw - 2**32 if draw >= 2**31 else draw


def hash_noise(seed: int, step: int, samples: range, count: int, stream: int = 0) -> np.ndarray:
    return np.array([[hash_draw(seed, step, sample, token, stream) for token in range(count)] for sample in samples])


# === Masks ===
def random_mask(noise: np.ndarray, grid: tuple[int, int], mask_ratio: float) -> np.ndarray:
    return mask_from_noise(noise, mask_ratio)


def grid_mask(noise: np.ndarray, grid: tuple[int, int], mask_ratio: float) -> np.ndarray:
    """One patch of each side × side cell stays; the patch with the least noise says at which place."""
    side = {0.75: 2, 1 - 1 / 9: 3}[mask_ratio]
    mask = np.ones((len(noise), *grid))
    for sample, draws in enumerate(noise):
        place = int(np.argmin(draws)) % side**2
        mask[sample, place // side :: side, place % side :: side] = 0
    return mask.reshape(len(noise), -1)


def second_draw(order: list[int], patches: int, number: int) -> int:
    """Another random number of a sample, unsigned, from its patches by their noise."""
    key = order[0]
    for place in (1, 2, 3):
        key = _mix((key + order[place] * (2 * patches * place + 1)) % 2**32)
    return _mix((key + number * 0x27D4EB2F) % 2**32)


def cell_mask(noise: np.ndarray, grid: tuple[int, int], mask_ratio: float, side: int = 2) -> np.ndarray:
    """Cells stay by the noise of their upper left patch until enough patches do; the last one only in part."""
    patches = grid[0] * grid[1]
    kept = int(round(patches * (1 - mask_ratio), 10))
    cells: dict[int, list[int]] = {}  # upper left patch -> all patches
    for row in range(grid[0]):
        for column in range(grid[1]):
            corner = row // side * side * grid[1] + column // side * side
            cells.setdefault(corner, []).append(row * grid[1] + column)
    bits = 31 - len(cells).bit_length()
    mask = np.ones((len(noise), patches))
    for sample, draws in enumerate(noise):
        order = sorted(range(patches), key=lambda patch: (draws[patch], patch))
        visible: list[int] = []
        for corner in sorted(cells, key=lambda corner: (draws[corner], corner)):
            free, cell = kept - len(visible), cells[corner]
            if free < len(cell):  # all of it would be too many
                cell = sorted(cell, key=lambda patch: (second_draw(order, patches, patch) % 2**bits, patch))
            visible += cell[:free]
        mask[sample, visible] = 0
    return mask


# Passes of (1, 2, 1) along rows and columns -> times what, in each color.
BANDS = {
    "red": {4: 1},
    "green": {1: 16**3, 4: -1},
    "blue": {0: 16, 1: -1},
    "purple": {0: 16**4, 1: -2 * 16**3, 4: 2},
}


def color_mask(noise: np.ndarray, grid: tuple[int, int], mask_ratio: float, color: str = "green") -> np.ndarray:
    """The ranks of the noise are filtered on a torus, one place after another, and the largest values stay."""
    rows, columns = grid
    patches = rows * columns
    kept = int(round(patches * (1 - mask_ratio), 10))
    mask = np.ones((len(noise), patches))
    for sample, draws in enumerate(noise):
        order = sorted(range(patches), key=lambda patch: (draws[patch], patch))
        rank = {patch: place >> max(patches.bit_length() - 12, 0) for place, patch in enumerate(order)}
        band = [0] * patches
        for passes, times in BANDS[color].items():
            weights = [math.comb(2 * passes, step) for step in range(2 * passes + 1)]
            for patch in range(patches):
                for down, vertical in enumerate(weights):
                    row = (patch // columns + down - passes) % rows
                    for across, horizontal in enumerate(weights):
                        column = (patch % columns + across - passes) % columns
                        band[patch] += times * vertical * horizontal * rank[row * columns + column]
        place = {patch: place for place, patch in enumerate(order)}
        strongest = sorted(range(patches), key=lambda patch: (-band[patch], place[patch]))
        mask[sample, strongest[:kept]] = 0
    return mask


def block_mask(noise: np.ndarray, grid: tuple[int, int], mask_ratio: float) -> np.ndarray:
    """Rectangles around the patches of least noise, until the count is reached; the rest in reading order."""
    patches = grid[0] * grid[1]
    removed = patches - int(round(patches * (1 - mask_ratio), 10))
    mask = np.zeros((len(noise), patches))
    for sample, draws in enumerate(noise):
        order = sorted(range(patches), key=lambda patch: (draws[patch], patch))
        hidden: list[int] = []
        for number, centre in enumerate(order[:32]):
            size = second_draw(order, patches, number) % 64
            area = (0.08 + 0.32 * (size // 8) / 7) * patches
            aspect = 0.3 * (1 / 0.3 / 0.3) ** (size % 8 / 7)
            height = min(max(round(math.sqrt(area * aspect)), 1), grid[0])
            width = min(max(round(math.sqrt(area / aspect)), 1), grid[1])
            top, left = centre // grid[1] - height // 2, centre % grid[1] - width // 2
            for row in range(max(top, 0), min(top + height, grid[0])):
                for column in range(max(left, 0), min(left + width, grid[1])):
                    if row * grid[1] + column not in hidden:
                        hidden.append(row * grid[1] + column)
        hidden += [patch for patch in range(patches) if patch not in hidden]
        mask[sample, hidden[:removed]] = 1
    return mask


def fingerprint(array: Any) -> str:
    """MD5 of the values as little-endian int32."""
    return hashlib.md5(np.ascontiguousarray(array, "<i4").tobytes()).hexdigest()
