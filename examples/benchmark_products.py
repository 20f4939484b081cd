"""How fast a backend computes the products of a training step by themselves: one core, one thread.

The smallest programs that show what a backend can do at best: a product of a block's sizes, its two gradients,
which are products too, and softmax attention of a decoder's 197 tokens with the gradient of all that goes into it.
Each is computed as in the backend's training step on a CPU: XLA compiles it on JAX, TensorFlow and PyTorch have
kernels. Seconds are those of the processor.

    KERAS_BACKEND=jax python examples/benchmark_products.py
    KERAS_BACKEND=tensorflow python examples/benchmark_products.py
    KERAS_BACKEND=torch python examples/benchmark_products.py
    KERAS_BACKEND=jax python examples/benchmark_products.py --dtype bfloat16
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from benchmark_step import ONE_THREAD

SIZES = ((400, 384, 1536), (400, 1536, 384), (1576, 256, 1024), (1576, 1024, 256))
"""Rows, and rows and columns of a kernel: both projections of an MLP of ViT-S' encoder and decoder at batch 8."""
HEADS = (8, 197, 8, 32)  # batch, tokens, heads, width


def compiled(backend: str, function: Callable[..., Any], gradients: bool) -> Callable[..., Any]:
    """Return a function of tensors, or the gradient of the sum of its squares, as the backend runs a step."""
    if backend == "jax":
        import jax

        made = jax.grad(lambda *given: (function(*given) ** 2).sum(), (0, 1, 2)) if gradients else function
        run = jax.jit(made)
        return lambda *given: jax.block_until_ready(run(*given))
    if backend == "tensorflow":
        import tensorflow as tf

        from keras_mae import tensorflow_cpu

        def of_squares(*given: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(given)
                loss = tf.reduce_sum(function(*given) ** 2)
            return tape.gradient(loss, given)

        def as_in_a_step(*given: Any) -> Any:
            with tensorflow_cpu.used(True):
                return (of_squares if gradients else function)(*given)

        return tf.function(as_in_a_step)
    import torch

    if not gradients:
        return function
    return lambda *given: torch.autograd.grad((function(*given) ** 2).sum(), given)


def best(run: Callable[..., Any], given: list[Any], turns: int) -> float:
    """Return the fewest seconds of the processor that a call took."""
    taken = []
    for _ in range(turns + 3):  # the first compile
        start = time.process_time()
        run(*given)
        taken.append(time.process_time() - start)
    return min(taken[3:])


def main() -> None:
    """Print a table of what this backend does."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--core", type=int, default=0, help="the core it is pinned to")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of all tensors")
    parser.add_argument("--turns", type=int, default=20, help="calls of each program")
    options = parser.parse_args()
    os.environ.update(ONE_THREAD)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.core})
    import keras
    import machine
    from keras import ops

    from keras_mae.fused_attention import attention

    def normal(shape: tuple[int, ...]) -> Any:
        return keras.random.normal(shape, dtype=options.dtype)

    backend = keras.backend.backend()
    print(f"{backend}, {options.dtype}, one core: {machine.name()}\n\n| | ms | GFLOP/s |\n| --- | --- | --- |")
    programs = {
        "x @ kernel": lambda x, kernel, dy: ops.matmul(x, kernel),
        "gradient by x": lambda x, kernel, dy: ops.matmul(dy, ops.transpose(kernel)),
        "gradient by kernel": lambda x, kernel, dy: ops.matmul(ops.transpose(x), dy),
    }
    for rows, dim, width in SIZES:
        given = [normal((rows, dim)), normal((dim, width)), normal((rows, width))]
        for name, function in programs.items():
            seconds = best(compiled(backend, function, False), given, options.turns)
            rate = 2 * rows * dim * width / seconds / 1e9
            print(f"| {rows} × {dim} × {width}: {name} | {seconds * 1e3:.2f} | {rate:.0f} |", flush=True)
    batch, tokens, heads, width = HEADS
    given = [normal(HEADS) for _ in range(3)]
    if backend == "torch":
        given = [part.requires_grad_() for part in given]
    for name, function in {"Keras'": ops.dot_product_attention, "keras_mae's": attention}.items():
        seconds = best(compiled(backend, function, True), given, options.turns)
        rate = 6 * 2 * batch * heads * tokens**2 * width / seconds / 1e9
        print(f"| {name} attention and its gradient | {seconds * 1e3:.2f} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
