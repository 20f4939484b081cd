"""Time one full training step: forward, backward, update.

keras_mae on each backend, the same model written by hand in plain PyTorch, `transformers`' ViTMAE on PyTorch, and
keras_mae with mask tokens in the encoder (what the method saves: the paper's 3×). Every contestant is a process of
its own that holds its model; all are pinned to the same core with one thread, and take turns A B C A B C, so that
whatever else the machine does hits all alike. One large product of matrices takes turns with them: the peak, of which
each time is a share, is its fastest turn. The tables are Markdown, for docs/benchmarks.md.

    python examples/benchmark_step.py                                   # ViT-S/16, all backends installed here
    python examples/benchmark_step.py --sizes small base micro photos96 --rounds 7
    python examples/benchmark_step.py --python jax=.tox/jax/bin/python --python torch=.tox/torch/bin/python

    python examples/benchmark_step.py --contestants decoders --dtypes float32   # MAEDecoder and CrossAttentionDecoder
    python examples/benchmark_step.py --device gpu --sizes base large --batch 128                # one after the other

On a GPU a contestant has the card to itself and every core; a turn is twenty steps of `model.fit`, from bytes in the
host's memory, with one wait for the device at its end. Stderr then says what each contestant took as soon as it is
done, and the kernels that its attention ran on. Memory is the framework's peak there; on a CPU it is the largest
resident set of the whole process, Python and its libraries included.

`micro` (28 px) and `photos96` are sizes that are trained on CPUs: the models of the recipe for small images, whose
decoder is by cross-attention and predicts a third of the removed patches; that of `transformers` can do neither.
`ready` is how long the first two turns took, compiling included.

`torch-compiled` and `by-hand-compiled` are the blocks of keras_mae and of the loop by hand through `torch.compile`;
`tensorflow-compiled` and `tensorflow-graph` are the whole step through XLA and none of it; unasked, parts of it are,
on a CPU.

A backend that is not in this environment takes `--python BACKEND=INTERPRETER`. `decoders` is short for self-75,
self-50, self-25 and cross-75, cross-50, cross-25: a step in which 75, 50 or 25 % of all patches are predicted, by an
`MAEDecoder` or a `CrossAttentionDecoder` of the same width and depth, on the backend that `--decoder-backend` names.

What was seen is in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import contestants
import machine
import numpy as np
from contestants import DECODERS, SIZES

COMPILED = {"torch-compiled": "True", "tensorflow-compiled": "True", "tensorflow-graph": "False"}
CONTESTANTS = ("torch", "tensorflow", "jax", "by-hand", "transformers", "transformers-fused", "mask-tokens")
STEPS_ON_GPU = 20  # a turn; the device is waited for once
PRODUCT = {"cpu": 2048, "gpu": 8192}  # rows and columns of the matrices whose product is the peak


# === In a contestant's process ===
def work(contestant: str, size: str, dtype: str, batch: int, on_gpu: bool) -> None:
    """Run a turn for every line that comes in; answer with the seconds that a step of it took, and in the end say
    what it took."""
    if on_gpu:
        machine.allow_tensor_cores(dtype)
    run = contestants.steps(contestant, SIZES[size], dtype, batch)
    count = STEPS_ON_GPU if on_gpu else 1
    began = time.perf_counter()
    for _ in range(2):  # compile, and let the allocators settle
        run(count)
    print(f"ready {time.perf_counter() - began}", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = run(count)
        if not np.isfinite(loss):
            raise RuntimeError(f"{contestant}: the loss is {loss}")
        print(f"seconds {(time.perf_counter() - start) / count}", flush=True)
    took = {"memory": machine.memory(), "machine": machine.name()}
    print(f"took {json.dumps(took | {'kernels': machine.attention_kernels(run)})}", flush=True)


# === In the process that asks ===
PYTORCH = {"by-hand": "by hand, PyTorch", "transformers": "`transformers`"}
PYTORCH |= {"transformers-fused": "`transformers`, its optimizer fused"}
PYTORCH |= {"by-hand-compiled": "by hand, PyTorch, blocks by `torch.compile`"}
BACKENDS = {"torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}
ONE_THREAD = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


class Contestant:
    """A contestant's process, and what it said."""

    def __init__(self, name: str, options: argparse.Namespace, size: str, dtype: str):
        backend = backend_of(name, options)
        on_gpu = options.device == "gpu"
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if on_gpu else ONE_THREAD
        where = "gpu" if on_gpu else str(options.core)
        batch = PRODUCT[options.device] if name == "product" else batch_of(size, options)
        self.name = name
        self.seconds: list[float] = []
        self.took: dict[str, Any] = {}
        self.process = subprocess.Popen(
            [interpreter(backend, options), __file__, "--worker", name, size, dtype, str(batch), where],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if options.verbose else subprocess.DEVNULL,
            text=True,
        )
        self.until_ready = float(self.expect("ready"))  # compiled: that is not what is measured

    def expect(self, word: str) -> str:
        for line in self.process.stdout:
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise SystemExit(f"{self.name} stopped with status {self.process.wait()}; --verbose shows what it said")

    def turn(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.expect("seconds")))

    def close(self) -> None:
        self.process.stdin.close()
        self.took = json.loads(self.expect("took"))
        self.process.wait()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def backend_of(name: str, options: argparse.Namespace) -> str:
    """Return the framework that a contestant runs on."""
    if name in PYTORCH or name == "product":
        return "torch"
    if name in DECODERS:
        return options.decoder_backend
    return options.mask_tokens if name == "mask-tokens" else name.removesuffix("-compiled").removesuffix("-graph")


