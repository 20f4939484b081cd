"""
Title: Scaling up
Author: the keras_mae authors
Date created: 2026/11/23
Last modified: 2026/11/23
Description: The same script on several devices and machines, through crashes, and the published ImageNet recipe.
Accelerator: None
Order: 8
"""

"""
## One script, more devices

Masked autoencoders are made for large models and many images, and those need more than one device. With keras_mae the
training script stays as it is but for one line around it:

```python
with keras_mae.distribution.scope("auto"):
    ...  # dataset, model, compile, fit
```

This guide shows, on whatever machine it runs, that the result does not depend on how a run is spread; then what
happens when a machine is taken away in the middle of it; then the published recipe. It takes about three minutes.
What it cannot show here is speed: two processes that share a laptop's cores gain nothing.
"""

import importlib.util
import os

quick = "KERAS_MAE_QUICK" in os.environ  # a short form for tests: fewer epochs
installed = [name for name in ("torch", "tensorflow", "jax") if importlib.util.find_spec(name)]
os.environ.setdefault("KERAS_BACKEND", installed[0])  # in order of speed on a CPU; or name the one you like

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_mae

backend = keras.backend.backend()
folder = Path(tempfile.mkdtemp())  # where the scripts below run
epochs = 1 if quick else 3

with keras_mae.distribution.scope("auto") as devices:
    print(f"On {backend} this machine offers: {devices}")

"""
"auto" takes what fits the backend and what there is. By name, on TensorFlow: `mirrored` (`tf.distribute`'s
MirroredStrategy: the GPUs of a machine), `multi_worker` (MultiWorkerMirroredStrategy: several machines) and `tpu`
(TPUStrategy). On JAX, through `keras.distribution`: `data_parallel`, and `model_parallel`, which shares out the
weights, too. On PyTorch: `torch_ddp`, one process for each GPU, started by `torchrun`, and by name only `torch_fsdp`,
in which these processes share out the weights.

## The result is the same

A script as one would write it. Batch sizes are those of the *global* batch, which is what learning rates are
chosen for.
"""

script = f"""
import sys

import keras
import keras_mae

with keras_mae.distribution.scope(sys.argv[1]) as devices:
    keras.utils.set_random_seed(0)
    images, _ = keras_mae.data.digits()
    dataset = keras_mae.data.from_arrays(images, batch_size=64, drop_remainder=True)
    mae = keras_mae.MaskedAutoencoder.from_preset("mae_vit_micro_patch2_8", depth=2)
    mae.compile(keras_mae.optimizers.AdamW(1e-3))
    history = mae.fit(dataset, epochs={epochs}, shuffle=False, verbose=0)
    if devices.is_main:
        print(f"{{devices}}: loss {{history.history['loss'][-1]:.6f}}")
"""

"""
To have two devices on any machine we pretend: PyTorch gets two processes on the CPU, JAX is told that the CPU is two
devices, TensorFlow likewise. On a machine with two GPUs none of this is needed.
"""

two_devices = {
    "torch": ("torch_ddp", ["-m", "torch.distributed.run", "--nproc-per-node", "2", "train.py"], ""),
    "jax": (
        "data_parallel",
        ["train.py"],
        "import os\nos.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=2'\n",
    ),
    "tensorflow": (
        "mirrored",
        ["train.py"],
        "import tensorflow as tf\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)\n",
    ),
}
engine, command, pretend = two_devices[backend]
environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", "FORCE_COLOR": ""}


