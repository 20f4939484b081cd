"""What all recipes have: the numbers that every run has, and the way to a file and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from keras_mae import _checks
from keras_mae.recipes import files
from keras_mae.recipes.sources import FOLLOWS, SIZES, SOURCES, table

__all__ = ["ImageRecipe", "Recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all recipes have: a length, a batch, a learning rate and a source.

    Attributes:
        epochs: Passes over the data.
        warmup_epochs: Epochs of linear warm-up from zero.
        batch_size: Number of images behind one update, over all accumulation steps and replicas.
        gradient_accumulation_steps: Batches whose gradients are averaged for one update. Batches left over at the end
            of an epoch go on into the next, those at the end of the run change nothing.
        base_learning_rate: Learning rate for a batch of 256; see `learning_rate`.
        weight_decay: Weight decay of the optimizer.
        flip: Whether images are mirrored at random.
        seed: Random seed for weights, crops and data order.
        source: Origin of the numbers: "repository" or "paper" for published ones, "keras_mae" for ours, "untuned" for
            ours where nothing was compared. `print` shows it, and which values are not the paper's.
        changed: Names of the fields that were given other values than the source's, by `for_size` or on the command
            line. They make no difference between recipes.
        origins: Where values come from that are not the source's, by field, in words: "command line", "recipe file",
            "the data". Nor do they.
    """

    epochs: int = 100
    warmup_epochs: int = 5
    batch_size: int = 1024
    gradient_accumulation_steps: int = 1
    base_learning_rate: float = 1e-3
    weight_decay: float = 0.05
    flip: bool = True
    seed: int = 0
    source: str = "paper"
    changed: tuple[str, ...] = field(default=(), compare=False)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    kind: ClassVar[str]
    """What the recipe is for; it tells recipes apart in files."""
    _published_sizes: ClassVar[tuple[str, ...]] = SIZES
    """Sizes that `for_size` knows published recipes for."""
    _added: ClassVar[Mapping[str, Any]] = {"changed": (), "origins": {}}
    """Fields that files of earlier versions lack, and the values by which those versions trained; a kind of recipe
    lists its own."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "gradient_accumulation_steps"):
            _checks.positive_int(name, getattr(self, name))
        _checks.positive("base_learning_rate", self.base_learning_rate)
        _checks.non_negative("weight_decay", self.weight_decay)
        _checks.seed_int("seed", self.seed)
        _checks.one_of("source", self.source, SOURCES)
        if _checks.count("warmup_epochs", self.warmup_epochs) >= self.epochs:
            raise ValueError(
                "`warmup_epochs` must be an integer, at least 0 and less than `epochs`. "
                f"Received: warmup_epochs={self.warmup_epochs}, epochs={self.epochs}"
            )
        _checks.boolean("flip", self.flip)
        names = [field.name for field in fields(self)]
        if not isinstance(self.changed, tuple | list) or any(name not in names for name in self.changed):
            raise _checks.argument_error("changed", "names of fields", self.changed)
        object.__setattr__(self, "changed", tuple(self.changed))
        texts = isinstance(self.origins, Mapping) and all(isinstance(text, str) for text in self.origins.values())
        if not texts or any(name not in names for name in self.origins):
            raise _checks.argument_error("origins", "texts by the names of fields", self.origins)
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
        """The number of images in one batch of the dataset."""
        return self.batch_size // self.gradient_accumulation_steps

    def _published(self, size: str, source: str) -> Recipe:
        """Return the published recipe of a size, of the same options."""
        made: Recipe = self.for_size(size, source)  # type: ignore[attr-defined]
        return made

    def _compared_with(self, size: str) -> tuple[Recipe, str]:
        """Return the published recipe that the values of this one are compared with, and what it is called."""
        return self._published(size, "paper"), "the paper"

    @classmethod
    def _as_read(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of fields that a file has, as those of this version."""
        return values

    def _with_implied(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Return changes with those of other fields that they imply."""
        return changes

    def _schedule(self, steps_per_epoch: int) -> dict[str, Any]:
        """Return what every recipe's optimizer is told of its run."""
        accumulated = self.gradient_accumulation_steps
        batches = _checks.positive_int("steps_per_epoch", steps_per_epoch) * self.epochs
        updates = batches // accumulated
        if not updates:
            raise ValueError(
                "A run of fewer batches than `gradient_accumulation_steps` would make no update. "
                f"Received: gradient_accumulation_steps={accumulated} in a run of {batches} batches"
            )
        return {
            "base_learning_rate": self.base_learning_rate,
            "batch_size": self.batch_size,
            "total_steps": updates,
            "warmup_steps": updates * self.warmup_epochs // self.epochs,
            "weight_decay": self.weight_decay,
            "gradient_accumulation_steps": accumulated if accumulated > 1 else None,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values, with its `kind`; `Recipe.from_dict` reads it back."""
        plain = {name: getattr(value, "item", lambda value=value: value)() for name, value in asdict(self).items()}
        lists = {name: list(value) for name, value in plain.items() if isinstance(value, tuple)}
        return {"kind": self.kind, **plain, **lists}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the recipe that `to_dict` wrote.

        Args:
            values: Values of the fields, and the `kind` of recipe. Fields left out keep their defaults; where an
                earlier version wrote all the fields it had, the new ones have the values by which it trained.

        Raises:
            ValueError: If the kind is unknown or not that of this class, or a field is unknown or out of range.

        Example:
            >>> keras_mae.recipes.Recipe.from_dict({"kind": "pretrain", "epochs": 100})
        """
        if not isinstance(values, Mapping):
            raise _checks.argument_error("values", "what `to_dict` returned", values)
        values = completed(values)
        kinds = {one.kind: one for one in _kinds()}
        chosen: type[Recipe] = kinds[_checks.one_of("kind", values.pop("kind", None), kinds)]
        if issubclass(cls, chosen):
            chosen = cls
        if not issubclass(chosen, cls):
            raise _checks.argument_error("kind", repr(getattr(cls, "kind", None)), chosen.kind)
        refuse_unknown(chosen, values)
        return chosen(**chosen._as_read(values))

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Return the recipe in a `recipe.toml`, which every run leaves; values it leaves out are as in `from_dict`.

        Args:
            path: Path of the file.

        Raises:
            ValueError: If there is no such file, it is not TOML, or it holds no recipe of this class.

        Example:
            >>> keras_mae.recipes.PretrainRecipe.from_file("runs/digits-1/recipe.toml")
        """
        content = files.read(path)
        above: dict[str, Any] = {name: content[name] for name in ("kind", "source") if name in content}
        return cls.from_dict({**above, **content.get(files.TRAINING, {})})

    def __str__(self) -> str:
        """Return the recipe as a table, which says of every value where it comes from."""
        rows = [*table(self), ("learning_rate (base × batch / 256)", f"{self.learning_rate:.4g}", "")]
        names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
        lines = [f"{name:{names}}  {value:{values}}  {note}".rstrip() for name, value, note in rows]
        return "\n".join([f"{type(self).__name__}, from {SOURCES[self.source]}", *lines])


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe):
    """What recipes for images as wholes have in addition: how much of an image is looked at.

    Attributes:
        crop_area: Smallest and largest share of an image that a random crop keeps; `None` for images that come in one
            size and are taken whole.
        evaluation_fraction: Share of an image's short side that evaluation keeps, up to 224 pixels; above, it keeps
            all of it.
        fast_crops: Whether other libraries than Pillow decode and resize random crops, in 60 % of the time: see
            `fast` of `keras_mae.data.RandomResizedCrop`.
    """

    crop_area: tuple[float, float] | None = (0.08, 1.0)
    evaluation_fraction: float = 224 / 256
    fast_crops: bool = False
    _mirrors_crops: ClassVar[bool] = False
    """Whether `flip` belongs to the crops, and not to the augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_area is not None:  # as a file gives it back
            object.__setattr__(self, "crop_area", _checks.rising("crop_area", self.crop_area, 1.0))
        _checks.share("evaluation_fraction", self.evaluation_fraction)
        _checks.boolean("fast_crops", self.fast_crops)

    @property
    def crop(self) -> dict[str, Any] | None:
        """The arguments of `keras_mae.data.RandomResizedCrop`, or `None` for images taken whole."""
        if self.crop_area is None:
            return None
        return {"area": self.crop_area, "flip": self.flip and self._mirrors_crops, "fast": self.fast_crops}

    def evaluation_crop(self, image_size: int) -> dict[str, float]:
        """Return the arguments of `keras_mae.data.CenterCrop` for images of this size in pixels."""
        size = _checks.positive_int("image_size", image_size)
        return {"fraction": self.evaluation_fraction if size <= 224 else 1.0}


def _kinds(base: type[Recipe] = Recipe) -> Iterator[type[Recipe]]:
    """Yield the kinds of recipes that there are; a user's subclass of one is of the same kind."""
    for one in base.__subclasses__():
        yield from [one] if "kind" in vars(one) else _kinds(one)


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `to_dict` returned, in an earlier version too, with the fields that were added since."""
    kind = next((one for one in _kinds() if one.kind == values.get("kind")), Recipe)
    added = {**Recipe._added, **kind._added}
    lacking = {field.name for field in fields(kind)} - values.keys()
    return {**added, **values} if lacking <= added.keys() else dict(values)


def check_recipe(recipe: Any, kind: type[Recipe]) -> None:
    """Raise ValueError unless `recipe` is a `kind`."""
    _checks.instance("recipe", recipe, kind, f"a {kind.__name__}")


_Kind = TypeVar("_Kind", bound=Recipe)


def changed(recipe: _Kind, changes: dict[str, Any], origins: Mapping[str, str] | None = None) -> _Kind:
    """Return the recipe with other values, which it then names in `changed`.

    A warm-up that is not among them, and would take more than half of other `epochs`, keeps its share of the run.

    Args:
        recipe: Recipe to change.
        changes: Values by the names of fields.
        origins: Where they come from, in words, by the same names; those left out have no origin.
    """
    refuse_unknown(type(recipe), changes)
    asked = changes.keys()
    if "epochs" in changes and "warmup_epochs" not in changes:
        epochs = _checks.positive_int("epochs", changes["epochs"])
        if 2 * recipe.warmup_epochs > epochs:
            changes = {**changes, "warmup_epochs": warmup_share(recipe, epochs)}
    made = replace(recipe, **recipe._with_implied(changes))
    names = {name for name in changes if getattr(made, name) != getattr(recipe, name)} | {*made.changed}
    found = {name: text for name, text in made.origins.items() if name not in changes} | dict(origins or {})
    for name, others in FOLLOWS.items():
        if name not in asked and getattr(made, name, None) != getattr(recipe, name, None):
            found[name] = f"follows {next((other for other in others if other in asked), others[0])}"
    ordered = [field.name for field in fields(made)]
    return replace(
        made,
        changed=tuple(name for name in ordered if name in names),
        origins={name: found[name] for name in ordered if name in found},
    )


def warmup_share(recipe: Recipe, epochs: int) -> int:
    """Return the epochs of warm-up in a run of so many, as large a share of them as in the recipe's."""
    return recipe.warmup_epochs * epochs // recipe.epochs


def refuse_unknown(kind: type[Recipe], values: Mapping[str, Any]) -> None:
    names = [field.name for field in fields(kind)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(
            f"A {kind.__name__} has {', '.join(names)}. Received: {', '.join(unknown)}"
            + _checks.nearest(unknown[0], names)
        )
