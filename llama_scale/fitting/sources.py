"""From what a user names to observations: run stores, exports, tables, records, alone or together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from llama_scale.architecture import CONVENTIONS, ParameterConvention
from llama_scale.checked import known_word
from llama_scale.errors import InputError, shown
from llama_scale.fitting.cells import cells_of_rows, repeated_names
from llama_scale.fitting.filters import Filter, parse_filters
from llama_scale.fitting.observations import EVERY_POINT, Observations, observe
from llama_scale.fitting.rows import Rows, TrainingCurve
from llama_scale.fitting.rules import Rules
from llama_scale.fitting.size_curves import has_ends
from llama_scale.fitting.tables import read_table, rows_of_cells
from llama_scale.laws import is_fit

if TYPE_CHECKING:  # a table needn't wait for what stores need
    from llama_scale.runs import RunRecord

Source: TypeAlias = "str | Path | Iterable[RunRecord | Mapping[str, Any]] | Frame | Observations"
IN_MEMORY = Path("table")  # what a table that is no file is called
TABLES = ("*.csv", "*.tsv", "*.parquet", "*.json")
SOURCES = "name a run store or a table, or give records, a data frame, or a list of dicts"


class Frame(Protocol):
    """A data frame, as far as it is known here: that of pandas or of polars."""

    @property
    def columns(self) -> Any: ...


def gather(
    source: Source | Sequence[str | Path],
    *,
    where: str | Sequence[str] | None = (),
    convention: ParameterConvention | None = None,
    rules: Rules = EVERY_POINT,
) -> Observations:
    """The observations of a source, or of several together.

    A table may be a file, a data frame of pandas or polars, or mappings from column to value, a row each.
    Raises InputError for what cannot be read or does not fit together, UnidentifiedError where no run counts.
    """
    if isinstance(source, Observations):
        return source
    convention = known_word(convention, CONVENTIONS)
    _check_words(rules, convention)
    filters = parse_filters(where)
    items = _items(source)
    rows = [item for item in items if isinstance(item, Mapping)]
    records = [item for item in items if not isinstance(item, str | Path | Mapping)]
    parts: list[Rows] = []
    if rows:
        parts.append(rows_of_cells(IN_MEMORY, cells_of_rows(rows), where=filters, convention=convention))
    if records:
        from llama_scale.fitting.records import rows_of_records

        _check_records(records)
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


def _check_words(rules: Any, convention: Any) -> None:
    """Raises InputError for what Python lets through and the command line does not."""
    if not isinstance(rules, Rules):
        raise InputError(f"rules are {shown(rules)}", hint="give llama_scale.fitting.Rules(...)")
    if convention not in (None, *CONVENTIONS):
        raise InputError(
            f"there is no parameter convention {convention!r}", hint=f"use {' or '.join(CONVENTIONS)}"
        )


def _items(source: Any) -> list[Any]:
    """Paths, records, and the rows of tables that are in memory; InputError for what holds none."""
    if isinstance(source, str | Path):
        return [source]
    if hasattr(source, "columns"):
        _check_one_of_each(source)
        for rows, words in (("to_dicts", ()), ("to_dict", ("records",))):  # of polars, of pandas
            if callable(method := getattr(source, rows, None)):
                source = method(*words)
    if hasattr(source, "__iter__") and not isinstance(source, Mapping | bytes):
        return list(source)
    raise InputError(f"{type(source).__name__} {shown(source)} holds no runs", hint=SOURCES)


def _check_one_of_each(frame: Frame) -> None:
    """Raises InputError for a frame that has a column twice: pandas hands on the last of them alone."""
    repeated = repeated_names(str(name) for name in frame.columns)
    if repeated:
        raise InputError(
            f"the data frame has more than one column {', '.join(map(repr, sorted(repeated)))}",
            hint="rename or drop all but one of them",
        )


def _check_records(items: Sequence[Any]) -> None:
    from llama_scale.runs import RunRecord

    for item in items:
        if not isinstance(item, RunRecord):
            raise InputError(f"{type(item).__name__} {shown(item)} is no run", hint=SOURCES)


def _read(path: Path, filters: Sequence[Filter], convention: ParameterConvention | None) -> Rows:
    if not path.exists():
        raise InputError(
            f"there is no run store or CSV at {str(path)!r}",
            hint="check the path, or make runs with `llama-scale sweep`",
        )
    if not (path.is_dir() or path.suffix.lower() == ".json"):
        return read_table(path, where=filters, convention=convention)
    from llama_scale.fitting.records import rows_of_records
    from llama_scale.runs import load_records, read_records

    if path.is_dir():
        found = read_records(path)
        _check_folder(path, found)
    elif is_fit(path):
        raise InputError(f"{path} is a fit already, not runs", hint=f"use it: llama-scale plan --law {path}")
    else:
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


def _curves(
    store: Path, filters: Sequence[Filter], convention: ParameterConvention
) -> tuple[TrainingCurve, ...]:
    from llama_scale.fitting.records import curves_of_store, passes
    from llama_scale.runs import read_records

    found = [record for record in read_records(store) if passes(record, filters, convention)]
    return curves_of_store(store, found, convention)
