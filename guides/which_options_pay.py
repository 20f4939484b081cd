"""
Title: Which options pay
Author: the keras_mae authors
Date created: 2026/11/26
Last modified: 2026/11/26
Description: What improves on the paper at the same cost: the read-out, the optimizer, the decoder, masks, targets.
Accelerator: None
Order: 3
"""

"""
## The situation

The method is of 2021. Much has been proposed since that claims to improve on it, and most of it is one argument here.
Which arguments are worth it? A longer training always helps, so the honest question is: *what helps at the same
cost?* This guide asks it in small, in about ten minutes on one CPU core, and ends with the answers of the study
behind it, which took hours: what to switch on for few labels, for a small budget, for small models, and for dense
tasks.

We have 10,000 photographs of clothes without labels, and 600 with. If the ways to use an encoder are new to you, read
[From pre-training to a classifier](transfer.ipynb) first.
"""

import importlib.util
import os

quick = "KERAS_MAE_QUICK" in os.environ  # a short form for tests: less data, fewer epochs
installed = [name for name in ("torch", "tensorflow", "jax") if importlib.util.find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", installed[0])  # in order of speed on a CPU; or name the one you like

import time
from dataclasses import replace

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

import keras_mae
from keras_mae import data, recipes, training, transfer

print("Keras", keras.__version__, "on", keras.backend.backend())

train_images, train_labels = data.fashion_mnist("train")
test_images, test_labels = data.fashion_mnist("test")
test = (test_images[:200], test_labels[:200]) if quick else (test_images[:2000], test_labels[:2000])
unlabeled = train_images[: 512 if quick else 10_000]

generator = np.random.default_rng(0)
chosen = [generator.permutation(np.flatnonzero(train_labels[:10_000] == label))[:60] for label in range(10)]
chosen = generator.permutation(np.concatenate(chosen))
few = (train_images[chosen], train_labels[chosen])
print(len(unlabeled), "images without labels,", len(few[0]), "with,", len(test[0]), "to test on")

"""
## What must be beaten

Before any network: what do classical methods reach on the pixels themselves, in seconds? A result that does not beat
them is not worth the training. On small, centered images they are strong.
"""

flat = [part[0].reshape(len(part[0]), -1) / 255 for part in (few, test)]
for name, model in (("logistic regression", LogisticRegression(C=0.1, max_iter=200)), ("SVM", SVC(C=10))):
    print(f"{name:20} {model.fit(flat[0], few[1]).score(flat[1], test[1]):.1%}")

"""
## Two recipes at the same cost

The plain one is the paper's method with AdamW. The other is the recipe for small images: the decoder's tokens attend
only to the encoder's (`decoder="cross_attention"`), so that it can predict a third of the removed patches without
knowing of the rest (`predict_ratio=1 / 3`); Muon moves the weight matrices in place of AdamW
(`optimizer_name="muon"`); and a batch has 256 images, not 128.

Steps of the two do not cost the same, so both get the same number of *seconds*. We measure what a step costs, and
train for as many as the budget pays for.
"""

BUDGET = 2 if quick else 120  # core-seconds


def model_of(recipe, steps_per_epoch):
    keras.utils.set_random_seed(recipe.seed)
    mae = keras_mae.MaskedAutoencoder.from_preset(
        "mae_vit_micro_patch4_28", decoder=recipe.decoder, **recipe.model_arguments
    )
    mae.compile(recipe.optimizer(steps_per_epoch))
    return mae


def pretrain(recipe):
    batches = training.training_batches(data.ArraySource(unlabeled), recipe)
    tried = model_of(recipe, len(batches))
    tried.fit(batches, verbose=0)  # the first epoch also compiles, and is not counted
    began = time.process_time()
    tried.fit(batches, verbose=0)
    epochs = max(round(BUDGET / (time.process_time() - began)), 2)
    recipe = replace(recipe, epochs=epochs, warmup_epochs=1)
    mae = model_of(recipe, len(batches))
    began = time.process_time()
    mae.fit(batches, epochs=epochs, verbose=0)
    print(f"{epochs} epochs in {time.process_time() - began:.0f} core-seconds")
    return mae.encoder


plain = recipes.PretrainRecipe(
    batch_size=128, base_learning_rate=4e-3, epochs=8, warmup_epochs=1, crop_area=None, flip=False
)
winner = recipes.PretrainRecipe.for_size("small_images", images=len(unlabeled))
encoders = {"plain": pretrain(plain), "winner": pretrain(winner)}

"""
## The read-out comes first

A masked autoencoder writes what it learns into the patch tokens; nothing trains its class token. Three linear probes
on the same frozen encoders: the published one on the class token, an attentive one whose queries learn which patches
to read, and one on all patch tokens, each in its place. The last suits images in which objects stand in the middle
and have one size, as here; where they may be anywhere, the attentive one does.
"""

probes = {}
for name, encoder in encoders.items():
    for pooling in ("token", "attentive", "flatten"):
        keras.utils.set_random_seed(0)
        recipe = recipes.LinearProbeRecipe.for_size("small_images", images=len(few[0]), pooling=pooling)
        recipe = replace(recipe, epochs=20, warmup_epochs=2) if quick else recipe
        probe = transfer.linear_probe(encoder, few, 10, recipe, cache_features=True, verbose=0)
        probes[name, pooling] = probe
        print(f"{name:8} {pooling:10} {probe.evaluate(*test, verbose=0, return_dict=True)['accuracy']:.1%}")

"""
What do the queries look at? Four of them on three images, each a map over the patches.
"""

asked = test[0][:3]
attention = keras_mae.visualize.query_attention(probes["winner", "attentive"], asked)
figure = keras_mae.visualize.query_maps(asked, attention, 4)
figure.set_dpi(60)
figure

"""
## Fine-tuning reads the same tokens

The recipe for small images gives the head all patch tokens too (`pooling="flatten"`). Beside it, the published mean.
Its learning rate is for 60 epochs; in 25, for time, a higher one went further. That was seen on these very test
images, so take the two figures for an illustration.
"""

for pooling in ("mean", "flatten"):
    keras.utils.set_random_seed(0)
    changes = {"pooling": pooling, "epochs": 2 if quick else 25, "base_learning_rate": 8e-3}
    recipe = recipes.FineTuneRecipe.for_size("small_images", images=len(few[0]), **changes)
    batches = training.training_batches(data.ArraySource(*few), recipe, num_classes=10)
    began = time.process_time()
    classifier = transfer.fine_tune(encoders["winner"], batches, 10, recipe, verbose=0)
    accuracy = classifier.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    print(f"{pooling:10} {accuracy:.1%} after {time.process_time() - began:.0f} core-seconds")

"""
## What the study found

The guide's budget is two minutes for each recipe, and one seed. The study behind it gives every option more: [the
table of all options](../docs/options.md#every-option-at-the-same-cost) has each alone, at the same core-seconds, on
images kept apart, and [the benchmarks](../docs/benchmarks.md) have the winner on the test images, beside classifiers
on pixels and networks that were trained from random weights. In short:

* **How features are read out matters most.** All patch tokens, or an attentive probe, instead of the class token:
  more than any change to the pre-training, and for nothing.
* **Longer pre-training comes next**, and it is still the surest way to better features. Cheaper steps are worth as
  much as they make longer.
* **Cross-attention and a third predicted** make a step cheaper without a loss that could be seen: the default for
  small images, together with **Muon**.
* **Plain pixels or HOG as the target** help linear probes with few labels. After fine-tuning nothing of that was
  left, and HOG takes the pictures of reconstructions away.
* **Masks in cells or from filtered noise, averaged weights, the gentle crop**: within half a point of the plain
  recipe here, which is what one seed can tell.

## What to switch on

| you have | switch on |
| --- | --- |
| few labels, objects in the middle | fine-tuning from all patch tokens, `pooling="flatten"`; a longer pre-training |
| few labels, objects anywhere | `pooling="attentive"`, which also shows where it looks |
| a small budget | `decoder="cross_attention"`, `predict_ratio=1 / 3`, `optimizer_name="muon"` |
| no time to fine-tune | `target="hog"` and a linear probe on all patch tokens |
| dense tasks | `mask_cell=2` and `fuse_blocks` are reported to help; this study has only classified |
| a small model and a trained large one | `target=keras_mae.targets.Teacher(large)`: reported, not measured here |
| a run whose length is not known | `schedule="wsd"`: it can be made longer afterwards |

Whatever you switch on, compare at the same cost, on images that you do not report on, and next to a classical method
on the pixels. The script of the study is `examples/options_study.py`; it takes your budget with `--budget`.
"""
