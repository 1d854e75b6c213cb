"""Values in, matplotlib figures out (object API: nothing global is touched); notebooks and `plot` share them.

`learning` draws runs, `budgets` and `laws` what they say together, `trust` how far to believe it, `costs`,
`demands` and `inputs` a plan, `models` published models. `style` is the look of all, `files` writes them.
A figure's module is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_scale.plots.budgets import envelope as envelope
    from llama_scale.plots.budgets import isoflop as isoflop
    from llama_scale.plots.costs import cost_by_size as cost_by_size
    from llama_scale.plots.costs import loss_by_size as loss_by_size
    from llama_scale.plots.demands import best_by_demand as best_by_demand
    from llama_scale.plots.demands import cost_over_time as cost_over_time
    from llama_scale.plots.files import save as save
    from llama_scale.plots.inputs import sensitivity as sensitivity
    from llama_scale.plots.laws import contours as contours
    from llama_scale.plots.laws import optima as optima
    from llama_scale.plots.learning import loss_curves as loss_curves
    from llama_scale.plots.models import model_bets as model_bets
    from llama_scale.plots.models import model_map as model_map
    from llama_scale.plots.trust import backtest as backtest
    from llama_scale.plots.trust import choice as choice
    from llama_scale.plots.trust import predictions as predictions
    from llama_scale.plots.trust import residuals as residuals

_HOMES = {
    "budgets": ("envelope", "isoflop"),
    "costs": ("cost_by_size", "loss_by_size"),
    "demands": ("best_by_demand", "cost_over_time"),
    "files": ("save",),
    "inputs": ("sensitivity",),
    "laws": ("contours", "optima"),
    "learning": ("loss_curves",),
    "models": ("model_bets", "model_map"),
    "trust": ("backtest", "choice", "predictions", "residuals"),
}
_FIGURES = {name: home for home, names in _HOMES.items() for name in names}
# `import *` takes only what is listed here: no figure is a global before it is asked for.
__all__ = [*_FIGURES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _FIGURES:
        return getattr(import_module(f"llama_scale.plots.{_FIGURES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FIGURES})
