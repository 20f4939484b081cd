"""Uploading models to the Hugging Face Hub, from which `from_preset` and other libraries load them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from keras_mae import _checks
from keras_mae._optional import require
from keras_mae._terminal import printable
from keras_mae.convert.load_save import save
from keras_mae.convert.locate import HUB
from keras_mae.convert.own import CARD, card
from keras_mae.convert.usage import how_to_load

__all__ = ["PUSHED", "check_repository", "push_to_hub"]

PUSHED = {"preset": "keras_mae", "transformers": "transformers", "keras_hub": "keras-hub"}
"""Formats of folders that a repository can hold, and what the Hub calls the library that loads each."""
_WEIGHTS = (".h5", ".safetensors", ".bin", ".pth", ".keras")
_RULE = f"the name of a repository on the Hub, user/name or {HUB}user/name"


def push_to_hub(
    model: Any,
    repository: str,
    *,
    format: str = "preset",
    private: bool | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a model to a repository on the Hugging Face Hub, which is created if it does not exist.

    A model card goes with it, with places for what only its author knows; a README.md that is in the repository stays
    as it is. Earlier weights of the same format remain in the repository's history.

    Args:
        model: A `ViTEncoder`, `MaskedAutoencoder` or `ViTClassifier`.
        repository: "user/name", or "hf://user/name".
        format: "preset", or "transformers" or "keras_hub" for these libraries; `from_preset` reads all of them.
        private: Whether a new repository is private; by default as its owner's settings say.
        message: Message of the commit; by default it names the model's class.
        token: Token with write access to the repository; by default that of `hf auth login` or HF_TOKEN.

    Returns:
        "hf://user/name", which `from_preset` takes.

    Raises:
        ValueError: If the format cannot hold the model, the repository holds weights of another format, or the upload
            fails.
        ImportError: If huggingface_hub is missing.

    Example:
        >>> classifier.push_to_hub("somebody/my-classifier")
        'hf://somebody/my-classifier'
        >>> keras_mae.ViTClassifier.from_preset("hf://somebody/my-classifier")
    """
    name = check_repository(repository)
    _checks.one_of("format", format, PUSHED)
    _checks.optional(_checks.boolean, "private", private)
    for argument, value in {"message": message, "token": token}.items():
        _checks.optional(_checks.text, argument, value)
    hub, address = require("huggingface_hub", "Uploading to the Hugging Face Hub"), f"{HUB}{name}"
    with tempfile.TemporaryDirectory() as work:
        folder = save(model, Path(work) / name.rpartition("/")[2], format)
        loading = "" if format == "preset" else how_to_load(model, name, format)
        (folder / CARD).write_text(card(model, folder.name, address, PUSHED[format], loading), encoding="utf-8")
        try:
            api = hub.HfApi(token=token)
            api.create_repo(name, private=private, exist_ok=True)
            there = set(api.list_repo_files(name))
            _check_weights(address, there, {path.relative_to(folder).as_posix() for path in folder.rglob("*")})
            api.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message=message or f"Upload a {type(model).__name__} of keras_mae",
                ignore_patterns=[CARD] if CARD in there else None,
            )
        except _OtherWeights:
            raise
        except Exception as error:  # some of its many kinds come from the library that carries the requests
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"Cannot upload to {address}: {printable(first)}") from error
    return address


def check_repository(repository: Any) -> str:
    """Return the name of a repository without "hf://".

    Raises:
        ValueError: If it is not such a name.
    """
    name = repository.removeprefix(HUB) if isinstance(repository, str) else ""
    if name.count("/") != 1 or not all(name.split("/")) or name != name.strip() or ".." in name:
        raise _checks.argument_error("repository", _RULE, repository)
    return name


class _OtherWeights(ValueError):
    """A repository that holds a model of another format, which would be loaded in part."""


def _check_weights(address: str, there: set[str], uploaded: set[str]) -> None:
    """Raise a `ValueError` if the repository would hold weights that are not those of the uploaded model."""
    if others := sorted(path for path in there - uploaded if path.endswith(_WEIGHTS)):
        raise _OtherWeights(
            f"`repository` must be new, or hold a model of the same format. Received: {address}, which holds "
            f"{printable(', '.join(others[:5]))}"
        )
