"""What benchmarks ask of the machine, on the CPU or a GPU. Not a script."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import study

MATRIX_UNITS = ("amx_bf16", "amx_tile", "avx512_bf16", "avx512f", "avx2")  # as Linux names them


def allow_tensor_cores(dtype: str) -> None:
    """Let products of float32 run as TF32, which JAX does by default: all alike."""
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        torch.set_float32_matmul_precision("high" if dtype == "float32" else "highest")


def memory() -> int:
    """Most bytes that this process' framework had on the GPU at once; without one, that the process was resident in.

    The latter includes the program with all its libraries, and what compiling took.
    """
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        if jax.default_backend() == "gpu":
            return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    elif os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    elif sys.modules["torch"].cuda.is_initialized():
        return sys.modules["torch"].cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def attention_kernels(run: Callable[[int], float]) -> list[str]:
    """Names of the kernels of attention in a profile, where PyTorch ran them; the costliest ones go to stderr."""
    if "torch" not in sys.modules or not sys.modules["torch"].cuda.is_initialized():
        return ["not profiled"]
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run(3)
    averages = profile.key_averages()
    print(averages.table(sort_by="self_device_time_total", row_limit=40, max_name_column_width=90), file=sys.stderr)
    words = ("flash", "fmha", "attention", "softmax")
    return sorted({item.key[:60] for item in averages if any(word in item.key.lower() for word in words)})


def matrix_product(size: int, dtype: str) -> Callable[[int], float]:
    """Return what multiplies two square matrices so many times in PyTorch, and waits for it."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))

    def run(count: int) -> float:
        for _ in range(count):
            product = left @ right
        return float(product[0, 0])

    return run


def name() -> str:
    """Name of the GPU that this process computes on, or of the processor with its units for products of matrices."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        return sys.modules["torch"].cuda.get_device_name()
    known = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*: (.*)$", known.read_text() if known.exists() else "", re.MULTILINE)
    units = [unit for unit in MATRIX_UNITS if unit in (flags[1].split() if flags else ())]
    return f"{study.processor()} ({', '.join(units) or 'matrix units unknown'})"
