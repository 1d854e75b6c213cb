"""Allocations by a power of the budget: a line through optima says how to split C = 6ND, and no more."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from llama_scale.architecture import ParameterConvention
from llama_scale.errors import InputError
from llama_scale.files import shipped_tables
from llama_scale.frozen import frozen
from llama_scale.laws.forms import Allocation, Numbers


@frozen
class PowerAllocation:
    """N = coefficient C^exponent_a and D = C / (6N), C in FLOPs; what Approaches 1 and 2 come to.

    Constants may be numbers, or arrays of one shape: then it is a batch of draws.
    """

    coefficient: Numbers
    exponent_a: Numbers
    convention: ParameterConvention = "total"
    source: str = ""
    note: str = ""

    def compute_optimum(self, train_flops: ArrayLike) -> Allocation:
        """The split of a budget."""
        flops = np.asarray(train_flops, float)
        parameters = self.coefficient * flops**self.exponent_a
        return Allocation(parameters, flops / (6 * parameters))


def published_allocations() -> tuple[str, ...]:
    """Names of the published allocations."""
    return tuple(_all())


def published_allocation(name: str) -> PowerAllocation:
    """A published allocation by name; InputError names those that there are."""
    if name not in _all():
        raise InputError(
            f"{name!r} is no published allocation", hint=f"use {' or '.join(published_allocations())}"
        )
    return _all()[name]


@cache
def _all() -> dict[str, PowerAllocation]:
    tables = shipped_tables("allocations.toml")
    return {
        name: PowerAllocation(
            coefficient=entry["coefficient"],
            exponent_a=entry["exponent"],
            convention=entry["convention"],
            source=entry["source"],
            note=entry["note"],
        )
        for name, entry in tables.items()
    }
