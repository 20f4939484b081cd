"""Recipes: every number of a run in one frozen place, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from keras_mae import _checks
from keras_mae.optimizers import LARS, AdamW, fine_tuning_adamw, pretraining_adamw, probing_lars

__all__ = ["FineTuneRecipe", "LinearProbeRecipe", "PretrainRecipe", "Recipe"]

OWN = "keras_mae"
SOURCES = {
    "repository": "the authors' repository",
    "paper": "the paper, appendix A.1",
    OWN: "keras_mae, tuned on validation images",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all recipes have: a length, a batch, a learning rate and a source.

    Attributes:
        epochs: Passes over the data.
        warmup_epochs: Of linear warm-up from 0.
        batch_size: Images behind one update, over all accumulation steps and replicas.
        gradient_accumulation_steps: Batches whose gradients are averaged for one update.
        base_learning_rate: For a batch of 256; see `learning_rate`.
        weight_decay: Of the optimizer.
        crop_area: Smallest and largest share of an image that a random crop keeps; `None` for images that come in one
            size and are taken whole.
        flip: Whether images are mirrored at random.
        evaluation_fraction: Share of an image's short side that evaluation keeps, up to 224 pixels; above, it keeps
            all of it.
        seed: Of weights, crops and data order.
        source: Where the numbers come from.
    """

    epochs: int = 100
    warmup_epochs: int = 5
    batch_size: int = 1024
    gradient_accumulation_steps: int = 1
    base_learning_rate: float = 1e-3
    weight_decay: float = 0.05
    crop_area: tuple[float, float] | None = (0.08, 1.0)
    flip: bool = True
    evaluation_fraction: float = 224 / 256
    seed: int = 0
    source: str = "paper"
    kind: ClassVar[str]
    """What the recipe is for; it tells recipes apart in files."""
    _mirrors_crops: ClassVar[bool] = False
    """Whether `flip` belongs to the crops, and not to the augmentation."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "gradient_accumulation_steps"):
            _checks.positive_int(name, getattr(self, name))
        _checks.positive("base_learning_rate", self.base_learning_rate)
        _checks.non_negative("weight_decay", self.weight_decay)
        _checks.seed_int("seed", self.seed)
        _checks.one_of("source", self.source, SOURCES)
        if not isinstance(self.warmup_epochs, int) or not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                "`warmup_epochs` must be an integer, at least 0 and less than `epochs`. "
                f"Received: warmup_epochs={self.warmup_epochs}, epochs={self.epochs}"
            )
        area = self.crop_area
        if area is not None:
            if not (len(area) == 2 and 0 < area[0] <= area[1] <= 1):
                raise _checks.argument_error("crop_area", "two rising numbers above 0 and up to 1, or None", area)
            object.__setattr__(self, "crop_area", tuple(map(float, area)))  # as a file gives it back
        if not 0 < self.evaluation_fraction <= 1:
            raise _checks.argument_error("evaluation_fraction", "in (0, 1]", self.evaluation_fraction)
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                "`gradient_accumulation_steps` must divide `batch_size`. "
                f"Received: gradient_accumulation_steps={self.gradient_accumulation_steps}, "
                f"batch_size={self.batch_size}"
            )

    @property
    def learning_rate(self) -> float:
        """The highest learning rate: base_learning_rate * batch_size / 256."""
        return self.base_learning_rate * self.batch_size / 256

    @property
    def step_batch_size(self) -> int:
        """Images in one batch of the dataset."""
        return self.batch_size // self.gradient_accumulation_steps

    @property
    def crop(self) -> dict[str, Any] | None:
        """The arguments of `keras_mae.data.RandomResizedCrop`, or `None` for images taken whole."""
        return None if self.crop_area is None else {"area": self.crop_area, "flip": self.flip and self._mirrors_crops}

    def evaluation_crop(self, image_size: int) -> dict[str, float]:
        """The arguments of `keras_mae.data.CenterCrop` for images of this size in pixels."""
        return {"fraction": self.evaluation_fraction if image_size <= 224 else 1.0}

    def _schedule(self, steps_per_epoch: int) -> dict[str, Any]:
        """What every recipe's optimizer is told of its run."""
        accumulated = self.gradient_accumulation_steps
        updates = max(steps_per_epoch * self.epochs // accumulated, 1)
        return {
            "base_learning_rate": self.base_learning_rate,
            "batch_size": self.batch_size,
            "total_steps": updates,
            "warmup_steps": updates * self.warmup_epochs // self.epochs,
            "weight_decay": self.weight_decay,
            "gradient_accumulation_steps": accumulated if accumulated > 1 else None,
        }

    def resolved(self, steps_per_epoch: int) -> dict[str, Any]:
        """All numbers, also those that follow from others."""
        return {
            **asdict(self),
            "learning_rate": self.learning_rate,
            "step_batch_size": self.step_batch_size,
            "steps_per_epoch": steps_per_epoch,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values, with its `kind`; `Recipe.from_dict` reads it back."""
        plain = {name: getattr(value, "item", lambda value=value: value)() for name, value in asdict(self).items()}
        return {"kind": self.kind, **plain, "crop_area": None if self.crop_area is None else list(self.crop_area)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the recipe that `to_dict` wrote.

        Args:
            values: Values of the fields, and the `kind` of recipe. Fields left out keep their defaults.

        Raises:
            ValueError: If the kind is unknown or not that of this class, or a field is unknown or out of range.

        Example:
            >>> keras_mae.recipes.Recipe.from_dict({"kind": "pretrain", "epochs": 100})
        """
        values = dict(values)
        kinds = {one.kind: one for one in (PretrainRecipe, FineTuneRecipe, LinearProbeRecipe)}
        chosen: Any = kinds[_checks.one_of("kind", values.pop("kind", None), kinds)]
        if not issubclass(chosen, cls):
            raise _checks.argument_error("kind", repr(getattr(cls, "kind", None)), chosen.kind)
        _refuse_unknown(chosen, values)
        return chosen(**values)

    def __str__(self) -> str:
        """The recipe as a table."""
        rows = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "source"}
        rows |= {"learning_rate (base × batch / 256)": f"{self.learning_rate:.4g}"}
        width = max(map(len, rows))
        lines = [f"{name:{width}}  {value}" for name, value in rows.items()]
        return "\n".join([f"{type(self).__name__}, from {SOURCES[self.source]}", *lines])


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(Recipe):
    """How to pre-train; the defaults are the published values.

    Attributes:
        weight_decay: Not applied to biases and norms.
        beta_1: Of AdamW.
        beta_2: Of AdamW.
        mask_ratio: Fraction of the patches to remove.
        norm_pix_loss: Whether each patch is standardized before it is predicted.
        masks_per_image: Masks drawn for each image in one step.
        seed: Of weights, masks, crops and data order.

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
    norm_pix_loss: bool = True
    masks_per_image: int = 1
    crop_area: tuple[float, float] | None = (0.2, 1.0)
    _mirrors_crops: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.positive_int("masks_per_image", self.masks_per_image)
        for name in ("beta_1", "beta_2", "mask_ratio"):
            _checks.fraction(name, getattr(self, name))

    @classmethod
    def for_size(cls, size: str = "base", source: str | None = None, **changes: Any) -> PretrainRecipe:
        """Return the recipe for ImageNet ("base", "large", "huge"), or for images of 8–64 px ("small_images").

        Args:
            size: Size of the ViT, or "small_images". The published recipe is the same for the three sizes.
            source: "repository" (the default) or "paper"; they agree.
            changes: Fields with values of their own.

        Raises:
            ValueError: If there is no such recipe or field.
        """
        source = _published(size, source)
        return _changed(_SMALL_PRETRAIN if source == OWN else cls(source=source), changes)

    def optimizer(self, steps_per_epoch: int) -> AdamW:
        """The optimizer, its schedule fitted to epochs of `steps_per_epoch` batches."""
        return pretraining_adamw(beta_1=self.beta_1, beta_2=self.beta_2, **self._schedule(steps_per_epoch))


@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe(Recipe):
    """How to fine-tune; the defaults are the paper's for ViT-B.

    Attributes:
        layer_decay: Factor of the learning rate from one layer to the one below.
        drop_path_rate: Of the last block.
        weight_decay: Not applied to biases, norms, positions and class token.
        beta_1: Of AdamW.
        beta_2: Of AdamW.
        minimum_learning_rate: Of the head, at the end.
        shift: Fraction of their size by which images are moved at random, up to this much either way.
        rand_augment: Magnitude of RandAugment's two operations, 0 to 10; 0 is none.
        random_erasing: Probability of erasing a box of an image.
        mixup: alpha of MixUp, 0 for none.
        cutmix: alpha of CutMix, 0 for none.
        switch_probability: Of CutMix where both are on: every batch has one of them.
        label_smoothing: Probability that goes to all classes alike.

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
    random_erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    switch_probability: float = 0.5
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
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
                layer decay for "base", drop path for "large" and "huge".
            changes: Fields with values of their own.

        Raises:
            ValueError: If there is no such recipe or field.
        """
        source = _published(size, source)
        if source == OWN:
            return _changed(_SMALL_FINE_TUNE, changes)
        rate, layer_decay, drop_path_rate, epochs = _FINE_TUNE[source, size]
        recipe = cls(
            epochs=epochs,
            base_learning_rate=rate,
            layer_decay=layer_decay,
            drop_path_rate=drop_path_rate,
            source=source,
        )
        return _changed(recipe, changes)

    def optimizer(self, model: Any, steps_per_epoch: int) -> AdamW:
        """The optimizer of this `ViTClassifier`, its schedule fitted to epochs of `steps_per_epoch` batches."""
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
        """The arguments of `keras_mae.data.Augmentation`, but for the number of classes."""
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
    """How to train a linear probe; the defaults are the published values.

    Attributes:
        momentum: Of LARS.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 10.
    """

    kind: ClassVar[str] = "linear_probe"
    epochs: int = 90
    warmup_epochs: int = 10
    batch_size: int = 16384
    base_learning_rate: float = 0.1
    weight_decay: float = 0.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.fraction("momentum", self.momentum)

    @classmethod
    def for_size(cls, size: str = "base", source: str | None = None, **changes: Any) -> LinearProbeRecipe:
        """Return the recipe for ImageNet ("base", "large", "huge"), or for images of 28–64 px ("small_images").

        Args:
            size: Size of the ViT, or "small_images". The repository trains "large" and "huge" for 50 epochs, the
                paper all for 90.
            source: "repository" (the default) or "paper".
            changes: Fields with values of their own.

        Raises:
            ValueError: If there is no such recipe or field.
        """
        source = _published(size, source)
        epochs = 50 if source == "repository" and size != "base" else 90
        return _changed(_SMALL_PROBE if source == OWN else cls(epochs=epochs, source=source), changes)

    def optimizer(self, steps_per_epoch: int) -> LARS:
        """The optimizer, its schedule fitted to epochs of `steps_per_epoch` batches."""
        return probing_lars(momentum=self.momentum, **self._schedule(steps_per_epoch))

    @property
    def augmentation(self) -> dict[str, Any]:
        """The arguments of `keras_mae.data.Augmentation`, but for the number of classes."""
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
    source=OWN,
    **_WHOLE,
)


def check_recipe(recipe: Any, kind: type[Recipe]) -> None:
    """Refuses a recipe for something else.

    Raises:
        ValueError: If it is one.
    """
    if not isinstance(recipe, kind):
        raise _checks.argument_error("recipe", f"a {kind.__name__}", recipe)


def _published(size: str, source: str | None) -> str:
    """Where the recipe of this size comes from."""
    _checks.one_of("size", size, (*_SIZES, "small_images"))
    if size == "small_images":
        return _checks.one_of("source", source or OWN, (OWN,))
    return _checks.one_of("source", source or "repository", ("repository", "paper"))


def _changed(recipe: Any, changes: dict[str, Any]) -> Any:
    _refuse_unknown(type(recipe), changes)
    return replace(recipe, **changes)


def _refuse_unknown(kind: type[Recipe], values: Mapping[str, Any]) -> None:
    names = [field.name for field in fields(kind)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"A {kind.__name__} has {', '.join(names)}. Received: {', '.join(unknown)}")
