"""What is drawn: figures made once from committed records, and looks at their artists."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from llama_scale import plots
from llama_scale.fitting import Observations, gather
from llama_scale.fitting.learning import learning_curves
from llama_scale.laws import Fit, read_fit
from llama_scale.planning import Plan, compare, curves, plan

RESULTS = Path(__file__).resolve().parent.parent / "sweeps" / "results"
RECORDS, FIT, CURVES = (RESULTS / f"default-seed0{rest}" for rest in (".json", "-fit.json", "-curves.csv"))


@cache
def runs() -> Observations:
    """The runs of the default sweep."""
    return gather(RECORDS)


@cache
def law() -> Fit:
    """The law that was fitted to them, its backtest and runs included."""
    return read_fit(FIT)


@cache
def target_plan() -> Plan:
    """A plan in dollars whose model is far from the compute-optimal one."""
    return plan(serve_tokens=2e12, match="llama-13b", accelerator="h100")


@cache
def budget_plan() -> Plan:
    """The plan that nobody chose anything for."""
    return plan(serve_tokens=1e12)


@cache
def figure(name: str) -> Figure:
    """One figure of each kind."""
    return FIGURES[name]()


FIGURES: dict[str, Any] = {
    "loss_curves": lambda: plots.loss_curves(learning_curves(CURVES)),
    "isoflop": lambda: plots.isoflop(runs(), law()),
    "envelope": lambda: plots.envelope(runs()),
    "contours": lambda: plots.contours(law(), runs()),
    "predictions": lambda: plots.predictions(law(), runs()),
    "residuals": lambda: plots.residuals(law(), runs()),
    "optima": lambda: plots.optima(law()),
    "choice": lambda: plots.choice(law()),
    "backtest": lambda: plots.backtest(law()),
    "cost_by_size": lambda: plots.cost_by_size(curves.cost_by_size(target_plan())),
    "loss_by_size": lambda: plots.loss_by_size(curves.loss_by_size(budget_plan())),
    "best_by_demand": lambda: plots.best_by_demand(curves.best_by_demand(budget_plan())),
    "cost_over_time": lambda: plots.cost_over_time(curves.cost_over_time(target_plan())),
    "sensitivity": lambda: plots.sensitivity(target_plan()),
    "model_map": lambda: plots.model_map(compare("llama-7b", "llama-65b", "chinchilla-70b", "gpt-3-175b")),
    "model_bets": lambda: plots.model_bets(compare("llama-7b", "chinchilla-70b", "gpt-3-175b")),
}


def lines(axes: Axes) -> dict[str, Any]:
    """Points (n, 2) of every line with a label."""
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.get_lines()}


def points(axes: Axes, marker: str) -> Any:
    """All points (n, 2) that are drawn with a marker, in the order of x."""
    found = [np.asarray(line.get_xydata()) for line in axes.get_lines() if line.get_marker() == marker]
    every = np.concatenate(found) if found else np.zeros((0, 2))
    return every[np.argsort(every[:, 0], kind="stable")]


def words(drawn: Figure) -> str:
    """Every text of a figure."""
    return "\n".join(text.get_text() for text in drawn.findobj(Text) if isinstance(text, Text))


def overhang(drawn: Figure) -> float:
    """By how many inches what is drawn reaches beyond the edges of the figure."""
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    box, (width, height) = drawn.get_tightbbox(canvas.get_renderer()), drawn.get_size_inches()
    return float(max(-box.x0, -box.y0, box.x1 - width, box.y1 - height))