def batch_of(size: str, options: argparse.Namespace) -> int:
    """Return how many images a step has."""
    return options.batch or (128 if options.device == "gpu" else SIZES[size].batch)


def interpreter(backend: str, options: argparse.Namespace) -> str:
    """Return the Python of a backend."""
    return dict(item.split("=", 1) for item in options.python).get(backend, sys.executable)


def can_run(name: str, size: str, options: argparse.Namespace) -> bool:
    """Say whether a contestant has this size, and its framework is installed here or has an interpreter."""
    if name == "mask-tokens" and SIZES[size].cross_share:
        return False
    package = "transformers" if name.startswith("transformers") else backend_of(name, options)
    given = any(item.startswith(f"{backend_of(name, options)}=") for item in options.python)
    return given or importlib.util.find_spec(package) is not None


def take_turns(names: list[str], options: argparse.Namespace, size: str, dtype: str) -> list[Contestant]:
    """Time a step of each, A B C A B C on one core."""
    running = [Contestant(name, options, size, dtype) for name in names]
    for _ in range(options.rounds):
        for contestant in running:
            contestant.turn()
    for contestant in running:
        contestant.close()
    return running


def one_by_one(names: list[str], options: argparse.Namespace, size: str, dtype: str) -> list[Contestant]:
    """Time a step of each, alone on the GPU, and say at once what was seen."""
    done = []
    for name in names:
        try:
            contestant = Contestant(name, options, size, dtype)
            for _ in range(options.rounds):
                contestant.turn()
            contestant.close()
        except SystemExit as error:  # the others' figures are worth their minutes
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        memory, kernels = contestant.took["memory"] / 2**30, ", ".join(contestant.took["kernels"])
        times = f"{contestant.median:.4f} s, ready after {contestant.until_ready:.0f} s"
        print(f"{name}: {times}, {memory:.1f} GiB; {kernels}", file=sys.stderr, flush=True)
        done.append(contestant)
    return done


