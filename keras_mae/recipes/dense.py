"""The recipe for segmentation, with the published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_mae import _checks
from keras_mae.optimizers import AdamW, fine_tuning_adamw
from keras_mae.recipes import own
from keras_mae.recipes.base import Recipe, changed
from keras_mae.recipes.options import averaging, settled_choice, settled_weights
from keras_mae.recipes.sources import DINOV2, MMSEGMENTATION, UNTUNED

__all__ = ["HEADS", "MONITORS", "SegmentationRecipe"]

HEADS = ("upernet", "linear")
MONITORS = ("val_mean_iou", "val_loss")
"""Metrics that say which epoch is the best."""

_SOURCES = {"upernet": MMSEGMENTATION, "linear": DINOV2}
_CALLED = {"upernet": "mmsegmentation", "linear": "DINOv2"}
_PUBLISHED: dict[str, dict[str, Any]] = {
    "upernet": {},
    "linear": {
        "epochs": 32,
        "base_learning_rate": 1.6e-2,
        "weight_decay": 0.01,
        "layer_decay": 1.0,
        "drop_path_rate": 0.0,
        "trainable_blocks": 0,
    },
}
_LARGE = {"base_learning_rate": 1.44e-3, "layer_decay": 0.75, "drop_path_rate": 0.2}
"""In what UPerNet differs on ViT-L."""


@dataclass(frozen=True, kw_only=True)
class SegmentationRecipe(Recipe):
    """How to train a segmenter; the defaults are the published ones for UPerNet on ViT-B and ADE20K.

    They were published in updates, here they are epochs: 160,000 updates of 16 images are 127 epochs of ADE20K's
    20,210, or 160,401 updates; 1,500 of warm-up are one epoch, or 1,263; and the frozen encoder's 40,000 are 32
    epochs. Published rates are those of the head at 16 images: 1e-4 is a `base_learning_rate` of 1.6e-3.

    Attributes:
        head: "upernet" or "linear"; see `ViTSegmenter`.
        blocks: Indices of the blocks whose maps the head gets; `None` for the head's own, which are 3, 5, 7 and 11 of
            twelve for "upernet", and the last for "linear".
        trainable_blocks: Number of the encoder's last blocks to train, as for `ViTClassifier`: 0 is a frozen encoder;
            `None`, or "all", for the whole encoder.
        layer_decay: Factor by which the learning rate falls from each layer to the one below.
        drop_path_rate: Drop-path probability of the last block.
        auxiliary_weight: Weight of the auxiliary head's loss, which "upernet" alone has; 0 leaves that head out.
        weight_decay: AdamW weight decay, not applied to biases, norms, positions and class tokens.
        beta_1: AdamW's decay of the mean of the gradients.
        beta_2: AdamW's decay of the mean of their squares.
        power: Exponent of the polynomial by which the learning rate falls after the warm-up.
        minimum_learning_rate: Learning rate of the head at the end.
        scale: Smallest and largest factor of the size that an image is resized to before a crop is taken.
        max_class_share: Largest share of a crop that one class may have, in (0, 1].
        distortion: Whether light and colors of images are distorted; see `data.PhotometricDistortion`.
        ema_momentum: Momentum of an average of the weights that the run ends with, as for `FineTuneRecipe`; `None`
            is none.
        class_weights: Weights of the classes in the loss: "balanced" for `transfer.balanced_class_weights` of the
            pixels of all masks, so that rare classes count as much as common ones; `None`, or "none", for 1.
        best_epoch: Whether the training ends with the weights of its best epoch, and not of its last; as for
            `FineTuneRecipe`.
        patience: Number of epochs in a row without a new best one after which the training stops; `None` for all
            epochs.
        monitor: What says which epoch is the best: "val_mean_iou" or "val_loss".

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.4, with the numbers of mmsegmentation's
    configuration for it; "DINOv2: Learning Robust Visual Features without Supervision", section 7.4.
    """

    kind: ClassVar[str] = "segment"
    epochs: int = 127
    warmup_epochs: int = 1
    batch_size: int = 16
    base_learning_rate: float = 1.6e-3
    head: str = "upernet"
    blocks: tuple[int, ...] | None = None
    trainable_blocks: float | None = None
    layer_decay: float = 0.65
    drop_path_rate: float = 0.1
    auxiliary_weight: float = 0.4
    beta_1: float = 0.9
    beta_2: float = 0.999
    power: float = 1.0
    minimum_learning_rate: float = 0.0
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    distortion: bool = True
    ema_momentum: float | None = None
    class_weights: str | None = None
    best_epoch: bool = None  # type: ignore[assignment]  # settled at once: whether there is a `patience`
    patience: int | None = None
    monitor: str = "val_mean_iou"
    source: str = MMSEGMENTATION
    _added: ClassVar[Mapping[str, Any]] = {"auxiliary_weight": 0.4, "ema_momentum": None, "class_weights": None}
    _published_sizes: ClassVar[tuple[str, ...]] = ("base", "large")

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.one_of("head", self.head, HEADS)
        if self.blocks is not None:
            blocks = _checks.indices("blocks", self.blocks, -1000, 1000, "indices of blocks, or None")
            object.__setattr__(self, "blocks", tuple(blocks))  # as a file gives it back
        object.__setattr__(self, "trainable_blocks", _settled_blocks(self.trainable_blocks))
        _checks.share("layer_decay", self.layer_decay)
        for name in ("drop_path_rate", "beta_1", "beta_2"):
            _checks.fraction(name, getattr(self, name))
        _checks.positive("power", self.power)
        for name in ("minimum_learning_rate", "auxiliary_weight"):
            _checks.non_negative(name, getattr(self, name))
        averaging(self.ema_momentum)
        object.__setattr__(self, "class_weights", settled_weights(self.class_weights))
        object.__setattr__(self, "scale", _checks.rising("scale", self.scale))
        _checks.share("max_class_share", self.max_class_share)
        _checks.boolean("distortion", self.distortion)
        object.__setattr__(self, "best_epoch", settled_choice(self, MONITORS))

    @classmethod
    def for_size(
        cls,
        size: str = "base",
        source: str | None = None,
        head: str = "upernet",
        *,
        images: int | None = None,
        **changes: Any,
    ) -> SegmentationRecipe:
        """Return the recipe for ADE20K ("base", "large"), or for hundreds of images of about 100 px ("small_images").

        Args:
            size: Size of the ViT, or "small_images", whose numbers were chosen on scenes of 96 pixels.
            source: "mmsegmentation" for UPerNet, which fine-tunes the encoder, "dinov2" for the linear head, which
                freezes it: each is its head's default, and there is no other. What DINOv2 leaves open, such as the
                warm-up and the crops, is mmsegmentation's.
            head: "upernet" or "linear". A linear head on a fine-tuned encoder, which nobody published numbers for,
                takes `trainable_blocks="all"`, and of the sizes "base" and "large" also a `layer_decay`, and a lower
                `base_learning_rate`, which "small_images" lowers by itself.
            images: Number of images to train on, by which "small_images" chooses batch and length; by default those
                for 200.
            changes: Values of fields that differ. Of other `epochs` the warm-up keeps its share where it would take
                more than half.

        Raises:
            ValueError: If there is no such recipe or field.

        Example:
            >>> keras_mae.recipes.SegmentationRecipe.for_size("large").learning_rate
            9e-05
        """
        _checks.one_of("head", head, HEADS)
        _checks.one_of("size", size, (*cls._published_sizes, "small_images"))
        if size == "small_images":
            _checks.one_of("source", source or UNTUNED, (UNTUNED,))
            count = None if images is None else _checks.positive_int("images", images)
            numbers = own.SEGMENT if count is None else own.by_images(own.SEGMENT, own.SEGMENT_BY_IMAGES, count)
            return changed(cls(head=head, source=UNTUNED, **{**numbers, **own.SEGMENT_BY_HEAD[head]}), changes)
        if images is not None:
            raise ValueError(f'`images` goes with the recipe "small_images". Received: images={images} for {size!r}')
        source = _checks.one_of("source", source or _SOURCES[head], (_SOURCES[head],))
        differs = _LARGE if (size, head) == ("large", "upernet") else {}
        return changed(cls(head=head, source=source, **{**_PUBLISHED[head], **differs}), changes)

    def _published(self, size: str, source: str) -> SegmentationRecipe:
        return self.for_size(size, head=next(head for head, of in _SOURCES.items() if of == source))

    def _compared_with(self, size: str) -> tuple[SegmentationRecipe, str]:
        return self.for_size(size, head=self.head), _CALLED[self.head]

    def _with_implied(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Return changes with what goes with them: a linear head alone takes a higher rate than a whole encoder."""
        added: dict[str, Any] = {}
        if "patience" in changes and self.best_epoch == (self.patience is not None):
            added["best_epoch"] = None
        rate, blocks = "base_learning_rate", "trainable_blocks"
        if self.source == UNTUNED and self.head == "linear" and blocks in changes and rate not in self.changed:
            added[rate] = (own.SEGMENT_BY_HEAD["linear"] if changes[blocks] == 0 else own.SEGMENT)[rate]
        return {**added, **changes}

    def optimizer(self, model: Any, steps_per_epoch: int) -> AdamW:
        """Return this `ViTSegmenter`'s optimizer, its schedule fitted to epochs of `steps_per_epoch` batches."""
        return fine_tuning_adamw(
            model,
            layer_decay=self.layer_decay,
            minimum_learning_rate=min(self.minimum_learning_rate, self.learning_rate),
            power=self.power,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            **self._schedule(steps_per_epoch),
            **averaging(self.ema_momentum),
        )

    @property
    def crop(self) -> dict[str, Any]:
        """The arguments of `keras_mae.data.SegmentationCrop`.

        Example:
            >>> crop = keras_mae.data.SegmentationCrop(**recipe.crop)
        """
        return {
            "scale": self.scale,
            "max_class_share": self.max_class_share,
            "flip": self.flip,
            **({} if self.distortion else {"distortion": None}),
        }


def _settled_blocks(blocks: Any) -> float | None:
    """Return how many blocks are trained, `None` for the whole encoder."""
    if blocks is None or blocks == "all":
        return None
    whole = isinstance(blocks, int | float) and not isinstance(blocks, bool) and blocks >= 0 and blocks * 2 % 1 == 0
    if not whole:
        raise _checks.argument_error("trainable_blocks", '0, 0.5, 1, ..., "all" or None', blocks)
    return blocks  # type: ignore[no-any-return]
