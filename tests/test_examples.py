"""The examples run; their numbers come from real sizes and are in their docstrings."""

import argparse
import json
import os
from importlib import import_module

import numpy as np
import pytest
from example_helpers import on_one_backend, run
from PIL import Image

import keras_mae


@on_one_backend
def test_pretrain_fashion_mnist_trains_and_compares(squares, tmp_path):
    out = run("pretrain_fashion_mnist.py", "--epochs", 2, "--data", squares, "--out", tmp_path / "run")
    assert "inpaint_biharmonic" in out
    errors = json.loads((tmp_path / "run" / "errors.json").read_text())
    assert errors["inpaint_biharmonic"][0] is None
    for value in (*errors["mean of the visible pixels"], errors["inpaint_biharmonic"][1], *errors["keras_mae"]):
        assert 0 < value < 1


@pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "torch", reason="times transformers, which needs PyTorch")
def test_benchmark_step_times_and_compares(run_here):
    pytest.importorskip("transformers")
    options = ("--contestants", "torch", "by-hand", "transformers", "mask-tokens", "--dtypes", "float32")
    out = run_here("benchmark_step.py", *options, "--sizes", "tiny", "--rounds", 1)
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if "|" in line]
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert table["`transformers`"]["against `transformers`"] == "1.00×"
    assert table["by hand, PyTorch"]["against by hand"] == "1.00×"
    assert table["keras_mae, PyTorch, mask tokens in the encoder"]["of the peak"] == ""
    for row in ("by hand, PyTorch", "keras_mae, PyTorch", "`transformers`"):
        assert 0 < float(table[row]["of the peak"].rstrip("%")) < 100
        assert float(table[row]["GiB"]) > 0.1
    assert "Without mask tokens in the encoder a step is" in out
    assert f"one core: {import_module('study').processor()} (" in out


@pytest.mark.backends("jax")
def test_benchmark_products_times_each_program(run_here):
    out = run_here("benchmark_products.py", "--turns", 1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 4 * 3 + 2
    for name, milliseconds, rate in rows[2:]:
        assert min(float(milliseconds), float(rate)) > 0, name


@on_one_backend
@pytest.mark.parametrize("name", ["tiny", "micro"])
def test_operations_are_counted_as_the_weights_have_them(name):
    """Twice a matrix' size for each token that it multiplies; attention, and a decoder's mixes, have none."""
    contestants = import_module("contestants")
    size = contestants.SIZES[name]
    patches = (size.side // size.patch) ** 2
    visible, (width, depth, _), (narrow, layers, _) = patches // 4, size.encoder, size.decoder
    kind, share = contestants.decoder_of("torch", size)
    predicted = round(share * (patches - visible))
    model = contestants.keras_model("torch", size, "float32")
    model.build((None, *size.shape))
    decoded, asking, mixed = (
        (predicted, predicted * (1 + visible), 2 * layers * depth * (1 + visible) * width)
        if kind == "cross"
        else (1 + patches, (1 + patches) ** 2, 0)
    )
    rows = {"patch_embedding": visible, "embedding": 1 + visible, "key_value": 1 + visible, "prediction": predicted}
    forward = 4 * depth * (1 + visible) ** 2 * width + 4 * layers * asking * narrow + mixed
    for weight in (weight for weight in model.trainable_weights if weight.name == "kernel"):
        parts = weight.path.split("/")
        tokens = 1 + visible if "encoder" in parts else decoded
        forward += 2 * int(np.prod(weight.shape)) * next((rows[part] for part in parts if part in rows), tokens)
    assert contestants.flops("torch", size) == 3 * forward


@on_one_backend
def test_benchmark_epoch_times_a_run_of_each(run_here, squares):
    options = ("--contestants", "torch", "by-hand", "--rounds", 1, "--batch", 64)
    out = run_here("benchmark_epoch.py", *options, "--images", 256, "--data", squares)
    _, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if "|" in line]
    assert [row[0] for row in rows] == ["keras_mae, PyTorch", "by hand, PyTorch"]
    assert rows[1][-1] == "1.00×"
    for _, first, epoch, pause, memory, _ in rows:
        assert 0 <= float(pause) < float(epoch)
        assert min(float(first), float(memory)) > 0.05


@pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "torch", reason="a model in PyTorch")
@pytest.mark.parametrize(("channels", "cross_share"), [(3, None), (1, 0.5)])
def test_the_model_by_hand_has_the_weights_of_ours_and_learns(channels, cross_share):
    import torch

    by_hand, sizes = import_module("by_hand"), ((24, 2, 2), (16, 1, 2))
    torch.manual_seed(0)
    model = by_hand.Autoencoder(*sizes, 32, 8, channels, cross_share)
    keys = ("embed_dim", "depth", "num_heads")
    encoder, decoder = (dict(zip(keys, size, strict=True)) for size in sizes)
    decoder_class = keras_mae.MAEDecoder if cross_share is None else keras_mae.CrossAttentionDecoder
    ours = keras_mae.MaskedAutoencoder(
        keras_mae.ViTEncoder((32, 32, channels), 8, **encoder), decoder_class(**decoder)
    )
    ours.build((None, 32, 32, channels))
    count = sum(int(np.prod(weight.shape)) for weight in ours.trainable_weights)
    assert sum(weight.numel() for weight in model.parameters()) == count
    images = torch.randint(0, 256, (16, 32, 32, channels), dtype=torch.uint8)
    images[:, ::2] = images[:, 1::2]  # what can be learned
    optimizer = by_hand.optimizer(model, 3e-3, 0.05, (0.9, 0.95), fused=None)
    losses = []
    for _ in range(60):
        losses.append(model(images))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@on_one_backend
