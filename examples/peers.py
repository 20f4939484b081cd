"""What the options study is compared with: classifiers on pixels, a convolutional network, `transformers`' ViTMAE.

Not a script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import study

ON_PIXELS = ("logistic regression", "SVM", "random forest", "nearest neighbors")
FOREST, NEIGHBORS, COMPONENTS = 300, 5, 60
SVM_LIMIT = 6_000  # with 60,000 images one fit takes longer than the pre-training it is compared with


def on_pixels(train: Any, test: Any, seed: int) -> dict[str, float]:
    """Accuracy of scikit-learn's classifiers on raw pixels, the settings of the usual tutorials."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    models = {
        "logistic regression": LogisticRegression(C=0.1, max_iter=200),
        "random forest": RandomForestClassifier(FOREST, random_state=seed),
        "nearest neighbors": make_pipeline(
            PCA(COMPONENTS, random_state=seed), KNeighborsClassifier(NEIGHBORS, weights="distance")
        ),
    }
    if len(train[0]) <= SVM_LIMIT:
        models["SVM"] = SVC(C=10)
    flat = [part.reshape(len(part), -1) / 255.0 for part in (train[0], test[0])]
    return {name: float(model.fit(flat[0], train[1]).score(flat[1], test[1])) for name, model in models.items()}


def convolutional(shape: tuple[int, int, int], num_classes: int) -> Any:
    """Return a small convolutional network: three stages of two convolutions with BatchNorm, 0.3 M parameters."""
    import keras
    from keras import layers

    stack: list[Any] = [keras.Input(shape), layers.Rescaling(1 / 127.5, -1)]
    for width in (32, 64, 128):
        for _ in range(2):
            stack += [layers.Conv2D(width, 3, padding="same", use_bias=False), layers.BatchNormalization()]
            stack += [layers.ReLU()]
        stack += [layers.MaxPooling2D(2)]
    return keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dropout(0.3), layers.Dense(num_classes)])


def classifier(kind: str, preset: str, recipe: Any, steps_per_epoch: int) -> Any:
    """Return a compiled classifier with random weights: "vit", by the recipe without layer decay, or "cnn".

    A learning rate for pre-trained weights can be too low for random ones: the ViT always has 1e-3.
    """
    import keras

    import keras_mae
    from keras_mae.transfer.fine_tuning import compiled_classifier

    encoder = keras_mae.MaskedAutoencoder.from_preset(preset).encoder
    if kind == "vit":
        recipe = replace(recipe, layer_decay=1.0, base_learning_rate=1e-3 * 256 / recipe.batch_size)
        return compiled_classifier(encoder, 10, recipe, steps_per_epoch)
    model = convolutional(encoder.image_shape, 10)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, recipe.epochs * steps_per_epoch)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)  # the labels come smoothed
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.05), loss, metrics=["accuracy"])
    return model


def fit(model: Any, dataset: Any, steps: int) -> None:
    """Take `steps` steps, over as many epochs as they need."""
    while steps:
        part = study.first(dataset, min(steps, len(dataset)))
        model.fit(part, verbose=0, shuffle=False)
        steps -= min(steps, len(dataset))


def supervised(kind: str, preset: str, train: Any, test: Any, recipe: Any, steps: int) -> float:
    """Accuracy of a network trained from random weights for about `steps` steps, with the recipe's augmentation."""
    from keras_mae import data, training

    dataset = training.training_batches(data.ArraySource(*train), recipe, num_classes=10)
    epochs = max(1, round(steps / len(dataset)))
    recipe = replace(recipe, epochs=epochs, warmup_epochs=min(recipe.warmup_epochs, epochs - 1))
    model = classifier(kind, preset, recipe, len(dataset))
    model.fit(dataset, epochs=epochs, verbose=0, shuffle=False)
    return float((model.predict(test[0], batch_size=500, verbose=0).argmax(1) == test[1]).mean())


class TransformersMAE:
    """The ViTMAE of `transformers`, trained by its own pre-training example.

    The example's settings: AdamW (0.9, 0.999), base learning rate 1.5e-4 for a batch of 256, weight decay 0.05,
    warm-up of a twentieth and cosine, normalized patches, 75 % removed, mean and deviation of the pixels 0.5,
    RandomResizedCrop (0.2, 1) and flips. The sizes are the preset's.
    """

    batch = 256

    def __init__(self, images: Any, preset: str, seed: int) -> None:
        import numpy as np
        import torch
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        from keras_mae import presets

        sizes = presets.get(preset)
        encoder, decoder = sizes.encoder, sizes.decoder
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        self.images, self.generator, self.schedule = images, np.random.default_rng(seed), None
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = ViTMAEForPreTraining(
            ViTMAEConfig(
                image_size=encoder["image_shape"][0],
                patch_size=encoder["patch_size"],
                num_channels=encoder["image_shape"][2],
                hidden_size=encoder["embed_dim"],
                num_hidden_layers=encoder["depth"],
                num_attention_heads=encoder["num_heads"],
                intermediate_size=4 * encoder["embed_dim"],
                decoder_hidden_size=decoder["embed_dim"],
                decoder_num_hidden_layers=decoder["depth"],
                decoder_num_attention_heads=decoder["num_heads"],
                decoder_intermediate_size=4 * decoder["embed_dim"],
                norm_pix_loss=True,
                mask_ratio=0.75,
            )
        ).to(self.device)
        rate = 1.5e-4 * self.batch / 256
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=0.05)

    def fit(self, steps: int) -> None:
        """Take some steps."""
        import torch

        for _ in range(steps):
            chosen = torch.tensor(self.images[self.generator.integers(0, len(self.images), self.batch)])
            self.model(pixel_values=_cropped(chosen, self.generator).to(self.device)).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.schedule is not None:
                self.schedule.step()

    def train(self, steps: int, parts: Sequence[int], directory: Path) -> float:
        """Train for `steps`, and save the model after each part of them; return the epochs."""
        from transformers import ViTImageProcessor, get_cosine_schedule_with_warmup

        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, steps // 20, steps)
        done = 0
        for part in parts:
            self.fit(steps // part - done)
            done = steps // part
            self.model.save_pretrained(directory / f"model-{part}")
            ViTImageProcessor(image_mean=[0.5], image_std=[0.5]).save_pretrained(directory / f"model-{part}")
        return steps * self.batch / len(self.images)


def _cropped(images: Any, generator: Any) -> Any:
    """Cut (batch, height, width, 1) bytes at random, resize and mirror them: float32 (batch, 1, height, width)."""
    import torch
    from torch.nn.functional import interpolate

    height, width = images.shape[1:3]
    images = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    cut = []
    for image in images:
        share, aspect = generator.uniform(0.2, 1), math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        rows = min(height, max(1, round(math.sqrt(share * height * width / aspect))))
        columns = min(width, max(1, round(math.sqrt(share * height * width * aspect))))
        top, left = generator.integers(0, height - rows + 1), generator.integers(0, width - columns + 1)
        part = image[None, :, top : top + rows, left : left + columns]
        part = interpolate(part, (height, width), mode="bicubic", antialias=True)
        cut.append(part.flip(-1) if generator.random() < 0.5 else part)
    return torch.cat(cut).clamp(-1, 1)
