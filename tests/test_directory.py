"""A run's directory: what it says of a run, whom it lets in, and what it leaves."""

import json

import numpy as np
import pytest

from keras_mae import recipes
from keras_mae.training import RunDirectory, RunFile
from keras_mae.training.metadata import from_flat, json_values, merged

pytestmark = pytest.mark.backends("torch")

RECIPE = recipes.LinearProbeRecipe(epochs=3, warmup_epochs=1, crop_area=(0.5, 1), seed=7)
METADATA = {"recipe": RECIPE.to_dict(), "data": "photos", "images": 11}
HISTORY = {"loss": [3.0, 2.0, 1.5], "accuracy": [0.1, 0.2, 0.25]}


@pytest.fixture
def finished(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.write_json(RunFile.RUN, METADATA)
    directory.write_history(HISTORY)
    directory.write_json(RunFile.METRICS, {"accuracy": 0.5})
    return directory


# === Reading ===
def test_a_run_is_read_back(finished):
    assert finished.recipe == RECIPE
    assert type(finished.recipe) is recipes.LinearProbeRecipe
    assert finished.metadata == METADATA
    assert finished.metrics == {"accuracy": 0.5}
    assert finished.files == ["history.csv", "metrics.json", "run.json"]
    np.testing.assert_array_equal(finished.history["epoch"], [1, 2, 3])
    np.testing.assert_array_equal(finished.history["loss"], HISTORY["loss"])


@pytest.mark.parametrize("what", ["metadata", "recipe", "metrics", "history"])
def test_what_is_not_there_is_an_error(what, tmp_path):
    with pytest.raises(ValueError, match="There is no (run.json|metrics.json|history file)"):
        getattr(RunDirectory(tmp_path / "run"), what)


def test_a_run_without_a_recipe_says_so(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_json(RunFile.RUN, {"data": "photos"})
    with pytest.raises(ValueError, match="has no recipe. Received: data"):
        _ = directory.recipe


def test_only_a_run_s_files_have_a_place(tmp_path):
    assert RunDirectory(tmp_path).file("model.keras") == tmp_path / "model.keras"
    with pytest.raises(ValueError, match="`name` must be one of 'model.keras', .* Received: name='notes.txt'"):
        RunDirectory(tmp_path).file("notes.txt")


# === Free, finished, in use ===
def test_a_directory_is_free_until_something_is_in_it(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    assert directory.is_free
    directory.path.mkdir()
    assert directory.is_free
    (directory.path / ".writing-of-a-killed-process").mkdir()
    assert directory.is_free
    directory.write_history(HISTORY)
    assert not directory.is_free
    with pytest.raises(ValueError, match=r"`run_directory` \(--out\) must not exist or be empty"):
        directory.check_free()
    assert not RunDirectory(directory.file(RunFile.HISTORY)).is_free  # a file


def test_a_run_is_finished_with_all_its_epochs_and_without_checkpoints(finished, tmp_path):
    assert finished.is_finished(3, METADATA)
    assert finished.is_finished(4, METADATA)  # ended early, and left results
    (finished.file(RunFile.CHECKPOINTS) / "step-000000001").mkdir(parents=True)
    assert not finished.is_finished(3, METADATA)
    finished.remove_checkpoints()
    assert finished.is_finished(3, METADATA)
    assert not finished.file(RunFile.CHECKPOINTS).exists()
    assert not RunDirectory(tmp_path / "other").is_finished(3, METADATA)


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(finished):
    finished.file(RunFile.METRICS).unlink()
    finished.file(RunFile.WATCH).mkdir()
    assert not finished.is_finished(4, METADATA)
    with finished.file(RunFile.HISTORY).open("a") as file:
        file.write("4,1.2")  # killed within a line
    assert (finished.epochs_done, finished.is_finished(3, METADATA)) == (0, False)
    with pytest.raises(ValueError, match="is another one. Received: images=12 and not 11"):
        finished.is_finished(4, METADATA | {"images": 12})


def test_a_history_grows_by_a_line_an_epoch(tmp_path):
    directory = RunDirectory(tmp_path)
    files = []
    for epochs in (1, 2, 3):
        directory.add_to_history({name: values[:epochs] for name, values in HISTORY.items()})
        files.append(directory.file(RunFile.HISTORY).stat().st_ino)
    assert len(set(files)) == 1
    grown = directory.file(RunFile.HISTORY).read_bytes()
    directory.write_history(HISTORY)
    assert directory.file(RunFile.HISTORY).read_bytes() == grown
    directory.add_to_history({**HISTORY, "psnr": [1.0, 2.0, 3.0]})
    np.testing.assert_array_equal(directory.history["psnr"], [1, 2, 3])


def test_checkpoints_go_and_what_others_put_among_them_stays(finished):
    """Also where a kill had left a part of former ones, before the run was made longer."""
    for folder in (".checkpoints", "checkpoints"):
        (finished.path / folder / "step-000000001").mkdir(parents=True)
        (finished.path / folder / "notes.txt").write_text("mine")
    finished.remove_checkpoints()
    assert sorted(path.name for path in finished.path.glob("*checkpoints/*")) == ["notes.txt", "notes.txt"]
    assert finished.is_finished(3, METADATA)


def test_a_directory_that_can_be_continued_says_so(finished):
    (finished.file(RunFile.CHECKPOINTS) / "step-000000001").mkdir(parents=True)
    with pytest.raises(ValueError, match="a run that `resume` .--resume. continues"):
        finished.check_free()


def test_pictures_that_were_drawn_before_the_first_checkpoint_are_no_run(tmp_path):
    RunDirectory(tmp_path).file(RunFile.WATCH).mkdir()
    assert not RunDirectory(tmp_path).is_finished(3, METADATA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 12}, "Received: images=12 and not 11"),
        ({"recipe": {**METADATA["recipe"], "seed": 8}}, "Received: seed=8 and not 7"),
        ({"recipe": recipes.PretrainRecipe().to_dict()}, "Received: kind=pretrain and not linear_probe, "),
        ({"model": "tiny"}, "Received: model=tiny and not None"),
    ],
)
def test_another_run_is_refused(changes, message, finished):
    with pytest.raises(ValueError, match=message):
        finished.is_finished(3, METADATA | changes)


