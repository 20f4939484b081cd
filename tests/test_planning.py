"""Plans of pre-training: what is proposed, from which measurements, and that a run takes it as it is."""

import dataclasses
import math
import tomllib
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

import keras_mae
from keras_mae import planning, training
from keras_mae.data import Survey
from keras_mae.planning import measuring, numbers, plans, proposing
from keras_mae.planning.candidates import Candidate, candidates
from keras_mae.recipes import PretrainRecipe
from keras_mae.training.durations import duration

pytestmark = pytest.mark.usefixtures("untraced")
torch_only = pytest.mark.backends("torch")
RNG = np.random.default_rng(0)


def photos(folder, count=6, size=(20, 20)):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype="uint8")).save(folder / f"{number}.png")
    return folder


def survey(images=200, *sizes, channels=3):
    return Survey(images=images, sizes=sizes or ((480, 640),), channels=channels)


def measured(candidate=None, step=1.0, steps=10, batch=32):
    return planning.Measured(
        candidate=candidate or Candidate("mae_vit_small_patch16_224", (224, 224), (16, 16)),
        batch_size=batch,
        parameters=1,
        steps_per_epoch=steps,
        begin_seconds=5.0,
        step_seconds=step,
        epoch_seconds=steps * step,
    )


# === Candidates ===
@torch_only
@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (survey(200), ["small 224 16", "tiny 224 16", "tiny 128 16", "micro 128 16"]),
        (survey(100_000), ["base 224 16", "small 224 16", "tiny 224 16", "tiny 128 16", "micro 128 16"]),
        (survey(200, (100, 300), (96, 96)), ["small 96 8", "tiny 96 8", "tiny 64 8", "micro 64 8"]),
        (survey(200, (130, 130)), ["small 128 8", "tiny 128 8", "tiny 64 8", "micro 64 8"]),
        (survey(200, (70, 70)), ["small 64 8", "tiny 64 8"]),
        (survey(60_000, (28, 28)), ["tiny 28 4", "micro 28 4"]),
        (survey(1_437, (8, 8)), ["micro 8 2"]),
        (survey(500, (50, 100)), ["micro 48x96 6"]),
        (survey(500, (3, 3)), ["micro 3 1"]),
    ],
)
def test_models_that_are_tried_go_by_sizes_and_number(found, expected):
    shown = []
    for one in candidates(found):
        (height, width), (edge, _) = one.image_size, one.patch_size
        size = f"{height}" if height == width else f"{height}x{width}"
        shown.append(f"{one.preset.split('_')[2]} {size} {edge}")
    assert shown == expected


@torch_only
def test_what_is_asked_for_is_tried():
    one = candidates(survey(), preset="mae_vit_tiny_patch4_32")
    assert [(c.preset, c.image_size, c.patch_size) for c in one] == [("mae_vit_tiny_patch4_32", (32, 32), (4, 4))]
    wide = candidates(survey(), image_size=(96, 192))
    assert {(c.image_size, c.patch_size) for c in wide} == {((96, 192), (12, 12))}
    assert {c.image_size for c in candidates(survey(), patch_size=(10, 10))} == {(220, 220)}
    with pytest.raises(ValueError, match="`patch_size` must divide"):
        candidates(survey(), image_size=(96, 96), patch_size=(7, 7))


# === Numbers ===
@torch_only
def test_a_batch_goes_by_images_device_and_replicas(monkeypatch):
    sizes = {200: 32, 20: 20, 40: 20, 47: 23, 20_000: 32}
    assert {images: numbers.chosen_batch(images, "photos", None).size for images in sizes} == sizes
    monkeypatch.setattr(numbers, "is_accelerated", lambda: True)
    sizes = {200: 32, 1_000: 64, 20_000: 256}
    assert {images: numbers.chosen_batch(images, "photos", None).size for images in sizes} == sizes
    assert "10 updates or more" in numbers.chosen_batch(1_000, "photos", None).reason
    assert "of the recipe" in numbers.chosen_batch(200, "photos", None).reason  # seven updates an epoch
    monkeypatch.setattr(
        keras_mae.distribution, "_current", dataclasses.replace(keras_mae.distribution.current(), replicas=8)
    )
    assert numbers.chosen_batch(47, "photos", None).size == 16
    assert [numbers.Batch(size, "").halved.size for size in (32, 40)] == [16, 16]
    assert numbers.chosen_batch(47, "photos", 5) == numbers.Batch(5, "as asked for")
    assert numbers.chosen_batch(1_437, "small_images", None).size == 32


