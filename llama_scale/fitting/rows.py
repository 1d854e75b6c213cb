"""One run as its source tells it, and the rows of a source with what was left out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_scale.architecture import ParameterConvention
from llama_scale.frozen import frozen

Array = NDArray[np.float64]
# Runs whose end is no point of a law, by their role.
NO_POINTS = {
    "trunk": "a trunk at constant learning rate: its loss is not decayed",
    "search": "it tries a learning rate or batch size: its loss is not that of a tuned run",
    "continued": "it started from trained weights, which have seen more than its tokens",
}


@frozen
class Row:
    """One run as its source tells it: `place` names it in errors, `held_out` rows only test the law.

    A run that its source gives no name is called by its place.

    `counts` are its parameters by every convention that the source tells. `unique_tokens` is the size of
    the text where it is read more than once. `flagged` rows are outliers in the eyes of their source.
    """

    name: str
    place: str
    parameters: float
    tokens: float
    loss: float
    train_flops: float | None = None
    budget: float | None = None
    family: str = ""
    corpus: str = ""
    tokenizer: str = ""
    held_out: bool = False
    counts: Mapping[str, float] = field(default_factory=dict)
    unique_tokens: float | None = None
    flagged: bool = False

    @property
    def given_name(self) -> str | None:
        """The name that the source gives the run, None where it gives none."""
        return None if self.name == self.place else self.name

    @property
    def fresh_tokens(self) -> float:
        """Tokens that it saw for the first time: all of them, or as many as the text has."""
        return self.tokens if self.unique_tokens is None else min(self.tokens, self.unique_tokens)


@frozen(eq=False)
class TrainingCurve:
    """Loss along one run: tokens seen (n,) and nats per token (n,); C = `flops_per_token` x tokens."""

    run: str
    parameters: float
    flops_per_token: float
    tokens: Array
    loss: Array


@frozen
class Exclusion:
    """A run that was left out of the fit, and why."""

    run: str
    reason: str


@frozen
class Rows:
    """Rows of one source with what was left out of them, and what a reader must know.

    `units_known` says that no count can have lost its unit: each tells it, or we counted it ourselves.
    `remedy` is what to do where none of them counts.
    """

    source: str
    rows: tuple[Row, ...]
    convention: ParameterConvention
    exclusions: tuple[Exclusion, ...] = ()
    warnings: tuple[str, ...] = ()
    curves: tuple[TrainingCurve, ...] = ()
    units_known: bool = False
    remedy: str = (
        "finish the sweep with `llama-scale sweep`, lower the rate of what diverged, or check --where"
    )


def count_different(values: NDArray[Any]) -> int:
    """How many different values there are, without numpy.ma, which np.unique imports to count them."""
    return len(set(values.tolist()))
