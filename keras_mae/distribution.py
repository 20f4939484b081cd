"""One script on one device, several, or several machines: which engine, how many replicas, and whose turn it is to
write. The arithmetic that makes the result the same is in `train_step/`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from keras_mae import _checks

__all__ = ["ENGINES", "Devices", "batch_parts", "current", "first_sample", "gather", "layout_map", "scope", "sums"]

_BY_BACKEND = {
    "tensorflow": ("mirrored", "tpu", "multi_worker"),
    "jax": ("data_parallel", "model_parallel"),
    "torch": ("torch_ddp", "torch_fsdp"),
}
ENGINES = ("auto", "none", *(engine for engines in _BY_BACKEND.values() for engine in engines))


@dataclass(frozen=True)
class Devices:
    """What a run is spread over.

    Attributes:
        engine: Name of the engine, or "none".
        names: Names of the devices of all processes, as this one sees them.
        replicas: Number of copies of the model, each of which takes an equal part of every batch.
        process: Number of this process, from 0.
        processes: Number of processes.
    """

    engine: str = "none"
    names: tuple[str, ...] = ()
    replicas: int = 1
    process: int = 0
    processes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.process == 0

    @property
    def collective_reads(self) -> bool:
        """Whether reading weights is a collective operation: all processes must call save, though one writes."""
        return self.processes > 1 and self.engine != "torch_ddp"

    @property
    def shard(self) -> tuple[int, int]:
        """Which part of every batch this process loads, and of how many."""
        parts = min(self.processes, self.replicas)  # a replica may span processes
        return self.process * parts // self.processes, parts

    def whole(self, count: int) -> int:
        """Return the smallest number of samples, at least `count`, of which all replicas get equally many."""
        return -(-count // self.replicas) * self.replicas

    def pad(self, batch: np.ndarray) -> np.ndarray:
        """Return `batch` filled up to a `whole` number of samples with repeats of its first."""
        missing = self.whole(len(batch)) - len(batch)
        return np.concatenate([batch, batch[:1].repeat(missing, axis=0)]) if missing else batch

    def whole_batch_size(self, count: int, limit: int) -> int:
        """Return the `whole` batch size up to `limit` that leaves out the fewest of `count` samples at the end."""
        if count < self.replicas:
            raise ValueError(f"{self.replicas} devices take as many images to evaluate on. Received: {count}")
        sizes = range(self.replicas, max(limit, self.replicas) + 1, self.replicas)
        return max(sizes, key=lambda size: (count // size * size, size))

    def __str__(self) -> str:
        names = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
        several = f", process {self.process + 1} of {self.processes}" if self.processes > 1 else ""
        spread = f"{_count(self.replicas, 'replica')} on {names} ({self.engine}{several})"
        return "one device" if self.engine == "none" else spread


_ALONE = Devices()
_current = _ALONE


def current() -> Devices:
    """Return what the enclosing `scope` found; one replica of one process outside of any."""
    return _current


@contextlib.contextmanager
def scope(engine: str = "auto", model_devices: int | None = None) -> Iterator[Devices]:
    """Spread everything built, compiled and trained inside the block over the available devices.

    Batch sizes stay those of the whole batch: `keras_mae.data` loads this process's part of it, and losses,
    gradients and metrics are those of the whole batch on every process. Masks follow the sample's place in the
    whole batch. The result is therefore the same as on one device, up to rounding. MixUp and CutMix are the exception
    with several processes: each mixes its own part.

    Args:
        engine: On TensorFlow "mirrored" (the GPUs of this machine), "tpu", or "multi_worker" (the machines in the
            environment variable TF_CONFIG, or of a Slurm job). On JAX "data_parallel" (all devices; several hosts by
            Keras' own variables, KERAS_DISTRIBUTION_JOB_ADDRESSES, ..._NUM_PROCESSES and ..._PROCESS_ID) or
            "model_parallel" (which also shards the weights). On PyTorch "torch_ddp" (the processes that `torchrun`
            started) or "torch_fsdp" (the same, of which each holds a part of weights, gradients and slots). "auto"
            takes what fits the backend and what there is; "none" is one device.
        model_devices: Number of devices that share one copy of the model, with "model_parallel"; all by default.

    Returns:
        A context manager of `Devices`.

    Raises:
        ValueError: If the engine is another backend's, there are no such devices, or one scope is inside another.

    Example:
        >>> with keras_mae.distribution.scope("auto") as devices:
        ...     dataset = keras_mae.data.from_directory("photos/", batch_size=256, drop_remainder=True)
        ...     mae = keras_mae.MaskedAutoencoder.from_preset("mae_vit_base_patch16_224")
        ...     mae.compile(keras_mae.optimizers.pretraining_adamw(batch_size=256, total_steps=100 * len(dataset)))
        ...     mae.fit(dataset, epochs=100)
    """
    global _current
    if _current is not _ALONE:
        raise ValueError(
            f"One distribution scope cannot be inside another. Received: {engine} inside {_current.engine}"
        )
    engine = _resolve(engine)
    if model_devices is not None and engine != "model_parallel":
        raise ValueError(f"`model_devices` goes with 'model_parallel'. Received: model_devices={model_devices}")
    openers: dict[str, Any] = {
        "none": lambda: contextlib.nullcontext(Devices()),
        "mirrored": _mirrored,
        "tpu": _tpu,
        "multi_worker": _multi_worker,
        "data_parallel": _data_parallel,
        "model_parallel": lambda: _model_parallel(model_devices),
        "torch_ddp": lambda: _torch_processes("torch_ddp"),
        "torch_fsdp": lambda: _torch_processes("torch_fsdp"),
    }
    with openers[engine]() as devices:
        _current = devices
        try:
            yield devices
        finally:
            _current = _ALONE


# === Several processes ===
def gather(value: float) -> list[float]:
    """Return `value` of every process, in their order; every process must call it. Waits until all have."""
    devices = _current
    if devices.processes == 1:
        return [float(value)]
    own = np.zeros(devices.processes, "float64")
    own[devices.process] = value
    if keras.backend.backend() == "torch":
        import torch

        everyone = torch.tensor(own, device="cuda" if torch.cuda.is_available() else "cpu")
        torch.distributed.all_reduce(everyone)
        return list(map(float, everyone.tolist()))
    if devices.engine == "multi_worker":
        import tensorflow as tf

        strategy = tf.distribute.get_strategy()
        share = tf.constant(own / len(strategy.extended.worker_devices))
        return list(map(float, _summing(strategy)(share).numpy()))
    from jax.experimental import multihost_utils

    return list(map(float, np.asarray(multihost_utils.process_allgather(own)).sum(0)))


@lru_cache(maxsize=1)
def _summing(strategy: Any) -> Any:
    import tensorflow as tf

    return tf.function(lambda share: strategy.reduce("SUM", strategy.run(tf.identity, args=(share,)), axis=None))


def are_shared_out(variables: Sequence[Any]) -> bool:
    """Return whether this process holds a part only of some of these variables; see `keras_mae.sharding`."""
    return any(getattr(variable, "is_shared_out", False) for variable in variables)


# === Within a step ===
def batch_parts() -> int:
    """Return the number of parts of a batch that are computed apart and that the step itself must reduce over.

    These are TensorFlow's replicas and PyTorch's processes. On JAX it is 1: its arrays are those of the whole batch,
    however many devices hold them.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return int(tf.distribute.get_strategy().num_replicas_in_sync)
    if backend == "torch":
        import torch

        return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return 1


def several_workers(strategy: Any = None) -> bool:
    """Return whether this is one of several workers of a TensorFlow strategy; the current one if not given."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    strategy = strategy or tf.distribute.get_strategy()
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return bool(several and strategy.extended._in_multi_worker_mode())


def first_sample(rows: Any) -> Any:
    """Return the place in the whole batch of the first of this part's `rows` samples; all parts have as many."""
    if batch_parts() == 1:
        return 0
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        return 0 if context is None else keras.ops.cast(context.replica_id_in_sync_group, "int32") * rows
    import torch

    return torch.distributed.get_rank() * rows


def sums(values: Sequence[Any]) -> list[Any]:
    """Return each of the values, tensors, summed over the parts of a batch that are computed apart.

    All parts must call it. No gradient passes from one to another.
    """
    if batch_parts() == 1:
        return list(values)
    if keras.backend.backend() == "torch":
        import torch

        totals = [value.detach().clone() for value in values]
        for total in totals:
            torch.distributed.all_reduce(total)
        return totals
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:  # outside of any replica, where nothing is split
        return list(values)
    devices = tf.distribute.get_strategy().extended.worker_devices
    # Where a worker has one replica only, TensorFlow does not say itself where its values are, and then asks.
    with tf.device(devices[0] if len(devices) == 1 else None):
        values = [tf.stop_gradient(value) for value in values]
    return list(context.all_reduce("SUM", values))


# === Choosing ===
def _resolve(engine: str) -> str:
    backend = keras.backend.backend()
    _checks.one_of("engine", engine, ENGINES)
    allowed = ("auto", "none", *_BY_BACKEND[backend])
    if engine not in allowed:
        raise ValueError(
            f"On {backend} `engine` must be one of {', '.join(allowed)}. Received: engine={engine!r}, which belongs "
            f"to {next(owner for owner, engines in _BY_BACKEND.items() if engine in engines)}"
        )
    if engine != "auto":
        return engine
    if backend != "torch" and "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError(f"torchrun's processes are PyTorch's: set KERAS_BACKEND=torch. Received: {backend}")
    return {"tensorflow": _auto_tensorflow, "jax": _auto_jax, "torch": _auto_torch}[backend]()


def _auto_tensorflow() -> str:
    import tensorflow as tf

    if "TF_CONFIG" in os.environ or _slurm_tasks() > 1:
        return "multi_worker"
    if "TPU_NAME" in os.environ:
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "none"


def _auto_jax() -> str:
    import jax

    several = "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ or jax.device_count() > 1
    return "data_parallel" if several else "none"


def _auto_torch() -> str:
    return "torch_ddp" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else "none"


def _slurm_tasks() -> int:
    return int(os.environ.get("SLURM_NTASKS", 1)) if "SLURM_PROCID" in os.environ else 1


# === TensorFlow ===
def _mirrored() -> Any:
    import tensorflow as tf

    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    names = [device.name for device in tf.config.list_logical_devices(kind)]
    return _strategy_scope("mirrored", tf.distribute.MirroredStrategy(names))


def _tpu() -> Any:
    import tensorflow as tf

    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name)
        return _strategy_scope("tpu", tf.distribute.TPUStrategy(resolver))
    except Exception as error:  # each kind of absence has an exception of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"There is no TPU that TensorFlow can use (environment variable TPU_NAME: {name!r}): {reason}"
        ) from error


