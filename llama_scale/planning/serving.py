"""What a served token costs along a continuum of models: as FLOPs at one rate, or by the roofline."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llama_scale.costs.serving import Deployment, serve
from llama_scale.frozen import frozen
from llama_scale.laws import Numbers
from llama_scale.planning.families import LARGEST_MODEL, SMALLEST_MODEL, Family, Sizes, coordinate_of

Array = NDArray[np.float64]

TABLE_SIZES = 2048  # 1.2 % apart: linear interpolation of the logarithm is within 1e-5
ROUNDING = 1e-12  # in log N: the largest itself is served
MOST_EXACT = 4096  # models that one call asks the roofline for; beyond them the table is read


class ServingCost(Protocol):
    """What one served token costs, in the unit of the problem; nan for a model that cannot be served."""

    @property
    def needs_shapes(self) -> bool:
        """Whether FLOPs alone do not say what a token costs."""
        ...

    @property
    def largest(self) -> float:
        """Parameters above which nothing is served; inf where there is no such size."""
        ...

    def cost_per_token(self, sizes: Sizes) -> Numbers:
        """Of the tokens read and written together."""
        ...


@frozen
class FlopServing:
    """Every FLOP of serving costs `rate`: 1 in FLOPs, and as the papers count dollars at constant MFUs."""

    rate: float = 1.0

    @property
    def needs_shapes(self) -> bool:
        """No: FLOPs say it all."""
        return False

    @property
    def largest(self) -> float:
        """FLOPs can be spent on any size."""
        return math.inf

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

    @property
    def needs_shapes(self) -> bool:
        """Yes: time depends on layers, heads and cache."""
        return True

    @property
    def largest(self) -> float:
        """The most parameters that memory and the limits on latency allow."""
        return largest_servable(self.deployment, self.family)

    def cost_per_token(self, sizes: Sizes) -> Numbers:
        """Accelerator-seconds of one token x rate."""
        return self.rate * self.seconds_per_token(sizes)

    def seconds_per_token(self, sizes: Sizes) -> Numbers:
        """Accelerator-seconds that one token takes."""
        if sizes.shape is not None:
            return serve(self.deployment, sizes.shape).accelerator_seconds_per_token
        table = _table(_Deployed(self.deployment), self.family)
        return np.exp(np.interp(np.log(sizes.parameters), *table, left=np.nan, right=np.nan))


class _Deployed:
    """A deployment as a key of a cache: itself, not its like."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    def __hash__(self) -> int:
        return id(self.deployment)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Deployed) and other.deployment is self.deployment


def largest_servable(deployment: Deployment, family: Family) -> float:
    """The most parameters of the family that the deployment serves within its limits; 0 if none."""
    return _largest(_Deployed(deployment), family)


@lru_cache(maxsize=64)
def _table(key: _Deployed, family: Family) -> tuple[Array, Array]:
    """Logarithms of parameters and of seconds per token, up to the very largest that is served."""
    low, high = _ends(family)
    if largest := _largest(key, family):
        high = float(coordinate_of(family, largest))
    x = np.linspace(low, high, TABLE_SIZES)
    sizes = np.log(family.sizes(x).parameters)
    sizes[-1] += ROUNDING
    return sizes, np.log(_seconds(key.deployment, family, x))


@lru_cache(maxsize=64)
def _largest(key: _Deployed, family: Family) -> float:
    """What limits size (memory, latency) grows with it, so that grids within grids find where it ends."""
    low, high = _ends(family)
    for _ in range(3):  # 256^3 steps: to 2e-6
        x = np.linspace(low, high, 257)
        served = np.flatnonzero(np.isfinite(_seconds(key.deployment, family, x)))
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
