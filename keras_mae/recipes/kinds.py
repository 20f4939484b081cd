"""The recipes for pre-training, fine-tuning and linear probing, with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_mae import _checks
from keras_mae.masking import make
from keras_mae.optimizers import (
    LARS,
    AdamW,
    Muon,
    fine_tuning_adamw,
    pretraining_adamw,
    pretraining_muon,
    probing_lars,
)
from keras_mae.pooling import POOLINGS
from keras_mae.recipes import options, own
from keras_mae.recipes.base import Recipe, changed
from keras_mae.recipes.sources import EFFICIENT_PROBING, FINE_TUNE, OWN, SIZES, UNTUNED

__all__ = ["FineTuneRecipe", "LinearProbeRecipe", "PretrainRecipe"]


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(Recipe):
    """How to pre-train; the defaults are the authors' repository's.

    Attributes:
        weight_decay: AdamW weight decay, not applied to biases and norms.
        beta_1: AdamW's decay of the mean of the gradients.
        beta_2: AdamW's decay of the mean of their squares.
        mask_ratio: Fraction of the patches to remove.
        masking: How to choose them: "random", "block", "grid", or a color of filtered noise: "green", "red", "blue"
            or "purple"; see `keras_mae.masking.make`.
        mask_cell: Number of patches along each side of the cells that "random" draws masks for.
        norm_pix_loss: Whether each patch is standardized before it is predicted; it is by default. Targets other than
            "low_pass" say so themselves, and set it; to give the other is an error. `dataclasses.replace` gives it
            again: with another target give it `None`.
        target: What to predict: "pixels", "normalized", "low_pass" or "hog"; "teacher" or "custom" for a model that
            is given a `keras_mae.targets.Teacher` or a function; `None` for what `norm_pix_loss` says.
        masks_per_image: Number of masks drawn for each image in one step.
        predict_ratio: Share of the removed patches to predict in one step.
        decoder: Kind of decoder: "self_attention", the method's own, or "cross_attention".
        fuse_blocks: Indices of the encoder's blocks that the decoder reads fused; `None` for its output alone.
        shift: Largest random move of an image either way, as a fraction of its size, in [0, 0.25]: a gentle crop, for
            which `crop_area` must be `None`; see `keras_mae.data.RandomCrop`.
        flip: Whether crops of either kind are mirrored at random; images taken whole and in place never are.
        seed: Random seed for weights, masks, crops and data order.
        optimizer_name: "adamw" or "muon"; see `keras_mae.optimizers.Muon`.
        ema_momentum: Momentum of an average of the weights that the run ends with, such as 0.999; `None` is none. It
            begins short: see `ema_warmup` of our optimizers.
        schedule: Course of the learning rate after the warm-up: "cosine", or "wsd", which holds it until a decay at
            the end; see `keras_mae.optimizers.warmup_stable_decay`.
        decay_epochs: Epochs of that decay; `None` is a fifth of all with "wsd".

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 8.
    """

    kind: ClassVar[str] = "pretrain"
    epochs: int = 800
    warmup_epochs: int = 40
    batch_size: int = 4096
    base_learning_rate: float = 1.5e-4
    beta_1: float = 0.9
    beta_2: float = 0.95
    mask_ratio: float = 0.75
    masking: str = "random"
    mask_cell: int = 1
    norm_pix_loss: bool = None  # type: ignore[assignment]  # settled at once: True, or what `target` says
    target: str | None = None
    masks_per_image: int = 1
    predict_ratio: float = 1.0
    decoder: str = "self_attention"
    fuse_blocks: tuple[int, ...] | None = None
    crop_area: tuple[float, float] | None = (0.2, 1.0)
    shift: float = 0.0
    optimizer_name: str = "adamw"
    ema_momentum: float | None = None
    schedule: str = "cosine"
    decay_epochs: int | None = None
    source: str = "repository"
    _mirrors_crops: ClassVar[bool] = True
    _added: ClassVar[Mapping[str, Any]] = options.ADDED_TO_PRETRAINING

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.positive_int("masks_per_image", self.masks_per_image)
        _checks.share("predict_ratio", self.predict_ratio)
        _checks.one_of("decoder", self.decoder, ("self_attention", "cross_attention"))
        if self.fuse_blocks is not None:
            rule = "indices of blocks, or None"
            blocks = _checks.indices("fuse_blocks", self.fuse_blocks, -1000, 1000, rule)
            object.__setattr__(self, "fuse_blocks", tuple(blocks))  # as a file gives it back
        object.__setattr__(self, "norm_pix_loss", options.settled_norm(self.target, self.norm_pix_loss))
        for name in ("beta_1", "beta_2", "mask_ratio"):
            _checks.fraction(name, getattr(self, name))
        options.check_masks_and_shift(self)
        _checks.one_of("optimizer_name", self.optimizer_name, ("adamw", "muon"))
        options.averaging(self.ema_momentum)
        options.check_decay(self)

    @property
    def stable_epochs(self) -> int:
        """The number of epochs before the decay of schedule "wsd", warm-up included."""
        decay = max(1, self.epochs // 5) if self.decay_epochs is None else self.decay_epochs
        return self.epochs - decay

    @classmethod
    def for_size(
        cls, size: str = "base", source: str | None = None, *, images: int | None = None, **changes: Any
    ) -> PretrainRecipe:
        """Return the recipe for ImageNet ("base", "large", "huge"), for images of 8–64 px ("small_images"), or for a
        short run on photos ("photos").

        Args:
            size: Size of the ViT, "small_images" or "photos". The published recipe is the same for the three sizes.
            source: "repository" (the default) or "paper". They differ in the target: the repository's recipe predicts
                normalized patches, the paper's default pixels (table 1d).
            images: Number of small images to train on, by which "small_images" chooses batch and length; by default
                those for about 60,000.
            changes: Values of fields that differ. Of other `epochs` the warm-up keeps its share where it would take
                more than half.

        Raises:
            ValueError: If there is no such recipe or field, or `norm_pix_loss` contradicts `target`.
        """
        options.check_target_and_norm(changes.get("target"), changes.get("norm_pix_loss"))
        source = _published(size, source, images, ("photos",))
        if source is not None:
            recipe = cls(source=source, norm_pix_loss=source == "repository")
        elif size == "photos":
            recipe = cls(**own.PHOTOS, source=UNTUNED)
        else:
            recipe = cls(**_our_own(own.PRETRAIN, own.PRETRAIN_BY_IMAGES, images))
        return changed(recipe, changes)

    @property
    def model_arguments(self) -> dict[str, Any]:
        """The arguments of `MaskedAutoencoder` that the recipe fixes, by name.

        `run_pretraining` compares a model with all of them but the seed. A teacher or a function, which no recipe
        can hold, is given beside them: `{**recipe.model_arguments, "target": teacher}`.

        Example:
            >>> recipe = keras_mae.recipes.PretrainRecipe.for_size("small_images")
            >>> mae = keras_mae.MaskedAutoencoder(encoder, decoder, **recipe.model_arguments)
        """
        return {
            "masking": make(self.masking, self.mask_ratio, self.mask_cell),
            "norm_pix_loss": self.norm_pix_loss,
            "target": self.target,
            "masks_per_image": self.masks_per_image,
            "predict_ratio": self.predict_ratio,
            "fuse_blocks": self.fuse_blocks,
            "seed": self.seed,
        }

    def optimizer(self, steps_per_epoch: int) -> AdamW | Muon:
        """Return the optimizer, its schedule fitted to epochs of `steps_per_epoch` batches."""
        settings = self._schedule(steps_per_epoch) | options.averaging(self.ema_momentum)
        if self.optimizer_name == "muon":
            return pretraining_muon(adam_beta_1=self.beta_1, adam_beta_2=self.beta_2, **settings)
        return pretraining_adamw(beta_1=self.beta_1, beta_2=self.beta_2, **settings)

    @classmethod
    def _as_read(cls, values: dict[str, Any]) -> dict[str, Any]:
        return options.without_contradiction(values)

    def _with_implied(self, changes: dict[str, Any]) -> dict[str, Any]:
        return options.implied(self, changes)

    def _schedule(self, steps_per_epoch: int) -> dict[str, Any]:
        settings = super()._schedule(steps_per_epoch)
        if self.schedule == "wsd":
            settings |= options.decay_schedule(self, steps_per_epoch, settings["total_steps"])
        return settings


@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe(Recipe):
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
    _added: ClassVar[Mapping[str, Any]] = {"pooling": "mean", "ema_momentum": None}

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
        source = _published(size, source, images)
        if source is None:
            return changed(cls(**_our_own(own.FINE_TUNE, own.FINE_TUNE_BY_IMAGES, images)), changes)
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
class LinearProbeRecipe(Recipe):
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
    _added: ClassVar[Mapping[str, Any]] = {"clamp_crops": False, "pooling": "token"}

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
        source = _published(size, source, images)
        if source is None:
            return changed(cls(**_our_own(own.PROBE, own.PROBE_BY_IMAGES, images)), changes)
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


def _our_own(base: Mapping[str, Any], cells: Mapping[int, Mapping[str, Any]], images: int | None) -> dict[str, Any]:
    """Return the fields of the recipe for small images, if need be for a number of them."""
    if images is None:
        return {**base, "source": OWN}
    return {**own.by_images(base, cells, _checks.positive_int("images", images)), "source": OWN}


def _published(size: str, source: str | None, images: int | None, others: tuple[str, ...] = ()) -> str | None:
    """Return where the recipe of this size comes from, or `None` if it is one of ours."""
    _checks.one_of("size", size, (*SIZES, "small_images", *others))
    if images is not None and size != "small_images":
        raise ValueError(f'`images` goes with the recipe "small_images". Received: images={images} for {size!r}')
    if size not in SIZES:
        _checks.one_of("source", source or OWN, (OWN,))
        return None
    return str(_checks.one_of("source", source or "repository", ("repository", "paper")))
