"""The sizes of the LLaMA family beside the recommended one: what each would do with the same question."""

from __future__ import annotations

from typing import Any, NamedTuple

from llama_scale.closed_forms import nearest_llamas
from llama_scale.planning.families import coordinate_of
from llama_scale.planning.optimum import Objective, Problem, tokens_for

COUNT = 2


class Neighbour(NamedTuple):
    """A published LLaMA's shape, asked the plan's question; nan where it cannot answer.

    `excess` is how much higher its loss is on the budget, or the share by which it costs more at the loss.
    """

    name: str
    parameters: float
    tokens: float
    loss_nats: float
    excess: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return self._asdict()


def neighbours(
    problem: Problem, objective: Objective, parameters: float, tokens: float
) -> tuple[Neighbour, ...]:
    """The two nearest, against the plan's own N and D (in the law's convention)."""
    best_loss = float(problem.law.loss(parameters, tokens))
    found = []
    for named in nearest_llamas(parameters, COUNT):
        shape = named.shape
        assert shape is not None, "a LLaMA has a LLaMA's shape"
        sizes = problem.family.size_of(shape)
        needed = float(tokens_for(problem, objective, sizes))
        loss = float(problem.law.loss(sizes.parameters, needed))
        excess = loss - best_loss
        if objective.fixed == "loss":
            coordinate = float(coordinate_of(problem.family, parameters))
            ours = problem.family.sizes(coordinate, shaped=True)
            excess = float(problem.cost(sizes, needed)) / float(problem.cost(ours, tokens)) - 1
        found.append(Neighbour(named.name, float(sizes.parameters), needed, loss, excess))
    return tuple(found)
