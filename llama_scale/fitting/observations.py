"""What a law is fitted on: the runs that count, as arrays, with what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.doubts import (
    check_one_kind,
    check_units,
    check_values,
    doubts_of,
    rank_correlation,
    unit_doubts,
)
from llama_scale.fitting.rows import Array, Exclusion, Row, Rows, TrainingCurve
from llama_scale.fitting.rules import Rules, count_rows
from llama_scale.frozen import frozen
from llama_scale.laws import FlopsAccounting, Range, Support, median
from llama_scale.quantities import counted, format_number

__all__ = ["Exclusion", "Observations", "Row", "Rows", "check_design", "observe"]

LAW_CONSTANTS = 5
ARRAYS = (
    "parameters",
    "tokens",
    "loss",
    "train_flops",
    "budgets",
    "source_flops",
    "unique_tokens",
    "flagged",
)
SAME_6ND = 0.01  # FLOPs within 1 % of 6ND throughout are 6ND
EVERY_POINT = Rules()
RISING = 0.5  # rank correlation of loss with compute above which there is nothing to fit
SAME_SIZE = 0.02  # sizes or durations nearer than 2 % count once


@frozen(eq=False)
class Observations:
    """What a law is fitted on: arrays of one length, a row a run.

    Losses in nats per token; `budgets` is nan where a run belongs to none; runs of one family share
    a trunk and its noise. `held_out` are runs that the law is tested on. `source_flops` are FLOPs as the
    source counts them, whatever `train_flops` was asked to be, `unique_tokens` the size of the text: both nan
    where it doesn't say. `flagged` runs are outliers in the eyes of their source. `counts` are parameters
    by every convention that all sources tell, `curves` losses along runs where too few have ended.
    """

    names: tuple[str, ...]
    parameters: Array
    tokens: Array
    loss: Array
    train_flops: Array
    budgets: Array
    source_flops: Array
    unique_tokens: Array
    flagged: NDArray[np.bool_]
    families: tuple[str, ...]
    convention: ParameterConvention
    flops_accounting: FlopsAccounting
    sources: tuple[str, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    warnings: tuple[str, ...] = ()
    counts: Mapping[str, Array] = field(default_factory=dict)
    curves: tuple[TrainingCurve, ...] = ()
    rules: Rules = EVERY_POINT
    held_out: Observations | None = field(default=None)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def support(self) -> Support:
        """The ranges of the runs."""
        columns = {
            "train_flops": self.train_flops,
            "parameters": self.parameters,
            "tokens": self.tokens,
            "tokens_per_parameter": self.tokens / self.parameters,
        }
        return Support(**{name: Range(float(v.min()), float(v.max())) for name, v in columns.items()})

    @property
    def flops_over_6nd(self) -> float:
        """Median of counted FLOPs over 6ND: 1 where FLOPs are 6ND, more where attention is counted."""
        return median(self.train_flops / (6 * self.parameters * self.tokens))

    @property
    def fresh_tokens(self) -> Array:
        """Tokens that each run saw for the first time (n,)."""
        return np.fmin(self.tokens, self.unique_tokens)

    @property
    def family_codes(self) -> NDArray[np.intp]:
        """Families as numbers, one a run."""
        return np.unique(np.array(self.families), return_inverse=True)[1].ravel()

    @property
    def shares_trunks(self) -> bool:
        """Whether any two runs share a family."""
        return len(set(self.families)) < len(self)

    def take(self, index: NDArray[Any]) -> Observations:
        """The runs at `index` (a mask or positions), without hold-outs."""
        positions = np.arange(len(self))[index]
        return replace(
            self,
            names=tuple(self.names[i] for i in positions),
            families=tuple(self.families[i] for i in positions),
            held_out=None,
            counts={name: values[positions] for name, values in self.counts.items()},
            **{name: getattr(self, name)[positions] for name in ARRAYS},
        )


def observe(parts: Sequence[Rows], rules: Rules = EVERY_POINT) -> Observations:
    """One set of observations from the rows of one or more sources that count under the rules.

    Raises InputError for values that no run can have, and for parameters, corpora or tokenizers of
    more than one kind; UnidentifiedError where nothing is left.
    """
    _check_one_count(parts)
    for row in chain.from_iterable(part.rows for part in parts):
        check_values(row)
    rows, left = count_rows(parts, rules)
    check_one_kind(rows)
    units_known = all(part.units_known for part in parts)
    if not units_known:
        check_units(rows)
    exclusions = (*chain.from_iterable(part.exclusions for part in parts), *left)
    train, tests = ([row for row in rows if row.held_out == held_out] for held_out in (False, True))
    if not train:
        raise _nothing_left(parts, exclusions)
    shared: dict[str, Any] = {
        "convention": parts[0].convention,
        "sources": tuple(part.source for part in parts),
        "rules": rules,
    }
    return _arrays(
        train,
        **shared,
        exclusions=exclusions,
        warnings=(
            *dict.fromkeys(chain.from_iterable(part.warnings for part in parts)),
            *(() if units_known else unit_doubts(train)),
            *doubts_of(train),
        ),
        curves=tuple(chain.from_iterable(part.curves for part in parts)),
        held_out=_arrays(tests, **shared) if tests else None,
    )


def _check_one_count(parts: Sequence[Rows]) -> None:
    """Raises InputError for sources that count parameters differently."""
    conventions = {part.convention for part in parts}
    if len(conventions) > 1:
        raise InputError(
            f"the sources count parameters differently: {', '.join(sorted(conventions))}",
            hint="give them one convention with --convention total, non_embedding or matmul",
        )


def _arrays(
    rows: Sequence[Row], *, convention: ParameterConvention, rules: Rules, **others: Any
) -> Observations:
    parameters, tokens = _column(rows, "parameters"), _column(rows, "tokens")
    six_nd, source_flops = 6 * parameters * tokens, _column(rows, "train_flops")
    flops = six_nd if rules.flops == "6nd" else np.where(np.isnan(source_flops), six_nd, source_flops)
    return Observations(
        names=tuple(row.name for row in rows),
        parameters=parameters,
        tokens=tokens,
        loss=_column(rows, "loss"),
        train_flops=flops,
        budgets=_column(rows, "budget"),
        source_flops=source_flops,
        unique_tokens=_column(rows, "unique_tokens"),
        flagged=_column(rows, "flagged") > 0,
        families=tuple(row.family or row.place for row in rows),
        flops_accounting="6nd" if np.all(np.abs(flops / six_nd - 1) < SAME_6ND) else "exact",
        convention=convention,
        rules=rules,
        counts=_counts(rows) | {convention: parameters},
        **others,
    )


def _column(rows: Sequence[Row], name: str) -> Array:
    """A field of all rows, (n,); None turns into nan."""
    return np.array([getattr(row, name) for row in rows], float)


def _counts(rows: Sequence[Row]) -> dict[str, Array]:
    """Parameters by every convention that all rows tell."""
    known = [name for name in CONVENTIONS if all(name in row.counts for row in rows)]
    return {name: np.array([row.counts[name] for row in rows]) for name in known}


def _nothing_left(parts: Sequence[Rows], exclusions: Sequence[Exclusion]) -> UnidentifiedError:
    sources = ", ".join(part.source for part in parts)
    reasons = Counter(exclusion.reason for exclusion in exclusions)
    why = "; ".join(f"{count} left out: {reason}" for reason, count in reasons.most_common(3))
    return UnidentifiedError(
        f"no run of {sources} can be fitted{': ' + why if why else ''}",
        hint="; ".join(dict.fromkeys(part.remedy for part in parts)),
    )


def check_spread(parameters: ArrayLike, tokens: ArrayLike, constants: int = LAW_CONSTANTS) -> None:
    """Raises UnidentifiedError where sizes and durations of runs are too few, or too alike, for a law."""
    sizes, durations = np.asarray(parameters, float), np.asarray(tokens, float)
    if len(sizes) <= constants:
        raise UnidentifiedError(
            f"{counted(len(sizes), 'run')} cannot identify a law of {constants} constants",
            hint="add runs: at least 3 sizes x 3 durations, better an IsoFLOP sweep (`llama-scale sweep`)",
        )
    for name, noun, values in (("parameters", "size", sizes), ("tokens", "duration", durations)):
        count = _distinct(values)
        if count < 3:
            raise UnidentifiedError(
                f"runs of {counted(count, noun)} cannot say how loss falls with {name}: 3 are the least",
                hint=f"add runs of other {noun}s, or fit more sources together",
            )
    if _grow_together(sizes, durations):
        raise UnidentifiedError(
            f"sizes and durations grow together in all {len(sizes)} runs, {_ratios(durations / sizes)}"
            " tokens a parameter: nothing says with which of the two the loss falls",
            hint="add runs of some of these sizes on several times more or fewer tokens, or fit more sources"
            " together",
        )


def _grow_together(sizes: Array, durations: Array) -> bool:
    """Whether durations are one rising power of the sizes, such as D = 20N.

    Both terms of a law are then powers of N: with A, alpha and B, beta exchanged it fits just as well.
    """
    x, y = (np.log(values) - np.log(values).mean() for values in (sizes, durations))
    slope = float((x * y).sum() / (x * x).sum())
    return slope > 0 and bool(np.abs(y - slope * x).max() < SAME_SIZE)


def _ratios(ratios: Array) -> str:
    ends = [format_number(float(value), 2) for value in (ratios.min(), ratios.max())]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def check_design(observations: Observations) -> None:
    """Raises UnidentifiedError where the runs cannot tell the constants of a law apart, or follow none."""
    check_spread(observations.parameters, observations.tokens)
    flops = observations.parameters * observations.tokens
    if rank_correlation(flops, observations.loss) > RISING:
        cheap, dear = (observations.names[int(at)] for at in (flops.argmin(), flops.argmax()))
        raise UnidentifiedError(
            f"losses rise with compute, as from {cheap} ({observations.loss[flops.argmin()]:.4g}) to {dear}"
            f" ({observations.loss[flops.argmax()]:.4g}): no law of scale is in them",
            hint="is the loss column a loss, and are these runs one experiment? choose rows with --where",
        )


def _distinct(values: Array) -> int:
    """How many values there are, those within SAME_SIZE of the least of them counted once.

    By the least, not by neighbours: thousands of values of any size leave no gap between them.
    """
    logs, count, at = np.sort(np.log(values)), 0, 0
    while at < len(logs):
        count += 1
        at = int(np.searchsorted(logs, logs[at] + SAME_SIZE, side="right"))
    return count
