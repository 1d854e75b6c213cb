"""What a law says over the whole plane of sizes and budgets, and where it puts the optimum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llama_scale.laws.spread import DEFAULT_LEVEL, tails
from llama_scale.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    band,
    beside,
    count_axis,
    flops_axis,
    legend_below,
    level_labels,
    new_figure,
    of_draws,
    parameters_label,
    styled,
)
from llama_scale.quantities import format_level

if TYPE_CHECKING:
    from llama_scale.fitting import Observations
    from llama_scale.laws import Fit

COMPUTE = "training compute C = 6ND (FLOPs)"
AROUND = 2.5  # times beyond the runs, each way
AHEAD = 100.0  # times beyond the dearest run: where optima are drawn
BESIDE = {1: ("envelope", "s", GREEN), 2: ("IsoFLOP parabolas", "D", ORANGE)}


@styled
def contours(fit: Fit, observations: Observations) -> Figure:
    """Lines of equal loss over budgets and sizes, the runs, and the efficient frontier with its band.

    Budgets are 6ND. Runs held out are diamonds.
    """
    runs = [observations, *([observations.held_out] if observations.held_out else [])]
    sizes = np.concatenate([each.parameters for each in runs])
    flops = np.concatenate([6 * each.parameters * each.tokens for each in runs])
    losses = np.concatenate([each.loss for each in runs])
    figure = new_figure(height=4.8)
    axes = figure.add_subplot()
    x = np.geomspace(flops.min() / AROUND, flops.max() * AROUND, 120)
    y = np.geomspace(sizes.min() / AROUND, sizes.max() * AROUND, 120)
    surface = fit.law.loss(y[:, None], x / (6 * y[:, None]))
    lowest, highest = losses.min() * 0.985, losses.max() * 1.02
    levels = np.geomspace(lowest, highest, 11)
    drawn = axes.contour(x, y, surface, levels=levels, colors="#9a9a9a", linewidths=0.9)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    _frontier(axes, fit, x)
    shade = (observations.loss - losses.min()) / (1.05 * losses.max() - losses.min())
    axes.scatter(
        6 * observations.parameters * observations.tokens,
        observations.parameters,
        c=matplotlib.colormaps["viridis"](shade),
        s=26,
        edgecolors="white",
        linewidths=0.5,
        zorder=4,
        label="fitted runs (darker: lower loss)",
    )
    if observations.held_out is not None:
        held = observations.held_out
        axes.plot(
            6 * held.parameters * held.tokens,
            held.parameters,
            "D",
            color=VERMILION,
            markersize=6.5,
            zorder=5,
            label="held out",
        )
    flops_axis(axes, COMPUTE)
    count_axis(axes, "y", parameters_label(fit.convention))
    level_labels(axes, drawn)
    axes.set_title("The law's lines of equal loss (nats per token), and the best sizes")
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure


def _frontier(axes: Axes, fit: Fit, flops: Any) -> None:
    best = fit.law.compute_optimum(flops)
    if fit.draws is not None:
        drawn = np.asarray(fit.draws.compute_optimum(flops[:, None]).parameters)
        band(axes, flops, tails(drawn, DEFAULT_LEVEL), BLUE, of_draws(DEFAULT_LEVEL))
    axes.plot(flops, best.parameters, color=BLUE, linewidth=2, label="efficient frontier")


@styled
def optima(fit: Fit) -> Figure:
    """The best N and D against compute, with bands, from the runs to a hundred times beyond them.

    The other approaches, where the fit holds them, are marked at the budgets that they were asked about.
    """
    support = fit.support.train_flops
    low, high = (support.low, support.high * AHEAD) if support else (1e18, 1e26)
    flops = np.geomspace(low, high, 120)
    best = fit.law.compute_optimum(flops)
    figure = new_figure(height=4.2, width=8.2)
    for axes, name, label in zip(
        figure.subplots(1, 2, sharex=True),
        ("parameters", "tokens"),
        (f"best {parameters_label(fit.convention)}", "best tokens D"),
        strict=True,
    ):
        axes.plot(flops, getattr(best, name), color=BLUE, label=f"law ({fit.law.form})")
        if fit.draws is not None:
            drawn = np.asarray(getattr(fit.draws.compute_optimum(flops[:, None]), name))
            band(
                axes, flops, tails(drawn, DEFAULT_LEVEL), BLUE, f"{format_level(DEFAULT_LEVEL)} of its draws"
            )
        _beside(axes, fit, name)
        axes.set_xlim(low, high)
        flops_axis(axes, COMPUTE)
        count_axis(axes, "y", label)
        if support:
            axes.axvspan(support.low, support.high, color=GREY, alpha=0.1, linewidth=0)
            edge = axes.get_xaxis_transform()
            beside(axes, support.low, 1, "the runs", (4, -4), xycoords=edge, color="#555555")
        exponent = float(fit.law.exponent_a)
        power = exponent if name == "parameters" else 1 - exponent
        axes.set_title(f"{'N' if name == 'parameters' else 'D'} grows as C^{power:.2f}")
    figure.axes[1].legend(loc="lower right")
    return figure


def _beside(axes: Axes, fit: Fit, name: str) -> None:
    """What the envelope and the parabolas say at the budgets that the fit names."""
    for found in fit.evidence.get("approaches") or ():
        label, marker, colour = BESIDE.get(found["approach"], ("", "", ""))
        optima_ = found.get("optima") or []
        if not label or not optima_:
            continue
        budgets = np.array([one["train_flops"] for one in optima_])
        values = np.array([one[name] for one in optima_])
        ends = [one.get(f"{name}_interval") for one in optima_]
        bars = None
        if all(ends):
            low, high = np.array(ends, float).T
            bars = np.abs(np.array([values - low, high - values]))
        axes.errorbar(
            budgets,
            values,
            yerr=bars,
            fmt=marker,
            color=colour,
            markerfacecolor="none",
            markersize=7,
            capsize=3,
            label=label,
            zorder=4,
        )
