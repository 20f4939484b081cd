"""Folders that are scored, and `keras-mae anomaly` as a user types it."""

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_mae
from keras_mae import anomaly, visualize

pytestmark = [pytest.mark.backends("torch"), pytest.mark.filterwarnings("ignore:The threshold is little more")]

SHAPE = (8, 8, 1)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture(scope="module", autouse=True)
def _same_weights():
    """The models' random weights are the same in every run."""
    keras.utils.set_random_seed(0)


def texture(seed=99):
    return np.clip(np.random.default_rng(seed).normal(120, 10, (8, 8)), 0, 255).astype("uint8")


@pytest.fixture
def photos(tmp_path):
    """Folders as MVTec AD has them: twelve normal images to learn from; to score two normal ones and three others."""
    for number in range(12):
        write(tmp_path / "train" / "good" / f"{number}.png", texture(number))
    for number in range(2):
        write(tmp_path / "test" / "good" / f"{number}.png", texture(20 + number))
    for number, defect in enumerate((slice(0, 2), slice(2, 5), slice(4, 7))):
        image, mask = texture(30 + number), np.zeros((8, 8), "uint8")
        image[defect, defect], mask[defect, defect] = 255, 255
        write(tmp_path / "test" / "crack" / f"{number}.png", image)
        write(tmp_path / "ground_truth" / "crack" / f"{number}_mask.png", mask)
    return tmp_path


# === Folders ===
def test_a_folder_called_good_says_what_is_anomalous(photos):
    opened = anomaly.open_scored(photos / "test", SHAPE)
    assert opened.names == ("crack/0.png", "crack/1.png", "crack/2.png", "good/0.png", "good/1.png")
    np.testing.assert_array_equal(opened.anomalous, [True] * 3 + [False] * 2)
    assert opened.reason == "3 of 5 images are anomalous: those not in 'good'"
    assert opened.images([1, 3]).shape == (2, *SHAPE)
    given = anomaly.open_scored(photos / "test", SHAPE, normal_class="crack")
    np.testing.assert_array_equal(given.anomalous, [False] * 3 + [True] * 2)


@pytest.mark.parametrize("change", ["other names", "two of them", "no folders", "loose"])
def test_where_no_one_folder_is_normal_nothing_is_known(photos, change):
    test = photos / "test"
    if change == "other names":
        (test / "good").rename(test / "fine")
    elif change == "two of them":
        write(test / "Normal" / "0.png", texture())
    elif change == "no folders":
        test = test / "crack"
    else:
        write(test / "0.png", texture())
    opened = anomaly.open_scored(test, SHAPE)
    assert opened.anomalous is None
    assert opened.reason.startswith("Which images are normal is not known")
    assert ("normal_class" in opened.reason) == (change in ("other names", "two of them"))


def test_masks_say_where_defects_are_and_normal_images_need_none(photos):
    opened = anomaly.open_scored(photos / "test", SHAPE, masks=photos / "ground_truth")
    found = opened.defects(range(5))
    assert [int(one.sum()) for one in found] == [4, 9, 9, 0, 0]
    assert found[1, 2:5, 2:5].all()
    ones = np.zeros((8, 8), "uint8")
    ones[0, 0] = 1  # masks of 0 and 1
    write(photos / "ground_truth" / "crack" / "0_mask.png", ones)
    assert anomaly.open_scored(photos / "test", SHAPE, masks=photos / "ground_truth").defects([0]).sum() == 1


def test_masks_say_what_is_anomalous_where_no_class_does(photos):
    (photos / "test" / "good").rename(photos / "test" / "fine")
    opened = anomaly.open_scored(photos / "test", SHAPE, masks=photos / "ground_truth")
    np.testing.assert_array_equal(opened.anomalous, [True] * 3 + [False] * 2)
    assert "those with a mask that is not empty" in opened.reason


