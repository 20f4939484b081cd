"""Files of weights as NumPy arrays by name: safetensors, and PyTorch's without running what a pickle asks for."""

from __future__ import annotations

import argparse
import datetime
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from keras_mae import _files, _saving
from keras_mae._optional import require
from keras_mae.convert import limits, unwrap
from keras_mae.convert import metadata as beside_tensors

__all__ = ["Files", "StateDict", "read", "write_safetensors", "write_torch"]

_SHARDS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, float32, and what else the file said.

    Attributes:
        tensors: Arrays by name.
        stored: The dtypes they were stored in, by name.
        config: What was beside them: the content of "config.json" and "preprocessor_config.json" in a folder;
            "args", the arguments of the authors' training script; "keras_mae", what `metadata.metadata_of` said of
            the model, if this package wrote the file.
        name: What error messages call it: the path of a file, the name of a model.
        left_out: What else is among the tensors of the file, and why it is left out.
        notes: What was decided where the file leaves a choice, for the report.
    """

    tensors: dict[str, np.ndarray]
    stored: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Files:
    """A file, or a folder of files, that is read at most once, and not before somebody asks.

    Args:
        path: The file or folder.
        checkpoint_key: Which of several models in a file to read, as of `read`.
        max_parameters: Parameters of the largest model to read, as of `read`.
    """

    def __init__(self, path: str | Path, checkpoint_key: str | None = None, max_parameters: int | None = None):
        self.path = Path(path)
        self.checkpoint_key = checkpoint_key
        self.max_parameters = max_parameters

    @cached_property
    def state(self) -> StateDict:
        """The weights, if it is a safetensors or PyTorch file or a folder with some; else an error as of `read`."""
        return read(self.path, self.checkpoint_key, self.max_parameters)

    @property
    def names(self) -> frozenset[str]:
        """The tensors' names; none if it holds no such weights."""
        try:
            return frozenset(self.state.tensors)
        except (ValueError, ImportError, OSError):
            return frozenset()

    @property
    def said(self) -> dict[str, Any]:
        """What this package said beside the tensors; nothing if it did not write such weights."""
        said: dict[str, Any] = self.state.config.get(beside_tensors.KEY, {}) if self.names else {}
        return said


def read(path: str | Path, checkpoint_key: str | None = None, max_parameters: int | None = None) -> StateDict:
    """Return the weights in a file, or in a folder that `transformers` saved.

    A PyTorch file is read with `weights_only=True`: one whose pickle would run code is refused.

    Args:
        path: The file or folder.
        checkpoint_key: Which of several ViTs in it: a dictionary, such as "model_ema", or a word before the names,
            such as "teacher".
        max_parameters: Parameters of the largest model to read, 2,000,000,000 by default.

    Raises:
        ValueError: If there is no such file, it is damaged or too large, it names files outside of its folder, or it
            holds no tensors by name; or it holds several ViTs, and neither `checkpoint_key` nor the rule (weights
            before a teacher, a teacher before averages, all before a student) chooses one.
        ImportError: If a package that reads it is missing.
    """
    path = Path(path)
    found: dict[str, dict[str, Any]] = {}
    config: dict[str, Any] = {}
    for file in _weight_files(path):
        limits.check_size(file, max_parameters)
        dictionaries, beside = _read_file(file)
        for key, values in dictionaries.items():
            found.setdefault(key, {}).update(values)
        config |= beside
    folder = path if path.is_dir() else path.parent
    for name in ("config.json", "preprocessor_config.json"):
        if (folder / name).is_file() and (path.is_dir() or path.name in _WHOLE):
            config[name] = _files.read_json(folder / name)
    selected = unwrap.select(found, _is_tensor, checkpoint_key, str(path))
    arrays = {name: _array(path, tensor) for name, tensor in selected.tensors.items()}
    tensors = {name: _as_float32(array) for name, (array, _) in arrays.items()}
    stored = {name: dtype for name, (_, dtype) in arrays.items()}
    return StateDict(tensors, stored, config, str(path), selected.left_out, selected.notes)


def _weight_map(path: Path) -> dict[str, str]:
    found = _files.read_json(path).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(shard, str) for shard in found.values()):
        raise ValueError(f"{str(path)!r} has no `weight_map` of files by tensor")
    return found


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"There is no file or folder {str(path)!r}")
    for name in _WHOLE:
        if (path / name).is_file():
            return [path / name]
    for name in _SHARDS:
        if (path / name).is_file():
            named = sorted(set(_weight_map(path / name).values()))
            shards = [_files.inside(path, shard, str(path / name)) for shard in named]
            if absent := [shard.name for shard in shards if not shard.is_file()]:
                raise ValueError(f"{str(path / name)!r} names files that are not there: {', '.join(absent)}")
            return shards
    raise ValueError(f"The folder {str(path)!r} holds no weights: none of {', '.join(_WHOLE + _SHARDS)}")


Dictionaries = dict[str, dict[str, Any]]


