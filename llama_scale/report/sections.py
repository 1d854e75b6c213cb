"""The parts of the page that need no script: the answer in words, tables, assumptions, hashes."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator

from llama_scale.canonical import canonical_hash
from llama_scale.laws import fit_to_json
from llama_scale.planning import Plan
from llama_scale.planning.reasons import reasons
from llama_scale.planning.sensitivity import Sensitivity
from llama_scale.planning.sentence import format_cost
from llama_scale.planning.words import bill_text, size_text
from llama_scale.quantities import format_count, format_level, format_usd
from llama_scale.report.markup import Column, Markup, described, joined, paragraph, table, tag
from llama_scale.version import code_version

HALF = 50.0  # of a bar's width: the plan's own bill stands in the middle


def lead(plan: Plan) -> str:
    """What it costs, how sure the law is, and where the law comes from."""
    unit, cost = plan.request.unit, plan.recommended.lifetime
    parts = f"{format_cost(cost, unit, 'train')} to train and {format_cost(cost, unit, 'serve')} to serve"
    dollars = ""
    if unit != "usd" and cost.total_usd is not None:
        dollars = f" ({format_cost(cost, 'usd')} in all)"
    spread = plan.intervals
    sure = "How sure the law is of it is not known: it comes without draws"
    if spread is not None and "parameters" in spread.ranges:
        low, high = (format_count(end) for end in spread.ranges["parameters"])
        sure = f"The law's draws put the best size at {low} to {high} ({format_level(spread.level)})"
    return f"{parts}{dollars}. {sure}. Law: {plan.request.fit.name}."


def warnings(plan: Plan) -> Markup:
    """What to beware of, on top."""
    return joined(paragraph(f"Warning: {warning}.", "warning") for warning in plan.warnings)


def continuum(plan: Plan) -> str:
    """Of which sizes the controls choose the best."""
    shape = plan.shape
    proportions = f"with the proportions of the shape planned: {shape.layers} layers of width {shape.width:,}"
    return f"{proportions}, counted as {'6ND + 2NT' if plan.request.flops == '6nd' else 'its exact FLOPs'}"


def reasons_section(plan: Plan) -> Markup:
    """Every reason under its heading."""
    return described((reason.heading, f"{reason.text}.") for reason in reasons(plan))


def assumptions_section(plan: Plan) -> Markup:
    """What was assumed, from where and of when, and the option that changes it."""
    columns = (
        Column("what"),
        Column("value"),
        Column("source", "source"),
        Column("of"),
        Column("change it with", "option"),
    )
    rows = [
        (
            one.name,
            one.value,
            one.source,
            one.date or "-",
            _option(one.option, is_default=one.is_default),
        )
        for one in plan.assumptions
    ]
    return table("Everything that the plan assumes, with its source and date", columns, rows)


def _option(names: str, *, is_default: bool) -> Markup:
    """Options, each of them unbroken."""
    words = [*names.split(", ")]
    parts = [tag("span", f"{word}{',' if word != words[-1] else ''}") for word in words]
    return joined((*(joined((part, " ")) for part in parts), "(default)" if is_default else ""))


def sensitivity_section(plan: Plan) -> Markup:
    """Inputs by the dollars that they move, each with a bar about the plan's own bill."""
    if not plan.sensitivity:
        return paragraph("No price is known, so that no dollars move: give --price (and --serve-price).")
    if (bill := plan.recommended.lifetime.total_usd) is None:
        return paragraph("Nothing that was allowed serves the model, so that it has no bill to move.")
    finite = [case.usd for row in plan.sensitivity for case in (row.low, row.high) if math.isfinite(case.usd)]
    reach = max((abs(value - bill) for value in finite), default=0.0)
    columns = (
        Column("input"),
        Column("from, to"),
        Column("the same quality for", "n"),
        Column(f"beside {format_usd(bill, 3)}"),
        Column("best size there", "n"),
        Column("spread from", "source"),
    )
    rows = [_sensitivity_row(row, bill, reach) for row in plan.sensitivity]
    note = (
        "Each input at its low and its high, all else as planned: the least that the plan's own quality "
        "would then cost, and the size that would be best. Sorted by the dollars moved."
    )
    return joined((table("What each input moves", columns, rows), paragraph(note, "small")))


def provenance_section(plan: Plan, plan_json: str) -> Markup:
    """Hashes of the plan, the law and its runs, and what made them."""
    return described(_provenance(plan, plan_json))


def _provenance(plan: Plan, plan_json: str) -> Iterator[tuple[str, object]]:
    fit = plan.request.fit
    origin = fit.evidence.get("provenance") or {}
    yield "made by", f"llama-scale {code_version()}, {time.strftime('%Y-%m-%d', time.gmtime())}"
    yield (
        "plan",
        _hash(hashlib.sha256(plan_json.encode()).hexdigest(), "sha256 of the JSON that the button gives"),
    )
    yield "law", _hash(canonical_hash(fit_to_json(fit)), "of its constants, draws and evidence")
    if "observations_hash" in origin:
        yield (
            "runs",
            _hash(origin["observations_hash"], f"of the runs of {', '.join(origin.get('sources', ()))}"),
        )
    if "llama_scale" in origin:
        yield "fitted by", f"llama-scale {origin['llama_scale']}, seed {origin.get('seed')}"


def _hash(digits: str, of: str) -> Markup:
    return joined((tag("code", digits), f" {of}"))


def _sensitivity_row(row: Sensitivity, bill: float, reach: float) -> tuple[object, ...]:
    ends = (row.low, row.high)
    sizes = dict.fromkeys(size_text(case.parameters) for case in ends)
    return (
        row.input,
        f"{row.low.label} to {row.high.label}",
        " to ".join(bill_text(case.usd) for case in ends),
        _bar([case.usd for case in ends], bill, reach),
        " to ".join(sizes),
        row.source,
    )


def _bar(values: list[float], bill: float, reach: float) -> Markup:
    """From the one bill to the other, the plan's own in the middle; what is impossible goes to the edge."""

    def place(value: float) -> float:
        return (
            2 * HALF if not math.isfinite(value) else HALF + (HALF * (value - bill) / reach if reach else 0.0)
        )

    low, high = sorted(place(value) for value in values)
    parts = (
        tag(
            "rect",
            x=f"{low:.2f}",
            y="3",
            width=f"{max(high - low, 0.6):.2f}",
            height="10",
            class_="fill t-train",
        ),
        tag("rect", x=f"{HALF - 0.2:.2f}", y="0", width="0.4", height="16", class_="fill t-ink"),
    )
    return tag(
        "svg", *parts, viewBox="0 0 100 16", preserveAspectRatio="none", aria_hidden="true", focusable="false"
    )
