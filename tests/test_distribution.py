"""However a run is spread over devices, it ends with the same weights and logs; `split.py` is one of its parts."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from processes import Popen

import keras_mae
from keras_mae import data, distribution

HERE = Path(__file__).parent
BACKEND = keras.backend.backend()
ENGINES = {
    "tensorflow": {"mirrored": (1, 2), "multi_worker": (2, 1)},
    "jax": {"data_parallel": (1, 2), "model_parallel": (1, 2), "data_parallel on hosts": (2, 1)},
    "torch": {"torch_ddp": (2, 1), "torch_fsdp": (2, 1)},
}[BACKEND]  # processes, devices of each
NOT_FINITE = "not finite, clipped and averaged"
# `split.py` has a plain one besides. It is part of the others: several masks of what is not finite, and gradient
# descent of what is accumulated and of the classifier.
VARIANTS = ["accumulated", "overflow", NOT_FINITE, "classifier", "segmenter"]
if BACKEND == "jax":
    VARIANTS.remove("overflow")  # XLA has no float16 matrix product on a CPU
# Processes are slow to start, and each compiles for itself. Hosts are joined to devices that are a program of JAX
# like any others; TensorFlow's workers do what the replicas of one do.
LEFT_OUT = {
    "none": ["accumulated"] if BACKEND == "tensorflow" else [],  # its engines refuse it, see REFUSED
    "model_parallel": ["segmenter"],
    "data_parallel on hosts": ["accumulated", "segmenter"],
    "multi_worker": ["overflow", "segmenter"],
    "torch_fsdp": ["segmenter"],
}
TRIED = {
    engine: [variant for variant in VARIANTS if variant not in LEFT_OUT.get(engine, [])]
    for engine in ["none", *ENGINES]
}
BEYOND, SHARED_OUT = "beyond the range", "shared out"
REFUSED = {("mirrored", "accumulated"), ("multi_worker", "accumulated")}


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def started(command, processes=1, devices=1, environment=None):
    """The processes of a run."""
    ports = [free_port() for _ in range(max(processes, 1))]
    made = []
    for process in range(processes):
        own = {"DEVICES": str(devices)}
        if processes > 1 and BACKEND == "torch":
            own |= {"RANK": str(process), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(process)}
            own |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(ports[0])}
        elif processes > 1 and BACKEND == "tensorflow":
            cluster = {"worker": [f"localhost:{port}" for port in ports]}
            own["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": process}})
        elif processes > 1:
            own["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = f"localhost:{ports[0]}"
            own["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(processes)
            own["KERAS_DISTRIBUTION_PROCESS_ID"] = str(process)
        made.append(Popen([sys.executable, *command], {**os.environ, **own, **(environment or {})}))
    return made


def ended(processes):
    """What they printed, once all are done."""
    printed = [process.communicate()[0] for process in processes]
    for process, text in zip(processes, printed, strict=True):
        assert process.returncode == 0, text[-3000:]
    return printed


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Engine -> what each of its processes found."""
    folder = tmp_path_factory.mktemp("split")
    runs = {"none": (1, 1), **ENGINES}
    found = {}
    for engine, (processes, devices) in runs.items():
        command = [HERE / "split.py", engine.split()[0], folder / engine, *TRIED[engine]]
        command += [BEYOND] if engine != "none" else []
        command += [SHARED_OUT] if BACKEND == "torch" and engine in ("none", "torch_fsdp") else []
        ended(started(command, processes, devices))
        found[engine] = [json.loads((folder / f"{engine}.{n}").read_text()) for n in range(processes)]
    return found


@pytest.mark.parametrize(
    ("engine", "variant"), [(engine, variant) for engine in ENGINES for variant in TRIED[engine]]
)
def test_the_split_does_not_matter(results, engine, variant):
    alone = results["none"][0].get(variant)
    for found in (process[variant] for process in results[engine]):
        if (engine, variant) in REFUSED:
            assert "cannot accumulate gradients under tf.distribute" in found["refused"]
            continue
        tolerance = 1e-4 if variant == "overflow" else 1e-5  # float16 rounds parts otherwise than the whole
        np.testing.assert_allclose(found["weights"], alone["weights"], rtol=0, atol=tolerance)
        assert len(found["logs"]) == len(alone["logs"]) == 8
        for own, expected in zip(found["logs"], alone["logs"], strict=True):
            assert own == pytest.approx(expected, abs=10 * tolerance)


