"""Kill a run at random moments, again and again, and see that it ends as if it never had been.

    KERAS_BACKEND=torch python tests/kill_test.py --kills 50
    KERAS_BACKEND=torch python tests/kill_test.py --kills 50 --protocol finetune
    KERAS_BACKEND=torch python tests/kill_test.py --kills 50 --protocol prepare

A small model trains in a process of its own, with a checkpoint after every step, or, of every second run, after none
but by the clock. It is killed with SIGKILL, or in two of five times with SIGTERM or Ctrl-C, up to two seconds after
its first step, which compiles, and started again until it is done; then the next run is begun, until there were
enough kills. Fine-tuning ends with its best epoch. Final weights and optimizer must be those of a run that was left
alone, bit for bit, and `history.csv` must be the same. `prepare` packs 120 images into fifteen shards, and must leave
the same files with the same bytes.
`test_resume.py` and `test_preparation.py` run a small form.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import processes

ROOT = Path(__file__).parent.parent
BEGUN = "begun"
PROTOCOLS = ("pretrain", "finetune", "probe", "prepare")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGKILL)  # again and again
STOPPED = {signal.SIGKILL: (-signal.SIGKILL,), signal.SIGTERM: (-signal.SIGTERM, 143), signal.SIGINT: (130,)}


@dataclass
class Counts:
    """What happened."""

    kills: int = 0
    terminated: int = 0
    interrupted: int = 0
    inside_a_write: int = 0
    runs: int = 0


def main(kills: int, seed: int = 0, epochs: int = 4, say: bool = True, protocol: str = "pretrain") -> Counts:
    """Raises `SystemExit` if a killed run ends otherwise than one that was left alone."""
    generator, counts = random.Random(seed), Counts()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if protocol == "prepare":
            write_images(work / "images")
        with start(work / "alone", epochs, protocol) as process:
            process.communicate()
        if process.returncode:
            raise SystemExit(f"the run that was left alone stopped with status {process.returncode}")
        wanted = outcome(work / "alone")
        while counts.kills < kills:
            counts.runs += 1
            run = work / f"run-{counts.runs}"
            while not killed_or_done(run, epochs, generator, counts, kills, protocol):
                pass
            if (ended := outcome(run)) != wanted:
                other = "weights" if ended[0] != wanted[0] else "history"
                raise SystemExit(f"run {counts.runs}'s {other} is not that of the one left alone; seed {seed}")
            if say:
                print(f"{counts}: the same", flush=True)
    return counts


def outcome(run: Path) -> object:
    """Final weights and history of a run; of a prepared folder, all files."""
    if not (run / "history.csv").exists():
        return {path.name: path.read_bytes() for path in run.iterdir()}
    return (run.with_suffix(".weights")).read_bytes(), (run / "history.csv").read_text()


def killed_or_done(
    run: Path, epochs: int, generator: random.Random, counts: Counts, kills: int, protocol: str
) -> bool:
    """Start, or go on; kill after a while. Whether the run got to its end."""
    with start(run, epochs, protocol, every_step=counts.runs % 2 == 1) as process:
        for line in process.stdout or ():
            if line.strip() == BEGUN:
                break
        how = SIGNALS[counts.kills % len(SIGNALS)]
        if counts.kills < kills:
            moment = threading.Timer(generator.uniform(0, 2), process.send_signal, [how])
            moment.start()
        process.communicate()
        if counts.kills < kills:
            moment.cancel()
    if process.returncode == 0:
        return True
    if process.returncode not in STOPPED[how]:
        raise SystemExit(f"the run stopped with status {process.returncode} on {how.name}")
    counts.kills += 1
    counts.terminated += how is signal.SIGTERM
    counts.interrupted += how is signal.SIGINT
    counts.inside_a_write += any((run if protocol == "prepare" else run / "checkpoints").glob(".writing-*"))
    return False


def start(run: Path, epochs: int, protocol: str, every_step: bool = True) -> processes.Popen:
    """The training process."""
    command = [sys.executable, __file__, "--train", run, "--epochs", epochs, "--protocol", protocol]
    return processes.Popen([*command, *["--every-step"] * every_step])


def write_images(folder: Path) -> None:
    """Images of noise, as many as there are to train with."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    for number in range(120):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 36, 3), "uint8")
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


