"""Many plans at once: the best size for every budget or loss and every demand of a grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from llama_scale.errors import InputError
from llama_scale.laws import Fit
from llama_scale.planning.families import Array
from llama_scale.planning.optimum import Objective, best
from llama_scale.planning.options import PlanOptions
from llama_scale.planning.request import COST_UNITS, limited, read_request
from llama_scale.planning.shapes import QUALITY_FLOOR


class BestSizes(NamedTuple):
    """The continuous optimum of each question, arrays of one shape; nan where no model does what is asked.

    `parameters` as the law counts them; `cost` of training and serving in the unit asked for.
    """

    parameters: Array
    tokens: Array
    loss_nats: Array
    cost: Array


def best_sizes(
    law: str | Fit | None = None,
    budgets: ArrayLike | None = None,
    demands: ArrayLike = 0.0,
    *,
    losses: ArrayLike | None = None,
    unit: str = "flops",
    **words: Any,
) -> BestSizes:
    """The best size for each of `budgets` (or cheapest for each of `losses`) and `demands`: they broadcast.

    `unit` is that of the budgets: flops, usd or gpu-hours. The other words are those of `plan`. Numbers are
    in base units. Raises InputError for words that cannot be meant, or numbers that are not finite.

    >>> import numpy as np
    >>> grid = best_sizes("besiroglu-2024", np.geomspace(1e21, 1e25, 5)[:, None], [0, 1e12])
    >>> grid.parameters.shape
    (5, 2)
    """
    given = budgets if losses is None else losses
    if given is None or (budgets is not None and losses is not None):
        raise InputError("a grid of plans needs budgets or losses, one of them", hint="pass budgets=[...]")
    asked = _numbers("budgets" if losses is None else "losses", given)
    served = _numbers("demands", demands)
    if unit not in COST_UNITS:
        raise InputError(f"costs are not counted in '{unit}'", hint=f"use {', '.join(COST_UNITS)}")
    taken = words.keys() & {"budget", "target_loss", "target_score", "match", "serve_tokens", "cost_in"}
    if taken:
        raise InputError(f"a grid has its own {', '.join(sorted(taken))}", hint="leave the word out")
    if words.get("recompute") not in (None, "none"):
        raise InputError(
            "a grid knows no share of FLOPs that recompute adds: it follows the shape of each plan",
            hint="leave the word out, or lower mfu by that share",
        )
    question: dict[str, Any] = {"law": law, "serve_tokens": 1.0, "target_loss": 2.0, "cost_in": unit, **words}
    request = read_request(cast(PlanOptions, question))
    if request.kv_heads is None and request.economics.deployment is not None:
        request = limited(replace(request, kv_heads=QUALITY_FLOOR))  # as nearly every plan chooses
    demand = served * request.economics.demand.serve_tokens
    problem = replace(request.problem(), serve_tokens=demand)
    fixed = "budget" if losses is None else "loss"
    solution = best(problem, Objective(fixed, asked, request.limits))
    shape = np.broadcast(asked, demand).shape
    numbers = (
        solution.sizes.parameters,
        solution.tokens,
        problem.loss(solution),
        problem.cost(*solution),
    )
    return BestSizes(*(np.array(np.broadcast_to(number, shape)) for number in numbers))


def _numbers(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, float)
    if not np.isfinite(array).all() or (array < 0).any():
        raise InputError(
            f"{name} must be finite and not negative", hint="leave out nan, inf and the negative"
        )
    return array
