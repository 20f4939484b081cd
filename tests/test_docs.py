"""Every Python block and every command in the README, CONTRIBUTING.md and docs/ is run, or checked as far as can be.

Python runs statement by statement, a page in one namespace, on small stand-ins for models, images and downloads.
`keras-mae` commands run in this process with options that make them short; those that would train for minutes or take
a network are parsed to their last option. Other commands are checked to name what exists. A command of a kind that is
not known here is an error: somebody has to say how it is checked.
"""

import ast
import dataclasses
import importlib.util
import inspect
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import docs_helpers
import keras
import pytest
import typer
from docs_helpers import PAGES, PROJECT, blocks, commands, mentions

import keras_mae
import keras_mae.cli

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
LANGUAGES = {"python", "bash", "text", "toml", "bibtex", "{toctree}", "{include}", "{eval-rst}"}
# What a statement takes beside the backend, by docs/backends.md and docs/weights.md; without it, it is passed over.
TAKES = {
    "from_tfrecords": ["tensorflow"],
    "from_dataset": ["tensorflow"],
    "weights=": ["torch"],
    ".pth": ["torch"],
    "keras_hub": ["keras_hub"],
    "keras_cv": ["tensorflow", "keras_cv"],
    "cutout": ["tensorflow", "keras_cv"],
    "detector": ["keras_hub"],
    '"onnx"': ["tensorflow", "tf2onnx", "onnxruntime"],
}

# What a page calls has tests of its own on every backend; two pages have statements that take TensorFlow.
TESTED_ON = {
    "README.md": ["torch", "tensorflow"],  # JAX compiles for longest, and has a guide that does the same
    "docs/data.md": ["torch", "tensorflow"],
    "docs/weights.md": ["torch", "tensorflow"],
}


def pages_with(language):
    return [page for page in PAGES if any(block.language == language for block in blocks(page))]


@pytest.mark.backends("torch")
@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_known_language(page):
    text = (PROJECT / page).read_text(encoding="utf-8")
    found = blocks(page)
    assert 2 * len(found) == len(re.findall("^ *```", text, re.MULTILINE))
    assert {block.language for block in found} <= LANGUAGES


# === Python ===
def readme(monkeypatch):
    monkeypatch.setattr(keras_mae.data, "digits", lambda: (docs_helpers.images(), docs_helpers.labels()))
    return {}


def data_page(monkeypatch):
    docs_helpers.write_folder(Path.cwd() / "photos")
    docs_helpers.write_folder(Path.cwd() / "flowers", ("roses", "tulips"))
    images, labels = docs_helpers.images(), docs_helpers.labels()
    names = {"images": images, "labels": labels, "masks": images[..., 0] % 3}
    docs_helpers.write_pairs(Path.cwd() / "rooms", "val")
    signature = inspect.signature(keras_mae.data.from_tfds)
    local_pairs = keras_mae.data.pairs_from_arrays(images, names["masks"], 16)
    monkeypatch.setattr(keras_mae.data, "pairs_from_tfds", lambda *arguments, **options: local_pairs)

    def local(*arguments, **options):
        given = signature.bind(*arguments, **options).arguments
        return keras_mae.data.from_arrays(images, labels, batch_size=given["batch_size"])

    monkeypatch.setattr(keras_mae.data, "from_tfds", local)
    if importlib.util.find_spec("tensorflow"):
        import tensorflow as tf

        names["any_tf_dataset"] = tf.data.Dataset.from_tensor_slices((images, labels))
        keras_mae.data.prepare("flowers", "shards", format="tfrecord", labeled=True)
    return names


def transfer_page(monkeypatch):
    """Recipes of two epochs where the page has twenty."""
    for_size = keras_mae.recipes.FineTuneRecipe.for_size

    def short(*arguments, **changes):
        return for_size(*arguments, **{**changes, "epochs": changes.get("patience", 1) + 1})

    monkeypatch.setattr(keras_mae.recipes.FineTuneRecipe, "for_size", staticmethod(short))
    names = {"images": docs_helpers.images(), "labels": docs_helpers.labels(), "keras_mae": keras_mae}
    return names | {"mae": docs_helpers.masked_autoencoder()}


