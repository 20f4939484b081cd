"""What an import costs and brings along, and which module may import which."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_mae

ROOT = Path(keras_mae.__file__).parent
PROJECT = Path(__file__).parent.parent
BACKENDS = {"jax", "tensorflow", "torch"}
OPTIONAL = {"sklearn", "matplotlib", "PIL", "transformers", "skimage", "scipy", "grain", "typer"}
OPTIONAL |= {"safetensors", "keras_hub", "huggingface_hub", "tf_keras_vis", "tensorboard"}

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
LEAVES = {"_backend", "_checks", "_files", "_optional", "_types", "distribution", "ops", "random"}
FIRST = {"patches", "positions", "transformer", "masking", "presets"}
SECOND = {"encoder", "decoder", "loss"}
MODEL = {"masked_autoencoder", "reconstruction", "train_step"}
# Part of the package -> parts it may import. `__init__` sees all.
ALLOWED = {
    **{part: LEAVES - {part} for part in LEAVES},
    **{part: LEAVES for part in FIRST},
    **{part: LEAVES | FIRST | {"from_preset"} for part in SECOND},
    "from_preset": LEAVES | FIRST | {"convert"},  # convert inside functions: models read presets, it makes models
    "train_step": LEAVES,
    "reconstruction": LEAVES | FIRST | SECOND,
    "masked_autoencoder": LEAVES | FIRST | SECOND | MODEL | {"from_preset"},
    "optimizers": LEAVES,
    "recipes": LEAVES | {"optimizers"},
    "data": LEAVES,
    "classifier": LEAVES | FIRST | {"from_preset", "encoder", "loss", "train_step"},
    "transfer": LEAVES | FIRST | {"encoder", "classifier", "loss", "optimizers", "recipes"},
    "training": LEAVES | FIRST | SECOND | MODEL | {"optimizers", "recipes", "classifier", "transfer", "visualize"},
    "visualize": LEAVES | FIRST | SECOND | MODEL | {"classifier"},
    "convert": LEAVES | FIRST | SECOND | MODEL | {"classifier"},
}
MAY_NAME_A_BACKEND = ("train_step/", "data/", "distribution.py", "ops.py", "optimizers/adamw.py")
MAY_NAME_A_BACKEND += ("convert/state_dict.py", "convert/exporting.py")
MAY_LOAD_A_BACKEND_AT_ONCE = ("train_step/", "data/")  # the others import one inside functions only

FILES = sorted(ROOT.rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


def part_of(name):
    return name.partition("/")[0].removesuffix(".py")


def imports_of(tree):
    """(imported module, inside a function) for every import of a file."""

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                if child.level:
                    pytest.fail("imports are absolute, so that this test can read them")
                yield child.module, inside
                if child.module == "keras_mae":
                    yield from ((f"keras_mae.{alias.name}", inside) for alias in child.names)
            yield from visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return list(visit(tree, False))


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "path"), list(zip(NAMES, FILES, strict=True)), ids=NAMES)
def test_each_part_imports_only_what_it_may(name, path):
    part = part_of(name)
    if part in ("__init__", "__main__", "cli"):
        return
    imported = {
        module.split(".")[1] for module, _ in imports_of(tree_of(path)) if module.startswith("keras_mae.")
    } - {part}
    assert part in ALLOWED, f"say in ALLOWED what {part} may import"
    assert imported - ALLOWED[part] == set()


@pytest.mark.parametrize("top", ["cli", "examples", "guides"])
def test_nobody_imports_what_is_on_top(top):
    users = [
        name
        for name, path in zip(NAMES, FILES, strict=True)
        if part_of(name) not in (top, "__main__")
        and any(
            module.split(".")[:2] == ["keras_mae", top] or module == top for module, _ in imports_of(tree_of(path))
        )
    ]
    assert users == []


@pytest.mark.parametrize(("name", "path"), list(zip(NAMES, FILES, strict=True)), ids=NAMES)
def test_backends_are_imported_in_their_places_only(name, path):
    of_backends = [
        (module, inside) for module, inside in imports_of(tree_of(path)) if module.partition(".")[0] in BACKENDS
    ]
    if not name.startswith(MAY_NAME_A_BACKEND):
        assert of_backends == []
    if not name.startswith(MAY_LOAD_A_BACKEND_AT_ONCE):
        assert [module for module, inside in of_backends if not inside] == []


@pytest.mark.parametrize(("name", "path"), list(zip(NAMES, FILES, strict=True)), ids=NAMES)
def test_no_assert_in_the_library(name, path):
    assert [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Assert)] == []


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
