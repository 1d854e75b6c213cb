"""Laws as batches: how many draws they hold, a part of them, several laws as the draws of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from llama_scale.laws import Numbers, ScalingLaw
from llama_scale.laws.repeated import RepeatedDataLaw
from llama_scale.planning.quantisation import Penalty, QuantisedLaw

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


def trained_of(law: Law) -> ScalingLaw | RepeatedDataLaw:
    """The law of the weights as they were trained."""
    return law.trained if isinstance(law, QuantisedLaw) else law


def stacked(laws: Sequence[Law]) -> Law:
    """Laws of one kind as the draws of one."""
    return _each(laws, lambda values: np.array([float(value) for value in values]))


def part_of(law: Law, shape: tuple[int, ...], part: slice) -> Law:
    """The draws of one part of the questions, which run over `shape`; what is a single number stays."""

    def flat(values: Sequence[Numbers]) -> Numbers:
        (value,) = values
        return value if np.ndim(value) == 0 else np.broadcast_to(value, shape).ravel()[part]

    return _each([law], flat)


def _each(laws: Sequence[Any], combine: Callable[[Sequence[Numbers]], Numbers]) -> Any:
    """The law of the same kind, each of its constants what `combine` makes of theirs."""
    first = laws[0]
    if isinstance(first, Penalty):  # of the bits alone, which one question has alike in all its laws
        return first
    if not is_dataclass(first):
        return combine(laws)
    parts = {field.name: [getattr(law, field.name) for law in laws] for field in fields(first)}
    return type(first)(**{name: _each(part, combine) for name, part in parts.items()})
