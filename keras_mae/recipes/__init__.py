"""Recipes: every number of a run in one frozen place, and where the numbers come from."""

from keras_mae.recipes.base import Recipe
from keras_mae.recipes.base import check_recipe as check_recipe
from keras_mae.recipes.dense import SegmentationRecipe
from keras_mae.recipes.kinds import PretrainRecipe
from keras_mae.recipes.labeled import FineTuneRecipe, LinearProbeRecipe

__all__ = ["FineTuneRecipe", "LinearProbeRecipe", "PretrainRecipe", "Recipe", "SegmentationRecipe"]