def test_benchmark_segmentation_measures_each_case(run_here):
    out = run_here("benchmark_segmentation.py", "--size", "tiny", "--side", 32, "--cases", "step", "full", "windows")
    rows = {
        line.split()[1]: [float(word) for word in line.split()[2:] if word != "M"] for line in out.splitlines()[2:]
    }
    assert list(rows) == ["step", "full", "windows"]
    assert rows["step"][0] > rows["full"][0] == rows["windows"][0]  # parameters
    assert all(seconds > 0 and memory > 0 for _, seconds, _, memory in rows.values())


@on_one_backend
def test_benchmark_scaling_compares_one_process_and_two(run_here):
    out = run_here("benchmark_scaling.py", "--size", "tiny", "--batch", 1, "--rounds", 1)
    lines = [line.split() for line in out.splitlines()[2:]]
    assert [line[0] for line in lines] == ["1", "2"]
    assert lines[0][2:4] == ["1.00", "100%"]
    assert all(float(rate) > 0 and float(memory) > 0.1 for _, rate, *_, memory in lines)


@on_one_backend
def test_the_plan_agrees_with_the_published_hours():
    """15.4 and 34.5 hours for ViT-L and ViT-H on 128 TPU-v3 cores, paper table 2; parameters with both parts."""
    for preset, parameters, hours in (("large_patch16", 329, 15.4), ("huge_patch14", 657, 34.5)):
        out = run("plan_accelerators.py", "--preset", f"mae_vit_{preset}_224", "--accelerators", 128)
        assert f"{parameters} M parameters" in out
        [row] = [line for line in out.splitlines() if line.startswith("hours, sums while computing")]
        assert float(row.split()[-1]) == pytest.approx(hours, rel=0.05)


def simulated_loss(interval, write, restart, between, intervals, seed=0):
    """Share of the time lost by a run that fails at random."""
    rng, clock = np.random.default_rng(seed), 0.0
    for _ in range(intervals):
        while (failure := rng.exponential(between)) < interval + write:
            clock += failure
            while (failure := rng.exponential(between)) < restart:
                clock += failure
            clock += restart
        clock += interval + write
    return 1 - interval * intervals / clock


@on_one_backend
def test_the_plan_for_failures_agrees_with_a_simulation_and_with_published_intervals():
    """Daly's figures 3 to 5 give the intervals, in minutes, for checkpoints of five."""
    plan = import_module("plan_accelerators")
    for between, published in ((24 * 60, 117), (6 * 60, 57), (15, 9.1)):
        assert plan.best_interval(5, between) == pytest.approx(published, rel=0.01)
    for arguments in ((57, 5, 10, 6 * 60), (20, 5, 10, 60)):
        assert plan.share_lost(*arguments) == pytest.approx(simulated_loss(*arguments, 20_000), rel=0.03)
    best = plan.best_interval(5, 360)
    assert plan.share_lost(best, 5, 10, 360) < min(plan.share_lost(best * by, 5, 10, 360) for by in (0.9, 1.1))
    assert plan.share_lost(10_000, 5, 10, 1) == pytest.approx(1)  # nothing is ever finished


