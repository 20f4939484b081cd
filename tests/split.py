"""Train as one process of a run that is spread over devices; `test_distribution.py` starts it and compares.

    python tests/split.py ENGINE FILE [VARIANT...]

Every variant, or those that are named, trains two epochs of three steps. FILE.N gets, as JSON, the final weights and
all logs of process N.
"""

import json
import os
import sys
from pathlib import Path

DEVICES = int(os.environ.get("DEVICES", 1))
if DEVICES > 1:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_mae  # noqa: E402
from keras_mae import _saving, distribution  # noqa: E402

BATCH, STEPS, EPOCHS = 8, 3, 2
IMAGES = np.random.default_rng(5).integers(0, 256, (BATCH * STEPS, 12, 20, 3)).astype("uint8")
LABELS = np.random.default_rng(6).integers(0, 3, BATCH * STEPS)

NOT_FINITE = "not finite, clipped and averaged"
SHARED_OUT = "shared out"
# Plain gradient descent shows the size of a gradient, which AdamW hides; epsilon keeps AdamW from blowing up the
# rounding of gradients that are zero.
PRETRAINED = {
    "plain": (keras.optimizers.SGD, {"learning_rate": 0.5}, {"masks_per_image": 2}),
    "accumulated": (keras.optimizers.SGD, {"learning_rate": 0.5, "gradient_accumulation_steps": 2}, {}),
    "overflow": (keras_mae.optimizers.AdamW, {"learning_rate": 1e-3, "epsilon": 1e-4}, {"dtype": "mixed_float16"}),
    NOT_FINITE: (
        keras_mae.optimizers.AdamW,
        {"learning_rate": 1e-3, "epsilon": 1e-4, "global_clipnorm": 0.1, "use_ema": True, "ema_momentum": 0.9},
        {"drop_path_rate": 0.3, "masks_per_image": 2},
    ),
    "beyond the range": (keras.optimizers.SGD, {"learning_rate": 0.5}, {}),
}


class Steps(keras.callbacks.Callback):
    """The logs of every step and of the epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append({name: float(value) for name, value in logs.items()})

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append({name: float(value) for name, value in logs.items()})


class Parts(keras.utils.PyDataset):
    """This process's part of batches of floats, the last image of the third of which is not finite."""

    def __init__(self):
        super().__init__()
        self.images = IMAGES.astype("float32")
        self.images[3 * BATCH - 1, 0, 0, 0] = np.nan

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        part, parts = distribution.current().shard
        rows = BATCH // parts
        return self.images[index * BATCH + part * rows :][:rows]


def not_finite():
    """A batch with a NaN in the part of the last replica only."""
    if distribution.current().engine != "multi_worker":
        return Parts()
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(Parts().images).batch(BATCH, drop_remainder=True)


def beyond():
    """Batches with a pixel that is none in the part of the last replica only."""
    images = IMAGES.astype("float32")
    images[BATCH - 1] = 300
    if distribution.current().engine != "multi_worker":
        dataset = Parts()
        dataset.images = images
        return dataset
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(images).batch(BATCH, drop_remainder=True)


def batches(labels=None):
    return keras_mae.data.from_arrays(IMAGES, labels, BATCH, shuffle=True, seed=3, drop_remainder=True)


def pretrained(name):
    optimizer, arguments, options = PRETRAINED[name]
    policy = {"dtype": options["dtype"]} if "dtype" in options else {}
    keras.utils.set_random_seed(distribution.current().process if "torch" in distribution.current().engine else 0)
    rate = options.get("drop_path_rate", 0.0)
    encoder = keras_mae.ViTEncoder((12, 20, 3), 4, 16, 2 if rate else 1, 2, drop_path_rate=rate, **policy)
    decoder = keras_mae.MAEDecoder(8, depth=1, num_heads=2, **policy)
    masks = options.get("masks_per_image", 1)
    mae = keras_mae.MaskedAutoencoder(encoder, decoder, keras_mae.RandomMasking(0.6), masks_per_image=masks, **policy)
    mae.compile(optimizer(**arguments))
    steps = Steps()
    held_out = batches() if name == NOT_FINITE else None
    data = {"overflow": not_finite, NOT_FINITE: not_finite, "beyond the range": beyond}.get(name, batches)()
    mae.fit(data, validation_data=held_out, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[steps])
    return mae, steps.seen


