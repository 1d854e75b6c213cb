"""Models that exist, on the same axes: where they stand under one law, and what they cost as demand grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from llama_scale.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    count_axis,
    end_labels,
    legend_below,
    level_labels,
    new_figure,
    notes,
    parameters_label,
    plain_axis,
    styled,
)
from llama_scale.quantities import format_count

if TYPE_CHECKING:
    from llama_scale.planning.comparison import Comparison, Costs

CYCLE = (BLUE, VERMILION, GREEN, ORANGE, BLACK, SKY, GREY)
DASHES = ("-", "--", "-.", ":", (0, (8, 3)))  # five, and seven colours: 35 looks
DEMANDS = 1e9, 1e15  # tokens served, from a trial to more than anyone has


@styled
def model_map(found: Comparison) -> Figure:
    """Parameters and tokens of each model, lines of equal loss, and where training compute is spent best."""
    law, models = found.request.fit.law, found.models
    sizes = np.array([model.parameters for model in models])
    tokens = np.array([model.tokens for model in models])
    figure = new_figure(height=5.0)
    axes = figure.add_subplot()
    x = np.geomspace(sizes.min() / 2.5, sizes.max() * 2.5, 120)
    seen = np.concatenate([tokens, law.optimal_tokens(sizes)])
    y = np.geomspace(seen.min() / 2.5, seen.max() * 2.5, 120)
    losses = law.loss(x, y[:, None])
    lowest, highest = (end([model.loss_nats for model in models]) for end in (min, max))
    drawn = axes.contour(
        x,
        y,
        losses,
        levels=np.geomspace(lowest * 0.985, highest * 1.015, 9),
        colors="#a5a5a5",
        linewidths=0.9,
    )
    axes.plot(x, law.optimal_tokens(x), color=BLUE, label="compute-optimal (Chinchilla)")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    axes.plot(sizes, tokens, "o", color=VERMILION, markeredgecolor="white", markersize=8, zorder=4)
    count_axis(axes, "x", parameters_label(found.request.fit.convention))
    count_axis(axes, "y", "training tokens D")
    level_labels(axes, drawn)
    legend_below(figure, *axes.get_legend_handles_labels())
    notes(axes, [(model.parameters, model.tokens, model.name) for model in models])
    axes.set_title("Models that exist, and lines of equal predicted loss (nats per token)")
    return figure


@styled
def model_bets(found: Comparison) -> Figure:
    """What each model costs over the compute-optimal model of its predicted loss, as demand grows.

    Below 1 its shape has paid off: dots are the demands from which it does. Overtrained models start dearer
    and end cheaper; models that saw too few tokens for their size only grow dearer.
    """
    demands = np.geomspace(*DEMANDS, 300)
    figure = new_figure(height=4.8, width=8.0)
    axes = figure.add_subplot()
    labels, breaks = [], []
    for index, model in enumerate(found.models):
        colour = CYCLE[index % len(CYCLE)]
        ratio = _total(model.costs[found.unit], demands) / _total(model.rival.costs[found.unit], demands)
        axes.plot(demands, ratio, color=colour, linestyle=DASHES[index % len(DASHES)])
        if np.isfinite(ratio[-1]):
            labels.append((demands[-1], ratio[-1], model.name, colour))
        crossing = model.against_rival[found.unit]
        if crossing.verdict == "from" and crossing.serve_tokens:
            axes.plot(
                [crossing.serve_tokens],
                [1.0],
                "o",
                color=colour,
                markeredgecolor="white",
                markersize=7.5,
                zorder=5,
            )
            breaks.append((crossing.serve_tokens, 1.0, format_count(crossing.serve_tokens, 2)))
    axes.axhline(1, color=GREY, linewidth=1)
    axes.set_xlim(*DEMANDS)
    count_axis(axes, "x", "tokens served over its life T")
    over = "lifetime cost over that of the compute-optimal\nmodel of the same predicted loss"
    plain_axis(axes, "y", over)
    end_labels(axes, labels)
    notes(axes, breaks)
    axes.set_title("Which models paid for their training by what they serve")
    return figure


def _total(costs: Costs, demands: Any) -> Any:
    return costs.train + costs.token * demands
