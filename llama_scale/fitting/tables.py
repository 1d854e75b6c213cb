"""Runs from anybody's table: which rows count, what is derived; errors that name the line."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.errors import InputError
from llama_scale.fitting.cells import Cells, read_cells
from llama_scale.fitting.columns import ALIASES, Columns, column_name, convention_of, find_columns
from llama_scale.fitting.filters import Filter, check_columns, plain_name
from llama_scale.fitting.headers import read_header
from llama_scale.fitting.rows import NO_POINTS, Exclusion, Row, Rows, TrainingCurve
from llama_scale.quantities import counted

HELD_OUT = ("holdout", "held_out", "test")
DONE = ("", "done", "finished", "complete", "completed", "success", "succeeded")  # as trackers say it
EARLIER = "of its loss curve before the last: the learning-rate schedule had not ended"
TAKEN_ALONE = ("parameters", "tokens", "loss", "train_flops", "budget")
ACTIVE = re.compile(r"activ\w*param|param\w*activ")  # of a mixture of experts, whose FLOPs hang on these
YES, NO = ("true", "yes", "t", "y"), ("false", "no", "f", "n")
REMEDY = (
    "check --where, and the columns that these reasons name: runs that ended have the status done, finished,"
    " completed or success, and 1 as schedule_complete"
)


def read_table(
    path: Path, *, where: Sequence[Filter] = (), convention: ParameterConvention | None = None
) -> Rows:
    """Rows of a CSV or Parquet file."""
    return rows_of_cells(path, read_cells(path), where=where, convention=convention)


def rows_of_cells(
    path: Path, table: Cells, *, where: Sequence[Filter] = (), convention: ParameterConvention | None = None
) -> Rows:
    """Rows of a table that is called `path`.

    Raises InputError naming the file, the line and the column of what is wrong. A table that names no
    parameter convention is taken as total, one without FLOPs as 6ND, and both are said; so is a column
    that was derived: D = C / 6N, or N = C / 6D. Rows of one run at several steps are its loss curve, of
    which the last is the point.
    """
    columns = find_columns(path, table, convention)
    positions = [_position(table, columns, condition, path) for condition in where]
    filters = [(c, at, columns.factor_at(at)) for c, at in zip(where, positions, strict=True)]
    rows: list[Row] = []
    left: list[Exclusion] = []
    points: list[tuple[float, Row]] = []
    for line, cells in zip(table.places, table.rows, strict=True):
        place, name = f"{path.name} {line}", columns.text(cells, "run")
        name, place = (name, f"{place} ({name})") if name else (place, place)
        failed = next((c for c, at, factor in filters if not c.keeps(cells[at], factor)), None)
        reason = f"not {failed}" if failed else _why_not(place, columns, cells)
        if reason:
            left.append(Exclusion(run=name, reason=reason))
            continue
        row = _row(name, place, cells, columns)
        if "step" in columns.at:
            points.append((columns.number(place, cells, "step"), row))
        else:
            rows.append(row)
    ends, curves, earlier = _curves_and_ends(points)
    counted_by, notes = convention_of(path, table, columns, convention)
    return Rows(
        source=str(path),
        rows=(*rows, *ends),
        convention=counted_by,
        exclusions=(*left, *earlier),
        warnings=(*notes, *columns.notes, *_passed_over(path, table, columns), *_derived(path, columns)),
        curves=curves,
        units_known=columns.tell_units(table.rows),
        remedy=REMEDY,
    )


def _curves_and_ends(
    points: Sequence[tuple[float, Row]],
) -> tuple[tuple[Row, ...], tuple[TrainingCurve, ...], tuple[Exclusion, ...]]:
    """The last row of each run, the curves of runs with several, and how many earlier rows were left out.

    Rows come with the optimiser steps at which their losses were measured.

    Raises InputError for a run whose size changes along its curve: its rows are not one run.
    """
    by_run: dict[str, list[tuple[float, Row]]] = defaultdict(list)
    for step, row in points:
        by_run[row.name].append((step, row))
    ends, curves, earlier = [], [], []
    for run, found in by_run.items():
        ordered = [row for _, row in sorted(found, key=lambda point: point[0])]
        last = ordered[-1]
        changed = next((row for row in ordered if row.parameters != last.parameters), None)
        if changed:
            raise InputError(
                f"{changed.place} has {changed.parameters:g} parameters, but a later step of run {run} has"
                f" {last.parameters:g}",
                hint="give each run a name of its own in the column 'run'",
            )
        ends.append(last)
        if len(ordered) > 1:
            curves.append(_curve(run, ordered))
            earlier.append(Exclusion(run=run, reason=f"{counted(len(ordered) - 1, 'point')} {EARLIER}"))
    return tuple(ends), tuple(curves), tuple(earlier)


def _curve(run: str, rows: Sequence[Row]) -> TrainingCurve:
    last = rows[-1]
    per_token = 6 * last.parameters if last.train_flops is None else last.train_flops / last.tokens
    return TrainingCurve(
        run=run,
        parameters=last.parameters,
        flops_per_token=per_token,
        tokens=np.array([row.tokens for row in rows]),
        loss=np.array([row.loss for row in rows]),
    )


def _position(table: Cells, columns: Columns, condition: Filter, path: Path) -> int:
    """The column of a filter, by the table's own name for it or by any of ours."""
    names = [plain_name(name) for name in table.header]
    if condition.column not in names:
        ours = next((ours for ours, others in ALIASES.items() if condition.column in others), "")
        if ours in columns.at:
            return columns.at[ours]
    check_columns([condition], names, path.name)
    return names.index(condition.column)


