"""Loss curves to look at: of every run of a store, or of a table with a row for each logged step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llama_scale.errors import InputError
from llama_scale.fitting.cells import read_cells
from llama_scale.fitting.columns import ALIASES, EVALUATED_LOSS, TRAINING_LOSS, Columns, named_columns
from llama_scale.fitting.records import STORE_CONVENTION, curve_of
from llama_scale.fitting.rows import TrainingCurve
from llama_scale.laws import is_fit
from llama_scale.runs import RunFolder, read_records

LEAST_POINTS = 3
NEEDED = ("run", "parameters", "tokens", "loss")


def learning_curves(path: Path) -> tuple[TrainingCurve, ...]:
    """Training loss along every run, trunks and branches, after the warm-up; empty where none was logged.

    Raises InputError for a path that holds neither runs nor a table of their steps.
    """
    if not path.exists():
        raise InputError(
            f"there is no run store or table at {str(path)!r}",
            hint="check the path, or make runs with `llama-scale sweep`",
        )
    if path.suffix.lower() == ".json":
        raise InputError(
            f"{path} is {'a fit' if is_fit(path) else 'JSON'}, which holds no loss curves",
            hint="name the store of its runs, or the table that `llama-scale runs export --curves` writes",
        )
    found = _of_store(path) if path.is_dir() else _of_table(path)
    return tuple(curve for curve in found if len(curve.tokens) >= LEAST_POINTS)


def _of_store(path: Path) -> list[TrainingCurve]:
    folders = ((RunFolder(path / record.run), record) for record in read_records(path))
    here = ((folder, record) for folder, record in folders if (folder.path / "spec.json").exists())
    return [curve_of(folder, record, STORE_CONVENTION) for folder, record in here]


def _of_table(path: Path) -> list[TrainingCurve]:
    """The curves of a table with columns run, parameters, tokens and train_loss (or loss)."""
    table = read_cells(path)
    known = {name: ALIASES[name] for name in (*NEEDED, "train_flops")}
    known["loss"] = (*TRAINING_LOSS, *EVALUATED_LOSS)
    columns = named_columns(
        path,
        table,
        known,
        required=NEEDED,
        need="a table of loss curves has run, parameters, tokens and train_loss of each logged step; "
        "`llama-scale runs export --curves` writes one",
    )
    by_run: dict[str, list[tuple[str, Sequence[str]]]] = defaultdict(list)
    for place, cells in zip(table.places, table.rows, strict=True):
        by_run[columns.text(cells, "run")].append((f"{path.name} {place}", cells))
    return [_curve(run, rows, columns) for run, rows in by_run.items()]


def _curve(run: str, rows: Sequence[tuple[str, Sequence[str]]], columns: Columns) -> TrainingCurve:
    values = np.array(
        [[_number(place, cells, columns, name) for name in NEEDED[1:]] for place, cells in rows]
    )
    parameters, tokens, loss = values[np.argsort(values[:, 1], kind="stable")].T
    if len(rows) >= LEAST_POINTS and tokens[0] == tokens[-1]:
        raise InputError(
            f"{rows[0][0]}: all rows of {run!r} have {tokens[0]:g} tokens, those of the whole run",
            hint="a loss curve needs the tokens that each logged step had seen",
        )
    per_token = 6 * parameters[0]
    if "train_flops" in columns.at:
        per_token = _number(*rows[-1], columns, "train_flops") / _number(*rows[-1], columns, "tokens")
    return TrainingCurve(
        run=run, parameters=float(parameters[0]), flops_per_token=float(per_token), tokens=tokens, loss=loss
    )


def _number(place: str, cells: Sequence[str], columns: Columns, name: str) -> float:
    text = cells[columns.at[name]]
    try:
        value = columns.parsed(text, name)
        if not 0 < value < float("inf"):
            raise ValueError
    except (InputError, ValueError):
        raise InputError(
            f"{place}, column {name}: {text!r} is no positive number",
            hint="correct that row, or leave it out",
        ) from None
    return value
