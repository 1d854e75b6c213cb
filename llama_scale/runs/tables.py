"""Flat tables, as every other tool has them: records as CSV or Parquet, out and in; loss curves as CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from llama_scale.checked import raise_all
from llama_scale.config import structure
from llama_scale.errors import InputError
from llama_scale.files import write_atomically
from llama_scale.runs.folders import RunFolder, run_folders
from llama_scale.runs.records import RunRecord, load_records, write_records

FORMATS = (".json", ".csv", ".parquet")
COUNTS = ("total", "non_embedding", "matmul")
# What every table of runs begins with. `parameters` is the count that laws of our own runs are fitted on,
# of those that lie side by side behind; `loss` is a record's `loss_nats`.
FIRST = ("run", "parameters", "tokens", "loss", "train_flops")
COLUMNS = (
    *FIRST,
    *(f"parameters_{count}" for count in COUNTS),
    *(field.name for field in fields(RunRecord) if field.name not in (*FIRST, "loss_nats")),
)
MAY_BE_EMPTY = ("budget_flops", "loss", "bits_per_byte", "unique_tokens")
LATER = ("unique_tokens",)  # columns that tables of earlier versions lack
FITTED_COUNT = "matmul"
# Losses are of training, the mean since the row before: not called `loss`, so that no law is fitted to them.
CURVE = ("run", "role", "parameters", "step", "tokens", "train_flops", "learning_rate", "train_loss")


def write_table(path: Path, records: Iterable[RunRecord]) -> None:
    """Write records as the ending of `path` says; raises InputError for an ending that we do not write."""
    rows = [_row(record) for record in records]
    if path.suffix == ".json":
        write_records(path, records, other="another file")
    elif path.suffix == ".csv":
        _write_csv(path, COLUMNS, (map(_cell, row.values()) for row in rows))
    elif path.suffix == ".parquet":
        write_atomically(path, _parquet(rows), other="another file")
    else:
        raise _unknown(path)


def write_curves(path: Path, store: Path) -> int:
    """Write every run's curve as CSV, a branch from where it leaves its trunk; returns the number of rows.

    `parameters` are those of `matmul`. Raises InputError for another ending, and for a store without curves.
    """
    if path.suffix != ".csv":
        raise InputError(f"loss curves are written as CSV, not as {path.name!r}", hint="end its name in .csv")
    rows = [row for folder in run_folders(store) for row in _curve(folder)]
    if not rows:
        raise InputError(
            f"no run of {str(store)!r} has logged a loss", hint="train some: `llama-scale sweep`"
        )
    _write_csv(path, CURVE, rows)
    return len(rows)


def _curve(folder: RunFolder) -> Iterator[tuple[Any, ...]]:
    config = folder.config
    for event in folder.reports():
        step = event["step"]
        yield (
            folder.run,
            config.role,
            config.model.parameters.matmul,
            step,
            step * config.tokens_per_step,
            f"{config.train_flops(step):.6g}",
            f"{event['learning_rate']:.4g}",
            f"{event['loss_nats']:.5g}",
        )


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_atomically(path, text.getvalue(), other="another file")


def read_table(path: Path) -> tuple[RunRecord, ...]:
    """Records of a file that `write_table` wrote; raises InputError naming the runs of all that is amiss."""
    if path.suffix not in FORMATS:
        raise _unknown(path)
    records = load_records(path) if path.suffix == ".json" else _records_of_rows(path)
    if not records:
        raise InputError(f"{path} holds no runs", hint="export the runs again")
    raise_all(_problems(records, path))
    return records


def _records_of_rows(path: Path) -> tuple[RunRecord, ...]:
    try:
        rows = _csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="export the runs again") from error
    return tuple(_record(row, f"{path}, run {number}") for number, row in enumerate(rows, start=1))


def _problems(records: Sequence[RunRecord], path: Path) -> Iterator[InputError]:
    """What no export says: runs without a name that is one, named twice, or whose numbers contradict."""
    for run, times in Counter(record.run for record in records).items():
        if times > 1:
            yield InputError(f"{path} names run {run} {times} times", hint="leave one row of it")
        if run in ("", "..") or Path(run).name != run.strip() or not run.isprintable():
            yield InputError(f"{path} names a run {run!r}", hint="export the runs again: it is no run's id")
    for record in records:
        if reason := _contradiction(record):
            hint = "export the runs again; `llama-scale fit` reads tables that say less"
            yield InputError(f"{path}: run {record.run} {reason}", hint=hint)


def _contradiction(record: RunRecord) -> str:
    if min(asdict(record.parameters).values()) < 1:
        return "has no parameters"
    if record.tokens < 0 or record.train_flops < 0:
        return "has fewer than no tokens or FLOPs"
    if record.status == "done" and record.loss_nats is None and record.role != "trunk":
        return "is done without a loss"
    if record.status != "done" and record.loss_nats is not None:
        return f"has a loss, but is {record.status}"
    return ""


def _row(record: RunRecord) -> dict[str, Any]:
    values = asdict(record)
    counts = values.pop("parameters")
    counted = {f"parameters_{count}": counts[count] for count in COUNTS}
    whole = {**values, **counted, "parameters": counts[FITTED_COUNT], "loss": values["loss_nats"]}
    return {name: whole[name] for name in COLUMNS}


def _record(row: dict[str, Any], place: str) -> RunRecord:
    row = dict.fromkeys(LATER) | row
    if "loss_nats" in row:  # as tables of earlier versions have it
        row.setdefault("loss", row["loss_nats"])
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise InputError(
            f"{place} lacks {', '.join(missing)}",
            hint="only whole records are imported; `llama-scale fit` reads any other table of runs",
        )
    values = {name: row[name] for name in COLUMNS if not name.startswith("parameters")}
    values["loss_nats"] = values.pop("loss")
    counts = {count: row[f"parameters_{count}"] for count in COUNTS}
    if str(row["parameters"]) != str(counts[FITTED_COUNT]):
        raise InputError(
            f"{place}: parameters is {row['parameters']}, parameters_{FITTED_COUNT} {counts[FITTED_COUNT]}",
            hint="they are the same number twice; export the runs again",
        )
    return structure({**values, "parameters": counts}, RunRecord, source=place)


def _cell(value: Any) -> Any:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else value


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {name: _value(name, cell) for name, cell in row.items() if name is not None and cell is not None}
        for row in rows
    ]


def _value(name: str, cell: str) -> Any:
    if name == "schedule_complete":
        return {"true": True, "false": False}.get(cell.lower(), cell)
    return None if cell == "" and name in (*MAY_BE_EMPTY, "loss_nats") else cell


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    arrow, parquet = _pyarrow()
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    buffer = io.BytesIO()
    parquet.write_table(arrow.table(columns), buffer)
    return buffer.getvalue()


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    arrow, parquet = _pyarrow()
    data = path.read_bytes()
    try:
        return parquet.read_table(io.BytesIO(data)).to_pylist()
    except arrow.ArrowException as error:
        raise ValueError(f"it is no whole Parquet file ({str(error).splitlines()[0]})") from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "Parquet needs pyarrow, which is not installed",
            hint="pip install 'llama-scale[parquet]', or use a .csv",
        ) from error
    return pyarrow, pyarrow.parquet


def _unknown(path: Path) -> InputError:
    return InputError(
        f"{path} is no table that we know by its ending", hint=f"end its name in {', '.join(FORMATS)}"
    )
