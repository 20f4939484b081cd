"""What a classifier says of image files: `ViTClassifier.predict_files`, and tables of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae import _checks, _files, distribution
from keras_mae._terminal import printable
from keras_mae.labels import takes_classes

__all__ = ["Predictions", "PredictsFiles", "checked_predictions_file", "join_predictions"]

ENDINGS = (".csv", ".json")
_OF_CLASS = "probability of "
_COLUMNS = ["file", "class", "probability"]
_OF_ONE_CLASS = (
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
    keras.losses.SparseCategoricalCrossentropy,
)
"""Keras' own losses of one class an image, which take softmax of the logits."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The probabilities of the classes of image files; `ViTClassifier.predict_files` makes them.

    Attributes:
        files: Names of the images: paths as they were given, those in folders with the folder before them.
        probabilities: float32 (images, classes). Of a classifier for several classes an image each is one by itself;
            otherwise an image's sum is 1.
        class_names: Names of the classes, their numbers where the classifier has no names.
        skipped: Damaged files that were left out, and what is wrong with each.
        part: (I, N) where these are a part of the files.
        whole: Digest of the names of the files of all parts.
    """

    files: tuple[str, ...]
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    part: tuple[int, int] = (1, 1)
    whole: str = ""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def classes(self) -> list[str]:
        """Name of the most probable class of each image."""
        return [self.class_names[index] for index in self.probabilities.argmax(axis=1)]

    def save(self, out: str | Path) -> None:
        """Write a table to a file that appears when it is whole.

        Args:
            out: File to write, which must not exist. A .csv has a header and a line an image: file, class,
                probability, and the probability of each class; of a part of the files also which. A .json holds
                `class_names`, `skipped`, and `predictions`, a list of the same.

        Raises:
            ValueError: If the file exists, or has another ending.
        """
        out = checked_predictions_file(out)
        about = {"class_names": self.class_names, "part": self.part, "files": self.whole, "skipped": self.skipped}
        _write(out, self.class_names, self._rows(), about)

    def _rows(self) -> list[dict[str, Any]]:
        numbers = [[float(f"{number:.9g}") for number in row] for row in self.probabilities]
        rows: list[dict[str, Any]] = []
        for file, name, row in zip(self.files, self.classes, numbers, strict=True):
            probabilities = dict(zip(self.class_names, row, strict=True))
            rows.append({"file": file, "class": name, "probability": max(row), "probabilities": probabilities})
        return rows


def checked_predictions_file(out: Any) -> Path:
    """Return the path of a table of predictions to write.

    Raises:
        ValueError: If it exists, or its ending is of no format that can be written.
    """
    rule = f"a file whose name ends in {' or '.join(ENDINGS)}"
    path = _checks.path("out", out, rule)
    if path.suffix not in ENDINGS:
        raise _checks.argument_error("out", rule, str(path))
    if path.exists():
        raise ValueError(f"`out` must not exist, so that nothing is lost. Received: {str(path)!r}")
    return path


class PredictsFiles:
    """Gives a classifier `predict_files`."""

    @property
    def activation(self: Any) -> str | None:
        """What makes probabilities of the logits: "softmax", "sigmoid", or `None` where the loss does not tell."""
        return _activation(getattr(self, "loss", None), self.num_classes)

    def predict_files(
        self: Any,
        files: str | Path | Sequence[str | Path],
        *,
        crop: Any = None,
        part: tuple[int, int] | None = None,
        batch_size: int = 256,
        allow_damaged: float = 0.0,
        white_level: int | None = None,
        max_pixels: int | None = None,
        progress: bool = False,
    ) -> Predictions:
        """Return the probabilities of the classes of image files, of any sizes.

        The images are read as `training.run_evaluation` and `keras-mae evaluate` get them: the center of each, in the
        encoder's `pixel_range`.

        Args:
            files: Path of an image file or a folder of images, or several.
            crop: Part of each image to look at, as for `data.read_image`; by default as much of the center as has the
                shape of the encoder's images.
            part: (I, N) for the I-th of N parts of the files, counted from 1.
            batch_size: Images at a time.
            allow_damaged: Largest share of damaged files, in [0, 1], to leave out with a warning; with 0 the first
                one is an error that names it.
            white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `data.read_image`.
            max_pixels: Pixels of the largest image to read, as for `data.read_image`.
            progress: Whether to show a progress bar.

        Returns:
            `Predictions`: softmax of the logits; of a classifier that was compiled with a binary cross-entropy the
            sigmoid of each.

        Raises:
            ValueError: If there are no files, one cannot be read, or the classifier's loss is one of your own.

        Example:
            >>> predictions = classifier.predict_files("new_photos/")
            >>> predictions.files[0], predictions.classes[0]
            ('new_photos/0001.jpg', 'cat')
            >>> predictions.save("predictions.csv")
        """
        from keras_mae.data import make_dataset
        from keras_mae.data.crops import CenterCrop
        from keras_mae.data.files import open_files
        from keras_mae.data.parts import checked_part
        from keras_mae.data.reading import numpy_batches

        probabilities_of = _probabilities(getattr(self, "loss", None), self.num_classes)
        _checks.positive_int("batch_size", batch_size)
        _checks.boolean("progress", progress)
        part = checked_part(part)
        images = open_files(
            files,
            self.encoder.image_shape,
            part=part,
            allow_damaged=allow_damaged,
            pixel_range=self.encoder.pixel_range,
            white_level=white_level,
            max_pixels=max_pixels,
        )
        count = len(images.source)
        size = min(batch_size, count)
        dataset = make_dataset(images.source, size, shuffle=False, crop=crop or CenterCrop(), shard=(0, 1))
        logits: list[np.ndarray] = []
        for batch, _ in numpy_batches(dataset, progress="predictions" if progress else False):
            whole = distribution.current().pad(batch)
            logits.append(self.predict_on_batch(whole)[: len(batch)])
        probabilities = probabilities_of(np.concatenate(logits).astype("float64"))
        if not np.isfinite(probabilities).all():
            bad = images.names([int(np.flatnonzero(~np.isfinite(probabilities).all(axis=1))[0])])[0]
            raise ValueError(f"The classifier's outputs must be finite. Received: NaN or infinite ones of {bad!r}")
        return Predictions(
            tuple(images.names(range(count))),
            probabilities.astype("float32"),
            self.class_names or tuple(map(str, range(self.num_classes))),
            tuple((path.as_posix(), reason) for path, reason in images.skipped),
            part,
            images.whole,
        )


def _activation(loss: Any, num_classes: int) -> str | None:
    """Return what makes probabilities of the logits that a loss takes: "softmax", "sigmoid", or `None`."""
    if isinstance(loss, keras.losses.BinaryCrossentropy | keras.losses.BinaryFocalCrossentropy):
        return "sigmoid"
    return "softmax" if _is_of_one_class(loss) and num_classes > 1 else None


def _is_of_one_class(loss: Any) -> bool:
    return loss is None or takes_classes(loss) or isinstance(loss, _OF_ONE_CLASS)


def _probabilities(loss: Any, num_classes: int) -> Any:
    """Return the function that makes probabilities of logits (images, classes)."""
    activation = _activation(loss, num_classes)
    if activation == "sigmoid":
        return lambda logits: 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
    if not _is_of_one_class(loss):
        raise ValueError(
            "What the outputs mean is known for cross-entropy and binary cross-entropy; with another loss "
            f"`predict` returns them as they are. Received: a classifier compiled with {type(loss).__name__}"
        )
    if activation is None:
        raise ValueError("One class of cross-entropy has the probability 1 in every image. Received: num_classes=1")

    def softmax(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
        return shares

    return softmax


# === Files ===
def join_predictions(files: Sequence[str | Path], out: str | Path) -> int:
    """Join the tables of all parts of some files to one.

    Args:
        files: Paths of the .csv or .json files that `Predictions.save` wrote of the parts, in any order.
        out: File to write, as for `Predictions.save`, in the parts' format.

    Returns:
        Number of images.

    Raises:
        ValueError: If a part is missing, which the message names, was given twice, or is of other files or classes.
    """
    from keras_mae.data.parts import check_all_parts, checked_part

    out = checked_predictions_file(out)
    if not isinstance(files, Sequence) or isinstance(files, str) or not files:
        raise _checks.argument_error("files", "the paths of all parts", files)
    tables = [_read(_checks.path("files", file), out.suffix) for file in files]
    for file, (about, _) in zip(files, tables, strict=True):
        for name in ("class_names", "files"):
            if about[name] != tables[0][0][name]:
                raise ValueError(
                    f"Parts to join must be of the same files and classes. {str(file)!r} has other {name}"
                )
    parts = [checked_part(about["part"]) for about, _ in tables]
    check_all_parts(parts)
    in_order = [table for _, table in sorted(zip(parts, tables, strict=True), key=lambda pair: pair[0])]
    rows = [row for _, rows in in_order for row in rows]
    about = {**in_order[0][0], "part": (1, 1), "skipped": [one for about, _ in in_order for one in about["skipped"]]}
    _write(out, about["class_names"], rows, about)
    return len(rows)


def _write(out: Path, class_names: Sequence[str], rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write a table; of a part also which."""
    is_part = about["part"][1] > 1
    with _files.whole(out) as unfinished:
        if out.suffix == ".json":
            known = {name: value for name, value in about.items() if is_part or name not in ("part", "files")}
            unfinished.write_text(json.dumps({**known, "predictions": rows}, indent=1) + "\n", encoding="utf-8")
            return
        # Names may be other bytes than UTF-8, which are written as they are.
        with unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            writer = csv.writer(stream)
            number, parts = about["part"]
            ends = [f"{number}/{parts}", about["files"]] if is_part else []
            columns = [*_COLUMNS, *(_OF_CLASS + name for name in class_names)]
            writer.writerow([*columns, *(["part", "files"] if is_part else [])])
            for row in rows:
                shown = [f"{row['probabilities'][name]:.9g}" for name in class_names]
                writer.writerow([row["file"], row["class"], f"{row['probability']:.9g}", *shown, *ends])


