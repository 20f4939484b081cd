"""
Title: Bring your own data
Author: the keras_mae authors
Date created: 2026/11/23
Last modified: 2026/11/23
Description: Folders without labels, gray, multispectral and oblong images; how to choose patch, model and epochs.
Accelerator: None
Order: 6
"""

"""
## What this guide answers

How do my images get in? What if they are gray, oblong, have five channels or only eight pixels? Which patch
size, which model, how many epochs? It takes about five minutes on one CPU core; [Masked autoencoders from
scratch](masked_autoencoders.ipynb) explains the method itself.
"""

import importlib.util
import os

quick = "KERAS_MAE_QUICK" in os.environ  # a short form for tests: less data, fewer epochs
installed = [name for name in ("torch", "tensorflow", "jax") if importlib.util.find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", installed[0])  # in order of speed on a CPU; or name the one you like

import tempfile
import time
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

import keras_mae
from keras_mae import data, transfer

print("Keras", keras.__version__, "on", keras.backend.backend())
size = {"depth": 1} if quick else {}  # blocks of the encoders below; their own number if nothing is given
os.chdir(tempfile.mkdtemp())  # the files this guide writes go into an empty folder


def show(*pictures, titles=()):
    """Images of 0–255 side by side."""
    figure, axes = plt.subplots(1, len(pictures), figsize=(1.9 * len(pictures), 1.7), dpi=80, squeeze=False)
    for number, (axis, picture) in enumerate(zip(axes[0], pictures)):
        axis.imshow(np.squeeze(picture.astype("uint8")), cmap="gray", vmin=0, vmax=255)
        axis.set_title(titles[number] if titles else "", fontsize=9)
        axis.axis("off")
    plt.tight_layout()
    plt.show()


"""
## A folder of photographs, no labels

You have a folder. We make one: JPEG files of different sizes, cut from the two photographs that come with
scikit-learn, a temple and a flower. The left third of each photograph is kept back in a folder of its own, to test
on.
"""

generator = np.random.default_rng(0)
for name in ("china", "flower"):
    photo = Image.fromarray(load_sample_image(f"{name}.jpg"))  # 640 × 427 pixels
    for folder, first, last, count in (("photos", 220, 640, 24 if quick else 150), ("held_out", 0, 220, 4)):
        Path(folder, name).mkdir(parents=True)
        for number in range(count):
            width = int(generator.integers(150, 210))
            height = width * 2 // 3
            left, top = generator.integers(first, last - width + 1), generator.integers(0, 427 - height + 1)
            photo.crop((left, top, left + width, top + height)).save(Path(folder, name, f"{number:03}.jpg"))

files = sorted(Path("photos").rglob("*.jpg"))
print(len(files), "files, such as", files[0], Image.open(files[0]).size, "and", files[-1], Image.open(files[-1]).size)

"""
`from_directory` takes all images below a folder, flat or nested. Each comes as a random crop, mirrored half of the
time, resized to the size you name: the only augmentation that masked pre-training needs, as the masks already make
every look at an image a new one.

Nothing has to be square. These photographs are 3 : 2, so we ask for 48 × 72 pixels, height first.
"""

train = data.from_directory("photos", image_size=(48, 72), batch_size=16, drop_remainder=True)
print(len(train), "batches")
batch = keras.ops.convert_to_numpy(next(iter(train)))
print(batch.shape, batch.dtype)
show(*batch[:6])

"""
To evaluate, `shuffle=False` gives the center of every image, in order.

Batches are bytes, 0–255. **Do not normalize them**: the encoder does, with a mean and a deviation for each channel
that are saved with the model. An array of floats in 0–1 is refused, because it is nearly always a mistake.

### Damaged files

A file that cannot be read is an error that names it, so that no run trains for days on less than you think. In a big
folder a few are normal. `data.find_damaged` decodes everything and lists what is wrong, as `keras-mae prepare FOLDER
--check` does in a shell. With `allow_damaged=0.01` damaged files are left out, and more than 1 % of them is an error
again.
"""

Path("photos", "half.jpg").write_bytes(files[0].read_bytes()[:2000])  # a download that broke off
for path, reason in data.find_damaged("photos"):
    print(path, "-", reason)
Path("photos", "half.jpg").unlink()

"""
### Training on it

Only the encoder needs to know the shape. 8-pixel patches make a grid of 6 × 9.
"""

keras.utils.set_random_seed(0)
encoder = keras_mae.ViTEncoder((48, 72, 3), patch_size=8, **({"embed_dim": 96, "depth": 4, "num_heads": 4} | size))
mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(embed_dim=64, depth=2, num_heads=4))
print("grid", encoder.grid, "- pixel mean", encoder.pixel_mean, "- deviation", encoder.pixel_std)

held_out = data.from_directory("held_out", image_size=(48, 72), batch_size=8, shuffle=False)
unseen = keras.ops.convert_to_numpy(next(iter(held_out)))

