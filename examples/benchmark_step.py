"""Time one full training step: forward, backward, update.

keras_mae on each backend, `transformers`' ViTMAE on PyTorch, and keras_mae with mask tokens in the encoder (what
the method saves: the paper's 3×). Every contestant is a process of its own that holds its model; all are pinned
to the same core with one thread, and take turns A B C A B C, so that whatever else the machine does hits all
alike. Medians, and ratios to `transformers`, are printed.

    python examples/benchmark_step.py                                   # ViT-S/16, all backends installed here
    python examples/benchmark_step.py --sizes small base --rounds 7
    python examples/benchmark_step.py --python jax=.tox/jax/bin/python --python torch=.tox/torch/bin/python

    python examples/benchmark_step.py --contestants decoders --dtypes float32   # MAEDecoder and CrossAttentionDecoder
    python examples/benchmark_step.py --device gpu --sizes base large --batch 128                # one after the other

On a GPU a contestant has the card to itself and every core; a turn is twenty steps of `model.fit`, from bytes in the
host's memory, with one wait for the device at its end. Beside the times stand the share of the card's matrix peak
(one large product, measured in the same run), the peak of the memory, and the kernels that attention ran on.

A backend that is not in this environment takes `--python BACKEND=INTERPRETER`. `decoders` is short for self-75,
self-50, self-25 and cross-75, cross-50, cross-25: a step in which 75, 50 or 25 % of all patches are predicted, by an
`MAEDecoder` or a `CrossAttentionDecoder` of the same width and depth, on the backend that `--decoder-backend` names.

Seen on a quiet CPU core (median seconds; ViT-B in float32 on another processor than the rest, see docs):
                                            ViT-S, batch 8         ViT-B, batch 4
                                          float32  bfloat16      float32  bfloat16
    keras_mae, PyTorch                       0.99      1.81         2.79      4.60
    keras_mae, TensorFlow                    1.18      1.34         2.71      3.56
    keras_mae, JAX                           2.13      2.88         6.01     11.73
    transformers                             1.06      1.84         2.97      5.14
    transformers, its optimizer fused        0.97      1.75         2.84      4.50
    mask tokens in the encoder, PyTorch      2.51      4.56         6.10      9.84
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gpu
import numpy as np
import plan_accelerators
import study

SIZES = {  # encoder and decoder: embed_dim, depth, num_heads
    "tiny": ((48, 2, 3), (32, 1, 2)),  # whether it runs
    "small": ((384, 12, 6), (256, 4, 8)),
    "base": ((768, 12, 12), (512, 8, 16)),
    "large": ((1024, 24, 16), (512, 8, 16)),
}
CONTESTANTS = ("torch", "tensorflow", "jax", "by-hand", "transformers", "transformers-fused", "mask-tokens")
DECODERS = {f"{kind}-{share}": (kind, share) for kind in ("self", "cross") for share in (75, 50, 25)}  # % of all
LEARNING_RATE, WEIGHT_DECAY, BETAS = 1.5e-4, 0.05, (0.9, 0.95)
STEPS_ON_GPU = 20  # a turn; the device is waited for once


# === In a contestant's process ===
def keras_steps(size: str, dtype: str, batch: int, contestant: str) -> Callable[[int], float]:
    """Return a function that runs so many training steps of keras_mae on this process' backend."""
    import keras
    from keras import ops

    import keras_mae

    class MaskTokensInEncoder(keras_mae.MaskedAutoencoder):
        """The encoder sees every patch, the removed ones as one constant: what a mask token there amounts to."""

        def outputs_for_loss(self, x, training):
            inputs = ops.convert_to_tensor(x)
            mask = self._mask({"images": inputs}, training=True)
            size = self.encoder.patch_size
            hidden = keras_mae.unpatchify(
                ops.repeat(ops.expand_dims(ops.cast(mask.mask, "uint8"), -1), size[0] * size[1] * 3, -1),
                size,
                self.encoder.image_shape,
            )
            tokens = self.encoder(inputs * (1 - hidden), training=training)
            everything = ops.broadcast_to(
                ops.arange(self.encoder.num_patches, dtype="int32")[None], ops.shape(mask.mask)
            )
            prediction = self.decoder(tokens, everything, everything[:, :0])
            prediction = keras_mae.ops.gather_tokens(prediction, mask.ids_removed)
            pixels = self.encoder.patch_embedding.pixels(inputs, mask.ids_removed)
            return {"removed_prediction": ops.cast(prediction, "float32"), "removed_pixels": pixels}

    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else "float32")
    keys = ("embed_dim", "depth", "num_heads")
    encoder, decoder = (dict(zip(keys, values, strict=True)) for values in SIZES[size])
    kind, share = DECODERS.get(contestant, ("self", 75))
    decoder_class = keras_mae.CrossAttentionDecoder if kind == "cross" else keras_mae.MAEDecoder
    model = (MaskTokensInEncoder if contestant == "mask-tokens" else keras_mae.MaskedAutoencoder)(
        keras_mae.ViTEncoder((224, 224, 3), 16, **encoder), decoder_class(**decoder), predict_ratio=share / 75
    )
    # TensorFlow compiles with XLA only if asked to, on a CPU; JAX always does; PyTorch is faster without.
    jit = keras.backend.backend() != "torch"
    model.compile(keras_mae.optimizers.AdamW(LEARNING_RATE, WEIGHT_DECAY), jit_compile=jit)
    images = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype="uint8")

    class Batches(keras.utils.PyDataset):
        count = 0

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, index: int) -> Any:
            return images

    def run(count: int) -> float:
        if count == 1:
            return float(model.train_on_batch(images, return_dict=True)["loss"])
        batches = Batches()
        batches.count = count
        return model.fit(batches, verbose=0).history["loss"][-1]

    return run


