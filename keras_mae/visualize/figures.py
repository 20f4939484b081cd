"""The drawing: images and maps in grids of panels, confusion matrices."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from keras_mae import _checks, _optional
from keras_mae.pixels import BYTES, PixelRange, checked_range
from keras_mae.reconstruction import Reconstruction

__all__ = [
    "as_shown",
    "attention_heads",
    "check_savable",
    "checked_bands",
    "feature_maps",
    "four_dimensions",
    "new_figure",
    "overlays",
    "panel_grid",
    "position_maps",
    "reconstructions",
    "short_name",
    "show_panel",
]

_Bands = int | Sequence[int] | None


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, in inches, which notebooks show by themselves.

    Raises:
        ImportError: If matplotlib is missing.
    """
    # No pyplot: no display, no global state.
    figure = _optional.require("matplotlib.figure", "Drawing").Figure((width, height), dpi=100, layout="constrained")
    figure._repr_png_ = partial(_png, figure)  # IPython shows figures only where pyplot has been imported
    return figure


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def as_shown(images: np.ndarray, bands: _Bands, pixel_range: PixelRange) -> np.ndarray:
    """Return images as matplotlib takes them: float32 in [0, 1], one channel or three.

    By default one channel is gray and three are color; two show their first, and more their first three.
    """
    wanted = checked_bands(bands, images.shape[-1])
    low, high = checked_range(pixel_range)
    return np.clip((images[..., wanted].astype("float32") - low) / (high - low), 0, 1)


def checked_bands(bands: _Bands, channels: int) -> list[int]:
    """Return the indices of the channels to show, one or three; by default the first ones there are.

    Raises:
        ValueError: If images of so many channels have no such bands.
    """
    if bands is None:
        bands = (0,) if channels < 3 else (0, 1, 2)
    rule = f"one or three of the images' {channels} channels, from 0"
    wanted = _checks.indices("bands", bands, 0, channels, rule)
    if len(wanted) not in (1, 3):
        raise _checks.argument_error("bands", rule, bands)
    return wanted


