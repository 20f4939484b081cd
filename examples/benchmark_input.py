"""Time the input pipeline: read a JPEG file, decode it, RandomResizedCrop to 224 px, flip, batch.

keras_mae's two loaders and the pipeline people would pick instead: a PyTorch DataLoader with torchvision's
transforms, written out with Pillow because torchvision does not install everywhere (its own makes the same calls of
Pillow). Every contestant is a process of its own; all are pinned to the same core and take turns, and a figure is
images for each second of that core that the contestant and its workers had. All read the same 2,000 JPEG files of
500 × 375, cut from photographs on first use.

    pip install ".[tensorflow,torch,data,fast,examples]"    # torch: a CPU build will do
    python examples/benchmark_input.py               # photographs: Debian's mate-backgrounds, lomiri-wallpapers-16.04
    python examples/benchmark_input.py --photos ~/Pictures
    python examples/benchmark_input.py --contestants tf.data fine-tuning fine-tuning-grain augmentation
    python examples/benchmark_input.py --contestants tf.data grain --memory 20000    # MiB while so many stream by
    pip install ".[tiff,dicom,hdf5,zarr]"
    python examples/benchmark_input.py --kind bands    # files of the sciences: see KINDS; only our loaders read them
    python examples/benchmark_input.py --kind bands --contestants tf.data grain --memory 20000

Seen (images for each second of one busy core of an Intel Xeon): tf.data 451, Grain 444 with threads and 438 with a
process; with fast crops 719 and 711; the DataLoader without a worker 324 as usual and 467 with uint8; decoding alone
1,076 and resizing alone 1,113, both by Pillow. Memory, on another machine: 689 MiB after 2,000 images and 687 after
20,000 (tf.data), 679 and 675 (Grain).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from science_files import KINDS, make_numbers

SIZE, BATCH = 224, 64
SMALL = 96
CONTESTANTS = {
    "tf.data": "keras_mae, tf.data",
    "grain": "keras_mae, Grain, threads",
    "grain-process": "keras_mae, Grain, 1 process",
    "fast": "keras_mae, tf.data, fast crops",
    "fast-grain": "keras_mae, Grain, threads, fast crops",
    "torch": "DataLoader, 1 worker, as usual: float32, normalised",
    "torch-inline": "DataLoader, no worker, as usual",
    "torch-uint8": "DataLoader, 1 worker, uint8",
    "torch-uint8-inline": "DataLoader, no worker, uint8",
    "decoder": "Pillow decodes, nothing else",
    "resizer": "Pillow resizes decoded images, nothing else",
    "fast-decoder": "simplejpeg decodes, nothing else",
    "fast-resizer": "cykooz-resizer resizes decoded images, nothing else",
    "fine-tuning": "keras_mae, tf.data, and the fine-tuning augmentation",
    "fine-tuning-grain": "keras_mae, Grain, and the fine-tuning augmentation",
    "augmentation": "the fine-tuning augmentation, nothing else",
}
DEFAULT, OURS = list(CONTESTANTS)[:-3], list(CONTESTANTS)[:3]
REFERENCES = ("torch-uint8", "torch-uint8-inline")  # the faster one: what does the same as we, and no more


# === In a contestant's process: each yields the number of images in a batch, for ever ===
def keras_mae_batches(folder: Path, loader: str, workers: int | None, fast: bool = False) -> Iterator[int]:
    """keras_mae's loaders; the encoder normalises, so batches stay uint8."""
    from keras_mae import data

    options = {"loader": loader, "workers": workers, "drop_remainder": True}
    if fast:
        options["crop"] = data.RandomResizedCrop(fast=True)
    if folder.name in KINDS:
        dataset = data.make_dataset(opened(folder), BATCH, **options)
    else:
        dataset = data.from_directory(folder, SIZE, BATCH, **options)
    while True:
        if loader == "grain":
            dataset.on_epoch_begin()
        for batch in dataset:
            yield len(batch)
        if loader == "grain":
            dataset.on_epoch_end()


def opened(folder: Path) -> Any:
    """Return the source of a folder, or of an array in it, of a kind of the sciences."""
    from keras_mae import data

    (_, _, channels), _, pixel_range, ending = KINDS[folder.name]
    source = f"{folder / 'images'}.{ending}::images" if ending in ("h5", "zarr") else folder
    return data.open_directory(source, SMALL, channels, pixel_range=pixel_range)


def augmented_batches(folder: Path, loader: str) -> Iterator[int]:
    """Files read, decoded and cut, and ViT-B's fine-tuning augmentation of them; from uint8 to float32 batches."""
    from keras_mae import data

    source = data.FolderSource(folder, SIZE)
    source.labels, source.labeled = np.arange(len(source)) % 1000, True  # any will do
    dataset = data.make_dataset(source, BATCH, drop_remainder=True, loader=loader, augment=augmentation())
    while True:
        if loader == "grain":
            dataset.on_epoch_begin()
        for images, _ in dataset:
            yield len(images)
        if loader == "grain":
            dataset.on_epoch_end()


