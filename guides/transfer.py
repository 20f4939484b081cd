"""
Title: From pre-training to a classifier
Author: the keras_mae authors
Date created: 2026/11/23
Last modified: 2026/11/23
Description: What a pre-trained encoder is worth with few labels: nearest neighbors, linear probe, fine-tuning.
Accelerator: None
Order: 2
"""

"""
## The situation

Many images, few labels: that is the case masked pre-training is for. Here we have 10,000 photographs of clothes
without labels and 300 with, 30 of each of ten classes, and want a classifier. We pre-train an encoder on the 10,000,
then put it to use in four ways, from the cheapest to the best, and see beside it what the same encoder does without
pre-training. Partial fine-tuning, the fourth, lies between the linear probe and fine-tuning.

If masking, encoder and decoder are new to you, read [Masked autoencoders from
scratch](masked_autoencoders.ipynb) first. This guide takes about seven minutes on one CPU core.
"""

import importlib.util
import os

quick = "KERAS_MAE_QUICK" in os.environ  # a short form for tests: less data, fewer epochs
installed = [name for name in ("torch", "tensorflow", "jax") if importlib.util.find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", installed[0])  # in order of speed on a CPU; or name the one you like

import time

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_mae
from keras_mae import data, recipes, training, transfer

print("Keras", keras.__version__, "on", keras.backend.backend())

train_images, train_labels = data.fashion_mnist("train")
test_images, test_labels = data.fashion_mnist("test")
test = (test_images[:200], test_labels[:200]) if quick else (test_images[:2000], test_labels[:2000])
unlabelled = train_images[: 512 if quick else 10_000]

# 30 labelled images of each class. They are among the 10,000: pre-training may see all images, but no label.
generator = np.random.default_rng(0)
chosen = [generator.permutation(np.flatnonzero(train_labels[:10_000] == label))[:30] for label in range(10)]
chosen = generator.permutation(np.concatenate(chosen))
few = (train_images[chosen], train_labels[chosen])
print(len(unlabelled), "images without labels,", len(few[0]), "with,", len(test[0]), "to test on")

"""
## Pre-training

A *recipe* holds every number of a run. There are the published ones for ImageNet
(`recipes.PretrainRecipe.for_size("base")`), and one for images of 8 to 64 pixels that was tuned on validation images
of this data set. Any number can be changed.
"""

recipe = recipes.PretrainRecipe.for_size("small_images", epochs=1 if quick else 12, warmup_epochs=0 if quick else 1)
print(recipe)

"""
Three of its values are not the paper's method, and did better in our trials on validation images: the decoder, the
share of the removed patches that it predicts in one step, and the optimizer; the page on options says where they come
from.
`norm_pix_loss` is on: the decoder predicts standardized patches, which gives better features than plain pixels do.
"""

keras.utils.set_random_seed(0)
mae = keras_mae.MaskedAutoencoder.from_preset(
    "mae_vit_micro_patch4_28", decoder=recipe.decoder, **recipe.model_arguments, **({"depth": 1} if quick else {})
)
untrained = mae.encoder.copy()
batches = data.from_arrays(unlabelled, batch_size=recipe.batch_size, drop_remainder=True)
mae.compile(recipe.optimizer(len(batches)))
history = mae.fit(batches, epochs=recipe.epochs, verbose=2)
pretrained = mae.encoder

"""
From here on there are two encoders of the same shape, `pretrained` and `untrained`, which began with the same random
weights. Nothing below changes either: each protocol works on a copy.

## Nearest neighbors: no training at all

Are images of one class near one another in the encoder's features? For every test image, the 20 labeled images with
the most similar class token vote.
"""

scores = {}
for name, encoder in (("untrained", untrained), ("pretrained", pretrained)):
    known = transfer.extract_features(encoder, *few, progress=False)
    asked = transfer.extract_features(encoder, *test, progress=False)
    scores["nearest neighbours", name] = transfer.knn_accuracy(known, asked, k=20)
    print(f"{name:12} {scores['nearest neighbours', name]:.1%}   features {asked.features.shape}")

"""
## Linear probe: a linear layer on frozen features

The encoder stays as it is; a linear layer on its class token learns to tell the classes apart. As the encoder never
changes, `cache_features=True` runs every image through it once instead of once an epoch.

The published recipe uses LARS with batches of 16,384 images. There are only 300 here, so the batch is smaller; the
learning rate is scaled with it.
"""

probe_recipe = recipes.LinearProbeRecipe.for_size("small_images", batch_size=64, epochs=20 if quick else 100)
for name, encoder in (("untrained", untrained), ("pretrained", pretrained)):
    keras.utils.set_random_seed(0)
    classifier = transfer.linear_probe(encoder, few, 10, probe_recipe, cache_features=True, verbose=0)
    scores["linear probe", name] = classifier.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    print(f"{name:12} {scores['linear probe', name]:.1%}")

"""
## Fine-tuning: the whole encoder learns on

Now the encoder itself is trained on the labeled images, with a new head: the patch tokens' mean, a norm, a linear
layer. Two habits keep the little data from ruining what pre-training found.

*Layer decay.* The lower a layer, the more general what it has learned, and the smaller its learning rate: each block
gets 0.75 times the rate of the block above it.
"""

classifier = keras_mae.ViTClassifier(pretrained, num_classes=10)
scales = keras_mae.optimizers.layer_decay_scales(classifier, layer_decay=0.75)
by_layer = {classifier.layer_index(weight): scale for weight, scale in zip(classifier.trainable_variables, scales)}
for layer, scale in sorted(by_layer.items()):
    part = "embedding" if layer == 0 else "head" if layer == classifier.num_layers else f"block {layer - 1}"
    print(f"{part:10} learning rate × {scale:.3f}")

"""
*Augmentation.* Small shifts, and labels that are a little soft, so that 300 images last for many epochs. (For
ImageNet the recipes add RandAugment, random erasing, MixUp and CutMix.)

The fair comparison is the same encoder *from scratch*: the same images, the same number of steps, without layer
decay, which would only hold back a network that has nothing to lose.
"""


def fine_tune_recipe(**changes):
    batch = 16
    few_labels = {"batch_size": batch, "base_learning_rate": 1e-3 * 256 / batch, "warmup_epochs": 1}
    return recipes.FineTuneRecipe.for_size("small_images", **(few_labels | {"epochs": 2 if quick else 40} | changes))


def labeled_batches(recipe):
    return training.training_batches(data.ArraySource(*few), recipe, num_classes=10)


for name, encoder, changes in (("untrained", untrained, {"layer_decay": 1.0}), ("pretrained", pretrained, {})):
    keras.utils.set_random_seed(0)
    recipe = fine_tune_recipe(**changes)
    began = time.perf_counter()
    classifier = transfer.fine_tune(encoder, labeled_batches(recipe), 10, recipe, verbose=0)
    scores["fine-tuning", name] = classifier.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    print(f"{name:12} {scores['fine-tuning', name]:.1%} after {time.perf_counter() - began:.0f} s")

"""
`transfer.fine_tune` is a convenience. The same in plain Keras: `keras_mae.ViTClassifier(encoder, num_classes=10)`,
then `compile` with an optimizer and `fit(images, labels)`.

## In between: partial fine-tuning

Training only the last blocks saves time and shows how far the features are from what the task needs. With 0 blocks
only the head learns, on the mean of the patch tokens; half a block is its MLP.
"""

for blocks in (0.5,) if quick else (0, 0.5, 1):
    keras.utils.set_random_seed(0)
    recipe = fine_tune_recipe()
    classifier_of_part = transfer.partial_fine_tune(
        pretrained, labeled_batches(recipe), 10, recipe, trainable_blocks=blocks, verbose=0
    )
    accuracy = classifier_of_part.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    trained = sum(int(np.prod(weight.shape)) for weight in classifier_of_part.trainable_variables)
    print(f"last {blocks:3} blocks: {trained:8,} weights trained, {accuracy:.1%}")

"""
In the paper, for ViT-Large on ImageNet, the first block brings most: 73.5 % with none, 79.1 % with half a block,
81.0 % with one, and 4 to 6 of the 24 come close to all.

## What pre-training was worth

The three others side by side:
"""

protocols = ("nearest neighbours", "linear probe", "fine-tuning")
figure, axes = plt.subplots(figsize=(6, 3), dpi=80)
for offset, name in ((-0.2, "untrained"), (0.2, "pretrained")):
    values = [100 * scores[protocol, name] for protocol in protocols]
    bars = axes.bar(np.arange(3) + offset, values, 0.4, label=name)
    axes.bar_label(bars, fmt="%.1f")
axes.set_xticks(range(3), protocols)
axes.set(ylabel="accuracy (%)", ylim=(0, 100), title=f"{len(few[0])} labels, {len(test[0]):,} test images")
axes.legend(loc="upper left")
plt.show()

"""
One run with one seed and 2,000 test images: differences of a point or two mean nothing here. The study behind this
guide, `examples/options_study.py`, pre-trains on all 60,000 images and tests on all 10,000, beside classifiers on
pixels and networks trained from scratch for the same time; [Benchmarks](../docs/benchmarks.md) has its figures. The
gain is largest where labels are few. Part of it is time: a network from scratch needs more passes over the labeled
images.

Which mistakes are left? The confusion matrix of the fine-tuned classifier: a row is a true class, in per cent.
"""

logits = classifier.predict(test[0], verbose=0)
figure = keras_mae.visualize.confusion(test[1], logits.argmax(-1), data.CLASS_NAMES["fashion_mnist"])
figure.set_dpi(70)
figure

"""
## Which one to take

| | trained | takes | good for |
| --- | --- | --- | --- |
| nearest neighbors | nothing | one pass over the images | a first look; to see whether pre-training gets anywhere |
| linear probe | one layer | one pass, then seconds | comparing encoders; many tasks on one encoder |
| partial fine-tuning | the last blocks | less than all | saving time and memory |
| fine-tuning | everything | the most | the best accuracy |

Features of masked autoencoders are known to be less linear than those of contrastive methods: a weak probe or weak
neighbors do not mean weak fine-tuning. Judge an encoder by the way you will use it.

`classifier.save("classifier.keras")` saves the model with its preprocessing, on any backend. In a shell, the same
protocols on a folder of class folders: `keras-mae finetune`, `keras-mae probe`, `keras-mae knn`. Next: [your own
images](your_data.ipynb), or [weights that others have trained](weights_and_export.ipynb).
"""