@on_one_backend
def test_benchmark_input_times_and_compares(run_here, tmp_path):
    """What needs PyTorch or TensorFlow is not in every environment; Grain is."""
    pytest.importorskip("psutil")
    from PIL import Image

    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (45, 60, 3), "uint8")
    Image.fromarray(noise).resize((600, 450)).save(tmp_path / "photos" / "photo.jpg")
    options = ("--photos", tmp_path / "photos", "--folder", tmp_path / "crops", "--files", 64, "--rounds", 1)
    contestants = ("--contestants", "grain", "decoder", "resizer", "fine-tuning-grain", "augmentation")
    out = run_here("benchmark_input.py", *options, *contestants, "--images", 64)
    rates = {line[:40].strip(): float(line.split()[-2]) for line in out.splitlines()[1:]}
    assert list(rates) == [
        "keras_mae, Grain, threads",
        "Pillow decodes, nothing else",
        "Pillow resizes decoded images, nothing e",
        "keras_mae, Grain, and the fine-tuning au",
        "the fine-tuning augmentation, nothing el",
    ]
    assert all(rate > 1 for rate in rates.values())
    assert len(list((tmp_path / "crops").glob("*.jpg"))) == 64
    out = run_here("benchmark_input.py", *options, "--contestants", "grain", "--memory", 640)
    assert len(out.split(":")[-1].split(",")) == 10
    out = run_here("benchmark_input.py", *options, "--kind", "bands-npy", "--contestants", "grain", "--images", 64)
    assert float(out.splitlines()[1].split()[-2]) > 1


@on_one_backend
def test_benchmark_input_reads_every_kind_of_file_that_it_writes(tmp_path):
    pytest.importorskip("psutil")
    benchmark, files = import_module("benchmark_input"), import_module("science_files")
    for kind, (shape, _, (low, high), _) in files.KINDS.items():
        files.make_numbers(kind, tmp_path / kind, 2)
        source = benchmark.opened(tmp_path / kind)
        assert len(source) == 2
        [batch] = keras_mae.data.make_dataset(source, 2, loader="grain", shuffle=False)
        assert batch.shape == (2, benchmark.SMALL, benchmark.SMALL, shape[2]), kind
        assert low <= batch.min() < batch.max() <= high, kind


@on_one_backend
@pytest.mark.parametrize(
    ("script", "kept", "computed", "shown"),
    [
        ("scaling_study.py", "finetune-scratch-1.2 M-0", "finetune-pretrained-0.06 M-0", "scaling.png"),
        ("mask_ratio_study.py", "finetune-90-0", "probe-25-0", "mask_ratio.png"),
    ],
)
def test_a_study_computes_the_cells_that_are_missing_and_no_others(
    run_here, squares, tmp_path, script, kept, computed, shown
):
    out = tmp_path / "study"
    options = ("--quick", "--data", squares, "--out", out)
    known = json.dumps({"result": 0.123, "minutes": 0.0})
    module = import_module(script.removesuffix(".py"))
    needed = [name for stage in module.stages(argparse.Namespace(quick=True)) for name in stage]
    out.mkdir()
    encoder = {"scaling_study.py": "0.06 M", "mask_ratio_study.py": "25"}[script]
    for name in set(needed) - {computed, f"pretrain-{encoder}"}:
        (out / f"{name}.json").write_text(known)
    if script != "mask_ratio_study.py":  # which cannot be tuned
        options += ("--change", '{"epochs": 2}')
    table = run_here(script, *options)
    assert shown in table
    assert "12.3" in table
    assert 0 <= json.loads((out / f"{computed}.json").read_text())["result"] <= 1
    assert (out / f"{kept}.json").read_text() == known
    assert (out / f"pretrain-{encoder}" / "encoder.keras").exists()


