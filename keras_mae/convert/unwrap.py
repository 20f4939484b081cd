"""Which of a file's tensors are the model's: scripts put them into dictionaries, and modules into other modules.

A ViT is where its patch kernel is. What leads there, the keys of dictionaries and the prefix of the names, tells one
ViT of a file from another: a student from its teacher, weights from their moving average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["IN_REFERENCE", "IN_TRANSFORMERS", "PREFIXES", "Selected", "dictionaries", "select"]

IN_REFERENCE = "patch_embed.proj.weight"
"""Name of the patch kernel in the authors' layout and timm's."""
IN_TRANSFORMERS = "embeddings.patch_embeddings.projection.weight"
"""What the name of the patch kernel in `transformers`' layout ends in; `PREFIXES` may belong to the layout too."""
PREFIXES = ("vit.", "beit.")
"""What stands before all names but the head's in `transformers`' layout of a whole model."""
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What `torch.compile`, sharding and checkpointing put into names, in front or in between."""
_AVERAGES, _DEPTH = {"ema", "momentum", "swa", "averaged"}, 4


@dataclass
class Selected:
    """The model's tensors under the names of their layout, and what was decided.

    Attributes:
        tensors: Tensors by name.
        left_out: What else is in their dictionary, and why it is left out.
        notes: Sentences for the report.
    """

    tensors: dict[str, Any]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """The keys that lead to a dictionary, joined by dots, and what stands before the names of a ViT in it."""

    dictionary: str
    prefix: str

    def __str__(self) -> str:
        return ".".join(filter(None, (self.dictionary, self.prefix.rstrip("."))))

    @property
    def rank(self) -> int:
        """Weights go before a teacher, a teacher before averages, and all before a student."""
        words = set(str(self).lower().replace(".", "_").split("_"))
        return 3 if "student" in words else 2 if words & _AVERAGES else 1 if "teacher" in words else 0

    def answers_to(self, key: str) -> bool:
        """Return whether `key` is this place, or some of the words in a row that lead to it."""
        return f".{key}." in f".{self}."


def dictionaries(content: Any, is_tensor: Callable[[Any], bool], place: str = "") -> dict[str, dict[str, Any]]:
    """Return what is in each dictionary that holds tensors by name, by the keys that lead there, joined by dots.

    Args:
        content: What a file holds.
        is_tensor: Function that tells tensors from other values.
        place: The keys that lead to `content`.
    """
    if not isinstance(content, Mapping) or place.count(".") >= _DEPTH:
        return {}
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    found = {}
    if any(is_tensor(value) for value in named.values()):
        found[place] = {key: value for key, value in named.items() if not isinstance(value, Mapping)}
    for key, value in named.items():
        found |= dictionaries(value, is_tensor, f"{place}.{key}" if place else key)
    return found


def select(
    found: dict[str, dict[str, Any]], is_tensor: Callable[[Any], bool], key: str | None, name: str
) -> Selected:
    """Return the tensors of the ViT that a file holds, or of the one that `key` or the rule of ranks chooses.

    Args:
        found: Tensors and other values by name, by the dictionary that they are in.
        is_tensor: Function that tells tensors from other values.
        key: The caller's choice: a dictionary, such as "model_ema", or a word before the names, such as "teacher".
        name: The file, for errors.

    Raises:
        ValueError: If neither decides; the message names the choices.
    """
    bare = {dictionary: _without_wrappers(values, name) for dictionary, values in found.items()}
    places = _places(bare)
    place = _chosen(places, key, name) if places or key is not None else _habitual(bare)
    values = bare[place.dictionary]
    others = {other.prefix for other in places if other.dictionary == place.dictionary} - {place.prefix}
    inner = tuple(prefix for prefix in others if prefix.startswith(place.prefix))
    selected = Selected({})
    for full, value in values.items():
        if not is_tensor(value):
            selected.left_out[full] = "no tensor"
        elif not full.startswith(place.prefix) or full.startswith(inner):
            selected.left_out[full] = f"not under {place.prefix!r}" if place.prefix else "of another model"
        else:
            selected.tensors[full[len(place.prefix) :]] = value
    if place.dictionary:
        selected.notes.append(f"Read from the dictionary {place.dictionary!r}")
    if place.prefix:
        selected.notes.append(f"Names without their prefix {place.prefix!r}")
    if wrapped := [word for word in _WRAPPERS if any(word in one.split(".") for one in found[place.dictionary])]:
        selected.notes.append(f"Names without {', '.join(wrapped)}")
    if rest := [str(other) or "without a prefix" for other in places if other != place]:
        selected.notes.append(f"Not read: {', '.join(rest)} (`checkpoint_key` chooses)")
    return selected


def _without_wrappers(values: dict[str, Any], name: str) -> dict[str, Any]:
    bare = {".".join(word for word in full.split(".") if word not in _WRAPPERS): full for full in values}
    if len(bare) < len(values):
        raise ValueError(f"{name!r} has names that differ in {', '.join(_WRAPPERS)} only")
    return {short: values[full] for short, full in bare.items()}


def _places(found: dict[str, dict[str, Any]]) -> list[_Place]:
    places = []
    for dictionary, values in found.items():
        for full in values:
            for kernel in (IN_REFERENCE, IN_TRANSFORMERS):
                if full == kernel or full.endswith(f".{kernel}"):
                    prefix = full.removesuffix(kernel)
                    for own in PREFIXES if kernel == IN_TRANSFORMERS else ():
                        if f".{prefix}".endswith(f".{own}"):
                            prefix = prefix.removesuffix(own)
                    places.append(_Place(dictionary, prefix))
    return list(dict.fromkeys(places))


def _chosen(places: list[_Place], key: str | None, name: str) -> _Place:
    listed = ", ".join(repr(str(place)) for place in places) or "none"
    fitting = places if key is None else [place for place in places if place.answers_to(key)]
    if not fitting:
        raise ValueError(f"`checkpoint_key` must be one of the ViTs in {name!r}: {listed}. Received: {key!r}")
    fitting = [place for place in fitting if str(place) == key] or fitting
    first = min(place.rank for place in fitting)
    best = [place for place in fitting if place.rank == first]
    best = [place for place in best if not str(place)] or best
    if len(best) > 1:
        raise ValueError(
            f"{name!r} holds several ViTs, and none goes before the others: {listed}. Give one as `checkpoint_key`. "
            f"Received: {key!r}"
        )
    return best[0]


def _habitual(found: dict[str, dict[str, Any]]) -> _Place:
    """Return where a layout that is none of those above would be."""
    dictionary = next((key for key in ("model", "state_dict", "") if key in found), next(iter(found)))
    names = found[dictionary]
    return _Place(dictionary, "module." if names and all(name.startswith("module.") for name in names) else "")
