"""Where the numbers of a recipe come from, and how that is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from keras_mae import _checks

__all__ = [
    "COMMAND_LINE",
    "DATA",
    "DINOV2",
    "EFFICIENT_PROBING",
    "FINE_TUNE",
    "FOLLOWS",
    "MMSEGMENTATION",
    "OPTIONS",
    "OWN",
    "PUBLISHED",
    "RECIPE_FILE",
    "SIZES",
    "SOURCES",
    "UNTUNED",
    "published",
    "table",
]

OWN = "keras_mae"
EFFICIENT_PROBING = "efficient_probing"
MMSEGMENTATION, DINOV2 = "mmsegmentation", "dinov2"
UNTUNED = "untuned"
SOURCES = {
    "repository": "the authors' repository",
    "paper": "the paper, appendix A.1",
    EFFICIENT_PROBING: "efficient probing, arXiv 2506.10178",
    MMSEGMENTATION: "mmsegmentation, its configurations for MAE",
    DINOV2: "DINOv2, arXiv 2304.07193",
    OWN: "keras_mae, tuned on validation images",
    UNTUNED: "keras_mae, for short runs on one machine, not tuned",
}
"""Names of sources, and what is printed for them."""

PUBLISHED = ("repository", "paper", EFFICIENT_PROBING, MMSEGMENTATION, DINOV2)
"""Names of the sources that were published."""

SIZES = ("base", "large", "huge")
"""Sizes of the ViT that the published recipes are for."""

FINE_TUNE = {  # (source, size): base_learning_rate, layer_decay, drop_path_rate, epochs
    ("repository", "base"): (5e-4, 0.65, 0.1, 100),
    ("repository", "large"): (1e-3, 0.75, 0.2, 50),
    ("repository", "huge"): (1e-3, 0.75, 0.3, 50),
    ("paper", "base"): (1e-3, 0.75, 0.1, 100),
    ("paper", "large"): (1e-3, 0.75, 0.1, 50),
    ("paper", "huge"): (1e-3, 0.75, 0.2, 50),
}
"""The numbers in which the published recipes for fine-tuning differ."""

COMMAND_LINE, RECIPE_FILE, DATA = "command line", "recipe file", "the data"
"""Origins of values that are not the source's."""

FOLLOWS = {
    "base_learning_rate": ("batch_size", "trainable_blocks"),
    "best_epoch": ("patience",),
    "norm_pix_loss": ("target", "band_groups"),
    "warmup_epochs": ("epochs",),
}
"""Fields that may take another value because another field does, and which."""

_WHOSE = {UNTUNED: "default for folders"}
"""What notes call a source, where it is not what `SOURCES` begins with."""

OPTIONS = {
    "decoder": "CrossMAE, arXiv 2401.14391",
    "fuse_blocks": "MFF, arXiv 2308.00261",
    "mask_cell": "Pixio, arXiv 2512.15715",
    "masking": "green and other noise: ColorMAE, arXiv 2407.13036",
    "optimizer_name": "Muon, arXiv 2502.16982",
    "pooling": "attentive: efficient probing, arXiv 2506.10178",
    "predict_ratio": "CrossMAE, arXiv 2401.14391",
    "schedule": "wsd: MiniCPM, arXiv 2404.06395",
    "target": "low_pass: PixMIM; hog: MaskFeat",
}
"""Fields that the paper's method has no other value for, and who proposed that."""


def published(size: str, source: str | None, images: int | None, others: tuple[str, ...] = ()) -> str | None:
    """Return where the recipe of this size comes from, or `None` if it is one of ours."""
    _checks.one_of("size", size, (*SIZES, "small_images", *others))
    if images is not None and size != "small_images":
        raise ValueError(f'`images` goes with the recipe "small_images". Received: images={images} for {size!r}')
    if size not in SIZES:
        _checks.one_of("source", source or OWN, (OWN,))
        return None
    return str(_checks.one_of("source", source or "repository", ("repository", "paper")))


def table(recipe: Any) -> list[tuple[str, str, str]]:
    """Return a recipe's fields as rows of (name, value, note).

    The note says whose a value is and, where it is not the paper's, what the paper's is; where the paper has no such
    recipe, who published one stands in its place. A published recipe does not know its size: the size counts whose
    recipe is most like it. A recipe of our own is compared with "base".
    """
    rows = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    for name in ("source", "changed", "origins"):
        del rows[name]
    notes = dict(_notes(recipe, rows)) if hasattr(recipe, "for_size") else {}
    return [(name, str(value), notes.get(name, "")) for name, value in rows.items()]


def _notes(recipe: Any, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    origin, size = recipe, recipe._published_sizes[0]
    if recipe.source in PUBLISHED:
        origins = {size: recipe._published(size, recipe.source) for size in recipe._published_sizes}
        size = min(origins, key=lambda size: sum(getattr(origins[size], name) != values[name] for name in values))
        origin = origins[size]
    paper, called = recipe._compared_with(size)
    for name, value in values.items():
        theirs = getattr(paper, name)
        changed = name in recipe.changed or getattr(origin, name) != value
        source = _WHOSE.get(recipe.source, SOURCES[recipe.source].partition(",")[0])
        whose = recipe.origins.get(name, "changed" if changed else source)
        if name == "seed":
            yield name, whose if changed or name in recipe.origins else "default"
        elif value == theirs:
            yield name, whose if changed or name in recipe.origins else called
        else:
            after = f" ({OPTIONS[name]})" if name in OPTIONS else ""
            yield name, f"{whose}{after}; {called}: {theirs}"
