"""What the tests of protocols and features share."""

from classifier_helpers import (
    BATCH,
    IMAGES,
    LABELS,
)

import keras_mae


def dataset(labels=LABELS, images=IMAGES):
    return keras_mae.data.from_arrays(images, labels, BATCH, shuffle=False, loader="grain")


def unknown_length(*arrays):
    """Batches that do not say how many they are, the last one smaller."""
    for start in range(0, len(IMAGES), BATCH):
        parts = tuple(array[start : start + BATCH] for array in arrays)
        yield parts if len(parts) > 1 else parts[0]
