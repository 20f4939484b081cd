"""The features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import keras
from keras import ops

from keras_mae import _checks, presets
from keras_mae._types import Tensor
from keras_mae.encoder import ViTEncoder
from keras_mae.pixels import PixelRange, checked_range
from keras_mae.targets.base import Target
from keras_mae.targets.matrices import resized

__all__ = ["Teacher"]

EPS = 1e-6
"""Added to a feature vector's variance."""


@keras.saving.register_keras_serializable(package="keras_mae")
class Teacher(keras.layers.Layer, Target):
    """The patch features of a frozen encoder, which sees the whole image: distillation into another encoder.

    A patch's vector is the teacher's last one for it, normalized to mean 0 and variance 1, without gain or shift. The
    teacher's grid of patches must be the student's. Its images may have another size, to which the student's are
    resized bilinearly, with antialiasing: a teacher of 224 px with patches of 16 takes students of 112 px with
    patches of 8, and any others of 14 x 14 patches.

    The teacher is frozen where it stands, `encoder.trainable = False`: give a copy of what is trained elsewhere. It
    is a part of the model that it teaches: saved and loaded with it, and counted among its parameters, though not
    among those that are trained. `mae.encoder` is the student alone.

    Args:
        encoder: A `ViTEncoder`, a model that has one as `encoder`, or another Keras model of images (batch, height,
            width, channels) that returns (batch, tokens, dim), or (batch, rows, columns, dim).
        image_shape: (height, width, channels) of the teacher's images. A `ViTEncoder` says so itself; another model
            by default takes what the student does.
        pixel_range: Smallest and largest value of their pixels, to which the student's are brought; likewise.
        class_tokens: Number of tokens before those of the patches; likewise, for another model 0 by default.

    Call arguments:
        images: (batch, height, width, channels), as the teacher takes them.

    Returns:
        float32 (batch, patches, dim), normalized.

    Raises:
        ValueError: If there is no such model, or an argument contradicts it; in a model, if the grids differ.

    Example:
        >>> teacher = keras_mae.targets.Teacher(keras_mae.ViTEncoder.from_preset("base.keras"))
        >>> mae = keras_mae.MaskedAutoencoder(small_encoder, decoder, target=teacher)

    Reference: "Masked Feature Prediction for Self-Supervised Visual Pre-Training" (MaskFeat), arXiv 2112.09133.
    """

    kind = "teacher"
    description = "features of a frozen teacher"
    built: bool

    def __init__(
        self,
        encoder: Any,
        *,
        image_shape: Sequence[int] | None = None,
        pixel_range: PixelRange | None = None,
        class_tokens: int = 0,
        **kwargs: Any,
    ):
        kwargs.setdefault("name", "teacher")
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        encoder = inner if isinstance(inner := getattr(encoder, "encoder", None), ViTEncoder) else encoder
        if not isinstance(encoder, keras.layers.Layer):
            raise _checks.argument_error(
                "encoder", "a ViTEncoder or another Keras model; a function is a target of its own", encoder
            )
        self.encoder = encoder
        encoder.trainable = False
        if isinstance(encoder, ViTEncoder):
            given = {"image_shape": image_shape, "pixel_range": pixel_range, "class_tokens": class_tokens or None}
            if given := {name: value for name, value in given.items() if value is not None}:
                raise ValueError(f"A ViTEncoder says itself what it takes and returns. Received: {given}")
            image_shape, pixel_range = encoder.image_shape, encoder.pixel_range
        self.image_shape = None if image_shape is None else _checks.image_shape(image_shape)
        self.pixel_range = None if pixel_range is None else checked_range(pixel_range)
        self.class_tokens = _checks.count("class_tokens", class_tokens)
        self.built = True  # the encoder is, at the latest in the model's constructor

    @classmethod
    def from_preset(cls, preset: str | Path, weights: str | Path | None = None, **overrides: Any) -> Self:
        """Return a teacher from a file or a folder: ours, the authors', `timm`'s, `transformers`' or KerasHub's.

        The arguments are those of `ViTEncoder.from_preset`; a file of ours, or of the others' classifiers and
        autoencoders, gives its encoder.

        Args:
            preset: Name of an architecture, or where a model is.
            weights: Where an architecture's weights are.
            overrides: Arguments of the encoder that differ, such as `image_shape` or `num_heads`.

        Raises:
            ValueError: As `ViTEncoder.from_preset`, and if there are no weights.
        """
        _checks.path("preset", preset, "a name or a path")
        if weights is None and str(preset) in presets.names():
            raise ValueError(f"A teacher takes weights: give `weights`, or a file. Received: preset={str(preset)!r}")
        return cls(ViTEncoder.from_preset(preset, weights, **overrides))

    @property
    def trainable(self) -> bool:
        """Always false, also where the model that is taught is frozen and unfrozen."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        pass

    def call(self, images: Tensor) -> Tensor:
        features = ops.cast(self.encoder(images, training=False), "float32")
        if len(features.shape) == 4:
            features = ops.reshape(features, (-1, features.shape[1] * features.shape[2], features.shape[3]))
        elif len(features.shape) != 3:
            raise ValueError(
                "A teacher must return features (batch, tokens, dim) or (batch, rows, columns, dim). "
                f"Received: a tensor of shape {tuple(features.shape)}"
            )
        if isinstance(self.encoder, ViTEncoder):
            features = features[:, features.shape[1] - self.encoder.num_patches :]
        else:
            features = features[:, self.class_tokens :]
        mean = ops.mean(features, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(features - mean), axis=-1, keepdims=True)
        return (features - mean) / ops.sqrt(variance + EPS)

    def dim(self, encoder: ViTEncoder) -> int:
        if self.encoder is encoder:
            raise ValueError("A teacher must be another encoder than the student: `encoder.copy()` makes one")
        if isinstance(self.encoder, ViTEncoder):
            if self.encoder.grid != encoder.grid:
                raise ValueError(
                    "The teacher's grid of patches must be the student's. "
                    f"Received: {self.encoder.grid} and {encoder.grid}"
                )
            self._fit(ops.zeros((1, *encoder.image_shape)), encoder)
            return self.encoder.embed_dim
        return int(self.vectors(ops.zeros((1, *encoder.image_shape)), encoder).shape[2])

    def vectors(self, images: Tensor, encoder: ViTEncoder) -> Tensor:
        features = self(self._fit(images, encoder))
        if features.shape[1] != encoder.num_patches:
            raise ValueError(
                "The teacher's grid of patches must be the student's. Received: "
                f"{features.shape[1]} patches after {self.class_tokens} `class_tokens`, and {encoder.grid}"
            )
        return features

    def _fit(self, images: Tensor, encoder: ViTEncoder) -> Tensor:
        """Return the student's images as the teacher takes them: range, channels and size."""
        height, width, channels = self.image_shape or encoder.image_shape
        low, high = encoder.pixel_range
        wanted_low, wanted_high = self.pixel_range or encoder.pixel_range
        if channels != encoder.image_shape[2] != 1:
            raise ValueError(
                "The teacher must take as many channels as the student; only gray images stand in for others. "
                f"Received: a teacher of {channels} and a student of {encoder.image_shape[2]}"
            )
        x = ops.cast(images, "float32")
        if (low, high) != (wanted_low, wanted_high):
            x = (x - low) * ((wanted_high - wanted_low) / (high - low)) + wanted_low
        if channels != encoder.image_shape[2]:
            x = ops.repeat(x, channels, axis=-1)
        return resized(x, (height, width))

    def get_config(self) -> dict[str, Any]:
        said = not isinstance(self.encoder, ViTEncoder)
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "image_shape": self.image_shape if said else None,
            "pixel_range": self.pixel_range if said else None,
            "class_tokens": self.class_tokens,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Teacher:
        return cls(**{**config, "encoder": keras.saving.deserialize_keras_object(config["encoder"])})
