"""Which input moves the bill, and the answer: the tornado."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from llama_scale.errors import InputError
from llama_scale.plots.style import (
    BLACK,
    BLUE,
    ORANGE,
    SMALL,
    beside,
    cost_axis,
    count_axis,
    legend_below,
    log_dollar_axis,
    new_figure,
    parameters_label,
    styled,
)
from llama_scale.quantities import format_count, format_usd

if TYPE_CHECKING:
    from llama_scale.planning.sensitivity import Sensitivity
    from llama_scale.planning.values import Plan

WIDE = 8.0  # times between the ends of an axis, above which it is logarithmic


@styled
def sensitivity(plan: Plan) -> Figure:
    """Each input at its low and at its high: what the plan's quality then costs, and the size to choose.

    Raises InputError for a plan without prices.
    """
    rows = plan.sensitivity
    if not rows:
        raise InputError(
            "the bill has no price in dollars, so that nothing can be said to move it",
            hint="name the hardware: --accelerator h100, or --price $2.50/h",
        )
    figure = new_figure(height=1.5 + 0.42 * len(rows), width=8.2)
    bills, sizes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    base = float(plan.recommended.lifetime.total_usd or np.nan)
    best = plan.optimum.parameters  # the cases are not rounded either
    for place, row in enumerate(reversed(rows)):
        _bar(bills, place, row, "usd", base)
        _bar(sizes, place, row, "parameters", best)
        _names(bills, place, row, base)
    for axes, middle in ((bills, base), (sizes, best)):
        axes.axvline(middle, color=BLACK, linewidth=1)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    bills.set_yticks(range(len(rows)), [row.input for row in reversed(rows)])
    bills.set_ylim(-0.7, len(rows) - 0.3)
    _bill_axis(bills, rows, base)
    known = [case.parameters for row in rows for case in (row.low, row.high) if np.isfinite(case.parameters)]
    sizes.set_xlim(min(*known, best) / 1.15, max(*known, best) * 1.15)
    count_axis(sizes, "x", f"best {parameters_label(plan.request.fit.convention)}", most=4)
    bills.set_title(f"What moves the bill of {format_usd(base)}")
    sizes.set_title(f"… and the best size, {format_count(best)}")
    legend_below(figure, [Patch(**look) for look in LOOKS.values()], list(LOOKS))
    return figure


def _bill_axis(axes: Axes, rows: Sequence[Sensitivity], base: float) -> None:
    """Room for names at both ends; logarithmic where one input moves the bill many times over."""
    ends = [case.usd for row in rows for case in (row.low, row.high) if np.isfinite(case.usd)] + [base]
    low, high = min(ends), max(ends)
    cost_axis(axes, "x", "usd", "bill for the same quality")
    if high / low > WIDE:
        axes.set_xlim(low / 2, high * 2)
        log_dollar_axis(axes, "x")
        return
    room = 0.3 * (high - low)
    axes.set_xlim(low - room, high + 0.7 * room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))


LOOKS: dict[str, dict[str, Any]] = {
    "the cheaper case": {"facecolor": BLUE, "edgecolor": "white", "linewidth": 0},
    "the dearer case": {"facecolor": ORANGE, "edgecolor": "white", "linewidth": 0, "hatch": "//"},
}


def _bar(axes: Axes, place: int, row: Sensitivity, name: str, middle: float) -> None:
    """From the middle to both cases, as far as they exist."""
    for case, look in zip((row.low, row.high), LOOKS.values(), strict=True):
        value = getattr(case, name)
        if np.isfinite(value):
            axes.barh(place, value - middle, left=middle, height=0.62, **look)


def _names(axes: Axes, place: int, row: Sensitivity, middle: float) -> None:
    """The cheaper case left of its bar, the dearer right; one that cannot be is said to be impossible."""
    for case, left in ((row.low, True), (row.high, False)):
        text, value = case.label, case.usd
        if not np.isfinite(value):
            text, value = f"{text}: impossible", middle
        end = min(value, middle) if left else max(value, middle)
        beside(axes, end, place, text, (-4 if left else 4, 0), fontsize=SMALL - 1)
