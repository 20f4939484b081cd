"""Which method finds planted defects? Scratches, blobs and missing parts on brick, grass and gravel.

    KERAS_BACKEND=torch python examples/anomaly_study.py             # an hour or two on 2 cores; resumes
    KERAS_BACKEND=torch python examples/anomaly_study.py --quick     # minutes, a look

The photographs are scikit-image's own, at half their size. A small ViT is pre-trained on crops of the left part of
all three, without any defect. Of each texture a detector is fitted on crops of the left part, and scores crops of
the right part, of which half got a defect: a scratch, a blob that is darker or lighter, or a missing part, that is,
a rectangle of one gray. Reported are the AUROC of images and of pixels of `keras_mae.anomaly`'s two methods and of
their mean, beside two baselines on the same images: how badly the principal components of normal patches reconstruct
a patch, and how far the histogram of a window is from that of normal images. Seeds draw crops, defects, masks and
which images are held out.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import study

TEXTURES = ("brick", "grass", "gravel")
KINDS = ("scratch", "blob", "missing part")
SEEDS = (0, 1, 2)
SIDE, PATCH = 64, 8
TRAINED_PART = 160  # columns of 256 that are for pre-training and normal images; the others are for the test
METHODS = ("reconstruction", "neighbors", "mean", "PCA", "histogram")


def stages(options: argparse.Namespace) -> list[list[str]]:
    """All cells' names."""
    seeds = SEEDS[:1] if options.quick else SEEDS
    return [["pretrain"], [f"score-{texture}-{seed}" for texture in TEXTURES for seed in seeds]]


