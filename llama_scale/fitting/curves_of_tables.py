"""Tables that hold loss curves: rows of one run at several steps, of which only the last is its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from llama_scale.errors import InputError
from llama_scale.fitting.rows import Exclusion, Row, TrainingCurve
from llama_scale.frozen import frozen
from llama_scale.quantities import counted

EARLIER = "of its loss curve before the last: the learning-rate schedule had not ended"


@frozen
class CurvePoint:
    """A row that names the optimiser step at which its loss was measured."""

    step: float
    row: Row


def curves_and_ends(
    points: Sequence[CurvePoint],
) -> tuple[tuple[Row, ...], tuple[TrainingCurve, ...], tuple[Exclusion, ...]]:
    """The last row of each run, the curves of runs with several, and how many earlier rows were left out.

    Raises InputError for a run whose size changes along its curve: its rows are not one run.
    """
    by_run: dict[str, list[CurvePoint]] = defaultdict(list)
    for point in points:
        by_run[point.row.name].append(point)
    ends, curves, earlier = [], [], []
    for run, found in by_run.items():
        ordered = [point.row for point in sorted(found, key=lambda point: point.step)]
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
