"""What leaves `load`, `load_model` and `from_preset` where a file is not what it should be: one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from keras_mae import _terminal

__all__ = ["documented"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def documented(read: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Call a function that reads a file, and let only errors out that are documented.

    Args:
        read: Function whose first argument is the file's path, or has it as `path`.
        args: Its arguments.
        kwargs: Its arguments by name.

    Raises:
        ValueError: Whatever it raises that is none of these; what a terminal would obey in the message is disarmed.
        ImportError: As it raises it.
        OSError: As it raises it.
    """
    try:
        return read(*args, **kwargs)
    except (ValueError, ImportError, OSError) as error:
        _terminal.disarm(error)
        raise
    except Exception as error:
        _terminal.disarm(error)
        path = getattr(args[0], "path", args[0])
        what = "more memory than there is" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{str(path)!r} cannot be read, and is damaged or something else: {what}") from error
