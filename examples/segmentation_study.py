"""What pre-training is worth for segmentation: scenes of cut-outs and clothes, with 1, 10 and 100 % of their masks.

    KERAS_BACKEND=torch python examples/segmentation_study.py                  # cells, then the table
    KERAS_BACKEND=torch python examples/segmentation_study.py --only '*-200-*' # some cells; '' for the table alone

One encoder is pre-trained on 20,000 training scenes of `scenes.py`, of which 2,000 have masks. With 20, 200 or all of
those it is scored four ways: a linear head on two blocks of the frozen encoder, one on the fine-tuned encoder,
UPerNet, and, to compare with, a linear head on an encoder that starts from random weights. Every seed has other
masks. No cut-out, photograph or garment of the test scenes is in a training scene. mIoU is the mean over eleven
classes of intersection over union, counted over all test scenes. `scenes_baselines.py` has what needs no network.
`--dtype mixed_bfloat16` is faster on processors that have matrix products in it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import scenes
import study

SIZE, PATCH = 96, 8
ENCODER: dict[str, Any] = {"embed_dim": 128, "depth": 6, "num_heads": 4}
DECODER: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 4}
SCENES, TESTS = 20_000, 500
LABELS = 20, 200, 2_000  # masks
UNLABELED_EPOCHS = 58
PRETRAINING = "pretraining"  # name of the run's directory
WAYS: dict[str, dict[str, Any]] = {  # fields of the recipe
    "scratch": {"head": "linear", "trainable_blocks": None, "layer_decay": 1.0},
    "frozen": {"head": "linear", "blocks": (2, 5)},
    "tuned": {"head": "linear", "trainable_blocks": None},
    "upernet": {"head": "upernet"},
}
QUICK = (40, 20, (20,))


def sizes(options: argparse.Namespace) -> tuple[int, int, tuple[int, ...]]:
    """Return the numbers of training scenes, of test scenes, and of masks."""
    return QUICK if options.quick else (SCENES, TESTS, LABELS)


def stages(options: argparse.Namespace) -> list[list[str]]:
    """Return all cells' names: a stage needs what the one before it left."""
    counts = sizes(options)[2]
    cells = [f"{way}-{count}-{seed}" for seed in options.seeds for way in WAYS for count in counts]
    return [["pretrain"], cells]


# === In a cell's process ===
def compute(name: str, options: argparse.Namespace) -> Any:
    """Compute one cell."""
    import keras
    import numpy as np

    keras.mixed_precision.set_global_policy(options.dtype)
    way, *rest = name.split("-")
    count, tests, masks = sizes(options)
    places = {"stamps": options.stamps, "backgrounds": options.backgrounds, "clothes": options.data}
    if way == "pretrain":
        return pretrain(scenes.Scenes("train", SIZE, **places).arrays(count)[0], options)
    labels, seed = map(int, rest)
    chosen = np.random.default_rng(1000 + seed).permutation(max(masks))[:labels]
    composer = scenes.Scenes("train", SIZE, **places)
    train = [np.stack(side) for side in zip(*map(composer.scene, chosen.tolist()), strict=True)]
    test = scenes.Scenes("test", SIZE, **places).arrays(tests)
    return segment(way, seed, train, test, options)


def autoencoder(seed: int, **arguments: Any) -> Any:
    """Return the model to pre-train, with weights drawn by a seed."""
    import keras

    import keras_mae

    keras.utils.set_random_seed(seed)
    encoder = keras_mae.ViTEncoder((SIZE, SIZE, 3), PATCH, **ENCODER)
    return keras_mae.MaskedAutoencoder(encoder, keras_mae.CrossAttentionDecoder(**DECODER), seed=seed, **arguments)


def pretrain(images: Any, options: argparse.Namespace, seed: int = 0) -> dict[str, float]:
    """Pre-train on all training scenes, without masks, by the recipe for small images. What was cut off goes on."""
    from keras_mae import data, recipes, training

    epochs = 1 if options.quick else UNLABELED_EPOCHS
    recipe = recipes.PretrainRecipe.for_size("small_images", epochs=epochs, warmup_epochs=0, seed=seed)
    recipe = replace(recipe, batch_size=min(128, len(images)), warmup_epochs=epochs // 20, flip=True, shift=0.1)
    dataset = training.training_batches(data.ArraySource(images), recipe)
    mae = autoencoder(**recipe.model_arguments)
    saving = training.Saving(resume=True, every_minutes=5.0)
    directory = training.run_pretraining(
        mae, dataset, recipe, options.out / PRETRAINING, examples=images[:8], saving=saving
    )
    return {name: float(values[-1]) for name, values in training.RunDirectory(directory).history.items()}


def segment(way: str, seed: int, train: Any, test: Any, options: argparse.Namespace) -> dict[str, float]:
    """Train one way on images and masks, and score it on all test scenes."""
    import keras

    from keras_mae import data, recipes, transfer

    encoder = autoencoder(seed).encoder
    if way != "scratch":
        encoder = keras.saving.load_model(options.out / PRETRAINING / "encoder.keras")
    changes = dict(WAYS[way]) | ({"epochs": 2} if options.quick else {})
    recipe = recipes.SegmentationRecipe.for_size("small_images", images=len(train[0]), seed=seed, **changes)
    batches = data.pairs_from_arrays(
        *train,
        recipe.batch_size,
        crop=data.SegmentationCrop(**recipe.crop, base_size=SIZE),
        drop_remainder=True,
        seed=seed,
        image_size=SIZE,
        num_classes=len(scenes.NAMES),
        class_names=scenes.NAMES,
    )
    keras.utils.set_random_seed(seed)
    model = transfer.segment(encoder, batches, len(scenes.NAMES), recipe, verbose=0)
    scored = model.evaluate(*test, batch_size=20, verbose=0, return_dict=True)
    return {name: scored[name] for name in ("mean_iou", "pixel_accuracy", "class_accuracy")}


# === In the parent ===
def report(options: argparse.Namespace) -> None:
    """Print the table of what is there."""
    for metric in ("mean_iou", "pixel_accuracy", "class_accuracy"):
        print(f"\n{metric} on test scenes, in %: mean ± standard deviation over seeds")
        counts = sizes(options)[2]
        print(f"{'':10}" + "".join(f"{f'{count:,} masks':>16}" for count in counts))
        for way in WAYS:
            cells = [[study.read(options, f"{way}-{count}-{seed}") for seed in options.seeds] for count in counts]
            row = [study.shown([cell[metric] for cell in some if cell]) for some in cells]
            print(f"{way:10}" + "".join(f"{text:>16}" for text in row))


def main() -> None:
    """Compute the cells that are missing, and print the table."""
    parser = study.parser(__doc__.split("\n\n")[0], "segmentation_study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to compute")
    parser.add_argument("--dtype", default="float32", help="Keras' dtype policy of all cells")
    parser.set_defaults(data=scenes.PLACES["clothes"])
    for name in ("stamps", "backgrounds"):
        parser.add_argument(f"--{name}", type=Path, default=scenes.PLACES[name], help=f"folder of the {name}")
    options = parser.parse_args()
    study.main(options, stages(options), lambda name: compute(name, options))
    report(options)


if __name__ == "__main__":
    main()
