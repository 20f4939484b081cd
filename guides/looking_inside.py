"""
Title: Looking inside
Author: the keras_mae authors
Date created: 2026/11/23
Last modified: 2026/11/23
Description: Reconstructions, attention, features, saliency and Grad-CAM of a model, each in one call.
Accelerator: None
Extras: data,tf-keras-vis
Order: 9
"""

"""
## A model to look into

What did a model learn, and what does it go by? `keras_mae.visualize` has one call for each way of looking. Functions
that compute return NumPy arrays, functions that draw return a matplotlib figure; nothing is shown or written unless
you ask. All of it is the same on every backend, but for the last section, which is TensorFlow's.

The guide takes about three minutes. First, a small model: pre-trained on scikit-learn's handwritten digits, then
fine-tuned to tell them apart.
"""

import importlib.util
import os

quick = "KERAS_MAE_QUICK" in os.environ  # a short form for tests: fewer images and epochs
installed = [name for name in ("tensorflow", "torch", "jax") if importlib.util.find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", installed[0])  # TensorFlow's first, for the last section; or name another

import logging

import keras
import numpy as np

import keras_mae
from keras_mae import visualize

logging.getLogger("tensorflow").setLevel("ERROR")  # it warns of each call that compiles a small function

images, labels = keras_mae.data.digits("train")
held_out, held_out_labels = keras_mae.data.digits("test")
if quick:
    images, labels, held_out, held_out_labels = images[:128], labels[:128], held_out[:64], held_out_labels[:64]
keras.utils.set_random_seed(0)
mae = keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch2_8")
mae.compile(keras_mae.optimizers.AdamW(2e-3))
pretraining = mae.fit(images, batch_size=128, epochs=1 if quick else 40, verbose=0)

classifier = keras_mae.ViTClassifier(mae.encoder, num_classes=10)
classifier.compile(keras_mae.optimizers.AdamW(1e-3))
classifier.fit(images, labels, batch_size=128, epochs=1 if quick else 40, verbose=0)
accuracy = classifier.evaluate(held_out, held_out_labels, verbose=0, return_dict=True)["accuracy"]
print(f"accuracy on {len(held_out)} digits by writers it has not seen: {accuracy:.1%}")

"""
## What it fills in

The same digits with half, three quarters and nearly all of their patches removed. With more removed, the model falls
back on what digits look like on average.
"""

figure = visualize.reconstructions(visualize.reconstruct_at(mae, held_out[:1], mask_ratios=(0.5, 0.75, 0.9)))
figure.set_dpi(80)
figure

"""
Nine tenths are 15 of these 16 patches, 94 %. The line above says where brightness and contrast of what is filled in
come from; this model predicts them itself. A model that predicts normalized patches (`norm_pix_loss=True`) does not
know them: they are then guessed from the visible patches, or, only for pictures and never for scores, taken from the
original (`mae.reconstruct(..., statistics="true")`).

## How it trained
"""

figure = visualize.curves(pretraining.history)
figure.set_size_inches(5, 3)
figure

"""
`curves` also takes the path of a run's `history.csv`, or several by name: `curves({"a": "runs/a/history.csv", ...})`.

## Where it looks

In every layer each head of the transformer decides how much every token takes from every other. `attention` returns
these weights; the rows sum to 1:
"""

weights = visualize.attention(classifier, held_out[:4])
print("images, layers, heads, tokens, tokens:", weights.shape)
print(f"rows sum to 1, to within {np.abs(weights.sum(-1) - 1).max():.0e}")

figure = visualize.attention_heads(held_out[0], visualize.patch_maps(classifier, weights)[0])
figure.set_dpi(80)
figure

"""
A row is a layer, a column a head: what the patches take on average, since this classifier goes by their mean. Another
query is one argument away: `patch_maps(model, weights, query=(2, 1))` is what the patch in row 2, column 1 takes.

Single layers tell little of what reaches the end. *Rollout* follows attention through all of them, residual
connections included. *Saliency* asks another question: by how much would the class's logit change with each pixel? A
plain gradient is noisy; *SmoothGrad* is the mean over noisy copies of the image.
"""

four = held_out[:4]
figure = visualize.overlays(
    four,
    {
        "rollout": visualize.patch_maps(classifier, visualize.attention_rollout(classifier, four)),
        "saliency": visualize.saliency(classifier, four),
        "SmoothGrad": visualize.smooth_grad(classifier, four),
    },
)
figure.set_dpi(80)
figure

"""
None of these proves what a model goes by; each shows one side. If they disagree, that is worth knowing, too.

## What it knows of places

The encoder is told where each patch was by a table of sines and cosines. Each small map below is one patch's
similarity to all others: near ones are alike, along rows and along columns.
"""

figure = visualize.position_maps(visualize.position_similarity(mae))
figure.set_dpi(70)
figure

"""
## What patches are like

Every patch leaves the encoder as a vector. Their first three principal components, over all images at once, as red,
green and blue: patches of one color are alike to the model. No label took part in this.
"""

eight = held_out[:8]
figure = visualize.feature_maps(eight, visualize.feature_colors(mae, eight))
figure.set_dpi(80)
figure

"""
## tf-keras-vis: Grad-CAM and its kin

`tf-keras-vis` brings class activation maps and activation maximization to Keras, on the TensorFlow backend. A vision
transformer has no last convolution for it to look at; `visualize.keras_vis(classifier)` is the classifier with its
patch tokens as a feature map by that name. The extra `tf-keras-vis` brings the package; on the other backends the
call says that it cannot.
"""

if keras.backend.backend() == "tensorflow" and importlib.util.find_spec("tf_keras_vis"):
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
    from tf_keras_vis.utils.scores import CategoricalScore

    model = visualize.keras_vis(classifier)
    score = CategoricalScore(held_out_labels[:4].tolist())
    layer = {"penultimate_layer": "feature_map", "seek_penultimate_conv_layer": False}
    floats = four.astype("float32")
    maps = {
        "Grad-CAM": Gradcam(model, clone=False)(score, floats, **layer),
        "Grad-CAM++": GradcamPlusPlus(model, clone=False)(score, floats, **layer),
    }
    figure = visualize.overlays(four, maps)
    figure.set_dpi(80)
else:
    figure = None
    print("not here: on", keras.backend.backend())
figure

"""
With 16 patches and few digits to learn from, do not read much into these: some maps light up background, because the
tokens there carry what attention has gathered elsewhere.

## While it trains

A run directory from `keras-mae pretrain` holds `loss.png` and `reconstructions.png`; `keras-mae reconstruct MODEL
IMAGES…` draws images of yours. In code, every figure is a matplotlib `Figure`: `figure.savefig("name.png")`.
"""