@torch_only
def test_epochs_go_by_the_time():
    one = measured(step=1.0, steps=200)  # 200 s an epoch
    assert numbers.least_epochs(PretrainRecipe(), "photos", 200) == 40
    assert numbers.least_epochs(PretrainRecipe(), "photos", 50) == 100
    assert numbers.least_epochs(PretrainRecipe(), "photos", 1) == 800
    assert numbers.least_epochs(PretrainRecipe(epochs=60), "small_images", 1) == 60
    chosen = {hours: numbers.chosen_epochs(one, 40, "photos", 3600 * hours) for hours in (0.01, 1, 3, 8, 100)}
    assert {hours: epochs for hours, (epochs, _) in chosen.items()} == {0.01: 1, 1: 17, 3: 51, 8: 130, 100: 800}
    assert [words for _, (_, words) in chosen.items()] == [
        "even one does not fit into 36 s; 40 are advised, which take 2 h 13 min",
        "as many as fit into 60 min; 40 are advised, which take 2 h 13 min",
        "as many as fit into 3 h; 40 would do",
        "as many as fit into 8 h; 40 would do",
        "the paper's, for which there is time",
    ]
    assert numbers.chosen_epochs(one, 40, "small_images", 3600 * 99)[0] == 40
    for epochs, _ in chosen.values():
        assert one.seconds(epochs) <= max(8 * 3600, 100 * 3600)


@torch_only
def test_times_are_said_in_words():
    seconds = (0.5, 42, 300, 5000, 9000, 28_800, 100_000, 500_000)
    words = ["0.5 s", "42 s", "5 min", "83 min", "2 h 30 min", "8 h", "28 h", "5.8 days"]
    assert [duration(one) for one in seconds] == words


# === Measuring ===
class Time:
    """A clock that is moved by hand."""

    now = 0.0

    def perf_counter(self):
        return self.now


def timed(monkeypatch, steps, step, gap, too_slow=math.inf, first=30.0, backend="jax"):
    """The clock of training with known times, after it has stopped that."""
    time = Time()
    monkeypatch.setattr(measuring, "time", time)
    monkeypatch.setattr(measuring._optional, "cores", lambda: 2)
    monkeypatch.setattr(measuring.keras.backend, "backend", lambda: backend)
    clock = measuring._Clock(steps, too_slow)
    clock.set_model(SimpleNamespace(stop_training=False))
    done = 0
    while not clock.model.stop_training:
        for _ in range(steps):
            clock.on_train_batch_begin(0)
            time.now += step if done else first
            done += 1
            clock.on_train_batch_end(0, {"loss": np.float32(1)})
            if clock.model.stop_training:
                break
        clock.on_epoch_end(0)
        time.now += gap
    return clock, done


@torch_only
@pytest.mark.parametrize("step", [0.001, 0.1, 5.0, 60.0])
@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_the_time_of_a_step_is_found_without_the_first_and_with_what_lies_between_epochs(monkeypatch, steps, step):
    gap = 0.2 * step
    clock, done = timed(monkeypatch, steps, step, gap)
    whole = step + gap / steps
    assert step * 0.999 <= clock.step_seconds <= (step + gap) * 1.001
    assert clock.first == 30.0
    assert clock.step_seconds == pytest.approx(whole, rel=0.01 if steps * step < 8 else 0.21)
    assert done * step < 30 + 3 * steps * step


@torch_only
def test_measuring_takes_no_longer_than_fits_the_run(monkeypatch):
    assert [measuring.timing_seconds(3600 * hours) for hours in (0.001, 0.1, 1, 8)] == [1.0, 3.6, 8.0, 8.0]
    time = Time()
    monkeypatch.setattr(measuring, "time", time)
    clock = measuring._Clock(1000, math.inf, 2.0)
    clock.set_model(SimpleNamespace(stop_training=False))
    while not clock.model.stop_training:
        time.now += 0.1
        clock.on_train_batch_end(0, {"loss": np.float32(1)})
    assert time.now < 3.5
    assert clock.step_seconds == pytest.approx(0.1)


