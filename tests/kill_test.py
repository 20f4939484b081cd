"""Kill a run at random moments, again and again, and see that it ends as if it never had been.

    KERAS_BACKEND=torch python tests/kill_test.py --kills 50

A small masked autoencoder trains in a process of its own, with a checkpoint after every step. It is killed with
SIGKILL, or every fifth time with SIGTERM, up to two seconds after its first step, which compiles, and started again
until it is done; then the next run is begun, until there were enough kills. Final weights and optimizer must be those
of a run that was left alone, bit for bit, and `history.csv` must be the same. `test_resume.py` runs a small form.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import processes

ROOT = Path(__file__).parent.parent
BEGUN = "begun"


@dataclass
class Counts:
    """What happened."""

    kills: int = 0
    terminated: int = 0
    inside_a_write: int = 0
    runs: int = 0


def main(kills: int, seed: int = 0, epochs: int = 4, say: bool = True) -> Counts:
    """Raises `SystemExit` if a killed run ends otherwise than one that was left alone."""
    generator, counts = random.Random(seed), Counts()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with start(work / "alone", epochs) as process:
            process.communicate()
        if process.returncode:
            raise SystemExit(f"the run that was left alone stopped with status {process.returncode}")
        wanted = outcome(work / "alone")
        while counts.kills < kills:
            counts.runs += 1
            run = work / f"run-{counts.runs}"
            while not killed_or_done(run, epochs, generator, counts, kills):
                pass
            if outcome(run) != wanted:
                raise SystemExit(f"run {counts.runs} ended otherwise than the one that was left alone; seed {seed}")
            if say:
                print(f"{counts}: the same", flush=True)
    return counts


def outcome(run: Path) -> tuple[bytes, str]:
    """Final weights and history of a run."""
    return (run.with_suffix(".weights")).read_bytes(), (run / "history.csv").read_text()


def killed_or_done(run: Path, epochs: int, generator: random.Random, counts: Counts, kills: int) -> bool:
    """Start, or go on; kill after a while. Whether the run got to its end."""
    with start(run, epochs) as process:
        for line in process.stdout or ():
            if line.strip() == BEGUN:
                break
        gentle = counts.kills % 5 == 1
        if counts.kills < kills:
            moment = threading.Timer(
                generator.uniform(0, 2), process.send_signal, [signal.SIGTERM if gentle else signal.SIGKILL]
            )
            moment.start()
        process.communicate()
        if counts.kills < kills:
            moment.cancel()
    if process.returncode == 0:
        return True
    if process.returncode not in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
        raise SystemExit(f"the run stopped with status {process.returncode}")
    counts.kills += 1
    counts.terminated += gentle
    counts.inside_a_write += any((run / "checkpoints").glob(".writing-*"))
    return False


def start(run: Path, epochs: int) -> processes.Popen:
    """The training process."""
    return processes.Popen([sys.executable, __file__, "--train", run, "--epochs", epochs])


def train(run: Path, epochs: int) -> None:
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
    keras.utils.set_random_seed(0)
    recipe = keras_mae.recipes.PretrainRecipe(epochs=epochs, warmup_epochs=0, batch_size=8)
    encoder = keras_mae.ViTEncoder((8, 12, 1), 4, embed_dim=24, depth=2, num_heads=3, drop_path_rate=0.2)
    mae = keras_mae.MaskedAutoencoder(
        encoder, keras_mae.MAEDecoder(16, 1, 2), norm_pix_loss=recipe.norm_pix_loss, seed=1
    )
    keras_mae.training.run_pretraining(
        mae,
        keras_mae.data.from_arrays(images, batch_size=8, drop_remainder=True),
        recipe,
        run,
        examples=images[:2],
        callbacks=[Begun()],
        console=Console(file=io.StringIO()),
        saving=keras_mae.training.Saving(resume=True, every_steps=1),
    )
    if not run.with_suffix(".weights").exists():
        saved = keras.saving.load_model(run / "model.keras")
        values = [keras.ops.convert_to_numpy(value) for value in (*saved.weights, *saved.optimizer.variables)]
        run.with_suffix(".weights").write_bytes(b"".join(value.tobytes() for value in values))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4, help="of 15 steps")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.epochs)
    else:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        sys.path.insert(0, str(ROOT))
        main(options.kills, options.seed, options.epochs)