def _read(path: Path, ending: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what a part's table is about, and its rows.

    Raises:
        ValueError: If it is no such table; the message names it.
    """
    if path.suffix != ending:
        raise _checks.argument_error("files", f"{ending} files, as `out` is", str(path))
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}")
    try:
        return _read_json(path) if ending == ".json" else _read_csv(path)
    except (KeyError, TypeError, IndexError, UnicodeError, csv.Error) as error:
        raise ValueError(f"{str(path)!r} is not the table of a part: {printable(error)}") from error


def _read_json(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    about = _files.read_json(path)
    rows = about.pop("predictions")
    return {**about, "part": tuple(about["part"]), "files": about["files"], "class_names": about["class_names"]}, rows


def _read_csv(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        header, *lines = csv.reader(stream)
    if header[:3] != _COLUMNS or header[-2:] != ["part", "files"] or any(len(line) != len(header) for line in lines):
        raise KeyError("its columns must be file, class, probability, those of the classes, part and files")
    names = [name.removeprefix(_OF_CLASS) for name in header[3:-2]]
    rows = [
        {
            "file": line[0],
            "class": line[1],
            "probability": float(line[2]),
            "probabilities": dict(zip(names, map(float, line[3:-2]), strict=True)),
        }
        for line in lines
    ]
    return {"class_names": names, "part": lines[0][-2], "files": lines[0][-1], "skipped": []}, rows