@torch_only
def test_a_model_that_takes_far_too_long_is_left_after_two_steps(monkeypatch):
    clock, done = timed(monkeypatch, 10, 60.0, 0.0, too_slow=59.0)
    assert (done, clock.step_seconds) == (2, 60.0)
    clock, done = timed(monkeypatch, 10, 60.0, 0.0, too_slow=2.9, first=30.0)
    assert (done, clock.step_seconds) == (2, 60.0)  # the first one was compiled
    clock, done = timed(monkeypatch, 10, 20.0, 0.0, too_slow=2.9, first=30.0, backend="torch")
    assert (done, clock.step_seconds) == (1, 30.0)


@torch_only
def test_loading_is_timed_when_its_workers_are_busy(monkeypatch):
    """Two batches at a time, which take a second: half a second each."""
    time = Time()
    monkeypatch.setattr(measuring, "time", time)
    monkeypatch.setattr(measuring._optional, "cores", lambda: 2)

    def batches():
        for number in range(4):
            time.now += 1.0 if number % 2 == 0 else 0.0
            yield number

    class Dataset:
        __iter__ = staticmethod(batches)

    assert measuring._loading_seconds(Dataset()) == 0.5


@torch_only
@pytest.mark.parametrize("name", ["OutOfMemoryError", "ResourceExhausted", "other"])
def test_memory_that_is_full_is_told_from_other_errors(tmp_path, monkeypatch, shallow_presets, name):
    said = {"ResourceExhausted": "RESOURCE_EXHAUSTED: Out of memory while trying to allocate"}
    error = type(name, (RuntimeError,), {})(said.get(name, "wrong"))
    monkeypatch.setattr(keras_mae.MaskedAutoencoder, "fit", lambda *_, **__: (_ for _ in ()).throw(error))
    images = training.open_unlabeled(photos(tmp_path / "x"), (8, 8, 3))
    candidate = Candidate("mae_vit_micro_patch4_32", (8, 8), (4, 4))
    recipe = PretrainRecipe.for_size("photos", batch_size=2)
    if name == "other":
        with pytest.raises(RuntimeError, match="wrong"):
            measuring.measure(candidate, images, recipe)
    else:
        assert measuring.measure(candidate, images, recipe) is None


