"""
Title: Masked autoencoders from scratch
Author: the keras_mae authors
Date created: 2026/11/23
Last modified: 2026/11/23
Description: The idea, its parts one by one on a photograph, where the speed comes from, and a first training run.
Accelerator: None
Order: 1
"""

"""
## The idea

A masked autoencoder learns about images without labels. It cuts an image into patches, hides three quarters of them,
and asks a network to paint the hidden ones. To do that well the network has to know what things look like; the part
of it that has learned this, the **encoder**, is kept, and the part that paints, the **decoder**, is thrown away.
The method is from "Masked Autoencoders Are Scalable Vision Learners" (He and others, 2021), "the paper" below.

This guide takes the method apart on one photograph, measures why it is fast, and then trains a small model on
photographs of clothes. It takes about five minutes on one CPU core.

The next cell chooses the backend. Keras reads the choice once, when it is imported; so to change it, change this
cell and restart.
"""

import importlib.util
import os

quick = "KERAS_MAE_QUICK" in os.environ  # a short form for tests: less data, smaller models
installed = [name for name in ("torch", "tensorflow", "jax") if importlib.util.find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", installed[0])  # in order of speed on a CPU; or name the one you like

import time

import keras
import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import distance_transform_edt
from sklearn.datasets import load_sample_image

import keras_mae

print("Keras", keras.__version__, "on", keras.backend.backend())
keras.utils.set_random_seed(0)


size = {"depth": 1} if quick else {}  # blocks of the encoders below; as their names say if nothing is given


def show(*pictures, titles=()):
    """Images of 0–255 side by side."""
    figure, axes = plt.subplots(1, len(pictures), figsize=(2.6 * len(pictures), 2.9), dpi=80, squeeze=False)
    for number, (axis, picture) in enumerate(zip(axes[0], pictures)):
        axis.imshow(np.squeeze(np.clip(picture, 0, 255).astype("uint8")), cmap="gray", vmin=0, vmax=255)
        axis.set_title(titles[number] if titles else "", fontsize=9)
        axis.axis("off")
    plt.tight_layout()
    plt.show()


"""
## An image is a row of patches

The photograph comes with scikit-learn. Images are arrays of 0–255, batch first and channels last; nothing needs to be
normalized beforehand, because the encoder does it.
"""

photo = load_sample_image("china.jpg")[:420, 30:450]  # a square of 420 × 420 pixels
photo = keras.ops.convert_to_numpy(keras.ops.image.resize(photo.astype("float32"), (224, 224), antialias=True))
images = np.clip(np.rint(photo), 0, 255).astype("uint8")[None]
print("images", images.shape, images.dtype)

"""
`patchify` cuts it into 14 × 14 patches of 16 × 16 pixels and lays each out as a row of 16 · 16 · 3 = 768 numbers.
That is only a reshape: `unpatchify` undoes it exactly.
"""

patch_size, grid = 16, (14, 14)
patches = keras.ops.convert_to_numpy(keras_mae.patchify(images, patch_size))
again = keras.ops.convert_to_numpy(keras_mae.unpatchify(patches, patch_size, images.shape[1:]))
print("patches", patches.shape, "- undone exactly:", np.array_equal(again, images))

spread = np.full((14 * 19, 14 * 19, 3), 255, "uint8")  # the patches again, with gaps between them
for number, patch in enumerate(patches[0]):
    top, left = 19 * (number // 14), 19 * (number % 14)
    spread[top : top + 16, left : left + 16] = patch.reshape(16, 16, 3)
show(images[0], spread, titles=("the photograph", "its 196 patches"))

"""
## Hiding most of them

A masking turns random numbers, one for each patch, into two lists of patch numbers: those to keep and those to
remove. `RandomMasking(0.75)` keeps the quarter with the smallest numbers.

The random numbers come from a hash of (seed, training step, image, patch), so one seed gives the same masks on every
backend, and again after a restart.
"""

noise = keras_mae.random.hash_noise(seed=0, step=0, index=keras.ops.arange(1), count=196)
drawn = keras_mae.RandomMasking(0.75)(noise, grid=grid)
print("kept   ", tuple(drawn.ids_keep.shape), "the first are", keras.ops.convert_to_numpy(drawn.ids_keep)[0, :6])
print("removed", tuple(drawn.ids_removed.shape))


def removed_pixels(mask):
    """A mask of patches, 1 = removed, as a mask of pixels: bool (height, width)."""
    mask = keras.ops.convert_to_numpy(mask).reshape(grid).astype(bool)
    return mask.repeat(patch_size, axis=0).repeat(patch_size, axis=1)


removed = removed_pixels(drawn.mask[0])
masked = np.where(removed[..., None], 128, images[0])
show(images[0], masked, titles=("the photograph", "what the encoder sees of it"))

"""
### Why as many as 75 %?

Because images are redundant: a pixel is much like its neighbor. If few patches are hidden, they can be filled in
from what is next to them, without any idea of what is in the picture. We can measure that on the photograph. The
simplest of all guesses copies to every hidden pixel the nearest visible one. How far off is it, on average, on the
0–255 scale?
"""

for ratio in (0.25, 0.5, 0.75, 0.9):
    hidden = removed_pixels(keras_mae.RandomMasking(ratio)(noise, grid=grid).mask[0])
    distance, nearest = distance_transform_edt(hidden, return_indices=True)
    error = np.abs(images[0][tuple(nearest)].astype(float) - images[0])[hidden].mean()
    print(f"{ratio:4.0%} hidden: {distance[hidden].mean():4.1f} pixels to copy from afar, off by {error:.0f} of 255")

"""
The more is hidden, the farther away the nearest visible pixel is and the worse copying gets: a high ratio makes the
shortcut useless. It must leave something to go by, though. The paper tried ratios from 10 to 90 % and found
75 % good both for fine-tuning and for linear probes. (Text is different: language models hide about 15 % of the
words, because each word says much more than a patch does.)

## The encoder sees the visible patches only

The encoder is a plain vision transformer. It embeds the 49 visible patches, adds to each where it stands in the
image, puts one more token in front, the *class token*, and runs its blocks.

This one is a ViT-Tiny; `keras_mae.presets.names()` lists the architectures with a name.
"""

mae = keras_mae.MaskedAutoencoder.from_preset("mae_vit_tiny_patch16_224", **size)
tokens = mae.encoder(images, ids_keep=drawn.ids_keep)
print("tokens of the visible patches", tuple(tokens.shape))
print("tokens of the whole image    ", tuple(mae.encoder(images).shape))

"""
50 tokens instead of 197. What a hidden patch would have been is not replaced by anything here: **no mask token ever
enters the encoder**. There are two reasons.

*It stays true to its later use.* After pre-training the encoder is given whole images. An encoder that had always
seen three quarters of its input replaced by mask tokens would have been trained on a kind of input it never meets
again. In the paper, for ViT-Large on ImageNet, mask tokens in the encoder cost 0.7 points after fine-tuning (84.2
against 84.9 %) and 13.9 points in a linear probe (59.6 against 73.5 %).

*It is cheap.* The encoder works on a quarter of the tokens. We measure that below.

## The decoder paints the hidden patches

The decoder is a second, smaller transformer. It takes the encoder's tokens, adds one *mask token* for every hidden
patch (always the same learned vector: "paint here"), adds positions so that each knows its place, and predicts the
pixels. `removed_only` leaves out the visible patches, which nobody asks for in training.
"""

prediction = mae.decoder(tokens, drawn.ids_keep, drawn.ids_removed, removed_only=True)
print("prediction", tuple(prediction.shape), "- 147 hidden patches of 768 numbers")
print(f"encoder {mae.encoder.count_params():,} parameters, decoder {mae.decoder.count_params():,}")

"""
## The loss

The mean squared error on the hidden patches, and on nothing else. The target is the pixels as the encoder sees
them, normalized. A visible patch adds nothing: to repeat what one was shown teaches nothing.
"""

pixels = mae.encoder.patch_embedding.pixels(images, drawn.ids_removed)  # normalised
target = keras_mae.loss.reconstruction_target(pixels, norm_pix_loss=False)
loss = keras.ops.convert_to_numpy(keras_mae.loss.reconstruction_loss(prediction, target))
print("target", tuple(target.shape), f"- loss of the untrained model {loss[0]:.3f}")

"""
`MaskedAutoencoder` is all of this in one Keras model: calling it draws a mask, encodes, decodes and puts the patches
back into their places.
"""

outputs = mae(images)
print({name: tuple(value.shape) for name, value in outputs.items()})

"""
## Where the speed comes from

The paper trains ViT-Large 2.8 times as fast without mask tokens in the encoder as with them, and up to 4.1 times with
a larger encoder and a smaller decoder: the "3×" that is often quoted. To see it, we time full training steps
(forward, backward and update) of two models that differ in one thing. One removes 75 % of the patches. The other
removes one patch of 196, so that its encoder works on all tokens but one, as it would with mask tokens. The two take
turns, so that whatever else this machine is doing slows both alike, and each is judged by its median.
"""

preset, batch, rounds = ("mae_vit_micro_patch4_32", 8, 1) if quick else ("mae_vit_small_patch16_224", 4, 7)
contestants = {}
for name, ratio in (("25 % of the tokens", 0.75), ("all of the tokens", None)):
    model = keras_mae.MaskedAutoencoder.from_preset(preset, **size)
    if ratio is None:
        almost_none = keras_mae.RandomMasking(1 / model.encoder.num_patches)
        model = keras_mae.MaskedAutoencoder(model.encoder, model.decoder, masking=almost_none)
    model.compile(keras_mae.optimizers.AdamW(1e-4))
    contestants[name] = model

any_images = np.random.default_rng(0).integers(0, 256, (batch, *model.encoder.image_shape), "uint8")
seconds = {name: [] for name in contestants}
for turn in range(rounds + 1):
    for name, model in contestants.items():
        began = time.perf_counter()
        model.train_on_batch(any_images)
        if turn:  # the first step also compiles
            seconds[name].append(time.perf_counter() - began)
median = {name: np.median(values) for name, values in seconds.items()}
for name, value in median.items():
    print(f"{name:20} {value:.3f} s a step (fastest {min(seconds[name]):.3f}, slowest {max(seconds[name]):.3f})")
print(f"{median['all of the tokens'] / median['25 % of the tokens']:.1f} times as fast")

"""
The decoder works on all 196 patches in both, and so does the update of the weights: they are why it is not four
times. On accelerators and with larger models it comes closer: the paper has 2.8 to 4.1. On one core,
`examples/benchmark_step.py` measured 3.0 for ViT-S in batches of 32 and 2.0 for ViT-B in batches of 4, where the
update weighs more (see [Benchmarks](../docs/benchmarks.md#a-training-step)).

## Training

Now a run that fits into a few minutes: a model of 0.56 million parameters on 10,000 photographs of clothes,
Fashion-MNIST, 28 × 28 pixels, gray. A patch has 4 × 4 pixels, 12 of 49 stay visible. The labels are not used.

The optimizer is the paper's: AdamW with a short warm-up and a cosine down to zero. The learning rate is given for
a batch of 256 and scaled to the batch in use; 4e-3 is right for small models like this one, the default of 1.5e-4 for
large ones.
"""

train, _ = keras_mae.data.fashion_mnist("train")
test, _ = keras_mae.data.fashion_mnist("test")
train, test = (train[:256], test[:64]) if quick else (train[:10_000], test[:2_000])

keras.utils.set_random_seed(0)
mae = keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch4_28", **size)
epochs, batch_size = (1 if quick else 8), 128
steps = epochs * -(-len(train) // batch_size)
mae.compile(
    keras_mae.optimizers.pretraining_adamw(
        base_learning_rate=4e-3, batch_size=batch_size, total_steps=steps, warmup_steps=steps // 10
    )
)
history = mae.fit(train, validation_data=(test,), batch_size=batch_size, epochs=epochs, verbose=2)

"""
`loss` is the mean squared error from above. `psnr` is the same in decibels, more is better, for pixels of 0–255.
`skipped_steps` counts steps whose gradients were not finite; they change nothing, and there should be none.

A picture of the loss:
"""

figure = keras_mae.visualize.curves(history.history)
figure.set_size_inches(5, 3.6)
figure

"""
The curve flattens because the learning rate goes to zero, not because there is nothing left to learn: with eight
passes over all 60,000 images the same model gets noticeably better (see
[Benchmarks](../docs/benchmarks.md)). Pre-training is patient work: the paper goes through ImageNet 800 to 1,600
times.

## What the model paints

`reconstruct` masks images and fills them in again. These were not in the training data. In the second column is
everything the decoder predicted. Its visible patches are poor, because the loss never asked for them; the
third column has the true ones pasted in.
"""

result = mae.reconstruct(test[:5])
figure = keras_mae.visualize.reconstructions(result)
figure.set_dpi(80)
figure

"""
Blurred, and mostly right: from a quarter of the pixels the model tells a shoe from a shirt and continues a sleeve.
Where several continuations are possible, the squared error makes it paint their average, which is the blur.

Is that better than a guess without learning? The same nearest-pixel copying as above, on the same masks:
"""

result = mae.reconstruct(test)
hidden = result.mask.reshape(-1, 7, 7).astype(bool).repeat(4, axis=1).repeat(4, axis=2)
copied = np.stack(
    [
        image[tuple(distance_transform_edt(holes, return_distances=False, return_indices=True))]
        for image, holes in zip(test[..., 0], hidden)
    ]
)
for name, filled in (("copying the nearest pixel", copied), ("the masked autoencoder", result.pasted[..., 0])):
    error = np.square((filled.astype(float) - test[..., 0]) / 255)[hidden].mean()
    print(f"{name:26} mean squared error on hidden pixels (0–1): {error:.4f}")

"""
You can choose what is hidden: 1 = removed, for each patch or as rows and columns. The lower half, for instance, which
random masks never asked for in training:
"""

lower_half = np.zeros((3, 7, 7), "float32")
lower_half[:, 4:] = 1
figure = keras_mae.visualize.reconstructions(mae.reconstruct(test[1:4], mask=lower_half))
figure.set_dpi(80)
figure

"""
## Pixels or normalized pixels

This model predicts pixels, which makes pictures that are easy to look at. With `norm_pix_loss=True` the target is
each patch standardized by its own mean and deviation: not how bright a patch is, but what is in it. In the paper that
gives slightly better features (85.4 against 84.9 % after fine-tuning), so choose it if the encoder is what you
want. Pictures then need the brightness from elsewhere: `reconstruct` estimates it from the visible patches and says
so.

## What next

The encoder is `mae.encoder`, an ordinary Keras model: `mae.encoder(images)` gives one token for the image and one for
each patch, `mae.save("mae.keras")` saves all, on any backend. [From pre-training to a
classifier](transfer.ipynb) shows what such features are worth, and [Bring your own data](your_data.ipynb) how to get
them from your images.
"""
