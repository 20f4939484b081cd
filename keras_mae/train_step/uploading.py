"""Batches of a dataset on their way to a GPU while it computes, on PyTorch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch

__all__ = ["Uploaded"]

_AS_THEY_ARE = frozenset(map(np.dtype, ("uint8", "int32", "int64", "float16", "float32", "float64", "bool")))


class Uploaded(keras.utils.PyDataset):
    """Another dataset's batches on a device.

    Keras sends a batch when the step before it was given to the GPU, and waits for both. Out of memory that stays in
    its place a GPU fetches it by itself.

    Args:
        batches: Dataset whose batches are made in this process.
        device: Device of PyTorch.
    """

    def __init__(self, batches: keras.utils.PyDataset, device: Any):
        super().__init__(batches.workers, batches.use_multiprocessing, batches.max_queue_size)
        self._batches, self._device = batches, device

    @classmethod
    def to(cls, device: Any, x: Any) -> Any:
        """Return `x`, uploaded where it is a dataset of this kind and the device a GPU."""
        here = isinstance(x, keras.utils.PyDataset) and not x.use_multiprocessing
        return cls(x, device) if here and device.type == "cuda" else x

    @property
    def num_batches(self) -> int | None:
        count: int | None = self._batches.num_batches
        return count

    def __getitem__(self, index: int) -> Any:
        batch = self._batches[index]
        if not isinstance(batch, tuple | dict):  # of tensors Keras takes no other batch
            batch = tuple(batch) if isinstance(batch, list) else (batch,)
        return keras.tree.map_structure(self._sent, batch)

    def _sent(self, part: Any) -> Any:
        if not isinstance(part, np.ndarray) or part.dtype not in _AS_THEY_ARE:
            return part  # which Keras knows how to convert
        return (
            torch.from_numpy(np.require(part, requirements=["C", "W"]))
            .pin_memory()
            .to(self._device, non_blocking=True)
        )

    def on_epoch_begin(self) -> None:
        self._batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._batches.on_epoch_end()