# === Plans ===
@pytest.fixture
def speed(monkeypatch):
    """Models of known speed: seconds of a step by the name of a width, `None` for what does not fit into memory."""
    speeds = {"small": 1.0, "tiny": 0.5, "micro": 0.1}
    asked = []

    def measure(candidate, images, recipe, *, too_slow, opening_seconds, **how):
        asked.append((candidate.preset.split("_")[2], candidate.image_size[0], recipe.batch_size, too_slow))
        step = speeds[candidate.preset.split("_")[2]]
        if step is None or (step < 0 and recipe.batch_size > -step):
            return None
        return measured(candidate, abs(step), len(images.train) // recipe.batch_size, recipe.batch_size)

    monkeypatch.setattr(proposing, "measure", measure)
    speeds["asked"] = asked
    return speeds


def many(monkeypatch, folder, count):
    """Let a folder of a few photos count as one of many."""
    photos(folder, 4, (250, 250))
    opened = training.open_unlabeled

    class Many:
        def __init__(self, source):
            self.image_shape = source.image_shape

        def __len__(self):
            return count

    monkeypatch.setattr(
        proposing,
        "open_unlabeled",
        lambda *given, **options: dataclasses.replace(made := opened(*given, **options), train=Many(made.train)),
    )
    return folder


@torch_only
@pytest.mark.parametrize(
    ("hours", "model", "size", "epochs", "why"),
    [
        (100, "small", 224, 540, "large enough for so few images, and fast enough"),
        (5, "tiny", 224, 54, "the next larger one takes 6 h 57 min for 40 epochs"),
        (1, "micro", 128, 54, "the next larger one takes 3 h 28 min for 40 epochs"),
        (0.1, "micro", 128, 5, "the cheapest that is tried; none does enough epochs in time"),
    ],
)
def test_the_largest_that_does_enough_epochs_in_time_is_proposed(
    tmp_path, monkeypatch, speed, hours, model, size, epochs, why
):
    plan = planning.make_plan(many(monkeypatch, tmp_path / "x", 20_000), hours=hours)
    assert (plan.preset.split("_")[2], plan.image_shape, plan.patch_size) == (model, (size, size, 3), (16, 16))
    assert plan.recipe.epochs == epochs
    assert plan.settings["model"]["model"][1] == why
    assert plan.seconds == 5 + epochs * plan.chosen.epoch_seconds - plan.chosen.step_seconds
    assert plan.seconds <= 3600 * hours
    assert math.isinf(speed["asked"][-1][-1]) == (model == "micro")  # the last one is measured well in any case


@torch_only
def test_after_a_while_only_the_cheapest_is_measured(tmp_path, monkeypatch, speed):
    time, measure = Time(), proposing.measure
    monkeypatch.setattr(proposing, "time", time)

    def slowly(*args, **options):
        time.now += 120.0
        return measure(*args, **options)

    monkeypatch.setattr(proposing, "measure", slowly)
    speed |= {"micro": 0.001}
    plan = planning.make_plan(many(monkeypatch, tmp_path / "x", 20_000), hours=0.1)
    assert [one[:2] for one in speed["asked"]] == [("small", 224), ("micro", 128)]
    assert "to measure all larger ones would have taken too long" in plan.settings["model"]["model"][1]


@torch_only
def test_models_that_do_not_fit_into_memory_are_passed_over(tmp_path, monkeypatch, speed):
    speed |= {"small": None, "tiny": -16.0}  # fits in batches of 16, at 16 s a step
    plan = planning.make_plan(many(monkeypatch, tmp_path / "x", 20_000), hours=1e6)
    assert [one.preset for one in plan.too_large] == ["mae_vit_small_patch16_224"]
    assert (plan.recipe.batch_size, plan.settings["training"]["batch_size"][1]) == (16, "as many as fit into memory")
    assert [one[:3] for one in speed["asked"]] == [
        ("small", 224, 32),
        ("small", 224, 16),
        ("tiny", 224, 32),
        ("tiny", 224, 16),
    ]
    assert "mae_vit_small_patch16_224 at 224, patches of 16: does not fit into memory" in str(plan)
    assert plan.settings["model"]["model"][1] == "no larger one fits into memory"
    speed |= dict.fromkeys(("tiny", "micro"))
    with pytest.raises(ValueError, match="No model fits into memory"):
        planning.make_plan(tmp_path / "x")


@torch_only
def test_a_plan_is_written_once_and_says_why(tmp_path, speed):
    plan = planning.make_plan(photos(tmp_path / "x"), preset="mae_vit_tiny_patch4_32", epochs=3, workers=1)
    plan.save(tmp_path / "plan.toml")
    text = (tmp_path / "plan.toml").read_text()
    assert text.startswith("# Planned for 6 images of 20 x 20 pixels, colors, 8-bit integers.\n# Expected: ")
    content = tomllib.loads(text)
    assert content["model"] == {
        "model": "mae_vit_tiny_patch4_32",
        "image_size": "32x32",
        "patch_size": "4x4",
        "channels": 3,
    }
    assert (content["size"], content["run"], content["training"]["epochs"]) == ("small_images", {"workers": 1}, 3)
    for line in text.splitlines():
        if " = " in line and not line.startswith(("#", "kind", "data")):
            assert "  # " in line
    for row in plan.rows():
        assert row[2] in str(plan)
    for wrong in ("plan.toml", "plan.json"):
        with pytest.raises(ValueError, match="`out` must be the name of a file"):
            plan.save(tmp_path / wrong)
    assert plans.check_free(tmp_path / "other.toml").name == "other.toml"


@torch_only
def test_a_plan_says_who_chose_levels_and_channels():
    found, one = survey(channels=13), Candidate("x", (32, 32), (4, 4), weights=SimpleNamespace(image_shape=(8, 8, 3)))
    asked = dict.fromkeys(("model", "patch_size", "channels", "pixel_range", "white_level", "max_pixels", "loader"))
    asked |= {"workers": None, "allow_damaged": 0.0, "precision": "float32", "weights": "x.keras"}

    def reasons(candidate=one, measured="", channels=13, **given):
        seen = dataclasses.replace(found, pixel_range=(0.0, 1.0), measured=measured, channels=channels)
        rows = proposing._told("x", seen, candidate, asked | given, "")
        return rows["data"]["pixel_range"][1], rows["model"]["channels"][1]

    assert reasons() == ("as the folder was prepared", "so many bands: 1 of 200 images looked at")
    assert reasons(channels=3, measured="all images hold 0 to 1") == ("all images hold 0 to 1", "that of the weights")
    assert reasons(pixel_range=(0.0, 1.0), channels=3) == ("as asked for", "that of the weights")


@torch_only
def test_a_plan_warns_of_few_updates_and_of_other_programs(tmp_path, speed):
    said = []
    plan = planning.make_plan(photos(tmp_path / "x"), preset="mae_vit_tiny_patch4_32", epochs=999, say=said.append)
    assert "measuring" in said[-1]
    [few] = plan.warnings
    assert few.startswith("the run updates the weights only 999 times")
    enough = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, epochs=1000))
    assert enough.warnings == []
    slowed = dataclasses.replace(plan.chosen, notice="other programs are at work")
    both = dataclasses.replace(plan, measured=(plan.chosen, slowed))
    assert both.warnings == [few, "these times are too long: other programs are at work"]
    assert str(both).endswith(f"\nwarning: {few}\nwarning: {both.warnings[1]}")
    both.save(tmp_path / "plan.toml")
    assert f"\n# Warning: {few}.\n# Warning: {both.warnings[1]}.\n" in (tmp_path / "plan.toml").read_text()