@pytest.mark.parametrize(
    ("engine", "variant"),
    [(engine, name) for engine in TRIED for name in ("overflow", NOT_FINITE) if name in TRIED[engine]],
)
def test_what_is_not_finite_on_one_replica_is_skipped_on_all(results, engine, variant):
    for found in (process[variant] for process in results[engine]):
        assert np.isfinite(found["weights"]).all()
        assert [epoch["skipped_steps"] for epoch in found["logs"][3::4]] == [1, 1]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pixel_beyond_the_range_on_one_replica_is_refused_on_all(results, engine):
    for found in (process[BEYOND] for process in results[engine]):
        assert "`images` must be in 0-255" in found["refused"]
        assert found["refused"].endswith("Received: float32 values from 0 to 300")


# === Weights that are shared out; see test_sharding.py, too ===
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="they are PyTorch's")


@on_torch
def test_each_process_holds_half_of_weights_and_slots(results):
    alone = results["none"][0][SHARED_OUT]
    for found in (process[SHARED_OUT] for process in results["torch_fsdp"]):
        for name in ("weights", "slots"):
            assert 0.5 <= found[name] / alone[name] < 0.54  # vectors, more in a small model, are whole in each


@on_torch
def test_what_is_shared_out_is_saved_and_loaded_as_a_whole(results):
    """After layer decay, accumulated gradients, clipping weight by weight, averages, drop path and frozen parts."""
    alone = results["none"][0][SHARED_OUT]
    expected = keras.saving.load_model(alone["file"])
    for found in (process[SHARED_OUT] for process in results["torch_fsdp"]):
        loaded = keras.saving.load_model(found["file"])
        for variables, wanted in (
            (loaded.weights, expected.weights),
            (loaded.optimizer.variables, expected.optimizer.variables),
        ):
            assert [variable.path for variable in variables] == [variable.path for variable in wanted]
            for variable, one in zip(variables, wanted, strict=True):
                np.testing.assert_allclose(variable.numpy(), one.numpy(), rtol=0, atol=1e-5)
        for name in ("scores", "loaded"):
            assert found[name] == pytest.approx(alone["scores"], abs=1e-5)


@on_torch
def test_what_is_shared_out_is_written_by_one_process(results):
    assert [process[SHARED_OUT]["written"] for process in results["torch_fsdp"]] == [True, False]


@on_torch
def test_what_cannot_be_done_with_parts_is_refused(results):
    for found in (process[SHARED_OUT] for process in results["torch_fsdp"]):
        assert "`memory` counts whole weights: ask outside of the scope of 'torch_fsdp'" in found["memory"]
        assert "Weights that are shared out have gradients in a training step only" in found["backward"]
        assert "can be read within its scope, by all processes together" in found["after the scope"]


# === Runs ===
PRETRAIN = ["-m", "keras_mae.cli", "pretrain", "--epochs", 2, "--batch-size", 128, "--checkpoint-steps", 4, "--out"]


