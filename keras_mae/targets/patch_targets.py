"""What a masked autoencoder does with its target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.encoder import ViTEncoder
from keras_mae.loss import Groups, per_pixel, reconstruction_target, visible_statistics
from keras_mae.ops import gather_tokens
from keras_mae.targets.base import Pixels, Target
from keras_mae.targets.hog import HOG
from keras_mae.targets.low_pass import LowPass

__all__ = ["NAMES", "PatchTargets", "plain", "restored", "settled"]

NAMES = ("pixels", "normalized", "low_pass", "hog")
"""The targets that have a name."""


class _Function(Target):
    """A target that somebody else computes."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function

    def vectors(self, images: Tensor, encoder: ViTEncoder) -> Tensor:
        vectors = self.function(images)
        if len(vectors.shape) != 3 or vectors.shape[1] != encoder.num_patches or not vectors.shape[2]:
            raise ValueError(
                f"`target` must return vectors (batch, {encoder.num_patches}, dim), one for each patch. "
                f"Received: a tensor of shape {tuple(vectors.shape)}"
            )
        return ops.cast(vectors, "float32")

    def dim(self, encoder: ViTEncoder) -> int:
        return int(self.vectors(ops.zeros((1, *encoder.image_shape)), encoder).shape[2])


def settled(target: Any, norm_pix_loss: bool | None) -> tuple[Any, bool]:
    """Return what a model predicts, by name where it has one, and whether each patch's vector is standardized.

    Args:
        target: Argument of `MaskedAutoencoder`.
        norm_pix_loss: Another one.

    Raises:
        ValueError: If there is no such target, or the two contradict each other.
    """
    norm_pix_loss = _checks.optional(_checks.boolean, "norm_pix_loss", norm_pix_loss)
    if target is None:
        target = "normalized" if norm_pix_loss else "pixels"
    if isinstance(target, str):
        if target in ("teacher", "custom"):  # so a recipe calls what it cannot hold
            raise _checks.argument_error("target", "the teacher or the function itself, not its name", target)
        _checks.one_of("target", target, NAMES)
    elif isinstance(target, type) or (not isinstance(target, Target) and not callable(target)):
        raise _checks.argument_error("target", f"{', '.join(map(repr, NAMES))}, or a function of images", target)
    elif isinstance(target, keras.layers.Layer) and not isinstance(target, Target):
        raise ValueError(
            "`target` may be a `keras_mae.targets.Teacher`, which freezes a model, but no model as it is. "
            f"Received: target={target}"
        )
    possible = (True, False) if _made(target).is_pixels and not plain(target) else (target == "normalized",)
    if norm_pix_loss is None:
        return target, possible[-1]
    if norm_pix_loss not in possible:
        raise ValueError(
            "`norm_pix_loss` is another name for the targets 'normalized' (True) and 'pixels' (False), and goes with "
            f"other targets of pixels, such as 'low_pass'. Received: norm_pix_loss={norm_pix_loss}, target={target!r}"
        )
    return target, norm_pix_loss


def plain(target: Any) -> bool:
    """Return whether a target is one of the method's own, which `norm_pix_loss` tells apart."""
    return isinstance(target, str) and target in ("pixels", "normalized")


def restored(config: Any) -> Any:
    """Return the target that a model's configuration has.

    Raises:
        ValueError: If it is a function that Keras does not know.
    """
    try:
        return keras.saving.deserialize_keras_object(config)
    except TypeError as error:
        name = config.get("config") if isinstance(config, dict) else config
        raise ValueError(
            "The model's target is a function that is not known here: register it with "
            "`keras.saving.register_keras_serializable`, or give it in `custom_objects`. "
            f"Received: target={name!r}"
        ) from error


def _made(target: Any) -> Target:
    """Return the target that a name or a function means."""
    if isinstance(target, str):
        named: dict[str, type[Target]] = {"low_pass": LowPass, "hog": HOG}
        return named.get(target, Pixels)()
    return target if isinstance(target, Target) else _Function(target)


