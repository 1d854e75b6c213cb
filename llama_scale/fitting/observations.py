"""Which runs a law is fitted on: rows from stores and tables, what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_scale.architecture import ParameterConvention
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.fitting.filters import Filter, check_columns
from llama_scale.laws import FlopsAccounting, Range, Support
from llama_scale.runs import RunRecord

Array = NDArray[np.float64]

STORE_CONVENTION: ParameterConvention = "matmul"  # what a token is multiplied by, so 6N is nearly its FLOPs
TABLE_CONVENTION: ParameterConvention = "total"
LAW_CONSTANTS = 5
ARRAYS = ("parameters", "tokens", "loss", "train_flops", "budgets")
SAME_6ND = 0.01  # FLOPs within 1 % of 6ND throughout are 6ND
SAME_SIZE = 0.02  # sizes or durations nearer than 2 % count once


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run as its source tells it: `place` names it in errors, `held_out` rows only test the law."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """A run that was left out of the fit, and why."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one source with what was left out of them, and what a reader must know."""

    source: str
    rows: tuple[Row, ...]
    convention: ParameterConvention
    exclusions: tuple[Exclusion, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observations:
    """What a law is fitted on: arrays of one length, a row a run.

    Losses in nats per token; `budgets` is nan where a run belongs to none; runs of one family share
    a trunk and its noise. `held_out` are runs that the law is tested on.
    """

    names: tuple[str, ...]
    parameters: Array
    tokens: Array
    loss: Array
    train_flops: Array
    budgets: Array
    families: tuple[str, ...]
    convention: ParameterConvention
    flops_accounting: FlopsAccounting
    sources: tuple[str, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    warnings: tuple[str, ...] = ()
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
            **{name: getattr(self, name)[positions] for name in ARRAYS},
        )


def rows_of_records(
    records: Iterable[RunRecord],
    *,
    source: str,
    where: Sequence[Filter] = (),
    convention: ParameterConvention | None = None,
) -> Rows:
    """Rows from runs of our own; only those that ended their schedule count: undecayed losses are higher."""
    check_columns(where, [f.name for f in fields(RunRecord)], source)
    kept: list[Row] = []
    left: list[Exclusion] = []
    counted = convention or STORE_CONVENTION
    for record in records:
        reason = _why_not(record, where)
        if reason:
            left.append(Exclusion(run=record.run, reason=reason))
            continue
        assert record.loss_nats is not None
        row = Row(
            name=record.run,
            place=f"run {record.run} of {source}",
            parameters=float(record.parameters.by(counted)),
            tokens=float(record.tokens),
            loss=record.loss_nats,
            train_flops=record.train_flops,
            budget=record.budget_flops,
            family=record.family,
            corpus=record.corpus,
            tokenizer=record.tokenizer,
            held_out=record.role == "holdout",
        )
        kept.append(row)
    return Rows(source=source, rows=tuple(kept), convention=counted, exclusions=tuple(left))


def _why_not(record: RunRecord, where: Sequence[Filter]) -> str | None:
    failed = next((c for c in where if not c.keeps(str(getattr(record, c.column)))), None)
    if failed:
        return f"not {failed}"
    if record.role == "trunk":
        return "a trunk at constant learning rate: its loss is not decayed"
    if record.status != "done":
        return f"its status is {record.status}"
    if not record.schedule_complete:
        return "its learning-rate schedule did not end"
    if record.loss_nats is None or not np.isfinite(record.loss_nats):
        return "it has no finite loss"
    return None


def observe(parts: Sequence[Rows]) -> Observations:
    """One set of observations from the rows of one or more sources.

    Raises InputError for values that no run can have, and for parameters, corpora or tokenizers of
    more than one kind; UnidentifiedError where nothing is left.
    """
    conventions = {part.convention for part in parts}
    if len(conventions) > 1:
        raise InputError(
            f"the sources count parameters differently: {', '.join(sorted(conventions))}",
            hint="give them one convention with --convention total, non_embedding or matmul",
        )
    rows = [row for part in parts for row in part.rows]
    for row in rows:
        _check_values(row)
    _check_one_kind(rows)
    _check_units(rows)
    exclusions = tuple(exclusion for part in parts for exclusion in part.exclusions)
    train = [row for row in rows if not row.held_out]
    if not train:
        raise _nothing_left(parts, exclusions)
    tests = [row for row in rows if row.held_out]
    shared = {"convention": conventions.pop(), "sources": tuple(part.source for part in parts)}
    warnings = [warning for part in parts for warning in part.warnings] + _doubts(train)
    return _arrays(
        train,
        **shared,
        exclusions=exclusions,
        warnings=tuple(warnings),
        held_out=_arrays(tests, **shared) if tests else None,
    )


def _arrays(rows: Sequence[Row], **others: Any) -> Observations:
    parameters, tokens = np.array([r.parameters for r in rows]), np.array([r.tokens for r in rows])
    six_nd = 6 * parameters * tokens
    flops = np.array([six_nd[i] if r.train_flops is None else r.train_flops for i, r in enumerate(rows)])
    return Observations(
        names=tuple(row.name for row in rows),
        parameters=parameters,
        tokens=tokens,
        loss=np.array([row.loss for row in rows]),
        train_flops=flops,
        budgets=np.array([np.nan if row.budget is None else row.budget for row in rows]),
        families=tuple(row.family or row.place for row in rows),
        flops_accounting="6nd" if np.all(np.abs(flops / six_nd - 1) < SAME_6ND) else "exact",
        **others,
    )


def _check_values(row: Row) -> None:
    values: Mapping[str, float | None] = {
        "parameters": row.parameters,
        "tokens": row.tokens,
        "loss": row.loss,
        "train_flops": row.train_flops,
    }
    for name, value in values.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(
                f"{row.place} has {name} {value:g}, but it must be finite and positive",
                hint="correct that row, or leave it out with --where",
            )


def _check_one_kind(rows: Sequence[Row]) -> None:
    for kind in ("corpus", "tokenizer"):
        counts = Counter(getattr(row, kind) for row in rows)
        if len(counts) > 1:
            found = ", ".join(f"{name or 'unnamed'} ({count} runs)" for name, count in counts.most_common())
            raise InputError(
                f"losses under more than one {kind} cannot be fitted together: {found}",
                hint=f"choose one with --where '{kind} = {counts.most_common(1)[0][0]}'",
            )


def _check_units(rows: Sequence[Row]) -> None:
    """A 7 beside 7e9 is a size in billions that lost its B."""
    if not rows:
        return
    for name in ("parameters", "tokens"):
        low, high = (choose(rows, key=lambda row: getattr(row, name)) for choose in (min, max))
        small, large = getattr(low, name), getattr(high, name)
        if small < 1e3 and large > 1e5 * small:
            raise InputError(
                f"{low.place} has {name} {small:g} and {high.place} has {large:g}: are these one unit?",
                hint="write whole numbers or units, such as 7B, in every row",
            )


def _doubts(rows: Sequence[Row]) -> list[str]:
    """What is odd but may be meant."""
    doubts = []
    seen = Counter((row.parameters, row.tokens, row.loss) for row in rows)
    copies = sum(count - 1 for count in seen.values())
    if copies:
        example = next(row for row in rows if seen[row.parameters, row.tokens, row.loss] > 1)
        doubts.append(f"{copies} row(s) repeat another exactly, such as {example.place}: each counts")
    flops = np.array([row.parameters * row.tokens for row in rows])
    if len(rows) > 2 and _rank_correlation(flops, np.array([row.loss for row in rows])) > 0:
        doubts.append("losses rise with compute: are these runs one experiment, and the loss column a loss?")
    return doubts


def _rank_correlation(one: Array, other: Array) -> float:
    """Spearman's, 0 where either is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    ranks = [np.argsort(np.argsort(values)) - (len(values) - 1) / 2 for values in (one, other)]
    return float((ranks[0] * ranks[1]).sum() / (ranks[0] ** 2).sum())


def _nothing_left(parts: Sequence[Rows], exclusions: Sequence[Exclusion]) -> UnidentifiedError:
    sources = ", ".join(part.source for part in parts)
    reasons = Counter(exclusion.reason for exclusion in exclusions)
    why = "; ".join(f"{count} left out: {reason}" for reason, count in reasons.most_common(3))
    return UnidentifiedError(
        f"no run of {sources} can be fitted{': ' + why if why else ''}",
        hint="finish the sweep with `llama-scale sweep`, or check --where",
    )


def check_design(observations: Observations) -> None:
    """Raises UnidentifiedError where the runs' sizes and durations cannot tell five constants apart."""
    if len(observations) <= LAW_CONSTANTS:
        raise UnidentifiedError(
            f"{len(observations)} run(s) cannot identify a law of {LAW_CONSTANTS} constants",
            hint="add runs: at least 3 sizes x 3 durations, better an IsoFLOP sweep (`llama-scale sweep`)",
        )
    for name, noun in (("parameters", "size"), ("tokens", "duration")):
        count = _distinct(getattr(observations, name))
        if count < 3:
            raise UnidentifiedError(
                f"runs of {count} {noun}(s) cannot say how loss falls with {name}: 3 are the least",
                hint=f"add runs of other {noun}s, or fit more sources together",
            )


def _distinct(values: Array) -> int:
    return 1 + int((np.diff(np.sort(np.log(values))) > SAME_SIZE).sum())