def augmentation_alone(folder: Path) -> Iterator[int]:
    """ViT-B's fine-tuning augmentation of photographs in memory: nothing is read, decoded or cut."""
    from keras_mae import data

    paths, shape = sorted(folder.glob("*.jpg"))[: 4 * BATCH], (SIZE, SIZE, 3)
    batches = [np.stack([data.read_image(path, shape) for path in paths[first::4]]) for first in range(4)]
    augment = augmentation()
    while True:
        for images in batches:
            yield len(augment(images, np.arange(len(images)))[0])


def augmentation() -> Any:
    """Return the augmentation of the recipe for ViT-B."""
    from keras_mae import data, recipes

    return data.Augmentation(1000, **recipes.FineTuneRecipe.for_size("base").augmentation)


def torch_batches(folder: Path, workers: int, normalised: bool) -> Iterator[int]:
    """Return a DataLoader over torchvision's recipe: RandomResizedCrop, flip, ToTensor, Normalize."""
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    paths = sorted(folder.glob("*.jpg"))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def box(width: int, height: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * torch.empty(1).uniform_(0.2, 1.0).item()
            ratio = torch.exp(torch.empty(1).uniform_(np.log(3 / 4), np.log(4 / 3))).item()
            w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if w <= width and h <= height:
                top = int(torch.randint(0, height - h + 1, (1,)))
                left = int(torch.randint(0, width - w + 1, (1,)))
                return left, top, left + w, top + h
        return 0, 0, width, height

    class Folder(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            with open(paths[index], "rb") as file:
                image = Image.open(file).convert("RGB")
            image = image.crop(box(*image.size)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            if torch.rand(1).item() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
            if not normalised:
                return pixels
            return pixels.to(torch.float32).div(255).sub_(mean[:, None, None]).div_(deviation[:, None, None])

    options = {"num_workers": workers, "persistent_workers": workers > 0, "drop_last": True}
    loader = torch.utils.data.DataLoader(Folder(), BATCH, shuffle=True, **options)
    while True:
        for batch in loader:
            yield len(batch)


def decoder(folder: Path, fast: bool = False) -> Iterator[int]:
    """Measure what decoding alone allows."""
    import io

    from PIL import Image

    from keras_mae.data.fast import decoded

    contents = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))[:512]]
    while True:
        for content in contents:
            image = Image.open(io.BytesIO(content))
            _ = decoded(image) if fast else image.load()
            yield 1


def resizer(folder: Path, fast: bool = False) -> Iterator[int]:
    """Measure what resizing alone allows."""
    from PIL import Image

    from keras_mae.data import RandomResizedCrop
    from keras_mae.data.fast import resized

    images = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))[:256]]
    arrays = [np.asarray(image) for image in images]
    crop, generator = RandomResizedCrop(), np.random.default_rng(0)
    while True:
        for image, array in zip(images, arrays, strict=True):
            part = crop(*image.size, (SIZE, SIZE), generator)[:4]
            if fast:
                resized(array, part, (SIZE, SIZE))
            else:
                np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=part))
            yield 1


BATCHES: dict[str, Callable[[Path], Iterator[int]]] = {
    "tf.data": lambda folder: keras_mae_batches(folder, "tf.data", None),
    "grain": lambda folder: keras_mae_batches(folder, "grain", None),
    "grain-process": lambda folder: keras_mae_batches(folder, "grain", 1),
    "fast": lambda folder: keras_mae_batches(folder, "tf.data", None, fast=True),
    "fast-grain": lambda folder: keras_mae_batches(folder, "grain", None, fast=True),
    "torch": lambda folder: torch_batches(folder, 1, True),
    "torch-inline": lambda folder: torch_batches(folder, 0, True),
    "torch-uint8": lambda folder: torch_batches(folder, 1, False),
    "torch-uint8-inline": lambda folder: torch_batches(folder, 0, False),
    "decoder": decoder,
    "resizer": resizer,
    "fast-decoder": lambda folder: decoder(folder, fast=True),
    "fast-resizer": lambda folder: resizer(folder, fast=True),
    "fine-tuning": lambda folder: augmented_batches(folder, "tf.data"),
    "fine-tuning-grain": lambda folder: augmented_batches(folder, "grain"),
    "augmentation": augmentation_alone,
}


def work(contestant: str, folder: Path) -> None:
    """Load so many images for every line that comes in; answer with images a CPU second and the memory in use."""
    import psutil

    batches, me = BATCHES[contestant](folder), psutil.Process()

    def processes() -> list[psutil.Process]:
        return [me, *me.children(recursive=True)]

    def cpu_seconds() -> float:
        return sum(sum(process.cpu_times()[:4]) for process in processes())  # own and ended children's

    for _ in range(64 if contestant.endswith(("decoder", "resizer")) else 3):  # start workers, load ahead
        next(batches)
    print("ready", flush=True)
    for line in sys.stdin:
        wanted, loaded, start = int(line), 0, cpu_seconds()
        while loaded < wanted:
            loaded += next(batches)
        seconds = cpu_seconds() - start
        memory = sum(process.memory_info().rss for process in processes())
        print(f"loaded {loaded / seconds} {memory / 2**20}", flush=True)


