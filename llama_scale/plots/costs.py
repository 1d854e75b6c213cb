"""What other sizes than the chosen one would cost, or reach: how flat the optimum is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from llama_scale.errors import InputError
from llama_scale.planning.sentence import amount
from llama_scale.plots.style import (
    BLACK,
    BLUE,
    HALO,
    ORANGE,
    SMALL,
    band,
    beside,
    cost_axis,
    count_axis,
    legend,
    new_figure,
    note,
    of_draws,
    parameters_label,
    place_in,
    styled,
)
from llama_scale.quantities import format_count, format_fraction

if TYPE_CHECKING:
    from llama_scale.planning.curves import CostBySize, LossBySize, Place

DEAREST = 2.0  # times the least cost: sizes that cost more are left out
SPARE = 1.3  # times the cost of the chosen one, which limits may have put far above the least
THICK = 0.08  # of the axes' height: a part that holds its name
NAMED = (0.22, 0.2)  # of the axes, across and down: around a model its name may lie
NEAR_EDGE = 0.15  # of the axes' width: a model's name needs as much
HIGHEST = 0.04  # nats above the lowest loss, at least
RANGE_HEIGHTS = {0.01: 0.055, 0.05: 0.02}  # of the bars below the curve, in parts of the axes


@styled
def cost_by_size(curve: CostBySize, *, convention: str = "total") -> Figure:
    """Lifetime cost of every size that is as good as the chosen one, training and serving stacked.

    Bars along the foot are the sizes within 1 % and 5 % of the least cost; sizes beyond the plan's limits are
    veiled. Raises InputError where no second size is as good.
    """
    most = max(DEAREST * float(np.nanmin(curve.total)), SPARE * curve.chosen.value)
    shown = np.isfinite(curve.total) & (curve.total <= most)
    _check_several(shown)
    sizes, total = curve.parameters[shown], curve.total[shown]
    figure = new_figure()
    axes = figure.add_subplot()
    axes.stackplot(
        sizes, curve.train[shown], curve.serve[shown], colors=(BLUE, ORANGE), alpha=0.7, linewidth=0
    )
    axes.plot(sizes, total, color=BLACK, linewidth=1.2)
    axes.set_ylim(0, 1.12 * max(total.max(), curve.chosen.value))
    axes.set_xlim(sizes[0], sizes[-1])
    axes.set_xscale("log")
    if curve.band is not None:
        for end, label in zip(curve.band, (of_draws(curve.level), "_"), strict=True):
            axes.plot(sizes, end[shown], color=BLACK, linewidth=0.9, linestyle=(0, (4, 2)), label=label)
    _veil(axes, sizes, total, curve.allowed[shown])
    _parts(axes, curve, shown)
    _ranges(axes, curve)
    _marks(axes, curve, amount(curve.compute_optimal.value, curve.unit))
    count_axis(axes, "x", parameters_label(convention))
    cost_axis(axes, "y", curve.unit, "lifetime cost")
    axes.set_title(f"What each size costs over its life at a loss of {curve.loss_nats:.3f}")
    return figure


def _check_several(shown: Any) -> None:
    if np.count_nonzero(shown) < 2:
        raise InputError(
            "no size but the chosen one does as well: there is no curve to draw",
            hint="ask for a higher loss, or for a larger budget",
        )


def _veil(axes: Axes, sizes: Any, total: Any, allowed: Any) -> None:
    """A pale ground over the sizes that the plan's limits rule out."""
    if not allowed.all():
        look: dict[str, Any] = {
            "facecolor": (1, 1, 1, 0.55),
            "edgecolor": "#999999",
            "hatch": "///",
            "linewidth": 0,
        }
        axes.fill_between(sizes, 0, total, where=~allowed, **look)
        axes.fill([], [], label="beyond the plan's limits", **look)


