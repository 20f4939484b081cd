"""The documentation site: `tox -e docs` builds it, with warnings as errors.

Pages are Markdown beside this file. The guides are the notebooks in guides/ with the outputs they already hold; they
are copied to docs/guides/ for the build, which Git ignores. The API reference comes from docstrings.
"""

from __future__ import annotations

import inspect
import posixpath
import re
import shutil
import sys
import tomllib
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
PROJECT = DOCS.parent
sys.path.insert(0, str(DOCS))

from sphinx.pycode import ModuleAnalyzer  # noqa: E402
from sphinx.util.inspect import signature as signature_of  # noqa: E402
from sphinx.util.inspect import stringify_signature  # noqa: E402

import keras_mae  # noqa: E402

_METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_REPOSITORY = _METADATA["urls"]["Repository"]
_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}

project = "keras_mae"
author = "The keras_mae authors"
copyright = f"2026, {author}"
version = release = keras_mae.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.linkcode"]
exclude_patterns = ["build", "generated"]
nitpicky = True

# === Pages and notebooks ===
myst_enable_extensions = ["colon_fence", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # a full run takes minutes; `tox -e guides` runs them
suppress_warnings = ["mystnb.unknown_mime_type"]  # a notebook may hold kinds of output that HTML has no use for

# === Docstrings ===
default_role = "literal"  # docstrings write `code` with one backtick, as Keras' do
autodoc_inherit_docstrings = False  # Keras' own are Markdown
autodoc_member_order = "groupwise"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_custom_sections = [("Call arguments", "params_style"), "Reference"]
napoleon_use_ivar = True
napoleon_use_rtype = False

# === Links ===
# Types in signatures need no page: NumPy's and Keras' are not looked up, for the build needs no network.
nitpick_ignore_regex = [("py:class", ".*")]
linkcheck_ignore = [rf"{_REPOSITORY}/(blob|edit|issues|security)/.*"]

# === HTML ===
html_theme = "sphinx_book_theme"
html_title = "keras_mae"
html_copy_source = False
html_theme_options = {
    "repository_url": _REPOSITORY,
    "repository_branch": "main",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_issues_button": True,
}


def copy_guides(app: Any) -> None:
    """Copy the notebooks, scripts and pictures of guides/ to where Sphinx reads pages."""
    target = DOCS / "guides"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(PROJECT / "guides", target, ignore=shutil.ignore_patterns("make_notebooks.py", "__pycache__"))


def write_generated(app: Any) -> None:
    """Write the help text of every command and the values of every recipe, which pages include."""
    import command_options
    import recipe_tables

    folder = DOCS / "generated"
    folder.mkdir(exist_ok=True)
    for name, module in (("options.md", command_options), ("recipes.md", recipe_tables)):
        (folder / name).write_text(module.as_markdown(), encoding="utf-8")


def fill_in(app: Any, docname: str, source: list[str]) -> None:
    """Put a file of the repository's root where a page asks for it, and point links at pages of this site.

    Links are written for a reader of the repository, where guides/ lies beside docs/ and not in it.
    """
    folder = "guides" if docname.startswith("guides/") else str(Path("docs", docname).parent)
    if inserted := re.match(r"<!-- insert (\S+) -->", source[0]):
        app.env.note_dependency(str(PROJECT / inserted[1]))
        text = (PROJECT / inserted[1]).read_text(encoding="utf-8")
        source[0] = source[0].replace(inserted[0], text)
        folder = ""
    up = "../" * docname.count("/")
    source[0] = re.sub(
        r"(\]\(|src=\")(?!https?:|#)([^)\"#\s]+)", lambda link: link[1] + up + _on_site(folder, link[2]), source[0]
    )


def _on_site(folder: str, target: str) -> str:
    """Return where a link from a folder of the repository leads, seen from the root of the site."""
    path = posixpath.normpath(posixpath.join(folder, target))
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in _PAGES or path.startswith("guides/"):
        return _PAGES.get(path, path)
    return f"{_REPOSITORY}/blob/main/{path}"


def public_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Resolve a reference to where a class is defined (keras_mae.encoder.ViTEncoder) to where it is public."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("keras_mae."):
        return None
    python = env.domains["py"]
    known = [name for name in python.objects if name.rpartition(".")[2] == target.rpartition(".")[2]]
    if not known:
        return None
    name = min(known, key=len)
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)


def describe_constant(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Take a constant's description from the file that defines it, and not from its type."""
    if what != "data":
        return
    constant = name.rpartition(".")[2]
    lines.clear()
    for home, module in list(sys.modules.items()):
        if home.startswith("keras_mae.") and vars(module).get(constant) is obj:
            described = ModuleAnalyzer.for_module(home).find_attr_docs().get(("", constant), [])
            lines[:] = lines or described


def escape_prose(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what reStructuredText would take for markup: docstrings are plain text with `code` and examples."""
    text = "\n".join(lines)
    parts = re.split(r"(`[^`]*`(?=\w)|`[^`]*`|^ *>>>(?:.*\S.*\n?)+)", text, flags=re.MULTILINE)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            parts[number] = re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part)
        elif part.startswith("`") and re.match(r"\w", parts[number + 1]):
            parts[number] += r"\ "
    lines[:] = "".join(parts).split("\n")


def constructor_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: Any, returns: Any
) -> Any:
    """Show a class with its constructor's arguments; Keras' `__new__` would hide them behind `*args`."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    own = signature_of(obj.__init__, bound_method=True)
    return stringify_signature(own, show_return_annotation=False, unqualified_typehints=True), returns


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Return where the repository defines what a page describes; `None` for what is not ours."""
    try:
        described = attrgetter(info["fullname"])(import_module(info["module"]))
        described = inspect.unwrap(getattr(described, "fget", described))
        file = Path(inspect.getsourcefile(described) or "").relative_to(Path(keras_mae.__file__).parent)
        line = inspect.getsourcelines(described)[1]
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    return f"{_REPOSITORY}/blob/main/keras_mae/{file.as_posix()}#L{line}"


def setup(app: Any) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("builder-inited", copy_guides)
    app.connect("builder-inited", write_generated)
    app.connect("source-read", fill_in)
    app.connect("missing-reference", public_name)
    app.connect("autodoc-process-docstring", describe_constant, priority=300)
    app.connect("autodoc-process-docstring", escape_prose, priority=400)  # before napoleon, at 500
    app.connect("autodoc-process-signature", constructor_signature)