class PatchTargets:
    """A target for the patches of one encoder.

    Args:
        target: What `settled` returned.
        norm_pix_loss: Whether each patch's vector is standardized.
        encoder: The encoder that is trained.
        groups: Groups of channels that are standardized each by itself, or `None`.

    Attributes:
        dim: Length of a patch's vector.
        is_pixels: Whether predictions are pixels, and can be looked at.
        kind: Name of the target.
        description: What is predicted, in words.

    Raises:
        ValueError: If the target does not suit the encoder's patches.
    """

    def __init__(self, target: Any, norm_pix_loss: bool, encoder: ViTEncoder, groups: Any = None):
        self._target, self._encoder = _made(target), encoder
        self.norm_pix_loss = norm_pix_loss
        self.groups: Groups = None
        if groups is not None:
            self.groups = _checks.band_groups("band_groups", groups, encoder.image_shape[2])
            if not norm_pix_loss:
                raise ValueError(
                    "`band_groups` are normalized each by itself, which takes the target 'normalized' "
                    f"(norm_pix_loss=True). Received: band_groups={groups!r}, norm_pix_loss=False"
                )
        self.dim = self._target.dim(encoder)
        self.is_pixels, self.kind = self._target.is_pixels, self._target.kind
        self.description = ("normalized " if norm_pix_loss else "") + self._target.description
        if self.groups is not None:
            self.description += f" in {len(self.groups)} groups of bands"

    def vectors(self, images: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return the vectors of the patches `ids` (all if `None`), not standardized, float32 (rows, patches, dim).

        Args:
            images: (batch, height, width, channels), as given to the model.
            ids: int32 (k * batch, patches), k rows per image. Each image's vectors are computed once.
        """
        if type(self._target) is Pixels:  # of which only those asked for are normalized
            return self._encoder.patch_embedding.pixels(images, ids)
        vectors = ops.stop_gradient(self._target.vectors(images, self._encoder))
        if ids is None:
            return vectors
        by_image = ops.reshape(ids, (ops.shape(images)[0], -1))
        return ops.reshape(gather_tokens(vectors, by_image), (-1, ids.shape[1], self.dim))

    def to_predict(self, vectors: Tensor) -> Tensor:
        """Return what the decoder is to predict: the vectors, standardized if `norm_pix_loss`."""
        return reconstruction_target(vectors, self.norm_pix_loss, self.groups)

    def outputs(self, images: Tensor, ids_keep: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Return what the predictions of the patches `ids` are judged by; see `outputs_for_loss`.

        Args:
            images: (batch, height, width, channels), as given to the model.
            ids_keep: int32 (k * batch, kept), the visible patches.
            ids: int32 (k * batch, predicted).
        """
        outputs = {"removed_pixels" if self.is_pixels else "removed_target": self.vectors(images, ids)}
        if self.norm_pix_loss:
            # The image's own pixels: those without high frequencies have something of the removed patches in them.
            visible = self._encoder.patch_embedding.pixels(images, ids_keep)
            guess = visible_statistics(visible, ids_keep, ids, self._encoder.grid, self.groups)
            outputs["guessed_mean"], outputs["guessed_std"] = (
                per_pixel(values, self.groups, self.dim) for values in guess
            )
        return outputs

    @staticmethod
    def in_outputs(outputs: dict[str, Tensor]) -> Tensor:
        """Return the vectors in what `outputs` returned."""
        return outputs["removed_pixels" if "removed_pixels" in outputs else "removed_target"]

    def check_visible(self, what: str) -> None:
        """Raise a `ValueError` if predictions are no pixels, for `what` shows them."""
        if not self.is_pixels:
            raise ValueError(
                f"{what} shows predicted pixels, and this model predicts {self.description}. "
                f"Received: a model of target={self.kind!r}"
            )
