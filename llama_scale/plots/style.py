"""The look of every figure: palette, type, ticks in our units, labels beside what they name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Literal, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.layout_engine import TightLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from llama_scale.costs import CostUnit
from llama_scale.quantities import format_count, format_level, format_usd

# Okabe & Ito 2008, told apart by readers with any colour vision; markers and dashes tell them apart in grey.
BLUE, ORANGE, GREEN, VERMILION, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9"
BLACK, GREY = "#222222", "#777777"
WIDTH = 7.2  # inches: a notebook's column, and two thirds of a printed page
LEGEND_HEIGHT = 0.3  # inches, of one row of names
SMALL = 8.5  # points, of labels within a figure
BAND = 0.18  # opacity
MOST_NAMED = 14  # lines that each get a name at their end
LABELS_APART = 10.5  # points
CLOSE = 5.6  # times between the ends of a logarithmic axis, below which ticks are evenly spaced
SUBS = ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))  # ticks of a decade
LEAST_SPAN = 1e-4  # of a logarithmic axis: within less, ticks share names and rounding looks like steps
READABLE = 4.5  # contrast of text with its ground
HALO = withStroke(linewidth=2.5, foreground="white")  # keeps lines out of the names beside them
STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure everywhere
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 9.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "figure.facecolor": "white",
    "savefig.dpi": 160,
    "text.parse_math": False,  # a dollar is a dollar, whatever models and inputs are called
    "svg.hashsalt": "llama-scale",  # the same figure is the same file
    "svg.fonttype": "none",
}
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
CONVENTIONS = {"total": "total", "matmul": "matmul", "non_embedding": "non-embedding"}

Parameters = ParamSpec("Parameters")
Which = Literal["x", "y"]


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Draws in our style, and leaves matplotlib's own settings as they were."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **words: Parameters.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **words)

    return drawn


def new_figure(height: float = 4.4, width: float = WIDTH) -> Figure:
    """An empty figure whose parts keep out of each other's way."""
    # One pass over the texts, where the constrained layout takes two, and this one too around any `rect`.
    unbounded: Any = None
    return Figure(
        figsize=(width, height), layout=TightLayoutEngine(pad=0.7, w_pad=1.6, h_pad=1.4, rect=unbounded)
    )


def legend(axes: Axes, place: Literal["best", "upper center"]) -> None:
    """A legend within the axes, where something has a name for it."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place)


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend in a row under all axes, where it hides nothing."""
    figure.legend(
        handles, labels, loc="lower center", ncols=len(labels), columnspacing=1.4, borderaxespad=0.3
    )
    foot = LEGEND_HEIGHT / figure.get_figheight()
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, foot, 1, 1))


def by_rank(count: int) -> list[Any]:
    """So many colours from dark to light, in order in grey too."""
    return list(matplotlib.colormaps["viridis"](np.linspace(0.05, 0.76, count)))


def parameters_label(convention: str) -> str:
    """What an axis of model sizes counts."""
    return f"parameters N ({CONVENTIONS[convention]})"


def count_axis(axes: Axes, which: Which, label: str = "", *, most: int = 7) -> None:
    """A logarithmic axis of parameters or tokens: 30K, 7B."""
    _logarithmic(axes, which, label, format_count, most)


def plain_axis(axes: Axes, which: Which, label: str = "") -> None:
    """A logarithmic axis of plain numbers: losses, ratios, of which millions are counted as such."""
    _logarithmic(axes, which, label, lambda value: f"{value:,g}" if value < 1e6 else format_count(value))


def flops_axis(axes: Axes, label: str = "training compute C (FLOPs)") -> None:
    """A logarithmic axis of FLOPs, from left to right: 10²¹, 5×10²¹."""
    _logarithmic(axes, "x", label, scientific)


def scientific(value: float) -> str:
    """A positive number as few digits times a power of ten, in letters that need no formula to be set.

    >>> scientific(2e12), scientific(1e-3)
    ('2×10¹²', '10⁻³')
    """
    power = math.floor(math.log10(value) + 1e-9)
    head = f"{value / 10.0**power:g}"
    return ("" if head == "1" else f"{head}×") + f"10{str(power).translate(RAISED)}"


def cost_axis(axes: Axes, which: Which, unit: CostUnit, what: str) -> None:
    """An axis of costs, its label with the unit: FLOPs by one power of ten for all ticks."""
    if unit == "flops":
        power = math.floor(math.log10(max(map(abs, _axis(axes, which).get_view_interval()))))
        name, form = f"{scientific(10.0**power)} FLOPs", lambda value: f"{value / 10.0**power:g}"
    else:
        name, form = {"usd": ("US dollars", _dollars), "gpu_hours": ("GPU-hours", format_count)}[unit]
    axis = _axis(axes, which)
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    axis.set_label_text(f"{what} ({name})")


