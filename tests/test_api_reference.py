"""Every public name has a docstring and a place on the documentation site, whose own links lead somewhere.

`tox -e docs` builds the site and names it in KERAS_MAE_SITE; elsewhere only the docstrings are looked at.
"""

import inspect
import os
import posixpath
import zlib
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag

import pytest

import keras_mae

pytestmark = pytest.mark.backends("torch")

MODULES = ["keras_mae"]
MODULES += [f"keras_mae.{name}" for name in keras_mae.__all__ if isinstance(getattr(keras_mae, name), ModuleType)]


@pytest.fixture(scope="module")
def site():
    """The folder that `tox -e docs` has filled."""
    if "KERAS_MAE_SITE" not in os.environ:
        pytest.skip("tox -e docs builds the site")
    return Path(os.environ["KERAS_MAE_SITE"])


def public_names(module):
    owner = import_module(module)
    return [name for name in owner.__all__ if not isinstance(getattr(owner, name), ModuleType)]


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_docstring(module):
    owner = import_module(module)
    assert owner.__doc__
    members = {name: getattr(owner, name) for name in public_names(module)}
    members = {
        name: member for name, member in members.items() if inspect.isclass(member) or inspect.isroutine(member)
    }
    assert [name for name, member in members.items() if not member.__doc__] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(site, module):
    # Four lines of text, then what can be linked to, compressed.
    described = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    described = {line.split()[0] for line in described.splitlines()}
    homes = {}  # a class may be public in two modules and described in one
    for home in MODULES:
        for name in public_names(home):
            homes.setdefault(id(getattr(import_module(home), name)), []).append(f"{home}.{name}")
    owner = import_module(module)
    assert [name for name in public_names(module) if described.isdisjoint(homes[id(getattr(owner, name))])] == []


class _Page(HTMLParser):
    """What a page links to, and which of its places can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.places = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.places |= {attributes.get("id"), attributes.get("name")}
        self.links += [attributes[key] for key in ("href", "src") if attributes.get(key)]


def test_links_within_the_site_lead_somewhere(site):
    pages = {
        path.relative_to(site).as_posix(): _Page(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if "_static" not in path.parts  # the theme's templates
    }
    broken = []
    for name, page in pages.items():
        for link in page.links:
            target, place = urldefrag(link)
            if ":" in target or link in ("#", "javascript:void(0)"):
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(target.split("?")[0])))
            path = name if not target else path
            reached = (site / path).exists()
            if not reached or (place and path in pages and unquote(place) not in pages[path].places):
                broken.append(f"{name}: {link}")
    assert broken == []
