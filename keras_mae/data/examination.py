"""Which image files are damaged, nearly black, or hold more than is read: every one is decoded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_mae.data import images as image_files
from keras_mae.data.array_images import ArrayImage
from keras_mae.data.levels import Levels, numbers_of
from keras_mae.data.sizes import room

__all__ = ["Examination", "check_damage", "examine", "grays_in_the_dark"]

_NEARLY_BLACK = 16
"""Largest pixel, of 255, of an image that is called nearly black: 12 bits of 16 give no brighter one."""
_LOOKED_AT = 4


@dataclass
class Examination:
    """What is wrong with the files of a folder.

    Attributes:
        damaged: Files that cannot be read, and what is wrong with each.
        dark: Files that are nearly black after reading, and what each holds.
        stacks: TIFF files of several pages, of which the first is read.
        passed_over: Line on what is not read: files that are no images, links that lead nowhere, further pages; ""
            if there is nothing.
    """

    damaged: list[tuple[Path, str]] = field(default_factory=list)
    dark: list[tuple[Path, str]] = field(default_factory=list)
    stacks: list[Path] = field(default_factory=list)
    passed_over: str = ""


def examine(
    paths: Sequence[Path], levels: Levels, done: Callable[[], None] | None = None, *, channels: int | None = None
) -> Examination:
    """Decode image files, and say what is wrong with them; call `done` after each file.

    Args:
        paths: Paths of the files.
        levels: What becomes of their numbers.
        done: Function that is called after each file.
        channels: Channels to make of their bands; by default whatever they have.
    """

    def check(path: Path) -> tuple[str, str, bool]:
        try:
            pages = image_files.check_header(path, levels, channels)
            brightest = image_files.brightest(path, levels)
            may_be_dark = not levels.own_units and brightest <= _NEARLY_BLACK
            return "", _darkness(path, levels) if may_be_dark else "", pages > 1
        except ValueError as error:
            return str(error), "", False
        finally:
            if done is not None:
                done()

    found = Examination()
    with ThreadPoolExecutor() as pool:
        for path, (damage, darkness, is_stack) in zip(paths, pool.map(check, paths), strict=True):
            found.damaged += [(path, damage)] * bool(damage)
            found.dark += [(path, darkness)] * bool(darkness)
            found.stacks += [path] * is_stack
    return found


def check_damage(bad: Sequence[tuple[Path, str]], images: int, allow_damaged: float, directory: Path) -> None:
    """Warn of the damaged images of a folder, which are left out; raise a ValueError if they are too many.

    Args:
        bad: Paths of damaged images, and what is wrong with each.
        images: Number of all images.
        allow_damaged: Largest share of them that may be damaged.
        directory: Folder, for the message.
    """
    if len(bad) > allow_damaged * images:
        raise ValueError(
            f"At most {allow_damaged:.2%} of the images may be damaged (`allow_damaged`). Received: "
            f"{len(bad)} of {images:,} in {str(directory)!r}: " + "; ".join(message for _, message in bad[:5])
        )
    if bad:
        listed = "\n".join(message for _, message in bad)
        warnings.warn(f"{len(bad)} of {images:,} images are damaged and left out:\n{listed}", stacklevel=5)


def grays_in_the_dark(paths: Sequence[Path], levels: Levels) -> str:
    """Return what makes a folder's deep grays nearly black, by a look at a few of its files; "" if they are not."""
    if not levels.eight_bits:
        return ""
    looked_at = paths[:: max(len(paths) // _LOOKED_AT, 1)][:_LOOKED_AT]
    deep = [path for path in looked_at if image_files.is_deep(path, levels.max_pixels)]
    dark = examine(deep, levels).dark if deep else []
    return dark[0][1] if dark and len(dark) == len(deep) else ""


def _darkness(path: Path, levels: Levels) -> str:
    """Return what makes an image nearly black, or "" if there is something bright in it."""
    with image_files.open_image(path, None, levels) as file, room(file.size):
        if isinstance(file, ArrayImage):
            numbers, largest = file.numbers, int(file.read().max())
        else:
            numbers = numbers_of(file)
            largest = int(numbers.of(file).max())
    if isinstance(file, ArrayImage):
        brightest = int(image_files.brightest(path, levels))
    else:  # not reduced: no pixel may be missed
        with image_files.decoded(path, 1 << 20, levels.white_level, levels.max_pixels) as image:
            brightest = int(np.asarray(image).max())
    if brightest > _NEARLY_BLACK:
        return ""
    name = f"{str(path)!r} is nearly black: "
    if not numbers.deep or numbers.inverted:
        return f"{name}its largest value is {brightest} of 255"
    white, own = levels.white_level or numbers.white, 2 ** max(largest.bit_length(), 8) - 1
    return (
        f"{name}its largest number is {largest}, and {white} is white; if {own} should be, pass white_level={own} "
        f"(--white-level {own})"
    )
