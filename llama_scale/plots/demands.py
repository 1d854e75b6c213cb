"""What the demand changes: the best size, and when a smaller model has paid for its longer training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llama_scale.planning.sentence import amount
from llama_scale.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    VERMILION,
    band,
    beside,
    cost_axis,
    count_axis,
    end_labels,
    new_figure,
    note,
    of_draws,
    parameters_label,
    plain_axis,
    styled,
)
from llama_scale.quantities import format_count, format_level, format_number

if TYPE_CHECKING:
    from llama_scale.planning.curves import BestByDemand, CostOverTime


@styled
def best_by_demand(curve: BestByDemand, *, convention: str = "total") -> Figure:
    """The best size, and its tokens per parameter, against the tokens that it will serve."""
    figure = new_figure(height=5.6)
    sizes, ratios = figure.subplots(2, 1, sharex=True)
    chosen, alone = curve.chosen, curve.unserved
    planned_ratio, ratio = (each.tokens / each.parameters for each in (chosen, alone))
    _best(sizes, curve, curve.parameters, curve.parameters_band)
    _unserved(sizes, alone.parameters, format_count(alone.parameters), 4)
    _best(ratios, curve, curve.tokens_per_parameter, curve.ratio_band)
    _unserved(ratios, ratio, f"{format_number(ratio)} tokens per parameter", -4)
    if curve.planned:
        for axes, value in ((sizes, chosen.parameters), (ratios, planned_ratio)):
            axes.plot([curve.planned], [value], "o", color=BLACK, markersize=8, markeredgecolor="white")
    if curve.parameters_band is not None:
        ratios.legend(loc="upper left")
    known = curve.serve_tokens[np.isfinite(curve.tokens)]
    sizes.set_xlim(known[0], known[-1])
    told = f" (chosen for {format_count(curve.planned)} tokens)" if curve.planned else ""
    sizes.set_title(f"The best model, by what it will serve{told}")
    count_axis(sizes, "y", parameters_label(convention))
    plain_axis(ratios, "y", "tokens per parameter D/N")
    count_axis(ratios, "x", "tokens served over its life T")
    return figure


def _best(axes: Axes, curve: BestByDemand, values: Any, ends: Any) -> None:
    """A property of the best model along demands, with its band."""
    axes.plot(curve.serve_tokens, values, color=BLUE, label="best")
    if ends is not None:
        band(axes, curve.serve_tokens, ends, BLUE, of_draws(curve.level))


def _unserved(axes: Axes, value: float, text: str, up: int) -> None:
    """The dashed line of a model that serves nothing, its name at the right end."""
    axes.margins(y=0.12)  # room for the name on either side of the line
    axes.axhline(value, color=GREY, linestyle="--", linewidth=1)
    edge = axes.get_yaxis_transform()
    beside(axes, 1, value, f"training alone: {text}", (-4, up), xycoords=edge, color="#555555")


@styled
def cost_over_time(curve: CostOverTime, *, convention: str = "total") -> Figure:
    """Spending so far on the chosen and on the compute-optimal model, and what the chosen one has saved."""
    figure = new_figure(height=5.6)
    spent, saved = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    spent.plot(curve.at, curve.chosen, color=BLUE)
    spent.plot(curve.at, curve.compute_optimal, color=VERMILION, linestyle="--")
    spent.set_xlim(curve.at[0], curve.at[-1])
    difference = curve.compute_optimal - curve.chosen
    saved.plot(curve.at, difference, color=GREEN)
    saved.axhline(0, color=GREY, linewidth=1)
    if curve.band is not None:
        band(spent, curve.at, curve.band, VERMILION, of_draws(curve.level))
        band(saved, curve.at, [end - curve.chosen for end in curve.band], GREEN)
        spent.legend(loc="lower right")
    spent.set_ylim(0, None)
    end_labels(
        spent,
        [
            (curve.at[-1], curve.chosen[-1], "chosen", BLUE),
            (curve.at[-1], curve.compute_optimal[-1], "compute-optimal", VERMILION),
        ],
    )
    _break_even(spent, saved, curve)
    cost_axis(spent, "y", curve.unit, "spent so far")
    cost_axis(saved, "y", curve.unit, "saved so far")
    ours, theirs = (amount(float(each[-1]), curve.unit) for each in (curve.chosen, curve.compute_optimal))
    spent.set_title(f"{ours} in all, not the {theirs} of compute-optimal")
    saved.set_xlabel(_clock(curve))
    if curve.clock != "months":
        saved.xaxis.set_major_formatter(lambda value, _: format_count(value) if value else "0")
    return figure


def _break_even(spent: Axes, saved: Axes, curve: CostOverTime) -> None:
    if curve.break_even is None:
        note(saved, 0.99, 0.05, "no break-even within this life", xycoords="axes fraction", offset=(-1, 1))
        return
    for axes in (spent, saved):
        axes.axvline(curve.break_even, color=BLACK, linewidth=0.9, linestyle=":")
    saved.plot([curve.break_even], [0], "o", color=BLACK, markeredgecolor="white", markersize=7, zorder=5)
    text = f"break-even at {_moment(curve.break_even, curve)}"
    if curve.break_even_interval is not None:
        low, high = curve.break_even_interval
        upper = _moment(high, curve) if np.isfinite(high) else "never"
        text += f"\n({format_level(curve.level)}: {_moment(low, curve)} to {upper})"
    # The line rises through zero: there is room below it on the right, and above it on the left.
    early = curve.break_even < (curve.at[0] + curve.at[-1]) / 2
    low, high = saved.get_ylim()
    saved.set_ylim(min(low, -0.6 * high), max(high, -0.6 * low))
    note(saved, curve.break_even, 0, text, offset=(8, -9) if early else (-8, 9))


def _moment(value: float, curve: CostOverTime) -> str:
    return f"{value:.1f} months" if curve.clock == "months" else f"{format_count(value)} tokens"


def _clock(curve: CostOverTime) -> str:
    return "months since training ended" if curve.clock == "months" else "tokens served so far"