def prepare(run: Path) -> None:
    """One go at a prepared folder, at a hundred images a second."""
    from keras_mae import data

    def progress(done: int, total: int) -> None:
        time.sleep(0.01)

    print(BEGUN, flush=True)  # killed while it looks at what there is, too
    data.prepare(run.parent / "images", run, short_side=16, images_per_shard=8, progress=progress)


def train(run: Path, epochs: int, protocol: str, every_step: bool) -> None:
    """One go at the run."""
    import io

    import keras
    import numpy as np
    from rich.console import Console

    import keras_mae

    class Begun(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            if not self.said:
                print(BEGUN, flush=True)
            self.said = True

        said = False

    images = np.random.default_rng(0).integers(0, 256, (120, 8, 12, 1), "uint8")
    labels = np.arange(120) % 3
    keras.utils.set_random_seed(0)
    kind = {"pretrain": "PretrainRecipe", "finetune": "FineTuneRecipe", "probe": "LinearProbeRecipe"}[protocol]
    recipe = getattr(keras_mae.recipes, kind).for_size("small_images", epochs=epochs, warmup_epochs=0, batch_size=8)
    if protocol == "finetune":
        recipe = replace(recipe, best_epoch=True, monitor="val_loss")
    encoder = keras_mae.ViTEncoder((8, 12, 1), 4, embed_dim=24, depth=2, num_heads=3, drop_path_rate=0.2)
    options = {
        "callbacks": [Begun()],
        "console": Console(file=io.StringIO()),
        "saving": keras_mae.training.Saving(resume=True, every_steps=1 if every_step else None),
    }
    if protocol == "pretrain":
        mae = keras_mae.MaskedAutoencoder(
            encoder, keras_mae.CrossAttentionDecoder(16, 1, 2), **{**recipe.model_arguments, "seed": 1}
        )
        data = keras_mae.data.from_arrays(images, batch_size=8, drop_remainder=True)
        keras_mae.training.run_pretraining(mae, data, recipe, run, examples=images[:2], **options)
    else:
        train_run = {
            "finetune": keras_mae.training.run_fine_tuning,
            "probe": keras_mae.training.run_linear_probe,
        }[protocol]
        data = keras_mae.data.from_arrays(images, labels, batch_size=8, drop_remainder=True)
        test = keras_mae.data.from_arrays(images[:24], labels[:24], batch_size=24, shuffle=False)
        if protocol == "finetune":
            options["validation_data"] = keras_mae.data.from_arrays(
                255 - images[:24], labels[:24], batch_size=24, shuffle=False
            )
        train_run(encoder, data, test, recipe, run, class_names=("a", "b", "c"), **options)
    if not run.with_suffix(".weights").exists():
        saved = keras.saving.load_model(run / ("model.keras" if protocol == "pretrain" else "classifier.keras"))
        values = [keras.ops.convert_to_numpy(value) for value in (*saved.weights, *saved.optimizer.variables)]
        unfinished = run.with_suffix(".unfinished")  # this, too, may be killed
        unfinished.write_bytes(b"".join(value.tobytes() for value in values))
        unfinished.replace(run.with_suffix(".weights"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4, help="of 15 steps")
    parser.add_argument("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0])
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--every-step", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells turn off in the background
        try:
            if options.protocol == "prepare":
                prepare(options.train)
            else:
                train(options.train, options.epochs, options.protocol, options.every_step)
        except KeyboardInterrupt:  # as the command does
            sys.exit(130)
    else:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        sys.path.insert(0, str(ROOT))
        main(options.kills, options.seed, options.epochs, protocol=options.protocol)
