"""How much to hide? Linear probe and fine-tuning on Fashion-MNIST after pre-training at 25, 50, 75 and 90 %.

    KERAS_BACKEND=torch python examples/mask_ratio_study.py             # hours on 2 cores; resumes
    KERAS_BACKEND=torch python examples/mask_ratio_study.py --quick     # minutes, a look

The paper's figure on the masking ratio in small: the same ViT (0.45 M parameters) is pre-trained on the 60,000 images
at each ratio, once, and then probed and fine-tuned with 600 labels and three seeds. The picture shows mean and
standard deviation over them: the spread of pre-training is not in it.

Seen with PyTorch and OMP_NUM_THREADS=1, in about two hours on two busy cores; accuracy in % on the test images:

    masked              25 %          50 %          75 %          90 %
    linear probe  73.8 ± 0.8    74.7 ± 0.8    76.5 ± 0.2    72.6 ± 0.2
    fine-tuned    79.8 ± 0.4    80.3 ± 0.3    79.7 ± 0.5    78.8 ± 0.7

As in the paper a linear probe is best at 75 %, and fine-tuning hardly minds: its best ratio, 50 %, is within the
spread of its neighbours.
"""

from __future__ import annotations

import argparse
from typing import Any

import study

PRESET = "mae_vit_micro_patch4_28"
RATIOS = (25, 50, 75, 90)
SEEDS = (0, 1, 2)
LABELS, EPOCHS, PRETRAIN_EPOCHS, IMAGES = 600, 50, 6, 60_000
PROTOCOLS = ("probe", "finetune")


def stages(options: argparse.Namespace) -> list[list[str]]:
    """All cells' names."""
    seeds = SEEDS[:1] if options.quick else SEEDS
    return [
        [f"pretrain-{ratio}" for ratio in RATIOS],
        [f"{protocol}-{ratio}-{seed}" for ratio in RATIOS for seed in seeds for protocol in PROTOCOLS],
    ]


def compute(name: str, options: argparse.Namespace) -> Any:
    """One cell."""
    import keras

    import keras_mae
    from keras_mae import recipes

    train, test = study.images(options)
    kind, ratio, *rest = name.split("-")
    if kind == "pretrain":
        epochs, images = (2, 6_000) if options.quick else (PRETRAIN_EPOCHS, IMAGES)
        recipe = recipes.PretrainRecipe(epochs=epochs, warmup_epochs=1, mask_ratio=int(ratio) / 100, **study.PLAIN)
        keras.utils.set_random_seed(recipe.seed)
        mae = keras_mae.MaskedAutoencoder.from_preset(PRESET, **recipe.model_arguments)
        return study.pretrain(mae, train[0][:images], recipe, options.out / name)
    seed = int(rest[0])
    keras.utils.set_random_seed(seed)
    encoder = keras.saving.load_model(options.out / f"pretrain-{ratio}" / "encoder.keras")
    part = study.labeled(train, LABELS, seed)
    if kind == "probe":
        return study.probe(encoder, part, test, seed)
    epochs = 4 if options.quick else EPOCHS
    recipe = recipes.FineTuneRecipe.for_size(  # 1e-3 at this batch, the best of three on validation
        "small_images", batch_size=32, base_learning_rate=8e-3, epochs=epochs, warmup_epochs=1, seed=seed
    )
    return study.fine_tune(encoder, part, test, recipe)


def report(options: argparse.Namespace) -> None:
    """Print the table and draw the picture of what is there."""
    from matplotlib.figure import Figure

    figure = Figure((5, 6), dpi=120, layout="constrained")
    panels = figure.subplots(len(PROTOCOLS), sharex=True)
    print("\naccuracy in %, mean ± standard deviation over seeds of probing and fine-tuning")
    print(f"{'masked':16}" + "".join(f"{f'{ratio} %':>14}" for ratio in RATIOS))
    for axes, protocol, title in zip(panels, PROTOCOLS, ("linear probe", "fine-tuned"), strict=True):
        cells = [
            [score for seed in SEEDS if (score := study.read(options, f"{protocol}-{ratio}-{seed}"))]
            for ratio in RATIOS
        ]
        print(f"{title:16}" + "".join(f"{study.shown(values):>14}" for values in cells))
        known = [
            (ratio, *study.mean_and_spread(values)) for ratio, values in zip(RATIOS, cells, strict=True) if values
        ]
        ratios, means, spreads = zip(*known, strict=True)
        axes.errorbar(ratios, [100 * x for x in means], [100 * x for x in spreads], fmt="o-", capsize=4)
        axes.set(ylabel=f"{title}: accuracy (%)", title=f"{LABELS:,} labels" if protocol == "probe" else "")
    panels[-1].set_xlabel("patches removed in pre-training (%)")
    figure.savefig(options.out / "mask_ratio.png")
    print(options.out / "mask_ratio.png")


def main() -> None:
    """Compute the cells that are missing, print the table, draw the picture."""
    options = study.parser(__doc__.split("\n\n")[0], "mask_ratio_study").parse_args()
    study.main(options, stages(options), lambda name: compute(name, options))
    report(options)


if __name__ == "__main__":
    main()
