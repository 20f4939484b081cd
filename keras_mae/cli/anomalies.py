"""`keras-mae anomaly`: images that are unlike normal ones."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_mae.cli.options import Bands, MaxPixels, Out, WhiteLevel, shown_bands
from keras_mae.cli.output import add_row, echo, table

__all__ = ["anomaly"]

_SHOWN = 20


class Method(StrEnum):
    """How images are scored: `keras_mae.anomaly.METHODS`, and both."""

    both = "both"
    reconstruction = "reconstruction"
    neighbors = "neighbors"


def anomaly(
    model: Annotated[
        Path,
        typer.Argument(
            help="Saved model, such as runs/photos-1/model.keras; one without a decoder compares patches only."
        ),
    ],
    normal: Annotated[
        Path,
        typer.Argument(
            help="Folder of normal images, at least eight, or an array in a file: FILE::IMAGES; or the detector.npz "
            "of an earlier run."
        ),
    ],
    test: Annotated[
        Path,
        typer.Argument(
            help="Folder of images to score, flat or with a folder for each class, or one prepared from such a "
            "folder as array_record; or arrays in a file: FILE::IMAGES or FILE::IMAGES::LABELS."
        ),
    ],
    normal_class: Annotated[
        str | None,
        typer.Option(
            help="Folder in TEST whose images are normal, or their label, for the AUROC; by default the one called "
            "good, normal or ok.",
            metavar="NAME",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures that are 0 where there is no defect, for the AUROC of pixels: "
            "crack/000_mask.png or crack/000.png for TEST's crack/000.png; none by default.",
            metavar="FOLDER",
        ),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(
            help="Method: the error where MODEL fills in what is hidden (reconstruction), the distance from the "
            "nearest normal patches (neighbors), or the mean of both; by default both, or neighbors if MODEL has no "
            "decoder.",
            show_default=False,
        ),
    ] = None,
    quantile: Annotated[
        float | None, typer.Option(help="Share of held-out normal images not above the threshold; 0.95 by default.")
    ] = None,
    mask_ratio: Annotated[
        float | None, typer.Option(help="Fraction of the patches that a mask hides; MODEL's by default.")
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            help="Number of random partitions into complementary masks, which together hide each patch equally "
            "often; 4 by default."
        ),
    ] = None,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="Indices of the blocks whose patches' features are compared, from 0, such as 5,8; by default those "
            "at half and at three quarters of the depth.",
            metavar="N,N,...",
        ),
    ] = None,
    neighbors: Annotated[
        int | None, typer.Option(help="Number of nearest normal patches whose distances are averaged; 1 by default.")
    ] = None,
    bank_size: Annotated[
        int | None, typer.Option(help="Largest number of normal patches to keep; 10,000 by default.")
    ] = None,
    pictures: Annotated[
        int, typer.Option(help="Number of images with the highest scores to draw heat maps of.")
    ] = 12,
    seed: Annotated[
        int | None,
        typer.Option(help="Random seed for masks, kept patches and held-out normal images; 0 by default."),
    ] = None,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
    bands: Bands = None,
    out: Out = None,
) -> None:
    """Find images that are unlike normal ones.

    TEST's images are scored by how unlike NORMAL's they are, in standard deviations above the mean of normal images
    that are held out. A run directory is left with scores.csv, heat_maps.png, which shows where they are unlike,
    metrics.json, and detector.npz, which can take the place of NORMAL.
    """
    import keras_mae
    from keras_mae import anomaly as found_in
    from keras_mae import convert
    from keras_mae.cli.runs import run_directory, run_name
    from keras_mae.data.array_files import is_array_name
    from keras_mae.visualize.figures import checked_bands

    directory = run_directory(f"anomaly-{run_name(str(test))}", out, False, keras_mae.distribution.current())
    loaded = convert.load_model(model)
    encoder = getattr(loaded, "encoder", loaded)
    shown = shown_bands(bands)
    checked_bands(shown, encoder.image_shape[2])
    given: dict[str, Any] = {
        "methods": None if method in (None, Method.both) else method.value,
        "quantile": quantile,
        "mask_ratio": mask_ratio,
        "partitions": partitions,
        "blocks": _numbers(blocks),
        "neighbors": neighbors,
        "bank_size": bank_size,
        "seed": seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    levels: dict[str, Any] = {
        "pixel_range": encoder.pixel_range,
        "white_level": white_level,
        "max_pixels": max_pixels,
    }
    if normal.is_file() and not is_array_name(normal):
        if given or method:
            rule = f"left out with {normal.name}, which was fitted with its own"
            raise ValueError(f"Options of the detector must be {rule}. Received: {', '.join(given) or 'method'}")
        detector, images = found_in.AnomalyDetector.load(normal, loaded), None
    else:
        if method is Method.both:
            given["methods"] = found_in.METHODS
        detector = found_in.AnomalyDetector(loaded, **given)
        shape = encoder.image_shape
        if not is_array_name(normal) and not normal.is_dir():
            raise ValueError(
                "`normal` must be a folder of images, an array in a file or a detector's .npz file. "
                f"Received: {str(normal)!r}"
            )
        if _lies_in(test, normal):
            raise ValueError(
                f"`test` must not lie in `normal`: what is learned as normal cannot be found. Received: "
                f"{str(test)!r} in {str(normal)!r}"
            )
        source = keras_mae.data.open_directory(normal, shape[:2], shape[2], **levels)
        images = keras_mae.data.make_dataset(source, detector.batch_size, shuffle=False, shard=(0, 1))
    if not isinstance(loaded, keras_mae.MaskedAutoencoder) and method is None:
        echo(f"{model} has no decoder ({type(loaded).__name__}): images are scored by nearest neighbors alone")
    scored = found_in.open_scored(test, encoder.image_shape, normal_class=normal_class, masks=masks, **levels)
    found_in.run_anomaly(detector, images, scored, directory, max_pictures=pictures, bands=shown, progress=True)
    _say(directory, scored.reason)


def _lies_in(test: Path, normal: Path) -> bool:
    """Return whether the images to score are among those to be learned as normal."""
    from keras_mae.data.array_files import is_array_name, parsed_name

    if is_array_name(test) and is_array_name(normal):
        names = parsed_name(test), parsed_name(normal)
        return len({(name.file.resolve(), name.images.strip("/")) for name in names}) == 1
    return test.resolve().is_relative_to(normal.resolve())


def _numbers(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(index) for index in text.split(","))
    except ValueError:
        raise ValueError(f"`blocks` must be integers with commas between. Received: {text}") from None


def _say(directory: Path, reason: str) -> None:
    """Print the highest scores, and how well they separate what is known to be anomalous."""
    import csv

    from rich.console import Console

    from keras_mae import training

    run = training.RunDirectory(directory)
    with run.file(training.RunFile.SCORES).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        names, *lines = csv.reader(file)
    shown = table(f"highest of {len(lines):,} scores")
    for name in names:
        shown.add_column(name.replace("_", " "), justify="left" if name == "file" else "right", overflow="fold")
    flags = {place for place, name in enumerate(names) if name in ("above_threshold", "anomalous")}
    for line in lines[:_SHOWN]:
        add_row(shown, *(_cell(value, place in flags) if place else value for place, value in enumerate(line)))
    Console().print(shown)
    metrics = run.metrics
    echo(
        f"{metrics['above_threshold']:,} of {metrics['images']:,} images are above {metrics['threshold']:.3g}, the "
        f"{metrics['quantile']:g} quantile of {metrics['held_out']:,} held-out normal images"
    )
    echo(reason)
    for kind, scores in (("images", metrics["auroc"]), ("pixels", metrics["pixel_auroc"])):
        if scores:
            echo(f"AUROC of {kind}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    echo(f"{directory}: {', '.join(run.files)}")


def _cell(value: str, is_flag: bool) -> str:
    return {"1": "yes", "0": ""}[value] if is_flag else f"{float(value):.2f}"
