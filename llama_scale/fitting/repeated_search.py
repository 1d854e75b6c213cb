"""What `fit --form repeated` finds: the law of data seen once, every minimum over the decays, and draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llama_scale.fitting.newton import Array
from llama_scale.fitting.repeated import (
    DecayMinimum,
    RepeatedRuns,
    decay_minima,
    draw_decays,
    nearest_minimum,
    published_choice,
)
from llama_scale.fitting.repeated_base import OWN, Base, base_of, matched_parameters
from llama_scale.fitting.repeated_joint import JointProblem
from llama_scale.frozen import frozen
from llama_scale.laws import MUENNIGHOFF_REPETITION, Repetition


@frozen
class Found:
    """What the search brought: all minima with their shares of the draws, and the one shown.

    `excess` counts runs of more parameters than their unique tokens call for.
    """

    base: Base
    minima: tuple[DecayMinimum, ...]
    shares: tuple[float | None, ...]
    chosen: DecayMinimum
    draws: Repetition | None
    excess: int

    @property
    def repetition(self) -> Repetition:
        """The decays shown."""
        return self.chosen.repetition


def resamples(runs: RepeatedRuns, draws: int, seed: int) -> Array:
    """Counts (draws, n) of runs drawn with replacement."""
    share = np.full(len(runs), 1 / len(runs))
    return np.random.default_rng(seed).multinomial(len(runs), share, size=draws).astype(float)


def search(runs: RepeatedRuns, base_law: str | None, weights: Array, delta: float) -> Found:
    """All minima over the decays, about a law that is held or together with one, and those of resamples."""
    base, draws = base_of(runs, base_law, delta), None
    if base.name == OWN:
        problem = JointProblem.of(runs)
        minima = problem.minima(base.law, delta=delta)
        chosen = minima[0]
        laws, draws = problem.draws(minima, weights, delta=delta) if len(weights) else (None, None)
        base = replace(base, law=chosen.law, draws=laws)
    else:
        minima = decay_minima(base.law, runs, delta=delta)
        chosen = published_choice(minima)
        draws = draw_decays(base.law, runs, weights, delta=delta) if len(weights) else None
    shares = [None] * len(minima) if draws is None else nearest_minimum(draws, minima).tolist()
    excess = int((runs.parameters > matched_parameters(base.law, runs)).sum())
    if not excess:  # every decay of parameters fits alike
        minima, shares = minima[:1], shares[:1]
        kept = float(MUENNIGHOFF_REPETITION.parameters_decay)
        at_limit = tuple(name for name in chosen.at_limit if name != "parameters_decay")
        chosen = chosen._replace(parameters_decay=kept, at_limit=at_limit)
        draws = draws and replace(draws, parameters_decay=np.full(len(weights), kept))
    return Found(
        base=base,
        minima=minima,
        shares=tuple(shares),
        chosen=chosen,
        draws=draws,
        excess=excess,
    )
