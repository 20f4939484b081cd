"""What a pre-training run needs on 8, 64 or 512 accelerators, on paper. The formulas are in docs/accelerators.md.

    python examples/plan_accelerators.py                                      # ViT-L, the published schedule, TPU v3
    python examples/plan_accelerators.py --preset mae_vit_huge_patch14_224 --peak 312     # A100
    KERAS_BACKEND=torch python examples/plan_accelerators.py --memory 8 16 24 40 80   # largest batches in so many GB

Nothing is measured here but what is given: peak and utilisation of an accelerator, how often a machine fails, and
what a checkpoint and a restart take are assumptions.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

IMAGENET, JPEG_BYTES = 1_281_167, 110_000  # images; mean size of a file
DECODED_PER_CORE = 287  # images/s, examples/benchmark_input.py
HOURS_BETWEEN_FAILURES = 6_300  # of one machine: 419 failures of 2,048 in 54 days, arXiv 2407.21783, section 3.3.4
GRADIENT_BYTES = 4  # float32, as the weights are also under mixed precision


def flops(tokens: int, width: int, depth: int) -> float:
    """Of one forward pass through transformer blocks: products with matrices, and attention; 2 an addition with its
    multiplication."""
    return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)


def parameters(width: int, depth: int) -> float:
    """Of transformer blocks; biases and norms included."""
    return depth * (12 * width**2 + 13 * width)


def forward_flops(
    encoder: tuple[int, int], decoder: tuple[int, int], visible: int, predicted: int, pixels: int, cross: bool = False
) -> float:
    """Of one image's forward pass; encoder and decoder are (width, depth), `pixels` the values of a patch.

    In a cross-attention decoder the predicted patches ask the encoder's tokens, of which each block has its own mix.
    """
    (inside, depth), (outside, blocks) = encoder, decoder
    forward = flops(1 + visible, inside, depth)
    forward += 2 * visible * pixels * inside + 2 * predicted * outside * pixels
    if cross:
        asking = 20 * predicted * outside**2 + 4 * predicted * (1 + visible) * outside
        asked = 4 * (1 + visible) * inside * outside + 2 * (1 + visible) * inside * depth
        return forward + blocks * (asking + asked)
    return forward + flops(1 + visible + predicted, outside, blocks) + 2 * (1 + visible) * inside * outside


def plan(preset: Any, mask_ratio: float, batch: int, epochs: int) -> dict[str, float]:
    """Return what does not depend on the number of accelerators."""
    encoder, decoder = preset.encoder, preset.decoder
    height, width, channels = encoder["image_shape"]
    patches = (height // encoder["patch_size"]) * (width // encoder["patch_size"])
    pixels = encoder["patch_size"] ** 2 * channels
    visible = int(patches * (1 - mask_ratio))
    inside, outside = encoder["embed_dim"], decoder["embed_dim"]
    sizes = (inside, encoder["depth"]), (outside, decoder["depth"])
    forward = forward_flops(*sizes, visible, patches - visible, pixels)
    weights = parameters(inside, encoder["depth"]) + parameters(outside, decoder["depth"])
    weights += pixels * inside + inside * outside + outside * pixels
    return {
        "flops": 3 * forward,  # backward is twice the forward pass
        "parameters": weights,
        "steps": epochs * (IMAGENET // batch),
        "image_bytes": height * width * channels,
    }


def share_lost(interval: float, write: float, restart: float, between: float) -> float:
    """Return the expected share of the time that goes into checkpoints, restarts and work that is done again.

    Failures come at random, in checkpoints and restarts too, after `between` on average. All times are in one unit.
    Source: J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future
    Generation Computer Systems 22 (2006), whose complete model is of the time that a run takes in all.
    """
    exponent = min((interval + write) / between, 700.0)  # beyond which nothing is ever finished
    return 1 - math.exp(-restart / between) * interval / between / math.expm1(exponent)


def best_interval(write: float, between: float) -> float:
    """Return the time between checkpoints at which least is lost: Daly's estimate, which refines
    √(2 · write · between) of J. W. Young, Communications of the ACM 17 (1974)."""
    if write >= 2 * between:
        return between
    root = math.sqrt(write / (2 * between))
    return math.sqrt(2 * write * between) * (1 + root / 3 + root**2 / 9) - write


def largest_batch(model: Any, size: float) -> int:
    """Return how many images of a step fit into `size` bytes on one accelerator; 0 if none do."""
    from keras_mae.training import memory

    few, many = (memory(model, batch).peak for batch in (32, 64))
    batch = int(32 + (size - few) / ((many - few) / 32))
    while batch > 0 and memory(model, batch).peak > size:  # not quite a straight line
        batch -= 1
    return max(batch, 0)


def print_memory(preset: str, budgets: list[float], left: float) -> None:
    """Print the largest batches that fit into `budgets` GB, of which the share `left` stays free."""
    import keras_mae

    print(f"{preset}: images of a step, {left:.0%} of the memory left free")
    print(f"{'GB':36}" + "".join(f"{budget:>12g}" for budget in budgets))
    for dtype in ("float32", "mixed_bfloat16"):
        for remat in (False, True):
            model = keras_mae.MaskedAutoencoder.from_preset(preset, norm_pix_loss=True, dtype=dtype, remat=remat)
            model.compile(keras_mae.optimizers.AdamW())
            batches = [largest_batch(model, budget * 1e9 * (1 - left)) for budget in budgets]
            print(f"{dtype + (', remat' if remat else ''):36}" + "".join(f"{batch:>12,}" for batch in batches))


def main() -> None:
    """Print the table."""
    from keras_mae import presets

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", default="mae_vit_large_patch16_224", help="architecture")
    parser.add_argument("--accelerators", type=int, nargs="+", default=[8, 64, 512], help="how many")
    parser.add_argument("--peak", type=float, default=61.5, help="of one, TFLOP/s; a TPU v3 core's by default")
    parser.add_argument("--utilisation", type=float, default=0.3, help="share of the peak that is reached")
    parser.add_argument("--link", type=float, default=70, help="between neighbours, GB/s in each direction")
    parser.add_argument("--batch", type=int, default=4096, help="global")
    parser.add_argument("--epochs", type=int, default=800, help="passes over ImageNet-1K")
    parser.add_argument("--decoded", type=float, default=DECODED_PER_CORE, help="images/s that a core decodes")
    parser.add_argument("--machine", type=int, default=8, help="accelerators of a machine, which fail together")
    parser.add_argument("--mtbf", type=float, default=HOURS_BETWEEN_FAILURES, help="hours until one machine fails")
    parser.add_argument("--interval", type=float, default=10, help="minutes between checkpoints")
    parser.add_argument("--write", type=float, default=10, help="seconds that training waits for a checkpoint")
    parser.add_argument("--restart", type=float, default=300, help="seconds from a failure until training goes on")
    parser.add_argument("--memory", type=float, nargs="+", metavar="GB", help="print the largest batches instead")
    parser.add_argument("--left", type=float, default=0.1, help="share of the memory for what is not a tensor")
    options = parser.parse_args()
    if options.memory:
        print_memory(options.preset, options.memory, options.left)
        return
    needs = plan(presets.get(options.preset), 0.75, options.batch, options.epochs)
    print(
        f"{options.preset}: {needs['parameters'] / 1e6:.0f} M parameters, {needs['flops'] / 1e9:.0f} GFLOP an image "
        f"and update, {needs['steps']:,.0f} steps of {options.batch}"
    )
    rows: dict[str, list[str]] = {}
    for count in options.accelerators:
        rate = count * options.peak * 1e12 * options.utilisation / needs["flops"]
        compute = options.batch / rate
        traffic = 2 * (count - 1) / count * GRADIENT_BYTES * needs["parameters"]
        sums = traffic / (options.link * 1e9)
        between = options.mtbf * 3600 / math.ceil(count / options.machine)
        best = best_interval(options.write, between)
        lost, least = (
            share_lost(every, options.write, options.restart, between) for every in (60 * options.interval, best)
        )
        hours = needs["steps"] * max(compute, sums) / 3600
        for name, value in {
            "accelerators": f"{count}",
            "images of each in a batch": f"{options.batch / count:,.0f}",
            "images/s": f"{rate:,.0f}",
            "ms a step, computing": f"{1000 * compute:,.0f}",
            "GB sent by each in a step": f"{traffic / 1e9:.2f}",
            "ms a step, summing gradients": f"{1000 * sums:.0f}",
            "GB/s of JPEG files read": f"{rate * JPEG_BYTES / 1e9:.2f}",
            "GB/s of pixels to the accelerators": f"{rate * needs['image_bytes'] / 1e9:.2f}",
            "cores that decode": f"{rate / options.decoded:,.0f}",
            "cores that decode, an accelerator": f"{rate / options.decoded / count:.2f}",
            "hours, sums while computing": f"{hours:.1f}",
            "hours, sums after computing": f"{needs['steps'] * (compute + sums) / 3600:.1f}",
            "hours between failures": f"{between / 3600:,.0f}",
            f"% lost, checkpoints every {options.interval:g} min": f"{100 * lost:.2f}",
            "best minutes between checkpoints": f"{best / 60:,.0f}",
            "% lost with these": f"{100 * least:.2f}",
            "hours, with these and failures": f"{hours / (1 - least):.1f}",
        }.items():
            rows.setdefault(name, []).append(value)
    for name, values in rows.items():
        print(f"{name:36}" + "".join(f"{value:>12}" for value in values))


if __name__ == "__main__":
    main()