def show_panel(axes: Any, image: np.ndarray, **style: Any) -> Any:
    """Show a picture or a map, without ticks or a frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if image.ndim == 3 and image.shape[2] == 1:
        image, style = image[..., 0], {"cmap": "gray", "vmin": 0, "vmax": 1, **style}
    return axes.imshow(image, interpolation="nearest", **style)


def panel_grid(rows: int, columns: int, aspect: float, side: float = 1.5, extra: float = 0.5) -> tuple[Any, Any]:
    """Return a figure with a grid of panels of `side` inches whose height is `aspect` times that."""
    figure = new_figure(side * columns, side * aspect * rows + extra)
    return figure, figure.subplots(rows, columns, squeeze=False)


def four_dimensions(argument: str, images: Any) -> np.ndarray:
    """Return `images` as an array; raise ValueError unless it is (batch, height, width, channels), and not empty."""
    array = _checks.array(argument, images, "an array of numbers (batch, height, width, channels)")
    if array.ndim != 4 or not len(array):
        raise ValueError(
            f"`{argument}` must have shape (batch, height, width, channels) with at least one image. "
            f"Received: {argument}.shape={array.shape}"
        )
    return array


def reconstructions(
    result: Reconstruction | Sequence[Reconstruction],
    max_images: int = 8,
    *,
    bands: _Bands = None,
    names: Sequence[str] | None = None,
) -> Any:
    """Draw masked, predicted, pasted and original side by side, one row per image, as in the paper's figure 2.

    The prediction is shown where patches are removed. That of visible patches, for which the loss never asked, is
    noise, and left blank.

    Args:
        result: A `Reconstruction` from `MaskedAutoencoder.reconstruct`, or several, such as the mask ratios of
            `reconstruct_at`: their images one below the other, the share of removed patches beside them.
        max_images: Number of images to show of each result, from the first on.
        bands: Channels to show: one in gray, or three as red, green and blue. By default the first three, or the
            first where there are fewer.
        names: Names of the images, such as their files', to write beside them.

    Returns:
        A matplotlib `Figure`; `figure.savefig(path)` writes it.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is nothing to show, or no such channel.
    """
    results = [result] if isinstance(result, Reconstruction) else list(result) if _is_several(result) else []
    if not results or not all(isinstance(one, Reconstruction) for one in results):
        raise _checks.argument_error("result", "a Reconstruction or several", result)
    _checks.positive_int("max_images", max_images)
    several = isinstance(names, Sequence) and not isinstance(names, str)
    if names is not None and not (several and all(isinstance(name, str) for name in names)):
        raise _checks.argument_error("names", "texts, one for each image", names)
    rows = [(one, index) for one in results for index in range(min(max_images, len(one.original)))]
    titles = {
        "masked": "masked",
        "predicted": "prediction",
        "pasted": "prediction + visible",
        "original": "original",
    }
    height, width = results[0].original.shape[1:3]
    figure, grid = panel_grid(len(rows), len(titles), height / width)
    for axes, (one, index) in zip(grid, rows, strict=True):
        for panel, name in zip(axes, titles, strict=True):
            shown = as_shown(getattr(one, name)[index], bands, one.pixel_range)
            show_panel(panel, _removed_only(shown, one, index) if name == "predicted" else shown)
        label = [short_name(names[index])] if names is not None and index < len(names) else []
        label += [f"{one.mask[index].mean():.0%}"] if len(results) > 1 else []
        axes[0].set_ylabel("\n".join(label), fontsize=5 if names is not None else 8, parse_math=False)
    for panel, title in zip(grid[0], titles.values(), strict=True):
        panel.set_title(title, fontsize=8)
    removed = ", ".join(dict.fromkeys(f"{one.mask.mean():.0%}" for one in results))
    sources = dict.fromkeys(one.statistics for one in results if one.statistics)
    figure.suptitle("\n".join([f"{removed} of the patches removed", *sources]), fontsize=7)
    return figure


def _removed_only(shown: np.ndarray, result: Reconstruction, index: int) -> np.ndarray:
    """Return a prediction, float32 in [0, 1], with the visible patches transparent, (height, width, 4)."""
    if result.grid is None:
        return shown
    rows, columns = result.grid
    height, width = shown.shape[:2]
    removed = result.mask[index].reshape(rows, columns)
    removed = removed.repeat(height // rows, axis=0).repeat(width // columns, axis=1)
    colors = shown if shown.shape[-1] == 3 else shown.repeat(3, axis=-1)
    return np.concatenate([colors, removed[..., None].astype("float32")], axis=-1)


def short_name(name: str, length: int = 24) -> str:
    """Return a name as it can be drawn beside a picture: its end, in two lines, after a folder if that fits."""
    name = name.encode("utf-8", "replace").decode()  # those of files may be other bytes
    name = name if len(name) <= 2 * length else "..." + name[3 - 2 * length :]
    folder = name.rfind("/", 0, length) + 1
    cut = folder if folder >= len(name) - length else max(0, len(name) - length)
    return "\n".join(filter(None, (name[:cut], name[cut:]))) if len(name) > length else name


def overlays(images: Any, maps: Any, bands: _Bands = None, *, pixel_range: PixelRange = BYTES) -> Any:
    """Draw images beside the same in gray with maps over them: rollout, saliency, or another library's Grad-CAM.

    Args:
        images: Images (batch, height, width, channels).
        maps: Maps (batch, rows, columns), on the grid of patches or of pixels; or a dict of several, by their titles.
            Each is stretched from its smallest value to its largest.
        bands: As in `reconstructions`.
        pixel_range: (low, high), what is black and what is white; as the encoder's.

    Returns:
        A matplotlib `Figure`, one row per image.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If images and maps do not fit one another, or there is no such channel.
    """
    images = four_dimensions("images", images)
    rule = f"numbers (batch, rows, columns), one map for each of the {len(images)} images"
    given = maps if isinstance(maps, Mapping) else {"": maps}
    by_title = {title: _checks.array("maps", one, rule) for title, one in given.items()}
    if not by_title:
        raise _checks.argument_error("maps", rule, maps)
    for title, one in by_title.items():
        if one.ndim != 3 or len(one) != len(images):
            raise ValueError(
                f"`maps` must have shape (batch, rows, columns), one for each of the {len(images)} images. "
                f"Received: {title or 'maps'}.shape={one.shape}"
            )
    height, width = images.shape[1:3]
    shown = as_shown(images, bands, pixel_range)
    figure, grid = panel_grid(len(images), 1 + len(by_title), height / width, extra=0.3 if any(by_title) else 0)
    everywhere = (-0.5, width - 0.5, height - 0.5, -0.5)
    for row, axes in enumerate(grid):
        show_panel(axes[0], shown[row])
        for panel, one in zip(axes[1:], by_title.values(), strict=True):
            show_panel(panel, shown[row].mean(axis=-1, keepdims=True))
            show_panel(panel, one[row], cmap="inferno", alpha=0.65, extent=everywhere)
    for panel, title in zip(grid[0, 1:], by_title, strict=True):
        panel.set_title(title, fontsize=8)
    return figure


def attention_heads(
    image: Any,
    maps: Any,
    layers: Sequence[int] | None = None,
    *,
    bands: _Bands = None,
    pixel_range: PixelRange = BYTES,
) -> Any:
    """Draw where each head of each layer looks in one image.

    Args:
        image: Image (height, width, channels).
        maps: Maps (layers, heads, rows, columns), such as `patch_maps(model, attention(model, images))[0]`.
        layers: Numbers of these layers; 0, 1, ... by default.
        bands: As in `reconstructions`.
        pixel_range: As in `overlays`.

    Returns:
        A matplotlib `Figure`: the image, then a row for each layer and a column for each head, each map from 0
        to its own largest value.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If `image` or `maps` have another shape, or there is no such channel.
    """
    image = _checks.array("image", image, "an array of numbers (height, width, channels)")
    maps = _checks.array("maps", maps, "an array of numbers (layers, heads, rows, columns)")
    if image.ndim != 3 or maps.ndim != 4:
        raise ValueError(
            "`image` must have shape (height, width, channels) and `maps` must have shape (layers, heads, rows, "
            f"columns). Received: image.shape={image.shape}, maps.shape={maps.shape}"
        )
    rule = f"one number for each of the {len(maps)} layers of `maps`"
    numbers = list(range(len(maps))) if layers is None else _checks.indices("layers", layers, 0, 10**6, rule)
    if len(numbers) != len(maps):
        raise _checks.argument_error("layers", rule, layers)
    figure, grid = panel_grid(len(maps), 1 + maps.shape[1], image.shape[0] / image.shape[1], side=1.0)
    show_panel(grid[0, 0], as_shown(image, bands, pixel_range))
    for axes in grid[1:, 0]:
        axes.axis("off")
    for layer, head in np.ndindex(*maps.shape[:2]):
        show_panel(grid[layer, 1 + head], maps[layer, head], vmin=0, extent=(0, image.shape[1], image.shape[0], 0))
        if not layer:
            grid[0, 1 + head].set_title(f"head {head}", fontsize=7)
        if not head:
            grid[layer, 1].set_ylabel(f"layer {numbers[layer]}", fontsize=7)
    figure.suptitle("attention, each map from 0 to its own largest value", fontsize=7)
    return figure


def position_maps(similarity: Any) -> Any:
    """Draw how similar each position is to all others: a small map for each patch, at the patch's place.

    Args:
        similarity: Array (rows, columns, rows, columns), from `position_similarity`.

    Returns:
        A matplotlib `Figure`; colors go from the least similarity to 1.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If `similarity` has another shape.
    """
    similarity = _checks.array("similarity", similarity, "an array of numbers (rows, columns, rows, columns)")
    if similarity.ndim != 4 or similarity.shape[:2] != similarity.shape[2:]:
        raise ValueError(
            "`similarity` must have shape (rows, columns, rows, columns). "
            f"Received: similarity.shape={similarity.shape}"
        )
    rows, columns = similarity.shape[:2]
    # One picture: hundreds of panels take matplotlib half a minute.
    gap = max(1, round(max(rows, columns) / 8))
    tiles = np.full((rows, rows + gap, columns, columns + gap), np.nan)
    tiles[:, :rows, :, :columns] = similarity.transpose(0, 2, 1, 3)
    whole = tiles.reshape(rows * (rows + gap), columns * (columns + gap))[:-gap, :-gap]
    figure = new_figure(5, 5 * whole.shape[0] / whole.shape[1] * 0.87)
    axes = figure.subplots()
    picture = show_panel(axes, whole, vmin=similarity.min(), vmax=1)
    places = [(size * (np.arange(size) * (1 + gap / size) + 0.5) - 0.5, range(size)) for size in (rows, columns)]
    axes.set_yticks(*places[0], fontsize=7)
    axes.set_xticks(*places[1], fontsize=7)
    axes.tick_params(length=0)
    axes.set_ylabel("row of the patch", fontsize=8)
    axes.set_xlabel("column of the patch", fontsize=8)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8)
    bar.set_label("cosine similarity", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def feature_maps(images: Any, colors: Any, bands: _Bands = None, *, pixel_range: PixelRange = BYTES) -> Any:
    """Draw images beside their patches' features as colors.

    Args:
        images: Images (batch, height, width, channels).
        colors: Array (batch, rows, columns, 3), 0–255, from `feature_colors`.
        bands: As in `reconstructions`.
        pixel_range: As in `overlays`.

    Returns:
        A matplotlib `Figure`, one row per image.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If images and colors do not fit one another, or there is no such channel.
    """
    images, colors = four_dimensions("images", images), four_dimensions("colors", colors)
    if len(colors) != len(images) or colors.shape[3] != 3:
        raise ValueError(
            f"`colors` must have shape (batch, rows, columns, 3), one for each of the {len(images)} images. "
            f"Received: colors.shape={colors.shape}"
        )
    height, width = images.shape[1:3]
    figure, grid = panel_grid(len(images), 2, height / width, extra=0.3)
    for axes, image, tiles in zip(
        grid, as_shown(images, bands, pixel_range), as_shown(colors, None, BYTES), strict=True
    ):
        show_panel(axes[0], image)
        show_panel(axes[1], tiles, extent=(0, width, height, 0))
    for panel, title in zip(grid[0], ("image", "features"), strict=True):
        panel.set_title(title, fontsize=8)
    return figure


def _is_several(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


def check_savable(path: Any) -> None:
    """Raise a `ValueError` for a file ending that matplotlib cannot write, before the work is done.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If it does not know the ending.
    """
    formats = new_figure(1, 1).canvas.get_supported_filetypes()
    ending = _checks.path("path", path, "a picture's name").suffix.removeprefix(".").lower()
    if ending not in formats:
        raise ValueError(
            f"A picture's name must end in one of .{', .'.join(sorted(formats))}. Received: {str(path)!r}"
        )
