"""The recipes for training on labels, fine-tuning and probes, with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_mae import _checks
from keras_mae.optimizers import LARS, AdamW, fine_tuning_adamw, probing_lars
from keras_mae.pooling import POOLINGS
from keras_mae.recipes import options, own, sources
from keras_mae.recipes.base import ImageRecipe, changed
from keras_mae.recipes.options import MONITORS
from keras_mae.recipes.sources import EFFICIENT_PROBING, FINE_TUNE, SIZES

__all__ = ["FineTuneRecipe", "LinearProbeRecipe"]


@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe(ImageRecipe):
    """How to fine-tune; the defaults are the paper's for ViT-B.

    Attributes:
        layer_decay: Factor by which the learning rate falls from each layer to the one below.
        drop_path_rate: Drop-path probability of the last block.
        weight_decay: AdamW weight decay, not applied to biases, norms, positions and class tokens.
        beta_1: AdamW's decay of the mean of the gradients.
        beta_2: AdamW's decay of the mean of their squares.
        minimum_learning_rate: Learning rate of the head at the end.
        shift: Fraction of their size by which images are moved at random, up to this much either way.
        rand_augment: Magnitude of RandAugment's two operations, 0 to 10; 0 is none.
        random_erasing: Probability of erasing a box of an image.
        mixup: Alpha of MixUp, 0 for none.
        cutmix: Alpha of CutMix, 0 for none.
        switch_probability: Probability of CutMix where both are on: every batch has one of them.
        label_smoothing: Probability mass spread evenly over all classes.
        pooling: What makes one vector of an image's tokens: "mean", "token", "attentive" or "flatten"; see
            `ViTClassifier`.
        ema_momentum: Momentum of an average of the weights that the run ends with, such as 0.999; `None` is none. It
            begins short: see `ema_warmup` of our optimizers.
        class_weights: Weights of the classes in the loss: "balanced" for the number of images by that of classes and
            of a class's own images, so that rare classes count as much as common ones; `None`, or "none", for none.
        best_epoch: Whether the training ends with the weights of its best epoch, and not of its last. With
            `patience` it does unless told otherwise; `dataclasses.replace` tells it what it was before.
        patience: Number of epochs in a row without a new best one after which the training stops; `None` for all
            epochs.
        monitor: What says which epoch is the best: "val_accuracy" or "val_loss"; of equals it is the
            one with the lowest `val_loss`, and of these the first.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 9.
    """

    kind: ClassVar[str] = "fine_tune"
    layer_decay: float = 0.75
    drop_path_rate: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    minimum_learning_rate: float = 1e-6
    shift: float = 0.0
    rand_augment: float = 9.0
    random_erasing: float = 0.0
    mixup: float = 0.8
    cutmix: float = 1.0
    switch_probability: float = 0.5
    label_smoothing: float = 0.1
    pooling: str = "mean"
    ema_momentum: float | None = None
    class_weights: str | None = None
    best_epoch: bool = None  # type: ignore[assignment]  # settled at once: whether there is a `patience`
    patience: int | None = None
    monitor: str = "val_accuracy"
    _added: ClassVar[Mapping[str, Any]] = options.ADDED_TO_FINE_TUNING

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.one_of("pooling", self.pooling, POOLINGS)
        for name in ("beta_1", "beta_2", "drop_path_rate", "label_smoothing"):
            _checks.fraction(name, getattr(self, name))
        _checks.share("layer_decay", self.layer_decay)
        for name in ("minimum_learning_rate", "mixup"):
            _checks.non_negative(name, getattr(self, name))
        _checks.within("rand_augment", self.rand_augment, 10)
        _checks.fraction("shift", self.shift)
        options.averaging(self.ema_momentum)
        object.__setattr__(self, "class_weights", options.settled_weights(self.class_weights))
        object.__setattr__(self, "best_epoch", options.settled_choice(self, MONITORS))
        for name in ("random_erasing", "cutmix", "switch_probability"):
            _checks.within(name, getattr(self, name), 1)

    @classmethod
    def for_size(
        cls, size: str = "base", source: str | None = None, *, images: int | None = None, **changes: Any
    ) -> FineTuneRecipe:
        """Return the recipe for ImageNet ("base", "large", "huge"), or for images of 28–64 px ("small_images").

        Args:
            size: Size of the ViT, or "small_images".
            source: "repository" (the default) or "paper". Both are published, and they differ: learning rate and
                layer decay for "base", drop path for "large" and "huge", random erasing, which the paper does not
                have, for all. What the paper leaves open (crops, evaluation, the last learning rate) is the
                repository's.
            images: Number of small images to train on, by which "small_images" chooses batch, learning rate and
                length; by default it has those it had before it knew such numbers, 40 epochs in batches of 128.
            changes: Values of fields that differ. Of other `epochs` the warm-up keeps its share where it would take
                more than half.

        Raises:
            ValueError: If there is no such recipe or field.
        """
        source = sources.published(size, source, images)
        if source is None:
            return changed(cls(**own.our_own(own.FINE_TUNE, own.FINE_TUNE_BY_IMAGES, images)), changes)
        rate, layer_decay, drop_path_rate, epochs = FINE_TUNE[source, size]
        recipe = cls(
            epochs=epochs,
            base_learning_rate=rate,
            layer_decay=layer_decay,
            drop_path_rate=drop_path_rate,
            random_erasing=0.25 if source == "repository" else 0.0,
            source=source,
        )
        return changed(recipe, changes)

    def _with_implied(self, changes: dict[str, Any]) -> dict[str, Any]:
        return options.implied(self, changes)

    def optimizer(self, model: Any, steps_per_epoch: int) -> AdamW:
        """Return this `ViTClassifier`'s optimizer, its schedule fitted to epochs of `steps_per_epoch` batches."""
        return fine_tuning_adamw(
            model,
            layer_decay=self.layer_decay,
            minimum_learning_rate=min(self.minimum_learning_rate, self.learning_rate),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            **self._schedule(steps_per_epoch),
            **options.averaging(self.ema_momentum),
        )

    @property
    def augmentation(self) -> dict[str, Any]:
        """The arguments of `keras_mae.data.Augmentation`, except for the number of classes."""
        names = (
            "flip",
            "shift",
            "rand_augment",
            "random_erasing",
            "mixup",
            "cutmix",
            "switch_probability",
            "label_smoothing",
            "seed",
        )
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class LinearProbeRecipe(ImageRecipe):
    """How to train a linear or an attentive probe; the defaults are the linear probe's published values.

    Attributes:
        momentum: Momentum of LARS.
        clamp_crops: Whether a random crop larger than the image is cut down to it, as in the authors' repository, and
            not drawn again, as torchvision does and the other recipes do.
        pooling: What makes one vector of an image's tokens: "token", "mean", "attentive" or "flatten"; see
            `ViTClassifier`.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 10; "Attention, Please!
    Revisiting Attentive Probing for Masked Image Modeling" (arXiv 2506.10178).
    """

    kind: ClassVar[str] = "linear_probe"
    epochs: int = 90
    warmup_epochs: int = 10
    batch_size: int = 16384
    base_learning_rate: float = 0.1
    weight_decay: float = 0.0
    momentum: float = 0.9
    clamp_crops: bool = True
    pooling: str = "token"
    _added: ClassVar[Mapping[str, Any]] = {"fast_crops": False, "clamp_crops": False, "pooling": "token"}

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.fraction("momentum", self.momentum)
        _checks.boolean("clamp_crops", self.clamp_crops)
        _checks.one_of("pooling", self.pooling, POOLINGS)

    @classmethod
    def for_size(
        cls, size: str = "base", source: str | None = None, *, images: int | None = None, **changes: Any
    ) -> LinearProbeRecipe:
        """Return the recipe for ImageNet ("base", "large", "huge"), or for images of 28–64 px ("small_images").

        Args:
            size: Size of the ViT, or "small_images".
            source: "repository" (the default) or "paper". They differ in the epochs: the repository trains "large"
                and "huge" for 50, the paper all for 90. What the paper leaves open (how crops are drawn, evaluation)
                is the repository's. "efficient_probing" is the attentive probe as published: 90 epochs of LARS at a
                base learning rate of 0.1 for all sizes; what it leaves open is the linear probe's.
            images: Number of small images to train on, by which "small_images" chooses batch and length; by default
                those for 6,000 or more.
            changes: Values of fields that differ. Of other `epochs` the warm-up keeps its share where it would take
                more than half.

        Raises:
            ValueError: If there is no such recipe or field.
        """
        if source == EFFICIENT_PROBING and size in SIZES and images is None:
            return changed(cls(pooling="attentive", source=source), changes)
        source = sources.published(size, source, images)
        if source is None:
            return changed(cls(**own.our_own(own.PROBE, own.PROBE_BY_IMAGES, images)), changes)
        epochs = 50 if source == "repository" and size != "base" else 90
        return changed(cls(epochs=epochs, source=source), changes)

    @property
    def crop(self) -> dict[str, Any] | None:
        """The arguments of `keras_mae.data.RandomResizedCrop`, or `None` for images taken whole."""
        crop = super().crop
        return None if crop is None else {**crop, "clamp": self.clamp_crops}

    def optimizer(self, steps_per_epoch: int) -> LARS:
        """Return the optimizer, its schedule fitted to epochs of `steps_per_epoch` batches."""
        return probing_lars(momentum=self.momentum, **self._schedule(steps_per_epoch))

    @property
    def augmentation(self) -> dict[str, Any]:
        """The arguments of `keras_mae.data.Augmentation`, except for the number of classes."""
        return {"flip": self.flip, "seed": self.seed}
