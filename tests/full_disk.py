"""Let a run fill its disk at random sizes, and see that it says so, loses nothing, and goes on when there is room.

    KERAS_BACKEND=torch unshare --map-root-user --mount python tests/full_disk.py --fills 50

Each time a tmpfs of a random size, from too small for one checkpoint to nearly large enough for a run, takes the run
of `kill_test.py`. It must end with one line that names the error, by no signal and with no traceback; the checkpoints
that are there must be whole; and with more room the same run must end with the weights, the optimizer and the history
of one that always had it, bit for bit. Every third fill is a limit on the size of a file (`ulimit -f`) and no full
disk. As root, or where user namespaces are allowed, as above. `test_saving.py` runs a small form.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import kill_test
import processes

ROOT = Path(__file__).parent.parent
FULL, TOO_LARGE = "[Errno 28] ", "[Errno 27] "


@dataclass
class Counts:
    """What happened."""

    fills: int = 0
    fitted: int = 0
    disk_full: int = 0
    file_too_large: int = 0
    with_checkpoints: int = 0


def main(fills: int, seed: int = 0, epochs: int = 1, say: bool = True) -> Counts:
    """Raises `SystemExit` if a run on a full disk does not end as it should."""
    generator, counts = random.Random(seed), Counts()
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        status, printed = trained(Path(folder) / "alone", epochs)
        if status:
            raise SystemExit(f"the run that was left alone stopped with status {status}: {printed}")
        wanted = kill_test.outcome(Path(folder) / "alone")
        model = (Path(folder) / "alone" / "model.keras").stat().st_size
        while counts.fills < fills:
            counts.fills += 1
            by_file = counts.fills % 3 == 0
            size = generator.randrange(20_000, int(model * 1.1) if by_file else 6 * model)
            mount("-t", "tmpfs", "-o", f"size={2**26 if by_file else size}", "tmpfs", disk)
            try:
                filled(disk / "run", epochs, size if by_file else 0, counts)
                mount("-o", f"remount,size={2**26}", disk)
                status, printed = trained(disk / "run", epochs)
                if status or kill_test.outcome(disk / "run") != wanted:
                    raise SystemExit(f"fill {counts.fills} ({size} bytes, seed {seed}) ended otherwise: {printed}")
            finally:
                subprocess.run(["umount", disk], check=True)
            if say:
                print(f"{counts}: the same", flush=True)
    return counts


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def filled(run: Path, epochs: int, limit: int, counts: Counts) -> None:
    """Train where there is too little room, and see how it ends and what is left."""
    status, printed = trained(run, epochs, limit)
    lines = printed.strip().splitlines()
    named = status == 2 and lines and lines[-1].startswith((f"Error: {FULL}", f"Error: {TOO_LARGE}"))
    if (status and not named) or "Traceback" in printed or "Exception ignored" in printed:
        raise SystemExit(f"the run stopped with status {status}: {printed}")
    counts.fitted += status == 0
    counts.disk_full += FULL in printed
    counts.file_too_large += TOO_LARGE in printed
    checkpoints = list((run / "checkpoints").glob("step-*"))
    counts.with_checkpoints += bool(checkpoints)
    for path in checkpoints:
        for name, checksum in json.loads((path / "state.json").read_text())["sha256"].items():
            if hashlib.sha256((path / name).read_bytes()).hexdigest() != checksum:
                raise SystemExit(f"{path / name} is damaged")


def trained(run: Path, epochs: int, limit: int = 0) -> tuple[int | None, str]:
    """The status of the training process, and what it printed."""
    command = [sys.executable, __file__, "--train", run, "--epochs", epochs, "--limit", limit]
    with processes.Popen(command) as process:
        printed, _ = process.communicate()
    return process.returncode, printed


def train(run: Path, epochs: int, limit: int) -> None:
    """One go at the run, whose errors are answered as the command line does."""
    import resource

    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        kill_test.train(run, epochs, "pretrain", every_step=True)
    except OSError as error:
        print(f"Error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--fills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1, help="of 15 steps")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.epochs, options.limit)
    else:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        sys.path.insert(0, str(ROOT))
        main(options.fills, options.seed, options.epochs)
