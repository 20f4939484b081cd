"""A pre-trained encoder with a segmentation head: a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks, distribution
from keras_mae._types import Tensor
from keras_mae.dense.heads import FCNHead, LinearHead, UPerHead
from keras_mae.dense.labels import check_masks
from keras_mae.dense.necks import MultiLevelNeck
from keras_mae.dense.resizing import resized
from keras_mae.dense.scores import (
    IGNORED,
    ClassAccuracy,
    MeanIoU,
    PixelAccuracy,
    PixelCrossEntropy,
    checked_ignore_label,
    shared,
)
from keras_mae.dense.windows import slide
from keras_mae.encoder import ViTEncoder
from keras_mae.file_segmentations import SegmentsFiles
from keras_mae.fine_tuned import FineTuned
from keras_mae.from_preset import PresetFiles
from keras_mae.pixels import check_images
from keras_mae.random import AUXILIARY_HEAD, HEAD, hash_noise
from keras_mae.train_step import TrainStep

__all__ = ["ViTSegmenter"]

HEADS = ("linear", "upernet")
AUXILIARY_WEIGHT = 0.4
"""Weight of the auxiliary head's loss in the published recipe."""
_NUMBERS_AT_ONCE = 2**26
"""Logits of the windows that are computed at once, unless a batch size is given: 256 MiB."""