def history(run):
    return np.loadtxt(run / "history.csv", delimiter=",", skiprows=1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run in one process that nobody stopped."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    ended(started([*PRETRAIN, run]))
    return run


@pytest.mark.skipif(BACKEND != "torch", reason="the others are slow to start; fine-tuning below is stopped likewise")
@pytest.mark.parametrize(("engine", "processes", "then"), [("torch_ddp", 1, "none"), ("torch_fsdp", 2, "torch_fsdp")])
def test_two_processes_are_stopped_and_others_go_on(tmp_path, alone, engine, processes, then):
    both = started([*PRETRAIN, tmp_path / "run", "--resume", "--distribution", engine], 2)
    checkpoints = tmp_path / "run" / "checkpoints"
    while not list(checkpoints.glob("step-*")) and all(process.poll() is None for process in both):
        time.sleep(0.05)
    both[1].send_signal(signal.SIGTERM)  # told to one, heard by both
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [143, 143], printed
    assert "checkpoints" in [path.name for path in (tmp_path / "run").iterdir()]
    assert not (tmp_path / "run" / "model.keras").exists()
    printed = ended(started([*PRETRAIN, tmp_path / "run", "--resume", "--distribution", then], processes))[0]
    assert "goes on in epoch" in printed
    assert "epoch 2/2" in printed
    np.testing.assert_allclose(history(tmp_path / "run"), history(alone), rtol=1e-4, atol=1e-5)


def test_fine_tuning_is_spread_too(tmp_path):
    """Stopped, gone on with, and scored afterwards; `split.py` compares a classifier's numbers."""
    model, run = tmp_path / "model.keras", tmp_path / "run"
    keras_mae.ViTEncoder((8, 8, 1), 2, embed_dim=12, depth=1, num_heads=3, mlp_ratio=2).save(model)
    command = ["-m", "keras_mae.cli", "finetune", model, "--epochs", 1, "--batch-size", 64, "--num-labels", 1280]
    command += ["--checkpoint-steps", 1, "--resume", "--out", run]
    processes, flags = 2, {}
    if BACKEND == "jax":  # two devices of one process: hosts are slow to start
        processes = 1
        flags["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    all_of_them = started(command, processes, environment=flags)
    while not list(run.glob("checkpoints/step-*")) and all(process.poll() is None for process in all_of_them):
        time.sleep(0.05)
    all_of_them[-1].send_signal(signal.SIGTERM)
    printed = [process.communicate()[0] for process in all_of_them]
    assert [process.returncode for process in all_of_them] == [143] * processes, printed
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "recipe.toml", "run.json"]

    printed = ended(started(command, processes, environment=flags))
    assert "2 replicas" in printed[0]
    assert "epoch 1/1" in printed[0]
    scored = json.loads((run / "metrics.json").read_text()) if processes == 1 else None
    assert scored is not None or not (run / "metrics.json").exists()
    classifier = keras.saving.load_model(run / "classifier.keras")
    assert int(classifier.optimizer.iterations) == 20
    images, labels = data.digits("test")
    test = data.from_arrays(images, labels, 100, shuffle=False)
    again = keras_mae.training.run_evaluation(classifier, test, tmp_path / "scored")
    again = json.loads((again / "metrics.json").read_text())
    assert again["images"] == 360
    assert scored is None or scored["accuracy"] == again["accuracy"]
    assert history(run)[4] == pytest.approx(again["accuracy"], abs=1e-6)  # of all 360 after the epoch, too


@pytest.mark.backends("torch")
def test_gradients_are_sent_while_the_backward_pass_goes_on(monkeypatch):
    """As of two processes with the same part of the batch: what is sent comes back twice."""
    torch = pytest.importorskip("torch")

    from keras_mae.train_step import reduction

    log = []

    def all_reduce(numbers, async_op=False):
        numbers *= 2
        log.append(numbers.numel())
        return SimpleNamespace(wait=lambda: log.append("waited"))

    monkeypatch.setattr(reduction.distributed, "all_reduce", all_reduce)
    weights = [torch.full((4, 4), 0.5, requires_grad=True) for _ in range(4)]
    weights[0].register_hook(lambda gradient: log.append("first layer"))
    sums = reduction.Reduction(weights, bucket=128)  # two weights at once

    def backward(used):
        x = torch.arange(8.0).reshape(2, 4)
        for weight in used:
            x = x @ weight
        x.sum().backward()
        own = [torch.zeros(4, 4) if weight.grad is None else weight.grad.clone() for weight in weights]
        for weight in weights:
            weight.grad = None
        return own

    def reduced(used):
        log.clear()
        sums.begin(2)
        gradients = backward(used)
        expected = [gradient.clone() for gradient in gradients]
        assert sums.end(torch.tensor(3.0), gradients) == 3
        for got, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(got, wanted)
        return log

    assert reduced(weights) == [32, "first layer", 32, 2, "waited", "waited"]
    log.clear()
    backward(weights)  # of somebody else
    assert log == ["first layer"]
    assert reduced(weights[:3]) == ["first layer", 32, 32, 2, "waited", "waited"]  # the last has none, which is 0
    sums.close()
    assert reduced(weights) == ["first layer", 32, 32, 2, "waited", "waited"]


# === Choosing ===
@pytest.mark.skipif(BACKEND == "torch", reason="they are PyTorch's")
def test_torchruns_processes_are_not_each_a_run_of_their_own(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ValueError, match=f"set KERAS_BACKEND=torch. Received: {BACKEND}"), distribution.scope():
        pass


def test_auto_is_one_device_where_there_is_one(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_PROCID", "TPU_NAME", "WORLD_SIZE", "KERAS_DISTRIBUTION_NUM_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    with distribution.scope() as devices:
        assert str(devices) == "one device"
        assert (devices.shard, devices.is_main) == ((0, 1), True)
        assert distribution.current() is devices
    assert distribution.gather(3) == [3.0]


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("horovod", {}, "`engine` must be one of 'auto', 'none', 'mirrored'"),
        ("none", {"model_devices": 2}, "`model_devices` goes with 'model_parallel'"),
        *(
            [
                (
                    "torch_ddp",
                    {},
                    "On tensorflow `engine` must be one of auto, none, mirrored, tpu, multi_worker.*torch",
                )
            ]
            if BACKEND == "tensorflow"
            else [("mirrored", {}, f"On {BACKEND} `engine` must be one of.*belongs to tensorflow")]
        ),
        *{
            "tensorflow": [
                ("multi_worker", {}, "TF_CONFIG.*Received: neither"),
                ("tpu", {}, "There is no TPU that TensorFlow can use"),
            ],
            "jax": [("model_parallel", {"model_devices": 3}, "`model_devices` must divide the 1 devices")],
            "torch": [("torch_ddp", {}, "torchrun.*Received: no RANK, WORLD_SIZE")],
        }[BACKEND],
    ],
)
def test_an_engine_that_is_not_there_is_refused(engine, options, message):
    with pytest.raises(ValueError, match=message), distribution.scope(engine, **options):
        pass
    assert distribution.current().engine == "none"


