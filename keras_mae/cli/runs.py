"""Where a run goes, and what is printed of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mae.cli.output import echo

if TYPE_CHECKING:
    from keras_mae.distribution import Devices
    from keras_mae.recipes import Recipe

__all__ = [
    "begun_recipe",
    "draws_balanced",
    "encoder_of",
    "held_out_share",
    "identified",
    "resolved",
    "run_directory",
    "run_name",
    "say",
    "say_files",
    "say_held_out",
    "say_pixel_scores",
    "say_plan",
    "say_scores",
    "with_metadata",
]


def run_directory(name: str, out: Path | None, resume: bool, devices: Devices) -> Path:
    """Return the directory that was asked for, or else the first runs/NAME-N that does not exist.

    Raises:
        ValueError: If the run would mix its files with others, which is said before data are looked at.
    """
    from keras_mae.training import RunDirectory
    from keras_mae.training.agreement import together

    if out is None and resume:
        raise ValueError(f"`resume` needs the run directory: --out runs/{name}-1 --resume")
    if out is None and devices.processes > 1:
        raise ValueError(f"Several processes need a run directory that they share: --out runs/{name}-1")
    run = RunDirectory.next_free(name) if out is None else RunDirectory(out)
    check = run.check_resumable if resume else run.check_free
    together(check if devices.is_main else lambda: None)
    return run.path


def run_name(data: str) -> str:
    """Return what a run is called by its data: a folder's name, or "cells.h5-images" of an array in a file."""
    from keras_mae.data.array_files import data_name

    return data_name(data).replace("::", "-").replace("/", "-")


def begun_recipe(directory: Path, resume: bool) -> Recipe | None:
    """Return the recipe by which a run to be resumed began, or `None` if it has not."""
    from keras_mae.recipes import Recipe
    from keras_mae.training.begun import begun_metadata

    begun = begun_metadata(directory) if resume else None
    if begun is None:
        return None
    if "recipe" not in begun:
        raise ValueError(f"The run in {str(directory)!r} has no recipe. Received: {', '.join(begun)}")
    return Recipe.from_dict(begun["recipe"])


def draws_balanced(directory: Path, resume: bool) -> bool:
    """Return whether --num-labels takes as many images of each class: not in runs that began before it did."""
    from keras_mae.training.begun import begun_metadata

    begun = begun_metadata(directory) if resume else None
    return begun is None or begun.get("num_labels") is None or bool(begun.get("balanced"))


def with_metadata(feed: Any, **metadata: Any) -> dict[str, Any]:
    """Return a feed with more values that identify its run."""
    return {**feed, "metadata": {**metadata, **feed["metadata"]}}


def held_out_share(share: float | None, given: dict[str, Any], filed: dict[str, Any]) -> float | None:
    """Return the share of the images to hold out: as given, or a tenth where an epoch is to be chosen by them.

    Args:
        share: Option --validation.
        given: Options that are fields of the recipe.
        filed: Fields of the recipe that a file says.
    """
    said = {name: given[name] if given[name] is not None else filed.get(name) for name in ("best_epoch", "patience")}
    return 0.1 if share is None and any(value not in (None, False) for value in said.values()) else share


def resolved(held_out: float | None) -> dict[str, Any]:
    """Return the share that is held out as a setting of the run, where one is."""
    return {} if held_out is None else {"validation": held_out}


def encoder_of(path: Path) -> Any:
    """Return a saved encoder, also one that is part of a larger model."""
    from keras_mae import convert

    loaded = convert.load_model(path)
    return getattr(loaded, "encoder", loaded)


def identified(feed: Any, model: Path, size: str) -> dict[str, Any]:
    """Return a feed whose metadata tell its model's file from another one, too, and name its recipe."""
    from keras_mae import _files

    return with_metadata(feed, model=_files.sha256(model)[:16], recipe_size=size)


# === What is said of a run ===
def say(devices: Devices, text: Any) -> None:
    """Print a text once, however many processes there are."""
    if devices.is_main:
        echo(text)


def say_held_out(devices: Devices, images: Any) -> None:
    """Print how many images were held out: to evaluate on, if nobody said which, and to validate on."""
    if images.held_out:
        say(devices, f"{images.held_out} of {images.total} images are kept to evaluate on")
    if images.validation is not None:
        count = len(images.validation)
        say(devices, f"{count:,} of {count + len(images.train):,} images to train on are held out to validate on")


def say_plan(devices: Devices, recipe: Recipe) -> None:
    """Print what a run is spread over, and what follows from it, in one line."""
    accumulated = recipe.gradient_accumulation_steps
    several = f" in {accumulated} steps" if accumulated > 1 else ""
    images = f"{recipe.batch_size} images for each update{several}"
    say(devices, f"training on {devices}, {images}, learning rate {recipe.learning_rate:.3g}")


def say_files(devices: Devices, directory: Path) -> None:
    """Print what a run left."""
    from keras_mae.training import RunDirectory

    say(devices, f"{directory}: {', '.join(RunDirectory(directory).files)}")


def say_scores(directory: Path, of: str) -> None:
    """Print what a run scored, on which images, and what it left."""
    from keras_mae.training import RunDirectory

    run = RunDirectory(directory)
    scores, by_class = run.metrics, run.metrics["accuracy_by_class"]
    scored = sum(accuracy is not None for accuracy in by_class.values())
    share = f", of {scored} of the {len(by_class)} classes" if scored < len(by_class) else ""
    echo(
        f"accuracy {scores['accuracy']:.2%} on {scores['images']:,} {of}{share}; {directory}: {', '.join(run.files)}"
    )


def say_pixel_scores(directory: Path, of: str) -> None:
    """Print what a segmenter scored, on which images, and what was left."""
    from keras_mae.training import RunDirectory

    run = RunDirectory(directory)
    scores = run.metrics
    shown = [("mean IoU", scores["mean_iou"]), ("accuracy of pixels", scores["pixel_accuracy"])]
    values = ", ".join(f"{name} {'unknown' if value is None else f'{value:.2%}'}" for name, value in shown)
    echo(f"{values} on {scores['images']:,} {of}; {directory}: {', '.join(run.files)}")