def log_dollar_axis(axes: Axes, which: Which) -> None:
    """A logarithmic axis of dollars, its label left as it is."""
    _logarithmic(axes, which, "", _dollars)


def _dollars(value: float) -> str:
    return f"-{format_usd(-value)}" if value < 0 else format_usd(value) if value else "$0"


def _axis(axes: Axes, which: Which) -> Axis:
    return axes.xaxis if which == "x" else axes.yaxis


def _logarithmic(axes: Axes, which: Which, label: str, form: Callable[[float], str], most: int = 7) -> None:
    """Ticks at as many round values as have room for their names, at powers of ten where decades are many."""
    axes.set(**{f"{which}scale": "log"})
    axis = _axis(axes, which)
    low, high = sorted(axis.get_view_interval())
    if high < low * (1 + LEAST_SPAN):
        low, high = low * (1 - LEAST_SPAN), high * (1 + LEAST_SPAN)
        axes.set(**{f"{which}lim": (low, high)})
    choices = _close_ticks(low, high, most) if high / low < CLOSE else _ticks_by_decade(low, high, most)
    extent = axes.get_window_extent()
    room = (extent.width if which == "x" else extent.height) * 72 / axes.figure.dpi / math.log(high / low)

    def apart(ticks: list[float]) -> bool:
        """Whether no name of a tick meets the next."""
        letters = np.array([len(form(tick)) + 1 if which == "x" else LINE / LETTER for tick in ticks])
        halves = (letters[1:] + letters[:-1]) * LETTER * STYLE["font.size"] / 2
        return bool((room * np.diff(np.log(ticks)) > halves).all())

    ticks = next(filter(apart, choices), choices[-1])
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    powers = all(math.log10(tick).is_integer() for tick in ticks)
    axis.set_minor_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=99) if powers else NullLocator())
    axis.set_minor_formatter(NullFormatter())
    if label:
        axis.set_label_text(label)


