"""Which points count: burn-in, repeats of a size and duration, runs of two sources; how FLOPs are counted.

Only runs whose learning-rate schedule ended are points at all (`records`, `tables`). Of these, by default
every one counts: what looks under-trained, diverged or repeated is named in a warning, with the option that
leaves it out. Each rule that leaves a run out says so by name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from llama_scale.checked import known_word
from llama_scale.errors import InputError
from llama_scale.fitting.rows import Exclusion, Row, Rows
from llama_scale.frozen import frozen
from llama_scale.laws.fits import ACCOUNTINGS, FlopsAccounting
from llama_scale.quantities import format_count, format_number, parse_count

Repeats = Literal["all", "best", "mean"]
REPEATS: tuple[Repeats, ...] = get_args(Repeats)
_PER_PARAMETER = re.compile(
    r"(.*?)\s*(?:/\s*n|(?:/|per)\s*parameter|tokens\s*(?:/|per)\s*parameter)", re.IGNORECASE
)


@frozen
class BurnIn:
    """The least that a run must have seen: tokens, and tokens per parameter."""

    tokens: float = 0.0
    tokens_per_parameter: float = 0.0

    def why_not(self, row: Row) -> str | None:
        """Why a run is too short, None where it is not."""
        if row.tokens < self.tokens:
            return f"burn-in: fewer than {format_count(self.tokens)} tokens"
        if row.tokens < self.tokens_per_parameter * row.parameters:
            return f"burn-in: fewer than {format_number(self.tokens_per_parameter)} tokens a parameter"
        return None


def parse_burn_in(text: str | None) -> BurnIn:
    """`2B` (tokens) or `0.5/N` (tokens per parameter); None is no burn-in.

    >>> parse_burn_in("0.5/N").tokens_per_parameter
    0.5
    """
    if text is None:
        return BurnIn()
    per_parameter = _PER_PARAMETER.fullmatch(text.strip())
    try:
        value = parse_count(per_parameter.group(1) if per_parameter else text)
    except InputError:
        value = -1.0
    if value < 0:
        raise InputError(
            f"cannot read the burn-in {text!r}",
            hint="use --burn-in 2B for tokens, or --burn-in 0.5/N for tokens per parameter",
        )
    return BurnIn(tokens_per_parameter=value) if per_parameter else BurnIn(tokens=value)


@frozen
class Rules:
    """Which points count and how their FLOPs are counted.

    `repeats` of one size and duration: all count, the best of them does (a grid of learning rates), or
    their mean does (seeds). `flops` None leaves FLOPs as the sources count them; "6nd" puts 6ND in their
    place; "exact" refuses runs whose source names none.
    """

    burn_in: BurnIn = BurnIn()
    repeats: Repeats = "all"
    flops: FlopsAccounting | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "repeats", known_word(self.repeats, REPEATS))
        object.__setattr__(self, "flops", known_word(self.flops, ACCOUNTINGS))
        if self.repeats not in REPEATS:
            raise InputError(
                f"there is no rule {self.repeats!r} for repeats", hint=f"use {' or '.join(REPEATS)}"
            )
        if self.flops not in (None, *ACCOUNTINGS):
            raise InputError(
                f"FLOPs cannot be counted as {self.flops!r}", hint=f"use {' or '.join(ACCOUNTINGS)}"
            )


def count_rows(parts: Sequence[Rows], rules: Rules) -> tuple[list[Row], list[Exclusion]]:
    """The rows that count, held-out ones among them, and what these rules left out."""
    rows, left = _once(parts)
    kept: list[Row] = []
    for row in rows:
        reason = None if row.held_out else rules.burn_in.why_not(row)
        if reason:
            left.append(Exclusion(run=row.name, reason=reason))
        else:
            kept.append(row)
    if rules.repeats != "all":
        kept, merged = _merge(kept, rules.repeats)
        left += merged
    if rules.flops == "exact":
        for row in kept:
            _check_flops(row)
    return kept, left


def _once(parts: Sequence[Rows]) -> tuple[list[Row], list[Exclusion]]:
    """Each run once, though two sources may hold it, as a store and its export do."""
    rows, left = [], []
    earlier: list[tuple[str, Mapping[tuple[str, ...], list[Row]]]] = []
    for part in parts:
        held: dict[int, str] = {}
        for source, runs in earlier:
            held = {**dict.fromkeys(_copies(part.rows, runs), source), **held}
        for at, row in enumerate(part.rows):
            if at in held:
                left.append(Exclusion(run=row.name, reason=f"the same run is in {held[at]}"))
            else:
                rows.append(row)
        earlier.append((part.source, _by_size_and_duration(part.rows)))
    return rows, left


def _copies(rows: Sequence[Row], held: Mapping[tuple[str, ...], Sequence[Row]]) -> set[int]:
    """Positions of rows that another source holds: of one size, duration, text and loss, and of one name.

    Where one of the two has no name, most such rows must agree in their losses: rounded to two digits, those
    of another seed agree in some.
    """
    named, agree, differ = set(), set(), 0
    for at, row in enumerate(rows):
        others = held.get(_size_and_duration(row), ())
        same = {other.given_name for other in others if other.loss == row.loss}
        if row.given_name is not None and row.given_name in same:
            named.add(at)
        elif same and (row.given_name is None or None in same):
            agree.add(at)
        elif any(None in (row.given_name, other.given_name) for other in others):
            differ += 1
    return named | agree if len(agree) >= differ else named


def _by_size_and_duration(rows: Sequence[Row]) -> Mapping[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[_size_and_duration(row)].append(row)
    return found


def _size_and_duration(row: Row) -> tuple[str, ...]:
    """Size, duration and text to 6 digits: D = C / 6N is seldom the last digit of what others wrote."""
    return tuple(f"{value:.6g}" for value in (row.parameters, row.tokens, row.fresh_tokens))


def groups_of(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one size, duration, text and role together, in order of their first."""
    groups: dict[tuple[tuple[str, ...], bool], list[Row]] = defaultdict(list)
    for row in rows:
        groups[_size_and_duration(row), row.held_out].append(row)
    return list(groups.values())


def _merge(rows: Sequence[Row], repeats: Repeats) -> tuple[list[Row], list[Exclusion]]:
    kept, left = [], []
    for group in groups_of(rows):
        best = min(group, key=lambda row: row.loss)
        if repeats == "mean":
            mean = float(np.exp(np.mean([np.log(row.loss) for row in group])))
            kept.append(replace(best, loss=mean) if len(group) > 1 else best)
            reason = f"repeats: its loss is part of the mean that stands for {best.name}"
        else:
            kept.append(best)
            reason = f"repeats: {best.name}, of the same size and duration, has a lower loss"
        left += [Exclusion(run=row.name, reason=reason) for row in group if row is not best]
    return kept, left


def _check_flops(row: Row) -> None:
    if row.train_flops is None:
        raise InputError(
            f"{row.place} names no FLOPs, so they cannot be counted exactly",
            hint="add a column train_flops, or use --flops 6nd",
        )
