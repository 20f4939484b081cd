"""Which files a run's data no longer are, and that all processes refuse a run alike."""

import io
import os
import shutil

import keras
import numpy as np
import pytest
from rich.console import Console
from training_helpers import Stop, killed

import keras_mae
from keras_mae import data, distribution
from keras_mae.data import listings
from keras_mae.training import PretrainRecipe, Saving, run_pretraining
from keras_mae.training.agreement import together

pytestmark = pytest.mark.backends("torch")

THEN = {"a/0.png": [10, 1], "a/1.png": [20, 2], "a/2.png": [30, 3], "b/3.png": [40, 4]}
COPIED = {name: [size, 99] for name, (size, _) in THEN.items()}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({**THEN}, []),
        ({**THEN, "b/9.png": [5, 5]}, ["1 file new ('b/9.png')"]),
        ({name: THEN[name] for name in ("a/0.png",)}, ["3 files missing ('a/1.png', 'a/2.png', 'b/3.png')"]),
        ({}, ["4 files missing ('a/0.png', 'a/1.png', 'a/2.png', ...)"]),
        ({**THEN, "a/1.png": [21, 2]}, ["1 file changed ('a/1.png')"]),
        ({**THEN, "a/1.png": [20, 9]}, ["1 file changed ('a/1.png')"]),
        (COPIED, []),
        ({**COPIED, "a/0.png": [7, 99]}, ["1 file changed ('a/0.png')"]),
        (
            {**{name: THEN[name] for name in ("a/0.png", "a/1.png", "a/2.png")}, "a/3.png": [40, 4]},
            ["1 file moved ('b/3.png' to 'a/3.png')"],
        ),
    ],
)  # fmt: skip
def test_what_became_of_files_is_said(now, said):
    assert listings.changed_files(now, THEN) == said


def test_files_that_look_alike_are_not_taken_to_be_moved():
    then, now = {"a": [1, 1], "b": [1, 1]}, {"c": [1, 1]}
    assert listings.changed_files(now, then) == ["2 files missing ('a', 'b')", "1 file new ('c')"]


def test_a_listing_is_read_back_and_a_damaged_one_explains_nothing(tmp_path):
    listings.write(tmp_path / "x", {**THEN, "caf\udce9": [1, 2]})
    assert listings.read(tmp_path / "x") == {**THEN, "caf\udce9": [1, 2]}
    whole = (tmp_path / "x").read_bytes()
    for content in (b"", whole[:20], b"[1]", whole[:-9]):
        (tmp_path / "x").write_bytes(content)
        assert listings.read(tmp_path / "x") is None
    assert listings.read(tmp_path / "none") is None


def test_very_many_files_are_not_listed(class_folders, monkeypatch):
    source = data.FolderSource(class_folders, 8, 1)
    assert len(source.listing()) == len(data.Subset(source, [0]).listing()) == 11
    monkeypatch.setattr(listings, "_MOST", 10)
    assert source.listing() is None


# === Runs ===
def train(directory, folder, *callbacks):
    keras.utils.set_random_seed(1)
    encoder = keras_mae.ViTEncoder((8, 8, 1), 4, embed_dim=8, depth=1, num_heads=2)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2))
    run_pretraining(
        mae,
        data.from_directory(folder, 8, 4, channels=1, drop_remainder=True, loader="grain"),
        PretrainRecipe(epochs=2, warmup_epochs=0, batch_size=4, norm_pix_loss=False),
        directory,
        examples=np.zeros((1, 8, 8, 1), "uint8"),
        callbacks=callbacks,
        console=Console(file=io.StringIO()),
        saving=Saving(resume=True, every_steps=1),
    )


def test_a_refused_folder_is_told_file_by_file(class_folders, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(MemoryError):
        train(run, class_folders, Stop(2, killed))
    shutil.copy2(class_folders / "cats" / "1.png", class_folders / "cats" / "new.png")
    os.rename(class_folders / "cats" / "0.png", class_folders / "dogs" / "moved.png")
    (class_folders / "dogs" / "3.png").unlink()
    with pytest.raises(ValueError, match="is another one") as refused:
        train(run, class_folders)
    for said in ("file moved ('cats/0.png' to 'dogs/moved.png')", "missing ('dogs/3.png')", "new ('cats/new.png')"):
        assert said in str(refused.value)
    assert "\n" not in str(refused.value)


# === Several processes ===
def test_all_processes_refuse_what_one_refuses(monkeypatch):
    """As the others see it: the main one alone knows the data."""

    def refuse():
        raise ValueError("mine")

    assert together(lambda: 3) == 3
    with pytest.raises(ValueError, match="mine"):
        together(refuse)
    monkeypatch.setattr(distribution, "gather", lambda value: [1.0, float(value)])
    with pytest.raises(ValueError, match="mine"):
        together(refuse)
    with pytest.raises(ValueError, match="Another process of this run refuses it"):
        together(lambda: 3)


def test_another_process_s_refusal_stops_a_run_before_it_trains(class_folders, tmp_path, monkeypatch):
    train(tmp_path / "run", class_folders)
    calls = []
    monkeypatch.setattr(distribution, "gather", lambda value: calls.append(value) or [float(value), len(calls) == 2])
    with pytest.raises(ValueError, match="Another process of this run refuses it"):
        train(tmp_path / "run", class_folders)
    assert calls == [False, False]  # to be made longer, and whether it is finished
