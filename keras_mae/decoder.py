"""The light decoder that predicts the removed pixels; it is thrown away after pre-training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.ops import Linear, add_shared, recomputing
from keras_mae.positions import resize_positions, sincos_positions
from keras_mae.transformer import TransformerBlock, check_heads

__all__ = ["Decoder", "MAEDecoder"]


class Decoder(keras.Model):
    """What all decoders share: mask token, positions, last norm and projection, and how they join an encoder.

    A subclass makes its layers in `make_layers`, builds them in `build_input` and `build_blocks`, and defines `call`,
    which calls what `running` returns.

    Args:
        embed_dim: Width of the tokens, a multiple of 4 and of `num_heads`.
        depth: Number of blocks.
        num_heads: Attention heads.
        mlp_ratio: Width of the MLPs' hidden layer over `embed_dim`.
        layer_norm_eps: Constant added to the variance in every norm.
        image_shape: (height, width, channels) to predict. `MaskedAutoencoder` fills it in from its encoder.
        patch_size: Side of a patch in pixels, or (height, width). Filled in likewise.
        class_tokens: Number of class tokens that the encoder has. Filled in likewise.
        output_dim: Length of the vector to predict for each patch; its pixels by default. Filled in likewise.
        remat: Whether training computes each block again for the backward pass, as in `ViTEncoder`.

    Raises:
        ValueError: If the arguments do not fit one another.
    """

    kind: ClassVar[str]
    """Name in recipes and on the command line."""
    reads_blocks: ClassVar[bool] = False
    """Whether it reads the outputs of all the encoder's blocks, and not the last one's alone."""

    def __init__(
        self,
        embed_dim: int = 512,
        depth: int = 8,
        num_heads: int = 16,
        *,
        mlp_ratio: float = 4.0,
        layer_norm_eps: float = 1e-6,
        image_shape: tuple[int, int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        class_tokens: int | None = None,
        output_dim: int | None = None,
        remat: bool = False,
        **kwargs: Any,
    ):
        kwargs.setdefault("name", "decoder")
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        # === Config ===
        check_heads(embed_dim, num_heads)
        if embed_dim % 4:
            raise _checks.argument_error("embed_dim", "a multiple of 4", embed_dim)
        self.embed_dim = embed_dim
        self.depth = _checks.positive_int("depth", depth)
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.layer_norm_eps = _checks.positive("layer_norm_eps", layer_norm_eps)
        self.image_shape = None if image_shape is None else _checks.image_shape(image_shape)
        self.patch_size = None if patch_size is None else _checks.pair("patch_size", patch_size)
        self.class_tokens = None if class_tokens is None else _checks.int_within("class_tokens", class_tokens, 0, 8)
        self.output_dim = None if output_dim is None else _checks.positive_int("output_dim", output_dim)
        self.remat = _checks.boolean("remat", remat)

        # === Layers ===
        self.make_layers()
        self.norm = keras.layers.LayerNormalization(epsilon=layer_norm_eps, name="norm", dtype=self.dtype_policy)

    # === What a subclass brings ===
    def make_layers(self) -> None:
        """Make the layers that come before the last norm, `blocks` among them."""
        raise NotImplementedError(f"{type(self).__name__} must implement `make_layers`.")

    def build_input(self, input_shape: tuple[Any, ...]) -> None:
        """Build what meets the encoder's tokens first."""

    def build_blocks(self, tokens: tuple[Any, ...], input_shape: tuple[Any, ...]) -> None:
        """Build the blocks for tokens of this decoder, and for what `input_shape_of` says of the encoder's."""
        raise NotImplementedError(f"{type(self).__name__} must implement `build_blocks`.")

    def input_shape_of(self, width: int, depth: int) -> tuple[Any, ...]:
        """Return the shape of what is read of an encoder of `width` and `depth`."""
        return None, None, width

    def running(self, training: bool | None) -> list[Callable[..., Tensor]]:
        """Return the blocks as `call` is to call them, in order."""
        return [recomputing(block) for block in self.blocks] if training and self.remat else list(self.blocks)

    # === What it gets ===
    def join(
        self,
        image_shape: tuple[int, int, int],
        patch_size: tuple[int, int],
        width: int,
        *,
        depth: int = 1,
        class_tokens: int = 1,
        output_dim: int | None = None,
    ) -> None:
        """Take from the encoder what this decoder must agree with, and build.

        Args:
            image_shape: (height, width, channels) of the encoder's images.
            patch_size: (height, width) of a patch.
            width: Width of the encoder's tokens.
            depth: Number of the encoder's blocks.
            class_tokens: Number of the encoder's class tokens.
            output_dim: Length of the vector to predict for each patch; the number of its pixel values by default.

        Raises:
            ValueError: If this decoder was made for, or joined to, something else.
        """
        if (self.image_shape or image_shape, self.patch_size or patch_size) != (image_shape, patch_size):
            raise ValueError(
                "The decoder must predict the encoder's images and patches. "
                f"Received: a decoder for image_shape={self.image_shape}, patch_size={self.patch_size} and "
                f"an encoder of image_shape={image_shape}, patch_size={patch_size}"
            )
        if self.class_tokens not in (None, class_tokens):
            raise ValueError(
                "The decoder must drop as many class tokens as the encoder has. "
                f"Received: a decoder for class_tokens={self.class_tokens} and an encoder of {class_tokens}"
            )
        self.image_shape, self.patch_size, self.class_tokens = image_shape, patch_size, class_tokens
        pixels = patch_size[0] * patch_size[1] * image_shape[2]
        wanted, free = output_dim or pixels, self.output_dim is None and not self.built
        if not free and (self.output_dim or pixels) != wanted:
            raise ValueError(
                "The decoder must predict vectors as long as the target's: give a new decoder. "
                f"Received: a decoder for {self.output_dim or pixels} values a patch and a target of {wanted}"
            )
        self.output_dim = None if wanted == pixels else wanted
        shape = self.input_shape_of(width, depth)
        if self.built and self._built_for != shape:
            numbers, built_for = ([size for size in one if size] for one in (shape, self._built_for))
            raise ValueError(
                f"A decoder that is built can only follow an encoder of the same {self._follows}. "
                f"Received: {', '.join(map(str, numbers))}, where it was built for {', '.join(map(str, built_for))}"
            )
        self.build(shape)

    _follows = "`embed_dim`"

    built: bool
    trainable: bool

    def build(self, input_shape: Any) -> None:
        if self.built:
            return
        if self.image_shape is None or self.patch_size is None:
            raise ValueError(
                "A decoder on its own needs `image_shape` and `patch_size`; a MaskedAutoencoder gives it its "
                f"encoder's. Received: image_shape={self.image_shape}, patch_size={self.patch_size}"
            )
        rows, columns = _checks.grid(self.image_shape, self.patch_size)
        self.class_tokens = 1 if self.class_tokens is None else self.class_tokens
        tokens = (None, self.class_tokens + rows * columns, self.embed_dim)
        # The numbers that do not depend on the batch: as `input_shape_of` has them.
        self._built_for = (*input_shape[:-3], None, None, input_shape[-1])
        self.build_input((*input_shape[:2], input_shape[-1]))
        self.mask_token = self.add_weight(
            name="mask_token",
            shape=(1, 1, self.embed_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            autocast=False,
        )
        self.position_embedding = self.add_weight(
            name="position_embedding",
            shape=(1 + rows * columns, self.embed_dim),
            initializer=lambda shape, dtype=None: ops.cast(sincos_positions((rows, columns), self.embed_dim), dtype),
            trainable=False,
            autocast=False,
        )
        self.build_blocks(tokens, self._built_for)
        self.norm.build(tokens)
        outputs = self.output_dim or self.patch_size[0] * self.patch_size[1] * self.image_shape[2]
        self.prediction = Linear(outputs, name="prediction", dtype=self.dtype_policy)
        self.prediction.build(tokens)
        if not self.trainable:  # `trainable=False` was given, and the parts do not know
            self.trainable = True
            self.trainable = False
        self.built = True

    def copy(self, **changes: Any) -> Self:
        """Return an independent decoder with the same weights.

        Args:
            changes: `image_shape`, with the same channels: the positions are resized in two dimensions. `remat`,
                `name`, `dtype`.

        Raises:
            ValueError: If this decoder is not built, or something else is given that its weights depend on.
        """
        if not self.built or self.image_shape is None or self.patch_size is None:
            raise ValueError("A decoder can be copied once it is built, as a MaskedAutoencoder does")
        shape = _checks.image_shape(changes.get("image_shape", self.image_shape))
        if set(changes) - {"image_shape", "remat", "name", "dtype"} or shape[2] != self.image_shape[2]:
            raise ValueError(
                "A copy of a decoder may differ in the height and width of `image_shape`, `remat`, `name` and "
                f"`dtype`, not in what its weights depend on. Received: {changes}, for image_shape={self.image_shape}"
            )
        copied: Self = type(self).from_config({**self.get_config(), **changes})
        copied.build(self._built_for)
        grids = _checks.grid(self.image_shape, self.patch_size), _checks.grid(shape, self.patch_size)
        for new, old in zip(copied.weights, self.weights, strict=True):
            value = ops.convert_to_numpy(old)
            new.assign(resize_positions(value, *grids) if old is self.position_embedding else value)
        return copied

    def get_build_config(self) -> dict[str, Any]:
        return {"input_shape": self._built_for} if self.built else {}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "layer_norm_eps": self.layer_norm_eps,
            "image_shape": self.image_shape,
            "patch_size": self.patch_size,
            "class_tokens": self.class_tokens,
            "output_dim": self.output_dim,
            "remat": self.remat,
        }