def _why_not(place: str, columns: Columns, cells: Sequence[str]) -> str | None:
    """Why a row of a table of runs is no point of a law."""
    status = columns.text(cells, "status")
    if status.lower() not in DONE:
        return f"its {columns.header[columns.at['status']]} is {status}"
    if (role := columns.text(cells, "role")) in NO_POINTS:
        return NO_POINTS[role]
    if "schedule_complete" in columns.at and not _flag(place, cells, columns, "schedule_complete"):
        return "its learning-rate schedule did not end"
    return None


def _flag(place: str, cells: Sequence[str], columns: Columns, ours: str, *, reasons: bool = False) -> bool:
    """Whether a cell says yes, in a word or as 1 or 1.0, or gives `reasons` for it; an empty one says no.

    Raises InputError for what is neither yes nor no.
    """
    text = columns.text(cells, ours).lower()
    if text in (*YES, *NO, ""):
        return text in YES
    number = _float(text)
    if number in (0.0, 1.0) or (number is None and reasons):
        return number != 0.0
    raise InputError(
        f"{place}, column {columns.header[columns.at[ours]]}: {text!r} is neither yes nor no",
        hint="write 1 or 0, or give the column another name if it says something else",
    )


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _row(name: str, place: str, cells: Sequence[str], columns: Columns) -> Row:
    flops = columns.maybe(place, cells, "train_flops")
    parameters = columns.number(place, cells, "parameters") if "parameters" in columns.at else None
    tokens = columns.number(place, cells, "tokens") if "tokens" in columns.at else None
    if parameters is None or tokens is None:
        known = columns.number(place, cells, "train_flops")
        other = tokens if parameters is None else parameters
        third = known / (6 * other) if other else float("nan")
        parameters, tokens = (third, tokens) if parameters is None else (parameters, third)
    assert tokens is not None
    counts = {
        convention: columns.number(place, cells, f"parameters_{convention}")
        for convention in CONVENTIONS
        if columns.text(cells, f"parameters_{convention}")
    }
    return Row(
        name=name,
        place=place,
        parameters=parameters,
        tokens=tokens,
        loss=columns.number(place, cells, "loss"),
        train_flops=flops,
        budget=columns.maybe(place, cells, "budget"),
        family=columns.text(cells, "family"),
        corpus=columns.text(cells, "corpus"),
        tokenizer=columns.text(cells, "tokenizer"),
        held_out=columns.text(cells, "role") in HELD_OUT,
        counts=counts,
        unique_tokens=_unique_tokens(place, cells, columns, tokens),
        flagged=_flag(place, cells, columns, "flagged", reasons=True),
    )


def _unique_tokens(place: str, cells: Sequence[str], columns: Columns, tokens: float) -> float | None:
    """The size of the text; from the number of epochs where the table tells that instead."""
    known = columns.maybe(place, cells, "unique_tokens")
    if known is not None:
        return known
    epochs = columns.maybe(place, cells, "epochs")
    if epochs is None:
        return None
    if not epochs > 0:
        raise InputError(
            f"{place}, column {columns.header[columns.at['epochs']]}: {epochs:g} epochs train on nothing",
            hint="write 1 for data seen once, or leave the row out with --where",
        )
    return tokens / max(epochs, 1.0)


def _passed_over(path: Path, table: Cells, columns: Columns) -> list[str]:
    """Columns that could have been meant as well as the one that was taken, where they say something else."""
    names = [column_name(read_header(name)) for name in table.header]
    said = []
    for ours in TAKEN_ALONE:
        alike = [place for place, name in enumerate(names) if name in ALIASES[ours]]
        at = columns.at.get(ours, -1)
        for other in alike if at in alike else ():
            if any(cells[other] != cells[at] for cells in table.rows):
                taken, left = table.header[at], table.header[other]
                said.append(f"{path.name} has {taken!r} and {left!r}: the latter is not read")
    taken = columns.header[columns.at["parameters"]] if "parameters" in columns.at else None
    said += [
        f"{path.name} has {taken!r} and {name!r}: the latter is not read, nor its FLOPs counted"
        for name in table.header
        if taken not in (None, name) and ACTIVE.search(plain_name(name))
    ]
    return said


def _derived(path: Path, columns: Columns) -> list[str]:
    """What was not in the table and is said to be taken for granted."""
    if "train_flops" not in columns.at:
        return [f"{path.name} has no FLOPs: taken as 6ND"]
    if "tokens" not in columns.at:
        return [f"{path.name} has no tokens: taken as D = C / 6N"]
    if "parameters" not in columns.at:
        return [f"{path.name} has no parameters: taken as N = C / 6D"]
    return []
