"""What the tests of augmentation share."""

import numpy as np
import pytest
from data_helpers import LOADERS

from keras_mae import data

each_loader = pytest.mark.parametrize("loader", LOADERS)
CLASSES, HEIGHT, WIDTH = 5, 19, 23


def run(augment, images, labels, loader, batch_size=None):
    """All images in their order, augmented batch by batch."""
    source = data.ArraySource(images, labels, pixel_range=augment.pixel_range)
    dataset = data.make_dataset(source, batch_size or len(images), shuffle=False, loader=loader, augment=augment)
    batches = [dataset[index] for index in range(len(dataset))] if loader == "grain" else list(dataset)
    return tuple(np.concatenate([np.asarray(batch[part]) for batch in batches]) for part in range(2))


def slopes(count):
    """Images, all alike, whose first channel is the column and whose second is the row, times 8; the third is 9."""
    row, column = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    image = np.stack([8 * column, 8 * row, np.full_like(row, 9)], -1).astype("float32")
    return np.broadcast_to(image, (count, HEIGHT, WIDTH, 3)).copy(), np.zeros(count, "int64")


ALL = {
    "flip": True,
    "shift": 0.2,
    "rand_augment": 9.0,
    "random_erasing": 0.5,
    "mixup": 0.8,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
}
