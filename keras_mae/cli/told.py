"""What a command was told, by its options, by --set and by a recipe file, and how a run writes it down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from keras_mae.recipes import Recipe
    from keras_mae.recipes.files import Settings

__all__ = ["TABLES", "UNWRITTEN", "Told", "take_file", "take_values"]

TABLES: dict[str, tuple[str, ...]] = {
    "": ("size",),
    "data": (
        "data",
        "masks",
        "split",
        "test",
        "test_split",
        "num_classes",
        "num_labels",
        "ignore_label",
        "reduce_zero_label",
        "crops_per_image",
        "validation",
        "allow_damaged",
        "pixel_range",
        "white_level",
        "max_pixels",
    ),
    "model": (
        "model",
        "weights",
        "new_decoder",
        "image_size",
        "patch_size",
        "channels",
        "class_tokens",
        "teacher",
        "precision",
        "trainable_blocks",
    ),
    "run": (
        "cache_features",
        "watch",
        "watch_images",
        "bands",
        "probe_every",
        "probe_data",
        "rankme_every",
        "remat",
        "loader",
        "workers",
        "distribution",
        "checkpoint_minutes",
        "checkpoint_steps",
    ),
}
"""Options that a recipe file holds, by table; fields of the recipe are in the table "training"."""
UNWRITTEN = ("list_presets", "recipe_file", "set_", "out", "resume", "allow_changed")
"""Options that say where and whether to run, not what."""
_COMMANDS = {"pretrain": "pretrain", "finetune": "fine_tune", "probe": "linear_probe", "segment": "segment"}


@dataclass
class Beside:
    """What a command was told by other means than its options.

    Attributes:
        path: Path of the recipe file, if there is one.
        filed: Values in the recipe file, by name.
        typed: Values of --set, by name.
    """

    path: Path | None = None
    filed: dict[str, Any] = field(default_factory=dict)
    typed: dict[str, Any] = field(default_factory=dict)


@dataclass
class Told:
    """What a command was told, and by which means.

    Args:
        context: Context of the command.
    """

    context: typer.Context

    @property
    def beside(self) -> Beside:
        """What the command was told by other means than its options."""
        return _said(self.context)

    @property
    def fields(self) -> dict[str, Any]:
        """Values of the recipe's fields in the recipe file, by name."""
        return self._fields(self.beside.filed)

    def given(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that are fields of the recipe, together with those of --set.

        Args:
            options: Options by the names of fields, `None` for those that were not given.

        Raises:
            ValueError: If one is given by both.
        """
        typed = self._fields(self.beside.typed)
        twice = [name for name in self.beside.typed if self._is_typed(name) or options.get(name) is not None]
        if twice and (self._is_typed(twice[0]) or not self._has_default(twice[0])):
            raise ValueError(f"`{twice[0]}` is given twice: by --set and by an option of its own")
        unsaid = [name for name in options if self._has_default(name) and not self._is_typed(name)]
        return {**options, **dict.fromkeys(unsaid), **typed}

    def check_size(self, size: Any) -> None:
        """Raise a `ValueError` if --size would choose numbers that the recipe file itself holds."""
        filed, typed = self.beside.filed.get("size"), self._is_typed("size") or "size" in self.beside.typed
        if self.fields and typed and filed not in (None, size):
            raise ValueError(
                "`size` chooses the numbers of a run, and the recipe file says them itself: leave one out. "
                f"Received: --size {size} --recipe {self.beside.path}"
            )

    def settings(self, default: str, of_model: Mapping[str, Any] | None = None, **resolved: Any) -> Settings:
        """Return what goes into the run's recipe file beside the recipe: (value, origin) by name, by table.

        Args:
            default: Origin of the values in `resolved` that neither the command line nor the file gives.
            of_model: Final values of options that the model decides unless they are given, by name.
            resolved: Final values of other options, by name.
        """
        own, known = of_model or {}, self.context.params
        beside = known.keys() - _fields_of(self.context)
        values = {**known, **own, **resolved}
        origins = dict.fromkeys(own, "the model's") | dict.fromkeys(resolved, default)
        return {
            table: {name: (values[name], self._origin(name, origins)) for name in names if name in beside}
            for table, names in TABLES.items()
        }

    def _origin(self, name: str, otherwise: Mapping[str, str]) -> str:
        if self._is_typed(name) or name in self.beside.typed:
            return "command line"
        return "recipe file" if self.beside.filed.get(name) is not None else otherwise.get(name, "default")

    def _has_default(self, name: str) -> bool:
        """Return whether an option has a value, such as the seed 0, even if none is given."""
        return any(param.name == name and param.default is not None for param in self.context.command.params)

    def _is_typed(self, name: str) -> bool:
        source = self.context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    def _fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name in _fields_of(self.context)}


# === Callbacks of --recipe and --set ===
def take_file(context: typer.Context, path: Path | None) -> Path | None:
    """Let a recipe file supply what no option gives; this must happen before the other options are processed."""
    from keras_mae.recipes import files

    if path is not None:
        content, kind = files.read(path), _COMMANDS[str(context.command.name)]
        if content.pop("kind", kind) != kind:
            raise ValueError(
                f"The recipe file {str(path)!r} is for another command. "
                f"Received: kind={files.read(path)['kind']!r}, for keras-mae {context.command.name} it is {kind!r}"
            )
        content.pop("source", None)
        found = _said(context)
        found.path, found.filed = path, dict(_flat(context, content, f"The recipe file {str(path)!r}"))
        _use(context, found)
    return path


def take_values(context: typer.Context, texts: list[str] | None) -> list[str]:
    """Let KEY=VALUE supply what no option gives; this must happen before the other options are processed."""
    from keras_mae.recipes import files

    found = _said(context)
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"`set` must be a name and a value, such as --set epochs=10. Received: {text!r}")
        table, _, key = name.strip().rpartition(".")
        content = {key: files.parsed(value.strip())}
        found.typed |= dict(_flat(context, {table: content} if table else content, "--set"))
    if texts:
        _use(context, found)
    return texts or []


def _said(context: typer.Context) -> Beside:
    return context.obj if isinstance(context.obj, Beside) else Beside()


def _use(context: typer.Context, found: Beside) -> None:
    """Make values from the file and --set the defaults of the options."""
    known = _fields_of(context)
    options = {param.name: param for param in context.command.params if param.name not in UNWRITTEN}
    context.obj = found
    context.default_map = {
        name: value
        for name, value in {**found.filed, **found.typed}.items()
        # Of the recipe's fields, only those that the command needs before there is a recipe, such as the seed.
        if name in options and value is not None and (name not in known or options[name].default is not None)
    }


def _fields_of(context: typer.Context) -> set[str]:
    """Return the names of the fields of the command's recipe that a file may hold."""
    return {one.name for one in fields(_kind(context))} - {"source", "changed", "origins"}


def _kind(context: typer.Context) -> type[Recipe]:
    from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe, SegmentationRecipe

    kinds: tuple[type[Recipe], ...] = (PretrainRecipe, FineTuneRecipe, LinearProbeRecipe, SegmentationRecipe)
    return next(kind for kind in kinds if kind.kind == _COMMANDS[str(context.command.name)])


def _flat(context: typer.Context, content: Mapping[str, Any], said_by: str) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a recipe file.

    Raises:
        ValueError: If it has a name that this command does not know, or in another table.
    """
    from keras_mae import _checks
    from keras_mae.recipes.files import TRAINING

    params = {param.name for param in context.command.params}
    fields_here = _fields_of(context)
    tables = {name: table for table, names in TABLES.items() for name in names if name in params - fields_here}
    tables |= dict.fromkeys(fields_here, TRAINING)
    full = {f"{table}.{name}".lstrip("."): name for name, table in tables.items()}
    for name, value in content.items():
        is_table = isinstance(value, Mapping) and name in {*TABLES, TRAINING}
        inner = value.items() if is_table else [(None, value)]
        for key, one in inner:
            dotted = name if key is None else f"{name}.{key}"
            if dotted in full or (key is None and name in tables):
                yield full.get(dotted, name), one
                continue
            last = dotted.rpartition(".")[2]
            right = next((long for long, short in full.items() if short == last), None)
            near = f". Did you mean {right}?" if right else _checks.nearest(dotted, [*full, *tables])
            raise ValueError(
                f"{said_by} has a key that keras-mae {context.command.name} does not know: {dotted!r}{near}"
            )
