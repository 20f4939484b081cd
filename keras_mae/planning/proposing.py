"""From a folder to a plan: look at it, measure models on this machine, and choose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_mae import _checks, convert
from keras_mae.data import BUILTIN
from keras_mae.data.opening import MODES
from keras_mae.data.surveying import Survey, survey
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.planning.candidates import Candidate, candidates, continuing, recipe_size
from keras_mae.planning.measuring import Measured, measure, timing_seconds
from keras_mae.planning.numbers import (
    ASKED,
    Batch,
    chosen_batch,
    chosen_epochs,
    fits,
    least_epochs,
    planned,
    rate_reason,
    recipe_of,
)
from keras_mae.planning.plans import Plan
from keras_mae.recipes import PretrainRecipe
from keras_mae.training import UnlabeledImages, open_unlabeled
from keras_mae.training.durations import duration

__all__ = ["make_plan"]

_PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
_MEASURING = 0.25
"""Share of the run's time: once measuring has taken it, only the cheapest of the remaining models is measured."""
_HOPELESS = 2.0
"""Times the available time: a model that would take longer is timed no further."""


def make_plan(
    data: str | Path,
    *,
    hours: float = 8.0,
    preset: str | None = None,
    weights: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    precision: str = "float32",
    allow_damaged: float = 0.0,
    pixel_range: PixelRange | None = None,
    white_level: int | None = None,
    max_pixels: int | None = None,
    loader: str | None = None,
    workers: int | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Look at a folder, train models on it for some steps each, and propose a run of pre-training.

    Models are tried from the largest that suits the number of images downwards, and the first is proposed that does
    enough epochs in time: 40 or more, and as many as make 5,000 updates, but no more than the paper's 800. It then
    gets as many as there is time for, up to those 800. Small images, whose short side is 64 pixels or less, have a
    tuned recipe, whose number of epochs is enough and is kept. How well a model will do is not measured: which sizes
    suit which images is a rule of thumb.

    The expected time is that of the run on this machine, with this backend, while nothing else is at work. Inside a
    `keras_mae.distribution.scope` it is that of a run in such a scope.

    Args:
        data: A folder of images, flat or nested, or from `keras-mae prepare`; or an array in a file, such as
            "cells.h5::images".
        hours: Hours that the run may take.
        preset: Name of the preset to plan with; by default several are tried.
        weights: File, folder or name of the model to go on from in place of a new one, as for `convert.continued`;
            its images' size and channels are then kept, unless others are given.
        image_size: Side of the images to train on in pixels, or (height, width); by default it follows from the
            images.
        patch_size: Side of a patch in pixels, or (height, width); by default it follows from the size of the images.
        channels: Channels of the images; by default 1 if all are gray, 3 for colors, or the number of bands of
            arrays.
        epochs: Epochs of the run; by default they follow from the hours.
        batch_size: Images behind each update; by default it follows from the device and the number of images.
        precision: Name of the dtype policy of the model: "float32", "mixed_bfloat16" or "mixed_float16".
        allow_damaged: Largest share of damaged images, in [0, 1], that is left out without an error.
        pixel_range: (low, high), the smallest and the largest pixel, as for `data.read_image`; by default what
            `data.survey` finds.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `data.read_image`; by default what
            `data.survey` finds.
        max_pixels: Pixels of the largest image to read, as for `data.read_image`.
        loader: Loader, as for `data.make_dataset`.
        workers: Parallel calls or processes that load, as for `data.make_dataset`.
        say: Function called with a line on each thing that is done, such as `print`.
        progress: Function called with (images read, their total) while the range of all images is measured.

    Returns:
        The plan: print it, save it as a recipe file, or take its `recipe`, `preset`, `image_shape` and `patch_size`.

    Raises:
        ValueError: If the images cannot be read, an argument is wrong, or no model fits into memory.

    Example:
        >>> plan = keras_mae.planning.make_plan("photos/", hours=2)
        >>> print(plan)
        >>> plan.save("plan.toml")  # for keras-mae pretrain --recipe plan.toml
    """
    if str(data) in BUILTIN:
        raise ValueError(f"`data` must be a folder: the recipe for {data} is known. Received: data={str(data)!r}")
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        _checks.optional(_checks.positive_int, name, value)
    _checks.one_of("precision", precision, _PRECISIONS)
    if say is not None:
        _checks.function("say", say, "a function of a line, or None")
    seconds, say = 3600 * _checks.positive("hours", hours), say or (lambda text: None)
    shapes = {
        "image_size": _checks.optional(_checks.pair, "image_size", image_size),
        "patch_size": _checks.optional(_checks.pair, "patch_size", patch_size),
    }
    loading: dict[str, Any] = {"precision": precision, "loader": loader, "workers": workers}
    timing = {**loading, "seconds": timing_seconds(seconds)}
    reading: dict[str, Any] = {"allow_damaged": allow_damaged, "max_pixels": max_pixels}
    levels: dict[str, Any] = {"pixel_range": pixel_range, "white_level": white_level}
    loaded, named = (None, "") if weights is None else _loaded(weights, preset)
    found = survey(data, channels=channels, progress=progress, **levels, **reading)
    say(f"{data}: {found}")
    reading |= {"pixel_range": found.pixel_range, "white_level": found.white_level}
    if weights is None:
        tried = candidates(found, preset=preset, **shapes)
    else:
        tried = [continuing(loaded, named, **shapes)]
        found = replace(found, channels=channels or _channels(found, tried[0]))
    trials, too_large = list[_Trial](), list[Candidate]()
    until = time.perf_counter() + _MEASURING * seconds
    for candidate, images, opening in _opened(data, tried, found.channels, reading, until):
        say(f"measuring {candidate}")
        time_left = math.inf if candidate is tried[-1] else seconds
        how = {**timing, "opening_seconds": opening}
        trial = _tried(candidate, images, recipe_size(found), batch_size, epochs, time_left, how)
        if trial is None:
            too_large.append(candidate)
            continue
        trials.append(trial)
        if trial.measured.notice and not any(one.measured.notice for one in trials[:-1]):
            say(f"this is slow: {trial.measured.notice}")
        if fits(trial.measured, trial.least, seconds):
            break
    if not trials:
        raise ValueError(f"No model fits into memory. Received: {', '.join(map(str, tried))}")
    chosen, size = trials[-1], recipe_size(found)
    left_out = tried.index(chosen.measured.candidate) + 1 > len(trials) + len(too_large)
    length, why = (epochs, ASKED) if epochs else chosen_epochs(chosen.measured, chosen.least, size, seconds)
    why_model = _model_reason(trials, seconds, left_out, bool(too_large))
    recipe = planned(chosen.recipe, chosen.batch.size, length)
    asked = {"model": preset, "weights": weights, "channels": channels, **shapes, **reading, **loading, **levels}
    return Plan(
        data=str(data),
        survey=found,
        measured=tuple(trial.measured for trial in trials),
        too_large=tuple(too_large),
        chosen=chosen.measured,
        recipe=recipe,
        hours=float(hours),
        settings={
            "": {"kind": (recipe.kind, ""), "size": (size, _size_reason(size))},
            "training": {
                "epochs": (recipe.epochs, why),
                "warmup_epochs": (recipe.warmup_epochs, "as large a share of the epochs as the recipe's"),
                "batch_size": (recipe.batch_size, chosen.batch.reason),
                "base_learning_rate": (recipe.base_learning_rate, rate_reason(recipe, size)),
            },
            **_told(str(data), found, chosen.measured.candidate, asked, why_model),
        },
    )


def _loaded(weights: str | Path, preset: str | None) -> tuple[Any, str]:
    """Return the model to go on from, and its name."""
    if preset is not None:
        raise ValueError(
            "`preset` names an architecture, and `weights` bring their own. "
            f"Received: preset={preset}, weights={weights}"
        )
    _checks.path("weights", weights, "a path, or the name of a published checkpoint")
    return convert.load(convert.located(weights, published=True)).model, Path(weights).name


def _channels(found: Survey, candidate: Candidate) -> int:
    """Return the channels to go on with: the model's own, if pictures can be read with so many."""
    own = _own_channels(candidate)
    return own if own in MODES and found.channels in MODES else found.channels


def _own_channels(candidate: Candidate) -> int:
    return int(getattr(candidate.weights, "encoder", candidate.weights).image_shape[2])


@dataclass(frozen=True)
class _Trial:
    """What was measured of a model, with which recipe and batch, and the fewest epochs that it should have."""

    measured: Measured
    recipe: PretrainRecipe
    batch: Batch
    least: int


def _opened(
    data: str | Path, tried: Sequence[Candidate], channels: int, reading: dict[str, Any], until: float
) -> Iterator[tuple[Candidate, UnlabeledImages, float]]:
    """Yield models, only the last one after `until`, with images in their size and the seconds that opening took."""
    images, seconds = None, 0.0
    for candidate in tried:
        if candidate is not tried[-1] and time.perf_counter() > until:
            continue
        shape = (*candidate.image_size, channels)
        if images is None or images.train.image_shape != shape:
            begun = time.perf_counter()
            images = open_unlabeled(data, shape, **reading)
            seconds = time.perf_counter() - begun
        yield candidate, images, seconds


def _tried(
    candidate: Candidate,
    images: UnlabeledImages,
    size: str,
    batch_size: int | None,
    epochs: int | None,
    seconds: float,
    how: dict[str, Any],
) -> _Trial | None:
    """Measure a model, in smaller batches if need be; return `None` if it does not fit into memory."""
    count = len(images.train)
    recipe = recipe_of(size, count)
    batch: Batch | None = chosen_batch(count, size, batch_size)
    while batch is not None:
        steps = max(count // batch.size, 1)
        least = epochs or least_epochs(recipe, size, steps)
        too_slow = _HOPELESS * seconds / (steps * least)
        measured = measure(candidate, images, planned(recipe, batch.size, recipe.epochs), too_slow=too_slow, **how)
        if measured is not None:
            return _Trial(measured, recipe, batch, least)
        batch = batch.halved
    return None


# === Reasons ===
def _told(
    data: str, found: Survey, candidate: Candidate, asked: dict[str, Any], why_model: str
) -> dict[str, dict[str, tuple[Any, str]]]:
    """Return what the recipe file says of data, model and loading: (value, reason) by name, by table."""
    looked_at = f"{len(found.sizes)} of {found.images:,} images looked at"
    bands = {1: "all are gray", 3: "there are colors"}.get(found.channels, "so many bands")
    grid = "{} x {} patches".format(*candidate.grid)
    rows: dict[str, dict[str, tuple[Any, str]]] = {
        "data": {"data": (data, "")},
        "model": {
            "model": (candidate.preset, ASKED if asked["model"] else why_model),
            "image_size": (_shown(candidate.image_size), candidate.reason),
            "patch_size": (_shown(candidate.patch_size), f"{grid}, {ASKED}" if asked["patch_size"] else grid),
            "channels": (found.channels, ASKED if asked["channels"] else f"{bands}: {looked_at}"),
        },
        "run": {},
    }
    if candidate.weights is not None:
        model = rows["model"]
        if not asked["channels"] and found.channels == _own_channels(candidate):
            model["channels"] = (found.channels, "that of the weights")
        rows["model"] = {"weights": (str(asked["weights"]), ASKED)}
        rows["model"] |= {name: model[name] for name in ("image_size", "channels")}
    for name, unless in (("pixel_range", BYTES), ("white_level", None)):
        if getattr(found, name) != unless:
            given = found.measured or "as the folder was prepared"
            rows["data"][name] = (getattr(found, name), given if asked[name] is None else ASKED)
    usual = {"allow_damaged": 0.0, "max_pixels": None, "precision": "float32", "loader": None, "workers": None}
    tables = {"allow_damaged": "data", "max_pixels": "data", "precision": "model"}
    for name, value in usual.items():
        if asked[name] != value:
            rows[tables.get(name, "run")][name] = (asked[name], ASKED)
    return {table: values for table, values in rows.items() if values}


def _size_reason(size: str) -> str:
    return "images are small and taken whole" if size == "small_images" else "random parts of larger images"


def _model_reason(trials: Sequence[_Trial], seconds: float, left_out: bool, too_large: bool) -> str:
    """Return why the last of the models that were measured is proposed.

    Args:
        trials: What was measured, the most costly model first.
        seconds: Seconds that the run may take.
        left_out: Whether some larger models were left out, as measuring took long.
        too_large: Whether some larger models do not fit into memory.
    """
    last = trials[-1]
    if not fits(last.measured, last.least, seconds):
        return "the cheapest that is tried; none does enough epochs in time"
    if left_out:
        return "the cheapest; to measure all larger ones would have taken too long for --hours"
    if len(trials) == 1:
        return "no larger one fits into memory" if too_large else "large enough for so few images, and fast enough"
    larger = trials[-2]
    return f"the next larger one takes {duration(larger.measured.seconds(larger.least))} for {larger.least} epochs"


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