@keras.saving.register_keras_serializable(package="keras_mae")
class ViTSegmenter(PresetFiles, SegmentsFiles, FineTuned, TrainStep):
    """Tells the class of every pixel with a pre-trained encoder.

    `compile(optimizer)` is enough: the loss is cross-entropy over the pixels that have a class, and the metrics are
    `mean_iou`, `pixel_accuracy` and `class_accuracy`, exact over an epoch. The training step is the package's own, as
    for `ViTClassifier`.

    With `head="linear"` the map of the last block goes through the encoder's final norm, if it has one, a BatchNorm
    and a linear layer: DINOv2's protocol, which says what features are worth with `trainable_blocks=0`. The norm
    belongs to the encoder, as in every probe: tokens differ in length, which a BatchNorm of channels leaves as it is.
    "upernet" is the published recipe: four blocks, without the final norm, become a pyramid (`MultiLevelNeck`) for a
    `UPerHead`. While training, an `FCNHead` of 256 channels on the pyramid's third level adds its loss, times
    `auxiliary_weight`.
    Logits are resized to the image bilinearly, in float32. If the whole encoder is trained, so are its positions,
    which are fixed in pre-training.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`.
        num_classes: Number of classes.
        head: "linear" or "upernet".
        blocks: Indices of the blocks whose maps the head gets, negative ones from the end, rising. By default
            "linear" takes the last; "upernet" takes four: 3, 5, 7 and 11 of 12, and those at the same depths of other
            encoders. Of fewer than four blocks some are repeated.
        image_shape: (height, width, channels) of the training crops, if other than that of the encoder's images: its
            positions are resized bicubically in two dimensions.
        drop_path_rate: Drop-path probability of the last block; it grows linearly from 0 at the first. By default the
            encoder's.
        auxiliary_weight: Weight of the auxiliary head's loss beside "upernet"; with 0 there is no such head. "linear"
            has none.
        trainable_blocks: How many of the encoder's last blocks to train, as for `ViTClassifier`.
        class_names: Names of the classes, in the order of their labels: `num_classes` different strings. They are
            saved with the segmenter. Without them it takes those of the first dataset it is trained on.
        ignore_label: Label of the pixels that belong to no class, none of a class's.
        reduce_zero_label: Whether 0 stands for no class, and 1 for the first one, in files of masks that it is scored
            on; see `training.open_test_pairs`. `None` for what the first dataset that it is trained on did. `fit` and
            `evaluate` take labels as they are.
        copy: Whether the segmenter takes a copy of the encoder. If not, it trains the encoder it is given, whose
            `drop_path_rate` and `image_shape` must be these.

    Call arguments:
        images: (batch, height, width, channels) of `image_shape`, integers or floats in the encoder's `pixel_range`.
        training: Whether drop path, dropout and batch statistics act.

    Returns:
        Logits, float32 (batch, height, width, num_classes).

    Raises:
        ValueError: If an argument is out of range or does not fit the encoder.

    Example:
        >>> segmenter = keras_mae.ViTSegmenter(mae.encoder, num_classes=21, head="upernet", drop_path_rate=0.1)
        >>> segmenter.compile(keras_mae.optimizers.fine_tuning_adamw(segmenter, 1e-4, layer_decay=0.65))
        >>> history = segmenter.fit(images, masks, batch_size=16)  # masks: integers (batch, height, width)

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.4; "Unified Perceptual Parsing for Scene
    Understanding"; "DINOv2: Learning Robust Visual Features without Supervision", section 7.4.
    """

    def __init__(
        self,
        encoder: ViTEncoder,
        num_classes: int,
        head: str = "linear",
        *,
        blocks: int | Sequence[int] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        drop_path_rate: float | None = None,
        auxiliary_weight: float = AUXILIARY_WEIGHT,
        trainable_blocks: float | None = None,
        class_names: Sequence[str] | None = None,
        ignore_label: int = IGNORED,
        reduce_zero_label: bool | None = None,
        copy: bool = True,
        **kwargs: Any,
    ):
        kwargs.setdefault("autocast", False)  # pixels keep full precision; the encoder casts itself
        super().__init__(**kwargs)
        _checks.instance("encoder", encoder, ViTEncoder, "a keras_mae.ViTEncoder, such as mae.encoder")
        # === Config ===
        self.num_classes = _checks.int_within("num_classes", num_classes, 2, 2**15)
        self.head_kind = _checks.one_of("head", head, HEADS)
        self.blocks = _chosen_blocks(encoder, head, blocks)
        self.class_names = class_names
        self.ignore_label = checked_ignore_label(ignore_label, num_classes)
        self.reduce_zero_label = _checks.optional(_checks.boolean, "reduce_zero_label", reduce_zero_label)
        self.auxiliary_weight = _checks.non_negative("auxiliary_weight", auxiliary_weight)
        self.uses_final_norm = head == "linear" and encoder.final_norm

        # === Layers ===
        self.encoder = self.taken(encoder, copy=copy, drop_path_rate=drop_path_rate, image_shape=image_shape)
        self.trainable_blocks = trainable_blocks
        policy = self.encoder.dtype_policy
        self.neck, self.auxiliary = None, None
        if head == "upernet":
            self.neck = MultiLevelNeck(name="neck", dtype=policy)
            self.head: Any = UPerHead(num_classes, name="head", dtype=policy)
            self.auxiliary = FCNHead(num_classes, name="auxiliary", dtype=policy) if auxiliary_weight else None
        else:
            self.head = LinearHead(num_classes, name="head", dtype=policy)
        self._build_parts()
        self.build((None, *self.encoder.image_shape))  # all parts are; `export` wants to have seen a shape

    def _build_parts(self) -> None:
        """Build neck and heads for the encoder's maps, of which all levels are as wide."""
        level = (None, None, None, self.encoder.embed_dim)
        levels = [level for _ in self.blocks]
        if self.neck is not None:
            self.neck.check_sizes([(None, *self.encoder.grid, self.encoder.embed_dim)] * 4)
            self.neck.build(levels)
        self.head.build(levels)
        if self.auxiliary is not None:
            self.auxiliary.build(level)

    # === The method ===
    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        return self._logits(images, training, {HEAD: self.head})[HEAD]

    def outputs_for_loss(self, x: Any, training: bool) -> Any:
        """Return the logits; while training with an auxiliary head those of both, by the streams of their draws.

        Args:
            x: Images.
            training: Whether this is a training step.
        """
        if not training or self.auxiliary is None:
            return super().outputs_for_loss(x, training)
        return self._logits(ops.convert_to_tensor(x), training, {HEAD: self.head, AUXILIARY_HEAD: self.auxiliary})

    def _logits(self, images: Tensor, training: bool | None, heads: dict[int, Any]) -> dict[int, Tensor]:
        """Return the logits of heads, which are named by the streams of their draws, at the images' size."""
        encoder, draws = self.encoder, dict.fromkeys(heads)
        if training:
            step, places = encoder.step.place(ops.shape(images)[0])
            draws = {
                stream: hash_noise(encoder.seed, step, places, head.channels, stream)
                for stream, head in heads.items()
            }
        acts = training if encoder.trainable else False
        found = encoder.features(images, sorted(set(self.blocks)), norm=self.uses_final_norm, training=acts)
        if training and not encoder.trainable:  # which ends no step by itself
            encoder.step.advance()
        maps = [found[block] for block in self.blocks]
        levels = maps if self.neck is None else self.neck(maps, training=training)
        logits = {}
        for stream, head in heads.items():
            own = levels[2] if stream == AUXILIARY_HEAD else levels
            small = head(own, training=training, dropout_noise=draws[stream])
            logits[stream] = resized(ops.cast(small, "float32"), tuple(images.shape[1:3]))
        return logits

    # === Training ===
    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """Compile as `keras.Model.compile` does, with cross-entropy and three metrics unless others are given.

        A loss of your own gets masks and logits, and brings no metric along.

        Raises:
            ValueError: If a loss or a metric is for other labels than this segmenter's.
        """
        loss = PixelCrossEntropy(self.ignore_label) if loss is None else loss
        if metrics is None and isinstance(loss, PixelCrossEntropy):
            metrics = [kind(self.num_classes, self.ignore_label) for kind in (MeanIoU, PixelAccuracy, ClassAccuracy)]
        for one in keras.tree.flatten([loss, metrics]):
            for name, own in {"ignore_label": self.ignore_label, "num_classes": self.num_classes}.items():
                if (given := getattr(one, name, own)) != own:
                    raise ValueError(f"`{one.name}` must have {name}={own}, as the segmenter has. Received: {given}")
        super().compile(optimizer=optimizer, loss=loss, metrics=shared(metrics), **kwargs)
        # Now: Keras would take the first batch of `fit` for it, and a `PyDataset` then stays a batch ahead.
        size = self.encoder.image_shape[:2]
        masks, logits = keras.KerasTensor((None, *size), "int32"), keras.KerasTensor((None, *size, self.num_classes))
        for part in (self._compile_loss, self._compile_metrics):
            if part is not None:
                part.build(masks, logits)

    def check_batch(self, data: Any) -> Any:
        """Return `data` as it came, unless its masks do not fit; `predict` has none.

        Raises:
            ValueError: If the masks are no integers of the images' size, or have an unknown label.
        """
        _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        if y is not None:
            self._check_masks(y)
        return data

    def _check_masks(self, masks: Any) -> None:
        check_masks(masks, self.encoder.image_shape[:2], self.num_classes, self.ignore_label)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """Return the loss of the logits, with the auxiliary head's by its weight while training."""
        if y is None:
            raise ValueError("A segmenter is trained on (images, masks). Received: no masks")
        if not isinstance(y_pred, dict):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = super().compute_loss(x, y, y_pred[HEAD], sample_weight, training)
        return loss + self.auxiliary_weight * self.compiled_loss(y, y_pred[AUXILIARY_HEAD], sample_weight)

    def update_metrics(
        self, data: tuple[Any, Any, Any], outputs: Any, loss: Tensor, finite: Tensor | None = None
    ) -> dict[str, Any]:
        """Add one batch to the metrics, which look at the head's logits alone, and return the logs."""
        return super().update_metrics(data, outputs[HEAD] if isinstance(outputs, dict) else outputs, loss, finite)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does, on images and masks of the training crop's size.

        Masks given as an array are all checked before it starts. A segmenter without `class_names` or
        `reduce_zero_label` takes those of the dataset.

        Args:
            x: Images (batch, height, width, channels), or a dataset of (images, masks), such as
                `data.pairs_from_directory` makes.
            y: Masks, integers (batch, height, width): labels, or `ignore_label`.
            args: Other arguments of `keras.Model.fit`.
            kwargs: Other arguments of `keras.Model.fit`.

        Raises:
            ValueError: If masks do not fit, or a dataset's classes or its label to ignore are not the segmenter's.
        """
        held_out = kwargs.get("validation_data")
        self._check_array(y)
        self._check_array(held_out[1] if isinstance(held_out, tuple | list) and len(held_out) > 1 else None)
        if self._check_dataset(x):
            self.class_names = x.class_names
        if self.reduce_zero_label is None:
            self.reduce_zero_label = getattr(x, "reduce_zero_label", None)
        self._check_dataset(held_out)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Score as `keras.Model.evaluate` does, on images and masks of the training crop's size.

        For images of other sizes `predict` and `dense.confusion` give the scores.

        Raises:
            ValueError: If masks do not fit, or a dataset's classes or its label to ignore are not the segmenter's.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # Keras' own call, from `fit`
            self._check_array(y)
            self._check_dataset(x)
        return super().evaluate(x, y, *args, **kwargs)

    def _check_array(self, masks: Any) -> None:
        """Raise a `ValueError` unless these are masks to train on, if they are an array of all masks."""
        if masks is not None:
            self._check_masks(masks)

    def _check_dataset(self, data: Any) -> bool:
        """Return whether a dataset has names for the classes, and this segmenter none.

        Raises:
            ValueError: If its masks do not mean what this segmenter's do.
        """
        ignored, count = (getattr(data, name, None) for name in ("ignore_label", "num_classes"))
        if ignored not in (None, self.ignore_label):
            raise ValueError(
                "The dataset's label to ignore must be the segmenter's: give both the same `ignore_label`. "
                f"Received: {ignored}; the segmenter's is {self.ignore_label}"
            )
        if isinstance(count, int) and count > self.num_classes:
            raise ValueError(
                f"The dataset must have no more classes than the segmenter, {self.num_classes}. Received: {count}"
            )
        return self.names_fit(data)

    # === Prediction ===
    def predict(
        self,
        x: Any,
        *args: Any,
        stride: int | tuple[int, int] | None = None,
        pad: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the logits of images; over images that are not of the training crop's size, windows of it slide.

        Where windows overlap, it is the mean of their logits. `logits.argmax(-1)` are the classes.

        Args:
            x: Images (batch, height, width, channels), a list of images (height, width, channels) of any sizes, or a
                dataset of images of the training crop's size.
            args: Other arguments of `keras.Model.predict`: `batch_size` is the number of windows at a time, by
                default as many as have 64 million logits, up to 32.
            stride: (rows, columns) between two windows, or one number for both; by default two thirds of the crop's
                height and width, 341 of 512.
            pad: Whether images that are smaller than the crop are filled up, on the right and at the bottom, with
                the pixel mean, which is 0 once pixels are normalized; what was added is cut off again.
            kwargs: Other arguments of `keras.Model.predict`.

        Returns:
            Logits, float32 (batch, height, width, num_classes), or a list of them, one for each image.

        Raises:
            ValueError: If an image is smaller than the crop without `pad`, or anything does not fit.
        """
        crop = self.encoder.image_shape[:2]
        steps = _checks.pair("stride", tuple(2 * side // 3 or 1 for side in crop) if stride is None else stride)
        for step, side in zip(steps, crop, strict=True):
            _checks.int_within("stride", step, 1, side)
        _checks.boolean("pad", pad)
        batch_size = dict(zip(("batch_size",), args, strict=False)).get("batch_size", kwargs.get("batch_size"))
        if isinstance(x, list | tuple) and x:
            return [self._slid(image, steps, pad, batch_size) for image in x]
        shape = tuple(getattr(x, "shape", ()))
        if len(shape) == 4 and shape[0] and shape[1:3] != crop:
            return np.stack([self._slid(image, steps, pad, batch_size) for image in x])
        return super().predict(x, *args, **kwargs)

    def _slid(self, image: Any, stride: tuple[int, int], pad: bool, batch_size: int | None) -> np.ndarray:
        """Return the logits of one image, float32 (height, width, num_classes)."""
        encoder = self.encoder
        height, width, channels = encoder.image_shape
        if len(getattr(image, "shape", ())) != 3:
            raise _checks.argument_error("x", "images (height, width, channels) in a list, or (batch, ...)", image)
        array = check_images(ops.convert_to_numpy(image)[None], (None, None, channels), encoder.pixel_range)[0]
        array = array if array.dtype == np.uint8 else array.astype("float32")
        size = _NUMBERS_AT_ONCE // (height * width * self.num_classes) if batch_size is None else batch_size
        size = min(max(size, 1), 32) if batch_size is None else _checks.positive_int("batch_size", size)
        fill = encoder.pixel_mean if pad else None
        return slide(self._of_windows, array, (height, width), stride, size, self.num_classes, fill)

    def _of_windows(self, windows: np.ndarray) -> np.ndarray:
        """Return the logits of images of the crop's size, of which all replicas get equally many."""
        logits: np.ndarray = self.predict_on_batch(distribution.current().pad(windows))[: len(windows)]
        return logits

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "head": self.head_kind,
            "blocks": self.blocks,
            "auxiliary_weight": self.auxiliary_weight,
            "ignore_label": self.ignore_label,
            "reduce_zero_label": self.reduce_zero_label,
        }


def _chosen_blocks(encoder: ViTEncoder, head: str, blocks: Any) -> tuple[int, ...]:
    """Return the blocks whose maps a head gets, by their indices from 0."""
    depth = encoder.depth
    if blocks is None and head == "linear":
        return (depth - 1,)
    if blocks is None:
        return tuple(max(number - 1, 0) for number in (depth // 3, depth // 2, -(-2 * depth // 3), depth))
    chosen = encoder.indices_of(blocks)
    if chosen != sorted(chosen):
        raise _checks.argument_error("blocks", "indices of blocks in rising order", blocks)
    if head == "upernet" and len(chosen) != 4:
        raise _checks.argument_error("blocks", 'four indices for head="upernet"', blocks)
    if head == "linear" and len(set(chosen)) < len(chosen):
        raise _checks.argument_error("blocks", 'different blocks for head="linear"', blocks)
    return tuple(chosen)