def dense_page(monkeypatch):
    encoder = keras_mae.ViTEncoder((8, 8, 1), 2, embed_dim=12, depth=4, num_heads=3, mlp_ratio=2)
    docs_helpers.write_pairs(Path.cwd() / "rooms", ".")
    images = docs_helpers.images(8)
    return {"images": images, "masks": images[..., 0] % 3, "encoder": encoder, "keras_mae": keras_mae}


def visualize_page(monkeypatch):
    for name in ("a", "b"):
        folder = Path.cwd() / "runs" / name
        folder.mkdir(parents=True)
        (folder / "history.csv").write_text("epoch,loss,val_loss\n1,0.8,0.9\n2,0.5,0.6\n")
    mae = docs_helpers.masked_autoencoder()
    names = {"images": docs_helpers.images(8), "mae": mae, "keras_mae": keras_mae}
    return names | {"classifier": keras_mae.ViTClassifier(mae.encoder, 10)}


def weights_page(monkeypatch):
    """Local files of small models in place of what the page loads."""
    docs_helpers.small_presets(monkeypatch)
    mae = keras_mae.MaskedAutoencoder.from_preset("mae_vit_base_patch16_224", norm_pix_loss=True)
    keras_mae.convert.save(mae, "on_the_hub", "transformers")
    mae.encoder.save_to_preset("my_encoder")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: "on_the_hub")
    if importlib.util.find_spec("torch"):
        keras_mae.convert.save(mae, "mae_pretrain_vit_base_full.pth", "reference")
        keras_mae.convert.save(keras_mae.ViTClassifier(mae.encoder, 10), "checkpoint-799.pth", "reference")
    return {"mae": mae}


def distributed_page(monkeypatch):
    docs_helpers.small_presets(monkeypatch)
    docs_helpers.write_folder(Path.cwd() / "photos")
    load, fit = keras_mae.data.from_directory, keras_mae.MaskedAutoencoder.fit
    monkeypatch.setattr(
        keras_mae.data, "from_directory", lambda *names, **options: load(*names, **options | {"batch_size": 3})
    )
    monkeypatch.setattr(
        keras_mae.MaskedAutoencoder, "fit", lambda *given, epochs: fit(*given, epochs=min(epochs, 1), verbose=0)
    )
    return {"keras_mae": keras_mae}


def asking_page(monkeypatch):
    for name in ("photos", "another"):
        docs_helpers.write_folder(Path.cwd() / name)
    (Path.cwd() / "another" / "1.png").rename(Path.cwd() / "another" / "1.jpg")
    encoder = keras_mae.ViTEncoder((8, 8, 3), 4, embed_dim=8, depth=1, num_heads=2)
    names = {"classifier": keras_mae.ViTClassifier(encoder, 2), "mae": encoder}
    return names | {name: getattr(keras_mae, name) for name in ("transfer", "visualize")}


def enough_page(monkeypatch):
    mae = docs_helpers.masked_autoencoder()
    mae.compile(keras_mae.optimizers.AdamW(1e-3), run_eagerly=True)
    docs_helpers.write_folder(Path.cwd() / "photos")
    encoder = keras_mae.ViTEncoder((8, 8, 3), 4, embed_dim=8, depth=1, num_heads=2)
    keras_mae.transfer.embed(encoder, "photos", "photos.npz", progress=False)
    return {"images": docs_helpers.images(), "mae": mae}


