"""
Title: From patches to pixels
Author: the keras_mae authors
Date created: 2026/11/27
Last modified: 2026/11/27
Description: Segmentation and detection: what blocks see, a linear segmenter, UPerNet, how many masks, a RetinaNet.
Accelerator: None
Order: 4
Extras: data,examples,keras-hub,viz
"""

"""
## The situation

A classifier answers once per image. If you measure leaves or count cells, you want an answer for every pixel, or a
box around every object, and a mask costs minutes of somebody's time where a label costs seconds. A masked autoencoder
learns without either, and what it learns is in its patch tokens, one for each place of the image: that is where dense
tasks read.

We have 10,000 scenes without masks, and a few hundred with. The guide takes about 40 minutes on one CPU core, half of
them for pre-training: what the blocks of an encoder see, a linear segmenter, UPerNet, how many masks are needed, and
a detector at the end. If encoders are new to you, read [From pre-training to a classifier](transfer.ipynb) first.
"""

import importlib.util
import os

quick = "KERAS_MAE_QUICK" in os.environ  # a short form for tests: less data, fewer epochs
installed = [name for name in ("torch", "tensorflow", "jax") if importlib.util.find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", installed[0])  # in order of speed on a CPU; or name the one you like

import time
from dataclasses import replace

import keras
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.decomposition import PCA

import keras_mae
from keras_mae import data, recipes, transfer

print("Keras", keras.__version__, "on", keras.backend.backend())

"""
## Scenes with exact masks

Drawing masks by hand is slow, so we compose pictures of which we know them: clothes of Fashion-MNIST, in five
classes, dyed and of several sizes, lie over one another and over cuttings of two photographs. What is not a garment
is class 0. Clothes of the test scenes are in no training scene.
"""

SIZE = 64
NAMES = ("background", "top", "trousers", "dress", "shoe", "bag")
CLASSES = np.array([1, 2, 1, 3, 1, 4, 1, 4, 5, 4], "uint8")  # of Fashion-MNIST's ten labels
photographs = load_sample_images().images


def scene(clothes, labels, index):
    """Return an image, its mask, and the boxes and classes of what can be seen of its garments."""
    rng = np.random.default_rng(index)
    picture = Image.fromarray(photographs[rng.integers(len(photographs))])
    side = rng.integers(120, 400)
    left, top = rng.integers(0, picture.width - side), rng.integers(0, picture.height - side)
    image = np.array(picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE)), "float32")
    owners, classes = np.zeros((SIZE, SIZE), int), [0]
    for chosen in rng.integers(0, len(clothes), rng.integers(1, 4)):
        side = int(rng.integers(22, 50))
        garment = np.array(Image.fromarray(clothes[chosen][..., 0]).resize((side, side), Image.Resampling.BILINEAR))
        row, column = rng.integers(-side // 4, SIZE - 3 * side // 4, 2)
        rows, columns = (slice(max(start, 0), start + side) for start in (row, column))
        garment = garment[max(-row, 0) :, max(-column, 0) :][: SIZE - rows.start, : SIZE - columns.start]
        inside = garment > 40
        dye = rng.uniform(0.3, 1.0, 3)
        image[rows, columns][inside] = garment[inside][:, None] * dye
        owners[rows, columns][inside] = len(classes)
        classes.append(int(CLASSES[labels[chosen]]))
    boxes, seen = [], []
    for number in range(1, len(classes)):
        found = np.argwhere(owners == number)
        if len(found) >= 20:
            (first, start), (last, end) = found.min(0), found.max(0)
            boxes.append((start, first, end + 1, last + 1))
            seen.append(classes[number])
    return image.astype("uint8"), np.array(classes, "uint8")[owners], boxes, seen


def scenes(part, count, first=0):
    """Return images (count, 64, 64, 3), masks (count, 64, 64), and lists of boxes and of their classes."""
    images, masks, boxes, seen = zip(*(scene(*garments[part], index) for index in range(first, first + count)))
    return np.stack(images), np.stack(masks), boxes, seen


garments = {part: data.fashion_mnist(part) for part in ("train", "test")}
images, masks, boxes, seen = scenes("train", 64 if quick else 10_000)
test_images, test_masks, test_boxes, test_seen = scenes("test", 16 if quick else 300, first=1_000_000)
palette = plt.get_cmap("tab20")(np.arange(20))[:, :3]


def show(*rows, titles=()):
    """Draw rows of images and masks."""
    height, width = len(rows), len(rows[0])
    figure, axes = plt.subplots(height, width, figsize=(1.3 * width, 1.35 * height), squeeze=False)
    for axis, one in zip(axes.flat, (one for row in rows for one in row)):
        axis.imshow(one if one.ndim == 3 else palette[one], interpolation="nearest")
        axis.axis("off")
    for axis, title in zip(axes[:, 0], titles):
        axis.set_title(title, fontsize=8, loc="left")
    figure.tight_layout(pad=0.3)
    plt.show()


show(images[:8], masks[:8])

"""
## Pre-training, without a mask

The recipe for small images, with patches of 8 pixels. `untrained` keeps the weights that the encoder began with, for
comparison.
"""

recipe = recipes.PretrainRecipe.for_size("small_images", epochs=1 if quick else 60, warmup_epochs=0 if quick else 3)
recipe = replace(recipe, batch_size=32 if quick else 128, flip=True, shift=0.1)
keras.utils.set_random_seed(0)
encoder = keras_mae.ViTEncoder((SIZE, SIZE, 3), patch_size=8, embed_dim=96, depth=6, num_heads=3)
decoder = keras_mae.CrossAttentionDecoder(embed_dim=64, depth=2, num_heads=4)
mae = keras_mae.MaskedAutoencoder(encoder, decoder, **recipe.model_arguments)
untrained = encoder.copy()
unlabeled = keras_mae.training.training_batches(data.ArraySource(images), recipe)
mae.compile(recipe.optimizer(len(unlabeled)))
began = time.process_time()
history = mae.fit(unlabeled, epochs=recipe.epochs, verbose=0).history
print(f"loss {history['loss'][0]:.3f} to {history['loss'][-1]:.3f} in {time.process_time() - began:.0f} core-seconds")

"""
## What the blocks see

`encoder.features` gives the tokens of any block as maps, one vector for each patch, also of larger images than those
of pre-training. Three principal components of these vectors, as red, green and blue, are a picture of what is alike
to the encoder. Here they are of scenes enlarged to 192 pixels, where the maps have 24 x 24 places.
"""

asked = [np.array(Image.fromarray(one).resize((192, 192), Image.Resampling.BICUBIC)) for one in test_images[:8]]
maps = encoder.features(np.stack(asked), blocks=(0, 2, 5))
rows = []
for found in maps.values():
    found = keras.ops.convert_to_numpy(found)
    parts = PCA(3, random_state=0).fit_transform(found.reshape(-1, found.shape[-1]))
    low, high = np.percentile(parts, (2, 98), axis=0)
    rows.append(np.clip((parts - low) / (high - low), 0, 1).reshape(*found.shape[:3], 3))
show(asked, *rows, titles=("scenes", "block 0", "block 2", "block 5"))

"""
The first block sees colors and edges. In deeper ones the largest components say where in the image a patch lies,
which a decoder that fills in pixels has to know, and garments show through. What tells classes apart is in the
others, where a trained head finds it.

## A linear segmenter

The least that can be asked: the encoder stays as it is, and one linear layer tells the class of each patch, whose
logits are resized to pixels. It reads the third block beside the last one, which is busy with the pixels to come.
`transfer.segment` trains a `ViTSegmenter` by a recipe. With 200 masks:
"""

pairs = dict(num_classes=len(NAMES), class_names=NAMES)


def segment(encoder, count, **changes):
    """Train on the first `count` scenes and masks."""
    keras.utils.set_random_seed(0)
    if quick:
        changes |= {"epochs": 1, "warmup_epochs": 0}
    recipe = recipes.SegmentationRecipe.for_size("small_images", images=count, **changes)
    crop = data.SegmentationCrop(**recipe.crop, base_size=SIZE)
    batches = data.pairs_from_arrays(
        images[:count], masks[:count], recipe.batch_size, crop=crop, image_size=SIZE, drop_remainder=True, **pairs
    )
    began = time.process_time()
    segmenter = transfer.segment(encoder, batches, len(NAMES), recipe, verbose=0)
    scores = segmenter.evaluate(test_images, test_masks, batch_size=50, verbose=0, return_dict=True)
    return segmenter, scores["mean_iou"], time.process_time() - began


LABELED = 32 if quick else 200
for name, start in (("untrained", untrained), ("pre-trained", encoder)):
    linear, score, seconds = segment(start, LABELED, head="linear", blocks=(2, 5))
    print(f"{name:12} mIoU {score:.1%} after {seconds:.0f} core-seconds")

"""
mIoU is the mean over the classes of *intersection over union*: of the pixels that are of a class or are said to be,
the share of which both is true. To call everything background gives a sixth of its own IoU.

## UPerNet

The published recipe fine-tunes the encoder and puts more on it: a neck makes four levels of four blocks, from four
times the rows and columns of the patches to half of them, and UPerNet's head reads them together. That is
`head="upernet"`. With `trainable_blocks="all"` the linear head is fine-tuned as well.
"""

FINE_TUNED = {"head": "linear", "trainable_blocks": "all"}
models = {}
for name, changes in (("linear", FINE_TUNED), ("upernet", {"head": "upernet"})):
    models[name], score, seconds = segment(encoder, LABELED, **changes)
    print(f"{name:12} mIoU {score:.1%} after {seconds:.0f} core-seconds")

shown = [model.predict(test_images[:8], verbose=0).argmax(-1) for model in models.values()]
show(test_images[:8], test_masks[:8], *shown, titles=("scenes", "masks", *models))

"""
A linear head on patches of 8 pixels draws blocks with soft edges, and cannot do better: that is what the neck's finer
levels are for.

## How many masks are needed?

The question that decides what a project costs. The fine-tuned linear head with more and more masks, on the
pre-trained encoder and on the one with random weights. With `images=`, the recipe trains on fewer masks for fewer
updates.
"""

counts = (16, 32) if quick else (20, 60, 200)
curves = {"from scratch": untrained, "pre-trained": encoder}
for name, start in curves.items():
    curves[name] = [segment(start, count, **FINE_TUNED)[1] for count in counts]
    print(f"{name:14}" + "".join(f"{count:6} masks {score:.1%}" for count, score in zip(counts, curves[name])))
    plt.plot(counts, [100 * score for score in curves[name]], "o-", label=name)
plt.xscale("log")
plt.xticks(counts, counts)
plt.minorticks_off()
plt.xlabel("scenes with masks")
plt.ylabel("mIoU (%)")
plt.legend()
plt.show()

"""
## Pictures of any size

A segmenter was trained on crops of one size. `predict` lets a window of that size slide over larger images and
averages the logits where windows overlap, so the picture is segmented at its own size, without being shrunk.
"""

grid = np.concatenate([np.concatenate(test_images[row : row + 5], axis=1) for row in (0, 5, 10)])
truth = np.concatenate([np.concatenate(test_masks[row : row + 5], axis=1) for row in (0, 5, 10)])
said = models["upernet"].predict([grid], verbose=0)[0].argmax(-1)
print(grid.shape, "->", said.shape, f"{(said == truth).mean():.1%} of the pixels are right")
show([grid, truth, said])

"""
## Boxes

Detectors come from other packages; what they ask of us is an encoder that gives maps of several levels.
`keras_mae.DetectionBackbone` does, with ViTDet's simple pyramid, and KerasHub's RetinaNet takes it as its image
encoder. Objects of 16 to 50 pixels want smaller anchors than those in photographs do. KerasHub 0.32 starts the last
layers of its heads with large weights, and with the bias of the classes on the boxes; the loop puts that right. There
is more about it on [the page on dense tasks](../docs/dense.md#detection).
"""

import keras_hub

levels = dict(min_level=3, max_level=4)
backbone = keras_mae.DetectionBackbone(encoder, min_level=3, width=96)
pyramid = keras_hub.models.RetinaNetBackbone(backbone, **levels, use_p5=False, image_shape=backbone.image_shape)
anchors = keras_hub.layers.AnchorGenerator(
    "xyxy", **levels, num_scales=3, aspect_ratios=[0.5, 1.0, 2.0], anchor_size=2.0
)
decoder = keras_hub.layers.NonMaxSuppression(
    "xyxy", from_logits=True, iou_threshold=0.5, confidence_threshold=0.02, max_detections=30
)
detector = keras_hub.models.RetinaNetObjectDetector(
    pyramid,
    len(NAMES) - 1,
    "xyxy",
    anchor_generator=anchors,
    prediction_decoder=decoder,
    pre_logits_num_conv_layers=1,
)
for head, bias in ((detector.box_head, 0.0), (detector.classification_head, -np.log(99))):
    last = head.prediction_layer
    last.kernel.assign(0.2 * last.kernel)
    last.bias.assign(np.full(last.bias.shape, bias))

"""
It takes boxes and classes of one length for all images, filled up with -1, and does not shuffle. Each scene is there
twice, once mirrored.
"""


def padded(rows, width):
    """Return rows of unlike lengths as one array, filled up with -1."""
    filled = np.full((len(rows), 4, *width), -1, "float32")
    for row, values in zip(filled, rows):
        row[: len(values)] = np.reshape(values, (-1, *width))
    return filled


boxed = 64 if quick else 2_000  # scenes to train on
places, kinds = padded(boxes[:boxed], (4,)), padded(seen[:boxed], ()) - 1
kinds[kinds < 0] = -1
mirrored = places.copy()
mirrored[..., [0, 2]] = np.where(places[..., [2, 0]] < 0, -1, SIZE - places[..., [2, 0]])
order = np.random.default_rng(0).permutation(2 * boxed)
both = np.concatenate([images[:boxed], images[:boxed, :, ::-1]])[order]
found = {"boxes": np.concatenate([places, mirrored])[order], "labels": np.concatenate([kinds, kinds])[order]}

epochs, batch = (1 if quick else 3), 16
steps = epochs * -(-len(both) // batch)
keras.utils.set_random_seed(0)
rate = keras_mae.optimizers.warmup_cosine(1e-3, steps, steps // 20)
detector.compile(
    keras_mae.optimizers.AdamW(rate, weight_decay=0.05),
    loss_weights={"cls_logits": 5.0, "bbox_regression": 4.0},  # the paper sums over classes and coordinates
)
began = time.process_time()
detector.fit(both, found, batch_size=batch, epochs=epochs, verbose=0)
print(f"{steps} updates in {time.process_time() - began:.0f} core-seconds")

"""
Detections are scored by *mean average precision*: those of a class, best first, are right where they overlap an
object by half, and what matters is how many of the first are. pycocotools is the code of the COCO benchmark itself.
"""

import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

detections = detector.predict(test_images, batch_size=50, verbose=0)
said = [
    (detections["boxes"][i, :n], detections["labels"][i, :n], detections["confidence"][i, :n])
    for i, n in enumerate(detections["num_detections"])
]


def rows(found):
    """Return detections or objects of all images as COCO's rows."""
    table = []
    for image, (its_boxes, its_labels, *sure) in enumerate(found):
        for index, (left, top, right, bottom) in enumerate(np.reshape(its_boxes, (-1, 4)).tolist()):
            row = {"id": len(table) + 1, "image_id": image, "category_id": int(its_labels[index]), "iscrowd": 0}
            row |= {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            table.append(row | ({"score": float(sure[0][index])} if sure else {}))
    return table


with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image} for image in range(len(test_images))],
        "categories": [{"id": label} for label in range(len(NAMES) - 1)],
        "annotations": rows(zip(test_boxes, [np.array(labels) - 1 for labels in test_seen])),
    }
    truth.createIndex()
    scores = COCOeval(truth, truth.loadRes(rows(said)), "bbox")
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
print(f"mAP at an overlap of 50 %: {scores.stats[1]:.1%}, mean from 50 to 95 %: {scores.stats[0]:.1%}")

figure, axes = plt.subplots(1, 6, figsize=(12, 2.2))
for axis, image, (its_boxes, its_labels, sure) in zip(axes, test_images, said):
    axis.imshow(image)
    axis.axis("off")
    for (left, top, right, bottom), label in zip(its_boxes[sure > 0.3], its_labels[sure > 0.3]):
        color = palette[int(label) + 1]
        axis.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color))
        axis.text(left, top, NAMES[int(label) + 1], fontsize=6, color=color)
plt.show()

"""
## On your own pictures

* Masks in files: `data.pairs_from_directory("rooms/")` reads a folder of images and one of masks, ADE20K's layout and
  Pascal VOC's; there is [a page](../docs/data.md#images-with-masks).
* In a shell: `keras-mae pretrain pictures/`, then `keras-mae segment runs/.../model.keras rooms/`, which leaves a
  directory with the segmenter, its scores by class and its pictures; then `keras-mae predict` writes masks for new
  pictures.
* Published weights: `keras_mae.ViTEncoder.from_preset("mae_vit_base_patch16_224", weights="mae_pretrain_vit_base")`
  in place of our small encoder, and
  `SegmentationRecipe.for_size("base", head="upernet")`, with the published numbers at 512 pixels.
* Large images: `encoder.copy(window=14, ...)` has most blocks attend within windows, as ViTDet does.

[Dense tasks](../docs/dense.md) has the details, and what pre-training was worth in a larger trial.
"""
