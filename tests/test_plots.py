"""Figures: drawn from real values, whole files, nothing said twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from llama_scale import plots
from llama_scale.errors import InputError
from llama_scale.fitting import fit
from llama_scale.laws import Fit, published
from llama_scale.runs import RunRecord, load_records

RECORDS = Path(__file__).resolve().parent.parent / "sweeps" / "results" / "default-seed0.json"


@pytest.fixture(scope="module")
def records() -> tuple[RunRecord, ...]:
    return load_records(RECORDS)


@pytest.fixture(scope="module")
def law(records: tuple[RunRecord, ...]) -> Fit:
    return fit(records, name="default")


def lines(figure: Figure) -> list[int]:
    """Points of every line drawn."""
    return [
        len(np.atleast_1d(np.asarray(line.get_xdata()))) for axes in figure.axes for line in axes.get_lines()
    ]


def test_isoflop_draws_every_run_once(records: tuple[RunRecord, ...], law: Fit) -> None:
    drawn = [n for n in lines(plots.isoflop(law, records)) if 0 < n < 100]
    assert sum(drawn) == sum(r.role in ("train", "holdout") for r in records)


def test_trade_off_marks_the_cheapest_size_and_the_compute_optimal_one() -> None:
    figure = plots.trade_off(published(), target_loss=2.0, serve_tokens=2e12)
    (axes,) = figure.axes
    cheapest, optimal = (float(np.asarray(line.get_xdata())[0]) for line in axes.get_lines())
    assert cheapest < optimal
    legend = axes.get_legend()
    assert legend is not None
    assert "cheapest: 29.6B" in [text.get_text() for text in legend.get_texts()]


def test_best_size_falls_with_demand_and_starts_at_chinchilla() -> None:
    law = published()
    figure = plots.best_size_against_demand(law, budget_flops=1e24)
    curve, unserved = figure.axes[0].get_lines()[:2]
    sizes = np.asarray(curve.get_ydata(), float)
    assert (np.diff(sizes) < 0).all()
    assert sizes[0] == pytest.approx(float(law.law.compute_optimum(1e24).parameters), rel=0.01)
    assert float(np.asarray(unserved.get_ydata())[0]) == pytest.approx(sizes[0], rel=0.01)


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_is_saved_whole_and_the_same_each_time(tmp_path: Path, kind: str, start: bytes) -> None:
    saved = [
        plots.save(
            plots.trade_off(published(), target_loss=2.0, serve_tokens=1e12), tmp_path / f"{n}.{kind}"
        ).read_bytes()
        for n in range(2)
    ]
    assert saved[0].startswith(start)
    assert saved[0] == saved[1]


def test_an_unknown_extension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write a figure as 'x\.jpeg2'"):
        plots.save(Figure(), tmp_path / "x.jpeg2")


def test_no_runs_no_figure() -> None:
    with pytest.raises(InputError, match="no finished run"):
        plots.isoflop(published(), [])
