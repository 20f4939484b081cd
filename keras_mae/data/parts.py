"""Parts of many images, so that several processes that know nothing of one another share the work."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from keras_mae import _checks

__all__ = ["Part", "check_all_parts", "checked_part", "digest_of", "part_name", "part_of"]

Part = tuple[int, int]
"""(number of the part from 1, number of parts)."""

_RULE = "(I, N), part I of N counted from 1, such as (3, 16); 3/16 on the command line"


def checked_part(part: Any) -> Part:
    """Return a part as (number, parts): `None` is all, "3/16" is (3, 16).

    Raises:
        ValueError: If there is no such part.
    """
    if part is None:
        return 1, 1
    pair: Any = part
    if isinstance(part, str):
        matched = re.fullmatch(r"(\d{1,9})/(\d{1,9})", part)
        pair = (int(matched[1]), int(matched[2])) if matched else ()
    several = isinstance(pair, Sequence) and len(pair) == 2
    if not several or not all(isinstance(one, Integral) and not isinstance(one, bool) for one in pair):
        raise _checks.argument_error("part", _RULE, part)
    if not 1 <= pair[0] <= pair[1]:
        raise _checks.argument_error("part", _RULE, part)
    return int(pair[0]), int(pair[1])


def part_name(part: Part) -> str:
    """Return a part as it is written, "3/16"."""
    return f"{part[0]}/{part[1]}"


def part_of(count: int, part: Part) -> range:
    """Return the indices of the images of a part: all parts follow one another, and differ by one image at most.

    Args:
        count: Number of all images.
        part: The part.

    Raises:
        ValueError: If the part has no image.
    """
    number, parts = part
    indices = range(count * (number - 1) // parts, count * number // parts)
    if not indices:
        rule = f"one of at most {count} parts, as many as there are images"
        raise _checks.argument_error("part", rule, part_name(part))
    return indices


def digest_of(names: Iterable[Any]) -> str:
    """Return a digest of the names of all images: parts that have it in common belong together."""
    hashed = hashlib.sha256()
    for name in names:
        hashed.update(os.fsencode(os.fspath(name)) + b"\0")
    return hashed.hexdigest()[:16]


def check_all_parts(parts: Sequence[Part]) -> None:
    """Raise a `ValueError` that names those missing or given twice unless these are all parts of one whole."""
    wholes = sorted({of for _, of in parts})
    if len(wholes) != 1:
        raise ValueError(f"Parts to join must be of one whole. Received: parts of {', '.join(map(str, wholes))}")
    given = [number for number, _ in parts]
    missing = sorted(set(range(1, wholes[0] + 1)) - set(given))
    twice = sorted({number for number in given if given.count(number) > 1})
    for what, wrong in (("missing", missing), ("given twice", twice)):
        if wrong:
            named = ", ".join(part_name((number, wholes[0])) for number in wrong[:20])
            more = f" and {len(wrong) - 20} more" if len(wrong) > 20 else ""
            raise ValueError(f"Parts to join must be there once each. Received: {named}{more} {what}")
