"""An encoder as the backbone of a detector: a pyramid of its last map."""

from __future__ import annotations

from typing import Any

import keras

from keras_mae import _checks
from keras_mae.dense.necks import SCALES, SimplePyramid
from keras_mae.encoder import ViTEncoder

__all__ = ["DetectionBackbone"]


@keras.saving.register_keras_serializable(package="keras_mae")
class DetectionBackbone(keras.Model):
    """A pre-trained encoder with ViTDet's simple pyramid, for detectors that take a backbone with `pyramid_outputs`.

    That is how KerasHub's RetinaNet asks for one: a functional model with the attribute `pyramid_outputs`, in which
    "P3" is a map of stride 2 ** 3 pixels. Level numbers follow from the patch size: the pyramid has 4, 2, 1 and 1/2
    times the rows and columns of the patches.

    | patch size | levels | strides in pixels |
    | --- | --- | --- |
    | 4 | P0 to P3 | 1, 2, 4, 8 |
    | 8 | P1 to P4 | 2, 4, 8, 16 |
    | 16 | P2 to P5 | 4, 8, 16, 32 |
    | 32 | P3 to P6 | 8, 16, 32, 64 |

    The map is that of the encoder's last block without the final norm, as in ViTDet. Everything is trained but the
    positions, which stay those of pre-training: Keras' own training step, which detectors of other packages have,
    cannot train them on TensorFlow. `backbone.encoder.trainable = False`, before the detector is compiled, leaves the
    pyramid alone to be trained. The encoder is saved with every model that has this one in it, and loaded where
    `keras_mae` has been imported.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`, with square patches whose side is a power of 2 from 4 on. It
            is copied with its weights and stays as it is. Attention within windows and drop path are those of the
            encoder that is given: `encoder.copy(window=14, drop_path_rate=0.1)`.
        image_shape: (height, width, channels) of the detector's images, all of one size; the encoder's own by
            default. The positions are resized to it once. Twice the patch size must divide height and width, so that
            each level has half the rows and columns of the one before.
        min_level: Number of the finest level, as the detector is given it; by default that of 4 times the patches'
            rows and columns. What no detector takes is computed all the same.
        width: Number of channels of every level.
        copy: Whether to train a copy; with `False` the encoder itself is trained, which must have this `image_shape`.
        kwargs: Keras' own, such as `name`.

    Call arguments:
        images: (batch, height, width, channels) in the encoder's `pixel_range`. Keras makes them float32.

    Returns:
        {"P2": (batch, rows, columns, width), ...}, from fine to coarse.

    Attributes:
        encoder: The encoder that is trained.
        pyramid_outputs: The symbolic outputs by level, which other models are built on.
        levels: (finest, coarsest) level number.

    Raises:
        ValueError: If patches or images have a size that makes no pyramid of strides 2 ** n.

    Example:
        >>> encoder = keras_mae.ViTEncoder((96, 96, 3), patch_size=8, embed_dim=64, depth=4, num_heads=4)
        >>> backbone = keras_mae.DetectionBackbone(encoder, min_level=3, width=64)
        >>> {level: tuple(one.shape) for level, one in backbone(np.zeros((2, 96, 96, 3), "uint8")).items()}
        {'P3': (2, 12, 12, 64), 'P4': (2, 6, 6, 64)}

        For KerasHub:

        >>> retinanet = keras_hub.models.RetinaNetBackbone(
        ...     backbone, min_level=3, max_level=4, use_p5=False, image_shape=(96, 96, 3)
        ... )
        >>> detector = keras_hub.models.RetinaNetObjectDetector(retinanet, num_classes=10, bounding_box_format="xyxy")

    Reference: "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet), arXiv 2203.16527.
    """

    def __init__(
        self,
        encoder: ViTEncoder,
        image_shape: tuple[int, int, int] | None = None,
        *,
        min_level: int | None = None,
        width: int = 256,
        copy: bool = True,
        **kwargs: Any,
    ):
        _checks.instance("encoder", encoder, ViTEncoder, "a keras_mae.ViTEncoder, such as mae.encoder")
        shape = encoder.image_shape if image_shape is None else _checks.image_shape(image_shape)
        if shape[2] != encoder.image_shape[2]:
            raise _checks.argument_error(
                "image_shape", f"of the encoder's {encoder.image_shape[2]} channels", image_shape
            )
        numbers = _level_numbers(encoder.patch_size)
        _check_sides(shape, encoder.patch_size[0])
        if min_level is not None:
            numbers = numbers[_checks.int_within("min_level", min_level, numbers[0], numbers[-1]) - numbers[0] :]
        own = self._own(encoder, shape, copy=copy)
        pyramid = SimplePyramid(
            width, p6=False, scales=SCALES[-len(numbers) :], name="pyramid", dtype=own.dtype_policy
        )
        inputs = keras.Input(shape, name="images")
        [last] = own.features(inputs).values()
        outputs = {f"P{number}": level for number, level in zip(numbers, pyramid(last), strict=True)}
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.encoder, self.pyramid = own, pyramid
        self.image_shape, self.levels, self.width = shape, (numbers[0], numbers[-1]), pyramid.width
        self.pyramid_outputs = outputs

    @staticmethod
    def _own(encoder: ViTEncoder, shape: tuple[int, int, int], *, copy: bool) -> ViTEncoder:
        """Return the encoder to train, for these images; its final norm has no part in the maps."""
        own = encoder
        if _checks.boolean("copy", copy):
            own = encoder.copy(image_shape=shape, final_norm=False)
            own.trainable = True
        elif shape != encoder.image_shape:
            raise ValueError(
                f"With `copy=False` the encoder stays as it is. Received: image_shape={shape}, where it has "
                f"{encoder.image_shape}"
            )
        if own.norm is not None:
            own.norm.trainable = False
        return own

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "image_shape": self.image_shape,
            "min_level": self.levels[0],
            "width": self.width,
            "copy": False,  # the encoder that is loaded is nobody else's
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DetectionBackbone:
        encoder = keras.saving.deserialize_keras_object(config["encoder"], custom_objects)
        return cls(**{**config, "encoder": encoder})


def _level_numbers(patch_size: tuple[int, int]) -> list[int]:
    """Return the numbers of a pyramid's four levels: level n has a stride of 2 ** n pixels."""
    height, width = patch_size
    if height != width or height < 4 or height & (height - 1):
        raise ValueError(
            "`encoder` must have square patches whose side is a power of 2 from 4 on: the levels that detectors take "
            f"have strides of 2 ** n pixels. Received: patch_size={patch_size}"
        )
    middle = height.bit_length() - 1
    return [middle - 2, middle - 1, middle, middle + 1]


def _check_sides(shape: tuple[int, int, int], patch: int) -> None:
    """Raise a `ValueError` for images whose coarsest level would not have half the rows and columns of patches."""
    if shape[0] % (2 * patch) or shape[1] % (2 * patch):
        raise ValueError(
            f"`image_shape` must have a height and width that twice the patch size, {2 * patch}, divides, so that "
            f"each level has half the rows and columns of the one before. Received: image_shape={shape}"
        )
