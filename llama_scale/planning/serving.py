"""What a served token costs along a continuum of models: as FLOPs at one rate, or by the roofline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llama_scale.costs.serving import Deployment, serve
from llama_scale.laws import Numbers
from llama_scale.planning.families import LARGEST_MODEL, SMALLEST_MODEL, Family, Sizes, coordinate_of

Array = NDArray[np.float64]

TABLE_SIZES = 2048  # 1.2 % apart: linear interpolation of the logarithm is within 1e-5
MOST_EXACT = 4096  # models that one call asks the roofline for; beyond them the table is read


class ServingCost(Protocol):
    """What one served token costs, in the unit of the problem; nan for a model that cannot be served."""

    @property
    def needs_shapes(self) -> bool:
        """Whether FLOPs alone do not say what a token costs."""
        ...

    def cost_per_token(self, sizes: Sizes) -> Numbers:
        """Of the tokens read and written together."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopServing:
    """Every FLOP of serving costs `rate`: 1 in FLOPs, and as the papers count dollars at constant MFUs."""

    rate: float = 1.0

    @property
    def needs_shapes(self) -> bool:
        """No: FLOPs say it all."""
        return False

    def cost_per_token(self, sizes: Sizes) -> Numbers:
        """FLOPs of one token x rate."""
        return self.rate * sizes.serve_flops_per_token


@dataclass(frozen=True, kw_only=True)
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

    def cost_per_token(self, sizes: Sizes) -> Numbers:
        """Accelerator-seconds of one token x rate."""
        return self.rate * self.seconds_per_token(sizes)

    def seconds_per_token(self, sizes: Sizes) -> Numbers:
        """Accelerator-seconds that one token takes."""
        if sizes.shape is not None:
            return serve(self.deployment, sizes.shape).accelerator_seconds_per_token
        return np.exp(np.interp(np.log(sizes.parameters), *self._table, left=np.nan, right=np.nan))

    @cached_property
    def _table(self) -> tuple[Array, Array]:
        """Logarithms of parameters and of seconds per token."""
        ends = (coordinate_of(self.family, edge) for edge in (SMALLEST_MODEL, LARGEST_MODEL))
        sizes = self.family.sizes(np.linspace(*ends, TABLE_SIZES), shaped=True)
        assert sizes.shape is not None, "shapes were asked for"
        seconds = serve(self.deployment, sizes.shape).accelerator_seconds_per_token
        return np.log(sizes.parameters), np.log(seconds)


def largest_servable(deployment: Deployment, family: Family) -> float:
    """The most parameters of the family that the deployment serves within its limits; 0 if none.

    What limits it (memory, latency) grows with size, so bisection finds where it ends, to 1e-6.
    """
    low, high = (float(coordinate_of(family, edge)) for edge in (SMALLEST_MODEL, LARGEST_MODEL))
    if not _serves(deployment, family, low):
        return 0.0
    if _serves(deployment, family, high):
        return LARGEST_MODEL
    for _ in range(28):
        middle = (low + high) / 2
        low, high = (middle, high) if _serves(deployment, family, middle) else (low, middle)
    return float(family.sizes(low).parameters)


def _serves(deployment: Deployment, family: Family, coordinate: float) -> bool:
    shape = family.sizes(coordinate, shaped=True).shape
    assert shape is not None, "shapes were asked for"
    return bool(np.isfinite(serve(deployment, shape).accelerator_seconds_per_token))
