"""How large a file of weights may make a model: asked of the file before anything is allocated for it.

A file that says little may ask for much: a configuration for a million blocks, an archive for gigabytes of zeros, an
array for a shape of which it stores nothing. The rule for all of them is that nothing may be much larger than the
file that holds it. What is honestly large is refused beyond `MAX_PARAMETERS`, which an argument raises.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_mae import _checks
from keras_mae._terminal import printable

__all__ = [
    "MAX_PARAMETERS",
    "check_archive",
    "check_arrays",
    "check_config",
    "check_hdf5",
    "check_size",
]

MAX_PARAMETERS = 2_000_000_000
"""Parameters of the largest model that is read from a file without `max_parameters`: three times ViT-H's."""
_BLOCKS, _PARAMETERS_A_BLOCK = 1000, 2_000_000  # narrow blocks, too, cost time and memory
_BYTES_A_PARAMETER = 16  # a weight and two slots of an optimizer in float32, and the average of the weight
_SMALL, _MOST_EXPANSION = 2**26, 20  # bytes; weights hardly compress, and Keras and PyTorch do not try
_NAMES = ("depth", "num_layers"), ("embed_dim", "hidden_dim")  # ours and KerasHub's
_WIDTHS = ("num_classes", "output_dim", "units", "filters", "input_dim")  # of anything

_REMEDY = "If it is meant to be so large, raise `max_parameters`"


def check_size(path: Path, max_parameters: int | None = None) -> None:
    """Raise a `ValueError` if a file is larger than the weights of the largest model that may be read."""
    most = _limit(max_parameters)
    if (size := path.stat().st_size) > _SMALL + _BYTES_A_PARAMETER * most:
        raise ValueError(f"{str(path)!r} has {size:,} bytes, more than a model of {most:,} parameters. {_REMEDY}")


def check_config(name: str, config: Any, held: int, max_parameters: int | None = None) -> None:
    """Raise a `ValueError` if a configuration asks for a larger model than its weights, or than may be read.

    Args:
        name: What the error calls the file.
        config: Arguments of our classes or KerasHub's, also nested, as JSON has them.
        held: How many numbers the weights can be at most.
        max_parameters: Limit; `MAX_PARAMETERS` by default.
    """
    most = _limit(max_parameters)
    parts = list(_parts(config))
    blocks, parameters = sum(part[0] for part in parts), sum(part[1] for part in parts)
    most_blocks = max(_BLOCKS, most // _PARAMETERS_A_BLOCK)
    if not blocks <= most_blocks:
        raise ValueError(
            f"{name!r} asks for {_counted(blocks)} transformer blocks, and {most_blocks:,} are read. {_REMEDY}"
        )
    if not parameters <= most:
        raise ValueError(
            f"{name!r} asks for {_counted(parameters)} parameters or more, and {most:,} are read. {_REMEDY}"
        )
    if not parameters <= held:
        raise ValueError(
            f"{name!r} is damaged: it asks for {_counted(parameters)} parameters or more, and its weights cannot be "
            f"more than {held:,} numbers"
        )


def _limit(max_parameters: int | None) -> int:
    return MAX_PARAMETERS if max_parameters is None else _checks.positive_int("max_parameters", max_parameters)


def _counted(number: float) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else str(number)


def _parts(config: Any) -> Iterator[tuple[float, float]]:
    """Yield (blocks, parameters), the latter at least, of every part of a configuration."""
    waiting = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            yield from _own_parts(item)
            waiting += [value for value in item.values() if isinstance(value, Mapping | list | tuple)]
        elif isinstance(item, list | tuple):
            waiting += [value for value in item if isinstance(value, Mapping | list | tuple)]


def _own_parts(config: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """Yield (blocks, parameters) of what a dictionary says itself; what is no number is left to the constructors."""
    depth, width = (_number(config.get(ours, config.get(hub))) for ours, hub in _NAMES)
    hidden = _number(config.get("mlp_dim")) or width * _number(config.get("mlp_ratio", 4))
    yield depth, depth * width * 2 * (width + hidden)
    sides, patch = _numbers(config.get("image_shape"), 3), _numbers(config.get("patch_size"), 2)
    if area := patch[0] * patch[1]:
        projected = area * sides[2] if config.get("output_dim") is None else 0
        yield 0, width * (sides[0] * sides[1] / area + projected)
    yield 0, sum(_number(config.get(name)) for name in _WIDTHS)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        return abs(float(value))
    except OverflowError:
        return math.inf


def _numbers(value: Any, count: int) -> list[float]:
    several = list(value) if isinstance(value, list | tuple) else [value] * count
    return [*map(_number, several), *[1.0] * count][:count]


class _Refused(ValueError):
    """A file that asks for more than it holds."""


@contextlib.contextmanager
def _damage(name: str, place: Callable[[], str]) -> Iterator[None]:
    """Raise whatever a damaged file makes its library raise as a `ValueError` that says what of it is damaged."""
    try:
        yield
    except PermissionError:
        raise
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name!r} is damaged at {printable(place())!r}: {printable(reason)}") from error


def check_archive(path: Path) -> None:
    """Raise a `ValueError` if a member of a zip archive is much larger than what is stored of it, or damaged."""
    place = "its list of members"
    with _damage(str(path), lambda: place), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > max(_SMALL, _MOST_EXPANSION * member.compress_size):
                raise _refused(str(path), member.filename, member.file_size, member.compress_size)
        stored = sum(member.compress_size for member in archive.infolist())
        if stored > (size := path.stat().st_size):
            raise _refused(str(path), "its members", stored, size)
        for member in archive.infolist():
            place = member.filename
            with archive.open(member) as opened:  # to its end, where the checksum is compared
                while opened.read(2**20):
                    pass


def _refused(name: str, place: str, declared: int, stored: int) -> _Refused:
    return _Refused(f"{name!r} is refused: {printable(place)!r} has {declared:,} bytes, of which it holds {stored:,}")


def check_hdf5(opened: Any, name: str) -> int:
    """Return how many numbers a file of weights holds.

    Args:
        opened: The path of an HDF5 file, or the file opened to be read.
        name: What the error calls it.

    Raises:
        ValueError: If it is damaged, or an array in it is much larger than what is stored of it; the message says
            which.
    """
    import h5py

    held, place, names = 0, "its list of arrays", list[str]()
    with _damage(name, lambda: place), h5py.File(opened, "r") as file:
        file.visit(names.append)
        for place in names:
            array = file[place]
            if isinstance(array, h5py.Dataset):
                count, stored = math.prod(array.shape or ()), array.id.get_storage_size()
                if count * array.dtype.itemsize > max(_SMALL, _MOST_EXPANSION * stored):
                    raise _refused(name, place, count * array.dtype.itemsize, stored)
                held += count
    return held


def check_arrays(path: Path, tensors: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if tensors are together much larger than their file: views of the same numbers may be."""
    numbers, size = sum(math.prod(tensor.shape) for tensor in tensors.values()), path.stat().st_size
    if numbers > max(_SMALL, _MOST_EXPANSION * size):
        largest = max(tensors, key=lambda name: math.prod(tensors[name].shape))
        raise ValueError(
            f"{str(path)!r} is refused: its tensors are {numbers:,} numbers, and it has {size:,} bytes. "
            f"The largest is {printable(largest)!r}"
        )