epochs = 1 if quick else 60
steps = epochs * len(train)
optimizer = keras_mae.optimizers.pretraining_adamw(4e-3, batch_size=16, total_steps=steps, warmup_steps=steps // 10)
mae.compile(optimizer)
before = mae.evaluate(unseen, verbose=0, return_dict=True)
began = time.perf_counter()
history = mae.fit(train, epochs=epochs, verbose=0)
loss = history.history["loss"]
print(f"{time.perf_counter() - began:.0f} s, loss {loss[0]:.3f} -> {loss[-1]:.3f}")

after = mae.evaluate(unseen, verbose=0, return_dict=True)
print(f"on the held-out thirds: loss {before['loss']:.3f} -> {after['loss']:.3f}, psnr {after['psnr']:.1f} dB")
figure = keras_mae.visualize.reconstructions(mae.reconstruct(unseen[[0, 1, 4, 5]]))
figure.set_dpi(80)
figure

"""
Parts of two photographs teach a model what roofs, sky and petals look like, and little else; here we only wanted to
see that everything fits together. (The loss on the held-out thirds is higher: they show things that the model has not
seen, and overlapping crops of two photographs teach little about those.) For features that are worth something take
thousands of photographs. The lines above stay the same.

The command line does the same for square images, in the size and the channels of a preset, and resumes if it is
stopped:

```
keras-mae pretrain photos/ --model mae_vit_micro_patch4_32 --out runs/photos --resume
```

## Gray images

`channels=1` makes them gray, whatever the files are. The encoder follows: a shape that ends in 1.
"""

grey = data.from_directory("photos", image_size=(48, 72), batch_size=32, channels=1)
batch = keras.ops.convert_to_numpy(next(iter(grey)))
print(batch.shape)
show(*batch[:6])

"""
## More channels, other units

Satellites and microscopes deliver other than three channels, and numbers that do not end at 255. Files of that kind
come as arrays: `np.load("images.npy", mmap_mode="r")` works too, larger than memory. Two things are to be done.

1. *Bring the values to 0–255*, as here: for a 12-bit sensor, multiply by 255 / 4095, as floats: nothing is rounded.
   Or leave them as they are, and say their range: `ViTEncoder(..., pixel_range=(0, 4095))`.
2. *Say what is normal for each channel.* Without `pixel_mean` and `pixel_std`, other than three channels are taken to
   have mean and deviation 127.5, which suits few sensors.

We have no such sensor. As a stand-in we compute two more bands from the photographs' colors, so that there are
five with statistics of their own, and scale them as a 12-bit camera would have delivered them.
"""

colours = np.stack([np.asarray(Image.open(path).resize((72, 48)), "float32") for path in files])
red, green, blue = np.moveaxis(colours, -1, 0)
greenness = np.clip(2 * green - red - blue, 0, 255)
darkness = 255 - colours.max(axis=-1)
raw = np.stack([red, green, blue, greenness, darkness], axis=-1) * (4095 / 255)
print("from the camera:", raw.shape, f"{raw.min():.0f} to {raw.max():.0f}")

bands = (raw * (255 / 4095)).astype("float32")
mean, deviation = bands.mean(axis=(0, 1, 2)), bands.std(axis=(0, 1, 2))
print("mean     ", mean.round(1), "\ndeviation", deviation.round(1))

keras.utils.set_random_seed(0)
of_bands = keras_mae.MaskedAutoencoder(
    keras_mae.ViTEncoder(
        (48, 72, 5), 8, **({"embed_dim": 96, "depth": 4, "num_heads": 4} | size), pixel_mean=mean, pixel_std=deviation
    ),
    keras_mae.MAEDecoder(embed_dim=64, depth=2, num_heads=4),
)
of_bands.compile(keras_mae.optimizers.AdamW(1e-3))
history = of_bands.fit(bands, batch_size=32, epochs=1 if quick else 10, verbose=0)
print(f"loss {history.history['loss'][0]:.3f} -> {history.history['loss'][-1]:.3f}")

"""
An encoder that was trained on color photographs need not be thrown away. `copy` shares its patch kernel out among
the new channels, so that an image whose channels are all equal keeps its tokens, up to rounding:
"""

encoder_of_bands = mae.encoder.copy(image_shape=(48, 72, 5))
print("trained on 3 channels, takes", encoder_of_bands.image_shape)
equal = red[:2, ..., None]
difference = np.abs(
    keras.ops.convert_to_numpy(mae.encoder(equal.repeat(3, axis=-1)))
    - keras.ops.convert_to_numpy(encoder_of_bands(equal.repeat(5, axis=-1)))
)
print(f"largest difference in the tokens of an image of equal channels: {difference.max():.1e}")

"""
In the same way `copy(image_shape=(96, 144, 3))` takes an encoder to larger images: positions are resized in both
directions.

## Small images, and which patch size

A patch of 16 pixels in an image of 28 makes no sense. What matters is the number of patches: the published models
have 196 or 256, and cost grows with it (attention with its square). For small images there are presets with patches
of 2 and 4 pixels.

Does the patch size matter? We measure it on Fashion-MNIST, 28 × 28 pixels. The loss cannot be compared between patch
sizes, because a hole of 14 pixels is harder to fill than one of 4. So we judge by what we want the encoder for: a few
labeled images, of which the 20 with the nearest features vote. That takes seconds and needs no training.
"""

images, labels = data.fashion_mnist("train")
known = (images[:1000], labels[:1000])
asked = tuple(part[:1000] for part in data.fashion_mnist("test"))
unlabelled = images[: 256 if quick else 8000]


def neighbours(encoder):
    features = [transfer.extract_features(encoder, *part, progress=False) for part in (known, asked)]
    return transfer.knn_accuracy(*features, k=20)


epochs = 1 if quick else 6
for patch_size in (14,) if quick else (4, 7, 14):
    keras.utils.set_random_seed(0)
    encoder = keras_mae.ViTEncoder((28, 28, 1), patch_size, **({"embed_dim": 96, "depth": 4, "num_heads": 4} | size))
    decoder = keras_mae.MAEDecoder(embed_dim=64, depth=2, num_heads=4)
    model = keras_mae.MaskedAutoencoder(encoder, decoder, norm_pix_loss=True)
    untrained = neighbours(encoder)
    steps = epochs * -(-len(unlabelled) // 128)
    model.compile(keras_mae.optimizers.pretraining_adamw(4e-3, 128, total_steps=steps, warmup_steps=steps // 10))
    began = time.perf_counter()
    model.fit(unlabelled, batch_size=128, epochs=epochs, verbose=0)
    seconds = (time.perf_counter() - began) / epochs
    print(
        f"patch {patch_size:2}: {encoder.num_patches:3} patches, {seconds:5.1f} s an epoch, "
        f"neighbours right {untrained:.1%} untrained, {neighbours(encoder):.1%} pre-trained"
    )

"""
Fewer patches make cheaper epochs. On accuracy, look at the gain over the untrained encoder too: patches of 14 pixels
start well without any training and gain least; an image is then four patches, of which one is visible. But these are
short runs with one seed, and two points are noise. What carries over to your images is the procedure: fix a small
labeled set, run each candidate for a few minutes, and look at time and accuracy side by side. Then give the winner a
long run.

## How many epochs, which model

**Epochs.** Count steps and looks at each image, not epochs: 100 epochs of 1,000 images are 100,000 looks, and so are
2 of 50,000. Longer is better for a long time: the paper still gains between 800 and 1,600 epochs of ImageNet. The
cosine schedule needs to know the end, so choose the longest you can wait for: one epoch, timed as above, times the
number of epochs. On Fashion-MNIST 12 epochs of 60,000 images took 22 minutes on a quiet core.

**Model.** After pre-training larger is better, where without it small data holds large models back. Measured by
`examples/scaling_study.py` with 600 labels on Fashion-MNIST (accuracy in per cent, mean and deviation over three
seeds of fine-tuning; learning rate and layer decay tuned for the middle one, but for the largest from scratch, for
which half the learning rate was chosen on validation images):

| parameters of the encoder | 0.06 M | 0.45 M | 1.2 M |
| --- | --- | --- | --- |
| from scratch | 72.0 ± 0.9 | 73.3 ± 0.7 | 72.0 ± 1.8 |
| after pre-training (8 epochs) | 75.6 ± 0.6 | 80.2 ± 1.1 | 81.4 ± 1.0 |

**How many images.** Pre-training is worth most where labels are few. Add what images without labels you have; but
leave out those on which you will report an accuracy, or say that you did not.

## A place to start

| images | patch | model | learning rate for a batch of 256 |
| --- | --- | --- | --- |
| 8 px | 2 | `mae_vit_micro_patch2_8` | 4e-3 |
| 28 or 32 px | 4 | `mae_vit_micro_patch4_28` or `_32`, then `tiny` | 4e-3 |
| 96 px | 8 | `mae_vit_small_patch8_96` | 1.5e-4 and up: try some |
| 224 px | 16 | `mae_vit_small_patch16_224`, then `base` | 1.5e-4, the published one |

Mask 75 %; warm up for a tenth of a short run, a twentieth of a long one; weight decay 0.05, which is the default;
`norm_pix_loss=True` for features, `False` for pictures. The 4e-3 was tuned on Fashion-MNIST with the micro model and
AdamW: for your data it is a start. `recipes.PretrainRecipe.for_size("base")` holds the published numbers, and
`for_size("small_images")` those that did best in our trials on Fashion-MNIST, which are Muon's with 2e-3. (For a
folder, the command line takes `for_size("photos")`: 8e-3 with batches of 32, which nothing was tuned on.)
[Options](../docs/options.md) lists what can be tried beyond the paper.

Next: [what the encoder is then worth](transfer.ipynb).
"""
