"""What stands behind a plan's law: its runs, how the law passes through them and past them, runs held out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from llama_scale.laws import Fit
from llama_scale.planning import Plan
from llama_scale.quantities import format_count, format_flops, format_fraction, format_level, format_number
from llama_scale.report.markup import Column, Markup, described, joined, table

MOST_RUNS, MOST_RINGS, PLACES = 300, 100, 41
LONGEST_NAME, DIGITS = 32, 6  # of what the picture shows of each run
BEFORE, AFTER = 1e5, 2.0  # where the frontier is drawn, from the plan's FLOPs, if nobody says where runs lie
MOST_HELD_OUT = 40
NAMES = {
    "train_flops": "training FLOPs",
    "parameters": "parameters",
    "tokens": "tokens",
    "tokens_per_parameter": "tokens a parameter",
}


def evidence_values(plan: Plan) -> dict[str, Any]:
    """What the picture of the evidence shows, in training FLOPs and nats."""
    fit, model = plan.request.fit, plan.recommended
    flops = model.lifetime.train_flops / plan.request.economics.demand.trainings
    support = fit.support.train_flops
    return {
        "runs": _thinned(fit.evidence.get("observations") or {}),
        "held_out": _held_out(fit),
        "frontier": _frontier(
            fit, support.low if support else flops / BEFORE, flops * AFTER, plan.request.level
        ),
        "support": support and list(support),
        "plan": {"train_flops": flops, "loss": model.loss_nats},
    }


def evidence_caption(plan: Plan) -> str:
    """The picture in words."""
    fit = plan.request.fit
    fitted = len((fit.evidence.get("observations") or {}).get("run", ()))
    points = (
        f"Grey: the {_counted(fitted, MOST_RUNS)} that the law was fitted on." if fitted else _absent(fit)
    )
    rings = len(fit.evidence.get("held_out") or ())
    held = f" Rings: {_counted(rings, MOST_RINGS)} held out of the fit." if rings else ""
    level = format_level(plan.request.level)
    band = (
        f" with the central {level} of its draws" if fit.draws is not None else " (no band: it has no draws)"
    )
    return (
        f"Loss (nats a token) against training FLOPs. {points}{held} The line is the loss that the law "
        f"expects of the best split of each budget{band}; beyond the runs it is trust in the law's form."
    )


def _counted(count: int, most: int) -> str:
    """How many runs are drawn, of how many."""
    shown = len(range(0, count, _step(count, most)))
    return f"{shown:,} of {count:,} runs" if shown < count else f"{count:,} runs"


def _absent(fit: Fit) -> str:
    """Where runs are that the law's file does not hold."""
    origin = fit.evidence.get("provenance") or {}
    if "runs" in origin:
        return f"Its runs are not in the law's file, but published: {origin['runs']}."
    if "published" in origin:
        return f"Its runs are not in the law's file; its source is {origin['published']}."
    return "Its runs are not in the law's file."


def evidence_section(plan: Plan) -> Markup:
    """How good the law is, in words, and each run that it was tested on."""
    return joined((described(_rows(plan)), _held_out_table(plan.request.fit)))


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    fit, evidence = plan.request.fit, plan.request.fit.evidence
    constants = ", ".join(
        f"{name} {format_number(float(value), 4)}" for name, value in fit.law.constants.items()
    )
    yield (
        "law",
        f"{fit.name}, {fit.law.form} form: {constants}; {fit.convention.replace('_', '-')} parameters",
    )
    yield "source", fit.source
    diagnostics, backtest = evidence.get("diagnostics") or {}, evidence.get("backtest") or {}
    if "residual_rms" in diagnostics:
        yield "fitted within", f"{format_fraction(diagnostics['residual_rms'], 2)} of the loss (rms)"
    if backtest.get("predicted_runs"):
        yield (
            "backtest",
            f"laws of its nearer runs erred {format_fraction(backtest['mean_error'], 2)} on average over "
            f"{backtest['predicted_runs']} predictions of farther ones; "
            f"{format_fraction(backtest['coverage'], 2)} lay inside {format_level(backtest['level'])} "
            "intervals before any widening",
        )
    elif fit.interval_factor > 1:
        yield (
            "backtest",
            f"laws of its nearer runs erred {format_number(fit.interval_factor, 2)} times as much on farther "
            "ones as draws and noise implied: the intervals of its losses are as much wider",
        )
    if held := evidence.get("held_out"):
        worst = max(abs(row["relative_error"]) for row in held)
        inside = [row["inside"] for row in held if row["inside"] is not None]
        within = f"{sum(inside)} of {len(inside)} inside their interval; " if inside else ""
        yield (
            "held out",
            f"{len(held)} runs that the law never saw: {within}worst error {format_fraction(worst, 2)}",
        )
    yield "extrapolation", _extrapolation(plan)
    yield "draws", fit.draws_note or "none"


