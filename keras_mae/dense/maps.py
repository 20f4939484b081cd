"""What every neck and head takes: maps, one or several."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["TakesMaps", "halved", "widths"]


class TakesMaps(keras.layers.Layer):
    """A layer of maps (batch, rows, columns, dim): one, a list, or what `ViTEncoder.features` returns.

    The maps of a dictionary are taken in the order of their blocks, in whichever order they were asked for. A
    subclass gets a list.
    """

    number: int | None = None
    """How many maps there must be; `None` for one or more."""

    def __call__(self, maps: Any, *args: Any, **kwargs: Any) -> Any:
        # A list from here on: of a dictionary a saved model would make one of texts, in another order.
        return super().__call__(self._listed(maps), *args, **kwargs)

    def _listed(self, maps: Any) -> list[Any]:
        by_block = isinstance(maps, dict) and all(isinstance(block, int) for block in maps)
        listed = [maps[block] for block in sorted(maps)] if by_block else maps
        listed = list(listed) if isinstance(listed, list | tuple) else [listed]
        rule = {None: "one map or more", 1: "one map"}.get(self.number, f"{self.number} maps")
        shapes = [tuple(getattr(one, "shape", ())) for one in listed]
        right = len(listed) == self.number if self.number else len(listed) > 0
        if not right or not all(len(shape) == 4 and all(shape[1:]) for shape in shapes):
            raise ValueError(
                f"`maps` must be {rule} (batch, rows, columns, dim) of known sizes, as ViTEncoder.features returns "
                f"them. Received: {f'maps of shape {shapes}' if any(shapes) else _described(maps)}"
            )
        self.check_sizes(shapes)
        return listed

    def check_sizes(self, shapes: list[tuple[Any, ...]]) -> None:
        """Raise a `ValueError` for maps of sizes that the layer does not take."""


def _described(maps: Any) -> str:
    """Return what came, without a page of numbers."""
    return f"a dict of {list(maps)}" if isinstance(maps, dict) else f"maps={maps!r}"[:300]


def halved(shape: tuple[Any, ...]) -> None:
    """Raise a `ValueError` for a map that is too small to be halved."""
    if min(shape[1:3]) < 2:
        raise ValueError(
            "`maps` must have 2 rows and 2 columns or more, for their half to have any: take larger images. "
            f"Received: a map of shape {shape}"
        )


def widths(input_shape: Any) -> list[int]:
    """Return the dims of the maps that a layer is built for, of their shapes."""
    several = isinstance(input_shape[0], list | tuple)
    return [int(shape[-1]) for shape in (input_shape if several else [input_shape])]
