"""The ViT encoder: the part that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks, pixels
from keras_mae._types import Tensor
from keras_mae.copying import copied_encoder
from keras_mae.feature_maps import FeatureMaps
from keras_mae.first_batch import ChecksImages
from keras_mae.from_preset import PresetFiles
from keras_mae.ops import add_shared, recomputing
from keras_mae.patches import PatchEmbedding, check_ids_keep
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.positions import resized_on_the_fly, sincos_positions
from keras_mae.random import DROP_PATH, StepCounter, hash_noise
from keras_mae.transformer import TransformerBlock, check_heads
from keras_mae.window_attention import Windows, check_full_attention, checked_global_blocks, rearranged

__all__ = ["ViTEncoder"]


@keras.saving.register_keras_serializable(package="keras_mae")
class ViTEncoder(FeatureMaps, PresetFiles, ChecksImages, keras.Model):
    """A vision transformer that encodes all patches of an image, or only those that are visible.

    `encoder(images)` is unmasked and deterministic: it is the feature extractor that pre-training leaves
    behind. In pre-training the masked autoencoder passes `ids_keep`, and only those patches are embedded and
    encoded; no mask token ever enters the encoder.

    Args:
        image_shape: (height, width, channels).
        patch_size: Side of a patch in pixels, or (height, width); divides the image.
        embed_dim: Width of the tokens, a multiple of 4 and of `num_heads`.
        depth: Number of transformer blocks.
        num_heads: Attention heads.
        mlp_ratio: Width of the MLPs' hidden layer over `embed_dim`.
        drop_path_rate: Drop-path probability of the last block; it grows linearly from 0 at the first.
        layer_norm_eps: Constant added to the variance in every norm.
        final_norm: Whether a LayerNorm follows the last block. A classifier on the mean of the patch tokens has
            one of its own instead.
        pixel_mean: Mean to subtract from the pixels, in their own units: a number, or one per channel. By default
            ImageNet's mean for three channels and the middle of `pixel_range` for any other number.
        pixel_std: Divisor of the centered pixels, in the same form; by default ImageNet's, or half of `pixel_range`.
        pixel_range: (low, high), the smallest and the largest value that a pixel may have: (0, 1) for images that
            were divided by 255, (-1024, 3071) for Hounsfield units, (0, 10000) for reflectances. The first batch of
            every call is checked against it, reconstructions are clipped to it, and PSNR is relative to its length.
            `keras_mae.data.pixel_statistics` measures all three.
        seed: Seed for the drop-path draws.
        class_tokens: Number of learned class tokens in front of the patches, 0 to 8; the paper has one. They differ
            in their weights alone: all have the same position, the first row of the table, which stays zero in
            pre-training and is not used without class tokens.
        window: Side in patches of the windows within which patches attend, for large images; `None` for full
            attention, as in pre-training, which needs it. Weights are the same: `copy(window=14)` is how a
            pre-trained encoder gets windows. Class tokens belong to every window and attend to all patches. Where
            one window covers the image, attention is full.
        global_blocks: Indices of the blocks that have full attention all the same, negative ones from the end; by
            default the last of each quarter, as ViTDet has it: 2, 5, 8 and 11 of twelve.
        remat: Whether training keeps of each block its input only, and the backward pass computes the rest again:
            less memory, more time, and the same gradients. Under JAX on a CPU it saves nothing: XLA keeps the rest.

    Call arguments:
        images: (batch, height, width, channels), integers or floats in `pixel_range`.
        ids_keep: int32 (k * batch, kept), the patches to encode, k rows per image. All if `None`, as `window` needs.
        training: Whether drop path acts.
        maps: What `features` asks for, which is the way to ask.

    Returns:
        (batch, class_tokens + patches, embed_dim) or (k * batch, class_tokens + kept, embed_dim). The class tokens
        come first: `tokens[:, encoder.class_tokens :]` are the patches.

    Raises:
        ValueError: If the arguments do not fit one another.

    Example:
        >>> encoder = keras_mae.ViTEncoder((32, 48, 3), patch_size=8, embed_dim=64, depth=2, num_heads=4)
        >>> encoder(np.zeros((5, 32, 48, 3), "uint8")).shape
        (5, 25, 64)

    Reference: "Masked Autoencoders Are Scalable Vision Learners", section 3 and appendix A.1. Several class tokens:
    "In Pursuit of Pixel Supervision for Visual Pre-training" (Pixio), arXiv 2512.15715. Windows: "Exploring Plain
    Vision Transformer Backbones for Object Detection" (ViTDet), section 3, arXiv 2203.16527.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        patch_size: int | tuple[int, int],
        embed_dim: int,
        depth: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        layer_norm_eps: float = 1e-6,
        final_norm: bool = True,
        pixel_mean: float | Sequence[float] | None = None,
        pixel_std: float | Sequence[float] | None = None,
        pixel_range: PixelRange = BYTES,
        seed: int = 0,
        class_tokens: int = 1,
        window: int | None = None,
        global_blocks: int | Sequence[int] | None = None,
        remat: bool = False,
        **kwargs: Any,
    ):
        kwargs.setdefault("name", "encoder")
        kwargs.setdefault("autocast", False)  # pixels keep full precision until they are normalized
        super().__init__(**kwargs)
        # === Config ===
        self.image_shape = _checks.image_shape(image_shape)
        self.patch_size = _checks.pair("patch_size", patch_size)
        self.grid = _checks.grid(self.image_shape, self.patch_size)
        check_heads(embed_dim, num_heads)
        self.embed_dim = embed_dim
        self.depth = _checks.positive_int("depth", depth)
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.drop_path_rate = _checks.fraction("drop_path_rate", drop_path_rate)
        self.layer_norm_eps = _checks.positive("layer_norm_eps", layer_norm_eps)
        self.final_norm = _checks.boolean("final_norm", final_norm)
        self.pixel_range = pixels.checked_range(pixel_range)
        mean, std = pixels.rescaled(*pixels.default_statistics(self.image_shape[2]), BYTES, self.pixel_range)
        self.pixel_mean = self._by_channel("pixel_mean", pixel_mean, mean)
        self.pixel_std = self._by_channel("pixel_std", pixel_std, std)
        self.seed = _checks.seed_int("seed", seed)
        self.class_tokens = _checks.int_within("class_tokens", class_tokens, 0, 8)
        self.window = _checks.optional(_checks.positive_int, "window", window)
        self.global_blocks = checked_global_blocks(self.window, global_blocks, depth)
        self.remat = _checks.boolean("remat", remat)

        # === Layers ===
        policy = self.dtype_policy
        self.patch_embedding = PatchEmbedding(
            patch_size,
            embed_dim,
            pixel_mean=self.pixel_mean,
            pixel_std=self.pixel_std,
            name="patch_embedding",
            dtype=policy,
        )
        self.blocks = [
            TransformerBlock(
                num_heads,
                mlp_ratio,
                drop_path_rate=float(rate),
                layer_norm_eps=layer_norm_eps,
                name=f"block_{index}",
                dtype=policy,
            )
            for index, rate in enumerate(np.linspace(0.0, drop_path_rate, depth))
        ]
        self.norm = None
        if self.final_norm:
            self.norm = keras.layers.LayerNormalization(epsilon=layer_norm_eps, name="norm", dtype=policy)
        self.step = StepCounter()
        self._positions_wait = False
        self.build((None, *self.image_shape))

    def _by_channel(
        self, argument: str, value: float | Sequence[float] | None, default: tuple[float, ...]
    ) -> tuple[float, ...]:
        """Return one value for each channel; `default`, if there is none."""
        channels = self.image_shape[2]
        if value is None:
            return default
        rule = f"a finite number or one for each of the {channels} channels"
        values = _checks.finite_numbers(argument, value, rule)
        if len(values) not in (1, channels):
            raise _checks.argument_error(argument, rule, value)
        return values * channels if len(values) == 1 else values

    @property
    def num_patches(self) -> int:
        """The number of patches in an image."""
        return self.grid[0] * self.grid[1]

    @property
    def trainable(self) -> bool:
        """Whether the encoder is trained. Frozen, its positions are too, also where a classifier trains them."""
        return bool(keras.layers.Layer.trainable.fget(self))

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        # Keras leaves alone what was fixed when it was made. Unfrozen, positions are as they were before.
        positions = self.position_embedding
        if value:
            positions.trainable = positions.trainable or self._positions_wait
            self._positions_wait = False
        elif positions.trainable:
            positions.trainable, self._positions_wait = False, True

    def __setattr__(self, name: str, value: Any) -> None:
        # On TensorFlow, Keras takes setting what is already set for nothing, and the parts may be set otherwise.
        if name == "trainable":
            type(self).trainable.fset(self, value)  # type: ignore[attr-defined]
        else:
            super().__setattr__(name, value)

    built: bool

    def build(self, input_shape: Any = None) -> None:
        if self.built:
            return
        self.patch_embedding.build((None, *self.image_shape))
        tokens = (None, self.class_tokens + self.num_patches, self.embed_dim)
        self.class_token = (
            self.add_weight(
                name="class_token",
                shape=(1, self.class_tokens, self.embed_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
                autocast=False,
            )
            if self.class_tokens
            else None
        )
        self.position_embedding = self.add_weight(
            name="position_embedding",
            shape=(1 + self.num_patches, self.embed_dim),
            initializer=lambda shape, dtype=None: ops.cast(sincos_positions(self.grid, self.embed_dim), dtype),
            trainable=False,
            autocast=False,
        )
        for block in self.blocks:
            block.build(tokens)
        if self.norm is not None:
            self.norm.build(tokens)
        if not self.trainable:  # `trainable=False` was given, and the parts do not know
            self.trainable = True
            self.trainable = False
        self.built = True

    def check_inputs(self, x: Any, ids_keep: Any = None, *args: Any, **kwargs: Any) -> None:
        """Raise a `ValueError` unless the patches to keep are some of each image's."""
        check_ids_keep(ids_keep, len(x), self.num_patches)

    def call(
        self,
        images: Tensor,
        ids_keep: Tensor | None = None,
        training: bool | None = None,
        maps: dict[str, Any] | None = None,
    ) -> Any:
        if maps is not None:
            return self.maps_of(images, training, **maps)
        tokens = self.encode(images, ids_keep, training)
        return tokens if self.norm is None else self.norm(tokens)

    def encode(
        self,
        images: Tensor,
        ids_keep: Tensor | None = None,
        training: bool | None = None,
        blocks: Sequence[int] | None = None,
    ) -> Any:
        """Return what `call` does, before the final norm. In training this ends the step that `step` counts.

        Args:
            images: As for `call`.
            ids_keep: As for `call`.
            training: As for `call`.
            blocks: Indices of blocks whose outputs are wanted, negative ones from the end: a list of them, in this
                order, is returned. Blocks above the highest are not run. `None` for the last block's output.

        Raises:
            ValueError: If there is no such block, or a windowed encoder is to encode some of the patches only.
        """
        if ids_keep is not None:
            check_full_attention(self.window)
        wanted = self.indices_of(-1 if blocks is None else blocks)
        outputs = self.outputs_of(self.embed(images, ids_keep), self.grid, training, wanted)
        return outputs[0] if blocks is None else outputs

    def indices_of(self, blocks: Any) -> list[int]:
        """Return blocks by their indices from 0."""
        rule = f"indices of blocks, from {-self.depth} to {self.depth - 1}"
        return [index % self.depth for index in _checks.indices("blocks", blocks, -self.depth, self.depth, rule)]

    def windows_of(self, block: int, grid: tuple[int, int]) -> Windows | None:
        """Return the windows of a block for a grid of patches; `None` where attention is full."""
        if self.window is None or self.window >= max(grid) or block in (self.global_blocks or ()):
            return None
        return Windows(grid, self.window, self.class_tokens)

    def outputs_of(
        self, x: Tensor, grid: tuple[int, int], training: bool | None, wanted: Sequence[int], first: int = 0
    ) -> list[Tensor]:
        """Return the outputs of these blocks, of what block `first` gets: tokens of a grid in reading order."""
        outputs = {}
        drop_path = before = None
        if training:
            drop_path = self._drop_path_noise(ops.shape(x)[0])
            self.step.advance()
        for index, block in enumerate(self.blocks[first : max(wanted) + 1], first):
            windows = self.windows_of(index, grid)
            x, before = rearranged(x, before, windows), windows
            # A frozen block is a fixed function: it drops nothing.
            noise = None if drop_path is None or not block.trainable else drop_path[:, index]
            run = recomputing(block) if training and self.remat else block
            x = run(x, drop_path_noise=noise, windows=windows)
            if index in wanted:
                outputs[index] = rearranged(x, windows, None)
        return [outputs[index] for index in wanted]

    def embed(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Return what the first block gets: class tokens and patches, with their positions."""
        pixels.check_shape(images.shape, self.image_shape)
        return self.tokens_of(self.patch_embedding(images, ids_keep), ids_keep, self.grid)

    def tokens_of(self, x: Tensor, ids_keep: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Return embedded patches of a grid with their positions, behind the class tokens."""
        # Float32 until every image has its own, so that gradients are added up over the batch in float32.
        positions = resized_on_the_fly(ops.convert_to_tensor(self.position_embedding), self.grid, grid)
        if ids_keep is None:
            x = add_shared(x, positions[1:])
        else:
            x = x + ops.cast(ops.take(positions[1:], ids_keep, axis=0), x.dtype)
        if self.class_token is None:
            return x
        class_tokens = self.class_token + positions[0]
        class_tokens = ops.broadcast_to(class_tokens, (ops.shape(x)[0], self.class_tokens, self.embed_dim))
        return ops.concatenate([ops.cast(class_tokens, x.dtype), x], axis=1)

    def copy(self, **changes: Any) -> ViTEncoder:
        """Return a new encoder with the same weights; training one of the two leaves the other alone.

        Args:
            changes: Arguments of `ViTEncoder` that differ: `image_shape`, `drop_path_rate`, `final_norm=False`,
                `pixel_range`, `window`, `global_blocks`, `remat`, `seed`, `name`, `dtype`. For images of another size
                the positions are resized bicubically in two dimensions. For another number of channels, with
                `pixel_mean` and `pixel_std` of their own if need be, the patch kernel is redistributed over them, so
                that an image with identical channels gives the same tokens. With another `pixel_range` mean and
                deviation follow it, so that images rescaled to it give the same tokens.

        Returns:
            A `ViTEncoder`, its step counter at 0.

        Raises:
            ValueError: If another argument is given, or the new image does not fit the patches.
        """
        copied: ViTEncoder = copied_encoder(self, changes)
        return copied

    def _drop_path_noise(self, rows: Any) -> Tensor | None:
        """Return the draws of this training step for `rows` samples, int32 (rows, depth, 2); `None` if none drops."""
        if not self.drop_path_rate:
            return None
        step, index = self.step.place(rows)
        noise = hash_noise(self.seed, step, index, 2 * self.depth, DROP_PATH)
        return ops.reshape(noise, (-1, self.depth, 2))

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store["step"] = ops.convert_to_numpy(self.step.value)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables({key: store[key] for key in store.keys() if key != "step"})
        if "step" in store.keys():
            self.step.set(int(np.asarray(store["step"])))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "patch_size": self.patch_size,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "drop_path_rate": self.drop_path_rate,
            "layer_norm_eps": self.layer_norm_eps,
            "final_norm": self.final_norm,
            "pixel_mean": self.pixel_mean,
            "pixel_std": self.pixel_std,
            "pixel_range": self.pixel_range,
            "seed": self.seed,
            "class_tokens": self.class_tokens,
            "window": self.window,
            "global_blocks": self.global_blocks,
            "remat": self.remat,
        }
