"""The recipes for pre-training, fine-tuning and linear probing, with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_mae import _checks
from keras_mae.masking import make
from keras_mae.masking.names import check_name
from keras_mae.optimizers import LARS, AdamW, fine_tuning_adamw, pretraining_adamw, probing_lars
from keras_mae.pooling import POOLINGS
from keras_mae.recipes.base import EFFICIENT_PROBING, OWN, Recipe, changed

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
        norm_pix_loss: Whether each patch is standardized before it is predicted.
        masks_per_image: Number of masks drawn for each image in one step.
        predict_ratio: Share of the removed patches to predict in one step.
        shift: Fraction of their size by which images are moved at random, up to this much either way, in [0, 0.25]: a
            gentle crop of images that an object fills, for which `crop_area` must be `None`; see
            `keras_mae.data.RandomCrop`.
        flip: Whether crops of either kind are mirrored at random; images taken whole and in place never are.
        seed: Random seed for weights, masks, crops and data order.

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
    norm_pix_loss: bool = True
    masks_per_image: int = 1
    predict_ratio: float = 1.0
    crop_area: tuple[float, float] | None = (0.2, 1.0)
    shift: float = 0.0
    source: str = "repository"
    _mirrors_crops: ClassVar[bool] = True
    _added: ClassVar[Mapping[str, Any]] = {"predict_ratio": 1.0, "masking": "random", "mask_cell": 1, "shift": 0.0}

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.positive_int("masks_per_image", self.masks_per_image)
        _checks.share("predict_ratio", self.predict_ratio)
        _checks.boolean("norm_pix_loss", self.norm_pix_loss)
        for name in ("beta_1", "beta_2", "mask_ratio"):
            _checks.fraction(name, getattr(self, name))
        check_name(self.masking, self.mask_cell)
        if _checks.within("shift", self.shift, 0.25) and self.crop_area is not None:
            raise ValueError(
                "`shift` is a crop of its own: it takes crop_area=None. "
                f"Received: shift={self.shift}, crop_area={self.crop_area}"
            )

    @classmethod
    def for_size(cls, size: str = "base", source: str | None = None, **changes: Any) -> PretrainRecipe:
        """Return the recipe for ImageNet ("base", "large", "huge"), or for images of 8–64 px ("small_images").

        Args:
            size: Size of the ViT, or "small_images". The published recipe is the same for the three sizes.
            source: "repository" (the default) or "paper". They differ in the target: the repository's recipe predicts
                normalized patches, the paper's default pixels (table 1d).
            changes: Values of fields that differ.

        Raises:
            ValueError: If there is no such recipe or field.
        """
        source = _published(size, source)
        published = cls(source=source, norm_pix_loss=source == "repository")
        return changed(_SMALL_PRETRAIN if source == OWN else published, changes)

    @property
    def model_arguments(self) -> dict[str, Any]:
        """The arguments of `MaskedAutoencoder` that the recipe fixes, by name.

        `run_pretraining` compares a model with all of them but the seed.

        Example:
            >>> recipe = keras_mae.recipes.PretrainRecipe.for_size("small_images")
            >>> mae = keras_mae.MaskedAutoencoder(encoder, decoder, **recipe.model_arguments)
        """
        return {
            "masking": make(self.masking, self.mask_ratio, self.mask_cell),
            "norm_pix_loss": self.norm_pix_loss,
            "masks_per_image": self.masks_per_image,
            "predict_ratio": self.predict_ratio,
            "seed": self.seed,
        }

    def optimizer(self, steps_per_epoch: int) -> AdamW:
        """Return the optimizer, its schedule fitted to epochs of `steps_per_epoch` batches."""
        return pretraining_adamw(beta_1=self.beta_1, beta_2=self.beta_2, **self._schedule(steps_per_epoch))


@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe(Recipe):
    """How to fine-tune; the defaults are the paper's for ViT-B.

    Attributes:
        layer_decay: Factor by which the learning rate falls from each layer to the one below.
        drop_path_rate: Drop-path probability of the last block.
        weight_decay: AdamW weight decay, not applied to biases, norms, positions and class token.
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
    _added: ClassVar[Mapping[str, Any]] = {"pooling": "mean"}

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.one_of("pooling", self.pooling, POOLINGS)
        for name in ("beta_1", "beta_2", "drop_path_rate", "label_smoothing"):
            _checks.fraction(name, getattr(self, name))
        if self.layer_decay != 1:
            _checks.positive("layer_decay", _checks.fraction("layer_decay", self.layer_decay))
        for name in ("minimum_learning_rate", "mixup", "rand_augment"):
            _checks.non_negative(name, getattr(self, name))
        _checks.fraction("shift", self.shift)
        for name in ("random_erasing", "cutmix", "switch_probability"):
            _checks.number(name, getattr(self, name), 0, 1 + 1e-9, "in [0, 1]")

    @classmethod
    def for_size(cls, size: str = "base", source: str | None = None, **changes: Any) -> FineTuneRecipe:
        """Return the recipe for ImageNet ("base", "large", "huge"), or for images of 28–64 px ("small_images").

        Args:
            size: Size of the ViT, or "small_images".
            source: "repository" (the default) or "paper". Both are published, and they differ: learning rate and
                layer decay for "base", drop path for "large" and "huge", random erasing, which the paper does not
                have, for all. What the paper leaves open (crops, evaluation, the last learning rate) is the
                repository's.
            changes: Values of fields that differ.

        Raises:
            ValueError: If there is no such recipe or field.
        """
        source = _published(size, source)
        if source == OWN:
            return changed(_SMALL_FINE_TUNE, changes)
        rate, layer_decay, drop_path_rate, epochs = _FINE_TUNE[source, size]
        recipe = cls(
            epochs=epochs,
            base_learning_rate=rate,
            layer_decay=layer_decay,
            drop_path_rate=drop_path_rate,
            random_erasing=0.25 if source == "repository" else 0.0,
            source=source,
        )
        return changed(recipe, changes)

    def optimizer(self, model: Any, steps_per_epoch: int) -> AdamW:
        """Return this `ViTClassifier`'s optimizer, its schedule fitted to epochs of `steps_per_epoch` batches."""
        return fine_tuning_adamw(
            model,
            layer_decay=self.layer_decay,
            minimum_learning_rate=min(self.minimum_learning_rate, self.learning_rate),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            **self._schedule(steps_per_epoch),
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
    def for_size(cls, size: str = "base", source: str | None = None, **changes: Any) -> LinearProbeRecipe:
        """Return the recipe for ImageNet ("base", "large", "huge"), or for images of 28–64 px ("small_images").

        Args:
            size: Size of the ViT, or "small_images".
            source: "repository" (the default) or "paper". They differ in the epochs: the repository trains "large"
                and "huge" for 50, the paper all for 90. What the paper leaves open (how crops are drawn, evaluation)
                is the repository's. "efficient_probing" is the attentive probe as published: 90 epochs of LARS at a
                base learning rate of 0.1 for all sizes; what it leaves open is the linear probe's.
            changes: Values of fields that differ.

        Raises:
            ValueError: If there is no such recipe or field.
        """
        if source == EFFICIENT_PROBING and size in _SIZES:
            return changed(cls(pooling="attentive", source=source), changes)
        source = _published(size, source)
        epochs = 50 if source == "repository" and size != "base" else 90
        return changed(_SMALL_PROBE if source == OWN else cls(epochs=epochs, source=source), changes)

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


_FINE_TUNE = {  # (source, size): base_learning_rate, layer_decay, drop_path_rate, epochs
    ("repository", "base"): (5e-4, 0.65, 0.1, 100),
    ("repository", "large"): (1e-3, 0.75, 0.2, 50),
    ("repository", "huge"): (1e-3, 0.75, 0.3, 50),
    ("paper", "base"): (1e-3, 0.75, 0.1, 100),
    ("paper", "large"): (1e-3, 0.75, 0.1, 50),
    ("paper", "huge"): (1e-3, 0.75, 0.2, 50),
}
_SIZES = ("base", "large", "huge")


_WHOLE: dict[str, Any] = {"crop_area": None}  # small images were tuned without crops
_SMALL_PRETRAIN = PretrainRecipe(
    epochs=40, warmup_epochs=2, batch_size=128, base_learning_rate=4e-3, flip=False, source=OWN, **_WHOLE
)
_SMALL_FINE_TUNE = FineTuneRecipe(
    epochs=40,
    warmup_epochs=2,
    batch_size=128,
    base_learning_rate=2e-3,
    rand_augment=0.0,
    random_erasing=0.0,
    mixup=0.0,
    cutmix=0.0,
    shift=0.07,  # two pixels of 28
    evaluation_fraction=1.0,
    source=OWN,
    **_WHOLE,
)
_SMALL_PROBE = LinearProbeRecipe(
    epochs=100,
    warmup_epochs=10,
    batch_size=256,
    base_learning_rate=4.0,
    evaluation_fraction=1.0,
    clamp_crops=False,
    source=OWN,
    **_WHOLE,
)


def _published(size: str, source: str | None) -> str:
    """Return where the recipe of this size comes from."""
    _checks.one_of("size", size, (*_SIZES, "small_images"))
    if size == "small_images":
        return str(_checks.one_of("source", source or OWN, (OWN,)))
    return str(_checks.one_of("source", source or "repository", ("repository", "paper")))
