"""Files that libraries write whose own failures cannot be caught: a full disk is an `OSError`, and no crash.

HDF5 cannot close a file that it could not write, and takes the process with it; PyTorch's writer and zip archives
complain once more when they are collected. So none of them ever sees a failure.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keras_mae import distribution

__all__ = ["save_model", "save_weights", "unfailing"]


class _Unfailing(io.BytesIO):
    """A new file on the disk, whose content moves to memory when the disk takes no more; `error` says why it did not.

    It is a `BytesIO` because Keras takes no other file in place of a path.

    Args:
        path: File to write.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.error: OSError | None = None
        self._disk: Any = open(path, "w+b", buffering=0)  # noqa: SIM115  (closed by `unfailing`)

    def __str__(self) -> str:  # by whose ending Keras chooses a format
        return str(self.path)

    def leave_disk(self, error: OSError | None = None) -> None:
        """Go on in memory, with what was written so far."""
        if self._disk is None:
            return
        disk, self._disk, self.error = self._disk, None, error
        place = disk.tell()
        disk.seek(0)
        super().write(disk.read())
        super().seek(place)
        with contextlib.suppress(OSError):
            disk.truncate(0)
            disk.close()

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._disk is not None:
            start, done = self._disk.tell(), 0
            try:
                while done < len(view):
                    done += self._disk.write(view[done:])
            except OSError as error:
                self._disk.seek(start)
                self.leave_disk(error)
        if self._disk is None:
            super().write(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        if self._disk is not None:
            try:
                return int(self._disk.truncate(size))
            except OSError as error:
                self.leave_disk(error)
        # In memory a file is not made longer by this, as it is on a disk.
        size = self.tell() if size is None else size
        if missing := size - len(self.getbuffer()):
            place = self.tell()
            if missing > 0:
                super().seek(0, io.SEEK_END)
                super().write(bytes(missing))
            super().seek(place)
        return super().truncate(size)

    def _of(self, name: str) -> Any:
        return getattr(super() if self._disk is None else self._disk, name)

    def read(self, size: int | None = -1) -> bytes:
        return bytes(self._of("read")(size))

    def readinto(self, buffer: Any) -> int:
        return int(self._of("readinto")(buffer))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._of("seek")(offset, whence))

    def tell(self) -> int:
        return int(self._of("tell")())

    def flush(self) -> None:
        pass  # nothing is buffered here

    def finish(self) -> None:
        """Close the file on the disk, and raise the `OSError` that kept something from it, if any."""
        if self._disk is not None:
            disk, self._disk = self._disk, None
            disk.close()
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror, str(self.path)) from self.error


@contextlib.contextmanager
def unfailing(path: Path) -> Iterator[io.BytesIO]:
    """Yield a file that can always be written, to be filled by a library that may not see it fail.

    Args:
        path: File to write, which is replaced.

    Raises:
        OSError: At the end, if it does not fit on the disk or cannot be written.
    """
    file = _Unfailing(path)
    try:
        yield file
    except BaseException:
        file.leave_disk()  # whoever still has it open may go on
        raise
    file.finish()


def save_weights(model: Any, path: Path) -> None:
    """Write what `model.save_weights(path)` does; where that fails, with an `OSError`.

    Where processes share weights out, all must call it, and the main one writes.
    """
    _written(model, path, model.save_weights)


def save_model(model: Any, path: Path) -> None:
    """Write what `model.save(path)` does; as `save_weights`."""
    _written(model, path, model.save)


def _written(model: Any, path: Path, save: Callable[[Any], Any]) -> None:
    if not distribution.are_shared_out(model.weights):
        with unfailing(path) as file:
            save(file)
        return
    from keras_mae.sharding import read_by_main

    with read_by_main() as writes:
        if writes:
            with unfailing(path) as file:
                save(file)
