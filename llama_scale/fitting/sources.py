"""From what a user names to observations: run stores, exports, tables, records, alone or together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from llama_scale.architecture import ParameterConvention
from llama_scale.errors import InputError
from llama_scale.fitting.filters import Filter, parse_filter
from llama_scale.fitting.observations import EVERY_POINT, Observations, observe
from llama_scale.fitting.rows import Rows, TrainingCurve
from llama_scale.fitting.rules import Rules
from llama_scale.fitting.size_curves import has_ends
from llama_scale.fitting.tables import read_table
from llama_scale.laws import is_fit

if TYPE_CHECKING:  # a table needn't wait for what stores need
    from llama_scale.runs import RunRecord

Source: TypeAlias = "str | Path | Iterable[RunRecord] | Observations"
TABLES = ("*.csv", "*.tsv", "*.parquet", "*.json")


def gather(
    source: Source | Sequence[str | Path],
    *,
    where: Sequence[str] = (),
    convention: ParameterConvention | None = None,
    rules: Rules = EVERY_POINT,
) -> Observations:
    """The observations of a source, or of several together.

    Raises InputError for what cannot be read or does not fit together, UnidentifiedError where no run counts.
    """
    if isinstance(source, Observations):
        return source
    filters = [parse_filter(text) for text in where]
    items = [source] if isinstance(source, str | Path) else list(source)
    records = [item for item in items if not isinstance(item, str | Path)]
    parts: list[Rows] = []
    if records:
        from llama_scale.fitting.records import rows_of_records

        parts.append(rows_of_records(records, source="records", where=filters, convention=convention))
    paths = [Path(item) for item in items if isinstance(item, str | Path)]
    parts += [_read(path, filters, convention) for path in paths]
    if not parts:
        raise InputError("no runs were given", hint="name a run store, a table, or records")
    found = observe(parts, rules)
    if has_ends(found):
        return found
    curves = [_curves(path, filters, found.convention) for path in paths if path.is_dir()]
    return replace(found, curves=(*found.curves, *(curve for some in curves for curve in some)))


def _read(path: Path, filters: Sequence[Filter], convention: ParameterConvention | None) -> Rows:
    if not path.exists():
        raise InputError(
            f"there is no run store or CSV at {str(path)!r}",
            hint="check the path, or run `llama-scale sweep` to fill ./runs",
        )
    if not (path.is_dir() or path.suffix.lower() == ".json"):
        return read_table(path, where=filters, convention=convention)
    from llama_scale.fitting.records import rows_of_records
    from llama_scale.runs import load_records, read_records

    if path.is_dir():
        found = read_records(path)
        _check_folder(path, found)
    else:
        _check_export(path)
        found = load_records(path)
    return rows_of_records(found, source=str(path), where=filters, convention=convention)


def _check_folder(path: Path, found: Sequence[RunRecord]) -> None:
    """Raises InputError for a folder that holds tables in place of runs."""
    if not found:
        names = sorted(file.name for pattern in TABLES for file in path.glob(pattern))
        if names:
            raise InputError(
                f"{path} holds no runs, but {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}",
                hint=f"name the files: llama-scale fit {path / names[0]}",
            )


def _check_export(path: Path) -> None:
    """Raises InputError for a fit that is given in place of runs; other files are left to their reader."""
    if is_fit(path):
        raise InputError(f"{path} is a fit already, not runs", hint=f"use it: llama-scale plan --law {path}")


def _curves(
    store: Path, filters: Sequence[Filter], convention: ParameterConvention
) -> tuple[TrainingCurve, ...]:
    from llama_scale.fitting.records import curves_of_store, passes
    from llama_scale.runs import read_records

    found = [record for record in read_records(store) if passes(record, filters, convention)]
    return curves_of_store(store, found, convention)