def torch_step(model: Any, dtype: str, pixels: Any, fused: bool) -> Callable[[], Any]:
    """Return a function that runs one training step of a PyTorch model, whose loss is returned for `pixels`."""
    import by_hand
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, pixels = model.to(device).train(), torch.from_numpy(pixels)
    pixels = pixels.pin_memory() if device == "cuda" else pixels  # as a DataLoader does that was told to
    optimizer = by_hand.optimizer(model, LEARNING_RATE, WEIGHT_DECAY, BETAS, fused or None)

    def step() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(pixels.to(device, non_blocking=True))
        loss = getattr(loss, "loss", loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def transformers_model(size: str) -> Any:
    """Return `transformers`' ViTMAE."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    (width, depth, heads), (decoder_width, decoder_depth, decoder_heads) = SIZES[size]
    return ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            decoder_hidden_size=decoder_width,
            decoder_num_hidden_layers=decoder_depth,
            decoder_num_attention_heads=decoder_heads,
            decoder_intermediate_size=4 * decoder_width,
        )
    )


def steps(contestant: str, size: str, dtype: str, batch: int) -> Callable[[int], float]:
    """Return a function that runs so many steps of a contestant and returns a loss, when the device has it."""
    random = np.random.default_rng(0)
    if contestant == "by-hand":
        import by_hand

        images = random.integers(0, 256, (batch, 224, 224, 3), dtype="uint8")
        step = torch_step(by_hand.Autoencoder(*SIZES[size]), dtype, images, fused=True)
    elif contestant.startswith("transformers"):
        pixels = random.standard_normal((batch, 3, 224, 224), dtype="float32")
        step = torch_step(transformers_model(size), dtype, pixels, fused=contestant.endswith("fused"))
    else:
        return keras_steps(size, dtype, batch, contestant)
    return lambda count: float([step() for _ in range(count)][-1].detach())


def work(contestant: str, size: str, dtype: str, batch: int, on_gpu: bool) -> None:
    """Run a turn for every line that comes in; answer with the seconds that a step of it took."""
    if on_gpu:
        gpu.allow_tensor_cores(dtype)
    run = steps(contestant, size, dtype, batch)
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
    if on_gpu:
        print(f"memory {gpu.memory()}", flush=True)
        print(f"kernels {', '.join(gpu.attention_kernels(run))}", flush=True)


# === In the process that asks ===
PYTORCH = ("by-hand", "transformers", "transformers-fused")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


class Contestant:
    """A contestant's process."""

    def __init__(self, name: str, options: argparse.Namespace, size: str, dtype: str):
        backend = backend_of(name, options)
        on_gpu = options.device == "gpu"
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if on_gpu else ONE_THREAD
        where = "gpu" if on_gpu else str(options.core)
        self.name = name
        self.seconds: list[float] = []
        self.process = subprocess.Popen(
            [interpreter(backend, options), __file__, "--worker", name, size, dtype, str(options.batch), where],
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
        self.process.wait()


def backend_of(name: str, options: argparse.Namespace) -> str:
    """Return the framework that a contestant runs on."""
    if name in PYTORCH:
        return "torch"
    if name in DECODERS:
        return options.decoder_backend
    return options.mask_tokens if name == "mask-tokens" else name


def interpreter(backend: str, options: argparse.Namespace) -> str:
    """Return the Python of a backend."""
    return dict(item.split("=", 1) for item in options.python).get(backend, sys.executable)


def can_run(name: str, options: argparse.Namespace) -> bool:
    """Say whether a contestant's framework is installed here, or an interpreter was given for it."""
    package = "transformers" if name.startswith("transformers") else backend_of(name, options)
    given = any(item.startswith(f"{backend_of(name, options)}=") for item in options.python)
    return given or importlib.util.find_spec(package) is not None


def take_turns(names: list[str], options: argparse.Namespace, size: str, dtype: str) -> dict[str, list[float]]:
    """Seconds of a step of each, A B C A B C on one core."""
    running = [Contestant(name, options, size, dtype) for name in names]
    for _ in range(options.rounds):
        for contestant in running:
            contestant.turn()
    for contestant in running:
        contestant.close()
    return {contestant.name: contestant.seconds for contestant in running}


def one_by_one(names: list[str], options: argparse.Namespace, size: str, dtype: str) -> dict[str, list[float]]:
    """Seconds of a step of each, alone on the GPU; its memory and kernels are printed."""
    seconds = {}
    for name in names:
        try:
            contestant = Contestant(name, options, size, dtype)
            for _ in range(options.rounds):
                contestant.turn()
        except SystemExit as error:  # the others' figures are worth their minutes
            print(f"{name}: {error}", flush=True)
            continue
        contestant.process.stdin.close()
        memory, kernels = int(contestant.expect("memory")), contestant.expect("kernels")
        contestant.process.wait()
        seconds[name] = contestant.seconds
        times = f"{statistics.median(contestant.seconds):.4f} s, ready after {contestant.until_ready:.0f} s"
        print(f"{name}: {times}, {memory / 2**30:.1f} GiB; {kernels}", flush=True)
    return seconds


def compare(options: argparse.Namespace, size: str, dtype: str) -> None:
    """Time all contestants on one model and print the table."""
    on_gpu = options.device == "gpu"
    names = [name for name in options.contestants if can_run(name, options)]
    where = "alone on the GPU" if on_gpu else "one core"
    print(f"\nViT-{size}/16, 224 px, 75 % masked, batch {options.batch}, {dtype}, {options.rounds} rounds, {where}")
    times = (one_by_one if on_gpu else take_turns)(names, options, size, dtype)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    peak = gpu.matrix_peak(dtype, "cuda" if on_gpu else "cpu", interpreter("torch", options))
    print(f"matrix peak {peak / 1e12:.2f} TFLOP/s ({study.processor()})")
    print(f"{'':42}median s     min     max   share of peak   speed against transformers")
    for name, seconds in times.items():
        share = options.batch * flops(size) / medians[name] / peak if name not in ("mask-tokens", *DECODERS) else 0
        ratio = f"{medians['transformers'] / medians[name]:8.2f}×" if "transformers" in medians else ""
        row = f"{medians[name]:8.4f} {min(seconds):7.4f} {max(seconds):7.4f} {f'{share:.1%}' if share else '':>12}"
        print(f"{label(name, options):42}{row}{ratio:>16}")
    if "mask-tokens" in medians and options.mask_tokens in medians:
        saved = medians["mask-tokens"] / medians[options.mask_tokens]
        print(f"without mask tokens in the encoder a step is {saved:.2f}× faster (keras_mae, {options.mask_tokens})")
    for name in DECODERS:
        if name in medians and "self-75" in medians:
            ratio = medians[name] / medians["self-75"]
            print(f"{name}: {ratio:.2f} of the step of MAEDecoder that predicts all removed patches")


def flops(size: str) -> float:
    """Operations of a training step on one image: the products and attention, backward twice the forward pass."""
    keys = ("embed_dim", "depth", "num_heads")
    encoder, decoder = (dict(zip(keys, values, strict=True)) for values in SIZES[size])
    preset = SimpleNamespace(encoder={**encoder, "image_shape": (224, 224, 3), "patch_size": 16}, decoder=decoder)
    return plan_accelerators.plan(preset, 0.75, 1, 1)["flops"]


def label(name: str, options: argparse.Namespace) -> str:
    """Return a contestant's name in the table."""
    if name in PYTORCH:
        return name
    if name == "mask-tokens":
        return f"keras_mae {options.mask_tokens}, mask tokens in encoder"
    if name in DECODERS:
        kind, share = DECODERS[name]
        return f"{options.decoder_backend}, {kind}-attention, {share} % predicted"
    return f"keras_mae {name}"


def main() -> None:
    """Compare as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["small"])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument(
        "--contestants", nargs="+", choices=[*CONTESTANTS, *DECODERS, "decoders"], default=list(CONTESTANTS)
    )
    parser.add_argument("--decoder-backend", choices=["torch", "tensorflow", "jax"], default="torch")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="one core, or one GPU")
    parser.add_argument("--batch", type=int, help="images of a step; 8, on a GPU 128")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--core", type=int, default=0, help="the core all are pinned to")
    parser.add_argument("--mask-tokens", choices=["torch", "tensorflow", "jax"], default="torch", help="its backend")
    parser.add_argument("--python", action="append", default=[], metavar="BACKEND=INTERPRETER")
    parser.add_argument("--verbose", action="store_true", help="show what the contestants say")
    options = parser.parse_args()
    options.batch = options.batch or (128 if options.device == "gpu" else 8)
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
