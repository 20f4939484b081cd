"""`keras-mae reconstruct` and `info`: look at a saved model."""

from __future__ import annotations

import json
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_mae import _class_names
from keras_mae.cli.options import Bands, SavedModel, WhiteLevel, shown_bands
from keras_mae.cli.output import add_row, echo, existing, table

__all__ = ["info", "reconstruct"]


class Statistics(StrEnum):
    """What undoes a normalized target."""

    visible = "visible"
    true = "true"


def reconstruct(
    model: Annotated[Path, typer.Argument(help="Saved MaskedAutoencoder, such as runs/digits-1/model.keras.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Annotated[Path, typer.Option(help="Picture to write; its ending says the format.")] = Path(
        "reconstructions.png"
    ),
    seed: Annotated[int | None, typer.Option(help="Random seed for the masks; the model's by default.")] = None,
    statistics: Annotated[
        Statistics,
        typer.Option(help="Patch statistics that undo a normalized target; true ones give part of the answer away."),
    ] = Statistics.visible,
    white_level: WhiteLevel = None,
    bands: Bands = None,
) -> None:
    """Draw how MODEL fills in masked images."""
    import numpy as np

    import keras_mae
    from keras_mae import _files, convert
    from keras_mae.data.examination import grays_in_the_dark
    from keras_mae.data.levels import Levels
    from keras_mae.visualize.figures import checked_bands

    mae = convert.load_model(model)
    if not isinstance(mae, keras_mae.MaskedAutoencoder):
        raise ValueError(
            f"`model` must be a MaskedAutoencoder: reconstructing takes its decoder. "
            f"Received: a {type(mae).__name__} in {str(model)!r}"
        )
    keras_mae.visualize.check_savable(out)
    shown = shown_bands(bands)
    checked_bands(shown, mae.encoder.image_shape[-1])
    levels: dict[str, Any] = {"pixel_range": mae.encoder.pixel_range, "white_level": white_level}
    there = existing(images)
    batch = np.stack([keras_mae.data.read_image(path, mae.encoder.image_shape, **levels) for path in there])
    if darkness := grays_in_the_dark(there, Levels(**levels)):
        warnings.warn(darkness, stacklevel=2)
    result = mae.reconstruct(batch, seed=seed, statistics=statistics.value)
    figure = keras_mae.visualize.reconstructions(result, max_images=len(batch), bands=shown)
    with _files.whole(out) as unfinished:
        figure.savefig(unfinished)
    echo(f"{out}: {len(batch)} image{'s' if len(batch) > 1 else ''}")
    if len(there) < len(images):
        raise typer.Exit(1)


def info(model: SavedModel) -> None:
    """Show what is in a saved model."""
    from rich.console import Console

    from keras_mae import convert

    facts = table(model, show_header=False)
    for name, value in _facts(convert.load_model(model)).items():
        add_row(facts, name, value)
    Console().print(facts)


def _facts(loaded: Any) -> dict[str, Any]:
    """Return what there is to say of a model, by name, in the order of the table."""
    import keras_mae

    encoder = getattr(loaded, "encoder", loaded)
    rows: dict[str, Any] = {
        "class": type(loaded).__name__,
        "image": "x".join(map(str, encoder.image_shape)),
        "patch": "x".join(map(str, encoder.patch_size)) + f" ({encoder.num_patches} patches)",
        "encoder": _size(encoder),
        "class tokens": encoder.class_tokens,
    }
    if encoder.window is not None:
        in_full = ", ".join(map(str, encoder.global_blocks)) or "none"
        rows["windows"] = f"{encoder.window} x {encoder.window} patches, full attention in blocks: {in_full}"
    if isinstance(loaded, keras_mae.MaskedAutoencoder):
        masking = loaded.masking
        rows |= {
            "decoder": f"{_size(loaded.decoder)}, {loaded.decoder.kind.replace('_', '-')}",
            "parameters": f"{loaded.count_params():,}",
            "masking": f"{keras_mae.masking.names.describe(masking)}, ratio {masking.mask_ratio}, seed {loaded.seed}",
            "target": loaded.target_description,
        }
    if isinstance(loaded, keras_mae.ViTClassifier):
        rows |= {
            "classes": _classes(loaded),
            "pooling": loaded.pooling,
            "trained blocks": "all" if loaded.trainable_blocks is None else loaded.trainable_blocks,
        }
    if isinstance(loaded, keras_mae.ViTSegmenter):
        rows |= {"classes": _classes(loaded), "head": f"{loaded.head_kind}, of blocks {list(loaded.blocks)}"}
    rows |= {
        "pixel range": keras_mae.pixels.range_name(encoder.pixel_range),
        "pixel mean, std": f"{json.dumps(encoder.pixel_mean)}, {json.dumps(encoder.pixel_std)}",
        "training steps": int(keras_mae.ops.concrete(encoder.step.value)),
        "dtype": encoder.dtype_policy.name,
    }
    return rows


def _classes(classifier: Any) -> str:
    names = classifier.class_names
    return str(classifier.num_classes) + (f": {_class_names.listed(names)}" if names else ", without names")


def _size(part: Any) -> str:
    return f"{part.embed_dim} wide, {part.depth} blocks, {part.num_heads} heads, {part.count_params():,} parameters"