def test_a_run_from_before_a_field_was_added_is_the_run_of_what_it_trained_by(finished):
    before = {name: value for name, value in METADATA["recipe"].items() if name != "clamp_crops"}
    finished.write_json(RunFile.RUN, {**METADATA, "recipe": before})
    assert finished.is_finished(3, METADATA | {"recipe": {**METADATA["recipe"], "clamp_crops": False}})
    with pytest.raises(ValueError, match="Received: clamp_crops=True and not False$"):
        finished.is_finished(3, METADATA)


def test_a_run_from_before_recipes_named_a_masking_is_known_by_its_class(finished):
    recipe = recipes.PretrainRecipe().to_dict()
    before = {name: value for name, value in recipe.items() if name not in recipes.PretrainRecipe._added}
    finished.write_json(RunFile.RUN, {**METADATA, "recipe": before, "masking": "BlockMasking"})
    for named in ("random", "block"):  # the model's own, or the recipe's
        now = METADATA | {"recipe": {**recipe, "masking": named}, "masking": "BlockMasking"}
        assert finished.is_finished(3, now)
    with pytest.raises(ValueError, match="Received: masking=GridMasking and not BlockMasking$"):
        finished.is_finished(3, now | {"masking": "GridMasking"})


def test_the_same_numbers_from_another_source_are_the_same_run(finished):
    assert finished.is_finished(3, METADATA | {"recipe": {**METADATA["recipe"], "source": "repository"}})


def test_an_opened_directory_keeps_others_out(tmp_path):
    pytest.importorskip("fcntl")
    directory = RunDirectory(tmp_path / "deep" / "run")
    with directory.opened():
        with pytest.raises(ValueError, match="Another process is at work in"), directory.opened():
            pass
        assert directory.path.is_dir()
    assert not (tmp_path / "deep").exists()  # nothing was written
    with directory.opened():
        directory.write_history(HISTORY)
    assert directory.files == ["history.csv"]


def test_an_opened_directory_is_rid_of_what_a_killed_process_left(tmp_path):
    (tmp_path / ".writing-1@elsewhere-abc").mkdir()
    with RunDirectory(tmp_path).opened():
        assert not list(tmp_path.iterdir())
    assert tmp_path.exists()  # it was there before


