"""What an import costs and brings along, and which module may import which."""

import ast
import fnmatch
import graphlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_mae

pytestmark = pytest.mark.backends("torch")

ROOT = Path(keras_mae.__file__).parent
PROJECT = Path(__file__).parent.parent
BACKENDS = {"jax", "tensorflow", "torch"}
OPTIONAL = {"sklearn", "matplotlib", "PIL", "transformers", "skimage", "scipy", "grain", "typer"}
OPTIONAL |= {"safetensors", "keras_hub", "huggingface_hub", "tf_keras_vis", "tensorboard"}
OPTIONAL |= {"datasets", "imagecodecs", "pydicom", "tifffile", "zarr"}

_MEASURE = """
import json, sys, time
import keras
before = set(sys.modules)
start = time.process_time()
import keras_mae
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "new": sorted(set(sys.modules) - before)}))
"""


@pytest.fixture(scope="module")
def fresh_imports():
    """What `import keras_mae` does after `import keras` in a new process; twice where there was no bytecode."""
    runs = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    while len(runs) < 2 and not any(run["seconds"] < 0.3 for run in runs):
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE], env=environment, capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return runs


def test_import_brings_no_backend_and_no_optional_package(fresh_imports):
    new = {name.partition(".")[0] for name in fresh_imports[0]["new"]}
    assert new & (BACKENDS | OPTIONAL) == set()


def test_import_brings_nothing_but_the_package_and_the_standard_library(fresh_imports):
    new = {name.partition(".")[0] for name in fresh_imports[0]["new"]}
    assert new - set(sys.stdlib_module_names) == {"keras_mae"}


def test_import_costs_less_than_03_seconds(fresh_imports):
    assert min(run["seconds"] for run in fresh_imports) < 0.3


# === Who may import whom ===
LEAVES = {"_backend", "_checks", "_files", "_optional", "_types", "distribution", "from_preset", "ops", "random"}
LEAVES |= {"_class_names", "_colors", "_interrupt", "_saving", "_terminal", "first_batch", "fit_arguments", "pixels"}
LEAVES |= {"compiled_blocks", "fused_attention", "jax_cpu", "sharding", "tensorflow_cpu"}
FIRST = {"patches", "pooling", "positions", "transformer", "masking", "presets", "window_attention"}
SECOND = {"cross_attention", "encoder", "decoder", "loss"}
MODEL = {"copying", "fusion", "mask_inputs", "masked_autoencoder", "partial_prediction", "reconstruction", "targets"}
MODEL |= {"train_step", "unlabeled"}
LEARNING = {"data", "optimizers", "recipes", "classifier", "segmenter"}
HEADED = {"file_predictions", "fine_tuned", "frozen_features", "labels", "train_step"}
# Part of the package -> parts it may import, at once or late.
ALLOWED = {
    **{part: LEAVES - {part} for part in LEAVES},
    **{part: LEAVES for part in FIRST},
    **{part: LEAVES | FIRST for part in SECOND},
    "feature_maps": LEAVES | FIRST,
    "encoder": LEAVES | FIRST | {"copying", "feature_maps"},
    "cross_attention": LEAVES | FIRST | {"decoder"},
    "train_step": LEAVES,
    "reconstruction": LEAVES | FIRST | SECOND,
    "copying": LEAVES | FIRST,
    "fusion": LEAVES | {"encoder", "decoder"},
    "targets": LEAVES | FIRST | SECOND,
    "mask_inputs": LEAVES | FIRST,
    "unlabeled": LEAVES | {"mask_inputs", "train_step"},
    "partial_prediction": LEAVES | FIRST,
    "masked_autoencoder": LEAVES | FIRST | SECOND | MODEL - {"masked_autoencoder"},
    "dense": LEAVES | {"loss"},
    "labels": LEAVES | {"loss"},
    "frozen_features": LEAVES | {"encoder"},
    "file_predictions": LEAVES | {"data", "labels"},
    "fine_tuned": LEAVES | {"encoder"},
    "classifier": LEAVES | FIRST | {"encoder", "loss"} | HEADED,
    "detection": LEAVES | {"dense", "encoder"},
    "file_segmentations": LEAVES | {"data", "dense"},
    "segmenter": LEAVES | {"file_segmentations", "dense", "encoder", "fine_tuned", "train_step"},
    "optimizers": LEAVES,
    "recipes": LEAVES | {"masking", "optimizers", "pooling"},
    "data": LEAVES,
    "transfer": LEAVES
    | FIRST
    | LEARNING
    | HEADED - {"train_step"}
    | {"dense", "encoder", "file_segmentations", "loss"},
    "visualize": LEAVES | FIRST | SECOND | MODEL | {"classifier"},
    "convert": LEAVES | FIRST | SECOND | MODEL | {"classifier", "segmenter"},
}
ALLOWED["training"] = set(ALLOWED) - {"convert"}
ALLOWED["anomaly"] = set(ALLOWED) - {"convert"}
ALLOWED["planning"] = set(ALLOWED) - {"anomaly"}
ALLOWED["keras_mae"] = set(ALLOWED)  # the package's own namespace
ALLOWED["cli"] = set(ALLOWED)
MAY_NAME_A_BACKEND = ("train_step/", "data/", "distribution.py", "first_batch.py", "ops.py", "convert/")
MAY_NAME_A_BACKEND += ("compiled_blocks.py", "fused_attention.py", "jax_cpu.py", "sharding.py", "tensorflow_cpu.py")
MAY_NAME_A_BACKEND += ("optimizers/adamw.py", "optimizers/averages.py", "optimizers/muon.py", "training/memory.py")
MAY_LOAD_A_BACKEND_AT_ONCE = (
    "train_step/",
    "data/",
    "jax_cpu.py",
    "sharding.py",
    "tensorflow_cpu.py",
)  # the others import one inside functions only
IMPORTING = ("import_module", "require", "__import__")  # functions that import what they are given the name of

