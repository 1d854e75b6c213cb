"""Laws as batches: how many draws they hold, a part of them, several laws as the draws of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llama_scale.laws import Numbers, ScalingLaw
from llama_scale.laws.repeated import RepeatedDataLaw, Repetition
from llama_scale.planning.quantisation import QuantisedLaw

Law = ScalingLaw | RepeatedDataLaw | QuantisedLaw


def floors(law: Law) -> Numbers:
    """E, of every draw."""
    if isinstance(law, ScalingLaw):
        return law.E
    decay = law.repetition.tokens_decay if isinstance(law, RepeatedDataLaw) else 0.0
    return law.law.E + 0.0 * np.asarray(decay)


def floor_of(law: Law) -> float:
    """E of a single law."""
    return float(np.asarray(floors(law)))


def count_of(law: Law) -> int:
    """How many draws a law holds; 1 for a single law."""
    return int(np.size(floors(law)))


def stacked(laws: Sequence[Law]) -> Law:
    """Laws of one kind as the draws of one."""
    first = laws[0]
    if isinstance(first, QuantisedLaw):
        trained = stacked([law.trained for law in laws if isinstance(law, QuantisedLaw)])
        assert not isinstance(trained, QuantisedLaw), "weights are quantised once"
        return replace(first, trained=trained)
    if isinstance(first, RepeatedDataLaw):
        repeated = [law for law in laws if isinstance(law, RepeatedDataLaw)]
        fresh = stacked([law.law for law in repeated])
        assert isinstance(fresh, ScalingLaw), "a law of repeated data holds one of fresh data"
        decays = (
            np.array([getattr(law.repetition, name) for law in repeated])
            for name in ("tokens_decay", "parameters_decay")
        )
        tokens_decay, parameters_decay = decays
        repetition = replace(first.repetition, tokens_decay=tokens_decay, parameters_decay=parameters_decay)
        return replace(first, law=fresh, repetition=repetition)
    names = ("E", "A", "B", "alpha", "beta", "k")
    return ScalingLaw(**{name: np.array([float(getattr(law, name)) for law in laws]) for name in names})


def part_of(law: Law, shape: tuple[int, ...], part: slice) -> Law:
    """The draws of one part of the questions, which run over `shape`; what is a single number stays."""

    def flat(value: Numbers) -> Numbers:
        return value if np.ndim(value) == 0 else np.broadcast_to(value, shape).ravel()[part]

    if isinstance(law, QuantisedLaw):
        trained = part_of(law.trained, shape, part)
        assert not isinstance(trained, QuantisedLaw), "weights are quantised once"
        return replace(law, trained=trained)
    if isinstance(law, RepeatedDataLaw):
        fresh, decays = part_of(law.law, shape, part), law.repetition
        assert isinstance(fresh, ScalingLaw), "a law of repeated data holds one of fresh data"
        repetition = Repetition(
            tokens_decay=flat(decays.tokens_decay), parameters_decay=flat(decays.parameters_decay)
        )
        return RepeatedDataLaw(law=fresh, unique_tokens=flat(law.unique_tokens), repetition=repetition)
    return ScalingLaw(**{name: flat(value) for name, value in law.constants.items()})
