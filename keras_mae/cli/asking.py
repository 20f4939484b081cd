"""`keras-mae predict`, `similar` and `map`: what a trained model says about images."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_mae.cli.choosing import SMALL_IMAGES
from keras_mae.cli.options import AllowDamaged, Bands, MaxPixels, Part, RecipeSize, WhiteLevel, shown_bands
from keras_mae.cli.output import add_row, complain, echo, existing, table
from keras_mae.cli.scoring import check_classifier, refuse_size

if TYPE_CHECKING:
    from keras_mae.transfer import Embeddings

__all__ = ["draw_map", "predict", "similar"]

_SHOWN = 50  # images in a table
_NEXT = 2  # classes behind the most probable one
_WRITTEN = {"umap": "UMAP", "tsne": "t-SNE", "pca": "principal components"}

EmbeddingsFile = Annotated[Path, typer.Argument(help="An .npz file that embed or join wrote.")]


class Method(StrEnum):
    """What reduces many dimensions to two."""

    umap = "umap"
    tsne = "tsne"
    pca = "pca"


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            help="Saved ViTClassifier or ViTSegmenter, such as a run's classifier.keras or segmenter.keras."
        ),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, and folders of images, of any sizes; or one folder that was prepared as array_record, "
            "or one array in a file: FILE::IMAGES."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Table to write, a new .csv or .json file; by default none is written. For a segmenter, folder of "
            "the masks."
        ),
    ] = None,
    size: Annotated[
        RecipeSize | None,
        typer.Option(
            help="Recipe that a classifier was trained by, small_images by default: it says how much of each image "
            "to look at."
        ),
    ] = None,
    part: Part = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images at a time, 256 by default; of a segmenter, windows.")
    ] = None,
    allow_damaged: AllowDamaged = 0.0,
    white_level: WhiteLevel = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Classify or segment images of any size.

    Each of FILES gets the class that a classifier sees in it, and its probability; or a mask of palette indices as
    large as the image, which a segmenter writes to --out under the image's name. Images are read as evaluate reads
    them. A file that does not exist is reported on stderr, and the others are looked at: the exit status is then 1.
    The tables of all parts are joined by join.
    """
    import keras_mae
    from keras_mae import convert, data
    from keras_mae.data.parts import checked_part
    from keras_mae.file_predictions import checked_predictions_file

    chosen = checked_part(part)
    loaded = convert.load_model(model)
    reading: dict[str, Any] = {"part": chosen, "allow_damaged": allow_damaged, "white_level": white_level}
    reading |= {"max_pixels": max_pixels, "progress": True}
    if isinstance(loaded, keras_mae.ViTSegmenter):
        refuse_size(size)
        return _predict_masks(loaded, model, files, out, batch_size, reading)
    check_classifier(loaded, model)
    if out is not None:
        checked_predictions_file(out)
    recipe = keras_mae.recipes.FineTuneRecipe.for_size(str(size or SMALL_IMAGES))
    there = existing(files)
    found = loaded.predict_files(
        there,
        crop=data.CenterCrop(**recipe.evaluation_crop(min(loaded.encoder.image_shape[:2]))),
        batch_size=256 if batch_size is None else batch_size,
        **reading,
    )
    _print_predictions(found, model)
    if out is not None:
        found.save(out)
        echo(f"{out}: {_counted(len(found), 'image')}")
    if len(there) < len(files):
        raise typer.Exit(1)


def _predict_masks(
    segmenter: Any, model: Path, files: list[Path], out: Path | None, batch_size: int | None, reading: dict[str, Any]
) -> None:
    """Write a mask for each image, and print what there is in all of them."""
    from rich.console import Console

    if out is None:
        raise ValueError("`out` must be a folder for the masks of a segmenter: --out masks/. Received: no --out")
    there = existing(files)
    found = segmenter.predict_files(there, out, batch_size=batch_size, **reading)
    rows = table(model)
    for title in ("class", "pixels", "images"):
        rows.add_column(title)
    shares = found.pixels.sum(axis=0) / found.pixels.sum()
    for index in (-shares).argsort(kind="stable")[:_SHOWN]:
        images = int((found.pixels[:, index] > 0).sum())
        if images:
            add_row(rows, found.class_names[index], f"{shares[index]:.1%}", f"{images:,}")
    Console().print(rows)
    echo(f"{out}: {_counted(len(found), 'mask')}")
    if len(there) < len(files):
        raise typer.Exit(1)


