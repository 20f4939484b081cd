"""The API reference is made from the docstrings without a warning, and says something of every public name."""

import os
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import keras_mae

pytestmark = pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "torch", reason="the same on all; for time")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """What the README's command makes: a page's text by the name of its module."""
    folder = tmp_path_factory.mktemp("reference")
    done = subprocess.run(
        [sys.executable, "-m", "pdoc", "-d", "google", "-o", folder, "keras_mae"],
        env={**os.environ, "PDOC_ALLOW_EXEC": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Warn" not in done.stderr, done.stderr
    return {
        ".".join(page.relative_to(folder).with_suffix("").parts): page.read_text() for page in folder.rglob("*.html")
    }


def test_every_public_name_is_there_with_a_docstring(pages):
    modules = {"keras_mae"} | {
        f"keras_mae.{name}" for name in keras_mae.__all__ if isinstance(getattr(keras_mae, name), ModuleType)
    }
    assert modules == set(pages) - {"index"}
    for module in modules:
        owner = import_module(module)
        for name in getattr(owner, "__all__", ()):
            assert f"{module}.{name}" in modules or f'id="{name}"' in pages[module], f"{module}.{name}"
            member = getattr(owner, name)
            assert not callable(member) or member.__doc__, f"{module}.{name}"
