"""What a segmenter says of image files: `ViTSegmenter.predict_files`, which writes a mask for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _files, distribution
from keras_mae._colors import class_colors

__all__ = ["Segmentations", "SegmentsFiles"]


@dataclass(frozen=True, eq=False)
class Segmentations:
    """The masks of image files; `ViTSegmenter.predict_files` writes them.

    Attributes:
        files: Names of the images: paths as they were given, those in folders with the folder before them.
        masks: Paths of the masks.
        pixels: Number of pixels of each class, int64 (images, classes).
        class_names: Names of the classes, their numbers where the segmenter has no names.
        skipped: Damaged files that were left out, and what is wrong with each.
    """

    files: tuple[str, ...]
    masks: tuple[Path, ...]
    pixels: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shares(self) -> np.ndarray:
        """Share of each class in the pixels of each image, float64 (images, classes)."""
        return np.asarray(self.pixels / self.pixels.sum(axis=1, keepdims=True))


class SegmentsFiles:
    """Gives a segmenter `predict_files`."""

    def predict_files(
        self: Any,
        files: str | Path | Sequence[str | Path],
        out: str | Path,
        *,
        part: tuple[int, int] | None = None,
        batch_size: int | None = None,
        allow_damaged: float = 0.0,
        white_level: int | None = None,
        max_pixels: int | None = None,
        progress: bool = False,
    ) -> Segmentations:
        """Write a mask for each image file, as large as the image, which is turned upright.

        A mask is a PNG file of palette indices, which are the classes; of more than 256 classes, of 16 bits. It has
        the name of its image, and lies in `out` as the image lies in the folder that was given. An image is segmented
        as `training.run_segmentation_scores` does it: resized to a short side of the training crop's, over which
        windows slide. Nothing is overwritten, and no mask is ever half written.

        Args:
            files: Path of an image file or a folder of images, or several.
            out: Folder of the masks, which may exist, but hold none of these.
            part: (I, N) for the I-th of N parts of the files, counted from 1.
            batch_size: Windows at a time; by default as for `predict`.
            allow_damaged: Largest share of damaged files, in [0, 1], to leave out with a warning; with 0 the first
                one is an error that names it.
            white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `data.read_image`.
            max_pixels: Pixels of the largest image to read, as for `data.read_image`.
            progress: Whether to show a progress bar.

        Returns:
            `Segmentations`: the masks' paths, and how many pixels each class has.

        Raises:
            ValueError: If there are no files, one cannot be read, or a mask is there already.

        Example:
            >>> found = segmenter.predict_files("new_photos/", "masks/")
            >>> found.masks[0], dict(zip(found.class_names, found.shares[0]))
        """
        from keras_mae.data.files import open_files
        from keras_mae.data.parts import checked_part
        from keras_mae.dense.classes import classes_at

        out = _checks.path("out", out)
        _checks.optional(_checks.positive_int, "batch_size", batch_size)
        _checks.boolean("progress", progress)
        encoder = self.encoder
        images = open_files(
            files,
            encoder.image_shape,
            part=checked_part(part),
            allow_damaged=allow_damaged,
            pixel_range=encoder.pixel_range,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        paths = getattr(images.source, "paths", None)
        if paths is None:
            raise ValueError(f"`files` must be image files, or folders of them, for masks. Received: {files!r}")
        masks = _places(paths, files, out)
        if distribution.current().is_main:
            _check_free(masks)
        pixels = np.zeros((len(paths), self.num_classes), "int64")
        for number, path in enumerate(_tracked(paths, progress)):
            image, size = _read(path, encoder.image_shape, images.source.levels)
            logits = self.predict([image], pad=True, batch_size=batch_size)[0]
            if not np.isfinite(logits).all():
                raise ValueError(f"The segmenter's outputs must be finite. Received: NaN or infinite ones of {path}")
            classes = classes_at(logits, size)
            pixels[number] = np.bincount(classes.ravel(), minlength=self.num_classes)
            if distribution.current().is_main:
                _write(classes, masks[number], self.num_classes)
        return Segmentations(
            tuple(images.names(range(len(paths)))),
            tuple(masks),
            pixels,
            self.class_names or tuple(map(str, range(self.num_classes))),
            tuple((path.as_posix(), reason) for path, reason in images.skipped),
        )


def _tracked(paths: Sequence[Path], progress: bool) -> Any:
    if not progress:
        return paths
    from rich.progress import track

    return track(paths, "segmentations", transient=True)


def _read(path: Path, image_shape: tuple[int, int, int], levels: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """Return an image whose short side is that of the crop, and the size (height, width) that it has itself."""
    from keras_mae.data import WholeImage
    from keras_mae.data.images import upright_size, views

    height, width = upright_size(path, levels.max_pixels)
    view = WholeImage(short_side=min(image_shape[:2])).view(width, height, (None, None))
    shape = (*view.size, image_shape[2])
    generators = [np.random.default_rng(0)]
    (image,) = views(path, str(path), shape, lambda *_: view.box, generators, levels)
    return image, (height, width)


# === Masks ===
def _places(paths: Sequence[Path], files: Any, out: Path) -> list[Path]:
    """Return the path of each image's mask: as it lies in the folder that was given, or by its name alone.

    Raises:
        ValueError: If two images would have one mask.
    """
    given = [files] if isinstance(files, str | os.PathLike) else files
    folders = [Path(one) for one in given if Path(one).is_dir()]
    images: dict[Path, Path] = {}
    for path in paths:
        inside = next((path.relative_to(folder) for folder in folders if path.is_relative_to(folder)), None)
        mask = out / (inside or Path(path.name)).with_suffix(".png")
        if mask in images:
            raise ValueError(
                "Masks have the names of their images, and these two would be one: ask about them one by one, with "
                f"another `out`. Received: {str(images[mask])!r} and {str(path)!r}, both for {str(mask)!r}"
            )
        images[mask] = path
    return list(images)


def _check_free(masks: Sequence[Path]) -> None:
    """Raise ValueError if a mask is there: nothing is overwritten."""
    there = [mask for mask in masks if os.path.lexists(mask)]
    if there:
        more = f" and {len(there) - 1:,} more" if len(there) > 1 else ""
        raise ValueError(f"`out` must hold none of the masks, so that nothing is lost. Received: {there[0]}{more}")


def _write(classes: np.ndarray, path: Path, num_classes: int) -> None:
    """Write classes as a PNG file, with a color for each where a palette has room."""
    from keras_mae.data.opening import pillow

    image = pillow().fromarray(classes)
    if num_classes <= 256:
        image.putpalette(class_colors(256).tobytes())
    with _files.whole(path) as unfinished:
        image.save(unfinished)