def similar(
    embeddings: EmbeddingsFile,
    queries: Annotated[list[str], typer.Argument(help="Image files, or names of images in EMBEDDINGS.")],
    k: Annotated[int, typer.Option(help="Number of images to find for each query.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(help="Picture to draw of queries and neighbors, in the format of its ending; none by default."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="File of the model that made EMBEDDINGS; by default where it was then."),
    ] = None,
    bands: Bands = None,
) -> None:
    """Find the images most like others.

    For each of QUERIES these are the nearest images of EMBEDDINGS by the cosine of their features, from which the
    mean of all is subtracted first. A query that is in EMBEDDINGS is looked up and not compared with itself; any
    other image is embedded in the same way by the model that made them. All images are compared; nothing is
    approximate. A query that cannot be answered is reported on stderr, and the others are answered: the exit status
    is then 1.
    """
    import numpy as np

    from keras_mae import _checks, convert, transfer, visualize

    if out is not None:
        visualize.check_savable(out)
    _checks.positive_int("k", k)
    known, shown = transfer.read_embeddings(embeddings), shown_bands(bands)
    _check_bands(shown, known)
    places = [known.find(query) for query in queries]
    file = known.model_file(model) if model is not None or _has_others(queries, places) else None
    asked, wrong = _readable(known, embeddings, queries, places)
    if not asked:
        raise ValueError("; ".join(wrong))
    for message in wrong:
        complain(message)
    others = [query for query, place, _ in asked if place is None]
    new = iter(known.embed(convert.load_model(file), others) if file and others else ())
    vectors = np.stack([next(new) if place is None else known.features[place] for _, place, _ in asked])
    exclude = np.array([-1 if place is None else place for _, place, _ in asked])
    indices, cosines = transfer.nearest(known.features, vectors, k, exclude=exclude, center=True)
    classes = known.classes
    for (query, _, _), row, values in zip(asked, indices, cosines, strict=True):
        _print_neighbors(query, known, classes, row, values)
    echo(f"cosines are of features minus their mean over the {_counted(len(known), 'image')} in {embeddings}")
    if out is not None:
        _draw_neighbors(out, known, asked, indices, cosines, shown)
    if wrong:
        raise typer.Exit(1)


def draw_map(
    embeddings: EmbeddingsFile,
    out: Annotated[Path, typer.Option(help="HTML file to write or replace.")] = Path("map.html"),
    method: Annotated[
        Method | None,
        typer.Option(
            help="Method: umap (pip install umap-learn), tsne or pca; by default umap if it is installed, or else "
            "tsne for up to 10,000 images, and pca for more."
        ),
    ] = None,
    thumbnails: Annotated[
        int, typer.Option(help="Number of images to show under the pointer, spread over all; others show names only.")
    ] = 5000,
    thumbnail_size: Annotated[int, typer.Option(help="Longest side of a thumbnail, in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="Random seed for umap and tsne.")] = 0,
    bands: Bands = None,
) -> None:
    """Draw a map of images by similarity.

    Similar images lie close together on it. It is a single HTML file to open in a browser: point at an image to see
    it, zoom with the wheel.
    """
    from keras_mae import _checks, _files, transfer, visualize

    if out.suffix.lower() not in (".html", ".htm"):
        raise _checks.argument_error("out", "a file whose name ends in .html", str(out))
    _checks.count("thumbnails", thumbnails)
    _checks.positive_int("thumbnail_size", thumbnail_size)
    _checks.seed_int("seed", seed)
    known, shown = transfer.read_embeddings(embeddings), shown_bands(bands)
    _check_bands(shown, known)
    places, used = transfer.map_coordinates(
        known.features, None if method is None else method.value, seed=seed, center=True
    )
    page = visualize.map_page(
        places,
        known.files.tolist(),
        known.classes,
        _spread_images(known, thumbnails),
        title=f"{_subject(known, embeddings)}, {_WRITTEN[used]}",
        thumbnail=thumbnail_size,
        bands=shown,
        pixel_range=_pixel_range(known),
    )
    replaced = _replaced(out)
    with _files.whole(out) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    echo(f"{out}: {_counted(len(known), 'image')} by {_WRITTEN[used]}, {len(page) / 1e6:.1f} MB{replaced}")


# === Queries ===
Query = tuple[str, int | None, Any]
"""(query, its index in the embeddings, `None`), or, for another image, (query, `None`, the image)."""


def _has_others(queries: list[str], places: list[int | None]) -> bool:
    """Return whether there are images among the queries that the embeddings do not hold."""
    return any(place is None and Path(query).is_file() for query, place in zip(queries, places, strict=True))


def _readable(
    known: Embeddings, source: Path, queries: list[str], places: list[int | None]
) -> tuple[list[Query], list[str]]:
    """Return the queries that can be answered, and what is wrong with each of the others."""
    asked, wrong = list[Query](), list[str]()
    for query, place in zip(queries, places, strict=True):
        if place is None and not Path(query).is_file():
            rule = f"A query must be an image file, or a name in {str(source)!r}. Received: {query!r}"
            wrong.append(rule + _nearest_name(query, known.files.tolist()))
            continue
        try:
            asked.append((query, place, None if place is not None else known.read_image(query)))
        except ValueError as error:
            wrong.append(str(error))
    return asked, wrong


def _nearest_name(query: str, names: list[str]) -> str:
    """Return which name may have been meant: a file of this name in another folder, or else one spelled like it."""
    from keras_mae import _checks

    same = [name for name in names if name.rpartition("/")[2] == Path(query).name]
    return f". Did you mean {same[0]}?" if same else _checks.nearest(query, names)


# === What is printed and drawn ===
def _print_predictions(found: Any, classifier: Path) -> None:
    from rich.console import Console

    rows = table(classifier)
    for title in ("file", "class", "probability", "then"):
        rows.add_column(title)
    for file, row in zip(found.files[:_SHOWN], found.probabilities, strict=False):
        first, *rest = (-row).argsort(kind="stable")[: 1 + _NEXT]
        then = ", ".join(f"{found.class_names[index]} {row[index]:.1%}" for index in rest)
        add_row(rows, file, found.class_names[first], f"{row[first]:.1%}", then)
    Console().print(rows)
    if len(found) > _SHOWN:
        echo(f"and {len(found) - _SHOWN:,} more, which --out predictions.csv writes")


def _print_neighbors(query: str, known: Embeddings, classes: list[str] | None, indices: Any, cosines: Any) -> None:
    from rich.console import Console

    rows = table(query)
    for title in ("", "cosine", "file", *([] if classes is None else ["class"])):
        rows.add_column(title)
    for rank, (index, cosine) in enumerate(zip(indices, cosines, strict=True), 1):
        add_row(rows, rank, f"{cosine:.4f}", known.files[index], *([] if classes is None else [classes[index]]))
    Console().print(rows)


def _draw_neighbors(
    out: Path,
    known: Embeddings,
    asked: list[Query],
    indices: Any,
    cosines: Any,
    bands: tuple[int, ...] | None,
) -> None:
    from keras_mae import _files, visualize

    rows, titles = [], []
    for (query, place, image), row, values in zip(asked, indices, cosines, strict=True):
        own = known.read_images([place]) if place is not None else [image]
        rows.append([*own, *known.read_images(row)])
        name = query if place is not None else Path(query).name
        titles.append([f"{name}\nquery", *(_title(known, *pair) for pair in zip(row, values, strict=True))])
    figure = visualize.neighbors(rows, titles, bands=bands, pixel_range=_pixel_range(known))
    replaced = _replaced(out)
    with _files.whole(out) as unfinished:
        figure.savefig(unfinished)
    missing = sum(image is None for row in rows for image in row)
    gray = f", {_counted(missing, 'image')} not where they were" if missing else ""
    echo(f"{out}: {len(asked)} {'query' if len(asked) == 1 else 'queries'}{gray}{replaced}")


def _title(known: Embeddings, index: int, cosine: float) -> str:
    return f"{known.files[index]}\n{cosine:.3f}"


def _subject(known: Embeddings, file: Path) -> str:
    """Return a title for embeddings: their folder or file, the number of images, and the model if it is known."""
    folder, model = known.about.get("folder"), (known.about.get("model") or {}).get("path")
    count = _counted(len(known), "image")
    said = f"{'/'.join(Path(folder).parts[-2:])}: {count}" if folder else f"{file.name}: {count}"
    return f"{said}, features of {'/'.join(Path(model).parts[-2:])}" if model else said


def _spread_images(known: Embeddings, count: int) -> Iterator[Any]:
    """Yield `count` of the images, spread evenly over all, each in its place, and `None` for the others."""
    import numpy as np

    chosen = np.unique(np.linspace(0, len(known) - 1, min(count, len(known))).round().astype("int64"))
    images, wanted = known.read_images(chosen.tolist()), {*chosen.tolist()}
    for index in range(len(known)):
        yield next(images) if index in wanted else None


def _check_bands(bands: tuple[int, ...] | None, known: Embeddings) -> None:
    """Raise a `ValueError` for bands that the images of embeddings do not have."""
    from keras_mae.visualize.figures import checked_bands

    if bands is not None and "image_shape" in known.about:  # a file of another program has no images to show
        checked_bands(bands, known.about["image_shape"][2])


def _pixel_range(known: Embeddings) -> tuple[float, float]:
    low, high = known.about.get("pixel_range", (0.0, 255.0))
    return low, high


def _replaced(out: Path) -> str:
    """Return a note that an existing file is replaced, "" if there is none."""
    return "; it replaces the one that was there" if out.exists() else ""


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
