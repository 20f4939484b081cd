"""Scenes are composed, segmented and detected in: examples/scenes.py and what stands on it."""

import argparse
import json
import re
from importlib import import_module

import numpy as np
import pytest
from example_helpers import on_one_backend
from PIL import Image

import keras_mae


@pytest.fixture
def packages(squares, tmp_path):
    """Options that name white cut-outs and black photographs, laid out as the packages of Debian are, and squares."""
    scenes = import_module("scenes")
    stamps, backgrounds = tmp_path / "stamps", tmp_path / "backgrounds"
    oval = np.hypot(*np.mgrid[-1:1:40j, -1:1:60j])
    pixels = np.where(oval < 0.8, 255, 0).astype("uint8")[..., None].repeat(4, axis=-1)
    for folder, word in ((folders[0], word) for folders in scenes.FOLDERS.values() for word in "abcdefgh"):
        (stamps / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(stamps / folder / f"{word}_1.png")
        Image.fromarray(pixels).save(stamps / folder / f"{word}_mirror.png")
    for name in (name for names in scenes.PHOTOGRAPHS.values() for name in names):
        (backgrounds / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (450, 401)).save(backgrounds / f"{name}.jpg")
    return ["--stamps", stamps, "--backgrounds", backgrounds, "--clothes", squares]


@on_one_backend
def test_scenes_are_pairs_whose_masks_say_what_is_where(run_here, packages, tmp_path):
    scenes, out = import_module("scenes"), tmp_path / "scenes"
    options = ("--count", 24, "--size", 96, "--sheet", tmp_path / "sheet.png")
    run_here("scenes.py", "--out", out, *options, *packages)
    dataset = keras_mae.data.pairs_from_directory(out, 96, 24, split="train", shuffle=False)
    assert dataset.class_names == scenes.NAMES
    [(images, masks)] = [tuple(map(np.asarray, batch)) for batch in dataset]
    assert len(list((out / "masks" / "test").iterdir())) == 6
    clear = (masks != scenes.IGNORED) & (masks <= len(scenes.FOLDERS))
    assert ((images.mean(axis=-1) > 92) == (masks > 0))[clear].mean() > 0.995  # white cut-outs, in dimmed light
    assert set(np.unique(masks)) == {*range(len(scenes.NAMES)), scenes.IGNORED}
    assert 0.4 < (masks == 0).mean() < 0.9
    places = dict(zip(scenes.PLACES, packages[1::2], strict=True))
    image, mask = scenes.Scenes("train", **places).scene(7)
    np.testing.assert_array_equal(image, images[7])
    np.testing.assert_array_equal(mask, masks[7])
    assert (scenes.Scenes("test", **places).scene(7)[1] != mask).any()
    assert Image.open(tmp_path / "sheet.png").size == (10 * 96, 6 * 96)


@on_one_backend
def test_no_cut_out_is_in_both_parts_of_the_scenes(packages):
    scenes = import_module("scenes")
    train, test = (scenes.stamps_of(packages[1], scenes.FOLDERS["animal"], part) for part in scenes.PARTS)
    assert [path.stem for path in train] == ["a_1", "b_1", "c_1", "e_1", "f_1", "g_1"]
    assert [path.stem for path in test] == ["d_1", "h_1"]
    assert not set(scenes.PHOTOGRAPHS["train"]) & set(scenes.PHOTOGRAPHS["test"])


@on_one_backend
def test_scenes_say_which_packages_are_missing(run_here, packages, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_here("scenes.py", "--out", tmp_path / "scenes", *packages[:3], tmp_path / "nowhere", *packages[4:])
    error = capsys.readouterr().err
    assert "There is no " in error
    assert "apt-get install tuxpaint-stamps-default mate-backgrounds lomiri-wallpapers-16.04 dataset-fash" in error
    assert not (tmp_path / "scenes").exists()


@on_one_backend
def test_forests_set_the_bar_for_scenes(run_here, packages, tmp_path):
    pytest.importorskip("skimage")
    module, out = import_module("scenes_baselines"), tmp_path / "scores.json"
    options = ("--scenes", 8, "--pixels", 50, "--tests", 3, "--trees", 5, "--out", out)
    text = run_here("scenes_baselines.py", *options, *packages)
    table = json.loads(out.read_text())
    forests = [f"forest on colors{more}{end}" for more in ("", " and textures") for end in ("", ", weighted")]
    assert list(table) == ["most frequent class", *forests]
    assert 0 < table["most frequent class"]["mIoU"] < table["most frequent class"]["pixel accuracy"]
    assert table["forest on colors"]["pixel accuracy"] > table["most frequent class"]["pixel accuracy"]
    assert f"{100 * table['forest on colors']['mIoU']:5.1f} %" in text
    counted = module.confusion(np.array([0, 0, 255, 1]), np.array([0, 1, 1, 1]))
    assert counted[:2, :2].tolist() == [[1, 1], [0, 1]]
    assert module.scores(counted) == {"mIoU": 0.5, "pixel accuracy": 2 / 3, "class accuracy": 0.75}


@on_one_backend
def test_the_segmentation_study_trains_each_way_and_scores_it(run_here, packages, tmp_path, monkeypatch):
    out, module = tmp_path / "study", import_module("segmentation_study")
    monkeypatch.setattr(module, "ENCODER", {"embed_dim": 16, "depth": 6, "num_heads": 2})
    monkeypatch.setattr(module, "QUICK", (16, 4, (16,)))
    names = ["pretrain", "scratch-16-0", "frozen-16-0", "upernet-16-0"]
    places = dict(zip(("stamps", "backgrounds", "data"), packages[1::2], strict=True))
    options = argparse.Namespace(quick=True, seeds=[0], dtype="float32", out=out, **places)
    assert {name for stage in module.stages(options) for name in stage} == {*names, "tuned-16-0"}
    out.mkdir()
    for name in names:
        result = module.compute(name, options)
        assert all(np.isfinite(value) for value in result.values())
        (out / f"{name}.json").write_text(json.dumps({"result": result}))
    table = run_here("segmentation_study.py", "--quick", "--seeds", 0, "--out", out, "--only", "")
    assert len(re.findall(r"upernet +[0-9.]+", table)) == 3
    assert len(re.findall(r"tuned +-", table)) == 3


@on_one_backend
def test_boxes_are_around_what_is_seen_of_each_object(packages):
    scenes = import_module("scenes")
    train = scenes.Scenes("train", **dict(zip(scenes.PLACES, packages[1::2], strict=True)))
    for index in range(12):
        image, boxes, labels = train.objects(index)
        there, mask = train.scene(index)
        np.testing.assert_array_equal(image, there)
        covered = np.zeros(mask.shape, bool)
        for left, top, right, bottom in boxes.astype(int):
            assert 0 <= left < right <= 96
            assert 0 <= top < bottom <= 96
            covered[top:bottom, left:right] = True
        assert not ((mask != 0) & (mask != scenes.IGNORED) & ~covered).any()
        assert {*np.unique(mask)} - {0, scenes.IGNORED} <= {*labels}
    mask = np.zeros((5, 7), bool)
    mask[1:3, 4] = mask[2, 2] = True
    assert scenes.box_of(mask) == (2, 1, 5, 3)


def small_encoder(folder):
    """The file of an encoder, which need not be pre-trained in a test."""
    keras_mae.ViTEncoder((32, 32, 3), 8, embed_dim=16, depth=1, num_heads=2).save(folder / "encoder.keras")
    return folder / "encoder.keras"


@on_one_backend
def test_detection_trains_scores_and_draws(run_here, packages, tmp_path):
    pytest.importorskip("keras_hub")
    pytest.importorskip("pycocotools")
    module = import_module("detection")
    options = ("--quick", "--size", 32, "--out", tmp_path / "run", *packages)
    out = run_here("detection.py", *options, "--encoder", small_encoder(tmp_path))
    table = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(table) == {"RetinaNet", "chance"}
    assert f"chance      mAP@50 {100 * table['chance']['mAP@50']:5.1f} %" in out
    assert Image.open(tmp_path / "run" / "detections.png").size == (4 * 3 * 32, 6 * 3 * 32)
    truth = [{"boxes": np.array([[1.0, 1, 9, 9], [20, 2, 30, 30]]), "labels": np.array([0, 3])}]
    right = {"boxes": truth[0]["boxes"] + 0.5, "labels": np.array([0, 4]), "confidence": np.array([0.4, 0.9])}
    assert module.average_precision(truth, [right])["mAP@50"] == pytest.approx(0.5)  # of the classes that are there
