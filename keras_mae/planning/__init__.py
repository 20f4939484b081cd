"""What to pre-train on a folder, and how long it takes here: measured before a run, and written as a recipe file."""

from keras_mae.planning.candidates import Candidate
from keras_mae.planning.measuring import Measured
from keras_mae.planning.plans import Plan
from keras_mae.planning.plans import check_free as check_free
from keras_mae.planning.proposing import make_plan

__all__ = ["Candidate", "Measured", "Plan", "make_plan"]
