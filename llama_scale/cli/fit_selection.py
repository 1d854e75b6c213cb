"""What `fit` says of how the fit was chosen, and how the whole procedure does on runs held out from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_scale.cli.output import table, wrapped
from llama_scale.quantities import format_fraction, format_level, format_number

ALONG = {"compute": "compute", "overtraining": "tokens per parameter"}


def candidates(selection: Mapping[str, Any]) -> Iterator[Any]:
    """All that was tried: a row a form and delta, a column a weighting, the nearest to the law marked."""
    tried = selection["candidates"]
    ways = " and ".join(ALONG[way] for way in selection["direction"])
    yield wrapped(f"Fits tried, by their mean error on runs farther in {ways} than those fitted:")
    yield from _grid(tried)
    heard = sum(one["weight"] > 0 for one in tried)
    mean = f"[nearest] to the law, which is the mean of the {heard} not ruled out"
    yield wrapped(mean if heard > 1 else "[chosen]: the only one not ruled out", 3)


def protocol(backtest: Mapping[str, Any] | None) -> Iterator[Any]:
    """The outer test: what the procedure makes of the nearer four fifths, held against the rest."""
    from llama_scale.laws.evidence import number_heard

    for verdict in (backtest or {}).get("protocol", ()):
        way, chosen = ALONG[verdict["direction"]], verdict["chosen"]
        yield ""
        yield wrapped(
            f"Held out from all of it: {verdict['held_out_runs']} runs farthest in {way},"
            f" up to {format_number(verdict['factor'], 2)}x"
        )
        name, mark = f"{chosen['form']}, delta {chosen['delta']:g}, weights {chosen['weights']}", "chosen"
        if (heard := number_heard(chosen)) > 1:
            name, mark = f"mean of {heard} candidates", "nearest to that mean"
        cells = [
            (
                name,
                format_fraction(verdict["mean_error"], 2),
                f"{verdict['bias']:+z.2%}",
                "unknown" if verdict["coverage"] is None else format_fraction(verdict["coverage"], 2),
                "unknown" if verdict["half_width"] is None else format_fraction(verdict["half_width"], 2),
            )
        ]
        level = format_level(verdict["level"])
        yield table(cells, ("chosen", "error", "bias", f"in {level} intervals", "half-width"))
        if len(verdict["candidates"]) > 1:
            yield wrapped(f"every candidate's error on them, [{mark}]:", 3)
            yield from _grid(verdict["candidates"])
        if verdict["refused"]:
            yield wrapped(f"the fit of the others would be refused: {verdict['refused']}", 3)


def _grid(tried: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    weights = list(dict.fromkeys(one["weights"] for one in tried))
    rows = []
    for form, delta in dict.fromkeys((one["form"], one["delta"]) for one in tried):
        cells = {one["weights"]: one for one in tried if (one["form"], one["delta"]) == (form, delta)}
        rows.append([form, f"{delta:g}", *(_cell(cells.get(weight)) for weight in weights)])
    yield table(rows, ("form", "delta", *(weight.replace("none", "no weights") for weight in weights)))


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return ""
    error = format_fraction(one["mean_error"], 2)
    return f"[{error}]" if one["chosen"] else error