def tracking_page(monkeypatch):
    """Trackers that keep what they are told, and runs that train by the name of their directory."""
    docs_helpers.write_folder(Path.cwd() / "photos", images_each=12)
    told = []
    tracker = docs_helpers.Tracker(told)
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    monkeypatch.setitem(sys.modules, "mlflow", tracker)
    monkeypatch.setattr(keras.callbacks, "TensorBoard", lambda folder: keras.callbacks.Callback())
    train = keras_mae.training.run_pretraining

    def short(model, *, recipe, callbacks, run_directory, **feed):
        short_recipe = dataclasses.replace(recipe, epochs=1, warmup_epochs=0, batch_size=5)
        before = len(told)
        images = keras_mae.training.open_unlabeled("photos", model.encoder.image_shape, validation=0.2)
        train(model.copy(), **images.feed(short_recipe), callbacks=callbacks, run_directory=run_directory)
        assert run_directory == "runs/a" or {"loss", "val_loss", "rankme"} <= told[before].keys()

    monkeypatch.setattr(keras_mae.training, "run_pretraining", short)
    encoder = keras_mae.ViTEncoder((8, 8, 3), 4, embed_dim=8, depth=1, num_heads=2)
    return {"mae": keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2))}


def parts_page(monkeypatch):
    """Ray as a loop."""
    docs_helpers.write_folder(Path.cwd() / "photos", images_each=16)
    keras_mae.ViTEncoder((8, 8, 3), 4, embed_dim=8, depth=1, num_heads=2).save("encoder.keras")

    def remote(**resources):
        return lambda function: SimpleNamespace(remote=function)

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda: None, remote=remote, get=list))
    return {}


STAND_INS = {
    "docs/enough.md": enough_page,
    "docs/parts.md": parts_page,
    "docs/tracking.md": tracking_page,
    "docs/asking.md": asking_page,
    "README.md": readme,
    "docs/data.md": data_page,
    "docs/dense.md": dense_page,
    "docs/options.md": transfer_page,
    "docs/transfer.md": transfer_page,
    "docs/visualize.md": visualize_page,
    "docs/weights.md": weights_page,
    "docs/distributed.md": distributed_page,
}


def missing_for(source):
    packages = {package for fragment, packages in TAKES.items() if fragment in source for package in packages}
    return sorted(package for package in packages if importlib.util.find_spec(package) is None)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.backends(*TESTED_ON.get(page, ["torch"])))
        for page in pages_with("python")
    ],
)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = STAND_INS[page](monkeypatch)
    for block in blocks(page):
        for node, source in block.statements() if block.language == "python" else ():
            if missing_for(source):
                continue
            if not isinstance(node, ast.Expr):
                exec(compile(ast.Module([node], []), page, "exec"), names)
                continue
            value = eval(compile(ast.Expression(node.value), page, "eval"), names)
            if page == "docs/data.md":
                assert len(value) > 0
                batch = next(iter(value))
                assert "uint8" in str((batch[0] if isinstance(batch, tuple) else batch).dtype)
    keras.config.set_dtype_policy("float32")