def _ticks_by_decade(low: float, high: float, most: int) -> list[list[float]]:
    """Values at fewer and fewer places of a decade, then at fewer decades, two at least."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = [(subs, 1) for subs in SUBS] + [((1.0,), every) for every in (2, 3, 5, 10)]
    found = [
        [
            tick
            for power in range(first - first % every, last + 1, every)
            for sub in subs
            if low <= (tick := sub * 10.0**power) <= high
        ]
        for subs, every in steps
    ]
    return [ticks for ticks in found if 2 <= len(ticks) <= most + 2] or [found[1]]


def _close_ticks(low: float, high: float, most: int) -> list[list[float]]:
    """Evenly spaced round values, fewer and fewer."""
    found = (
        MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        for count in range(most, 1, -1)
    )
    return [[float(tick) for tick in ticks if low <= tick <= high] for ticks in found]


def of_draws(level: float) -> str:
    """What a band says that it holds."""
    return f"{format_level(level)} of the law's draws"


def band(axes: Axes, x: Any, ends: Any, colour: str, label: str | None = None) -> None:
    """The room between two ends (low, high), where both are known; its label goes to a legend."""
    low, high = (np.asarray(end, float) for end in ends)
    known = np.isfinite(low) & np.isfinite(high)
    axes.fill_between(
        np.asarray(x, float)[known],
        low[known],
        high[known],
        color=colour,
        alpha=BAND,
        linewidth=0,
        label=label,
    )


def as_text(colour: Any) -> Any:
    """A colour as dark as text on white must be to be read (WCAG 2.2, 1.4.3), of the same hue."""
    shades = np.array(to_rgb(colour))
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    linear *= min(1.0, (1.05 / READABLE - 0.05) / max(float(linear @ (0.2126, 0.7152, 0.0722)), 1e-9))
    return tuple(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def end_labels(axes: Axes, labels: Sequence[tuple[float, float, str, Any]], *, at_edge: bool = False) -> None:
    """Names right of the ends of lines, (x, y, text, colour) each, `LABELS_APART` from each other.

    Of more than `MOST_NAMED`, in order, some evenly among them are named. `at_edge` puts the names right of
    the axes, where lines end among others.
    """
    if len(labels) > MOST_NAMED:
        some = np.unique(np.linspace(0, len(labels) - 1, MOST_NAMED).round().astype(int))
        labels = [labels[index] for index in some]
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    spots = np.array([place_in(axes, x, y)[1] for x, y, *_ in labels])
    places = spread(spots * height, LABELS_APART)
    places += max(0.0, -places.min()) - max(0.0, places.max() - height)  # beside the axes, not beyond them
    for (x, y, text, colour), place, spot in zip(labels, places, spots, strict=True):
        beside(
            axes,
            1.0 if at_edge else x,
            y,
            text,
            (5, place - spot * height),
            xycoords=axes.get_yaxis_transform() if at_edge else "data",
            va="center",
            color=as_text(colour),
            annotation_clip=False,
            path_effects=[HALO],
        )


def place_in(axes: Axes, x: float, y: float) -> Any:
    """Where a point lies (2,): 0 at the left and the foot of the axes, 1 at the right and the top."""
    return axes.transLimits.transform(axes.transScale.transform((x, y)))


def spread(places: Any, apart: float) -> Any:
    """Places moved as little as keeps them `apart`, in the order that they had.

    >>> spread([0.0, 1.0, 50.0], 10.0).tolist()
    [-4.5, 5.5, 50.0]
    """
    order = np.argsort(places, kind="stable")
    # Pool adjacent violators: those that crowd share the room about their mean.
    groups: list[list[float]] = []
    for place in np.asarray(places, float)[order] - apart * np.arange(len(order)):
        groups.append([place])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    level = np.concatenate([np.full(len(group), np.mean(group)) for group in groups])
    found = np.empty(len(order))
    found[order] = level + apart * np.arange(len(order))
    return found


def level_labels(axes: Axes, drawn: ContourSet) -> None:
    """The values of lines of equal loss, with as many digits as tell them apart."""
    apart = float(np.min(np.diff(np.asarray(drawn.levels))))
    digits = max(2, math.ceil(-math.log10(apart)))
    axes.clabel(drawn, fmt=f"%.{digits}f", fontsize=SMALL - 1, colors="#666666")


def beside(
    axes: Axes, x: float, y: float, text: str, offset: tuple[float, float] = (7, 6), **words: Any
) -> None:
    """A few words beside a point, `offset` points from it and on the side of it that these lead to."""
    across, up = offset
    settings: dict[str, Any] = {
        "fontsize": SMALL,
        "ha": "left" if across >= 0 else "right",
        "va": "bottom" if up > 0 else "top" if up < 0 else "center",
    }
    axes.annotate(text, (x, y), xytext=offset, textcoords="offset points", **(settings | words))


def note(axes: Axes, x: float, y: float, text: str, **words: Any) -> None:
    """The same on a ground that keeps lines out of the words."""
    ground = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    beside(axes, x, y, text, bbox=ground, **words)


NEAR = ((7, 7), (7, -7), (-7, 7), (-7, -7))
FAR = tuple((7 * right, up * rise) for rise in (19, 31, 43, 55) for up in (1, -1) for right in (1, -1))
LETTER, LINE = 0.66, 1.35  # width of a letter and height of a line, in font sizes
APART = 2.0  # points, around each
DOT, CLEAR = 4.0, 8.0  # points about a point: what it covers, and where a name would seem to be its own


def notes(axes: Axes, named: Sequence[tuple[float, float, str]]) -> None:
    """Names (x, y, text) beside points, each on the first side where it meets no name and no other point.

    Where that is farther off a thin line leads to it.
    """
    if isinstance(axes.figure, Figure) and (engine := axes.figure.get_layout_engine()):
        engine.execute(axes.figure)  # where points lie on the page is known only then
    to_points = 72 / axes.figure.dpi
    places = [np.asarray(axes.transData.transform((x, y))) * to_points for x, y, _ in named]
    taken: list[tuple[Any, Any]] = []
    for index, ((x, y, text), place) in enumerate(zip(named, places, strict=True)):
        size = np.array([LETTER * SMALL * len(text), LINE * SMALL])
        others = [(other - CLEAR, other + CLEAR) for other in places[:index] + places[index + 1 :]]
        boxes = {side: _box(place, np.array(side), size) for side in NEAR + FAR}
        own = (place - DOT, place + DOT)
        free = (
            side
            for around in ([*taken, own, *others], taken)
            for side, box in boxes.items()
            if not any(_meet(box, other) for other in around)
        )
        side = next(free, NEAR[0])
        taken.append(boxes[side])
        note(axes, x, y, text, offset=side, **(_leader(side) if side in FAR else {}))


def _leader(side: tuple[int, int]) -> dict[str, Any]:
    """A line from a point to the corner of its name that is nearest to it."""
    corner = (0.0 if side[0] > 0 else 1.0, 0.0 if side[1] > 0 else 1.0)
    look = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
    return {"arrowprops": {**look, "relpos": corner}}


def _box(place: Any, side: Any, size: Any) -> tuple[Any, Any]:
    """The corners of a text that begins, or ends, at an offset from a point."""
    start = place + side - np.where(side < 0, size, 0)
    return start - APART, start + size + APART


def _meet(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return bool((one[0] < other[1]).all() and (other[0] < one[1]).all())
