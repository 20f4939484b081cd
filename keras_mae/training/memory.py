"""What memory a training step takes, by what the backend would allocate for it; nothing is computed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

from keras_mae import _checks
from keras_mae.classifier import ViTClassifier
from keras_mae.distribution import are_shared_out
from keras_mae.fused_attention import as_on_a_gpu
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.segmenter import ViTSegmenter

__all__ = ["StepMemory", "memory"]


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a training step takes on one device.

    Attributes:
        weights: Bytes of the model's weights, frozen ones and positions included.
        gradients: Bytes of the gradients.
        optimizer: Bytes of the optimizer's slots.
        activations: Bytes of what the forward pass keeps for the backward pass, the batch included; on JAX of all
            that is temporary, but for the gradients.
        peak: Most bytes at once. It is less than the sum of all, where gradients replace activations. PyTorch's are
            those of a GPU. On a CPU it takes up to the gradients' bytes more, since it keeps those of the previous
            step in the forward pass, and in half precision some activations more, since it trains attention in
            float32.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int

    def __str__(self) -> str:
        parts = {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "activations", "peak")}
        return ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts.items())


def memory(model: Any, batch: int) -> StepMemory:
    """Return what memory a training step of a model takes.

    On PyTorch the step runs with tensors that have a shape and no values, and every allocation is counted; on JAX it
    is compiled, which takes as long as before training, and the compiler is asked. The model is not trained. What the
    frameworks themselves take comes on top: a CUDA context some 0.5 GB, and what lies unused between allocations.

    Args:
        model: Compiled `MaskedAutoencoder`, `ViTClassifier` or `ViTSegmenter`.
        batch: Number of images of a step on one device.

    Raises:
        ValueError: If the model is another one or not compiled, or its weights are shared out among processes; on
            PyTorch, if a step asks for values, as with gradient accumulation; on TensorFlow, which does not say what
            it will allocate.

    Example:
        >>> mae = keras_mae.MaskedAutoencoder.from_preset("mae_vit_base_patch16_224", dtype="mixed_bfloat16")
        >>> mae.compile(keras_mae.optimizers.AdamW())
        >>> print(keras_mae.training.memory(mae, batch=256))
    """
    models = (MaskedAutoencoder, ViTClassifier, ViTSegmenter)
    _checks.instance("model", model, models, "a MaskedAutoencoder, a ViTClassifier or a ViTSegmenter")
    batch = _checks.positive_int("batch", batch)
    if getattr(model, "optimizer", None) is None:
        raise ValueError("`model` must be compiled with an optimizer. Received: a model without one")
    backend = keras.backend.backend()
    if backend == "tensorflow":
        raise ValueError(
            "TensorFlow does not say what a step will allocate: ask on PyTorch or JAX. "
            "Received: KERAS_BACKEND=tensorflow"
        )
    shapes = {"images": ((batch, *model.encoder.image_shape), "uint8")}
    if not isinstance(model, MaskedAutoencoder):
        sides = model.encoder.image_shape[:2] if isinstance(model, ViTSegmenter) else ()
        shapes["labels"] = ((batch, *sides), "int32")
    activations, peak = (_of_torch if backend == "torch" else _of_jax)(model, list(shapes.values()))
    return StepMemory(
        weights=_bytes(model.weights),
        gradients=_bytes(model.trainable_variables),
        optimizer=_bytes(model.optimizer.variables),
        activations=activations,
        peak=peak,
    )


def _bytes(variables: Iterable[Any]) -> int:
    return sum(variable.value.nbytes for variable in variables)


def _of_torch(model: Any, shapes: list[tuple[tuple[int, ...], str]]) -> tuple[int, int]:
    """Return bytes that the forward pass leaves, and the most at once."""
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    if are_shared_out(model.weights):
        raise ValueError(
            "`memory` counts whole weights: ask outside of the scope of 'torch_fsdp', which divides weights, slots "
            "and gradients among the processes. Received: a model whose weights are shared out"
        )
    kept = [*model.variables, *model.optimizer.variables, *model.metrics_variables]

    class Allocations(TorchDispatchMode):
        """Counts the bytes of storages from when an operation makes them until nobody has them any more."""

        def __init__(self, known: Iterable[Any]) -> None:
            super().__init__()
            self.now = self.most = self.forward = 0
            self.in_forward = True
            self.known = {tensor.untyped_storage()._cdata: 0 for tensor in known}

        def forget(self, storage: int) -> None:
            self.now -= self.known.pop(storage)

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if self.in_forward and torch._C._current_graph_task_id() != -1:  # autograd is at work
                self.in_forward, self.forward = False, self.now
            results = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(results):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    if storage._cdata not in self.known:
                        self.known[storage._cdata] = storage.nbytes()
                        self.now += storage.nbytes()
                        self.most = max(self.most, self.now)
                        weakref.finalize(storage, self.forget, storage._cdata)
            return results

    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        stand_ins = [fake.from_tensor(variable.value) for variable in kept]  # what is done to them is done to nothing
        with Allocations(stand_ins) as allocations, as_on_a_gpu():
            try:
                model._train(tuple(torch.empty(shape, dtype=getattr(torch, dtype)) for shape, dtype in shapes))
            except DataDependentOutputException:
                raise ValueError(
                    "`memory` counts a step on PyTorch by tensors without values. Gradient accumulation and "
                    "Keras' own optimizers ask for some: compile the model with keras_mae.optimizers.AdamW, without "
                    f"accumulation. Received: {type(model.optimizer).__name__} with gradient_accumulation_steps="
                    f"{model.optimizer.gradient_accumulation_steps}"
                ) from None
            finally:
                model.zero_grad()  # these have no values
    return allocations.forward, allocations.most + _bytes(kept)


def _of_jax(model: Any, shapes: list[tuple[tuple[int, ...], str]]) -> tuple[int, int]:
    """Return bytes of all that is temporary but for the gradients, and the most at once."""
    import jax

    kept = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
    state = [[_described(variable.value) for variable in part] for part in (*kept, model.metrics_variables)]
    data = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes)
    found = jax.jit(model.train_step, donate_argnums=0).lower(tuple(state), data).compile().memory_analysis()
    peak = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    activations = found.temp_size_in_bytes - _bytes(model.trainable_variables)
    return max(activations, 0), peak - found.alias_size_in_bytes


def _described(value: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=getattr(value, "sharding", None))
