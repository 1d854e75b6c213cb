"""What a law is fitted on: the runs that count, as arrays, with what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.doubts import (
    check_one_kind,
    check_units,
    check_values,
    doubts_of,
    rank_correlation,
)
from llama_scale.fitting.rows import Array, Exclusion, Row, Rows, TrainingCurve
from llama_scale.fitting.rules import Rules, count_rows
from llama_scale.laws import FlopsAccounting, Range, Support

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
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
        return float(np.median(self.train_flops / (6 * self.parameters * self.tokens)))

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
    conventions = {part.convention for part in parts}
    if len(conventions) > 1:
        raise InputError(
            f"the sources count parameters differently: {', '.join(sorted(conventions))}",
            hint="give them one convention with --convention total, non_embedding or matmul",
        )
    for part in parts:
        for row in part.rows:
            check_values(row)
    rows, left = count_rows(parts, rules)
    check_one_kind(rows)
    check_units(rows)
    exclusions = (*(exclusion for part in parts for exclusion in part.exclusions), *left)
    train = [row for row in rows if not row.held_out]
    if not train:
        raise _nothing_left(parts, exclusions)
    tests = [row for row in rows if row.held_out]
    shared: dict[str, Any] = {
        "convention": conventions.pop(),
        "sources": tuple(part.source for part in parts),
        "rules": rules,
    }
    warnings = [warning for part in parts for warning in part.warnings] + doubts_of(train)
    return _arrays(
        train,
        **shared,
        exclusions=exclusions,
        warnings=tuple(warnings),
        curves=tuple(curve for part in parts for curve in part.curves),
        held_out=_arrays(tests, **shared) if tests else None,
    )


def _arrays(
    rows: Sequence[Row], *, convention: ParameterConvention, rules: Rules, **others: Any
) -> Observations:
    parameters, tokens = np.array([r.parameters for r in rows]), np.array([r.tokens for r in rows])
    six_nd = 6 * parameters * tokens
    source_flops = _known([row.train_flops for row in rows])
    flops = six_nd if rules.flops == "6nd" else np.where(np.isnan(source_flops), six_nd, source_flops)
    known = [name for name in CONVENTIONS if all(name in row.counts for row in rows)]
    return Observations(
        names=tuple(row.name for row in rows),
        parameters=parameters,
        tokens=tokens,
        loss=np.array([row.loss for row in rows]),
        train_flops=flops,
        budgets=_known([row.budget for row in rows]),
        source_flops=source_flops,
        unique_tokens=_known([row.unique_tokens for row in rows]),
        flagged=np.array([row.flagged for row in rows], bool),
        families=tuple(row.family or row.place for row in rows),
        flops_accounting="6nd" if np.all(np.abs(flops / six_nd - 1) < SAME_6ND) else "exact",
        convention=convention,
        rules=rules,
        counts={name: np.array([row.counts[name] for row in rows]) for name in known}
        | {convention: parameters},
        **others,
    )


def _known(values: Sequence[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], float)


def _nothing_left(parts: Sequence[Rows], exclusions: Sequence[Exclusion]) -> UnidentifiedError:
    sources = ", ".join(part.source for part in parts)
    reasons = Counter(exclusion.reason for exclusion in exclusions)
    why = "; ".join(f"{count} left out: {reason}" for reason, count in reasons.most_common(3))
    return UnidentifiedError(
        f"no run of {sources} can be fitted{': ' + why if why else ''}",
        hint="finish the sweep with `llama-scale sweep`, or check --where",
    )


def check_design(observations: Observations, constants: int = LAW_CONSTANTS) -> None:
    """Raises UnidentifiedError where the runs cannot tell the constants of a law apart, or follow none."""
    if len(observations) <= constants:
        raise UnidentifiedError(
            f"{len(observations)} run(s) cannot identify a law of {constants} constants",
            hint="add runs: at least 3 sizes x 3 durations, better an IsoFLOP sweep (`llama-scale sweep`)",
        )
    for name, noun in (("parameters", "size"), ("tokens", "duration")):
        count = _distinct(getattr(observations, name))
        if count < 3:
            raise UnidentifiedError(
                f"runs of {count} {noun}(s) cannot say how loss falls with {name}: 3 are the least",
                hint=f"add runs of other {noun}s, or fit more sources together",
            )
    flops = observations.parameters * observations.tokens
    if rank_correlation(flops, observations.loss) > RISING:
        cheap, dear = (observations.names[int(at)] for at in (flops.argmin(), flops.argmax()))
        raise UnidentifiedError(
            f"losses rise with compute, as from {cheap} ({observations.loss[flops.argmin()]:.4g}) to {dear}"
            f" ({observations.loss[flops.argmax()]:.4g}): no law of scale is in them",
            hint="is the loss column a loss, and are these runs one experiment? choose rows with --where",
        )


def _distinct(values: Array) -> int:
    return 1 + int((np.diff(np.sort(np.log(values))) > SAME_SIZE).sum())
