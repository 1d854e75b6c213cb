"""What a served token costs along a continuum of models: as FLOPs at one rate, or by the roofline."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar

import numpy as np

from llama_scale.costs.serving import Deployment, serve
from llama_scale.frozen import frozen
from llama_scale.laws import Numbers
from llama_scale.planning.families import LARGEST_MODEL, SMALLEST_MODEL, Array, Family, Sizes, coordinate_of

TABLE_SIZES = 2048  # 1.2 % apart: linear interpolation of the logarithm is within 1e-5
ROUNDING = 1e-12  # in log N: the largest itself is served
MOST_EXACT = 4096  # models that one call asks the roofline for; beyond them the table is read


@frozen
class FlopServing:
    """Every FLOP of serving costs `rate`: 1 in FLOPs, and as the papers count dollars at constant MFUs."""

    rate: float = 1.0
    needs_shapes: ClassVar[bool] = False
    largest: ClassVar[float] = math.inf

    def cost_per_token(self, sizes: Sizes) -> Numbers:
        """FLOPs of one token x rate."""
        return self.rate * sizes.serve_flops_per_token


@frozen
class RooflineServing:
    """A token takes the time that the roofline says; `rate` is what a second of an accelerator costs.

    Models that come with their shape are served as they are; others of the family are read off a table.
    """

    deployment: Deployment
    family: Family
    rate: float
    needs_shapes: ClassVar[bool] = True

    @property
    def largest(self) -> float:
        """The most parameters that memory and the limits on latency allow."""
        return largest_servable(self.deployment, self.family)

    def cost_per_token(self, sizes: Sizes) -> Numbers:
        """Accelerator-seconds of one token x rate."""
        if sizes.shape is not None:
            return self.rate * serve(self.deployment, sizes.shape).accelerator_seconds_per_token
        table = _table(self.deployment, self.family)
        return self.rate * np.exp(np.interp(np.log(sizes.parameters), *table, left=np.nan, right=np.nan))


# what a served token costs, in the unit of the problem; nan for a model that cannot be served
ServingCost = FlopServing | RooflineServing


@lru_cache(maxsize=64)
def _table(deployment: Deployment, family: Family) -> tuple[Array, Array]:
    """Logarithms of parameters and of seconds per token, up to the very largest that is served."""
    low, high = _ends(family)
    if largest := largest_servable(deployment, family):
        high = float(coordinate_of(family, largest))
    x = np.linspace(low, high, TABLE_SIZES)
    sizes = np.log(family.sizes(x).parameters)
    sizes[-1] += ROUNDING
    return sizes, np.log(_seconds(deployment, family, x))


@lru_cache(maxsize=64)
def largest_servable(deployment: Deployment, family: Family) -> float:
    """The most parameters of the family that the deployment serves within its limits; 0 if none.

    What limits size (memory, latency) grows with it, so that grids within grids find where it ends.
    """
    low, high = _ends(family)
    for _ in range(3):  # 256^3 steps: to 2e-6
        x = np.linspace(low, high, 257)
        served = np.flatnonzero(np.isfinite(_seconds(deployment, family, x)))
        if not served.size:
            return 0.0
        if served[-1] == x.size - 1:
            return float(family.sizes(x[-1]).parameters)
        low, high = float(x[served[-1]]), float(x[served[-1] + 1])
    return float(family.sizes(low).parameters)


def _ends(family: Family) -> tuple[float, float]:
    return float(coordinate_of(family, SMALLEST_MODEL)), float(coordinate_of(family, LARGEST_MODEL))


def _seconds(deployment: Deployment, family: Family, x: Array) -> Array:
    shape = family.sizes(x, shaped=True).shape
    assert shape is not None, "shapes were asked for"
    return serve(deployment, shape).accelerator_seconds_per_token
