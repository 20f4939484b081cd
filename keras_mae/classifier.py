"""A pre-trained encoder with a classifier's head: one model for all of the paper's protocols."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks, _class_names
from keras_mae._types import Tensor
from keras_mae.encoder import ViTEncoder
from keras_mae.file_predictions import PredictsFiles
from keras_mae.fine_tuned import FineTuned
from keras_mae.from_preset import PresetFiles
from keras_mae.frozen_features import TakesFeatures
from keras_mae.labels import check_labels, check_loss, check_metrics, takes_classes, with_accuracy
from keras_mae.loss import Accuracy, CrossEntropy
from keras_mae.ops import BatchNormalization, Linear
from keras_mae.pooling import (
    AttentivePooling,
    check_pooling,
    fitting_queries,
    patch_tokens,
    pool_tokens,
    pooled_width,
)
from keras_mae.train_step import TrainStep

__all__ = ["ViTClassifier"]


@keras.saving.register_keras_serializable(package="keras_mae")
class ViTClassifier(PresetFiles, PredictsFiles, TakesFeatures, FineTuned, TrainStep):
    """Classifies images with a pre-trained encoder.

    `compile(optimizer)` is enough: the loss is cross-entropy and the metric accuracy, for integer labels and for
    probabilities; other labels are an error. A loss of your own gets logits, decides itself which labels it takes,
    and brings no metric along. The training step is the package's own: a step that is not finite changes no weight
    and is counted in the metric `skipped_steps`.

    With `pooling="mean"` the patch tokens' mean goes through a new LayerNorm to the head, and the encoder's final
    norm is not used: fine-tuning. With "token" it is the class token after that norm, the mean of them if there are
    several: linear probing. "attentive" pools the patch tokens after that norm by learned queries
    (`AttentivePooling`), and "flatten" puts them one after the other; both go to the head without another norm. If
    the whole encoder is trained, so are its positions, which are fixed in pre-training.

    Args:
        encoder: A `ViTEncoder`, such as `mae.encoder`.
        num_classes: Number of classes.
        pooling: "mean", "token", "attentive" or "flatten". "attentive" has 32 queries, or, for tokens of a width that
            32 does not divide, the largest number below that does; on a frozen encoder, with `batch_norm`, it is the
            attentive probe.
        drop_path_rate: Drop-path probability of the last block; it grows linearly from 0 at the first. By default
            the encoder's.
        image_shape: (height, width, channels) of the images to classify, if other than the encoder's: its positions
            are resized bicubically in two dimensions.
        trainable_blocks: How many of the encoder's last blocks to train. `None` trains the whole encoder; 0 freezes
            it; half a block (0.5, 1.5, ...) is a block's MLP with its norm. Blocks that are frozen as a whole drop
            no path. It may be set later; like whatever is frozen or unfrozen by hand, it acts from the next
            `compile` on, and until then `fit` raises.
        batch_norm: Whether a BatchNorm without scale and shift goes before the head (linear probing). Its statistics
            move in training, frozen encoder or not; under gradient accumulation they are each batch's, not the whole
            update's. As everywhere in Keras its moving variance is the biased one.
        class_names: Names of the classes, in the order of their labels: `num_classes` different strings. They are
            saved with the classifier. Without them a classifier takes those of the first dataset it is trained on.
        copy: Whether the classifier takes a copy of the encoder. If not, it trains the encoder it is given: the
            masked autoencoder it belongs to changes with it, and `drop_path_rate` and `image_shape` must be the
            encoder's own.

    Call arguments:
        images: (batch, height, width, channels), integers or floats in the encoder's `pixel_range`.
        training: Whether drop path and batch statistics act.

    Returns:
        Logits, float32 (batch, num_classes).

    Raises:
        ValueError: If an argument is out of range or does not fit the encoder.

    Example:
        >>> classifier = keras_mae.ViTClassifier(mae.encoder, num_classes=10, drop_path_rate=0.1)
        >>> classifier.compile(keras_mae.optimizers.fine_tuning_adamw(classifier, 1e-3, batch_size=128))
        >>> history = classifier.fit(images, labels, batch_size=128)

    Reference: "Masked Autoencoders Are Scalable Vision Learners", sections 4 and 4.3, appendix A.1. The head's
    weights start normal with a standard deviation of 2e-5, or 0.01 behind a BatchNorm; the reference truncates at ±2,
    hundreds of standard deviations away, which changes nothing.
    """

    def __init__(
        self,
        encoder: ViTEncoder,
        num_classes: int,
        *,
        pooling: str = "mean",
        drop_path_rate: float | None = None,
        image_shape: tuple[int, int, int] | None = None,
        trainable_blocks: float | None = None,
        batch_norm: bool = False,
        class_names: Sequence[str] | None = None,
        copy: bool = True,
        **kwargs: Any,
    ):
        kwargs.setdefault("autocast", False)  # pixels keep full precision; the encoder casts itself
        super().__init__(**kwargs)
        _checks.instance("encoder", encoder, ViTEncoder, "a keras_mae.ViTEncoder, such as mae.encoder")
        # === Config ===
        self.num_classes = _checks.positive_int("num_classes", num_classes)
        self.pooling = check_pooling(encoder, pooling)
        self.batch_norm = _checks.boolean("batch_norm", batch_norm)
        self.class_names = class_names
        if pooling != "mean" and not encoder.final_norm:
            raise ValueError(f'`pooling="{pooling}"` takes an encoder with a final norm. Received: final_norm=False')
        self.uses_final_norm = pooling != "mean"

        # === Layers ===
        self.encoder = self.taken(encoder, copy=copy, drop_path_rate=drop_path_rate, image_shape=image_shape)
        self.trainable_blocks = trainable_blocks
        policy = self.encoder.dtype_policy
        self.pool_norm = None
        if pooling == "mean":
            self.pool_norm = keras.layers.LayerNormalization(
                epsilon=encoder.layer_norm_eps, name="pool_norm", dtype=policy
            )
            self.pool_norm.build((None, encoder.embed_dim))
        self.attentive_pooling = None
        if pooling == "attentive":
            queries = fitting_queries(encoder.embed_dim)
            self.attentive_pooling = AttentivePooling(queries, name="attentive_pooling", dtype=policy)
            self.attentive_pooling.build((None, self.encoder.num_patches, encoder.embed_dim))
        std = 0.01 if self.batch_norm else 2e-5
        head: list[keras.layers.Layer] = [
            Linear(
                num_classes,
                kernel_initializer=keras.initializers.RandomNormal(stddev=std),
                name="logits",
                dtype="float32",  # the head is small
            )
        ]
        if self.batch_norm:
            head.insert(0, BatchNormalization(momentum=0.9, epsilon=1e-6, center=False, scale=False, dtype="float32"))
        self.head = keras.Sequential(head, name="head")
        self.head.build((None, pooled_width(self.encoder, pooling)))
        self.build((None, *self.encoder.image_shape))  # all parts are; `export` wants to have seen a shape

    # === The method ===
    def call(self, images: Tensor, training: bool | None = None) -> Tensor:
        return self.head(self.features(images, training), training=training)

    def features(self, images: Tensor, training: bool | None = None) -> Tensor:
        """Return what the head sees, float32 (batch, embed_dim), or (batch, patches * embed_dim) for "flatten"."""
        return self.features_of(self.encoder.encode(images, training=training if self.encoder.trainable else False))

    def features_of(self, tokens: Tensor) -> Tensor:
        """Return `features`, from what the encoder's last block returned."""
        if self.attentive_pooling is not None:
            return ops.cast(self.attentive_pooling(patch_tokens(self.encoder, tokens)), "float32")
        x = pool_tokens(self.encoder, tokens, self.pooling)
        return ops.cast(x if self.pool_norm is None else self.pool_norm(x), "float32")

    @property
    def no_weight_decay(self) -> list[Any]:
        """The weights of two and more dimensions that fine-tuning does not decay."""
        queries = [] if self.attentive_pooling is None else [self.attentive_pooling.queries]
        return [*super().no_weight_decay, *queries]

    # === Training ===
    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """Compile as `keras.Model.compile` does, with cross-entropy and accuracy unless a loss is given.

        Raises:
            ValueError: If a loss or a metric takes probabilities: the outputs are logits.
        """
        loss = CrossEntropy() if loss is None else loss
        check_loss(loss)
        if metrics is None and takes_classes(loss):
            metrics = [Accuracy()]
        given = {"metrics": metrics, "weighted_metrics": kwargs.pop("weighted_metrics", None)}
        for name, some in given.items():
            if some is not None:
                check_metrics(some, loss)
                given[name] = with_accuracy(some, loss)
        super().compile(optimizer=optimizer, loss=loss, **given, **kwargs)
        if takes_classes(loss) and all(isinstance(one, Accuracy | None) for one in keras.tree.flatten(given)):
            # Now, too: Keras would take the first batch of `fit` for it, and a `PyDataset` then stays a batch ahead.
            labels, logits = keras.KerasTensor((None,), "int32"), keras.KerasTensor((None, self.num_classes))
            self._compile_metrics.build(labels, logits)
            self._compile_loss.build(labels, logits)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was; where an earlier version let it take probabilities, with cross-entropy."""
        try:
            super().compile_from_config(config)
        except ValueError as error:
            replaced = ("loss", "loss_weights", "metrics", "weighted_metrics")
            super().compile_from_config({**config, **dict.fromkeys(replaced)})  # raises again if it was not these
            warnings.warn(f"Cross-entropy and accuracy take the place of what was saved. {error}", stacklevel=2)

    def check_batch(self, data: Any) -> Any:
        """Return `data` as it came, unless cross-entropy cannot take its labels; `predict` has none.

        Raises:
            ValueError: If the labels are neither integers in [0, num_classes) nor probabilities of shape
                (batch, num_classes).
        """
        _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        if y is not None and takes_classes(self.loss):
            self._check_labels(y)
        return data

    def _check_labels(self, labels: Any) -> None:
        """Raise ValueError unless cross-entropy takes these labels."""
        if self.num_classes == 1:
            raise ValueError(
                "Cross-entropy has nothing to tell apart where there is one class: compile with "
                "keras.losses.BinaryCrossentropy(from_logits=True), or give two classes. Received: num_classes=1"
            )
        check_labels(labels, self.num_classes)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """Return Keras' own loss, or raise without labels."""
        _require_labels(y)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Return Keras' own logs, or raise without labels: Keras builds given metrics before the first step."""
        _require_labels(y)
        logs: dict[str, Any] = super().compute_metrics(x, y, y_pred, sample_weight)
        return logs

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does; labels given as an array are all checked before it starts.

        A classifier without `class_names` takes those of the dataset.

        Raises:
            ValueError: If labels are out of range, or a dataset's `class_names` are not the classifier's.
        """
        held_out = kwargs.get("validation_data")
        self._check_array(y)
        self._check_array(held_out[1] if isinstance(held_out, tuple | list) and len(held_out) > 1 else None)
        if self.names_fit(x):
            self.class_names = _class_names.named(x)
        self.names_fit(held_out)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Score as `keras.Model.evaluate` does, by the place of the labels; `training.run_evaluation` goes by names.

        Raises:
            ValueError: If labels are not the loss's, or a dataset's `class_names` are not the classifier's.
        """
        if not kwargs.get("_use_cached_eval_dataset"):  # Keras' own call, from `fit`
            self._check_array(y)
            if self.names_fit(x):
                names = _class_names.named(x) or ()
                warnings.warn(_class_names.by_place(names, self.num_classes), stacklevel=2)
        return super().evaluate(x, y, *args, **kwargs)

    def _check_array(self, labels: Any) -> None:
        """Raise ValueError unless these are labels for the loss, if they are an array of all labels."""
        if takes_classes(self.loss) and labels is not None:
            convertible = hasattr(labels, "__array__") and not ops.is_tensor(labels)  # such as a column of pandas
            self._check_labels(np.asarray(labels) if convertible else labels)

    @property
    def labels_are_classes(self) -> bool:
        """Whether the loss takes classes: with another one labels need not be classes."""
        return takes_classes(self.loss)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pooling": self.pooling, "batch_norm": self.batch_norm}


def _require_labels(y: Any) -> None:
    if y is None:
        raise ValueError("A classifier is trained on (images, labels). Received: no labels")
