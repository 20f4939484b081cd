"""The house's rules of language that a machine can check; ruff's D401 checks that docstrings begin with a verb."""

import ast
import re
from pathlib import Path

import pytest

import keras_mae

pytestmark = pytest.mark.backends("torch")

ROOT = Path(keras_mae.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PATHS = {path.relative_to(ROOT).as_posix(): path for path in FILES}
BRITISH = re.compile(
    r"colour|centre|neighbour|behaviour|labelled|(normal|standard|initial|optim|random|real)is(e|ing|ation)"
)
each_file = pytest.mark.parametrize("name", PATHS)


def tree_of(name):
    return ast.parse(PATHS[name].read_text(encoding="utf-8"))


def documented(tree):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [node for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node)]


@each_file
def test_an_entry_of_a_docstring_stands_alone(name):
    """ "Seed for the masks", not "Of the masks": whoever reads an entry has not read its name as a sentence."""
    begun = re.compile(r"^\s+[\w*`, ]+: (Of|Likewise|As there)\b.*", re.MULTILINE)
    found = [
        match[0].strip() for node in documented(tree_of(name)) for match in begun.finditer(ast.get_docstring(node))
    ]
    assert found == []


def names_in(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg


@each_file
def test_identifiers_are_spelled_as_keras_spells_them(name):
    assert sorted({one for one in names_in(tree_of(name)) if BRITISH.search(one.lower())}) == []


@each_file
def test_a_public_module_says_what_is_public(name):
    """`__all__` names what is there, and nothing private."""
    if any(part.startswith("_") and part != "__init__.py" for part in Path(name).parts):
        pytest.skip("private")
    tree = tree_of(name)
    lists = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets)
    ]
    assert len(lists) == 1
    assert lists[0] == sorted(set(lists[0]), key=lambda one: (one[0].islower(), not one.isupper(), one))
    assert [one for one in lists[0] if one.startswith("_")] == []
