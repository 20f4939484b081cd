"""The features of any block of an encoder, as maps, of images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.patches import filled_up, grid_of
from keras_mae.pixels import check_images

__all__ = ["FeatureMaps"]


class FeatureMaps:
    """A `ViTEncoder` that gives what dense tasks are built on."""

    def features(
        self,
        images: Any,
        blocks: int | Sequence[int] | None = None,
        norm: bool = False,
        *,
        pad: bool = False,
        training: bool | None = None,
    ) -> dict[int, Tensor]:
        """Return the patch tokens of any blocks as maps, of images of any size: what dense tasks are built on.

        Images may have another height and width than `image_shape`. The positions are then resized, bicubically in
        two dimensions, to the same numbers as in `copy(image_shape=...)`; where they are trained, they learn through
        the resize. With the inputs of a functional `keras.Model` this encoder is a layer of that model.

        Args:
            images: (batch, height, width, channels), integers or floats in `pixel_range`; or the symbolic input of a
                model, with a height and width that are known.
            blocks: Indices of different blocks, negative ones from the end; the last one by default. Blocks above the
                highest are not run.
            norm: Whether the encoder's final norm is applied to each of the maps.
            pad: Whether images that the patch size does not divide are filled up, on the right and at the bottom,
                with the pixel mean, which is 0 once pixels are normalized. The maps then have rounded-up sizes; each
                of their places holds pixels of the image.
            training: Whether drop path acts; as in a call. In training this ends the step that `step` counts.

        Returns:
            {block: (batch, rows, columns, embed_dim)} without the class tokens, in the compute dtype. The keys are
            indices from 0, in the order asked for.

        Raises:
            ValueError: If there is no such block or no such norm, or the images do not fit.

        Example:
            >>> encoder = keras_mae.ViTEncoder((32, 48, 3), patch_size=8, embed_dim=64, depth=4, num_heads=4)
            >>> maps = encoder.features(np.zeros((5, 64, 40, 3), "uint8"), blocks=(1, -1))
            >>> {block: tuple(one.shape) for block, one in maps.items()}
            {1: (5, 8, 5, 64), 3: (5, 8, 5, 64)}
        """
        encoder: Any = self
        wanted = encoder.indices_of(-1 if blocks is None else blocks)
        if len(set(wanted)) < len(wanted):
            raise _checks.argument_error("blocks", "different blocks", blocks)
        if _checks.boolean("norm", norm) and encoder.norm is None:
            raise ValueError("`norm` must be False for an encoder without a final norm. Received: norm=True")
        if not isinstance(images, keras.KerasTensor) and not ops.is_tensor(images):
            images = check_images(images, (None, None, encoder.image_shape[2]), encoder.pixel_range)
            images = ops.convert_to_tensor(images)
        grid_of(images.shape, encoder.patch_size, encoder.image_shape[2], pad=_checks.boolean("pad", pad))
        # A call, not `maps_of`: in a functional model it is a layer's, saved and trained with the model. A list: of
        # a dictionary each backend makes an order of its own.
        options = {"blocks": wanted, "norm": bool(norm), "pad": bool(pad)}
        return dict(zip(wanted, encoder(images, training=training, maps=options), strict=True))

    def maps_of(
        self, images: Tensor, training: bool | None, *, blocks: list[int], norm: bool, pad: bool
    ) -> list[Tensor]:
        """Return what `features` does, of tensors and as a list; `blocks` are indices from 0."""
        encoder: Any = self
        (height, width), channels = encoder.patch_size, encoder.image_shape[2]
        grid = grid_of(images.shape, encoder.patch_size, channels, pad=pad)
        images = filled_up(images, (grid[0] * height, grid[1] * width), encoder.pixel_mean)
        tokens = encoder.tokens_of(encoder.patch_embedding(images), None, grid)
        outputs = encoder.outputs_of(tokens, grid, training, blocks)
        maps = [ops.reshape(x[:, encoder.class_tokens :], (-1, *grid, encoder.embed_dim)) for x in outputs]
        return [encoder.norm(x) for x in maps] if norm else maps

    def compute_output_spec(self, images: Any, *args: Any, maps: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Return what a symbolic call does. Keras would trace it, and on JAX take the blocks' numbers for tensors."""
        if maps is None:
            return super().compute_output_spec(images, *args, **kwargs)  # type: ignore[misc]
        encoder: Any = self
        grid = grid_of(images.shape, encoder.patch_size, encoder.image_shape[2], pad=maps["pad"])
        shape = (images.shape[0], *grid, encoder.embed_dim)
        return [keras.KerasTensor(shape, encoder.compute_dtype) for _ in maps["blocks"]]
