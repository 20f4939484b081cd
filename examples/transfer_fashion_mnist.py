"""What pre-training is worth: Fashion-MNIST with 600, 6,000 and 60,000 labels, from scratch and pre-trained.

    KERAS_BACKEND=torch python examples/transfer_fashion_mnist.py            # up to 3 hours on 2 cores; resumes
    KERAS_BACKEND=torch python examples/transfer_fashion_mnist.py --quick    # under 5 minutes, a look

The same ViT (0.45 M parameters) is fine-tuned for the same number of steps on the same labeled images, once from
random weights and once after masked pre-training on the 60,000 images without their labels. Beside it, linear probes
and nearest neighbours on the frozen features of the pre-trained and of the untrained encoder. Each cell has three
seeds, which change weights, masks, labeled images and data order; pre-training is done anew for each. Accuracies
are on the 10,000 test images, which nothing was tuned on: learning rates and layer decay were chosen for scratch
and for pre-trained separately, with the same effort, on 10,000 training images (`--validate`, `--change`).

Seen with PyTorch and OMP_NUM_THREADS=1, accuracy in %, mean and standard deviation over the seeds:

                                               600         6,000        60,000  labels
    fine-tuned, scratch                   73.3 ± 0.8    79.8 ± 0.4    83.2 ± 0.2
    linear probe, untrained               57.6 ± 1.5    74.8 ± 0.3    78.2 ± 0.1
    20 nearest neighbours, untrained      48.2 ± 1.8    61.5 ± 1.1    70.2 ± 0.4
    fine-tuned, pretrained                81.7 ± 0.7    86.8 ± 0.3    88.3 ± 0.3
    linear probe, pretrained              78.3 ± 0.8    82.9 ± 0.6    84.4 ± 0.4
    20 nearest neighbours, pretrained     76.0 ± 1.6    80.8 ± 1.2    84.4 ± 0.7

The cells took 2 minutes (600 labels), 6 (6,000) and 12 (60,000) each on a core of its own, features 6 to 8 and
pre-training 22: about 2 hours on two cores. While other programs kept the cores busy some took four times as long.

`--quick` took 2 minutes and shows that the script works, not what pre-training is worth: after 6 epochs on 6,000
images it is worth nothing yet (one seed, 2,000 test images: fine-tuned 65.5 from scratch and 63.8 pre-trained, linear
probe 56.5 untrained and 52.4 pre-trained, neighbours 47.1 and 51.4).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import study

PRESET = "mae_vit_micro_patch4_28"
LABELS = (600, 6_000, 60_000)
SEEDS = (0, 1, 2)
STARTS = ("scratch", "pretrained")
PRETRAIN_EPOCHS = 12
EPOCHS = {600: 50, 6_000: 15, 60_000: 3}
BATCH = {600: 32, 6_000: 64, 60_000: 128}
LEARNING_RATE = 1e-3  # in every cell: on the validation images the best of 0.5, 1 and 2e-3 for both starts
TUNED = {"scratch": {"layer_decay": 1.0}, "pretrained": {}}


def stages(options: argparse.Namespace) -> list[list[str]]:
    """All cells' names."""
    seeds, labels = (SEEDS[:1], LABELS[:1]) if options.quick else (SEEDS, LABELS)
    return [
        [f"pretrain-{seed}" for seed in seeds],
        [f"finetune-{start}-{count}-{seed}" for count in labels for seed in seeds for start in STARTS]
        + [f"features-{start}-{seed}" for seed in seeds for start in STARTS],
    ]


# === In a cell's process ===
def compute(name: str, options: argparse.Namespace) -> Any:
    """One cell."""
    train, test = study.images(options)
    kind, *rest, seed = name.split("-")
    if kind == "pretrain":
        return pretrain(train[0], int(seed), options)
    encoder = encoder_of(rest[0], int(seed), options)
    if kind == "finetune":
        return fine_tune(encoder, rest[0], train, test, int(rest[1]), int(seed), options)
    return features(encoder, train, test, int(seed), LABELS[:1] if options.quick else LABELS)