def test_a_thin_defect_is_not_lost_when_its_mask_is_made_smaller(tmp_path):
    image, mask = np.full((64, 64), 120, "uint8"), np.zeros((64, 64), "uint8")
    mask[30, 10:50] = 255
    write(tmp_path / "test" / "0.png", image)
    write(tmp_path / "masks" / "0.png", mask)
    found = anomaly.open_scored(tmp_path / "test", SHAPE, masks=tmp_path / "masks").defects([0])[0]
    assert found[3].sum() >= 4
    assert not found[[0, 1, 6, 7]].any()


@pytest.mark.parametrize(
    ("path", "size", "message"),
    [
        ("ground_truth/crack/2_mask.png", None, "a mask for each anomalous image.*none for 'crack/2.png'"),
        ("ground_truth/crack/2_mask.png", (8, 9), r"of the images' sizes.*\(8, 9\) for 'crack/2.png' of \(8, 8\)"),
        ("ground_truth/crack/2_mask.bmp", (8, 8), "at most one mask for each image.*2_mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(photos, path, size, message):
    if size is None:
        (photos / path).unlink()
    else:
        write(photos / path, np.zeros(size, "uint8"))
    with pytest.raises(ValueError, match=message):
        anomaly.open_scored(photos / "test", SHAPE, masks=photos / "ground_truth")


def test_what_is_odd_about_masks_is_a_warning(photos):
    write(photos / "ground_truth" / "crack" / "2_mask.png", np.zeros((8, 8), "uint8"))
    with pytest.warns(UserWarning, match=r"1 of 5 images and their masks.*'crack/2.png', which has an empty mask"):
        anomaly.open_scored(photos / "test", SHAPE, masks=photos / "ground_truth")
    write(photos / "ground_truth" / "crack" / "2_mask.png", np.ones((8, 8), "uint8"))
    write(photos / "ground_truth" / "crack" / "9.png", np.ones((8, 8), "uint8"))
    with pytest.warns(UserWarning, match="1 masks belong to no image"):
        anomaly.open_scored(photos / "test", SHAPE, masks=photos / "ground_truth")


def test_images_that_are_cut_are_a_warning(photos):
    write(photos / "test" / "crack" / "wide.png", np.full((8, 16), 100, "uint8"))
    with pytest.warns(UserWarning, match="1 of 6 images are cut to the model's shape, up to 50%"):
        anomaly.open_scored(photos / "test", SHAPE)


# === Runs ===
LEFT = ["detector.npz", "heat_maps.png", "metrics.json", "scores.csv"]


def read(run):
    with (run / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file)), json.loads((run / "metrics.json").read_text())


def test_the_command_scores_draws_and_leaves_a_detector(keras_mae_command, digits_model, photos):
    options = ("--masks", photos / "ground_truth", "--quantile", 0.5, "--partitions", 2, "--pictures", 3)
    status, out, err = keras_mae_command("anomaly", digits_model, photos / "train", photos / "test", *options)
    assert status == 0, err
    run = Path("runs/anomaly-test-1")
    assert sorted(path.name for path in run.iterdir()) == LEFT
    lines, metrics = read(run)
    assert list(lines[0]) == ["file", "reconstruction", "neighbors", "mean", "above_threshold", "anomalous"]
    means = [float(line["mean"]) for line in lines]
    assert means == sorted(means, reverse=True)
    assert {line["file"] for line in lines[:3]} == {f"crack/{number}.png" for number in range(3)}
    above = [float(line["mean"]) > metrics["threshold"] for line in lines]
    assert [line["above_threshold"] == "1" for line in lines] == above
    assert metrics["auroc"]["mean"] == 1.0
    assert {
        "images": 5,
        "anomalous": 3,
        "normal_images": 12,
        "held_out": 3,
        "partitions": 2,
    }.items() <= metrics.items()
    assert 0.5 < metrics["pixel_auroc"]["reconstruction"] <= 1
    for said in (
        "crack/0.png",
        "AUROC of images: reconstruction",
        "AUROC of pixels",
        "those not in 'good'",
        str(run),
    ):
        assert said in " ".join(out.split())

    # The same again, without the normal images.
    again = ("anomaly", digits_model, run / "detector.npz", photos / "test", "--out", "again")
    assert keras_mae_command(*again)[0] == 0
    assert read(Path("again"))[0] == lines
    status, _, err = keras_mae_command(*again[:-1], "third", "--seed", 3)
    assert (status, "Received: seed" in err) == (2, True)


def test_an_encoder_is_said_to_compare_only_and_unknown_labels_have_no_auroc(keras_mae_command, encoder_file, photos):
    arguments = ("anomaly", encoder_file, photos / "train", photos / "test" / "crack", "--quantile", 0.5)
    status, out, _ = keras_mae_command(*arguments)
    assert status == 0
    said = " ".join(out.split())
    assert "has no decoder (ViTEncoder): images are scored by nearest neighbors alone" in said
    assert "Which images are normal is not known" in said
    lines, metrics = read(Path("runs/anomaly-crack-1"))
    assert list(lines[0]) == ["file", "neighbors", "mean", "above_threshold"]
    assert (metrics["auroc"], metrics["pixel_auroc"], metrics["anomalous"]) == (None, None, None)


def test_a_run_directory_with_files_is_left_alone(keras_mae_command, digits_model, photos):
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    status, _, err = keras_mae_command("anomaly", digits_model, photos / "train", photos / "test", "--out", "taken")
    assert (status, "must not exist or be empty" in err) == (2, True)
    assert [path.name for path in Path("taken").iterdir()] == ["notes.txt"]


def test_nothing_is_left_of_a_run_that_fails(keras_mae_command, digits_model, photos):
    for number in range(6):
        (photos / "train" / "good" / f"{number}.png").unlink()
    status, _, err = keras_mae_command("anomaly", digits_model, photos / "train", photos / "test")
    assert (status, "`normal` must be 8 images or more" in err) == (2, True)
    assert not Path("runs").exists()


# === Pictures ===
def test_heat_maps_share_a_scale_and_outline_defects():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), "uint8")
    maps = {"a": np.stack([np.full((8, 12), 1.0), np.full((8, 12), 7.0)]), "b": np.full((2, 8, 12), -2.0)}
    defects = np.zeros((2, 8, 12), bool)
    defects[1, 2:5, 3:6] = True
    figure = visualize.heat_maps(images, maps, names=["x.png", "y.png"], defects=defects)
    scales = [axes.images[-1].get_clim() for axes in figure.axes]
    assert [scales[place] for place in (1, 4)] == [(0, 7)] * 2
    assert [scales[place] for place in (2, 5)] == [(0, 3)] * 2
    assert [bool(axes.collections) for axes in figure.axes] == [False] * 3 + [True, False, False]
    assert figure.axes[3].get_ylabel() == "y.png"
    assert figure.axes[0].get_title() == "image\nred: outline of the defect"
    assert visualize.heat_maps(images, maps).axes[0].get_title() == "image"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": {}}, "`maps` must be"),
        ({"maps": {"a": np.ones((2, 4, 6))}}, "`maps` must be"),
        ({"maps": {"a": np.full((2, 8, 12), np.nan)}}, "`maps` must be"),
        ({"names": ["x"]}, "`names` must be"),
        ({"defects": np.ones((1, 8, 12), bool)}, "`defects` must be"),
    ],
)
def test_maps_that_do_not_fit_are_refused(arguments, message):
    right = {"images": np.zeros((2, 8, 12, 3), "uint8"), "maps": {"a": np.ones((2, 8, 12))}}
    with pytest.raises(ValueError, match=message):
        visualize.heat_maps(**right | arguments)


def test_a_detector_and_normal_images_go_together(photos, digits_model, tmp_path):
    detector = anomaly.AnomalyDetector(keras.saving.load_model(digits_model))
    test = anomaly.open_scored(photos / "test", SHAPE)
    with pytest.raises(ValueError, match="`normal` must be"):
        anomaly.run_anomaly(detector, None, test, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert keras_mae.anomaly is anomaly
