"""
Title: One model, three backends
Author: the keras_mae authors
Date created: 2026/11/23
Last modified: 2026/11/23
Description: Train on one backend and go on with another, see that masks are the same bits, and know what differs.
Accelerator: None
Backends: torch
Order: 5
"""

"""
## One process, one backend

Keras runs on TensorFlow, JAX and PyTorch, and keras_mae on all three. Which one it is, is decided once: when Keras is
imported, from the environment variable `KERAS_BACKEND` (or, where that is not set, from `~/.keras/keras.json`; the
next cell sets it). It cannot be changed afterwards, so to see two backends we need two processes. This guide starts
the second one itself.

It runs with one backend installed, and shows more with two or three. It takes about four minutes.
"""

import importlib.util
import os

quick = "KERAS_MAE_QUICK" in os.environ  # a short form for tests: fewer images, epochs and steps
installed = [name for name in ("torch", "tensorflow", "jax") if importlib.util.find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", installed[0])  # in order of speed on a CPU; or name the one you like

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import keras

import keras_mae

here = keras.backend.backend()
others = [name for name in installed if name != here]
print("this process:", here)
for name in ("torch", "tensorflow", "jax"):
    print(f"{name:12}", "installed" if name in installed else "not installed here")

size = {"depth": 1} if quick else {}  # blocks of the encoders below; as their names say if nothing is given
folder = Path(tempfile.mkdtemp())  # for what the processes hand one another


def run_on(backend, program):
    """Run a program in another process on this backend; what it prints last, in JSON, is returned."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"On {backend}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


"""
## The masks are the same bits

Random number generators differ between backends, and between compiled and uncompiled code. So keras_mae draws its
masks with an integer hash of (seed, training step, image, patch): a pure function, in operations that every backend
does exactly. Below each installed backend draws the masks of training step 7 for 256 images with 196 patches; the
digest is of every index of every mask.
"""

program = """
import hashlib, json
import keras, keras_mae

noise = keras_mae.random.hash_noise(seed=0, step=7, index=keras.ops.arange(256), count=196)
mask = keras_mae.RandomMasking(0.75)(noise, grid=(14, 14))
ids = keras.ops.convert_to_numpy(mask.ids_keep)
digest = hashlib.sha256(ids.astype("int32").tobytes()).hexdigest()
print(json.dumps({"first": ids[0, :8].tolist(), "digest": digest[:16]}))
"""
drawn = {name: run_on(name, program) for name in installed}
for name, masks in drawn.items():
    print(f"{name:12} {masks['digest']}  the first image keeps {masks['first']} ...")
print("all the same:", len({masks["digest"] for masks in drawn.values()}) == 1)

"""
That is more than tidiness. A run that is interrupted and resumed sees the masks that it would have seen, and a bug
that appears on one backend can be looked for on another with the same data.

What is *not* the same bits is everything in floating point. Sums are taken in another order, and results differ in
the last digits. Weights also start differently, as Keras' initializers draw from each backend's own generator;
where that matters, save the untrained model and load it on the other.

## Train here, go on there

A few epochs on scikit-learn's 1,437 handwritten digits, 8 × 8 pixels; the model is saved with its optimizer.
"""

images, _ = keras_mae.data.digits("train")
held_out, _ = keras_mae.data.digits("test")
few = 128 if quick else None
epochs = 1 if quick else 20

keras.utils.set_random_seed(0)
mae = keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch2_8", **size)
mae.compile(keras_mae.optimizers.AdamW(2e-3))
history = mae.fit(images[:few], batch_size=128, epochs=epochs, verbose=0)
first_half = history.history["loss"]
before = mae.evaluate(held_out, verbose=0, return_dict=True)["loss"]
mae.save(folder / "half_trained.keras")
print(f"on {here}: loss {first_half[0]:.3f} after one epoch, {first_half[-1]:.3f} after {epochs}")
print(f"on held-out images {before:.6f}")

"""
The second process loads the file on another backend, says what the loss on the held-out images is there, trains for
as many epochs, and saves again. (With one backend installed, it is a second process on the same one.)
"""

program = f"""
import json
import keras, keras_mae

images, _ = keras_mae.data.digits("train")
held_out, _ = keras_mae.data.digits("test")
mae = keras.saving.load_model("half_trained.keras")
loaded = mae.evaluate(held_out, verbose=0, return_dict=True)["loss"]
steps = int(mae.optimizer.iterations)
history = mae.fit(images[:{few}], batch_size=128, epochs={epochs}, verbose=0)
mae.save("trained.keras")
after = mae.evaluate(held_out, verbose=0, return_dict=True)["loss"]
print(json.dumps({{"loaded": loaded, "steps": steps, "loss": history.history["loss"], "after": after}}))
"""
there = others[0] if others else here
report = run_on(there, program)
print(f"on {there}: held-out loss {report['loaded']:.6f} - differs by {abs(report['loaded'] - before):.1e}")
print(f"its optimizer goes on after {report['steps']} steps; held-out loss {report['after']:.6f} at the end")

"""
The loss is the same to the precision of the arithmetic, and training goes on where it was: the optimizer's moments,
its count of steps and the masks' step are in the file. Back here:
"""

mae = keras.saving.load_model(folder / "trained.keras")
again = mae.evaluate(held_out, verbose=0, return_dict=True)["loss"]
print(f"back on {here}: {again:.6f} - differs by {abs(again - report['after']):.1e}")

history = {"loss": first_half + report["loss"]}
figure = keras_mae.visualize.curves(history)
figure.set_size_inches(5, 3.6)
figure.axes[0].axvline(epochs + 0.5, color="gray", linestyle=":")
figure.axes[0].set_title(f"left of the line {here}, right of it {there}", fontsize=9)
figure

"""
No step at the line. What the model has learned, on digits by people whose writing it has not seen; only four
patches of sixteen are visible, hence the blur:
"""

figure = keras_mae.visualize.reconstructions(mae.reconstruct(held_out[:4]))
figure.set_dpi(70)
figure

"""
## What differs: speed

One training step of the same model on each installed backend, in a process each: the first, in which it compiles, and
the fastest of ten more, the one that other programs on this machine disturbed least.
"""

program = f"""
import json, time
import keras, keras_mae
import numpy as np

mae = keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch4_28", **{size})
mae.compile(keras_mae.optimizers.AdamW(1e-3), jit_compile={not quick} and keras.backend.backend() != "torch")
images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), "uint8")
seconds = []
for _ in range({3 if quick else 12}):
    began = time.perf_counter()
    mae.train_on_batch(images)
    seconds.append(time.perf_counter() - began)
