"""Rows and loss curves of our own runs: only runs that ended their learning-rate schedule are points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.fitting.filters import Filter, check_columns
from llama_scale.fitting.rows import NO_POINTS, Exclusion, Row, Rows, TrainingCurve
from llama_scale.runs import RunFolder, RunRecord

STORE_CONVENTION: ParameterConvention = "matmul"  # what a token is multiplied by, so 6N is nearly its FLOPs
ALSO = {  # names that filters know beside the fields of a record
    "n": "parameters",
    "d": "tokens",
    "loss": "loss_nats",
    "l": "loss_nats",
    "c": "train_flops",
    "flops": "train_flops",
    "budget": "budget_flops",
    **{f"parameters_{name}": f"parameters_{name}" for name in CONVENTIONS},
}
# Of a curve that are cut off: losses are on no law while the learning rate still rises, or soon after
WARM_UPS = 2


def rows_of_records(
    records: Iterable[RunRecord],
    *,
    source: str,
    where: Sequence[Filter] = (),
    convention: ParameterConvention | None = None,
) -> Rows:
    """Rows from runs of our own; only those that ended their schedule count: undecayed losses are higher."""
    check_columns(where, [*(f.name for f in fields(RunRecord)), *ALSO], source)
    kept: list[Row] = []
    left: list[Exclusion] = []
    counted = convention or STORE_CONVENTION
    for record in records:
        reason = _why_not(record, where, counted)
        if reason or record.loss_nats is None:
            left.append(Exclusion(run=record.run, reason=reason or "it has no finite loss"))
            continue
        row = Row(
            name=record.run,
            place=f"run {record.run} of {source}",
            parameters=float(record.parameters.by(counted)),
            tokens=float(record.tokens),
            loss=record.loss_nats,
            train_flops=record.train_flops,
            budget=record.budget_flops,
            unique_tokens=None if record.unique_tokens is None else float(record.unique_tokens),
            family=record.family,
            corpus=record.corpus,
            tokenizer=record.tokenizer,
            held_out=record.role == "holdout",
            counts={name: float(record.parameters.by(name)) for name in CONVENTIONS},
        )
        kept.append(row)
    return Rows(source=source, rows=tuple(kept), convention=counted, exclusions=tuple(left), units_known=True)


def _cell(record: RunRecord, column: str, counted: ParameterConvention) -> str:
    """What a filter compares: a field of the record, by its own name or by the one that tables use."""
    name = ALSO.get(column, column)
    if name == "parameters":
        return str(record.parameters.by(counted))
    counts = {f"parameters_{known}": record.parameters.by(known) for known in CONVENTIONS}
    return str(counts[name] if name in counts else getattr(record, name))


def passes(record: RunRecord, where: Sequence[Filter], counted: ParameterConvention) -> bool:
    """Whether a record passes every filter."""
    return _failed(record, where, counted) is None


def _failed(record: RunRecord, where: Sequence[Filter], counted: ParameterConvention) -> Filter | None:
    return next((c for c in where if not c.keeps(_cell(record, c.column, counted))), None)


def _why_not(record: RunRecord, where: Sequence[Filter], counted: ParameterConvention) -> str | None:
    failed = _failed(record, where, counted)
    if failed:
        return f"not {failed}"
    if record.role in NO_POINTS:
        return NO_POINTS[record.role]
    if record.status == "diverged":
        return "it diverged: its loss or its gradient was no longer a number"
    if record.status != "done":
        return f"its status is {record.status}"
    if not record.schedule_complete:
        return "its learning-rate schedule did not end"
    if record.loss_nats is None or not np.isfinite(record.loss_nats):
        return "it has no finite loss"
    return None


def curves_of_store(
    store: Path, records: Sequence[RunRecord], convention: ParameterConvention
) -> tuple[TrainingCurve, ...]:
    """Loss along the runs of a store, after their warm-up.

    Where there are trunks at constant learning rate, theirs alone: all sizes are then undecayed alike. Else
    those of the runs that ended their schedule, hold-outs left out. None diverged.
    """
    trunks = [record for record in records if record.role == "trunk" and record.status != "diverged"]
    ended = [record for record in records if record.role == "train" and record.schedule_complete]
    found = (curve_of(RunFolder(store / record.run), record, convention) for record in trunks or ended)
    return tuple(curve for curve in found if len(curve.tokens) > 2)


def curve_of(folder: RunFolder, record: RunRecord, convention: ParameterConvention) -> TrainingCurve:
    """Loss along one run of a store, after its warm-up."""
    curve, config = folder.curve(), folder.config
    after = [i for i, step in enumerate(curve.steps) if step > WARM_UPS * config.schedule.warmup_steps]
    return TrainingCurve(
        run=record.run,
        parameters=float(record.parameters.by(convention)),
        flops_per_token=float(config.model.train_flops_per_token()),
        tokens=np.array([curve.tokens[i] for i in after], float),
        loss=np.array([curve.loss_nats[i] for i in after], float),
    )