def run(command, beginning, *arguments):
    """Run the script, and return the last line it printed."""
    (folder / "train.py").write_text(beginning + script)
    done = subprocess.run(
        [sys.executable, *command, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.splitlines()[-1]


print(run(["train.py"], "", "none"))
print(run(command, pretend, engine))

"""
The same loss to the last digits, which are rounding: the sums are taken in another order. For this to be so,

- loss and gradients are means over the global batch, summed between devices *before* they are clipped or looked at;
- **masks follow the sample's place in the global batch**, by the integer hash of (seed, step, place, patch). With a
  random generator on each device, all would draw the same masks, or different ones than a single device;
- each process loads only its part of every batch, and all parts together are the batch that one process would see;
- a step that is not finite on one device is skipped on all of them.

A batch that cannot be shared out evenly is refused (`drop_remainder=True` makes all alike), so that TPUs compile
once.

## Input

At scale, reading and decoding images is what one runs out of first. `keras_mae.data` builds tf.data pipelines where
TensorFlow is installed, whatever the backend, and Grain's elsewhere:

```python
dataset = keras_mae.data.from_tfds("imagenet2012", "train", 224, batch_size=4096, drop_remainder=True)
dataset = keras_mae.data.from_directory("photos/", 224, batch_size=4096, drop_remainder=True, crops_per_image=4)
```

`keras-mae prepare photos/ shards/ --short-side 256` turns millions of files into few large ones. `crops_per_image=4`
cuts four crops of each image that was decoded, for a quarter of the decoding. What 8, 64 and 512 accelerators eat is
worked out in [accelerators.md](../docs/accelerators.md).

## Machines go away

Cheap accelerators are lent: the machine gets SIGTERM, and half a minute later it is gone. Give `--resume` from the
start: the same command then begins a run, goes on with it, or leaves it alone if it is finished. Here a run is
stopped in its middle, and gone on with.
"""

pretrain = [sys.executable, "-m", "keras_mae.cli", "pretrain", "--epochs", "1" if quick else "2"]
pretrain += ["--checkpoint-steps", "10", "--resume", "--out"]
taken_away = subprocess.Popen([*pretrain, "run"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
while taken_away.poll() is None and not list(folder.glob("run/checkpoints/step-*")):  # until the first checkpoint
    time.sleep(0.1)
taken_away.send_signal(signal.SIGTERM)
taken_away.communicate()
print("exit status:", taken_away.returncode, "- saved:", [path.name for path in folder.glob("run/checkpoints/*")][-1])

done = subprocess.run([*pretrain, "run"], cwd=folder, env=environment, capture_output=True, text=True)
print(done.stdout)

"""
Would it have ended otherwise, if nobody had stopped it?
"""

subprocess.run([*pretrain, "undisturbed"], cwd=folder, env=environment, capture_output=True, check=True)
histories = [np.loadtxt(folder / name / "history.csv", delimiter=",", skiprows=1) for name in ("run", "undisturbed")]
print("the same history, bit for bit:", np.array_equal(*histories))

names = {"stopped and gone on with": "run", "undisturbed": "undisturbed"}
figure = keras_mae.visualize.curves({name: folder / run / "history.csv" for name, run in names.items()})
figure.set_size_inches(5, 4)
figure

"""
(One line covers the other.) A checkpoint holds weights, optimizer, schedule, metrics, the masks' step and the
position in the data, with a checksum of each file; a damaged one is skipped for the one before it. It is not tied
to the devices: a run that was begun on eight may go on with one. `python tests/kill_test.py --kills 50` does this the
hard way, with SIGKILL.

In your own script it is `keras_mae.training.run_pretraining(..., saving=Saving(resume=True))`, which is what the
command calls. `keras-mae finetune` and `probe` (`training.run_fine_tuning`, `training.run_linear_probe`) resume, and
are spread, in the same way.

## The published run

The recipe of the paper, for ImageNet-1K:
"""

print(keras_mae.recipes.PretrainRecipe.for_size("large"))

"""
The learning rate is base × batch / 256, whatever the number of devices. As commands, with `photos/` in place of the
training images, on a machine with eight GPUs and PyTorch, or on each host of a TPU slice with JAX, once the variables
below are set:

```bash
RECIPE="--model mae_vit_large_patch16_224 --epochs 800 --warmup-epochs 40 --batch-size 4096
        --base-learning-rate 1.5e-4 --norm-pix-loss --precision mixed_bfloat16"
KERAS_BACKEND=torch torchrun --nproc-per-node 8 -m keras_mae.cli pretrain photos/ $RECIPE --out runs/large --resume
KERAS_BACKEND=jax keras-mae pretrain photos/ $RECIPE --out runs/large --resume
```

Several hosts name each other: `torchrun --nnodes`, for JAX the variables `KERAS_DISTRIBUTION_JOB_ADDRESSES`,
`KERAS_DISTRIBUTION_NUM_PROCESSES` and `KERAS_DISTRIBUTION_PROCESS_ID`, for TensorFlow `TF_CONFIG`:

```bash
export TF_CONFIG='{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
KERAS_BACKEND=tensorflow keras-mae pretrain photos/ $RECIPE --distribution multi_worker --out /shared/large --resume
```

The run directory must be one that they share; the first process writes it.

What memory does not hold: `--gradient-accumulation-steps 4` makes one update of four smaller batches (not under
TensorFlow's strategies, where Keras cannot), and `model_parallel` on JAX shares out the weights of a ViT-H.

**What was not tried**: GPUs and TPUs. All engines but `tpu` were run on CPUs, as above, and compared with one device
(`tests/test_distribution.py`); that the training step compiles for a TPU was checked without one.
"""
