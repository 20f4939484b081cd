"""The values of every recipe as Markdown tables, asked of the recipes themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, SegmentationRecipe, own
from keras_mae.recipes.sources import OPTIONS, SOURCES

_KINDS: list[tuple[str, Any, Mapping[int, Any], tuple[str, ...]]] = [
    ("Pre-training", PretrainRecipe, own.PRETRAIN_BY_IMAGES, ("photos",)),
    ("Fine-tuning", FineTuneRecipe, own.FINE_TUNE_BY_IMAGES, ()),
    ("Linear probe", LinearProbeRecipe, own.PROBE_BY_IMAGES, ()),
]


def as_markdown() -> str:
    """Return a table for each kind of recipe: the values in which its recipes differ, and the options."""
    parts = [_table(title, *columns_of(kind, cells, others)) for title, kind, cells, others in _KINDS]
    sizes = [(size, head) for head in ("upernet", "linear") for size in ("base", "large", "small_images")]
    segmenting = {f"`{size}`, {head}": SegmentationRecipe.for_size(size, head=head) for size, head in sizes}
    parts.append(_table("Segmentation", list(segmenting), list(segmenting.values())))
    sources = "; ".join(f"`{name}`: {text}" for name, text in SOURCES.items())
    return "\n".join([*parts, f"Sources: {sources}.\n"])


def columns_of(kind: Any, cells: Mapping[int, Any], others: tuple[str, ...]) -> tuple[list[str], list[Any]]:
    """Return the names and recipes of a table's columns."""
    named = {f"`base`, {source}": kind.for_size("base", source) for source in ("paper", "repository")}
    named |= {f"`small_images`, {count:,}": kind.for_size("small_images", images=count) for count in sorted(cells)}
    named |= {f"`{size}`": kind.for_size(size) for size in others}
    return list(named), list(named.values())


def _table(title: str, names: list[str], recipes: list[Any]) -> str:
    lines = [f"### {title}\n", f"| | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for field in (field.name for field in fields(recipes[0]) if field.name not in ("changed", "origins", "seed")):
        values = [str(getattr(recipe, field)) for recipe in recipes]
        if field in OPTIONS or len(set(values)) > 1:
            after = f" ({OPTIONS[field]})" if field in OPTIONS else ""
            lines.append(f"| `{field}`{after} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"
