"""Change files of weights, manifests and images at random, and see that only documented errors come of it.

    KERAS_BACKEND=torch python tests/hostile_files.py --files 1000

Bytes are flipped, cut off, repeated and zeroed, also inside of archives whose checksums are then right again; values
in JSON are replaced by others: none, negative and huge numbers, other types, deep nesting, control characters. Every
file must load, or be refused by a `ValueError` or an `OSError` whose message sends no control character to a
terminal, and take less than a gigabyte. `test_strangers.py` runs a small form.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

VALUES = (
    None,
    -1,
    0,
    3,
    10**6,
    10**30,
    1e308,
    float("nan"),
    True,
    "",
    "x\x1b[2J",
    "../x",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
)
MOST_MEMORY = 2**30  # bytes more than before


def main(files: int, seed: int = 0, say: bool = True) -> Counter[str]:
    """Raises `SystemExit` if a file brings about anything else; returns how often each kind loaded or was refused."""
    generator, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        readers = written(Path(folder) / "whole")
        for number in range(files):
            place = Path(folder) / "hostile"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(Path(folder) / "whole", place)
            name = generator.choice(sorted(readers))
            what = harmed(place / name, generator)
            memory, start = peak_memory(), time.monotonic()
            try:
                readers[name](place / name)
                outcome = "loaded"
            except (ValueError, OSError) as error:
                outcome = "refused"
                if any(ord(letter) < 32 and letter != "\n" for letter in str(error)):
                    raise SystemExit(f"{name}, {what}, number {number} of seed {seed}: {error!r}") from error
            except Exception as error:
                raise SystemExit(f"{name}, {what}, number {number} of seed {seed}: {error!r}") from error
            if peak_memory() - memory > MOST_MEMORY or time.monotonic() - start > 300:
                raise SystemExit(f"{name}, {what}, number {number} of seed {seed} took too much")
            counts[f"{name.split('.')[-1]} {outcome}"] += 1
            if say and (number + 1) % 100 == 0:
                print(number + 1, dict(sorted(counts.items())), flush=True)
    return counts


def written(folder: Path) -> dict[str, Callable[[Path], Any]]:
    """Write a file or a folder of each kind, and return what reads it, by name."""
    import numpy as np

    import keras_mae
    from keras_mae import convert, data

    folder.mkdir()
    encoder = keras_mae.ViTEncoder((8, 8, 3), patch_size=4, embed_dim=16, depth=1, num_heads=2)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(embed_dim=8, depth=1, num_heads=2))
    mae.save(folder / "a.keras")
    encoder.save_to_preset(folder / "a.preset")
    readers: dict[str, Callable[[Path], Any]] = {
        "a.keras": convert.load_model,
        "a.preset": keras_mae.ViTEncoder.from_preset,
    }
    for name, format, needs in (
        ("a.safetensors", "timm", "safetensors"),
        ("a.transformers", "transformers", "safetensors"),
        ("a.pth", "reference", "torch"),
    ):
        if _installed(needs):
            convert.save(mae if format == "transformers" else encoder, folder / name, format)
            readers[name] = lambda path: convert.load(path, num_heads=2)
    if _installed("PIL"):
        from PIL import Image

        for ending in ("png", "jpg", "webp", "tif", "gif", "bmp"):
            pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), "uint8")
            Image.fromarray(pixels).save(folder / f"a.{ending}")
            readers[f"a.{ending}"] = lambda path: data.read_image(path, (8, 8, 3))
        readers |= numbers(folder)
        if _installed("array_record"):
            (folder / "images").mkdir()
            shutil.copy(folder / "a.png", folder / "images")
            data.prepare(folder / "images", folder / "a.shards")
            readers["a.shards"] = lambda path: data.from_directory(path, 8, 1, loader="grain")
    return readers


def numbers(folder: Path) -> dict[str, Callable[[Path], Any]]:
    """Write a file of each kind that the sciences have, and return what reads it, by name."""
    import numpy as np
    import science_helpers

    from keras_mae import data

    array = np.random.default_rng(0).integers(0, 4096, (20, 15, 5)).astype("uint16")
    several = np.stack([array, array])
    readers: dict[str, Callable[[Path], Any]] = {}

    def image(name: str, content: bytes, channels: int) -> None:
        (folder / name).write_bytes(content)
        readers[name] = lambda path: data.read_image(path, (20, 15, channels), pixel_range=(0, 65535))

    image("a.npy", science_helpers.npy(array), 5)
    if _installed("tifffile"):
        image("bands.tif", science_helpers.tiff(array), 5)
        image("pages.tif", science_helpers.tiff(np.moveaxis(array, -1, 0), ome=True, planarconfig=None), 5)
    if _installed("tifffile") and _installed("imagecodecs"):
        image("deflated.tif", science_helpers.tiff(array, compression="zlib"), 5)
    if _installed("pydicom"):
        image("a.dcm", science_helpers.dicom(array[..., 0], slope=2, intercept=1), 1)

    def stored(path: Path) -> Any:
        source = data.ArrayFileSource(f"{path}::images", pixel_range=(0, 65535))
        return source.batch(np.arange(len(source))[:8])

    science_helpers.write_hdf5(folder / "a.h5", images=several)
    readers["a.h5"] = stored
    if _installed("zarr"):
        for version in (2, 3):
            science_helpers.write_zarr(folder / f"{version}.zarr", version, images=several)
            readers[f"{version}.zarr"] = stored
    return readers


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def peak_memory() -> int:
    """The most memory this process ever had, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# === Harm ===