# === Images ===
def crops(texture: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Square crops of a photograph at random, half of them mirrored: uint8 (count, SIDE, SIDE, 1)."""
    rows, columns = (generator.integers(0, size - SIDE + 1, count) for size in texture.shape)
    cut = np.stack(
        [texture[row : row + SIDE, column : column + SIDE] for row, column in zip(rows, columns, strict=True)]
    )
    return np.where(generator.random((count, 1, 1)) < 0.5, cut, cut[:, :, ::-1])[..., None]


def parts(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the left part of a photograph, and the right one."""
    from skimage import data

    texture = getattr(data, name)().reshape(256, 2, 256, 2).mean(axis=(1, 3)).round().astype("uint8")
    return texture[:, :TRAINED_PART], texture[:, TRAINED_PART:]


def with_defect(image: np.ndarray, kind: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the image with a defect, uint8, and where it is, Boolean (SIDE, SIDE)."""
    row, column = np.mgrid[:SIDE, :SIDE]
    changed = image[..., 0].astype("float32")
    middle = generator.uniform(0.2 * SIDE, 0.8 * SIDE, 2)
    change = generator.uniform(60, 110) * generator.choice([-1, 1])
    if kind == "scratch":
        angle, length, width = generator.uniform(0, np.pi), generator.uniform(16, 32), generator.uniform(0.7, 1.5)
        along = (row - middle[0]) * np.sin(angle) + (column - middle[1]) * np.cos(angle)
        across = (row - middle[0]) * np.cos(angle) - (column - middle[1]) * np.sin(angle)
        place = (np.abs(along) <= length / 2) & (np.abs(across + 0.01 * along**2) <= width)  # a little bent
        changed = changed + change * place
    elif kind == "blob":
        radii = generator.uniform(4, 8, 2)
        squared = ((row - middle[0]) / radii[0]) ** 2 + ((column - middle[1]) / radii[1]) ** 2
        place = squared <= 1
        changed = changed + change * np.exp(-squared) * (squared <= 4)
    else:
        half = generator.uniform(4, 8, 2)
        place = (np.abs(row - middle[0]) <= half[0]) & (np.abs(column - middle[1]) <= half[1])
        changed = np.where(place, changed.mean(), changed)
    return np.clip(np.rint(changed), 0, 255).astype("uint8")[..., None], place


def test_images(texture: np.ndarray, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Crops, of which the first half is normal and the other has defects in turn, and where those are."""
    images = crops(texture, count, generator)
    places = np.zeros((count, SIDE, SIDE), bool)
    for number in range(count // 2, count):
        images[number], places[number] = with_defect(images[number], KINDS[number % len(KINDS)], generator)
    return images, places


# === Baselines ===
def windows(images: np.ndarray, step: int) -> np.ndarray:
    """Patches of every `step` pixels: float32 (images, rows, columns, PATCH * PATCH)."""
    found = np.lib.stride_tricks.sliding_window_view(images[..., 0], (PATCH, PATCH), axis=(1, 2))
    found = found[:, ::step, ::step].astype("float32")
    return found.reshape(*found.shape[:3], -1)


def spread(values: np.ndarray) -> np.ndarray:
    """Give each pixel the value of the nearest window: (images, SIDE, SIDE) from (images, rows, columns)."""
    nearest = np.linspace(0, values.shape[1] - 1, SIDE).round().astype(int)
    return values[:, nearest][:, :, nearest]


def by_components(normal: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Map how badly the components that explain 90 % of normal patches reconstruct a patch."""
    known = windows(normal, PATCH // 2).reshape(-1, PATCH * PATCH)
    mean = known.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(known - mean, rowvar=False))
    most = np.cumsum(values[::-1]) / values.sum()
    components = vectors[:, ::-1][:, : int(np.searchsorted(most, 0.9)) + 1]
    centered = windows(images, 2) - mean
    return spread(np.sqrt(np.square(centered - centered @ components @ components.T).mean(axis=-1)))


def by_histogram(normal: np.ndarray, images: np.ndarray, bins: int = 16) -> np.ndarray:
    """Map how far the histogram of gray levels in a window is from that of all normal images."""

    def histograms(patches: np.ndarray) -> np.ndarray:
        levels = (patches // (256 // bins)).astype(int)
        return np.stack([(levels == level).mean(axis=-1) for level in range(bins)], axis=-1)

    usual = histograms(windows(normal, PATCH)).mean(axis=(0, 1, 2))
    found = histograms(windows(images, 2))
    return spread((np.square(found - usual) / (found + usual + 1e-6)).sum(axis=-1))


# === Cells ===
def compute(name: str, options: argparse.Namespace) -> Any:
    """One cell."""
    import keras

    import keras_mae
    from keras_mae import recipes

    kind, *rest = name.split("-")
    if kind == "pretrain":
        count, epochs = (100, 2) if options.quick else (3_000, 120)
        generator = np.random.default_rng(100)
        images = np.concatenate([crops(parts(texture)[0], count, generator) for texture in TEXTURES])
        options_of_recipe = {**study.PLAIN, "norm_pix_loss": False}
        recipe = recipes.PretrainRecipe(epochs=epochs, warmup_epochs=epochs // 10, **options_of_recipe)
        keras.utils.set_random_seed(recipe.seed)
        encoder = keras_mae.ViTEncoder((SIDE, SIDE, 1), PATCH, embed_dim=96, depth=6, num_heads=4)
        decoder = keras_mae.MAEDecoder(embed_dim=64, depth=2, num_heads=4)
        mae = keras_mae.MaskedAutoencoder(encoder, decoder, **recipe.model_arguments)
        return study.pretrain(mae, images, recipe, options.out / name)
    return score(*rest, options)


def score(texture: str, seed: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """AUROC by method: of images, of pixels, and of images with one kind of defect."""
    import keras

    from keras_mae import anomaly

    normal_count, test_count = (40, 24) if options.quick else (400, 240)
    left, right = parts(texture)
    generator = np.random.default_rng([int(seed), TEXTURES.index(texture)])
    normal = crops(left, normal_count, generator)
    images, places = test_images(right, test_count, generator)
    mae = keras.saving.load_model(options.out / "pretrain" / "model.keras")
    found = anomaly.AnomalyDetector(mae, seed=int(seed)).fit(normal).score(images)
    maps = {**found.maps, "PCA": by_components(normal, images), "histogram": by_histogram(normal, images)}
    scores = {**found.scores, **{name: maps[name].max(axis=(1, 2)) for name in ("PCA", "histogram")}}
    defect = np.arange(test_count) >= test_count // 2
    results = {}
    for method in METHODS:
        results[method] = {
            "images": anomaly.auroc(defect, scores[method]),
            "pixels": anomaly.auroc(places, maps[method]),
        }
        for number, kind in enumerate(KINDS):
            some = ~defect | (np.arange(test_count) % len(KINDS) == number)
            results[method][kind] = anomaly.auroc(defect[some], scores[method][some])
    if seed == "0":
        draw(images, places, maps, options.out / f"{texture}.png")
    return results


def draw(images: np.ndarray, places: np.ndarray, maps: dict[str, np.ndarray], path: Any) -> None:
    """Draw the maps of an image with each kind of defect."""
    from keras_mae import visualize

    shown = np.arange(len(images) - len(KINDS), len(images))
    by_method = {method: maps[method][shown] for method in METHODS}
    visualize.overlays(images[shown], {"defect": places[shown].astype("float32"), **by_method}).savefig(path)


# === Report ===
def report(options: argparse.Namespace) -> None:
    """Print the table of what is there."""
    columns = ("images", "pixels", *KINDS)
    for texture in (*TEXTURES, "all"):
        chosen = TEXTURES if texture == "all" else (texture,)
        cells = [study.read(options, f"score-{one}-{seed}") for one in chosen for seed in SEEDS]
        if not (cells := [cell for cell in cells if cell]):
            continue
        print(f"\n{texture}: AUROC in %, mean ± standard deviation over {len(cells)} cells")
        print(f"{'':16}" + "".join(f"{column:>14}" for column in columns))
        for method in METHODS:
            values = ([cell[method][column] for cell in cells] for column in columns)
            print(f"{method:16}" + "".join(f"{study.shown(value):>14}" for value in values))


def main() -> None:
    """Compute the cells that are missing, and print the table."""
    options = study.parser(__doc__.split("\n\n")[0], "anomaly_study").parse_args()
    study.main(options, stages(options), lambda name: compute(name, options))
    report(options)


if __name__ == "__main__":
    main()
