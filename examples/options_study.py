"""Which options pay: Fashion-MNIST, every option at the same cost, counted in core-seconds.

    KERAS_BACKEND=torch python examples/options_study.py --validate          # every option against the plain recipe
    KERAS_BACKEND=torch python examples/options_study.py                     # the winners, and their rivals
    KERAS_BACKEND=torch python examples/options_study.py --only 'pixels-*'   # some cells; '' for the tables alone
    KERAS_BACKEND=torch python examples/options_study.py --digits            # does it hold on other images?

Each option is one change to the plain recipe: the paper's model, loss and optimizer. The first cells measure what a
step of each costs, one after the other on a machine that should be quiet; the others train for as many steps as the
budget pays for: an option that makes a step cheaper takes more of them. So only the first cells depend on the
machine: beside copies of them in --out the others may be computed elsewhere, on a GPU too. Options are compared on
10,000 training images kept apart (`--validate`). The winners are trained once more on all 60,000 images and scored on
the 10,000 test images, which nothing was chosen by.

Beside them: classifiers on raw pixels; a small convolutional network and the same ViT, both trained from random
weights with the same augmentation for the same core-seconds, pre-training included; and the ViTMAE of `transformers`,
trained by the settings of its own example. All features are read out by the same code.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any

import peers
import study

LARGER: dict[str, Any] = {"batch_size": 256, "base_learning_rate": 2e-3}  # the same learning rate
CHEAPER: dict[str, Any] = {"decoder": "cross_attention", "predict_ratio": 0.33}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch_256": LARGER,
    "pixels": {"norm_pix_loss": False},
    "low_pass": {"target": "low_pass"},
    "hog": {"target": "hog"},
    "cells": {"mask_cell": 2},
    "green": {"masking": "green"},
    "red": {"masking": "red"},
    "blue": {"masking": "blue"},
    "purple": {"masking": "purple"},
    "no_class_token": {"class_tokens": 0},
    "4_class_tokens": {"class_tokens": 4},
    "third": {"predict_ratio": 0.33},
    "cross": {"decoder": "cross_attention"},
    "cross_third": CHEAPER,
    "fused": {"fuse_blocks": (0, 1, 3)},
    "gentle": {"shift": 2 / 28, "flip": True},
    "muon": {"optimizer_name": "muon"},
    "muon_256": {**LARGER, "optimizer_name": "muon"},
    "ema": {"ema_momentum": 0.999},
    "wsd": {"schedule": "wsd"},
    "muon_256_cross_third": {**LARGER, **CHEAPER, "optimizer_name": "muon"},
    "muon_256_cross_third_pixels": {**LARGER, **CHEAPER, "optimizer_name": "muon", "norm_pix_loss": False},
    "muon_256_cross_third_hog": {**LARGER, **CHEAPER, "optimizer_name": "muon", "target": "hog"},
    "muon_256_hog": {**LARGER, "optimizer_name": "muon", "target": "hog"},
}
BEST: dict[str, Any] = {**CHEAPER, "optimizer_name": "muon"}
FINALS = ("plain", "best", "long", "transformers")
LONGER = 4  # times the budget that "long" has, which is "best" and the recipe for small images
RIVALS = ("vit", "cnn", "vit_long")  # trained from random weights for as much as "best" in all, and as "long"
PARTS = (8, 4, 2, 1)  # of the way: an eighth, a quarter, ...
PROBES = {  # name in the tables: pooling
    "linear, class token": "token",
    "linear, all patches": "flatten",
    "attentive": "attentive",
}
NEIGHBORS = "20 nearest neighbors"


@dataclass(frozen=True)
class Setting:
    """What goes with the images."""

    preset: str
    labels: tuple[int, ...]
    option_budget: float
    """Core-seconds of pre-training to compare options by."""
    final_budget: float
    """And for the winners."""
    plain: dict[str, Any]
    """The plain recipe."""
    best: dict[str, Any]
    """What the best one changes."""
    tuning: dict[str, Any]
    """What the recipe for fine-tuning changes."""


FASHION = Setting(
    preset="mae_vit_micro_patch4_28",
    labels=(600, 6_000, 60_000),
    option_budget=300,
    final_budget=600,
    plain=study.PLAIN,
    best={**BEST, **LARGER},
    tuning={},
)
DIGITS = Setting(  # too few for larger batches; and digits are not mirrored
    preset="mae_vit_micro_patch2_8",
    labels=(100, 1_437),
    option_budget=30,
    final_budget=60,
    plain={**study.PLAIN, "batch_size": 32, "base_learning_rate": 8e-3},
    best=BEST,
    tuning={"flip": False},
)


def stages(options: argparse.Namespace) -> list[list[str]]:
    """All cells' names: a stage needs what the one before it left."""
    names = tuple(OPTIONS) if options.validate else FINALS
    trained = [f"{name}-{seed}" for seed in options.seeds for name in names]
    costs = [f"cost-{name}" for name in names if name != "long"]
    pretrained = [[f"pretrain-{name}" for name in trained], [f"features-{name}" for name in trained]]
    if options.validate:
        return [costs, *pretrained]
    counts = labels(options)
    costs += [f"cost-{kind}-{count}" for kind in ("vit", "cnn") for count in counts]
    tuned, rivals = (
        [f"finetune-{start}-{seed}-{count}" for seed in options.seeds for start in starts for count in counts]
        for starts in (("plain", "best", "long"), RIVALS)
    )
    others = [f"pixels-{seed}" for seed in options.seeds] + [f"curve-{name}" for name in trained]
    return [costs, *pretrained, [*tuned, *rivals, *others]]


