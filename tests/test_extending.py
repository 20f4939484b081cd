"""A finished run with schedule "wsd" that is made longer ends as if it had been begun so."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_resume import everything, run
from training_helpers import Stop, terminated

from keras_mae.recipes import Recipe
from keras_mae.training import PretrainRecipe, RunDirectory
from keras_mae.training.checkpoints import Checkpoints, Preempted
from keras_mae.training.extending import extend

SHORT = PretrainRecipe(
    epochs=3,
    warmup_epochs=1,
    batch_size=8,
    gradient_accumulation_steps=4,  # does not divide an epoch's 13 batches
    base_learning_rate=0.1,
    schedule="wsd",
    decay_epochs=1,
    ema_momentum=0.9,
    norm_pix_loss=True,
    seed=4,
)
LONG = replace(SHORT, epochs=5, decay_epochs=2)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    directory = tmp_path_factory.mktemp("short") / "run"
    model = run(directory, recipe=SHORT)
    return directory, everything(model)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    directory = tmp_path_factory.mktemp("long") / "run"
    return everything(run(directory, recipe=LONG)), (directory / "history.csv").read_text()


@pytest.fixture
def finished(short, tmp_path):
    return shutil.copytree(short[0], tmp_path / "run")


@pytest.mark.backends("torch", "jax")
def test_a_finished_run_goes_on_to_more_epochs(finished, short, long):
    """Terminated on the way, too."""
    with pytest.raises(Preempted):
        run(finished, Stop(4, terminated), recipe=LONG)
    with pytest.raises(ValueError, match="is another one. Received: epochs=3 and not 5"):
        run(finished, recipe=SHORT)
    model = run(finished, recipe=LONG)
    for got, expected in zip(everything(model), long[0], strict=True):
        assert np.array_equal(got, expected)
    assert not all(map(np.array_equal, short[1], long[0]))
    assert (finished / "history.csv").read_text() == long[1]
    assert RunDirectory(finished).recipe == LONG
    assert not (finished / "checkpoints").exists()
    assert [path.name for path in (finished / "before_decay").iterdir()] != []


@pytest.mark.backends("torch")
def test_the_same_command_leaves_a_finished_run_as_it_is(finished):
    before = (finished / "model.keras").read_bytes()
    run(finished, recipe=SHORT)
    assert (finished / "model.keras").read_bytes() == before


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2}, "has 3 epochs and a decay after 2. Received: epochs=2, with a decay after 1"),
        ({"epochs": 4, "decay_epochs": 3}, "Received: epochs=4, with a decay after 1"),
        ({"epochs": 5, "base_learning_rate": 0.2}, "is another one. Received: epochs=5 and not 3, base_learning"),
        ({"epochs": 5, "warmup_epochs": 2}, "is another one. Received: epochs=5 and not 3, warmup_epochs=2"),
        ({"epochs": 5, "schedule": "cosine", "decay_epochs": None}, "is another one"),
    ],
)
def test_other_runs_are_refused(changes, message, finished):
    with pytest.raises(ValueError, match=message):
        run(finished, recipe=replace(SHORT, **changes))


def test_a_run_is_made_longer_with_other_data_only_if_that_is_allowed(finished):
    directory = RunDirectory(finished)
    known = directory.metadata
    fingerprint = {**known["fingerprint"], "data": {**known["fingerprint"]["data"], "contents": "others"}}
    wanted = {**known, "recipe": LONG.to_dict(), "fingerprint": fingerprint}
    with pytest.raises(ValueError, match="data: other contents. To go on with what there is now"):
        extend(directory, wanted)
    assert "checkpoints" not in directory.files
    extend(directory, wanted, allow_changed=True)
    _, state = Checkpoints(directory.file("checkpoints"), 1).newest()
    assert Recipe.from_dict(state["metadata"]["recipe"]) == LONG
    assert state["metadata"]["fingerprint"] == known["fingerprint"]  # so that it is seen, and recorded


def test_a_damaged_checkpoint_is_named(finished):
    [kept] = (finished / "before_decay").glob("state.json")
    kept.write_text("null")
    with pytest.raises(ValueError, match="cannot be made longer: .*before_decay' is not whole"):
        run(finished, recipe=LONG)
