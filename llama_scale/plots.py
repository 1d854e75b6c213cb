"""Values in, matplotlib figures out (object API: nothing global is touched)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from llama_scale.errors import InputError
from llama_scale.files import write_atomically
from llama_scale.laws import Fit
from llama_scale.planning.optimum import Problem, SixNDFamily, lowest_cost, lowest_loss
from llama_scale.quantities import format_count, format_flops
from llama_scale.runs import RunRecord, RunRole

# Okabe & Ito's palette, told apart by readers with any colour vision.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
FORMATS = ("png", "svg", "pdf")

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.hashsalt": "llama-scale",  # the same figure is the same file
    "svg.fonttype": "none",
}


def isoflop(fit: Fit, records: Sequence[RunRecord], optima: Sequence[tuple[float, float]] = ()) -> Figure:
    """Loss against model size, a curve per compute budget: the runs, the fitted law, each budget's minimum.

    `optima` are (parameters, loss) of the budgets' own parabolas. Budgets are 6ND. Raises InputError
    where no run belongs to a budget.
    """
    trained, held_out = _by_budget(records, "train"), _by_budget(records, "holdout")
    if not trained:
        raise InputError("no finished run belongs to a compute budget", hint="run `llama-scale sweep` first")
    with _style():
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, len(trained)))
        for (budget, runs), colour in zip(trained.items(), colours, strict=True):
            _budget_curve(axes, fit, runs, budget, colour)
        for budget, runs in held_out.items():
            _budget_curve(axes, fit, runs, budget, VERMILION)
        if optima:
            axes.plot(
                *zip(*optima, strict=True),
                marker="x",
                color="black",
                linestyle="",
                label="minimum of a budget",
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        _count_ticks(axes, "x")
        _plain_ticks(axes, "y")
        axes.set_xlabel(
            "parameters N (matmul)" if fit.convention == "matmul" else f"parameters N ({fit.convention})"
        )
        axes.set_ylabel("validation loss (nats per token)")
        axes.set_title("Loss at equal compute: runs (points) and the fitted law (lines)")
        _mark_kinds(axes, bool(held_out), bool(optima))
        return figure


def _by_budget(records: Sequence[RunRecord], role: RunRole) -> dict[float, list[RunRecord]]:
    """Finished runs of a role under their budgets, the smallest budget first."""
    found: dict[float, list[RunRecord]] = {}
    for record in sorted(records, key=lambda r: r.budget_flops or 0.0):
        if record.role == role and record.budget_flops and record.loss_nats is not None:
            found.setdefault(record.budget_flops, []).append(record)
    return found


def _budget_curve(axes: Axes, fit: Fit, records: Sequence[RunRecord], budget: float, colour: Any) -> None:
    held_out = records[0].role == "holdout"
    sizes = np.array([r.parameters.by(fit.convention) for r in records], float)
    losses = [r.loss_nats for r in records if r.loss_nats is not None]
    lowest, highest = sizes.min() / 1.15, sizes.max() * 1.15
    n = np.geomspace(lowest, highest, 100)
    axes.plot(
        n, fit.law.loss(n, budget / (6 * n)), color=colour, linewidth=1.4, linestyle="--" if held_out else "-"
    )
    if held_out:
        prediction = fit.predict(n, budget / (6 * n))
        if prediction.low is not None and prediction.high is not None:
            axes.fill_between(n, prediction.low, prediction.high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        sizes,
        losses,
        marker="D" if held_out else "o",
        color=colour,
        linestyle="",
        markersize=6 if held_out else 4.5,
    )
    end = float(fit.law.loss(highest, budget / (6 * highest)))
    axes.annotate(
        format_flops(budget).removesuffix(" FLOPs"),
        (highest, end),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=8.5,
    )


def _mark_kinds(axes: Axes, held_out: bool, optima: bool) -> None:
    axes.plot([], [], marker="o", color=GREY, linestyle="-", label="fitted budgets (FLOPs at the line's end)")
    if held_out:
        axes.plot([], [], marker="D", color=VERMILION, linestyle="--", label="held out, with 90 % interval")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="lower left", fontsize=8.5)


def trade_off(fit: Fit, *, target_loss: float, serve_tokens: float) -> Figure:
    """Lifetime FLOPs (6ND + 2NT) of every size that reaches `target_loss`, training and serving stacked.

    Marks the cheapest size and the compute-optimal one, and shades the sizes within 5 % of the least cost.
    """
    problem = Problem(law=fit.law, family=SixNDFamily(), serve_tokens=serve_tokens)
    chosen = lowest_cost(problem, target_loss)
    optimal = lowest_cost(problem.without_serving(), target_loss)
    middle = float(chosen.sizes.parameters)
    n = np.geomspace(middle / 6, max(middle, float(optimal.sizes.parameters)) * 4, 400)
    training = 6 * n * fit.law.tokens_for_loss(target_loss, n)
    serving = 2 * n * serve_tokens
    total = training + serving
    least = float(np.nanmin(total))
    shown = total <= 2.2 * least
    with _style():
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        axes.stackplot(n[shown], training[shown], serving[shown], colors=(BLUE, ORANGE), alpha=0.75)
        cheap = n[total <= 1.05 * least]
        axes.axvspan(cheap.min(), cheap.max(), color=GREEN, alpha=0.12, linewidth=0)
        _name_parts(axes, n[shown], training[shown], total[shown])
        for label, solution, marker in (("cheapest", chosen, "o"), ("compute-optimal", optimal, "s")):
            size = float(solution.sizes.parameters)
            cost = 6 * size * float(solution.tokens) + 2 * size * serve_tokens
            axes.plot(
                [size],
                [cost],
                marker=marker,
                color="black",
                linestyle="",
                label=f"{label}: {format_count(size)}",
            )
        axes.set_xscale("log")
        axes.set_ylim(0, 2.2 * least)
        _count_ticks(axes, "x")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
        axes.set_xlabel(f"parameters N ({fit.convention})")
        axes.set_ylabel("lifetime cost (FLOPs)")
        axes.set_title(
            f"Cost of loss {target_loss:.3g} serving {format_count(serve_tokens)} tokens; 5 % range shaded"
        )
        axes.legend(loc="upper center", fontsize=8.5)
        return figure


def _name_parts(axes: Axes, n: Any, training: Any, total: Any) -> None:
    """Write each part's name inside it."""
    at = len(n) * 4 // 5
    axes.text(n[at], training[at] / 2, "training", ha="center", va="center", fontsize=9)
    axes.text(n[at], (training[at] + total[at]) / 2, "serving", ha="center", va="center", fontsize=9)