@on_one_backend
def test_the_options_study_trains_for_its_budget_and_reads_out(run_here, squares, tmp_path):
    options = ("--quick", "--data", squares, "--out", tmp_path, "--seeds", 0, "--budget", 8)
    module = import_module("options_study")
    given = argparse.Namespace(quick=True, validate=False, digits=False, seeds=[0])
    scores = {"600": dict.fromkeys((*module.PROBES, "20 nearest neighbors"), 0.123)}
    known = {"cost": 1.0, "pretrain": {"core_seconds": 8.0, "epochs": 4.0}, "features": scores, "curve": [0.1] * 4}
    known |= {"pixels": {"600": {"SVM": 0.456}}, "finetune": 0.789}
    for name in (name for stage in module.stages(given) for name in stage):
        if name not in ("pretrain-best-0", "features-best-0", "pretrain-transformers-0", "curve-transformers-0"):
            cell = {"result": known[name.split("-")[0]], "minutes": 0.0}
            (tmp_path / f"{name}.json").write_text(json.dumps(cell))
    table = run_here("options_study.py", *options)
    assert "12.3" in table
    assert "45.6" in table
    assert "78.9" in table
    trained = json.loads((tmp_path / "pretrain-best-0.json").read_text())["result"]
    assert trained["steps"] == 8
    assert all((tmp_path / "pretrain-best-0" / f"encoder-{part}.keras").exists() for part in module.PARTS)
    read = json.loads((tmp_path / "features-best-0.json").read_text())["result"]["600"]
    assert all(0 <= score <= 1 for score in read.values())
    curve = json.loads((tmp_path / "curve-transformers-0.json").read_text())["result"]
    assert len(curve) == len(module.PARTS)
    assert (tmp_path / "options.png").exists()


@on_one_backend
def test_photographs_are_cut_into_folders_of_several_formats(run_here, tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    monkeypatch.setattr(import_module("photographs"), "PHOTOGRAPHS", ("coffee", "china.jpg"))
    run_here("photographs.py", tmp_path / "photos")
    counts = {
        f"{folder.parent.name}/{folder.name}": len(list(folder.iterdir()))
        for folder in (tmp_path / "photos").glob("*/*/")
    }
    assert counts == {
        **{"train/coffee": 120, "train/china": 120, "test/coffee": 30, "test/china": 30},
        **{"suspects/good": 20, "suspects/defect": 20},
    }
    contents = keras_mae.data.survey(tmp_path / "photos" / "train")
    assert (contents.images, contents.channels) == (240, 3)


@on_one_backend
def test_the_anomaly_study_scores_planted_defects(run_here, tmp_path):
    pytest.importorskip("skimage")
    module = import_module("anomaly_study")
    known = {method: dict.fromkeys(("images", "pixels", *module.KINDS), 0.456) for method in module.METHODS}
    for texture in ("grass", "gravel"):
        (tmp_path / f"score-{texture}-0.json").write_text(json.dumps({"result": known, "minutes": 0.0}))
    table = run_here("anomaly_study.py", "--quick", "--out", tmp_path)
    assert "45.6" in table
    found = json.loads((tmp_path / "score-brick-0.json").read_text())["result"]
    assert list(found) == list(module.METHODS)
    assert all(0 <= score <= 1 for scores in found.values() for score in scores.values())
    assert found["histogram"]["pixels"] > 0.7  # which takes no training
    assert (tmp_path / "brick.png").exists()


@on_one_backend
def test_the_rival_of_the_options_study_learns_from_random_weights():
    peers = import_module("peers")
    images, labels = keras_mae.data.digits("train")
    recipe = keras_mae.recipes.FineTuneRecipe.for_size("small_images", images=320, flip=False)
    few = images[:320], labels[:320]
    assert peers.supervised("vit", "mae_vit_micro_patch2_8", few, (images, labels), recipe, 50) > 0.3  # by chance 0.1


@on_one_backend
def test_retrieval_measures_each_way_beside_pixels_and_chance(squares, tmp_path, run_here, shallow_presets):
    out = tmp_path / "out"
    text = run_here("retrieval.py", "--data", squares, "--epochs", 1, "--images", 128, "--queries", 20, "--out", out)
    table = json.loads((out / "retrieval.json").read_text())
    ways = [f"{name} of the last block{end}" for name in ("token", "mean") for end in ("", ", not centered")]
    assert list(table) == [*ways, "pixels", "chance"]
    assert table[ways[0]]["cosine"] < table[ways[1]]["cosine"]
    assert table["chance"]["precision"] == pytest.approx(0.1, abs=0.01)
    for name, row in table.items():
        assert f"{name:36}   {row['precision']:14.4f}" in text
        assert 0 <= row["precision"] <= 1


@on_one_backend
def test_what_pictures_say_is_drawn_of_each_stage_and_target(run_here, tmp_path):
    pytest.importorskip("skimage")
    text = run_here("what_pictures_say.py", "--quick", "--out", tmp_path)
    for target in (False, True):
        for updates in (0, 1, 3):
            assert f"norm_pix_loss={target}, {updates} updates" in text
    width, height = Image.open(tmp_path / "what_pictures_say.png").size
    assert width > 2 * height  # nine columns, two rows
