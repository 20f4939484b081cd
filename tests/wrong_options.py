"""Wrong options of `keras-mae`, one group for each command; see `wrong_arguments.py`."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import wrong_calls
from wrong import inputs
from wrong.segmenting import make_rooms
from wrong_arguments import Group, Wrong

import keras_mae
import keras_mae.cli

COUNT = ("0", "-1", "1.5", "x", "")
OPTIONAL = COUNT
FRACTION = ("-0.1", "1", "x", "nan", "")
UP_TO_ONE = ("-0.1", "1.1", "x", "nan", "inf")
SHARE = ("0", "-0.1", "1.1", "x", "nan")
POSITIVE = ("0", "-1", "x", "nan", "inf")
NOT_NEGATIVE = ("-1", "x", "nan", "inf")
SEED = ("-1", "1.5", "x", str(2**31))
CHOICE = ("other", "", "3")
BANDS = ("x", "", "0,1", "3", "-1", "0,1,2,0", "1.5")
PIXEL_RANGE = ("1 0", "0 nan", "a b", "3 3", "5")
NO_FILE = ("nowhere", "")
FOREIGN_ENGINE = "torch_ddp" if keras.backend.backend() == "tensorflow" else "mirrored"

RUN: dict[str, tuple[str, ...]] = {
    "--epochs": COUNT,
    "--batch-size": COUNT,
    "--base-learning-rate": POSITIVE,
    "--seed": SEED,
    "--out": ("", "taken", "taken/file"),
    "--distribution": (*CHOICE, "tpu", FOREIGN_ENGINE),
    "--checkpoint-minutes": NOT_NEGATIVE,
    "--checkpoint-steps": COUNT,
    "--size": CHOICE,
    "--loader": CHOICE,
    "--workers": ("-1", "1.5", "x"),
    "--recipe": ("nowhere", "", "taken/file"),
    "--set": ("epoch=3", "x", "=3", "epochs=x", "data.epochs=3", "seed=-1", "modle.x=1"),
}
LABELED: dict[str, tuple[str, ...]] = {
    "--num-labels": ("0", "-1", "2.5", "x", "99999"),
    "--test": ("nowhere", "", "taken"),
    "--white-level": COUNT,
    "--max-pixels": COUNT,
    "--pooling": CHOICE,
}
PRETRAIN: dict[str, tuple[str, ...]] = {
    "--model": (*CHOICE, "vit"),
    "--image-size": (*COUNT, "16", "8x", "8x0", "8x8x8"),
    "--patch-size": (*COUNT, "3", "2x3", "8x"),
    "--channels": (*COUNT, "2", "1"),
    "--weights": NO_FILE,
    "--class-tokens": ("-1", "9", "1.5", "x"),
    "--warmup-epochs": ("-1", "1.5", "x", "99999"),
    "--gradient-accumulation-steps": (*COUNT, "7"),
    "--weight-decay": NOT_NEGATIVE,
    "--optimizer": CHOICE,
    "--ema-momentum": FRACTION,
    "--schedule": CHOICE,
    "--decay-epochs": (*COUNT, "2"),
    "--mask-ratio": FRACTION,
    "--masking": CHOICE,
    "--mask-cell": (*COUNT, "99"),
    "--target": CHOICE,
    "--teacher": NO_FILE,
    "--band-groups": ("x", "", "0,1", "0,0", "0/", "0;1", "1", "-1", "0/2"),
    "--masks-per-image": COUNT,
    "--decoder": CHOICE,
    "--fuse-blocks": ("x", "0", "", "0,9", "0;1", "0.5,1", ",", "1,1"),
    "--predict-ratio": SHARE,
    "--crop-area": SHARE,
    "--shift": ("-0.1", "0.3", "x", "nan", "0.01"),
    "--crops-per-image": (*COUNT, "7"),
    "--allow-damaged": UP_TO_ONE,
    "--pixel-range": PIXEL_RANGE,
    "--white-level": COUNT,
    "--max-pixels": COUNT,
    "--bands": BANDS,
    "--precision": CHOICE,
    "--watch": COUNT,
    "--watch-images": NO_FILE,
    "--probe-every": COUNT,
    "--probe-data": ("nowhere", "digits"),
    "--rankme-every": COUNT,
    "--validation": ("0", "1", "-0.1", "x", "nan"),
}
PART = ("0/2", "3/2", "1", "x", "", "1/99", "1/2/3", "-1/2")
_OF_SEGMENTING = (
    "--class-weights",
    "--drop-path-rate",
    "--ema-momentum",
    "--gradient-accumulation-steps",
    "--image-size",
    "--layer-decay",
    "--max-pixels",
    "--monitor",
    "--patience",
    "--validation",
    "--warmup-epochs",
    "--weight-decay",
    "--white-level",
)
NAMED = {
    "--masks": ("masks", "nowhere"),
    "--test-split": ("split",),
    "--test": ("test", "directory"),
    "--recipe": ("recipe file",),
    "--set": ("set", "epochs", "seed"),
    "--model": ("model", "preset"),
    "--optimizer": ("optimizer",),
    "--pixel-range": ("pixel",),
    "--teacher": ("teacher", "nowhere"),
    "--out": ("out", "run_directory", "taken", "picture's name"),
    "--checkpoint-steps": ("steps",),
    "--checkpoint-minutes": ("minutes",),
    "--crops-per-image": ("crops",),
    "--mask-cell": ("cell",),
    "--watch": ("watch", "every_epochs"),
    "--watch-images": ("watch_images", "nowhere"),
    "--probe-every": ("probe_every", "every_epochs"),
    "--probe-data": ("probe_data", "nowhere"),
    "--rankme-every": ("rankme_every", "every_epochs"),
    "--shift": ("shift",),
    "--format": ("format", "--format"),
    "--pictures": ("pictures",),
    "--distribution": ("distribution", "tpu", FOREIGN_ENGINE, "TPU", "engine"),
    "--image-size": ("image", "patch"),
    "--patch-size": ("patch",),
}


class Reached(Exception):
    """A command went on to the work itself."""


def _reached(*args: Any, **options: Any) -> Any:
    raise Reached


@contextlib.contextmanager
def no_work() -> Iterator[None]:
    """Stop where a run, or a plan, would begin to train."""
    with (
        mock.patch("keras_mae.training.runner._fit", _reached),
        mock.patch("keras_mae.planning.measuring._Clock", _reached),
    ):
        yield


def command(*arguments: str) -> None:
    """Run `keras-mae ARGUMENTS`; its error is raised as a ValueError if it is one line and status 2."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["keras-mae", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        no_work(),
    ):
        try:
            keras_mae.cli.main()
        except Reached:
            return
        except SystemExit as stop:
            if not stop.code:
                return
            lines = [line for line in err.getvalue().splitlines() if not line.startswith("Warning")]
            if stop.code == 2 and len(lines) == 1 and lines[0].startswith("Error: "):
                raise ValueError(lines[0].removeprefix("Error: ")) from None
            raise RuntimeError(f"status {stop.code}: {err.getvalue()}") from None


