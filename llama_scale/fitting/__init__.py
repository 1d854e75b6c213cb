"""From runs to a law: `fit(source)` returns a Fit, which predicts, optimises and carries its uncertainty.

`observations` and `tables` say which runs count; `solver` and `newton` find a law of the Chinchilla form,
`skaling` one with an outer power; `forms` names both and `selection` chooses between them. `noise` and
`uncertainty` say how sure a law is, `isoflop` is Approach 2 beside it, `diagnostics` what is wrong with
it, and `estimate` puts the Fit together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from llama_scale.architecture import ParameterConvention
from llama_scale.errors import InputError
from llama_scale.fitting.diagnostics import UnidentifiedFitError
from llama_scale.fitting.estimate import Settings, estimate
from llama_scale.fitting.filters import parse_filter
from llama_scale.fitting.observations import Observations, Rows, observe, rows_of_records
from llama_scale.fitting.tables import read_table
from llama_scale.laws import Fit
from llama_scale.runs import RunRecord, read_records

__all__ = ["Observations", "Settings", "UnidentifiedFitError", "fit", "gather"]

Source = str | Path | Iterable[RunRecord] | Observations


def fit(
    source: Source | Sequence[str | Path],
    *,
    where: Sequence[str] = (),
    convention: ParameterConvention | None = None,
    settings: Settings | None = None,
    name: str = "fit",
) -> Fit:
    """Fit a law to run stores, CSV files, or records.

    `where` keeps rows, as in `["excluded_by_besiroglu = 0"]`; `convention` says how parameters are
    counted. Raises InputError for rows that cannot be read, UnidentifiedError for runs that cannot
    identify a law.

    >>> fit("runs/").predict(1e9, 20e9)  # doctest: +SKIP
    """
    return estimate(gather(source, where=where, convention=convention), settings or Settings(), name=name)


def gather(
    source: Source | Sequence[str | Path],
    *,
    where: Sequence[str] = (),
    convention: ParameterConvention | None = None,
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
    for item in items:
        if isinstance(item, RunRecord):
            continue
        path = Path(item)
        if not path.exists():
            raise InputError(
                f"there is no run store or CSV at {str(item)!r}",
                hint="check the path, or run `llama-scale sweep` to fill ./runs",
            )
        if path.is_dir():
            found = read_records(path)
            parts.append(rows_of_records(found, source=str(item), where=filters, convention=convention))
        else:
            parts.append(read_table(path, where=filters, convention=convention))
    return observe(parts)