def classified():
    keras.utils.set_random_seed(0)
    # Two blocks: after one the class tokens are so alike that BatchNorm blows up the rounding of their variance.
    encoder = keras_mae.ViTEncoder((12, 20, 3), 4, embed_dim=16, depth=2, num_heads=2)
    classifier = keras_mae.ViTClassifier(encoder, 3, pooling="token", trainable_blocks=1, batch_norm=True)
    classifier.compile(keras.optimizers.SGD(0.5))
    steps = Steps()
    classifier.fit(batches(LABELS), epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[steps])
    return classifier, steps.seen


def segmented():
    keras.utils.set_random_seed(0)
    encoder = keras_mae.ViTEncoder((12, 20, 3), 4, embed_dim=16, depth=2, num_heads=2)
    segmenter = keras_mae.ViTSegmenter(encoder, 3, "upernet", trainable_blocks=1)
    segmenter.compile(keras.optimizers.SGD(0.1))
    masks = np.random.default_rng(7).integers(0, 3, (len(IMAGES), 12, 20)).astype("uint8")
    for index in range(len(masks)):
        masks[index, : index % 12] = 255  # parts of a batch have different numbers of pixels that count
    steps = Steps()
    pairs = keras_mae.data.pairs_from_arrays(IMAGES, masks, BATCH, shuffle=False, drop_remainder=True)
    segmenter.fit(pairs, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[steps])
    return segmenter, steps.seen


HEADED = {"classifier": classified, "segmenter": segmented}


def refused(action):
    """The text of the error that an action raises."""
    try:
        action()
    except ValueError as error:
        return str(error)
    return ""


def shared_out(path):
    """Layer decay, frozen parts, gradients clipped weight by weight, accumulated and averaged: saved as a file."""
    keras.utils.set_random_seed(distribution.current().process)
    encoder = keras_mae.ViTEncoder((12, 20, 3), 4, embed_dim=20, depth=2, num_heads=2, drop_path_rate=0.2)
    classifier = keras_mae.ViTClassifier(encoder, 3, trainable_blocks=1)
    options = {"clipnorm": 0.05, "gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.5}
    optimizer = keras_mae.optimizers.fine_tuning_adamw(classifier, 0.5, 8, epsilon=1e-4, ema_warmup=True, **options)
    classifier.compile(optimizer)
    images = batches(LABELS)
    callbacks = [keras_mae.optimizers.ValidateAverages()]
    classifier.fit(images, validation_data=images, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks)
    classifier.save(path)
    weights = Path(path).with_suffix(".weights.h5")
    _saving.save_weights(classifier, weights)
    found: dict = {"file": path, "written": weights.exists()}
    found |= {"scores": classifier.evaluate(images, return_dict=True, verbose=0)}
    for name, variables in (("weights", classifier.weights), ("slots", optimizer.variables)):
        found[name] = sum(variable._value.nbytes for variable in variables)
    again = keras.saving.load_model(path)
    found["loaded"] = again.evaluate(images, return_dict=True, verbose=0)
    if distribution.current().engine != "none":
        found["memory"] = refused(lambda: keras_mae.training.memory(classifier, 8))
        found["backward"] = refused(lambda: classifier(IMAGES[:2]).sum().backward())
    return found, lambda: refused(classifier.get_weights)


def main(engine, path, *chosen):
    if DEVICES > 1 and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * DEVICES)
    found = {}
    with distribution.scope(engine) as devices:
        print(devices)
        late = None
        for name in chosen or [*PRETRAINED, *HEADED]:
            if name == SHARED_OUT:
                found[name], late = shared_out(f"{path}.{devices.process}.keras")
                continue
            try:
                model, logs = HEADED[name]() if name in HEADED else pretrained(name)
            except ValueError as error:
                found[name] = {"refused": str(error)}
                continue
            weights = np.concatenate([keras.ops.convert_to_numpy(value).ravel() for value in model.weights])
            found[name] = {"logs": logs, "weights": weights.astype(float).tolist()}
    if late is not None:
        found[SHARED_OUT]["after the scope"] = late()
    file = Path(path)
    file.with_name(f"{file.name}.{devices.process}").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
