"""From runs to a law: `fit(source)` returns a Fit, which predicts, optimises and carries its uncertainty.

`records`, `tables` and `cells` read runs, `rules` and `doubts` say which of them count, `observations` hold
those; `solver` and `newton` find a law of the Chinchilla form,
`skaling` one with an outer power; `forms` names both and `selection` chooses between them. `noise` and
`uncertainty` say how sure a law is, `isoflop` is Approach 2 beside it, `diagnostics` what is wrong with
it, and `estimate` puts the Fit together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from llama_scale.architecture import ParameterConvention
from llama_scale.errors import InputError
from llama_scale.fitting.diagnostics import UnidentifiedFitError
from llama_scale.fitting.envelope import has_ends
from llama_scale.fitting.estimate import Settings, estimate
from llama_scale.fitting.filters import Filter, parse_filter
from llama_scale.fitting.observations import EVERY_POINT, Observations, observe
from llama_scale.fitting.records import curves_of_store, rows_of_records
from llama_scale.fitting.repeated_fit import estimate_repeated
from llama_scale.fitting.rows import Rows, TrainingCurve
from llama_scale.fitting.rules import Rules
from llama_scale.fitting.tables import read_table
from llama_scale.laws import Fit
from llama_scale.runs import RunRecord, load_records, read_records

__all__ = ["Observations", "Rules", "Settings", "UnidentifiedFitError", "fit", "fit_repeated", "gather"]

Source = str | Path | Iterable[RunRecord] | Observations


def fit(
    source: Source | Sequence[str | Path],
    *,
    where: Sequence[str] = (),
    convention: ParameterConvention | None = None,
    rules: Rules = EVERY_POINT,
    settings: Settings | None = None,
    name: str = "fit",
) -> Fit:
    """Fit a law to run stores, tables (CSV, Parquet, `runs export`), or records.

    `where` keeps rows, as in `["excluded_by_besiroglu = 0"]`; `convention` says how parameters are
    counted; `rules` say which points count. Raises InputError for rows that cannot be read,
    UnidentifiedError for runs that cannot identify a law.

    >>> fit("runs/").predict(1e9, 20e9)  # doctest: +SKIP
    """
    observations = gather(source, where=where, convention=convention, rules=rules)
    return estimate(observations, settings or Settings(), name=name)


def fit_repeated(
    source: Source | Sequence[str | Path],
    *,
    where: Sequence[str] = (),
    convention: ParameterConvention | None = None,
    rules: Rules = EVERY_POINT,
    settings: Settings | None = None,
    base_law: str | None = None,
    name: str = "fit",
) -> Fit:
    """Fit what repeated data are worth, to runs that name their unique tokens (`fit --form repeated`).

    `base_law` is the law of data seen once: a published name, a fit's file, constants, or `own`.
    """
    observations = gather(source, where=where, convention=convention, rules=rules)
    return estimate_repeated(observations, settings or Settings(), base_law=base_law, name=name)


def gather(
    source: Source | Sequence[str | Path],
    *,
    where: Sequence[str] = (),
    convention: ParameterConvention | None = None,
    rules: Rules = EVERY_POINT,
) -> Observations:
    """The observations of a source, or of several together."""
    if isinstance(source, Observations):
        return source
    filters = [parse_filter(text) for text in where]
    items = [source] if isinstance(source, str | Path) else list(source)
    records = [item for item in items if isinstance(item, RunRecord)]
    parts: list[Rows] = []
    if records:
        parts.append(rows_of_records(records, source="records", where=filters, convention=convention))
    paths = [Path(item) for item in items if not isinstance(item, RunRecord)]
    parts += [_read(path, filters, convention) for path in paths]
    found = observe(parts, rules)
    if has_ends(found):
        return found
    stores = [path for path in paths if path.is_dir()]
    curves = [_curves(store, found.convention) for store in stores]
    return replace(found, curves=(*found.curves, *(curve for some in curves for curve in some)))


def _read(path: Path, filters: Sequence[Filter], convention: ParameterConvention | None) -> Rows:
    if not path.exists():
        raise InputError(
            f"there is no run store or CSV at {str(path)!r}",
            hint="check the path, or run `llama-scale sweep` to fill ./runs",
        )
    if path.is_dir():
        found = read_records(path)
    elif path.suffix.lower() == ".json":
        found = load_records(path)
    else:
        return read_table(path, where=filters, convention=convention)
    return rows_of_records(found, source=str(path), where=filters, convention=convention)


def _curves(store: Path, convention: ParameterConvention) -> tuple[TrainingCurve, ...]:
    return curves_of_store(store, read_records(store), convention)