def _extrapolation(plan: Plan) -> str:
    """How far the recommended model lies beyond the runs, direction by direction."""
    if not plan.extrapolation:
        return "unknown: the law does not say where its runs lie"
    beyond = [
        f"{format_number(max(factor, 1 / factor))} x the {'largest' if factor > 1 else 'least'} {NAMES[name]}"
        for name, factor in plan.extrapolation.items()
        if abs(factor - 1) > 1e-9
    ]
    return (
        f"the plan lies beyond the runs: {', '.join(beyond)}"
        if beyond
        else "none: the plan lies among the runs"
    )


def _held_out_table(fit: Fit) -> Markup:
    rows = fit.evidence.get("held_out") or []
    if not rows:
        return Markup("")
    columns = (
        Column("run"),
        *(
            Column(name, "n")
            for name in ("parameters", "tokens", "predicted", "interval", "measured", "error")
        ),
    )
    body = [
        (
            row["run"],
            format_count(row["parameters"]),
            format_count(row["tokens"]),
            f"{row['predicted']:.4f}",
            "none" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}",
            f"{row['measured']:.4f}",
            f"{100 * row['relative_error']:+.2f}%",
        )
        for row in rows[:MOST_HELD_OUT]
    ]
    left = f" (the first {MOST_HELD_OUT} of {len(rows)})" if len(rows) > MOST_HELD_OUT else ""
    return table(f"Runs that the law never saw{left}", columns, body)


def _step(count: int, most: int) -> int:
    """Every so many of `count` are at most `most`."""
    return max(1, -(-count // most))


def _thinned(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """At most so many runs, evenly taken; what the picture names them by is the run and its size."""
    step = _step(len(columns.get("run", ())), MOST_RUNS)
    thin = {name: list(column)[::step] for name, column in columns.items()}
    sizes = zip(thin.get("run", ()), thin.get("parameters", ()), thin.get("tokens", ()), strict=True)
    return {
        "run": [
            f"{_short(run)}: {format_count(n)} parameters, {format_count(d)} tokens" for run, n, d in sizes
        ],
        "train_flops": _rounded(thin.get("train_flops", ())),
        "loss_nats": _rounded(thin.get("loss_nats", ())),
    }


def _held_out(fit: Fit) -> dict[str, list[Any]]:
    """At most so many of the runs held out, evenly taken."""
    rows = fit.evidence.get("held_out") or []
    rows = rows[:: _step(len(rows), MOST_RINGS)]
    return {
        "run": [f"{_short(row['run'])}: {format_flops(row['train_flops'])}, held out" for row in rows],
        "train_flops": _rounded(row["train_flops"] for row in rows),
        "measured": _rounded(row["measured"] for row in rows),
    }


def _short(name: str) -> str:
    """Both ends of a long name: runs of one sweep differ in either."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}"


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _frontier(fit: Fit, low: float, high: float, level: float) -> dict[str, Any]:
    """The loss of the best split of each budget, with its interval; FLOPs as the law's runs count them."""
    overhead = (fit.evidence.get("diagnostics") or {}).get("flops_over_6nd", 1.0)
    budgets = np.geomspace(min(low, high / 10), high, PLACES)
    best = [fit.optimum(budget / overhead, level=level) for budget in budgets]
    intervals = [one.loss_interval for one in best if one.loss_interval is not None]
    return {
        "train_flops": budgets.tolist(),
        "loss": [one.loss for one in best],
        "low": [interval.low for interval in intervals] or None,
        "high": [interval.high for interval in intervals] or None,
    }