@keras.saving.register_keras_serializable(package="keras_mae")
class MAEDecoder(Decoder):
    """A small transformer over the encoded visible tokens and one learned mask token per removed patch.

    Attention does not see order, so tokens stay in the shuffled order [class, visible, removed] with their
    positions gathered to match: nothing is put back in place before the prediction.

    Args:
        embed_dim: Width of the tokens, a multiple of 4 and of `num_heads`.
        depth: Number of transformer blocks.
        num_heads: Attention heads.
        mlp_ratio: Width of the MLPs' hidden layer over `embed_dim`.
        layer_norm_eps: Added to the variance in every norm.
        image_shape: (height, width, channels) to predict. `MaskedAutoencoder` fills it in from its encoder.
        patch_size: Side of a patch in pixels, or (height, width). Filled in likewise.
        class_tokens: Number of class tokens in front of the patches, which pass through the decoder and are dropped.
            Filled in likewise; 1 for a decoder that is built on its own.
        output_dim: Length of the vector to predict for each patch; the number of its pixel values by default. Filled
            in likewise, where the target is not made of pixels.
        remat: Whether training computes each block again for the backward pass, as in `ViTEncoder`.

    Call arguments:
        tokens: (batch, class_tokens + kept, encoder width), the encoder's output.
        ids_keep: int32 (batch, kept), the visible patches in the order of `tokens`.
        ids_removed: int32 (batch, removed), the patches to predict.
        removed_only: Whether to predict the removed patches only: what the loss needs. The last block, but for its
            keys and values, and all that follows then run on those tokens alone.
        training: Whether this is a training step, which `remat` is for.

    Returns:
        Predicted pixels, or other vectors of `output_dim`, in the order [visible, removed]:
        (batch, kept + removed, pixels), or (batch, removed, pixels).

    Raises:
        ValueError: If the arguments do not fit one another.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", section 3, "MAE decoder".
    """

    kind = "self_attention"

    def make_layers(self) -> None:
        policy, eps = self.dtype_policy, self.layer_norm_eps
        self.embedding = Linear(self.embed_dim, name="embedding", dtype=policy)
        self.blocks = [
            TransformerBlock(self.num_heads, self.mlp_ratio, layer_norm_eps=eps, name=f"block_{index}", dtype=policy)
            for index in range(self.depth)
        ]

    def build_input(self, input_shape: tuple[Any, ...]) -> None:
        self.embedding.build(input_shape)

    def build_blocks(self, tokens: tuple[Any, ...], input_shape: tuple[Any, ...]) -> None:
        for block in self.blocks:
            block.build(tokens)

    def call(
        self,
        tokens: Tensor,
        ids_keep: Tensor,
        ids_removed: Tensor,
        removed_only: bool = False,
        training: bool | None = None,
    ) -> Tensor:
        visible, count = self.embedding(tokens), self.class_tokens
        # Float32 until every token has its own, so that gradients are added up over all of them in float32.
        positions = ops.convert_to_tensor(self.position_embedding)
        mask_tokens = self.mask_token + ops.take(positions[1:], ids_removed, axis=0)
        x = ops.concatenate(
            [
                *([add_shared(visible[:, :count], positions[0])] if count else []),
                visible[:, count:] + ops.cast(ops.take(positions[1:], ids_keep, axis=0), visible.dtype),
                ops.cast(mask_tokens, visible.dtype),
            ],
            axis=1,
        )
        *blocks, last = self.running(training)
        for block in blocks:
            x = block(x)
        # Where nobody reads the others any more, the last block attends to them, and that is all.
        removed = slice(count + ids_keep.shape[1], None)
        return self.prediction(self.norm(last(x, wanted=removed) if removed_only else last(x)[:, count:]))