def test_one_scope_is_not_inside_another():
    other = ENGINES and next(iter(ENGINES)).split()[0]
    with (
        distribution.scope("none"),
        pytest.raises(ValueError, match="cannot be inside another"),
        distribution.scope(other),
    ):
        pass


@pytest.mark.backends("torch")
def test_the_command_line_knows_every_engine():
    from keras_mae.cli.options import Engine

    assert tuple(engine.value for engine in Engine) == distribution.ENGINES


@pytest.mark.backends("torch")
def test_devices_say_what_they_are_and_share_batches_by_replicas():
    spread = distribution.Devices("model_parallel", ("tpu:0", "tpu:1"), replicas=2, process=3, processes=4)
    assert str(spread) == "2 replicas on tpu:0, tpu:1 (model_parallel, process 4 of 4)"
    assert spread.shard == (1, 2)
    assert not spread.is_main
    assert distribution.Devices(replicas=8, process=1, processes=2).shard == (1, 2)


# === Data ===
def test_parts_make_up_the_batch_in_order():
    images = np.arange(23, dtype="uint8")[:, None, None, None] * np.ones((1, 4, 4, 1), "uint8")
    loader = "tf.data" if BACKEND == "tensorflow" else "grain"

    def batches(shard):
        made = data.from_arrays(images, batch_size=6, drop_remainder=True, shard=shard, loader=loader)
        return [np.asarray(batch)[:, 0, 0, 0].tolist() for batch in made]

    whole, parts = batches((0, 1)), [batches((n, 3)) for n in range(3)]
    assert len(whole) == 3
    assert [[*first, *second, *third] for first, second, third in zip(*parts, strict=True)] == whole