# === In the process that asks ===
class Contestant:
    """A contestant's process. All stop while one works, so that what it loads ahead is loaded in its own time."""

    def __init__(self, name: str, folder: Path, core: int | None, python: str):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        command = [python, __file__, "--worker", name, str(folder), str(-1 if core is None else core)]
        self.name, self.rates, self.memory = name, list[float](), list[float]()
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect("ready")
        self._stop(True)

    def _expect(self, word: str) -> list[str]:
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()
        raise SystemExit(f"{self.name} stopped with status {self.process.wait()}")

    def _stop(self, stop: bool) -> None:
        import psutil

        process = psutil.Process(self.process.pid)
        for one in [process, *process.children(recursive=True)]:
            one.suspend() if stop else one.resume()

    def load(self, images: int) -> None:
        self._stop(False)
        self.process.stdin.write(f"{images}\n")
        self.process.stdin.flush()
        _, rate, memory = self._expect("loaded")
        self._stop(True)
        self.rates.append(float(rate))
        self.memory.append(float(memory))

    def close(self) -> None:
        self._stop(False)
        self.process.kill()
        self.process.wait()


def make_images(photos: Path, folder: Path, count: int) -> None:
    """`count` crops of 500 × 375 from photographs, as JPEG; the same every time."""
    from PIL import Image

    if len(list(folder.glob("*.jpg"))) >= count:
        return
    found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"There are no photographs in {photos}: name a folder that has some with --photos")
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number, path in enumerate(found):
        with Image.open(path) as file:
            image = file.convert("RGB")
        for made in range(number, count, len(found)):
            scale = generator.uniform(1, min(image.size[0] / 500, image.size[1] / 375))
            left = generator.uniform(0, image.size[0] - 500 * scale)
            top = generator.uniform(0, image.size[1] - 375 * scale)
            box = (left, top, left + 500 * scale, top + 375 * scale)
            crop = image.resize((500, 375), Image.Resampling.BICUBIC, box=box)
            crop.save(folder / f"{made:05d}.jpg", quality=90)


def memory_over(contestant: Contestant, images: int) -> None:
    """Print the memory in use while so many images stream by."""
    for _ in range(10):
        contestant.load(images // 10)
    figures = ", ".join(f"{memory:.0f}" for memory in contestant.memory)
    print(f"{CONTESTANTS[contestant.name]}: MiB in use over {images:,} images: {figures}")


def main() -> None:
    """Compare as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photos", type=Path, default=Path("/usr/share/backgrounds"), help="folder of photographs")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark_input"), help="where the crops are kept")
    parser.add_argument("--files", type=int, default=2000, help="crops to make")
    parser.add_argument("--kind", choices=["photographs", *KINDS], default="photographs", help="kind of files")
    parser.add_argument("--contestants", nargs="+", choices=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1280, help="loaded in each turn")
    parser.add_argument("--core", type=int, default=0, help="the core all are pinned to; -1 for all cores")
    parser.add_argument("--memory", type=int, default=0, metavar="IMAGES", help="watch memory over so many instead")
    parser.add_argument("--python", default=sys.executable, help="the contestants' interpreter")
    options = parser.parse_args()
    folder, contestants = options.folder, options.contestants or DEFAULT
    if options.kind in KINDS:
        folder, contestants = folder / options.kind, options.contestants or OURS
        make_numbers(options.kind, folder, options.files)
    else:
        make_images(options.photos, folder, options.files)
    core = None if options.core < 0 else options.core
    running = [Contestant(name, folder, core, options.python) for name in contestants]
    if options.memory:
        for contestant in running:
            memory_over(contestant, options.memory)
    else:
        for _ in range(options.rounds):
            for contestant in running:
                contestant.load(options.images)
        report(running)
    for contestant in running:
        contestant.close()


def report(running: list[Contestant]) -> None:
    """Print the table."""
    medians = {contestant.name: statistics.median(contestant.rates) for contestant in running}
    best = max((medians[name] for name in REFERENCES if name in medians), default=None)
    print(f"{'images a second of one core':54}median    min    max   against the best DataLoader of uint8")
    for contestant in running:
        rate = medians[contestant.name]
        ratio = f"{rate / best:12.2f}×" if best else ""
        print(
            f"{CONTESTANTS[contestant.name]:54}{rate:6.0f} {min(contestant.rates):6.0f} "
            f"{max(contestant.rates):6.0f} {ratio}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, name, folder, core = sys.argv
        if core != "-1" and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {int(core)})
        work(name, Path(folder))
    else:
        main()
