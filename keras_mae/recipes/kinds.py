"""The recipe for pre-training, with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_mae import _checks
from keras_mae.masking import make
from keras_mae.optimizers import AdamW, Muon, pretraining_adamw, pretraining_muon
from keras_mae.recipes import options, own, sources
from keras_mae.recipes.base import ImageRecipe, changed
from keras_mae.recipes.sources import UNTUNED

__all__ = ["PretrainRecipe"]


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(ImageRecipe):
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
        band_groups: Groups of channels that a normalized target standardizes each by itself, such as
            ((0, 1, 2), (3,)); `None` for all channels together.
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
    band_groups: tuple[tuple[int, ...], ...] | None = None
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
        object.__setattr__(self, "band_groups", options.settled_groups(self.band_groups, self.norm_pix_loss))
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
        source = sources.published(size, source, images, ("photos",))
        if source is not None:
            recipe = cls(source=source, norm_pix_loss=source == "repository")
        elif size == "photos":
            recipe = cls(**own.PHOTOS, source=UNTUNED)
        else:
            recipe = cls(**own.our_own(own.PRETRAIN, own.PRETRAIN_BY_IMAGES, images))
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
            "band_groups": self.band_groups,
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
