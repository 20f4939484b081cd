"""What models on a pre-trained encoder share: the encoder, how much of it is trained, layers, names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_mae import _checks, _class_names
from keras_mae.encoder import ViTEncoder

__all__ = ["FineTuned"]


class FineTuned:
    """A model of an encoder and a head that tells classes apart.

    Its constructor sets `num_classes`, `class_names`, `encoder` (see `taken`) and `trainable_blocks`, in this order.
    """

    encoder: ViTEncoder
    num_classes: int
    uses_final_norm: bool
    """Whether the encoder's final norm has a part in the output; it is trained only if it has."""

    def taken(
        self,
        encoder: Any,
        *,
        copy: bool,
        drop_path_rate: float | None,
        image_shape: tuple[int, int, int] | None,
    ) -> ViTEncoder:
        """Return the encoder to train: a copy with what differs, or with `copy=False` the one given, as it is.

        Raises:
            ValueError: If an argument is out of range, or an encoder that must stay as it is would have to change.
        """
        own = {"drop_path_rate": encoder.drop_path_rate, "image_shape": encoder.image_shape}
        shape = None if image_shape is None else _checks.image_shape(image_shape)
        asked = {"drop_path_rate": drop_path_rate, "image_shape": shape}
        changes = {key: value for key, value in asked.items() if value is not None and value != own[key]}
        if _checks.boolean("copy", copy):
            copied: ViTEncoder = encoder.copy(**changes, **({} if self.uses_final_norm else {"final_norm": False}))
            return copied
        if changes:
            raise ValueError(f"With `copy=False` the encoder stays as it is. Received: {changes}")
        known: ViTEncoder = encoder
        return known

    # === What is trained ===
    @property
    def trainable_blocks(self) -> float | None:
        """How many of the encoder's last blocks are trained."""
        return self._trainable_blocks

    @trainable_blocks.setter
    def trainable_blocks(self, blocks: float | None) -> None:
        depth = self.encoder.depth
        if blocks is not None and (
            isinstance(blocks, bool) or blocks not in (half / 2 for half in range(2 * depth + 1))
        ):
            raise _checks.argument_error("trainable_blocks", f"0, 0.5, 1, ... up to the encoder's {depth}", blocks)
        self._trainable_blocks = blocks
        self._choose_trained(blocks)

    def _choose_trained(self, blocks: float | None) -> None:
        """Freeze what `trainable_blocks` leaves out, and what has no part in the output."""
        encoder = self.encoder
        # A probe's encoder comes frozen; on TensorFlow setting False where it is False does not reach the parts.
        encoder.trainable = True
        if not self.uses_final_norm and encoder.norm is not None:
            encoder.norm.trainable = False
        encoder.position_embedding.trainable = blocks is None
        if blocks is None:
            return
        encoder.patch_embedding.trainable = False
        if encoder.class_token is not None:
            encoder.class_token.trainable = False
        whole = encoder.depth - int(blocks)  # the first block to be trained whole
        for block in encoder.blocks[:whole]:
            block.trainable = False
        if blocks % 1:
            halved = encoder.blocks[whole - 1]
            halved.trainable = halved.norm2.trainable = halved.mlp.trainable = True
            halved.norm1.trainable = halved.attention.trainable = False
        if not blocks:
            encoder.trainable = False

    # === Which layer a weight belongs to, for the optimizer ===
    @property
    def num_layers(self) -> int:
        """The number of the last layer: that of all behind the blocks."""
        return self.encoder.depth + 1

    def layer_index(self, variable: Any) -> int:
        """Return the layer of a weight for layer-wise decay.

        That is 0 for class tokens, positions and patch embedding, i + 1 for block i (from 0), and depth + 1 for all
        behind the blocks: norms, pooling, a neck and heads.

        Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 9.
        """
        for index, block in enumerate(self.encoder.blocks):
            if any(variable is own for own in block.weights):
                return index + 1
        encoder = self.encoder
        stem = [encoder.class_token, encoder.position_embedding, *encoder.patch_embedding.weights]
        return 0 if any(variable is own for own in stem) else self.num_layers

    @property
    def no_weight_decay(self) -> list[Any]:
        """The weights of two and more dimensions that fine-tuning does not decay."""
        tokens = [] if self.encoder.class_token is None else [self.encoder.class_token]
        return [*tokens, self.encoder.position_embedding]

    # === Names of classes ===
    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of their labels, or `None`."""
        return self._class_names

    @class_names.setter
    def class_names(self, class_names: Sequence[str] | None) -> None:
        self._class_names = _class_names.checked(class_names, self.num_classes)

    @property
    def labels_are_classes(self) -> bool:
        """Whether the loss takes labels that are this model's classes."""
        return True

    def names_fit(self, data: Any) -> bool:
        """Return whether a dataset has names for the classes, and this model none.

        Raises:
            ValueError: If its labels are not this model's.
        """
        _class_names.check_places(data, self.class_names)
        names = _class_names.named(data)
        if names is None or self.class_names is not None:
            return False
        if self.labels_are_classes:
            _class_names.by_place(names, self.num_classes)
        return len(names) == self.num_classes

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that all such models have."""
        return {
            **super().get_config(),  # type: ignore[misc]
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "num_classes": self.num_classes,
            "drop_path_rate": self.encoder.drop_path_rate,
            "image_shape": self.encoder.image_shape,
            "trainable_blocks": self.trainable_blocks if self.encoder.trainable else 0,  # frozen by hand
            "class_names": self.class_names,
            "copy": False,  # the encoder that is loaded is nobody else's
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{**config, "encoder": keras.saving.deserialize_keras_object(config["encoder"])})