# === In a cell's process ===
def compute(name: str, options: argparse.Namespace) -> Any:
    """One cell."""
    train, test = study.images(options)
    kind, start, *rest = name.split("-")
    if kind == "cost":
        return cost(start, train, int(rest[0]) if rest else None, options)
    if kind == "pixels":
        seed = int(start)
        return {count: peers.on_pixels(study.labeled(train, count, seed), test, seed) for count in labels(options)}
    seed = int(rest[0])
    if kind == "pretrain":
        return pretrain(start, seed, train[0], options)
    if kind == "features":
        return features(encoder_of(start, seed, options), train, test, seed, options)
    if kind == "curve":
        part = study.labeled(train, curve_labels(options), seed)
        return [study.probe(encoder_of(start, seed, options, n), part, test, seed, "flatten") for n in PARTS]
    return fine_tune(start, seed, study.labeled(train, int(rest[1]), seed), test, options)


def cost(name: str, train: Any, count: int | None, options: argparse.Namespace) -> float:
    """Core-seconds of a step: of pre-training, or of training on `count` labeled images."""
    from keras_mae import data, training

    if name == "transformers":
        return study.cost(peers.TransformersMAE(train[0], setting(options).preset, seed=0).fit)
    if count is None:
        recipe, tokens = recipe_of(name, 0, options)
        dataset = training.training_batches(data.ArraySource(train[0]), recipe)
        model = autoencoder(recipe, tokens, len(dataset), options)
    else:
        recipe = fine_tuning(count, 0, options)
        dataset = training.training_batches(data.ArraySource(*study.labeled(train, count, 0)), recipe, num_classes=10)
        model = peers.classifier(name, setting(options).preset, recipe, len(dataset))
    return study.cost(lambda steps: peers.fit(model, dataset, steps))