def options(name: str, begin: list[str], wrong: dict[str, tuple[str, ...]], right: list[str] | None = None) -> Group:
    """Return a command with each of its options wrong; `right` is one with none, by default as it begins."""
    calls = []
    for option, values in wrong.items():
        for value in values:
            words = value.split(" ") if option == "--pixel-range" else [value]
            arguments = [*begin, option, *words]
            names = NAMED.get(option, (option.strip("-").replace("-", "_"), option))
            calls.append(
                Wrong(
                    f"keras-mae {' '.join(word or repr(word) for word in arguments)}",
                    (*names, option, "empty") if "" in words else (*names, option),
                    lambda arguments=arguments: command(*arguments),
                )
            )
    return Group(name, calls, [lambda: command(*(right or begin))])


def given(name: str, wrong: dict[str, list[str]]) -> Group:
    """Return commands with what their messages must contain, by that."""
    calls = [
        Wrong(
            f"keras-mae {' '.join(words)}",
            (*contained.split("|"), *(["empty"] if "" in words else [])),
            lambda words=words: command(*words),
        )
        for contained, lists in wrong.items()
        for words in lists
    ]
    return Group(name, calls, [])


def groups(folder: Path, *, cheap: bool = False) -> list[Group]:
    """Return all groups; the files that commands need are made in `folder`, in which they run.

    Args:
        folder: Folder for them.
        cheap: Whether each option gets one value only, the first.
    """
    photos, encoder = str(folder / "photos"), str(folder / "encoder.keras")
    if not (folder / "photos").exists():
        wrong_calls.make_files(folder)
    (folder / "taken").mkdir(exist_ok=True)
    (folder / "taken" / "file").write_text("x")
    inputs.mae().save(folder / "mae.keras")
    keras_mae.ViTClassifier(inputs.encoder(), 2, class_names=("a", "b")).save(folder / "classifier.keras")
    mae, classifier = str(folder / "mae.keras"), str(folder / "classifier.keras")
    image = str(folder / "photos" / "a" / "0.png")
    rooms = str(make_rooms(folder))
    fine: dict[str, tuple[str, ...]] = {
        **RUN,
        **LABELED,
        "--trainable-blocks": ("-1", "3", "0.3", "x", "nan"),
        "--gradient-accumulation-steps": (*COUNT, "7"),
        "--layer-decay": ("0", "-1", "1.5", "x", "nan"),
        "--drop-path-rate": FRACTION,
        "--ema-momentum": FRACTION,
        "--image-size": (*COUNT, "9", "8x9"),
        "--warmup-epochs": ("-1", "1.5", "x", "99999"),
        "--weight-decay": NOT_NEGATIVE,
        "--shift": FRACTION,
        "--rand-augment": ("-1", "11", "x", "nan"),
        "--random-erasing": UP_TO_ONE,
        "--mixup": NOT_NEGATIVE,
        "--cutmix": UP_TO_ONE,
        "--label-smoothing": FRACTION,
        "--crop-area": SHARE,
        "--class-weights": CHOICE,
        "--validation": ("0", "1", "-0.1", "x", "nan"),
        "--patience": COUNT,
        "--monitor": CHOICE,
    }
    segmented: dict[str, tuple[str, ...]] = {
        **RUN,
        **{option: fine[option] for option in fine.keys() & {*_OF_SEGMENTING}},
        "--masks": NO_FILE,
        "--split": NO_FILE,
        "--allow-damaged": UP_TO_ONE,
        "--test": ("nowhere", "", "taken"),
        "--test-split": NO_FILE,
        "--num-labels": ("0", "-1", "2.5", "x", "99999"),
        "--num-classes": COUNT,
        "--head": CHOICE,
        "--trainable-blocks": ("-1", "3", "0.3", "x", "nan"),
    }
    probe = {**RUN, **LABELED}
    neighbors: dict[str, tuple[str, ...]] = {
        **LABELED,
        "--k": (*COUNT, "99"),
        "--temperature": POSITIVE,
        "--seed": SEED,
        "--out": RUN["--out"],
    }
    anomalies: dict[str, tuple[str, ...]] = {
        "--normal-class": ("c", ""),
        "--masks": ("nowhere", ""),
        "--method": CHOICE,
        "--quantile": (*FRACTION, "0"),
        "--mask-ratio": (*FRACTION, "0"),
        "--partitions": COUNT,
        "--blocks": ("x", "2", "", "0,2", "0;1", ","),
        "--neighbors": (*COUNT, "10001"),
        "--bank-size": COUNT,
        "--pictures": COUNT,
        "--seed": SEED,
        "--white-level": COUNT,
        "--max-pixels": COUNT,
        "--bands": BANDS,
        "--out": RUN["--out"],
    }
    prepare: dict[str, tuple[str, ...]] = {
        "--short-side": COUNT,
        "--format": CHOICE,
        "--images-per-shard": COUNT,
        "--quality": ("0", "101", "x", "1.5"),
        "--allow-damaged": UP_TO_ONE,
        "--white-level": COUNT,
        "--max-pixels": COUNT,
        "--pixel-range": PIXEL_RANGE,
        "--part": PART,
    }
    asked: dict[str, tuple[str, ...]] = {
        "--part": PART,
        "--batch-size": COUNT,
        "--allow-damaged": UP_TO_ONE,
        "--white-level": COUNT,
        "--max-pixels": COUNT,
    }
    embedded = str(folder / "x.npz")
    if not Path(embedded).exists():
        keras_mae.transfer.embed(inputs.encoder(), photos, embedded, model_file=encoder, progress=False)
    convert: dict[str, tuple[str, ...]] = {
        "--format": (*CHOICE, "timm"),
        "--num-heads": COUNT,
        "--decoder-num-heads": COUNT,
        "--checkpoint-key": ("",),
    }
    planned: dict[str, tuple[str, ...]] = {
        "--hours": POSITIVE,
        "--model": (*CHOICE, "vit"),
        "--weights": NO_FILE,
        "--image-size": (*COUNT, "8x", "8x0", "8x8x8"),
        "--patch-size": (*COUNT, "2x", "8x0"),
        "--channels": (*COUNT, "2"),
        "--epochs": COUNT,
        "--batch-size": COUNT,
        "--allow-damaged": UP_TO_ONE,
        "--pixel-range": PIXEL_RANGE,
        "--white-level": COUNT,
        "--max-pixels": COUNT,
        "--loader": CHOICE,
        "--workers": ("-1", "1.5", "x"),
        "--precision": CHOICE,
        "--out": ("", "x", "x.json", "taken"),
    }
    found = [
        options("pretrain", ["pretrain", "digits"], {**RUN, **PRETRAIN}),
        options("plan", ["plan", photos], planned),
        options("finetune", ["finetune", encoder, photos], fine),
        options("probe", ["probe", encoder, photos], probe),
        options("segment", ["segment", encoder, rooms, "--num-classes", "3"], segmented),
        options("knn", ["knn", encoder, photos, "--k", "1"], neighbors),
        options(
            "evaluate",
            ["evaluate", classifier, photos],
            {
                "--size": CHOICE,
                "--split": ("x",),
                "--masks": ("nowhere",),
                "--white-level": COUNT,
                "--max-pixels": COUNT,
                "--out": RUN["--out"],
            },
        ),
        options(
            "reconstruct",
            ["reconstruct", mae, image],
            {
                "--out": ("", "x", "x.xyz", "taken"),
                "--seed": SEED,
                "--statistics": CHOICE,
                "--white-level": COUNT,
                "--bands": BANDS,
            },
        ),
        options(
            "predict",
            ["predict", classifier, photos],
            {**asked, "--out": ("", "x", "x.npz", "taken"), "--size": CHOICE},
        ),
        options(
            "embed",
            ["embed", encoder, photos, "--out", "y.npz"],
            {
                **asked,
                "--out": ("", "x", "x.json", "taken", "taken/file"),
                "--pooling": (*CHOICE, "attentive"),
                "--block": ("2", "-3", "1.5", "x"),
            },
        ),
        options(
            "similar",
            ["similar", embedded, image],
            {"--k": COUNT, "--out": ("", "x", "x.xyz", "taken"), "--model": NO_FILE, "--bands": BANDS},
            ["similar", embedded, image, "a/0.png"],
        ),
        options(
            "map",
            ["map", embedded, "--method", "pca"],
            {
                "--out": ("", "x", "x.png", "taken"),
                "--method": CHOICE,
                "--thumbnails": ("-1", "1.5", "x"),
                "--thumbnail-size": COUNT,
                "--seed": SEED,
                "--bands": BANDS,
            },
        ),
        options("join", ["join", embedded, "--out", "z.npz"], {"--out": ("", "x", "taken", embedded)}),
        options("anomaly", ["anomaly", mae, f"{photos}/a", f"{photos}/b"], anomalies, ["info", mae]),
        options("prepare", ["prepare", photos, "packed"], prepare),
        options("convert", ["convert", encoder, "other.keras"], convert, ["convert", encoder, "new.keras"]),
        given(
            "keras-mae",
            {
                "data": [["pretrain", ""], ["pretrain", "nowhere"], ["pretrain", encoder], ["plan", "digits"]],
                "data|directory|nowhere|folder": [["plan", ""], ["plan", "nowhere"], ["plan", encoder], ["plan"]],
                "data|directory": [["probe", encoder, ""], ["knn", encoder, "nowhere"], ["evaluate", classifier, ""]],
                "model": [["probe", ""], ["knn", "nowhere"], ["finetune", photos], ["info", ""], ["info", image]],
                "model|nowhere": [["evaluate", ""], ["evaluate", encoder], ["evaluate", "nowhere"]],
                "directory|nowhere": [["segment", encoder, ""], ["segment", encoder, "nowhere"]],
                "`model`": [["reconstruct", "", image], ["reconstruct", encoder, image]],
                "normal|directory": [["anomaly", mae, "nowhere", photos], ["anomaly", mae, "", photos]],
                "directory|TEST": [["anomaly", mae, photos, "nowhere"], ["anomaly", mae, f"{photos}/a", image]],
                "methods": [["anomaly", encoder, photos, "taken", "--method", "reconstruction"]],
                "mask_ratio": [["anomaly", encoder, photos, "taken", "--mask-ratio", "0.5"]],
                "`normal`": [["anomaly", mae, photos, photos], ["anomaly", mae, photos, f"{photos}/a"]],
                "detector": [["anomaly", mae, image, photos]],
                "nowhere|image": [
                    ["reconstruct", mae, "nowhere"],
                    ["reconstruct", mae, ""],
                    ["reconstruct", mae, photos],
                ],
                "flip": [["pretrain", "digits", "--flip"], ["pretrain", photos, "--flip", "--crop-area", "1"]],
                "norm_pix_loss": [["pretrain", "--target", "hog", "--norm-pix-loss"]],
                "teacher": [["pretrain", "--target", "hog", "--teacher", "x"]],
                "out|path": [
                    ["prepare", photos],
                    ["prepare", photos, "x", "--check"],
                    ["prepare", photos, "x", "--merge"],
                    ["prepare", photos, "--merge", "--check"],
                    ["prepare", photos, photos],
                    ["prepare", photos, f"{photos}/x"],
                    ["prepare", photos, ""],
                    ["convert", encoder, ""],
                    ["convert", encoder, encoder],
                    ["export", encoder, ""],
                    ["export", encoder, encoder],
                ],
                "part|out": [["prepare", photos, "--check", "--part", "1/2"], ["prepare", photos, "--part", "1/2"]],
                "source|directory": [["prepare", "", "x"], ["prepare", "nowhere", "x"], ["prepare", encoder, "x"]],
                "source|nowhere|path": [["convert", "", "x.keras"], ["convert", "nowhere", "x.keras"]],
                "image_shape|--image-shape|model of keras_mae": [
                    ["convert", encoder, "x.keras", "--image-shape", "0", "8", "3"],
                    ["convert", encoder, "x.keras", "--image-shape", "9", "9", "3"],
                    ["convert", encoder, "x.keras", "--image-shape", "8", "8"],
                    ["convert", encoder, "x.keras", "--image-shape", "a", "8", "3"],
                ],
                "format": [["export", encoder, "x", "--format", "other"], ["convert", encoder, "x"]],
                "files|image|nowhere": [
                    ["predict", classifier, ""],
                    ["predict", classifier, "nowhere"],
                    ["predict", classifier, encoder],
                    ["join", image, "--out", "w.npz"],
                    ["join", embedded, image, "--out", "w.npz"],
                    ["join", "nowhere.npz", "--out", "w.npz"],
                    ["join", "nowhere.csv", "--out", "z.csv"],
                ],
                "`classifier`|model": [["predict", encoder, photos], ["predict", image, photos]],
                "directory": [
                    ["embed", encoder, "nowhere", "--out", "z.npz"],
                    ["embed", encoder, "", "--out", "z.npz"],
                    ["prepare", photos, "--merge"],
                    ["prepare", "nowhere", "--merge"],
                ],
                "out": [["embed", encoder, photos], ["join", embedded]],
                "embeddings|file": [["similar", "nowhere", image], ["similar", image, image], ["map", "nowhere.npz"]],
                "query": [["similar", embedded, "nowhere"], ["similar", embedded, photos]],
                "part": [["export", encoder, "x.onnx", "--part", "other"]],
                "repository": [["convert", encoder, "hf://x"]],
                "private": [["convert", encoder, "new.keras", "--private"]],
                "input": [["export", encoder, "x.onnx", "--input-dtype", "int8"]],
                "size": [["export", classifier, "x.onnx", "--size", "other"]],
                "script": [["export", encoder, "x.pt2", "--format", "torch", "--script"]],
                "--nothing": [["pretrain", "--nothing"], ["probe", encoder, "--nothing", "3"]],
                "resume": [["pretrain", "--resume"]],
                "other": [["other"]],
                "command": [[]],
                "extra": [["info", encoder, "extra"]],
            },
        ),
    ]
    return [cheaper(group) for group in found] if cheap else found


def cheaper(group: Group) -> Group:
    """Return a group with one call for each option."""
    first = {call.names: call for call in reversed(group.wrong)}
    return Group(group.name, list(first.values()), group.right)