def _multi_worker() -> Any:
    import tensorflow as tf

    if "TF_CONFIG" not in os.environ and _slurm_tasks() == 1:
        raise ValueError(
            "'multi_worker' takes a Slurm job of several tasks, or the environment variable TF_CONFIG on every "
            'machine: {"cluster": {"worker": ["host0:port", "host1:port"]}, "task": {"type": "worker", "index": 0}}. '
            "Received: neither"
        )
    resolver = None if "TF_CONFIG" in os.environ else tf.distribute.cluster_resolver.SlurmClusterResolver()
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    if several_workers(strategy):
        workers = len(strategy.cluster_resolver.cluster_spec().as_dict()["worker"])
        return _strategy_scope("multi_worker", strategy, strategy.cluster_resolver.task_id, workers)
    return _strategy_scope("multi_worker", strategy)


@contextlib.contextmanager
def _strategy_scope(engine: str, strategy: Any, process: int = 0, processes: int = 1) -> Iterator[Devices]:
    names = tuple(str(name).rpartition("device:")[2] or str(name) for name in strategy.extended.worker_devices)
    with strategy.scope():
        yield Devices(engine, names, strategy.num_replicas_in_sync, process, processes)


# === JAX ===
def _data_parallel() -> Any:
    _join_hosts()
    names = keras.distribution.list_devices()
    distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    return _distribution_scope("data_parallel", distribution, names, len(names))


