"""In how many rows the patches of a file are: 16 of them may be 4 x 4, 2 x 8 or 1 x 16."""

from __future__ import annotations

from typing import Any

from keras_mae import _checks
from keras_mae.convert.metadata import KEY
from keras_mae.positions import grids_of

__all__ = ["size_said", "size_without_a_word"]

Size = tuple[int, int]


def size_said(said: dict[str, Any], patches: int | None, name: str) -> Size | None:
    """Return the height and width of the images that a file's metadata says; `None` if it says nothing of them.

    Args:
        said: What `metadata.metadata_of` returned when the file was written.
        patches: Number of patches in the file's positions; `None` if there is another source for it.
        name: The file, for the error.

    Raises:
        ValueError: If the metadata is not of these positions.
    """
    if "image_shape" not in said or "patch_size" not in said:
        return None
    shape = _checks.image_shape(said["image_shape"])
    rows, columns = _checks.grid(shape, _checks.pair("patch_size", said["patch_size"]))
    if patches is not None and rows * columns != patches:
        raise ValueError(
            f"{name!r} is damaged: its metadata {KEY!r} says {rows} x {columns} patches, and it has positions of "
            f"{patches}"
        )
    return shape[0], shape[1]


def size_without_a_word(
    patches: int, patch_size: Size, channels: int, asked: tuple[int, int, int] | None, name: str
) -> tuple[Size, str]:
    """Return the height and width of the images of a file that says only how many patches they have, and why.

    An `image_shape` of as many patches decides. Without one, a square number of patches is a square: so are the
    authors' and nearly all of timm's.

    Args:
        patches: Number of patches.
        patch_size: (height, width) of a patch.
        channels: Channels of the images, for the error.
        asked: The caller's `image_shape`.
        name: The file, for the error.

    Raises:
        ValueError: If it is open; the message names the shapes that are possible.
    """
    height, width = patch_size
    if asked is not None and (asked[0] // height) * (asked[1] // width) == patches:
        return asked[:2], "as `image_shape` says"
    grids = grids_of(patches)
    rows, columns = grids[0]
    if rows == columns:
        return (rows * height, columns * width), "a square, as nothing says otherwise"
    shapes = ", ".join(str((rows * height, columns * width, channels)) for rows, columns in grids)
    raise ValueError(
        f"The {patches} patches of {name!r} are no square, and it does not say how many rows they make: give the "
        f"`image_shape` it was made for, one of {shapes}. Received: image_shape={asked}"
    )