def harmed(path: Path, generator: random.Random) -> str:
    """Change a file, or one in a folder, and return how."""
    if path.is_dir():
        path = generator.choice(sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".md"))
    content = path.read_bytes()
    if path.suffix in (".keras", ".pth") and generator.random() < 0.8:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = generator.choice([name for name in members if members[name] and "metadata" not in name])
        members[name], how = changed(members[name], name, generator)
        with zipfile.ZipFile(path, "w") as archive:
            for member, inside in members.items():
                archive.writestr(member, inside)
        return f"{name}: {how}"
    content, how = changed(content, path.name, generator)
    path.write_bytes(content)
    return f"{path.name}: {how}"


def changed(content: bytes, name: str, generator: random.Random) -> tuple[bytes, str]:
    """Return a file's content with something changed, and what."""
    if name.endswith(".json") and generator.random() < 0.9:
        return in_json(json.loads(content), generator)
    start = (
        generator.randrange(len(content)) if generator.random() < 0.5 else generator.randrange(min(512, len(content)))
    )
    end = start + generator.choice((1, 4, 64, len(content)))
    part = content[start:end]
    how = generator.choice(("flipped", "cut", "repeated", "zeroed", "filled"))
    new = {
        "flipped": bytes(byte ^ (1 << generator.randrange(8)) for byte in part[:4]) + part[4:],
        "cut": b"",
        "repeated": part + part,
        "zeroed": bytes(len(part)),
        "filled": b"\xff" * len(part),
    }[how]
    return content[:start] + new + content[end:], f"{how} from {start} to {end}"


def in_json(content: Any, generator: random.Random) -> tuple[bytes, str]:
    """Return JSON with one value replaced, renamed or removed, or nested deeply."""
    places: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        item = waiting.pop()
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        for key, value in pairs:
            places.append((item, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    inside, key = generator.choice(places)
    value = generator.choice(VALUES)
    how = generator.choice(("replaced", "replaced", "replaced", "removed", "renamed", "nested"))
    if how == "removed":
        del inside[key]
    elif how == "renamed" and isinstance(inside, dict):
        inside["x\x1b[2J"] = inside.pop(key)
    elif how == "nested":
        inside[key] = "NESTED"
        return json.dumps(content).replace('"NESTED"', "[" * 50_000 + "]" * 50_000).encode(), f"{key!r} nested"
    else:
        inside[key] = value
    return json.dumps(content).encode(), f"{key!r} {how} by {value!r}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    main(options.files, options.seed)