def _model_parallel(model_devices: int | None) -> Any:
    _join_hosts()
    names = keras.distribution.list_devices()
    share = len(names) if model_devices is None else _checks.positive_int("model_devices", model_devices)
    if len(names) % share:
        raise ValueError(f"`model_devices` must divide the {len(names)} devices. Received: model_devices={share}")
    mesh = keras.distribution.DeviceMesh((len(names) // share, share), ("batch", "model"), names)
    distribution = keras.distribution.ModelParallel(
        layout_map=layout_map(mesh), batch_dim_name="batch", auto_shard_dataset=False
    )
    return _distribution_scope("model_parallel", distribution, names, len(names) // share)


def layout_map(mesh: Any) -> Any:
    """Return how a model's weights are sharded along the axis "model".

    Each branch has its first matrix split by columns and its second by rows, so that their products need one sum
    between devices. All other weights are on every device.

    Args:
        mesh: A `keras.distribution.DeviceMesh` with an axis "model".

    Returns:
        A `keras.distribution.LayoutMap`.

    Reference: "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism", section 3.
    """
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*(qkv|query|key_value|fc1)/kernel"] = (None, "model")
    layouts[".*(qkv|query|key_value|fc1)/bias"] = ("model",)
    layouts[".*(attention/projection|fc2)/kernel"] = ("model", None)
    return layouts


def _join_hosts() -> None:
    import jax

    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ and not jax.distributed.is_initialized():
        keras.distribution.initialize()


@contextlib.contextmanager
def _distribution_scope(engine: str, distribution: Any, names: list[str], replicas: int) -> Iterator[Devices]:
    import jax

    with distribution.scope():
        yield Devices(engine, tuple(names), replicas, jax.process_index(), jax.process_count())


# === PyTorch ===
@contextlib.contextmanager
def _torch_processes(engine: str) -> Iterator[Devices]:
    import torch

    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    begun = torch.distributed.is_initialized()
    if missing and not begun:
        raise ValueError(
            f"{engine!r} takes processes that torchrun started: torchrun --nproc-per-node 8 script.py. "
            f"Received: no {', '.join(missing)} in the environment"
        )
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    if not begun:
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        device = f"cuda:{torch.cuda.current_device()}" if cuda else "cpu"
        yield Devices(engine, (device,), size, rank, size)
    finally:
        if not begun:
            torch.distributed.destroy_process_group()


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
