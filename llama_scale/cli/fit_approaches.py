"""For people: the three approaches side by side, what Approach 2 hangs on, what ways of counting change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_scale.cli.output import table, wrapped
from llama_scale.quantities import format_count, format_flops, format_number

SHORT = {1: "1 envelope", 2: "2 IsoFLOP", 3: "3 law"}
Evidence = Mapping[str, Any]


def approaches(evidence: Evidence) -> Iterator[Any]:
    """A table of exponents, N and D for each budget; nothing for a fit that carries none."""
    found = evidence.get("approaches") or ()
    budgets = dict.fromkeys(split["train_flops"] for one in found for split in one["optima"])
    for budget in budgets:
        rows = [_row(one, budget) for one in found if not one["reason"]]
        yield wrapped(f"By approach: N grows as C^a, D as C^b; the best N and D at {format_flops(budget)}:")
        yield table(rows, ("approach", "a", "", "b", "N", "", "D", ""))


def _row(one: Evidence, budget: float) -> list[str]:
    split = next(split for split in one["optima"] if split["train_flops"] == budget)
    return [
        SHORT[one["approach"]],
        format_number(one["exponent_a"]),
        _span(one["exponent_a_interval"], format_number),
        format_number(one["exponent_b"]),
        format_count(split["parameters"]),
        _span(split["parameters_interval"], format_count),
        format_count(split["tokens"]),
        _span(split["tokens_interval"], format_count),
    ]


def _span(bounds: Sequence[float] | None, written: Any) -> str:
    return f"{written(bounds[0])}–{written(bounds[1])}" if bounds else ""


def remarks(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """A heading and a sentence for each: refusals and caveats, sensitivity, ways of counting."""
    for one in evidence.get("approaches") or ():
        said = [*([f"not possible: {one['reason']}"] if one["reason"] else []), *one["notes"]]
        if said and one["approach"] != 3:
            yield f"approach {one['approach']}", "; ".join(said)
    varied = [
        v for v in (evidence.get("isoflop") or {}).get("sensitivity") or () if v["exponent_a"] is not None
    ]
    if varied:
        yield "sensitive", _sensitivity(varied)
    accounting = evidence.get("accounting")
    if accounting:
        yield "counting", _countings(accounting)


def _sensitivity(varied: Sequence[Evidence]) -> str:
    """Single budgets by their range alone, the others one by one."""
    budgets, said = [], []
    for exponent, name in ((one["exponent_a"], one["name"]) for one in varied):
        if name.startswith("without the budget"):
            budgets.append(exponent)
        else:
            said.append(f"{format_number(exponent)} {name}")
    if budgets:
        low, high = (format_number(end(budgets)) for end in (min, max))
        said.append(f"{low} to {high} when one budget is left out")
    return f"a by IsoFLOP would be {'; '.join(said)}"


def _countings(accounting: Evidence) -> str:
    said = [
        f"{c['convention'].replace('_', '-')} N, {'exact' if c['flops'] == 'exact' else '6ND'} FLOPs:"
        f" {_counted_so(c)}{' (used here)' if c['used'] else ''}"
        for c in accounting["countings"]
    ]
    return f"the optimum at {format_flops(accounting['train_flops'])} by what is counted: {'; '.join(said)}"


def _counted_so(counting: Evidence) -> str:
    if counting["unidentified"]:
        return f"no law, {counting['unidentified']}"
    return (
        f"a {format_number(counting['exponent_a'])}, N {format_count(counting['parameters'])},"
        f" D {format_count(counting['tokens'])}"
    )
