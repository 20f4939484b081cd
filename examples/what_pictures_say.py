"""Draw what reconstructions look like early and late, of pixels and of the normalized target, for docs/enough.md.

    KERAS_BACKEND=torch python examples/what_pictures_say.py

Two small models learn the same crops of three photographs that scikit-image brings along (public domain and CC0): one
predicts pixels, the other each patch normalized. Two crops of a fourth photograph, which neither has seen, are drawn
at each stage, and at the end also with the true brightness and contrast of the removed patches. --quick draws other
stages of a few crops: a look at whether it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_mae

SIZE, PATCH = 64, 8
SEEN, UNSEEN = ("astronaut", "coffee", "rocket"), "chelsea"


def crops(names: tuple[str, ...], count: int, seed: int) -> np.ndarray:
    """Return random crops of photographs at half their size, uint8 (count, 64, 64, 3)."""
    from skimage import data

    photographs = [getattr(data, name)()[::2, ::2] for name in names]
    generator, found = np.random.default_rng(seed), []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        row, column = (generator.integers(0, side - SIZE + 1) for side in photograph.shape[:2])
        found.append(photograph[row : row + SIZE, column : column + SIZE])
    return np.stack(found)


def stages(images: np.ndarray, shown: np.ndarray, updates: tuple[int, ...], norm_pix_loss: bool) -> list[Any]:
    """Return the reconstructions of one model after each number of updates."""
    keras.utils.set_random_seed(0)
    encoder = keras_mae.ViTEncoder((SIZE, SIZE, 3), PATCH, embed_dim=96, depth=4, num_heads=4)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(64, 2, 4), norm_pix_loss=norm_pix_loss)
    mae.compile(keras_mae.optimizers.AdamW(1e-3))
    dataset, found, done = keras_mae.data.from_arrays(images, batch_size=32, drop_remainder=True), [], 0
    for until in updates:
        for _ in range(done, until, len(dataset)):
            history = mae.fit(dataset, steps_per_epoch=min(len(dataset), until - done), verbose=0).history
            done = min(done + len(dataset), until)
            loss = history["loss"][-1]
        print(f"norm_pix_loss={norm_pix_loss}, {done} updates" + (f": loss {loss:.3f}" if done else ""), flush=True)
        found.append(mae.reconstruct(shown, seed=1))
    if norm_pix_loss:
        found.append(mae.reconstruct(shown, seed=1, statistics="true"))
    return found


def main() -> None:
    """Train, and draw one picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--updates", type=int, nargs="+", default=[0, 60, 3000], help="stages to draw")
    parser.add_argument("--images", type=int, default=2048, help="crops to train on")
    parser.add_argument("--quick", action="store_true", help="a few updates on a few crops: a look")
    parser.add_argument("--out", type=Path, default=Path("guides/pictures"), help="folder for what_pictures_say.png")
    options = parser.parse_args()
    if options.quick:
        options.updates, options.images = [0, 1, 3], 64

    from matplotlib.figure import Figure

    images, shown = crops(SEEN, options.images, 0), crops((UNSEEN,), 2, 3)
    columns: dict[str, np.ndarray] = {}
    for norm_pix_loss, name in ((False, "pixels"), (True, "normalized")):
        results = stages(images, shown, tuple(options.updates), norm_pix_loss)
        columns |= {"original": results[0].original, "masked": results[0].masked}
        titles = [f"{name},\n{number:,} updates" for number in options.updates]
        titles += [f"{name},\n{options.updates[-1]:,}, true statistics"] * norm_pix_loss
        columns |= {title: result.pasted for title, result in zip(titles, results, strict=True)}
    figure = Figure((1.35 * len(columns), 3.2), layout="constrained")
    for row, axes_of_row in enumerate(figure.subplots(len(shown), len(columns))):
        for axes, (title, pictures) in zip(axes_of_row, columns.items(), strict=True):
            axes.imshow(pictures[row])
            axes.axis("off")
            if not row:
                axes.set_title(title, fontsize=7)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "what_pictures_say.png", dpi=110)
    print(options.out / "what_pictures_say.png")


if __name__ == "__main__":
    main()
