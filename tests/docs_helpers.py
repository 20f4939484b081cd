"""What `test_docs.py` reads in the documentation, and the small things it lets the documentation's code run on."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import keras_mae

PROJECT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((PROJECT / "docs").glob("*.md")))]
INLINE = re.compile(r"`((?:[A-Z_]+=\S+\s)*)((?:git|keras-mae|pip|python|torchrun|tox)\s[^`]+)`")
FENCE = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def statements(self) -> list[tuple[ast.stmt, str]]:
        """The statements of a Python block, which know their lines on the page, and their source."""
        tree = ast.parse("\n" * self.line + self.text, self.page)
        source = "\n" * self.line + self.text
        return [(node, ast.get_source_segment(source, node) or "") for node in tree.body]

    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block, without comments, variables filled in."""
        variables: dict[str, str] = {}
        found = []
        for line in self.text.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if len(words) == 1 and (assigned := re.fullmatch(r"([A-Z]+)=(.*)", words[0])):
                    variables[assigned[1]] = assigned[2]
                elif words:
                    found.append([part for word in words for part in _filled_in(word, variables)])
        return found


@dataclass(frozen=True)
class Command:
    """A command of a shell block: its environment variables and its words."""

    variables: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def commands(pages: list[str]) -> list[Command]:
    """The commands on some pages, each once."""
    found = {}
    for block in (block for page in pages for block in blocks(page) if block.language == "bash"):
        for words in block.commands():
            variables = []
            while assigned := re.fullmatch(r"([A-Z_]+)=(.*)", words[0]):
                variables.append((assigned[1], assigned[2]))
                words = words[1:]
            command = Command(tuple(variables), tuple(words))
            found[command] = None
    return list(found)


def mentions(pages: list[str]) -> list[Command]:
    """The commands in the text of some pages: `code` that begins as a command does. They may lack arguments."""
    found = {}
    for page in pages:
        text = FENCE.sub("", (PROJECT / page).read_text(encoding="utf-8"))
        for at in INLINE.finditer(text):
            variables = tuple(tuple(word.split("=", 1)) for word in at[1].split())
            found[Command(variables, tuple(shlex.split(at[2])))] = None
    return list(found)


def _filled_in(word: str, variables: dict[str, str]) -> list[str]:
    return variables[word[1:]].split() if word[:1] == "$" else [word]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = (PROJECT / page).read_text(encoding="utf-8")
    return [Block(page, text.count("\n", 0, at.start()) + 1, at[1], at[2]) for at in FENCE.finditer(text)]


# === Small things to run on ===
def images(count: int = 128) -> np.ndarray:
    """As the digits are: uint8 (count, 8, 8, 1)."""
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), "uint8")


def labels(count: int = 128) -> np.ndarray:
    return np.arange(count) % 10


def masked_autoencoder() -> keras_mae.MaskedAutoencoder:
    """One block each side, for the digits."""
    encoder = keras_mae.ViTEncoder((8, 8, 1), 2, embed_dim=12, depth=1, num_heads=3, mlp_ratio=2)
    return keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2))


def small_presets(monkeypatch: Any) -> None:
    """Make every architecture one narrow block deep, with its own images and patches.

    Files that do not say how many heads there are mean 64 channels for each in the encoder, 32 in the decoder.
    """
    published = keras_mae.presets.get

    def small(name: str) -> keras_mae.presets.Preset:
        preset = published(name)
        return keras_mae.presets.Preset(
            preset.encoder | {"embed_dim": 64, "depth": 1, "num_heads": 1},
            preset.decoder | {"embed_dim": 32, "depth": 1, "num_heads": 1},
        )

    monkeypatch.setattr(keras_mae.presets, "get", small)


class Tracker:
    """Weights & Biases and MLflow, as far as the documentation calls them: numbers that are logged are kept."""

    def __init__(self, told: list[dict[str, float]]):
        self.told = told

    def init(self, **settings: Any) -> Tracker:
        return self

    def log(self, logs: dict[str, float], step: int) -> None:
        self.told.append({name: float(value) for name, value in logs.items()} | {"step": step})

    log_metrics = log

    def start_run(self, run_name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def nothing(self, *given: Any) -> None:
        """Take what is of no matter here."""

    finish = set_tracking_uri = log_params = log_artifacts = nothing


def write_pairs(folder: Path, split: str) -> None:
    """Write a folder of small images and their masks."""
    from PIL import Image

    write_folder(folder / "images" / split)
    for path in (folder / "images" / split).iterdir():
        (folder / "masks" / split).mkdir(parents=True, exist_ok=True)
        mask = np.random.default_rng(0).integers(0, 3, (24, 20), dtype="uint8")
        Image.fromarray(mask).save(folder / "masks" / split / path.name)


def write_folder(folder: Path, classes: tuple[str, ...] = (), images_each: int = 3) -> None:
    """Write a folder of small JPEG images, flat or with a folder for each class."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for name in classes or (".",):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(1, images_each + 1):
            pixels = generator.integers(0, 256, (24, 20, 3), dtype="uint8")
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
