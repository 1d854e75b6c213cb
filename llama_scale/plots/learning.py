"""Loss curves of a sweep: by tokens and by FLOPs, smoothed with the raw losses behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting.size_curves import evenly_along, smooth
from llama_scale.plots.style import (
    SMALL,
    by_rank,
    count_axis,
    end_labels,
    flops_axis,
    new_figure,
    plain_axis,
    styled,
)
from llama_scale.quantities import counted, format_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_scale.fitting.rows import TrainingCurve

MOST_POINTS = 400  # of a curve: more are not seen, and make files large
CLIPPED = 0.995  # of the raw losses are within the axes: the start of a run is far above them


@styled
def loss_curves(curves: Sequence[TrainingCurve]) -> Figure:
    """Training loss against tokens, and against FLOPs, one colour a size.

    Raises UnidentifiedError for no curves.
    """
    if not curves:
        raise UnidentifiedError(
            "there are no loss curves", hint="name a store of runs that `llama-scale sweep` trained"
        )
    sizes = sorted({curve.parameters for curve in curves})
    colours = dict(zip(sizes, by_rank(len(sizes)), strict=True))
    figure = new_figure(height=4.2, width=8.2)
    by_tokens, by_flops = figure.subplots(1, 2, sharey=True)
    for curve in sorted(curves, key=lambda one: one.parameters):
        smoothed = _smoothed(curve)
        for axes, per_token in ((by_tokens, 1.0), (by_flops, curve.flops_per_token)):
            _draw(axes, per_token * curve.tokens, curve, smoothed, colours[curve.parameters])
    losses = np.concatenate([curve.loss for curve in curves])
    low, high = np.min(losses), np.quantile(losses, CLIPPED)
    by_tokens.set_ylim(low / 1.03, high * 1.03)
    count_axis(by_tokens, "x", "tokens seen D", most=5)
    flops_axis(by_flops)
    plain_axis(by_tokens, "y", "training loss (nats per token)")
    end_labels(by_flops, [_end(curves, size, colours[size]) for size in sizes], at_edge=True)
    by_tokens.set_title("Loss by tokens")
    by_flops.set_title("… and by compute")
    by_tokens.text(
        0.03,
        0.03,
        f"{counted(len(curves), 'run')}, darker: smaller; thin: as logged",
        transform=by_tokens.transAxes,
        fontsize=SMALL,
    )
    return figure


def _smoothed(curve: TrainingCurve) -> Any:
    """Losses (n,) of which the noise of single steps is taken; the same by tokens and by FLOPs."""
    return np.exp(smooth(np.log(curve.tokens), np.log(curve.loss)))


def _draw(axes: Axes, x: Any, curve: TrainingCurve, smoothed: Any, colour: Any) -> None:
    seen = evenly_along(np.log(x), MOST_POINTS)
    axes.plot(x[seen], curve.loss[seen], color=colour, alpha=0.25, linewidth=0.6)
    axes.plot(x[seen], smoothed[seen], color=colour, linewidth=1.5)


def _end(curves: Sequence[TrainingCurve], size: float, colour: Any) -> tuple[float, float, str, Any]:
    """Where the name of a size stands: at the end of its longest run."""
    longest = max((one for one in curves if one.parameters == size), key=lambda one: one.tokens[-1])
    flops = longest.flops_per_token * longest.tokens[-1]
    return float(flops), float(_smoothed(longest)[-1]), format_count(size), colour