def pretrain(name: str, seed: int, images: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Pre-train for the budget; the encoders of an eighth, a quarter and half of it are kept for the curves."""
    import keras

    from keras_mae import data, training

    directory = options.out / f"pretrain-{name}-{seed}"
    directory.mkdir(exist_ok=True)
    times = LONGER if name == "long" else 1
    step = study.read(options, "cost-best" if name == "long" else f"cost-{name}")
    steps = max(max(PARTS), int(times * budget(options) / step))
    if name == "transformers":
        epochs = peers.TransformersMAE(images, setting(options).preset, seed).train(steps, PARTS, directory)
        return {"core_seconds": steps * step, "steps": steps, "epochs": epochs}
    recipe, tokens = recipe_of(name, seed, options)
    dataset = training.training_batches(data.ArraySource(images), recipe)
    epochs = max(max(PARTS), -(-steps // len(dataset)))
    recipe = replace(recipe, epochs=epochs, warmup_epochs=1)
    mae = autoencoder(recipe, tokens, steps // epochs, options)

    def keep(epoch: int, logs: Any = None) -> None:
        for part in PARTS:
            if epoch + 1 == epochs // part:
                mae.encoder.save(directory / f"encoder-{part}.keras")

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=keep)]
    mae.fit(study.first(dataset, steps // epochs), epochs=epochs, callbacks=callbacks, verbose=0)
    mae.encoder.save(directory / "encoder-1.keras")  # with averaged weights, where there are any
    return {"core_seconds": steps * step, "steps": steps, "epochs": steps / len(dataset)}


def recipe_of(name: str, seed: int, options: argparse.Namespace) -> tuple[Any, int]:
    """Return the recipe of an option, and its number of class tokens."""
    from keras_mae import recipes

    chosen = setting(options)
    changes = {**chosen.plain, **(chosen.best if name in ("best", "long") else OPTIONS[name])}
    tokens = changes.pop("class_tokens", 1)
    return recipes.PretrainRecipe(epochs=12, warmup_epochs=1, seed=seed, **changes), tokens


def autoencoder(recipe: Any, tokens: int, steps_per_epoch: int, options: argparse.Namespace) -> Any:
    """Return the compiled model of a recipe."""
    import keras

    import keras_mae

    keras.utils.set_random_seed(recipe.seed)
    mae = keras_mae.MaskedAutoencoder.from_preset(
        setting(options).preset, decoder=recipe.decoder, class_tokens=tokens, **recipe.model_arguments
    )
    mae.compile(recipe.optimizer(steps_per_epoch))
    return mae


def encoder_of(name: str, seed: int, options: argparse.Namespace, part: int = 1) -> Any:
    """Return the encoder that a cell of pre-training left, at a part of its way."""
    import keras

    from keras_mae import convert

    directory = options.out / f"pretrain-{name}-{seed}"
    if name == "transformers":
        return convert.load(directory / f"model-{part}").model.encoder
    return keras.saving.load_model(directory / f"encoder-{part}.keras")


def features(encoder: Any, train: Any, test: Any, seed: int, options: Any) -> dict[str, dict[str, float]]:
    """Score every read-out for every number of labels, on the features of the frozen encoder."""
    from keras_mae import transfer

    scores: dict[str, dict[str, float]] = {}
    chosen = columns(options)
    far = transfer.extract_features(encoder, *test, pooling="mean", progress=False) if NEIGHBORS in chosen else None
    for count in labels(options):
        part = study.labeled(train, count, seed)
        scores[str(count)] = {
            name: study.probe(encoder, part, test, seed, pooling=PROBES[name]) for name in chosen if name in PROBES
        }
        if far is not None:
            near = transfer.extract_features(encoder, *part, pooling="mean", progress=False)
            scores[str(count)][NEIGHBORS] = transfer.knn_accuracy(near, far, k=20)
    return scores


def columns(options: argparse.Namespace) -> tuple[str, ...]:
    """Read-outs of frozen features; options are compared by one of them."""
    return ("linear, all patches",) if options.validate else (*PROBES, NEIGHBORS)


def fine_tuning(count: int, seed: int, options: argparse.Namespace) -> Any:
    """Return the recipe for fine-tuning on `count` labeled images."""
    from keras_mae import recipes

    changes = setting(options).tuning
    return recipes.FineTuneRecipe.for_size("small_images", images=count, seed=seed, **changes)


def fine_tune(start: str, seed: int, train: Any, test: Any, options: argparse.Namespace) -> float:
    """Accuracy after fine-tuning, or after training from random weights for as many core-seconds in all."""
    import keras

    count = len(train[0])
    recipe = fine_tuning(count, seed, options)
    keras.utils.set_random_seed(seed)
    kind, _, longer = start.partition("_")
    if kind in ("vit", "cnn"):
        steps = recipe.epochs * (count // recipe.batch_size)
        spent = (LONGER if longer else 1) * budget(options) + steps * study.read(options, f"cost-vit-{count}")
        steps = int(spent / study.read(options, f"cost-{kind}-{count}"))
        return peers.supervised(kind, setting(options).preset, train, test, recipe, steps)
    return study.fine_tune(encoder_of(start, seed, options), train, test, recipe)


# === In the parent ===
def report(options: argparse.Namespace) -> None:
    """Print the tables of what is there."""
    for count in (str(count) for count in labels(options)):
        print(f"\n{int(count):,} labels: accuracy in %, mean ± standard deviation over seeds")
        print(f"{'':22}{'core-s':>8}{'epochs':>8}" + "".join(f"{column:>22}" for column in columns(options)))
        for name in OPTIONS if options.validate else FINALS:
            trained = known(options, f"pretrain-{name}-{{}}")
            if not trained:
                continue
            spent = sum(cell["core_seconds"] for cell in trained) / len(trained)
            epochs = sum(cell["epochs"] for cell in trained) / len(trained)
            scores = [cell[count] for cell in known(options, f"features-{name}-{{}}")]
            row = "".join(f"{study.shown([score[column] for score in scores]):>22}" for column in columns(options))
            print(f"{name:22}{spent:8.0f}{epochs:8.1f}{row}")
        for name in () if options.validate else ("plain", "best", "long", *RIVALS):
            tuned = known(options, f"finetune-{name}-{{}}-{count}")
            print(f"{'fine-tuned, ' + name:38}{study.shown(tuned):>22}")
        for name in peers.ON_PIXELS if not options.validate else ():
            scores = [cell[count][name] for cell in known(options, "pixels-{}") if name in cell[count]]
            print(f"{name + ' on pixels':38}{study.shown(scores):>22}")


def draw(options: argparse.Namespace) -> None:
    """Draw the probe's accuracy over core-seconds, with the classifiers on pixels as lines."""
    from matplotlib.figure import Figure

    count = curve_labels(options)
    figure = Figure((6, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, style in zip(FINALS, ("o--", "s-", "d-", "^:"), strict=True):
        curves = known(options, f"curve-{name}-{{}}")
        if not curves:
            continue
        means, spreads = zip(*(study.mean_and_spread(list(at)) for at in zip(*curves, strict=True)), strict=True)
        seconds = [(LONGER if name == "long" else 1) * budget(options) / part for part in PARTS]
        axes.errorbar(seconds, [100 * x for x in means], [100 * x for x in spreads], fmt=style, capsize=3, label=name)
    for line, name in zip(("-", "--", "-.", ":"), peers.ON_PIXELS, strict=True):
        scores = [cell[str(count)][name] for cell in known(options, "pixels-{}") if name in cell[str(count)]]
        if scores:
            height = 100 * sum(scores) / len(scores)
            axes.axhline(height, color="gray", linestyle=line, label=f"{name}, pixels")
    axes.set(xscale="log", xlabel="core-seconds of pre-training", ylabel=f"linear probe (%), {count:,} labels")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    figure.savefig(options.out / "options.png")


def known(options: argparse.Namespace, name: str) -> list[Any]:
    """Results of a cell that were computed, one for each seed; `name` has a place for the seed."""
    found = [study.read(options, name.format(seed)) for seed in options.seeds]
    return [result for result in found if result is not None]


def setting(options: argparse.Namespace) -> Setting:
    """Return what goes with the images."""
    return DIGITS if options.digits else FASHION


def labels(options: argparse.Namespace) -> tuple[int, ...]:
    """Numbers of labels."""
    return setting(options).labels[: 1 if options.quick else 2 if options.validate else None]


def curve_labels(options: argparse.Namespace) -> int:
    """Labels of the probes along the way."""
    return labels(options)[-2:][0]


def budget(options: argparse.Namespace) -> float:
    """Core-seconds of pre-training."""
    chosen = setting(options)
    return options.budget or (chosen.option_budget if options.validate else chosen.final_budget)


def main() -> None:
    """Compute the cells that are missing, print the tables, draw the picture."""
    parser = study.parser(__doc__.split("\n\n")[0], "options_study")
    parser.add_argument("--validate", action="store_true", help="compare the options, on training images kept apart")
    parser.add_argument("--digits", action="store_true", help="the digits of scikit-learn, and no Fashion-MNIST")
    parser.add_argument("--budget", type=float, help="core-seconds of pre-training; 300 with --validate, else 600")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to compute")
    options = parser.parse_args()
    study.main(options, stages(options), lambda name: compute(name, options))
    report(options)
    if not options.validate:
        draw(options)


if __name__ == "__main__":
    main()
