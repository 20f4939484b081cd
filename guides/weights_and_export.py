"""
Title: Published weights and export
Author: the keras_mae authors
Date created: 2026/11/23
Last modified: 2026/11/23
Description: Load the authors' checkpoints, exchange files with timm, transformers and KerasHub, write ONNX and .pt2.
Accelerator: None
Extras: convert,data,export,keras-hub,viz
Order: 7
"""

"""
## Weights travel

Masked pre-training at full size is expensive (the paper's 800 epochs of ViT-Large took 15 hours on 128 TPU cores). So
most people begin with weights that somebody else has trained, and many finish with a model that has to run where
there is no Keras. This guide goes through both. It takes about two minutes.
"""

import importlib.util
import os

quick = "KERAS_MAE_QUICK" in os.environ  # a short form for tests: fewer epochs, one export
installed = [name for name in ("torch", "tensorflow", "jax") if importlib.util.find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", installed[0])  # in order of speed on a CPU; or name the one you like

import tempfile
from pathlib import Path

import keras
import numpy as np
from safetensors.numpy import load_file, save_file

import keras_mae
from keras_mae import convert

print("Keras", keras.__version__, "on", keras.backend.backend())
os.chdir(tempfile.mkdtemp())  # the files this guide writes go into an empty folder

"""
## The published checkpoints

The paper's authors published encoders, encoders with decoders, and classifiers, of ViT-Base, Large and Huge. None is
part of keras_mae: **the weights are theirs, under CC-BY-NC 4.0, which forbids commercial use**. A name in `weights`
downloads the file on first use, checks it where the authors gave a checksum, and says the license. It is a PyTorch
file, so PyTorch has to be installed, whatever the backend.

```python
mae = keras_mae.MaskedAutoencoder.from_preset("mae_vit_base_patch16_224", weights="mae_pretrain_vit_base_full")
encoder = keras_mae.ViTEncoder.from_preset("mae_vit_base_patch16_224", weights="mae_pretrain_vit_base")
encoder = keras_mae.ViTEncoder.from_preset("hf://facebook/vit-mae-base")  # from the Hugging Face Hub
```

These lines are not run here. The names say what a file holds:
"""

for name in convert.PUBLISHED:
    print(name)

"""
- `mae_pretrain_vit_*`: the encoder alone. Enough for features and fine-tuning; it cannot reconstruct anything, and
  keras_mae refuses to pretend otherwise.
- `mae_pretrain_vit_*_full`: encoder and decoder, trained on normalized pixels.
- `mae_visualize_vit_*`: encoder and decoder, trained on plain pixels, for good-looking pictures;
  `_ganloss` with an adversarial loss besides.
- `mae_finetuned_vit_*`: classifiers of ImageNet's 1,000 classes.

## A file of our own in their place

To see loading at work without a download, we make a small file in the same layout: a model for 8 × 8 pixels, trained
for a few seconds on handwritten digits, saved under the authors' names. (The ending decides: `.pth` would be a
PyTorch file, `.safetensors` needs no PyTorch.)
"""

images, labels = keras_mae.data.digits("train")
test_images, test_labels = keras_mae.data.digits("test")

keras.utils.set_random_seed(0)
preset = "mae_vit_micro_patch2_8"
mae = keras_mae.MaskedAutoencoder.from_preset(preset)
epochs = 1 if quick else 40
steps = epochs * -(-len(images) // 128)
mae.compile(keras_mae.optimizers.pretraining_adamw(4e-3, 128, total_steps=steps, warmup_steps=steps // 10))
loss = mae.fit(images, batch_size=128, epochs=epochs, verbose=0).history["loss"]
print(f"loss {loss[0]:.3f} -> {loss[-1]:.3f}")

file = convert.save(mae, "digits.safetensors", "reference")
tensors = load_file(file)
print(len(tensors), "tensors, such as")
for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "mask_token"):
    print(f"  {name:26} {tensors[name].shape}")

"""
Loading is the line from above with a file in place of a name. Such a file holds weights and nothing else. So two
things must be known from elsewhere: the number of heads, which the architecture's name says here, and what the
decoder predicts: pixels here, so `norm_pix_loss=False`.
"""

loaded = keras_mae.MaskedAutoencoder.from_preset(preset, weights=file, norm_pix_loss=False)
largest = max(
    np.abs(keras.ops.convert_to_numpy(ours) - keras.ops.convert_to_numpy(theirs)).max()
    for ours, theirs in zip(mae.weights, loaded.weights)
)
print("largest difference of any weight:", largest)

figure = keras_mae.visualize.reconstructions(loaded.reconstruct(test_images[:4]))
figure.set_dpi(70)
figure

"""
Only four patches of sixteen are visible, so the model paints where ink usually is: a blur, but the same blur as
before saving.

## Whole or not at all

`convert.load` is the function behind it. It finds out by itself what a file is, and reports where every tensor went:
"""

model, report = convert.load(file, norm_pix_loss=False, num_heads=4, decoder_num_heads=4)
print(type(model).__name__, "-", "\n".join(str(report).splitlines()[:6]), "\n...")

"""
A checkpoint that does not fit is refused as a whole, with everything named that is wrong. Here one tensor is missing
and one has a name nobody knows, as after a careless rename:
"""

tensors["blocks.0.attn.qkv_weight"] = tensors.pop("blocks.0.attn.qkv.weight")
save_file(tensors, "renamed.safetensors")
try:
    convert.load("renamed.safetensors", norm_pix_loss=False, num_heads=4, decoder_num_heads=4)
except ValueError as error:
    print(error)

"""
That strictness is worth its price: a file half loaded trains without complaint, and the only sign is a result that is
a little worse than it should be.

## To other libraries

A classifier on the encoder, fine-tuned on the digits' labels:
"""

keras.utils.set_random_seed(0)
classifier = keras_mae.ViTClassifier(mae.encoder, num_classes=10)
classifier.compile(keras_mae.optimizers.AdamW(1e-3))
classifier.fit(images, labels, batch_size=64, epochs=1 if quick else 10, verbose=0)
accuracy = classifier.evaluate(test_images, test_labels, verbose=0, return_dict=True)["accuracy"]
print(f"{accuracy:.1%} of {len(test_images)} digits by people it has not seen")

convert.save(classifier, "classifier.safetensors", "timm")  # for timm's VisionTransformer
convert.save(mae, "for_transformers", "transformers")  # for ViTMAEForPreTraining.from_pretrained
mae.encoder.save_to_preset("my_encoder")  # keras_mae's own folder, ready to be uploaded to the Hub
for path in sorted(Path(".").iterdir()):
    print(path, "-", ", ".join(sorted(child.name for child in path.iterdir())) if path.is_dir() else "a file")

"""
All of them come back through the same door, `from_preset`, and a folder on the Hugging Face Hub would be
`"hf://user/name"`:
"""

encoder = keras_mae.ViTEncoder.from_preset("my_encoder")
again = keras_mae.MaskedAutoencoder.from_preset("for_transformers")
same = keras.ops.convert_to_numpy(encoder(test_images)) - keras.ops.convert_to_numpy(again.encoder(test_images))
print(f"tokens from the two differ by {np.abs(same).max():.1e}")

"""
KerasHub's `ViTBackbone` is the same network under other names. `"keras_hub"` writes a folder for its `from_preset`:
"""

if importlib.util.find_spec("keras_hub"):
    import keras_hub

    convert.save(mae.encoder, "for_keras_hub", "keras_hub")
    backbone = keras_hub.models.ViTBackbone.from_preset("for_keras_hub")
    converter = keras_hub.layers.ViTImageConverter.from_preset("for_keras_hub")
    theirs = keras.ops.convert_to_numpy(backbone(converter(test_images.astype("float32"))))
    ours = keras.ops.convert_to_numpy(mae.encoder(test_images))
    print("KerasHub's tokens", theirs.shape, f"differ from ours by {np.abs(theirs - ours).max():.1e}")
else:
    print('KerasHub is not installed here: pip install "keras-mae[keras-hub]"')

"""
## To run without Keras

`convert.export` writes a model for another runtime, then loads what it wrote with that runtime and compares the
outputs for batches of 1 and 7 before it returns. The number it returns is the largest difference, relative to the
largest output.

The input is images of 0–255: normalization is part of the model, so nobody downstream can get it wrong.
"""

formats = {"onnx": "classifier.onnx", "litert": "classifier.tflite", "torch": "classifier.pt2"}
for format, name in list(formats.items())[: 1 if quick else None]:
    try:
        difference = convert.export(classifier, name, format)
        kilobytes = Path(name).stat().st_size // 1000
        print(f"{format:8} {name}, {kilobytes:,} kB, differs by {difference:.1e}")
    except ImportError as error:
        print(f"{format:8} {error}")

"""
An ONNX file needs nothing but its runtime:
"""

if Path("classifier.onnx").exists():
    import onnxruntime

    session = onnxruntime.InferenceSession("classifier.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: test_images.astype("float32")})
    print(f"ONNX Runtime: {np.mean(logits.argmax(-1) == test_labels):.1%} right; Keras said {accuracy:.1%}")
else:
    print("There is no ONNX file here: it takes TensorFlow, tf2onnx and onnxruntime")

"""
The other formats are `"saved_model"` and `"openvino"`. An encoder exports as well, and so does a whole masked
autoencoder; its second input is the noise that decides what is hidden.

In a shell:

```
keras-mae convert mae_pretrain_vit_base.pth encoder.keras
keras-mae export runs/digits-1/model.keras --format onnx --part encoder
```

[Weights](../docs/weights.md) says for each library what can be read and written, and what is refused and why.
"""