def _parts(axes: Axes, curve: CostBySize, shown: Any) -> None:
    """Each part's name where it is thick enough and no model is named: right, else between, else left."""
    sizes, train, total = curve.parameters[shown], curve.train[shown], curve.total[shown]
    tall = axes.get_ylim()[1]
    ends = np.exp(np.interp((0.92, 0.6, 0.08), (0, 1), np.log(sizes[[0, -1]])))
    models = [place_in(axes, each.parameters, each.value) for each in (curve.chosen, curve.compute_optimal)]
    floor = RANGE_HEIGHTS[0.01] * tall
    for name, colour, ground, low, high in (
        ("training", "white", BLUE, np.full_like(train, floor), train),
        ("serving", BLACK, ORANGE, train, total),
    ):
        for end in ends:
            foot, top = (float(np.interp(end, sizes, edge)) for edge in (low, high))
            spot = place_in(axes, float(end), (foot + top) / 2)
            if top - foot > THICK * tall and not any((abs(spot - model) < NAMED).all() for model in models):
                axes.text(
                    float(end),
                    (foot + top) / 2,
                    name,
                    color=colour,
                    ha="center",
                    va="center",
                    fontsize=SMALL + 0.5,
                    fontweight="bold",
                    path_effects=[withStroke(linewidth=2, foreground=ground)],
                )
                break


def _ranges(axes: Axes, curve: CostBySize) -> None:
    """Bars for the sizes within each excess of the least cost, their names on the side that has room."""
    across = axes.get_xaxis_transform()
    for excess, ends in curve.ranges:
        low, high = np.clip(ends, *axes.get_xlim())
        if not low < high:  # sizes so near to the lowest loss that there is, that the curve leaves them out
            continue
        height = RANGE_HEIGHTS.get(excess, 0.09)
        axes.plot(
            [low, high],
            [height] * 2,
            transform=across,
            color=BLACK,
            linewidth=3,
            solid_capstyle="butt",
            path_effects=[HALO],
        )
        left = place_in(axes, high, 0)[0] > 1 - NEAR_EDGE
        beside(
            axes,
            low if left else high,
            height,
            f"within {format_fraction(excess)}",
            (-4 if left else 4, 0),
            xycoords=across,
            fontsize=SMALL - 1,
            color=BLACK,
            path_effects=[HALO],
        )


def _marks(axes: Axes, curve: CostBySize | LossBySize, value: str) -> None:
    """Both models, and a legend, which names the compute-optimal one and its `value` if it is out of view."""
    ours, theirs = curve.chosen, curve.compute_optimal
    low, high = axes.get_xlim()
    if low <= theirs.parameters <= high:
        _mark(axes, theirs, "compute-optimal", "s", ours)
    elif np.isfinite(theirs.value):
        side = "right" if theirs.parameters > high else "left"
        told = f"compute-optimal, {format_count(theirs.parameters)}: {value}, off to the {side}"
        axes.plot([], [], "s", color=BLACK, label=told)
    _mark(axes, ours, "chosen", "o", theirs)
    legend(axes, "upper center")


def _mark(axes: Axes, place: Place, name: str, marker: str, other: Place) -> None:
    """One of two models, its name on the side away from the other, or from an edge that is near."""
    if not np.isfinite(place.value):
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
        clip_on=False,
        zorder=5,
    )
    across = place_in(axes, place.parameters, 0)[0]
    left = across > 1 - NEAR_EDGE or (place.parameters < other.parameters and across > NEAR_EDGE)
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
    _check_several(known)
    sizes = curve.parameters[known]
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot(sizes, curve.loss_nats[known], color=BLUE)
    if curve.band is not None:
        band(axes, sizes, [end[known] for end in curve.band], BLUE, of_draws(curve.level))
    axes.set_xlim(sizes[0], sizes[-1])
    axes.set_xscale("log")
    _marks(axes, curve, f"{curve.compute_optimal.value:.3f}")
    count_axis(axes, "x", parameters_label(convention))
    axes.set_ylabel("predicted loss (nats per token)")
    axes.set_title(f"What each size reaches for {amount(curve.cost, curve.unit)} of training and serving")
    return figure
