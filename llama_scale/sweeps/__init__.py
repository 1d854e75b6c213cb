"""Recipes and the runs that they mean, known whole with their cost before anything trains.

`spec` is what a recipe may say, `designs` which models it trains for how long, `expansion` the runs of
that, `recipes` the files that ship.
"""

from llama_scale.sweeps.expansion import Sweep, expand
from llama_scale.sweeps.recipes import find_recipe, load_recipe, recipe_names
from llama_scale.sweeps.spec import (
    BatchSearch,
    Grid,
    IsoFlop,
    LearningRateSearch,
    MachineSpec,
    SweepSpec,
    TrainingSpec,
)

__all__ = [
    "BatchSearch",
    "Grid",
    "IsoFlop",
    "LearningRateSearch",
    "MachineSpec",
    "Sweep",
    "SweepSpec",
    "TrainingSpec",
    "expand",
    "find_recipe",
    "load_recipe",
    "recipe_names",
]
