"""Records as flat tables, CSV or Parquet, out and in: the runs table of every other tool."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from llama_scale.config import structure
from llama_scale.errors import InputError
from llama_scale.files import write_atomically
from llama_scale.runs.records import RunRecord, load_records, write_records

FORMATS = (".json", ".csv", ".parquet")
COUNTS = ("total", "non_embedding", "matmul")
# One column more than a record has fields: counts lie side by side, and `parameters` is the one that
# laws of our own runs are fitted on.
COLUMNS = (
    "run",
    "parameters",
    *(f"parameters_{count}" for count in COUNTS),
    *(field.name for field in fields(RunRecord) if field.name not in ("run", "parameters")),
)
MAY_BE_EMPTY = ("budget_flops", "loss_nats", "bits_per_byte", "unique_tokens")
LATER = ("unique_tokens",)  # columns that tables of earlier versions lack
FITTED_COUNT = "matmul"


def write_table(path: Path, records: Iterable[RunRecord]) -> None:
    """Write records as the ending of `path` says; raises InputError for an ending that we do not write."""
    rows = [_row(record) for record in records]
    if path.suffix == ".json":
        write_records(path, records, other="another file")
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        write_atomically(path, text.getvalue(), other="another file")
    elif path.suffix == ".parquet":
        write_atomically(path, _parquet(rows), other="another file")
    else:
        raise _unknown(path)


def read_table(path: Path) -> tuple[RunRecord, ...]:
    """Records of a file that `write_table` wrote; raises InputError naming the row of what is amiss."""
    if path.suffix == ".json":
        return load_records(path)
    if path.suffix not in FORMATS:
        raise _unknown(path)
    try:
        rows = _csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="export the runs again") from error
    return tuple(_record(row, f"{path}, run {number}") for number, row in enumerate(rows, start=1))


def _row(record: RunRecord) -> dict[str, Any]:
    values = asdict(record)
    counts = values.pop("parameters")
    counted = {f"parameters_{count}": counts[count] for count in COUNTS}
    whole = {**values, **counted, "parameters": counts[FITTED_COUNT]}
    return {name: whole[name] for name in COLUMNS}


def _record(row: dict[str, Any], place: str) -> RunRecord:
    row = dict.fromkeys(LATER) | row
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise InputError(
            f"{place} lacks {', '.join(missing)}",
            hint="only whole records are imported; `llama-scale fit` reads any other table of runs",
        )
    values = {name: row[name] for name in COLUMNS if not name.startswith("parameters")}
    counts = {count: row[f"parameters_{count}"] for count in COUNTS}
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
    return None if cell == "" and name in MAY_BE_EMPTY else cell


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
