"""Recipes: every number of a run in one frozen place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from keras_mae import _checks
from keras_mae.optimizers import AdamW, pretraining_adamw


@dataclass(frozen=True)
class PretrainRecipe:
    """How to pre-train; the defaults are the published values.

    Attributes:
        epochs: Passes over the data.
        warmup_epochs: Of linear warm-up from 0.
        batch_size: Images behind one update, over all accumulation steps and replicas.
        accumulation_steps: Batches whose gradients are averaged for one update.
        base_learning_rate: For a batch of 256; see `learning_rate`.
        weight_decay: Not applied to biases and norms.
        beta_1: Of AdamW.
        beta_2: Of AdamW.
        mask_ratio: Fraction of the patches to remove.
        norm_pix_loss: Whether each patch is standardised before it is predicted.
        masks_per_image: Masks drawn for each image in one step.
        seed: Of weights, masks and data order.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 8.
    """

    epochs: int = 800
    warmup_epochs: int = 40
    batch_size: int = 4096
    accumulation_steps: int = 1
    base_learning_rate: float = 1.5e-4
    weight_decay: float = 0.05
    beta_1: float = 0.9
    beta_2: float = 0.95
    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    masks_per_image: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation_steps", "masks_per_image"):
            _checks.positive_int(name, getattr(self, name))
        _checks.positive("base_learning_rate", self.base_learning_rate)
        _checks.non_negative("weight_decay", self.weight_decay)
        for name in ("beta_1", "beta_2", "mask_ratio"):
            _checks.fraction(name, getattr(self, name))
        _checks.seed_int("seed", self.seed)
        if not isinstance(self.warmup_epochs, int) or not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                "`warmup_epochs` must be an integer, at least 0 and less than `epochs`. "
                f"Received: warmup_epochs={self.warmup_epochs}, epochs={self.epochs}"
            )
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                "`accumulation_steps` must divide `batch_size`. "
                f"Received: accumulation_steps={self.accumulation_steps}, batch_size={self.batch_size}"
            )

    @property
    def learning_rate(self) -> float:
        """The highest learning rate: base_learning_rate * batch_size / 256."""
        return self.base_learning_rate * self.batch_size / 256

    @property
    def step_batch_size(self) -> int:
        """Images in one batch of the dataset."""
        return self.batch_size // self.accumulation_steps

    def optimizer(self, steps_per_epoch: int) -> AdamW:
        """The optimizer, its schedule fitted to epochs of `steps_per_epoch` batches."""
        updates = max(steps_per_epoch * self.epochs // self.accumulation_steps, 1)
        return pretraining_adamw(
            self.base_learning_rate,
            self.batch_size,
            updates,
            updates * self.warmup_epochs // self.epochs,
            self.weight_decay,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            gradient_accumulation_steps=self.accumulation_steps if self.accumulation_steps > 1 else None,
        )

    def resolved(self, steps_per_epoch: int) -> dict[str, Any]:
        """All numbers, also those that follow from others."""
        return {
            **asdict(self),
            "learning_rate": self.learning_rate,
            "step_batch_size": self.step_batch_size,
            "steps_per_epoch": steps_per_epoch,
        }
