"""What all processes of a run refuse alike, though one of them alone may see why."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from keras_mae import distribution

__all__ = ["together"]

_Result = TypeVar("_Result")


def together(call: Callable[[], _Result]) -> _Result:
    """Return what `call` returns, or raise in all processes if it raises a ValueError in any; all must call this.

    The main process alone looks at the data: if the others went on, they would wait for it for ever.

    Raises:
        ValueError: The process's own; another process's is named only.
    """
    refusal: ValueError | None = None
    try:
        result = call()
    except ValueError as error:
        refusal = error
    if max(distribution.gather(refusal is not None)):
        raise refusal or ValueError("Another process of this run refuses it, and says why: mostly the main one")
    return result
