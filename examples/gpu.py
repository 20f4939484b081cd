"""What a benchmark on a GPU asks of the frameworks. Not a script."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable


def allow_tensor_cores(dtype: str) -> None:
    """Let products of float32 run as TF32, which JAX does by default: all alike."""
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        torch.set_float32_matmul_precision("high" if dtype == "float32" else "highest")


def memory() -> int:
    """Most bytes that were allocated at once by the framework of this process."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        return sys.modules["torch"].cuda.max_memory_allocated()
    if "jax" in sys.modules:
        return sys.modules["jax"].devices()[0].memory_stats()["peak_bytes_in_use"]
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


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


def matrix_peak(dtype: str, device: str, python: str) -> float:
    """Floating-point operations a second of one large product of matrices, in a process that has PyTorch."""
    code = f"""
import time, torch
torch.set_float32_matmul_precision("high")
torch.set_num_threads(1)
n = {8192 if device == "cuda" else 2048}
a, b = (torch.randn(n, n, device="{device}", dtype=torch.{dtype}) for _ in "ab")
times = []
for _ in range(12):
    start = time.perf_counter()
    float((a @ b)[0, 0])
    times.append(time.perf_counter() - start)
print(2 * n**3 / sorted(times)[len(times) // 2])
"""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else float("nan")
