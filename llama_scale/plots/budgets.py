"""Runs of equal compute: IsoFLOP profiles with their minima, and the envelope of all sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llama_scale.errors import UnidentifiedError
from llama_scale.fitting.envelope import envelope as find_envelope
from llama_scale.fitting.isoflop import Profile, budgets_of
from llama_scale.fitting.isoflop import isoflop as find_profiles
from llama_scale.fitting.size_curves import LossBySize, ends_of, has_ends, losses_along
from llama_scale.plots.style import (
    BLACK,
    BLUE,
    VERMILION,
    band,
    by_rank,
    count_axis,
    end_labels,
    flops_axis,
    legend,
    new_figure,
    parameters_label,
    plain_axis,
    styled,
)
from llama_scale.quantities import format_count, format_flops, format_level

if TYPE_CHECKING:
    from llama_scale.fitting import Observations
    from llama_scale.fitting.lines import PowerLine
    from llama_scale.laws import Fit

LOSS = "final loss (nats per token)"
Labels = list[tuple[float, float, str, Any]]


@styled
def isoflop(observations: Observations, fit: Fit | None = None) -> Figure:
    """Loss against size at each budget: runs, their parabola and its minimum, and the law where one is given.

    Minima carry the central range of where the runs put them. Runs held out are drawn with the law's own
    prediction. Raises UnidentifiedError where the runs form no two budgets.
    """
    found = find_profiles(observations, draws=1000)
    if found is None:
        raise UnidentifiedError(
            "the runs form no two compute budgets of three sizes each",
            hint="train some: `llama-scale sweep` runs an IsoFLOP design",
        )
    figure = new_figure(height=4.8)
    axes = figure.add_subplot()
    labels: Labels = []
    for profile, colour in zip(found.profiles, by_rank(len(found.profiles)), strict=True):
        labels.append(_profile(axes, profile, colour))
    if fit is not None and observations.held_out is not None:
        _held_out(axes, observations.held_out, fit, labels)
    _minima(axes, found.profiles, found.level)
    axes.margins(x=0.03)
    count_axis(axes, "x", parameters_label(observations.convention))
    plain_axis(axes, "y", LOSS)
    end_labels(axes, labels)
    axes.set_title("Loss at equal compute, and the best size of each budget (FLOPs)")
    legend(axes, "best")
    return figure


def _profile(axes: Axes, profile: Profile, colour: Any) -> tuple[float, float, str, Any]:
    sizes = np.array(profile.sizes)
    axes.plot(sizes, profile.losses, "o", color=colour)
    grid = np.geomspace(sizes.min() / 1.08, sizes.max() * 1.08, 80)
    offset = np.log(grid) - profile.centre
    curve = np.polynomial.polynomial.polyval(offset, profile.coefficients)
    axes.plot(grid, curve, color=colour, linewidth=1.2)
    return grid[-1], curve[-1], format_flops(profile.budget).removesuffix(" FLOPs"), colour


def _minima(axes: Axes, profiles: tuple[Profile, ...], level: float) -> None:
    """Crosses at interior minima, with bars as long as the runs leave them open."""
    known = [(p, p.parameters, p.loss) for p in profiles if p.parameters is not None and p.loss is not None]
    for index, (profile, size, loss) in enumerate(known):
        low, high = (
            edge if end is None else end
            for end, edge in zip(profile.interval, (profile.sizes[0], profile.sizes[-1]), strict=True)
        )
        label = f"minimum, with its {format_level(level)} interval" if index == 0 else None
        axes.plot([low, high], [loss] * 2, color=BLACK, linewidth=1.1, zorder=4)
        axes.plot([size], [loss], "x", color=BLACK, markeredgewidth=1.8, zorder=5, label=label)


def _held_out(axes: Axes, held_out: Observations, fit: Fit, labels: Labels) -> None:
    """Each budget of runs that the law never saw, with what it predicts along that budget."""
    named = np.isfinite(held_out.budgets).any()
    groups = budgets_of(held_out) if named else {}
    for index, (budget, rows) in enumerate(groups.items()):
        sizes = held_out.parameters[rows]
        spare = held_out.train_flops[rows] / (6 * sizes * held_out.tokens[rows])
        grid = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, 80)
        tokens = held_out.train_flops[rows].mean() / (6 * spare.mean() * grid)
        guess = fit.predict(grid, tokens)
        axes.plot(grid, guess.loss, color=VERMILION, linestyle="--", linewidth=1.2)
        if guess.low is not None:
            band(axes, grid, (guess.low, guess.high), VERMILION)
        label = f"held out, with the law's {format_level(guess.level)} interval" if index == 0 else None
        axes.plot(sizes, held_out.loss[rows], "D", color=VERMILION, label=label, zorder=5)
        end = float(np.asarray(guess.loss)[-1])
        labels.append((grid[-1], end, format_flops(budget).removesuffix(" FLOPs"), VERMILION))


@styled
def envelope(observations: Observations) -> Figure:
    """Approach 1: the losses of each size against FLOPs, their lower edge, and the best size along it.

    Raises UnidentifiedError where sizes have neither several durations nor loss curves, and where none is
    ever best between two others.
    """
    found = find_envelope(observations)
    hint = "train some: `llama-scale sweep`; or draw `llama-scale plot isoflop`"
    if found is None:
        raise UnidentifiedError(
            "an envelope needs three sizes with runs of several durations each, or losses along runs",
            hint=hint,
        )
    if not found.flops.size:
        raise UnidentifiedError(f"there is no envelope: {found.reason}", hint=hint)
    ends = has_ends(observations)
    sizes: list[LossBySize] = list(ends_of(observations)) if ends else losses_along(observations.curves)
    figure = new_figure(height=4.4, width=8.2)
    losses, best = figure.subplots(1, 2, width_ratios=(3, 2))
    _by_size(losses, sizes, found, LOSS if ends else "loss (nats per token)")
    losses.set_title("Each size as compute grows, and the envelope")
    best.plot(found.flops, found.parameters, ".", color=BLACK, markersize=2.5, label="best size")
    if found.of_parameters is not None:
        _power(best, found.of_parameters, found.flops)
    flops_axis(best)
    count_axis(best, "y", parameters_label(observations.convention))
    best.set_title("The best size")
    best.legend(loc="upper left")
    return figure


def _by_size(axes: Axes, sizes: list[LossBySize], found: Any, label: str) -> None:
    ordered = sorted(sizes, key=lambda size: size.log_size)
    labels: Labels = []
    for size, colour in zip(ordered, by_rank(len(ordered)), strict=True):
        grid = np.linspace(*size.span, 120)
        loss = np.exp(size.at(grid)[0])
        axes.plot(np.exp(grid), loss, color=colour, linewidth=1.2)
        points = getattr(size, "rows", None)
        if points is not None:
            axes.plot(np.exp(size.log_flops), np.exp(size.log_loss), "o", color=colour, markersize=3.5)  # type: ignore
        labels.append(
            (float(np.exp(grid[-1])), float(loss[-1]), format_count(float(np.exp(size.log_size))), colour)
        )
    lowest = np.min([np.exp(size.at(np.log(found.flops))[0]) for size in ordered], axis=0)
    axes.plot(found.flops, lowest, color=BLACK, linewidth=3.5, alpha=0.45, label="lowest loss of all sizes")
    flops_axis(axes)
    plain_axis(axes, "y", label)
    end_labels(axes, labels, at_edge=True)
    axes.legend(loc="lower left")


def _power(axes: Axes, line: PowerLine, flops: Any) -> None:
    grid = np.geomspace(flops[0], flops[-1], 50)
    axes.plot(grid, [line.at(each) for each in grid], color=BLUE, label=f"N ∝ C^{line.exponent:.2f}")