def compare(options: argparse.Namespace, size: str, dtype: str) -> None:
    """Time all contestants on one model and print the table."""
    on_gpu, sizes = options.device == "gpu", SIZES[size]
    names = [name for name in ("product", *options.contestants) if can_run(name, size, options)]
    done = {one.name: one for one in (one_by_one if on_gpu else take_turns)(names, options, size, dtype)}
    product, batch = done.pop("product", None), batch_of(size, options)
    if not done:
        raise SystemExit("No contestant can run here: see --contestants and --python")
    peak = 2 * PRODUCT[options.device] ** 3 / min(product.seconds) if product else 0.0
    model = f"ViT-{size}, {sizes.side} px, patches of {sizes.patch} px, 75 % removed, batch {batch}, {dtype}"
    where = "alone on the GPU" if on_gpu else "one core"
    name = (product or next(iter(done.values()))).took["machine"]
    print(f"\n{model}. {options.rounds} rounds, {where}: {name}, matrix peak {peak / 1e12:.3f} TFLOP/s.\n")
    print("| | median s | from | to | of the peak | GiB | ready s | against `transformers` | against by hand |")
    print("| --- |" + " --- |" * 8)
    for contestant in done.values():
        print(f"| {label(contestant.name, options)} | {' | '.join(cells(contestant, done, sizes, batch, peak))} |")
    print()
    if "mask-tokens" in done and options.mask_tokens in done:
        saved = done["mask-tokens"].median / done[options.mask_tokens].median
        print(f"Without mask tokens in the encoder a step is {saved:.2f}× faster (keras_mae, {options.mask_tokens}).")
    for name in DECODERS:
        if name in done and "self-75" in done:
            ratio = done[name].median / done["self-75"].median
            print(f"- {name}: {ratio:.2f} of the step of MAEDecoder that predicts all removed patches")
    sys.stdout.flush()


def cells(one: Contestant, done: dict[str, Contestant], size: contestants.Size, batch: int, peak: float) -> list[str]:
    """Return the numbers of a row."""
    share = batch * contestants.flops(one.name, size) / one.median / peak if peak else 0.0
    return [
        f"{one.median:.4f}",
        f"{min(one.seconds):.4f}",
        f"{max(one.seconds):.4f}",
        f"{share:.1%}" if share and one.name != "mask-tokens" else "",
        f"{one.took['memory'] / 2**30:.2f}",
        f"{one.until_ready:.1f}",
        *(
            f"{done[other].median / one.median:.2f}×" if other in done else ""
            for other in ("transformers", "by-hand")
        ),
    ]


def label(name: str, options: argparse.Namespace) -> str:
    """Return a contestant's name in the table."""
    if name in DECODERS:
        kind, share = name.split("-")
        return f"{BACKENDS[options.decoder_backend]}, {kind}-attention, {share} % predicted"
    if name == "mask-tokens":
        return f"keras_mae, {BACKENDS[options.mask_tokens]}, mask tokens in the encoder"
    if name in PYTORCH:
        return PYTORCH[name]
    how = f", `jit_compile={COMPILED[name]}`" if name in COMPILED else ""
    return f"keras_mae, {BACKENDS[backend_of(name, options)]}{how}"


def main() -> None:
    """Compare as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["small"])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=[*CONTESTANTS, *COMPILED, "by-hand-compiled", *DECODERS, "decoders"],
        default=list(CONTESTANTS),
    )
    parser.add_argument("--decoder-backend", choices=list(BACKENDS), default="torch")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="one core, or one GPU")
    parser.add_argument("--batch", type=int, help="images of a step; the size's own, on a GPU 128")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--core", type=int, default=0, help="the core all are pinned to")
    parser.add_argument("--mask-tokens", choices=list(BACKENDS), default="torch", help="its backend")
    parser.add_argument("--python", action="append", default=[], metavar="BACKEND=INTERPRETER")
    parser.add_argument("--verbose", action="store_true", help="show what the contestants say")
    options = parser.parse_args()
    if "decoders" in options.contestants:
        options.contestants = [name for name in options.contestants if name != "decoders"] + list(DECODERS)
    for size in options.sizes:
        for dtype in options.dtypes:
            compare(options, size, dtype)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        name, size, dtype, batch, where = sys.argv[2:]
        if where != "gpu" and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {int(where)})
        work(name, size, dtype, int(batch), where == "gpu")
    else:
        main()