def pretrain(images: Any, seed: int, options: argparse.Namespace) -> str:
    """Pre-train on all training images, or on 6,000 of them for `--quick`."""
    import keras

    import keras_mae

    epochs, images = (6, images[:6_000]) if options.quick else (PRETRAIN_EPOCHS, images)
    recipe = keras_mae.recipes.PretrainRecipe.for_size("small_images", epochs=epochs, warmup_epochs=1, seed=seed)
    keras.utils.set_random_seed(seed)
    mae = keras_mae.MaskedAutoencoder.from_preset(PRESET, **recipe.model_arguments)
    return study.pretrain(mae, images, recipe, options.out / f"pretrain-{seed}")


def encoder_of(start: str, seed: int, options: argparse.Namespace) -> Any:
    """Return the pre-trained encoder, or a fresh one."""
    import keras

    import keras_mae

    keras.utils.set_random_seed(seed)
    if start == "pretrained":
        return keras.saving.load_model(options.out / f"pretrain-{seed}" / "encoder.keras")
    return keras_mae.MaskedAutoencoder.from_preset(PRESET).encoder


def fine_tune(
    encoder: Any, start: str, train: Any, test: Any, count: int, seed: int, options: argparse.Namespace
) -> float:
    """Accuracy after fine-tuning on `count` labeled images."""
    from keras_mae import recipes

    epochs = 20 if options.quick else EPOCHS[count]
    recipe = recipes.FineTuneRecipe.for_size(
        "small_images",
        batch_size=BATCH[count],
        base_learning_rate=LEARNING_RATE * 256 / BATCH[count],
        epochs=epochs,
        warmup_epochs=1,
        seed=seed,
    )
    recipe = replace(recipe, **{**TUNED[start], **json.loads(options.change)})
    return study.fine_tune(encoder, study.labeled(train, count, seed), test, recipe)


def features(encoder: Any, train: Any, test: Any, seed: int, labels: Any) -> dict[str, Any]:
    """Score a linear probe and nearest neighbors for every number of labels, on the frozen encoder's features."""
    from keras_mae import transfer

    scores = {}
    far = transfer.extract_features(encoder, *test, progress=False)
    for count in labels:
        part = study.labeled(train, count, seed)
        near = transfer.extract_features(encoder, *part, progress=False)
        scores[count] = {
            "linear probe": study.probe(encoder, part, test, seed),
            "20 nearest neighbours": transfer.knn_accuracy(near, far, k=20),
        }
    return scores


# === In the parent ===
def report(options: argparse.Namespace) -> None:
    """Print the table of what is there."""
    print("\naccuracy in %, mean ± standard deviation over seeds")
    print(f"{'':34}" + "".join(f"{count:>14,}" for count in LABELS) + "  labels")
    for start in STARTS:
        cells = [[study.read(options, f"finetune-{start}-{count}-{seed}") for seed in SEEDS] for count in LABELS]
        row(f"fine-tuned, {start}", cells)
        for kind in ("linear probe", "20 nearest neighbours"):
            found = [study.read(options, f"features-{start}-{seed}") or {} for seed in SEEDS]
            cells = [[cell.get(str(count), {}).get(kind) for cell in found] for count in LABELS]
            row(f"{kind}, {'untrained' if start == 'scratch' else start}", cells)


def row(name: str, cells: Any) -> None:
    """Return a line of the table."""
    known = [[value for value in cell if value is not None] for cell in cells]
    print(f"{name:34}" + "".join(f"{study.shown(values):>14}" for values in known))


def main() -> None:
    """Compute the cells that are missing, and print the table."""
    parser = study.parser(__doc__.split("\n\n")[0], "transfer_fashion_mnist")
    study.add_tuning(parser)
    options = parser.parse_args()
    study.main(options, stages(options), lambda name: compute(name, options))
    report(options)


if __name__ == "__main__":
    main()