# === keras-mae ===
# A command, and the options that make it short here. They run in this order, in one folder: one finds another's run.
RUN = {
    "keras-mae --help": "",
    "keras-mae pretrain": "--epochs 1 --batch-size 479",
    "keras-mae pretrain --watch 5": "--epochs 1 --watch 1 --batch-size 718",
    "keras-mae info runs/digits-1/model.keras": "",
    "keras-mae finetune runs/digits-1/model.keras": "--epochs 1 --num-labels 64",
    "keras-mae probe runs/digits-1/model.keras": "--epochs 1 --num-labels 64",
    "keras-mae probe runs/digits-1/model.keras --pooling attentive": "--epochs 1 --num-labels 64",
    "keras-mae knn runs/digits-1/model.keras": "--num-labels 64",
    "keras-mae evaluate runs/finetune-digits-1/classifier.keras": "",
    "keras-mae predict runs/finetune-digits-1/classifier.keras photos/ --out predictions.csv": "",
    "keras-mae embed runs/digits-1/model.keras photos/ --out photos.npz": "",
    "keras-mae similar photos.npz 1.png photos/2.png --k 2 --out similar.png": "",
    "keras-mae map photos.npz --method pca": "",
    "keras-mae reconstruct runs/digits-1/model.keras photos/1.png photos/2.png --out picture.png": "",
    "keras-mae pretrain digits --schedule wsd --epochs 40 --out runs/open --resume": "--epochs 2 --batch-size 479",
    "keras-mae pretrain digits --schedule wsd --epochs 80 --out runs/open --resume": "--epochs 3 --batch-size 479",
    "keras-mae prepare photos/ --check": "",
    "keras-mae prepare photos/ shards/ --short-side 256": "",
    "keras-mae pretrain shards/": "--epochs 1 --model mae_vit_micro_patch4_32",
}
# The beginning of a command that is only parsed, and why.
PARSED = {
    "keras-mae pretrain fashion_mnist": "takes an hour",
    "keras-mae finetune runs/fashion_mnist/model.keras fashion_mnist": "takes what that leaves",
    "keras-mae probe runs/fashion_mnist/model.keras fashion_mnist": "takes what that leaves",
    "keras-mae pretrain digits --optimizer muon": "runs/open is trained with it",
    "keras-mae pretrain digits --ema-momentum 0.999": "runs/open is trained with it",
    "keras-mae finetune runs/digits-1/model.keras --ema-momentum 0.999": "test_averages.py does it",
    "keras-mae finetune runs/digits-1/model.keras --num-labels 200": "test_cli_transfer.py does it",
    "keras-mae convert mae_": "takes a published checkpoint",
    "keras-mae pretrain photos/ --weights mae_": "takes a published checkpoint",
    "keras-mae evaluate classifier.keras val/ --size base": "takes what a published checkpoint becomes",
    "keras-mae export runs/digits-1/model.keras --format onnx": "test_exporting.py does it, where TensorFlow is",
    "keras-mae pretrain photos/ --size base": "takes many devices",
    "keras-mae embed encoder.keras photos/ --out parts/03.npz --part 3/16": "there are three photographs",
    "keras-mae join parts/01.npz parts/02.npz parts/03.npz --out photos.npz": "test_cli_asking.py does it",
    "keras-mae anomaly runs/photos-1/model.keras": "test_anomaly_runs.py does it",
    "keras-mae plan photos/": "test_planning.py does it",
    "keras-mae segment runs/photos-1/encoder.keras": "test_cli_segmenting.py does it",
    "keras-mae evaluate runs/segment-rooms-1/segmenter.keras more_rooms/": "test_cli_segmenting.py does it",
    "keras-mae predict runs/segment-rooms-1/segmenter.keras photos/": "test_cli_segmenting.py does it",
    "keras-mae pretrain photos/ --validation 0.1 --rankme-every 5": "test_recipe_runs.py does it",
    "keras-mae pretrain digits --validation 0.1 --rankme-every 5": "test_recipe_runs.py does it",
    "keras-mae prepare photos/ shards/ --short-side 256 --part 3/16": "there are three photographs",
    "keras-mae prepare shards/ --merge": "test_cli.py does it",
    "keras-mae pretrain shards/ --epochs 100": "is run with fewer",
    **dict.fromkeys(
        (
            "keras-mae plan photos/train",
            "keras-mae pretrain --recipe plan.toml --out runs/first",
            "keras-mae pretrain photos/train --weights",
            "keras-mae embed runs/second/",
            "keras-mae similar photos.npz cat/",
            "keras-mae map photos.npz --out map.html",
            "keras-mae finetune runs/second/",
            "keras-mae predict runs/classifier/",
            "keras-mae anomaly runs/second/",
        ),
        "docs/session.md takes half an hour",
    ),
}
OURS = [command for command in commands(PAGES) if command.words[0] == "keras-mae"]
OTHERS = [
    command for command in dict.fromkeys([*commands(PAGES), *mentions(PAGES)]) if command.words[0] != "keras-mae"
]
MENTIONED = [command for command in mentions(PAGES) if command.words[0] == "keras-mae"]
ONLY_PARSED = sorted({str(command) for command in OURS if str(command).startswith(tuple(PARSED))} - set(RUN))


