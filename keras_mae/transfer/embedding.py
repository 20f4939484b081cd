"""A folder's embeddings as a file, computed in one go or in several, and the files of its parts as one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from keras_mae import _checks, _files
from keras_mae.data.files import open_folder
from keras_mae.data.fingerprints import plain
from keras_mae.data.parts import check_all_parts, checked_part
from keras_mae.data.sources import known_of
from keras_mae.encoder import ViTEncoder
from keras_mae.pooling import pooled_width
from keras_mae.transfer.embedding_files import check_names, checked_out, write
from keras_mae.transfer.embeddings import Embeddings, asked_part, encoder_of, in_order, read_embeddings
from keras_mae.transfer.features import checked_pooling, feature_batches
from keras_mae.transfer.unfinished import collected, discard

__all__ = ["embed", "join_embeddings"]

_AT_A_TIME = 8192  # rows of features that are copied at once
_OF_A_PART = ("part", "folder", "model", "data")
"""What each part remembers, and may differ between them; of the model, only the path may."""


def embed(
    model: Any,
    folder: str | Path,
    out: str | Path,
    *,
    model_file: str | Path | None = None,
    pooling: str | None = None,
    block: int | None = None,
    part: tuple[int, int] | None = None,
    batch_size: int = 256,
    allow_damaged: float = 0.0,
    white_level: int | None = None,
    max_pixels: int | None = None,
    progress: bool = True,
) -> Embeddings | None:
    """Compute one feature vector for each image of a folder, and write them to a file with the images' names.

    The images are read as for `keras-mae knn`: the center of each, in the model's `pixel_range`. The file appears
    when it is complete. What was computed before an interruption lies in the folder `OUT.begun` beside it, and the
    same call goes on from there. An .npz that the same call wrote is returned as it is, and nothing is computed.

    Args:
        model: A `ViTEncoder`, a masked autoencoder, whose encoder is taken, or a trained `ViTClassifier`.
        folder: Folder of images, flat or nested, or one from `keras-mae prepare`. Where all images lie in folders in
            it, these are their classes.
        out: File to write: .npz (arrays `features`, `files`, `about`, and `labels` and `class_names` if there are
            classes, not compressed), .parquet (columns file, label, features) or .csv (file, label, feature_0, ...),
            both with labels only if there are classes.
        model_file: File of the model, to be remembered with its checksum, so that other images can be embedded, too.
        pooling: Pooling, as for `extract_features`; by default a classifier's own, or "token", or "mean" for an
            encoder without class tokens. With another pooling than its own, or with `block`, a classifier's features
            are those of its encoder.
        block: Index of the encoder's block whose tokens are pooled, as for `extract_features`; the last by default.
        part: (I, N) for the I-th of N parts of the folder, counted from 1; `join_embeddings` joins them.
        batch_size: Images at a time.
        allow_damaged: Largest share of damaged images, in [0, 1], to leave out with a warning.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `data.read_image`.
        max_pixels: Pixels of the largest image to read, as for `data.read_image`.
        progress: Whether to show a progress bar.

    Returns:
        The embeddings, memory-mapped from the file if it is an .npz, and `None` for other formats.

    Raises:
        ValueError: If an argument is wrong, an image cannot be read, `out` exists and is not an .npz that the same
            call wrote, or `OUT.begun` is another call's.
        ImportError: If .parquet is asked for and pyarrow is missing.

    Example:
        >>> embeddings = keras_mae.transfer.embed(encoder, "photos/", "photos.npz", model_file="encoder.keras")
        >>> embeddings.features.shape, embeddings.files[0]
    """
    out, part = checked_out(out), checked_part(part)
    _checks.positive_int("batch_size", batch_size)
    _checks.boolean("progress", progress)
    looking = asked_part(model, pooling, block)
    encoder = encoder_of(looking)
    if out.exists() and not _is_known(out):
        raise _taken(out)
    if pooling is None and isinstance(looking, ViTEncoder) and not looking.class_tokens:
        pooling = "mean"
    pooling = checked_pooling(looking, pooling)
    levels = {"pixel_range": encoder.pixel_range, "white_level": white_level, "max_pixels": max_pixels}
    images = open_folder(folder, encoder.image_shape, part=part, allow_damaged=allow_damaged, **levels)
    about = plain(
        {
            "format": 1,
            "model": _identified(model, model_file),
            "folder": os.path.abspath(folder),
            "pooling": pooling,
            "block": block,
            "batch_size": batch_size,
            "image_shape": encoder.image_shape,
            **levels,
            "part": part,
            "images": images.total,
            "names": images.whole,
            "data": known_of(images.source),
        }
    )
    if out.exists():
        return _made_before(out, about)
    check_names(out, images.names(range(len(images.source))) if out.suffix == ".parquet" else ())

    def compute(begin: int) -> Any:
        """Return the features and labels in batches, from image `begin` on."""
        dataset = in_order(images.source, min(batch_size, len(images.source)), begin)
        return feature_batches(looking, dataset, pooling=pooling, block=block, progress=progress)

    shape = (len(images.source), pooled_width(encoder, pooling))
    with collected(out, about, shape[0], batch_size, compute, images.names) as parts:
        write(out, parts.features(), shape, parts.files(), parts.labels(), images.class_names, about)
    return read_embeddings(out) if out.suffix == ".npz" else None


def join_embeddings(files: Sequence[str | Path], out: str | Path) -> Embeddings | None:
    """Join the .npz files of all parts of a folder to one file.

    Args:
        files: Paths of the files that `embed` wrote, one for each part, in any order.
        out: File to write, as for `embed`; it must not exist.

    Returns:
        The embeddings, memory-mapped from the file if it is an .npz, and `None` for other formats.

    Raises:
        ValueError: If a part is missing (the message says which), is given twice, or was made by another model or in
            another way than the others; or `out` exists.
        ImportError: If .parquet is asked for and pyarrow is missing.

    Example:
        >>> keras_mae.transfer.join_embeddings(["1.npz", "2.npz"], "photos.npz")  # of parts 1/2 and 2/2
    """
    out = checked_out(out)
    if isinstance(files, str | os.PathLike) or not isinstance(files, Sequence) or not files:
        raise _checks.argument_error("files", "the paths of all parts", files)
    if out.exists():
        raise ValueError(f"`out` must not exist, so that nothing is lost. Received: {str(out)!r}")
    parts = [read_embeddings(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if "part" not in part.about:
            raise ValueError(f"{str(file)!r} does not remember which part of a folder it is of")
        if differ := _differing(parts[0], part):
            raise ValueError(f"Parts to join must be made alike. {str(file)!r} has another {', '.join(differ)}")
    check_all_parts([checked_part(tuple(part.about["part"])) for part in parts])
    parts.sort(key=lambda part: part.about["part"][0])
    first = parts[0]
    rows = (part.features[begin : begin + _AT_A_TIME] for part in parts for begin in range(0, len(part), _AT_A_TIME))
    known = [part.labels for part in parts if part.labels is not None]
    labels = np.concatenate(known) if len(known) == len(parts) else None
    about = {name: value for name, value in first.about.items() if name != "data"} | {"part": [1, 1]}
    shape = (sum(map(len, parts)), first.features.shape[1])
    write(out, rows, shape, np.concatenate([part.files for part in parts]), labels, first.class_names, about)
    return read_embeddings(out) if out.suffix == ".npz" else None


def _differing(one: Embeddings, other: Embeddings) -> list[str]:
    """Return the names of what differs in how two parts were made."""
    names = [name for name in {**one.about, **other.about} if name not in _OF_A_PART]
    differ = [name for name in names if one.about.get(name) != other.about.get(name)]
    models = [{**(part.about.get("model") or {}), "path": None} for part in (one, other)]
    differ += ["model"] if models[0] != models[1] else []
    differ += ["width"] if one.features.shape[1] != other.features.shape[1] else []
    return differ + (["class_names"] if one.class_names != other.class_names else [])


def _made_before(out: Path, about: dict[str, Any]) -> Embeddings:
    """Return the embeddings in a file, if the same call wrote them."""
    if not _is_known(out):
        raise _taken(out)
    known = read_embeddings(out)
    if known.about != about:
        raise _taken(out, sorted(name for name in about if known.about.get(name) != about[name]))
    discard(out, about)  # a kill just after the file was written leaves its pieces
    return known


def _is_known(out: Path) -> bool:
    """Return whether a file may remember how it was made."""
    return out.suffix == ".npz" and out.is_file()


def _taken(out: Path, differ: Sequence[str] = ()) -> ValueError:
    """Return the error to raise if `out` is something else; `differ` names what was different when it was made."""
    with_what = f", made with another {', '.join(differ)}" if differ else ""
    return ValueError(
        f"`out` (--out) must not exist, or be an .npz file that the same call wrote, so that nothing is lost. "
        f"Received: {str(out)!r}{with_what}"
    )


def _identified(model: Any, model_file: str | Path | None) -> dict[str, str]:
    """Return what tells a model from others: the path and checksum of its file, or else a digest of its weights."""
    if model_file is not None:
        path = _checks.path("model_file", model_file)
        return {"path": os.path.abspath(path), "sha256": _files.sha256(path)}
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight), "float32").tobytes())
    return {"weights": digest.hexdigest()}