@torch_only
def test_a_run_that_goes_on_from_weights_is_planned(keras_mae_command, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_SECONDS", 0.05)
    encoder = keras_mae.ViTEncoder((16, 8, 3), (4, 2), embed_dim=8, depth=1, num_heads=2)
    keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2)).save("old.keras")
    Image.fromarray(RNG.integers(0, 256, (20, 20), dtype="uint8")).save(photos(tmp_path / "x", 0) / "gray.png")
    options = ("--weights", "old.keras", "--epochs", 1)
    status, out, err = keras_mae_command("plan", "x", *options)
    assert (status, err, "old.keras at 16x8, patches of 4x2: " in out) == (0, "", True)
    content = tomllib.loads((tmp_path / "plan.toml").read_text())
    assert content["model"] == {"weights": "old.keras", "image_size": "16x8", "channels": 3}
    assert keras_mae_command("pretrain", "x", "--recipe", "plan.toml", "--out", "run")[0] == 0
    assert training.RunDirectory("run").metadata["weights"] == "old.keras"
    for wrong in (("--model", "mae_vit_micro_patch4_32"), ("--patch-size", 2), ("--image-size", 9)):
        status, _, err = keras_mae_command("plan", "x", *options, *wrong, "--out", "other.toml")
        assert (status, err.count("\n")) == (2, 1)


@torch_only
def test_a_built_in_data_set_is_refused():
    with pytest.raises(ValueError, match="the recipe for digits is known"):
        planning.make_plan("digits")


def test_a_plan_is_made_and_run(keras_mae_command, tmp_path, monkeypatch):
    """As a user types it: the run takes the plan's numbers and shapes."""
    monkeypatch.setattr(measuring, "_SECONDS", 0.05)
    photos(tmp_path / "photos", 7)
    options = ("--image-size", "8x16", "--channels", 1, "--batch-size", 3, "--epochs", 2, "--loader", "grain")
    status, out, err = keras_mae_command("plan", "photos", *options)
    assert (status, err) == (0, "")
    for word in ("7 images of 20 x 20", "expected: ", "8x16", "as asked for", "pretrain --recipe plan.toml"):
        assert word in out
    status, _, err = keras_mae_command("plan", "photos")
    assert (status, "`out` must be the name of a file that does not exist" in err) == (2, True)
    assert keras_mae_command("pretrain", "photos", "--recipe", "plan.toml", "--out", "run")[0] == 0
    run = training.RunDirectory("run")
    assert run.recipe == numbers.planned(PretrainRecipe.for_size("small_images", images=7), batch=3, epochs=2)
    encoder = keras.saving.load_model("run/encoder.keras")
    assert (encoder.image_shape, encoder.patch_size) == ((8, 16, 1), (2, 2))
