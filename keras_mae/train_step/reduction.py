"""Gradients of a batch that several PyTorch processes share, added up while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import distributed

from keras_mae._types import Tensor

__all__ = ["Reduction"]

BUCKET = 25 * 2**20
"""Bytes of gradients to send at once, as many as PyTorch's DistributedDataParallel: few messages, and the first ones
leave early."""


class Reduction:
    """Turns the gradients of each process's part of a batch into those of the whole batch.

    Gradients come from the last layers to the first. They are put into buckets in that order, and a bucket is sent as
    soon as its last gradient is there. Every process sends all buckets, in the same order, whatever came first.

    Args:
        values: The tensors of the weights to train.
        bucket: Bytes of a bucket; a larger weight has one of its own.
    """

    def __init__(self, values: Sequence[Tensor], bucket: int = BUCKET):
        self._values = list(values)
        self._buckets: list[list[int]] = []
        room = 0
        for index in reversed(range(len(self._values))):
            size = 4 * self._values[index].numel()  # they are sent in float32
            if not self._buckets or size > room:
                self._buckets.append([])
                room = bucket
            self._buckets[-1].append(index)
            room -= size
        places = {index: place for place, bucket in enumerate(self._buckets) for index in bucket}
        self._hooks = [
            value.register_post_accumulate_grad_hook(partial(self._arrived, places[index]))
            for index, value in enumerate(self._values)
        ]
        self._rows: int | None = None
        self._sent: list[tuple[Tensor, Any]] = []

    def begin(self, rows: int) -> None:
        """Take the gradients of the next backward pass for those of a part of `rows` samples."""
        self._rows, self._sent = rows, []
        self._missing = [len(bucket) for bucket in self._buckets]

    def _arrived(self, place: int, value: Tensor) -> None:
        if self._rows is None:  # somebody else's backward pass
            return
        self._missing[place] -= 1
        while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
            self._send([self._values[index].grad for index in self._buckets[len(self._sent)]])

    def _send(self, gradients: Sequence[Any]) -> None:
        flat = torch.cat([gradient.detach().flatten().to(torch.float32) for gradient in gradients]) * self._rows
        self._sent.append((flat, distributed.all_reduce(flat, async_op=True)))

    def end(self, loss: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Return the loss of the whole batch, and change the gradients to the whole batch's in place.

        Args:
            loss: Mean over this process's samples.
            gradients: Gradients of its samples, in the order of the weights; 0 where a weight has none.
        """
        for bucket in self._buckets[len(self._sent) :]:
            self._send([gradients[index] for index in bucket])
        last = torch.stack([loss, loss.new_ones(())]).to(torch.float32) * self._rows
        distributed.all_reduce(last)
        total, rows = last
        for (flat, sending), bucket in zip(self._sent, self._buckets, strict=True):
            sending.wait()
            parts = (flat / rows).split([gradients[index].numel() for index in bucket])
            for index, part in zip(bucket, parts, strict=True):
                gradients[index].copy_(part.view_as(gradients[index]))
        self._rows, self._sent = None, []
        return total / rows

    def close(self) -> None:
        """Leave the weights alone from now on."""
        for hook in self._hooks:
            hook.remove()
