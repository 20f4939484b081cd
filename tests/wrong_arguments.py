"""Wrong arguments and options, each of which must be answered by one clear line of ours.

`wrong_calls.py` has the tables for Python, `wrong_options.py` those for the command line. A call is answered if it
raises a ValueError (or, for a missing package, an ImportError) of one line that names the argument. It is accepted if
nothing is raised, and answered unclearly by anything else. Run by hand, this tries all of them, or the groups that
are named, and prints what is not answered:

    KERAS_BACKEND=torch python tests/wrong_arguments.py [GROUP ...]

`test_wrong_arguments.py` runs them without the calls that work, and one value for each option.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAN, INF = float("nan"), float("inf")

# === Kinds of arguments, and values that are none of them ===
BOOLEAN = ("no", 1, None, [])
OPTIONAL_BOOLEAN = ("no", 1, [])
COUNT = (0, -1, 1.5, "2", None, True, NAN, [1])
OPTIONAL_COUNT = (0, -1, 1.5, "2", True, [1])
NOT_NEGATIVE_COUNT = (-1, 1.5, "2", None)
SEED = (-1, 1.5, "x", 2**31, True, [1])
FRACTION = (-0.1, 1, "x", NAN, None, [0.5])
UP_TO_ONE = (-0.1, 1.1, "x", NAN, None, True)
SHARE = (0, -0.1, 1.1, "x", NAN, None)
POSITIVE = (0, -1, "x", NAN, INF, None)
NOT_NEGATIVE = (-1, "x", NAN, INF, None)
OPTIONAL_POSITIVE = (0, -1, "x", NAN, INF)
PATH = (None, 3, "", ["x"], 2.5)
PAIR = (0, -1, 1.5, "x", None, (8,), (8, 8, 8), (8, 1.5))
SHAPE = (8, (8, 8), (8, 8, 0), (8, 8.5, 3), "abc", None, (8, 8, 3, 1))
PIXEL_RANGE = ((1, 0), 5, "ab", (0, 1, 2), (0, NAN), ("a", "b"), None, (3, 3), (True, 5))
NAMES = ("ab", 3, [1, 2], ["a"], ["a", "a"], [None, "b"])
CHOICE = ("other", 3, ["mean"])


@dataclass(frozen=True)
class Wrong:
    """A call that must be refused.

    Attributes:
        call: How it is written.
        names: What the message must contain: one of them.
        run: The call.
        theirs: Whether the answer may be Keras' or Python's own, which is clear there.
    """

    call: str
    names: tuple[str, ...]
    run: Callable[[], Any]
    theirs: bool = False


@dataclass(frozen=True)
class Group:
    """Wrong calls of one function or command, and right ones, which must not be refused.

    Attributes:
        name: Name of the function or command.
        wrong: Calls to refuse.
        right: Calls that work, so that what is wrong about the others is the one argument.
    """

    name: str
    wrong: list[Wrong]
    right: list[Callable[[], Any]]


def shown(value: Any) -> str:
    """Return a value as it is shown in a list of calls."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{tuple(value.shape)}"
    text = value.__name__ if isinstance(value, type) else repr(value)
    return text if len(text) < 60 else f"a {type(value).__name__}"


def sweep(
    name: str,
    function: Callable[..., Any],
    right: Mapping[str, Any],
    wrong: Mapping[str, Any],
    /,
    *,
    check_right: bool = True,
    **named: str | tuple[str, ...],
) -> Group:
    """Return a group of calls, of which each has one wrong argument.

    Args:
        name: Name of the function.
        function: The function, by its keywords.
        right: Arguments that work.
        wrong: Values that do not, by argument.
        check_right: Whether the call with the right arguments is tried.
        named: What the message calls an argument, if not by its name.
    """
    calls = []
    for argument, values in wrong.items():
        names = named.get(argument, argument)
        for value in values:
            arguments = {**right, argument: value}
            calls.append(
                Wrong(
                    f"{name}({argument}={shown(value)})",
                    names if isinstance(names, tuple) else (names,),
                    lambda arguments=arguments: function(**arguments),
                    theirs=argument == "nothing",
                )
            )
    return Group(name, calls, [lambda: function(**right)] if check_right else [])


# === Judging ===
def complaint(wrong: Wrong) -> str | None:
    """Return what is wrong with the answer to a call, or `None` if it is one clear line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = wrong.run()
        except Exception as error:
            text = str(error).strip()
            named = any(name in text for name in wrong.names)
            if wrong.theirs and named:
                return None
            if (
                isinstance(error, ValueError | ImportError)
                and named
                and "\n" not in text
                and "Exception encountered" not in text
            ):
                return None
            return f"UNCLEAR   {wrong.call}: {type(error).__name__}: {' '.join(text.split())[:200]}"
    return f"ACCEPTED  {wrong.call}: {type(result).__name__}"


def complaints(group: Group, *, right: bool = True) -> list[str]:
    """Return what is wrong with the answers to a group's calls, and, with `right`, which right call is refused."""
    found = []
    for number, call in enumerate(group.right if right else ()):
        try:
            call()
        except Exception as error:
            found.append(f"REFUSED   {group.name}, right call {number}: {type(error).__name__}: {error}")
    return found + [said for wrong in group.wrong if (said := complaint(wrong))]


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """Make an empty folder, and work in it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def main(wanted: list[str]) -> None:
    """Try all groups, or those that are named, and print what is not answered."""
    import wrong_calls
    import wrong_options

    tried, found = 0, []
    with empty_folder() as folder:
        for group in [*wrong_calls.groups(folder), *wrong_options.groups(folder)]:
            if wanted and group.name not in wanted:
                continue
            began = time.process_time()
            said = complaints(group)
            tried, found = tried + len(group.wrong), found + said
            print(f"# {group.name}: {len(group.wrong)} tried, {time.process_time() - began:.2f} s", flush=True)
            print(*said, sep="\n" if said else "", flush=True)
    kinds = {kind: sum(line.startswith(kind) for line in found) for kind in ("ACCEPTED", "UNCLEAR", "REFUSED")}
    answered = tried - kinds["ACCEPTED"] - kinds["UNCLEAR"]
    print(f"{tried} tried, {answered} answered, {kinds['ACCEPTED']} accepted, {kinds['UNCLEAR']} unclear")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(sys.argv[1:])
