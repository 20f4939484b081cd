"""The models that benchmarks compare, and their training steps: each runs in a process of its own. Not a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import machine
import numpy as np
import plan_accelerators

LEARNING_RATE, WEIGHT_DECAY, BETAS = 1.5e-4, 0.05, (0.9, 0.95)
_KEYS = ("embed_dim", "depth", "num_heads")
THIRD = 0.33  # of the removed patches; what the recipe for small images predicts


@dataclass(frozen=True)
class Size:
    """Sizes of a model: (embed_dim, depth, num_heads) of both parts, and its images."""

    encoder: tuple[int, int, int]
    decoder: tuple[int, int, int]
    batch: int
    side: int = 224
    patch: int = 16
    channels: int = 3
    cross_share: float | None = None
    """Share of the removed patches that a cross-attention decoder predicts; without it all are, by self-attention."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return self.side, self.side, self.channels


SIZES = {
    "tiny": Size((48, 2, 3), (32, 1, 2), 1),  # whether it runs
    "micro": Size((96, 4, 4), (64, 2, 4), 256, 28, 4, 1, THIRD),  # keras-mae pretrain fashion_mnist
    "photos96": Size((128, 6, 4), (64, 2, 4), 128, 96, 8, 3, THIRD),
    "small": Size((384, 12, 6), (256, 4, 8), 8),
    "base": Size((768, 12, 12), (512, 8, 16), 4),
    "large": Size((1024, 24, 16), (512, 8, 16), 2),
    "large-one-block": Size(
        (1024, 24, 16), (512, 1, 16), 2
    ),  # a decoder that the paper found deep enough to fine-tune
}
DECODERS = {  # kind, share of the removed patches; in the name it is per cent of all patches
    f"{kind}-{share}": (kind, share / 75) for kind in ("self", "cross") for share in (75, 50, 25)
}


def decoder_of(contestant: str, size: Size) -> tuple[str, float]:
    """Return the kind of a contestant's decoder, and the share of the removed patches that it predicts."""
    if contestant in DECODERS:
        return DECODERS[contestant]
    if size.cross_share is None or contestant.startswith("transformers"):
        return "self", 1.0
    return "cross", size.cross_share


def flops(contestant: str, size: Size) -> float:
    """Operations of a training step on one image, skipped or not: products and attention, thrice the forward pass."""
    kind, share = decoder_of(contestant, size)
    patches = (size.side // size.patch) ** 2
    visible = patches // 4
    predicted = round(share * (patches - visible))
    pixels = size.channels * size.patch**2
    parts = size.encoder[:2], size.decoder[:2]
    return 3 * plan_accelerators.forward_flops(*parts, visible, predicted, pixels, kind == "cross")


def bytes_of(size: Size, count: int) -> np.ndarray:
    """Return random images, uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, *size.shape), dtype="uint8")


# === keras_mae ===
def keras_model(contestant: str, size: Size, dtype: str) -> Any:
    """Return a masked autoencoder of keras_mae on this process' backend, compiled."""
    import keras
    from keras import ops

    import keras_mae

    class MaskTokensInEncoder(keras_mae.MaskedAutoencoder):
        """The encoder sees every patch, the removed ones as one constant: what a mask token there amounts to."""

        def outputs_for_loss(self, x, training):
            inputs = ops.convert_to_tensor(x)
            mask = self._mask({"images": inputs}, training=True)
            hidden = keras_mae.unpatchify(
                ops.repeat(ops.expand_dims(ops.cast(mask.mask, "uint8"), -1), size.patch**2 * size.channels, -1),
                self.encoder.patch_size,
                self.encoder.image_shape,
            )
            tokens = self.encoder(inputs * (1 - hidden), training=training)
            everything = ops.broadcast_to(
                ops.arange(self.encoder.num_patches, dtype="int32")[None], ops.shape(mask.mask)
            )
            prediction = self.decoder(tokens, everything, everything[:, :0])
            prediction = keras_mae.ops.gather_tokens(prediction, mask.ids_removed)
            pixels = self.encoder.patch_embedding.pixels(inputs, mask.ids_removed)
            return {"removed_prediction": ops.cast(prediction, "float32"), "removed_pixels": pixels}

    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else "float32")
    encoder, decoder = (dict(zip(_KEYS, values, strict=True)) for values in (size.encoder, size.decoder))
    kind, share = decoder_of(contestant, size)
    decoder_class = keras_mae.CrossAttentionDecoder if kind == "cross" else keras_mae.MAEDecoder
    model = (MaskTokensInEncoder if contestant == "mask-tokens" else keras_mae.MaskedAutoencoder)(
        keras_mae.ViTEncoder(size.shape, size.patch, **encoder), decoder_class(**decoder), predict_ratio=share
    )
    # JAX compiles all of a step, TensorFlow on a CPU parts of it, or all if it is asked to, PyTorch its blocks then.
    jit = {"compiled": True, "graph": False}.get(contestant.rpartition("-")[-1], "auto")
    model.compile(keras_mae.optimizers.AdamW(LEARNING_RATE, WEIGHT_DECAY), jit_compile=jit)
    return model


