"""What other sizes than the chosen one would cost, or reach: how flat the optimum is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from llama_scale.planning.sentence import amount
from llama_scale.plots.style import (
    BLACK,
    BLUE,
    ORANGE,
    SMALL,
    band,
    cost_axis,
    count_axis,
    new_figure,
    note,
    parameters_label,
    styled,
)
from llama_scale.quantities import format_count, format_fraction

if TYPE_CHECKING:
    from llama_scale.planning.curves import CostBySize, LossBySize, Place

DEAREST = 2.0  # times the least cost: sizes that cost more are left out
THICK = 0.08  # of the axes' height: a part that holds its name
HIGHEST = 0.04  # nats above the lowest loss, at least
RANGE_HEIGHTS = {0.01: 0.055, 0.05: 0.02}  # of the bars below the curve, in parts of the axes


@styled
def cost_by_size(curve: CostBySize, *, convention: str = "total") -> Figure:
    """Lifetime cost of every size that is as good as the chosen one, training and serving stacked.

    Bars along the foot are the sizes within 1 % and 5 % of the least cost.
    """
    shown = np.isfinite(curve.total) & (curve.total <= DEAREST * np.nanmin(curve.total))
    sizes, total = curve.parameters[shown], curve.total[shown]
    figure = new_figure()
    axes = figure.add_subplot()
    axes.stackplot(
        sizes, curve.train[shown], curve.serve[shown], colors=(BLUE, ORANGE), alpha=0.7, linewidth=0
    )
    axes.plot(sizes, total, color=BLACK, linewidth=1.2)
    axes.set_ylim(0, 1.12 * min(DEAREST * np.nanmin(curve.total), total.max()))
    axes.set_xlim(sizes[0], sizes[-1])
    if curve.band is not None:
        for end, label in zip(curve.band, (f"{curve.level:.0%} of the law's draws", "_"), strict=True):
            axes.plot(sizes, end[shown], color=BLACK, linewidth=0.9, linestyle=(0, (4, 2)), label=label)
        axes.legend(loc="upper center")
    _parts(axes, curve, shown)
    _ranges(axes, curve)
    _mark(axes, curve.chosen, "chosen", "o", curve.compute_optimal)
    _mark(axes, curve.compute_optimal, "compute-optimal", "s", curve.chosen)
    count_axis(axes, "x")
    axes.set_xlabel(parameters_label(convention))
    cost_axis(axes, "y", curve.unit, "lifetime cost")
    axes.set_title(f"What each size costs over its life at a loss of {curve.loss_nats:.3f}")
    return figure


def _parts(axes: Axes, curve: CostBySize, shown: Any) -> None:
    """Each part's name inside it: right where it is thick enough, else left, else nowhere."""
    tall = axes.get_ylim()[1]
    places = np.flatnonzero(shown)
    ends = [int(places[int(len(places) * share)]) for share in (0.92, 0.08)]
    floor = RANGE_HEIGHTS[0.01] * tall
    for name, colour, ground, low, high in (
        ("training", "white", BLUE, np.full_like(curve.train, floor), curve.train),
        ("serving", BLACK, ORANGE, curve.train, curve.total),
    ):
        at = next((end for end in ends if high[end] - low[end] > THICK * tall), None)
        if at is not None:
            middle = float(low[at] + high[at]) / 2
            axes.text(
                float(curve.parameters[at]),
                middle,
                name,
                color=colour,
                ha="center",
                va="center",
                fontsize=SMALL + 0.5,
                fontweight="bold",
                path_effects=[withStroke(linewidth=2, foreground=ground)],
            )


def _ranges(axes: Axes, curve: CostBySize) -> None:
    """Bars for the sizes within each excess of the least cost."""
    across = axes.get_xaxis_transform()
    for excess, (low, high) in curve.ranges:
        height = RANGE_HEIGHTS.get(excess, 0.09)
        axes.plot(
            [low, high], [height] * 2, transform=across, color="white", linewidth=4, solid_capstyle="butt"
        )
        axes.annotate(
            f"within {format_fraction(excess)}",
            (high, height),
            xycoords=across,
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL - 1,
            color="white",
        )


def _mark(axes: Axes, place: Place, name: str, marker: str, other: Place) -> None:
    """One of two models, its name on the side away from the other."""
    if not np.isfinite(place.value) or not axes.get_xlim()[0] <= place.parameters <= axes.get_xlim()[1]:
        return
    axes.plot(
        [place.parameters],
        [place.value],
        marker=marker,
        color=BLACK,
        markeredgecolor="white",
        markersize=8,
        linestyle="",
        label=f"_{name}",
        zorder=5,
    )
    left = place.parameters < other.parameters
    note(
        axes,
        place.parameters,
        place.value,
        f"{name}\n{format_count(place.parameters)}",
        offset=(-8, -9) if left else (8, -9),
        fontweight="bold" if name == "chosen" else "normal",
    )


@styled
def loss_by_size(curve: LossBySize, *, convention: str = "total") -> Figure:
    """Loss of every size for the same total cost, with the band of the law's draws."""
    least = float(np.nanmin(curve.loss_nats))
    gap = max(HIGHEST, 2 * (curve.compute_optimal.value - least))
    known = np.isfinite(curve.loss_nats) & (curve.loss_nats <= least + gap)
    sizes = curve.parameters[known]
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot(sizes, curve.loss_nats[known], color=BLUE)
    if curve.band is not None:
        band(axes, sizes, [end[known] for end in curve.band], BLUE, f"{curve.level:.0%} of the law's draws")
        axes.legend(loc="upper center")
    axes.set_xlim(sizes[0], sizes[-1])
    _mark(axes, curve.chosen, "chosen", "o", curve.compute_optimal)
    _mark(axes, curve.compute_optimal, "compute-optimal", "s", curve.chosen)
    count_axis(axes, "x")
    axes.set_xlabel(parameters_label(convention))
    axes.set_ylabel("predicted loss (nats per token)")
    axes.set_title(f"What each size reaches for {amount(curve.cost, curve.unit)} of training and serving")
    return figure