def best_size_against_demand(fit: Fit, *, budget_flops: float, level: float = 0.9) -> Figure:
    """The best N for a total budget (6ND + 2NT) against the tokens to serve, with the band of the draws."""
    demand = np.geomspace(budget_flops**0.5 / 1e3, budget_flops**0.5 * 10, 120)
    with _style():
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        if fit.draws is not None:
            drawn = np.array([_best_sizes(fit.draws, budget_flops, float(t)) for t in demand])
            low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=1)
            axes.fill_between(
                demand, low, high, color=BLUE, alpha=0.2, linewidth=0, label=f"{level:.0%} of draws"
            )
        axes.plot(
            demand, [_best_sizes(fit.law, budget_flops, float(t)) for t in demand], color=BLUE, label="best N"
        )
        unserved = float(_best_sizes(fit.law, budget_flops, 0.0))
        axes.axhline(unserved, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            "serving nothing (Chinchilla)",
            (demand[0], unserved),
            xytext=(0, 4),
            textcoords="offset points",
            fontsize=8.5,
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        _count_ticks(axes, "x")
        _count_ticks(axes, "y")
        axes.set_xlabel("tokens to serve T")
        axes.set_ylabel(f"best parameters N ({fit.convention})")
        axes.set_title(f"The best size for {format_flops(budget_flops)} of training and serving")
        axes.legend(loc="lower left", fontsize=8.5)
        return figure


def _best_sizes(law: Any, budget: float, serve_tokens: float) -> Any:
    problem = Problem(law=law, family=SixNDFamily(), serve_tokens=serve_tokens)
    return lowest_loss(problem, budget).sizes.parameters


def save(figure: Figure, path: Path) -> Path:
    """Write a figure whole, in the format that its name ends with; raises InputError for any other."""
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InputError(
            f"cannot write a figure as {path.name!r}", hint=f"end its name with .{', .'.join(FORMATS)}"
        )
    buffer = io.BytesIO()
    with _style():
        # No date and no version: the same values give the same bytes.
        metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        figure.savefig(buffer, format=kind, metadata=metadata)
    write_atomically(path, buffer.getvalue())
    return path


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE):
        yield


def _count_ticks(axes: Axes, which: str) -> None:
    """Tick labels such as 30k or 7B, at 1, 2 and 5 of every decade."""
    from matplotlib.ticker import LogLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    axis.set_minor_formatter(NullFormatter())


def _plain_ticks(axes: Axes, which: str) -> None:
    """Plain decimal labels on a logarithmic axis that spans less than a decade."""
    from matplotlib.ticker import MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