def test_a_file_is_never_half_written(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_json(RunFile.METRICS, {"before": 1})

    def save(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        directory.write(RunFile.METRICS, save)
    assert directory.metrics == {"before": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


# === Metadata ===
def test_metadata_come_back_as_a_json_file_gives_them():
    assert json_values({"shape": (8, 12), "name": None}) == {"shape": [8, 12], "name": None}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"images": np.int64(3)}, r"`metadata\['images'\]` must be a JSON value. Received: metadata\['images'\]=.*3"),
        ({"ratio": float("nan")}, r"`metadata\['ratio'\]` must be a JSON value"),
        ({3: "three"}, "`metadata` must be JSON values by name"),
        (["photos"], "`metadata` must be JSON values by name"),
    ],
)
def test_metadata_that_are_not_json_values_are_refused(metadata, message):
    with pytest.raises(ValueError, match=message):
        json_values(metadata)


def test_metadata_that_the_run_records_itself_are_refused():
    assert merged({"recipe": {}}, None) == {"recipe": {}}
    with pytest.raises(
        ValueError, match="must not repeat what the run records itself: recipe, dtype. Received: recipe"
    ):
        merged({"recipe": {}, "dtype": "float32"}, {"recipe": 1, "data": "photos"})


# === Runs from before run.json ===
FLAT = {"epochs": 3, "warmup_epochs": 1, "accumulation_steps": 2, "batch_size": 8, "learning_rate": 0.1, "data": "x"}


@pytest.mark.parametrize(
    ("facts", "kind", "others"),
    [
        ({}, "pretrain", {}),
        ({"protocol": "fine-tuning", "blocks": 1.5, "labels": 60}, "fine_tune", {"trainable_blocks": 1.5}),
        ({"protocol": "linear probe", "momentum": 0.8, "labels": 60}, "linear_probe", {"num_labels": 60}),
    ],
)
def test_flat_metadata_are_read_in_today_s_form(facts, kind, others, tmp_path):
    metadata = from_flat(FLAT | facts)
    recipe = recipes.Recipe.from_dict(metadata["recipe"])
    assert (recipe.kind, recipe.epochs, recipe.gradient_accumulation_steps) == (kind, 3, 2)
    assert getattr(recipe, "momentum", 0.8) == 0.8
    assert {"data": "x", "learning_rate": 0.1, **others}.items() <= metadata.items()
    (tmp_path / "recipe.json").write_text(json.dumps(FLAT | facts))
    directory = RunDirectory(tmp_path)
    assert directory.recipe == recipe
    directory.write_json(RunFile.RUN, METADATA)  # as a resumed run does in the end
    assert directory.recipe == RECIPE


@pytest.mark.parametrize("protocol", [None, "fine-tuning", "linear probe", ["mine"]])
def test_flat_metadata_of_a_callers_own_stay_apart_from_the_recipe(protocol):
    """Whatever fields recipes have had since."""
    own = {"target": "cats", "schedule": [1, 2], "pooling": "x", "changed": 3, "decoder": None, "recipe": "mine"}
    known = from_flat({**FLAT, **own, "protocol": protocol})
    assert recipes.Recipe.from_dict(known.pop("recipe")).epochs == 3
    del own["recipe"]  # which cannot be told from ours
    assert {name: known[name] for name in own} == own


def test_flat_metadata_without_a_recipe_stay_flat():
    assert from_flat({"data": "x"}) == {"data": "x"}


# === Two at once ===
def test_one_who_is_refused_does_not_take_the_winner_s_folder_away(tmp_path, monkeypatch):
    """Whoever looked before the folder was there believes to have made it."""
    winner, late = RunDirectory(tmp_path / "deep" / "run"), RunDirectory(tmp_path / "deep" / "run")
    with winner.opened():
        monkeypatch.setattr(type(tmp_path), "exists", lambda self: False)
        with pytest.raises(ValueError, match="Another process is at work"), late.opened():
            pass
        monkeypatch.undo()
        assert winner.path.is_dir()
    assert not (tmp_path / "deep").exists()


def test_a_directory_that_must_be_free_is_looked_at_again_once_it_is_locked(finished):
    with pytest.raises(ValueError, match="`run_directory` .* must not exist or be empty"), finished.opened(free=True):
        pass
    assert "run.json" in finished.files


@pytest.mark.parametrize("content", ["", "[]", "null", '{"recipe": ', b"\xff\xfe", "[" * 100_000])
def test_a_damaged_record_is_named(content, finished):
    finished.file("run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"run\.json' (is not JSON|must hold a JSON object)"):
        _ = finished.recipe


def test_a_recipe_that_is_none_is_refused(finished):
    finished.file("run.json").write_text('{"recipe": 3}')
    with pytest.raises(ValueError, match="`values` must be what `to_dict` returned. Received: values=3"):
        _ = finished.recipe