def _read_file(path: Path) -> tuple[Dictionaries, dict[str, Any]]:
    """Return tensors by dictionary and name, and what else is there; the content decides, not the file's ending."""
    with path.open("rb") as file:
        head = file.read(16)
    if path.suffix == ".keras":
        raise ValueError(f"{str(path)!r} is a model of Keras', not tensors by name")
    # First: the length of its header, with which it begins, may have the bytes that the others begin with.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return _read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _read_torch(path)
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        raise ValueError(f"{str(path)!r} is an HDF5 file, of Keras: neither safetensors nor PyTorch's")
    raise ValueError(f"{str(path)!r} is neither a safetensors nor a PyTorch file")


def _read_safetensors(path: Path) -> tuple[Dictionaries, dict[str, Any]]:
    import ml_dtypes  # noqa: F401  (Keras brings it; it tells NumPy what bfloat16 is)

    safetensors = require("safetensors", "Reading safetensors files")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            header = file.metadata() or {}
    except (safetensors.SafetensorError, AttributeError) as error:  # the latter for types that NumPy does not have
        raise ValueError(f"{str(path)!r} is a damaged safetensors file: {error}") from error
    return {"": arrays}, _own(path, header)


def _own(path: Path, beside: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what this package said beside the tensors, under its key."""
    key = beside_tensors.KEY
    return {key: beside_tensors.decoded(beside[key], str(path))} if key in beside else {}


def _read_torch(path: Path) -> tuple[Dictionaries, dict[str, Any]]:
    torch = require("torch", f"Reading {path.name}, unlike safetensors files,")
    if zipfile.is_zipfile(path):
        limits.check_archive(path)
    try:
        with torch.serialization.safe_globals(_harmless()), path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # PyTorch's own message recommends to run what the file asks for.
        asked = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        raise ValueError(
            f"{str(path)!r} is damaged, or its pickle asks for more than tensors, and that is not run "
            f"({asked.group(1) if asked else type(error).__name__})"
        ) from error
    if not (found := unwrap.dictionaries(content, _is_tensor)):
        raise ValueError(f"{str(path)!r} holds no tensors by name, in no dictionary")
    for place, values in found.items():
        tensors = {f"{place}.{name}": value for name, value in values.items() if _is_tensor(value)}
        limits.check_arrays(path, tensors)
    args = content.get("args")
    said = {"args": vars(args)} if isinstance(args, argparse.Namespace) else {}
    return found, said | _own(path, content)


def _harmless() -> list[Any]:
    """Return what a pickle may ask for beside tensors: classes and functions that only hold data.

    The arguments of the authors' script are a Namespace, and many scripts save a metric as NumPy's scalar or the
    state of its random numbers. NumPy 1 calls the module that makes them again by another name than NumPy 2.
    Arguments hold paths and dates, too; a path is made one that reads and writes nothing.
    """
    functions = [
        (one.__reduce__()[0], f"{module}.{name}")
        for one, name in ((np.float64(1), "scalar"), (np.zeros(1), "_reconstruct"))
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    ]
    paths = [
        (kind, f"{module}.{name}")
        for kind, name in ((PurePosixPath, "PosixPath"), (PureWindowsPath, "WindowsPath"))
        for module in ("pathlib", "pathlib._local")  # Python 3.13's name
    ]
    dates = [datetime.datetime, datetime.date, datetime.timedelta]
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefdgFDSU"}
    return [argparse.Namespace, np.ndarray, np.dtype, *functions, *paths, *dates, *dtypes]


def _is_tensor(value: Any) -> bool:
    """Return whether a value is an array of NumPy's or a tensor of PyTorch's."""
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def _array(path: Path, tensor: Any) -> tuple[np.ndarray, str]:
    """Return a tensor as an array, and the dtype it was stored in."""
    if isinstance(tensor, np.ndarray):
        return tensor, str(tensor.dtype)
    try:
        array = (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse, quantized, without data
        raise ValueError(f"{str(path)!r} holds tensors that are no plain arrays: {error}") from error
    return array, str(tensor.dtype)[6:]


def _as_float32(array: np.ndarray) -> np.ndarray:
    floats = array.dtype.kind == "f" or "float" in array.dtype.name  # bfloat16 is of a kind of its own
    return np.asarray(array, "float32") if floats else array


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, Any] | None = None) -> None:
    """Write a safetensors file, with the mark that PyTorch libraries ask for.

    Args:
        path: File to write.
        tensors: Arrays by name.
        metadata: What is said of the model beside them, as JSON can hold it.
    """
    purpose = "Writing safetensors files"
    safetensors, of_arrays = require("safetensors", purpose), require("safetensors.numpy", purpose)
    path.touch()  # says in Python's words where one may not write
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    try:
        of_arrays.save_file(arrays, path, {"format": "pt", **_said(metadata)})
    except safetensors.SafetensorError as error:
        raise OSError(f"Cannot write {str(path)!r}: {error}") from error


def write_torch(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, Any] | None = None) -> None:
    """Write a PyTorch file of the tensors under the key "model"; arguments as of `write_safetensors`."""
    torch = require("torch", f"Writing {path.name}, unlike safetensors files,")
    content = {"model": {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}, **_said(metadata)}
    with _saving.unfailing(path) as file:
        torch.save(content, file)


def _said(metadata: dict[str, Any] | None) -> dict[str, str]:
    return {} if metadata is None else {beside_tensors.KEY: beside_tensors.encoded(metadata)}
