"""Images a second in one process and in two, and the memory of each: what spreading a run over devices costs.

    KERAS_BACKEND=torch python examples/benchmark_scaling.py
    KERAS_BACKEND=torch python examples/benchmark_scaling.py --size base --batch 2 --engine torch_fsdp
    KERAS_BACKEND=tensorflow python examples/benchmark_scaling.py --processes 1 2 --size base

Each process is pinned to a core of its own, with one thread, and takes its part of every global batch, which grows
with the number of processes (weak scaling): with no cost at all twice the processes would do twice the images. The
runs take turns; the median of the turns is printed. Not for GPUs, where one would start the script itself with
torchrun: see docs/accelerators.md for what their numbers must be.

Seen on two CPU cores of one machine, ViT-S (25 M parameters with the decoder), 8 images a process, two turns:

                      1 process   2 processes   of what is possible
    PyTorch                7.77         11.51                  74 %
    TensorFlow             6.08          7.74                  64 %
    JAX                    3.42          5.71                  83 %

The two cores share caches and memory, which alone costs a part of it; gradients of 100 MB go through the loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}  # embed_dim, depth, num_heads
ENGINES = {"tensorflow": ["multi_worker"], "jax": ["data_parallel"], "torch": ["torch_ddp", "torch_fsdp"]}
WARM_UP, STEPS = 2, 6


def work(options: argparse.Namespace) -> None:
    """One process of a run: print the seconds of a step."""
    import keras
    import numpy as np

    import keras_mae
    from keras_mae import distribution

    class Clock(keras.callbacks.Callback):
        """When each step ended."""

        ends: list[float] = []  # noqa: RUF012

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])  # an accelerator, or JAX, may not have done it yet
            self.ends.append(time.perf_counter())

    engines = ENGINES[keras.backend.backend()]
    if (options.engine or engines[0]) not in engines:
        raise SystemExit(f"--engine must be one of {', '.join(engines)}. Received: {options.engine}")
    engine = "none" if options.parts == 1 else options.engine or engines[0]
    with distribution.scope(engine) as devices:
        width, depth, heads = SIZES[options.size]
        encoder = keras_mae.ViTEncoder((224, 224, 3), 16, embed_dim=width, depth=depth, num_heads=heads)
        mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(256, depth=4, num_heads=8))
        mae.compile(keras_mae.optimizers.AdamW(1e-4))
        batch = options.batch * devices.replicas
        images = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype="uint8")
        steps = WARM_UP + STEPS
        dataset = keras_mae.data.from_arrays(np.tile(images, (steps, 1, 1, 1)), batch_size=batch, drop_remainder=True)
        mae.fit(dataset, shuffle=False, verbose=0, callbacks=[Clock()])
        if devices.is_main:
            times = [end - begin for begin, end in zip(Clock.ends, Clock.ends[1:], strict=False)][WARM_UP - 1 :]
            found = {"seconds": statistics.median(times), "parameters": mae.count_params(), "memory": most_memory()}
            print(json.dumps(found), flush=True)


def most_memory() -> float:
    """Return the most GiB of this process at once, the libraries included: resident, or on PyTorch's GPU."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(parts: int, options: argparse.Namespace) -> dict[str, float]:
    """Return what the first of `parts` processes printed."""
    ports = []
    for _ in range(parts):
        with socket.socket() as found:
            found.bind(("localhost", 0))
            ports.append(found.getsockname()[1])
    cores = sorted(os.sched_getaffinity(0))
    processes = []
    for part in range(parts):
        addresses = [f"localhost:{port}" for port in ports]
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": part}}
        several = {
            "TF_CONFIG": json.dumps(cluster),
            "RANK": str(part),
            "WORLD_SIZE": str(parts),
            "LOCAL_RANK": str(part),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(ports[0]),
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses[0],
            "KERAS_DISTRIBUTION_NUM_PROCESSES": str(parts),
            "KERAS_DISTRIBUTION_PROCESS_ID": str(part),
        }
        core = cores[part % len(cores)]
        processes.append(
            subprocess.Popen(
                [sys.executable, *sys.argv, "--parts", str(parts)],
                env={**os.environ, "OMP_NUM_THREADS": "1", **(several if parts > 1 else {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}),
            )
        )
    printed = [process.communicate() for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("\n".join(error[-3000:] for _, error in printed))
    return json.loads(printed[0][0].splitlines()[-1])


def main() -> None:
    """Take turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes to compare")
    parser.add_argument("--size", choices=SIZES, default="small", help="ViT with patches of 16 pixels, 224 px")
    parser.add_argument("--batch", type=int, default=8, help="images a process and step")
    parser.add_argument("--engine", help="of several processes; by default the first that the backend has here")
    parser.add_argument("--rounds", type=int, default=3, help="turns")
    parser.add_argument("--parts", type=int, help=argparse.SUPPRESS)  # set in a process of a run
    options = parser.parse_args()
    if options.parts:
        work(options)
        return
    found: dict[int, list[dict[str, float]]] = {parts: [] for parts in options.processes}
    for _ in range(options.rounds):
        for parts in options.processes:
            found[parts].append(run(parts, options))
    first = options.processes[0]
    rates = {
        parts: parts * options.batch / statistics.median(turn["seconds"] for turn in turns)
        for parts, turns in found.items()
    }
    print(f"ViT-{options.size}, {found[first][0]['parameters']:,.0f} parameters, {options.batch} images a process")
    print(f"{'processes':>10}{'images/s':>10}{'times':>8}{'of what is possible':>21}{'GiB of each':>13}")
    for parts, rate in rates.items():
        ratio, memory = rate / rates[first], statistics.median(turn["memory"] for turn in found[parts])
        print(f"{parts:>10}{rate:>10.2f}{ratio:>8.2f}{ratio * first / parts:>21.0%}{memory:>13.2f}")


if __name__ == "__main__":
    main()