def test_parts_are_augmented_by_draws_of_their_own():
    images = np.arange(8 * 12, dtype="uint8").reshape(1, 8, 12, 1).repeat(8, axis=0)
    augment = data.Augmentation(2, flip=True)

    def mirrored(shard):
        labels = np.zeros(8, "int64")
        made = data.from_arrays(images, labels, 8, drop_remainder=True, shuffle=False, shard=shard, augment=augment)
        batch = made[0] if hasattr(made, "num_batches") else next(iter(made))
        return (np.asarray(batch[0]) != images[:1]).any((1, 2, 3)).tolist()

    assert mirrored((0, 2)) != mirrored((1, 2))


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("devices", "options", "message"),
    [
        ({"replicas": 2, "processes": 2}, {}, "every batch must be whole: drop_remainder=True"),
        ({"replicas": 3}, {"drop_remainder": True}, "`batch_size` must be a multiple of replicas.*3 replicas"),
    ],
)
def test_batches_that_cannot_be_shared_out_are_refused(monkeypatch, devices, options, message):
    monkeypatch.setattr(distribution, "_current", distribution.Devices(**devices))
    with pytest.raises(ValueError, match=message):
        data.from_arrays(np.zeros((8, 4, 4, 1), "uint8"), batch_size=4, **options)


# === What a TPU would refuse ===
def compiled_step():
    encoder = keras_mae.ViTEncoder((16, 24, 3), 4, embed_dim=16, depth=2, num_heads=2, drop_path_rate=0.1)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, depth=1, num_heads=2), norm_pix_loss=True)
    mae.compile(keras_mae.optimizers.AdamW(1e-3), jit_compile=True)
    return mae, np.zeros((4, 16, 24, 3), "uint8")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's way of asking XLA")
def test_the_whole_step_is_one_xla_program_of_static_shapes_on_tensorflow():
    import tensorflow as tf

    mae, images = compiled_step()
    step = tf.function(mae.train_step, jit_compile=True)
    program = step.experimental_get_compiler_ir(tf.constant(images))(stage="optimized_hlo")
    assert "dot(" in program
    assert "<=" not in program  # how XLA writes a dimension that is only bounded
    assert 'custom_call_target="PadToStatic"' not in program


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's way of lowering for a TPU")
def test_the_whole_step_lowers_for_a_tpu_on_jax():
    import jax

    mae, images = compiled_step()
    state = [
        [variable.value for variable in variables]
        for variables in (
            mae.trainable_variables,
            mae.non_trainable_variables,
            mae.optimizer.variables,
            mae.metrics_variables,
        )
    ]
    program = jax.export.export(jax.jit(mae.train_step), platforms=["tpu"])(state, images).mlir_module()
    assert "dot_general" in program
    assert "tensor<?" not in program


# === Whole batches ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 3), (3, 3), (7, 9)])
def test_whole_numbers_of_samples_go_round(count, expected):
    assert distribution.Devices(replicas=3).whole(count) == expected


@pytest.mark.backends("torch")
def test_a_batch_is_padded_with_its_first_sample():
    batch = np.arange(10).reshape(5, 2)
    np.testing.assert_array_equal(distribution.Devices(replicas=3).pad(batch), np.concatenate([batch, batch[:1]]))
    assert distribution.Devices(replicas=5).pad(batch) is batch


@pytest.mark.parametrize(
    ("replicas", "count", "limit", "expected"),
    [(1, 100, 256, 100), (2, 101, 256, 100), (2, 300, 256, 150), (3, 1000, 7, 3), (8, 9, 4, 8)],
)
def test_the_size_of_whole_batches_leaves_out_the_fewest_samples(replicas, count, limit, expected):
    assert distribution.Devices(replicas=replicas).whole_batch_size(count, limit) == expected


def test_fewer_samples_than_replicas_are_refused():
    with pytest.raises(ValueError, match="8 devices take as many images to evaluate on. Received: 7"):
        distribution.Devices(replicas=8).whole_batch_size(7, 256)
