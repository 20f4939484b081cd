"""Time one full training step: forward, backward, update.

keras_mae on each backend, `transformers`' ViTMAE on PyTorch, and keras_mae with mask tokens in the encoder (what
the method saves: the paper's 3×). Every contestant is a process of its own that holds its model; all are pinned
to the same core with one thread, and take turns A B C A B C, so that whatever else the machine does hits all
alike. Medians, and ratios to `transformers`, are printed.

    python examples/benchmark_step.py                                   # ViT-S/16, all backends installed here
    python examples/benchmark_step.py --sizes small base --rounds 7
    python examples/benchmark_step.py --python jax=.tox/jax/bin/python --python torch=.tox/torch/bin/python

    python examples/benchmark_step.py --contestants decoders --dtypes float32   # MAEDecoder and CrossAttentionDecoder

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

import numpy as np

SIZES = {  # encoder and decoder: embed_dim, depth, num_heads
    "small": ((384, 12, 6), (256, 4, 8)),
    "base": ((768, 12, 12), (512, 8, 16)),
}
CONTESTANTS = ("torch", "tensorflow", "jax", "transformers", "transformers-fused", "mask-tokens")
DECODERS = {f"{kind}-{share}": (kind, share) for kind in ("self", "cross") for share in (75, 50, 25)}  # % of all
LEARNING_RATE, WEIGHT_DECAY, BETAS = 1.5e-4, 0.05, (0.9, 0.95)


# === In a contestant's process ===
def keras_step(size: str, dtype: str, batch: int, contestant: str):
    """Return a function that runs one training step of keras_mae on this process' backend."""
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
    return lambda: float(model.train_on_batch(images, return_dict=True)["loss"])


def transformers_step(size: str, dtype: str, batch: int, fused: bool):
    """Return a function that runs one training step of `transformers`' ViTMAE."""
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    (width, depth, heads), (decoder_width, decoder_depth, decoder_heads) = SIZES[size]
    model = ViTMAEForPreTraining(
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
    ).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=fused or None)
    pixels = torch.from_numpy(np.random.default_rng(0).standard_normal((batch, 3, 224, 224), dtype="float32"))

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(pixels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def work(contestant: str, size: str, dtype: str, batch: int) -> None:
    """Run a step for every line that comes in; answer with the seconds it took."""
    if contestant.startswith("transformers"):
        step = transformers_step(size, dtype, batch, fused=contestant.endswith("fused"))
    else:
        step = keras_step(size, dtype, batch, contestant)
    for _ in range(2):  # compile, and let the allocators settle
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = step()
        if not np.isfinite(loss):
            raise RuntimeError(f"{contestant}: the loss is {loss}")
        print(f"seconds {time.perf_counter() - start}", flush=True)


# === In the process that asks ===
class Contestant:
    """A contestant's process."""

    def __init__(self, name: str, python: str, options: argparse.Namespace, size: str, dtype: str):
        backend = {"mask-tokens": options.mask_tokens, "transformers-fused": "torch", "transformers": "torch"}.get(
            name
        )
        backend = backend or (options.decoder_backend if name in DECODERS else name)
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        }
        self.name = name
        self.process = subprocess.Popen(
            [python, __file__, "--worker", name, size, dtype, str(options.batch), str(options.core)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if options.verbose else subprocess.DEVNULL,
            text=True,
        )
        self.seconds: list[float] = []

    def expect(self, word: str) -> str:
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        raise SystemExit(f"{self.name} stopped with status {self.process.wait()}; --verbose shows what it said")

    def step(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.expect("seconds").split()[1]))


def interpreters(given: list[str]) -> dict[str, str]:
    """Return the interpreter for each contestant that can run here."""
    chosen = dict(item.split("=", 1) for item in given)
    found = {}
    for name in ("torch", "tensorflow", "jax", "transformers"):
        home = "torch" if name == "transformers" else name
        if home in chosen or importlib.util.find_spec(name):
            found[name] = chosen.get(home, sys.executable)
    return found


def compare(options: argparse.Namespace, size: str, dtype: str) -> None:
    """Time all contestants on one model and print the table."""
    pythons = interpreters(options.python)
    pythons["transformers-fused"] = pythons.get("transformers")
    pythons["mask-tokens"] = pythons.get(options.mask_tokens)
    pythons |= dict.fromkeys(DECODERS, pythons.get(options.decoder_backend))
    running = []
    for name in options.contestants:
        if pythons.get(name):
            running.append(Contestant(name, pythons[name], options, size, dtype))
            running[-1].expect("ready")  # one at a time: compiling is not what is measured
    for _ in range(options.rounds):
        for contestant in running:
            contestant.step()
    medians = {contestant.name: statistics.median(contestant.seconds) for contestant in running}
    reference = medians.get("transformers")
    print(f"\nViT-{size}/16, 224 px, 75 % masked, batch {options.batch}, {dtype}, {options.rounds} rounds, one core")
    print(f"{'':34}median s     min     max   speed against transformers")
    for contestant in running:
        name, seconds = contestant.name, contestant.seconds
        label = name if name.startswith("transformers") else f"keras_mae {name}"
        if name == "mask-tokens":
            label = f"keras_mae {options.mask_tokens}, mask tokens in encoder"
        if name in DECODERS:
            kind, share = DECODERS[name]
            label = f"{options.decoder_backend}, {kind}-attention, {share} % predicted"
        ratio = f"{reference / medians[name]:8.2f}×" if reference else ""
        print(f"{label:42}{medians[name]:6.2f}  {min(seconds):6.2f}  {max(seconds):6.2f}   {ratio}")
    if "mask-tokens" in medians and options.mask_tokens in medians:
        saved = medians["mask-tokens"] / medians[options.mask_tokens]
        print(f"without mask tokens in the encoder a step is {saved:.2f}× faster (keras_mae, {options.mask_tokens})")
    for name in DECODERS:
        if name in medians and "self-75" in medians:
            ratio = medians[name] / medians["self-75"]
            print(f"{name}: {ratio:.2f} of the step of MAEDecoder that predicts all removed patches")
    for contestant in running:
        contestant.process.stdin.close()
        contestant.process.wait()


def main() -> None:
    """Compare as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["small"])
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument(
        "--contestants", nargs="+", choices=[*CONTESTANTS, *DECODERS, "decoders"], default=list(CONTESTANTS)
    )
    parser.add_argument("--decoder-backend", choices=["torch", "tensorflow", "jax"], default="torch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0, help="the core all are pinned to")
    parser.add_argument("--mask-tokens", choices=["torch", "tensorflow", "jax"], default="torch", help="its backend")
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
        name, size, dtype, batch, core = sys.argv[2:]
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {int(core)})
        work(name, size, dtype, int(batch))
    else:
        main()
