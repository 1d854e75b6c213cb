"""The look of every figure: names that keep apart and are read, ticks that have room, no formulas."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from llama_scale import plots
from llama_scale.cli.plot import DEFAULT_MODELS
from llama_scale.costs import CostUnit
from llama_scale.planning import compare
from llama_scale.plots.models import CYCLE
from llama_scale.plots.style import as_text, by_rank, count_axis, flops_axis, of_draws, plain_axis, spread
from tests.figures import FIGURES, figure, words

MORE_MODELS = ("palm-62b", "llama-2-70b", "llama-3.1-8b", "llama-3.1-70b", "qwen-2.5-72b", "opt-175b")


@pytest.mark.parametrize("models", [DEFAULT_MODELS, DEFAULT_MODELS + MORE_MODELS], ids=["few", "many"])
@pytest.mark.parametrize("unit", ["flops", "usd"])
def test_names_beside_points_keep_off_each_other(unit: CostUnit, models: tuple[str, ...]) -> None:
    found = compare(*models, cost_in=unit)
    for drawn, begins in ((plots.model_bets(found), "0123456789"), (plots.model_map(found), "lcpgqo")):
        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
        named = [text for text in drawn.axes[0].texts if text.get_text()[0] in begins]
        boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in named]  # no leaders
        assert len(boxes) > 4
        meeting = [
            (one, other)
            for one, other in combinations(range(len(boxes)), 2)
            if boxes[one].overlaps(boxes[other])
        ]
        assert meeting == []


def test_a_name_that_is_far_from_its_point_is_led_to_it() -> None:
    drawn = plots.model_map(compare("llama-7b", "gpt-3-175b", "opt-175b"))
    FigureCanvasAgg(drawn).draw()
    (axes,) = drawn.axes
    beside = [text for text in axes.texts if isinstance(text, Annotation) and text.get_text()[0] in "lgo"]
    for text in beside:
        far = np.abs(text.xyann).max() > 10
        assert (text.arrow_patch is not None) == far, text.get_text()
    assert [text.arrow_patch is not None for text in beside] == [False, True, True]


@pytest.mark.parametrize("colour", [*CYCLE, *map(tuple, by_rank(7))])
def test_names_of_lines_are_dark_enough_to_read(colour: Any) -> None:
    """WCAG's contrast with white."""
    shades = np.array(as_text(colour))
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    assert 1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05) > 4.5 - 1e-6
    dark = np.array(to_rgb(colour)) @ (0.3, 0.6, 0.1) < 0.3
    assert not dark or np.allclose(shades, to_rgb(colour), atol=1e-6)


@pytest.mark.parametrize("width", [2.6, 5.6])
@pytest.mark.parametrize(
    ("scale", "low", "high"),
    [
        (plain_axis, 0.00204, 0.00218),
        (plain_axis, 0.05, 2e5),
        (flops_axis, 1.18e18, 1.22e18),
        (flops_axis, 3e19, 6e20),
        (flops_axis, 4e11, 3e12),
        (flops_axis, 1e10, 1e26),
        (count_axis, 3e3, 2e7),
    ],
)
def test_ticks_are_as_few_as_their_names_have_room(scale: Any, low: float, high: float, width: float) -> None:
    drawn = Figure(figsize=(width, 4.0))
    axes = drawn.add_subplot()
    axes.set_xlim(low, high)
    scale(axes, "x")
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    boxes = [label.get_window_extent(canvas.get_renderer()) for label in axes.get_xticklabels()]
    assert len(boxes) >= 2
    assert all(right.x0 - left.x1 > 4 for left, right in pairwise(boxes))


def test_a_million_to_one_is_counted() -> None:
    axes = Figure(figsize=(5.6, 5.0)).add_subplot()
    axes.set_ylim(10, 2e6)
    plain_axis(axes, "y")
    named = [axes.yaxis.get_major_formatter()(value) for value in (3.45, 1000, 1e6)]
    assert named == ["3.45", "1,000", "1M"]


def test_values_that_rounding_alone_tells_apart_look_alike() -> None:
    axes = Figure(figsize=(5.6, 5.0)).add_subplot()
    axes.plot([1, 2], [3.0, np.nextafter(3.0, 4)])
    plain_axis(axes, "y")
    low, high = axes.get_ylim()
    assert low < 2.9998 and high > 3.0002
    form, ticks = axes.yaxis.get_major_formatter(), axes.yaxis.get_majorticklocs()
    assert len(ticks) > 2 and len({form(tick) for tick in ticks}) == len(ticks)


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_a_formula(name: str) -> None:
    """Setting one takes a tenth of a picture's time, and a name with two dollars may be a broken one."""
    from matplotlib.cbook import is_math_text

    drawn = figure(name)
    FigureCanvasAgg(drawn).draw()
    parsed = [text for text in drawn.findobj(Text) if isinstance(text, Text) and text.get_parse_math()]
    assert [text.get_text() for text in parsed if is_math_text(text.get_text())] == []
    assert r"\$" not in words(drawn)


def test_powers_of_ten_are_letters() -> None:
    FigureCanvasAgg(figure("contours")).draw()
    assert "10¹²" in words(figure("contours"))


def test_a_name_that_looks_like_a_formula_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(
        'parameters = "7B"\ntokens = "2T"\n' + r'name = "a $\\frac{x$ <b>"' + "\n"
    )
    found = compare(str(tmp_path / "m.toml"), "llama-7b")
    for draw in (plots.model_bets, plots.model_map):
        for ending in ("png", "svg"):
            plots.save(drawn := draw(found), tmp_path / f"{draw.__name__}.{ending}")
        assert r"a $\frac{x$ <b>" in words(drawn)


def test_labels_keep_apart_and_in_order() -> None:
    places = spread([3.0, 3.1, 3.2, 40.0], 10.0)
    assert (np.diff(places) >= 10 - 1e-9).all()
    assert places[3] == pytest.approx(40.0)
    assert np.mean(places[:3]) == pytest.approx(3.1)


def test_a_level_keeps_its_nines() -> None:
    assert [of_draws(level) for level in (0.9, 0.9999)] == [
        "90% of the law's draws",
        "99.99% of the law's draws",
    ]
