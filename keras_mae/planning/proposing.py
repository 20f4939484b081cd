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
"""Share of the time of the run after which of all models that are left only the cheapest is measured."""
_HOPELESS = 2.0
"""Times the time that there is from which on a model is not measured any better."""


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
    enough epochs in time: 40 or more, and 5,000 updates or more. It then gets as many as there is time for, up to the
    paper's 800. Small images, of up to 64 pixels, have a tuned recipe, whose number of epochs is kept. How well a
    model will do is not measured: which sizes suit which images is a rule of thumb.

    The expected time is that of the run alone on this machine, with this backend. Inside a
    `keras_mae.distribution.scope` it is that of a run in such a scope.

    Args:
        data: A folder of images, flat or nested, or from `keras-mae prepare`; or an array in a file, such as
            "cells.h5::images".
        hours: Hours that the run may take.
        preset: Name of the preset to plan with; by default several are tried.
        weights: File, folder or name of the model to go on from in place of a new one, as for `convert.continued`;
            its images' size and channels are then kept, unless others are given.
        image_size: Side in pixels of the images to train on, or (height, width); by default it goes by the images.
        patch_size: Side in pixels of a patch, or (height, width); by default it goes by the size of the images.
        channels: Channels of the images; by default 1 where all are gray, 3 for colors, or the bands of arrays.
        epochs: Epochs of the run; by default they go by the hours.
        batch_size: Images behind each update; by default they go by the device and the number of images.
        precision: Name of the dtype policy of the model.
        allow_damaged: Largest share of damaged images that is left out without an error.
        pixel_range: (low, high) as for `read_image`; by default as `data.survey` finds.
        white_level: White level as for `read_image`; by default as `data.survey` finds.
        max_pixels: Pixels of the largest image to read, as for `read_image`.
        loader: As for `data.make_dataset`.
        workers: As for `data.make_dataset`.
        say: Function called with a line on what is done, such as `print`.
        progress: Function called with (images measured, of how many) where the range of all is measured.

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
    recipe = planned(chosen.recipe, chosen.batch.size, length)
    asked = {"model": preset, "weights": weights, "channels": channels, **shapes, **levels, **reading, **loading}
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
            **_told(str(data), found, chosen.measured.candidate, asked, _model_reason(trials, seconds, left_out)),
        },
    )


def _loaded(weights: str | Path, preset: str | None) -> tuple[Any, str]:
    """Return the model to go on from, and what it is called."""
    if preset is not None:
        raise ValueError(
            "`preset` names an architecture, and `weights` bring their own. "
            f"Received: preset={preset}, weights={weights}"
        )
    _checks.path("weights", weights, "a path, or the name of a published checkpoint")
    return convert.load(convert.located(weights, published=True)).model, Path(weights).name


def _channels(found: Survey, candidate: Candidate) -> int:
    """Return the channels to go on with: a model's own, if pictures can be read in them."""
    own = int(getattr(candidate.weights, "encoder", candidate.weights).image_shape[2])
    return own if own in MODES and found.channels in MODES else found.channels


@dataclass(frozen=True)
class _Trial:
    """What was measured of a model, by which recipe in which batches, and how many epochs it should have."""

    measured: Measured
    recipe: PretrainRecipe
    batch: Batch
    least: int


def _opened(
    data: str | Path, tried: Sequence[Candidate], channels: int, reading: dict[str, Any], until: float
) -> Iterator[tuple[Candidate, UnlabeledImages, float]]:
    """Yield each model, after a time only the last, with images in its size and the seconds of opening them."""
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
    """Measure a model, in smaller batches if it must be; return `None` if it does not fit into memory."""
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
    """Return what the recipe file says of data, model and loading."""
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
        rows["model"] = {"weights": (str(asked["weights"]), ASKED), "image_size": model["image_size"]}
        rows["model"]["channels"] = (found.channels, ASKED if asked["channels"] else "that of the weights")
    for name, unless in (("pixel_range", BYTES), ("white_level", None)):
        if getattr(found, name) != unless:
            rows["data"][name] = (getattr(found, name), found.measured or ASKED)
    usual = {"allow_damaged": 0.0, "max_pixels": None, "precision": "float32", "loader": None, "workers": None}
    tables = {"allow_damaged": "data", "max_pixels": "data", "precision": "model"}
    for name, value in usual.items():
        if asked[name] != value:
            rows[tables.get(name, "run")][name] = (asked[name], ASKED)
    return {table: values for table, values in rows.items() if values}


def _size_reason(size: str) -> str:
    return "images are small and taken whole" if size == "small_images" else "random parts of larger images"


def _model_reason(trials: Sequence[_Trial], seconds: float, left_out: bool) -> str:
    """Return why the last of some models is proposed; `left_out` says that not all larger ones were measured."""
    last = trials[-1]
    if not fits(last.measured, last.least, seconds):
        return "the cheapest that is tried; none does enough epochs in time"
    if left_out:
        return "the cheapest; to measure all larger ones would have taken too long for --hours"
    if len(trials) == 1:
        return "large enough for so few images, and fast enough"
    larger = trials[-2]
    return f"the next larger one takes {duration(larger.measured.seconds(larger.least))} for {larger.least} epochs"


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
