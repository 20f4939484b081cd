"""What all targets share, and the method's own one."""

from __future__ import annotations

from typing import Any

from keras_mae._types import Tensor
from keras_mae.encoder import ViTEncoder

__all__ = ["Pixels", "Target"]


class Target:
    """What the targets of this module share.

    Attributes:
        is_pixels: Whether the vectors are pixels, in the order of `patchify`, normalized as the encoder sees them.
        kind: What `target=` calls it.
        description: What the vectors are, in words.
    """

    is_pixels = False
    kind = "custom"
    description = "vectors of a function"

    def vectors(self, images: Tensor, encoder: ViTEncoder) -> Tensor:
        """Return the vector of every patch, float32 (batch, patches, dim).

        Args:
            images: (batch, height, width, channels), any dtype, as given to the model.
            encoder: The encoder to be trained, which says the patches, and how pixels are normalized.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `vectors`.")

    def dim(self, encoder: ViTEncoder) -> int:
        """Return the length of the vectors, or raise a `ValueError` if they do not suit the encoder's patches."""
        raise NotImplementedError(f"{type(self).__name__} must implement `dim`.")

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)


class Pixels(Target):
    """The method's own target."""

    is_pixels = True
    kind = "pixels"
    description = "pixels"

    def vectors(self, images: Tensor, encoder: ViTEncoder) -> Tensor:
        return encoder.patch_embedding.pixels(images)

    def dim(self, encoder: ViTEncoder) -> int:
        return encoder.patch_size[0] * encoder.patch_size[1] * encoder.image_shape[2]
