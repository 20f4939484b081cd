"""Pictures of neighbors, and maps as pages of their own."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from keras_mae import visualize

pytestmark = pytest.mark.backends("torch")

PLACES = np.array([[0, 0], [4, 1], [2, 3]])
HOSTILE = '</script><img src=x onerror="alert(1)">\u2028\udcff&amp;'


def data_of(page):
    """What the page's script holds, read as a browser reads it: the script ends at the first end of one."""
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    return json.loads(re.search(r"^const data = (.*);$", script, re.MULTILINE)[1])


def test_a_map_holds_places_names_classes_and_thumbnails():
    images = [np.full((40, 20, 3), 200, "uint8"), None, np.full((8, 6, 1), 7.0)]
    page = visualize.map_page(PLACES, ["a", "b", "c"], ["x", "y", "x"], images, title="T", thumbnail=10)
    data = data_of(page)
    assert data["names"] == ["a", "b", "c"]
    assert [data["kinds"][kind] for kind in data["classes"]] == ["x", "y", "x"]
    places = np.array(data["places"])
    np.testing.assert_allclose(np.abs(places).max(), 1)
    np.testing.assert_allclose(np.diff(places, axis=0) * 2, np.diff(PLACES, axis=0), atol=1e-4)
    pictures = data["pictures"]
    assert pictures[1] is None
    shown = Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2])))
    assert (shown.size, shown.getpixel((2, 2))) == ((5, 10), (200, 200, 200))


def test_a_map_asks_for_nothing_and_obeys_no_name():
    page = visualize.map_page(PLACES, [HOSTILE] * 3, [HOSTILE] * 3, title=HOSTILE)
    data = data_of(page)
    assert data["names"] == [HOSTILE] * 3
    assert (data["title"], data["kinds"], data["pictures"]) == (HOSTILE, [HOSTILE], [])
    page.encode()  # bytes that are no UTF-8 are written as JSON writes them
    assert len(re.findall("</?script>", page)) == 2
    assert "onerror=" not in re.sub(r"^const data = .*$", "", page, flags=re.MULTILINE)
    assert "default-src 'none'" in page
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?\w+:""", page) == []
    assert "://" not in page
    assert "innerHTML" not in page


def test_a_page_without_classes_or_images_has_one_color():
    data = data_of(visualize.map_page(PLACES[:1], ["only"]))
    assert (data["places"], data["kinds"], data["pictures"]) == ([[0, 0]], [], [])


def test_neighbors_are_drawn_in_rows_with_their_titles():
    black, white = np.zeros((8, 6, 3), "uint8"), np.full((8, 6, 3), 255, "uint8")
    figure = visualize.neighbors([[black, white, None], [white]], [["q\nquery", "$a$\n0.9", "gone"], ["r"]])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["q\nquery", "$a$\n0.9", "gone", "r", "", ""]
    assert [axes.axison for axes in figure.axes] == [True] * 4 + [False] * 2
    assert [float(axes.images[0].get_array().mean()) for axes in figure.axes[:4]] == [0, 1, pytest.approx(0.8), 1]


def test_long_names_show_their_ends():
    figure = visualize.neighbors([[None]], [["a/long/folder/and/the/name.png\n0.5"]])
    assert figure.axes[0].get_title() == ".../and/the/name.png\n0.5"