def keras_steps(contestant: str, size: Size, dtype: str, batch: int) -> Callable[[int], float]:
    """Return a function that runs so many training steps of keras_mae."""
    import keras

    model, images = keras_model(contestant, size, dtype), bytes_of(size, batch)

    class Batches(keras.utils.PyDataset):
        count = 0

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, index: int) -> Any:
            return images

    def run(count: int) -> float:
        if count == 1:
            return float(model.train_on_batch(images, return_dict=True)["loss"])
        batches = Batches()
        batches.count = count
        return model.fit(batches, verbose=0).history["loss"][-1]

    return run


# === Plain PyTorch ===
def torch_step(model: Any, dtype: str, fused: bool) -> Callable[[Any], Any]:
    """Return a function that runs a training step of a PyTorch model, which returns a loss for a tensor of images."""
    import by_hand
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).train()
    optimizer = by_hand.optimizer(model, LEARNING_RATE, WEIGHT_DECAY, BETAS, fused or None)

    def step(pixels: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(pixels.to(device, non_blocking=True))
        loss = getattr(loss, "loss", loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def model_by_hand(size: Size, compiled: bool = False) -> Any:
    """Return the same model in plain PyTorch, with its blocks compiled or not."""
    import by_hand

    model = by_hand.Autoencoder(
        size.encoder, size.decoder, size.side, size.patch, size.channels, cross_share=size.cross_share
    )
    for module in model.modules():
        if compiled and isinstance(module, by_hand.Block):
            module.compile(fullgraph=True)
    return model


def transformers_model(size: Size) -> Any:
    """Return `transformers`' ViTMAE, which has a decoder of self-attention only."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    (width, depth, heads), (decoder_width, decoder_depth, decoder_heads) = size.encoder, size.decoder
    return ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=size.side,
            patch_size=size.patch,
            num_channels=size.channels,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            decoder_hidden_size=decoder_width,
            decoder_num_hidden_layers=decoder_depth,
            decoder_num_attention_heads=decoder_heads,
            decoder_intermediate_size=4 * decoder_width,
        )
    )


# === All of them ===
def steps(contestant: str, size: Size, dtype: str, batch: int) -> Callable[[int], float]:
    """Return a function that runs so many steps of a contestant and returns a loss, when the device has it.

    The contestant "product" multiplies two matrices of `batch` rows and columns.
    """
    if contestant == "product":
        return machine.matrix_product(batch, dtype)
    if not contestant.startswith(("by-hand", "transformers")):
        return keras_steps(contestant, size, dtype, batch)
    import torch

    if contestant.startswith("by-hand"):
        model = model_by_hand(size, contestant.endswith("compiled"))
        pixels, step = torch.from_numpy(bytes_of(size, batch)), torch_step(model, dtype, fused=True)
    else:
        pixels = torch.randn(batch, size.channels, size.side, size.side)
        step = torch_step(transformers_model(size), dtype, fused=contestant.endswith("fused"))
    if torch.cuda.is_available():
        pixels = pixels.pin_memory()  # as a DataLoader does that was told to
    return lambda count: float([step(pixels) for _ in range(count)][-1].detach())