print(json.dumps({{"first": seconds[0], "fastest": min(seconds[2:])}}))
"""
for name in installed[:1] if quick else installed:
    took = run_on(name, program)
    print(f"{name:12} first step {took['first']:5.1f} s, then {1000 * took['fastest']:4.0f} ms a step")

"""
One after another on whatever machine this is: do not choose by this cell. On another day, while other programs kept
both cores busy, it said 306 (PyTorch), 121 (TensorFlow) and 480 ms (JAX). `python examples/benchmark_step.py`
measures it properly, with all contestants taking turns on one core (`--python BACKEND=INTERPRETER` for backends that
are installed elsewhere). Median seconds for ViT-S at 224 pixels, batch 8, float32:

| | seconds a step |
| --- | --- |
| PyTorch | 0.76 |
| TensorFlow | 0.82 |
| JAX | 1.12 |

So on a CPU PyTorch or TensorFlow is the one to take for now. On a GPU it is
[otherwise](../docs/benchmarks.md#a-training-step-on-a-gpu).

## What else differs

- TFRecord files and `data.from_dataset` are read with tf.data: on JAX and PyTorch, install TensorFlow beside them.
- `steps_per_execution` above 1 works on TensorFlow and JAX; Keras refuses it on PyTorch.
- `mixed_float16` on a CPU works on TensorFlow and PyTorch, not on JAX.
- Exporting to ONNX and the like goes through TensorFlow, to `.pt2` through PyTorch; keras_mae starts that process
  itself, whatever backend is in use: see [Published weights and export](weights_and_export.ipynb).

[Backends](../docs/backends.md) has the whole table.

## Writing code for all three

- Use `keras.ops` instead of a backend's own functions, and `keras.ops.convert_to_numpy` to get at numbers.
- Hand NumPy arrays in. All methods of the models take them.
- Set `KERAS_BACKEND` before anything imports Keras; in a notebook, in the first cell.
- Save `.keras` files. They know nothing of the backend.
"""
