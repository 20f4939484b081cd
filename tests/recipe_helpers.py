"""What the tests of recipes share."""

import pytest

from keras_mae.recipes import FineTuneRecipe, LinearProbeRecipe, PretrainRecipe

FUNCTIONS = {
    "pretrain": PretrainRecipe.for_size,
    "fine_tune": FineTuneRecipe.for_size,
    "linear_probe": LinearProbeRecipe.for_size,
}
SIZES, SOURCES = ("base", "large", "huge"), ("repository", "paper")
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
each_source = pytest.mark.parametrize("source", SOURCES)


def assert_has(recipe, **expected):
    assert {name: getattr(recipe, name) for name in expected} == expected