def parse(arguments):
    """Parse all of a command's arguments, as typer does before it calls the command."""
    command = typer.main.get_command(keras_mae.cli.app).commands[arguments[0]]
    command.make_context(arguments[0], list(arguments[1:]))


@pytest.mark.backends("torch")
def test_every_keras_mae_command_is_run_or_there_is_a_reason_not_to():
    shown = {str(command) for command in OURS}
    assert shown == {*RUN, *ONLY_PARSED}
    assert [start for start in PARSED if not any(command.startswith(start) for command in ONLY_PARSED)] == []


@pytest.mark.backends("torch")
@pytest.mark.parametrize("command", ONLY_PARSED)
def test_a_command_parses_to_its_last_option(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text('kind = "pretrain"\nsize = "photos"\n')
    parse(shlex.split(command)[1:])


@pytest.mark.backends("torch")
@pytest.mark.parametrize("command", MENTIONED, ids=str)
def test_a_command_in_the_text_has_the_options_it_names(command):
    known = typer.main.get_command(keras_mae.cli.app).commands
    if command.words[1] in ("COMMAND", "--help"):
        return
    options = {option for parameter in known[command.words[1]].params for option in parameter.opts}
    assert {word for word in command.words if word.startswith("--")} <= options


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands of all pages run: their own runs are joined by these images."""
    folder = tmp_path_factory.mktemp("commands")
    docs_helpers.write_folder(folder / "photos")
    return folder


@pytest.mark.backends("torch")
@pytest.mark.parametrize("command", RUN)
def test_a_command_runs(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    docs_helpers.small_presets(monkeypatch)
    monkeypatch.setattr("sys.argv", shlex.split(f"{command} {RUN[command]}"))
    with pytest.raises(SystemExit) as stop:
        keras_mae.cli.main()
    assert stop.value.code == 0, capsys.readouterr().err


# === Other commands ===
def check_python(words):
    """`python SCRIPT ...`, `python -m MODULE ...`."""
    if words[0] == "-m":
        assert words[1] in ("pytest", "venv")
        scripts = [word for word in words[2:] if word.endswith(".py")]
        assert all((PROJECT / script).is_file() for script in scripts)
        return
    script = PROJECT / words[0]
    known = set(re.findall(r'"(--?[a-z][\w-]*|generate|execute)"', script.read_text(encoding="utf-8")))
    known |= set(re.findall(r'"(--[a-z][\w-]*)"', (PROJECT / "examples" / "study.py").read_text(encoding="utf-8")))
    assert [word for word in words[1:] if word.startswith("-") and word not in known] == []
    if script.name == "make_notebooks.py":
        assert words[1] in known
        assert all((PROJECT / "guides" / f"{guide}.py").is_file() for guide in words[2:])


def check_pip(words):
    """`pip install [-e] ".[EXTRAS]" PACKAGES`."""
    assert words[0] == "install"
    for word in words[1:]:
        if extras := re.fullmatch(r"\.\[([\w,-]+)\]", word):
            assert set(extras[1].split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])
        else:
            assert word in ("-e", "pillow-heif", "pytest", "pre-commit", "ray", "tensorboard", "tox")


def check_tox(words):
    """`tox run-parallel` or `tox -e NAMES [-- FILES]`."""
    words, files = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    assert all((PROJECT / file).is_file() for file in files)
    tox = PYPROJECT["tool"]["tox"]
    made = {f"{base}-{factor}" for base, made in tox["env_base"].items() for factor in made["factors"]}
    assert words in (["run-parallel"], ["-e", *words[1:]])
    assert set(",".join(words[1:]).split(",")) - {""} <= made | {*tox["env"], *tox["env_list"]}


def check_torchrun(words):
    """`torchrun --nproc-per-node N -m keras_mae.cli ...`."""
    assert words[0] == "--nproc-per-node"
    assert int(words[1]) > 0
    assert words[2:4] == ["-m", "keras_mae.cli"]
    assert importlib.util.find_spec("keras_mae.cli.__main__")
    parse(words[4:])


def check_git(words):
    assert words == ["clone", PYPROJECT["project"]["urls"]["Repository"]]


def check_cd(words):
    assert words == ["keras_mae"]  # the clone


def check_source(words):
    assert words == [".venv/bin/activate"]  # `python -m venv .venv` goes before


def check_pre_commit(words):
    assert words == ["install"]
    assert (PROJECT / ".pre-commit-config.yaml").is_file()


CHECKS = {
    ".": check_source,
    "cd": check_cd,
    "git": check_git,
    "pip": check_pip,
    "pre-commit": check_pre_commit,
    "python": check_python,
    "torchrun": check_torchrun,
    "tox": check_tox,
}


@pytest.mark.backends("torch")
@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_another_command_names_what_exists(command):
    name, *words = command.words
    assert name in CHECKS, "say in CHECKS how this kind of command is checked"
    CHECKS[name](words)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    "command", [command for command in [*commands(PAGES), *mentions(PAGES)] if command.variables], ids=str
)
def test_a_commands_environment_is_one_that_is_read(command):
    for name, value in command.variables:
        allowed = {"KERAS_BACKEND": ("tensorflow", "jax", "torch"), "OMP_NUM_THREADS": ("1",)}
        allowed["MALLOC_MMAP_THRESHOLD_"] = ("65536",)
        allowed["GLIBC_TUNABLES"] = ("glibc.malloc.hugetlb=1",)
        assert value in allowed[name]


# === What else must agree ===
@pytest.mark.backends("torch")
def test_ci_runs_the_readmes_test_command():
    ci = (PROJECT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    command = next(block.text for block in blocks("README.md") if block.text.endswith("&& tox run-parallel\n"))
    assert set(command.strip().split(" && ")) <= {line.strip() for line in ci}


@pytest.mark.backends("torch")
def test_the_readme_stays_short():
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.backends("torch")
@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "SECURITY.md"])
def test_local_links_lead_somewhere(page):
    path = PROJECT / page
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in local if not (path.parent / link).exists()] == []


@pytest.mark.backends("torch")
def test_pre_commit_runs_what_the_lint_environment_runs():
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (PROJECT / "tests" / "constraints.txt").read_text(), re.MULTILINE))
    hooks = (PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"rev: v(\S+)", hooks) == [pinned["ruff"], pinned["mypy"]]
    installed = re.search(r"additional_dependencies: \[(.+)\]", hooks)[1].split(", ")
    assert {"ruff", "mypy", *installed} == set(PYPROJECT["tool"]["tox"]["env"]["lint"]["deps"])


@pytest.mark.backends("torch")
def test_the_floors_environments_take_the_declared_floors():
    pinned = dict(re.findall(r"^(\w+)==(\S+)$", (PROJECT / "tests" / "floors.txt").read_text(), re.MULTILINE))
    extras = PYPROJECT["project"]["optional-dependencies"]
    declared = [*PYPROJECT["project"]["dependencies"], *(extras[name][0] for name in ("torch", "jax", "tensorflow"))]
    floors = dict(re.match(r"([\w-]+)>=([\d.]+)", requirement).groups() for requirement in declared)
    assert {name: f"{floor}.0.0"[: len(pinned[name])] for name, floor in floors.items()} == pinned


@pytest.mark.backends("torch")
def test_the_workflow_runs_every_environment():
    workflow = (PROJECT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w-]+", workflow))
    assert set(PYPROJECT["tool"]["tox"]["env_list"]) - named == set()
