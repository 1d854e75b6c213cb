"""A model off the shelf against the plan: it costs no training, only serving, and has its own loss."""

from __future__ import annotations

from typing import Any, NamedTuple

from llama_scale.architecture import ModelConfig
from llama_scale.planning.comparison import Crossing, costs_of, crossing, problems_by_unit, sizes_of
from llama_scale.planning.references import find_model
from llama_scale.planning.request import Request


class Offer(NamedTuple):
    """What buying costs in the plan's unit, and when the plan's own model is the cheaper of the two.

    `loss_advantage` is how much lower the plan's loss is than the offer's, both by the law (below 0: higher).
    """

    name: str
    parameters: float
    tokens: float
    loss_nats: float
    loss_advantage: float
    total: float
    own_total: float
    own_is_cheaper: Crossing

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self._asdict(), "own_is_cheaper": self.own_is_cheaper._asdict()}


def offer(request: Request, shape: ModelConfig, tokens: float) -> Offer:
    """The model named `against` the plan, to have instead of training `shape` on `tokens`."""
    model = find_model(str(request.given["against"]))
    problems = problems_by_unit(request)
    sizes, own_sizes = sizes_of(request, model), request.family.size_of(shape)
    bought = costs_of(problems, sizes, model.tokens, bought=True)[request.unit]
    own = costs_of(problems, own_sizes, tokens)[request.unit]
    served = float(problems[request.unit].serve_tokens)
    loss = float(request.fit.law.loss(sizes.parameters, model.tokens))  # its data were fresh to it
    loss += 0.0 if request.penalty is None else float(request.penalty.loss(sizes.parameters, model.tokens))
    ours = float(request.law.loss(own_sizes.parameters, tokens))
    return Offer(
        name=model.name,
        parameters=float(sizes.parameters),
        tokens=model.tokens,
        loss_nats=loss,
        loss_advantage=loss - ours,
        total=bought.total(served),
        own_total=own.total(served),
        own_is_cheaper=crossing(own, bought),
    )