FILES = sorted(ROOT.rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]
# Full name of a module -> its file's name.
MODULES = {
    ".".join(("keras_mae", *name.removesuffix(".py").split("/"))).removesuffix(".__init__"): name for name in NAMES
}


def part_of(module):
    return module.split(".")[1] if "." in module else module


def imports_of(tree):
    """(module, name or None, inside a function) for every import of a file, wherever it stands.

    A module that a call imports by a text counts, as in `require("torch", ...)`; of f"keras_mae.train_step.{name}"
    the module is "keras_mae.train_step.*".
    """

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, None, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                if child.level:
                    pytest.fail("imports are absolute, so that this test can read them")
                yield from ((child.module, alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.Call) and called(child) in IMPORTING and (text := text_of(child.args[:1])):
                yield text, None, inside
            yield from visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return list(visit(tree, False))


def called(call):
    """The last name of a function that is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)


def text_of(arguments):
    """The text that the first argument is, with a star for what is filled in; none if it is no text."""
    parts = [part for argument in arguments for part in getattr(argument, "values", [argument])]
    texts = [part.value if isinstance(part, ast.Constant) else "*" for part in parts]
    return "".join(text for text in texts if isinstance(text, str)) if texts != ["*"] else ""


def tree_of(name):
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def imported_by(module):
    """The package's modules that one of them runs when it is imported or used.

    `from keras_mae import x` is x if that is a module. Importing a module of another package runs that package's
    `__init__` too, with all that it re-exports; of one's own packages it is running already.
    """
    found = set()
    for source, name, _ in imports_of(tree_of(MODULES[module])):
        target = f"{source}.{name}" if f"{source}.{name}" in MODULES else source
        if target.split(".")[0] != "keras_mae":
            continue
        targets = fnmatch.filter(MODULES, target)
        assert targets, f"{module} imports {target}, which is not there"
        parents = [target.rpartition(".")[0]]
        while "." in parents[-1]:
            parents.append(parents[-1].rpartition(".")[0])
        found |= {*targets, *(parent for parent in parents if not f"{module}.".startswith(f"{parent}."))}
    if module == "keras_mae":  # it loads whatever is public on first use, and the command line is not
        found = {other for other in found if part_of(other) != "cli"}
    return found - {module, ""}


@pytest.fixture(scope="module")
def graph():
    return {module: imported_by(module) for module in MODULES}


def test_no_module_needs_itself(graph):
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_each_part_imports_only_what_it_may(module, graph):
    part = part_of(module)
    assert part in ALLOWED, f"say in ALLOWED what {part} may import"
    assert {part_of(other) for other in graph[module]} - {part} - ALLOWED[part] == set()


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"keras_mae._optional"}))
def test_no_import_is_hidden_in_a_variable(module):
    """The tests above read texts, and nothing else. (`_optional.require` is what they read the calls of.)"""
    calls = [node for node in ast.walk(tree_of(MODULES[module])) if isinstance(node, ast.Call)]
    imports = [node for node in calls if called(node) in ("import_module", "__import__")]
    assert [node.lineno for node in imports if not text_of(node.args[:1])] == []


@pytest.mark.parametrize("top", ["examples", "guides", "tests"])
def test_nobody_imports_what_is_on_top(top):
    """The command line is on top too: it is not in ALLOWED of anything."""
    assert [
        name for name in NAMES if any(source.split(".")[0] == top for source, *_ in imports_of(tree_of(name)))
    ] == []


@pytest.mark.parametrize("name", NAMES)
def test_backends_are_imported_in_their_places_only(name):
    of_backends = [
        (module, inside) for module, _, inside in imports_of(tree_of(name)) if module.partition(".")[0] in BACKENDS
    ]
    if not name.startswith(MAY_NAME_A_BACKEND):
        assert of_backends == []
    if not name.startswith(MAY_LOAD_A_BACKEND_AT_ONCE):
        assert [module for module, inside in of_backends if not inside] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_assert_in_the_library(name):
    assert [node.lineno for node in ast.walk(tree_of(name)) if isinstance(node, ast.Assert)] == []


def test_no_absolute_path_of_a_machine_in_tracked_files():
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are tracked")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
    machine = re.compile(r"(?<![\w.:/~$}-])/(?:work|root|home)/")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = PROJECT / name
        if not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{name}:{number}" for number, line in enumerate(text.splitlines(), 1) if machine.search(line)]
    assert found == []
